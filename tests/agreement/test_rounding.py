"""What formats and layouts round otherwise is the same: no draw, decision or cancellation parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import DifferentGradientsError, ProbeError, assert_same_gradients
from pytest_gradhealth.agreement.distances import Distances
from pytest_gradhealth.agreement.tolerance import Noise, Tolerance

FORMATS = ["float64", "bfloat16", "autocast"]


class Net(nn.Module):
    """A layer, something in between, and a head."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, width), nn.Linear(width, 3)
        self.gate, self.codes = nn.Linear(width, 4), nn.Parameter(torch.randn(32, width))
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.between(self, self.first(x)))
        return out


def noise(net: Net, x: Tensor) -> Tensor:
    return x + 0.5 * torch.randn_like(x) + torch.rand(x.shape, dtype=x.dtype)


def masked(net: Net, x: Tensor) -> Tensor:
    return x * torch.bernoulli(torch.full_like(x, 0.7)) * (torch.rand_like(x) > 0.3)


def stochastic_depth(net: Net, x: Tensor) -> Tensor:
    keep = x.new_empty(x.shape[0], 1).bernoulli_(0.5) / 0.5
    return x + keep * torch.tanh(x)


def reparameterised(net: Net, x: Tensor) -> Tensor:
    mean, spread = x.chunk(2, -1)
    drawn = torch.distributions.Normal(mean, F.softplus(spread) + 0.1).rsample()
    return torch.cat([drawn, mean], -1)


def gumbel(net: Net, x: Tensor) -> Tensor:
    return x * F.gumbel_softmax(net.gate(x), hard=True)[:, :1] + x


def moments(net: Net, x: Tensor) -> Tensor:
    far = x + 1
    variance = far.square().mean(-1, keepdim=True) - far.mean(-1, keepdim=True).square()
    return (far - far.mean(-1, keepdim=True)) * torch.rsqrt(variance + 1e-3)


def routed(net: Net, x: Tensor) -> Tensor:
    weights, chosen = net.gate(x).softmax(-1).topk(1, -1)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        out = out + (chosen == number) * weights * expert(x)
    return out


def quantised(net: Net, x: Tensor) -> Tensor:
    codes = net.codes[torch.cdist(x.float(), net.codes.float()).argmin(-1)]
    return x + (codes - x).detach() + codes - codes.detach()


def stepped(net: Net, x: Tensor) -> Tensor:
    return x + (torch.round(4 * x) / 4 - x).detach() + torch.where(x > 0.1, x, 0.1 * x)


def sampled(net: Net, x: Tensor) -> Tensor:
    chosen = torch.multinomial(net.gate(x).softmax(-1), 2)
    return x + net.codes[chosen].sum(1)


HARD = [noise, masked, stochastic_depth, reparameterised, gumbel, moments, routed, quantised]
HARD += [stepped, sampled]


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    return torch.randn(64, 8), torch.arange(64) % 3


@pytest.mark.parametrize("via", [*FORMATS, "checkpoint", "channels_last"])
@pytest.mark.parametrize("between", HARD, ids=lambda each: each.__name__)
def test_draws_decisions_and_cancellation_are_no_difference(
    between: Callable[[Any, Tensor], Tensor], via: str
) -> None:
    x, y = batch()
    found = assert_same_gradients(Net(between), x, y, loss=F.cross_entropy, via=via)
    assert found.same


@pytest.mark.parametrize("via", FORMATS)
def test_a_draw_too_many_is_found_in_every_format(via: str) -> None:
    def once_more(net: Net, x: Tensor) -> Tensor:
        torch.rand(3)
        return noise(net, x)

    x, y = batch()
    with pytest.raises(DifferentGradientsError, match="drawn in another order"):
        assert_same_gradients(Net(noise), Net(once_more), x, y, loss=F.cross_entropy, via=via)


