"""The operation that makes the first NaN or infinity is named, with what is wrong and its cure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import probe
from pytest_gradhealth.measure.nonfinite import first_non_finite
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.backward_faults import BACKWARD
from pytest_gradhealth.rules.forward_faults import FORWARD
from pytest_gradhealth.rules.non_finite import RULE
from pytest_gradhealth.rules.rule import Evidence
from pytest_gradhealth.subject.subject import Subject
from tests.helpers.findings import explained

INSIDE = "the forward pass turns {} in (output) (Ends), in {}: its input was finite"
LOSS = "the loss is {}, in {}, although every layer's output is finite"
BACKWARDS = (
    "the gradient turns {} in (output) (Ends), in the backward of {}: what came from the loss was"
    " finite"
)
pytestmark = pytest.mark.filterwarnings("ignore:std")
NONE = torch.zeros(8, dtype=torch.bool)
TINY = torch.finfo(torch.float32).tiny


class Ends(nn.Module):
    """A linear layer, whose outputs go through a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.function = nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.fc(x))


def same(x: Tensor) -> Tensor:
    return x


def hide(x: Tensor) -> Tensor:
    return x.masked_fill(torch.ones_like(x, dtype=torch.bool), -math.inf)


def short(outputs: Tensor) -> Tensor:
    three = torch.full((2,), 3)
    logits = outputs[:6].reshape(3, 2, 4).log_softmax(-1)
    return F.ctc_loss(logits, torch.ones(2, 5, dtype=torch.long), three, three + 2)


def squashed(x: Tensor) -> Tensor:
    return torch.log(1 - torch.tanh(100 * x + 100) ** 2)


def entropy(outputs: Tensor) -> Tensor:
    logits = outputs.masked_fill(torch.tensor([True, False, False, False]), -math.inf)
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum()


def all_equal(outputs: Tensor) -> Tensor:
    returns = torch.ones(8)
    return (outputs[:, 0] * (returns - returns.mean()) / returns.std()).mean()


def with_nan(x: Tensor) -> Tensor:
    marked = x.clone()
    marked[torch.arange(8) > 3] = math.nan
    return marked


def over_a_sum_in_a_buffer(x: Tensor) -> Tensor:
    total = torch.empty(1)
    torch.sum(torch.tensor([[-1.0, 1.0]]), 1, out=total)
    return (0 * x + 2) / total


NAMED = torch.library.Library("gradhealth_test", "DEF")  # type: ignore[no-untyped-call]
NAMED.define("nothing(*, Tensor like) -> Tensor")  # type: ignore[no-untyped-call]
NAMED.impl("nothing", lambda *, like: torch.zeros_like(like), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]


def over_what_takes_names_alone(x: Tensor) -> Tensor:
    out: Tensor = (0 * x + 2) / torch.ops.gradhealth_test.nothing(like=x.detach())
    return out


