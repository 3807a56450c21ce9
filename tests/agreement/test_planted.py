"""Faults of a rewritten model are found, and what is only written otherwise passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import DifferentGradientsError, assert_same_gradients
from tests.helpers.transformers import LENGTH, WIDTH, Block, Decoder, batch, next_token_loss


class GradientZeroed(Decoder):
    def projected(self, block: Block, x: Tensor) -> Tensor:
        return F.linear(x, block.qkv.weight * 1, _scaled(block.qkv.bias, 0.0))


class GradientScaled(Decoder):
    def projected(self, block: Block, x: Tensor) -> Tensor:
        return F.linear(x, _scaled(block.qkv.weight, 1.01), block.qkv.bias)


class GradientAveraged(Decoder):
    """The gradient of a bias is the mean over positions, not their sum."""

    def head(self, x: Tensor) -> Tensor:
        return super().head(
            x + _Averaged.apply(torch.zeros(WIDTH) + self.norm.bias, x) - self.norm.bias
        )


class ReductionMissing(Decoder):
    """Of the gradient of what two shards get, one's is kept."""

    def attended(self, block: Block, x: Tensor) -> Tensor:
        return super().attended(block, x.detach() + (x - x.detach()) / 2)


class DropoutDrawnAnew(Decoder):
    def dropped(self, x: Tensor) -> Tensor:
        torch.rand(1)
        return super().dropped(x)


class MaskOffByOne(Decoder):
    def visible(self, length: int) -> Tensor:
        return torch.ones(length, length, dtype=torch.bool).tril(1)


class NormInHalf(Decoder):
    def normed(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        scale = (
            (x.half().float() - x.half().float().mean(-1, keepdim=True))
            .square()
            .mean(-1, keepdim=True)
        )
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(scale.half().float() + norm.eps) * norm.weight + norm.bias


class BranchDetached(Decoder):
    def residual(self, x: Tensor, change: Tensor) -> Tensor:
        return x.detach() + change


class BufferStale(Decoder):
    """The mask of another length, cut to this one from its end."""

    def visible(self, length: int) -> Tensor:
        return super().visible(2 * length)[length - 1 : 2 * length - 1, length:]


class LayersSwapped(Decoder):
    def order(self) -> Any:
        return [self.blocks[1], self.blocks[0]]


class TiedCountedOnce(Decoder):
    def head(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embedding.weight.detach())


class OtherEpsilon(Decoder):
    def normed(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), norm.weight, norm.bias, 1e-6)


FAULTS = [
    GradientZeroed,
    GradientScaled,
    GradientAveraged,
    ReductionMissing,
    DropoutDrawnAnew,
    MaskOffByOne,
    NormInHalf,
    BranchDetached,
    BufferStale,
    LayersSwapped,
    TiedCountedOnce,
    OtherEpsilon,
]


class Fused(Decoder):
    def attended(self, block: Block, x: Tensor) -> Tensor:
        q, k, v = self.split(block, x)
        found: Tensor = block.out(
            self.joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        )
        return found


class InEinsum(Decoder):
    def attended(self, block: Block, x: Tensor) -> Tensor:
        q, k, v = self.split(block, x)
        scores = torch.einsum("bhid,bhjd->bhij", q * q.shape[-1] ** -0.5, k)
        weights = (scores + torch.zeros(LENGTH, LENGTH).masked_fill(~self.mask, -1e9)).softmax(-1)
        found: Tensor = block.out(torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2))
        return found


class NormByHand(Decoder):
    def normed(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


class ThreeProjections(Decoder):
    def projected(self, block: Block, x: Tensor) -> Tensor:
        weights, biases = block.qkv.weight.chunk(3), block.qkv.bias.chunk(3)
        return torch.cat([F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)], -1)


class OneByOne(Decoder):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([super(OneByOne, self).forward(one) for one in torch.split(tokens, 1)])


class HeadWidened(Decoder):
    def head(self, x: Tensor) -> Tensor:
        return (x.double() @ self.embedding.weight.double().T).float()


REWRITTEN = [Fused, InEinsum, NormByHand, ThreeProjections, HeadWidened]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_planted_fault_is_found(fault: type[Decoder], seed: int) -> None:
    torch.manual_seed(seed)
    a, b = Decoder(), fault()
    with pytest.raises(DifferentGradientsError):
        assert_same_gradients(a, b, *batch(), loss=next_token_loss, seed=seed)


#: What rounding to bfloat16 hides: a hundredth, and what a norm adds for safety.
HIDDEN = (GradientScaled, NormInHalf, OtherEpsilon)


@pytest.mark.parametrize(
    ("via", "fault"),
    [("float64", fault) for fault in HIDDEN]
    + [("autocast", fault) for fault in FAULTS if fault not in HIDDEN],
)
def test_planted_faults_are_found_in_other_formats(via: str, fault: type[Decoder]) -> None:
    torch.manual_seed(0)
    with pytest.raises(DifferentGradientsError):
        assert_same_gradients(Decoder(), fault(), *batch(), loss=next_token_loss, via=via)


@pytest.mark.parametrize("kind", REWRITTEN, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_written_otherwise_is_the_same(kind: type[Decoder], seed: int) -> None:
    torch.manual_seed(seed)
    found = assert_same_gradients(Decoder(), kind(), *batch(), loss=next_token_loss, seed=seed)
    assert found.same
    assert {d.kind for d in found.differences} == {
        "activation",
        "output",
        "loss",
        "layer gradient",
        "parameter gradient",
    }


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    return tensor.detach() + factor * (tensor - tensor.detach())


class _Averaged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, like: Tensor) -> Tensor:
        ctx.set_materialize_grads(True)
        return bias.expand(like.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0].flatten(0, -2).mean(0), None
