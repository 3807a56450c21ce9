"""Copies are what the model is; models that cannot be copied are refused where one is trained."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.training.copies import copied
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import check, refusal

cross_entropy = nn.functional.cross_entropy


class Single(nn.Sequential):
    """A model that cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there is only one")


def test_a_model_that_cannot_be_copied_for_the_confirm_steps() -> None:
    (x, y), model = batch(), Single(*mlp(nn.Sigmoid, hidden=10))
    check(
        refusal(model, x, y, loss=cross_entropy),
        "Single cannot be deep-copied (TypeError: there is only one), which confirming a verdict or"
        " moving to cpu takes; pass a factory that builds the model on its device, or"
        " confirm_steps=0 to judge the first look alone",
        TypeError,
    )
    assert probe(model, x, y, loss=cross_entropy, confirm_steps=0).verdict == "failure"
    assert probe(Single(*mlp()), x, y, loss=cross_entropy).verdict == "healthy"


def test_a_model_that_can_be_copied_and_not_moved_is_told_as_such() -> None:
    class Fixed(nn.Sequential):
        def to(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("not from here")

    x, y = batch()
    check(
        refusal(Fixed(*mlp(nn.Sigmoid, hidden=10)), x, y, loss=cross_entropy),
        "Fixed cannot be moved as a copy (RuntimeError: not from here), which confirming a verdict"
        " or moving to cpu takes; pass a factory that builds the model on its device, or"
        " confirm_steps=0 to judge the first look alone",
        RuntimeError,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_sick_model_on_a_quantised_encoder_gets_its_second_look() -> None:
    quantised = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
        nn.Sequential(nn.Linear(20, 20)), {nn.Linear}, dtype=torch.qint8
    )
    x, y = batch()
    diagnosis = probe(
        nn.Sequential(quantised, mlp(nn.Sigmoid, hidden=10)), x, y, loss=cross_entropy
    )
    assert [look.steps for look in diagnosis.profiles] == [0, 5]
    assert [finding.code for finding in diagnosis.findings] == ["GH101"]


class Masked(nn.Module):
    """Masks the gradient of its weight, and has a method for a loss in a part of it."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 5)
        self.part = Part()
        self.register_buffer("mask", (torch.arange(5) % 2).float()[:, None])
        self.layer.weight.register_hook(self.masked)  # type: ignore[no-untyped-call]

    def masked(self, gradient: Tensor) -> Tensor:
        return gradient * self.mask

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, outputs: Tensor) -> Tensor:
        return outputs.square().mean() * self.scale


CPU = torch.device("cpu")


def test_hooks_on_gradients_and_methods_for_losses_are_those_of_the_copy() -> None:
    model, x = Masked(), batch()[0]
    twin, _ = copied(Subject(model, x, None, model.part.loss, CPU), None, CPU)
    with torch.no_grad():
        model.mask.fill_(math.nan)
        model.part.scale.fill_(math.nan)
    copy: Any = twin.model
    assert twin.loss is not None
    twin.loss(copy(x)).backward()
    gradient = copy.layer.weight.grad
    assert [bool(row.any()) for row in gradient] == [False, True, False, True, False]
    assert gradient.isfinite().all()
    assert model.layer.weight.grad is model.part.scale.grad is None


def test_a_hook_that_is_no_method_is_shared_and_one_after_accumulation_is_not_copied() -> None:
    """The latter steps an optimizer of the caller's."""
    model, x = nn.Linear(20, 5), batch()[0]
    seen: list[Tensor] = []
    weight: Any = model.weight
    weight.register_hook(seen.append)
    weight.register_post_accumulate_grad_hook(lambda _: pytest.fail("not the caller's"))
    twin, _ = copied(Subject(model, x, None, None, CPU), None, CPU)
    twin.model(x).sum().backward()
    assert len(seen) == 1


def test_confirm_steps_are_made_with_the_gradients_that_hooks_make() -> None:
    """Without the hook, the first weight would be trained."""
    (x, y), first = batch(), nn.Linear(20, 32)
    model = nn.Sequential(first, nn.Sigmoid(), *mlp(nn.Sigmoid, hidden=9, inputs=32))
    first.weight.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
    looks = probe(model, x, y, loss=cross_entropy).profiles
    weights = [look.parameters[0] for look in looks]
    assert [look.steps for look in looks] == [0, 5]
    assert [weight.gradient for weight in weights] == [0, 0]
    assert weights[0].norm == weights[1].norm == pytest.approx(float(first.weight.detach().norm()))
