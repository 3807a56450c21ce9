"""What is wrong where the backward of an operation is the first to make NaN or infinity."""

from __future__ import annotations

from dataclasses import replace

from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.rules.fault import (
    OFF_THE_EDGES,
    UNMASKED,
    Fault,
    mixes,
    of_minus_infinity,
    of_negative,
)
from pytest_gradhealth.rules.forward_faults import FORWARD
from pytest_gradhealth.rules.rule import Cause

#: Operations with an infinite slope where something is zero, and how to keep away from there.
_STEEP = {
    "Sqrt": ("at 0", "torch.sqrt(x + {small})"),
    "Pow": ("at 0, as a power below 1 has", "(x + {small}) ** p"),
    "LinalgVectorNorm Norm Hypot": ("at 0", "add {small} before taking it"),
    "Log Log2 Log10": ("at 0", "torch.log(x.clamp_min({small}))"),
    "Div Reciprocal Rsqrt": ("at 0", "keep what is below the bar away from 0"),
    "Acos Asin Atanh Erfinv": ("at -1 and 1", OFF_THE_EDGES),
    "Logit": ("at 0 and 1", "torch.logit(x, eps={edge})"),
}


def _divides_by_0(bad: NonFinite) -> bool:
    """Whether the operation within it does, in one way or another."""
    if bad.within == "pow":
        return bad.first == 0 and bad.last < 0
    if bad.within == "logit_backward":
        return bad.last in (0.0, 1.0)
    return bad.within in ("div", "reciprocal", "rsqrt") and bad.last == 0


BACKWARD = (
    Fault(
        "Pow",
        lambda bad: bad.within == "log" and of_negative(bad),
        "the slope of a power in its exponent is the log of its base, here of {x}, a negative"
        " number",
        "a base that cannot be negative (x.clamp_min({small}) ** p), or an exponent that is not"
        " learned",
    ),
    *(
        Fault(ops, _divides_by_0, f"the slope of {{op}} is infinite {where}{{times_0}}", advice)
        for ops, (where, advice) in _STEEP.items()
    ),
    Fault(
        "LinalgEigh LinalgSvd LinalgEig",
        _divides_by_0,
        "the backward of {op} divides by the distances between eigenvalues or singular values, and"
        " two of them are equal",
        "use the values alone (torch.linalg.eigvalsh, svdvals), or add a small random symmetric"
        " matrix",
    ),
    Fault(
        "LinalgQr LinalgCholeskyEx",
        lambda bad: bad.within == "linalg_solve_triangular",
        "the backward of {op} divides by the diagonal of a triangle, and there is a 0 on it: the"
        " matrix is singular",
        "1e-6 * torch.eye(n) added to it",
    ),
    Fault(
        "Mul",
        mixes,
        "the slope of a product with infinity is infinite, and 0 times that is NaN",
        "a number in place of the infinity before the product, not behind it",
    ),
    Fault(
        "Var",
        mixes,
        "the backward of Var is 0 * inf where there is one element: it divides by n - 1",
        "var(..., correction=0), or more than one element",
    ),
    Fault(
        "Logcumsumexp",
        mixes,
        "the backward of Logcumsumexp is inf - inf where all up to there is -inf",
        "torch.finfo(x.dtype).min in place of -inf",
    ),
    Fault(
        "LogSoftmax Logsumexp",
        of_minus_infinity,
        "the backward of {op} is 0 / 0 over a row that is all -inf: every position is masked",
        UNMASKED,
    ),
)


def cause_in_backward(bad: NonFinite) -> Cause | None:
    """Why it came up in the backward of an operation, None where that is unknown."""
    if not bad.dropped:
        return next((fault.cause(bad) for fault in BACKWARD if fault.fits(bad)), None)
    made = replace(bad, op=bad.within, value=bad.made)
    known = next((fault.cause(made) for fault in FORWARD if fault.fits(made)), None)
    if known is None:
        return None
    return replace(
        known,
        because=f"{known.because}; a where, a clamp, a mask or a division that takes it out again"
        " sends back 0, and 0 times that is NaN",
    )
