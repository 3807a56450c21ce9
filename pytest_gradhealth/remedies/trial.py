"""Remedies, tried: each changes a copy of a failing model, which is probed and trained for a bit.

A remedy has cured a model if the rule that failed passes on the copy, under the same seed on the
same batch, and the loss falls in a short training on that batch, further than the best constant
answer would bring it; with each of several draws of the weights, where these are drawn by the
remedy or by a factory. An initialisation has cured nothing that other draws of the weights as they
were would pass with, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache

from torch import nn

from pytest_gradhealth.config.arguments import listed, require
from pytest_gradhealth.config.options import BY_NAME
from pytest_gradhealth.config.settings import parse
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.probing.judge import Criteria
from pytest_gradhealth.probing.placement import placed
from pytest_gradhealth.probing.prepare import Trial, prepare
from pytest_gradhealth.probing.probe import Origin
from pytest_gradhealth.remedies import Remedy, built_in_remedies
from pytest_gradhealth.remedies.clock import Clock
from pytest_gradhealth.remedies.outcome import changes, merit
from pytest_gradhealth.remedies.treatment import first_line, treatment_of, treatments
from pytest_gradhealth.remedies.ward import Ward, untreated
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, Measure, Outcome, Treatment
from pytest_gradhealth.rules import explanations
from pytest_gradhealth.tensors.modules import is_sharded
from pytest_gradhealth.training.optimizers import as_factory

#: What `remedies` may be.
_OWN = "pass pytest_gradhealth.Remedy objects"
#: Seconds that are spent on remedies by default.
BUDGET: float = BY_NAME["remedy_budget"].default


def suggest(
    diagnosis: Diagnosis, *, remedies: Iterable[Remedy] = (), budget: float = BUDGET
) -> tuple[Treatment, ...]:
    """Try remedies on copies of the model that a failing diagnosis is about.

    `remedies` come on top of the package's own. They are tried for at most `budget` seconds;
    what there was no time for is named. The model, which is taken as it is now, stays as it is.

    Returns what came of each remedy, cured ones first and the best of them first; nothing if
    nothing failed, and nothing of what leaves a loss that is not finite as it is. Raises ProbeError
    for a diagnosis without its model: one that was read back.
    """
    require(
        "diagnosis",
        diagnosis,
        lambda given: isinstance(given, Diagnosis),
        "what probe(model, inputs, ...) returns",
    )
    if not isinstance(diagnosis.origin, Origin):
        raise ProbeError(
            "this diagnosis has lost its model, as one that was read back from a file has; call"
            " probe() on the model and pass what that returns"
        )
    failures = [finding for finding in diagnosis.findings if finding.severity == "failure"]
    own = listed(
        remedies,
        Remedy,
        f"remedies is a {{}}; {_OWN} in a list",
        f"remedies has a {{}} in it; {_OWN}",
    )
    seconds = parse(BY_NAME["remedy_budget"], budget, "suggest(budget=...)")
    return treat(diagnosis, failures, (*built_in_remedies(), *own), seconds)


def treat(
    diagnosis: Diagnosis,
    failures: Sequence[Finding],
    remedies: Iterable[Remedy],
    budget: float | None = None,
) -> tuple[Treatment, ...]:
    """Try the remedies for some failures within the budget (by default that of the settings)."""
    origin = diagnosis.origin
    if not isinstance(origin, Origin):
        return ()
    budget = origin.settings.remedy_budget if budget is None else budget
    remedies = tuple(remedies)
    treatable = {code for remedy in remedies for code in remedy.symptoms}
    treatable -= explanations(diagnosis).keys()
    codes = tuple(dict.fromkeys(f.code for f in failures if f.code in treatable))
    chosen = [remedy for remedy in remedies if set(codes) & set(remedy.symptoms)]
    if not budget or not chosen:
        return ()

    def none(outcome: Outcome, reason: str) -> tuple[Treatment, ...]:
        return tuple(treatment_of(r, codes[0], outcome, reason, Measure()) for r in chosen)

    with placed(prepare(origin.case, origin.settings, diagnosis.decisive_seed)) as trial:
        clock = Clock(budget, longest=diagnosis.milliseconds / 1e3)
        ward = Ward(
            trial=replace(trial, optimizer=as_factory(trial.optimizer)),
            redraw=_redraw(origin) if origin.case.is_factory else None,
            criteria=Criteria.of(origin.settings, origin.rules, diagnosis.limits),
            codes=codes,
            known=frozenset(f.code for f in diagnosis.findings if f.severity == "failure"),
            clock=clock,
            budget=budget,
        )
        reason = _impossible(trial, origin)
        if reason:
            return none("cannot", reason)
        if not clock.leaves_room:
            return none("not tried", ward.no_time)
        with trial.subject.isolated(trial.optimizer):
            try:
                base = untreated(ward, ward.rule.value(diagnosis.profile))
            except Exception as error:  # whatever it is, it must not hide what failed
                return none("cannot", f"no copy can be trained: {first_line(error)}")
            return tuple(sorted(filter(changes, treatments(ward, base, chosen)), key=merit))


def _redraw(origin: Origin) -> Callable[[int], nn.Module]:
    """What builds the model from another seed, once for all remedies."""
    return cache(lambda seed: prepare(origin.case, origin.settings, seed).subject.model)


def _impossible(trial: Trial, origin: Origin) -> str:
    """Why no remedy can be tried, "" if some can."""
    if is_sharded(trial.subject.model):
        return "the layers of a sharded model cannot be replaced: probe it before it is sharded"
    if origin.rank is not None and origin.talks:
        return "the forward waits for other processes, which try no remedies"
    return ""
