"""A first step many times too long fails, with the rate to type; what trains is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, Adam, AdamW, Optimizer

from pytest_gradhealth import Diagnosis, StepTooLongError, assert_healthy, probe
from pytest_gradhealth.results.diagnosis import Finding, Limit
from pytest_gradhealth.results.first_step import FirstStep
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.pace import rounded_down, rounded_up, safe_share
from pytest_gradhealth.rules.rule import Evidence
from pytest_gradhealth.rules.step_too_long import RULE
from tests.helpers.architectures import ZeroHead
from tests.helpers.findings import codes, explained, of, severities
from tests.helpers.nets import batch, mlp

Make = Callable[..., Optimizer]


def momentum(parameters: Any, lr: float) -> Optimizer:
    return SGD(parameters, lr=lr, momentum=0.9)


def line() -> tuple[Tensor, Tensor]:
    """A line through ten dimensions."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(64, 10, generator=generator)
    return x, 2 * x[:, :1] + x[:, 1:2]


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return mlp(hidden=2, inputs=10, classes=1)


def diagnosed(model: nn.Module, make: Make, rate: float, **given: Any) -> Diagnosis:
    return probe(
        model, *line(), loss=mse_loss, optimizer=make(model.parameters(), lr=rate), **given
    )


# Limits.


def judged(
    excess: float, *, carry: float | None = 1.0, later: float | None = None
) -> list[tuple[str, float | None]]:
    """What is found of a first step; `later` is the loss after some steps, where one looked."""
    step = FirstStep(2.0, 50.0, 0.5, 1 / excess, (0.1,), carry)
    first = GradientProfile(0, 0, 2.0, paths=(), first_step=step)
    second = None if later is None else GradientProfile(0, 5, later, paths=())
    limits = {"max_rate": Limit(8.0, "default"), "warn_max_rate": Limit(2.0, "default")}
    return [(f.severity, f.limit) for f in RULE.judge(Evidence(first, second, limits))]


def test_sgd_fails_and_warns_above_its_limits() -> None:
    assert judged(2.0) == []
    assert judged(2.0001) == judged(8.0) == [("warning", 2.0)]
    assert judged(8.0001) == judged(1e9) == [("failure", 8.0)]


def test_optimizers_whose_steps_do_not_shrink_with_the_gradient_only_warn() -> None:
    assert judged(8.0, carry=None) == []
    assert judged(8.0001, carry=None) == judged(1e9, carry=None) == [("warning", 8.0)]


def test_a_loss_that_has_come_down_after_some_steps_is_no_fault() -> None:
    assert judged(100.0, later=1.99) == judged(4.0, later=1.99) == []
    for high in (2.0, 30.0, math.inf, math.nan):
        assert judged(100.0, later=high) == [("failure", 8.0)]


def test_without_a_step_there_is_nothing_to_judge() -> None:
    look = GradientProfile(0, 0, 2.0, paths=())
    assert RULE.judge(Evidence(look, None, {})) == ()
    assert RULE.value(look) is None


@pytest.mark.parametrize(("factor", "severity"), [(0.999, ["failure"]), (1.001, ["warning"])])
def test_max_rate_is_honoured_on_both_sides(factor: float, severity: list[str]) -> None:
    (known,) = of(diagnosed(net(), SGD, 10.0), "GH603")
    assert known.value is not None
    diagnosis = diagnosed(net(), SGD, 10.0, max_rate=factor * known.value)
    assert severities(diagnosis, "GH603") == severity
    assert of(diagnosis, "GH603")[0].limit_source == ("the call" if factor < 1 else "default")
    assert of(diagnosed(net(), SGD, 10.0, max_rate=20.0, warn_max_rate=15.0), "GH603") == []


# Sick, cured, and what looks alike and trains.

SICK: dict[str, tuple[Make, float, str]] = {
    "SGD": (SGD, 20.0, "failure"),
    "momentum": (momentum, 20.0, "failure"),
    "Adam": (Adam, 10.0, "warning"),
    "AdamW": (AdamW, 10.0, "warning"),
}


