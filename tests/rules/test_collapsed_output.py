"""Outputs that are the same for all examples fail, unless inputs or biases excuse them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import CollapsedOutputError, assert_healthy, probe
from pytest_gradhealth.config.options import DEFAULTS
from pytest_gradhealth.formatting import number
from pytest_gradhealth.measure.alike import alike_from
from pytest_gradhealth.results.alike import Alike
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.results.stop import Stop
from pytest_gradhealth.rules.collapsed_output import RULE
from pytest_gradhealth.subject.subject import Subject
from tests.helpers.architectures import Wired
from tests.helpers.findings import explained, of, severities
from tests.helpers.nets import batch, mlp
from tests.helpers.spikes import Spike

cross_entropy = F.cross_entropy


def spread_of(outputs: Tensor) -> float:
    centred = outputs - outputs.mean(0)
    share: float = (centred.norm() / outputs.norm()).item()
    return share


def test_a_deep_sigmoid_net_gives_every_example_the_same() -> None:
    x, y = batch()
    model = mlp(nn.Sigmoid, hidden=8).double()
    x = x.double()
    options: dict[str, Any] = {"loss": cross_entropy, "select": ["GH404"]}
    diagnosis = probe(model, x, y, confirm_steps=0, **options)
    with torch.no_grad():
        bias: Any = model[-1].bias
        spread = spread_of(model(x) - bias) / min(1.0, spread_of(x))
        assert spread_of(model(x)) < spread_of(model(x) - bias)
    assert spread < DEFAULTS["min_spread"]
    assert diagnosis.profile.spread == pytest.approx(spread, rel=1e-6)
    (finding,) = diagnosis.findings
    assert (finding.severity, finding.layer) == ("failure", "16")
    assert finding.message == (
        f"the outputs of different examples differ by only x{number(spread)} of their size;"
        f" limit x{number(DEFAULTS['min_spread'])} (default)"
    )
    assert probe(model, x, y, **options).verdict == "failure"
    with pytest.raises(CollapsedOutputError):
        assert_healthy(model, x, y, **options)
    everything = probe(model, x, y, loss=cross_entropy)
    assert severities(everything, "GH101") == ["failure"]
    assert of(everything, "GH404") == [], "GH101 says it more plainly"


def shallow(spread: float, x: Tensor) -> nn.Module:
    """A net whose outputs are 1, but for some spread that no step changes."""
    frozen = nn.Linear(20, 5).double().requires_grad_(False)
    with torch.no_grad():
        size = frozen(x)
        size -= size.mean(0)
    gain = spread / (size.norm() / size.numel() ** 0.5).item()
    return Wired(
        lambda m, x: 1 + m.scale * 0 + gain * (m.body(x) - m.body(x).mean(0)),
        body=frozen,
        scale=nn.Parameter(torch.ones(5, dtype=torch.float64)),
    )


@pytest.mark.parametrize(
    ("spread", "severity", "limit"),
    [
        (DEFAULTS["min_spread"] / 5, "failure", "min_spread"),
        (DEFAULTS["warn_min_spread"] / 2, "warning", "warn_min_spread"),
        (DEFAULTS["warn_min_spread"] * 2, None, ""),
    ],
)
def test_the_limits_of_the_spread(spread: float, severity: str | None, limit: str) -> None:
    x = batch()[0].double()
    wanted = spread / spread_of(x)
    diagnosis = probe(shallow(spread, x), x, loss=lambda y: y.square().sum(), select=["GH404"])
    assert diagnosis.profile.spread == pytest.approx(wanted, rel=1e-3)
    assert [(f.severity, f.message) for f in diagnosis.findings] == (
        []
        if severity is None
        else [
            (
                severity,
                f"the outputs of different examples differ by only x{number(wanted)} of their size;"
                f" limit x{number(DEFAULTS[limit])} (default)",
            )
        ]
    )


@pytest.mark.parametrize(
    ("limit", "severity"), [(1e-9, "warning"), (1e-3, "failure"), (1e-2, "failure")]
)
def test_min_spread_moves_the_limit(limit: float, severity: str) -> None:
    x = batch()[0].double()
    (finding,) = probe(
        shallow(DEFAULTS["warn_min_spread"] / 2, x),
        x,
        loss=lambda y: y.square().sum(),
        min_spread=limit,
        select=["GH404"],
    ).findings
    assert finding.severity == severity
    if severity == "failure":
        assert finding.message.endswith(f"limit x{number(limit)} (the call)")


def test_outputs_that_are_the_same_for_all_examples_fail() -> None:
    """As of a model that averages over the batch by mistake."""
    x, y = batch()
    model = Wired(lambda m, x: m.body(x).mean(0, keepdim=True).expand(len(x), -1), body=mlp())
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert (diagnosis.profile.spread or 0.0) < 1e-6
    assert severities(diagnosis, "GH404") == ["failure"]


@pytest.mark.parametrize("scale", [1.0, 1e-14])
def test_a_net_that_wakes_up_is_not_failed(scale: float) -> None:
    x, y = batch()
    model = mlp()
    with torch.no_grad():
        model[-3].weight.mul_(1e-6)  # type: ignore[operator]
        model[-3].bias.fill_(1.0)  # type: ignore[operator]
    options: dict[str, Any] = {
        "loss": lambda out, labels: scale * cross_entropy(out, labels),
        "select": ["GH404"],
    }
    asleep = probe(model, x, y, confirm_steps=0, **options)
    assert severities(asleep, "GH404") == ["failure"]
    woken = probe(model, x, y, **options)
    assert [profile.steps for profile in woken.profiles] == [0, 5]
    assert woken.verdict == "healthy"


@pytest.mark.parametrize(
    ("mean", "deviation"),
    [(2e5, 1e5), (1e5, 3e4), (1e6, 1e3), (101325.0, 500.0), (2000.0, 10.0)],
)
@pytest.mark.parametrize("squeezed", [False, True])
def test_a_bias_at_the_mean_of_the_targets_is_healthy(
    mean: float, deviation: float, squeezed: bool
) -> None:
    x = batch()[0]
    targets = mean + deviation * torch.randn(16, 1)
    model: Any = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.constant_(model[-1].bias, mean)
    if squeezed:
        model, targets = Wired(lambda m, x: m.body(x).squeeze(-1), body=model), targets[:, 0]
    diagnosis = probe(model, x, targets, loss=F.mse_loss)
    assert of(diagnosis, "GH404") == []


@pytest.mark.parametrize(
    "head", [lambda: nn.Linear(20, 8), lambda: nn.Conv2d(4, 8, 1), lambda: nn.Conv1d(4, 8, 1)]
)
def test_a_prior_in_the_bias_is_healthy(head: Callable[[], Any]) -> None:
    """As of a detector whose classes start out unlikely: weights of .01, biases of -4.6."""
    layer = head()
    nn.init.normal_(layer.weight, std=1e-4)
    nn.init.constant_(layer.bias, -4.6)
    shape = {nn.Linear: (16, 20), nn.Conv2d: (16, 4, 5, 5), nn.Conv1d: (16, 4, 5)}[type(layer)]
    x = torch.randn(*shape)
    diagnosis = probe(layer, x, loss=lambda y: y.square().mean())
    with torch.no_grad():
        bias = layer.bias if len(shape) == 2 else layer.bias.view(1, -1, *[1] * (len(shape) - 2))
        expected = spread_of(layer(x) - bias) / spread_of(x)
    assert diagnosis.profile.spread == pytest.approx(min(expected, 1.0), rel=0.05)
    assert of(diagnosis, "GH404") == []


def test_a_norm_over_one_feature_is_the_cause_and_no_small_weights() -> None:
    model = nn.Sequential(nn.LayerNorm(1), nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 5))
    diagnosis = probe(model, torch.randn(32, 1), torch.arange(32) % 5, loss=cross_entropy)
    assert explained(diagnosis, "GH404")[1:] == (
        "0 (LayerNorm) normalises over one feature, which gives its bias whatever comes in",
        "leave it out, or normalise over the batch (nn.BatchNorm1d)",
    )


def between(function: Callable[[Tensor], Tensor]) -> nn.Module:
    parts = {"a": nn.Linear(20, 16), "b": nn.Linear(16, 5)}
    return Wired(lambda m, x: m.b(function(m.a(x).relu())), **parts)


def drowned(bias: float = 1e6) -> nn.Module:
    first = nn.Linear(20, 16)
    nn.init.constant_(first.bias, bias)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(16, 5))


def forgetful() -> nn.Module:
    model = drowned(1.0)
    nn.init.zeros_(model.get_parameter("0.weight"))
    return model


class Shifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 99


def dim(scale: float, layers: int) -> nn.Module:
    """Layers whose weights forget, by one factor each."""
    linears = [nn.Linear(20, 20) for _ in range(layers)]
    for linear in linears:
        nn.init.normal_(linear.weight, 0, scale)
        nn.init.constant_(linear.bias, 0.5)
    return nn.Sequential(*(nn.Sequential(linear, nn.Tanh()) for linear in linears))


TOGETHER = "what b (Linear) gets is the same for all examples: something in the forward makes it so"
ALIKE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a mean over the batch": (
        lambda: between(lambda h: h.mean(0, keepdim=True).expand(len(h), -1)),
        TOGETHER,
    ),
    "a number": (lambda: between(lambda h: h.mean().expand_as(h)), TOGETHER),
    "whole numbers": (lambda: between(lambda h: h.clamp(0, 1e-6).long().float()), TOGETHER),
    "a bias": (drowned, "the bias of 0 (Linear) drowns what tells the examples apart"),
    "zeros": (
        lambda: nn.Sequential(nn.Linear(20, 16), nn.Threshold(99.0, 0.0), nn.Linear(16, 5)),
        "1 (Threshold) is flat at all that comes in with a gradient",
    ),
    "a bias that rounds all else away": (
        lambda: drowned(1e9),
        "the bias of 0 (Linear) drowns what tells the examples apart",
    ),
    "a function that is flat": (
        lambda: between(lambda h: torch.sigmoid(h + 99)),
        "sigmoid behind a (Linear) is saturated: it is flat at all that comes in",
    ),
    "a function that is next to flat": (
        lambda: between(lambda h: torch.tanh(h + 8)),
        "tanh behind a (Linear) is saturated: it is flat at all that comes in",
    ),
    "a module that is flat": (
        lambda: nn.Sequential(nn.Linear(20, 16), Shifted(), nn.Sigmoid(), nn.Linear(16, 5)),
        "2 (Sigmoid) is saturated: it is flat at all that comes in",
    ),
    "layer after layer": (
        lambda: dim(0.02, 8),
        "the examples come closer together from layer to layer, and are alike from 2.0 (Linear) on",
    ),
}


@pytest.mark.parametrize("case", ALIKE)
def test_where_examples_become_alike_is_the_cause(case: str) -> None:
    build, because = ALIKE[case]
    x, y = batch()
    torch.manual_seed(0)
    diagnosis = probe(build(), x, y, loss=cross_entropy, select=["GH404"])
    assert explained(diagnosis, "GH404")[1] == because


@pytest.mark.parametrize(
    "stop",
    [
        Stop("detach", "0", "Own", "in"),
        Stop("Addmm", "0", "Own", kind="rounding"),
        Stop("Mute", "0", "Own", "behind", kind="none"),
    ],
    ids=lambda stop: stop.op,
)
def test_what_keeps_the_gradient_alone_makes_no_examples_alike(stop: Stop) -> None:
    alike = Alike("behind", "0", "Own")
    look = GradientProfile(0, 0, 2.3, paths=(), spread=0.0, alike=alike, stops=(stop,))
    finding = RULE.finding("failure", "(output)", "", profile=look)
    cause = RULE.explain(finding, look)
    assert cause is not None
    assert cause.because == "0 (Own) gets different examples and returns the same for all"


def test_examples_that_are_the_same_are_told_from_those_that_become_so() -> None:
    def asked(model: nn.Module, x: Tensor) -> Alike | None:
        subject = Subject(model, x, None, lambda y: y.sum(), torch.device("cpu"))
        return alike_from(subject, seed=0)

    x, _ = batch()
    assert asked(mlp(), x[:1].expand_as(x)) == Alike("inputs")
    assert asked(mlp(), x) is None
    assert asked(forgetful(), x) == Alike("behind", "0", "Linear"), "where no weight makes anything"
    # What runs beside the outputs tells them apart: the order of calls tells nothing.
    parts = {"a": nn.Linear(20, 16), "c": nn.Linear(20, 16), "b": nn.Linear(16, 5)}
    beside = Wired(lambda m, x: m.b(m.a(x * 0) * m.c(x).sum()), **parts)
    assert asked(beside, x) is None


def test_equal_inputs_excuse_equal_outputs() -> None:
    x = torch.randn(1, 20).repeat(16, 1)
    near = x + 1e-6 * torch.randn(16, 20)
    for given_ in (x, near):
        assert of(probe(mlp(), given_, batch()[1], loss=cross_entropy), "GH404") == []


@pytest.mark.parametrize(("std", "first", "after"), [(3e-3, "warning", 5), (1e-4, "failure", 150)])
def test_what_few_steps_leave_as_a_warning_gets_more(std: float, first: str, after: int) -> None:
    """Products of small factors beside a bias: some steps make them count."""

    def forward(m: Any, x: Tensor) -> Any:
        return (m.bias + (m.one(x[:, 0]) * m.other(x[:, 1])).sum(1)).sigmoid()

    torch.manual_seed(0)
    tables = {name: nn.Embedding(10, 8) for name in ("one", "other")}
    for table in tables.values():
        nn.init.normal_(table.weight, std=std)
    model = Wired(forward, bias=nn.Parameter(torch.zeros(())), **tables)
    x = torch.randint(0, 10, (64, 2))
    given = partial(probe, model, x, (x[:, 0] % 2).float(), loss=F.binary_cross_entropy)
    check = partial(given, select=["GH404"])
    assert severities(check(confirm_steps=0), "GH404") == [first]
    again = check()
    assert (severities(again, "GH404"), again.profiles[-1].steps) == ([], after)


def test_outputs_of_a_zero_head_are_no_finding() -> None:
    x, y = batch()
    model = mlp()
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[-1].bias)  # type: ignore[arg-type]
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert (diagnosis.profiles[0].spread or 0.0, diagnosis.profiles[0].magnitude) == (0, 0)
    assert diagnosis.verdict == "healthy", diagnosis.findings


def spikes(potential: Tensor) -> Tensor:
    """The surrogate gradient of neurons that spike from a potential of 2 on."""
    spiked: Tensor = Spike.apply(potential - 2)
    return spiked


class Spikes(nn.Module):
    def forward(self, potential: Tensor) -> Tensor:
        return spikes(potential)


def in_time(m: Any, x: Tensor) -> Tensor:
    """The same input at three steps, to neurons that keep a potential."""
    potential, votes = torch.zeros(len(x), 32), []
    for _ in range(3):
        potential = 0.5 * potential + 0.5 * m.a(x)
        spiked = m.spike(potential)
        potential = potential * (1 - spiked.detach())
        votes.append(m.b(spiked))
    return torch.stack(votes).mean(0)


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (lambda: nn.Sequential(nn.Linear(20, 32), Spikes(), nn.Linear(32, 5)), "1 (Spikes)"),
        (
            lambda: Wired(
                lambda m, x: m.b(spikes(m.a(x))), a=nn.Linear(20, 32), b=nn.Linear(32, 5)
            ),
            "b (Linear)",
        ),
        (
            lambda: Wired(in_time, a=nn.Linear(20, 32), spike=Spikes(), b=nn.Linear(32, 5)),
            "spike#2 (Spikes)",
        ),
    ],
    ids=["modules", "functions", "in time"],
)
def test_neurons_that_are_silent_and_can_wake_are_a_note(
    model: Callable[[], nn.Module], layer: str
) -> None:
    x, y = batch()
    diagnosis = probe(model(), x, y, loss=cross_entropy, select=["GH404"], confirm_steps=0)
    assert [(f.severity, f.message) for f in diagnosis.findings] == [
        (
            "info",
            "the outputs of different examples are alike since nothing but zeros goes through"
            f" {layer}, but gradient does, so that it can wake",
        )
    ]


@pytest.mark.parametrize("where", [0, 2])
@pytest.mark.parametrize("norm", [False, True])
def test_neurons_that_are_dead_are_a_failure(where: int, norm: bool) -> None:
    x, y = batch()
    model: Any = mlp()
    nn.init.constant_(model[where].bias, -99.0)
    if norm:
        nn.init.zeros_(model[where].bias)
        model[where] = nn.Sequential(model[where], nn.BatchNorm1d(32))
        nn.init.zeros_(model[where][1].weight)
    diagnosis = probe(model, x, y, loss=cross_entropy, select=["GH404"], confirm_steps=0)
    assert severities(diagnosis, "GH404") == ["failure"]
