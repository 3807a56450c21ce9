"""How inputs reach the model, how a scalar comes out of it, and how norms are taken."""

from __future__ import annotations

import functools
import math
from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from pytest_gradhealth import probe
from pytest_gradhealth.subject.forward import call_model, fresh
from pytest_gradhealth.subject.loss import scalar_loss
from pytest_gradhealth.tensors.norms import cosine, l2_norm, to_numbers
from tests.helpers.nets import batch, mlp

cross_entropy = nn.functional.cross_entropy
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

    assert probe(Taking(Pair), Pair(A, B)).verdict == "healthy"
    assert probe(Taking(Example), Example(A, B)).verdict == "healthy"


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


# Losses.


def leaf_outputs(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def double(outputs: Tensor) -> Tensor:
    return 2 * outputs.sum()


def with_default(outputs: Tensor, targets: Any = "none") -> Tensor:
    return outputs.sum() * (3 if targets == "none" else 5)


def with_targets(outputs: Tensor, targets: Any) -> Tensor:
    return outputs.sum() * (7 if targets is None else 11)


class Double(nn.Module):
    def forward(self, outputs: Tensor) -> Tensor:
        return double(outputs)


@pytest.mark.parametrize(
    ("loss", "targets", "factor"),
    [
        (double, None, 2),
        (Double(), None, 2),
        (functools.partial(with_targets, targets=1), None, 11),
        (with_default, None, 3),
        (with_default, 1, 5),
        (with_targets, None, 7),
        (with_targets, 1, 11),
        (lambda *outputs: len(outputs) * outputs[0].sum(), None, 1),
        (lambda *outputs: len(outputs) * outputs[0].sum(), 1, 2),
        (lambda o, _: {"a": o.sum(), "b": 2 * o.sum(), "fixed": torch.ones(())}, 1, 3),
        (lambda o, _: o.sum().reshape(1, 1), 1, 1),
        (torch.sum, None, 1),
    ],
    ids=[
        "one argument",
        "module",
        "partial",
        "default",
        "default overridden",
        "missing targets",
        "targets",
        "variadic alone",
        "variadic",
        "mapping",
        "one element",
        "builtin",
    ],
)
def test_a_loss_gets_outputs_and_targets(loss: Any, targets: Any, factor: int) -> None:
    outputs = leaf_outputs(4)
    value = scalar_loss(outputs, targets, loss)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.numel() == 1
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [factor] * 4


def test_targets_may_be_anything() -> None:
    def loss(outputs: Tensor, targets: Any) -> Tensor:
        assert targets["names"] == ["a", "b"]
        return cross_entropy(outputs, targets["labels"])

    x, y = batch()
    diagnosis = probe(mlp(), x, {"labels": y, "names": ["a", "b"]}, loss=loss)
    assert diagnosis.verdict == "healthy"


def test_a_loss_module_with_buffers_weighs_as_declared() -> None:
    x, y = batch()
    weight = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    model, criterion = mlp(), nn.CrossEntropyLoss(weight=weight)
    wanted = criterion(model(x), y)
    assert probe(model, x, y, loss=criterion).profile.loss == pytest.approx(wanted.item())
    assert dict(criterion.named_buffers()) == {"weight": weight}


class Scores(NamedTuple):
    logits: Tensor
    loss: Tensor


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


@pytest.mark.parametrize(
    "outputs",
    [
        lambda o: Output(o, o.sum()),
        lambda o: Scores(o, o.sum()),
        lambda o: {"logits": o, "loss": o.sum()},
        lambda o: OrderedDict(other=o.mean(), loss=o.sum()),
        lambda o: o.sum(),
        lambda o: (o, o.sum()),
        lambda o: (o.sum(), o.sum().detach(), o),
        lambda o: {"ce": o[0] + o[1], "l2": o[2:].sum()},
        lambda o: {"ce": o.sum(), "accuracy": torch.tensor(0.5)},
    ],
    ids=[
        "attribute",
        "named tuple",
        "mapping",
        "mapping with more",
        "scalar",
        "logits and loss",
        "loss and metric",
        "mapping of losses",
        "mapping of loss and metric",
    ],
)
@pytest.mark.parametrize("targets", [None, torch.ones(4)])
def test_a_models_own_loss_is_found(
    outputs: Callable[[Tensor], Any], targets: Tensor | None
) -> None:
    leaf = leaf_outputs(4)
    scalar_loss(outputs(leaf), targets, None).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [1.0] * 4


def test_a_given_loss_wins_over_the_models_own() -> None:
    leaf = leaf_outputs(4)
    value = scalar_loss(Output(leaf, leaf.sum()), None, lambda o: o.logits.sum() * 2)
    assert torch.equal(torch.autograd.grad(value, leaf)[0], torch.full((4,), 2.0))


# The cotangent that stands in for a loss.


def gradients_of(outputs: Any, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(scalar_loss(outputs, None, None), leaves))


def total_norm(gradients: list[Tensor]) -> float:
    return math.hypot(*(float(l2_norm(gradient)) for gradient in gradients))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize(
    "shapes", [[(1,)], [(16, 5)], [(2, 3), (), (4, 1, 7), (0, 3)], [(300, 400)]]
)
def test_the_cotangent_has_unit_norm(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    gradients = gradients_of([*leaves, {"int": torch.ones(2).long()}], leaves)
    assert total_norm(gradients) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_the_cotangent_in_half_precision(dtype: torch.dtype, error: float) -> None:
    leaf = torch.randn(64, 100, dtype=dtype, requires_grad=True)
    assert total_norm(gradients_of(leaf, [leaf])) == pytest.approx(1, abs=error)


def test_the_cotangent_spans_outputs_of_several_types() -> None:
    leaves = [
        torch.randn(3, dtype=dtype, requires_grad=True)
        for dtype in (torch.float32, torch.float64, torch.complex64)
    ]
    gradients = gradients_of((leaves[0], Output(leaves[1]), [leaves[2]]), leaves)
    assert total_norm(gradients) == pytest.approx(1, abs=1e-6)
    assert [gradient.dtype for gradient in gradients] == [leaf.dtype for leaf in leaves]
    assert all(float(l2_norm(gradient)) > 0.05 for gradient in gradients)


def test_outputs_without_gradient_take_no_share_of_the_cotangent() -> None:
    leaf, fixed = leaf_outputs(4), torch.ones(400)
    assert total_norm(gradients_of((fixed, leaf), [leaf])) == pytest.approx(1, abs=1e-6)
    (alone,) = gradients_of(leaf, [leaf])
    assert torch.equal(gradients_of((fixed, leaf), [leaf])[0], alone)


def test_the_cotangent_is_always_the_same() -> None:
    leaf = leaf_outputs(5, 4)
    (first,) = gradients_of(leaf, [leaf])
    for seed in range(3):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        (again,) = gradients_of(leaf * 2 - leaf, [leaf])
        assert torch.equal(again, first)
        assert torch.equal(torch.get_rng_state(), state)


def test_a_probe_without_a_loss_starts_from_a_gradient_of_unit_norm() -> None:
    path = probe(mlp(), batch()[0]).paths[0]
    assert path.last.norm == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "outputs",
    [
        lambda o: (o[0] * 2, o[1] * 3),
        lambda o: {"a": o[0], "b": o},
        lambda o: Output(o),
        lambda o: [o.sum(), o],
        lambda o: (o.sum(), o.mean()),
        lambda o: {"ce": o.sum(), "logits": o},
    ],
    ids=["tuple", "mapping", "no loss", "list", "two scalars", "scalar among tensors"],
)
def test_outputs_without_a_loss_of_their_own_get_the_cotangent(
    outputs: Callable[[Tensor], Any],
) -> None:
    leaf = leaf_outputs(2)
    (gradient,) = gradients_of(outputs(leaf), [leaf])
    assert 0 < float(l2_norm(gradient)) < 4
    assert not torch.equal(gradient, torch.ones(2))


# Norms.

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)


