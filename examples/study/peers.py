"""What other tools say of an observation: their published formulas with their default thresholds.

Most of them were made to watch a training. Here each sees one forward and one backward of a
network at its initialisation; what its formula cannot say then is named where it is left out.
Where a formula asks for an update it gets the first one of SGD with `LEARNING_RATE`.

Arithmetic with nan and inf is IEEE's, as in the originals: comparisons with nan are false, and a
gradient over zero is inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from examples.study.observation import ACTIVATIONS, LayerSeen, Observation, ParameterSeen

About = Literal["gradients", "loss", "activations", "weights", "updates"]
Level = Literal["error", "warning"]

#: Of the SGD whose first update stands for an optimizer's: the default of Keras.
LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class PeerRule:
    """One formula. `about` says what it compares with a threshold, `level` what the tool makes of
    it: an error, or a warning beside a tool's errors.
    """

    name: str
    fires: Callable[[Observation], bool]
    about: About = "gradients"
    level: Level = "error"


@dataclass(frozen=True)
class Peer:
    """A tool, as of a version, and the file that its formulas were read in."""

    name: str
    version: str
    source: str
    rules: tuple[PeerRule, ...]

    def judge(self, observation: Observation, *about: About) -> tuple[str, ...]:
        """Return the names of the rules that fire, of those `about` something (default: all)."""
        return tuple(
            rule.name
            for rule in self.rules
            if (not about or rule.about in about) and rule.fires(observation)
        )


def _reached(observation: Observation) -> list[ParameterSeen]:
    return [p for p in observation.parameters if not p.grad_none]


def _kernels(observation: Observation) -> list[ParameterSeen]:
    return [p for p in _reached(observation) if p.is_kernel]


def _over(value: float, by: float) -> float:
    """Divide as numpy does."""
    if by == 0:
        return math.nan if value == 0 or math.isnan(value) else math.inf
    return value / by


def _nonfinite_gradient(parameters: Iterable[ParameterSeen]) -> bool:
    return any(not p.finite for p in parameters)


# AutoTrainer


def _first_and_last(observation: Observation) -> tuple[float, float]:
    """Norms of the first and the last kernel's gradient; nan where the formula is not reached."""
    kernels = _kernels(observation)
    if not kernels or _nonfinite_gradient(_reached(observation)):
        return math.nan, math.nan
    return kernels[0].gradient_norm, kernels[-1].gradient_norm


def autotrainer_vanishing(observation: Observation) -> bool:
    """AutoTrainer, vanishing gradient: first over last kernel < 1e-3 and the first < 1e-4.

    Zhang et al., ICSE 2021; `AutoTrainer/utils/monitor.py`. L2 norms of the gradients of weight
    matrices. Left out, here and in its other rules: it speaks only where the accuracy of a
    training stays under 0.6 or grows by less than 0.01.
    """
    first, last = _first_and_last(observation)
    return _over(first, last) < 1e-3 and first < 1e-4


def autotrainer_exploding(observation: Observation) -> bool:
    """AutoTrainer, exploding gradient: first over last kernel > 70; see its vanishing."""
    return _over(*_first_and_last(observation)) > 70


def autotrainer_nonfinite(observation: Observation) -> bool:
    """AutoTrainer, exploding gradient: nan or inf in a gradient, a weight or the loss."""
    return (
        not math.isfinite(observation.loss)
        or _nonfinite_gradient(_reached(observation))
        or any(not p.weight_finite for p in observation.parameters)
    )


def autotrainer_large_loss(observation: Observation) -> bool:
    """AutoTrainer, exploding gradient: a loss of 1e3 or more (1e5 in the first release)."""
    return observation.loss >= 1e3


def autotrainer_dying(observation: Observation) -> bool:
    """AutoTrainer, dying ReLU: at least 0.7 of all elements of gradients are exactly zero."""
    seen = _reached(observation)
    sizes = [math.prod(p.shape) for p in seen]
    zeros = sum(p.zero_share * size for p, size in zip(seen, sizes, strict=True))
    if not seen or _nonfinite_gradient(seen):
        return False
    # shares are rounded quotients of whole numbers
    return round(zeros) >= 0.7 * sum(sizes)


