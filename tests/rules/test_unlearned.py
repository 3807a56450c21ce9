"""A batch that cannot be learned fails with why, and one that can is left after a few steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise
from operator import mul
from statistics import pstdev
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import LBFGS, SGD, Adam, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LambdaLR

from pytest_gradhealth import (
    Diagnosis,
    NonFiniteGradientError,
    ProbeError,
    UnlearnedBatchError,
    assert_healthy,
    assert_learns,
    probe,
)
from pytest_gradhealth.results.learning import Learning
from tests.helpers.findings import codes, explained, severities, told
from tests.helpers.nets import batch, mlp
from tests.helpers.state import busy, unchanged
from tests.helpers.steps import sgd


def learning_of(diagnosis: Diagnosis) -> Learning:
    found = diagnosis.profile.learning
    assert found is not None
    return found


def failing(model: nn.Module, x: Any, y: Any = None, **options: Any) -> Diagnosis:
    with pytest.raises(UnlearnedBatchError) as caught:
        assert_learns(model, x, y, **options)
    found: Diagnosis | None = caught.value.diagnosis
    assert found is not None
    return found


# What is known exactly.


def line(weight: float) -> nn.Linear:
    """One weight, in float64: on these examples its gradient is 2 (weight - 3)."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, weight)
    return layer


SIGNS = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).repeat(8, 1)


@pytest.mark.parametrize(
    ("weight", "rate", "goal", "held_against", "steps"),
    [
        (0.0, 0.05, 8.1, "start", 6),  # the variance of the targets is 9, and so is the loss
        (10.0, 0.05, 8.91, "constant", 12),  # 49 * 0.81**k is below that from the 10th loss on
        (0.0, 0.001, 8.1, "start", 30),  # 9 * 0.998**(2 k) is below that from the 28th on
    ],
)
def test_the_losses_of_a_line_in_closed_form(
    weight: float, rate: float, goal: float, held_against: str, steps: int
) -> None:
    diagnosis = assert_learns(line(weight), SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=sgd(rate))
    found = learning_of(diagnosis)
    start, factor = (weight - 3) ** 2, (1 - 2 * rate) ** 2
    assert found.losses == pytest.approx([start * factor**k for k in range(steps)], rel=1e-9)
    assert (found.course, found.held_against, found.steps) == ("learned", held_against, 60)
    assert found.goal == pytest.approx(goal, rel=1e-4)
    assert found.constant == pytest.approx(9, rel=1e-4)
    moved = abs(weight - 3) * (1 - (1 - 2 * rate) ** steps)
    assert found.change == (pytest.approx(moved / weight) if weight else None)


def test_a_rate_at_which_a_line_runs_away_fails_with_the_step() -> None:
    # The error is multiplied by -3 in each step, the loss by 9.
    diagnosis = failing(line(0.0), SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=sgd(2.0))
    found = learning_of(diagnosis)
    assert found.losses == pytest.approx([9.0 ** (k + 1) for k in range(60)])
    assert explained(diagnosis, "GH604") == (
        "the batch is not learned: the loss rises from 9 to 2.2e+55 in 60 steps (▁▁▁▁▁▁▁█), and has"
        " to get below 8.1, a tenth less than at the start",
        "the loss rises since the steps are too long",
        "torch.optim.SGD(model.parameters(), lr=0.2): learned in 6 steps",
    )
    assert found.tried == (0.1, 0.01, 1e-3, 1e-4, 1e-5)


@pytest.mark.parametrize(("rate", "times"), [(2.0, 0.1), (1e-6, 1e3), (1e-7, 1e4)])
def test_the_rate_that_is_told_has_learned_the_batch(rate: float, times: float) -> None:
    diagnosis = failing(line(1.0), SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=sgd(rate))
    cure = learning_of(diagnosis).cure
    assert cure is not None
    assert cure.times == pytest.approx(times)
    assert cure.call == f"torch.optim.SGD(model.parameters(), lr={rate * times:g})"
    _, _, advice = explained(diagnosis, "GH604")
    scope: dict[str, Any] = {"torch": torch, "model": line(1.0)}
    optimizer = eval(cure.call, scope)
    learned = assert_learns(scope["model"], SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=optimizer)
    assert advice == f"{cure.call}: learned in {len(learning_of(learned).losses)} steps"