@pytest.mark.parametrize("name", SICK)
def test_what_is_told_is_the_cure_and_trains(name: str) -> None:
    make, rate, severity = SICK[name]
    diagnosis = diagnosed(net(), make, rate)
    assert severities(diagnosis, "GH603") == [severity]
    typed = explained(diagnosis, "GH603")[2].partition(", or a warm-up")[0]
    x, y = line()
    for seed in range(3):
        model = net(seed)
        optimizer = eval(typed, {"torch": torch, "model": model})
        assert type(optimizer).__name__ == type(make(model.parameters(), lr=1.0)).__name__
        assert optimizer.defaults.get("momentum") == make(model.parameters(), lr=1.0).defaults.get(
            "momentum"
        )
        assert of(probe(model, x, y, loss=mse_loss, optimizer=optimizer), "GH603") == []
        for _ in range(100):
            optimizer.zero_grad()
            loss = mse_loss(model(x), y)
            torch.autograd.backward(loss)
            optimizer.step()
        assert loss < y.var() / 2, "half of what one answer for all has"


def classes() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(64, 10, generator=generator), torch.arange(64) % 5


def normed() -> nn.Module:
    """Behind batch norms the loss rises and falls along a step, within bounds."""
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for size in (10, *[16] * 11):
        layers += [nn.Linear(size, 16), nn.BatchNorm1d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 5))


def catapult() -> nn.Module:
    """A product of two weights: a long step throws it to where the valley is wider."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        for weight, value in zip(model.parameters(), (3.0, 0.5), strict=True):
            weight.fill_(value)
    return model


class WarmUp(SGD):
    """The rate that a scheduler begins with is a thousandth of the one that was given."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        torch.optim.lr_scheduler.LambdaLR(self, lambda step: (step + 1) / 1000)


def wide() -> nn.Module:
    return mlp(inputs=10, width=1024)


def zero_head() -> nn.Module:
    return ZeroHead(mlp(inputs=10))


ALIKE: dict[str, tuple[Callable[[], nn.Module], Make, float, dict[str, Any]]] = {
    "SGD at its usual rate": (net, SGD, 0.1, {}),
    "SGD behind batch norms": (normed, SGD, 1.0, {}),
    "SGD before a warm-up": (net, WarmUp, 10.0, {}),
    "SGD with clipping": (net, SGD, 1.0, {"clip": 0.1}),
    "SGD on a zero head": (zero_head, SGD, 1.0, {}),
    "momentum at its usual rate": (net, momentum, 0.01, {}),
    "momentum behind batch norms": (normed, momentum, 1.0, {}),
    "momentum above the critical rate": (net, momentum, 1.0, {}),
    "Adam at its usual rate": (wide, Adam, 1e-3, {}),
    "Adam behind batch norms": (normed, Adam, 0.3, {}),
    "Adam that comes back": (net, Adam, 1.0, {}),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_trains_at_its_rate_is_no_fault(name: str) -> None:
    build, make, rate, given = ALIKE[name]
    model, (x, y) = build(), line() if build is net else classes()
    loss = mse_loss if build is net else cross_entropy
    optimizer = make(model.parameters(), lr=rate)
    assert of(probe(model, x, y, loss=loss, optimizer=optimizer, **given), "GH603") == []


def test_a_step_that_throws_a_network_into_a_wider_valley_is_no_fault() -> None:
    model, x = catapult(), torch.ones(1, 1, dtype=torch.float64)

    def loss(y: Tensor) -> Tensor:
        return y.square().sum() / 2

    for steps, severity in ((0, ["warning"]), (5, [])):
        optimizer = SGD(model.parameters(), lr=0.4)
        limits: Any = {"warn_max_rate": 1.5, "confirm_steps": steps, "select": ["GH603"]}
        diagnosis = probe(model, x, loss=loss, optimizer=optimizer, **limits)
        assert severities(diagnosis, "GH603") == severity, diagnosis.profile.first_step


def test_a_loss_that_refuses_what_comes_of_the_step_bears_it_out() -> None:
    def strict(outputs: Tensor, targets: Tensor) -> Tensor:
        if float(outputs.detach().abs().max()) > 100:
            raise ValueError("that is no answer")
        return mse_loss(outputs, targets)

    model = net()
    optimizer = SGD(model.parameters(), lr=20.0)
    diagnosis = probe(model, *line(), loss=strict, optimizer=optimizer)
    assert codes(diagnosis) == ["GH603"]
    assert "takes the loss from 5.5 to inf;" in of(diagnosis, "GH603")[0].message


def test_two_players_with_an_optimizer_each_are_judged_as_one_step() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"maker": nn.Linear(4, 8), "judge": nn.Linear(8, 1)})

    def play(model: Any, noise: Tensor) -> Any:
        return model["judge"](model["maker"](noise)), model["judge"](torch.ones(16, 8))

    def loss(made: Any) -> Tensor:
        return nn.functional.softplus(made[0]).mean() + nn.functional.softplus(-made[1]).mean()

    pair = [Adam(model[part].parameters(), lr=2e-4, betas=(0.5, 0.999)) for part in model]
    diagnosis = probe(model, torch.randn(16, 4), call=play, loss=loss, optimizer=pair)
    assert of(diagnosis, "GH603") == []


