"""What is wrong where the backward of an operation is the first to make NaN or infinity."""

from __future__ import annotations

from pytest_gradhealth.rules.fault import UNMASKED, Fault, always, makes_nan

#: What has an infinite slope where its backward divides by zero, and how to keep away from there.
_STEEP = {
    "Sqrt": "sqrt has an infinite slope at 0: torch.sqrt(x + 1e-8)",
    "Pow": "a power below 1 has an infinite slope at 0: (x + 1e-8) ** p",
    "LinalgVectorNorm Norm": "a norm has no slope at 0: add 1e-8 before taking it",
    "Log": "log has an infinite slope at 0: torch.log(x.clamp_min(1e-8))",
    "Div Reciprocal Rsqrt": "a division by something near 0: add 1e-8 below the bar",
}

BACKWARD = (
    Fault(
        "Exp",
        makes_nan,
        "exp overflows in the forward; a clamp, a where or a division by it then sends back 0,"
        " and 0 * inf is NaN",
        "clamp what goes into exp, not what comes out: x.clamp(max=20).exp()",
    ),
    Fault(
        "Log Sqrt Rsqrt Reciprocal Div Pow Acos Asin Atanh",
        makes_nan,
        "the backward of {op} gets 0 where its slope is infinite, and 0 * inf is NaN: what drops"
        " the value does not drop that",
        "a harmless number where the value is dropped: torch.where(mask, x, 1) inside, and"
        " torch.where(mask, result, 0) outside",
    ),
    *(
        Fault(ops, always, "the backward of {op} divides by zero or overflows", advice)
        for ops, advice in _STEEP.items()
    ),
    Fault(
        "Acos Asin Atanh Erfinv Logit",
        always,
        "the backward of {op} divides by zero: its slope is infinite at the edge",
        "x.clamp(-1 + 1e-6, 1 - 1e-6) before it (torch.logit(x, eps=1e-6))",
    ),
    Fault(
        "LinalgEigh LinalgSvd LinalgEig",
        always,
        "the backward of {op} divides by the distances between eigenvalues or singular values, and"
        " two of them are equal",
        "use the values alone (torch.linalg.eigvalsh, svdvals), or add a small random symmetric"
        " matrix",
    ),
    Fault(
        "Softmax LogSoftmax Logsumexp",
        always,
        "the backward of {op} is 0 / 0 over a row that is all -inf: every position is masked",
        UNMASKED,
    ),
)
