"""What the loss does not feel of an output: masked elements, a common shift, a scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.subject.loss import scalar_loss
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.tensors.norms import l2_norm
from pytest_gradhealth.tensors.trees import map_tensors

#: What differs by less than this share is the same, but for rounding.
SAME = 1e-3

#: Dimensions of an output.
Dims = tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What the loss of a run answers to one of its outputs, or to several of one shape together.

    `slopes` are the gradients there, parts of a graph themselves. A loss that is a function of the
    outputs is asked what it makes of others; of one that the model has made, the gradients have to
    tell. Log-probabilities count as the logits of a softmax, which they are as well.
    """

    parts: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    run: Pass
    seed: int

    @cached_property
    def output(self) -> Tensor:
        """The output; of several, the second dimension counts them."""
        return _together(self.parts)

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient at the output or, of log-probabilities, at the logits."""
        slope = _together(self.slopes)
        if self._classes is None:
            return slope
        shares = self.output.softmax(self._classes)
        return slope - shares * slope.sum(self._classes, keepdim=True)

    @cached_property
    def felt(self) -> Tensor:
        """The elements with a gradient; masked ones have none, or NaN in rows that are all -inf."""
        slope = self.gradient.detach()
        return (slope != 0) & ~(slope.isnan() & self.output.detach().isinf())

    @cached_property
    def is_linear(self) -> bool:
        """Whether the loss adds the values up, as it does log-likelihoods: it knows no size.

        Then its slope is the same where they are small, of the other sign, and none as before.
        """
        if self.run.subject.loss is None:
            return not self.gradient.requires_grad
        size, waves = self._size, torch.arange(self.output.numel(), device=self.output.device).cos()
        other = waves.view(self.output.shape).to(self.output.dtype)
        return self._has_slope_at(lambda o: torch.where(self.felt, other - o / size, o))

    @cached_property
    def is_scale_free(self) -> bool:
        """Whether the loss feels directions alone, as a cosine does: no slope along the values."""
        along = wide(self.gradient) * self.values()
        along = along.flatten(1) if along.dim() > 1 else along[:, None]
        return bool(along.any()) and _is_small(along.sum(1), along.abs().sum(1))

    @cached_property
    def free_shift(self) -> Dims | None:
        """Dimensions along which all values may move together, None if there are none."""
        return next(filter(self.is_free, self._dims()), None)

    def is_free(self, dims: Dims) -> bool:
        """Whether the gradient stays the same when all values move together along dimensions."""
        if self.run.subject.loss is not None:
            mean = self.mean(wide(self.output), dims)
            return self._has_slope_at(lambda o: o - mean.to(o))
        gradient = wide(self.gradient)
        sums, sizes = gradient.sum(dims), gradient.abs().sum(dims)
        reached = sizes > 0
        sums, sizes = sums[reached], sizes[reached]
        # A bound moves with a shift and still has the same slope.
        return _is_small(sums - sums.mean() if sums.numel() > 1 else sums, sizes)

    def values(self, bias: Tensor | float = 0.0) -> Tensor:
        """What is felt, less a bias and the shift that is not; zero elsewhere."""
        values = wide(self.output) - bias
        if self.free_shift is not None:
            values = values - self.mean(values, self.free_shift)
        return torch.where(self.felt, values, 0.0)

    @cached_property
    def goal(self) -> Tensor | None:
        """Where a squared error wants the values, None for other losses.

        Its gradient bends by the same share of each value, whatever they are.
        """
        values = self.values()
        bent = self._bent(values, create_graph=True)
        if bent is None or bent.requires_grad:
            return None
        share = l2_norm(bent) / l2_norm(values)
        if not share > 0 or not _is_small(wide(bent) - share * values, wide(bent)):
            return None
        return values - wide(self.gradient) / share

    def bend(self, direction: Tensor) -> Tensor:
        """How the gradient changes along a direction; not at all where that cannot be told."""
        bent = self._bent(direction)
        return torch.zeros_like(direction) if bent is None else wide(bent)

    def _bent(self, direction: Tensor, *, create_graph: bool = False) -> Tensor | None:
        if not self.gradient.requires_grad:
            return None
        try:
            # A number: for anything else, torch loads its symbolic shapes to compare two sizes.
            found = torch.autograd.grad(
                (self.gradient * direction.to(self.gradient)).sum(),
                self.parts,
                retain_graph=True,
                create_graph=create_graph,
                allow_unused=True,
            )
        except RuntimeError:  # not every operation has a second derivative
            return None
        zeros = torch.zeros_like(self.parts[0])
        return _together([zeros if bent is None else bent for bent in found])

    def mean(self, values: Tensor, dims: Dims) -> Tensor:
        """The mean of the values that are felt along some dimensions, which stay."""
        counts = self.felt.sum(dims, keepdim=True).clamp(min=1)
        return torch.where(self.felt, values, 0.0).sum(dims, keepdim=True) / counts

    @cached_property
    def _classes(self) -> int | None:
        """The dimension over which the output is log-probabilities, None if it is not."""
        values = wide(self.output)
        for dim in sorted({1, values.dim() - 1} if values.dim() > 1 else ()):
            if values.shape[dim] > 1 and bool((values.logsumexp(dim).abs() < 1e-2).all()):
                return dim
        return None

    @cached_property
    def _size(self) -> float:
        felt = torch.where(self.felt, wide(self.output), 0.0)
        return float(l2_norm(felt)) / math.sqrt(int(self.felt.sum()))

    def _dims(self) -> Iterator[Dims]:
        """One dimension of each example, all of them, and the batch: each once."""
        each = tuple(range(1, self.output.dim()))
        choices = [each[-1:], each[:1], each, (0,), (0, *each)]
        for dims in dict.fromkeys(filter(None, choices)):
            if bool((self.felt.sum(dims) > 1).any()):
                yield dims

    def _has_slope_at(self, change: Callable[[Tensor], Tensor]) -> bool:
        """Whether the gradient is the same at an output that is changed."""
        here, values = wide(self.gradient), wide(self.output)
        if bool(((values > -SAME) & (values < 1 + SAME)).all()):
            return False  # probabilities: others make an accelerator assert
        try:
            there = wide(self._gradient_at(change))
        except (ProbeError, RuntimeError):  # the loss does not take such values
            return False
        largest = torch.where(self.felt, values, 0.0).abs().max()
        rounding = 16 * torch.finfo(self.output.dtype).eps * float(largest)
        return _is_small(there - here, here, min(max(SAME, rounding), 0.1))

    def _gradient_at(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        subject = self.run.subject
        changed = change(self.output)
        given = changed if self._classes is None else changed.log_softmax(self._classes)
        parts = given.unbind(1) if len(self.parts) > 1 else (given,)
        new = {id(old): part for old, part in zip(self.parts, parts, strict=True)}
        outputs = map_tensors(lambda t: new.get(id(t), t), self.run.outputs)
        seed_everything(self.seed, subject.device)
        loss = scalar_loss(outputs, self.run.targets, subject.loss)
        return torch.autograd.grad(loss, changed)[0]


def _together(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([*parts], 1) if len(parts) > 1 else parts[0]


def wide(tensor: Tensor) -> Tensor:
    """A tensor without its graph, in the most digits that its device has."""
    return tensor.detach().to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _is_small(tensor: Tensor, beside: Tensor, share: float = SAME) -> bool:
    return bool(l2_norm(tensor) <= share * l2_norm(beside))