@pytest.mark.parametrize("via", [None, *FORMATS])
def test_another_threshold_is_no_rounding(via: str | None) -> None:
    def steps(threshold: float) -> Callable[[Any, Tensor], Tensor]:
        return lambda _, x: torch.where(x > threshold, x, 0.1 * x)

    x, y = batch()
    with pytest.raises(DifferentGradientsError):
        assert_same_gradients(Net(steps(0.0)), Net(steps(0.5)), x, y, loss=F.cross_entropy, via=via)


@pytest.mark.parametrize("via", ["bfloat16", "autocast"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_gradient_a_tenth_off_is_found_in_bfloat16(via: str, factor: float) -> None:
    def scaled(net: Net, x: Tensor) -> Tensor:
        return torch.tanh(x.detach() + factor * (x - x.detach()))

    x, y = batch()
    with pytest.raises(DifferentGradientsError):
        assert_same_gradients(
            Net(lambda _, x: torch.tanh(x)), Net(scaled), x, y, loss=F.cross_entropy, via=via
        )


def test_compiled_code_that_draws_otherwise_is_told() -> None:
    def drawn(net: Net, x: Tensor) -> Tensor:
        return x + torch.rand_like(x) if torch.compiler.is_compiling() else noise(net, x)

    x, y = batch()
    with pytest.raises(ProbeError, match=r"draws other random numbers than Net"):
        assert_same_gradients(
            Net(drawn), x, y, loss=F.cross_entropy, via="compile", backend="eager"
        )


class Cache:
    """Keys of the calls so far."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []

    def update(self, key: Tensor) -> Tensor:
        self.keys.append(key)
        return torch.cat(self.keys, -1)


class Cached(nn.Module):
    """Blocks, run twice, that see the keys of all before, overwrite what comes in, have a state."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block() for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        cache = Cache()
        for block in (*self.blocks, *self.blocks):
            x = block(x, cache)
        out: Tensor = self.head(x)
        return out


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(8, 4), nn.Linear(8, 8)
        self.last: Tensor | float = 1.0

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        x = self.last + x.relu_()
        seen = cache.update(self.key(x))
        self.last = seen.mean(-1, keepdim=True)
        out: Tensor = self.value(x) * seen.mean(-1, keepdim=True)
        return out


def test_what_rounding_may_make_no_number_is_compared_with_nothing() -> None:
    def far(net: Net, x: Tensor) -> Tensor:
        return moments(net, x + 30)

    x, y = batch()
    with pytest.raises(ProbeError, match="rounding in bfloat16 alone may leave no number"):
        assert_same_gradients(Net(far), x, y, loss=F.cross_entropy, via="bfloat16")


def test_caches_and_states_are_those_of_before_where_blocks_are_computed_twice() -> None:
    x, y = batch()
    found = assert_same_gradients(Cached(), x, y, loss=F.cross_entropy, via="checkpoint")
    assert found.same


def test_a_norm_whose_kernel_gathers_in_bfloat16_is_no_difference() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.norm(x)).mean(1)
            return out

    torch.manual_seed(0)
    x, y = torch.randn(4, 2000, 16), torch.arange(4) % 3
    found = assert_same_gradients(Tokens(), x, y, loss=F.cross_entropy, via="bfloat16")
    gathered = {d.name: d.distance for d in found.of("parameter gradient")}
    assert gathered["norm.bias"] > 3 * gathered["head.bias"]


def test_a_factor_is_allowed_half_of_what_rounding_is() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(1000, generator=generator)
    errors = 0.03 * torch.randn(2, 1000, generator=generator)
    place: Any = ("parameter gradient", "weight", 0, 0)

    def distances(other: Tensor) -> Distances:
        return Distances({place: first}, {place: other}, unit=2**-7)

    noise = Noise([distances(first + error) for error in errors], units=2.0, seen=True)
    for other, allowed in ((first * 1.1, 0.06), (first + 3 * errors[0], 0.12)):
        found = distances(other)
        assert Tolerance().at(place, found, noise) == pytest.approx(allowed, rel=0.1)
        assert found.at(place) == pytest.approx(0.1, rel=0.15)