# DeepDiagnosis


def _dense_kernels(observation: Observation) -> list[ParameterSeen]:
    return [p for p in _kernels(observation) if p.kind.endswith("Linear")]


def deepdiagnosis_vanishing(observation: Observation) -> bool:
    """DeepDiagnosis, vanishing gradient: mean |g| < 1e-7 in a dense layer's kernel.

    Wardat et al., ICSE 2022; `callback/callbacks.py`. Left out of the tool: whatever compares
    epochs (unchanged tensors, loss, accuracy), and the range of the outputs against the targets.
    Its thresholds on variance and learning rate choose a remedy and find nothing.
    """
    return any(p.mean_abs < 1e-7 for p in _dense_kernels(observation))


def deepdiagnosis_numerical_gradient(observation: Observation) -> bool:
    """DeepDiagnosis, numerical error in delta weights: mean g is nan, inf or zero (dense layers).

    Means that are zero because elements cancel do not count, which is kinder than the tool.
    """
    return any(not p.finite or p.zero_share == 1 for p in _dense_kernels(observation))


def deepdiagnosis_numerical_forward(observation: Observation) -> bool:
    """DeepDiagnosis, numerical problem forward: a layer's mean output is nan, inf or zero.

    Means that are zero because elements cancel do not count.
    """
    return any(not layer.finite or layer.rms == 0 for layer in observation.layers)


def deepdiagnosis_numerical_weights(observation: Observation) -> bool:
    """DeepDiagnosis, numerical error in weights: a kernel's mean is nan, inf or zero.

    Means that are zero because elements cancel do not count.
    """
    return any(
        p.is_kernel and (not p.weight_finite or p.weight_max == 0) for p in observation.parameters
    )


def deepdiagnosis_dead(observation: Observation) -> bool:
    """DeepDiagnosis, dead node: at least 0.7 of what a ReLU returns is <= 0.

    Judged by the tool after the last epoch only.
    """
    return any(
        layer.kind == "ReLU" and layer.nonpositive_share >= 0.7 for layer in observation.layers
    )


def deepdiagnosis_saturated(observation: Observation) -> bool:
    """DeepDiagnosis, saturated activation: |x| >= 5 in more than half of a sigmoid's or tanh's
    input. Judged by the tool every fifth epoch.
    """
    return any(layer.large_input_share > 0.5 for layer in observation.layers)


def invalid_loss(observation: Observation) -> bool:
    """DeepDiagnosis, invalid loss, and TheDeepChecker: the loss is nan or inf."""
    return not math.isfinite(observation.loss)


# TheDeepChecker


def deepchecker_numerical(observation: Observation) -> bool:
    """TheDeepChecker, numerical instability: nan or inf in the gradient of a weight.

    Ben Braiek and Khomh, TOSEM 2023; `deep_checker/hooks.py`. Left out of the tool: what it
    trains for (fitting one batch, curves of the loss, augmentation, modes), the distribution and
    loss of its pre-checks, and rates from step to step, see `deepchecker_vanishing`.
    """
    return _nonfinite_gradient(_kernels(observation))


def deepchecker_vanishing(observation: Observation) -> bool:
    """TheDeepChecker, vanishing gradient: mean |g| of a weight < 1e-6.

    Left out: or, in successive steps of a training, at most half of the step before.
    """
    return any(p.mean_abs < 1e-6 for p in _kernels(observation))


def deepchecker_exploding(observation: Observation) -> bool:
    """TheDeepChecker, exploding gradient: mean |g| of a weight > 1e6.

    Left out: or, in successive steps of a training, at least twice that of the step before.
    """
    return any(p.mean_abs > 1e6 and p.finite for p in _kernels(observation))


def _hidden(observation: Observation) -> list[LayerSeen]:
    found = [x for x in observation.layers if x.kind in ACTIVATIONS - {"Softmax", "LogSoftmax"}]
    return [layer for layer in found if layer.finite]


def deepchecker_activations_nonfinite(observation: Observation) -> bool:
    """TheDeepChecker, numerical instability: nan or inf in what an activation returns."""
    return any(layer.kind in ACTIVATIONS and not layer.finite for layer in observation.layers)