LOG_OF_0 = INSIDE.format("infinite", "log"), "log of 0", "torch.log(x.clamp_min(1e-8))"
NO_ZERO = (
    "a divisor that cannot be 0: F.softplus(y) where it is positive, other values to start with"
    " where it is learned"
)
OF_A_NORM = "F.normalize(x, dim=-1, eps=1e-2), or the norm with .clamp_min(1e-2) behind it"
LEFT_OUT = "torch.where(y == 0, 0, x / torch.where(y == 0, 1, y))"
DROPPED = (
    "; a where, a clamp, a mask or a division that takes it out again sends back 0, and 0 times"
    " that is NaN"
)
FIRST = torch.tensor([0.0, 1.0, 1.0, 1.0])
FORWARDS: dict[str, tuple[Callable[[Tensor], Tensor], str, str, str]] = {
    "softmax": (
        lambda x: hide(x).softmax(-1),
        INSIDE.format("NaN", "softmax").replace("was finite", "held -inf"),
        "softmax over a row that is all -inf is 0 / 0: every position of it is masked",
        "leave one position of each row unmasked, or fill in torch.finfo(x.dtype).min, not -inf",
    ),
    "exp": (
        lambda x: (0 * x + 100).exp(),
        INSIDE.format("infinite", "exp"),
        "exp of 1e+02 is more than float32 holds (3.4e+38)",
        "x.clamp(max=20).exp(), or stay with logarithms (torch.logsumexp, F.log_softmax)",
    ),
    "too much for any format": (
        lambda x: ((0 * x.double() + 2) * 1e200 * 1e200).float(),
        INSIDE.format("infinite", "mul"),
        "what mul returns is more than float64 holds (1.8e+308)",
        "standardised inputs, smaller weights, or a normalisation layer before it",
    ),
    "log": (lambda x: torch.log(F.relu(-x.abs())), *LOG_OF_0),
    "log of 0, which is no mask": (lambda x: torch.log(F.relu(-x.abs())).softmax(-1), *LOG_OF_0),
    "log in place": (lambda x: (x - x).log_(), *LOG_OF_0),
    "log of a negative number": (
        lambda x: torch.log(0 * x - 3),
        INSIDE.format("NaN", "log"),
        "log of -3, a negative number",
        "torch.log(x.clamp_min(1e-8)), or F.softplus where it has to be positive",
    ),
    "log of a softmax": (
        lambda x: torch.log((1e5 * x).softmax(-1)),
        INSIDE.format("infinite", "log"),
        "log of 0: softmax has rounded to 0",
        "F.log_softmax(x, -1) in place of the log of a softmax, or torch.log(x.clamp_min(1e-8))",
    ),
    "log of 1 - sigmoid": (
        lambda x: torch.log(1 - torch.sigmoid(x + 99)),
        INSIDE.format("infinite", "log"),
        "log of 0: a sigmoid has rounded to 1",
        "F.logsigmoid(-x) for the log of 1 - sigmoid, or a loss on logits",
    ),
    "log of a sigmoid": (
        lambda x: torch.log(torch.sigmoid(x - 200)),
        INSIDE.format("infinite", "log"),
        "log of 0: a sigmoid has rounded to 0",
        "F.logsigmoid(x) for the log of a sigmoid, or a loss on logits",
    ),
    "log of 1 - softmax": (
        lambda x: torch.log(1 - (1e5 * x).softmax(-1)),
        INSIDE.format("infinite", "log"),
        "log of 0: softmax gives 1",
        "torch.log1p(-p.clamp(max=1 - 1e-6)) for the log of 1 - p",
    ),
    **{
        f"log of a {name} under a mask": (
            function,
            INSIDE.format("infinite", "log"),
            "log of 0: a product with 0, as of a mask or of dropout",
            "the mask behind the logarithm, not before it, or torch.log(x.clamp_min(1e-8))",
        )
        for name, function in (
            ("softmax", lambda x: torch.log(x.softmax(-1) * FIRST)),
            ("sigmoid", lambda x: torch.log(torch.sigmoid(x) * FIRST)),
            ("sigmoid with dropout", lambda x: torch.log(F.dropout(torch.sigmoid(x)))),
        )
    },
    "log of a softmax over a mask": (
        lambda x: torch.log(x.masked_fill(FIRST == 0, -math.inf).softmax(-1)),
        *LOG_OF_0,
    ),
    "log of a product of sigmoids": (
        lambda x: torch.log(torch.sigmoid(x - 60).prod(-1)),
        INSIDE.format("infinite", "log"),
        "log of 0: a product of many factors has rounded to 0",
        "the sum of the logs in place of the log of a product",
    ),
    "log of a sum of exp": (
        lambda x: torch.log((x - 200).exp().sum(-1)),
        INSIDE.format("infinite", "log"),
        "log of 0: all that is summed up has rounded to 0",
        "torch.logsumexp(x, -1) in place of the log of a sum of exp(x)",
    ),
    "log of a sum of exp under an empty mask": (
        lambda x: torch.log((x.exp() * 0).sum(-1)),
        INSIDE.format("infinite", "log"),
        "log of 0: a sum of nothing but zeros, as under an empty mask",
        "torch.log(x.clamp_min(1e-8))",
    ),
    "log in float16": (
        lambda x: torch.log((x - x).half()),
        INSIDE.format("infinite", "log"),
        "log of 0",
        "torch.log(x.clamp_min(1e-4))",
    ),
    "cosh": (
        lambda x: (0 * x - 210).cosh(),
        INSIDE.format("infinite", "cosh"),
        "cosh of -2.1e+02 is more than float32 holds (3.4e+38)",
        "x.clamp(-20, 20).cosh(), or x.abs() + F.softplus(-2 * x.abs()) - math.log(2) for the log"
        " of a cosh",
    ),
    "log of 1 - tanh ** 2": (
        squashed,
        INSIDE.format("infinite", "log"),
        "log of 0: 1 - tanh(x) ** 2 has rounded to 0",
        "2 * (math.log(2) - x - F.softplus(-2 * x)), which is its log",
    ),
    "division": (
        lambda x: x * 0 / (x - x),
        INSIDE.format("NaN", "div"),
        "0 / 0",
        LEFT_OUT,
    ),
    "reciprocal": (
        lambda x: 1 / (x - x),
        INSIDE.format("infinite", "reciprocal"),
        "1 / 0",
        NO_ZERO,
    ),
    "reciprocal of next to nothing": (
        lambda x: 1 / (0 * x + TINY / 10),
        INSIDE.format("infinite", "reciprocal"),
        "1 / 1.2e-39 is more than float32 holds (3.4e+38)",
        NO_ZERO,
    ),
    "division by next to nothing": (
        lambda x: (1e10 + 0 * x) / (0 * x + TINY),
        INSIDE.format("infinite", "div"),
        "1e+10 / 1.2e-38 is more than float32 holds (3.4e+38)",
        NO_ZERO,
    ),
    "division of a number by 0": (
        lambda x: (x * 0 + 3) / (x - x),
        INSIDE.format("infinite", "div"),
        "3 / 0",
        NO_ZERO,
    ),
    "softmax by hand": (
        lambda x: (x - 200).exp() / (x - 200).exp().sum(-1, keepdim=True),
        INSIDE.format("NaN", "div"),
        "a division by a sum of exponentials that have all rounded to 0",
        "F.softmax(x, -1) in place of exp(x) over the sum of exp(x)",
    ),
    "sum that cancels": (
        lambda x: (0 * x + 2) / ((0 * x + 1) * torch.tensor([1, -1, 1, -1])).sum(-1, keepdim=True),
        INSIDE.format("infinite", "div"),
        "2 / 0",
        NO_ZERO,
    ),
    "something over a norm": (
        lambda x: (0 * x + 2) / (0 * x).norm(dim=-1, keepdim=True),
        INSIDE.format("infinite", "div"),
        "a division by the norm of a zero vector",
        OF_A_NORM,
    ),
    "something over a norm in place": (
        lambda x: (0 * x + 2).div_((0 * x).norm(dim=-1, keepdim=True)),
        INSIDE.format("infinite", "div"),
        "a division by the norm of a zero vector",
        OF_A_NORM,
    ),
    "sum that cancels in a buffer": (
        over_a_sum_in_a_buffer,
        INSIDE.format("infinite", "div"),
        "2 / 0",
        NO_ZERO,
    ),
    "zeros of an operation that takes names alone": (
        over_what_takes_names_alone,
        INSIDE.format("infinite", "div"),
        "2 / 0",
        NO_ZERO,
    ),
    "sum over 0, which it has not made": (
        lambda x: x.sum(-1) / 0,
        INSIDE.format("infinite", "div"),
        "-1.4 / 0",
        NO_ZERO,
    ),
    "norm": (
        lambda x: (0 * x) / (0 * x).norm(dim=-1, keepdim=True),
        INSIDE.format("NaN", "div"),
        "a division by the norm of a zero vector",
        OF_A_NORM,
    ),
    "std of one": (
        lambda x: x / x[:, :1].std(1, keepdim=True),
        INSIDE.format("NaN", "std"),
        "std of one element is 0 / 0: it divides by n - 1",
        "std(..., correction=0), or more than one element",
    ),
    "sqrt": (
        lambda x: torch.sqrt(0 * x - 2),
        INSIDE.format("NaN", "sqrt"),
        "sqrt of -2, a negative number",
        "torch.sqrt(x.clamp_min(1e-8))",
    ),
    "where": (
        lambda x: torch.where(x > 0, x, math.nan),
        INSIDE.format("NaN", "where"),
        "where puts NaN in, as torch.logdet does for a determinant that is negative",
        "a number in its place; of a determinant torch.linalg.slogdet(x)[1], the log of its size",
    ),
    "power": (
        lambda x: (0 * x - 2) ** 0.5,
        INSIDE.format("NaN", "pow"),
        "(-2) ** 0.5: a fractional power of a negative number",
        "x.clamp_min(0) ** p, or x.sign() * x.abs() ** p",
    ),
    "power of 0": (
        lambda x: (0 * x) ** -2,
        INSIDE.format("infinite", "pow"),
        "0 ** -2 is a division by 0",
        "torch.where(x == 0, 0, torch.where(x == 0, 1, x) ** p)",
    ),
    "acos": (
        lambda x: torch.acos(0 * x + 1.5),
        INSIDE.format("NaN", "acos"),
        "acos of 1.5: it is defined from -1 to 1",
        "x.clamp(-1 + 1e-6, 1 - 1e-6) before it",
    ),
    "acos just beyond": (
        lambda x: torch.acos(0 * x + 1.0000001),
        INSIDE.format("NaN", "acos"),
        "acos of 1.0000001: it is defined from -1 to 1",
        "x.clamp(-1 + 1e-6, 1 - 1e-6) before it",
    ),
    "atanh": (
        lambda x: torch.atanh(torch.tanh(100 * x + 100)),
        INSIDE.format("infinite", "atanh"),
        "atanh of 1: it is defined between -1 and 1",
        "x.clamp(-1 + 1e-6, 1 - 1e-6) before it",
    ),
    "logit": (
        lambda x: torch.logit(0 * x),
        INSIDE.format("infinite", "logit"),
        "logit of 0: it is defined between 0 and 1",
        "torch.logit(x, eps=1e-6)",
    ),
    "lgamma": (
        lambda x: torch.lgamma(0 * x),
        INSIDE.format("infinite", "lgamma"),
        "lgamma of 0, where it has a pole",
        "x.clamp_min(1e-8) before it",
    ),
    "polygamma": (
        lambda x: torch.polygamma(1, 0 * x),
        INSIDE.format("infinite", "polygamma"),
        "polygamma of 0, where it has a pole",
        "x.clamp_min(1e-8) before it",
    ),
    "x * log1p(y)": (
        lambda x: torch.special.xlog1py(x.abs() + 1, 0 * x - 1),
        INSIDE.format("infinite", "special_xlog1py"),
        "special_xlog1py of -1: it is defined above -1",
        "torch.log1p(x.clamp_min(-1 + 1e-6))",
    ),
    "layer norm without an eps": (
        lambda x: F.layer_norm(0 * x, (4,), eps=0.0),
        INSIDE.format("NaN", "layer_norm"),
        "the squares of what layer_norm gets are more than float32 holds (3.4e+38), or all of it is"
        " equal and eps is 0",
        "smaller inputs, and an eps above 0",
    ),
    "group norm of huge numbers": (
        lambda x: F.group_norm(1e38 * x, 2),
        INSIDE.format("NaN", "group_norm"),
        "the squares of what group_norm gets are more than float32 holds (3.4e+38), or all of it is"
        " equal and eps is 0",
        "smaller inputs, and an eps above 0",
    ),
    "a system that is next to singular": (
        lambda x: torch.linalg.solve(1e-30 * torch.eye(4), 1e20 * x.T),
        INSIDE.format("NaN", "linalg_solve_ex"),
        "the matrix is singular, or next to it",
        "1e-6 * torch.eye(n) added to it",
    ),
    "between two infinities": (
        lambda x: (x + math.inf).lerp(x + math.inf, 0.5),
        INSIDE.format("NaN", "lerp"),
        "inf - inf",
        "torch.finfo(x.dtype).min in place of -inf, or torch.where for what is left out",
    ),
    "product": (
        lambda x: (x.abs() + 1).mul(1e20).cumprod(-1),
        INSIDE.format("infinite", "cumprod"),
        "what cumprod returns is more than float32 holds (3.4e+38)",
        "standardised inputs, smaller weights, or a normalisation layer before it",
    ),
    "half": (
        lambda x: x.half() * 60000 * 10,
        INSIDE.format("infinite", "mul"),
        "what mul returns is more than float16 holds (6.6e+04)",
        "float32 for this part (x.float()) or bfloat16, smaller inputs, or smaller weights",
    ),
    "conversion to half": (
        lambda x: (1e5 * x).half(),
        INSIDE.format("infinite", "to"),
        "what to returns is more than float16 holds (6.6e+04)",
        "float32 for this part (x.float()) or bfloat16, smaller inputs, or smaller weights",
    ),
    "mask that stays": (
        lambda x: x.masked_fill(torch.tensor([True, False, False, False]), -math.inf),
        INSIDE.format("infinite", "masked_fill"),
        "the infinity that masked_fill fills in is not taken out again before the loss",
        "keep the filled positions out of the loss: loss[~mask].mean()",
    ),
    "NaN under a mask": (
        lambda x: x.masked_fill(torch.tensor([True, False, False, False]), math.nan),
        INSIDE.format("NaN", "masked_fill"),
        "the NaN that masked_fill fills in is not taken out again before the loss",
        "0 in its place, and the filled positions kept out of the loss: loss[~mask].mean()",
    ),
    "NaN written to some": (
        with_nan,
        INSIDE.format("NaN", "index_put"),
        "the NaN that index_put fills in is not taken out again before the loss",
        "0 in its place, and the filled positions kept out of the loss: loss[~mask].mean()",
    ),
    "NaN from a constant": (
        lambda x: x + torch.full_like(x, math.nan),
        INSIDE.format("NaN", "full_like"),
        "the NaN that full_like fills in is not taken out again before the loss",
        "0 in its place, and the filled positions kept out of the loss: loss[~mask].mean()",
    ),
}

