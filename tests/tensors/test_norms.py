"""Norms and cosines over the whole range of every type, of views and of sparse tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_gradhealth import probe
from pytest_gradhealth.tensors import norms
from pytest_gradhealth.tensors.norms import cosine, l2_norm, l2_norms, to_numbers
from tests.helpers.nets import leaf_outputs

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)


@pytest.fixture(scope="module", autouse=True, params=["host", "accelerator"])
def _way(request: pytest.FixtureRequest) -> Iterator[None]:
    """All that is asked of norms on the CPU is asked of those that an accelerator would compute."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "accelerator":
            patch.setattr(norms, "on_host", lambda _: False)
        yield


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


@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_sparse_tensor_counts_repeated_indices_once() -> None:
    indices, values = torch.tensor([[0, 0, 2]]), torch.tensor([1.0, 2.0, 4.0])
    assert norm_of(torch.sparse_coo_tensor(indices, values, (3,), check_invariants=True)) == 5


@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_compressed_sparse_tensor_counts_by_its_values() -> None:
    assert norm_of(torch.tensor([[3.0, 0.0], [0.0, 4.0]]).to_sparse_csr()) == 5


def test_norms_leave_no_graph_behind() -> None:
    assert not l2_norm(leaf_outputs(3)).requires_grad
    assert not any(norm.requires_grad for norm in l2_norms([leaf_outputs(3), leaf_outputs(3)]))


@pytest.mark.filterwarnings("ignore:Sparse")
def test_norms_of_many_are_those_of_each_bit_for_bit() -> None:
    torch.manual_seed(0)
    sizes = (0, 1, 2, 31, 1000, norms.FEW, norms.FEW + 1)
    many = [10.0 ** (7 * place) * torch.randn(n) for place, n in enumerate(sizes)]
    many += [1e-30 * torch.ones(3), torch.full((2,), math.inf), torch.full((2,), math.nan)]
    many += [many[4].to(kind) for kind in (*REAL, *COMPLEX, torch.int64)]
    many += [many[4].view(50, 20).t(), many[4][::3], many[1].expand(7), many[3].to_sparse()]
    many += [nn.Parameter(many[4]), many[4]]
    assert list(map(str, map(float, l2_norms(many)))) == [str(float(l2_norm(t))) for t in many]
    assert l2_norms([]) == []


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


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3, 0.1, 0.3, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(2, 30_000), (64, 500), (9, 20, 30), (3, 2)])
def test_spread_is_what_the_mean_leaves(shape: tuple[int, ...], noise: float) -> None:
    torch.manual_seed(0)
    values = 3 * torch.randn(shape[1:]) + noise * torch.randn(shape)
    wide = values.double()
    expected = float((wide - wide.mean(0)).norm() / wide.norm())
    for given_norm in (None, l2_norm(values)):
        found = float(norms.spread(values, norm=given_norm))
        assert found == pytest.approx(expected, rel=1e-3 if noise < 1e-3 else 1e-5, abs=3e-7)


def test_spread_of_what_is_not_finite_or_zero_is_nan() -> None:
    values = torch.randn(4, 9000)
    assert math.isnan(float(norms.spread(torch.zeros(4, 9000))))
    values[2, 5] = math.inf
    assert math.isnan(float(norms.spread(values)))


def test_the_norm_of_a_turned_tensor_takes_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(300, 401)
    expected = exact_norm(values)
    monkeypatch.setattr(Tensor, "reshape", None)
    assert float(l2_norm(values.t())) == pytest.approx(expected, rel=1e-6)
