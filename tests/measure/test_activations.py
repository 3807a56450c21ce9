"""Shares of dead and flat units, counted by hand."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import pytest_gradhealth.measure.look
from pytest_gradhealth import probe
from pytest_gradhealth.measure.activations import CALLS, SAMPLE
from pytest_gradhealth.results.profile import ActivationRecord
from tests.helpers.architectures import Wired, with_biases
from tests.helpers.nets import batch, mlp
from tests.helpers.notes import Notes

cross_entropy = F.cross_entropy


def seen(model: nn.Module, x: Tensor, **options: Any) -> list[ActivationRecord]:
    diagnosis = probe(model, x, loss=lambda y: y.square().mean(), confirm_steps=0, **options)
    return list(diagnosis.profile.activations)


def only(model: nn.Module, x: Tensor) -> ActivationRecord:
    (record,) = seen(model, x)
    return record


RECTIFIERS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "nn.ReLU": nn.ReLU,
    "nn.ReLU in place": lambda: nn.ReLU(inplace=True),
    "F.relu": lambda: F.relu,
    "F.relu in place": lambda: F.relu_,
    "Tensor.relu": lambda: torch.relu,
    "nn.ReLU6": nn.ReLU6,
    "nn.ReLU6 in place": lambda: nn.ReLU6(inplace=True),
    "F.relu6": lambda: F.relu6,
    "nn.Threshold": lambda: nn.Threshold(0.5, 0.0),
    "F.threshold in place": lambda: lambda x: F.threshold(x, 0.5, 0.0, inplace=True),
}


@pytest.mark.parametrize("name", RECTIFIERS)
def test_the_dead_share_of_every_rectifier_is_counted_by_hand(name: str) -> None:
    act = RECTIFIERS[name]()
    model = Wired(
        lambda m, x: m.head(act(m.fc(x))),
        fc=nn.Linear(20, 12),
        head=nn.Linear(12, 5),
        **({"act": act} if isinstance(act, nn.Module) else {}),
    )
    x = torch.randn(3, 20)
    floor = 0.5 if "hreshold" in name else 0.0
    with torch.no_grad():
        share = (model.fc(x) <= floor).all(0).double().mean().item()
    assert 0 < share < 1
    record = only(model, x)
    assert (record.dead, record.units, record.flat) == (share, 12, None)
    assert record.name == ("act" if isinstance(act, nn.Module) else "fc")
    assert record.type == (type(act).__name__ if isinstance(act, nn.Module) else "Linear")
    assert record.function == (
        "Threshold" if "hreshold" in name else "ReLU6" if "6" in name else "ReLU"
    )


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "Linear": (lambda: nn.Linear(6, 8), (4, 6), 1),
    "Linear on tokens": (lambda: nn.Linear(6, 8), (4, 5, 6), 2),
    "Linear on an image": (lambda: nn.Linear(6, 8), (4, 5, 3, 6), 3),
    "LayerNorm": (lambda: nn.LayerNorm(8), (4, 5, 8), 2),
    "Conv1d": (lambda: nn.Conv1d(6, 8, 3), (4, 6, 9), 1),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(6, 8, 3), (4, 6, 9), 1),
    "Conv2d": (lambda: nn.Conv2d(6, 8, 3), (4, 6, 9, 7), 1),
    "Conv3d": (lambda: nn.Conv3d(6, 8, 3), (4, 6, 5, 5, 5), 1),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(8), (4, 8), 1),
    "BatchNorm1d on a sequence": (lambda: nn.BatchNorm1d(8), (4, 8, 9), 1),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(8), (4, 8, 5, 6), 1),
    "GroupNorm on a sequence": (lambda: nn.GroupNorm(2, 8), (4, 8, 9), 1),
}


@pytest.mark.parametrize("functional", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("name", LAYERS)
def test_units_are_features_or_channels_as_the_layer_has_them(name: str, functional: bool) -> None:
    build, shape, dim = LAYERS[name]
    layer, act = with_biases(build()), nn.ReLU()
    use = F.relu if functional else act
    model = Wired(lambda m, x: use(m.layer(x)) * 2, layer=layer, act=act)
    record = only(model, torch.randn(*shape))
    assert (record.dead, record.units) == (3 / 8, 8), dim
    assert record.name == ("layer" if functional else "act")


def test_the_channels_of_a_pooled_sequence_are_its_units() -> None:
    model = Wired(
        lambda m, x: F.relu(F.max_pool1d(m.conv(x), 2)) * 2,
        conv=with_biases(nn.Conv1d(6, 8, 3)),
    )
    assert only(model, torch.randn(4, 6, 9)).dead == 3 / 8


@pytest.mark.parametrize("between", [nn.MaxPool1d(2), nn.Dropout(0.1)], ids=["pool", "dropout"])
def test_the_channels_of_a_sequence_are_units_behind_a_layer_without_weights(
    between: nn.Module,
) -> None:
    conv = with_biases(nn.Conv1d(6, 8, 3))
    record = only(nn.Sequential(conv, between, nn.ReLU(), nn.Flatten()), torch.randn(4, 6, 9))
    assert (record.dead, record.units) == (3 / 8, 8)


@pytest.mark.parametrize(
    ("layer", "shape", "turn"),
    [
        (nn.Conv1d(6, 8, 3), (4, 6, 9), (0, 2, 1)),
        (nn.Conv2d(6, 8, 3), (4, 6, 9, 7), (0, 2, 3, 1)),
        (nn.Linear(6, 8), (4, 5, 6), (0, 2, 1)),
    ],
    ids=["Conv1d", "Conv2d", "Linear"],
)
def test_units_are_followed_through_a_transposition(
    layer: nn.Module, shape: tuple[int, ...], turn: tuple[int, ...]
) -> None:
    model = Wired(lambda m, x: F.relu(m.layer(x).permute(*turn)) * 2, layer=with_biases(layer))
    record = only(model, torch.randn(*shape))
    assert (record.dead, record.units) == (3 / 8, 8)


@pytest.mark.parametrize("examples", [1, 2, 3, 8])
def test_born_dead_units_are_those_whose_pre_activation_is_never_positive(examples: int) -> None:
    """A symmetric unit is dead with a probability of 2 ** -examples."""
    model = mlp(nn.ReLU, hidden=2, width=4096)
    x = torch.randn(examples, 20)
    expected, values = [], x
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.ReLU):
                expected.append((values <= 0).all(0).double().mean().item())
            values = layer(values)
    records = seen(model, x)
    assert [record.name for record in records] == ["1", "3"]
    assert [record.dead for record in records] == expected
    if examples < 4:
        # Examples share the bias, so that they agree a bit more often than coins do.
        assert expected[0] == pytest.approx(2.0**-examples, abs=0.1)


@pytest.mark.parametrize(
    ("function", "act"),
    [("Sigmoid", torch.sigmoid), ("Tanh", torch.tanh), ("Hardtanh", F.hardtanh)],
)
def test_the_flat_share_is_that_of_small_slopes(
    function: str, act: Callable[[Tensor], Tensor]
) -> None:
    model = Wired(
        lambda m, x: m.head(act(m.fc(x))), fc=nn.Linear(20, 64), head=nn.Linear(64, 5)
    ).double()
    nn.init.normal_(model.fc.weight, std=1.5)
    x = torch.randn(32, 20, dtype=torch.float64)
    before = model.fc(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(act(before).sum(), before)
    largest = 0.25 if function == "Sigmoid" else 1.0
    share = (slope / largest < 0.01).double().mean().item()
    assert 0.02 < share < 0.98
    record = only(model, x)
    assert (record.function, record.name, record.dead) == (function, "fc", None)
    assert record.flat == pytest.approx(share, abs=1e-12)


def test_large_activations_are_sampled() -> None:
    fc = nn.Linear(20, 31)
    nn.init.normal_(fc.weight)
    model = nn.Sequential(fc, nn.Tanh())
    x = torch.randn(5 * SAMPLE // 31, 20)
    with torch.no_grad():
        share = (1 - model(x).square() < 0.01).double().mean().item()
    assert only(model, x).flat == pytest.approx(share, abs=0.01)


def test_the_sample_sees_all_features() -> None:
    fc = nn.Linear(1, 32)
    model = nn.Sequential(fc, nn.Tanh())
    with torch.no_grad():
        fc.weight.zero_()
        fc.bias.zero_()
        fc.bias[::4] = 100.0
    assert only(model, torch.randn(4 * SAMPLE // 32, 1)).flat == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("alive_in", ["all", "the first example", "the last example", "none"])
def test_large_activations_are_dead_where_no_example_comes_through(alive_in: str) -> None:
    fc = nn.Linear(1, 32)
    model = nn.Sequential(fc, nn.ReLU())
    with torch.no_grad():
        fc.weight.fill_(1.0)
        fc.bias.fill_(0.0)
    x = torch.full((4 * SAMPLE // 32, 1), 1.0 if alive_in == "all" else -1.0)
    if alive_in.startswith("the"):
        x[-1 if "last" in alive_in else 0] = 1.0
    assert only(model, x).dead == (1.0 if alive_in == "none" else 0.0)


@pytest.mark.parametrize(
    "act",
    [F.gelu, F.silu, F.leaky_relu, F.elu, F.softplus, lambda x: x.clamp(0, 1), lambda x: x.abs()],
    ids=["gelu", "silu", "leaky_relu", "elu", "softplus", "clamp", "abs"],
)
def test_other_functions_are_left_alone(act: Callable[[Tensor], Tensor]) -> None:
    model = Wired(lambda m, x: m.head(act(m.fc(x))), fc=nn.Linear(20, 8), head=nn.Linear(8, 5))
    assert seen(model, torch.randn(4, 20)) == []


def test_single_numbers_and_vectors_have_no_units() -> None:
    model = Wired(lambda m, x: m.fc(x).mean(0).relu() + m.fc(x).sum().tanh(), fc=nn.Linear(20, 8))
    assert seen(model, torch.randn(4, 20)) == []


@pytest.mark.parametrize("scaled", ["x", "x / 0.3", "0.5 + x", "x.clamp(-9, 9)", "-x"])
def test_a_functional_activation_goes_by_its_layer_and_not_by_a_parameter(scaled: str) -> None:
    scale: Callable[[Tensor], Tensor] = eval(f"lambda x: {scaled}")
    parts = {"a": nn.Linear(4, 16), "b": nn.Linear(16, 2)}
    model = Wired(lambda m, x: m.b(torch.tanh(scale(m.a(x)))), **parts)
    assert only(model, torch.randn(8, 4)).name == "a"


def test_a_functional_activation_of_a_bare_weight_goes_by_its_name() -> None:
    model = Wired(lambda m, x: m.b(torch.tanh(x @ m.weight)), b=nn.Linear(16, 2))
    model.weight = nn.Parameter(torch.randn(4, 16))
    assert only(model, torch.randn(8, 4)).name == "weight"


def test_activations_come_in_the_order_of_the_model() -> None:
    model = Wired(
        lambda m, x: m.c(torch.tanh(m.b(F.relu(m.a(x))))).sigmoid(),
        a=nn.Linear(20, 8),
        b=nn.Linear(8, 8),
        c=nn.Linear(8, 5),
    )
    records = seen(model, torch.randn(16, 20))
    assert [(r.name, r.function) for r in records] == [
        ("a", "ReLU"),
        ("b", "Tanh"),
        ("(output)", "Sigmoid"),
    ]


def recurrent(steps: int) -> Wired:
    def use(m: Any, x: Tensor) -> Tensor:
        h = x
        for _ in range(steps):
            h = F.relu(m.cell(h))
        out: Tensor = m.head(h)
        return out

    return Wired(use, cell=nn.Linear(8, 8), head=nn.Linear(8, 5))


@pytest.mark.parametrize("steps", [1, CALLS - 1, CALLS, CALLS + 5])
def test_of_many_calls_of_a_layer_some_are_looked_at(steps: int) -> None:
    assert len(seen(recurrent(steps), torch.randn(4, 8))) == min(steps, CALLS)


def checkpointed() -> tuple[Wired, Notes[int]]:
    ran = Notes[int]()

    def use(m: Any, x: Tensor) -> Tensor:
        def inner(h: Tensor) -> Tensor:
            ran.append(1)
            out: Tensor = F.relu(m.b(torch.tanh(m.a(h))))
            return out

        out: Tensor = m.head(checkpoint(inner, x, use_reentrant=False))
        return out

    model = Wired(use, a=nn.Linear(20, 8), b=nn.Linear(8, 8), head=nn.Linear(8, 5))
    return model, ran


#: torch tells only from 2.10 on which saved tensors are packed.
tells_packed = pytest.mark.skipif(
    not hasattr(torch._C._autograd.SavedTensor, "unpack_hook"),
    reason="this torch does not tell which saved tensors are packed",
)


@tells_packed
def test_a_checkpoint_runs_no_more_often_than_without_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ran = checkpointed()
    x = torch.randn(4, 20, requires_grad=True)
    assert seen(model, x) == []
    assert len(ran) == 2, "once in the forward and once in the backward"
    ran.clear()
    monkeypatch.setattr(pytest_gradhealth.measure.look, "activations_of", lambda *_: [])
    seen(model, x)
    assert len(ran) == 2


@tells_packed
def test_what_saved_tensor_hooks_have_packed_stays_packed() -> None:
    unpacked = Notes[Tensor]()

    def use(m: Any, x: Tensor) -> Tensor:
        def unpack(value: Tensor) -> Tensor:
            unpacked.append(value)
            return value

        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            out: Tensor = F.relu(m.fc(x))
        return out

    model = Wired(use, fc=nn.Linear(20, 8))
    model(torch.randn(4, 20)).sum().backward()
    plain = len(unpacked)
    unpacked.clear()
    assert seen(model, torch.randn(4, 20)) == []
    assert len(unpacked) == plain


def test_what_was_changed_in_place_is_left_to_the_backward() -> None:
    """The backward raises for a changed result of tanh; the measurement must not be first."""
    model = Wired(lambda m, x: torch.tanh(m.fc(x)).mul_(2), fc=nn.Linear(20, 8))
    with pytest.raises(Exception, match="backward pass raised RuntimeError"):
        seen(model, torch.randn(4, 20))


def test_no_tensor_is_kept_alive() -> None:
    alive = Notes[weakref.ref[Tensor]]()

    def use(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.a(x))
        g = torch.tanh(m.b(h))
        alive.append(weakref.ref(h))
        alive.append(weakref.ref(g))
        out: Tensor = m.head(g)
        return out

    model = Wired(use, a=nn.Linear(20, 8), b=nn.Linear(8, 8), head=nn.Linear(8, 5))
    diagnosis = probe(model, *batch(), loss=cross_entropy)
    gc.collect()
    assert len(diagnosis.profile.activations) == 2
    assert alive
    assert [ref() for ref in alive] == [None] * len(alive)


def test_what_a_sample_is_taken_with_is_let_go_of() -> None:
    def indices() -> int:
        gc.collect()
        objects = [thing for thing in gc.get_objects() if type(thing) is Tensor]
        return sum(t.dtype == torch.int64 and t.numel() == SAMPLE for t in objects)

    before = indices()
    model = nn.Sequential(nn.Linear(20, 32), nn.Tanh())
    assert only(model, torch.randn(SAMPLE // 32 + 1, 20)).flat is not None  # a size of its own
    assert indices() == before
