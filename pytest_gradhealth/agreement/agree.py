"""Run both sides on one batch, one seed and one set of weights, and tell where they part."""

from __future__ import annotations

import math
from functools import partial
from statistics import median

import torch

from pytest_gradhealth.agreement.alike import Decisions
from pytest_gradhealth.agreement.distances import Distances, over
from pytest_gradhealth.agreement.dropout import without_dropout
from pytest_gradhealth.agreement.names import Names
from pytest_gradhealth.agreement.noise import noise_of
from pytest_gradhealth.agreement.pair import Pair, format_of, trained
from pytest_gradhealth.agreement.side import Layers, Place, Reading, Side
from pytest_gradhealth.agreement.tolerance import Noise, Tolerance
from pytest_gradhealth.agreement.weights import Renaming, given, take
from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.look import look
from pytest_gradhealth.measure.recorder import PARAMETER, Key
from pytest_gradhealth.results.agreement import Agreement, Difference
from pytest_gradhealth.tensors.formats import coarsest

#: How far two runs of a may differ in what it returns, to be compared with anything.
STEADY = 1e-2
#: How often a side is run with other rounding, and how often where the two sides part: few numbers
#: may lie close together by chance.
DRAWS, MORE_DRAWS = 2, 8


def agreement(
    a: Side, b: Side, *, seed: int, own_weights: bool, renaming: Renaming, tolerance: Tolerance
) -> Agreement:
    """Compare the sides; b takes the weights of a, unless both keep their `own_weights`.

    Layers are those on the path of a's gradient, and all of them where the sides do not agree.
    Raises ProbeError if one of them cannot be run, or b cannot take the weights.
    """
    renaming.check(a.subject.model)
    pairs = [] if own_weights else given(a.subject.model, b.subject.model, renaming)
    if a.draws_otherwise or b.draws_otherwise:
        a, b = a.changed(without_dropout), b.changed(without_dropout)
    if pairs:
        b = b.changed(partial(take, pairs=pairs))
    pair = Pair(a, b, Names.of(a, b, renaming), seed)
    found = _compared(pair, tolerance, _layers(a, seed) if pair.shows_layers else ())
    _check_named(pair, found)
    _check_comparable(found)
    if not anywhere(a.subject.model, not found.same):
        return found
    found = _compared(pair, tolerance, "all" if pair.shows_layers else (), parted=True)
    if found.redrawn and not pair.shows_layers:
        raise ProbeError(
            f"{found.b} draws other random numbers than {found.a}, or is wrong by as much as"
            " another seed changes that; compare in eval mode, or with dropout at 0"
        )
    return found


def _check_named(pair: Pair, found: Agreement) -> None:
    """Raise ProbeError where no parameter of one side is one of the other's, by name."""
    if found.of("parameter gradient") or not trained(pair.a) or not trained(pair.b):
        return
    raise ProbeError(
        f"no parameter of {found.b} has the name of one of {found.a}, so that no gradient can be"
        " compared; pass renamed={name in a: name in b}"
    )


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
    whole = math.hypot(*(d.a for d in gradients))
    moved = over(math.hypot(*(d.rounded * d.a for d in gradients)), whole)
    does = f"moves the gradient of {found.a} by {moved:.0%}"
    if not math.isfinite(moved):
        does = f"may leave no number of the gradient of {found.a}"
    raise ProbeError(
        f"rounding in {found.format} alone {does}: nothing"
        " can be compared in it; compare a smaller model, or a batch of more examples, or pass"
        " rtol=..."
    )


def _check_finite(pair: Pair, first: Reading) -> None:
    """Raise ProbeError for a loss of a's that is no number."""
    loss = float(first["loss", "", 0, 0])
    if not math.isfinite(loss):
        raise ProbeError(
            f"the loss of {pair.a.name} is {loss:g}: nothing can be compared with it;"
            " assert_healthy(model, ...) tells where that comes from"
        )


