"""What is wrong with a batch that no training would mend: labels that contradict, odd scales."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.results.learning import BatchRecord
from pytest_gradhealth.subject.calling import as_called
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.trees import tensors

#: Numbers of a batch that are looked at.
MOST = 10**7


def batch_record(subject: Subject) -> BatchRecord:
    """Return what there is to say of the batch of a subject."""
    inputs = [*_dense(as_called(subject.inputs).inputs)]
    examples = len(inputs[0]) if inputs and inputs[0].dim() else 0
    sizes = [size for tensor in inputs for size in _sizes(tensor)]
    return BatchRecord(
        examples,
        _contradicting(inputs, [*_dense(subject.targets)], examples),
        min(sizes, default=None),
        max(sizes, default=None),
    )


def _dense(values: Any) -> list[Tensor]:
    found = [t.detach() for t in tensors(values) if t.layout is torch.strided and not t.is_nested]
    return found if sum(t.numel() for t in found) <= MOST else []


def _contradicting(inputs: Sequence[Tensor], targets: Sequence[Tensor], examples: int) -> int:
    """How many examples have the inputs of another one, and another target."""
    if not targets or any(t.dim() == 0 or len(t) != examples for t in (*inputs, *targets)):
        return 0
    seen: dict[Hashable, list[Hashable]] = defaultdict(list)
    for x, y in zip(_rows(inputs), _rows(targets), strict=True):
        seen[x].append(y)
    return sum(len(ys) for ys in seen.values() if len({*ys}) > 1)


def _rows(batch: Sequence[Tensor]) -> Sequence[Hashable]:
    """All that the tensors of a batch hold of each example."""
    return [*zip(*([tuple(row.flatten().tolist()) for row in t] for t in batch), strict=True)]


def _sizes(tensor: Tensor) -> list[float]:
    """The root mean squares of the features of floating inputs, by example: of vectors the last."""
    if not tensor.is_floating_point() or tensor.dim() != 2 or len(tensor) < 2:
        return []
    rows = tensor.double()
    return [size for size in rows.square().mean(0).sqrt().tolist() if size and math.isfinite(size)]
