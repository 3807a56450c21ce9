"""What a forward does to its module, its tensors and its inputs is undone."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from pytest_gradhealth import probe
from tests.helpers.nets import batch, mlp
from tests.helpers.state import Doing, count, nothing, unchanged, with_gradients


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
