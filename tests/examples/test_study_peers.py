"""The study's observation against hand and probe; the peers' formulas at their thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from examples.study.peers import PEERS
from examples.study.peers.observation import LayerSeen, Observation, ParameterSeen, observe
from examples.study.peers.peer import About, Peer
from pytest_gradhealth import probe
from tests.helpers.nets import batch, mlp

BY_NAME = {peer.name: peer for peer in PEERS}
ON_GRADIENTS: tuple[About, ...] = ("gradients", "loss")


def kernel(**changes: Any) -> ParameterSeen:
    healthy = ParameterSeen(
        name="0.weight",
        shape=(10, 10),
        layer="0",
        kind="Linear",
        trainable=True,
        grad_none=False,
        norm=6.0,
        weight_mean_abs=0.5,
        weight_max=1.0,
        weight_variance=0.36,
        weight_finite=True,
        gradient_norm=1.2,
        finite_norm=1.2,
        mean_abs=0.1,
        max_abs=0.3,
        zero_share=0.0,
        spread=0.3,
        finite=True,
    )
    return replace(healthy, **changes)


def unit(kind: str = "ReLU", **changes: Any) -> LayerSeen:
    healthy = LayerSeen(
        name="1",
        kind=kind,
        parameterised=kind == "Linear",
        rms=1.0,
        std=1.0,
        finite=True,
        nonpositive_share=0.4,
        near_zero_share=0.4,
        high_share=0.2,
        gradient_norm=0.5,
        gradient_rms=0.05,
        gradient_zero_share=0.4,
    )
    return replace(healthy, **changes)


def seen(
    *parameters: ParameterSeen, layers: tuple[LayerSeen, ...] = (), loss: float = 2.3
) -> Observation:
    registered = tuple(dict.fromkeys(layer.name for layer in layers if layer.parameterised))
    return Observation(loss, parameters or (kernel(),), layers, registered)


def kernels(**changes: list[float]) -> Observation:
    rows = [
        dict(zip(changes, values, strict=True)) for values in zip(*changes.values(), strict=True)
    ]
    return seen(*(kernel(**row) for row in rows))


def one(**changes: Any) -> Observation:
    return seen(kernel(**changes))


def active(kind: str = "ReLU", **changes: Any) -> Observation:
    return seen(layers=(unit(kind, **changes),))


def outputs(first: float, last: float) -> Observation:
    return seen(
        layers=(
            unit("Linear", name="0", gradient_norm=first),
            unit("Linear", name="1", gradient_norm=last),
        )
    )


def below(value: float) -> float:
    return math.nextafter(value, -math.inf)


def above(value: float) -> float:
    return math.nextafter(value, math.inf)


#: A power of two, so that a product with it is exact.
SMALL = 2.0**-10
HALVES = [0.5**i for i in range(6)]

#: Peer, rule, an observation that is just tolerated, one that just is not.
THRESHOLDS: list[tuple[str, str, Observation, Observation]] = [
    (
        "AutoTrainer",
        "vanishing gradient",
        kernels(gradient_norm=[1e-3 * SMALL, SMALL]),
        kernels(gradient_norm=[below(1e-3) * SMALL, SMALL]),
    ),
    (
        "AutoTrainer",
        "vanishing gradient",
        kernels(gradient_norm=[1e-4, 1.0]),
        kernels(gradient_norm=[below(1e-4), 1.0]),
    ),
    (
        "AutoTrainer",
        "exploding gradient",
        kernels(gradient_norm=[70.0, 1.0]),
        kernels(gradient_norm=[above(70.0), 1.0]),
    ),
    ("AutoTrainer", "large loss", seen(loss=below(1e3)), seen(loss=1e3)),
    ("AutoTrainer", "dying ReLU", one(zero_share=0.69), one(zero_share=0.70)),
    ("DeepDiagnosis", "vanishing gradient", one(mean_abs=1e-7), one(mean_abs=below(1e-7))),
    (
        "DeepDiagnosis",
        "numerical error in delta weights",
        one(zero_share=0.99),
        one(zero_share=1.0),
    ),
    (
        "DeepDiagnosis",
        "numerical problem forward",
        active(rms=1e-30),
        active(rms=0.0),
    ),
    (
        "DeepDiagnosis",
        "numerical error in weights",
        one(weight_max=1e-30),
        one(weight_max=0.0),
    ),
    (
        "DeepDiagnosis",
        "dead node",
        active(nonpositive_share=below(0.7)),
        active(nonpositive_share=0.7),
    ),
    (
        "DeepDiagnosis",
        "dead node",
        active("Tanh", nonpositive_share=0.9),
        active(nonpositive_share=0.9),
    ),
    (
        "DeepDiagnosis",
        "saturated activation",
        active("Tanh", large_input_share=0.5),
        active("Tanh", large_input_share=above(0.5)),
    ),
    ("DeepDiagnosis", "invalid loss", seen(loss=1e30), seen(loss=math.inf)),
    ("TheDeepChecker", "vanishing gradient", one(mean_abs=1e-6), one(mean_abs=below(1e-6))),
    ("TheDeepChecker", "exploding gradient", one(mean_abs=1e6), one(mean_abs=above(1e6))),
    ("TheDeepChecker", "dead layer", active(dim_share=0.5), active(dim_share=above(0.5))),
    (
        "TheDeepChecker",
        "saturated layer",
        active("Tanh", rho_share=0.5),
        active("Tanh", rho_share=above(0.5)),
    ),
    ("TheDeepChecker", "unstable activations", active(std=0.31), active(std=0.30)),
    ("TheDeepChecker", "unstable activations", active(std=3.28), active(std=3.30)),
    ("TheDeepChecker", "unstable learning", one(mean_abs=5.0), one(mean_abs=5.01)),
    ("TheDeepChecker", "unstable learning", one(mean_abs=5.01e-3), one(mean_abs=4.99e-3)),
    (
        "TheDeepChecker, across layers",
        "vanishing gradient",
        kernels(mean_abs=HALVES[:0:-1]),
        kernels(mean_abs=HALVES[::-1]),
    ),
    (
        "TheDeepChecker, across layers",
        "vanishing gradient",
        kernels(mean_abs=[*HALVES[:2:-1], 0.26, *HALVES[1::-1]]),
        kernels(mean_abs=[*HALVES[:2:-1], 0.25, *HALVES[1::-1]]),
    ),
    (
        "TheDeepChecker, across layers",
        "exploding gradient",
        kernels(mean_abs=HALVES[:5]),
        kernels(mean_abs=HALVES),
    ),
    ("SageMaker Debugger", "VanishingGradient", one(mean_abs=1e-7), one(mean_abs=below(1e-7))),
    ("SageMaker Debugger", "DeadRelu", active(idle_share=0.5), active(idle_share=above(0.5))),
    (
        "SageMaker Debugger",
        "SaturatedActivation",
        active("Tanh", flat_share=0.5),
        active("Tanh", flat_share=above(0.5)),
    ),
    (
        "SageMaker Debugger",
        "PoorWeightInitialization, weights",
        kernels(weight_variance=[10.0, 1.0]),
        kernels(weight_variance=[above(10.0), 1.0]),
    ),
    (
        "SageMaker Debugger",
        "PoorWeightInitialization, gradients",
        one(spread=0.001),
        one(spread=below(0.001)),
    ),
    (
        "SageMaker Debugger",
        "WeightUpdateRatio",
        one(mean_abs=1.0, weight_mean_abs=1e-3),
        one(mean_abs=1.01, weight_mean_abs=1e-3),
    ),
    (
        "SageMaker Debugger",
        "WeightUpdateRatio",
        one(mean_abs=1.01e-6, weight_mean_abs=1.0),
        one(mean_abs=0.99e-6, weight_mean_abs=1.0),
    ),
    (
        "torchtest2",
        "gradient_flow FAIL",
        one(grad_none=True, trainable=False),
        one(grad_none=True),
    ),
    (
        "torchtest2",
        "gradient_flow WARN",
        one(zero_share=1.0),
        one(zero_share=1.0, stays_zero=True),
    ),
    (
        "torchtest2",
        "gradient_magnitude WARN",
        one(gradient_norm=1e3, norm=0.1),
        one(gradient_norm=above(1e3), norm=0.1),
    ),
    (
        "torchtest2",
        "gradient_magnitude WARN",
        one(gradient_norm=2e3, norm=2.0),
        one(gradient_norm=above(2e3), norm=2.0),
    ),
    (
        "pytest-torch",
        "assert_all_params_receive_grad",
        one(zero_share=0.99),
        one(zero_share=1.0),
    ),
    (
        "pytest-torch",
        "assert_all_params_receive_grad",
        one(grad_none=True, trainable=False),
        one(grad_none=True),
    ),
    ("pytest-torch", "assert_gradients_finite", seen(loss=1e30), seen(loss=math.nan)),
    ("torchmortem", "vanishing gradients", outputs(1.0, below(100.0)), outputs(1.0, 100.0)),
    ("torchmortem", "vanishing gradients", outputs(1.0, 0.0), outputs(0.0, 1.0)),
    ("torchmortem", "exploding gradients", outputs(1e3, 1e3), outputs(1e3, above(1e3))),
    ("torchmortem", "gradient stalling", outputs(1e-8, 1e-8), outputs(below(1e-8), 1e-8)),
    ("torchmortem", "dead units", active(near_zero_share=0.5), active(near_zero_share=above(0.5))),
    (
        "torchmortem",
        "dead units",
        active("Dropout", near_zero_share=1.0),
        active(near_zero_share=1),
    ),
    ("torchmortem", "saturation", active(high_share=0.5), active(high_share=above(0.5))),
    ("traintools", "vanished gradient", one(finite_norm=above(1e-12)), one(finite_norm=1e-12)),
    ("traintools", "very large gradient", one(finite_norm=below(1e3)), one(finite_norm=1e3)),
    (
        "traintools",
        "high update ratio",
        one(finite_norm=9.99, norm=1.0),
        one(finite_norm=10.01, norm=1.0),
    ),
    (
        "traintools",
        "tiny global update ratio",
        one(finite_norm=1.01e-6, norm=1.0),
        one(finite_norm=0.99e-6, norm=1.0),
    ),
    ("traintools", "no gradients", one(), one(grad_none=True)),
]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_healthy_observation_is_flagged_by_nobody(peer: Peer) -> None:
    healthy = seen(
        kernel(),
        kernel(shape=(10,), name="0.bias"),
        layers=(
            unit("Linear", name="0"),
            unit(idle_share=0.0, dim_share=0.0),
            unit("Tanh", large_input_share=0.0, flat_share=0.0, dim_share=0.0, rho_share=0.0),
            unit("Linear", name="3"),
        ),
    )
    assert peer.judge(healthy) == ()


@pytest.mark.parametrize(
    ("name", "rule", "tolerated", "flagged"),
    THRESHOLDS,
    ids=[f"{name}: {rule}" for name, rule, _, _ in THRESHOLDS],
)
def test_a_rule_fires_at_its_threshold(
    name: str, rule: str, tolerated: Observation, flagged: Observation
) -> None:
    assert rule not in BY_NAME[name].judge(tolerated)
    assert rule in BY_NAME[name].judge(flagged)


#: Rules that ask for nothing but nan and inf, tested with those.
ON_FINITENESS = {
    ("AutoTrainer", "nan"),
    ("TheDeepChecker", "numerical instability"),
    ("TheDeepChecker", "numerical instability of activations"),
    ("TheDeepChecker", "invalid loss"),
    ("SageMaker Debugger", "ExplodingTensor"),
    ("torchtest2", "gradient_magnitude FAIL"),
    ("traintools", "non-finite gradients"),
}


def test_every_rule_is_tested() -> None:
    rules = {(peer.name, rule.name) for peer in PEERS for rule in peer.rules}
    assert rules == {(name, rule) for name, rule, _, _ in THRESHOLDS} | ON_FINITENESS


@pytest.mark.parametrize(("name", "rule"), sorted(ON_FINITENESS))
def test_a_rule_finds_what_is_not_finite(name: str, rule: str) -> None:
    bad = dict.fromkeys(("gradient_norm", "mean_abs", "max_abs", "spread"), math.nan)
    sick = replace(
        seen(kernel(finite=False, **bad), layers=(unit(finite=False, rms=math.nan),)),
        loss=math.nan,
    )
    assert rule in BY_NAME[name].judge(sick)
    assert rule not in BY_NAME[name].judge(seen(layers=(unit(),)))


def test_rules_are_chosen_by_what_they_are_about() -> None:
    sick = seen(kernel(mean_abs=0.0), layers=(unit(std=0.1),), loss=math.nan)
    peer = BY_NAME["TheDeepChecker"]
    assert peer.judge(sick, "gradients") == ("vanishing gradient",)
    assert peer.judge(sick, "activations") == ("unstable activations",)
    assert peer.judge(sick, *ON_GRADIENTS) == ("vanishing gradient", "invalid loss")


def test_formulas_divide_by_zero_as_the_originals_do() -> None:
    autotrainer = BY_NAME["AutoTrainer"]
    assert autotrainer.judge(kernels(gradient_norm=[1.0, 0.0])) == ("exploding gradient",)
    assert autotrainer.judge(kernels(gradient_norm=[0.0, 0.0])) == ()
    assert "vanishing gradients" in BY_NAME["torchmortem"].judge(outputs(math.nan, math.nan))


def test_a_module_that_no_gradient_arrives_at_stalls_in_torchmortem() -> None:
    judged = replace(outputs(1.0, 1.0), registered=("0", "out_proj", "1"))
    assert BY_NAME["torchmortem"].judge(judged) == ("gradient stalling",)


# Networks


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = mlp(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Any:
        return self.used(x)


class Rooted(nn.Module):
    """The square root of zero: its gradient is nan."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(20, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        return self.last((0 * self.first(x)).sqrt())