def exact_norm(tensor: Tensor) -> float:
    """The L2 norm by math.hypot, which neither under- nor overflows on the way."""
    dense = tensor.detach().to_dense().reshape(-1)
    wide = dense.to(torch.complex128 if dense.is_complex() else torch.float64)
    parts = torch.view_as_real(wide.resolve_conj()) if wide.is_complex() else wide
    return math.hypot(*parts.reshape(-1).tolist())


def norm_of(tensor: Tensor) -> float:
    norm = l2_norm(tensor)
    assert norm.dim() == 0
    assert not norm.is_complex()
    (number,) = to_numbers([norm])
    return number


def close(tensor: Tensor, relative: float = 1e-6) -> bool:
    return norm_of(tensor) == pytest.approx(exact_norm(tensor), rel=relative, abs=0)


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 2), (100, 1000), (4096, 2), (3, 4097)])
def test_norms_of_normal_numbers(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert close(torch.randn(shape, dtype=dtype))


@pytest.mark.parametrize("exponent", [-300, -200, -160, -150, -100, 0, 100, 150, 160, 200, 300])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_norms_in_double_precision_neither_under_nor_overflow(
    dtype: torch.dtype, exponent: int
) -> None:
    values = torch.randn(50, dtype=dtype) * 10.0**exponent
    assert close(values, relative=1e-12)
    assert close(torch.cat([values, torch.zeros(5, dtype=dtype)]), relative=1e-12)


@pytest.mark.parametrize("exponent", [-38, -30, -23, -20, -15, -14, 0, 17, 18, 19, 20, 30, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
def test_norms_in_single_precision_neither_under_nor_overflow(
    dtype: torch.dtype, exponent: int
) -> None:
    values = (torch.rand(50, dtype=torch.float64) * 10.0**exponent).to(dtype)
    assert close(values)
    assert close(values.expand(200, 50))


def test_norms_beyond_the_range_of_the_dtype() -> None:
    assert close(torch.full((100,), 3e38))
    assert close(torch.full((100,), 65504.0, dtype=torch.float16))
    assert close(torch.full((100,), 6e-8, dtype=torch.float16))
    assert close(torch.full((4,), 1e-45))
    assert norm_of(torch.full((4,), 5e-324, dtype=torch.float64)) == 1e-323


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX])
def test_norms_of_numbers_that_are_not_finite(dtype: torch.dtype) -> None:
    values = torch.ones(5000, dtype=dtype)
    values[4500] = -math.inf
    assert norm_of(values) == math.inf
    values[10] = math.nan
    assert math.isnan(norm_of(values))
    values[4500] = 1
    assert math.isnan(norm_of(values))
    assert math.isnan(norm_of(torch.tensor(math.nan, dtype=dtype)))


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (100, 100)])
def test_norms_of_zeros_and_of_nothing(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert norm_of(torch.zeros(shape, dtype=dtype)) == 0


def test_norms_of_integers_and_booleans() -> None:
    assert norm_of(torch.tensor([3, -4])) == 5
    assert norm_of(torch.tensor([True, False, True, True, True])) == 2
    assert norm_of(torch.tensor([200, 200], dtype=torch.uint8)) == pytest.approx(282.8427)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.t(),
        lambda t: t[::2, 1::3],
        lambda t: t[:1].expand(300, -1),
        lambda t: t.flip(0).t(),
        lambda t: t.as_strided((50, 90), (1, 1)),
        lambda t: t.clone().requires_grad_() * 1,
        lambda t: nn.Parameter(t),
        lambda t: t.to_sparse(),
        lambda t: t.to_sparse() + t.to_sparse(),
        lambda t: t.to(torch.complex64).conj() * 1j,
    ],
    ids=[
        "transposed",
        "strided",
        "expanded",
        "flipped",
        "overlapping",
        "in a graph",
        "parameter",
        "sparse",
        "sparse sum",
        "complex",
    ],
)
def test_norms_of_views(view: Callable[[Tensor], Tensor], scale: float) -> None:
    assert close(view(torch.randn(100, 90) * scale))


