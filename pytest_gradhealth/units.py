"""Dead and saturated units: what the activation functions of one forward let through.

Read from the autograd graph, where every activation keeps its output for the backward, so that
functional ones are seen as well as modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from pytest_gradhealth.graph import op_name

#: An element is flat where the slope is below this share of the largest slope.
FLAT = 0.01
#: Elements of one activation that the share of flat ones is estimated from.
SAMPLE = 2**16
#: Operations that may lie between a layer and its activation.
_REACH = 8
#: Calls of one layer that are looked at, where it is called again and again.
CALLS = 16
_CHANNELS_SECOND = ("Conv", "BatchNorm", "InstanceNorm", "GroupNorm")


@dataclass(frozen=True)
class Place:
    """A recorded module output: the module's label, type and innermost type."""

    name: str
    type: str
    leaf: str


@dataclass(frozen=True)
class SeenActivation:
    """An activation's place, and its shares of dead units and flat elements, still on the device.

    `dead` is a share of `units` (channels, or features), `flat` one of all elements; a rectifier
    has the one, a saturating function the other.
    """

    place: Place
    function: str
    units: int
    dead: Tensor | None = None
    flat: Tensor | None = None


@torch.no_grad()
def activations_of(nodes: Iterable[Node], places: Mapping[Node, Place]) -> list[SeenActivation]:
    """Return the activations behind a loss, nearest to the loss first.

    Reads what the nodes have saved; activations inside a checkpoint, which has saved nothing, are
    left out. To be called before the backward, which frees it.
    """
    found = []
    calls: Counter[str] = Counter()
    for node in nodes:
        op = op_name(node)
        if op not in _READERS or _is_packed(node, op):
            continue
        place, layer = _place(node, places)
        calls[place.name] += 1
        if calls[place.name] > CALLS:
            continue
        try:
            seen = _READERS[op](node, op, place, layer)
        except RuntimeError:
            continue  # the backward itself will say what is wrong with what was saved
        if seen is not None:
            found.append(seen)
    return found


def _is_packed(node: Node, op: str) -> bool:
    """Whether reading what was saved would run code of others: a checkpoint, say."""
    raw = getattr(node, f"_raw_saved_{_SAVED[op]}", None)
    return raw is None or getattr(raw, "unpack_hook", None) is not None


def _rectifier(node: Node, op: str, place: Place, layer: Place | None) -> SeenActivation | None:
    """ReLU, ReLU6 and thresholds: a unit is dead if nothing in the batch comes through."""
    values: Tensor = getattr(node, f"_saved_{_SAVED[op]}")
    floor, name = 0.0, "ReLU" if op == "Relu" else op
    if op == "Hardtanh":
        floor = float(node._saved_min_val)  # type: ignore[attr-defined]
        if floor < 0:
            return _saturating(node, op, place, layer)
        name = "ReLU6"
    elif op == "Threshold":
        floor = float(node._saved_threshold)  # type: ignore[attr-defined]
    if values.dim() < 2 or not values.numel():
        return None
    dim = 1 if values.dim() == 2 or _has_channels_second(layer, values) else values.dim() - 1
    others = [d for d in range(values.dim()) if d != dim]
    dead = values.amax(others) <= floor
    return SeenActivation(place, name, values.shape[dim], dead=dead.double().mean())


def _saturating(node: Node, op: str, place: Place, _: Place | None) -> SeenActivation | None:
    """Sigmoids and tanh: an element is flat where hardly any gradient comes through."""
    values: Tensor = getattr(node, f"_saved_{_SAVED[op]}")
    if values.dim() < 2 or not values.numel():
        return None
    sample = values.reshape(-1)[:: max(1, values.numel() // SAMPLE)]
    if op == "Sigmoid":
        slope = 4 * sample * (1 - sample)
    elif op == "Tanh":
        slope = 1 - sample * sample
    else:
        low, high = node._saved_min_val, node._saved_max_val  # type: ignore[attr-defined]
        slope = ((sample > low) & (sample < high)).to(torch.float32)
    flat = (slope < FLAT).double().mean()
    return SeenActivation(place, op, values.shape[-1], flat=flat)


def _place(node: Node, places: Mapping[Node, Place]) -> tuple[Place, Place | None]:
    """Where an activation is: its own module or, if it has none, the layer that it follows."""
    layer = _layer_before(node, places)
    own = places.get(node)
    return own or layer or Place("", "", ""), layer


def _layer_before(node: Node, places: Mapping[Node, Place]) -> Place | None:
    for _ in range(_REACH):
        following = [child for child, _ in node.next_functions if child is not None]
        if not following:
            return None
        node = following[0]
        if node in places:
            return places[node]
    return None


def _has_channels_second(layer: Place | None, values: Tensor) -> bool:
    if layer is None:
        return values.dim() == 4
    kinds = (layer.leaf, layer.type)
    return any(part in kind for kind in kinds for part in _CHANNELS_SECOND) or (
        values.dim() == 4 and not any("Linear" in k or "LayerNorm" in k for k in kinds)
    )


_READERS = {
    "Relu": _rectifier,
    "Threshold": _rectifier,
    "Hardtanh": _rectifier,
    "Sigmoid": _saturating,
    "Tanh": _saturating,
}
_SAVED = {
    "Relu": "result",
    "Threshold": "self",
    "Hardtanh": "self",
    "Sigmoid": "result",
    "Tanh": "result",
}