LOSSES: dict[str, tuple[Callable[..., Tensor], Any, str, str, str]] = {
    "ctc": (
        short,
        None,
        LOSS.format("infinite", "ctc_loss"),
        "a target needs more steps than its input has (its length, and one more for each label that"
        " is repeated), so that no alignment fits",
        "longer inputs (fewer strides), or nn.CTCLoss(zero_infinity=True), which leaves it out",
    ),
    "std of equal numbers": (
        all_equal,
        None,
        LOSS.format("NaN", "div"),
        "a division by a standard deviation of 0: all numbers are equal",
        "(x - x.mean()) / (x.std() + 1e-4)",
    ),
    "mean of nothing": (
        lambda outputs: outputs[NONE].pow(2).mean(),
        None,
        LOSS.format("NaN", "mean"),
        "mean of no elements is 0 / 0: nothing is selected",
        "x[mask].sum() / mask.sum().clamp_min(1), or leave it out where the mask is empty",
    ),
    "loss on logits of nothing": (
        lambda outputs: F.binary_cross_entropy_with_logits(outputs[NONE], outputs[NONE].detach()),
        None,
        LOSS.format("NaN", "binary_cross_entropy_with_logits"),
        "binary_cross_entropy_with_logits of no elements is 0 / 0: nothing is selected",
        "x[mask].sum() / mask.sum().clamp_min(1), or leave it out where the mask is empty",
    ),
    "empty mask": (
        lambda outputs: (outputs[:, 0] * NONE).sum() / NONE.sum(),
        None,
        LOSS.format("NaN", "div"),
        "a division by a sum of nothing but zeros, as of an empty mask or of a node without"
        " neighbours",
        "x.sum() / mask.sum().clamp_min(1)",
    ),
    "0 * inf": (
        entropy,
        None,
        LOSS.format("NaN", "mul"),
        "0 * inf: a product with 0 does not take infinity out",
        "torch.where(mask, x, 0) in place of x * mask, torch.special.entr(p) in place of"
        " p * log(p)",
    ),
    **{
        name: (
            loss,
            targets,
            LOSS.format("NaN", "nll_loss"),
            "no target counts, each is ignored (ignore_index) or of a class of weight 0, and a mean"
            " of nothing is 0 / 0",
            'reduction="sum", over the number of targets that count, .clamp_min(1)',
        )
        for name, loss, targets in (
            ("labels ignored", F.cross_entropy, torch.full((8,), -100)),
            (
                "classes of weight 0",
                lambda outputs, y: F.cross_entropy(outputs, y, weight=FIRST),
                torch.zeros(8, dtype=torch.long),
            ),
        )
    },
    "logdet": (
        lambda outputs: torch.logdet(-torch.eye(3) * (1 + outputs.square().sum())),
        None,
        LOSS.format("NaN", "where"),
        "where puts NaN in, as torch.logdet does for a determinant that is negative",
        "a number in its place; of a determinant torch.linalg.slogdet(x)[1], the log of its size",
    ),
    "logdet of a singular matrix": (
        lambda outputs: torch.logdet(torch.zeros(3, 3) + outputs.square().sum()),
        None,
        LOSS.format("infinite", "slogdet"),
        "the matrix is singular: its determinant is 0, whose log is -inf",
        "1e-6 * torch.eye(n) added to it, or a parametrisation that cannot be singular (LU)",
    ),
    "targets": (
        F.mse_loss,
        torch.full((8, 4), math.nan),
        "the loss is NaN: the targets are not finite",
        "the targets hold NaN or infinity",
        "leave out what has no target: keep = y.isfinite()",
    ),
}

