"""A state that gates forget, written without steps: in closed form, as a scan, in the logarithm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, softplus

from pytest_gradhealth import Diagnosis, probe
from tests.helpers.findings import codes

EXAMPLES, STEPS, WIDTH, CLASSES = 8, 40, 8, 4
DRAWN = torch.Generator().manual_seed(0)
CONTEXT = torch.randn(EXAMPLES, 5, generator=DRAWN)
DATA = torch.randn(EXAMPLES, STEPS, 3, generator=DRAWN)
Y = torch.randint(CLASSES, (EXAMPLES,), generator=DRAWN)

#: Makes the last states of all that it has made of a first state, of gates, and of what is new.
Scan = Callable[[Tensor, Tensor, Tensor], Tensor]
Run = Callable[[Any, Tensor, Tensor], Tensor]


class Started(nn.Module):
    """An encoder makes a state, which data are made part of; only what it ends with is read."""

    def __init__(self, run: Run, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.begin = nn.Linear(5, WIDTH)
        self.head: nn.Module = nn.Linear(WIDTH, CLASSES)
        self.gate, self.new = nn.Linear(3, WIDTH), nn.Linear(3, WIDTH)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, context: Tensor, data: Tensor) -> Tensor:
        out: Tensor = self.head(self.run(self, torch.tanh(self.begin(context)), data))
        return out


def stepwise(state: Tensor, gates: Tensor, new: Tensor) -> Tensor:
    states = []
    for gate, now in zip(gates.unbind(1), new.unbind(1), strict=True):
        state = gate * state + now
        states.append(state)
    return torch.stack(states, 1)


def products(state: Tensor, gates: Tensor, new: Tensor) -> Tensor:
    """What is left of each state at each later one, as a matrix of decays."""
    passed = gates.log().cumsum(1)
    decays = (passed[:, :, None] - passed[:, None]).transpose(2, 3)
    later = torch.ones(STEPS, STEPS).triu(1).bool()[:, None]
    left = decays.masked_fill(later, -math.inf).exp()
    return torch.einsum("etws,esw->etw", left, new) + passed.exp() * state[:, None]


def doubling(state: Tensor, gates: Tensor, new: Tensor) -> Tensor:
    gates = torch.cat([torch.ones_like(gates[:, :1]), gates], 1)
    states, reach = torch.cat([state[:, None], new], 1), 1
    while reach <= STEPS:
        states = states + gates * pad(states[:, :-reach], (0, 0, reach, 0))
        gates = gates * pad(gates[:, :-reach], (0, 0, reach, 0), value=1.0)
        reach *= 2
    return states[:, 1:]


def one(scan: Scan) -> Run:
    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        gates = torch.sigmoid(m.gate(data))
        states = scan(state, gates, (1 - gates) * m.new(data))
        return states[:, -1]

    return run


def in_logarithms(m: Any, state: Tensor, data: Tensor) -> Tensor:
    gates = m.gate(data)
    passed = pad(-softplus(-gates).cumsum(1), (0, 0, 1, 0))
    new = softplus(m.new(data)).log() - softplus(gates)
    values = torch.cat([softplus(state).log()[:, None], new], 1)
    return (passed + torch.logcumsumexp(values - passed, 1))[:, -1].exp()


def of_two_gates(m: Any, state: Tensor, data: Tensor) -> Tensor:
    """An input gate and a forget gate that sum to one, from one layer."""
    forget, take = m.both(data).sigmoid().chunk(2, -1)
    whole = forget + take
    return products(state, forget / whole, take / whole * m.new(data))[:, -1]


def of_a_matrix(m: Any, state: Tensor, data: Tensor) -> Tensor:
    passed = m.gate(data).sigmoid().log().cumsum(1)
    keys = m.key(data) * (passed[:, -1:] - passed).exp()
    memory: Tensor = state[:, :, None] * passed[:, -1].exp()[:, :, None]
    memory = memory + torch.einsum("esk,esv->ekv", keys, m.new(data))
    return memory.mean(1)


def of_an_outer_product(m: Any, state: Tensor, data: Tensor) -> Tensor:
    passed = m.gate(data).sigmoid().log().cumsum(1)
    new = m.new(data) * (passed[:, -1:] - passed).exp()
    memory = m.begin(CONTEXT)[:, :, None] * state[:, None] * passed[:, -1].exp()[:, :, None]
    out: Tensor = memory.mean(2) + new.sum(1)
    return out


def of_an_offset(m: Any, state: Tensor, data: Tensor) -> Tensor:
    gates = torch.sigmoid(m.gate(data) - 3.5)
    return products(state, gates, m.new(data))[:, -1]


def of_squares(m: Any, state: Tensor, data: Tensor) -> Tensor:
    return products(state, m.gate(data).square().mul(-4).exp(), m.new(data))[:, -1]


def of_a_convolution(m: Any, state: Tensor, data: Tensor) -> Tensor:
    gates, new = m.both(data.mT)[..., :STEPS].chunk(2, 1)
    return products(state, gates.sigmoid().mT, new.mT)[:, -1]


def of_one_unit(forget: str, take: str) -> Callable[[], nn.Module]:
    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        opened = [m.get_submodule(name)(data).sigmoid() for name in (forget, take)]
        gates = opened[0] / sum(opened)
        return products(state, gates.expand(-1, -1, WIDTH), m.new(data))[:, -1]

    return lambda: Started(run, **{name: nn.Linear(3, 1) for name in (forget, take)})


def of_weights(m: Any, state: Tensor, data: Tensor) -> Tensor:
    gates = torch.sigmoid(data @ m.gate.weight.T)
    return products(state, gates, data @ m.new.weight.T)[:, -1]


def stacked(scan: Scan, *, own: bool = False) -> Run:
    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        first, second = (m.first(state), m.second(state)) if own else (state, state)
        gates = torch.sigmoid(m.gate(data))
        states = scan(first, gates, (1 - gates) * m.new(data))
        gates = torch.sigmoid(m.next_gate(states))
        return scan(second, gates, (1 - gates) * m.next_new(states))[:, -1]

    return run


def with_functions(m: Any, state: Tensor, data: Tensor) -> Tensor:
    """A second scan whose gates no layer returns."""
    gates = torch.sigmoid(m.gate(data))
    states = products(state, gates, (1 - gates) * m.new(data)) @ m.between.weight
    gates = torch.sigmoid(states)
    out: Tensor = products(state, gates, (1 - gates) * states)[:, -1]
    return out


class TwoHeads(Started):
    def forward(self, context: Tensor, data: Tensor) -> Any:
        state = self.run(self, torch.tanh(self.begin(context)), data)
        return self.head(state), self.get_submodule("other")(state)


class Headless(Started):
    def forward(self, context: Tensor, data: Tensor) -> Tensor:
        return self.run(self, torch.tanh(self.begin(context)), data)[:, :CLASSES]


def with_projections(m: Any, state: Tensor, data: Tensor) -> Tensor:
    """Two scans that begin with one state, of which the second returns all its steps to a layer."""
    gates = torch.sigmoid(m.gate(data))
    states = m.first(products(state, gates, (1 - gates) * m.new(data)))
    gates = torch.sigmoid(m.next_gate(states))
    out: Tensor = m.second(products(state, gates, (1 - gates) * m.next_new(states)))[:, -1]
    return out


def of_a_cell(m: Any, state: Tensor, data: Tensor) -> Tensor:
    """One layer of all that it is given, a memory from a layer of its own."""
    memory = m.remembered(CONTEXT)
    for now in data.unbind(1):
        take, forget, give, new = m.cell(torch.cat([now, state], 1)).chunk(4, 1)
        memory = forget.sigmoid() * memory + take.sigmoid() * new.tanh()
        state = give.sigmoid() * memory.tanh()
    return state


def square(*names: str) -> dict[str, nn.Module]:
    return {name: nn.Linear(WIDTH, WIDTH) for name in names}


def twice(scan: Scan) -> nn.Module:
    return Started(stacked(scan), **square("next_gate", "next_new"))


FORGETFUL: dict[str, Callable[[], nn.Module]] = {
    "step by step": lambda: Started(one(stepwise)),
    "products": lambda: Started(one(products)),
    "doubling": lambda: Started(one(doubling)),
    "in logarithms": lambda: Started(in_logarithms),
    "two gates of one layer": lambda: Started(of_two_gates, both=nn.Linear(3, 2 * WIDTH)),
    "a matrix": lambda: Started(of_a_matrix, key=nn.Linear(3, 1)),
    "a layer that is called twice": lambda: Started(of_an_outer_product),
    "an offset": lambda: Started(of_an_offset),
    "squares": lambda: Started(of_squares),
    "a convolution": lambda: Started(of_a_convolution, both=nn.Conv1d(3, 2 * WIDTH, 2, padding=1)),
    "one unit": of_one_unit("forget", "take"),
    "one unit, named otherwise": of_one_unit("keep", "input_gate"),
    "one unit, named in short": of_one_unit("f", "i"),
    "weights without layers": lambda: Started(of_weights),
    "two loops that begin with one state": lambda: twice(stepwise),
    "two scans that begin with one state": lambda: twice(products),
    "a layer behind each": lambda: Started(
        with_projections, **square("first", "second", "next_gate", "next_new")
    ),
    "a cell of one layer": lambda: Started(
        of_a_cell, remembered=nn.Linear(5, WIDTH), cell=nn.Linear(3 + WIDTH, 4 * WIDTH)
    ),
    "two heads": lambda: TwoHeads(one(products), other=nn.Linear(WIDTH, 2)),
    "no head": lambda: Headless(one(products)),
    "functions between two scans": lambda: Started(with_functions, **square("between")),
    "each with a layer of its own": lambda: Started(
        stacked(products, own=True), **square("first", "second", "next_gate", "next_new")
    ),
}


def by_a_constant(m: Any, state: Tensor, data: Tensor) -> Tensor:
    return torch.tanh(1e-9 * state + m.new(data[:, 0]))


def by_itself(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for _ in range(15):
        state = torch.sigmoid(state)
    out: Tensor = state * torch.sigmoid(m.gate(data[:, 0])) + m.new(data[:, 1])
    return out


def by_itself_before_gates(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for _ in range(15):
        state = torch.sigmoid(state)
    return one(products)(m, state, data)


def by_gates_alone(m: Any, state: Tensor, data: Tensor) -> Tensor:
    return state * torch.sigmoid(m.gate(data)).prod(1)


def by_a_gate_that_is_shut(m: Any, state: Tensor, data: Tensor) -> Tensor:
    out: Tensor = state * torch.sigmoid(m.gate(data[:, 0]) - 20) + m.new(data[:, 1])
    return out


def by_layers(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for layer in m.deep:
        state = torch.sigmoid(3 + 0.2 * layer(state) + 0.1 * m.new(data[:, 0]))
    return state


def by_weights(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for layer in m.deep:
        state = torch.sigmoid(state @ layer.weight)
    out: Tensor = state * torch.sigmoid(m.gate(data[:, 0])) + m.new(data[:, 1])
    return out


def before_the_scan(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for layer in m.deep:
        state = torch.sigmoid(layer(state))
    return one(products)(m, state, data)


def behind_the_scan(m: Any, state: Tensor, data: Tensor) -> Tensor:
    state = one(products)(m, state, data)
    for layer in m.deep:
        state = torch.sigmoid(layer(state))
    return state


LOST: dict[str, tuple[Run, bool]] = {
    "a constant": (by_a_constant, False),
    "functions of the state alone": (by_itself, False),
    "functions before gates": (by_itself_before_gates, False),
    "gates, and nothing is new": (by_gates_alone, False),
    "a gate that is shut": (by_a_gate_that_is_shut, False),
    "layers that get data": (by_layers, True),
    "weights without layers": (by_weights, True),
    "layers before the scan": (before_the_scan, True),
    "layers behind the scan": (behind_the_scan, True),
}


@pytest.fixture(autouse=True)
def drawn() -> None:
    torch.manual_seed(0)


def loss(outputs: Any, classes: Tensor) -> Tensor:
    first, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    terms = [cross_entropy(first, classes), *(other.square().mean() for other in others)]
    return torch.stack(terms).sum()


def judged(model: nn.Module) -> Diagnosis:
    return probe(model, (CONTEXT, DATA), Y, loss=loss, select=["GH101"], confirm_steps=0)


@pytest.mark.parametrize("way", FORGETFUL)
def test_what_gates_forget_is_no_depth(way: str) -> None:
    diagnosis = judged(FORGETFUL[way]())
    assert codes(diagnosis) == codes(diagnosis, "warning") == []
    ends = [(path.first.name, path.last.name) for path in diagnosis.profile.judged_paths]
    assert ("begin", "head") not in ends


@pytest.mark.parametrize("way", LOST)
def test_what_is_lost_otherwise_is(way: str) -> None:
    run, is_deep = LOST[way]
    deep = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(15))
    assert "GH101" in codes(judged(Started(run, **({"deep": deep} if is_deep else {}))))


@pytest.mark.parametrize("way", ["products", "no head", "two heads", "weights without layers"])
def test_batches_that_take_gradients_change_nothing(way: str) -> None:
    """An input that is a leaf itself is no weight."""
    batch = CONTEXT.clone().requires_grad_(), DATA.clone().requires_grad_()
    found = probe(FORGETFUL[way](), batch, Y, loss=loss, select=["GH101"], confirm_steps=0)
    assert codes(found) == codes(judged(FORGETFUL[way]())) == []


def test_a_weight_that_the_model_does_not_know_is_none_of_a_layer() -> None:
    hidden = [nn.Parameter(torch.ones(WIDTH))]

    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        return one(products)(m, state, data) * hidden[0]

    found = probe(Started(run), (CONTEXT, DATA), Y, loss=loss, select=["GH101"], confirm_steps=0)
    assert codes(found) == []
