"""Tensor parallelism: which outputs are a part of a layer's output, and the norms of the whole.

Between a layer that is cut by columns and the next that is cut by rows, each rank computes with a
plain tensor that is its part. Autograd knows: such a tensor comes from a DTensor's local part, and
goes back into a DTensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.autograd.graph import Node

from pytest_gradhealth.distributed.team import exchanged
from pytest_gradhealth.tensors.graph import op_name

#: The ranks that have a part each; empty for what every rank has as a whole.
Owners = frozenset[int]
_WHOLE: Owners = frozenset()


def owners(nodes: Iterable[Node]) -> dict[Node, Owners]:
    """Return the ranks that have a part of what a node computes, for nodes from the loss on."""
    found: dict[Node, Owners] = {}
    for node in reversed(tuple(nodes)):
        name = op_name(node)
        if name == "_ToTorchTensor":
            found[node] = _cut(node)
        elif name == "_FromTorchTensor":
            found[node] = _WHOLE
        else:
            inputs = [found.get(child, _WHOLE) for child, _ in node.next_functions if child]
            found[node] = _WHOLE.union(*inputs)
    return found


def _cut(node: Any) -> Owners:
    """The ranks among which the DTensor is cut whose local part a node takes."""
    spec = node.dtensor_spec
    here = spec.mesh.get_coordinate()
    if here is None or not any(placement.is_shard() for placement in spec.placements):
        return _WHOLE
    where = tuple(
        slice(None) if placement.is_shard() else own
        for placement, own in zip(spec.placements, here, strict=True)
    )
    return frozenset(spec.mesh.mesh[where].flatten().tolist())


def whole_norms(
    model: Any, parts: Mapping[int, Sequence[float]], of: Mapping[int, Owners]
) -> dict[int, list[float]]:
    """Return the L2 norms of wholes, from those of the parts that this rank and the others have.

    `parts` are this rank's, by number, several to each; `of` says which ranks have the other parts.
    Where nothing is cut, no other rank is asked.
    """
    if not parts:
        return {}
    theirs = exchanged(model, [[*norms] for norms in parts.values()])
    return {
        number: [
            math.hypot(*same) for same in zip(*(theirs[r][i] for r in of[number]), strict=True)
        ]
        for i, number in enumerate(parts)
    }