def test_beside_a_rule_that_says_the_same_more_plainly_it_is_silent() -> None:
    for given, expected in (({"clip": math.inf}, ["GH202"]), ({}, ["GH603"])):
        assert codes(diagnosed(net(), SGD, 20.0, **given)) == expected
    torch.manual_seed(0)
    model = mlp(hidden=20, inputs=10, classes=1)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.5)
    diagnosis = diagnosed(model, SGD, 1e-6)
    assert diagnosis.profile.first_step is not None
    assert "GH201" in codes(diagnosis)
    assert of(diagnosis, "GH603") == []


def test_cross_entropy_at_a_rate_of_a_thousand_fails_and_can_be_ignored() -> None:
    torch.manual_seed(0)
    model, (x, y) = mlp(), batch()
    given: dict[str, Any] = {"loss": cross_entropy, "optimizer": SGD(model.parameters(), lr=1e3)}
    with pytest.raises(StepTooLongError):
        assert_healthy(model, x, y, **given)
    assert_healthy(model, x, y, ignore=["GH603"], **given)
    assert_healthy(model, x, y, select=["GH603"], max_rate=1e5, warn_max_rate=1e4, **given)


# Words.

MESSAGE = """\
the learning rate is x22 of the critical one: the first step takes the loss from 5.5 to 8.1e+05;\
 limit x10 (default) [GH603]

Sequential on cpu, loss mse_loss, trained with SGD(lr=20), seed 0

  first step     loss
        lr=0      5.5
     lr=0.44      4.4  about the best
     lr=0.89      5.5  critical
       lr=20  8.1e+05  declared

cause:  beyond lr=0.89 the step raises the loss of its own batch, the best
        one lowers it by 1.1; momentum makes later ones x10 as long
try:    torch.optim.SGD(model.parameters(), lr=0.08, momentum=0.9)
accept: max_rate=1e+02, if this is meant to be
rule:   pytest --gradhealth-explain GH603"""


@pytest.mark.usefixtures("_outside_pytest")
def test_the_message_says_which_rate_to_type() -> None:
    model = net()
    optimizer = momentum(model.parameters(), lr=20.0)
    with pytest.raises(StepTooLongError) as caught:
        assert_healthy(model, *line(), loss=mse_loss, optimizer=optimizer)
    assert str(caught.value) == MESSAGE


def test_several_rates_are_all_divided() -> None:
    model = net()
    parts = [SGD(model[:2].parameters(), lr=20.0), SGD(model[2:].parameters(), lr=10.0)]
    diagnosis = probe(model, *line(), loss=mse_loss, optimizer=parts)
    message, because, advice = explained(diagnosis, "GH603")
    assert message.startswith("the learning rate is x11 of the critical one: the first step takes")
    assert because == (
        "beyond x0.089 of its length the step raises the loss of its own batch, the best one lowers"
        " it by 1.3"
    )
    assert advice == "all learning rates divided by 60"
    assert "x0.089 of its length      5.5  critical" in str(diagnosis)


def test_momentum_without_end_is_not_counted_in() -> None:
    assert [safe_share(carry) for carry in (None, 1.0, 4.0, 10.0, math.inf)] == [
        *(0.2, 0.2, 0.2, 0.1, 0.2)
    ]


def test_rates_are_rounded_to_the_safe_side() -> None:
    assert [rounded_down(rate) for rate in (0.1, 0.19, 3e-5, 9.99, 1.0)] == [0.1, 0.1, 3e-5, 9, 1]
    assert [rounded_up(times) for times in (10.0, 11.0, 99.0, 0.5)] == [10, 20, 100, 0.5]


def test_nobody_is_told_to_accept_a_hundredfold_rate() -> None:
    look = GradientProfile(0, 0, 1.0, paths=())
    limits = {"max_rate": Limit(10.0, "default")}
    finding: Finding = RULE.finding(
        "failure", "fc", "", profile=look, value=100.0, limit=limits["max_rate"]
    )
    assert RULE.acceptance(finding, limits) == ""
