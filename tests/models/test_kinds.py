"""Models of every kind: where their gradient is measured, and that nothing of them changes."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import Diagnosis, ProbeError, probe
from pytest_gradhealth.results.names import OUTPUT, OUTPUTS
from pytest_gradhealth.results.path import PathPoint
from tests.helpers import kinds
from tests.helpers.kinds import KINDS, Kind, body
from tests.helpers.nets import batch, mlp
from tests.helpers.state import unchanged

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{text}")
    for text in ("prototype", "weight_norm", "deprecat", "reduce_range")
]

cross_entropy = nn.functional.cross_entropy


def built(kind: Kind, *, sick: bool = False) -> tuple[nn.Module, Any, Any]:
    """The model with a batch and targets, the same every time."""
    torch.manual_seed(1)
    return kind.build(sick), kind.inputs(), kind.targets()


def held(inputs: Any) -> list[Tensor]:
    """The tensors of a batch that the state check can read."""
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    found = [inputs] if isinstance(inputs, Tensor) else list(values)
    return [t for t in found if isinstance(t, Tensor) and not t.is_nested]


def probed(kind: Kind, *, sick: bool = False) -> Diagnosis:
    model, inputs, targets = built(kind, sick=sick)
    with unchanged(model, *held(inputs)):
        return probe(model, inputs, targets, loss=kind.loss)


def loss_of(kind: Kind, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
    """The loss as a training loop computes it."""
    if isinstance(inputs, Mapping):
        outputs = model(**inputs)
    else:
        outputs = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    loss: Tensor = kind.loss(outputs, targets)
    return loss


def norm(gradient: Tensor) -> float:
    if gradient.is_nested:
        gradient = torch.cat([part.reshape(-1) for part in gradient.unbind()])
    return float(gradient.to_dense().abs().double().square().sum().sqrt())


def gradient_at(kind: Kind, point: PathPoint) -> float:
    """The gradient with respect to a zero that a forward hook adds to the output of a module."""
    model, inputs, targets = built(kind)
    shifts: list[Tensor] = []

    def shift(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        shifts.append(torch.zeros_like(output.detach()).requires_grad_())
        return output + shifts[-1]

    model = getattr(model, "_orig_mod", model)
    names = ["fork.left", "fork.right"] if point.name == OUTPUTS else [point.name]
    for name in names:
        module = model if name == OUTPUT else model.get_submodule(name)
        module.register_forward_hook(shift)
    with torch.compiler.set_stance("force_eager"):
        loss = loss_of(kind, model, inputs, targets)
    shifted = shifts if point.name == OUTPUTS else [shifts[point.call]]
    return math.hypot(*map(norm, torch.autograd.grad(loss, shifted)))


KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
TWIN = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.twin], ids=lambda kind: kind.name.replace(" ", "-")
)
HOOKED = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.hooked], ids=lambda kind: kind.name.replace(" ", "-")
)


@KIND
def test_a_healthy_model_of_every_kind_is_healthy(kind: Kind) -> None:
    diagnosis = probed(kind)
    several = any(points > 1 for _, _, points in kind.paths)
    assert diagnosis.verdict == ("healthy" if several else "not judged")
    found = tuple((p.first.label, p.last.label, len(p.points)) for p in diagnosis.paths)
    assert found == kind.paths
    assert all(path.judged and path.finite for path in diagnosis.paths)
    assert len(diagnosis.profiles) == 1 + kind.gated


@TWIN
def test_a_sick_twin_of_every_kind_fails(kind: Kind) -> None:
    diagnosis = probed(kind, sick=True)
    assert diagnosis.verdict == "failure"
    (first, *_) = [f for f in diagnosis.findings if f.code == "GH101"]
    assert first.severity == "failure"
    assert first.path is not None
    assert diagnosis.profile.paths[first.path].first.name == kind.twin


@HOOKED
def test_first_and_last_norms_are_those_of_a_shifted_output(kind: Kind) -> None:
    for path in probed(kind).paths:
        for point in (path.first, path.last):
            assert point.norm == pytest.approx(gradient_at(kind, point), rel=1e-5), point.label


@KIND
def test_norms_of_parameters_are_those_of_a_plain_backward(kind: Kind) -> None:
    model, inputs, targets = built(kind)
    with torch.compiler.set_stance("force_eager"):
        loss_of(kind, model, inputs, targets).backward()  # type: ignore[no-untyped-call]
    model = getattr(model, "_orig_mod", model)
    expected = {n: norm(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    records = probed(kind).profile.parameters
    found = {p.name: p.gradient for p in records if p.gradient is not None}
    assert found == pytest.approx(expected, rel=1e-5)
    states = {p.state for p in records if p.name not in expected}
    assert states <= {"frozen"}


# Norms that a shifted output cannot tell.


def test_a_functional_model_is_measured_where_its_parameters_are_used() -> None:
    model, (x, y) = kinds.Functional(False), batch()
    hidden = model.hidden(x)
    loss = cross_entropy(
        nn.functional.linear(hidden[-1].relu(), model.head["weight"], model.head["bias"]), y
    )
    expected = [norm(gradient) for gradient in torch.autograd.grad(loss, hidden)]
    with unchanged(model, x, y):
        (path,) = probe(model, x, y, loss=cross_entropy).paths
    assert [(p.label, p.type) for p in path.points] == [
        *((f"weights.{i}", "Parameter") for i in range(6)),
        ("(output)", "Functional"),
    ]
    assert [point.norm for point in path.points[:-1]] == pytest.approx(expected, rel=1e-5)
    assert path.points[0].ops == ("Relu",)


def test_submodules_without_parameters_leave_a_model_functional() -> None:
    class Half(kinds.Functional):
        def __init__(self) -> None:
            super().__init__(False)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.act(super().forward(self.act(x)))
            return out

    (path,) = probe(Half(), batch()[0]).paths
    assert path.first.label == "weights.0"
    assert path.last.label == "act#1"


@pytest.mark.parametrize("sick", [False, True])
def test_layers_that_only_hold_parameters_for_functions_are_measured(sick: bool) -> None:
    """Several towers, so that it is asked which of them carry data."""

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = (body(sick) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            act = torch.sigmoid if sick else torch.relu
            sides = []
            for side in (self.left, self.right):
                hidden = x
                for number, layer in enumerate(side[::2].children()):
                    assert isinstance(layer, nn.Linear)
                    hidden = act(hidden) if number else hidden
                    hidden = nn.functional.linear(hidden, layer.weight, layer.bias)
                sides.append(hidden)
            return sides[0] + sides[1]

    model, (x, y) = Holder(), batch()
    with unchanged(model, x, y):
        diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == ("failure" if sick else "healthy")
    paths = [path for path in diagnosis.paths if path.judged]
    assert [path.first.label for path in paths] == ["left.0.weight", "right.0.weight"]
    assert {f.code for f in diagnosis.findings} >= ({"GH101"} if sick else set())


def test_a_function_of_parameters_alone_is_no_layer() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (nn.Parameter(torch.randn(20, 20) / 4) for _ in range(2))
            self.gate = nn.Parameter(torch.zeros(20))

        def forward(self, x: Tensor) -> Tensor:
            weight = self.one.t() * self.gate.sigmoid()
            return (x @ weight).relu() @ self.two

    (path,) = probe(Masked(), batch()[0]).paths
    assert [point.label for point in path.points] == ["one", "(output)"]


def test_a_module_under_vmap_is_measured_as_without() -> None:
    model, (x, y) = mlp(), batch()
    mapped = kinds.Around(model, lambda net, x: torch.func.vmap(net)(x))
    plain, under = (probe(m, x, y, loss=cross_entropy).paths[0] for m in (model, mapped))
    assert [p.shape for p in under.points] == [p.shape for p in plain.points]
    assert [p.norm for p in under.points] == pytest.approx([p.norm for p in plain.points], rel=1e-5)


def test_a_gradient_inside_the_forward_is_no_obstacle() -> None:
    net = mlp(nn.Tanh, classes=1)
    model, (x, _) = kinds.Around(net, kinds.slope), batch()
    with unchanged(model, x):
        diagnosis = probe(model, x)
    assert diagnosis.verdict == "healthy"
    assert [f.message for f in diagnosis.findings] == [
        "the loss does not depend on net.6.bias (1 parameter): it is made of gradients, which"
        " constants do not change"
    ]
    assert diagnosis.paths[0].first.label == "net.0"


def test_a_nan_under_vmap_is_traced_to_its_module() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x) / (x - x)

    net = nn.Sequential(nn.Linear(20, 8), Broken(), nn.Linear(8, 5))
    model = kinds.Around(net, lambda net, x: torch.func.vmap(net)(x))
    bad = probe(model, batch()[0]).profile.non_finite
    assert bad is not None
    assert (bad.during, bad.layer, bad.value) == ("forward", "net.1", "nan")


# Compilation.


def test_the_backend_of_the_zoo_notices_compilation() -> None:
    model: Any = torch.compile(mlp(), backend=kinds.refuse)
    with pytest.raises(Exception, match="something was compiled"):
        model(batch()[0])
    torch._dynamo.reset()


@pytest.mark.parametrize("before", [False, True])
def test_a_probe_neither_compiles_nor_spoils_what_was_compiled(before: bool) -> None:
    compiled: list[object] = []

    def count(graph: Any, _: object) -> Any:
        compiled.append(graph)
        return graph.forward

    (x, y), model = batch(), cast("Any", torch.compile(mlp(), backend=count))
    if before:
        model(x)

    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    loss: Any = torch.compile(own, backend=count)
    with unchanged(model._orig_mod, x):
        probe(model, x, y, loss=loss)
    assert len(compiled) == (1 if before else 0)
    model(x)
    assert len(compiled) == 1
    torch._dynamo.reset()


def test_a_factory_may_compile() -> None:
    x, y = batch()
    diagnosis = probe(
        lambda: torch.compile(mlp(), backend=kinds.refuse),  # type: ignore[arg-type,return-value]
        x,
        y,
        loss=cross_entropy,
    )
    assert (diagnosis.verdict, diagnosis.model) == ("healthy", "Sequential")


# Faults that belong to a kind.


def test_a_reentrant_checkpoint_without_a_gradient_to_pass_on_is_found_out() -> None:
    """It gives gradients only where an input requires one; a stem in front of it would."""
    (x, y), model = batch(), kinds.InPieces(False, reentrant=True)
    model.stem = nn.Identity()  # type: ignore[assignment]
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert [(f.code, f.message) for f in diagnosis.findings] == [
        (
            "GH401",
            "no gradient reaches 4 parameters (net.0.weight, net.0.bias, net.2.weight and"
            " 1 more): cut off from the loss",
        )
    ]
    with_input = probe(model, x.clone().requires_grad_(), y, loss=cross_entropy)
    assert with_input.verdict == "healthy"
    assert with_input.paths[0].first.label == "(input)"


def test_a_trainable_discriminator_does_not_hide_a_generator_without_gradient() -> None:
    class Detached(kinds.Gan):
        def forward(self, noise: Tensor) -> Any:
            return self.judge(self.generator(noise).detach())

    diagnosis = probe(Detached(False, trainable=True), batch()[0], loss=kinds.fools)
    assert [(f.code, f.layer) for f in diagnosis.findings] == [("GH401", "generator.0")]


# Depth.


@pytest.mark.parametrize("layers", [1, 10_000])
def test_any_number_of_layers(layers: int) -> None:
    """Orthogonal layers, so that every point of the path gets the same norm."""
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(layers)))
    for layer in model:
        layer.weight.data = torch.eye(4).roll(1, 0)
    began = time.perf_counter()
    diagnosis = probe(model, torch.randn(8, 4))
    assert time.perf_counter() - began < 30
    assert diagnosis.verdict == ("healthy" if layers > 1 else "not judged")
    assert len(diagnosis.paths[0].points) == layers
    assert diagnosis.paths[0].ratio == pytest.approx(1.0, rel=1e-4)


def test_a_silent_network_is_judged_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: each parameter's block is asked for a fixed number of times."""
    from pytest_gradhealth.results.profile import GradientProfile, OutputRecord, ParameterRecord
    from pytest_gradhealth.rules import unreached
    from pytest_gradhealth.rules.rule import Evidence

    asked: list[str] = []
    block = unreached._block

    def counted(name: str) -> str:
        asked.append(name)
        return block(name)

    monkeypatch.setattr(unreached, "_block", counted)
    parameters = [ParameterRecord(f"{i}.weight", (4, 4), "zero", 1.0, 0.0) for i in range(1000)]
    outputs = [OutputRecord(f"{i}", "Linear", "measured", (8, 4), 32, 0.0) for i in range(1000)]
    profile = GradientProfile(0, 0, 1.0, (), tuple(outputs), tuple(parameters))
    (finding,) = unreached.check(Evidence(profile, None, {}))
    assert finding.message == (
        "exactly zero gradient for 1000 parameters (0.weight, 1.weight, 2.weight and 997 more):"
        " nothing would be trained"
    )
    assert len(asked) <= 2000


