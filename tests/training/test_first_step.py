"""The loss along a first step: exact on parabolas, none of our business where it says nothing."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pytest_gradhealth import probe
from pytest_gradhealth.results.first_step import FirstStep
from pytest_gradhealth.training.kind import kind_of
from pytest_gradhealth.training.optimizers import configured_optimizer
from pytest_gradhealth.training.typed import typed
from tests.helpers.nets import batch, mlp


def half_square(outputs: Tensor) -> Tensor:
    return outputs.square().sum() / 2


def near_zero(outputs: Tensor) -> Tensor:
    """The same, but for a constant that leaves 1 of 6: what is promised is more, beside that."""
    return half_square(outputs) - 5


def bowl(seed: int = 0, size: int = 4) -> tuple[nn.Module, Tensor]:
    """A loss of w A w / 2, with A = x' x for the inputs x."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(size, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, size, generator=generator, dtype=torch.float64))
    return model, torch.randn(2 * size, size, generator=generator, dtype=torch.float64)


def first(model: nn.Module, x: Any, y: Any = None, **given: Any) -> FirstStep | None:
    given.setdefault("loss", half_square)
    return probe(model, x, y, select=["GH603"], confirm_steps=0, **given).profile.first_step


def critical_share(step: Tensor, x: Tensor, weight: Tensor) -> float:
    """The share of a step at which a parabola is as high again: 2 g d / d A d."""
    slope = (weight @ x.T @ x) @ step
    return float(2 * slope / (x @ step).square().sum())


#: How each optimizer moves first, by the gradient.
MOVES: dict[str, tuple[Callable[..., Optimizer], Callable[[Tensor], Tensor]]] = {
    "SGD": (SGD, lambda g: g),
    "momentum": (lambda ps, lr: SGD(ps, lr=lr, momentum=0.9), lambda g: g),
    "nesterov": (
        lambda ps, lr: SGD(ps, lr=lr, momentum=0.9, nesterov=True),
        lambda g: 1.9 * g,
    ),
    "Adam": (lambda ps, lr: Adam(ps, lr=lr, eps=0.0), torch.sign),
}


@pytest.mark.parametrize("name", MOVES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), times=st.floats(40, 1e6))  # of those it promises much
def test_the_critical_rate_of_a_parabola_is_exact(name: str, seed: int, times: float) -> None:
    make, move = MOVES[name]
    model, x = bowl(seed)
    weight = model.get_parameter("weight").detach()[0]
    gradient = weight @ x.T @ x
    critical = critical_share(move(gradient), x, weight)
    rate = times * critical
    found = first(model, x, optimizer=make(model.parameters(), lr=rate))
    assert found is not None
    assert found.critical * rate == pytest.approx(critical, rel=1e-6)
    assert found.excess == pytest.approx(times, rel=1e-6)
    slope = float(gradient @ move(gradient))
    before = float((x @ weight).square().sum() / 2)
    assert found.before == pytest.approx(before)
    assert found.gain == pytest.approx(slope * critical / 4, rel=1e-6)
    assert found.after == pytest.approx(before + slope * rate * (times - 1), rel=1e-6)


@pytest.mark.parametrize(("times", "seen"), [(0.99, False), (1.01, True)])
def test_two_over_the_sharpness_is_the_limit_of_gradient_descent(times: float, seen: bool) -> None:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    x = 2 * torch.eye(3, dtype=torch.float64)  # a sharpness of 4
    optimizer = SGD(model.parameters(), lr=times * 2 / 4)
    found = first(model, x, optimizer=optimizer, loss=near_zero)
    assert (found is not None) == seen
    if found is not None:
        assert found.critical * found.rates[0] == pytest.approx(0.5, rel=1e-9)


def test_groups_with_rates_of_their_own_are_one_step() -> None:
    torch.manual_seed(1)
    model = nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)}).double()
    x = torch.randn(8, 3, dtype=torch.float64)
    weights = [p.detach().clone() for p in model.parameters()]

    def call(model: Any, x: Tensor) -> Tensor:
        out: Tensor = model["a"](x) + 2 * model["b"](x)
        return out

    def loss_at(moved: list[Tensor]) -> float:
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for p, w in zip(twin.parameters(), moved, strict=True):
                p.copy_(w)
        return float(half_square(call(twin, x)))

    rates = [0.3, 0.3, 0.7, 0.7]
    loss = half_square(call(model, x))
    gradients = torch.autograd.grad(loss, [*model.parameters()])
    slope = sum(r * float(g.square().sum()) for r, g in zip(rates, gradients, strict=True))
    moved = [w - r * g for w, r, g in zip(weights, rates, gradients, strict=True)]
    share = slope / (loss_at(moved) - float(loss) + slope)
    a, b = model["a"].parameters(), model["b"].parameters()
    groups = SGD([{"params": [*a], "lr": 0.3}, {"params": [*b], "lr": 0.7}], lr=9.0)
    pair = [SGD(model["a"].parameters(), lr=0.3), SGD(model["b"].parameters(), lr=0.7)]
    for optimizer in (groups, pair):
        found = first(model, x, call=call, optimizer=optimizer)
        assert found is not None
        assert found.critical == pytest.approx(share, rel=1e-6)
        assert (found.rates, found.typed) == ((0.3, 0.7), "")