def deepchecker_dead(observation: Observation) -> bool:
    """TheDeepChecker, dead layer: in more than half of the neurons p95 of |x| < 1e-5.

    Of activations other than sigmoid and tanh. The tool looks at ten batches, after some steps.
    """
    return any(
        layer.dim_share > 0.5 for layer in _hidden(observation) if math.isnan(layer.rho_share)
    )


def deepchecker_saturated(observation: Observation) -> bool:
    """TheDeepChecker, saturated layer: rho_B > 0.85 in more than half of a layer's neurons.

    Of sigmoid and tanh, over 50 bins of their own range.
    """
    return any(layer.rho_share > 0.5 for layer in _hidden(observation))


def deepchecker_unstable(observation: Observation) -> bool:
    """TheDeepChecker, unstable activations: std outside 0.5..2.0 by an F-test at alpha 0.1.

    The critical quotient of the variances is 2.70554, whatever the number of elements.
    """

    def rejected(std: float) -> bool:
        return _over(0.5**2, std**2) > 2.70554 or std**2 / 2.0**2 > 2.70554

    return any(rejected(layer.std) for layer in _hidden(observation))


def deepchecker_update(observation: Observation) -> bool:
    """TheDeepChecker, unstable learning: log10 of mean |update| over mean |w| outside -4..-1.

    The mean over several steps in the tool; here the first, of SGD with `LEARNING_RATE`.
    """
    ratios = [
        LEARNING_RATE * p.mean_abs / p.weight_mean_abs
        for p in _kernels(observation)
        if p.weight_mean_abs > 0
    ]
    return any(ratio > 1e-1 or ratio < 1e-4 for ratio in ratios)


def _runs(observation: Observation, holds: Callable[[float], bool], length: int = 5) -> bool:
    """Whether `length` kernels in a row have a mean |g| that, over that of the next, `holds`."""
    sizes = [p.mean_abs for p in _kernels(observation)]
    run = 0
    for size, following in pairwise(sizes):
        run = run + 1 if holds(_over(size, following)) else 0
        if run == length:
            return True
    return False


def deepchecker_layers_vanishing(observation: Observation) -> bool:
    """TheDeepChecker's rate of vanishing, read across layers: five ratios in a row <= 0.5.

    The tool compares steps of a training (`deepchecker_vanishing`); this is the kindest use of
    the numbers 5 and 0.5 for one step: each kernel's mean |g| over that of the next one.
    """
    return _runs(observation, lambda ratio: ratio <= 0.5)


def deepchecker_layers_exploding(observation: Observation) -> bool:
    """TheDeepChecker's rate of exploding, read across layers: five ratios in a row >= 2."""
    return _runs(observation, lambda ratio: ratio >= 2)


# SageMaker Debugger


def sagemaker_vanishing(observation: Observation) -> bool:
    """SageMaker Debugger, VanishingGradient: mean |g| < 1e-7 of any gradient.

    AWS SageMaker developer guide, `debugger-built-in-rules.md`, with all its defaults. Left out
    of its rules: those that follow the loss, or one tensor over steps.
    """
    return any(p.mean_abs < 1e-7 for p in _reached(observation))


def sagemaker_exploding(observation: Observation) -> bool:
    """SageMaker Debugger, ExplodingTensor: nan or inf in any tensor."""
    return (
        not math.isfinite(observation.loss)
        or any(not (p.finite and p.weight_finite) for p in observation.parameters)
        or any(not layer.finite for layer in observation.layers)
    )


def sagemaker_dead(observation: Observation) -> bool:
    """SageMaker Debugger, DeadRelu: over 50 % of a layer's ReLUs active in under 1 % of inputs."""
    return any(layer.idle_share > 0.5 for layer in observation.layers)


def sagemaker_saturated(observation: Observation) -> bool:
    """SageMaker Debugger, SaturatedActivation: over 50 % of a layer's nodes have inputs inside
    the limits (tanh -9.4999..9.4999, sigmoid -23..16.99999) less than 1 % of the time.
    """
    return any(layer.flat_share > 0.5 for layer in observation.layers)


