"""The list of operators: a right transformer with one operation changed, and the right one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from examples.study.network import Batch, Fault, Network
from examples.study.operators import wrong
from examples.study.operators.transformer import (
    Norm,
    Plan,
    Transformer,
    batch,
    loss,
    replaced,
)

FAMILY = "transformer operators"
RIGHT = Plan()
DEEP = Plan(blocks=8)


@cache
def operators() -> dict[str, Fault]:
    """Every operator by its name: sick, and cured where all else is the same."""
    return {fault.sick.name: fault for fault in _all()}


def _all() -> Iterator[Fault]:
    yield from _projections()
    yield from _streams()
    yield from _scores()
    yield from _masks()
    yield from _softmaxes()
    yield from _norms()
    yield from _weights()
    yield from _inputs()


def _operator(
    name: str,
    symptom: str,
    sick: Plan,
    *,
    cured: tuple[str, Plan] = ("right", RIGHT),
    padded: bool = False,
) -> Fault:
    """A changed operation, and the transformer of the same kind without it, by its name."""
    drawn = partial(_batch, padded)
    one = Network(name, FAMILY, partial(Transformer, sick), drawn, loss)
    other = Network(cured[0], FAMILY, partial(Transformer, cured[1]), drawn, loss)
    return Fault(one, other, symptom, "")


def _batch(padded: bool) -> Batch:
    return batch(padded=padded)


def _begun(initialise: partial[None], of: Plan = RIGHT) -> Plan:
    return replace(of, initialise=initialise)


def _everything(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool)


def _detached(x: Tensor) -> Tensor:
    return x.detach()


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


def _projections() -> Iterator[Fault]:
    """Queries, keys, values and what merges them."""
    zeroed, parts = partial(partial, wrong.zeroed), partial(partial, wrong.zeroed_parts)
    yield _operator(
        "queries and keys of zero",
        "each waits for the other: the attention stays uniform",
        _begun(parts((0, 1))),
    )
    yield _operator("keys of zero", "begins uniform", _begun(parts((1,))))
    yield _operator(
        "values and outputs of zero",
        "each waits for the other: no attention",
        replace(RIGHT, initialise=_no_values_or_outputs),
    )
    yield _operator(
        "outputs of zero",
        "every block begins as the identity",
        _begun(zeroed(("out.weight", "out.bias", "down.weight", "down.bias"))),
    )
    yield _operator(
        "feed-forward networks of zero",
        "both layers wait for each other",
        _begun(zeroed(("up.weight", "up.bias", "down.weight", "down.bias"))),
    )
    yield _operator(
        "head and embeddings of zero",
        "both wait for each other",
        _begun(zeroed(("head.weight", "tokens.weight", "positions"))),
    )
    yield _operator(
        "queries and keys shared",
        "a token's score is highest with itself",
        replace(RIGHT, prepare=wrong.shared),
    )
    yield _operator(
        "values detached", "their weights stay", replace(RIGHT, prepare=wrong.detached_values)
    )
    yield _operator(
        "queries and keys detached",
        "the attention stays as it was drawn",
        replace(RIGHT, prepare=wrong.detached_queries_and_keys),
    )
    yield _operator(
        "attention over the batch",
        "examples are mixed and tokens are not",
        replace(RIGHT, prepare=wrong.over_the_batch, merge=wrong.back, allowed=_everything),
    )
    yield _operator(
        "heads merged without transpose",
        "tokens are mixed with heads",
        replace(RIGHT, merge=wrong.reshaped),
    )


def _no_values_or_outputs(model: Transformer) -> None:
    wrong.zeroed_parts((2,), model)
    wrong.zeroed(("out.weight", "out.bias"), model)


def _streams() -> Iterator[Fault]:
    """Skips and branches."""
    neither = replace(RIGHT, after_attention=replaced, after_feed_forward=replaced)
    deep = replace(DEEP, after_attention=replaced, after_feed_forward=replaced)
    yield _operator("no skips", "tokens become alike", neither)
    yield _operator(
        "no skips, 8 blocks", "tokens become alike", deep, cured=("right, 8 blocks", DEEP)
    )
    yield _operator(
        "no skips around attention", "tokens mix", replace(RIGHT, after_attention=replaced)
    )
    yield _operator(
        "skips added twice, 8 blocks",
        "the stream doubles 16 times",
        replace(DEEP, after_attention=wrong.doubled, after_feed_forward=wrong.doubled),
        cured=("right, 8 blocks", DEEP),
    )
    yield _operator(
        "skips detached",
        "only the last branch hands back a gradient",
        replace(RIGHT, after_attention=wrong.detached_skip, after_feed_forward=wrong.detached_skip),
    )
    yield _operator(
        "attention detached",
        "its weights get no gradient",
        replace(RIGHT, after_attention=wrong.detached_branch),
    )
    yield _operator(
        "stream detached between blocks",
        "only the last block learns",
        replace(RIGHT, between=_detached),
    )
    yield _operator(
        "branches with dropout of .95",
        "hardly anything is left of them",
        replace(RIGHT, after_attention=partial(wrong.dropped_branch, 0.95)),
    )


def _scores() -> Iterator[Fault]:
    """The factor of the scores."""
    for factor, symptom in (
        (500.0, "the softmax is one-hot"),
        (1e-6, "the softmax is uniform, and hardly feels queries and keys"),
        (0.0, "the softmax is uniform for good"),
    ):
        sick = replace(RIGHT, scale=partial(wrong.scaled_by, factor))
        yield _operator(f"scores times {factor:g}", symptom, sick)


def _masks() -> Iterator[Fault]:
    """What a query may see."""
    for name, symptom, allowed in (
        ("mask without the diagonal", "the first token sees nothing: NaN", wrong.strictly_before),
        ("mask one token late", "the next token is seen", wrong.one_late),
        ("mask inverted", "the last token sees nothing: NaN", wrong.inverted),
        ("mask transposed", "what came before is hidden", wrong.transposed),
        ("mask of -inf everywhere", "NaN", wrong.nothing),
        ("mask that leaves a token alone", "nothing else is seen", wrong.itself),
    ):
        yield _operator(name, symptom, replace(RIGHT, allowed=allowed))
    for name, symptom, weigh in (
        ("mask of -1e9 added everywhere", "it swallows scores", partial(wrong.hidden_by, -1e9)),
        ("mask multiplied", "scores of 0 take part", wrong.multiplied),
        ("mask after the softmax", "weights do not sum to 1", wrong.masked_afterwards),
    ):
        yield _operator(name, symptom, replace(RIGHT, weigh=weigh))


def _softmaxes() -> Iterator[Fault]:
    """The softmax of the scores, and that of the answer."""
    for name, symptom, weigh in (
        ("softmax over the queries", "the wrong axis", partial(wrong.softmax_over, -2)),
        ("softmax over the heads", "the wrong axis", partial(wrong.softmax_over, 1)),
        ("softmax twice", "nearly uniform", wrong.twice),
        ("one-hot attention", "argmax has no gradient", wrong.one_hot),
        ("attention weights detached", "they stay as drawn", wrong.detached_weights),
        ("attention weights with dropout of .9", "noise", partial(wrong.dropped, 0.9)),
    ):
        yield _operator(name, symptom, replace(RIGHT, weigh=weigh))
    yield _operator(
        "exponentials of large scores",
        "inf over inf: NaN",
        replace(RIGHT, weigh=wrong.exponentials, scale=partial(wrong.scaled_by, 500.0)),
    )
    yield _operator(
        "softmax before the cross-entropy",
        "the loss softens the answer once more",
        replace(RIGHT, output=_softmax),
    )


def _norms() -> Iterator[Fault]:
    """Layer norms: where, over what, and with which eps."""
    yield _operator("no norms", "", replace(RIGHT, norm=wrong.no_norm))
    yield _operator(
        "no norms, 8 blocks, weights of N(0, .5)",
        "every branch is larger than the stream",
        replace(DEEP, norm=wrong.no_norm, initialise=partial(wrong.drawn, 0.5)),
        cured=(
            "right, 8 blocks, weights of N(0, .02)",
            replace(DEEP, initialise=partial(wrong.drawn, 0.02)),
        ),
    )
    yield _operator(
        "norms behind, 12 blocks",
        "the gradient is that of the last blocks",
        Plan(blocks=12, norm_first=False),
        cured=("right, 12 blocks", Plan(blocks=12)),
    )
    for name, symptom, axes, eps in (
        ("norms over the tokens", "the future leaks", (1,), 1e-5),
        ("norms with eps of 1000", "all is divided by 30", (-1,), 1e3),
        ("norms with eps of 1e10", "hardly anything is left", (-1,), 1e10),
    ):
        norm = partial(wrong.norm_of, axes, eps)
        yield _operator(name, symptom, replace(RIGHT, norm=norm))
    begun = partial(wrong.padded_with_zeros)
    yield _operator(
        "norms with eps of 0 on padding",
        "0 over 0: NaN",
        Plan(norm=partial(wrong.norm_of, (-1,), 0.0), initialise=begun),
        cured=("right, on padding", Plan(norm=Norm, initialise=begun)),
        padded=True,
    )
    yield _operator(
        "norms that begin at zero",
        "nothing but biases comes through",
        _begun(partial(wrong.zeroed, ("norms.0.weight", "norms.1.weight", "norm.weight"))),
    )


def _weights() -> Iterator[Fault]:
    """Initialisations."""
    usual = "right, weights of N(0, .02)", _begun(partial(wrong.drawn, 0.02))
    for std in (3.0, 1e-4, 1e-8):
        sick = _begun(partial(wrong.drawn, std))
        yield _operator(f"weights of N(0, {std:g})", "the wrong scale", sick, cured=usual)
    yield _operator(
        "weights of torch.rand()", "all positive", _begun(partial(wrong.positive)), cured=usual
    )
    yield _operator(
        "weights of .02",
        "all features are the same",
        _begun(partial(wrong.constant, 0.02)),
        cured=usual,
    )
    yield _operator(
        "feed-forward biases of -30",
        "every unit is dead",
        replace(RIGHT, activation=nn.ReLU, initialise=partial(wrong.biased, -30.0)),
        cured=("right, with ReLU", replace(RIGHT, activation=nn.ReLU)),
    )


def _inputs() -> Iterator[Fault]:
    """Tokens and positions."""
    yield _operator(
        "no positions", "no token is the one before", _begun(partial(wrong.no_positions))
    )
    for name, symptom, tokens, positions in (
        ("positions of N(0, 1000)", "tokens drown in them", 1.0, 1e3),
        ("tokens of N(0, 1e-6)", "they drown in positions", 1e-6, 1.0),
        ("tokens of N(0, 1000)", "positions drown in them", 1e3, 1.0),
    ):
        yield _operator(name, symptom, _begun(partial(wrong.embedded, tokens, positions)))
