"""What a path tells on which no gradient arrives: the ways round, and after."""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile


def gets_round(path: GradientPath, profile: GradientProfile) -> bool:
    """Whether gradient gets to a path's first layer although none goes through its output.

    A loss that is made of gradients (a gradient penalty, forces of a potential) changes the weights
    and not what the layer returned; a layer that is called again may have nothing to do for one of
    the losses. Shared weights tell nothing of it.
    """
    if path.last.norm and profile.norm_of(path.first.name):
        return False  # through another call, and this one loses what the loss sends it
    return any(
        parameter.gradient
        for parameter in profile.parameters
        if parameter.module == path.first.name and not parameter.other_names
    )


def is_left_out(path: GradientPath, profile: GradientProfile) -> bool:
    """Whether a path is silent since what it makes is multiplied by fixed zeros, beside others."""
    own = {p.name for p in profile.parameters if p.module == path.first.name and p.gradient == 0}
    alive = any(other.entry.norm for other in profile.judged_paths)
    return path.entry.norm == 0 and alive and bool(own) and own <= {*profile.left_out}


def find_woken(path: GradientPath, second: GradientProfile | None) -> GradientPath | None:
    """The same path in the second look, if gradient has come through since."""
    other = None if second is None else second.same_path(path)
    return other if other is not None and other.entry.norm > 0 else None


def second_reach(path: GradientPath, second: GradientProfile) -> float:
    """V of the same path in the second look.

    Behind a gate that was exactly zero at first, the norms are set by the few steps the gate has
    made: there the reference is the point right behind the gate, and what the gradient loses before
    it gets there is what the first look has found. Where the model learns, the reference is the
    last layer with weights: what all layers lose is the scale of the loss.
    """
    other = second.same_path(path)
    if other is None:
        return 0.0
    if other.entry.norm == 0 or not other.finite:
        return -math.inf
    gate = path.silent_at
    if gate is None:
        learned = path.first.label in second.learned
        return max(other.vanishing, _among_layers(other) if learned else -math.inf)
    behind = path.points[gate]
    for point in other.points:
        if point.label == behind.label:
            opened = GradientPath((other.entry, point), other.entry).vanishing
            return max(other.vanishing, opened + min(0.0, path.reach(path.points[gate + 1])))
    return 0.0


def _among_layers(path: GradientPath) -> float:
    """V of a path up to its last layer with weights, or the last weights that no layer has."""
    points = path.among_layers.points
    last = max((n for n, point in enumerate(points) if point.width is not None), default=None)
    return replace(path, points=points if last is None else points[: last + 1]).vanishing
