"""Whatever a probe does and however it ends, everything of the caller is as it was before."""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from pytest_gradhealth import ProbeError, probe
from tests.helpers.nets import batch, mlp
from tests.helpers.state import Doing, bits, busy, count, nothing, sick, unchanged, with_gradients

cross_entropy = nn.functional.cross_entropy


@pytest.fixture(autouse=True)
def _modes() -> Iterator[None]:
    """Undo what a failing test leaves behind."""
    dtype, numbers = torch.get_default_dtype(), (random.getstate(), np.random.get_state())
    yield
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    random.setstate(numbers[0])
    np.random.set_state(numbers[1])


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("hidden", [3, 10])
def test_a_busy_model_is_as_before(
    hidden: int, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    (x, y), model = batch(), busy(nn.ReLU if hidden == 3 else nn.Sigmoid, hidden)
    criterion = nn.CrossEntropyLoss(weight=torch.ones(5))
    with mode(), unchanged(model, criterion, x, y):
        diagnosis = probe(model, x, y, loss=criterion)
    assert diagnosis.verdict == ("healthy" if hidden == 3 else "failure")
    assert len(diagnosis.profiles) == (1 if hidden == 3 else 2)


def test_the_check_itself_sees_changes() -> None:
    x, y = batch()
    model: Any = busy()
    for act in (model, lambda x: x.mul_(2), lambda _: model.body.train(), lambda _: torch.rand(1)):
        with pytest.raises(AssertionError), unchanged(model, x):
            act(x)
    with pytest.raises(AssertionError), unchanged(model):
        torch.autograd.backward(cross_entropy(model(x), y))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("model", [mlp(), sick()], ids=["healthy", "failing"])
def test_a_callers_grad_mode_does_not_change_the_verdict(
    model: nn.Module, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    x, y = batch()
    outside = probe(model, x, y, loss=cross_entropy)
    with mode(), unchanged(model, x, y):
        inside = probe(model, x, y, loss=cross_entropy)
    assert (inside.verdict, inside.profiles) == (outside.verdict, outside.profiles)


def cache(self: Doing, x: Tensor) -> None:
    self.kept = x


class Refusing(OrderedDict[str, int]):
    """A configuration that cannot be changed once it is made."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made = True

    def __setitem__(self, key: str, value: int) -> None:
        if getattr(self, "made", False):
            raise TypeError("made for good")
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("made for good")


class Recent(OrderedDict[str, int]):
    """A cache of a given size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


def recent() -> Recent:
    cache = Recent(3)
    cache["a"] = 1
    return cache


@pytest.mark.parametrize(
    ("act", "kept"),
    [
        (count, None),
        (cache, None),
        (lambda self, x: self.kept.append(x), []),
        (lambda self, _: self.kept.update(a=1), {}),
        (lambda self, _: self.kept.update("ab"), Counter("abb")),
        (lambda self, x: self.kept["a"].append(x), defaultdict(list)),
        (lambda self, _: self.kept.add(3), {1, 2}),
        (lambda self, _: self.kept.update(b=2), recent()),
        (nothing, Refusing([("a", 1)])),
        (lambda self, x: self.kept.append(x), deque()),
        (lambda self, x: self.kept["a"].append(x), {"a": []}),
        (lambda self, x: self.kept[1].append(x), (1, [], "b")),
        (nothing, {nn.Parameter(torch.ones(2)): 1}),
        (lambda self, x: self.kept.update({x: 2}), {nn.Parameter(torch.ones(2)): 1}),
        (lambda self, x: self.register_buffer("more", x), None),
        (lambda self, _: self.add_module("more", nn.ReLU()), None),
        (lambda self, _: setattr(self.body[0], "weight", nn.Parameter(torch.ones(32, 20))), None),
        (lambda self, _: self.body.pop(-1), None),
        (lambda self, _: self.eval(), None),
        (lambda self, _: self.body[0].weight.requires_grad_(False), None),
        (lambda self, _: self.zero_grad(), None),
        (lambda self, _: self.body.register_forward_hook(lambda *_: None), None),
        (lambda self, _: self._forward_hooks.clear(), None),
        (lambda self, _: self.body[0].weight.register_hook(nothing), None),
        (
            lambda self, _: self.body[0].weight.register_post_accumulate_grad_hook(nothing),
            None,
        ),
    ],
    ids=[
        "counter",
        "cached tensor",
        "list",
        "dict",
        "Counter",
        "defaultdict",
        "set",
        "dict with a size",
        "frozen dict",
        "deque",
        "list in a dict",
        "list in a tuple",
        "dict of parameters",
        "dict of tensors",
        "new buffer",
        "new module",
        "new parameter",
        "module removed",
        "eval",
        "freezing",
        "zero_grad",
        "new hook",
        "hooks cleared",
        "tensor hook",
        "post-accumulate hook",
    ],
)
def test_what_a_forward_does_to_its_module_is_undone(
    act: Callable[[Any, Tensor], object], kept: object
) -> None:
    model, x = Doing(act, kept), batch()[0]
    model.register_forward_hook(lambda *_: None)
    with unchanged(with_gradients(model), x):
        probe(model, x)


def replace_data(self: Any, _: Tensor) -> None:
    self.body[0].weight.data = torch.zeros(32, 20)


def change_data(self: Any, _: Tensor) -> None:
    with torch.no_grad():
        self.body[0].weight.data.zero_()


def transpose_data(self: Any, _: Tensor) -> None:
    self.body[2].weight.data = self.body[2].weight.data.t()


@pytest.mark.parametrize("act", [replace_data, change_data, transpose_data])
def test_parameters_get_their_old_memory_back(act: Callable[[Any, Tensor], object]) -> None:
    model, x = Doing(act), batch()[0]
    with unchanged(model, x):
        probe(model, x)


def nan_buffer() -> Tensor:
    return torch.tensor([0x7FC00001, 0x7F800001], dtype=torch.int32).view(torch.float32)


def inference_tensor() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3)


@pytest.mark.parametrize(
    "buffer",
    [
        nan_buffer(),
        torch.tensor([True, False]),
        torch.tensor(3),
        torch.empty(0),
        torch.ones(1).expand(5),
        torch.arange(6.0).unfold(0, 3, 1),
        torch.arange(6.0).reshape(2, 3).t(),
        torch.tensor([1 + 2j]),
        torch.zeros(2, 3)[0],
        inference_tensor(),
        torch.eye(3).to_sparse(),
    ],
    ids=[
        "NaN",
        "bool",
        "0-dim",
        "empty",
        "expanded",
        "overlapping",
        "transposed",
        "complex",
        "view",
        "made in inference mode",
        "sparse",
    ],
)
def test_a_buffer_of_any_kind_stays_the_same(buffer: Tensor) -> None:
    model, x = Doing(lambda *_: None, buffer), batch()[0]
    with unchanged(model):
        assert probe(model, x).verdict == "healthy"


def test_a_plain_tensor_updated_in_place_is_as_before() -> None:
    model, x = Doing(lambda self, _: self.kept[0].add_(1), [torch.zeros(3)]), batch()[0]
    with unchanged(model):
        probe(model, x)


@pytest.mark.parametrize(
    "buffer",
    [torch.ones(3), torch.ones(2, 3)[0], torch.eye(3).to_sparse()],
    ids=["dense", "view", "sparse"],
)
def test_a_buffer_updated_in_place_is_as_before(buffer: Tensor) -> None:
    model, x = Doing(lambda self, _: self.kept.add_(self.kept + self.kept), buffer), batch()[0]
    with unchanged(model):
        probe(model, x)


def track(self: Any, x: Tensor) -> None:
    self.kept.mul_(0.9).add_(self.body[0](x).mean(0))


def test_a_buffer_updated_with_gradients_on_stays_a_leaf() -> None:
    model, x = Doing(track, torch.zeros(32)), batch()[0]
    with unchanged(model):
        probe(model, x)


def test_a_view_updated_with_gradients_on_keeps_its_numbers() -> None:
    buffer, x = torch.ones(2, 32)[0], batch()[0]  # torch cannot detach a view in place
    assert probe(Doing(track, buffer), x).verdict == "healthy"
    assert torch.equal(buffer, torch.ones(32))


class InPlace(nn.Module):
    """Doubles the tensors of its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 5)

    def forward(self, inputs: Any) -> Tensor:
        data = inputs
        if isinstance(inputs, (list, Mapping)):
            data = inputs[0] if isinstance(inputs, list) else inputs["x"]
        elif isinstance(inputs, PackedSequence):
            data = inputs.data
        out: Tensor = self.layer(data.mul_(2))
        return out


class Batch(MutableMapping[str, Tensor]):
    """A batch as a mapping of one's own."""

    def __init__(self, **items: Tensor) -> None:
        self.items_by_name = items

    def __getitem__(self, key: str) -> Tensor:
        return self.items_by_name[key]

    def __setitem__(self, key: str, value: Tensor) -> None:
        self.items_by_name[key] = value

    def __delitem__(self, key: str) -> None:
        del self.items_by_name[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_by_name)

    def __len__(self) -> int:
        return len(self.items_by_name)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x],
        lambda x: ({"x": x},),
        lambda x: (Batch(x=x),),
        lambda x: pack_sequence([x, x[:4]]),
    ],
    ids=["tensor", "tuple", "list", "dict", "mapping", "packed"],
)
def test_inputs_survive_an_operation_in_place(wrap: Callable[[Tensor], Any]) -> None:
    model, inputs = InPlace(), wrap(torch.ones(16, 20))
    with unchanged(model, inputs):
        probe(model, inputs)


