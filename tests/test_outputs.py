"""What comes out (GH203, GH404), what drowns (GH103), what is unused (GH405), and second looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import (
    CollapsedOutputError,
    ExplodingOutputError,
    NegligibleGradientError,
    UnreachedParameterError,
    UnusedParameterError,
    assert_all_reached,
    assert_healthy,
    probe,
)
from pytest_gradhealth.config.options import DEFAULTS
from pytest_gradhealth.formatting import number
from tests.helpers.architectures import Wired
from tests.helpers.findings import of, said, severities
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def rms_of(model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        size: float = model(x).square().mean().sqrt().item()
    return size


def sized(size: float, x: Tensor, classes: int = 5) -> nn.Sequential:
    """A net whose outputs have an RMS of `size`."""
    model = mlp(classes=classes)
    gain = size / rms_of(model, x)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.mul_(gain)
    return model


@pytest.mark.parametrize(
    ("size", "severity", "limit"),
    [
        (90.0, None, None),
        (110.0, "warning", "1e+02"),
        (900.0, "warning", "1e+02"),
        (1200.0, "failure", "1e+03"),
        (5e4, "failure", "1e+03"),
    ],
)
def test_large_logits(size: float, severity: str | None, limit: str | None) -> None:
    x, y = batch()
    model = sized(size, x)
    diagnosis = probe(model, x, y, loss=cross_entropy, select=["GH203"])
    assert diagnosis.profile.magnitude == pytest.approx(size, rel=1e-5)
    assert diagnosis.verdict == (severity or "healthy")
    assert [(f.severity, f.layer, f.message) for f in of(diagnosis, "GH203")] == (
        []
        if severity is None
        else [
            (
                severity,
                "6",
                f"the outputs are too large: their RMS is {number(size)}; limit {limit} (default)",
            )
        ]
    )
    if severity == "failure":
        with pytest.raises(ExplodingOutputError):
            assert_healthy(model, x, y, loss=cross_entropy, select=["GH203"])


@pytest.mark.parametrize(("rate", "severity"), [(0.1, "failure"), (0.5, "warning")])
def test_large_outputs_that_a_few_steps_bring_down_are_a_warning(
    rate: float, severity: str
) -> None:
    """Five steps leave (1 - rate)^5 of 1500: 886, and 47."""
    x, _ = batch()
    diagnosis = probe(
        Wired(lambda m, x: x * 0 + m.size, size=nn.Parameter(torch.full((20,), 1500.0))),
        x,
        loss=lambda out: out.square().sum() / (2 * len(out)),
        optimizer=lambda p: torch.optim.SGD(p, lr=rate),
        select=["GH203"],
    )
    first, second = diagnosis.profiles
    assert (first.magnitude, second.magnitude) == pytest.approx((1500, 1500 * (1 - rate) ** 5))
    assert severities(diagnosis, "GH203") == [severity]


def test_a_large_output_leaves_the_word_to_no_explosion_that_it_causes() -> None:
    """A last layer that is this large makes the gradient grow as well."""
    x, y = batch()
    model = sized(5e4, x)
    alone = probe(model, x, y, loss=cross_entropy, ignore=["GH201"])
    assert severities(alone, "GH203") == ["failure"]
    both = probe(model, x, y, loss=cross_entropy)
    assert severities(both, "GH201") == ["failure"]
    assert of(both, "GH203") == []


@pytest.mark.parametrize("size", [500.0, 5e3])
def test_targets_of_the_same_size_make_large_outputs_healthy(size: float) -> None:
    x, _ = batch()
    prices = size * torch.randn(16, 5)
    model = sized(size, x)
    diagnosis = probe(model, x, prices, loss=F.mse_loss)
    expected = size / prices.square().mean().sqrt().item()
    assert diagnosis.profile.magnitude == pytest.approx(expected, rel=1e-5)
    assert of(diagnosis, "GH203") == []
    small = probe(model, x, prices / size * 0.1, loss=F.mse_loss, select=["GH203"])
    assert small.profile.magnitude == pytest.approx(size, rel=1e-5)
    assert severities(small, "GH203") == ["warning" if size == 500 else "failure"]


def test_integer_labels_do_not_excuse_large_outputs() -> None:
    x, _ = batch()
    y = torch.randint(5000, 6000, (16,))
    diagnosis = probe(sized(5e3, x, classes=6000), x, y, loss=cross_entropy, select=["GH203"])
    assert severities(diagnosis, "GH203") == ["failure"]


@pytest.mark.parametrize(
    ("size", "limit", "severity"),
    [(70.0, 50.0, "failure"), (40.0, 50.0, None), (5e3, 1e4, "warning"), (2e4, 1e4, "failure")],
)
def test_max_output_moves_the_limit(size: float, limit: float, severity: str | None) -> None:
    x, y = batch()
    diagnosis = probe(sized(size, x), x, y, loss=cross_entropy, max_output=limit, select=["GH203"])
    assert severities(diagnosis, "GH203") == ([severity] if severity else [])
    if severity == "failure":
        assert diagnosis.findings[0].message == (
            f"the outputs are too large: their RMS is {number(size)};"
            f" limit {number(limit)} (the call)"
        )


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


def test_one_number_per_example_is_an_output() -> None:
    """As of a binary classifier that squeezes its last dimension away."""
    x, y = batch()
    targets = (y > 2).float()
    averaging = Wired(lambda m, x: m.body(x)[:, 0].mean().expand(len(x)), body=mlp())
    loss = F.binary_cross_entropy_with_logits
    diagnosis = probe(averaging, x, targets, loss=loss)
    assert severities(diagnosis, "GH404") == ["failure"]
    huge = Wired(lambda m, x: 1e6 * m.body(x)[:, 0], body=mlp())
    with torch.no_grad():
        size = huge(x).square().mean().sqrt().item()
    diagnosis = probe(huge, x, targets, loss=loss, select=["GH203"], confirm_steps=0)
    assert diagnosis.profile.magnitude == pytest.approx(size, rel=1e-5)
    assert severities(diagnosis, "GH203") == ["failure"]
    healthy = Wired(lambda m, x: m.body(x)[:, 0], body=mlp())
    assert probe(healthy, x, targets, loss=loss).verdict == "healthy"


def test_the_smallest_of_several_outputs_is_judged() -> None:
    """Features beside the answer may be as large as they like."""
    x, y = batch()
    model = Wired(
        lambda m, x: (m.body(x), 1e6 * x @ m.w), body=mlp(), w=nn.Parameter(torch.eye(20))
    )
    diagnosis = probe(model, x, y, loss=lambda out, labels: cross_entropy(out[0], labels))
    assert severities(diagnosis, "GH203") == []


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


def test_equal_inputs_excuse_equal_outputs() -> None:
    x = torch.randn(1, 20).repeat(16, 1)
    near = x + 1e-6 * torch.randn(16, 20)
    for given_ in (x, near):
        assert of(probe(mlp(), given_, batch()[1], loss=cross_entropy), "GH404") == []


def test_a_batch_of_one_has_no_spread() -> None:
    x, y = batch(1)
    diagnosis = probe(mlp(), x, y, loss=cross_entropy)
    assert (diagnosis.profile.spread, diagnosis.profile.magnitude) == (None, None)
    assert of(diagnosis, "GH404") == []


def test_outputs_of_a_zero_head_are_no_finding() -> None:
    x, y = batch()
    model = mlp()
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[-1].bias)  # type: ignore[arg-type]
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert (diagnosis.profiles[0].spread or 0.0, diagnosis.profiles[0].magnitude) == (0, 0)
    assert diagnosis.verdict == "healthy", diagnosis.findings


def first_gradient(model: nn.Sequential, x: Tensor, y: Tensor) -> float:
    """RMS of the first weight's gradient under a plain cross entropy."""
    weight: Any = model[0].weight
    (gradient,) = torch.autograd.grad(cross_entropy(model(x), y), [weight])
    size: float = gradient.square().mean().sqrt().item()
    return size