# What models keep.


def test_a_graph_of_the_caller_survives() -> None:
    """A hidden state that was not detached: the next step of the caller goes through it."""

    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(20, 12), nn.Linear(12, 5)
            self.state: Any = None

        def forward(self, x: Tensor) -> Any:
            self.state = self.cell(x, self.state)
            return self.head(self.state)

    def step(probing: bool) -> list[Tensor]:
        torch.manual_seed(3)
        model, (x, y) = Stateful(), batch()
        model(x)
        if probing:
            with unchanged(model, x):
                assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        return [p.grad for p in model.parameters() if p.grad is not None]

    for ours, theirs in zip(step(True), step(False), strict=True):
        assert torch.equal(ours, theirs)


def test_a_buffer_that_a_forward_resizes_is_itself_again() -> None:

    def resize(net: Any, x: Tensor) -> Any:
        net.scale.resize_(40).fill_(3.0)
        return net(x)

    net: Any = mlp()
    net.register_buffer("scale", torch.ones(1))
    scale = net.scale
    probe(kinds.Around(net, resize), batch()[0])
    assert net.scale is scale
    assert scale.tolist() == [1.0]


def lines() -> Iterator[str]:
    yield from "ab"


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (threading.Lock(), "cannot pickle '_thread.lock' object"),
        (lines(), "cannot pickle 'generator' object"),
        (sys.__stdout__, "cannot pickle '_io.TextIOWrapper' object"),
        (threading, "cannot pickle 'module' object"),
    ],
    ids=["lock", "generator", "file", "module"],
)
def test_what_cannot_be_copied_is_in_the_way_of_a_second_look_alone(kept: Any, why: str) -> None:
    (x, y), model = batch(), kinds.Locked(kept)
    with unchanged(model, x):
        assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"
    model.body = body(True)
    with pytest.raises(ProbeError) as caught, unchanged(model, x):
        probe(model, x, y, loss=cross_entropy)
    assert str(caught.value) == (
        f"Locked cannot be deep-copied (TypeError: {why}), which confirming a verdict or moving to"
        " cpu takes; pass a factory that builds the model on its device, or confirm_steps=0 to"
        " judge the first look alone"
    )
    assert probe(model, x, y, loss=cross_entropy, confirm_steps=0).verdict == "failure"


