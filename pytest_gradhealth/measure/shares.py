"""Which parts of a model have had a share in what a training has brought."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pytest_gradhealth.results.names import ancestry, module_of
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import named_parameters

#: The least share of a fall of the loss that is one: what rounding leaves is less.
SHARE = 1e-3


def sharing(
    subject: Subject, given: nn.Module, first: GradientProfile, paths: Sequence[GradientPath]
) -> tuple[str, ...]:
    """Return those first layers of `paths` behind which training has brought something.

    `subject` is the trained copy of the `given` model, `first` the look before. The weights that
    such a path has alone, of all that get enough gradient, are put back: where the loss stays what
    it is, what has made it fall is beside them. One that has none alone counts as one. To be called
    inside `isolated`.
    """
    beside = {p.name for path in first.judged_paths if path not in paths for p in path.points}
    now = _loss(subject, first.seed)
    found = []
    for path in paths:
        own = {point.name for point in path.points} - beside
        with _put_back(subject.model, given, own) as any_own:
            without = _loss(subject, first.seed)
        if not (any_own and without - now < SHARE * (first.loss - now)):
            found.append(path.first.label)
    return tuple(found)


def _loss(subject: Subject, seed: int) -> float:
    return float(Pass(subject, seed).run().detach())


@contextmanager
def _put_back(model: nn.Module, given: nn.Module, modules: Set[str]) -> Iterator[bool]:
    """Give some modules of a copy the weights that the given model has; whether they have any."""
    before = {name: p.detach() for name, (p, _) in named_parameters(given).items()}
    kept: list[tuple[nn.Parameter, Tensor]] = []
    with torch.no_grad():
        for name, (parameter, _) in named_parameters(model).items():
            own = parameter.requires_grad and not modules.isdisjoint(ancestry(module_of(name)))
            if own and name in before:
                kept.append((parameter, parameter.clone()))
                parameter.copy_(before[name])
    try:
        yield bool(kept)
    finally:
        with torch.no_grad():
            for parameter, trained in kept:
                parameter.copy_(trained)
