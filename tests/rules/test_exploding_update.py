"""Training whose steps run away fails, and healthy practice does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adam, AdamW

from pytest_gradhealth import (
    Diagnosis,
    ExplodingUpdateError,
    NonFiniteGradientError,
    ProbeError,
    assert_no_exploding_update,
    probe,
)
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.profile import GradientProfile, Update
from pytest_gradhealth.rules.exploding_update import RULE, check
from pytest_gradhealth.rules.rule import Evidence
from tests.helpers.architectures import (
    TOKENS,
    LanguageModel,
    LayerScale,
    Recurrent,
    ReZero,
    ZeroHead,
    labels,
    lora_net,
)
from tests.helpers.findings import codes, explained
from tests.helpers.nets import ONES, batch, constant, mlp, total
from tests.helpers.steps import Factory, made, sgd, steps_of

cross_entropy = nn.functional.cross_entropy


# Limits.


def test_a_change_of_exactly_the_limit_passes() -> None:
    # Weights 1, 0.5, 0, ...; steps of 0.5; so changes of 0.5, 1, 1, ...
    assert max(update.change for update in steps_of(constant(), sgd(0.5))) == 1
    assert_no_exploding_update(constant(), ONES, loss=total, optimizer=sgd(0.5))
    with pytest.raises(ExplodingUpdateError, match=r"step 2 changes 0 by x1 of its weight; limit"):
        assert_no_exploding_update(
            constant(), ONES, loss=total, optimizer=sgd(0.5), max_update=0.999
        )


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(1e-3, 50), limit=st.floats(1e-3, 50), clip=st.none() | st.floats(1e-2, 10))
def test_max_update_is_honoured_on_both_sides(
    rate: float, limit: float, clip: float | None
) -> None:
    length = rate * min(1.0, (math.inf if clip is None else clip) / (4 + 1e-6))
    weights = [1 - length * k for k in range(10)]
    expected = max(length / max(abs(weight), 0.5) for weight in weights)
    if abs(expected / limit - 1) < 1e-6:
        return
    diagnosis = probe(
        constant(),
        ONES,
        loss=total,
        optimizer=sgd(rate),
        clip=math.inf if clip is None else clip,
        max_update=limit,
    )
    found = [finding for finding in diagnosis.findings if finding.code == "GH202"]
    assert bool(found) == (expected > limit)
    for finding in found:
        assert finding.value == pytest.approx(expected, rel=1e-5)
        assert (finding.limit, finding.limit_source) == (limit, "the call")
        assert (finding.severity, finding.layer) == ("failure", "0")


@pytest.mark.parametrize(("rate", "verdict"), [(3.15, "not judged"), (3.16, "failure")])
def test_a_gradient_that_grows_a_thousandfold_runs_away(rate: float, verdict: str) -> None:
    # w2 is multiplied by 1 - rate in each step: 2.15**9 is 982, 2.16**9 is 1023.
    model = constant(1e4, inputs=2, outputs=1)
    with torch.no_grad():
        model[0].get_parameter("weight")[0, 1] = 1e-3
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    diagnosis = probe(
        model, x, loss=lambda y: y.square().sum() / 2, optimizer=sgd(rate), clip=math.inf
    )
    assert diagnosis.verdict == verdict
    assert [update.gradient for update in made(diagnosis)] == pytest.approx(
        [1e-3 * (rate - 1) ** k for k in range(10)], rel=1e-6
    )
    if verdict == "failure":
        finding, _ = diagnosis.findings
        assert (finding.code, finding.layer, finding.value) == ("GH202", "0", None)
        assert finding.message == (
            "training explodes: the gradient norm goes from 0.001 to 1 in 10 steps, the loss from"
            " 5e-07 to 0.52"
        )


def negative_logarithm(*, other: float) -> Diagnosis:
    """The logarithm of a weight that goes from 1 to 0.4 and on to 0.4 - 1.5."""
    model = constant(other, inputs=2, outputs=1)
    with torch.no_grad():
        model[0].get_parameter("weight")[0, 0] = 1.0
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return probe(model, x, loss=lambda y: y.log().sum(), optimizer=sgd(0.6), clip=math.inf)


def test_a_loss_that_becomes_nan_is_said_with_the_step() -> None:
    diagnosis = negative_logarithm(other=100.0)
    (finding,) = (f for f in diagnosis.findings if f.code == "GH202")
    assert finding.message == "training explodes: the loss is NaN in step 3"
    assert [update.step for update in made(diagnosis)] == [1, 2, 3]
    assert [math.isnan(update.loss) for update in made(diagnosis)] == [False, False, True]


def test_a_wild_step_that_ends_in_nan_says_both() -> None:
    (finding,) = (f for f in negative_logarithm(other=0.0).findings if f.code == "GH202")
    assert finding.message == (
        "training explodes: step 2 changes 0 by x1.5 of its weight; limit x1 (default); the loss is"
        " NaN in step 3"
    )
    assert finding.value == pytest.approx(0.6 / 0.4)


def test_a_model_that_starts_with_nan_is_a_matter_of_another_rule() -> None:
    model = constant(math.nan)
    with pytest.raises(NonFiniteGradientError):
        assert_no_exploding_update(model, ONES, loss=total, ignore=["GH202"])


def judged(*updates: Update, limit: float = 1.0) -> list[str]:
    look = GradientProfile(0, 0, 1.0, paths=(), updates=updates)
    return [f.message for f in check(Evidence(look, None, {"max_update": Limit(limit, "a")}))]


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (Update(1, math.inf, 1, 1, "fc", 0.1), "loss is infinite"),
        (Update(1, -math.inf, 1, 1, "fc", 0.1), "loss is infinite"),
        (Update(1, 1, math.nan, math.nan, "fc", 0.1), "gradient is NaN"),
        (Update(1, 1, 1, math.inf, "fc", 0.1), "clipped gradient is infinite"),
        (Update(1, 1, 1, 1, "fc", math.inf), "weight is infinite"),
        (Update(1, 1, 1, 1, "fc", math.nan), "weight is NaN"),
    ],
)
def test_whatever_is_not_finite_is_named(update: Update, words: str) -> None:
    assert judged(update) == [f"training explodes: the {words} in step 1"]


def test_a_growing_gradient_is_fine_while_the_loss_falls() -> None:
    start = Update(1, 2.0, 1.0, 1.0, "fc", 0.1)
    assert judged(start, Update(2, 1.0, 2e3, 2e3, "fc", 0.1)) == []
    assert judged(start, Update(2, 2.0, 2e3, 2e3, "fc", 0.1)) == []
    assert judged(start, Update(2, 2.1, 1e3, 1e3, "fc", 0.1)) == []
    assert len(judged(start, Update(2, 2.1, 1.1e3, 1.1e3, "fc", 0.1))) == 1
    asleep = Update(1, 2.0, 0.0, 0.0, "fc", 0.0)
    assert judged(asleep, Update(2, 2.1, 1.0, 1.0, "fc", 0.1)) == []


def test_the_first_step_that_is_too_long_is_told_before_what_it_leads_to() -> None:
    wild = [Update(k, 1.0, 1.0, 1.0, f"fc{k}", change) for k, change in enumerate((1, 2, 5, 3), 1)]
    assert judged(*wild) == [
        "training explodes: step 2 changes fc2 by x2 of its weight; limit x1 (a); x5 in step 3"
    ]
    assert judged(*wild, limit=3.0) == [
        "training explodes: step 3 changes fc3 by x5 of its weight; limit x3 (a)"
    ]
    assert judged(*wild, limit=5.0) == []


def test_the_headline_of_a_training_that_blows_up_is_the_step_that_did_it() -> None:
    steps = [
        Update(1, 180.0, 9.4e3, 9.4e3, "up", 16.0),
        Update(2, 7e20, 9.7e21, 9.7e21, "right", 4.9e18),
        Update(3, math.nan, math.nan, math.nan, "stem.0", math.nan),
    ]
    assert judged(*steps) == [
        "training explodes: step 1 changes up by x16 of its weight; limit x1 (a); x4.9e+18 in"
        " step 2; the loss is NaN in step 3"
    ]


def test_lbfgs_that_solves_the_problem_does_not_explode() -> None:
    x, y = batch()
    diagnosis = probe(mlp(), x, y, loss=cross_entropy, optimizer=LBFGS, clip=1.0)
    assert made(diagnosis)[-1].loss < 1e-3
    assert codes(diagnosis) == []


def test_a_weight_that_becomes_nan_is_the_one_that_is_named() -> None:
    class Poisonous(SGD):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            self.param_groups[0]["params"][-1].data.fill_(math.nan)
            return loss

    model = nn.Sequential(*constant(), *constant(), *constant())
    (finding,) = (
        f
        for f in probe(
            model, ONES, loss=total, optimizer=lambda ps: Poisonous(ps, lr=1e-3), clip=1.0
        ).findings
        if f.code == "GH202"
    )
    assert finding.layer == "2"
    assert finding.message == "training explodes: the weight is NaN in step 1"


def test_a_failing_step_needs_no_second_look() -> None:
    diagnosis = probe(constant(), ONES, loss=total, optimizer=sgd(8.0), clip=1e9)
    assert codes(diagnosis) == ["GH202"]
    assert [profile.steps for profile in diagnosis.profiles] == [0]


# Healthy practice, and what is sick.


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.body(x)).relu()
        return out


def resnet() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(
        *stem, Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )


def lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *mlp(inputs=64, width=84, classes=10),
    )


def policy() -> nn.Module:
    """A policy head of gain 0.01, as PPO has it."""
    model = mlp(nn.Tanh, width=64)
    nn.init.orthogonal_(model.get_parameter("4.weight"), 0.01)
    nn.init.zeros_(model.get_parameter("4.bias"))
    return model


def pictures() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 3, 16, 16), labels(examples=8)


HEALTHY: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "LeNet": (lambda: nn.Sequential(lenet()), pictures),
    "ResNet": (resnet, pictures),
    "transformer": (
        lambda: LanguageModel(norm_first=True, tied=False),
        lambda: (TOKENS, TOKENS.roll(-1, 1)),
    ),
    "LSTM": (lambda: Recurrent(nn.LSTM), lambda: (TOKENS, labels())),
    "LoRA": (lora_net, batch),
    "zero head": (lambda: ZeroHead(mlp()), batch),
    "ReZero": (ReZero, batch),
    "LayerScale": (LayerScale, batch),
    "policy": (policy, batch),
}
PRACTICE: dict[str, Factory] = {
    "SGD": sgd(0.1),
    "momentum": sgd(0.1, momentum=0.9),
    "momentum and decay": sgd(0.1, momentum=0.9, weight_decay=5e-4),
    "Adam": lambda ps: Adam(ps, lr=1e-3),
    "Adam and decay": lambda ps: Adam(ps, lr=1e-3, weight_decay=1e-4),
    "AdamW": lambda ps: AdamW(ps, lr=1e-3, weight_decay=0.05),
}


@pytest.mark.parametrize("optimizer", PRACTICE.values(), ids=list(PRACTICE))
@pytest.mark.parametrize(("build", "data"), HEALTHY.values(), ids=list(HEALTHY))
def test_healthy_practice_raises_no_alarm(
    build: Callable[[], nn.Module],
    data: Callable[[], tuple[Tensor, Tensor]],
    optimizer: Factory,
) -> None:
    model, (x, y) = build(), data()
    for clip in (1.0, math.inf):
        diagnosis = probe(model, x, y, loss=cross_entropy, optimizer=optimizer, clip=clip)
        assert len(made(diagnosis)) == 10
        assert codes(diagnosis) == [], diagnosis


@pytest.mark.parametrize(("training", "expected"), [(True, []), (False, ["GH202"])])
def test_weights_whose_scale_is_taken_out_again_may_change_as_they_like(
    training: bool, expected: list[str]
) -> None:
    # eps of its size or more would give the weights a scale that matters.
    norm = nn.BatchNorm1d(16, eps=1e-20)
    model = nn.Sequential(nn.Linear(20, 16, bias=False), norm, nn.ReLU(), nn.Linear(16, 5))
    model = model.double()
    norm.train(training)  # frozen statistics in a model that trains
    norm.num_batches_tracked = torch.tensor(1)
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(1e-3)
        norm.running_var.fill_(1e-6)  # type: ignore[union-attr]
    x, y = batch()
    diagnosis = probe(model, x.double(), y, loss=cross_entropy, optimizer=sgd(0.1), clip=math.inf)
    assert codes(diagnosis) == expected
    assert made(diagnosis)[0].layer == ("3" if training else "0")


def rescaled(factor: float) -> nn.Module:
    model = mlp(hidden=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


def wide_normal() -> nn.Module:
    model = mlp(hidden=10, width=64)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


SICK: dict[str, tuple[Callable[[], nn.Module], Factory]] = {
    "large weights": (lambda: rescaled(10.0), sgd(0.1)),
    "a normal initialisation of 0.3": (wide_normal, sgd(0.1)),
    "a learning rate of 100": (mlp, sgd(100.0)),
    "Adam with a learning rate of 10": (mlp, lambda ps: Adam(ps, lr=10.0)),
    "momentum above 1": (mlp, sgd(1.0, momentum=2.0)),
    "weight decay against the learning rate": (mlp, sgd(0.1, weight_decay=25.0)),
}


@pytest.mark.parametrize(("build", "optimizer"), SICK.values(), ids=list(SICK))
def test_sick_training_fails(build: Callable[[], nn.Module], optimizer: Factory) -> None:
    x, y = batch()
    with pytest.raises(ExplodingUpdateError) as caught:
        assert_no_exploding_update(build(), x, y, loss=cross_entropy, optimizer=optimizer)
    assert [finding.code for finding in caught.value.findings] == ["GH202"]


def test_clipping_cures_what_only_long_gradients_make_sick() -> None:
    x, y = batch()
    model = rescaled(10.0)
    assert_no_exploding_update(model, x, y, loss=cross_entropy, optimizer=sgd(0.1), clip=1.0)
    with pytest.raises(ExplodingUpdateError):
        assert_no_exploding_update(model, x, y, loss=cross_entropy, optimizer=sgd(0.1), clip=1e9)


# Words.


# Weights are 1 - 8 (k - 1), losses 16 times that, changes 8 over that.
EXPLODING = """\
training explodes: step 1 changes 0 by x8 of its weight; limit x1 (default) [GH202]