def test_groups_are_told_by_how_much() -> None:
    model = nn.Sequential(line(1.0), line(1.0))
    groups = [{"params": layer.parameters(), "lr": 2.0} for layer in model]
    diagnosis = failing(model, SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=SGD(groups))
    _, _, advice = explained(diagnosis, "GH604")
    assert advice == "learning rates 10 times smaller: learned in 6 steps"


def test_rates_that_were_tried_in_vain_are_told() -> None:
    def uphill(outputs: Tensor, targets: Tensor) -> Tensor:
        loss = mse_loss(outputs, targets)
        return 2 * loss.detach() - loss

    diagnosis = failing(line(0.0), SIGNS, 3 * SIGNS, loss=uphill, optimizer=sgd(0.5))
    assert explained(diagnosis, "GH604")[2] == (
        "clip=1.0: at x1e-05 to x0.1 of the learning rate it is not learned either"
    )


def test_a_model_that_is_frozen_by_mistake_says_what_is_left() -> None:
    """One bias learns no more than one answer, and has that from the start."""
    x, _ = batch(32)
    model = mlp(hidden=1).requires_grad_(False)
    last = model[-1].requires_grad_(True)
    last.get_parameter("weight").requires_grad_(False)
    nn.init.normal_(last.get_parameter("weight"), std=0.1)
    diagnosis = failing(model, x[:30], torch.arange(30) % 5, loss=cross_entropy, optimizer=sgd(0.1))
    numbers = sum(p.numel() for p in model.parameters())
    assert explained(diagnosis, "GH604")[1:] == (
        f"all is frozen but 2.bias, 5 of {numbers} numbers",
        "train more of it: model.requires_grad_(True)",
    )


def test_no_rate_is_tried_where_the_cause_is_known() -> None:
    """Labels that contradict, and layers that a rule fails."""
    x, y = batch(32)
    diagnosis = failing(mlp(), x[:1].repeat(32, 1), y, loss=cross_entropy, optimizer=sgd(0.1))
    assert learning_of(diagnosis).tried == ()


@pytest.mark.parametrize("first", [0.0, 1e-3])
def test_a_warm_up_that_has_begun_is_gone_through(first: float) -> None:
    """As training does whose scheduler gets to the declared rate in 20 steps."""
    model = line(0.0)
    optimizer = SGD(model.parameters(), lr=0.05)
    rates = [0.05 * (first + (1 - first) * min(1, k / 20)) for k in range(60)]
    LambdaLR(optimizer, lambda k: first + (1 - first) * min(1, k / 20))
    found = learning_of(assert_learns(model, SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=optimizer))
    losses = [*accumulate((1 - 2 * rate for rate in rates), mul, initial=3.0)]
    assert found.losses == pytest.approx([x**2 for x in losses[: len(found.losses)]])
    assert found.course == "learned"
    assert optimizer.param_groups[0]["lr"] == 0.05 * first


def test_a_rate_that_has_come_down_stays() -> None:
    """Momentum tells a training that goes on, at what its schedule has come to."""
    model = line(0.0)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.5)
    schedule = LambdaLR(optimizer, lambda k: 0.1**k)
    torch.autograd.backward(mse_loss(model(SIGNS), 3 * SIGNS))
    optimizer.step()
    schedule.step()
    found = learning_of(assert_learns(model, SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=optimizer))
    weight, speed = 0.3, -6.0
    for loss in found.losses:
        assert loss == pytest.approx((weight - 3) ** 2)
        speed = 0.5 * speed + 2 * (weight - 3)
        weight -= 0.005 * speed