def sagemaker_poor_weights(observation: Observation) -> bool:
    """SageMaker Debugger, PoorWeightInitialization: variances of layers' weights differ > 10x.

    "The ratio between minimum and maximum variance of weights per layer"; of weight matrices.
    """
    variances = [p.weight_variance for p in observation.parameters if p.is_kernel]
    return bool(variances) and _over(max(variances), min(variances)) > 10


def sagemaker_narrow_gradients(observation: Observation) -> bool:
    """SageMaker Debugger, PoorWeightInitialization: the least distance from 5th to 95th
    percentile of a gradient < 0.001.

    Of weight matrices. Left out: a loss that stops to fall within 10 steps.
    """
    return any(p.spread < 0.001 for p in _kernels(observation))


def sagemaker_update(observation: Observation) -> bool:
    """SageMaker Debugger, WeightUpdateRatio: update over (weight + 1e-9) > 10 or < 1e-8.

    Of tensors called weight, mean absolute values; the update is SGD's with `LEARNING_RATE`.
    """
    ratios = [
        LEARNING_RATE * p.mean_abs / (p.weight_mean_abs + 1e-9)
        for p in _reached(observation)
        if "weight" in p.name
    ]
    return any(ratio > 10 or ratio < 1e-8 for ratio in ratios)


# torchtest2


def torchtest2_no_gradient(observation: Observation) -> bool:
    """torchtest2, gradient_flow, FAIL: a trainable parameter's gradient is None.

    `torchtest2/checks.py`. Left out: parameters that get one under three other seeds.
    """
    return any(p.trainable and p.grad_none for p in observation.parameters)


def torchtest2_zero_gradient(observation: Observation) -> bool:
    """torchtest2, gradient_flow, WARN: a gradient is zero everywhere, after a step of Adam too."""
    return not torchtest2_no_gradient(observation) and any(
        p.trainable and p.stays_zero for p in observation.parameters
    )


def torchtest2_nonfinite(observation: Observation) -> bool:
    """torchtest2, gradient_magnitude, FAIL: nan or inf in a gradient."""
    return _nonfinite_gradient(_reached(observation))


def torchtest2_exploding(observation: Observation) -> bool:
    """torchtest2, gradient_magnitude, WARN: norm of g over norm of w (or 1, if less) > 1e3."""
    seen = _reached(observation)
    return not _nonfinite_gradient(seen) and any(
        p.gradient_norm / max(p.norm, 1.0) > 1e3 for p in seen
    )


# pytest-torch


def pytest_torch_nonfinite(observation: Observation) -> bool:
    """pytest-torch, assert_gradients_finite: nan or inf in the loss or a gradient.

    `pytest_torch/training.py`. Left out of the tool: tests that take steps, and gradcheck.
    """
    return not math.isfinite(observation.loss) or _nonfinite_gradient(_reached(observation))


def pytest_torch_unreached(observation: Observation) -> bool:
    """pytest-torch, assert_all_params_receive_grad: a gradient is None or zero everywhere."""
    return any(p.trainable and (p.grad_none or p.zero_share == 1) for p in observation.parameters)


# torchmortem


def _output_gradients(observation: Observation) -> list[float]:
    """Norms of the gradients of layers' outputs, in the order of registration.

    Its hook of a layer that is called more than once keeps the last gradient to arrive, the one
    of the first call; what no gradient arrives at counts as zero.
    """
    norms: dict[str, float] = {}
    for layer in reversed(observation.layers):
        if layer.gradient_norm is not None:
            norms[layer.name] = layer.gradient_norm
    return [norms.get(name, 0.0) for name in observation.registered]


def torchmortem_vanishing(observation: Observation) -> bool:
    """torchmortem, vanishing gradients: last over first layer's output gradient >= 100.

    `torchmortem/detectors/gradient_flow.py`. Layers are modules without children that have
    trainable parameters, in the order of registration. A ratio of nan counts, as in the tool.
    Left out, here and in its other rules: means over the second half of a training.
    """
    norms = _output_gradients(observation)
    if len(norms) < 2:
        return False
    if norms[0] < 1e-30:
        return True
    return not norms[-1] < 1e-30 and not norms[-1] / norms[0] < 100


