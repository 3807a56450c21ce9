"""Size and spread of what the loss feels of the outputs, where as a whole they look sick.

A mask of -1e9, the sum over a picture and the energy of an atom are large and the same for all
examples, and no fault. To tell takes another forward, and the loss of outputs that are changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.measure.invariance import Answer, wide
from pytest_gradhealth.measure.outputs import is_batch, last_bias, seen, terms
from pytest_gradhealth.results.profile import LARGE, GradientProfile
from pytest_gradhealth.subject.loss import has_loss
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_sharded
from pytest_gradhealth.tensors.norms import l2_norm
from pytest_gradhealth.tensors.readout import Readout
from pytest_gradhealth.tensors.trees import tensors

#: Outputs of a smaller spread are looked at.
ALIKE = 1e-2
#: By this factor, what is felt has to differ from the whole to stand for it.
CLEARLY = 3.0


def with_felt_outputs(subject: Subject, profile: GradientProfile, *, seed: int) -> GradientProfile:
    """The profile with spread and magnitude of what the loss feels, where the outputs look sick.

    Outputs that no loss was given for count whole, as do those of a model under fully_shard, whose
    backward cannot end there.
    """
    whole = profile.spread, profile.magnitude
    large = whole[1] is not None and not whole[1] <= LARGE
    alike = whole[0] is not None and whole[0] < ALIKE
    wanted = (large or alike) and math.isfinite(profile.loss)
    if is_sharded(subject.model) or not anywhere(subject.model, wanted):
        return profile
    with subject.isolated():
        try:
            found = _felt(subject, seed)
        except (ProbeError, RuntimeError):  # what runs but once, or has no second derivative
            found = None
    if found is None:
        return profile
    spread, size = found
    if _differ(spread, whole[0]):
        profile = replace(profile, spread=spread, felt=("spread",))
    if large and _differ(size, whole[1]) and not (size or 0.0) > (whole[1] or 0.0):
        profile = replace(profile, magnitude=size, felt=(*profile.felt, "magnitude"))
    return profile


def _differ(felt: float | None, whole: float | None) -> bool:
    if felt is None or whole is None:
        return felt is not whole
    return not whole / CLEARLY <= felt <= whole * CLEARLY


def _felt(subject: Subject, seed: int) -> tuple[float | None, float | None] | None:
    """Spread and magnitude of what is felt, of all where that is nothing; None without a loss."""
    run = Pass(subject, seed)
    run.forward()
    if not has_loss(run.outputs, subject.loss):
        return None
    answers = [answer for answer in _answers(run, seed) if bool(answer.felt.any())]
    targets = [t for t in tensors(run.targets) if t.is_floating_point()]
    given = seen(run.outputs, run.inputs, run.targets, sampling=False)
    if not answers:  # returned beside the loss, and not what it was made of
        whole = zip(given.sizes, filter(is_batch, tensors(run.outputs)), strict=True)
        given = replace(given, sizes=tuple(size / terms(output) for size, output in whole))
        return given.read(Readout(given.scalars))
    scaled = [answer for answer in answers if not answer.is_linear]
    found = replace(
        given,
        apart=_numbers(_spread(answer, targets) for answer in scaled),
        sizes=_numbers(_size(answer, targets) for answer in scaled if not answer.is_scale_free),
    )
    return found.read(Readout(found.scalars))


def _numbers(values: Iterator[float]) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(value, dtype=torch.float64) for value in values)


def _answers(run: Pass, seed: int) -> Iterator[Answer]:
    """The outputs that hold several examples and that the loss was made of."""
    found = [t for t in tensors(run.outputs) if is_batch(t) and t.layout is torch.strided]
    outputs = [t for t in found if t.numel()]
    seed_everything(seed, run.subject.device)
    loss = run.loss()
    gradients = torch.autograd.grad(loss, outputs, create_graph=True, allow_unused=True)
    alike: dict[torch.Size, dict[Tensor, Tensor]] = {}
    for output, gradient in zip(outputs, gradients, strict=True):
        if gradient is not None:
            alike.setdefault(output.shape, {})[output] = gradient
    for group in alike.values():
        together = Answer(tuple(group), tuple(group.values()), run, seed)
        # Likelihoods of what was chosen and what was not, say: only their difference is felt.
        if len(group) > 1 and together.is_free((1,)):
            yield together
        else:
            yield from (Answer((o,), (g,), run, seed) for o, g in group.items())


def _size(answer: Answer, targets: Sequence[Tensor]) -> float:
    """The RMS of what is felt; after a shift is taken out, by the numbers that are left free.

    A squared error shows where it wants the values: without `targets`, that counts as one. What has
    neither is taken for as large as each of the terms that it is a sum of.
    """
    free, scale = int(answer.felt.sum()), 1.0
    if answer.free_shift is not None:
        free -= int(answer.felt.sum(answer.free_shift).count_nonzero())
    elif not targets and answer.goal is not None:
        goal = torch.where(answer.felt, answer.goal, 0.0)
        scale = max(scale, float(l2_norm(goal)) / math.sqrt(free))
    if answer.goal is None and not any(t.numel() == answer.output.numel() for t in targets):
        scale = max(map(terms, answer.parts))
    return float(l2_norm(answer.values())) / math.sqrt(free) / scale


def _spread(answer: Answer, targets: Sequence[Tensor]) -> float:
    """How far examples lie apart in what is felt: the most of several ways to see it.

    Over their size, with the last bias or without; over how far their targets lie apart; or what
    of the gradient would change if they did not. NaN where all values are zero.
    """
    values = answer.values()
    counted, apart = _deviation(answer, values)
    shares = [l2_norm(apart) / l2_norm(torch.where(counted, values, 0.0))]
    bias = last_bias(answer.parts[0]) if len(answer.parts) == 1 else None
    if bias is not None:
        values = answer.values(wide(bias))
        rest = _deviation(answer, values)[1]
        shares.append(l2_norm(rest) / l2_norm(torch.where(counted, values, 0.0)))
    for target in targets:
        if target.numel() == answer.output.numel():
            wanted = _deviation(answer, wide(target).reshape(answer.output.shape))[1]
            shares.append(l2_norm(apart) / l2_norm(wanted))
    shares.append(l2_norm(answer.bend(apart)) / l2_norm(answer.gradient))
    known = [float(share) for share in shares if bool(share.isfinite())]
    return min(max(known, default=math.nan), 1.0)


def _deviation(answer: Answer, values: Tensor) -> tuple[Tensor, Tensor]:
    """Which values can be compared over the batch, and how far each is from the mean.

    Where no place is felt in two examples, as where each has its own class, all are.
    """
    counted = answer.felt & (answer.felt.sum(0, keepdim=True) > 1)
    if bool(counted.any()):
        return counted, torch.where(counted, values - answer.mean(values, (0,)), 0.0)
    everywhere = tuple(range(values.dim()))
    return answer.felt, torch.where(answer.felt, values - answer.mean(values, everywhere), 0.0)
