"""Probes that several assertions share: the same model and batch are measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.isolation.fingerprint import Fingerprint, fingerprint
from pytest_gradhealth.probing.case import Case, check_case
from pytest_gradhealth.probing.ignored import check_patterns
from pytest_gradhealth.probing.judge import Criteria, chosen_rules, judge_again
from pytest_gradhealth.probing.probe import Origin, diagnose
from pytest_gradhealth.probing.thresholds import limits_of
from pytest_gradhealth.results.diagnosis import VERDICTS, Diagnosis
from pytest_gradhealth.rules import Rule
from pytest_gradhealth.tensors.modules import as_written


@dataclass
class ProbeCache:
    """The probes of one test; keeps their models and batches alive as long as it lives."""

    _known: list[tuple[Case, Settings, Fingerprint, Diagnosis]] = field(default_factory=list)

    def diagnose(
        self, case: Case, settings: Settings, rules: Sequence[Rule], base_seed: int
    ) -> Diagnosis:
        """Return the diagnosis of a case, from an earlier probe if nothing has changed since.

        Other limits are applied to what was measured; a failure that no second look has confirmed
        costs a new probe, and so does one that is new without any: more is asked of what fails.
        """
        check_case(case)
        known_already = self._known_already(case, settings, rules)
        if not anywhere(case.model, known_already is None) and known_already is not None:
            return known_already
        fresh = diagnose(case, settings, rules, base_seed)
        # Taken now: a probe leaves the values of buffers alone, but not their version counters.
        self._known.insert(0, (case, settings, fingerprint(_watched(case)), fresh))
        return fresh

    def _known_already(
        self, case: Case, settings: Settings, rules: Sequence[Rule]
    ) -> Diagnosis | None:
        state: Fingerprint | None = None
        for known, theirs, their_state, diagnosis in self._known:
            if not _is_same(known, case) or theirs.of_measurement != settings.of_measurement:
                continue
            state = state or fingerprint(_watched(case))
            if state == their_state:
                again = judged(diagnosis, settings, rules)
                if again is not None:
                    return again
        return None


def judged(diagnosis: Diagnosis, settings: Settings, rules: Sequence[Rule]) -> Diagnosis | None:
    """Judge a diagnosis with other settings.

    None where that needs another look: a failure is left unconfirmed, or is new without any. What
    has lost its model is judged as it is.
    """
    chosen = chosen_rules(settings, rules)
    check_patterns(settings, diagnosis.profiles)
    if isinstance(diagnosis.origin, Origin):
        theirs = settings.measured_with(diagnosis.origin.settings)
        origin = replace(diagnosis.origin, settings=theirs, rules=chosen)
        diagnosis = replace(diagnosis, origin=origin, treatments=())
    eps = diagnosis.limits.get("eps")
    limits = limits_of(settings, rules, sgd=diagnosis.sgd, eps=eps)
    again, unconfirmed = judge_again(diagnosis, Criteria.of(settings, chosen, limits))
    worse = VERDICTS.index(again.verdict) < VERDICTS.index(diagnosis.verdict)
    asks = unconfirmed and (settings.confirm_steps or worse)
    return None if asks and isinstance(diagnosis.origin, Origin) else again


def _watched(case: Case) -> tuple[Any, ...]:
    """What a later probe of the case would depend on."""
    step = () if case.step is None else (case.step.clip, case.step.regularizer)
    batch = case.inputs, case.targets
    called = as_written(case.model), case.loss, case.call
    return (*called, case.optimizer, *step, *batch, case.loss_scale)


def _is_same(one: Case, other: Case) -> bool:
    return (
        one.model is other.model
        and one.loss is other.loss
        and one.call is other.call
        and _is_same_tree(one.optimizer, other.optimizer)
        and one.step == other.step
        and one.dependency == other.dependency
        and one.loss_scale is other.loss_scale
        and one.precision == other.precision
        and _is_same_tree(one.inputs, other.inputs)
        and _is_same_tree(one.targets, other.targets)
    )


def _is_same_tree(one: Any, other: Any) -> bool:
    """Whether two nested values hold the very same tensors in the same places."""
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Tensor):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(_is_same_tree(one[k], other[k]) for k in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_is_same_tree, one, other))
    return bool(isinstance(one, (int, float, str, bool, type(None))) and one == other)
