"""One thing that may be wrong with an operation that makes NaN or infinity, and what to type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.rules.rule import Cause

#: By format: its largest number, what is small and no zero, what is to be added to a divisor, what
#: makes a difference to 1, and what to take an exponential of at most.
_WORDS = {"most": "inf", "small": "1e-8", "below": "1e-4", "edge": "1e-6", "top": "20"}
_WORDS_OF = {
    "float16": {"most": "6.6e+04", "small": "1e-4", "below": "1e-3", "edge": "1e-3", "top": "10"},
    "bfloat16": {"most": "3.4e+38", "edge": "1e-2"},
    "float32": {"most": "3.4e+38"},
    "float64": {"most": "1.8e+308"},
}

#: What to do where softmax gets nothing but -inf.
UNMASKED = "leave one position of each row unmasked, or fill in torch.finfo(x.dtype).min, not -inf"
#: What to do where a function ends, or has an infinite slope, at -1 and 1.
OFF_THE_EDGES = "x.clamp(-1 + {edge}, 1 - {edge}) before it"


@dataclass(frozen=True)
class Fault:
    """One thing that may be wrong where one of some operations (any, without names) is the first.

    In the sentences, {op} stands for the operation, {a} and {x} for the first and the last of the
    numbers that it got (of which `when` says what they are like), {format} for the format,
    {most}, {small}, {below}, {edge} and {top} for what is right in it, and {times_0} for what makes
    NaN of infinity. `behind` are the operations that must have made the zero that it got. It is no
    `certain` advice that is about what comes in, and not about the operation.
    """

    ops: str
    when: Callable[[NonFinite], bool]
    because: str
    advice: str
    behind: str = ""
    certain: bool = True

    def fits(self, bad: NonFinite) -> bool:
        """Whether this is what is wrong."""
        named = not self.ops or bad.op in self.ops.split()
        behind = (*self.behind.split(),)
        return named and bad.behind[: len(behind)] == behind and self.when(bad)

    def cause(self, bad: NonFinite) -> Cause:
        """The same in words."""
        words = {**_WORDS, **_WORDS_OF.get(bad.format, {}), "op": bad.op, "format": bad.format}
        words |= {"a": _digits(bad.first), "x": _digits(bad.last)}
        words["times_0"] = ", and 0 times that is NaN" * (bad.value == "nan")
        because, advice = self.because.format(**words), self.advice.format(**words)
        return Cause(because, advice, self.certain)


def _digits(value: float) -> str:
    """A number, with more digits where it would look like the edge that it is beyond."""
    return f"{value:.8g}" if 0 < abs(abs(value) - 1) < 1e-2 else number(value)


def at_zero(bad: NonFinite) -> bool:
    """Whether it is 0 that it divides by, or takes the logarithm of."""
    return bad.last == 0


def of_negative(bad: NonFinite) -> bool:
    """Whether it is a negative number that it takes the root or the logarithm of."""
    return bad.last < 0


def of_finite(bad: NonFinite) -> bool:
    """Whether it got finite numbers alone."""
    return not bad.taken


def overflows(bad: NonFinite) -> bool:
    """Whether it makes infinity of finite numbers."""
    return of_finite(bad) and bad.value != "nan"


def mixes(bad: NonFinite) -> bool:
    """Whether it makes NaN of infinity."""
    return bad.taken in ("inf", "-inf") and bad.value == "nan"


def of_minus_infinity(bad: NonFinite) -> bool:
    """Whether the worst that it got is -inf."""
    return bad.taken == "-inf"