ADAMS: dict[str, Callable[[nn.Module], Any]] = {
    "class": lambda _: torch.optim.Adam,
    "factory": lambda _: lambda p: torch.optim.Adam(p, lr=1e-3),
    "instance": lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    "AdamW": lambda _: torch.optim.AdamW,
}


@pytest.mark.parametrize("kind", ADAMS)
@pytest.mark.parametrize(
    ("wanted", "severity"),
    [(1e-14, "failure"), (5e-11, "failure"), (3e-10, "warning"), (5e-9, "warning"), (1e-7, None)],
)
def test_gradients_below_eps(kind: str, wanted: float, severity: str | None) -> None:
    x, y = batch()
    model = mlp()
    scale = wanted / first_gradient(model, x, y)

    def loss(out: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(out, labels) * scale

    optimizer = ADAMS[kind](model)
    diagnosis = probe(model, x, y, loss=loss, optimizer=optimizer)
    assert diagnosis.verdict == (severity or "healthy")
    name = "AdamW" if kind == "AdamW" else "Adam"
    assert [(f.severity, f.layer, f.message) for f in of(diagnosis, "GH103")] == (
        []
        if severity is None
        else [
            (
                severity,
                "0",
                f"the gradient of 0.weight drowns in eps of {name}: its RMS is {number(wanted)},"
                f" eps is 1e-08, so steps are x{number(wanted / (wanted + 1e-8))}",
            )
        ]
    )
    if severity == "failure":
        with pytest.raises(NegligibleGradientError):
            assert_healthy(model, x, y, loss=loss, optimizer=optimizer)
    for other in (None, torch.optim.SGD):
        assert of(probe(model, x, y, loss=loss, optimizer=other), "GH103") == []


@pytest.mark.parametrize("built", [False, True], ids=["factory", "instance"])
def test_eps_is_that_of_the_optimizer(built: bool) -> None:
    x, y = batch()
    model = mlp()
    size = first_gradient(model, x, y)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, eps=size * 1e3)

    declared: Any = optimizer(model.parameters()) if built else optimizer
    diagnosis = probe(model, x, y, loss=cross_entropy, optimizer=declared)
    assert severities(diagnosis, "GH103") == ["failure"]
    assert f"eps is {number(size * 1e3)}," in of(diagnosis, "GH103")[0].message


