"""Run both sides on one batch, one seed and one set of weights, and tell where they part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.agreement.alike import Alike, Decisions
from pytest_gradhealth.agreement.distances import Distances, over
from pytest_gradhealth.agreement.dropout import without_dropout
from pytest_gradhealth.agreement.names import Names
from pytest_gradhealth.agreement.processes import anywhere
from pytest_gradhealth.agreement.rounding import Rounding, move_weights, moved
from pytest_gradhealth.agreement.side import Layers, Place, Reading, Side
from pytest_gradhealth.agreement.ways import in_format, twin_of
from pytest_gradhealth.agreement.weights import Renaming, given, take
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.look import look
from pytest_gradhealth.measure.recorder import PARAMETER, Key
from pytest_gradhealth.results.agreement import Agreement, Difference
from pytest_gradhealth.tensors.formats import coarsest
from pytest_gradhealth.tensors.modules import named_parameters

#: What rounding may do, over what it does where weights and inputs are rounded otherwise.
MARGIN = 4.0
#: Beyond this distance, where a margin would let zeros pass for a gradient, it is a smaller one.
WIDE, NARROW = 0.5, 2.0
#: How far two runs of a may differ in what it returns, to be compared with anything.
STEADY = 1e-2
#: The least tolerance, in rounding units: of sums that no rounding of a weight changes.
LEAST_UNITS = 16.0
#: Rounding units of a sum, over the root of the number of its terms, where no precise run tells.
SUMS = 4.0
#: How often a is run with its weights rounded otherwise.
DRAWS = 2


@dataclass(frozen=True)
class Tolerance:
    """Up to which distance two tensors are the same: as declared, None for what rounding does."""

    rtol: float | None = None
    atol: float = 0.0

    def of(self, noise: float, unit: float, sums: float, scale: float, faint: float) -> float:
        """The largest distance, relative to the scale of a's tensor.

        Up to the distance `faint`, if it is not 0, it may be nothing but rounding; sums may have
        gathered so many rounding units.
        """
        wide = MARGIN * noise
        wide = max(wide, faint) if faint else min(wide, max(WIDE, NARROW * noise))
        own = max(wide, max(LEAST_UNITS, sums) * unit) if self.rtol is None else self.rtol
        return own + (self.atol / scale if scale else 0.0)


def agreement(
    a: Side, b: Side, *, seed: int, own_weights: bool, renaming: Renaming, tolerance: Tolerance
) -> Agreement:
    """Compare the sides; b takes the weights of a, unless both keep their `own_weights`.

    Layers are those on the path of a's gradient, and all of them where the sides do not agree.
    Raises ProbeError if one of them cannot be run, or b cannot take the weights.
    """
    renaming.check(a.subject.model)
    pairs = [] if own_weights else given(a.subject.model, b.subject.model, renaming)
    shows_layers = not (a.compiled or b.compiled)
    if a.draws_otherwise or b.draws_otherwise:
        a, b = a.changed(without_dropout), b.changed(without_dropout)
    if pairs:
        b = b.changed(partial(take, pairs=pairs))
    both = _Both(a, b, Names.of(a, b, renaming), seed, tolerance, shows_layers)
    found = both.compared(_layers(a, seed) if shows_layers else ())
    _check_comparable(found)
    apart = not found.same if a.averaged is None else anywhere(not found.same)
    return both.compared("all" if shows_layers else (), parted=True) if apart else found


def _check_comparable(found: Agreement) -> None:
    """Raise ProbeError where a differs from itself by so much that nothing would be told."""
    returned = max(found.of("output", "loss"), key=lambda d: d.repeated)
    if returned.repeated > STEADY:
        raise ProbeError(
            f"two runs of {found.a} alone differ by {returned.repeated:.0%}, with the same weights,"
            " batch and random numbers: nothing can be compared with it; draw its random numbers"
            " from torch, and let nothing count its calls"
        )
    gradients = found.of("parameter gradient")
    if found.declared or not gradients or any(d.tolerance < 1 for d in gradients):
        return
    least = min(gradients, key=lambda d: d.rounded)
    raise ProbeError(
        f"rounding in {found.format} alone moves every gradient of {found.a} by {least.rounded:.0%}"
        " or more: nothing can be compared in it; compare a smaller model, or a batch of more"
        " examples, or pass rtol=..."
    )


@dataclass(frozen=True)
class _Both:
    """Both sides, and what it takes to compare them."""

    a: Side
    b: Side
    names: Names
    seed: int
    tolerance: Tolerance
    shows_layers: bool

    def compared(self, layers: Layers, *, parted: bool = False) -> Agreement:
        """Run both, and a again, as it is and with other rounding.

        Where they have `parted`, another seed tells whether random numbers do as much.
        """
        decisions = Decisions()
        read = partial(self.a.read, layers=layers)
        first = read(seed=self.seed, beside=self._alike(decisions, known=False))
        again = read(seed=self.seed, beside=self._alike(Decisions(), known=False))
        coarse = _format(self.a, self.b, first)
        unit, name = torch.finfo(coarse).eps, str(coarse).removeprefix("torch.")
        distances = partial(Distances, first, unit=unit)
        repeated = distances(again)
        del again
        theirs = self._theirs(layers, self._alike(decisions, known=True))
        found, other = distances(theirs), None
        noise = self._rounded(coarse, layers, decisions, first, theirs)
        # In coarser formats, sums are gathered in float32.
        precise = self._precise(layers, distances, coarse) if not noise else []
        sums = 0.0
        if not noise:
            generator = torch.Generator().manual_seed(self.seed)
            noise = [
                distances(_moved(self.a, self.seed, layers, unit, generator)) for _ in range(DRAWS)
            ] + precise
            if not precise and coarse in (torch.float32, torch.float64):
                sums = SUMS * math.sqrt(max(map(Tensor.numel, first.values())))
        places, own = [*found.places(self.names.parameters.values())], self.names.parameters
        allowed = partial(self.tolerance.of, unit=unit, sums=sums)
        differences = tuple(_difference(place, found, repeated, noise, allowed) for place in places)
        apart = [p for p, d in zip(places, differences, strict=True) if not d.agrees]
        if parted:
            other = distances(
                read(seed=self.seed + 1, beside=self._alike(Decisions(), known=False))
            )
        return Agreement(
            a=self.a.name,
            b=self.b.name,
            differences=differences,
            format=name,
            unit=unit,
            declared=self.tolerance != Tolerance(),
            layers=self.shows_layers,
            redrawn=other is not None and _does_as_much(other, found, apart),
            without_dropout=self.b.draws_otherwise,
            only_a=tuple(n for n in self.a.parameters() if n not in own.values()),
            only_b=tuple(n for n in self.b.parameters() if n not in own),
        )

    def _alike(self, decisions: Decisions, *, known: bool) -> AbstractContextManager[Any]:
        """What has both sides draw and decide alike, where formats or layouts would not have it.

        Compiled code cannot be watched.
        """
        formats = {side.format or coarsest(_trained(side)) for side in (self.a, self.b)}
        otherwise = len(formats) > 1 or self.a.lays_out_otherwise or self.b.lays_out_otherwise
        shown = self.shows_layers and otherwise
        return Alike(decisions, known=known) if shown else nullcontext()

    def _theirs(self, layers: Layers, beside: AbstractContextManager[Any]) -> Reading:
        named = self.names.layers(layers)
        return self.names.in_a(self.b.read(seed=self.seed, layers=named, beside=beside))

    def _rounded(
        self, coarse: torch.dtype, layers: Layers, decisions: Decisions, first: Reading, theirs: Reading
    ) -> list[Distances]:
        """How far the side in the finer format is from itself, rounded to the coarser at random.

        Nothing where both are in one format, or the finer is compiled.
        """
        unit = torch.finfo(coarse).eps
        for side, exact in ((self.a, first), (self.b, theirs)):
            finer = side.format or coarsest(_trained(side))
            if torch.finfo(finer).eps < unit and not side.compiled:
                break
        else:
            return []
        found = []
        for draw in range(DRAWS):
            rounding = Rounding(finer, coarse, self.seed + draw)
            shaken = replace(side, subject=rounding.inputs(side.subject)).changed(rounding.weights)
            beside = _both(rounding, self._alike(decisions, known=True))
            if side is self.a:
                run = shaken.read(seed=self.seed, layers=layers, beside=beside)
            else:
                run = replace(self, b=shaken)._theirs(layers, beside)
            found.append(Distances(exact, run, unit))
        return found

    def _precise(
        self, layers: Layers, distances: Callable[[Reading], Distances], coarse: torch.dtype
    ) -> list[Distances]:
        """How far a is from what it computes in float64, where that is another format than b's.

        Nothing where it cannot, or draws other random numbers in it.
        """
        if coarse is not torch.float32 or coarsest(_trained(self.b)) is torch.float64:
            return []
        try:
            side = in_format(twin_of(self.a.subject), torch.float64)
            side = replace(side, changes=self.a.changes, averaged=self.a.averaged)
            found = distances(side.read(seed=self.seed, layers=layers))
        except (ProbeError, RuntimeError, TypeError):
            return []
        returned = [place for place in found.places(()) if place[0] in ("output", "loss")]
        return [found] if all(found.at(place) < STEADY for place in returned) else []


@contextmanager
def _both(
    outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]
) -> Iterator[None]:
    with outer, inner:
        yield


def _difference(
    place: Place,
    found: Distances,
    again: Distances,
    noise: list[Distances],
    tolerance: Callable[..., float],
) -> Difference:
    kind, name, call, output = place
    gap, scale, repeated = found.gap(place), found.scale(place), again.at(place)
    rounded = max(repeated, *(one.at(place) for one in noise))
    return Difference(
        kind=kind,
        name=name + (f" (call {call + 1})" if call else "") + (f"[{output}]" if output else ""),
        a=gap.a,
        b=gap.b,
        distance=found.at(place),
        cosine=gap.cosine,
        largest=gap.largest,
        repeated=repeated,
        rounded=rounded,
        tolerance=tolerance(noise=rounded, scale=scale, faint=found.faint(place)),
    )


def _format(a: Side, b: Side, first: Reading) -> torch.dtype:
    """The coarsest format that is computed in.

    That of weights that are trained, of an autocast around a side, and of what layers return.
    """
    returned = [tensor for (kind, *_), tensor in first.items() if kind in ("activation", "output")]
    formats = [coarsest(returned), *map(coarsest, map(_trained, (a, b)))]
    formats += [side.format for side in (a, b) if side.format is not None]
    return max(formats, key=lambda f: torch.finfo(f).eps)


def _trained(side: Side) -> list[Tensor]:
    return [parameter for parameter in side.parameters().values() if parameter.requires_grad]


def _layers(a: Side, seed: int) -> list[Key]:
    """The layers on the paths of a's gradient, each by its module, call and output."""
    with a.subject.isolated():
        profile = look(a.subject, seed=seed).profile
    modules = {name for name, _ in a.subject.model.named_modules()} - {""}
    points = {point.key: point for path in profile.paths for point in path.points}
    return [key for key, point in points.items() if key[0] in modules and point.type != PARAMETER]


def _moved(
    a: Side, seed: int, layers: Layers, unit: float, generator: torch.Generator
) -> Reading:
    """What a run makes of weights and inputs that are rounded otherwise."""
    shaken = replace(a, subject=moved(a.subject, unit, generator))
    move = partial(move_weights, unit=unit, generator=generator)
    return shaken.changed(move).read(seed=seed, layers=layers)


def _does_as_much(reseeded: Distances, found: Distances, apart: list[Place]) -> bool:
    """Whether another seed moves a from the same place of the forward on, and about as far."""
    if not apart or apart[0][0] not in ("activation", "output"):
        return False
    moved_first = next((place for place in reseeded.places(()) if reseeded.at(place)), None)
    ratios = [over(reseeded.at(place), found.at(place)) for place in apart]
    return moved_first == apart[0] and 1 / 3 < median(ratios) < 3
