"""The assertions: each names the rules that it is about, and what they need to be declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_gradhealth.assertions.baseline import assert_matches_baseline as assert_matches_baseline
from pytest_gradhealth.assertions.same import assert_same_gradients as assert_same_gradients
from pytest_gradhealth.assertions.verdict import Message, check, check_has_learning, check_steps
from pytest_gradhealth.config.arguments import called
from pytest_gradhealth.config.options import LEARN_STEPS, LEARNING
from pytest_gradhealth.probing.case import Case, ModelLike
from pytest_gradhealth.probing.probe import declared_step
from pytest_gradhealth.results.diagnosis import Diagnosis
from pytest_gradhealth.subject.calling import Call
from pytest_gradhealth.subject.loss import Loss
from pytest_gradhealth.subject.step import Clip, Regularizer, Step
from pytest_gradhealth.training.optimizers import OptimizersLike

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from pytest_gradhealth.config.options import SettingValues


@called
def assert_no_vanishing(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that the gradient does not vanish between the loss and the first layer (GH101).

    `model` is a module, a factory or an existing Diagnosis (then the limits are applied to what was
    measured, and nothing is run but to look again at what newly fails). The batch, `loss`, `call`,
    `optimizer` and the settings are those of `probe`; `min_ratio` is the least share of the
    gradient's L2 norm that must reach the first layer: by default 1e-5, with SGD 3e-5. `msg` is put
    in front of the failure message, or called with it to make another.

    Returns the Diagnosis. Raises VanishingGradientError, or NonFiniteGradientError where NaN or
    infinity leaves nothing to compare; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    case = Case(model, inputs, targets, loss, optimizer, call=call)
    return check(("GH101", "GH301"), case, settings, msg)


@called
def assert_no_vanishing_in_time(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    dependency: int,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
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
    case = Case(model, inputs, targets, loss, optimizer, dependency=dependency, call=call)
    return check(("GH102", "GH301"), case, settings, msg)


@called
def assert_no_exploding(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
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
    case = Case(model, inputs, targets, loss, optimizer, call=call)
    return check(("GH201", "GH301"), case, settings, msg)


@called
def assert_no_exploding_update(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
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
    case = Case(model, inputs, targets, loss, optimizer, Step(clip, regularizer), call=call)
    return check(("GH202", "GH301"), case, settings, msg)


@called
def assert_no_dominating_regularizer(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
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
    case = Case(model, inputs, targets, loss, optimizer, Step(clip, regularizer), call=call)
    return check(("GH601", "GH301"), case, settings, msg)


@called
def assert_learns(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    steps: int = LEARN_STEPS,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
    clip: Clip | None = None,
    regularizer: Regularizer | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that training on the batch lowers its loss (GH604).

    A copy is trained for `steps` with `clip` and `optimizer` (default Adam, lr 1e-3), until it is
    decided: the loss has to fall by a tenth, and below the best answer that is the same for all
    examples. Where it still falls, up to three times as many steps are made, and one that falls all
    the same is "not judged". The random numbers of each step are the same. There has to be a loss,
    given or the model's own. The other arguments are those of `assert_no_exploding_update`.

    Returns the Diagnosis; its `profile.learning` has the curve. Raises UnlearnedBatchError, or
    NonFiniteGradientError where NaN or infinity leaves nothing to lower; ProbeError for what cannot
    be probed, or has no loss.
    """
    __tracebackhide__ = True
    check_steps(steps)
    step = declared_step(clip, regularizer)
    case = Case(model, inputs, targets, loss, optimizer, step, call=call)
    diagnosis = check((LEARNING, "GH301"), case, {**settings, "learn_steps": steps}, msg)
    check_has_learning(diagnosis, case)
    return diagnosis


@called
def assert_finite_gradients(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that loss and gradients are neither NaN nor infinite (GH301).

    The arguments are those of `assert_no_vanishing`. Returns the Diagnosis. Raises
    NonFiniteGradientError; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    case = Case(model, inputs, targets, loss, optimizer, call=call)
    return check(("GH301",), case, settings, msg)


@called
def assert_no_underflow(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    precision: str | torch.dtype = "float16",
    loss_scale: Any = None,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
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
    case = Case(model, inputs, targets, loss, optimizer, None, None, precision, loss_scale, call)
    return check(("GH501",), case, settings, msg)


@called
def assert_all_reached(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that every trainable parameter gets a gradient (GH401), and is used at all (GH405).

    What the forward does not use is otherwise a warning, or nothing at all, and so is a gradient of
    exactly zero in a side branch. Experts that got nothing of this batch do not fail, nor do zeros
    that have to be: a bias before a norm, a layer behind a gate that opens with training.

    The arguments are those of `assert_no_vanishing`. Returns the Diagnosis. Raises
    UnreachedParameterError; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    case = Case(model, inputs, targets, loss, optimizer, call=call)
    return check(("GH401", "GH405"), case, settings, msg)


@called
def assert_healthy(
    model: ModelLike | Diagnosis,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    call: Call | None = None,
    optimizer: OptimizersLike | None = None,
    clip: Clip | None = None,
    regularizer: Regularizer | None = None,
    dependency: int | None = None,
    precision: str | torch.dtype | None = None,
    loss_scale: Any = None,
    msg: Message | None = None,
    **settings: Unpack[SettingValues],
) -> Diagnosis:
    """Assert that no rule fails; `select` and `ignore` choose rules by code.

    `ignore=["GH405:*.pooler.*"]` leaves out what one rule has to say of layers and parameters whose
    names a pattern fits.

    The arguments are those of `assert_no_exploding_update`; without `clip` and `regularizer` no
    training steps are made, and the rules on them (GH202, GH601) have nothing to say; nor has GH603
    without `optimizer`, GH102 without `dependency`, or GH501 without `precision`.

    Returns the Diagnosis. Raises the error of the first rule that fails, with all that failed in
    its message; ProbeError for what cannot be probed.
    """
    __tracebackhide__ = True
    step = declared_step(clip, regularizer)
    case = Case(
        model, inputs, targets, loss, optimizer, step, dependency, precision, loss_scale, call
    )
    return check(None, case, settings, msg)
