"""How values are read, whichever library they come from; what is none raises whatever it may."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

#: Training steps from which on it can be told whether a loss falls.
FEWEST = 6


def is_truth(value: object) -> bool:
    """Whether a value is True or False, also one of NumPy or torch."""
    with suppress(Exception):
        return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    return False


def as_float(value: object) -> float | None:
    """A number as a float: what can be turned into one and is neither text nor a truth value.

    >>> as_float(2), as_float(True), as_float("2"), as_float(10**400)
    (2.0, None, None, None)
    """
    with suppress(Exception):
        if hasattr(type(value), "__float__") or hasattr(type(value), "__index__"):
            return None if is_truth(value) else float(value)  # type: ignore[arg-type]
    return None


def as_int(value: object) -> int | None:
    """A whole number as an int, None for what is none.

    >>> as_int(2), as_int(2.0), as_int(False)
    (2, None, None)
    """
    with suppress(Exception):
        return None if is_truth(value) else operator.index(value)  # type: ignore[arg-type]
    return None


def device(value: Any) -> str:
    """Read the name of a device, or one of torch's."""
    if type(value).__name__ != "device":  # that of torch, which is not to be loaded for it
        value = text(value)
    if not str(value):
        raise ValueError
    return str(value)


def text(value: Any) -> str:
    """Read text, and nothing that merely has some."""
    if not isinstance(value, str):
        raise TypeError
    return value


def seeds(value: Any) -> int | tuple[int, ...]:
    """Read a number of seeds, or a list of them."""
    if isinstance(value, str) and "," in value:
        value = value.split(",")
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError
        return tuple(integer(seed, least=0) for seed in value)
    return integer(value, least=1)


def integer(value: Any, least: int) -> int:
    """Read a whole number of at least so many."""
    number = int(value)
    rounded = not isinstance(value, str) and number != value
    if is_truth(value) or rounded or not least <= number < 2**62:
        raise ValueError
    return number


def steps(value: Any) -> int:
    """Read a number of steps."""
    return integer(value, least=0)


def learning_steps(value: Any) -> int:
    """Read a number of steps that is enough to tell whether a loss falls, or 0 for none."""
    return integer(value, least=0) and integer(value, least=FEWEST)


def ratio(value: Any) -> float:
    """Read a positive number."""
    number = float(value)
    if is_truth(value) or not number > 0 or math.isinf(number):
        raise ValueError
    return number


def seconds(value: Any) -> float:
    """Read a time."""
    number = float(value)
    if is_truth(value) or not 0 <= number < math.inf:
        raise ValueError
    return number


def switch(value: Any) -> bool:
    """Read a truth value, or its name."""
    if not is_truth(value):
        value = {"true": True, "false": False}[text(value).lower()]
    return bool(value)


def codes(value: Any) -> tuple[str, ...]:
    """Read codes, apart or in one text with commas."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Iterable):
        raise ValueError
    parts = [part.strip() for item in value for part in text(item).split(",")]
    return tuple(part for part in parts if part)
