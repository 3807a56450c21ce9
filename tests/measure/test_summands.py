"""One network has one verdict, whether its forward adds up the errors of the examples or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import Diagnosis, probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes
from tests.helpers.nets import mlp

EXAMPLES = torch.randn(32, 20, generator=torch.Generator().manual_seed(0))
Errors = Callable[[Any, Tensor], Tensor]


@pytest.fixture(autouse=True)
def drawn() -> None:
    torch.manual_seed(0)


def squares(made: Tensor, wanted: Tensor) -> Tensor:
    return (made - wanted).square().sum(1)


def two_heads(m: Any, x: Tensor) -> Tensor:
    hidden = m.body(x).relu()
    return squares(m.one(hidden), x[:, :5]) + 0.5 * squares(m.other(hidden), x[:, 5:10])


def evidence(m: Any, x: Tensor) -> Tensor:
    hidden = m.body(x).relu()
    mean, spread = m.one(hidden), m.spread(hidden)
    drawn = mean + torch.randn_like(mean) * (spread / 2).exp()
    differs = 0.5 * (mean**2 + spread.exp() - 1 - spread).sum(1)
    errors: Tensor = squares(m.other(drawn), x) + differs
    return errors


def contrasted(m: Any, x: Tensor) -> Tensor:
    hidden = m.body(x).relu()
    one, other = m.one(hidden), m.other(hidden)
    labels = torch.arange(len(x)) % 5
    errors: Tensor = -(one.log_softmax(1) + other.log_softmax(1)).gather(1, labels[:, None])
    return errors[:, 0]


#: Errors of each example, and how many numbers `other` takes and makes.
MADE: dict[str, tuple[Errors, int, int]] = {
    "two heads": (two_heads, 16, 5),
    "a decoder behind a sample": (evidence, 5, 20),
    "likelihoods": (contrasted, 16, 5),
}


def judged(errors: Errors, other: nn.Module, *, adds_up: bool) -> Diagnosis:
    def run(m: Any, x: Tensor) -> Tensor:
        each = errors(m, x)
        return each.mean() if adds_up else each

    layers = {"body": nn.Linear(20, 16), "one": nn.Linear(16, 5), "spread": nn.Linear(16, 5)}
    loss = None if adds_up else (lambda outputs: outputs.mean())
    return probe(Wired(run, **layers, other=other), EXAMPLES, loss=loss, ignore=["GH405"])


@pytest.mark.parametrize("adds_up", [True, False], ids=["a number", "one for each example"])
@pytest.mark.parametrize("name", MADE)
def test_a_part_that_one_term_alone_sees_is_judged(name: str, *, adds_up: bool) -> None:
    errors, takes, makes = MADE[name]
    made = partial(mlp, inputs=takes, classes=makes)
    sick = judged(errors, made(nn.Sigmoid, hidden=11), adds_up=adds_up)
    assert codes(sick) == ["GH101"], sick
    assert sick.worst_path is not None
    assert sick.worst_path.first.label == "other.0"
    healthy = judged(errors, made(), adds_up=adds_up)
    assert healthy.verdict == "healthy", healthy
    firsts = [path.first.label for path in healthy.profile.judged_paths]
    assert firsts == ["body", "other.0"] or firsts == ["body", "one", "other.0"]


def test_the_paths_are_the_same_to_the_last_digit() -> None:
    torch.manual_seed(1)
    found = []
    for adds_up in (True, False):
        torch.manual_seed(1)
        diagnosis = judged(two_heads, mlp(inputs=16), adds_up=adds_up)
        found.append([(p.first.label, p.vanishing) for p in diagnosis.profile.judged_paths])
    assert found[0] == found[1]


WEIGHTS = torch.linspace(0.5, 1.5, 32)
#: Ways to add up one number for each example.
ADDED: dict[str, Callable[[Tensor], Tensor]] = {
    "dot": lambda each: each @ WEIGHTS,
    "einsum": lambda each: torch.einsum("n,n->", each, WEIGHTS),
    "weighted": lambda each: (each * WEIGHTS).sum() / WEIGHTS.sum(),
    "masked": lambda each: each.masked_fill(WEIGHTS < 1, 0.0).sum(),
    "chosen": lambda each: each.gather(0, torch.arange(9)).mean(),
    "parted": lambda each: torch.stack([part.sum() for part in torch.split(each, 8)]).mean(),
    "one by one": lambda each: torch.stack(each.unbind()).mean(),
    "turned": lambda each: 1 - (1 - each.reshape(4, 8).t().mean(0).mean()),
    "scattered": lambda each: torch.zeros(8).index_add(0, torch.arange(32) % 8, each).mean(),
}


@pytest.mark.parametrize("name", ADDED)
def test_however_they_are_added_up(name: str) -> None:
    layers = {"body": nn.Linear(20, 16), "one": nn.Linear(16, 5)}
    other = mlp(nn.Sigmoid, hidden=11, inputs=16)
    model = Wired(two_heads, **layers, other=other)
    sick = probe(model, EXAMPLES, loss=ADDED[name])
    assert codes(sick) == ["GH101"], sick


def test_weights_of_terms_that_are_learned_are_no_layers() -> None:
    def weighed(m: Any, x: Tensor) -> Tensor:
        hidden = m.body(x).relu()
        one, other = squares(m.one(hidden), x[:, :5]), squares(m.other(hidden), x[:, 5:10])
        errors: Tensor = one * (-m.s[0]).exp() + m.s[0] + other * (-m.s[1]).exp() + m.s[1]
        return errors

    layers = {"body": nn.Linear(20, 16), "one": nn.Linear(16, 5)}
    for activation, expected in ((nn.Sigmoid, ["GH101"]), (nn.ReLU, [])):
        other = mlp(activation, hidden=11, inputs=16)
        model = Wired(weighed, **layers, other=other, s=nn.Parameter(torch.zeros(2)))
        assert codes(probe(model, EXAMPLES, loss=lambda each: each.mean())) == expected


def last(diagnosis: Diagnosis) -> list[str]:
    return [path.last.label for path in diagnosis.profile.judged_paths]


def test_a_stream_that_layers_are_added_to_stays_one() -> None:
    """What blocks add to is seen whole at the end of it."""

    def stream(m: Any, x: Tensor) -> Tensor:
        x = m.body(x)
        for block in m.blocks:
            x = x + block(x)
        return x

    blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(24))
    for block in blocks:
        nn.init.normal_(block[0].weight, std=0.5)  # type: ignore[index]
    model = Wired(stream, body=nn.Linear(20, 8), blocks=blocks)
    diagnosis = probe(model, EXAMPLES, loss=lambda o: o.mean(), confirm_steps=0)
    assert last(diagnosis) == ["(output)"]
    assert codes(diagnosis) == ["GH201"]


@pytest.mark.parametrize(
    "loss",
    [None, lambda o: o.square().mean(), lambda o: (o * o).mean(), lambda o: (1 / o).mean()],
    ids=["none", "a square", "a product", "an inverse"],
)
def test_what_is_more_than_added_up_is_one_output(loss: Any) -> None:
    """Two experts make one answer, of which the loss is a function."""
    model = Wired(
        lambda m, x: m.one(x).exp() + m.other(x).exp(), one=nn.Linear(20, 3), other=nn.Linear(20, 3)
    )
    assert {*last(probe(model, EXAMPLES, loss=loss))} == {"(output)"}
