"""Wrong operations: what stands in a transformer in place of the right ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from examples.study.operators.transformer import LENGTH, Heads, Norm, Transformer, weighed

# What a query may see


def strictly_before(length: int) -> Tensor:
    """A mask without its diagonal: the first token sees nothing."""
    return torch.ones(length, length, dtype=torch.bool).tril(-1)


def one_late(length: int) -> Tensor:
    """A mask that lets the next token through."""
    return torch.ones(length, length, dtype=torch.bool).tril(1)


def inverted(length: int) -> Tensor:
    """What is to be hidden is all that is seen; the last token sees nothing."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def transposed(length: int) -> Tensor:
    """Every token sees itself and what comes after."""
    return torch.ones(length, length, dtype=torch.bool).triu()


def nothing(length: int) -> Tensor:
    """All is hidden."""
    return torch.zeros(length, length, dtype=torch.bool)


def itself(length: int) -> Tensor:
    """A mask for pairs of documents that leaves a token alone with itself."""
    return torch.eye(length, dtype=torch.bool)


# What becomes of the scores


def hidden_by(value: float, scores: Tensor, allowed: Tensor) -> Tensor:
    """A finite number in place of -inf, on every score."""
    return weighed(scores + value, torch.ones_like(allowed))


def multiplied(scores: Tensor, allowed: Tensor) -> Tensor:
    """The mask as a factor: scores of 0 take part in the softmax."""
    return (scores * allowed).softmax(-1)


def masked_afterwards(scores: Tensor, allowed: Tensor) -> Tensor:
    """The mask behind the softmax: weights do not sum to 1."""
    return scores.softmax(-1) * allowed


def softmax_over(axis: int, scores: Tensor, allowed: Tensor) -> Tensor:
    """A softmax over another axis than the keys'."""
    return scores.masked_fill(~allowed, -1e9).softmax(axis)


def twice(scores: Tensor, allowed: Tensor) -> Tensor:
    """A softmax of a softmax: nearly uniform."""
    return weighed(weighed(scores, allowed), allowed)


def exponentials(scores: Tensor, allowed: Tensor) -> Tensor:
    """exp(x) over the sum of exp(x), without the largest taken off first."""
    weights = scores.exp() * allowed
    return weights / weights.sum(-1, keepdim=True)


def detached_weights(scores: Tensor, allowed: Tensor) -> Tensor:
    """Weights as numbers, as they are kept for a plot."""
    return weighed(scores, allowed).detach()


def one_hot(scores: Tensor, allowed: Tensor) -> Tensor:
    """The largest score alone."""
    best = scores.masked_fill(~allowed, -math.inf).argmax(-1)
    return nn.functional.one_hot(best, scores.shape[-1]).to(scores.dtype)


def dropped(share: float, scores: Tensor, allowed: Tensor) -> Tensor:
    """A large share of the weights dropped."""
    return nn.functional.dropout(weighed(scores, allowed), share)


def scaled_by(factor: float, scores: Tensor, _width: int) -> Tensor:
    """Scores times a number."""
    return scores * factor


# What becomes of queries, keys and values


def shared(heads: Heads) -> Heads:
    """One projection for queries and keys."""
    return heads[0], heads[0], heads[2]


def detached_values(heads: Heads) -> Heads:
    """Values without a gradient."""
    return heads[0], heads[1], heads[2].detach()


def detached_queries_and_keys(heads: Heads) -> Heads:
    """Queries and keys without a gradient."""
    return heads[0].detach(), heads[1].detach(), heads[2]


def over_the_batch(heads: Heads) -> Heads:
    """The batch where the tokens should be, as without batch_first=True; see `back`."""
    q, k, v = (part.transpose(0, 2) for part in heads)
    return q, k, v


def back(heads: Tensor) -> Tensor:
    """What `over_the_batch` returns, turned again."""
    return heads.transpose(0, 2).transpose(1, 2).flatten(2)


def reshaped(heads: Tensor) -> Tensor:
    """Heads merged by reshape() without transpose(): tokens and heads are mixed."""
    count, _, length, _ = heads.shape
    return heads.reshape(count, length, -1)


# What becomes of the stream


def doubled(x: Tensor, branch: Tensor) -> Tensor:
    """A skip that is added twice."""
    return x + x + branch


def detached_branch(x: Tensor, branch: Tensor) -> Tensor:
    """A branch without a gradient."""
    return x + branch.detach()


def detached_skip(x: Tensor, branch: Tensor) -> Tensor:
    """A skip without a gradient."""
    return x.detach() + branch


def dropped_branch(share: float, x: Tensor, branch: Tensor) -> Tensor:
    """A branch most of which is dropped, skipped or not."""
    return x + nn.functional.dropout(branch, share)


def no_norm(_width: int) -> nn.Module:
    """None."""
    return nn.Identity()


def norm_of(axes: tuple[int, ...], eps: float, width: int) -> Norm:
    """A norm over other axes, or with another eps."""
    return Norm(width, axes, eps)


# Weights


def drawn(std: float, model: Transformer) -> None:
    """Every weight from N(0, std), biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(std=std)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
    model.positions.normal_(std=std)


def positive(model: Transformer) -> None:
    """Every weight from U(0, 1), as torch.rand() draws them."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.uniform_()


def constant(value: float, model: Transformer) -> None:
    """The same number in every weight of the blocks."""
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            module.weight.fill_(value)


def zeroed(names: tuple[str, ...], model: Transformer) -> None:
    """Zero in the parameters whose names end so."""
    for name, parameter in model.named_parameters():
        if name.endswith(names):
            parameter.zero_()


def zeroed_parts(parts: tuple[int, ...], model: Transformer) -> None:
    """Zero in some of the three parts (queries, keys, values) of the fused projections."""
    for name, parameter in model.named_parameters():
        if "qkv" in name:
            for part in parts:
                parameter.chunk(3)[part].zero_()


def no_positions(model: Transformer) -> None:
    """No position is told from another, for good."""
    model.positions.zero_().requires_grad_(False)


def embedded(std: float, positions: float, model: Transformer) -> None:
    """Tokens from N(0, std) and positions from N(0, positions)."""
    model.tokens.weight.normal_(std=std)
    model.positions.normal_(std=positions)


def padded_with_zeros(model: Transformer) -> None:
    """Positions that start from zero where there is padding, which is a constant vector then."""
    model.positions[-LENGTH // 4 :].zero_()


def biased(value: float, model: Transformer) -> None:
    """A number in the biases of the feed-forward networks' first layers."""
    for name, parameter in model.named_parameters():
        if name.endswith("up.bias"):
            parameter.fill_(value)
