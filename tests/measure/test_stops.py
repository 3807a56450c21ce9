"""Which operation keeps all gradient from parameters that get nothing but zeros."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import probe
from pytest_gradhealth.measure.stops import stops
from pytest_gradhealth.results.stop import Stop
from pytest_gradhealth.subject.subject import Subject
from tests.helpers.functions import function


class Two(nn.Module):
    """Two layers, and a function between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 6), nn.Linear(6, 2), between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.between(self.a(x)))
        return out


def of(model: nn.Module) -> tuple[Stop, ...]:
    x = torch.ones(8, 4, dtype=next(model.parameters()).dtype)
    subject = Subject(model, x, None, torch.sum, torch.device("cpu"))
    return stops(subject, [name for name, _ in model.named_parameters()], seed=0)


def before(model: nn.Module, name: str) -> list[Stop]:
    return [replace(stop, parameters=()) for stop in of(model) if name in stop.parameters]


CANCELS = Stop("Addmm", "a", "Linear", kind="cancels")
#: A product with the number 0.
TIMES_0 = Stop("Mul", "a", "Linear", "behind", zeros="0")


@pytest.mark.parametrize(
    ("between", "stop"),
    [
        (lambda x: F.relu(x - 99), Stop("Relu", "a", "Linear", "behind", elements=0)),
        (lambda x: torch.tanh(x / 0.01 + 99), Stop("Tanh", "a", "Linear", "behind")),
        (nn.Sequential(nn.Tanh(), nn.ReLU6()), None),
        (lambda x: x.clamp(max=-99), Stop("Clamp", "a", "Linear", "behind")),
        (lambda x: x.round(), Stop("Round", "a", "Linear", "behind")),
        (lambda x: x * 0, TIMES_0),
        (lambda x: F.relu(x - 99) * x, Stop("Relu", "a", "Linear", "behind", elements=0)),
        (lambda x: F.relu6(x - 99), Stop("Relu6", "a", "Linear", "behind")),
        (lambda x: torch.atan2(0 * x, 0 * x), TIMES_0),
        (
            lambda x: torch.atan2(x - x.detach(), x - x.detach()),
            Stop("Atan2", "a", "Linear", "behind"),
        ),
        (lambda x: F.normalize(0 * x, dim=1), TIMES_0),
        (lambda x: torch.maximum(x - 99, 0 * x), Stop("Maximum", "a", "Linear", "behind")),
        (
            lambda x: (x - 99).clamp(min=0).prod(1, True).expand(8, 6),
            Stop("Clamp", "a", "Linear", "behind"),
        ),
        (lambda x: F.softplus(x - 999).square(), Stop("Softplus", "a", "Linear", "behind")),
        (lambda x: x - x.detach() - (x - x.detach()), CANCELS),
        (lambda x: x / x.abs(), CANCELS),
        (
            lambda x: F.normalize(x[..., None], dim=-1)[..., 0],
            replace(CANCELS, op="Unsqueeze", at="behind"),
        ),
    ],
    ids=[
        *("relu", "tanh", "alive", "clamp", "round", "zeros", "zeros of a relu", "relu6"),
        *("zeros in atan2", "atan2", "normalised zeros", "maximum", "product", "power"),
        *("cancelled", "over its own size", "normalised alone"),
    ],
)
def test_a_function_behind_a_layer(between: Callable[[Tensor], Tensor], stop: Stop | None) -> None:
    assert before(Two(between), "a.weight") == ([] if stop is None else [stop])


def test_a_module_is_named_itself() -> None:
    dead = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    nn.init.constant_(dead[0].bias, -99)  # type: ignore[arg-type]
    (stop,) = before(dead, "0.bias")
    assert stop == Stop("Relu", "1", "ReLU", elements=0)
    assert stop.where == "1 (ReLU)"


@pytest.mark.parametrize(
    ("op", "typed"),
    [
        ("ClampMin", "clamp_min"),
        ("NativeLayerNorm", "layer_norm"),
        ("Relu", "relu"),
        ("ToCopy", "to"),
        ("GridSampler2D", "grid_sample"),
        ("FakeQuantizePerTensorAffineCachemask", "fake_quantize_per_tensor_affine"),
    ],
)
def test_a_function_is_told_as_it_is_typed(op: str, typed: str) -> None:
    assert Stop(op, "a", "Linear", "behind").where == f"{typed} behind a (Linear)"