def torchmortem_exploding(observation: Observation) -> bool:
    """torchmortem, exploding gradients: the norm of an output's gradient > 1000."""
    norms = _output_gradients(observation)
    return len(norms) >= 2 and any(norm > 1000 for norm in norms)


def torchmortem_stalling(observation: Observation) -> bool:
    """torchmortem, gradient stalling: the norm of an output's gradient < 1e-8.

    In 30 % of the steps of a training; here in the one there is.
    """
    norms = _output_gradients(observation)
    return len(norms) >= 2 and any(norm < 1e-8 for norm in norms)


#: Activations without parameters that torchmortem watches; it knows no others.
_WATCHED = ACTIVATIONS - {"CELU", "Hardtanh", "ReLU6", "Softplus", "Softsign"}


def _watched(observation: Observation) -> Iterable[LayerSeen]:
    last_calls = {layer.name: layer for layer in observation.layers}
    return (x for x in last_calls.values() if x.parameterised or x.kind in _WATCHED)


def torchmortem_dead(observation: Observation) -> bool:
    """torchmortem, dead units: |x| < 1e-6 in more than half of what a layer returns."""
    return any(layer.near_zero_share > 0.5 for layer in _watched(observation))


def torchmortem_saturated(observation: Observation) -> bool:
    """torchmortem, saturation: |x| > 0.95 in more than half of what a layer returns, of any kind.

    Left out of the tool: update ratios, which it judges from the second step on, noise, rank.
    """
    return any(layer.high_share > 0.5 for layer in _watched(observation))


# traintools


def traintools_nonfinite(observation: Observation) -> bool:
    """traintools, non-finite gradients: nan or inf in a gradient.

    `traintools/gradhealth.py`; its norms, in all rules, are those of the finite elements.
    """
    return _nonfinite_gradient(_reached(observation))


def traintools_vanished(observation: Observation) -> bool:
    """traintools, gradient appears vanished: norm <= 1e-12 of any parameter's gradient."""
    return any(p.finite_norm <= 1e-12 for p in _reached(observation))


def traintools_large(observation: Observation) -> bool:
    """traintools, gradient is very large: norm >= 1e3, or no element finite."""
    return any(p.finite_norm >= 1e3 for p in _reached(observation))


def traintools_update(observation: Observation) -> bool:
    """traintools, update/weight ratio is high: lr norm(g) / norm(w) >= 1e-1.

    With `LEARNING_RATE`; without weights of norm zero.
    """
    return any(
        LEARNING_RATE * p.finite_norm / (p.norm + 1e-12) >= 1e-1
        for p in _reached(observation)
        if p.norm > 0 and math.isfinite(p.finite_norm)
    )


def traintools_tiny_update(observation: Observation) -> bool:
    """traintools, global update/weight ratio is tiny: lr norm(all g) / norm(all w) <= 1e-8."""
    seen = _reached(observation)
    gradient = math.hypot(*(p.finite_norm for p in seen))
    weight = math.hypot(*(p.norm for p in observation.parameters))
    if not seen or not weight > 0 or not math.isfinite(gradient):
        return False
    return LEARNING_RATE * gradient / (weight + 1e-12) <= 1e-8


def traintools_none(observation: Observation) -> bool:
    """traintools, no gradients found: every gradient is None."""
    return not _reached(observation)


