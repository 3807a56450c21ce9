"""Tables keep to their width, and names to their line."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import tabulate
import torch
from torch import nn

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.formatting import View, encodable, shortened, told
from pytest_gradhealth.reporting.path_table import path_table
from tests.helpers.nets import HALF, sigmoids, total

pytestmark = pytest.mark.usefixtures("_outside_pytest")


def test_tables_do_not_depend_on_a_global_of_tabulate(monkeypatch: pytest.MonkeyPatch) -> None:
    path = probe(sigmoids(), HALF, loss=total).paths[0]
    plain = path_table(path)
    monkeypatch.setattr(tabulate, "PRESERVE_WHITESPACE", True)
    assert path_table(path) == plain


@pytest.mark.parametrize("width", [40, 76, 160])
def test_tables_keep_to_the_width_as_far_as_they_can(width: int) -> None:
    table, hidden = path_table(probe(sigmoids(), HALF, loss=total).paths[0], view=View(width=width))
    assert max(map(len, table.splitlines())) <= max(width, 56)
    assert hidden > 0


def test_long_and_hostile_names_are_tamed() -> None:
    assert shortened("a" * 50, 20) == "aaaaaa..aaaaaaaaaaaa"
    assert shortened("evil\x1b[31m\n\u202e", 40) == "evil?[31m??"
    model = nn.Sequential()
    model.add_module("x" * 300 + "\x1b[2J", nn.Linear(4, 4))
    model.add_module("y\n::error::", nn.Linear(4, 4))
    text = str(probe(model, torch.randn(2, 4)))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines()[1:])) <= 80


@pytest.mark.parametrize(
    "encoding",
    [MagicMock(), b"utf-8", 7, "idna", "undefined", "a\0b", "\ud800", "hex", "nothing", "", None],
    ids=lambda encoding: type(encoding).__name__ + repr(encoding)[:9].strip("<"),
)
def test_an_encoding_that_cannot_be_used_is_utf_8(
    monkeypatch: pytest.MonkeyPatch, encoding: object
) -> None:
    stream = SimpleNamespace(encoding=encoding, write=print, flush=print)
    assert encodable("größe ▁ \ud800", stream) == "größe ▁ \\ud800"
    monkeypatch.setattr(sys, "stdout", stream)
    assert str(ProbeError("größe")) == "größe"


def test_a_stream_may_have_lost_its_encoding() -> None:
    class Closed:
        @property
        def encoding(self) -> str:
            raise ValueError("closed")

    assert encodable("größe", Closed()) == encodable("größe", None) == "größe"


def test_tabs_stay_and_hide_no_command() -> None:
    assert str(ProbeError("a\tb\n\t::error::c")) == "a\tb\n\t?:error::c"


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [(MuteError(), "MuteError, which has no text"), (KeyError(), "KeyError, which has no text")],
)
def test_an_error_without_a_text_is_told_by_its_type(error: Exception, text: str) -> None:
    assert told(error) == text


@pytest.mark.parametrize("name", ["model", "loss", "regularizer", "clip", "optimizer"])
def test_an_error_of_the_users_may_have_no_text(name: str) -> None:
    def mute(*_: object) -> None:
        raise MuteError

    given: dict[str, Any] = {"model": nn.Linear(2, 2), "inputs": torch.ones(2, 2), name: mute}
    with pytest.raises(ProbeError, match=" raised MuteError, which has no text"):
        probe(**given)
