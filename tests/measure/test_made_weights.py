"""A state on whose way there are no weights but what layers make of the data of each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.measure.reuse import in_a_row
from pytest_gradhealth.tensors.dominators import dominators
from pytest_gradhealth.tensors.graph import edge_of, walk
from tests.helpers.findings import codes

EXAMPLES, STEPS, WIDTH, CLASSES = 8, 30, 12, 4
CONTEXT, DATA = torch.randn(EXAMPLES, 5), torch.randn(EXAMPLES, STEPS, 3)
Y = torch.randint(CLASSES, (EXAMPLES,))

Run = Callable[[Any, Tensor, Tensor], Tensor]


class Started(nn.Module):
    """An encoder makes a state, which data are made part of; only what it ends with is read."""

    def __init__(self, run: Run, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.begin, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, CLASSES)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, context: Tensor, data: Tensor) -> Tensor:
        out: Tensor = self.head(self.run(self, torch.tanh(self.begin(context)), data))
        return out


def stepwise(step: Run) -> Run:
    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        for now in data.unbind(1):
            state = step(m, state, now)
        return state

    return run


def times(state: Tensor, made: Tensor) -> Tensor:
    """The state of each example times a matrix of its own."""
    return torch.bmm(state[:, None], 0.3 * torch.tanh(made).view(-1, WIDTH, WIDTH))[:, 0]


def all_at_once(m: Any, state: Tensor, data: Tensor) -> Tensor:
    gates, new = torch.sigmoid(m.gate(data)), m.new(data)
    for gate, now in zip(gates.unbind(1), new.unbind(1), strict=True):
        state = (1 - gate) * state + gate * now
    return state


def convolved(m: Any, state: Tensor, data: Tensor) -> Tensor:
    gates, new = m.both(data.transpose(1, 2))[..., :STEPS].chunk(2, 1)
    for step in range(STEPS):
        gate = torch.sigmoid(gates[..., step])
        state = gate * state + (1 - gate) * torch.tanh(new[..., step])
    return state


def delta_rule(m: Any, state: Tensor, data: Tensor) -> Tensor:
    memory = state[:, :, None] * state[:, None]
    for key, value in zip(
        normalize(m.gate(data), dim=-1).unbind(1), m.new(data).unbind(1), strict=True
    ):
        memory = 0.5 * memory
        error = value - (memory @ key[..., None])[..., 0]
        memory = memory + 0.5 * error[:, :, None] * key[:, None]
    return memory.sum(1)


def linear() -> nn.Linear:
    return nn.Linear(3, WIDTH)


def made() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, WIDTH * WIDTH))


def made_with(activation: Callable[[Any, Tensor], Tensor]) -> Run:
    return stepwise(lambda m, h, x: activation(m, times(h, m.made(x)) + m.new(x)))


FED: dict[str, Callable[[], nn.Module]] = {
    "made weights": lambda: Started(
        made_with(lambda _, x: torch.tanh(x)), made=made(), new=linear()
    ),
    "layer of an activation": lambda: Started(
        made_with(lambda m, x: m.act(x)), made=made(), new=linear(), act=nn.Tanh()
    ),
    "gates": lambda: Started(
        stepwise(lambda m, h, x: torch.lerp(h, m.new(x), torch.sigmoid(m.gate(x)))),
        gate=linear(),
        new=linear(),
    ),
    "gates made at once": lambda: Started(all_at_once, gate=linear(), new=linear()),
    "gates of a convolution": lambda: Started(
        convolved, both=nn.Conv1d(3, 2 * WIDTH, 2, padding=1)
    ),
    "constant decay": lambda: Started(stepwise(lambda m, h, x: 0.5 * h + m.new(x)), new=linear()),
    "frozen gates": lambda: Started(all_at_once, gate=linear().requires_grad_(False), new=linear()),
    "fast weights": lambda: Started(delta_rule, gate=linear(), new=linear()),
    "frozen cell": lambda: Started(
        stepwise(lambda m, h, x: m.cell(x, h)), cell=nn.RNNCell(3, WIDTH).requires_grad_(False)
    ),
}


def with_layers(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for number, layer in enumerate(m.layers):
        state = torch.sigmoid(layer(state)) * m.new(data[:, number])
    return state


def with_weights(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for number, weight in enumerate(m.weights):
        state = torch.tanh(state @ weight + m.new(data[:, number]))
    return state


def with_a_part_in_common(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for layer in m.layers:
        state = torch.sigmoid(layer(state) + 0.1 * m.part(torch.cat([state, data[:, 0]], 1)))
    return state


def with_one_gate(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for weight in m.frozen:
        state = torch.tanh(state @ weight) * torch.sigmoid(m.new(data[:, 0]))
    return state


def made_of_embeddings(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for number in range(15):
        weights = m.made(m.embed(torch.tensor(number))).expand(EXAMPLES, -1)
        state = times(state, weights) * torch.sigmoid(m.new(data[:, 0]))
    return state


def layers() -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(15))


def part() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH + 3, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))


def uniform() -> nn.Parameter:
    return nn.Parameter(torch.empty(WIDTH, WIDTH).uniform_(-0.1, 0.1))


DEEP: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: Started(with_layers, new=linear(), layers=layers()),
    "layers with a part in common": lambda: Started(
        with_a_part_in_common, part=part(), layers=layers()
    ),
    "and one layer in common": lambda: Started(
        with_a_part_in_common, part=nn.Linear(WIDTH + 3, WIDTH), layers=layers()
    ),
    "and a frozen part in common": lambda: Started(
        with_a_part_in_common, part=part().requires_grad_(False), layers=layers()
    ),
    "frozen weights": lambda: Started(
        with_one_gate,
        new=linear(),
        frozen=nn.ParameterList(uniform() for _ in range(15)).requires_grad_(False),
    ),
    "made of embeddings": lambda: Started(
        made_of_embeddings, new=linear(), made=made(), embed=nn.Embedding(15, 3)
    ),
    "weights": lambda: Started(
        with_weights, new=linear(), weights=nn.ParameterList(uniform() for _ in range(15))
    ),
    "activations": lambda: Started(
        stepwise(lambda *given: torch.sigmoid(given[1])), end=nn.Linear(WIDTH, WIDTH)
    ),
}


def judged(model: nn.Module) -> Diagnosis:
    return probe(model, (CONTEXT, DATA), Y, loss=cross_entropy, select=["GH101"], confirm_steps=0)


@pytest.mark.parametrize("way", FED)
def test_what_it_forgets_is_no_depth(way: str) -> None:
    diagnosis = judged(FED[way]())
    assert codes(diagnosis) == codes(diagnosis, "warning") == []
    ends = [(path.first.name, path.last.name) for path in diagnosis.profile.judged_paths]
    assert ("begin", "head") not in ends


def test_what_lets_the_gradient_through_ends_no_path() -> None:
    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        for now in m.new(data).unbind(1):
            state = state + 0.1 * state * torch.tanh(now)
        out: Tensor = m.deep(state)
        return out

    deep = nn.Sequential(*[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid()) for _ in range(12)])
    diagnosis = judged(Started(run, new=linear(), deep=deep))
    assert codes(diagnosis) == ["GH101"]
    ends = [(path.first.name, path.last.name) for path in diagnosis.profile.judged_paths]
    assert ("begin", "head") in ends


@pytest.mark.parametrize("way", DEEP)
def test_layers_that_get_data_on_their_way_are_depth(way: str) -> None:
    assert codes(judged(DEEP[way]())) == ["GH101"]


@pytest.mark.parametrize(("steps", "counted"), [(4, 0), (5, 5)])
@pytest.mark.parametrize("between", [False, True])
def test_what_was_made_of_a_weight_counts_with_no_other_in_between(
    steps: int, counted: int, between: bool
) -> None:
    weight, *others = (torch.randn(3, 3, requires_grad=True) for _ in range(6))
    made = torch.randn(1, 3) @ weight
    first = state = torch.randn(1, 3, requires_grad=True) * 1.0
    for other in others[:steps]:
        state = (state @ other if between else state) * (0.1 * made)
    marks = {edge_of(first): 0, edge_of(made): 1, edge_of(state): 2}
    tree = dominators(walk(state.sum()), marks)
    rows = in_a_row(tree, 0, {id(each): 1 for each in (weight, *others)}).rows
    assert (rows[2][id(weight)] if rows else 0) == (0 if between else counted)