SLOPES: dict[str, tuple[Callable[[Tensor], Tensor], str, str, str]] = {
    "exp, then clamp": (
        lambda x: (0 * x + 100).exp().clamp(max=1e3) + x,
        BACKWARDS.format("NaN", "Exp"),
        f"exp of 1e+02 is more than float32 holds (3.4e+38){DROPPED}",
        "x.clamp(max=20).exp(), or stay with logarithms (torch.logsumexp, F.log_softmax)",
    ),
    "where": (
        lambda x: torch.where(x > 99, torch.log(0 * x), x),
        BACKWARDS.format("NaN", "Log"),
        "the slope of Log is infinite at 0, and 0 times that is NaN",
        "torch.log(x.clamp_min(1e-8))",
    ),
    "root of a negative number, then where": (
        lambda x: torch.where(x > 99, torch.sqrt(0 * x - 3), x),
        BACKWARDS.format("NaN", "Sqrt"),
        f"sqrt of -3, a negative number{DROPPED}",
        "torch.sqrt(x.clamp_min(1e-8))",
    ),
    "quotient, then where": (
        lambda x: torch.where(x > 99, 2 / (0 * x), x),
        BACKWARDS.format("NaN", "Reciprocal"),
        f"1 / 0{DROPPED}",
        NO_ZERO,
    ),
    "exponent that is learned": (
        lambda x: (0 * x - 3) ** (0 * x.sum() + 2),
        BACKWARDS.format("NaN", "Pow"),
        "the slope of a power in its exponent is the log of its base, here of -3, a negative"
        " number",
        "a base that cannot be negative (x.clamp_min(1e-8) ** p), or an exponent that is not"
        " learned",
    ),
    "root as a power": (
        lambda x: (0 * x) ** 0.5,
        BACKWARDS.format("infinite", "Pow"),
        "the slope of Pow is infinite at 0, as a power below 1 has",
        "(x + 1e-8) ** p",
    ),
    "acos": (
        lambda x: torch.acos(0 * x + 1),
        BACKWARDS.format("infinite", "Acos"),
        "the slope of Acos is infinite at -1 and 1",
        "x.clamp(-1 + 1e-6, 1 - 1e-6) before it",
    ),
    "sqrt": (
        lambda x: (0 * x).sqrt(),
        BACKWARDS.format("infinite", "Sqrt"),
        "the slope of Sqrt is infinite at 0",
        "torch.sqrt(x + 1e-8)",
    ),
    "hypot": (
        lambda x: torch.hypot(0 * x, 0 * x),
        BACKWARDS.format("NaN", "Hypot"),
        "the slope of Hypot is infinite at 0, and 0 times that is NaN",
        "add 1e-8 before taking it",
    ),
    "infinity that is taken out behind a product": (
        lambda x: torch.nan_to_num(x * math.inf, posinf=0, neginf=0) + x,
        BACKWARDS.format("NaN", "Mul"),
        "the slope of a product with infinity is infinite, and 0 times that is NaN",
        "a number in place of the infinity before the product, not behind it",
    ),
    "Cholesky factors": (
        lambda x: torch.linalg.cholesky_ex(0 * x[:4])[0],
        BACKWARDS.format("NaN", "LinalgCholeskyEx"),
        "the backward of LinalgCholeskyEx divides by the diagonal of a triangle, and there is a 0"
        " on it: the matrix is singular",
        "1e-6 * torch.eye(n) added to it",
    ),
    "eigenvectors": (
        lambda x: torch.linalg.eigh(0 * x[:4] + torch.eye(4))[1],
        BACKWARDS.format("NaN", "LinalgEigh"),
        "the backward of LinalgEigh divides by the distances between eigenvalues or singular"
        " values, and two of them are equal",
        "use the values alone (torch.linalg.eigvalsh, svdvals), or add a small random symmetric"
        " matrix",
    ),
}


