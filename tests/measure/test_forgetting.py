"""What a state is multiplied by as it is carried through steps: by anything, written anyhow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import (
    conv1d,
    cross_entropy,
    embedding,
    linear,
    logsigmoid,
    one_hot,
    pad,
    softplus,
)

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.measure.gates import forgetful
from pytest_gradhealth.measure.loop import Gates, Loop
from pytest_gradhealth.subject.subject import Subject
from tests.helpers.findings import codes

EXAMPLES, STEPS, WIDTH, CLASSES = 8, 40, 8, 4
DRAWN = torch.Generator().manual_seed(0)
CONTEXT = torch.randn(EXAMPLES, 5, generator=DRAWN)
DATA = torch.randn(EXAMPLES, STEPS, 3, generator=DRAWN)
Y = torch.randint(CLASSES, (EXAMPLES,), generator=DRAWN)

#: What is left of all that a first state and what is new at each step have been made of.
Scan = Callable[[Tensor, Tensor, Tensor], Tensor]
Run = Callable[[Any, Tensor, Tensor], Tensor]
#: What loses the gradient of a state.
Lost = Callable[[Any, Tensor], Tensor]


class Started(nn.Module):
    """An encoder makes a state, which data are made part of; only what it ends with is read."""

    def __init__(self, run: Run, **own: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        self.begin, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.gate, self.new = nn.Linear(3, WIDTH), nn.Linear(3, WIDTH)
        for name, each in own.items():
            setattr(self, name, each)

    def forward(self, context: Tensor, data: Tensor) -> Tensor:
        out: Tensor = self.head(self.run(self, torch.tanh(self.begin(context)), data))
        return out


class Given(Started):
    """The state comes with the batch."""

    def forward(self, state: Tensor, data: Tensor) -> Tensor:
        out: Tensor = self.head(self.run(self, state, data))
        return out


class Learned(Started):
    """The state is a weight."""

    def forward(self, context: Tensor, data: Tensor) -> Tensor:
        out: Tensor = self.head(self.run(self, self.begin.bias.expand(EXAMPLES, WIDTH), data))
        return out


def stepwise(state: Tensor, gates: Tensor, new: Tensor) -> Tensor:
    for gate, now in zip(gates.unbind(1), new.unbind(1), strict=True):
        state = gate * state + now
    return state


def products(state: Tensor, gates: Tensor, new: Tensor) -> Tensor:
    after = gates.flip(1).cumprod(1).flip(1)
    after = torch.cat([after[:, 1:], torch.ones_like(after[:, :1])], 1)
    return gates.prod(1) * state + (after * new).sum(1)


def in_logarithms(state: Tensor, gates: Tensor, new: Tensor) -> Tensor:
    passed = gates.log().cumsum(1)
    return (new * (passed[:, -1:] - passed).exp()).sum(1) + state * passed[:, -1].exp()


def doubling(state: Tensor, gates: Tensor, new: Tensor) -> Tensor:
    gates = torch.cat([torch.ones_like(gates[:, :1]), gates], 1)
    states, reach = torch.cat([state[:, None], new], 1), 1
    while reach <= STEPS:
        states = states + gates * pad(states[:, :-reach], (0, 0, reach, 0))
        gates = gates * pad(gates[:, :-reach], (0, 0, reach, 0), value=1.0)
        reach *= 2
    return states[:, -1]


SCANS: dict[str, Scan] = {
    "step by step": stepwise,
    "products": products,
    "in logarithms": in_logarithms,
    "doubling": doubling,
}

#: What gates are made of, and what else that takes.
GATES: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], dict[str, Any]]]] = {
    "of a layer": (lambda m, x: m.gate(x).sigmoid(), dict),
    "of a frozen layer": (
        lambda m, x: m.frozen(x).sigmoid(),
        lambda: {"frozen": nn.Linear(3, WIDTH).requires_grad_(False)},
    ),
    "of zeros": (lambda m, x: m.zeros(x).sigmoid(), lambda: {"zeros": zeros(nn.Linear(3, WIDTH))}),
    "a constant": (lambda _, x: torch.full((*x.shape[:2], WIDTH), 0.6), dict),
    "one for each unit": (
        lambda _, x: torch.linspace(0.3, 0.7, WIDTH).expand(*x.shape[:2], -1),
        dict,
    ),
    "learned": (
        lambda m, x: m.decay.sigmoid().expand(*x.shape[:2], -1),
        lambda: {"decay": nn.Parameter(torch.linspace(-1, 1, WIDTH))},
    ),
    "of a step's length": (
        lambda m, x: (-softplus(m.gate(x)) * m.rate.exp()).exp(),
        lambda: {"rate": nn.Parameter(torch.zeros(WIDTH))},
    ),
    "of a layer for each step": (
        lambda m, x: torch.stack(
            [g(now) for g, now in zip(m.gates, x.unbind(1), strict=True)], 1
        ).sigmoid(),
        lambda: {"gates": nn.ModuleList(nn.Linear(3, WIDTH) for _ in range(STEPS))},
    ),
    "of a weight": (
        lambda m, x: linear(x, m.weight).sigmoid(),
        lambda: {"weight": nn.Parameter(torch.randn(WIDTH, 3))},
    ),
}


def zeros(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def carried(scan: str, gates: str, kind: type[Started] = Started) -> nn.Module:
    made, own = GATES[gates]
    return kind(lambda m, state, x: SCANS[scan](state, made(m, x), m.new(x)), **own())


@pytest.fixture(autouse=True)
def drawn() -> None:
    torch.manual_seed(0)


def judged(model: nn.Module) -> Diagnosis:
    batch = CONTEXT, DATA
    if isinstance(model, Given):
        batch = torch.randn(EXAMPLES, WIDTH).requires_grad_(), DATA
    return probe(model, batch, Y, loss=cross_entropy, select=["GH101"], confirm_steps=0)


def is_no_depth(model: nn.Module) -> bool:
    diagnosis = judged(model)
    return codes(diagnosis) == codes(diagnosis, "warning") == []


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("scan", SCANS)
def test_what_steps_forget_is_no_depth(scan: str, gates: str) -> None:
    assert is_no_depth(carried(scan, gates))


@pytest.mark.parametrize("kind", [Given, Learned])
@pytest.mark.parametrize("gates", ["of a layer", "a constant", "learned"])
@pytest.mark.parametrize("scan", SCANS)
def test_wherever_the_state_comes_from(scan: str, gates: str, kind: type[Started]) -> None:
    assert is_no_depth(carried(scan, gates, kind))


def sequence(m: Any, state: Tensor, data: Tensor) -> Tensor:
    """The state as a token before those of the data."""
    return torch.cat([state[:, None], m.new(data)], 1)


def retained(m: Any, state: Tensor, data: Tensor) -> Tensor:
    tokens = sequence(m, state, data)
    ago = torch.arange(STEPS + 1.0)[:, None] - torch.arange(STEPS + 1.0)
    decay = torch.where(ago < 0, 0.0, 0.5 ** ago.clamp(min=0))
    out: Tensor = ((m.query(tokens) @ m.key(tokens).mT / WIDTH * decay) @ m.value(tokens))[:, -1]
    return out


def sticks(m: Any, state: Tensor, data: Tensor) -> Tensor:
    """Each token takes its share of what later ones have left."""
    tokens = sequence(m, state, data)
    logits = (m.query(tokens[:, -1:]) @ m.key(tokens).mT / math.sqrt(WIDTH))[:, 0]
    left = logsigmoid(-logits)
    shares = (logsigmoid(logits) + left.flip(1).cumsum(1).flip(1) - left).exp()
    out: Tensor = (shares[:, None] @ m.value(tokens))[:, 0]
    return out


def averaged(m: Any, state: Tensor, data: Tensor) -> Tensor:
    kernel = (0.6 ** torch.arange(STEPS, -1, -1.0)).expand(WIDTH, 1, -1)
    return conv1d(sequence(m, state, data).mT, kernel, groups=WIDTH)[..., -1]


def in_frequencies(m: Any, state: Tensor, data: Tensor) -> Tensor:
    kernel = m.decay.sigmoid() ** torch.arange(STEPS + 1.0)[:, None]
    tokens, size = sequence(m, state, data), 2 * (STEPS + 1)
    whole = torch.fft.rfft(tokens, size, dim=1) * torch.fft.rfft(kernel, size, dim=0)
    out: Tensor = torch.fft.irfft(whole, size, dim=1)[:, STEPS]
    return out


def turning(m: Any, state: Tensor, data: Tensor) -> Tensor:
    """A linear recurrence of complex numbers, in closed form."""
    rates = torch.complex(-m.decay.exp(), m.turn).exp()
    powers = rates ** torch.arange(STEPS - 1, -1, -1.0)[:, None]
    out: Tensor = (rates**STEPS * state + (powers * m.new(data)).sum(1)).real
    return out


def fast_weights(m: Any, state: Tensor, data: Tensor) -> Tensor:
    left = 0.6 ** torch.arange(STEPS - 1, -1, -1.0)
    memory = torch.einsum("t,etv,etk->evk", left, m.new(data), m.gate(data))
    memory = memory + 0.6**STEPS * state[:, :, None] * m.key(state)[:, None]
    return torch.einsum("evk,ek->ev", memory, m.query(m.new(data[:, -1])))


def weights(gates: int) -> dict[str, nn.Parameter]:
    shapes = {"ih": (gates * WIDTH, 3), "hh": (gates * WIDTH, WIDTH)}
    biases = {name: nn.Parameter(torch.zeros(gates * WIDTH)) for name in ("bi", "bh")}
    return {n: nn.Parameter(torch.randn(s) / math.sqrt(s[1])) for n, s in shapes.items()} | biases


def fused(m: Any, state: Tensor, data: Tensor) -> Tensor:
    given = [m.ih, m.hh, m.bi, m.bh]
    begun = state[None], state[None]
    return torch.lstm(data, begun, given, True, 1, 0.0, False, False, True)[1][0]


def by_cells(m: Any, state: Tensor, data: Tensor) -> Tensor:
    for now in data.unbind(1):
        state = torch.gru_cell(now, state, m.ih, m.hh, m.bi, m.bh)
    return state


def of_two_gates(m: Any, state: Tensor, data: Tensor) -> Tensor:
    forget, take, new = linear(data, m.ih, m.bi).chunk(3, -1)
    whole = forget.sigmoid() + take.sigmoid()
    return in_logarithms(state, forget.sigmoid() / whole, take.sigmoid() / whole * new)


def of_raw_data(m: Any, state: Tensor, data: Tensor) -> Tensor:
    del m
    for now in pad(data, (0, WIDTH - 3)).unbind(1):
        state = 0.6 * state + now
    return state


def attention() -> dict[str, nn.Module]:
    return {name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")}


def decay(**more: nn.Parameter) -> dict[str, nn.Parameter]:
    return {"decay": nn.Parameter(torch.linspace(-0.6, 0.0, WIDTH)), **more}


CARRIED: dict[str, tuple[Run, Callable[[], Mapping[str, Any]]]] = {
    "retention": (retained, attention),
    "stick breaking": (sticks, attention),
    "a moving average": (averaged, dict),
    "a convolution": (in_frequencies, decay),
    "complex numbers": (turning, lambda: decay(turn=nn.Parameter(torch.linspace(0, 3, WIDTH)))),
    "fast weights": (fast_weights, attention),
    "an LSTM as a function": (fused, lambda: weights(4)),
    "cells as functions": (by_cells, lambda: weights(3)),
    "raw data": (of_raw_data, dict),
    "gates of weights alone": (of_two_gates, lambda: weights(3)),
}


@pytest.mark.parametrize("way", CARRIED)
def test_whatever_it_is_called(way: str) -> None:
    run, own = CARRIED[way]
    assert is_no_depth(Started(run, **own()))


#: What is looked up by tokens in a table that no layer has.
LOOKED_UP: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "embedding": lambda table, tokens: embedding(tokens, table),
    "index": lambda table, tokens: table[tokens],
    "select": lambda table, tokens: table.index_select(0, tokens.flatten()).view(*tokens.shape, -1),
    "one hot": lambda table, tokens: one_hot(tokens, len(table)).to(table) @ table,
}


@pytest.mark.parametrize("way", LOOKED_UP)
@pytest.mark.parametrize("scan", SCANS)
def test_whatever_the_data_are_looked_up_in(scan: str, way: str) -> None:
    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        given = LOOKED_UP[way](m.table, (5 * data[..., 0]).long() % 20)
        return SCANS[scan](state, linear(given, m.forget).sigmoid(), linear(given, m.take))

    shapes = {"table": (20, 6), "forget": (WIDTH, 6), "take": (WIDTH, 6)}
    assert is_no_depth(Started(run, **{n: nn.Parameter(torch.randn(s)) for n, s in shapes.items()}))


def sigmoids(m: Any, state: Tensor) -> Tensor:
    for name in m.names:
        state = torch.sigmoid(linear(state, getattr(m, name)))
    return state


def multiplied(m: Any, state: Tensor) -> Tensor:
    for name in m.names:
        state = torch.sigmoid(state @ getattr(m, name))
    return state


def by_a_constant(m: Any, state: Tensor) -> Tensor:
    del m
    return 1e-9 * state


def before(lost: Lost, scan: Scan) -> Run:
    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        return scan(lost(m, state), m.gate(data).sigmoid(), m.new(data))

    return run


def behind(lost: Lost, scan: Scan) -> Run:
    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        return lost(m, scan(state, m.gate(data).sigmoid(), m.new(data)))

    return run


def beside(lost: Lost, scan: Scan) -> Run:
    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        none = torch.zeros_like(state)
        return lost(m, state) + scan(none, m.gate(data).sigmoid(), m.new(data))

    return run


class Deep(Started):
    """Fourteen weights that no layer has, in the forward of one module."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.names = [f"weight_{number}" for number in range(14)]
        for name in self.names:
            setattr(self, name, nn.Parameter(torch.randn(WIDTH, WIDTH) / math.sqrt(WIDTH)))


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("place", [before, behind, beside])
@pytest.mark.parametrize("lost", [sigmoids, multiplied])
def test_what_weights_without_layers_lose_is(
    lost: Lost, place: Callable[[Lost, Scan], Run], scan: str
) -> None:
    assert codes(judged(Deep(place(lost, SCANS[scan])))) == ["GH101"]


