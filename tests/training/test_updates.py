"""What a training step does to weights, against arithmetic and training by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, RMSprop

from pytest_gradhealth import Diagnosis, assert_healthy, assert_no_exploding_update, probe
from tests.helpers.nets import ONES, batch, constant, mlp, total
from tests.helpers.notes import Notes
from tests.helpers.steps import Clip, Factory, by_hand, lasso, made, sgd, steps_of

cross_entropy = nn.functional.cross_entropy


# Closed forms: weights of 1, gradients of 1, norms of 4, and a level of sqrt(4) = 2.


@pytest.mark.parametrize("rate", [1e-6, 0.01, 0.125, 0.25, 3.0, 1e4])
def test_plain_sgd_moves_on_a_straight_line(rate: float) -> None:
    for k, update in enumerate(steps_of(constant(), sgd(rate))):
        weight = 1 - rate * k
        assert update.step == k + 1
        assert update.layer == "0"
        assert update.loss == pytest.approx(16 * weight, rel=1e-9, abs=1e-9)
        assert update.gradient == update.clipped == pytest.approx(4, rel=1e-12)
        assert update.change == pytest.approx(rate / max(abs(weight), 0.5), rel=1e-9)


@pytest.mark.parametrize("clip", [1e-3, 1.0, 3.0, 4.1, 1e9])
def test_clipping_by_norm_shortens_the_step_in_proportion(clip: float) -> None:
    first = steps_of(constant(), sgd(0.1), clip)[0]
    assert first.gradient == pytest.approx(4, rel=1e-12)
    assert first.clipped == pytest.approx(min(4, clip), rel=1e-6)
    assert first.change == pytest.approx(0.1 * min(4, clip) / 4, rel=1e-6)


def test_clipping_by_value_is_measured_as_it_comes_out() -> None:
    first = steps_of(constant(), sgd(0.1), lambda ps: nn.utils.clip_grad_value_(ps, 0.25))[0]
    assert (first.gradient, first.clipped) == pytest.approx((4, 1), rel=1e-12)
    assert first.change == pytest.approx(0.1 * 1 / 4, rel=1e-12)


def test_momentum_sums_up_as_a_geometric_series() -> None:
    gone = 0.0
    for k, update in enumerate(steps_of(constant(), sgd(0.01, momentum=0.9))):
        velocity = (1 - 0.9 ** (k + 1)) / (1 - 0.9)
        assert update.change == pytest.approx(0.01 * velocity / max(1 - gone, 0.5), rel=1e-9)
        gone += 0.01 * velocity


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_the_first_step_of_adam_has_the_length_of_its_learning_rate(size: float) -> None:
    model = constant(3.0)
    diagnosis = probe(
        model, size * ONES, loss=total, optimizer=lambda ps: Adam(ps, lr=0.06), clip=math.inf
    )
    assert made(diagnosis)[0].gradient == pytest.approx(4 * size, rel=1e-12)
    assert made(diagnosis)[0].change == pytest.approx(0.06 / 3, rel=1e-4)


def test_decoupled_weight_decay_adds_to_the_first_step_of_adamw() -> None:
    step = 0.1 + 0.1 * 0.5 * 2.0
    first = steps_of(constant(2.0), lambda ps: AdamW(ps, lr=0.1, weight_decay=0.5))[0]
    assert first.change == pytest.approx(step / 2, rel=1e-6)


@pytest.mark.parametrize(("decay", "strength"), [(0.5, 0.25), (3.0, 1.5)])
def test_a_penalty_is_part_of_the_gradient_and_not_of_the_loss(
    decay: float, strength: float
) -> None:
    declared = probe(
        constant(2.0),
        ONES,
        loss=total,
        optimizer=sgd(0.01),
        regularizer=lambda m: strength * sum(p.square().sum() for p in m.parameters()),
    )
    assert made(declared)[0].loss == 32
    assert made(declared)[0].gradient == pytest.approx(4 * (1 + decay * 2.0), rel=1e-12)
    assert made(declared)[0].change == pytest.approx(0.01 * (1 + decay * 2.0) / 2, rel=1e-12)
    coupled = steps_of(constant(2.0), sgd(0.01, weight_decay=decay))
    assert coupled[0].gradient == pytest.approx(4, rel=1e-12), "SGD adds it after the closure"
    for ours, theirs in zip(made(declared), coupled, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
        assert ours.change == pytest.approx(theirs.change, rel=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-9, 0.1, 0.49])
def test_small_weights_are_compared_with_a_level_initialisation(size: float) -> None:
    assert steps_of(constant(size), sgd(0.01))[0].change == pytest.approx(0.01 * 4 / 2, rel=1e-12)


def test_the_level_is_that_of_the_outputs_and_not_of_the_inputs() -> None:
    wide = constant(0.0, inputs=4, outputs=9)
    assert steps_of(wide, sgd(1.0))[0].change == pytest.approx(math.sqrt(36) / 3, rel=1e-12)


def test_biases_may_change_as_they_like() -> None:
    layer = nn.Linear(4, 4, dtype=torch.float64)
    nn.init.constant_(layer.weight, 1e6)
    nn.init.zeros_(layer.bias)
    updates = steps_of(nn.Sequential(layer), sgd(100.0))
    assert updates[0].change == pytest.approx(100 * 4 / 4e6, rel=1e-12)
    assert updates[0].gradient == pytest.approx(math.sqrt(16 + 4), rel=1e-12)


def test_the_weight_that_changes_most_is_named() -> None:
    model = nn.Sequential(*constant(2.0), *constant(64.0))
    # d/dW1 = 4 * 64 = 256 in each element, over 2; d/dW2 = 8, over 64.
    first = steps_of(model, sgd(1e-3))[0]
    assert first.layer == "0"
    assert first.change == pytest.approx(0.256 / 2, rel=1e-12)
    assert first.gradient == pytest.approx(4 * math.hypot(256, 8), rel=1e-12)


def test_frozen_weights_are_neither_moved_nor_measured() -> None:
    model = nn.Sequential(*constant(2.0), *constant(64.0))
    model[0].requires_grad_(False)
    first = steps_of(model, sgd(1e-3))[0]
    assert first.layer == "1"
    assert first.change == pytest.approx(0.008 / 64, rel=1e-12)
    assert first.gradient == pytest.approx(4 * 8, rel=1e-12)


def test_factories_are_called_with_what_is_to_be_trained() -> None:
    given_ = Notes[list[bool]]()

    def build(parameters: Iterable[nn.Parameter]) -> Optimizer:
        listed = list(parameters)
        given_.append([parameter.requires_grad for parameter in listed])
        return SGD(listed, lr=1e-3)

    model = nn.Sequential(*constant(), *constant())
    model[0].requires_grad_(False)
    assert len(steps_of(model, build)) == 10
    assert list(given_) == [[True], [True]]


def test_the_default_optimizer_is_adam() -> None:
    assert steps_of(constant(), None) == steps_of(constant(), lambda ps: Adam(ps, lr=1e-3))


@settings(max_examples=25, deadline=None)
@given(clip=st.floats(1e-6, 1e6), seed=st.integers(0, 1000))
def test_clipping_never_lengthens_and_keeps_to_its_limit(clip: float, seed: int) -> None:
    torch.manual_seed(seed)
    x, y = batch()
    for update in made(probe(mlp(), x, y, loss=cross_entropy, optimizer=sgd(0.05), clip=clip)):
        assert update.clipped <= update.gradient * (1 + 1e-6)
        assert update.clipped == pytest.approx(min(update.gradient, clip), rel=1e-4, abs=1e-7)


# The same training by hand.


OPTIMIZERS: dict[str, Factory] = {
    "SGD": sgd(0.1),
    "Nesterov": sgd(0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda ps: Adam(ps, lr=1e-2, weight_decay=1e-3),
    "AdamW": lambda ps: AdamW(ps, lr=1e-2, weight_decay=0.1),
    "RMSprop": lambda ps: RMSprop(ps, lr=1e-3),
}
CLIPS: dict[str, Clip | None] = {
    "no clipping": None,
    "by norm": 0.2,
    "by value": lambda ps: nn.utils.clip_grad_value_(ps, 0.02),
}


@pytest.mark.parametrize("penalty", [None, lasso], ids=["no penalty", "lasso"])
@pytest.mark.parametrize("clip", CLIPS.values(), ids=list(CLIPS))
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_steps_are_those_of_the_same_training_by_hand(
    optimizer: Factory, clip: Clip | None, penalty: Callable[[nn.Module], Any] | None
) -> None:
    x, y = batch()
    x = x.double()
    model = nn.Sequential(*mlp(nn.Tanh), nn.LayerNorm(5)).double()
    _, rows = by_hand(model, x, y, optimizer, clip, penalty)
    diagnosis = assert_no_exploding_update(
        model, x, y, loss=cross_entropy, optimizer=optimizer, clip=clip, regularizer=penalty
    )
    for update, (loss, before, after, change, layer) in zip(made(diagnosis), rows, strict=True):
        assert (update.loss, update.gradient, update.clipped, update.change) == pytest.approx(
            (loss, before, after, change), rel=1e-7
        )
        assert update.layer == layer


def test_an_instance_goes_on_from_its_state_and_its_groups() -> None:
    model = constant(1.0)
    optimizer = SGD(model.parameters(), lr=0.001, momentum=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        total(model(ONES)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.01
    # Velocities 1, 1.5, then 1.75 with the new rate; weights 1 - 0.001 * 2.5 by then.
    first = steps_of(model, optimizer)[0]
    assert first.change == pytest.approx(0.01 * 1.75 / (1 - 0.0025), rel=1e-9)
    assert first.loss == pytest.approx(16 * (1 - 0.0025), rel=1e-12)


def test_closures_that_an_optimizer_calls_again_do_not_count_as_steps() -> None:
    model = constant(1.0)
    updates = made(
        probe(
            model,
            ONES,
            loss=lambda y: y.square().sum() / 2,
            optimizer=lambda ps: LBFGS(ps, lr=0.1, max_iter=3),
            clip=1e6,
        )
    )
    assert len(updates) == 10
    # y is 4 in four outputs; dL/dW is 4 in each element.
    assert updates[0].loss == pytest.approx(32)
    assert updates[0].gradient == updates[0].clipped == pytest.approx(16)
    assert all(a.loss > b.loss for a, b in itertools.pairwise(updates))


# What is run.


class Counted(nn.Module):
    def __init__(self, calls: Notes[bool], body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.note: Callable[[], None] = lambda: calls.append(torch.is_grad_enabled())

    def forward(self, x: Tensor) -> Tensor:
        self.note()
        out: Tensor = self.body(x)
        return out


@pytest.mark.parametrize("check_it", [probe, assert_healthy], ids=["probe", "assert_healthy"])
def test_without_clip_and_regularizer_no_step_is_made(check_it: Callable[..., Diagnosis]) -> None:
    calls = Notes[bool]()
    x, y = batch()
    diagnosis = check_it(Counted(calls, mlp()), x, y, loss=cross_entropy, optimizer=sgd(0.1))
    assert len(calls) == 1
    assert made(diagnosis) == ()
    assert diagnosis.verdict == "healthy"


@pytest.mark.parametrize("declared", ["clip", "regularizer"])
@pytest.mark.parametrize("check_it", [probe, assert_healthy], ids=["probe", "assert_healthy"])
def test_with_either_of_them_ten_steps_are_made(
    check_it: Callable[..., Diagnosis], declared: str
) -> None:
    calls = Notes[bool]()
    x, y = batch()
    given_: Any = {"clip": 1.0} if declared == "clip" else {"regularizer": lasso}
    diagnosis = check_it(Counted(calls, mlp()), x, y, loss=cross_entropy, **given_)
    assert len(calls) == 1 + 10
    assert len(made(diagnosis)) == 10


def test_the_dedicated_assertion_makes_ten_steps_whatever_is_declared() -> None:
    calls = Notes[bool]()
    x, y = batch()
    assert_no_exploding_update(Counted(calls, mlp()), x, y, loss=cross_entropy)
    assert len(calls) == 1 + 10


def test_parameters_that_only_the_loss_reads_get_no_gradient() -> None:
    scale = nn.Parameter(torch.ones((), dtype=torch.float64))
    diagnosis = probe(
        constant(), ONES, loss=lambda y: scale * y.sum(), optimizer=sgd(0.1), clip=1.0
    )
    assert scale.grad is None
    assert made(diagnosis)[0].gradient == pytest.approx(4)
