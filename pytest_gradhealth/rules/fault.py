"""One thing that may be wrong with an operation that makes NaN or infinity, and what to type."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.profile import NonFinite
from pytest_gradhealth.rules.rule import Cause

#: The largest numbers of the formats.
_LARGEST = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.4e38, "float64": 1.8e308}

#: What to do where softmax gets nothing but -inf.
UNMASKED = "leave one position of each row unmasked, or fill in torch.finfo(x.dtype).min, not -inf"

When = Callable[[NonFinite], bool]


@dataclass(frozen=True)
class Fault:
    """One thing that may be wrong where one of some operations (any, without names) is the first.

    In the sentences, {op} stands for the operation, {a} and {x} for the first and the last of the
    numbers that it got (of which `when` says what they are like), {format} and {most} for the
    format and its largest number. `behind` are operations that must have come right before, with
    at most one other.
    """

    ops: str
    when: When
    because: str
    advice: str
    behind: str = ""

    def fits(self, bad: NonFinite) -> bool:
        """Whether this is what is wrong."""
        named = not self.ops or bad.op in self.ops.split()
        behind = self.behind.split()
        near = bad.behind[: len(behind) + 1]
        return named and {*behind} <= {*near} and self.when(bad)

    def cause(self, bad: NonFinite) -> Cause:
        """The same in words."""
        fed = [*map(number, bad.fed)] or [""]
        words = {"op": bad.op, "a": fed[0], "x": fed[-1], "format": bad.format}
        words["most"] = number(_LARGEST.get(bad.format, math.inf))
        return Cause(self.because.format(**words), self.advice.format(**words))


def always(_: NonFinite) -> bool:
    """Whatever it is."""
    return True


def last_is(holds: Callable[[float], bool]) -> When:
    """Whether the last of the numbers is so: what is divided by, what the logarithm is taken of."""
    return lambda bad: bool(bad.fed) and holds(bad.fed[-1])


def first_is(holds: Callable[[float], bool]) -> When:
    """Whether the first of the numbers is so: the base of a power."""
    return lambda bad: bool(bad.fed) and holds(bad.fed[0])


def took(kind: str) -> When:
    """Whether the worst that it got is of a kind, "" for finite numbers."""
    return lambda bad: bad.taken == kind


def takes(elements: int) -> When:
    """Whether it makes one number of so many finite ones."""
    return lambda bad: not bad.taken and bad.elements == elements


def overflows(bad: NonFinite) -> bool:
    """Whether it makes infinity of finite numbers."""
    return not bad.taken and bad.value != "nan"


def overflows_half(bad: NonFinite) -> bool:
    """The same in the format that ends early."""
    return overflows(bad) and bad.format == "float16"


def makes_nan(bad: NonFinite) -> bool:
    """Whether what it makes is NaN."""
    return bad.value == "nan"


def mixes(bad: NonFinite) -> bool:
    """Whether it makes NaN of infinity."""
    return bad.taken != "" and makes_nan(bad)


zero_last = last_is(lambda x: x == 0)
negative_last = last_is(lambda x: x < 0)