PEERS: tuple[Peer, ...] = (
    Peer(
        "AutoTrainer",
        "5175f6c",
        "shiningrain/AUTOTRAINER, AutoTrainer/utils/monitor.py",
        (
            PeerRule("vanishing gradient", autotrainer_vanishing),
            PeerRule("exploding gradient", autotrainer_exploding),
            PeerRule("nan", autotrainer_nonfinite),
            PeerRule("large loss", autotrainer_large_loss, "loss"),
            PeerRule("dying ReLU", autotrainer_dying),
        ),
    ),
    Peer(
        "DeepDiagnosis",
        "500b017",
        "DeepDiagnosis/ICSE2022, callback/callbacks.py",
        (
            PeerRule("vanishing gradient", deepdiagnosis_vanishing),
            PeerRule("numerical error in delta weights", deepdiagnosis_numerical_gradient),
            PeerRule("numerical problem forward", deepdiagnosis_numerical_forward, "activations"),
            PeerRule("numerical error in weights", deepdiagnosis_numerical_weights, "weights"),
            PeerRule("dead node", deepdiagnosis_dead, "activations"),
            PeerRule("saturated activation", deepdiagnosis_saturated, "activations"),
            PeerRule("invalid loss", invalid_loss, "loss"),
        ),
    ),
    Peer(
        "TheDeepChecker",
        "d6a7e72",
        "thedeepchecker/thedeepchecker, deep_checker/hooks.py and config/settings.yaml",
        (
            PeerRule("numerical instability", deepchecker_numerical),
            PeerRule("vanishing gradient", deepchecker_vanishing),
            PeerRule("exploding gradient", deepchecker_exploding),
            PeerRule(
                "numerical instability of activations",
                deepchecker_activations_nonfinite,
                "activations",
            ),
            PeerRule("dead layer", deepchecker_dead, "activations"),
            PeerRule("saturated layer", deepchecker_saturated, "activations"),
            PeerRule("unstable activations", deepchecker_unstable, "activations"),
            PeerRule("unstable learning", deepchecker_update, "updates"),
            PeerRule("invalid loss", invalid_loss, "loss"),
        ),
    ),
    Peer(
        "TheDeepChecker, across layers",
        "d6a7e72",
        "its rates of change from step to step, read from layer to layer",
        (
            PeerRule("vanishing gradient", deepchecker_layers_vanishing),
            PeerRule("exploding gradient", deepchecker_layers_exploding),
        ),
    ),
    Peer(
        "SageMaker Debugger",
        "1c4d5ff",
        "awsdocs/amazon-sagemaker-developer-guide, doc_source/debugger-built-in-rules.md",
        (
            PeerRule("VanishingGradient", sagemaker_vanishing),
            PeerRule("ExplodingTensor", sagemaker_exploding),
            PeerRule("DeadRelu", sagemaker_dead, "activations"),
            PeerRule("SaturatedActivation", sagemaker_saturated, "activations"),
            PeerRule("PoorWeightInitialization, weights", sagemaker_poor_weights, "weights"),
            PeerRule("PoorWeightInitialization, gradients", sagemaker_narrow_gradients),
            PeerRule("WeightUpdateRatio", sagemaker_update, "updates"),
        ),
    ),
    Peer(
        "torchtest2",
        "0.1.0",
        "torchtest2/checks.py",
        (
            PeerRule("gradient_flow FAIL", torchtest2_no_gradient),
            PeerRule("gradient_flow WARN", torchtest2_zero_gradient, level="warning"),
            PeerRule("gradient_magnitude FAIL", torchtest2_nonfinite),
            PeerRule("gradient_magnitude WARN", torchtest2_exploding, level="warning"),
        ),
    ),
    Peer(
        "pytest-torch",
        "1.1.1",
        "pytest_torch/training.py",
        (
            PeerRule("assert_gradients_finite", pytest_torch_nonfinite),
            PeerRule("assert_all_params_receive_grad", pytest_torch_unreached),
        ),
    ),
    Peer(
        "torchmortem",
        "0.1.1",
        "torchmortem/detectors/",
        (
            PeerRule("vanishing gradients", torchmortem_vanishing),
            PeerRule("exploding gradients", torchmortem_exploding),
            PeerRule("gradient stalling", torchmortem_stalling),
            PeerRule("dead units", torchmortem_dead, "activations"),
            PeerRule("saturation", torchmortem_saturated, "activations"),
        ),
    ),
    Peer(
        "traintools",
        "0.6.2",
        "traintools/gradhealth.py",
        (
            PeerRule("non-finite gradients", traintools_nonfinite),
            PeerRule("vanished gradient", traintools_vanished),
            PeerRule("very large gradient", traintools_large),
            PeerRule("high update ratio", traintools_update, "updates"),
            PeerRule("tiny global update ratio", traintools_tiny_update, "updates"),
            PeerRule("no gradients", traintools_none),
        ),
    ),
)
