"""What it means that an operation lets no gradient through, and what to type: one table."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

from pytest_gradhealth.formatting import listing
from pytest_gradhealth.results.activation_functions import FUNCTIONAL, RECTIFIERS, SATURATING
from pytest_gradhealth.results.stop import Stop, StopKind
from pytest_gradhealth.rules.rule import Cause

_SCALE = "standardised inputs, smaller weights and biases, or a normalisation layer before it"
#: Reasons that are told at most where parameters have several.
_TOLD = 2
_ROUNDING = "a straight-through estimator: x + (x.{op}() - x).detach()"
_SOFT_BOUND = "a wider range, or a soft bound (torch.tanh, F.softplus)"
#: What margins are made with.
_MARGINS = frozenset({"Relu", "Clamp", "ClampMin", "ClampMax", "Maximum", "Threshold"})


def cause_of_silence(
    names: Collection[str], stops: Iterable[Stop], loss: float = math.nan
) -> Cause | None:
    """Why some parameters get no gradient, None if that is unknown; each by its own reason."""
    found: dict[Cause, list[str]] = {}
    margins = loss == 0
    for stop in stops:
        cut = [name for name in names if name in stop.parameters]
        if cut and (cause := cause_of_stop(stop)):
            found.setdefault(cause, []).extend(cut)
            margins = margins and stop.op in _MARGINS
    if len(found) < 2:
        cause = next(iter(found), None)
        return cause if cause is None or not margins else _at_no_loss(cause)
    most = sorted(found, key=lambda cause: -len(found[cause]))[:_TOLD]
    return Cause(
        "; ".join(f"{cause.because} ({listing(found[cause])})" for cause in most),
        "; ".join(dict.fromkeys(cause.advice for cause in most)),
        any(cause.certain for cause in most),
    )


def _at_no_loss(cause: Cause) -> Cause:
    """The same where the loss is 0, which a hinge is as it should be."""
    return Cause(
        f"{cause.because}; the loss is 0, as where all margins are met",
        f"a batch for which it is not, or {cause.advice}",
        cause.certain,
    )


def cause_of_stop(stop: Stop) -> Cause | None:
    """Why an operation lets nothing through, None if that is unknown."""
    known = _MEANS.get(stop.op)
    if known is None and not stop.in_graph:
        known = "what {} returns has no gradient", "something in its place that has, or freeze it"
    if stop.op == "Relu" and stop.elements == 0:
        known = _DEAD
    if stop.levels:
        known = _LEVELS.get(stop.op, _ONE_FEATURE)
    if stop.zeros:
        known = _dropped(stop) if stop.zeros == "0" else _ALL_ZEROS
    known = _KINDS.get(stop.kind, known)
    if known is None:
        return None
    because = known[0].format(stop.where, op=stop.op, zeros=stop.zeros)
    advice = known[1].format(op=stop.typed)
    by_scale = stop.kind == "rounding" or (stop.op in _OF_SCALE and not (stop.kind or stop.levels))
    return Cause(because, advice, certain=not by_scale)


def _dropped(stop: Stop) -> tuple[str, str]:
    """Of a product with the number 0: a dropout, or one that may be."""
    if not stop.at:
        return "{} drops all units for the whole batch: its p is 1", "a p below 1"
    return (
        "{} is one with the number 0 for the whole batch, as where F.dropout has p=1",
        "another factor, or a p below 1",
    )


#: Because of what, about {} and the function {op}, and what to try: by the kind of a stop.
_KINDS: dict[StopKind, tuple[str, str]] = {
    "rounding": (
        "the gradient has become too small for its number format at {}",
        "a loss scale in float16 (torch.amp.GradScaler), fewer layers, residual connections, or"
        " an initialisation that keeps the scale",
    ),
    "none": (
        "{op}, a function of the model's own, passes no gradient on ({})",
        "a backward that returns the gradient of what came in, and no mark_non_differentiable()",
    ),
    "zeros": (
        "the backward of {op}, a function of the model's own, is zero for all that comes in ({})",
        "a slope that is nowhere zero (an arctan's, 1 / (1 + x ** 2), for a spike), or inputs"
        " nearer to where it has one",
    ),
    "cancels": (
        "what comes back to {} on several ways cancels to zero, as where it is divided by its own"
        " norm or sum, or taken from itself",
        "more than one number in the dimension that is normalised (dim=...), none of it, or a loss"
        " that tells them apart",
    ),
    "even": (
        "{} sends nothing back of a gradient that is the same for all that it normalises, as of a"
        " mean or a sum",
        "a loss that is no mean or sum of what comes out of it",
    ),
    "weights": (
        "the weights of {} are all zero and stay so",
        "a random initialisation of that layer (of a normalisation, ones)",
    ),
}
_DEAD = (
    "all units of {} are dead: its output is zero for the whole batch",
    "smaller or zero biases, scaled inputs, or nn.LeakyReLU() (F.softplus where it has to be"
    " positive)",
)
_ALL_ZEROS = (
    "{zeros} is all zeros, and so is what it is multiplied with",
    "a mask that keeps some of it (an amount below 1 where it prunes), or a start other than 0",
)
_ONE_FEATURE = (
    "{} normalises over one feature, which gives its bias whatever comes in",
    "leave it out, or normalise over the batch (nn.BatchNorm1d)",
)
#: The same of what makes one element always the same.
_LEVELS = dict.fromkeys(
    ("Softmax", "LogSoftmax"),
    (
        "{} is a softmax over one element, which is 1 whatever comes in",
        "the dimension of what is chosen from (dim=-1, say), before what selects one (topk); for a"
        " single unit nn.Sigmoid(), or two units",
    ),
)
_SOFT = (
    "a soft version (torch.sigmoid, torch.softmax, F.gumbel_softmax), or a straight-through"
    " estimator: soft + (hard - soft).detach()"
)
_OUTSIDE = (
    "{} samples outside of its input alone, where it has no slope",
    "positions from -1 to 1 (torch.tanh)",
)
_FAKE = ("FakeQuantizePerTensorAffineCachemask", "FakeQuantizePerChannelAffineCachemask")
_ATTENTION = "FlashAttention FlashAttentionForCpu EfficientAttention CudnnAttention"
_PICKING = "argmax argmin argsort topk sort msort max min aminmax median mode kthvalue"
#: Functions that compare, draw or sort in, and conversions to whole numbers.
_HARD = "gt lt ge le eq ne long int bool multinomial bernoulli searchsorted bucketize one_hot"


def _nodes_of(activations: Collection[str]) -> Iterator[str]:
    return (node for node, name in FUNCTIONAL.items() if name in activations)


#: What lets nothing through at one scale of what comes in, and much at another.
_OF_SCALE = {*_nodes_of(RECTIFIERS | SATURATING.keys()), "Threshold", "Hardswish", "Softplus"}
_OF_SCALE |= {"Erf", "Atan", "LogSoftmax"}
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
        ("Hardtanh", "Clamp", "ClampMin", "ClampMax", *_FAKE),
        ("{} cuts off all that comes in, which is out of its range", _SOFT_BOUND),
    ),
    **dict.fromkeys(
        ("Round", "Floor", "Ceil", "Trunc", "Sign", "Sgn"),
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
    "Prod": (
        "{} has more than one factor of 0, and so no slope in any",
        "factors that are not 0 (F.softplus in place of a clamp), or a sum of logs",
    ),
    **dict.fromkeys(
        ("Maximum", "Minimum"),
        (
            "{} takes the other one of the two for all that comes in with a gradient",
            f"a soft bound (F.softplus, torch.logaddexp), or {_SCALE}",
        ),
    ),
    **dict.fromkeys(
        (f"ScaledDotProduct{name}" for name in _ATTENTION.split()),
        (
            "{} masks every position for the whole batch, and so returns zeros",
            "a mask that leaves some: of one that is True or False, True takes part",
        ),
    ),
    "GridSampler2D": _OUTSIDE,
    "GridSampler3D": _OUTSIDE,
    **dict.fromkeys(
        ("MultiMarginLoss", "MultilabelMarginLoss"),
        ("{} is flat: all margins are met", "a batch for which they are not"),
    ),
    **dict.fromkeys(
        ("Abs", "Angle", "Atan2", "Cdist", "LinalgVectorNorm", "Norm", "Pow"),
        ("{} gets zeros alone, where it has no slope", "inputs, or a start, other than zero"),
    ),
    "zeros": ("all inputs are zero", "a batch with data in it"),
    **{
        op: (
            f"{{}} runs under {op}()",
            "run it with gradients, or freeze it with requires_grad_(False)",
        )
        for op in ("no_grad", "inference_mode")
    },
    **dict.fromkeys(
        ("no_grad()", "inference_mode()"),
        ("{} cuts off what runs in it", "take it out, or freeze what is before it"),
    ),
    "sample": (
        "{} has no gradient",
        ".rsample() where there is one, F.gumbel_softmax, or a loss on .log_prob() of the sample",
    ),
    **dict.fromkeys(
        _PICKING.split(),
        ("{} picks positions, which have no slope", _SOFT),
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
        ("numpy", "item", "tolist", "tensor", "float", "array"),
        ("{} makes plain numbers, which have no gradient", "the same in torch, without it"),
    ),
    **dict.fromkeys(
        _HARD.split(),
        ("{} has no slope", _SOFT),
    ),
}
