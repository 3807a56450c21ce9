"""The assertions: measure a model, or take what was measured, and raise if a rule fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_gradhealth.calling import Loss
from pytest_gradhealth.context import current
from pytest_gradhealth.diagnosis import diagnose
from pytest_gradhealth.errors import GradientHealthError, ProbeError
from pytest_gradhealth.messages import render
from pytest_gradhealth.optimizers import OptimizerLike
from pytest_gradhealth.probes import judged
from pytest_gradhealth.records import Diagnosis, Finding
from pytest_gradhealth.rules import Rule, built_in_rules
from pytest_gradhealth.settings import Settings, SettingValues
from pytest_gradhealth.trial import Case, ModelLike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_gradhealth.session import TestContext

Message = str | Callable[[str], str]


def assert_no_vanishing(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that the gradient does not vanish between the loss and the first layer (GH101).

    `model` is a module, a factory or an existing Diagnosis (then nothing is run and the limits are
    applied to what was measured). The batch, `loss`, `optimizer` and the settings are those of
    `probe`; `min_ratio` is the least share of the gradient's L2 norm that must reach the first
    layer: by default 1e-5, with SGD 1e-3. `msg` is put in front of the failure message, or called
    with it to make another.

    Returns the Diagnosis. Raises VanishingGradientError, or NonFiniteGradientError where NaN or
    infinity leaves nothing to compare; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    return _check(("GH101", "GH301"), model, inputs, targets, loss, optimizer, settings, msg)


def assert_no_exploding(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that the gradient does not explode between the loss and the first layer (GH201).

    The arguments are those of `assert_no_vanishing`; `max_ratio` is the most by which the
    gradient's L2 norm may grow on the way, by default 1e3.

    Returns the Diagnosis. Raises ExplodingGradientError, or NonFiniteGradientError where NaN or
    infinity leaves nothing to compare; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    return _check(("GH201", "GH301"), model, inputs, targets, loss, optimizer, settings, msg)


def assert_finite_gradients(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that loss and gradients are neither NaN nor infinite (GH301).

    The arguments are those of `assert_no_vanishing`. Returns the Diagnosis. Raises
    NonFiniteGradientError; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    return _check(("GH301",), model, inputs, targets, loss, optimizer, settings, msg)


def assert_all_reached(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that every trainable parameter gets a gradient (GH401).

    The arguments are those of `assert_no_vanishing`. Returns the Diagnosis. Raises
    UnreachedParameterError; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    return _check(("GH401",), model, inputs, targets, loss, optimizer, settings, msg)


def assert_healthy(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that no rule fails; `select` and `ignore` choose rules by code.

    The arguments are those of `assert_no_vanishing`. Returns the Diagnosis. Raises the error of
    the first rule that fails, with all that failed in its message; ProbeError for what cannot be
    probed.
    """
    __tracebackhide__ = True
    return _check(None, model, inputs, targets, loss, optimizer, settings, msg)


def measured(
    model: ModelLike | Diagnosis,
    inputs: Any,
    targets: Any,
    loss: Loss | None,
    optimizer: OptimizerLike | None,
    values: SettingValues,
) -> Diagnosis:
    """Return the diagnosis that the settings of the current test and `values` make of a model."""
    __tracebackhide__ = True
    context = current()
    if context is not None:
        context.begin()
    try:
        diagnosis = _diagnosed(context, model, inputs, targets, loss, optimizer, values)
    except ProbeError as error:
        # What the caller can act on is in the message and its cause, not in frames of ours.
        raise error.with_traceback(None) from error.__cause__
    if context is not None:
        context.record(diagnosis)
    return diagnosis


def _diagnosed(
    context: TestContext | None,
    model: ModelLike | Diagnosis,
    inputs: Any,
    targets: Any,
    loss: Loss | None,
    optimizer: OptimizerLike | None,
    values: SettingValues,
) -> Diagnosis:
    base = Settings() if context is None else context.settings
    settings = base.merged(values, "the call")
    rules: Sequence[Rule] = built_in_rules() if context is None else context.rules
    if isinstance(model, Diagnosis):
        return judged(model, settings, rules)[0]
    case = Case(model, inputs, targets, loss, optimizer)
    if context is None:
        return diagnose(case, settings, rules)
    return context.probes.diagnose(case, settings, rules, context.base_seed)


def _check(
    codes: Iterable[str] | None,
    model: ModelLike | Diagnosis,
    inputs: Any,
    targets: Any,
    loss: Loss | None,
    optimizer: OptimizerLike | None,
    values: SettingValues,
    msg: Message | None,
) -> Diagnosis:
    __tracebackhide__ = True
    diagnosis = measured(model, inputs, targets, loss, optimizer, values)
    failures = tuple(
        finding
        for finding in diagnosis.findings
        if finding.severity == "failure" and (codes is None or finding.code in codes)
    )
    if not failures:
        return diagnosis
    context = current()
    text = render(
        diagnosis,
        failures,
        verbose=context is not None and context.verbose,
        rerun="" if context is None else context.rerun,
    )
    if callable(msg):
        text = msg(text)
    elif msg is not None:
        text = f"{msg}\n{text}"
    raise _error_class(failures[0])(text, failures, diagnosis)


def _error_class(finding: Finding) -> type[GradientHealthError]:
    context = current()
    rules: Sequence[Rule] = built_in_rules() if context is None else context.rules
    errors = {rule.code: rule.error for rule in rules}
    return errors.get(finding.code, GradientHealthError)
