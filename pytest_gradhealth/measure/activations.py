"""Dead and saturated units: what the activation functions of one forward let through.

Read from the autograd graph, where every activation keeps its output for the backward, so that
functional ones are seen as well as modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import Node

from pytest_gradhealth.measure.places import Place, before, layer_before, node_before
from pytest_gradhealth.measure.ways import Ways
from pytest_gradhealth.results.activation_functions import FUNCTIONAL
from pytest_gradhealth.results.path import label_of
from pytest_gradhealth.results.profile import ActivationRecord
from pytest_gradhealth.tensors.devices import on_host
from pytest_gradhealth.tensors.graph import op_name
from pytest_gradhealth.tensors.readout import Readout
from pytest_gradhealth.tensors.samples import spread_out
from pytest_gradhealth.tensors.storage import as_it_lies
from pytest_gradhealth.tensors.unwrap import whole

#: An element is flat where the slope is below this share of the largest slope.
FLAT = 0.01
#: Elements of one activation that the share of flat ones is estimated from.
SAMPLE = 2**16
#: How many of them lie side by side.
BLOCK = 64
#: Calls of one layer that are looked at, where it is called again and again.
CALLS = 16
_CHANNELS_SECOND = ("Conv", "BatchNorm", "InstanceNorm", "GroupNorm")
_CHANNELS_LAST = ("Linear", "LayerNorm", "Embedding")
_TURNS = ("Transpose", "Permute")


@dataclass(slots=True)
class SeenActivation:
    """An activation behind a `layer`, with its share of dead or flat ones still on the device."""

    name: str
    type: str
    function: str
    layer: str
    point: str | None
    units: int = 0
    dead: Tensor | None = None
    flat: Tensor | None = None
    after: str = ""
    at: Literal["", "behind"] = ""

    def record(self, numbers: Readout) -> ActivationRecord:
        """The record of an activation."""
        return ActivationRecord(
            self.name,
            self.type,
            self.function,
            self.units,
            numbers.get(self.dead),
            numbers.get(self.flat),
            self.after,
            self.at,
            self.point,
        )


@torch.no_grad()
def activations_of(
    nodes: Iterable[Node], places: Mapping[Node, Place], ways: Ways
) -> list[SeenActivation]:
    """Return the activations behind a loss, nearest to the loss first.

    Reads what the nodes have saved; activations inside a checkpoint, which has saved nothing, are
    left out. To be called before the backward, which frees it.
    """
    found: list[SeenActivation] = []
    calls: Counter[tuple[str, str]] = Counter()
    for node in nodes:
        op = ways.graph.ops[node]
        if op not in _SAVED or _is_packed(node, op):
            continue
        layer = layer_before(node, places)
        place = places.get(node) or layer
        calls[place.name, layer.name] += 1
        if calls[place.name, layer.name] > CALLS:
            continue
        point = None if place.key is None else label_of(*place.key)
        seen = SeenActivation(place.name, place.type, FUNCTIONAL.get(op, op), layer.name, point)
        try:
            has_units = _read(seen, node, op, places)
        except RuntimeError:
            continue  # the backward itself will say what is wrong with what was saved
        if not has_units or not (seen.dead is None or ways.lead_on(node)):
            continue  # what leads to the loss alone (a hinge, a penalty) may let nothing through
        if node in places or _counts(seen, node, places, ways):
            found.append(seen)
    served = Counter(name for name, _ in {(seen.name, seen.layer) for seen in found})
    for seen in found:
        seen.after = seen.layer * (served[seen.name] > 1)
    return found


def _counts(seen: SeenActivation, node: Node, places: Mapping[Node, Place], ways: Ways) -> bool:
    """Note where a function is, which has no module, and whether it counts: it may lead anywhere.

    To the loss alone, it counts where nothing goes past it.
    """
    layer = node_before(node, places)
    alone = layer is not None and ways.all_through(layer, node)
    leads_on = ways.lead_on(node)
    seen.at, seen.point = "behind", seen.point if alone and leads_on else None
    return leads_on or alone


def _is_packed(node: Node, op: str) -> bool:
    """Whether reading what was saved would run code of others: a checkpoint, say."""
    raw = getattr(node, f"_raw_saved_{_SAVED[op]}", None)
    return raw is None or getattr(raw, "unpack_hook", None) is not None


def _read(seen: SeenActivation, node: Node, op: str, places: Mapping[Node, Place]) -> bool:
    """Read what an activation lets through; false for what has no units.

    Of ReLU and thresholds, a unit is dead if nothing in the batch comes through; of sigmoids and
    tanh, an element is flat where hardly any gradient does.
    """
    values = _saved(node, op)
    if values.is_nested or values.dim() < 2 or not values.numel():
        return False
    floor = float(getattr(node, _FLOORS.get(op, ""), 0.0))
    if op in ("Sigmoid", "Tanh") or (op == "Hardtanh" and floor < 0):
        seen.units = values.shape[-1]
        seen.flat = (_slope(node, op, _sample(values)) < FLAT).mean(dtype=torch.float64)
        return True
    dim = values.dim() - 1
    if dim > 1:
        second = _has_channels_second(before(node), places)
        dim = 1 if second or (second is None and values.dim() == 4) else dim
    seen.units, seen.dead = values.shape[dim], _share_below(values, dim, floor)
    return True


def _share_below(values: Tensor, dim: int, floor: float) -> Tensor:
    """The share of units along a dimension with no element above the floor.

    On the CPU, where a look at numbers costs nothing, a part of a large batch settles most: there
    every unit is alive.
    """
    others = [d for d in range(values.dim()) if d != dim]
    if on_host(values) and values.numel() > SAMPLE:
        part = values[: max(1, len(values) // 8)]
        if part.amax(others).min().item() > floor:
            return torch.zeros((), dtype=torch.float64)
    return (values.amax(others) <= floor).mean(dtype=torch.float64)


def _slope(node: Node, op: str, sample: Tensor) -> Tensor:
    """The slope at some elements, over the largest that there is."""
    if op == "Sigmoid":
        return 4 * sample * (1 - sample)
    if op == "Tanh":
        return 1 - sample * sample
    low, high = node._saved_min_val, node._saved_max_val  # type: ignore[attr-defined]
    inside: Tensor = (sample > low) & (sample < high)
    return inside.to(torch.float32)


def _saved(node: Node, op: str) -> Tensor:
    """What an activation has kept for the backward; all of it, where every rank keeps a part."""
    return whole(getattr(node, f"_saved_{_SAVED[op]}"))


def _sample(values: Tensor) -> Tensor:
    """At most SAMPLE elements from all over a tensor, the same ones every time."""
    flat = as_it_lies(values)
    flat = values.reshape(-1) if flat is None else flat
    return flat if flat.numel() <= SAMPLE else spread_out(flat, SAMPLE // BLOCK, BLOCK)


def _has_channels_second(nodes: Iterable[Node], places: Mapping[Node, Place]) -> bool | None:
    """Whether units are dimension 1 and not the last, as the nearest layer with weights has them.

    None where no such layer is near. Layers without weights keep the layout, a transposition on
    the way turns it round.
    """
    turned = False
    for node in nodes:
        place = places.get(node)
        kinds = () if place is None else (place.leaf, place.type)
        if any(part in kind for kind in kinds for part in _CHANNELS_SECOND):
            return not turned
        if any(part in kind for kind in kinds for part in _CHANNELS_LAST):
            return turned
        turned ^= op_name(node) in _TURNS
    return None


_FLOORS = {"Hardtanh": "_saved_min_val", "Threshold": "_saved_threshold"}
#: The activations that are looked at, and what their nodes have saved.
_SAVED = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh"), "result"),
    **dict.fromkeys(("Relu6", "Hardtanh", "Threshold"), "self"),
}
