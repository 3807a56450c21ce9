"""One thing that may be wrong with an operation that makes NaN or infinity, and what to type."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.rules.rule import Cause

#: The largest numbers of the formats.
_LARGEST = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.4e38, "float64": 1.8e308}
#: What is small and no zero, by formats where that is not 1e-8.
_SMALL = {"float16": "1e-4"}
#: What makes a difference to 1, by formats where that is not 1e-6.
_EDGE = {"float16": "1e-3", "bfloat16": "1e-2"}

#: What to do where softmax gets nothing but -inf.
UNMASKED = "leave one position of each row unmasked, or fill in torch.finfo(x.dtype).min, not -inf"

When = Callable[[NonFinite], bool]


@dataclass(frozen=True)
class Fault:
    """One thing that may be wrong where one of some operations (any, without names) is the first.

    In the sentences, {op} stands for the operation, {a} and {x} for the first and the last of the
    numbers that it got (of which `when` says what they are like), {format} and {most} for the
    format and its largest number; {small}, {below}, {edge} and {top} for what this holds beside 0,
    below the bar, beside 1 and as the exponential of. `behind` are the operations that must have
    come right before, or made the zero that it got.
    """

    ops: str
    when: When
    because: str
    advice: str
    behind: str = ""

    def fits(self, bad: NonFinite) -> bool:
        """Whether this is what is wrong."""
        named = not self.ops or bad.op in self.ops.split()
        behind = (*self.behind.split(),)
        return named and bad.behind[: len(behind)] == behind and self.when(bad)

    def cause(self, bad: NonFinite) -> Cause:
        """The same in words."""
        fed = [_digits(x) for x in bad.fed] or [""]
        words = {"op": bad.op, "a": fed[0], "x": fed[-1], "format": bad.format}
        words["most"] = number(_LARGEST.get(bad.format, math.inf))
        words["small"] = _SMALL.get(bad.format, "1e-8")
        words["below"] = "1e-3" if bad.format == "float16" else "1e-4"
        words["edge"] = _EDGE.get(bad.format, "1e-6")
        words["top"] = "10" if bad.format == "float16" else "20"
        return Cause(self.because.format(**words), self.advice.format(**words))


def _digits(value: float) -> str:
    """A number, with more digits where it would look like the edge that it is beyond."""
    return f"{value:.8g}" if 0 < abs(abs(value) - 1) < 1e-2 else number(value)


def always(_: NonFinite) -> bool:
    """Whatever it is."""
    return True


def last_is(holds: Callable[[float], bool]) -> When:
    """Whether the last of the numbers is so: what is divided by, what the logarithm is taken of."""
    return lambda bad: bool(bad.fed) and holds(bad.fed[-1])


def first_is(holds: Callable[[float], bool]) -> When:
    """Whether the first of the numbers is so: the base of a power."""
    return lambda bad: bool(bad.fed) and holds(bad.fed[0])


def both(*conditions: When) -> When:
    """Whether all of some things are so."""
    return lambda bad: all(holds(bad) for holds in conditions)


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
    return bad.taken in ("inf", "-inf") and makes_nan(bad)


zero_first, zero_last = first_is(lambda x: x == 0), last_is(lambda x: x == 0)
negative_last = last_is(lambda x: x < 0)
