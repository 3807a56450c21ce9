"""The assertions: measure a model, or take what was measured, and raise if a rule fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_gradhealth.config.settings import Settings, SettingValues
from pytest_gradhealth.context import current
from pytest_gradhealth.distributed.team import agreed, by_owner
from pytest_gradhealth.errors import (
    GradientHealthError,
    ProbeError,
)
from pytest_gradhealth.measure.precision import declared_scale
from pytest_gradhealth.probing.cache import judged
from pytest_gradhealth.probing.case import Case, ModelLike
from pytest_gradhealth.probing.probe import declared_step, diagnose
from pytest_gradhealth.remedies import built_in_remedies
from pytest_gradhealth.remedies.trial import treat
from pytest_gradhealth.reporting.message import render
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding
from pytest_gradhealth.rules import Rule, built_in_rules
from pytest_gradhealth.subject.loss import Loss
from pytest_gradhealth.subject.step import Clip, Regularizer, Step
from pytest_gradhealth.training.optimizers import OptimizerLike

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from pytest_gradhealth.context import Context

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
    layer: by default 1e-5, with SGD 3e-5. `msg` is put in front of the failure message, or called
    with it to make another.

    Returns the Diagnosis. Raises VanishingGradientError, or NonFiniteGradientError where NaN or
    infinity leaves nothing to compare; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    case = Case(model, inputs, targets, loss, optimizer)
    return _check(("GH101", "GH301"), case, settings, msg)


def assert_no_vanishing_in_time(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    dependency: int,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that the gradient of a recurrent model reaches far enough back in time (GH102).

    `dependency` is how many steps back: of what the state after the last step sends back, at least
    `min_ratio` must arrive at what the layer got that many steps before, or earlier. Fused nn.RNN,
    nn.LSTM and nn.GRU and cells that are called step by step are measured, each direction of a
    bidirectional layer for itself. The other arguments are those of `assert_no_vanishing`.

    Returns the Diagnosis. Raises VanishingInTimeError, or NonFiniteGradientError where NaN or
    infinity leaves nothing to compare; ProbeError where there are no steps, or too few of them.
    """
    __tracebackhide__ = True
    case = Case(model, inputs, targets, loss, optimizer, dependency=dependency)
    return _check(("GH102", "GH301"), case, settings, msg)


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
    case = Case(model, inputs, targets, loss, optimizer)
    return _check(("GH201", "GH301"), case, settings, msg)