class Found:
    """An object of anyone's that holds a model."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net


def test_a_copy_that_computes_with_the_originals_weights_is_refused() -> None:
    (x, y), model = batch(), kinds.Around(mlp(), lambda net, x: net(x))
    sick = body(True)
    model.net, model.call = sick, lambda _, x: sick(x)
    with unchanged(model, x):
        assert probe(model, x, y, loss=cross_entropy).verdict == "failure"
    found = Found(sick)
    model.call = lambda _, x: found.net(x)
    with pytest.raises(ProbeError) as caught, unchanged(model, x):
        probe(model, x, y, loss=cross_entropy)
    first, second = str(caught.value).split("\n")
    assert first == (
        "a copy of Around does not compute with its own parameters (does it keep a function that"
        " holds on to the model?), so that it cannot be trained to confirm a verdict; pass"
        " confirm_steps=0 to judge the first look alone"
    )
    assert "test_a_copy_that_computes_with_the_originals_weights_is_refused.<locals>" in second


def test_inference_tensors_around_a_model_do_no_harm() -> None:
    model, y = mlp(), batch()[1]
    with torch.inference_mode():
        x = torch.randn(16, 20)
        model.register_buffer("mean", torch.zeros(20))
    with unchanged(x):
        assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"
    sick = nn.Sequential(model, *body(True, inputs=5))
    with unchanged(x):
        assert probe(sick, x, y, loss=cross_entropy).verdict == "failure"


# Refusals.


class Hidden(nn.Module):
    """Layers and parameters in plain containers, which PyTorch does not register."""

    def __init__(self, *registered: nn.Module) -> None:
        super().__init__()
        self.layers = [nn.Linear(20, 20), nn.Linear(20, 20)]
        self.weights = {"first": nn.Parameter(torch.randn(20, 20) / 5)}
        self.heads = nn.ModuleList(registered)

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = layer(x)
        x = x @ self.weights["first"]
        for head in self.heads:
            x = head(x)
        return x


def deep(levels: int) -> nn.Module:
    model: nn.Module = nn.Linear(4, 4)
    for _ in range(levels):
        model = nn.Sequential(model)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(),
            "Sequential has no parameters, so there is no gradient to check; layers and parameters"
            " in plain lists or dicts are not registered: keep them in nn.ModuleList or"
            " nn.ParameterList",
        ),
        (
            Hidden(),
            "Hidden has no parameters, so there is no gradient to check; layers and parameters in"
            " plain lists or dicts are not registered: keep them in nn.ModuleList or"
            " nn.ParameterList",
        ),
        (
            nn.ModuleList([nn.Linear(20, 5)]),
            "ModuleList.forward raised NotImplementedError: Module [ModuleList] is missing the"
            ' required "forward" function\n  it was called with (16, 20) float32\n  pass what calls'
            " it in place of a forward, for example call=lambda model, x: model[0](x)",
        ),
        (
            nn.ParameterList([torch.ones(20)]),
            "ParameterList.forward raised RuntimeError: ParameterList should not be called.\n"
            "  it was called with (16, 20) float32",
        ),
        (
            kinds.Around(mlp(), lambda _, x: x),
            "the model's outputs do not depend on its trainable parameters; is something detached,"
            " or the forward wrapped in torch.no_grad()?",
        ),
        (
            kinds.Around(mlp(), lambda net, x: (t for t in (net(x),))),
            "the model returns nothing a gradient can flow back from (generator) and no loss was"
            " given; pass loss=... that computes one from what the model returns",
        ),
    ],
    ids=["no layers", "plain containers", "list", "parameters", "unused", "generator"],
)
def test_models_without_a_gradient_to_measure(model: nn.Module, message: str) -> None:
    with pytest.raises(ProbeError) as caught:
        probe(model, torch.randn(16, 20))
    assert str(caught.value) == message


def test_models_nested_too_deeply_to_be_walked_through() -> None:
    with pytest.raises(ProbeError) as caught:
        probe(deep(2 * sys.getrecursionlimit()), torch.randn(2, 4))
    assert str(caught.value) == (
        "Sequential nests its modules too deeply for Python's recursion limit"
        f" ({sys.getrecursionlimit()}); raise it with sys.setrecursionlimit(...), or nest less"
    )


def test_layers_in_a_plain_list_are_not_seen() -> None:
    """PyTorch does not train them either: the path starts at the first layer that it knows."""
    hidden = Hidden(nn.Linear(20, 8), nn.Linear(8, 5))
    diagnosis = probe(hidden, batch()[0])
    (path,) = diagnosis.paths
    assert [point.label for point in path.points] == ["heads.0", "heads.1"]
    (finding,) = diagnosis.findings
    assert (finding.code, finding.severity) == ("GH408", "warning")
    assert finding.message.startswith("the forward uses ")


def test_parameters_of_the_loss_and_of_other_models_are_not_the_models() -> None:
    x, y = batch()
    critic, weighing = nn.Linear(5, 1), nn.Parameter(torch.ones(()))
    diagnosis = probe(
        mlp(),
        x,
        y,
        loss=lambda out, t: weighing * nn.functional.cross_entropy(out, t) + critic(out).mean(),
    )
    assert diagnosis.profile.unregistered == ()
    assert diagnosis.verdict == "healthy"
    given = nn.Parameter(x)
    assert probe(mlp(), given, y, loss=nn.functional.cross_entropy).profile.unregistered == ()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_traced_modules_are_refused_and_scripted_functions_are_not() -> None:
    (x, y), model = batch(), mlp()
    with pytest.raises(ProbeError) as caught:
        probe(torch.jit.trace(model, x), x, y, loss=cross_entropy)  # type: ignore[no-untyped-call]
    assert str(caught.value) == (
        "TopLevelTracedModule holds a ScriptModule, which takes no hooks; pass the model as it was"
        " before torch.jit.script or torch.jit.trace"
    )
    act = torch.jit.trace(torch.relu, torch.randn(16, 32))  # type: ignore[no-untyped-call]
    functional = kinds.Around(model, lambda net, x: net[2](act(net[0](x))))
    assert [p.label for p in probe(functional, x).paths[0].points] == ["net.0", "net.2"]