def deep_sigmoid() -> nn.Module:
    return mlp(nn.Sigmoid, hidden=20)


def many_sigmoids() -> nn.Module:
    return mlp(nn.Sigmoid, hidden=12)


def large_weights() -> nn.Module:
    model = mlp(hidden=10, width=128)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


SICK: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "AutoTrainer": (deep_sigmoid, "vanishing gradient"),
    "DeepDiagnosis": (deep_sigmoid, "vanishing gradient"),
    "TheDeepChecker": (deep_sigmoid, "vanishing gradient"),
    "TheDeepChecker, across layers": (many_sigmoids, "vanishing gradient"),
    "SageMaker Debugger": (deep_sigmoid, "VanishingGradient"),
    "torchtest2": (large_weights, "gradient_magnitude WARN"),
    "pytest-torch": (Unused, "assert_all_params_receive_grad"),
    "torchmortem": (deep_sigmoid, "vanishing gradients"),
    "traintools": (large_weights, "very large gradient"),
}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_flags_a_sick_network_and_no_healthy_one(peer: Peer) -> None:
    build, rule = SICK[peer.name]
    assert rule in peer.judge(observe(build(), *batch(), cross_entropy))
    assert peer.judge(observe(mlp(), *batch(), cross_entropy), *ON_GRADIENTS) == ()


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_nan_is_found_by_all_but_ratios_of_layers(peer: Peer) -> None:
    observation = observe(Rooted(), *batch(), cross_entropy)
    gradient = observation.parameters[0]
    assert math.isnan(gradient.gradient_norm)
    assert math.isnan(gradient.mean_abs)
    assert not gradient.finite
    assert observation.parameters[2].finite
    assert math.isnan(observation.layers[0].gradient_norm or 0.0)
    flagged = bool(peer.judge(observation, *ON_GRADIENTS))
    assert flagged == (peer.name != "TheDeepChecker, across layers")


