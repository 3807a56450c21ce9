"""Why parts of a model get no gradient: asked of a model only where some of its parts do not."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from pytest_gradhealth.distributed.team import anywhere, everywhere
from pytest_gradhealth.errors import CutOffError
from pytest_gradhealth.measure.alike import alike_from
from pytest_gradhealth.measure.anew import made_anew
from pytest_gradhealth.measure.apart import trained_apart
from pytest_gradhealth.measure.cuts import cuts
from pytest_gradhealth.measure.left_out import left_out
from pytest_gradhealth.measure.parts import felt_parts
from pytest_gradhealth.measure.perturbation import without_influence
from pytest_gradhealth.measure.stops import stops
from pytest_gradhealth.measure.untaken import untaken
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.names import INPUT
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.results.stop import Stop
from pytest_gradhealth.rules.silence import is_left_out
from pytest_gradhealth.rules.stops import cause_of_silence
from pytest_gradhealth.rules.unreached import cut_off, side_branches
from pytest_gradhealth.rules.unreached_parts import silent_parts, silent_uses
from pytest_gradhealth.rules.unused import owners_of, unused_parameters
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.trees import tensors

#: Rules that tell of no gradient, or of one that is exactly zero.
_OF_NOTHING = frozenset({"GH101", "GH401", "GH405"})


def with_reasons(subject: Subject, profile: GradientProfile, *, seed: int) -> GradientProfile:
    """A look that tells parts without a gradient apart by why they have none.

    The loss ignores what they return, the forward leaves them out or never takes them, or something
    else trains them.
    Raises ProbeError if the model or the loss fails.
    """
    for ask in (_with_ignored, _with_left_out, _with_untaken, _with_apart, _with_felt_parts):
        profile = ask(subject, profile, seed)
    return profile


def with_stops(
    subject: Subject, profile: GradientProfile, findings: Sequence[Finding], *, seed: int
) -> GradientProfile:
    """A look that names what keeps the gradient from parameters, where findings complain of it.

    From a loss that is not finite, nothing comes that could be kept.
    """
    if anywhere(subject.model, not math.isfinite(profile.loss)):
        return profile
    said = {finding.code for finding in findings if finding.complains}
    zero = [p.name for p in profile.parameters if p.state == "zero"]
    felt = [p.name for p in cut_off(profile)]
    cut = [*felt, *(p.name for p in unused_parameters(profile))]
    found: tuple[Stop, ...] = ()
    if zero and _is_blank(subject.inputs):
        return replace(profile, stops=(Stop("zeros", INPUT, parameters=tuple(zero)),))
    if "GH404" in said:
        profile = replace(profile, alike=alike_from(subject, seed=seed))
    if "GH404" in said or ((zero or cut) and said & _OF_NOTHING):
        found += stops(subject, [*zero, *cut], seed=seed)
    if cut and said & _OF_NOTHING:
        found += cuts(subject, cut, seed=seed, felt=felt)
    if {p.shape for p in profile.parameters if p.name in cut} & {*profile.unregistered}:
        profile = replace(profile, anew=made_anew(subject, seed=seed))
    return replace(profile, stops=found) if found else profile


def reason_of(error: CutOffError, subject: Subject, *, seed: int) -> str:
    """Why nothing can be differentiated, in words; what the error says where that is unknown."""
    names = [name for name, p in subject.model.named_parameters() if p.requires_grad]
    cause = cause_of_silence(names, cuts(subject, names, seed=seed))
    return str(error) if cause is None else f"{error.what}: {cause.because}\n  try: {cause.advice}"


def _is_blank(inputs: object) -> bool:
    """Whether all of a batch is zero: numbers, not what stands for words or classes."""
    given = [*tensors(inputs)]
    return bool(given) and all(t.is_floating_point() and not bool(t.any()) for t in given)


def with_reasons_of(first: GradientProfile, later: GradientProfile) -> GradientProfile:
    """A later look at the same model, with what the first one has found out."""
    ignored = {output.name for output in first.outputs if output.state == "ignored"}
    known = _marked_ignored(later, ignored)
    found = ("apart", "left_out", "untaken", "felt_parts")
    return replace(known, **{name: getattr(first, name) for name in found})


def without_left_out(profile: GradientProfile) -> GradientProfile:
    """A look in which no path is judged that is silent since its part is left out."""
    paths = (replace(p, judged=p.judged and not is_left_out(p, profile)) for p in profile.paths)
    return replace(profile, paths=tuple(paths))


def _with_ignored(subject: Subject, profile: GradientProfile, seed: int) -> GradientProfile:
    """Tell layers whose output the loss ignores from those that are cut off from it."""
    called = {o.name for o in profile.outputs if o.state in ("unreached", "no-grad")}
    silent = [p.name for p in profile.parameters if p.state == "none"]
    owners = owners_of(profile) if silent else {}
    names = sorted(called & {owners[name] for name in silent})
    if names:
        modules = dict(subject.model.named_modules())
        names = [name for name in names if name in modules]
    names = everywhere(subject.model, names)
    if not names:
        return profile
    with subject.isolated():
        return _marked_ignored(profile, without_influence(subject, names, seed=seed))


def _marked_ignored(profile: GradientProfile, names: Collection[str]) -> GradientProfile:
    outputs = tuple(
        replace(o, state="ignored") if o.name in names and o.state != "measured" else o
        for o in profile.outputs
    )
    return replace(profile, outputs=outputs)


def _with_left_out(subject: Subject, profile: GradientProfile, seed: int) -> GradientProfile:
    """Tell what the forward leaves out on purpose from what it has lost or never used."""
    suspects = [*side_branches(profile), *unused_parameters(profile), *cut_off(profile)]
    if not suspects:
        return profile
    names = left_out(subject, [p.name for p in suspects], seed=seed)
    return replace(profile, left_out=names)


def _with_untaken(subject: Subject, profile: GradientProfile, seed: int) -> GradientProfile:
    """Tell what the forward of a module does without from what is cut off in there."""
    cut = [parameter.name for parameter in cut_off(profile)]
    if not cut:
        return profile
    return replace(profile, untaken=untaken(subject, cut, seed=seed))


def _with_felt_parts(subject: Subject, profile: GradientProfile, seed: int) -> GradientProfile:
    """Tell parts of weights that are cut off from those that make no difference."""
    parts, uses = silent_parts(profile), silent_uses(profile)
    if not parts and not uses:
        return profile
    return replace(profile, felt_parts=felt_parts(subject, parts, uses, seed=seed))


def _with_apart(subject: Subject, profile: GradientProfile, seed: int) -> GradientProfile:
    """Tell what something else trains from what was cut off by mistake."""
    cut = [parameter.name for parameter in cut_off(profile)]
    if not cut:
        return profile
    return replace(profile, apart=tuple(trained_apart(subject, profile, cut, seed=seed)))