def test_clipping_and_penalties_are_part_of_the_step() -> None:
    model, x = bowl()
    weight = model.get_parameter("weight").detach()[0]
    gradient = weight @ x.T @ x
    optimizer = SGD(model.parameters(), lr=5.0)
    found = first(model, x, optimizer=optimizer, clip=1.0)
    assert found is not None
    step = 5.0 * gradient / (gradient.norm() + 1e-6)
    assert found.critical == pytest.approx(critical_share(step, x, weight), rel=1e-5)

    def pull(model: nn.Module) -> Tensor:
        return 50 * model.get_parameter("weight").square().sum()

    found = first(model, x, optimizer=optimizer, regularizer=pull)
    assert found is not None
    both = torch.cat([x, 10 * torch.eye(4, dtype=torch.float64)])
    expected = critical_share(5.0 * (weight @ both.T @ both), both, weight)
    assert found.critical == pytest.approx(expected, rel=1e-6)


def test_a_step_beyond_all_numbers_is_measured_by_shorter_ones() -> None:
    model, x = bowl()
    found = first(model.float(), x.float(), optimizer=SGD(model.parameters(), lr=1e25))
    assert found is None, "not even a step of 2 ** -31 of it is short enough"
    found = first(model, x.float(), optimizer=SGD(model.parameters(), lr=1e8))
    assert found is not None
    assert found.excess > 1e8


def test_a_rough_loss_that_stays_within_bounds_is_judged_by_what_the_step_costs() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 0.01)

    def rough(outputs: Tensor) -> Tensor:
        return 1 + torch.cos(200 * outputs).sum() / 20

    x = torch.ones(1, 1, dtype=torch.float64)
    found = first(model, x, loss=rough, optimizer=SGD(model.parameters(), lr=1.0))
    assert found is not None
    assert found.after > found.before
    assert 1 < found.excess < 2, "it rises first at a quarter of the step"


@pytest.mark.parametrize(("floor", "seen"), [(200, True), (400, False)])
def test_a_best_step_that_takes_next_to_nothing_is_none(floor: float, seen: bool) -> None:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    x = 2 * torch.eye(3, dtype=torch.float64)

    def high(outputs: Tensor) -> Tensor:
        return half_square(outputs) + floor  # of which 6 can go

    found = first(model, x, loss=high, optimizer=SGD(model.parameters(), lr=1e4))
    assert (found is not None) == seen


class Noisy(nn.Linear):
    """Adds noise that no seed of torch decides, or remembers its calls."""

    calls = 0
    #: Kept by nobody: a generator of the class itself.
    noise = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out + torch.randn(out.shape, generator=Noisy.noise, dtype=out.dtype)


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Any:
        return -gradients[0]