@pytest.mark.parametrize("scan", SCANS)
def test_what_a_constant_shuts_before_steps_is(scan: str) -> None:
    assert codes(judged(Started(before(by_a_constant, SCANS[scan])))) == ["GH101"]


#: What each step leaves of what it gets, and what is left of the state at the first of them.
LEFT: dict[str, tuple[list[float], float, bool]] = {
    "as much each": ([0.1] * 8, 1.0, True),
    "one step more": ([0.1] * 8, 0.02, True),
    "more than a step": ([0.1] * 8, 1e-4, False),
    "one step shuts": ([0.1] * 3 + [1e-4] + [0.1] * 3, 1.0, False),
    "one of many steps shuts": ([0.1] * 20 + [1e-4], 1.0, False),
    "two steps": ([1e-4] * 2, 1.0, False),
    "nothing new but at the end": ([1.0] * 7, 1e-6, False),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("way", LEFT)
def test_it_is_forgotten_step_by_step(way: str, turned: bool) -> None:
    left, first, expected = LEFT[way]
    after = torch.tensor([*left, 1.0]).flip(0).cumprod(0).flip(0)

    def run(m: Any, state: Tensor, data: Tensor) -> Tensor:
        new = m.new(data)[:, : len(after)]
        new = new.flip(1) if turned else new
        out: Tensor = first * after[0] * m.door(state) + (after[:, None] * new).sum(1)
        return out

    model = Started(run, door=nn.Identity(), head=nn.Identity())
    assert names(model, {("door", 0, 0)}) == ({"behind door"} if expected else set())
    on_the_way = {("door", 0, 0), ("new", 0, 0), ("(input)", 0, 1)}
    assert names(model, on_the_way) == set()


def names(model: nn.Module, on_ways: Iterable[tuple[str, int, int]]) -> set[str]:
    """The names of a loop between door and head that is forgetful."""
    subject = Subject(model, (CONTEXT, DATA), None, Tensor.sum, torch.device("cpu"))
    gates = Gates(("door", 0, 0), frozenset([("head", 0, 0)]), frozenset(on_ways))
    with subject.isolated():
        return forgetful([Loop(0, 1, frozenset(), (), gates=gates)], subject, seed=0)