def test_eps_is_that_of_the_parameter_group() -> None:
    x, y = batch()
    model = mlp()
    groups = [{"params": model.parameters(), "eps": 1e3 * first_gradient(model, x, y)}]
    diagnosis = probe(model, x, y, loss=cross_entropy, optimizer=torch.optim.Adam(groups))
    assert severities(diagnosis, "GH103") == ["failure"]


@pytest.mark.parametrize("built", [False, True], ids=["class", "instance"])
def test_an_eps_under_the_root_is_another_quantity(built: bool) -> None:
    """Adadelta's steps are the gradient itself where that is small against sqrt(eps)."""
    x, y = batch()
    model = mlp()
    optimizer: Any = torch.optim.Adadelta
    diagnosis = probe(
        model,
        x,
        y,
        loss=lambda out, labels: cross_entropy(out, labels) * 1e-12,
        optimizer=optimizer(model.parameters()) if built else optimizer,
    )
    assert severities(diagnosis, "GH103") == []


def test_a_scaled_down_loss_is_healthy_until_an_optimizer_says_otherwise() -> None:
    x, y = batch()

    def loss(out: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(out, labels) * 1e-12

    assert probe(mlp(), x, y, loss=loss).verdict == "healthy"
    sick = probe(mlp(), x, y, loss=loss, optimizer=torch.optim.Adam)
    assert severities(sick, "GH103") == ["failure"]


def beside(**parts: Any) -> Wired:
    return Wired(lambda m, x: m.body(x), body=mlp(), **parts)


UNUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "module": (
        lambda: beside(extra=nn.Linear(5, 5)),
        "extra",
        "the loss does not depend on 2 parameters (extra.weight and extra.bias)",
    ),
    "token": (
        lambda: beside(mask_token=nn.Parameter(torch.zeros(4))),
        "mask_token",
        "the loss does not depend on 1 parameter (mask_token)",
    ),
    "token of a block": (
        lambda: Wired(
            lambda m, x: m.inner(x),
            inner=Wired(
                lambda m, x: m.second(m.first(x)),
                first=nn.Linear(20, 8),
                second=nn.Linear(8, 5),
                mask_token=nn.Parameter(torch.zeros(4)),
            ),
        ),
        "inner",
        "the loss does not depend on 1 parameter (inner.mask_token)",
    ),
    "pooler and token": (
        lambda: beside(pooler=mlp(hidden=1), token=nn.Parameter(torch.zeros(4))),
        "token",
        "the loss does not depend on 5 parameters"
        " (token, pooler.0.weight, pooler.0.bias and 2 more)",
    ),
}