class Up(SGD):
    """Goes up the hill."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr, maximize=True)


class Twice(SGD):
    """Looks twice before it steps, as sharpness-aware minimisation does."""

    def step(self, closure: Any = None) -> Any:
        closure()
        return super().step(closure)


def quiet(make: Callable[[Any], Optimizer], **given: Any) -> FirstStep | None:
    model, x = bowl()
    return first(model, x, optimizer=make(model.parameters()), **given)


SILENT: dict[str, Callable[[], FirstStep | None]] = {
    "goes up": lambda: quiet(lambda ps: Up(ps, lr=10.0)),
    "LBFGS": lambda: quiet(lambda ps: LBFGS(ps, lr=100.0)),
    "two backwards": lambda: quiet(lambda ps: Twice(ps, lr=10.0)),
    "lr=0": lambda: quiet(lambda ps: SGD(ps, lr=0.0)),
    "a class": lambda: quiet(lambda _: SGD),  # type: ignore[arg-type,return-value]
    "no loss": lambda: first(*bowl(), optimizer=lambda ps: SGD(ps, lr=1e3), loss=None),
    "a loss without a floor": lambda: quiet(lambda ps: SGD(ps, lr=1e3), loss=lambda y: y.sum()),
    "a turned gradient": lambda: quiet(
        lambda ps: SGD(ps, lr=10.0), loss=lambda y: half_square(Reversed.apply(y))
    ),
    "no gradient": lambda: quiet(lambda ps: SGD(ps, lr=10.0), loss=lambda y: half_square(0 * y)),
    "NaN": lambda: quiet(lambda ps: SGD(ps, lr=10.0), loss=lambda y: half_square(y / 0 * 0)),
    "infinity": lambda: quiet(lambda ps: SGD(ps, lr=10.0), loss=lambda y: half_square(y / 0)),
    "NaN in the step": lambda: quiet(lambda ps: SGD(ps, lr=math.inf)),
    "noise": lambda: first(
        Noisy(4, 1, bias=False, dtype=torch.float64),
        bowl()[1],
        optimizer=lambda ps: SGD(ps, lr=10.0),
    ),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_says_nothing_of_the_length_is_silent(name: str) -> None:
    assert SILENT[name]() is None


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_formats_and_rates_in_tensors_change_nothing(dtype: torch.dtype) -> None:
    model, x = bowl()
    exact = first(model, x, optimizer=SGD(model.parameters(), lr=3.0))
    model, x = model.to(dtype), x.to(dtype)
    rate = torch.tensor(3.0)
    found = first(model, x, optimizer=SGD(model.parameters(), lr=rate))
    assert found is not None
    assert exact is not None
    assert found.excess == pytest.approx(exact.excess, rel=0.1)


def test_dropout_is_the_same_along_the_step() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 20), torch.randint(0, 5, (32,))
    layers = [*mlp(width=64)]
    model = nn.Sequential(*layers[:2], nn.Dropout(0.5), *layers[2:])
    rates = [2.0**k for k in (8, 10, 12)]
    found = [
        first(model, x, y, loss=cross_entropy, optimizer=SGD(model.parameters(), lr=rate))
        for rate in rates
    ]
    criticals = [f.critical * r for f, r in zip(found, rates, strict=True) if f is not None]
    assert criticals == pytest.approx([9.309] * 3, rel=1e-3)


def test_model_optimizer_and_random_numbers_stay_as_they_are() -> None:
    x, y = batch()
    model = mlp()
    optimizer = SGD(model.parameters(), lr=100.0, momentum=0.9)
    model.get_parameter("0.weight").grad = torch.ones(32, 20)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    drawn = torch.get_rng_state()
    assert first(model, x, y, loss=cross_entropy, optimizer=optimizer) is not None
    assert torch.equal(torch.get_rng_state(), drawn)
    assert optimizer.state_dict() == before[1]
    assert all(torch.equal(t, before[0][n]) for n, t in model.state_dict().items())
    gradient = model.get_parameter("0.weight").grad
    assert gradient is not None
    assert torch.equal(gradient, torch.ones(32, 20))


class Counting(nn.Linear):
    forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).forwards += 1
        return super().forward(x)


#: Rates where 0.5 is critical, and what a probe costs: 48 times the rate is promised.
COSTS = {
    "little is promised": (0.1, 1, 1),
    "a step, and the loss behind it": (0.11, 3, 2),
    "the start, and five halvings": (0.6, 9, 2),
    "and half of what is short enough": (1.6, 10, 2),
    "however long it is": (1e6, 9, 2),
}


@pytest.mark.parametrize(("rate", "forwards", "backwards"), COSTS.values(), ids=list(COSTS))
def test_only_a_step_that_promises_much_costs_passes(
    rate: float, forwards: int, backwards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()
    backward = torch.autograd.backward

    def counting(*args: Any, **kwargs: Any) -> None:
        counts["backward"] += 1
        backward(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "backward", counting)
    Counting.forwards = 0
    model = Counting(3, 3, bias=False, dtype=torch.float64)
    nn.init.eye_(model.weight)
    x = 2 * torch.eye(3, dtype=torch.float64)
    first(model, x, optimizer=SGD(model.parameters(), lr=rate), loss=near_zero)
    assert (Counting.forwards, counts["backward"]) == (forwards, backwards)


class Configured(nn.Linear):
    """Makes its optimizer, and has a scheduler begin with some part of its rate."""

    def __init__(self, begins_with: float) -> None:
        super().__init__(2, 2)
        self.begins_with = begins_with

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.5)
        return [optimizer], [LambdaLR(optimizer, lambda _: self.begins_with)]


@pytest.mark.parametrize(("begins_with", "rate"), [(1.0, 0.5), (0.01, None), (0.0, None)])
def test_a_module_that_warms_up_does_not_step_at_its_rate(
    begins_with: float, rate: float | None
) -> None:
    model = Configured(begins_with)
    optimizer = configured_optimizer(model)
    assert optimizer is not None
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]
    rates = kind_of(optimizer, model, "configure_optimizers").rates
    assert rates == ({} if rate is None else {"weight": rate, "bias": rate})


def test_an_optimizer_is_typed_with_what_is_not_its_default() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    adam = Adam(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    assert typed(adam) == (
        "torch.optim.Adam(model.parameters(), lr={}, betas=(0.9, 0.98), weight_decay=0.1)"
    )
    assert typed(Up(parameters, lr=1.0)) == "Up(model.parameters(), lr={})"
    groups: list[dict[str, Any]] = [{"params": parameters}, {"params": [torch.zeros(2)], "lr": 1.0}]
    assert typed(SGD(groups, lr=0.1)) == ""
