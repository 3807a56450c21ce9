"""A loss may differentiate by an input that requires grad, which stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.functional import mse_loss

from pytest_gradhealth import probe
from pytest_gradhealth.measure.perturbation import data_carriers
from pytest_gradhealth.subject.subject import Subject
from tests.helpers.nets import mlp
from tests.helpers.state import unchanged

POINTS = torch.rand(32, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
TIMES = torch.rand(32, 1, generator=torch.Generator().manual_seed(1)).requires_grad_()


def residual(values: Tensor, points: Tensor) -> Tensor:
    """Burgers' equation without viscosity, or a smooth function where there is no time."""
    (slope,) = grad(values.sum(), points, create_graph=True)
    return (slope[:, :1] + values * slope[:, -1:]).square().mean()


def by_a_global(values: Tensor) -> Tensor:
    return residual(values, POINTS)


def by_a_closure(points: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda values: residual(values, points)


class Holding(nn.Module):
    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points = points

    def forward(self, values: Tensor) -> Tensor:
        return residual(values, self.points)


class Problem:
    def __init__(self, points: Tensor) -> None:
        self.points = points

    def loss(self, values: Tensor) -> Tensor:
        return residual(values, self.points)


def curvature(values: Tensor) -> Tensor:
    (slope,) = grad(values.sum(), POINTS, create_graph=True)
    return residual(slope[:, :1], POINTS)


def accumulated(values: Tensor) -> Tensor:
    values.sum().backward(create_graph=True)  # type: ignore[no-untyped-call]
    assert POINTS.grad is not None
    return POINTS.grad.square().mean()


def batched(values: Tensor) -> Tensor:
    each = torch.eye(len(values))[:, :, None]
    (rows,) = grad(values, POINTS, each, create_graph=True, is_grads_batched=True)
    return rows.square().sum()


LOSSES = {
    "global": by_a_global,
    "closure": by_a_closure(POINTS),
    "module": Holding(POINTS),
    "method": Problem(POINTS).loss,
    "curvature": curvature,
    "accumulated": accumulated,
    "batched": batched,
}


def net(sick: bool = False) -> nn.Module:
    torch.manual_seed(0)
    body = mlp(nn.Sigmoid, hidden=10, inputs=2) if sick else mlp(nn.Tanh, inputs=2)
    return nn.Sequential(*body, nn.Linear(5, 1))


def gradients(model: nn.Module, loss: Any) -> list[Tensor | None]:
    POINTS.grad = None
    return [*grad(loss(model(POINTS)), list(model.parameters()), allow_unused=True)]


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_loss_may_differentiate_by_what_it_holds_of_the_inputs(loss: Any) -> None:
    model = net()
    expected = gradients(model, loss)
    POINTS.grad = torch.ones_like(POINTS)
    with unchanged(model, POINTS):
        diagnosis = probe(model, POINTS, loss=loss)
    POINTS.grad = None
    assert not diagnosis.of(["GH101", "GH201", "GH301"]), diagnosis
    assert [p.gradient for p in diagnosis.profile.parameters] == [
        None if g is None else pytest.approx(float(g.norm()), rel=1e-4) for g in expected
    ]
    assert diagnosis.profile.paths[0].first.name == "(input)"


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_it_may_in_the_steps_before_a_second_look_as_well(loss: Any) -> None:
    looks = probe(net(sick=True), POINTS, loss=loss).profiles
    assert [look.steps for look in looks] == [0, 5]


@pytest.mark.parametrize("named", [False, True])
def test_each_of_several_inputs_may_be_held(named: bool) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            out: Tensor = self.net(torch.cat([x, t], 1))
            return out

    def loss(values: Tensor) -> Tensor:
        return residual(values, POINTS) + residual(values, TIMES)

    x, t = POINTS[:, :1].detach().requires_grad_(), TIMES

    def both(values: Tensor) -> Tensor:
        return residual(values, x) + residual(values, t)

    diagnosis = probe(Both(), {"x": x, "t": t} if named else (x, t), loss=both)
    assert not [f for f in diagnosis.findings if f.severity == "failure"], diagnosis


def test_a_forward_that_writes_to_such_an_input_leaves_it_as_it_was() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            x.data.add_(1)
            with torch.no_grad():
                x.clamp_(0.4, 1.4)
            x.requires_grad_()
            out: Tensor = self.net(x)
            return out

    model, x = Writing(), torch.rand(8, 2).requires_grad_()
    x.grad = torch.ones_like(x)
    with unchanged(model, x):
        assert probe(model, x, loss=lambda values: values.square().mean()).profile.loss > 0


def test_hooks_on_such_an_input_are_called_where_they_are_the_forwards() -> None:
    x = POINTS.detach().requires_grad_()
    hooked: Any = x
    hooked.register_post_accumulate_grad_hook(lambda _: pytest.fail("the caller's optimizer"))
    assert probe(net(), x, loss=lambda y: y.square().mean()).profile.paths


def test_a_part_of_the_model_that_is_its_input_is_trained_on_the_copy() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Parameter(torch.rand(32, 2))
            self.net = net(sick=True)

        def forward(self, code: Tensor) -> Tensor:
            out: Tensor = self.net(code)
            return out

    model, targets = Decoder(), torch.rand(32, 1)
    with unchanged(model):
        first, second = probe(model, model.code, targets, loss=mse_loss).profiles
    sizes = [look.parameters[0].norm for look in (first, second)]
    assert sizes[0] != sizes[1]


def test_another_batch_to_compare_with_requires_grad_too() -> None:
    class Sloped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            (slope,) = grad(self.net(x).sum(), x, create_graph=True)
            return slope

    subject = Subject(Sloped(), POINTS, None, None, torch.device("cpu"))
    assert data_carriers(subject, seed=0)