@pytest.mark.parametrize(
    ("name", "rule", "hidden_sigmoids", "scale"),
    [
        ("AutoTrainer", "large loss", 0, 1e4),
        ("torchmortem", "exploding gradients", 0, 1e4),
        ("traintools", "very large gradient", 0, 1e4),
        ("traintools", "high update ratio", 0, 1e4),
        ("torchtest2", "gradient_magnitude WARN", 0, 1e4),
        ("AutoTrainer", "vanishing gradient", 4, 1e-4),
        ("DeepDiagnosis", "vanishing gradient", 4, 1e-4),
        ("TheDeepChecker", "vanishing gradient", 4, 1e-4),
        ("SageMaker Debugger", "VanishingGradient", 4, 1e-4),
        ("SageMaker Debugger", "PoorWeightInitialization, gradients", 0, 1e-4),
        ("torchmortem", "gradient stalling", 5, 1e-4),
    ],
)
def test_an_absolute_threshold_depends_on_the_scale_of_the_loss(
    name: str, rule: str, hidden_sigmoids: int, scale: float
) -> None:
    model = mlp(nn.Sigmoid, hidden=hidden_sigmoids) if hidden_sigmoids else mlp()
    data = batch()
    for times, flagged in ((1.0, False), (scale, True)):
        observation = observe(model, *data, cross_entropy, scale=times)
        assert (rule in BY_NAME[name].judge(observation)) is flagged


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("torchmortem", "vanishing gradients"),
        ("TheDeepChecker, across layers", "vanishing gradient"),
    ],
)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_ratio_does_not_depend_on_the_scale_of_the_loss(
    name: str, rule: str, scale: float
) -> None:
    for model, flagged in ((mlp(), False), (many_sigmoids(), True)):
        observation = observe(model, *batch(), cross_entropy, scale=scale)
        assert (rule in BY_NAME[name].judge(observation)) is flagged


