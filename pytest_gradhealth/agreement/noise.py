"""How far rounding alone parts a side from itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pytest_gradhealth.agreement.alike import Decisions
from pytest_gradhealth.agreement.distances import Distances
from pytest_gradhealth.agreement.pair import Pair, format_of, trained
from pytest_gradhealth.agreement.rounding import Rounding, move_weights, moved
from pytest_gradhealth.agreement.side import Layers, Reading, Side
from pytest_gradhealth.agreement.tolerance import Noise
from pytest_gradhealth.agreement.ways import in_format, twin_of
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.tensors.formats import coarsest

#: The least tolerance, in rounding units: of a result, and of sums that no moved weight changes.
LEAST_UNITS, LEAST_UNITS_OF_SUMS = 2.0, 16.0
#: Rounding units of a sum, over the root of the number of its terms, where no precise run tells.
SUMS = 4.0
#: How far a precise run may be from a's in what it returns, to be taken for one of the same.
SAME = 1e-2


def noise_of(
    pair: Pair,
    coarse: torch.dtype,
    layers: Layers,
    decisions: Decisions,
    readings: tuple[Reading, Reading],
    draws: int,
) -> Noise:
    """What rounding to a format does to a pair, of whose sides there are readings.

    The side in the finer format is run with all that it makes rounded to the coarser. Where there
    is none, or it is compiled, a is run with moved weights and inputs, and in float64.
    """
    unit = torch.finfo(coarse).eps
    for side, exact in zip((pair.a, pair.b), readings, strict=True):
        finer = format_of(side)
        if torch.finfo(finer).eps < unit and not side.compiled:
            found = []
            for draw in range(draws):
                rounding = Rounding(finer, coarse, pair.seed + draw)
                subject = rounding.batch(side.subject)
                shaken = replace(side, subject=subject).changed(rounding.weights)
                run = pair.other(shaken, layers, decisions, unit, rounding)
                found.append(Distances(exact, run, unit))
            return Noise(found, LEAST_UNITS, seen=True)
    first, _ = readings
    distances = partial(Distances, first, unit=unit)
    run_as_a = partial(pair.other, layers=layers, decisions=decisions, unit=unit)
    precise = [*_precise(pair, run_as_a, distances, coarse)]
    gathered = coarse in (torch.float32, torch.float64)  # sums, in this format itself
    terms = 0 if precise or not gathered else max(map(Tensor.numel, first.values()))
    runs = [distances(run_as_a(side)) for side in _moved(pair, unit, draws)]
    return Noise(runs + precise, max(LEAST_UNITS_OF_SUMS, SUMS * math.sqrt(terms)), seen=False)


def _moved(pair: Pair, unit: float, draws: int) -> Iterator[Side]:
    """Sides like a, with weights and inputs that are rounded otherwise."""
    generator = torch.Generator().manual_seed(pair.seed)
    for _ in range(draws):
        shaken = replace(pair.a, subject=moved(pair.a.subject, unit, generator))
        move = partial(move_weights, unit=unit, generator=generator)
        yield shaken.changed(move)


def _precise(
    pair: Pair,
    run: Callable[[Side], Reading],
    distances: Callable[[Reading], Distances],
    coarse: torch.dtype,
) -> Iterator[Distances]:
    """How far a is from what it computes in float64, where that is another format than b's.

    Nothing where it cannot, or draws other random numbers in it.
    """
    if coarse is not torch.float32 or coarsest(trained(pair.b)) is torch.float64:
        return
    try:
        side = in_format(twin_of(pair.a.subject), torch.float64)
        side = replace(side, changes=pair.a.changes, averaged=pair.a.averaged)
        found = distances(run(side))
    except (ProbeError, RuntimeError, TypeError):
        return
    returned = [place for place in found.places(()) if place[0] in ("output", "loss")]
    if all(found.at(place) < SAME for place in returned):
        yield found
