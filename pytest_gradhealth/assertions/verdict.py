"""Ask for a diagnosis, judge it, and raise what fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_gradhealth.assertions.warned import warn_of
from pytest_gradhealth.config.arguments import require
from pytest_gradhealth.config.options import BY_NAME, OPTIONS
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.config.values import FEWEST, integer
from pytest_gradhealth.context import current
from pytest_gradhealth.distributed.team import agreed, by_owner
from pytest_gradhealth.errors import GradientHealthError, ProbeError
from pytest_gradhealth.formatting import View, told
from pytest_gradhealth.measure.precision import declared_scale
from pytest_gradhealth.probing.cache import judged
from pytest_gradhealth.probing.case import Case, check_case
from pytest_gradhealth.probing.probe import Origin, diagnose
from pytest_gradhealth.probing.refusal import refused
from pytest_gradhealth.remedies import built_in_remedies
from pytest_gradhealth.remedies.trial import treat
from pytest_gradhealth.reporting.message import render
from pytest_gradhealth.results.diagnosis import RANK, Diagnosis, Finding
from pytest_gradhealth.rules import built_in_rules
from pytest_gradhealth.rules.rule import Rule, checked, own_rules, own_settings
from pytest_gradhealth.subject.step import Step

if TYPE_CHECKING:
    from pytest_gradhealth.config.options import SettingValues

Message = str | Callable[[str], str]


def measured(case: Case, values: SettingValues) -> Diagnosis:
    """Return the diagnosis that the settings of the current test and `values` make of a case.

    The model of a case may be a Diagnosis.
    """
    __tracebackhide__ = True
    context = current()
    if context is not None:
        context.begin()
    try:
        diagnosis = _diagnosed(case, asked_for(values, case))
    except ProbeError as error:
        raise refused(error) from error.__cause__
    if context is not None:
        context.record(diagnosis)
    return diagnosis


def asked_for(values: SettingValues, case: Case) -> Settings:
    """The settings of the current test with those of a call on top."""
    context = current()
    base = Settings() if context is None else context.settings
    plain = BY_NAME.keys() >= values.keys() and not case.rules
    own = () if plain else own_settings(_rules_for(case))
    return base.merged(values, "the call", (*OPTIONS, *own))


def check(
    codes: Iterable[str] | None, case: Case, values: SettingValues, msg: Message | None
) -> Diagnosis:
    """Raise what some rules (None: all) find in a case; return its diagnosis where they do not."""
    __tracebackhide__ = True
    diagnosis = measured(case, values)
    rules = {rule.code: rule for rule in _rules_for(case)}
    failures = tuple(f for f in diagnosis.findings if _fails(f, codes, rules.get(f.code)))
    if not failures:
        warn_of(diagnosis)
        return diagnosis
    diagnosis = _with_treatments(diagnosis, failures)
    context = current()
    text = render(diagnosis, failures, View() if context is None else context.view)
    rule = rules.get(failures[0].code)
    error_class = GradientHealthError if rule is None else rule.error
    raise error_class(with_message(text, msg), failures, diagnosis)


def check_steps(steps: object) -> None:
    """Raise ProbeError for what is no number of training steps."""
    require(
        "steps",
        steps,
        lambda given: integer(given, least=FEWEST),
        "the number of training steps, at least 6, for example steps=60",
    )


def check_has_learning(diagnosis: Diagnosis, case: Case) -> None:
    """Raise ProbeError for a diagnosis without training, or of what has nothing to learn."""
    if diagnosis.profile.learning is not None:
        return
    if isinstance(case.model, Diagnosis):
        raise ProbeError(
            "this diagnosis was made without training on the batch; pass the model, or"
            " probe(..., learn_steps=60)"
        )
    raise ProbeError(
        "there is no loss that training could lower: pass loss=..., for example"
        " loss=torch.nn.functional.cross_entropy, or inputs with labels of which the model makes"
        " its own"
    )


def with_message(text: str, msg: Message | None) -> str:
    """The caller's message in front, or what it makes of ours; no message hides what failed."""
    try:
        if callable(msg):
            return str(msg(text))
        return text if msg is None else f"{msg}\n{text}"
    except Exception as error:
        return f"(msg raised {told(error)}; pass a string, or a function of the message)\n{text}"


def _rules_for(case: Case) -> Sequence[Rule]:
    """The rules of the current test, and those that `probe` made a diagnosis with."""
    context = current()
    rules = built_in_rules() if context is None else context.rules
    brought = getattr(case.model.origin, "rules", ()) if isinstance(case.model, Diagnosis) else ()
    rules = checked((*rules, *own_rules(case.rules))) if case.rules else rules
    found = {rule.code: rule for rule in (*brought, *rules)}
    return tuple(found[code] for code in sorted(found))


def _diagnosed(case: Case, settings: Settings) -> Diagnosis:
    context, rules = current(), _rules_for(case)
    if isinstance(case.model, Diagnosis):
        check_case(case)
        _check_measured(case.model, case)
        again, origin = judged(case.model, settings, rules), case.model.origin
        if again is not None:
            return again
        assert isinstance(origin, Origin)
        case, settings = origin.case, settings.measured_with(origin.settings)
    if context is None:
        return agreed(case.model, lambda: diagnose(case, settings, rules))
    probes, seed = context.probes, context.base_seed
    return agreed(case.model, lambda: probes.diagnose(case, settings, rules, seed))


def _check_measured(diagnosis: Diagnosis, case: Case) -> None:
    """Raise ProbeError for a diagnosis that lacks what an assertion is about."""
    profile, step = diagnosis.profile, case.step
    if step is not None and step != Step():
        raise ProbeError(
            "clip and regularizer change what is measured: pass the model instead of its diagnosis"
        )
    if step is not None and not profile.updates:
        raise ProbeError(
            "this diagnosis was made without training steps; pass the model, or declare the step"
            " in probe(..., clip=..., regularizer=...)"
        )
    reached = sorted({record.dependency for record in profile.times})
    if case.dependency is not None and reached != [case.dependency]:
        made = f"with dependency={reached[0]}" if reached else "without a dependency"
        raise ProbeError(
            f"this diagnosis was made {made}; pass the model, or"
            f" probe(..., dependency={case.dependency})"
        )
    scale = declared_scale(case.precision, case.loss_scale)
    if scale.format and scale != profile.loss_scale:
        known = profile.loss_scale
        made = f"with precision={known.format!r} and loss_scale={known.value:g}"
        raise ProbeError(
            f"this diagnosis was made {made if known.format else 'without a precision'}; pass the"
            f" model, or probe(..., precision={scale.format!r}, loss_scale={scale.value:g})"
        )


def _fails(finding: Finding, codes: Iterable[str] | None, rule: Rule | None) -> bool:
    """Whether an assertion on some rules (None: all) fails on a finding."""
    if codes is None:
        return finding.severity == "failure"
    mildest = "failure" if rule is None else rule.fails_if_asked
    return finding.code in codes and RANK[finding.severity] <= RANK[mildest]


def _with_treatments(diagnosis: Diagnosis, failures: Sequence[Finding]) -> Diagnosis:
    """Try the remedies on copies of what failed, and have them in the report."""
    context = current()
    remedies = built_in_remedies() if context is None else context.remedies
    treated = by_owner(
        diagnosis, lambda: replace(diagnosis, treatments=treat(diagnosis, failures, remedies))
    )
    if context is not None:
        context.record(treated)
        context.heard.judged(diagnosis)
    return treated