def _compared(
    pair: Pair, tolerance: Tolerance, layers: Layers, *, parted: bool = False
) -> Agreement:
    """Run both, and a again, as it is and with other rounding.

    Where they have `parted`, another seed tells whether random numbers do as much.
    """
    decisions = Decisions()
    first = pair.mine(layers, decisions)
    _check_finite(pair, first)
    coarse = _format(pair, first)
    unit = torch.finfo(coarse).eps
    distances = partial(Distances, first, unit=unit)
    repeated = distances(pair.mine(layers))
    second = pair.other(pair.b, layers, decisions, unit)
    found = distances(second)
    draws = MORE_DRAWS if parted else DRAWS
    noise = noise_of(pair, coarse, layers, decisions, (first, second), draws)
    own = pair.names.parameters
    places = [*found.places(own.values())]
    differences = tuple(_difference(p, found, repeated, noise, tolerance) for p in places)
    apart = [p for p, d in zip(places, differences, strict=True) if not d.agrees]
    a, b = pair.a, pair.b
    mine = {n: p.requires_grad for n, p in a.parameters().items()}
    theirs = {own[n]: p.requires_grad for n, p in b.parameters().items() if n in own}
    return Agreement(
        a=a.name,
        b=b.name,
        differences=differences,
        format=str(coarse).removeprefix("torch."),
        unit=unit,
        declared=tolerance != Tolerance(),
        layers=pair.shows_layers,
        redrawn=parted
        and _does_as_much(distances(pair.mine(layers, seed=pair.seed + 1)), found, apart),
        without_dropout=b.draws_otherwise,
        only_a=tuple(n for n in a.parameters() if n not in own.values()),
        only_b=tuple(n for n in b.parameters() if n not in own),
        frozen_a=tuple(n for n in mine if n in theirs and not mine[n] and theirs[n]),
        frozen_b=tuple(n for n in mine if n in theirs and mine[n] and not theirs[n]),
    )


def _difference(
    place: Place, found: Distances, again: Distances, noise: Noise, tolerance: Tolerance
) -> Difference:
    kind, name, call, output = place
    gap, repeated = found.gap(place), again.at(place)
    only = found.only(place) if kind == "output" else ""
    return Difference(
        kind=kind,
        name=name + (f" (call {call + 1})" if call else "") + (f"[{output}]" if output else ""),
        a=gap.a,
        b=gap.b,
        distance=math.inf if only else found.at(place),
        cosine=gap.cosine,
        largest=gap.largest,
        repeated=repeated,
        rounded=max(noise.at(place), repeated),
        tolerance=tolerance.at(place, found, noise),
        only=only,
    )


def _format(pair: Pair, first: Reading) -> torch.dtype:
    """The coarsest format that is computed in.

    That of weights that are trained, of an autocast around a side, and of what layers return.
    """
    returned = [tensor for (kind, *_), tensor in first.items() if kind in ("activation", "output")]
    formats = [coarsest(returned).to_real(), format_of(pair.a), format_of(pair.b)]
    return max(formats, key=lambda f: torch.finfo(f).eps)


def _layers(a: Side, seed: int) -> list[Key]:
    """The layers on the paths of a's gradient, each by its module, call and output."""
    with a.subject.isolated():
        profile = look(a.subject, seed=seed).profile
    modules = {name for name, _ in a.subject.model.named_modules()} - {""}
    points = {point.key: point for path in profile.paths for point in path.points}
    return [key for key, point in points.items() if key[0] in modules and point.type != PARAMETER]


def _does_as_much(reseeded: Distances, found: Distances, apart: list[Place]) -> bool:
    """Whether another seed moves a from the same place of the forward on, and about as far."""
    if not apart or apart[0][0] not in ("activation", "output"):
        return False
    moved_first = next((place for place in reseeded.places(()) if reseeded.at(place)), None)
    ratios = [over(reseeded.at(place), found.at(place)) for place in apart]
    return moved_first == apart[0] and 1 / 3 < median(ratios) < 3
