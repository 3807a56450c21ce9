"""What the outputs of one forward tell: how large they are, and how far examples lie apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from pytest_gradhealth.tensors.graph import op_name
from pytest_gradhealth.tensors.norms import l2_norm, rms, spread
from pytest_gradhealth.tensors.readout import Readout
from pytest_gradhealth.tensors.samples import sampled_spread
from pytest_gradhealth.tensors.trees import tensors

#: Operations between a layer and an output that only change its shape, or mask it.
_RESHAPING = {
    *("Alias", "MaskedFill", "Permute", "Reshape", "Select", "Slice", "Squeeze", "T", "Transpose"),
    *("UnsafeView", "Unsqueeze", "View", "ViewAs", "Where"),
}

#: Operations that measure distances themselves, pairwise ones first, and that multiply by weights.
_PAIRWISE = {"Cdist", "EuclideanDist"}
_DISTANCES = {*_PAIRWISE, "LinalgVectorNorm", "Norm"}
_WEIGHTED = {"Addmm", "Baddbmm", "Bmm", "Convolution", "Embedding", "Mm", "Mv"}
#: What a sum counts by its terms for: squares, distances and likelihoods; operations between these
#: and the sum; and how many operations are looked at.
_TERMS = {
    *("Abs", "BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "HuberLoss", "LogSigmoid"),
    *("LogSoftmax", "Logsumexp", "MseLoss", "NllLoss", "NllLoss2D", "Pow", "SmoothL1Loss"),
}
_BETWEEN = {
    *_RESHAPING,
    *("Add", "Cat", "Clone", "Div", "Expand", "Gather", "Index", "Log", "Log1P", "Mul", "Neg"),
    *("Sqrt", "Stack", "Sub", "Sum", "ToCopy"),
}
_MOST_SEEN = 64


@dataclass(frozen=True)
class Seen:
    """Numbers of outputs, inputs and targets, 0-dim and still on the device."""

    apart: tuple[Tensor, ...]
    given: tuple[Tensor, ...]
    sizes: tuple[Tensor, ...]
    wanted: tuple[Tensor, ...]

    @property
    def scalars(self) -> tuple[Tensor, ...]:
        """All the numbers."""
        return (*self.apart, *self.given, *self.sizes, *self.wanted)

    def read_targets(self, numbers: Readout) -> float | None:
        """The largest RMS of floating targets, None without any."""
        return max((numbers[t] for t in self.wanted), default=None)

    def read(self, numbers: Readout) -> tuple[float | None, float | None]:
        """Spread and magnitude of the outputs, as a profile has them."""
        apart = [n for n in [numbers[t] for t in self.apart] if not math.isnan(n)]
        known = [numbers[t] for t in self.given]
        given = max((n for n in known if not math.isnan(n)), default=0.0 if known else 1.0)
        sizes = [numbers[t] for t in self.sizes]
        wanted = max(1.0, self.read_targets(numbers) or 0.0)
        return (
            max(apart) / min(given, 1.0) if apart and given else None,
            min(sizes) / wanted if sizes else None,
        )


def seen(outputs: Any, inputs: Any, targets: Any, *, sampling: bool) -> Seen:
    """Measure the outputs that hold several examples, beside what was given and wanted.

    With `sampling`, the spread of large ones that is beyond doubt is estimated.
    """
    compared = [t for t in tensors(outputs) if is_batch(t)]
    norms = [*map(l2_norm, compared)]
    apart = sampled_spread if sampling else spread
    return Seen(
        apart=tuple(map(partial(_apart, apart), compared, norms)),
        given=tuple(spread(t) for t in tensors(inputs) if _has_examples(t)),
        sizes=tuple(norm / t.numel() ** 0.5 for t, norm in zip(compared, norms, strict=True)),
        wanted=tuple(rms(t) for t in tensors(targets) if t.is_floating_point() and t.numel()),
    )


def is_batch(tensor: Tensor) -> bool:
    """Whether a tensor is an output with several examples that gradient can go back from."""
    return _has_examples(tensor) and tensor.is_floating_point() and tensor.requires_grad


def _has_examples(tensor: Tensor) -> bool:
    """Whether the first dimension of a tensor is one of several examples of one size."""
    return tensor.dim() > 0 and not tensor.is_nested and tensor.shape[0] > 1


def _apart(apart: Callable[..., Tensor], output: Tensor, norm: Tensor) -> Tensor:
    """The spread of an output, with the last bias or without, whichever is larger.

    A bias at the mean of the targets, or at a class's prior, is the same for all examples.
    """
    plain = apart(output, norm=norm)
    bias = last_bias(output)
    if bias is None:
        return plain
    if not bias.untyped_storage().size():
        return torch.full_like(plain, math.nan)  # fully_shard has freed it: that cannot be told
    return torch.fmax(plain, spread(output.detach() - bias))


def last_bias(output: Tensor) -> Tensor | None:
    """What the last layer has added to an output, shaped to be taken away again."""
    node = output.grad_fn
    for _ in range(8):
        if node is None:
            return None
        children = [child for child, _ in node.next_functions if child is not None]
        for child in children:
            added: Tensor | None = getattr(child, "variable", None)
            if added is not None and added.dim() == 1:
                return _shaped(added.detach(), output)
        if op_name(node) not in _RESHAPING or not children:
            return None
        node = children[0]
    return None


def terms(output: Tensor) -> int:
    """How many numbers have been added up for an element of an output, behind the last layers.

    Those of a distance, a sum of squares or the log-likelihood of a picture, which grow with their
    dimensions; other sums are as large as they are.
    """
    nodes, most = [output.grad_fn] if output.grad_fn is not None else [], 1
    for node in nodes:
        op, children = op_name(node), _made_of(node)
        if op in _DISTANCES or (op == "Sum" and _has_terms(children)):
            added = _shape(children[0])
            count = added[-1] if op in _PAIRWISE else added.numel() // _shape(node).numel()
            most = max(most, count)
        elif op not in _WEIGHTED and len(nodes) < _MOST_SEEN:
            nodes += children
    return most


def _has_terms(nodes: list[Node]) -> bool:
    """Whether what is added up is made of squares, distances or likelihoods."""
    for node in nodes:
        op = op_name(node)
        if op in _TERMS or (op == "Mul" and _is_square(node)):
            return True
        if op in _BETWEEN and len(nodes) < _MOST_SEEN:
            nodes += _made_of(node)
    return False


def _is_square(node: Node) -> bool:
    """Whether a product is one of equal factors, as of a difference that is written out twice."""
    one, other = (getattr(node, saved, None) for saved in ("_saved_self", "_saved_other"))
    if one is None or other is None or one.shape != other.shape:
        return False
    return bool(torch.eq(one, other).all())


def _made_of(node: Node) -> list[Node]:
    """The operations that an operation gets its values of; what it divides by only scales them."""
    inputs = node.next_functions[:1] if op_name(node) == "Div" else node.next_functions
    return [child for child, _ in inputs if child is not None]


def _shape(node: Node) -> torch.Size:
    return torch.Size(node._input_metadata[0].shape)


def _shaped(bias: Tensor, output: Tensor) -> Tensor | None:
    if bias.numel() in (1, output.shape[-1]):
        return bias
    if output.dim() > 2 and output.shape[1] == bias.numel():
        return bias.view(1, -1, *[1] * (output.dim() - 2))
    return None