def test_what_levels_one_element_is_told_whether_or_not_parameters_are_behind() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.LayerNorm(1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.norm(x[..., None])[..., 0])
            return out

    level = next(stop for stop in of(First()) if stop.levels)
    assert (level.op, level.layer, level.elements) == ("NativeLayerNorm", "norm", 1)


@pytest.mark.parametrize("name", ["Mute", "Hardtanh", "Relu", "Softmax", "NativeLayerNorm"])
def test_a_function_of_the_models_own_that_passes_none_on_is_told_from_one_of_zeros(
    name: str,
) -> None:
    none = Stop(name, "a", "Linear", "behind", kind="none")
    assert before(Two(function(name, torch.round, lambda _: None)), "a.weight") == [none]
    zeros = function(name, torch.round, torch.zeros_like)
    assert before(Two(zeros), "a.weight") == [replace(none, kind="zeros")]


def test_a_function_of_the_models_own_may_be_called_as_one_of_torch() -> None:
    hard = function("Hardtanh", lambda x: x.clamp(-1, 1), lambda gradient: gradient)
    assert probe(Two(hard), torch.randn(8, 4), loss=Tensor.sum).verdict == "healthy"


@pytest.mark.parametrize(
    ("between", "at", "layer"),
    [
        (lambda x: torch.sigmoid(x), "behind", "a"),
        (nn.Sigmoid(), "", "between"),
        (lambda x: 1e-3 * x, "behind", "a"),
        (nn.Linear(6, 6), "", "between"),
    ],
    ids=["function", "module", "product", "layer"],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_rounds_a_gradient_to_zero_is_no_stop_by_itself(
    between: Callable[[Tensor], Tensor], at: str, layer: str, dtype: torch.dtype
) -> None:
    """One that is as small as its format allows is not halved, but lost."""
    torch.manual_seed(0)
    model = Two(between)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)
        model.a.bias.fill_(6)
        model.b.weight.fill_(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps)
    (stop,) = before(model.to(dtype), "a.weight")
    assert (stop.kind, stop.at, stop.layer) == ("rounding", at, layer)


