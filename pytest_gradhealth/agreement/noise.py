"""How far rounding alone parts a side from itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pytest_gradhealth.agreement.alike import Decisions
from pytest_gradhealth.agreement.distances import Distances
from pytest_gradhealth.agreement.pair import Pair, format_of
from pytest_gradhealth.agreement.rounding import Rounding, move_weights, moved
from pytest_gradhealth.agreement.side import Layers, Reading, Side
from pytest_gradhealth.agreement.tolerance import Noise
from pytest_gradhealth.agreement.ways import in_format, twin_of
from pytest_gradhealth.errors import ProbeError

#: The least tolerance, in rounding units: of a result, and of sums that no moved weight changes.
LEAST_UNITS, LEAST_UNITS_OF_SUMS = 2.0, 16.0
#: Rounding units of a sum, over the root of the number of its terms, where no finer run tells.
SUMS = 4.0
#: How far a copy of a in a finer format may be from it in what it returns, to be one of the same.
SAME = 1e-1


def noise_of(
    pair: Pair,
    coarse: torch.dtype,
    layers: Layers,
    decisions: Decisions,
    readings: tuple[Reading, Reading],
    draws: int,
) -> Noise:
    """What rounding to a format does to a pair, of whose sides there are readings.

    The side in the finer format is run with all that it makes rounded to the coarser; where both
    are in one, that is a copy of a. What cannot be run so is run with moved weights and inputs.
    """
    unit = torch.finfo(coarse).eps
    run = partial(pair.other, layers=layers, decisions=decisions, unit=unit)
    first, theirs = readings
    for side, exact in ((pair.a, first), (pair.b, theirs), (None, first)):
        rounded = side or _finer(pair.a, coarse)
        if rounded is None or rounded.compiled or not _is_finer(format_of(rounded), coarse):
            continue
        try:
            made = [
                run(each, beside=beside) for each, beside in _rounded(pair, rounded, coarse, draws)
            ]
        except (ProbeError, RuntimeError, TypeError):
            continue
        found = [Distances(exact, one, unit) for one in made]
        if side or all(map(_are_of_one_run, found)):
            return Noise(found, LEAST_UNITS if side else LEAST_UNITS_OF_SUMS, seen=True)
    gathered = coarse in (torch.float32, torch.float64)  # sums, in this format itself
    terms = max(map(Tensor.numel, first.values())) if gathered else 0
    found = [Distances(first, run(side), unit) for side in _moved(pair, unit, draws)]
    return Noise(found, max(LEAST_UNITS_OF_SUMS, SUMS * math.sqrt(terms)), seen=False)


def _is_finer(one: torch.dtype, than: torch.dtype) -> bool:
    return torch.finfo(one).eps < torch.finfo(than).eps


def _finer(a: Side, coarse: torch.dtype) -> Side | None:
    """A copy of a in a finer format, None if there is none, or it cannot be made."""
    if coarse is torch.float64:
        return None
    finer = torch.float64 if coarse is torch.float32 else torch.float32
    try:
        side = in_format(twin_of(a.subject), finer)
    except (ProbeError, RuntimeError, TypeError):
        return None
    return replace(side, changes=a.changes, averaged=a.averaged)


def _rounded(
    pair: Pair, side: Side, coarse: torch.dtype, draws: int
) -> Iterator[tuple[Side, Rounding]]:
    """A side with weights and batch rounded, and what rounds all else, for so many draws."""
    for draw in range(draws):
        rounding = Rounding(format_of(side), coarse, pair.seed + draw)
        yield (
            replace(side, subject=rounding.batch(side.subject)).changed(rounding.weights),
            rounding,
        )


def _are_of_one_run(found: Distances) -> bool:
    """Whether two readings are of the same numbers, but for rounding: nothing drawn anew."""
    returned = [place for place in found.places(()) if place[0] in ("output", "loss")]
    return all(found.at(place) < SAME for place in returned)


def _moved(pair: Pair, unit: float, draws: int) -> Iterator[Side]:
    """Sides like a, with weights and inputs that are rounded otherwise."""
    generator = torch.Generator().manual_seed(pair.seed)
    for _ in range(draws):
        shaken = replace(pair.a, subject=moved(pair.a.subject, unit, generator))
        yield shaken.changed(partial(move_weights, unit=unit, generator=generator))
