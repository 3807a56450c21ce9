"""How inputs reach the model, and what their copies share with them."""

from __future__ import annotations

from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from pytest_gradhealth import probe
from pytest_gradhealth.subject.forward import call_model, fresh
from tests.helpers.nets import mlp
from tests.helpers.refusals import check, raising, refusal

CPU = torch.device("cpu")


# Inputs.


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Example:
    image: Tensor
    label: Tensor
    name: str = "example"
    size: int = field(init=False, default=3)


class Calls(nn.Module):
    """Keeps the arguments it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


A, B = torch.ones(2, 3), torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        (A, (A,), {}),
        ((A,), (A,), {}),
        ((A, B), (A, B), {}),
        ((A, {"b": B}), (A, {"b": B}), {}),
        ([A, B], ([A, B],), {}),
        (([A, B],), ([A, B],), {}),
        ({"a": A, "b": [B]}, (), {"a": A, "b": [B]}),
        (OrderedDict(a=A), (), {"a": A}),
        (({"a": A},), ({"a": A},), {}),
        (Pair(A, B), (Pair(A, B),), {}),
        (Example(A, B), (Example(A, B),), {}),
        ((), (), {}),
        (None, (None,), {}),
        ("text", ("text",), {}),
    ],
    ids=[
        "tensor",
        "one in a tuple",
        "tuple",
        "tuple with a mapping",
        "list",
        "list in a tuple",
        "mapping",
        "ordered mapping",
        "mapping in a tuple",
        "named tuple",
        "dataclass",
        "nothing",
        "None",
        "text",
    ],
)
def test_inputs_are_spread_over_arguments(inputs: Any, args: Any, kwargs: Any) -> None:
    assert call_model(Calls(), inputs) == (args, kwargs)


def test_packed_sequences_reach_a_recurrent_layer() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 8), nn.Linear(8, 2)

        def forward(self, packed: PackedSequence) -> Tensor:
            assert isinstance(packed, PackedSequence)
            out: Tensor = self.head(self.lstm(packed)[1][0][-1])
            return out

    diagnosis = probe(Last(), pack_sequence([torch.randn(5, 4), torch.randn(3, 4)]))
    assert diagnosis.verdict == "healthy"
    measured = [o.name for o in diagnosis.profile.outputs if o.state == "measured"]
    assert measured == ["lstm", "head"]


def test_dataclasses_and_named_tuples_reach_the_model_whole() -> None:
    class Taking(nn.Module):
        def __init__(self, kind: Any) -> None:
            super().__init__()
            self.layer, self.kind = nn.Linear(3, 2), kind

        def forward(self, example: Any) -> Tensor:
            assert type(example) is self.kind
            out: Tensor = self.layer(example[0] if self.kind is Pair else example.image)
            return out

    assert probe(Taking(Pair), Pair(A, B)).verdict == "not judged"
    assert probe(Taking(Example), Example(A, B)).verdict == "not judged"


def test_copies_keep_every_container_and_share_nothing() -> None:
    names = namedtuple("names", "x")
    value = {
        "list": [A, 1],
        "tuple": (A, "text"),
        "named": names(B),
        "dataclass": Example(A, B, "other"),
        "ordered": OrderedDict(a=A),
        "default": defaultdict(list, a=[A]),
        "user": UserDict(a=A),
        "counter": Counter("aab"),
        "size": A.shape,
        "none": None,
    }
    twin = fresh(value, CPU)
    assert {key: type(item) for key, item in twin.items()} == {
        key: type(item) for key, item in value.items()
    }
    assert twin["counter"] == {"a": 2, "b": 1}
    assert twin["size"] == (2, 3)
    assert twin["default"]["other"] == []
    assert (twin["dataclass"].name, twin["dataclass"].size) == ("other", 3)
    copies = [twin["list"][0], twin["named"].x, twin["dataclass"].image, twin["ordered"]["a"]]
    for copy, original in zip(copies, [A, B, A, A], strict=True):
        assert torch.equal(copy, original)
        assert copy.data_ptr() != original.data_ptr()


def test_a_tensor_that_occurs_twice_stays_one() -> None:
    twin = fresh((A, [A, {"x": A}], B, Example(A, B)), CPU)
    assert twin[0] is twin[1][0] is twin[1][1]["x"] is twin[3].image
    assert twin[0] is not twin[2]
    inputs, targets = fresh((A, A), CPU)
    assert inputs is targets


def test_copies_are_leaves_that_require_grad_where_the_originals_do() -> None:
    leaf = torch.ones(2, requires_grad=True)
    twins = fresh([leaf, leaf * 2, leaf.detach(), torch.ones(2, dtype=torch.long)], CPU)
    assert [twin.requires_grad for twin in twins] == [True, True, False, False]
    assert all(twin.is_leaf for twin in twins)
    assert twins[0] is leaf  # by which a loss may differentiate


def test_objects_that_move_themselves_are_moved_by_their_own_method() -> None:
    class Graph:
        def __init__(self) -> None:
            self.moves: list[torch.device] = []

        def to(self, device: torch.device) -> Graph:
            moved = Graph()
            moved.moves = [*self.moves, device]
            return moved

    graph = Graph()
    assert fresh([graph], CPU)[0].moves == [CPU]
    assert graph.moves == []


# Forward and backward.


@pytest.mark.parametrize(
    ("inputs", "described"),
    [
        (torch.ones(2, 20), "(2, 20) float32"),
        ((torch.ones(2, 20),), "(2, 20) float32"),
        ({"x": torch.ones(2, 20, dtype=torch.float64)}, "(2, 20) float64"),
        (
            [torch.ones(2), torch.tensor(1), [torch.ones(0), torch.ones(1).bool()]],
            "(2,) float32, () int64, (0,) float32, (1,) bool",
        ),
        ([torch.ones(i + 1) for i in range(6)], None),
        ("text", "str"),
        ([], "list"),
    ],
    ids=["tensor", "tuple", "dict", "nested", "many", "text", "empty list"],
)
def test_a_forward_that_raises(inputs: Any, described: str | None) -> None:
    class Failing(nn.Linear):
        def forward(self, x: Any) -> Tensor:
            raise LookupError("nothing")

    many = "(1,) float32, (2,) float32, (3,) float32, (4,) float32 and 2 more"
    check(
        refusal(Failing(2, 2), inputs),
        f"Failing.forward raised LookupError: nothing\n  it was called with {described or many}",
        LookupError,
    )


def test_a_hook_that_raises() -> None:
    model = mlp()
    model.register_forward_hook(raising)
    check(
        refusal(model),
        "Sequential.forward raised KeyError: 'nothing'\n  it was called with (16, 20) float32",
        KeyError,
    )


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize("filled", [True, False])
def test_under_cached_parametrisations_each_forward_makes_its_own(filled: bool) -> None:
    torch.manual_seed(0)
    model, x, y = mlp(inputs=4, width=6), torch.randn(8, 4), torch.arange(8) % 5
    model[-1].load_state_dict(
        {"weight": torch.zeros(5, 6), "bias": torch.zeros(5)}
    )  # looked at again
    parametrize.register_parametrization(model[-1], "weight", Doubled())
    plain = probe(model, x, y, loss=nn.functional.cross_entropy)
    with parametrize.cached():
        made = model[-1].weight if filled else None
        cached = probe(model, x, y, loss=nn.functional.cross_entropy)
        assert not filled or model[-1].weight is made, "the caller's is left as it was"
    assert cached.verdict == plain.verdict == "healthy"
    assert cached.confirmation is not None
    assert [p.gradient for p in cached.profile.parameters] == [
        p.gradient for p in plain.profile.parameters
    ]


def test_a_forward_that_raises_leaves_cached_parametrisations() -> None:
    model = mlp(inputs=4)
    parametrize.register_parametrization(model[2], "weight", Doubled())
    with parametrize.cached():
        made = model[2].weight
        refusal(model, torch.zeros(2, 5))
        assert model[2].weight is made
