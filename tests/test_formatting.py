"""Tables keep to their width, and names to their line."""

from __future__ import annotations

import pytest
import tabulate
import torch
from torch import nn

from pytest_gradhealth import probe
from pytest_gradhealth.formatting import View, shortened
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