def assert_no_exploding_update(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    clip: Clip | None = None,
    regularizer: Regularizer | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that the training step does not blow the model up (GH202).

    Ten steps are made on a copy: forward, backward, `clip`, `optimizer` (default Adam, lr 1e-3).
    `clip` is the largest L2 norm of all gradients together, or a function that clips those of a
    list of parameters; `regularizer` a function of the model that returns the penalty. The other
    arguments are those of `assert_no_vanishing`; `max_update` is the most that one step may change
    a weight by, over the weight (default 1): with plain SGD, lr * norm(gradient) / norm(weight).

    Returns the Diagnosis. Raises ExplodingUpdateError, or NonFiniteGradientError where the first
    look is not finite; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    case = Case(model, inputs, targets, loss, optimizer, Step(clip, regularizer))
    return _check(("GH202", "GH301"), case, settings, msg)


def assert_no_dominating_regularizer(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    clip: Clip | None = None,
    regularizer: Regularizer | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that the penalty does not drown the data (GH601).

    For every weight, the L2 norm of the gradient of the penalty (`regularizer`, and the weight
    decay of `optimizer` where that is part of the gradient) is compared with that of the loss;
    `max_penalty` is the largest ratio, by default 10. The other arguments are those of
    `assert_no_exploding_update`.

    Returns the Diagnosis. Raises DominatingRegularizerError, or NonFiniteGradientError where NaN or
    infinity leaves nothing to compare; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    case = Case(model, inputs, targets, loss, optimizer, Step(clip, regularizer))
    return _check(("GH601", "GH301"), case, settings, msg)


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
    case = Case(model, inputs, targets, loss, optimizer)
    return _check(("GH301",), case, settings, msg)


def assert_no_underflow(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    precision: str | torch.dtype = "float16",
    loss_scale: Any = None,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that no gradient is lost to a low-precision number format (GH501).

    A forecast from a probe in float32: `precision` is "float16" or "bfloat16" (or the dtype),
    `loss_scale` what the loss is multiplied by in training (default 1), or the GradScaler that does
    it. No layer may have more than `max_underflow` (default 0.5) of its gradient's elements flushed
    to zero, with a tenth of its norm, and none may overflow. The other arguments are those of
    `assert_no_vanishing`.

    Returns the Diagnosis. Raises UnderflowError; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    case = Case(
        model,
        inputs,
        targets,
        loss,
        optimizer,
        precision=precision,
        loss_scale=loss_scale,
    )
    return _check(("GH501",), case, settings, msg)


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
    """Assert that every trainable parameter gets a gradient (GH401), and is used at all (GH405).

    What the forward does not use is otherwise a warning.

    The arguments are those of `assert_no_vanishing`. Returns the Diagnosis. Raises
    UnreachedParameterError; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    case = Case(model, inputs, targets, loss, optimizer)
    return _check(("GH401", "GH405"), case, settings, msg)


def assert_healthy(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    clip: Clip | None = None,
    regularizer: Regularizer | None = None,
    dependency: int | None = None,
    precision: str | torch.dtype | None = None,
    loss_scale: Any = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that no rule fails; `select` and `ignore` choose rules by code.

    The arguments are those of `assert_no_exploding_update`; without `clip` and `regularizer` no
    training steps are made, and the rules on them (GH202, GH601) have nothing to say; nor has GH102
    without `dependency`, or GH501 without `precision`.

    Returns the Diagnosis. Raises the error of the first rule that fails, with all that failed in
    its message; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    step = declared_step(clip, regularizer)
    case = Case(model, inputs, targets, loss, optimizer, step, dependency, precision, loss_scale)
    return _check(None, case, settings, msg)


def assert_matches_baseline(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    name: str = "",
    loss: Loss | None = None,
    optimizer: OptimizerLike | None = None,
    clip: Clip | None = None,
    regularizer: Regularizer | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that a model's gradients are no worse than in the baseline beside the test module.

    The baseline is the JSON file that `--gradhealth-update` writes for the tests that pass. Worse
    is a path ratio (first layer over last) that is farther from 1 by more than `max_path_change`
    decades (default 0.5), a step between two layers or large outputs by more than
    `max_step_change` (default 1), a first layer that gets no gradient any more, or a verdict that
    has become a failure. `name` tells several checks of one test apart. The other arguments are
    those of `assert_healthy`; what fails there may pass here.

    Returns the Diagnosis. Raises RegressionError; MissingBaselineError where there is no baseline,
    in CI or with `--gradhealth-fail-on=missing`; ProbeError outside of a pytest test, and for what
    cannot be probed.
    """
    __tracebackhide__ = True
    context = current()
    if context is None:
        raise ProbeError(
            "assert_matches_baseline needs a running pytest test, which its baseline is named after"
        )
    case = Case(model, inputs, targets, loss, optimizer, declared_step(clip, regularizer))
    diagnosis = measured(case, settings)
    chosen = context.settings.merged(settings, "the call")
    try:
        failed = context.compare_with_baseline(diagnosis, chosen, name)
    except ProbeError as error:
        raise error.with_traceback(None) from error.__cause__
    if failed is None:
        return diagnosis
    error_class, text = failed
    raise error_class(_with_message(text, msg), (), diagnosis)


def measured(case: Case, values: SettingValues) -> Diagnosis:
    """Return the diagnosis that the settings of the current test and `values` make of a case.

    The model of a case may be a Diagnosis.
    """
    __tracebackhide__ = True
    context = current()
    if context is not None:
        context.begin()
    try:
        base = Settings() if context is None else context.settings
        settings = base.merged(values, "the call")
        if isinstance(case.model, Diagnosis):
            _check_measured(case.model, case)
            diagnosis = judged(case.model, settings, _rules(context))[0]
        else:
            diagnosis = agreed(case.model, lambda: _diagnosed(context, case, settings))
    except ProbeError as error:
        # What the caller can act on is in the message and its cause, not in frames of ours.
        raise error.with_traceback(None) from error.__cause__
    if context is not None:
        context.record(diagnosis)
    return diagnosis


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


def _diagnosed(context: Context | None, case: Case, settings: Settings) -> Diagnosis:
    if context is None:
        return diagnose(case, settings, built_in_rules())
    return context.probes.diagnose(case, settings, context.rules, context.base_seed)


def _rules(context: Context | None) -> Sequence[Rule]:
    return built_in_rules() if context is None else context.rules


def _check(
    codes: Iterable[str] | None, case: Case, values: SettingValues, msg: Message | None
) -> Diagnosis:
    __tracebackhide__ = True
    diagnosis = measured(case, values)
    failures = tuple(finding for finding in diagnosis.findings if _fails(finding, codes))
    if not failures:
        return diagnosis
    context = current()
    diagnosis = _with_treatments(context, diagnosis, failures)
    text = render(
        diagnosis,
        failures,
        verbose=context is not None and context.verbose,
        rerun="" if context is None else context.rerun,
    )
    raise _error_class(failures[0])(_with_message(text, msg), failures, diagnosis)


def _with_message(text: str, msg: Message | None) -> str:
    """The caller's message in front, or what it makes of ours."""
    if callable(msg):
        return msg(text)
    return text if msg is None else f"{msg}\n{text}"


def _fails(finding: Finding, codes: Iterable[str] | None) -> bool:
    """Whether an assertion on some rules (None: all) fails on a finding.

    An unused parameter is only a warning, unless it is asked for.
    """
    if codes is None:
        return finding.severity == "failure"
    wanted = finding.severity == "failure" or finding.code == "GH405"
    return wanted and finding.code in codes


def _with_treatments(
    context: Context | None, diagnosis: Diagnosis, failures: Sequence[Finding]
) -> Diagnosis:
    """Try the remedies on copies of what failed, and have them in the report."""
    remedies = built_in_remedies() if context is None else context.remedies
    treated = by_owner(
        diagnosis,
        lambda: replace(diagnosis, treatments=treat(diagnosis, failures, remedies)),
    )
    if context is not None:
        context.record(treated)
    return treated


def _error_class(finding: Finding) -> type[GradientHealthError]:
    errors = {rule.code: rule.error for rule in _rules(current())}
    return errors.get(finding.code, GradientHealthError)