# Observations


def by_hand() -> tuple[nn.Module, Tensor]:
    first, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        last.weight.copy_(torch.tensor([[1.0, -1.0]]))
    return nn.Sequential(first, last), torch.eye(2)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_two_linear_layers_by_hand(scale: float) -> None:
    model, x = by_hand()
    # hidden [[1, 3], [2, 4]], outputs [-2, -2]; gradients: of outputs 1, of the hidden [1, -1],
    # of the last weights [3, 7], of the first [[1, 1], [-1, -1]]
    observation = observe(model, x, None, lambda y, _: y.sum(), scale=scale)
    assert observation.loss == -4 * scale
    assert observation.registered == ("0", "1")
    first, last = observation.parameters
    assert (first.name, first.shape, first.layer, first.kind) == ("0.weight", (2, 2), "0", "Linear")
    assert first.norm == pytest.approx(30**0.5)
    assert (first.weight_mean_abs, first.weight_max, first.weight_variance) == (2.5, 4.0, 1.25)
    assert (first.gradient_norm, first.finite_norm) == (2 * scale, 2 * scale)
    assert (first.mean_abs, first.max_abs, first.zero_share) == (scale, scale, 0.0)
    assert first.spread == pytest.approx(2 * scale)
    assert last.gradient_norm == pytest.approx(58**0.5 * scale)
    assert last.mean_abs == pytest.approx(5 * scale)
    assert last.spread == pytest.approx(3.6 * scale)
    hidden, output = observation.layers
    assert (hidden.name, hidden.kind, hidden.parameterised) == ("0", "Linear", True)
    assert hidden.gradient_norm == 2 * scale
    assert hidden.gradient_rms == scale
    assert hidden.gradient_zero_share == 0.0
    assert hidden.rms == pytest.approx(7.5**0.5)
    assert hidden.std == pytest.approx(1.25**0.5)
    assert (hidden.nonpositive_share, hidden.high_share) == (0.0, 1.0)
    assert output.gradient_norm == pytest.approx(2**0.5 * scale)
    assert output.nonpositive_share == 1.0


