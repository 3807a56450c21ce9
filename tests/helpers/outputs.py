"""Whether an output that is shown somewhere is what is printed now."""

from __future__ import annotations

import re

import pytest

from pytest_gradhealth.remedies import built_in_remedies
from tests.helpers.remedies import cures

#: What was tried on copies: how far a training gets in its time is for the machine to say.
TRIED = re.compile(r"\ntried on copies.*?(?=\n=====|\Z)", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])x?\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w.])")


def resembles(shown: str, real: str) -> bool:
    """Whether two outputs are the same but for times, and for the last digits of numbers."""

    def numbers(text: str) -> list[float]:
        return [float(number.lstrip("x")) for number in NUMBER.findall(text)]

    def words(text: str) -> list[str]:
        text = re.sub(r"in \d+\.\d+s(?: \([\d:]+\))?|#+|=+", "", text)
        return NUMBER.sub("N", text).split()

    # The column of milliseconds is the one before the model's.
    shown, real = (re.sub(r" +\d+(  [A-Z]\w+ +\.\.)", r"\1", text) for text in (shown, real))
    if not has_same_trials(shown, real):
        return False
    shown, real = TRIED.sub("", shown), TRIED.sub("", real)
    timeless = [re.sub(r"in \d+\.\d+s(?: \([\d:]+\))?", "", text) for text in (shown, real)]
    return words(shown) == words(real) and numbers(timeless[0]) == pytest.approx(
        numbers(timeless[1]), rel=0.2
    )


def has_same_trials(shown: str, real: str) -> bool:
    """Whether all remedies are shown that were tried here, those cured as such, with their code."""
    parts = [TRIED.search(text) for text in (shown, real)]
    if None in parts:
        return parts == [None, None]
    here, there = (part[0] for part in parts if part)
    tried = re.sub(r"\nuntried:.*?(?=\n\n|\Z)", "", there, flags=re.DOTALL)
    codes, code = cures(here), cures(there)
    cured = set(re.findall(r"^(\S.*?) +cured", tried, re.MULTILINE))
    return (
        _named(tried) <= _named(here) <= _named(there)
        and set() < cured <= set(re.findall(r"^(\S.*?) +cured", here, re.MULTILINE))
        and all(codes[name] == code[name] for name in codes.keys() & code.keys())
    )


def _named(text: str) -> set[str]:
    """The remedies that a text names."""
    unwrapped = " ".join(text.split())
    return {remedy.name for remedy in built_in_remedies() if remedy.name in unwrapped}