def test_a_sparse_tensor_counts_repeated_indices_once() -> None:
    indices, values = torch.tensor([[0, 0, 2]]), torch.tensor([1.0, 2.0, 4.0])
    assert norm_of(torch.sparse_coo_tensor(indices, values, (3,), check_invariants=True)) == 5


@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_compressed_sparse_tensor_counts_by_its_values() -> None:
    assert norm_of(torch.tensor([[3.0, 0.0], [0.0, 4.0]]).to_sparse_csr()) == 5


def test_norms_leave_no_graph_behind() -> None:
    assert not l2_norm(leaf_outputs(3)).requires_grad


@pytest.mark.parametrize(
    "values",
    [
        lambda: torch.randn(2_000_000),
        lambda: torch.rand(2_000_000) * 1e-30,
        lambda: torch.full((2_000_000,), 0.1),
        lambda: torch.full((2_000_001,), 0.1, dtype=torch.bfloat16),
        lambda: torch.randn(1000, 2000).t(),
        lambda: torch.cat([torch.full((1,), 4096.0), torch.full((8190,), 0.999)]),
        lambda: torch.cat([torch.full((1,), 4096.0), torch.full((200_000,), 0.999)]),
    ],
    ids=[
        "normal",
        "tiny",
        "constant",
        "constant in half precision",
        "transposed",
        "one large among thousands",
        "one large among many",
    ],
)
def test_norms_of_large_tensors(values: Callable[[], Tensor]) -> None:
    tensor = values()
    wanted = math.sqrt(math.fsum(tensor.double().square().reshape(-1).tolist()))
    assert norm_of(tensor) == pytest.approx(wanted, rel=1e-6, abs=0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(min_value=-1e300, max_value=1e300), min_size=1, max_size=40))