def test_activations_by_hand() -> None:
    x = torch.tensor([[-6.0, 0.0, 1e-7, 12.0], [-30.0, -1.0, -1.0, 5.0]])
    (relu,) = observe(nn.ReLU(), x, None, lambda y, _: y.sum()).layers
    assert (relu.nonpositive_share, relu.near_zero_share, relu.high_share) == (5 / 8, 6 / 8, 2 / 8)
    assert (relu.idle_share, relu.dim_share) == (0.5, 0.75)
    assert math.isnan(relu.rho_share)
    assert relu.gradient_norm is None
    (sigmoid,) = observe(nn.Sigmoid(), x, None, lambda y, _: y.sum()).layers
    assert (sigmoid.large_input_share, sigmoid.flat_share) == (4 / 8, 0.0)
    assert sigmoid.rho_share == 0.5
    (tanh,) = observe(nn.Tanh(), 3 * x, None, lambda y, _: y.sum()).layers
    assert tanh.flat_share == 0.5
    assert math.isnan(tanh.idle_share)


def test_norms_are_those_of_the_probe() -> None:
    model, (x, y) = mlp(nn.Tanh, hidden=6), batch()
    points = probe(model, x, y, loss=cross_entropy).paths[0].points
    norms = {
        layer.name: layer.gradient_norm for layer in observe(model, x, y, cross_entropy).layers
    }
    shared = [point for point in points if point.name in norms]
    assert len(shared) >= 12
    for point in shared:
        assert norms[point.name] == pytest.approx(point.norm, rel=1e-5)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh])