def test_an_optimizer_that_climbs() -> None:
    model = line(0.0)
    up = SGD(model.parameters(), lr=0.05, maximize=True)
    diagnosis = failing(model, SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=up)
    assert explained(diagnosis, "GH604") == (
        "the batch is not learned: the loss rises from 9 to 4.7e+05 in 60 steps (▁▁▁▁▁▁▃█), and has"
        " to get below 8.1, a tenth less than at the start",
        "the optimizer has maximize=True: its steps raise the loss",
        "maximize=False, or what is to be large in place of the loss",
    )
    reward = assert_learns(model, SIGNS, 3 * SIGNS, loss=lambda x, y: -mse_loss(x, y), optimizer=up)
    assert told(reward, "GH604") == [
        (
            "not judged",
            "(loss)",
            "nothing to judge: the loss goes from -9 to -5.5e-05 in 60 steps (▆███████), and the"
            " optimizer maximises",
        )
    ]


#: Forwards that were made: what a closure holds would be put back.
FORWARDS: list[int] = []


class Counted(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        FORWARDS.append(1)
        return super().forward(x)


@pytest.mark.parametrize(("rate", "steps"), [(0.05, 6), (0.001, 30), (1e-4, 180), (0.0, 20)])
def test_training_ends_as_soon_as_it_is_decided(rate: float, steps: int) -> None:
    def forwards(**options: Any) -> int:
        FORWARDS.clear()
        model = nn.Sequential(Counted(1, 1, bias=False, dtype=torch.float64), nn.Identity())
        nn.init.zeros_(model[0].get_parameter("weight"))
        probe(model, SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=sgd(rate), **options)
        return len(FORWARDS)

    plain = forwards()
    assert plain == forwards(learn_steps=0)
    # One more tells what one answer for all comes to, and one looks at a copy that has not learned.
    assert forwards(learn_steps=60) == plain + steps + 1 + (rate < 0.001)


def test_the_random_numbers_of_each_step_are_the_same() -> None:
    class Drawing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * super().forward(x) + torch.rand(())

    found = learning_of(failing(Drawing(1, 1), torch.ones(4, 1), loss=torch.sum))
    assert len(found.losses) == 20
    assert len({*found.losses}) == 1


# Nets whose gradients are level, and which nothing trains.


XOR = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).repeat(8, 1)


class Bent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-4 * x.tanh()