def test_norms_of_any_doubles(numbers: list[float]) -> None:
    wanted = math.hypot(*numbers)
    norm = norm_of(torch.tensor(numbers, dtype=torch.float64))
    assert norm == pytest.approx(wanted, rel=1e-12, abs=1e-323)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=40)
)
def test_norms_of_any_singles(numbers: list[float]) -> None:
    assert norm_of(torch.tensor(numbers)) == pytest.approx(math.hypot(*numbers), rel=1e-6, abs=0)


@pytest.mark.parametrize("exponent", [-24, -23, -22, -21, -20, -19, -18, -16, 17, 18, 19, 20])
def test_norms_where_squares_lose_digits_or_overflow(exponent: int) -> None:
    values = torch.full((1000,), 1.2345 * 10.0**exponent)
    assert norm_of(values) == pytest.approx(float(values[0]) * math.sqrt(1000), rel=1e-6)


def test_numbers_come_back_in_order() -> None:
    scalars = [torch.tensor(v, dtype=d) for v, d in ((1, torch.int64), (0.5, torch.float16))]
    scalars.append(torch.tensor(1e300, dtype=torch.float64))
    assert to_numbers(scalars) == [1.0, 0.5, 1e300]
    assert to_numbers([]) == []


def test_cosines() -> None:
    x, y = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert float(cosine(x, y)) == pytest.approx(math.sqrt(0.5))
    assert float(cosine(x, -x)) == pytest.approx(-1)
    assert math.isnan(float(cosine(x, 0 * x)))


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e19, 1e25])
def test_cosines_neither_under_nor_overflow(scale: float) -> None:
    weight, gradient = torch.ones(4), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert float(cosine(weight, gradient * scale)) == pytest.approx(math.sqrt(0.5))


def test_the_cosine_with_a_sparse_gradient() -> None:
    weight, gradient = torch.eye(3), torch.tensor([[0.0] * 3, [1.0, 1.0, 0.0], [0.0] * 3])
    dense = float(cosine(weight, gradient))
    assert float(cosine(weight, gradient.to_sparse(1))) == pytest.approx(dense)


def test_a_sparse_embedding_before_a_norm_can_be_probed() -> None:
    layers = (nn.Embedding(10, 8, sparse=True), nn.LayerNorm(8), nn.Linear(8, 5))
    model = nn.Sequential(*layers)
    assert probe(model, torch.randint(0, 10, (4, 3))).verdict == "healthy"