@pytest.mark.parametrize("name", UNUSED)
def test_what_the_forward_does_not_use_is_a_warning_unless_asked_for(name: str) -> None:
    build, layer, message = UNUSED[name]
    x, y = batch()
    model = build()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "warning"
    assert said(diagnosis) == [("GH405", "warning", layer)]
    assert diagnosis.findings[0].message == message
    assert_healthy(model, x, y, loss=cross_entropy)
    with pytest.raises(UnusedParameterError) as caught:
        assert_all_reached(model, x, y, loss=cross_entropy)
    assert isinstance(caught.value, UnreachedParameterError)
    assert message in str(caught.value)
    with pytest.raises(UnusedParameterError):
        assert_all_reached(diagnosis)
    assert_all_reached(model, x, y, loss=cross_entropy, ignore=["GH405"])
    model.requires_grad_(False)
    model.get_submodule("inner.first" if "block" in name else "body").requires_grad_(True)
    assert_all_reached(model, x, y, loss=cross_entropy)


@pytest.mark.parametrize("body", [lambda: nn.Linear(20, 5), mlp], ids=["Linear", "Sequential"])
def test_a_token_beside_an_only_child_is_unused_too(body: Callable[[], nn.Module]) -> None:
    token = nn.Parameter(torch.zeros(4))
    model = nn.Sequential(Wired(lambda m, x: m.body(x), body=body(), token=token))
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH405", "warning", "0")]


def test_a_token_of_the_model_beside_a_list_is_unused_too() -> None:
    model = Wired(
        lambda m, x: m.layers[1](m.layers[0](x)),
        layers=nn.ModuleList([nn.Linear(20, 8), nn.Linear(8, 5)]),
        token=nn.Parameter(torch.zeros(4)),
    )
    x, y = batch()
    assert said(probe(model, x, y, loss=cross_entropy)) == [("GH405", "warning", "token")]


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: m.body(x) + m.extra(x).detach(),
        lambda m, x: m.body(x) + F.one_hot(m.extra(x).argmax(-1), 5),
        lambda m, x: m.body(x) + (m.extra(x) > 0),
    ],
    ids=["detach", "argmax", "comparison"],
)
def test_a_leaf_that_was_called_and_cut_off_is_a_failure(use: Callable[..., Any]) -> None:
    x, y = batch()
    model = Wired(use, body=mlp(), extra=nn.Linear(20, 5))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "failure", "extra")]
    assert diagnosis.findings[0].message == (
        "no gradient reaches 2 parameters (extra.weight and extra.bias): cut off from the loss"
    )
    with pytest.raises(UnreachedParameterError) as caught:
        assert_all_reached(model, x, y, loss=cross_entropy)
    assert not isinstance(caught.value, UnusedParameterError)


def test_a_composite_that_was_cut_off_is_a_failure_with_its_own_parameters() -> None:
    part = Wired(
        lambda m, x: (m.fc(x) * m.gain).detach(),
        fc=nn.Linear(20, 5),
        gain=nn.Parameter(torch.ones(5)),
    )
    x, y = batch()
    model = Wired(lambda m, x: m.body(x) + m.part(x), body=mlp(), part=part)
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "failure", "part")]


def test_a_layer_whose_result_is_thrown_away_is_unused() -> None:
    x, y = batch()
    model = Wired(lambda m, x: (m.extra(x), m.body(x))[1], body=mlp(), extra=nn.Linear(20, 5))
    assert said(probe(model, x, y, loss=cross_entropy)) == [("GH405", "warning", "extra")]


def listed() -> Any:
    return nn.ModuleList(nn.Linear(20, 5) for _ in range(3))


def named() -> Any:
    return nn.ModuleDict({f"expert_{i}": nn.Linear(20, 5) for i in range(3)})


