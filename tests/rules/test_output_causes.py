"""Large outputs are put down to what makes them so: inputs, weights, a loop, a function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, assert_learns, assert_no_exploding_update, probe
from pytest_gradhealth.errors import GradientHealthError
from pytest_gradhealth.reporting.advice import causes
from tests.helpers.architectures import Wired

LABELS = torch.arange(32) % 4
ROWS = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
KAIMING = 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'


def told(diagnosis: Diagnosis) -> tuple[str, ...]:
    found = diagnosis.of(["GH203"])
    assert [finding.severity for finding in found] == ["failure"]
    return tuple(text for _, text in causes(diagnosis, found))


def cause(model: nn.Module, x: Tensor = ROWS, y: Tensor = LABELS, **settings: Any) -> Any:
    settings = {"loss": F.cross_entropy, "select": ["GH203"], **settings}
    return told(probe(model, x, y, **settings))


def linear(size: float, ins: int, outs: int) -> nn.Linear:
    """A layer that multiplies the RMS of what comes in by `size`, whatever that is."""
    layer = nn.Linear(ins, outs, bias=False)
    nn.init.orthogonal_(layer.weight)
    layer.weight.data *= size * outs**0.5 / layer.weight.norm().item()
    return layer


def net(*sizes: float) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [m for size in sizes[:-1] for m in (linear(size, 16, 16), nn.ReLU())]
    return nn.Sequential(*layers, linear(sizes[-1], 16, 4))


def test_inputs_are_blamed_for_what_the_first_layer_gets() -> None:
    size = 1e5 * ROWS.square().mean().sqrt().item()
    model = net(1, 1)
    because, advice = cause(model, 1e5 * ROWS)
    assert because == f"what 0 (Linear) gets is large already: its RMS is about {size:.2g}".replace(
        "e+05", "e+05"
    )
    assert advice == "standardised inputs: x = (x - x.mean(0)) / (x.std(0) + 1e-6)"


def test_features_of_what_is_frozen_are_no_inputs() -> None:
    model = nn.Sequential(linear(1e5, 16, 16).requires_grad_(False), *net(1, 1))
    because, advice = cause(model)
    assert because.startswith("what 1 (Linear) gets is large already: its RMS is about ")
    assert advice == "a normalisation layer before 1"


def test_one_layer_of_large_weights_is_named() -> None:
    assert cause(net(1, 1, 1e4)) == (
        "the weights of 4 (Linear) are large: they multiply what comes in by 1e+04",
        f"{KAIMING} for it",
    )
    assert cause(net(1e5, 1)) == (
        "the weights of 0 (Linear) are large: they multiply what comes in by 1e+05",
        f"{KAIMING} for it",
    )


def test_rows_that_are_picked_are_as_large_as_the_weights() -> None:
    embedding = nn.Embedding(50, 16)
    nn.init.constant_(embedding.weight, 1e4)
    model = nn.Sequential(embedding, nn.Linear(16, 4))
    assert cause(model, torch.arange(32)) == (
        "the weights of 0 (Embedding) are large: they have an RMS of 1e+04",
        "nn.init.normal_(layer.weight) for it",
    )


def test_a_weight_that_two_layers_share_counts_for_both() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(64, 16), nn.Linear(16, 64, bias=False))
    model[1].weight = model[0].weight
    nn.init.normal_(next(model.parameters()), std=200.0)
    because, _ = cause(model, torch.arange(64), torch.arange(64))
    assert because.startswith("the weights of 1 (Linear) are large: they multiply what comes in by")


def test_all_layers_are_named_where_each_does_a_little() -> None:
    assert cause(net(*[3.0] * 10)) == (
        "it grows x1.4 in each of 18 steps from 0 (Linear) to 18 (Linear): the weights are large"
        " and multiply what comes in by 3 each",
        KAIMING,
    )


def test_growth_through_residual_blocks_is_no_matter_of_weights() -> None:
    def block() -> nn.Module:
        return Wired(lambda m, x: x + 2 * m.inner(x), inner=linear(1.0, 16, 16))

    torch.manual_seed(0)
    because, advice = cause(nn.Sequential(*(block() for _ in range(14)), linear(1.0, 16, 4)))
    assert because.startswith("it grows x2")
    assert because.endswith(" in each of 15 steps from 0.inner (Linear) to 14 (Linear)")
    assert advice == (
        "a normalisation layer every few layers, or a smaller share of what each adds"
    )


@pytest.mark.parametrize(
    ("make", "op", "advice"),
    [
        (lambda h: h.repeat(1, 20000, 1).sum(1), "sum", "a mean in place of the sum"),
        (
            lambda h: torch.exp(4 * h.mean(1)),
            "exp",
            "F.softplus in its place, or x.clamp(max=5).exp()",
        ),
        (
            lambda h: (10 * h.mean(1)) ** 4,
            "pow",
            "a lower power, or a normalisation layer before it",
        ),
        (
            lambda h: h.mean(1) / (h.mean(1) * 1e-6 + 1e-7),
            "div",
            "look at what it divides by, which may be close to 0",
        ),
    ],
    ids=["sum", "exp", "pow", "div"],
)
def test_a_function_between_two_layers_is_named(make: Any, op: str, advice: str) -> None:
    torch.manual_seed(0)
    model = Wired(
        lambda m, x: m.b(make(m.a(x)[:, None])), a=linear(2.0, 16, 16), b=linear(1.0, 16, 4)
    )
    because, tried = cause(model)
    assert because.startswith("it grows x")
    assert because.endswith(f" from a (Linear) to b (Linear), through {op}")
    assert tried == advice


def test_a_factor_between_two_layers_has_to_be_looked_for() -> None:
    model = Wired(lambda m, x: m.b(m.a(x) * 1e5), a=linear(1.0, 16, 16), b=linear(1.0, 16, 4))
    because, advice = cause(model)
    assert because.startswith("it grows x")
    assert because.endswith(" from a (Linear) to b (Linear)")
    assert advice == "look at what multiplies the output of a, or a normalisation layer there"


def test_a_loop_is_named_by_its_calls() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        h = m.a(x)
        for _ in range(12):
            h = m.w(h)
        return m.b(h)

    model = Wired(forward, a=linear(1.0, 16, 16), w=linear(2.0, 16, 16), b=linear(1.0, 16, 4))
    assert cause(model) == (
        "it grows x2 in each of 12 calls of w, one behind the other",
        "nn.init.orthogonal_(w.weight), or a normalisation layer in the loop",
    )


def test_a_recurrent_layer_is_told_its_own_weights() -> None:
    torch.manual_seed(0)
    rnn = nn.RNN(8, 16, nonlinearity="relu", batch_first=True)
    (recurrent,) = (p for name, p in rnn.named_parameters() if name == "weight_hh_l0")
    nn.init.orthogonal_(recurrent, 2.0)
    model = Wired(lambda m, x: m.b(m.a(x)[0][:, -1]), a=rnn, b=linear(1.0, 16, 4))
    because, advice = cause(model, torch.randn(32, 40, 8))
    assert because.startswith("a (RNN) returns an RMS of ")
    assert because.endswith(": its recurrent weights multiply what it has made by 2 in each step")
    assert advice == "nn.init.orthogonal_ for its weight_hh, or standardised inputs"


def test_of_what_has_no_weights_no_more_is_said_than_is_known() -> None:
    model = Wired(lambda m, x: x * 0 + m.size, size=nn.Parameter(torch.full((16,), 1e5)))
    diagnosis = probe(model, ROWS, loss=lambda out: out.square().sum(), select=["GH203"])
    assert told(diagnosis) == (
        "(output) (Wired) is the first to be so large: it returns an RMS of 1e+05",
        "look at what it is made of, and at its weights",
    )


# Targets that are large


STANDARDISE = "standardise them: y = (y - y.mean(0)) / (y.std(0) + 1e-6)"


def far(size: float) -> Tensor:
    return size * torch.sign(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)))


def lines(error: GradientHealthError) -> list[str]:
    text = str(error).replace("\n        ", " ")
    return [line for line in text.splitlines() if line.startswith(("cause", "try"))]


@pytest.mark.parametrize("optimizer", [None, lambda ps: torch.optim.SGD(ps, lr=10.0)])
def test_targets_far_from_the_outputs_are_named_where_nothing_is_learned(optimizer: Any) -> None:
    with pytest.raises(GradientHealthError) as caught:
        assert_learns(net(1, 1), ROWS, far(1e4), loss=F.mse_loss, optimizer=optimizer)
    because, advice = lines(caught.value)
    assert because.startswith("cause:  the targets have a root mean square of 1e+04, and the")
    assert because.endswith("e-05 of that")
    assert advice == f"try:    {STANDARDISE}"


def test_targets_far_from_the_outputs_are_named_where_training_explodes() -> None:
    settings: dict[str, Any] = {"loss": F.mse_loss, "remedy_budget": 0}
    settings["optimizer"] = lambda ps: torch.optim.SGD(ps, lr=0.1)
    with pytest.raises(GradientHealthError) as caught:
        assert_no_exploding_update(net(1, 1), ROWS, far(1e4), **settings)
    because, advice = lines(caught.value)
    assert because.startswith("cause:  the targets have a root mean square of 1e+04, and the")
    assert " of that: the gradient norm is " in because
    assert because.endswith(" in step 1")
    assert advice.startswith(f"try:    {STANDARDISE}, or a learning rate 10")


def test_targets_that_the_outputs_are_as_large_as_are_not_to_blame() -> None:
    model = net(1, 1e4)
    profile = probe(model, ROWS, far(1e4), loss=F.mse_loss).profile
    assert profile.wanted == pytest.approx(1e4)
    assert profile.magnitude == pytest.approx(1, abs=0.5)
    with pytest.raises(GradientHealthError) as caught:
        assert_learns(
            model, ROWS, far(1e4), loss=F.mse_loss, optimizer=lambda p: torch.optim.SGD(p, lr=1e-30)
        )
    assert "targets have" not in str(caught.value)


def test_calls_that_each_add_to_what_another_returned_are_named() -> None:
    """As rows of a picture that pass on what they have got."""

    def passed(m: Any, x: Tensor) -> Tensor:
        rows = list(m.stem(x).split(1, 1))
        for place in range(1, len(rows)):
            rows[place] = rows[place] + F.relu(m.down(rows[place - 1]))
        out: Tensor = m.head(torch.cat(rows, 1)[:, -1])
        return out

    torch.manual_seed(0)
    down = nn.Linear(16, 16, bias=False)
    nn.init.orthogonal_(down.weight, 3.0)
    model = Wired(passed, stem=nn.Linear(16, 16), down=down, head=nn.Linear(16, 4))
    because, advice = cause(model, ROWS[:, None].expand(32, 24, 16))
    assert because.startswith("it grows x")
    assert because.endswith(
        " from stem (Linear) to head (Linear), through 23 calls of down, one behind the other"
    )
    assert advice == (
        "smaller initial weights in down (a tenth, say), or a normalisation layer before each call"
    )
