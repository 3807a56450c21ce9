"""A loop that is written out with weights and no layers is judged as one of cells is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, one_hot

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.measure.reuse import in_a_row
from pytest_gradhealth.tensors.dominators import dominators
from pytest_gradhealth.tensors.graph import edge_of, walk
from tests.helpers.findings import codes

WIDTH, STEPS, CLASSES = 12, 40, 5
CONTEXT, TOKENS = torch.randn(8, 5), torch.randint(CLASSES, (8, STEPS))
Y = torch.randint(CLASSES, (8,))


def uniform(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-0.3, 0.3))


class WrittenOut(nn.Module):
    """An encoder makes a state, which goes through a loop of weights; only its end is read."""

    def __init__(self, step: Callable[[Any, Tensor, Tensor], Tensor], kind: str = "embed") -> None:
        super().__init__()
        self.step, self.kind = step, kind
        self.begin, self.embed = nn.Linear(5, WIDTH), nn.Embedding(CLASSES, CLASSES)
        self.given, self.kept, self.gate = (uniform(CLASSES, WIDTH), *uniform_pair())
        self.act, self.head = nn.Tanh(), nn.Linear(WIDTH, CLASSES)

    def forward(self, context: Tensor, tokens: Tensor) -> Tensor:
        state = torch.tanh(self.begin(context))
        data = self.embed(tokens) if self.kind == "embed" else one_hot(tokens, CLASSES).float()
        self.turned, self.begun = self.kept.t(), False
        for now in data.unbind(1):
            state = self.step(self, now, state)
        out: Tensor = self.head(state)
        return out


def uniform_pair() -> tuple[nn.Parameter, nn.Parameter]:
    return uniform(WIDTH, WIDTH), uniform(WIDTH, WIDTH)


class Layer(nn.Module):
    """The loop inside of a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.given, (self.kept, _) = uniform(CLASSES, WIDTH), uniform_pair()

    def forward(self, data: Tensor, state: Tensor) -> Tensor:
        for now in data.unbind(1):
            state = torch.tanh(now @ self.given + state @ self.kept)
        return state


class InALayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.begin, self.embed = nn.Linear(5, WIDTH), nn.Embedding(CLASSES, CLASSES)
        self.loop, self.head = Layer(), nn.Linear(WIDTH, CLASSES)

    def forward(self, context: Tensor, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.loop(self.embed(tokens), torch.tanh(self.begin(context))))
        return out


def gated(m: Any, now: Tensor, state: Tensor) -> Tensor:
    gate = torch.sigmoid(state @ m.gate)
    return (1 - gate) * torch.tanh(now @ m.given + state @ m.kept) + gate * state


def joined(m: Any, now: Tensor, state: Tensor) -> Tensor:
    weight = torch.cat([m.given, m.kept]).t()
    return torch.tanh(linear(torch.cat([now, state], 1), weight))


def added(m: Any, now: Tensor, state: Tensor) -> Tensor:
    return torch.tanh(now @ m.given + state @ m.kept)


EYE: Tensor = 0.3 * torch.eye(WIDTH)
#: Whose data come from no layer, or through the weight of the loop.
BARE = ("one-hot", "rows")
FED: dict[str, Callable[[], nn.Module]] = {
    "added": lambda: WrittenOut(added),
    "one-hot": lambda: WrittenOut(added, "one-hot"),
    "turned": lambda: WrittenOut(lambda m, x, h: torch.tanh(x @ m.given + h @ m.turned)),
    "joined": lambda: WrittenOut(joined),
    "gated": lambda: WrittenOut(gated),
    "module": lambda: WrittenOut(lambda m, x, h: m.act(x @ m.given + h @ m.kept)),
    "masked": lambda: WrittenOut(lambda m, x, h: torch.tanh(x @ m.given + h @ m.kept.triu())),
    "skew": lambda: WrittenOut(
        lambda m, x, h: torch.tanh(x @ m.given + h @ (m.kept - 0.5 * m.turned))
    ),
    "noisy": lambda: WrittenOut(
        lambda m, x, h: torch.tanh(x @ m.given + h @ (m.kept + 0.01 * torch.randn(WIDTH, WIDTH)))
    ),
    "low rank": lambda: WrittenOut(
        lambda m, x, h: torch.tanh(x @ m.given + h @ (EYE + m.kept[:, :2] @ m.gate[:2]))
    ),
    "rows": lambda: WrittenOut(
        lambda m, x, h: torch.tanh(x[:, :3] @ m.kept[:3] + h @ m.kept * 0.5)
    ),
    "chosen": lambda: WrittenOut(lambda m, x, h: torch.tanh(h * m.kept[x.argmax(1)] + x @ m.given)),
    "layer": InALayer,
}


def joined_at_first(m: Any, now: Tensor, state: Tensor) -> Tensor:
    """Data come to the first step alone."""
    given = 0.0 if m.begun else now @ m.given
    m.begun = True
    return torch.tanh(given + 0.5 * state @ m.kept)


