"""Layers that gradient could go round, and cannot any more, as paths alone tell.

That is all there is where a file is too old to know which layers use which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_gradhealth.baseline.change import Change
from pytest_gradhealth.baseline.entry import Entry, KeptPath
from pytest_gradhealth.baseline.layers import left_over
from pytest_gradhealth.baseline.model import Model, Sizes
from pytest_gradhealth.baseline.naming import named, numberless


def rerouted(
    before: Entry, after: Entry, pairs: Sequence[tuple[KeptPath, KeptPath]]
) -> Iterator[Change]:
    """Compare the layers that lie on the paths; experts come and go with the batch.

    Nothing is said of entries that do not know the layers.
    """
    sides = before.paths, after.paths
    if any(old.judged != new.judged for old, new in pairs):
        # One side alone has told data from none, and has paths that the other cannot have.
        sides = tuple(old for old, _ in pairs), tuple(new for _, new in pairs)
    old, new = Model(before), Model(after)
    less, more = left_over(_on(old, sides[0]), _on(new, sides[1]), new.every)
    both = old.sizes("gradient").keys() & new.sizes("gradient").keys()
    resting = {numberless(layer) for model in (old, new) for layer in model.sizes("idle")}
    both = {layer for layer in both if numberless(layer) not in resting}
    moved = {layer for layer in both if (layer in less) is not (layer in more)}
    gone, come = ([layer for layer in each if layer in moved] for each in (less, more))
    if gone:
        text = f"gone from the path: {named(gone, [*new.every])}, which gradient goes round now"
        yield Change("gone", True, gone[0], text)
    if come:
        text = f"new on the path: {named(come, [*new.every])}, which gradient went round before"
        yield Change("new", True, come[0], text)


def _on(model: Model, paths: Sequence[KeptPath]) -> Sizes:
    """The layers that lie on paths."""
    names = {point.module for path in paths for point in path.points}
    return {layer: n for layer, n in model.sizes("gradient").items() if layer in names}
