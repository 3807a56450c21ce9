"""What a message says to type is typed in: it is finite, with a slope that can be trained by."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth.measure.nonfinite import first_non_finite
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.non_finite import RULE
from pytest_gradhealth.subject.subject import Subject

#: What is computed of x and y, and what x and y are.
Case = tuple[Callable[[Tensor, Tensor], Tensor], float, float]
CASES: dict[str, Case] = {
    "log of 0": (lambda x, _: torch.log(x), 0, 0),
    "log of a negative number": (lambda x, _: torch.log(x), -2, 0),
    "log of a sum of exp": (lambda x, _: torch.log(x.exp().sum(-1)), -200, 0),
    "log of a softmax": (lambda x, _: torch.log((1e3 * x).softmax(-1)), 1, 0),
    "log of a sigmoid": (lambda x, _: torch.log(torch.sigmoid(x)), -200, 0),
    "log of 1 - sigmoid": (lambda x, _: torch.log(1 - torch.sigmoid(x)), 200, 0),
    "root of a negative number": (lambda x, _: torch.sqrt(x), -2, 0),
    "root of 0": (lambda x, _: torch.sqrt(x), 0, 0),
    "root of 0 as a power": (lambda x, _: x**0.5, 0, 0),
    "1 over the root of 0": (lambda x, _: torch.rsqrt(x), 0, 0),
    "negative power of 0": (lambda x, _: x**-0.5, 0, 0),
    "0 / 0": (lambda x, y: x / y, 0, 0),
    "z-scores": (lambda x, _: (x - x.mean()) / x.std(), 0, 0),
    "0 over a norm": (lambda x, _: x / x.norm(dim=-1, keepdim=True), 0, 0),
    "exp": (lambda x, _: x.exp(), 200, 0),
    "exp2": (lambda x, _: x.exp2(), 200, 0),
    "cosh of a positive number": (lambda x, _: x.cosh(), 200, 0),
    "cosh of a negative number": (lambda x, _: x.cosh(), -200, 0),
    "acos": (lambda x, _: torch.acos(x), 1, 0),
    "atanh": (lambda x, _: torch.atanh(x), -1, 0),
    "logit": (lambda x, _: torch.logit(x), 1, 0),
    "exp, then where": (lambda x, _: torch.where(x > 300, x.exp(), x), 200, 0),
    "root, then where": (lambda x, _: torch.where(x > 0, torch.sqrt(x), x), -1, 0),
}
#: What the operations before are called in what is typed.
KNOWN = {"F": F, "torch": torch, "math": math}


class Both(nn.Module):
    """Adds two parameters to the inputs and computes something of them."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.x, self.y, self.function = nn.Parameter(x), nn.Parameter(y), function

    def forward(self, zero: Tensor) -> Tensor:
        return self.function(self.x + zero, self.y + zero).float()


def advice_for(model: nn.Module, inputs: Tensor) -> str:
    subject = Subject(model, inputs, None, lambda outputs: outputs.sum(), torch.device("cpu"))
    bad = first_non_finite(subject, seed=0)
    profile = GradientProfile(0, 0, math.nan, paths=(), non_finite=bad)
    cause = RULE.explain(RULE.finding("failure", "", "", profile=profile), profile)
    assert cause is not None
    return cause.advice


def typed(advice: str) -> str:
    """The code at the beginning of what to try."""
    code = re.split(r", or | in place of | for the | before it", advice)[0]
    return code.replace("** p", "** 0.5")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_what_is_typed_is_finite(case: str, dtype: torch.dtype) -> None:
    function, first, second = CASES[case]
    x = torch.full((2, 4), float(first), dtype=dtype)
    if case == "log of a softmax":
        x[:, 1:] = -1
    y = torch.full_like(x, second)
    zero = torch.zeros_like(x)
    code = typed(advice_for(Both(function, x, y), zero))
    x, y = (t.clone().requires_grad_() for t in (x, y))
    cured = eval(code, {**KNOWN, "x": x, "y": y})
    around = function(cured, y) if cured.shape == x.shape and "clamp(-1 +" in code else cured
    assert bool(around.isfinite().all())
    around.float().sum().backward()
    for given in (x, y):
        assert given.grad is None or bool((given.grad.abs() < 1e5).all())
