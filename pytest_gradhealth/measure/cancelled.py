"""Gradients that come back on several ways and cancel: what would have come without that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from pytest_gradhealth.tensors.graph import is_own
from pytest_gradhealth.tensors.norms import l2_norm

#: Up to so many times the last digit of a number is rounding; of few digits, a part as small is.
ROUNDING = 32
#: Seed of the gradients that one is held against.
SEED = 20100513


@dataclass
class Ways:
    """What has come to each node, way by way, as a backward tells it.

    `_missing` is what has cancelled, at some elements of a node or of one nearer to the loss, and
    would have come there, with the node where it did.
    """

    _came: dict[Node, list[Tensor]] = field(default_factory=dict)
    _missing: dict[Node, tuple[Node, Tensor]] = field(default_factory=dict)

    def cancel(self, node: Node, given: Sequence[Tensor]) -> bool:
        """Take what a node got; return whether all of it is next to nothing beside its parts."""
        parts = self._came.pop(node, [])
        if len(parts) < 2:
            return False
        largest = max(float(l2_norm(part)) for part in parts)
        if len(given) == 1 and all(part.shape == given[0].shape for part in parts):
            part = torch.stack([part.abs() for part in parts]).amax(0)
            cancels = given[0].abs() < part * _share(given[0])
            if bool(cancels.any()):
                self._missing[node] = node, part * cancels
        return all(float(l2_norm(g)) < _share(g) * largest for g in given)

    def went(
        self, node: Node, passed: Sequence[tuple[Node, Tensor]]
    ) -> Iterator[tuple[Node, Node]]:
        """Take what a node passed on.

        Yield the inputs that get as good as nothing for what has cancelled, and where it did.
        """
        for child, gradient in passed:
            self._came.setdefault(child, []).append(gradient)
        origin, missing = self._missing.pop(node, (node, None))
        if missing is None or is_own(node):
            return
        try:
            would = node(missing)  # type: ignore[operator]
        except RuntimeError:  # what it has saved may be had only once
            return
        sent = would if isinstance(would, tuple) else (would,)
        for (into, _), lost in zip(node.next_functions, sent, strict=False):
            if into is None or lost is None or not bool(lost.any()):
                continue
            self._missing.setdefault(into, (origin, lost))
            real = max((float(l2_norm(g)) for child, g in passed if child is into), default=0.0)
            if real < _share(lost) * float(l2_norm(lost)):
                yield into, origin


def is_rounding_of(node: Any, passed: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether the first that a node passes on is next to nothing beside what others would be."""
    if is_own(node) or passed[0] is None:
        return False
    generator = torch.Generator().manual_seed(SEED)

    def drawn(gradient: Any) -> Any:
        if not isinstance(gradient, Tensor):
            return gradient
        other = torch.randn(gradient.shape, generator=generator).to(gradient)
        return other * (l2_norm(gradient) / l2_norm(other))

    try:
        others = node(*map(drawn, given))
    except RuntimeError:  # what it has saved may be had only once
        return False
    return float(l2_norm(passed[0])) < _share(passed[0]) * float(l2_norm(others[0]))


def _share(gradient: Tensor) -> float:
    """How much of its parts is next to nothing, in the format of a gradient."""
    return min(ROUNDING * torch.finfo(gradient.dtype).eps, 1 / ROUNDING)