@pytest.mark.parametrize("in_dict", [False, True], ids=["ModuleList", "ModuleDict"])
def test_idle_experts_are_a_warning(in_dict: bool) -> None:
    first = "expert_1" if in_dict else "1"
    last = "expert_2" if in_dict else "2"
    model = Wired(
        lambda m, x: m.experts["expert_0" if in_dict else 0](x),
        experts=named() if in_dict else listed(),
    )
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "warning", f"experts.{first}")]
    assert diagnosis.findings[0].message == (
        f"no gradient on this batch for 4 parameters (experts.{first}.weight,"
        f" experts.{first}.bias, experts.{last}.weight and 1 more);"
        " siblings in the same list got one"
    )
    assert_all_reached(model, x, y, loss=cross_entropy)


def test_a_numbered_layer_of_a_block_is_no_idle_expert() -> None:
    block = Wired(lambda m, x: m.fc1(x).relu(), fc1=nn.Linear(20, 20), fc2=nn.Linear(20, 20))
    x, y = batch()
    model = nn.Sequential(block, nn.Linear(20, 5))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH405", "warning", "0.fc2")]
    with pytest.raises(UnusedParameterError):
        assert_all_reached(model, x, y, loss=cross_entropy)


def zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@pytest.mark.parametrize("optimizer", [None, torch.optim.Adam, torch.optim.SGD])
def test_two_inputs_joined_before_a_zero_layer_are_healthy(optimizer: Any) -> None:
    """The output carries no data at first, and is the end of both paths all the same."""
    model = Wired(
        lambda m, a, b: m.last(m.join(m.left(a) + m.right(b)).relu()),
        left=nn.Linear(20, 32),
        right=nn.Linear(20, 32),
        join=nn.Linear(32, 32),
        last=zeroed(nn.Linear(32, 5)),
    )
    (a, y), (b, _) = batch(), batch()
    diagnosis = probe(model, (a, b), y, loss=cross_entropy, optimizer=optimizer)
    assert diagnosis.verdict == "healthy", diagnosis.findings
    assert len(diagnosis.profile.judged_paths) == 2
    assert {path.last.norm > 0 for path in diagnosis.profiles[0].judged_paths} == {True}


def own_loss(gate: Any, body: nn.Module | None = None) -> Wired:
    """A model that computes its own loss behind a gate."""
    return Wired(
        lambda m, x, y: cross_entropy(m.gate * m.body(x), y), body=body or mlp(), gate=gate
    )


def test_a_loss_that_stays_silent_fails() -> None:
    diagnosis = probe(own_loss(0.0), batch())
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    finding = of(diagnosis, "GH101")[0]
    assert (finding.severity, finding.layer) == ("failure", "body.6")
    assert finding.message == (
        "no gradient leaves the loss: it is exactly zero at body.6 (Linear) already;"
        " the loss is 1.6"
    )


def test_a_loss_that_wakes_up_is_healthy() -> None:
    model = own_loss(nn.Parameter(torch.zeros(())))
    diagnosis = probe(model, batch())
    assert diagnosis.profiles[0].paths[0].last.norm == 0
    assert diagnosis.verdict == "healthy", diagnosis.findings
    asleep = probe(model, batch(), confirm_steps=0)
    assert severities(asleep, "GH101") == ["failure"]


def test_a_vanishing_body_behind_a_loss_that_wakes_up_fails() -> None:
    def deep(gate: float) -> Wired:
        return own_loss(nn.Parameter(torch.tensor(gate)), mlp(nn.Sigmoid, hidden=12))

    assert severities(probe(deep(1.0), batch()), "GH101") == ["failure"]
    assert severities(probe(deep(0.0), batch()), "GH101") == ["failure"]


