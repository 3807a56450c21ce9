"""A state that goes from step to step by value alone is a cut one, and no state is none."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import ProbeError
from tests.helpers.architectures import Wired
from tests.helpers.notes import Notes
from tests.helpers.recurrences import positive, relu_rnn, scaled, times

STEPS, DEPENDENCY = 11, 5
CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "detach": lambda state: state.detach(),
    "data": lambda state: state.data,
    "numpy": lambda state: torch.from_numpy(state.detach().numpy().copy()),
    "no_grad": lambda state: torch.no_grad()(torch.clone)(state),
    "a new tensor": lambda state: torch.tensor(state.tolist(), dtype=state.dtype),
}


class Own(nn.Module):
    """A cell that keeps its state to itself, and lets go of it in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4).double()
        self.state: Any = None

    def forward(self, step: Tensor) -> Tensor:
        state = torch.zeros_like(step) if self.state is None else self.state.data
        self.state = state + self.mix(step)
        out: Tensor = self.state
        return out


class Reader(nn.Module):
    """A cell that gets words, and no state at first."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.cell = nn.Embedding(9, 4), nn.GRUCell(4, 4)
        self.double()

    def forward(self, words: Tensor, state: Tensor | None = None) -> Tensor:
        out: Tensor = self.cell(self.words(words), state)
        return out


def looped(cell: nn.Module, step: Callable[[Any, Tensor, Any], Any], **parts: nn.Module) -> Wired:
    """A network that calls cells step by step and reads what they say of each step."""

    def use(m: Any, x: Tensor) -> Tensor:
        state: Any = None
        said = []
        for index in range(x.shape[1]):
            state = step(m, x[:, index], state if state is None else (index, state))
            said.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(said, 1)

    return Wired(use, cell=cell, **parts)


def rnn_cell(gain: float = 0.5) -> Any:
    return scaled(nn.RNNCell(4, 4, nonlinearity="relu", dtype=torch.float64), gain)


def plain(cut: Callable[[Tensor], Tensor], every: int = 1) -> Callable[[Any, Tensor, Any], Any]:
    """How a cell with one state is called, which is cut at every so many steps."""

    def step(m: Any, x: Tensor, known: Any) -> Any:
        index, state = known or (0, torch.zeros(len(x), 4, dtype=x.dtype))
        return m.cell(x, cut(state) if index % every == 0 else state)

    return step


def lstm(m: Any, x: Tensor, known: Any) -> Any:
    state = None if known is None else tuple(part.detach() for part in known[1])
    return m.cell(x, state)


def joined(m: Any, x: Tensor, known: Any) -> Any:
    state = torch.zeros_like(x) if known is None else known[1].detach()
    return m.cell(torch.cat([x, state], 1))


def stacked(*cut: bool) -> Callable[[Any, Tensor, Any], Any]:
    def step(m: Any, x: Tensor, known: Any) -> Any:
        states = (torch.zeros_like(x),) * 2 if known is None else known[1]
        upper, lower = (s.detach() if c else s for s, c in zip(states, cut, strict=True))
        lower = m.cell(x, lower)
        return m.upper(lower, upper), lower

    return step


def fused(m: Any, x: Tensor, known: Any) -> Any:
    state = None if known is None else tuple(part.detach() for part in known[1][1])
    said, state = m.cell(x[:, None], state)
    return said[:, 0], state


def cut_by(name: str) -> nn.Module:
    return looped(rnn_cell(), plain(CUTS[name]))


CUT: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(cut_by, name) for name in CUTS},
    "LSTMCell": lambda: looped(nn.LSTMCell(4, 4).double(), lstm),
    "GRUCell": lambda: looped(nn.GRUCell(4, 4).double(), plain(CUTS["detach"])),
    "Sequential": lambda: looped(nn.Sequential(nn.Linear(8, 4), nn.Tanh()).double(), joined),
    "own state": lambda: looped(Own(), lambda m, x, _: m.cell(x)),
    "words": lambda: looped(
        Reader(), lambda m, x, known: m.cell((9 * x[:, 0]).long() % 9, known and known[1].detach())
    ),
    "nn.LSTM": lambda: looped(nn.LSTM(4, 4, batch_first=True).double(), fused),
    "beside a head": lambda: Wired(
        lambda m, x: m.head(m.body(x)),
        body=looped(rnn_cell(), plain(CUTS["detach"])),
        head=nn.Linear(4, 2).double(),
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_a_state_that_is_cut_at_every_step_reaches_no_step_back(name: str) -> None:
    (record,) = times(CUT[name](), positive(3, STEPS, 4), dependency=DEPENDENCY)
    assert record.name in ("cell", "body.cell", "cell.0")
    assert record.cut == 1
    assert record.norms[0] > 0
    assert record.norms[1:] == (0.0,) * (STEPS - 1 - (name == "words"))


@pytest.mark.parametrize(("every", "reached"), [(2, 2), (4, 4), (5, 5), (7, 7)])
def test_a_state_that_is_cut_now_and_then_is_measured_where_it_goes_farthest(
    every: int, reached: int
) -> None:
    """As in truncated backpropagation; the last stretch may be the shortest one."""
    model = looped(rnn_cell(), plain(CUTS["detach"], every))
    (record,) = times(model, positive(3, STEPS, 4), dependency=DEPENDENCY)
    assert record.cut == reached
    expected = [0.5**d if d < reached else 0.0 for d in range(STEPS)]
    assert [n / record.norms[0] for n in record.norms] == pytest.approx(expected, rel=1e-12)


def test_a_fused_layer_that_gets_its_sequence_in_parts() -> None:
    def use(m: Any, x: Tensor) -> Tensor:
        state, said = None, []
        for part in torch.split(x, 4, 1):
            out, state = m.rnn(part, state)
            state = state.detach()
            said.append(out)
        return torch.cat(said, 1)

    model = Wired(use, rnn=relu_rnn(0.5, batch_first=True))
    (record,) = times(model, positive(3, STEPS, 4), dependency=9)
    assert (record.name, record.cut) == ("rnn", 4)
    expected = [0.5**d if d < 4 else 0.0 for d in range(STEPS)]
    assert [n / record.norms[0] for n in record.norms] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ProbeError, match="dependency=9 is more than rnn can show"):
        times(
            Wired(lambda m, a, b: m.rnn(a)[0] + m.rnn(b)[0], rnn=model.rnn),
            *2 * [positive(3, 6, 4)],
            dependency=9,
        )


def test_a_stack_is_cut_where_all_its_cells_are() -> None:
    """One memory in a stack is enough: a gradient gets to the steps before through that one."""
    for cut, names in (
        ((True, True), {"cell": 1}),
        ((True, False), {"cell": 0}),
        ((False, True), {"upper": 0}),
        ((False, False), {"cell": 0}),
    ):
        model = looped(rnn_cell(), stacked(*cut), upper=rnn_cell())
        found = times(model, positive(3, STEPS, 4), dependency=DEPENDENCY)
        assert {record.name: record.cut for record in found} == names, cut


NOISE = itertools.count()
ALONE: dict[str, Callable[[], nn.Module]] = {
    "a layer": lambda: looped(nn.Linear(4, 4).double(), lambda m, x, _: m.cell(x)),
    "with statistics and noise": lambda: looped(
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).double(),
        lambda m, x, _: m.cell(x),
    ),
    "two layers": lambda: looped(
        nn.Linear(4, 4).double(),
        lambda m, x, _: m.head(m.cell(x)),
        head=nn.Linear(4, 4).double(),
    ),
    "a cell that starts anew": lambda: looped(rnn_cell(), lambda m, x, _: m.cell(x)),
    "never twice the same": lambda: looped(
        nn.Linear(4, 4).double(), lambda m, x, _: m.cell(x + next(NOISE))
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_layer_on_each_step_alone_is_no_recurrence(name: str) -> None:
    with pytest.raises(ProbeError) as caught:
        times(ALONE[name](), positive(3, STEPS, 4), dependency=DEPENDENCY)
    assert str(caught.value) == (
        "dependency=5 was given, but the model has no recurrent layer (nn.RNN, nn.LSTM, nn.GRU) and"
        " calls no module step by step for more than 5 steps"
    )


@pytest.mark.parametrize("cut", [False, True])
def test_the_model_runs_again_only_where_no_step_depends_on_another(cut: bool) -> None:
    calls = Notes[int]()
    model = looped(rnn_cell(), plain(CUTS["detach"], 1 if cut else STEPS + 1))
    model.register_forward_hook(lambda *_: calls.append(0))
    times(model, positive(3, STEPS, 4), dependency=DEPENDENCY)
    assert len(calls) == (5 if cut else 2)
