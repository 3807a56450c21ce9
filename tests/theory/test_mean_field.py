"""The probe against closed forms: mean-field theory, batch norm, residual growth, isometry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import GradientPath, probe
from tests.helpers import mean_field
from tests.helpers.mean_field import Activation, Plain

WIDTH, DEPTH, BATCH = 1024, 30, 32


def gaussian(
    inputs: int, outputs: int, sw2: float, sb2: float = 0.0, drawn: Tensor | None = None
) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=sb2 > 0, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        if drawn is None:
            drawn = torch.randn(outputs, inputs)
        torch.mul(drawn, math.sqrt(sw2 / inputs), out=layer.weight)
    if sb2:
        nn.init.normal_(layer.bias, std=math.sqrt(sb2))
    return layer


def unit_inputs(examples: int = BATCH, width: int = WIDTH) -> Tensor:
    x = torch.randn(examples, width)
    return x / x.square().mean(1, keepdim=True).sqrt()


def path_of(model: nn.Module, x: Tensor) -> GradientPath:
    (path,) = probe(model, x, confirm_steps=0).paths
    return path


def linear_decades(path: GradientPath, leaf: str = "Linear") -> float:
    """log10 of the gradient norm at the first linear (or other) output over that at the last."""
    points = [point for point in path.points if point.leaf == leaf]
    return math.log10(points[0].norm / points[-1].norm)


def per_layer(decades: float, layers: int) -> float:
    return float(10 ** (decades / layers))


NETS = [
    pytest.param(mean_field.IDENTITY, 0.81, 0.0, id="identity, small"),
    pytest.param(mean_field.TANH, 1.0, 0.0, id="tanh, Glorot"),
    pytest.param(mean_field.TANH, 3.0, 0.05, id="tanh, chaotic"),
    pytest.param(mean_field.TANH, 0.8, 0.05, id="tanh, ordered"),
    pytest.param(mean_field.SIGMOID, 1 / 3, 1 / 3072, id="sigmoid, default"),
    pytest.param(mean_field.SIGMOID, 16.0, 1.0, id="sigmoid, large"),
    pytest.param(mean_field.RELU, 2.0, 0.0, id="relu, He"),
    pytest.param(mean_field.RELU, 1 / 3, 1 / 3072, id="relu, default"),
    pytest.param(mean_field.RELU, 3.0, 0.1, id="relu, large"),
    pytest.param(mean_field.LEAKY, 2.0, 0.0, id="leaky relu"),
    pytest.param(mean_field.GELU, 2.0, 0.3, id="gelu, He and biases"),
    pytest.param(mean_field.GELU, 1 / 3, 1 / 3072, id="gelu, default"),
    pytest.param(mean_field.ERF, 1.0, 0.0, id="erf"),
    pytest.param(mean_field.ERF, 2.0, 0.1, id="erf, chaotic"),
    pytest.param(mean_field.HARDTANH, 2.0, 0.1, id="hardtanh"),
    pytest.param(mean_field.SELU, 1.0, 0.0, id="selu"),
    pytest.param(mean_field.SILU, 2.0, 0.0, id="silu"),
]


@pytest.fixture(scope="module")
def drawn() -> list[Tensor]:
    """Standard normal weights, which every case scales: to draw them takes longer than a probe."""
    numbers = torch.Generator().manual_seed(1)
    return [torch.randn(WIDTH, WIDTH, generator=numbers) for _ in range(60)]


@pytest.mark.parametrize(("activation", "sw2", "sb2"), NETS)
@pytest.mark.parametrize("depth", [20, 50])
def test_mean_field_rates(
    drawn: list[Tensor], activation: Activation, sw2: float, sb2: float, depth: int
) -> None:
    """Averaged over nets: in the ordered phase the log of one scatters by sqrt(5 depth / width)."""
    theory, nets = Plain(activation, sw2, sb2), 60 // depth
    total, weights = 0.0, iter(drawn)
    for _ in range(nets):
        layers: list[nn.Module] = []
        for weight in itertools.islice(weights, depth):
            layers += [gaussian(WIDTH, WIDTH, sw2, sb2, weight), activation.module()]
        path = path_of(nn.Sequential(*layers[:-1]), unit_inputs(8))
        total += linear_decades(path) / nets
    measured = per_layer(total, depth - 1)
    assert measured == pytest.approx(per_layer(theory.decades(depth), depth - 1), rel=0.005)
    last = path.last
    size = last.activation / math.sqrt(last.numel)
    *_, q = theory.variances(depth)
    scatter = math.sqrt(5 * depth / WIDTH) / (2 * math.log(10))
    assert math.log10(size) == pytest.approx(math.log10(math.sqrt(q)), abs=3 * scatter)


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_dropout_divides_chi_by_what_it_keeps(keep: float) -> None:
    theory = Plain(mean_field.RELU, 2.0, keep=keep)
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [gaussian(WIDTH, WIDTH, 2.0), nn.ReLU(), nn.Dropout(1 - keep)]
    path = path_of(nn.Sequential(*layers[:-2]), unit_inputs())
    measured = per_layer(linear_decades(path), DEPTH - 1)
    assert measured == pytest.approx(per_layer(theory.decades(DEPTH), DEPTH - 1), rel=0.005)


def normed(width: int, depth: int, activation: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [gaussian(width, width, 1.0), nn.BatchNorm1d(width), activation()]
    return nn.Sequential(*layers[:-1])


def test_batch_norm_explodes_by_pi_over_pi_minus_one() -> None:
    """Yang et al. 2019: squared norm, per ReLU layer, in the limit of large batches."""
    path = path_of(normed(512, 20, nn.ReLU), torch.randn(256, 512))
    squared = per_layer(linear_decades(path, "BatchNorm1d"), 19) ** 2
    assert squared == pytest.approx(math.pi / (math.pi - 1), rel=0.01)


def test_batch_norm_alone_hardly_explodes() -> None:
    path = path_of(normed(512, 20, nn.Identity), torch.randn(32, 512))
    assert per_layer(linear_decades(path, "BatchNorm1d"), 19) ** 2 == pytest.approx(
        30 / 29, rel=0.01
    )


def test_weights_before_batch_norm_are_orthogonal_to_their_gradient() -> None:
    profile = probe(normed(64, 3, nn.ReLU), torch.randn(32, 64)).profile
    found = [p.alignment for p in profile.parameters if p.alignment is not None]
    assert len(found) == 3
    assert all(abs(alignment) < 1e-5 for alignment in found)


def orthogonal_chain(scale: float, depth: int = 20, width: int = 32) -> nn.Sequential:
    layers = [nn.Linear(width, width, bias=False, dtype=torch.float64) for _ in range(depth)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain=scale)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_orthogonal_linear_nets_are_exactly_isometric(scale: float) -> None:
    path = path_of(orthogonal_chain(scale), torch.randn(4, 32, dtype=torch.float64))
    assert [10**step for step in path.steps] == pytest.approx([scale] * 19, rel=1e-12)


class Residual(nn.Module):
    """x + scale * W phi(norm(x))."""

    def __init__(self, activation: nn.Module, sw2: float, *, norm: bool, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.phi, self.linear = activation, gaussian(WIDTH, WIDTH, sw2)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.scale * self.linear(self.phi(self.norm(x)))
        return out


def residual_decades(
    activation: Callable[[], nn.Module], sw2: float, *, norm: bool = False, scale: float = 1.0
) -> float:
    """Decades gained along the residual stream of DEPTH blocks, behind a first linear layer."""
    blocks = [Residual(activation(), sw2, norm=norm, scale=scale) for _ in range(DEPTH)]
    path = path_of(nn.Sequential(gaussian(WIDTH, WIDTH, 1.0), *blocks), unit_inputs())
    assert [p.type for p in path.points] == ["Linear", *["Residual"] * DEPTH]
    return path.l2


@pytest.mark.parametrize("sw2", [0.1, 1.0, 2.0])
def test_residual_relu_blocks_grow(sw2: float) -> None:
    """Yang and Schoenholz 2017: the squared norm grows by 1 + sw2 E[phi'^2] per block."""
    grown = per_layer(residual_decades(nn.ReLU, sw2), DEPTH)
    assert grown == pytest.approx(math.sqrt(1 + sw2 / 2), rel=0.005)


def test_residual_blocks_scaled_by_depth_grow_by_the_root_of_e() -> None:
    total = 10 ** residual_decades(nn.ReLU, 2.0, scale=1 / math.sqrt(DEPTH))
    assert total == pytest.approx((1 + 1 / DEPTH) ** (DEPTH / 2), rel=0.03)


def test_pre_norm_blocks_grow_like_the_stream() -> None:
    """With q the variance of the stream, which each He-ReLU block raises by 1: sqrt(q_L / q_0)."""
    total = 10 ** residual_decades(nn.ReLU, 2.0, norm=True)
    assert total == pytest.approx(math.sqrt(1 + DEPTH), rel=0.05)


class Unrolled(nn.Module):
    """h = phi(W h + x) over time, one cell called again and again."""

    def __init__(self, recurrent: Tensor, phi: nn.Module) -> None:
        super().__init__()
        width = len(recurrent)
        self.phi = phi
        self.cell = nn.Linear(width, width, bias=False, dtype=recurrent.dtype)
        self.cell.weight = nn.Parameter(recurrent)

    def forward(self, x: Tensor) -> Tensor:
        h = x[:, 0]
        for t in range(1, x.shape[1]):
            h = self.phi(self.cell(h) + x[:, t])
        return h


@pytest.mark.parametrize("rho", [0.5, 0.9, 1.0, 1.1])
@pytest.mark.parametrize("rotated", [False, True], ids=["ReLU", "linear"])
def test_a_recurrence_follows_its_spectral_radius(rho: float, rotated: bool) -> None:
    width, steps = 16, 30
    recurrent = rho * torch.eye(width, dtype=torch.float64)
    if rotated:
        nn.init.orthogonal_(recurrent, gain=rho)
    x = torch.rand(3, steps, width, dtype=torch.float64)
    model = Unrolled(recurrent, nn.Identity() if rotated else nn.ReLU())
    norms = [o.norm for o in probe(model, x).profile.outputs if o.name == "cell"]
    assert len(norms) == steps - 1
    pairs = [earlier / later for earlier, later in itertools.pairwise(norms)]  # type: ignore[operator]
    assert pairs == pytest.approx([rho] * (steps - 2), rel=1e-12)


def mean_ratio(widths: Sequence[int], init: Callable[[Tensor], object], *, rms: bool) -> float:
    """RMS over seeds of the ratio between the first and the last linear output's gradient."""
    squares = []
    for _ in range(20):
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layer = nn.Linear(inputs, outputs, bias=False)
            init(layer.weight)
            layers += [layer, nn.ReLU()]
        path = path_of(nn.Sequential(*layers[:-1]), torch.randn(16, widths[0]))
        points = [point for point in path.points if point.leaf == "Linear"]
        first, last = points[0], points[-1]
        squares.append((first.rms / last.rms if rms else first.norm / last.norm) ** 2)
    return math.sqrt(sum(squares) / len(squares))


def test_fan_in_keeps_the_norm_and_fan_out_the_rms() -> None:
    widths = [64, 1024, 512, 256, 128, 64]
    he: Callable[..., object] = nn.init.kaiming_normal_
    assert mean_ratio(widths, he, rms=False) == pytest.approx(1.0, rel=0.1)
    fan_out = mean_ratio(widths, lambda w: he(w, mode="fan_out"), rms=True)
    assert fan_out == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(("inputs", "outputs"), [(1024, 256), (256, 1024)])
def test_glorot_compromises_between_the_widths(inputs: int, outputs: int) -> None:
    first, second = gaussian(WIDTH, inputs, 1.0), nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_normal_(second.weight)
    path = path_of(nn.Sequential(first, second), unit_inputs(64))
    squared = (path.first.rms / path.last.rms) ** 2
    assert squared == pytest.approx(2 * outputs / (inputs + outputs), rel=0.03)


def test_the_spread_over_seeds_is_that_of_finite_width() -> None:
    """Hanin 2018: the variance of the log squared norm is 5 sum(1 / n) for He-ReLU nets."""
    width, depth = 64, 10
    logs = []
    for _ in range(200):
        layers: list[nn.Module] = []
        for _ in range(depth + 1):
            layers += [gaussian(width, width, 2.0), nn.ReLU()]
        path = path_of(nn.Sequential(*layers[:-1]), torch.randn(1, width))
        logs.append(2 * linear_decades(path) * math.log(10))
    variance = float(torch.tensor(logs).var())
    assert variance == pytest.approx(5 * depth / width, rel=0.25)