def unrolled(padded: int, gain: float = 3.0, steps: int = 12) -> tuple[Wired, Tensor]:
    """A ReLU recurrence that multiplies by `gain`, on sequences whose first steps are padding."""

    def use(m: Any, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(steps):
            h = F.relu(m.cell(h) + x[:, t])
        return h

    cell = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        cell.weight.copy_(gain * torch.eye(4))
    x = torch.rand(8, steps, 4, dtype=torch.float64) + 0.1
    x[:, :padded] = 0
    return Wired(use, cell=cell), x


def test_padding_does_not_hide_an_explosion() -> None:
    model, x = unrolled(1)
    diagnosis = probe(model, x, loss=lambda y: y.sum(), select=["GH201"])
    path = diagnosis.profiles[0].paths[0]
    assert path.first.norm == 0, "ReLU(0) has no slope"
    assert 10**path.exploding == pytest.approx(3.0**10, rel=1e-6)
    assert severities(diagnosis, "GH201") == ["failure"]
    calm, x = unrolled(1, gain=1.0)
    assert probe(calm, x, loss=lambda y: y.sum(), select=["GH201"]).findings == ()


def adapter(a: float, b: float) -> Wired:
    """A frozen layer with a low-rank adapter, whose factors are plain parameters."""
    return Wired(
        lambda m, x: m.frozen(x) + x @ m.A @ m.B,
        frozen=nn.Linear(20, 5).requires_grad_(False),
        A=nn.Parameter(a * torch.randn(20, 4)),
        B=nn.Parameter(b * torch.randn(4, 5)),
    )


def test_an_adapter_with_both_factors_zero_trains_nothing() -> None:
    x, y = batch()
    assert probe(adapter(1.0, 0.0), x, y, loss=cross_entropy).verdict == "healthy"
    diagnosis = probe(adapter(0.0, 0.0), x, y, loss=cross_entropy)
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    assert [(f.code, f.severity, f.message) for f in diagnosis.findings] == [
        (
            "GH401",
            "failure",
            "exactly zero gradient for 2 parameters (A and B): nothing would be trained",
        )
    ]


def positioned(data: bool) -> Wired:
    """Two trunks and a table of positions (or a third trunk) behind a factor of 1e-4."""
    return Wired(
        lambda m, a, b: m.head(
            m.left(a) + m.right(b) + 1e-4 * m.table(a if data else torch.ones(1, 20))
        ),
        left=nn.Linear(20, 32),
        right=nn.Linear(20, 32),
        table=nn.Linear(20, 32),
        head=nn.Linear(32, 5),
    )


@pytest.mark.parametrize("data", [False, True])
def test_a_path_without_data_raises_no_warning(data: bool) -> None:
    (a, y), (b, _) = batch(), batch()
    diagnosis = probe(positioned(data), (a, b), y, loss=cross_entropy)
    side = next(p for p in diagnosis.profile.paths if p.first.name == "table")
    assert -5 < side.vanishing < -3
    assert side.judged is data
    assert said(diagnosis) == ([("GH101", "warning", "table")] if data else [])


def exploding() -> nn.Module:
    model = mlp(hidden=8)
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(weight, std=0.7)
    return model


NETS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": mlp,
    "8 ReLU": lambda: mlp(hidden=8),
    "14 ReLU": lambda: mlp(hidden=14),
    "15 ReLU": lambda: mlp(hidden=15),
    "tanh": lambda: mlp(nn.Tanh, hidden=6),
    "6 sigmoid": lambda: mlp(nn.Sigmoid, hidden=6),
    "7 sigmoid": lambda: mlp(nn.Sigmoid, hidden=7),
    "8 sigmoid": lambda: mlp(nn.Sigmoid, hidden=8),
    "exploding": exploding,
    "zero head": lambda: nn.Sequential(mlp(), zeroed(nn.Linear(5, 5))),
    "sigmoid behind a zero head": lambda: nn.Sequential(
        mlp(nn.Sigmoid, hidden=7), zeroed(nn.Linear(5, 5))
    ),
    "adapter": lambda: adapter(1.0, 0.0),
    "dead adapter": lambda: adapter(0.0, 0.0),
}


def verdicts(name: str, scale: float, seed: int) -> list[tuple[str, str, str]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, (x, y) = NETS[name](), batch()
        diagnosis = probe(model, x, y, loss=lambda out, labels: scale * cross_entropy(out, labels))
    return [(diagnosis.verdict, "", ""), *said(diagnosis)]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_verdict_does_not_depend_on_the_scale_of_the_loss(name: str, scale: float) -> None:
    for seed in range(3):
        assert verdicts(name, scale, seed) == verdicts(name, 1.0, seed)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(NETS)), decades=st.floats(-5, 5), seed=st.integers(0, 999))
def test_nor_on_any_other_scale(name: str, decades: float, seed: int) -> None:
    assert verdicts(name, 10**decades, seed) == verdicts(name, 1.0, seed)