def first_fault(model: nn.Module, loss: Any, targets: Any = None) -> tuple[str, str, str]:
    """What GH301 says of a model that is run on ones, its cause and what to type."""
    subject = Subject(model, torch.ones(8, 4), targets, loss, torch.device("cpu"))
    bad = first_non_finite(subject, seed=0)
    profile = GradientProfile(0, 0, math.nan, paths=(), non_finite=bad)
    (finding,) = RULE.check(Evidence(profile, None, {})) or ()
    cause = RULE.explain(finding, profile)
    return finding.message, cause.because if cause else "", cause.advice if cause else ""


@pytest.mark.parametrize("case", [*FORWARDS, *SLOPES])
def test_an_operation_of_the_model(case: str) -> None:
    function, *told = (FORWARDS | SLOPES)[case]
    assert first_fault(Ends(function), lambda outputs: outputs.sum()) == tuple(told)


@pytest.mark.parametrize("case", LOSSES)
def test_an_operation_of_the_loss(case: str) -> None:
    loss, targets, *told = LOSSES[case]
    assert first_fault(nn.Linear(4, 4), loss, targets) == tuple(told)


def test_infinity_that_does_no_harm_is_not_blamed() -> None:
    """A distance to nothing, and a mask: what comes of them is finite."""

    def loss(outputs: Tensor) -> Tensor:
        nearest = torch.full_like(outputs, math.inf).minimum(outputs)
        weights = outputs.masked_fill(outputs == outputs.max(), -math.inf).softmax(-1)
        far = 1 / (100 + 0 * outputs).exp()
        return torch.log((nearest * weights + far - far) * 0).sum()

    diagnosis = probe(nn.Linear(4, 4), torch.ones(8, 4), loss=loss)
    assert explained(diagnosis, "GH301")[0] == LOSS.format("infinite", "log")


def test_the_operation_is_in_the_module_that_runs_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Ends(lambda x: x - x), nn.ReLU(), Ends(torch.log))
    model[3].fc = nn.Identity()
    diagnosis = probe(model, torch.ones(8, 4), loss=lambda outputs: outputs.sum())
    message, _, _ = explained(diagnosis, "GH301")
    assert message == "the forward pass turns infinite in 3 (Ends), in log: its input was finite"


def test_nothing_is_said_where_nothing_is_known() -> None:
    unheard = NonFinite("forward", "a", "A", "nan", op="unheard_of", format="float32")
    assert not any(fault.fits(unheard) for fault in (*FORWARD, *BACKWARD))