def test_activations_in_place_change_nothing(activation: Any) -> None:
    model = mlp(activation)
    data = batch()
    plain = repr(observe(model, *data, cross_entropy))
    for module in model.modules():
        if isinstance(module, activation):
            module.inplace = True
    assert repr(observe(model, *data, cross_entropy)) == plain


class Own(nn.Module):
    """Returns a loss of its own, in one of the usual ways."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Linear(3, 1), wrap

    def forward(self, x: Tensor, factor: float = 1.0) -> Any:
        return self.wrap(factor * self.layer(x).square().mean())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda loss: SimpleNamespace(loss=loss, logits=None),
        lambda loss: {"loss": loss, "logits": torch.ones(2)},
        lambda loss: loss,
        lambda loss: {"a": loss / 4, "b": loss * 3 / 4},
    ],
    ids=["attribute", "key", "scalar", "sum"],
)
def test_a_model_may_have_its_own_loss_and_any_call(wrap: Callable[[Tensor], Any]) -> None:
    model, x = Own(wrap), torch.randn(4, 3)
    expected = 2 * float(model.layer(x).square().mean().detach())
    for inputs in ((x, 2.0), {"x": x, "factor": 2.0}):
        observation = observe(model, inputs)
        assert observation.loss == pytest.approx(expected)
        assert observation.parameters[0].gradient_norm > 0


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    with pytest.raises(TypeError, match="scalar"):
        observe(mlp(), batch()[0])


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 5))
    model.eval()
    model[2].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    observe(model, *batch(), cross_entropy)
    assert [module.training for module in model] == [False, False, True, False]
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_parameter_without_a_gradient_has_no_numbers() -> None:
    unused = observe(Unused(), *batch(), cross_entropy).parameters[-1]
    assert unused.name == "unused.bias"
    assert unused.grad_none
    assert math.isnan(unused.gradient_norm)
    assert unused.norm > 0


def test_zero_for_good_is_told_from_zero_at_first() -> None:
    model = mlp()
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    first = observe(model, *batch(), cross_entropy).parameters[0]
    assert (first.zero_share, first.stays_zero) == (1.0, False)
    nn.init.constant_(model[2].bias, -100.0)  # type: ignore[arg-type]
    dead = observe(model, *batch(), cross_entropy)
    assert dead.parameters[0].stays_zero
    assert "gradient_flow WARN" in BY_NAME["torchtest2"].judge(dead)


class Mixed(nn.Module):
    """Calls a layer twice, recomputes another, and has layers whose outputs are no floats."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.twice = nn.Embedding(5, 8), nn.Linear(8, 8)
        self.again, self.rnn = nn.Linear(8, 8), nn.GRU(8, 8, batch_first=True)
        self.flat = nn.Flatten()

    def forward(self, x: Tensor) -> Any:
        self.flat(x)
        h = self.twice(self.twice(self.embed(x)).tanh())
        h = checkpoint(self.again, h, use_reentrant=False)
        return self.rnn(h)[0]


def test_calls_are_seen_one_by_one_and_once() -> None:
    observation = observe(Mixed(), torch.randint(0, 5, (4, 3)), None, lambda y, _: y.square().sum())
    assert [layer.name for layer in observation.layers] == [
        "embed",
        "twice",
        "twice",
        "again",
        "rnn",
    ]
    assert all(layer.gradient_norm for layer in observation.layers)
    assert BY_NAME["torchmortem"].judge(observation, *ON_GRADIENTS) == ()