def test_inputs_that_belong_to_a_graph_are_cut_off_from_it() -> None:
    leaf = torch.randn(16, 20, requires_grad=True)
    inputs, model = leaf * 2, mlp()
    with unchanged(leaf, inputs, model):
        probe(model, inputs)
    (gradient,) = torch.autograd.grad(inputs.sum(), leaf)
    assert torch.equal(gradient, torch.full((16, 20), 2.0))


def test_packed_inputs_that_belong_to_a_graph_are_cut_off_from_it() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = mlp()

        def forward(self, packed: PackedSequence) -> Tensor:
            out: Tensor = self.layers(packed.data)
            return out

    embedding = nn.Linear(20, 20)
    packed, model = pack_sequence([embedding(torch.randn(4, 20)).tanh()]), Head()
    with unchanged(embedding, packed, model):
        probe(model, packed)
    torch.autograd.backward(packed.data.sum())
    assert embedding.weight.grad is not None


def test_targets_and_inputs_survive_a_loss_in_place() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets.mul_(2)).square().mean()

    model, x, y = mlp(), torch.randn(16, 20), torch.ones(16, 5)
    with unchanged(model, x, y):
        probe(model, x, y, loss=loss)


def switch(on: bool) -> Callable[[Any, Tensor], None]:
    """A forward that turns every mode of torch, and draws numbers of every kind."""

    def act(_: Any, x: Tensor) -> None:
        torch.set_default_dtype(torch.float64 if on else torch.float32)
        torch.use_deterministic_algorithms(on, warn_only=on)
        torch.autograd.set_detect_anomaly(on, check_nan=not on)
        warnings.simplefilter("always")
        torch.manual_seed(3), random.seed(4), np.random.seed(5)
        torch.set_grad_enabled(True)

    return act


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("model", [mlp, sick])
def test_modes_and_random_numbers_are_as_before(model: Callable[[], nn.Module], on: bool) -> None:
    x, y = batch()
    subject = Doing(switch(not on), body=model())
    switch(on)(None, x)
    with torch.set_grad_enabled(on), warnings.catch_warnings():
        warnings.simplefilter("error")
        with unchanged(subject):
            probe(subject, x, y, loss=cross_entropy)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_factory_leaves_the_world_alone(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    def build() -> nn.Module:
        random.random(), np.random.rand()
        torch.set_default_dtype(torch.float32)
        return sick()

    x, y = batch()
    with mode(), unchanged(x, y):
        assert probe(build, x, y, loss=cross_entropy).verdict == "failure"


def test_warnings_of_the_model_stay_inside() -> None:
    model = Doing(lambda *_: warnings.warn("from the forward", UserWarning, stacklevel=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe(model, batch()[0])
    assert caught == []


class Breaks(torch.autograd.Function):
    """The identity, with a backward that raises."""

    error: type[BaseException] = ValueError

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(*_: Any) -> Any:
        raise Breaks.error("broken")


class Fault:
    """Raises when it is reached for the nth time."""

    def __init__(self, nth: int, error: type[BaseException] = ValueError) -> None:
        self.left, self.error = nth, error

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left <= 0:
            raise self.error("broken")


def broken(place: str, fault: Fault, model: Any) -> dict[str, Any]:
    """Put a fault into a model, or into the loss or the optimizer to probe it with."""

    class Stepper(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            fault()
            return super().step(closure)

    def backward(x: Tensor) -> Tensor:
        fault()
        return x.clone()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if place == "loss":
            fault()
        if place == "backward":
            outputs.register_hook(backward)  # type: ignore[no-untyped-call]
        return cross_entropy(outputs, targets)

    if place == "forward":
        model.append(Doing(fault, body=nn.Identity()))
    elif place == "pre-hook":
        model[0].register_forward_pre_hook(fault)
    elif place == "hook":
        model[1].register_forward_hook(fault)
    elif place == "backward hook":
        model[0].register_full_backward_hook(fault)
    elif place == "tensor hook":
        model[0].weight.register_hook(fault)
    return {"loss": loss, "optimizer": Stepper if place == "optimizer" else None}


PLACES = (
    "forward",
    "loss",
    "backward",
    "pre-hook",
    "hook",
    "backward hook",
    "tensor hook",
    "optimizer",
)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_leaves_everything_as_before(
    place: str, nth: int, error: type[BaseException]
) -> None:
    (x, y), model = batch(), sick()
    arguments = broken(place, Fault(nth, error), model)
    with unchanged(with_gradients(model), x, y):
        reached = pytest.raises((ProbeError, error))
        # Hooks on tensors are the caller's own and are not copied to the model that is stepped.
        with nullcontext() if place == "tensor hook" and nth > 1 else reached:
            probe(model, x, y, **arguments)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_function_whose_backward_raises(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaks, "error", error)
    x, y = batch()
    model = with_gradients(nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)))
    with unchanged(model, x, y), pytest.raises(ProbeError if error is ValueError else error):
        probe(model, x, y, loss=lambda o, t: cross_entropy(Breaks.apply(o), t))


def with_momentum(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that has made a step already."""
    x, y = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.autograd.backward(cross_entropy(model(x), y))
    optimizer.step()
    return optimizer


def test_an_optimizer_instance_is_never_stepped() -> None:
    (x, y), model = batch(), sick()
    optimizer = with_momentum(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    steps: list[object] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    with unchanged(model, dict(optimizer.state), x, y):
        assert len(probe(model, x, y, loss=cross_entropy, optimizer=optimizer).profiles) == 2
    assert steps == []
    assert optimizer.state_dict()["param_groups"] == groups
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize("body", [mlp, sick])
def test_a_factory_of_optimizers_leaves_the_callers_parameters_alone(
    body: Callable[[], nn.Module],
) -> None:
    """It may step in the backward, draw random numbers, warn or change what it is given."""

    def factory(parameters: Any) -> torch.optim.Optimizer:
        warnings.warn("from the factory", UserWarning, stacklevel=1)
        torch.rand(1), random.random(), np.random.rand()
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(nothing)
            parameter.register_hook(nothing)
            parameter.grad = None
        return torch.optim.SGD(parameters, lr=0.1)

    (x, y), model = batch(), with_gradients(body())
    with unchanged(model, x, y):
        probe(model, x, y, loss=cross_entropy, optimizer=factory)


def test_a_factory_that_holds_the_callers_parameters_does_not_touch_them() -> None:
    (x, y), model = batch(), sick()
    optimizer = with_momentum(model)
    with unchanged(model, dict(optimizer.state), x, y), pytest.raises(ProbeError):
        probe(model, x, y, loss=cross_entropy, optimizer=lambda _: optimizer)


def test_an_optimizer_in_the_backward_does_not_step() -> None:
    (x, y), model = batch(), sick()
    fired: list[Tensor] = []
    parameters: Any = model.parameters()
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(fired.append)
    with unchanged(model):
        probe(model, x, y, loss=cross_entropy)
    assert fired == []
    torch.autograd.backward(cross_entropy(model(x), y))
    assert len(fired) == len(list(model.parameters()))


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_loss_that_reads_the_callers_own_tensors_gives_them_no_gradient(confirmed: bool) -> None:
    (x, y), model = batch(), (sick() if confirmed else mlp())
    weight: Any = model[0].weight
    scale = torch.ones((), requires_grad=True)
    fired: list[Tensor] = []
    weight.register_post_accumulate_grad_hook(fired.append)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        penalty = torch.stack([p.square().sum() for p in model.parameters()]).sum()
        return cross_entropy(outputs, targets) + scale * 1e-9 * penalty

    with unchanged(model, scale):
        diagnosis = probe(model, x, y, loss=loss)
    assert len(diagnosis.profiles) == 1 + confirmed
    assert fired == []


@pytest.mark.parametrize("bound", [True, False], ids=["method", "lambda"])
@pytest.mark.parametrize("body", [mlp, sick])
def test_a_loss_that_is_a_method_of_the_model_leaves_the_model_alone(
    body: Callable[[], nn.Module], bound: bool
) -> None:
    selves: set[int] = set()

    class Own(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body = body()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x)
            return out

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            selves.add(id(self))
            return cross_entropy(outputs, targets)

    (x, y), model = batch(), Own()
    with unchanged(model):
        loss = model.loss if bound else lambda o, t: model.loss(o, t)
        diagnosis = probe(model, x, y, loss=loss)
    assert len(selves) == (len(diagnosis.profiles) if bound else 1)


def test_a_graph_built_before_can_be_back_propagated_after() -> None:
    x, y = batch()
    layers = [nn.Linear(20, 20), nn.BatchNorm1d(20), nn.ReLU(inplace=True), *sick()]
    model: Any = nn.Sequential(*layers)
    loss = cross_entropy(model(x), y)
    (wanted,) = torch.autograd.grad(loss, model[0].weight, retain_graph=True)
    assert len(probe(model, x, y, loss=cross_entropy).profiles) == 2
    torch.autograd.backward(loss)
    assert torch.equal(model[0].weight.grad, wanted)


def test_hooks_can_still_be_removed_and_still_fire() -> None:
    model: Any = mlp()
    x = batch()[0].requires_grad_()
    calls: list[str] = []
    handles = [
        model.register_forward_pre_hook(lambda *_: calls.append("pre")),
        model[0].register_forward_hook(lambda *_: calls.append("forward")),
        model[0].register_full_backward_hook(lambda *_: calls.append("backward")),
        model[0].weight.register_hook(lambda _: calls.append("tensor")),
    ]
    with unchanged(model):
        probe(model, x)
    calls.clear()
    torch.autograd.backward(model(x).sum())
    assert calls == ["pre", "forward", "tensor", "backward"]
    for handle in handles:
        handle.remove()
    torch.autograd.backward(model(x).sum())
    assert len(calls) == 4


def test_a_probe_measures_the_same_again() -> None:
    (x, y), model = batch(), busy()
    first, second = (probe(model, x, y, loss=cross_entropy) for _ in range(2))
    assert first.profiles == second.profiles


def test_a_model_trains_the_same_whether_probed_or_not() -> None:
    x, y = batch()
    plain = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 5))
    probed, weights = copy.deepcopy(plain), []
    for model, looks in ((plain, False), (probed, True)):
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(x), y))
            if looks:
                probe(model, x, y, loss=cross_entropy, optimizer=optimizer)
            optimizer.step()
        weights.append([bits(t) for t in model.state_dict().values()])
    assert weights[0] == weights[1]


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 6),
    "frozen": lambda: nn.Linear(6, 6).requires_grad_(False),
    "norm": lambda: nn.BatchNorm1d(6),
    "dropout": nn.Dropout,
    "relu": lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)),
    "gelu": nn.GELU,
    "counter": lambda: Doing(count, body=nn.Linear(6, 6)),
}
TREES = st.recursive(
    st.sampled_from(sorted(LAYERS)), lambda inner: st.lists(inner, max_size=5), max_leaves=10
)


def build(tree: Any, training: Iterator[bool]) -> nn.Module:
    layer: Any = LAYERS[tree]() if isinstance(tree, str) else nn.Sequential()
    for branch in () if isinstance(tree, str) else tree:
        layer.append(build(branch, training))
    layer.training = next(training)
    built: nn.Module = layer
    return built


@settings(max_examples=80, deadline=None)
@given(tree=TREES, place=st.sampled_from((*PLACES, "nowhere")), data=st.data())
def test_any_model_with_any_fault_is_as_before(tree: Any, place: str, data: st.DataObject) -> None:
    draw = data.draw(st.randoms(use_true_random=False))
    body = build(tree, iter(lambda: draw.random() < 0.7, None))
    model = nn.Sequential(nn.Linear(6, 6), body, nn.Linear(6, 3))
    if data.draw(st.booleans(), label="tied"):
        body.tied = model[0]
    if data.draw(st.booleans(), label="gradients"):
        with_gradients(model)
    error = data.draw(st.sampled_from([ValueError, KeyboardInterrupt]), label="error")
    fault = Fault(data.draw(st.integers(1, 4), label="nth"), error)
    limit = data.draw(st.sampled_from([None, 1e6]), label="min_ratio")
    x, y = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    arguments = broken(place, fault, model)
    allowed = () if place == "nowhere" else (ProbeError, error)
    with unchanged(model, x, y), suppress(*allowed):
        probe(model, x, y, **arguments, min_ratio=limit, confirm_steps=2)


def test_what_a_model_keeps_outside_of_torch_is_as_before() -> None:
    """A NumPy array, a generator of its own, and modules in a plain list."""
    hidden = [nn.BatchNorm1d(20)]

    def act(self: Any, x: Tensor) -> None:
        self.kept["array"] += 1
        self.kept["list"][0](x.detach())
        torch.rand(3, generator=self.kept["generator"])

    kept = {"array": np.zeros(3), "generator": torch.Generator(), "list": hidden}
    state = kept["generator"].get_state()  # type: ignore[attr-defined]
    model, x = Doing(act, kept), batch()[0]
    with unchanged(hidden[0]):
        probe(model, x)
    assert kept["array"].tolist() == [0, 0, 0]  # type: ignore[attr-defined]
    assert torch.equal(kept["generator"].get_state(), state)  # type: ignore[attr-defined]


def test_gradients_that_a_forward_zeroes_in_place_are_as_before() -> None:
    model = with_gradients(mlp())
    wrapped = Doing(lambda self, _: self.body.zero_grad(set_to_none=False), body=model)
    x, _ = batch()
    with unchanged(wrapped):
        probe(wrapped, x)


def test_containers_nested_deep_are_as_before() -> None:
    nested: list[Any] = []
    for _ in range(3000):
        nested = [nested]
    probe(Doing(nothing, nested), batch()[0])
