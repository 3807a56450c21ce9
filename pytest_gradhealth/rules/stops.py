"""What it means that an operation lets no gradient through, and what to type: one table."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pytest_gradhealth.results.activation_functions import FUNCTIONAL, RECTIFIERS, SATURATING
from pytest_gradhealth.results.profile import GradientProfile, Stop
from pytest_gradhealth.rules.rule import Cause

_SCALE = "standardised inputs, smaller weights and biases, or a normalisation layer before it"
_ROUNDING = "a straight-through estimator: x + (x.round() - x).detach()"
_SOFT_BOUND = "a wider range, or a soft bound (torch.tanh, F.softplus)"


def cause_of_silence(names: Collection[str], profile: GradientProfile) -> Cause | None:
    """Why most of some parameters get no gradient, None if that is unknown."""
    shares = [(len({*names} & {*stop.parameters}), stop) for stop in profile.stops]
    most = max((share for share, _ in shares), default=0)
    causes = [cause_of_stop(stop) for share, stop in shares if share and share == most]
    return next((cause for cause in causes if cause is not None), None)


def cause_of_stop(stop: Stop) -> Cause | None:
    """Why an operation lets nothing through, None if that is unknown."""
    if stop.own:
        return Cause(
            f"the backward of {stop.op}, a function of the model's own, is zero for all that comes"
            f" in ({stop.where})",
            "a slope that is nowhere zero (an arctan's, 1 / (1 + x ** 2), for a spike), or inputs"
            " nearer to where it has one",
        )
    if stop.levels and stop.op in ("Softmax", "LogSoftmax"):
        return Cause(
            f"{stop.where} is a softmax over one element, which is 1 whatever comes in",
            "the dimension of what is chosen from (dim=-1, say), before what selects one (topk);"
            " for a single unit nn.Sigmoid(), or two units",
        )
    if stop.levels:
        return Cause(
            f"{stop.where} normalises over one feature, which gives its bias whatever comes in",
            "leave it out, or normalise over the batch (nn.BatchNorm1d)",
        )
    if stop.op == "Relu" and stop.elements == 0:
        return Cause(
            f"all units of {stop.where} are dead: its output is zero for the whole batch",
            "smaller or zero biases, scaled inputs, or nn.LeakyReLU() (F.softplus where it has to"
            " be positive)",
        )
    known = _MEANS.get(stop.op)
    return None if known is None else Cause(known[0].format(stop.where), known[1])


#: Functions that choose or compare, and conversions to whole numbers.
_HARD = (
    "gt lt ge le eq ne argmax argmin argsort long int bool multinomial bernoulli searchsorted"
    " bucketize one_hot"
)


def _nodes_of(activations: Collection[str]) -> Iterator[str]:
    return (node for node, name in FUNCTIONAL.items() if name in activations)


_MEANS = {
    **dict.fromkeys(
        (*_nodes_of(RECTIFIERS), "Threshold", "Hardswish", "Softplus"),
        ("{} is flat at all that comes in with a gradient", f"nn.LeakyReLU(), or {_SCALE}"),
    ),
    **dict.fromkeys(
        (*_nodes_of(SATURATING), "Erf", "Atan"),
        ("{} is saturated: it is flat at all that comes in", _SCALE),
    ),
    "Sigmoid": (
        "{} is saturated: it is flat at all that comes in",
        f"{_SCALE}; before a loss, none and a loss on logits",
    ),
    "Softmax": (
        "{} is saturated: one position gets all",
        f"a smaller scale of the logits: {_SCALE}",
    ),
    "LogSoftmax": ("{} is saturated: one position gets all", f"smaller logits: {_SCALE}"),
    **dict.fromkeys(
        ("Hardtanh", "Clamp", "ClampMin", "ClampMax"),
        ("{} cuts off all that comes in, which is out of its range", _SOFT_BOUND),
    ),
    **dict.fromkeys(
        ("Round", "Floor", "Ceil", "Trunc", "Sign", "Sgn", "Heaviside", "FloorDivide"),
        ("{} has no slope anywhere", _ROUNDING),
    ),
    "Exp": ("{} has rounded to 0 for all that comes in", f"x.clamp(min=-20).exp(), or {_SCALE}"),
    **dict.fromkeys(
        ("Mul", "Where", "MaskedFill"),
        (
            "{} meets zeros, or a mask that leaves nothing, for the whole batch",
            "look at what makes them: a mask, a gate, or a weight of 0",
        ),
    ),
    "zeros": ("all inputs are zero", "a batch with data in it"),
    "no_grad": (
        "{} runs under no_grad()",
        "run it with gradients, or freeze it with requires_grad_(False)",
    ),
    "checkpoint": (
        "{} runs in a re-entrant checkpoint of which no input needs a gradient",
        "checkpoint(..., use_reentrant=False)",
    ),
    **dict.fromkeys(
        ("detach", "detach_", "data"),
        ("{} cuts the gradient off", "take it out, or freeze what is before it"),
    ),
    **dict.fromkeys(
        ("numpy", "item", "tolist", "tensor", "__float__", "__int__", "__array__"),
        ("{} makes plain numbers, which have no gradient", "the same in torch, without it"),
    ),
    **dict.fromkeys(
        _HARD.split(),
        (
            "{} has no slope",
            "a soft version (torch.sigmoid, torch.softmax, F.gumbel_softmax), or a straight-through"
            " estimator: soft + (hard - soft).detach()",
        ),
    ),
}