def orthogonal(*sizes: int, between: Callable[[], nn.Module], gain: float = 1.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
        layers += [layer, between()]
    return nn.Sequential(*layers[:-1])


def contradicting() -> tuple[nn.Module, Any, Any, Any]:
    x, _ = batch(4)
    net = orthogonal(20, 64, 64, 5, between=nn.Tanh)
    return net, x.repeat(8, 1), torch.arange(32) // 4 % 5, cross_entropy


def all_but_linear() -> tuple[nn.Module, Any, Any, Any]:
    net = orthogonal(2, *[16] * 30, 1, between=Bent)
    return net, XOR, XOR.prod(1, keepdim=True), mse_loss


def collapsed_kernel() -> tuple[nn.Module, Any, Any, Any]:
    net = orthogonal(20, *[64] * 200, 5, between=nn.ReLU, gain=math.sqrt(2))
    return net, *batch(32), cross_entropy


def odd_scales() -> tuple[nn.Module, Any, Any, Any]:
    """Features of no correlation with one another, of a thousand and of a thousandth."""
    x, _ = torch.linalg.qr(torch.cat([torch.ones(32, 1), batch(32)[0]], 1))
    x = math.sqrt(32) * x[:, 1:]
    scales = torch.logspace(3, -3, 2).repeat_interleave(10)
    return nn.Linear(20, 1), x * scales, x[:, -1:], mse_loss


def far_from_zero() -> tuple[nn.Module, Any, Any, Any]:
    x, _ = batch(32)
    return mlp(classes=1), 1e-3 * x + 100, x[:, -1:], mse_loss


ONE_ANSWER = "it has learned one answer for all examples, and nothing that tells them apart"


@pytest.mark.parametrize(
    ("made", "optimizer", "because"),
    [
        (
            contradicting,
            None,
            "32 of 32 examples have the inputs of another one, and another target",
        ),
        (contradicting, sgd(0.1), "32 of 32 examples have the inputs of another one, and another"),
        (all_but_linear, None, ONE_ANSWER),
        (all_but_linear, sgd(0.01), ONE_ANSWER),
        (
            odd_scales,
            sgd(1e-7),
            "the features of the inputs have a root mean square of between 0.001 and 1e+03: ",
        ),
        (far_from_zero, None, "the features of the inputs have a root mean square of 1e+02: "),
    ],
)
def test_nets_with_level_gradients_that_nothing_trains(
    made: Callable[[], tuple[nn.Module, Any, Any, Any]], optimizer: Any, because: str
) -> None:
    net, x, y, loss = made()
    diagnosis = failing(net, x, y, loss=loss, optimizer=optimizer)
    assert not {"GH101", "GH201"} & {*codes(diagnosis), *codes(diagnosis, "warning")}
    assert explained(diagnosis, "GH604")[1].startswith(because)


def test_a_smaller_rate_will_do_where_none_is_declared() -> None:
    torch.manual_seed(0)
    net, x, y, loss = collapsed_kernel()
    found = learning_of(assert_learns(net, x, y, loss=loss))
    assert (found.course, found.steps) == ("learned", 60)
    assert len(found.losses) > 6


@pytest.mark.parametrize(
    "cured",
    [
        lambda: (orthogonal(20, 64, 64, 5, between=nn.Tanh), *batch(32), cross_entropy),
        lambda: (mlp(inputs=2, classes=1), XOR, XOR.prod(1, keepdim=True), mse_loss),
        lambda: (mlp(hidden=4), *batch(32), cross_entropy),
        lambda: (mlp(classes=1), (x := batch(32)[0]), x[:, -1:], mse_loss),
    ],
)
def test_their_cured_twins_learn(cured: Callable[[], tuple[nn.Module, Any, Any, Any]]) -> None:
    net, x, y, loss = cured()
    assert learning_of(assert_learns(net, x, y, loss=loss)).course == "learned"


# Messages.


def said(model: nn.Module, x: Any, y: Any, **options: Any) -> str:
    with pytest.raises(UnlearnedBatchError) as caught:
        assert_learns(model, x, y, **options)
    return re.sub(r"seed \d+", "seed 0", str(caught.value))


def test_a_step_that_is_too_short_says_how_far_it_moved_anything() -> None:
    # The weight goes from 1 to 3, by 60 * 2e-6 of what is between.
    assert said(line(1.0), SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=sgd(1e-6)) == (
        "the batch is not learned: the loss goes from 4 to 3.999 in 60 steps (████████), and has to"
        " get below 3.6, a tenth less than at the start [GH604]\n\n"
        "Linear on cpu, loss mse_loss, trained with SGD(lr=1e-06), seed 0\n\n"
        "step      1    13    25     36     48     60\n"
        "loss      4     4     4  3.999  3.999  3.999\n"
        "one answer for all examples: 9\n\n"
        "cause:  60 steps have moved no parameter by more than x0.00024 of it: the\n"
        "        learning rate is too small\n"
        "try:    torch.optim.SGD(model.parameters(), lr=0.001): learned in 30 steps\n"
        "rule:   pytest --gradhealth-explain GH604"
    )


def test_a_rule_that_fails_is_the_cause_and_says_so() -> None:
    model = mlp(hidden=3)
    nn.init.zeros_(model[-1].get_parameter("bias"))
    for name in ("weight", "bias"):
        nn.init.constant_(model[2].get_parameter(name), -100.0)
    x, y = batch(32)[0], torch.arange(32) % 4
    told = said(model, x, y, loss=cross_entropy, optimizer=sgd(1e-3))
    assert re.search(r"\[GH604\]\n\n.*\n\nstep .*\nloss .*\none answer .*: 1\.\d+\n", told)
    assert told.endswith(
        "the gradient vanishes: it is exactly zero from 2 (Linear) on; limit x3e-05 (default"
        " with SGD) [GH101]\n\n"
        "cause:  all units of 3 (ReLU) are dead: its output is zero for the whole\n"
        "        batch\n"
        "try:    smaller or zero biases, scaled inputs, or nn.LeakyReLU() (F.softplus\n"
        "        where it has to be positive)\n"
        "rule:   pytest --gradhealth-explain GH604"
    )


def test_units_that_a_step_has_killed_are_told_beside_the_step() -> None:
    model, (x, _) = mlp(hidden=2, width=16, classes=1), batch(32)
    far = torch.full((32, 1), -100.0)
    far[::2] = -101
    told = said(model, x, far, loss=mse_loss, optimizer=sgd(0.5))
    assert (
        "steps: all 16 units of 3 are dead: zero for the whole batch; limit 95% (default)" in told
    )
    assert re.search(r"cause:  the loss rises since the steps are too long: they move a", told)
    assert told.endswith(
        "\ntry:    torch.optim.SGD(model.parameters(), lr=0.0005): learned in 112 steps\n"
        "rule:   pytest --gradhealth-explain GH604"
    )


def test_nan_on_the_way_is_told_with_step_and_operation() -> None:
    def loss(outputs: Tensor) -> Tensor:
        return (outputs.mean() + 2).log()

    layer = nn.Linear(4, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    # The slope is 1 / 2: the bias goes to -2.5, and the logarithm is that of -0.5.
    diagnosis = failing(layer, torch.zeros(2, 4), loss=loss, optimizer=sgd(5.0))
    assert learning_of(diagnosis).losses[0] == pytest.approx(math.log(2))
    assert explained(diagnosis, "GH604") == (
        "the batch is not learned: in step 2, the loss is NaN, in log, although every layer's"
        " output is finite",
        "log of -0.5, a negative number",
        "torch.log(x.clamp_min(1e-8)), or F.softplus where it has to be positive",
    )


def test_nan_from_the_start_is_a_matter_of_another_rule() -> None:
    model = mlp()
    nn.init.constant_(model[0].get_parameter("bias"), math.nan)
    with pytest.raises(NonFiniteGradientError):
        assert_learns(model, *batch(), loss=cross_entropy)


def test_a_batch_that_was_learned_before_is_left_at_once() -> None:
    found = learning_of(
        assert_learns(line(3.001), SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=sgd(0.05))
    )
    assert (found.course, len(found.losses)) == ("learned", 1)


def test_a_loss_that_still_falls_is_not_judged() -> None:
    diagnosis = assert_learns(line(0.0), SIGNS, 3 * SIGNS, loss=mse_loss, optimizer=sgd(1e-4))
    assert told(diagnosis, "GH604") == [
        (
            "not judged",
            "(loss)",
            "nothing to judge: the loss goes from 9 to 8.4 in 180 steps (█▇▇▆▆▅▄▄), and has yet to"
            " get below 8.1, a tenth less than at the start",
        )
    ]
    assert len(learning_of(diagnosis).losses) == 180


def test_what_has_no_loss_has_nothing_to_learn() -> None:
    said = (
        "there is no loss that training could lower: pass loss=..., for example"
        " loss=torch.nn.functional.cross_entropy, or inputs with labels of which the model makes"
        " its own"
    )
    with pytest.raises(ProbeError) as caught:
        assert_learns(mlp(), batch()[0])
    assert str(caught.value) == said


@pytest.mark.parametrize("steps", [0, 5, -1, 1.5, "many", None])
def test_numbers_that_are_none_of_steps_are_refused(steps: Any) -> None:
    with pytest.raises(ProbeError, match=r"^steps is .*; pass the number of training steps, at le"):
        assert_learns(mlp(), *batch(), loss=cross_entropy, steps=steps)


def test_several_losses_are_refused_in_a_sentence() -> None:
    with pytest.raises(ProbeError, match=r"^the loss is a tuple of several; return the scalar"):
        assert_learns(
            mlp(),
            *batch(),
            loss=lambda out, y: (cross_entropy(out, y), cross_entropy(-out, y)),
        )


# Opt-in.


def test_nothing_is_trained_unless_it_is_asked_for() -> None:
    model, (x, y) = mlp(), batch(32)
    assert assert_healthy(model, x, y, loss=cross_entropy).profile.learning is None
    assert learning_of(assert_healthy(model, x, y, loss=cross_entropy, learn_steps=6)).steps == 6
    assert learning_of(probe(model, x, y, loss=cross_entropy, select=["GH604"])).steps == 60
    off = probe(model, x, y, loss=cross_entropy, select=["GH604"], learn_steps=0)
    assert off.profile.learning is None
    assert probe(model, x, y, loss=cross_entropy, select=["GH6"]).profile.learning is None


def test_a_diagnosis_is_asked_for_what_it_has() -> None:
    model, (x, y) = mlp(), batch(32)
    trained = probe(model, x, y, loss=cross_entropy, learn_steps=60)
    assert assert_learns(trained).profile.learning == trained.profile.learning
    assert Diagnosis.from_dict(trained.to_dict()) == trained
    with pytest.raises(ProbeError, match=r"^this diagnosis was made without training on the batch"):
        assert_learns(probe(model, x, y, loss=cross_entropy))


# Healthy models, of all kinds.


class Noisy(nn.Module):
    """An autoencoder with noise that is as large as what it codes."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.decode = nn.Linear(20, 8), nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.code(x)
        return mse_loss(self.decode(code + torch.randn_like(code)), x)


class WithItsOwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": cross_entropy(self.net(x), labels)}


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(50, 16, sparse=True), nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(ids))
        return out


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5))


def lbfgs(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return LBFGS(parameters, lr=0.1)


def with_dropout() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.9), nn.Linear(64, 5))


def in_parts(model: Words) -> list[Optimizer]:
    return [SparseAdam([*model.words.parameters()], lr=0.01), Adam(model.head.parameters())]


@pytest.mark.parametrize(
    ("build", "optimizer"),
    [
        (with_dropout, None),
        (normed, None),
        (lambda: normed().eval(), None),
        (mlp, lbfgs),
        (lambda: mlp().to(torch.bfloat16), None),
        (lambda: mlp().to(torch.float16), None),
        (lambda: mlp().double(), SGD),
    ],
)
def test_healthy_models_learn_a_batch_with_random_labels(
    build: Callable[[], nn.Module], optimizer: Any
) -> None:
    if optimizer is SGD:
        optimizer = sgd(0.5, momentum=0.9)
    model, (x, y) = build(), batch(32)
    x = x.to(next(model.parameters()).dtype)
    diagnosis = assert_learns(model, x, y, loss=cross_entropy, optimizer=optimizer)
    assert severities(diagnosis, "GH604") == ["info"]


def test_other_kinds_of_losses_and_optimizers_learn_too() -> None:
    x, y = batch(32)
    ids = torch.randint(50, (32, 6))
    assert_learns(Noisy(), x)
    assert_learns(WithItsOwnLoss(), {"x": x, "labels": y})
    assert_learns(Words(), ids, y, loss=cross_entropy)
    words = Words()
    assert_learns(words, ids, y, loss=cross_entropy, optimizer=in_parts(words))
    found = learning_of(assert_learns(mlp, x, y, loss=cross_entropy, clip=0.1))
    assert found.course == "learned"


def test_a_likelihood_has_to_fall_by_a_tenth_of_its_spread() -> None:
    """The logarithm of a density that is as narrow as it is high has no zero to speak of."""

    def likelihood(outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).square().mean() - 200

    x, _ = batch(32)
    y = 10 * x[:, :1]
    model = nn.Linear(20, 1)
    single = [likelihood(model(x[i : i + 1]), y[i : i + 1]).item() for i in range(16)]
    found = learning_of(assert_learns(model, x, y, loss=likelihood, optimizer=sgd(0.01)))
    assert (found.course, found.held_against) == ("learned", "spread")
    assert found.goal == pytest.approx(found.start - 0.1 * pstdev(single), rel=1e-5)


# No trace.


@pytest.mark.parametrize("rate", [1e-3, 1e6])
def test_training_leaves_no_trace(rate: float) -> None:
    model, (x, y) = busy(), batch(32)
    optimizer = SGD(model.parameters(), lr=rate, momentum=0.9)
    for state in model.parameters():
        optimizer.state[state]["momentum_buffer"] = torch.ones_like(state)
    kept = {id(p): s["momentum_buffer"].clone() for p, s in optimizer.state.items()}
    with unchanged(model, x, y):
        try:
            assert_learns(model, x, y, loss=cross_entropy, optimizer=optimizer)
        except UnlearnedBatchError:
            assert rate == 1e6
    assert all(torch.equal(kept[id(p)], s["momentum_buffer"]) for p, s in optimizer.state.items())
    assert optimizer.param_groups[0]["lr"] == rate