DEEP: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "alone": lambda m, _, h: torch.sigmoid(h @ m.kept),
    "module": lambda m, _, h: m.act(0.5 * h @ m.kept),
    "constants": lambda m, x, h: torch.sigmoid(h @ m.kept + torch.ones_like(x) @ m.given),
}


def judged(model: nn.Module) -> Diagnosis:
    given = CONTEXT, TOKENS
    return probe(model, given, Y, loss=cross_entropy, select=["GH101"], confirm_steps=0)


@pytest.mark.parametrize("way", FED)
def test_what_it_forgets_is_no_depth(way: str) -> None:
    diagnosis = judged(FED[way]())
    assert codes(diagnosis) == codes(diagnosis, "warning") == []
    judged_paths = [(p.first.name, p.last.name) for p in diagnosis.profile.judged_paths]
    assert ("begin", "head") not in judged_paths
    assert ("embed", "head") in judged_paths or way in BARE, "data see no loop"


BESIDE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "joined": lambda h, side: torch.cat([h, side], 1),
    "added": lambda h, side: h + side,
    "scaled": lambda h, side: h * side,
}


@pytest.mark.parametrize("way", BESIDE)
def test_data_that_come_in_behind_it_are_none_of_its_steps(way: str) -> None:
    class Beside(WrittenOut):
        def forward(self, context: Tensor, tokens: Tensor) -> Tensor:
            state = torch.tanh(self.begin(context))
            for _ in range(STEPS):
                state = torch.sigmoid(state @ self.kept)
            side = one_hot(tokens[:, :1], WIDTH).float()[:, 0]
            out: Tensor = self.head(BESIDE[way](state, side))
            return out

    model = Beside(added)
    model.head = nn.Linear(2 * WIDTH if way == "joined" else WIDTH, CLASSES)
    assert codes(judged(model)) == ["GH101"]


def test_what_several_weights_share_makes_no_loop() -> None:
    class Shared(WrittenOut):
        def __init__(self) -> None:
            super().__init__(added)
            self.many = nn.ParameterList(uniform(WIDTH, WIDTH) for _ in range(15))
            self.bias = nn.Parameter(torch.zeros(WIDTH))

        def forward(self, context: Tensor, tokens: Tensor) -> Tensor:
            state = torch.tanh(self.begin(context))
            for weight in self.many:
                state = torch.sigmoid(linear(state, weight, self.bias))
            out: Tensor = self.head(state + self.embed(tokens[:, 0]).sum(1, keepdim=True))
            return out

    assert codes(judged(Shared())) == ["GH101"]


def test_nor_does_it_matter_that_nothing_of_a_gradient_is_left() -> None:
    diagnosis = probe(InALayer(), (CONTEXT, TOKENS.repeat(1, 8)), Y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis


def test_data_of_the_first_step_alone_make_it_no_less_deep() -> None:
    assert {*codes(judged(WrittenOut(joined_at_first)))} == {"GH101"}


@pytest.mark.parametrize("way", DEEP)
def test_without_data_of_its_own_it_is_depth(way: str) -> None:
    diagnosis = judged(WrittenOut(DEEP[way]))
    assert codes(diagnosis) == ["GH101"]
    (path,) = diagnosis.profile.judged_paths
    assert (path.first.name, path.last.name) == ("begin", "head")


def test_where_that_leaves_one_layer_it_says_so() -> None:
    diagnosis = judged(FED["one-hot"]())
    assert [f.message for f in diagnosis.findings] == [
        "nothing to judge: head (Linear) alone is left behind a loop over steps with data of their"
        " own"
    ]


@pytest.mark.parametrize(("times", "rows"), [(1, {}), (4, {1: 8})])
def test_uses_in_a_row_are_counted_from_three_on(times: int, rows: dict[int, int]) -> None:
    weight, other = (torch.randn(3, 3, requires_grad=True) for _ in range(2))
    first = state = torch.randn(1, 3, requires_grad=True) * 1.0
    for _ in range(times):
        state = state @ weight.t() + torch.ones(1, 3) @ weight
    tree = dominators(walk((state @ other).sum()), {edge_of(first): 0, edge_of(state): 1})
    found = in_a_row(tree, 0, {id(weight): 1, id(other): 1}).rows
    assert {mark: row[id(weight)] for mark, row in found.items() if row} == rows
    assert not in_a_row(tree, 0, {id(other): 1}).rows


def test_what_leads_into_the_middle_of_a_loop_is_data_of_it() -> None:
    weight = torch.randn(3, 3, requires_grad=True)
    begun, data = (torch.randn(1, 3, requires_grad=True) * 1.0 for _ in range(2))
    state = begun
    for _ in range(8):
        state = (state + data) @ weight
    marks = {edge_of(begun): 0, edge_of(data): 1, edge_of(state): 2}
    tree = dominators(walk(state.sum()), marks)
    assert in_a_row(tree, 0, {id(weight): 1}).rows[2][id(weight)] == 8
    assert not any(row.total() for row in in_a_row(tree, 1, {id(weight): 1}).rows.values())
