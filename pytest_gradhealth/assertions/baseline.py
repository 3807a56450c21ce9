"""The assertion that compares with a baseline, and is about what has become worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_gradhealth.assertions.verdict import Message, asked_for, measured, with_message
from pytest_gradhealth.assertions.warned import warn_of
from pytest_gradhealth.config.arguments import called, require
from pytest_gradhealth.context import current
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.probing.case import Case, ModelLike
from pytest_gradhealth.probing.probe import declared_step
from pytest_gradhealth.probing.refusal import refused
from pytest_gradhealth.results.diagnosis import Diagnosis
from pytest_gradhealth.subject.calling import Call
from pytest_gradhealth.subject.loss import Loss
from pytest_gradhealth.subject.step import Clip, Regularizer
from pytest_gradhealth.training.optimizers import OptimizersLike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_gradhealth.config.options import SettingValues


@called
def assert_matches_baseline(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    name: str = "",
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
    clip: Clip | None = None,
    regularizer: Regularizer | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that a model's gradients are no worse than in the baseline beside the test module.

    The baseline is the JSON file that `--gradhealth-update` writes for the tests that pass. Worse
    is a path ratio (first layer over last) that has moved by more than `max_path_change` decades
    (default 0.5) away from 1 or past it, a step between two layers or large outputs by more than
    `max_step_change` (default 1), a layer that gets no gradient any more, or a verdict that has
    become a failure or "not judged"; layers that are gone, new or elsewhere fail as well. `name`
    tells several checks of one test apart. The other arguments are those of `assert_healthy`; what
    fails there may pass here.

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
    require("name", name, lambda given: isinstance(given, str), 'a string, for example "decoder"')
    step = declared_step(clip, regularizer)
    case = Case(model, inputs, targets, loss, optimizer, step, call=call)
    diagnosis = measured(case, settings)
    try:
        failed = context.compare_with_baseline(diagnosis, asked_for(settings, case), name)
    except ProbeError as error:
        raise refused(error) from error.__cause__
    if failed is None:
        warn_of(diagnosis)
        return diagnosis
    error_class, text = failed
    raise error_class(with_message(text, msg), (), diagnosis)
