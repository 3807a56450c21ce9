"""What counts as the value that a field or an argument asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NewType, Protocol, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from pytest_gradhealth import Option, ProbeError, Remedy, Rule, SettingError, probe
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.probing.case import Case
from pytest_gradhealth.subject.step import Step

if TYPE_CHECKING:
    from nowhere import Undefined  # type: ignore[import-not-found]

pytestmark = pytest.mark.usefixtures("_outside_pytest")

T = TypeVar("T")
Size = NewType("Size", int)


class Named(Protocol):
    name: str


@dataclass(frozen=True)
class OwnRule(Rule):
    """A rule with fields that are nobody's business."""

    undefined: Undefined = None
    pair: tuple[int, str] = (1, "a")
    plain: int = None  # type: ignore[assignment]
    level: Literal[1, 2] = 1
    free: T = 1  # type: ignore[valid-type]
    size: Size = Size(3)
    named: Named = None  # type: ignore[assignment]
    late: int = field(init=False)


@dataclass(frozen=True)
class OwnRemedy(Remedy):
    """The same of a remedy."""

    undefined: Undefined = None
    pair: tuple[int, str] = (1, "a")
    late: int = field(init=False)


OPTION = Option("loudest", "help", 1.0)
NUMBERS: list[Any] = [5, np.float32(5), np.int64(5), torch.tensor(5.0), torch.tensor(5)]
NUMBERS += [Fraction(5)]


def rule(kind: type[Rule] = Rule, **fields: Any) -> Rule:
    return kind("MY1", "mine", "s", "r", lambda _: (), **fields)


def test_fields_of_a_subclass_are_its_authors() -> None:
    assert probe(nn.Linear(2, 2), torch.ones(2, 2), rules=[rule(OwnRule)]).verdict
    assert OwnRemedy("mine", ("GH101",), lambda _: None).pair == (1, "a")
    with pytest.raises(SettingError, match=r"^unacceptable of rule MY1 is 'x'; pass a number or N"):
        rule(OwnRule, unacceptable="x")


def test_a_field_that_a_subclass_has_lost_is_missing() -> None:
    @dataclass(frozen=True)
    class Lost(Rule):
        code: str = field(init=False)
        name: str = "n"
        summary: str = "s"
        reads: str = "r"
        check: Callable[[Any], Any] = print

    with pytest.raises(SettingError, match=r"^code of rule .* is 'missing'; pass a string$"):
        Lost()


@pytest.mark.parametrize("make", [list, tuple, set, frozenset, iter, dict.fromkeys])
def test_a_collection_is_whatever_is_gone_through(
    make: Callable[[Iterable[Any]], Iterable[Any]],
) -> None:
    made = rule(settings=make([OPTION]), echoes=make(["GH101"]))
    assert (made.settings, made.options, made.echoes) == ((OPTION,), (OPTION,), ("GH101",))
    assert Remedy("mine", make(["GH101"]), lambda _: None).symptoms == ("GH101",)  # type: ignore[arg-type]


def test_one_item_is_a_collection_of_one() -> None:
    made: Any = rule(settings=OPTION, echoes="GH101")
    assert (made.settings, made.echoes) == ((OPTION,), ("GH101",))
    assert Remedy("mine", "GH101", lambda _: None).symptoms == ("GH101",)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: type(n).__name__)
def test_a_number_is_whatever_has_its_value(number: Any) -> None:
    made = rule(unacceptable=number, settings=(OPTION._replace(default=number),))
    assert (made.unacceptable, type(made.unacceptable)) == (5.0, float)
    assert Settings().limit(made.options[0]).value == 5.0
    diagnosis = probe(
        nn.Linear(2, 2),
        torch.ones(2, 2),
        rules=[made],
        clip=number,
        precision="float16",
        loss_scale=number,
        confirm_steps=0,
    )
    assert diagnosis.limits["loudest"].value == 5.0
    assert diagnosis.profile.loss_scale.value == 5.0
    assert repr(Step(number)) == "Step(clip=5.0, regularizer=None)"


@pytest.mark.parametrize("number", [27, np.int64(27), torch.tensor(27)], ids=str)
def test_a_whole_number_is_one_of_any_library(number: Any) -> None:
    steps = Case(None, None, dependency=number).dependency  # type: ignore[arg-type]
    assert (steps, type(steps)) == (27, int)


@pytest.mark.parametrize("wrong", [True, np.bool_(True), torch.tensor(True), "5", 10**400, 1j])
def test_truth_and_text_are_no_numbers(wrong: Any) -> None:
    with pytest.raises(SettingError, match=r"^unacceptable of rule MY1 is "):
        rule(unacceptable=wrong)
    for name in ("clip", "dependency"):
        with pytest.raises(ProbeError, match=f"^{name} is "):
            probe(nn.Linear(2, 2), torch.ones(2, 2), **{name: wrong})
    if not isinstance(wrong, str):
        with pytest.raises(SettingError, match="is not a positive number"):
            Settings().merged({"min_ratio": wrong}, "the call")


@pytest.mark.parametrize("truth", [True, np.bool_(True), torch.tensor(True)])
def test_a_truth_value_is_one_of_any_library(truth: Any) -> None:
    assert Settings().merged({"baseline": truth}, "the marker").baseline is True
    assert rule(of_scale=truth).of_scale is True