Sequential on cpu, loss total, trained with SGD(lr=8), seed 0

  step      loss    gradient norm    after clipping    change  of layer
     1        16                4                          x8  0
     2  -1.1e+02                4                        x1.1  0
     3  -2.4e+02                4                       x0.53  0
     4  -3.7e+02                4                       x0.35  0
     5    -5e+02                4                       x0.26  0
     6  -6.2e+02                4                       x0.21  0
     7  -7.5e+02                4                       x0.17  0
     8  -8.8e+02                4                       x0.15  0
     9    -1e+03                4                       x0.13  0
    10  -1.1e+03                4                       x0.11  0

cause:  the learning rate is too large for a gradient norm of 4, in step 1
try:    a learning rate 100 times smaller
accept: max_update=1e+01, if this is meant to be
rule:   pytest --gradhealth-explain GH202"""


@pytest.mark.usefixtures("_outside_pytest")
def test_the_message_of_an_exploding_update() -> None:
    with pytest.raises(ExplodingUpdateError) as caught:
        assert_no_exploding_update(
            constant(), ONES, loss=total, optimizer=sgd(8.0), remedy_budget=0
        )
    assert str(caught.value) == EXPLODING
    (finding,) = caught.value.findings
    assert (finding.code, finding.rule, finding.layer) == ("GH202", "exploding-update", "0")
    assert (finding.value, finding.limit) == (8, 1)


@pytest.mark.usefixtures("_outside_pytest")
def test_the_message_shows_the_gradient_after_clipping() -> None:
    with pytest.raises(ExplodingUpdateError) as caught:
        assert_no_exploding_update(
            constant(), ONES, loss=total, optimizer=sgd(8.0), clip=2.0, remedy_budget=0
        )
    lines = str(caught.value).splitlines()
    # Weights 1, -3, -7, ... and steps of 4.
    assert lines[0] == (
        "training explodes: step 1 changes 0 by x4 of its weight; limit x1 (default) [GH202]"
    )
    assert lines[4].split("  ")[-1] == "of layer"
    assert [lines[5].split(), lines[6].split()] == [
        ["1", "16", "4", "2", "x4", "0"],
        ["2", "-48", "4", "2", "x1.3", "0"],
    ]
    assert "\n".join(lines[16:]) == (
        "cause:  the gradient norm 4 of step 1 is clipped to 2, and the step is still\n"
        "        too long\n"
        "try:    a learning rate 100 times smaller\n"
        "accept: max_update=1e+01, if this is meant to be\n"
        "rule:   pytest --gradhealth-explain GH202"
    )


def test_the_cause_is_the_first_step_that_is_too_long_and_not_what_came_of_it() -> None:
    # A weight of 1 goes to -2, 4, -8, ...: three times itself away in each step.
    diagnosis = probe(
        constant(inputs=1, outputs=1),
        ONES[:, :1],
        loss=lambda y: y.square().sum() / 2,
        optimizer=sgd(3.0),
        clip=math.inf,
    )
    assert [update.gradient for update in made(diagnosis)] == [2.0**k for k in range(10)]
    because, advice = explained(diagnosis, "GH202")[1:]
    assert because == "the learning rate is too large for a gradient norm of 1, in step 1"
    assert advice == "a learning rate 100 times smaller"


def test_the_learning_rate_that_is_proposed_holds() -> None:
    # A weight w of 1 with the gradient w ** 3: step 1 is 20 long, step 2 some 10^5, and so on.
    def loss(outputs: Tensor) -> Tensor:
        return outputs.pow(4).sum() / 4

    model = constant(inputs=1, outputs=1)
    wild = probe(model, ONES[:, :1], loss=loss, optimizer=sgd(20.0), clip=math.inf)
    assert max(update.change for update in made(wild) if update.finite) > 1e4
    _, because, advice = explained(wild, "GH202")
    assert because == "the learning rate is too large for a gradient norm of 1, in step 1"
    assert advice == "a learning rate 100 times smaller"
    tame = constant(inputs=1, outputs=1)
    assert_no_exploding_update(tame, ONES[:, :1], loss=loss, optimizer=sgd(20.0 / 100))


CLIPPED = (
    "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) between loss.backward() and"
    " optimizer.step(), or a smaller learning rate"
)
#: An optimizer with a learning rate, how large targets are, and what is told: how many times
#: smaller the rate has to be, or 0 for clipping.
WILD: dict[str, tuple[Callable[..., Any], float, float, int]] = {
    "SGD": (SGD, 10.0, 1, 100),
    "SGD with momentum": (partial(SGD, momentum=0.9), 3.0, 1, 1000),
    "Adam": (Adam, 1.0, 1, 100),
    "SGD with long gradients": (SGD, 0.05, 15, 0),
}


@pytest.mark.parametrize("case", WILD)
def test_what_is_told_trains(case: str) -> None:
    make, rate, scale, times = WILD[case]
    torch.manual_seed(7)
    x = torch.randn(64, 10)
    y = scale * (x[:, :1] * 2 + x[:, 1:2])

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        widths = (nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        return nn.Sequential(*widths)

    wild = probe(build(0), x, y, loss=F.mse_loss, optimizer=partial(make, lr=rate), clip=math.inf)
    advice = explained(wild, "GH202")[2]
    assert advice == (f"a learning rate {times} times smaller" if times else CLIPPED)
    for seed in range(1, 6):
        model = build(seed)
        optimizer = make(model.parameters(), lr=rate / (times or 1))
        for _ in range(100):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            torch.autograd.backward(loss)
            if not times:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        assert loss < y.var() / 2, "half of what one answer for all has"


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("number", [1, 2, 6, 10])
def test_of_a_later_step_momentum_counts_as_far_as_it_is_yet_to_come(
    number: int, momentum: float
) -> None:
    built = sum(momentum**k for k in range(number))
    carry = 1 / (1 - momentum) if momentum < 1 else math.inf
    steps = [Update(k, 1.0, 1.0, 1.0, "fc", 0.5, carry) for k in range(1, number)]
    steps.append(Update(number, 1.0, 1.0, 1.0, "fc", 2.3, carry))
    look = GradientProfile(0, 0, 1.0, paths=(), updates=tuple(steps))
    (finding,) = RULE.judge(Evidence(look, None, {"max_update": Limit(1.0, "default")}))
    cause = RULE.explain(finding, look)
    needed = carry / built * 2.3 / 0.2
    assert cause is not None
    if needed < math.inf:
        times = 10 ** math.ceil(math.log10(needed))
        assert cause.advice == f"a learning rate {times} times smaller"
    else:
        assert cause.advice == "a smaller learning rate"


@pytest.mark.usefixtures("_outside_pytest")
def test_nobody_is_told_to_accept_a_change_of_a_hundred() -> None:
    with pytest.raises(ExplodingUpdateError, match="x1e\\+02 of its weight") as caught:
        assert_no_exploding_update(
            constant(), ONES, loss=total, optimizer=sgd(100.0), remedy_budget=0
        )
    assert "accept:" not in str(caught.value)


# What earlier probes of the same test, or a diagnosis, may answer for.


def test_a_learning_rate_changed_between_two_assertions_is_seen() -> None:
    model = constant()
    optimizer = SGD(model.parameters(), lr=0.01)
    assert_no_exploding_update(model, ONES, loss=total, optimizer=optimizer)
    optimizer.param_groups[0]["lr"] = 100.0
    with pytest.raises(ExplodingUpdateError):
        assert_no_exploding_update(model, ONES, loss=total, optimizer=optimizer)


def test_another_step_is_another_probe() -> None:
    model, optimizer = constant(), sgd(8.0)

    def check_it(**step: Any) -> None:
        assert_no_exploding_update(model, ONES, loss=total, optimizer=optimizer, **step)

    check_it(clip=0.1)
    for step in ({"clip": 8.0}, {}, {"clip": 9.0, "regularizer": lambda m: m[0].weight.sum()}):
        with pytest.raises(ExplodingUpdateError):
            check_it(**step)
    check_it(clip=0.1)


def test_a_diagnosis_with_steps_can_be_judged_by_another_limit() -> None:
    diagnosis = probe(constant(), ONES, loss=total, optimizer=sgd(0.5), clip=math.inf)
    assert_no_exploding_update(diagnosis)
    with pytest.raises(ExplodingUpdateError):
        assert_no_exploding_update(diagnosis, max_update=0.9)


def test_a_diagnosis_without_steps_cannot_answer_for_them() -> None:
    diagnosis = probe(constant(), ONES, loss=total, optimizer=sgd(1e6))
    with pytest.raises(ProbeError):
        assert_no_exploding_update(diagnosis)
