"""What layers do to a gradient that lie beside its path: residual branches, calls of a loop."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise

from pytest_gradhealth.formatting import count, factor, listing, number
from pytest_gradhealth.results.activation_functions import SATURATING
from pytest_gradhealth.results.path import GradientPath, decades
from pytest_gradhealth.results.profile import GradientProfile, OutputRecord
from pytest_gradhealth.rules.rule import Cause


def beside_the_path(path: GradientPath, profile: GradientProfile, *, down: bool) -> Cause | None:
    """Say which layers between two points make most of what a path gains or loses (`down`).

    None where those are no two calls, or most of it is not between the first and the last of them.
    """
    index = path.largest_step(down=down)
    if index is None:
        return None
    far, near = path.points[index], path.points[index + 1]
    calls = calls_between(path, index, profile)
    if len(calls) < 2 or calls[-1].name not in _users(calls[0].name, profile):
        return None
    gained = decades(calls[0].norm or 0.0, calls[-1].norm or 0.0)
    total = path.vanishing if down else path.exploding
    if gained * total <= 0 or 2 * abs(gained) < abs(total):
        return None
    names = listing([*dict.fromkeys(call.name for call in calls)], 4)
    each = f"{factor(gained / (len(calls) - 1))} in each of {count(len(calls), 'call')} of {names}"
    where = f"between {near.label} and {far.label}"
    row = _in_a_row(calls, profile)
    if not down and 2 * _by_weights(calls, profile, row=row) > gained:
        return Cause(
            f"most of it is gained beside the path, {where}: {each}",
            f"smaller initial weights in {names} (a tenth, say), or a normalisation layer before"
            " each call",
        )
    verb = "lost" if down else "gained"
    if row:
        return Cause(
            f"most of it is {verb} {where}, on all ways: {each}, one behind the other",
            f"{'a larger share of what goes past them, or ' if down else ''}other activations,"
            " initial weights or a normalisation layer in them",
        )
    return Cause(
        f"most of it is {verb} {where}: {each}",
        f"look at what multiplies the output of {far.label} on its way past them (a factor, a"
        " gate), and at their weights",
    )


def made_of_factors(path: GradientPath, profile: GradientProfile) -> Cause | None:
    """Say that an output is a product of what layers make that read others, off the path.

    Such a gradient is as small as the product, and at each factor alike.
    """
    index = path.largest_step(down=True)
    if index is None:
        return None
    far, near = path.points[index], path.points[index + 1]
    calls = calls_between(path, index, profile)
    shrinks = decades(near.activation, far.activation)
    each = dict.fromkeys(call.name for call in calls)
    readers = {user for record in profile.flow for user in record.users}
    if readers.isdisjoint(each) or not 2 * shrinks < path.steps[index]:
        return None
    names = listing([*each])
    size = number(near.activation / math.sqrt(near.numel))
    because = (
        f"what {near.title} returns is small itself, with an RMS of {size}: a product of what"
        f" {count(len(calls), 'call')} make of it ({names}), as the derivative of a network is of"
        " its slopes"
    )
    kinds = {seen.function for seen in profile.activations} & SATURATING.keys()
    slopes = ", ".join(f"{SATURATING[kind]} for a {kind}" for kind in sorted(kinds))
    return Cause(
        because + f" (at most {slopes})" * bool(slopes),
        "activations of larger slopes (nn.SiLU(), torch.sin), residual connections, or larger"
        " initial weights",
    )


def _in_a_row(calls: Sequence[OutputRecord], profile: GradientProfile) -> bool:
    """Whether calls use one another alone, and nothing goes past any of them on its way."""
    users = {record.layer: record.users for record in profile.flow}
    return all(users.get(one.name) == (next_.name,) for one, next_ in pairwise(calls))


def _by_weights(calls: Sequence[OutputRecord], profile: GradientProfile, *, row: bool) -> float:
    """Decades that layers with such weights gain: in a row, or each added to what goes past it."""
    sizes: dict[str, float] = {}
    for p in profile.parameters:
        if len(p.shape) > 1:
            sizes[p.module] = max(sizes.get(p.module, 0.0), p.norm / math.sqrt(p.shape[0]))
    passed = [sizes[call.name] for call in calls[1:]]
    return sum(math.log10(size if row else math.hypot(1, size)) for size in passed if size)


def calls_between(
    path: GradientPath, index: int, profile: GradientProfile
) -> Sequence[OutputRecord]:
    """Calls of layers with weights that ran between two points and are on no path."""
    weighted = {p.module for p in profile.parameters if len(p.shape) > 1}
    places = {o.key: i for i, o in enumerate(profile.outputs)}
    far, near = (places.get(path.points[i].key) for i in (index, index + 1))
    if far is None or near is None:
        return ()
    on_path = {point.key for point in path.points}
    return [
        o
        for o in profile.outputs[far + 1 : near]
        if o.norm and o.name in weighted and o.key not in on_path
    ]


def _users(layer: str, profile: GradientProfile) -> Collection[str]:
    """All layers that use what a layer returns, with others in between; itself in a loop."""
    uses = {record.layer: record.users for record in profile.flow}
    found, stack = set[str](), [layer]
    while stack:
        fresh = [user for user in uses.get(stack.pop(), ()) if user not in found]
        found.update(fresh)
        stack += fresh
    return found