def zeros(hidden: int) -> nn.Sequential:
    layers = [part for _ in range(hidden) for part in (nn.Linear(4, 4), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(4, 4))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("hidden", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_what_weights_of_zero_make_zero_is_not_rounded_to_it(
    hidden: int, dtype: torch.dtype
) -> None:
    """With as many examples of each class, the gradient of the last bias sums up to zero."""
    model, x = zeros(hidden).to(dtype), torch.randn(64, 4, dtype=dtype)
    targets = torch.arange(64) % 4
    subject = Subject(model, x, targets, F.cross_entropy, torch.device("cpu"))
    names = [name for name, _ in model.named_parameters()]
    found = stops(subject, names, seed=0)
    assert {(stop.layer, stop.kind) for stop in found if "0.weight" in stop.parameters} == {
        (str(2 * hidden), "weights")
    }
    assert "rounding" not in {stop.kind for stop in found}


def test_a_product_rounds_to_zero_beside_a_bias_whose_gradient_sums_up_to_that() -> None:
    tiny = 2.0**-140
    last = nn.Linear(4, 4)
    nn.init.constant_(last.weight, tiny)
    model = nn.Sequential(nn.Linear(4, 4), last)
    x, signs = torch.randn(8, 4), torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    subject = Subject(model, x, signs, lambda y, s: 2.0**-20 * (y * s).sum(), torch.device("cpu"))
    found = stops(subject, [name for name, _ in model.named_parameters()], seed=0)
    assert [stop.parameters for stop in found if stop.kind == "rounding"] == [
        ("0.bias", "0.weight")
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_flat_is_told_before_what_cancels(dtype: torch.dtype) -> None:
    model = Two(lambda x: (h := F.relu(x - 99).add(0)) - 0.9 * h)
    (stop,) = before(model.to(dtype), "a.weight")
    assert (stop.op, stop.kind) == ("Relu", "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_gets_small_does_not_cancel(dtype: torch.dtype) -> None:
    model = Two(lambda x: (h := (x * 0).add(0)) - 0.9 * h)
    (stop,) = before(model.to(dtype), "a.weight")
    assert (stop.op, stop.kind) == ("Mul", "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("function", [lambda x: x / x.abs(), lambda x: x.tanh() / x.tanh()])
def test_what_cancels_does_so_in_every_format(
    function: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    assert before(Two(function).to(dtype), "a.weight") == [CANCELS]


def shut_below_0(x: Tensor) -> Tensor:
    """Rectified numbers over their own size: of those above 0, what comes back cancels."""
    rectified = F.relu(x - x.detach() + torch.arange(-2, 4))
    return rectified / rectified.abs().clamp_min(1e-6)


CANCELS_AT_RELU = Stop("Relu", "a", "Linear", "behind", kind="cancels")


@pytest.mark.parametrize(
    ("function", "stop"),
    [
        (shut_below_0, CANCELS_AT_RELU),
        (lambda x: shut_below_0(x).exp(), CANCELS_AT_RELU),
        (
            lambda x: F.normalize(F.relu(x)[..., None], dim=-1)[..., 0],
            replace(CANCELS_AT_RELU, op="Unsqueeze"),
        ),
    ],
    ids=["at a relu", "further from the loss", "seen behind it"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_cancels_where_a_relu_is_open_is_not_the_relus_doing(
    function: Callable[[Tensor], Tensor], stop: Stop, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    assert before(Two(function).to(dtype), "a.weight") == [stop]


def test_a_relu_that_is_shut_where_gradient_comes_is_told_though_something_cancels() -> None:
    def shut(x: Tensor) -> Tensor:
        signs = torch.tensor([1.0, 1, 1, -1, -1, -1])
        rectified = F.relu(x - x.detach() + signs)
        cancelling = rectified - rectified.detach() - (rectified - rectified.detach())
        return torch.where(signs > 0, 0.0, rectified + cancelling)

    (stop,) = before(Two(shut), "a.weight")
    assert (stop.op, stop.kind) == ("Relu", "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(-1).sum(-1, True).expand(8, 6),
        lambda x: F.layer_norm(x, (6,)).mean(-1, True).expand(8, 6),
        lambda x: F.group_norm(x, 2).mean(-1, True).expand(8, 6),
        lambda x: F.batch_norm(x + torch.arange(8)[:, None] ** 2, None, None, training=True),
    ],
    ids=["softmax", "layer norm", "group norm", "batch norm"],
)
def test_a_gradient_that_is_the_same_for_all_gets_through_no_sum_that_is_always_the_same(
    function: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    (stop,) = before(Two(function).to(dtype), "a.weight")
    assert (stop.kind, stop.layer, stop.at) == ("even", "a", "behind")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(-1)[:, :1].expand(8, 6),
        lambda x: F.layer_norm(x, (6,))[:, :1].expand(8, 6),
        lambda x: (1e6 * x).softmax(-1).sum(-1, True).expand(8, 6),
    ],
    ids=["softmax", "layer norm", "saturated"],
)
def test_a_gradient_that_tells_apart_is_not_even(function: Callable[[Tensor], Tensor]) -> None:
    assert not any(stop.kind == "even" for stop in of(Two(function)))


def test_a_hook_that_takes_the_gradient_away_is_no_gradient_that_cancels() -> None:
    def muted(x: Tensor) -> Tensor:
        h = 2 * x
        h.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
        return h.tanh()

    assert before(Two(muted), "a.weight") == []


def test_what_is_flat_is_a_stop_however_small_the_gradient() -> None:
    model = Two(lambda x: F.relu(x - 99))
    with torch.no_grad():
        model.b.weight.fill_(1e-45)
    (stop,) = before(model, "a.weight")
    assert (stop.op, stop.kind) == ("Relu", "")


def test_a_forward_that_does_not_run_tells_nothing() -> None:
    assert of(Two(lambda x: x @ x)) == ()


class Pair(nn.Module):
    """Compares what two layers make of two views of a batch."""

    def __init__(self, act: Callable[[Tensor], Tensor], compared: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.act, self.compared = nn.Linear(4, 6), nn.Linear(6, 3), act, compared

    def forward(self, x: Tensor) -> Tensor:
        one, two = (self.b(self.act(self.a(view))) for view in (x, x.roll(1, 0)))
        return self.compared(one, two)


def far(one: Tensor, two: Tensor) -> Tensor:
    return (one - two).square().mean(1)


def whitened(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.std(0) + 1e-5)


CONTRASTS = {
    "hinge": lambda one, two: F.relu(1 - far(one, two)).mean(),
    "softplus": lambda one, two: F.softplus(1 - far(one, two)).mean(),
    "margin": lambda one, two: F.triplet_margin_loss(one, one.roll(1, 0), two),
    "absolute": lambda one, two: 2 - (one - two).abs().mean(),
    "variance": lambda one, two: (
        F.relu(2 - (one.var(0) + 1e-4).sqrt()).mean() + F.mse_loss(one, two)
    ),
    "whitened": lambda one, two: (whitened(one).T @ whitened(two) - torch.eye(3)).square().sum(),
    "distance": lambda one, two: 1 - torch.linalg.vector_norm(one - two, dim=1).mean(),
}


@pytest.mark.parametrize("compared", CONTRASTS.values(), ids=CONTRASTS)
@pytest.mark.parametrize("act", [F.relu, nn.ReLU()], ids=["function", "module"])
def test_units_that_are_dead_are_told_where_a_loss_of_equal_examples_sends_nothing_back(
    compared: Callable[..., Tensor], act: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    model = Pair(act, compared)
    nn.init.constant_(model.a.bias, -99)
    subject = Subject(model, torch.randn(8, 4), None, None, torch.device("cpu"))
    (stop,) = stops(subject, ["a.weight", "a.bias", "b.weight"], seed=0)
    assert (stop.op, stop.elements, stop.kind) == ("Relu", 0, "")
    assert stop.where == ("act (ReLU)" if isinstance(act, nn.Module) else "relu behind a (Linear)")
    assert stop.parameters == ("a.bias", "a.weight", "b.weight")


def test_where_no_unit_is_dead_equal_examples_are_no_fault_of_the_layers() -> None:
    torch.manual_seed(0)
    model = Pair(F.relu, CONTRASTS["hinge"])
    subject = Subject(model, torch.ones(8, 4), None, None, torch.device("cpu"))
    (stop,) = stops(subject, ["a.weight", "b.weight"], seed=0)
    assert stop.op == "Pow"


@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(), nn.Identity()])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.LayerNorm(6), nn.Linear(6, 6)])
def test_weights_of_zero_are_told_and_not_the_units_that_they_make_dead(
    layer: nn.Module, frozen: bool, act: nn.Module
) -> None:
    layer = deepcopy(layer).requires_grad_(not frozen)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    model = nn.Sequential(nn.Linear(4, 6), layer, act, nn.Linear(6, 2))
    (stop,) = before(model, "0.weight")
    assert (stop.kind, stop.where) == ("weights", f"1 ({type(layer).__name__})")


def test_a_gate_of_zeros_is_not_what_makes_units_dead_that_come_later() -> None:
    """A block that starts as nothing, before units that are dead for their biases."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gate, self.b = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            nn.init.zeros_(self.gate.weight)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            out: Tensor = self.b(F.relu(h + self.gate(h) - 99))
            return out

    (stop,) = before(Net(), "a.weight")
    assert stop.op == "Relu"


def test_a_backward_that_takes_no_other_gradient_is_asked_for_nothing_more() -> None:
    def backward(gradient: Tensor) -> Tensor:
        if float(gradient.detach().flatten()[0]) != 1:
            raise ValueError
        return gradient

    root = function("Root", lambda x: x * 1, backward)
    model = Two(lambda x: F.relu(x - 99))
    subject = Subject(
        model, torch.ones(8, 4), None, lambda out: root(out.sum()), torch.device("cpu")
    )
    (stop,) = stops(subject, ["a.weight"], seed=0)
    assert stop.op == "Relu"
