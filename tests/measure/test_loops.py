"""A cell called in a loop: one network, one verdict, whatever becomes of what each step returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import Diagnosis, probe
from tests.helpers.findings import codes

WIDTH, STEPS = 12, 48


class Mixing(nn.Module):
    """A cell of two layers of its own, added up outside of any."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.kept = nn.Linear(3, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.given(x) + self.kept(h))


class Joined(nn.Module):
    """A cell that is a small network of the step and the state, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3 + WIDTH, 24), nn.Tanh(), nn.Linear(24, WIDTH), nn.Tanh()
        )

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([x, h], 1))
        return out


class Convolved(nn.Module):
    """A convolutional LSTM over a line of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv1d(2, 4, 3, padding=1)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        state, memory = h.unsqueeze(1).chunk(2, 2)
        pixels = torch.cat([x.mean(1, keepdim=True).expand_as(state[:, 0])[:, None], state], 1)
        i, f, o, g = self.gates(pixels).chunk(4, 1)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        return torch.cat([o.sigmoid() * memory.tanh(), memory], 2).squeeze(1)


class Neighbours(nn.Module):
    """A graph-recurrent cell: states of four nodes, mixed with those of their neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)
        self.cell = nn.GRUCell(3 + 3, 3)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        nodes = h.view(-1, 4, 3)
        mixed = self.mix(nodes.transpose(1, 2)).transpose(1, 2)
        given = torch.cat([mixed, x[:, None].expand(-1, 4, -1)], 2)
        out: Tensor = self.cell(given.reshape(-1, 6), nodes.reshape(-1, 3))
        return out.reshape(len(x), WIDTH)


class Remembering(nn.LSTMCell):
    """nn.LSTMCell, whose state of two goes through the loop as one tensor."""

    def __init__(self) -> None:
        super().__init__(3, WIDTH // 2)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:  # type: ignore[override]
        return torch.cat(super().forward(x, (h[:, : WIDTH // 2], h[:, WIDTH // 2 :])), 1)


def into_a_buffer(states: list[Tensor]) -> Tensor:
    buffer = torch.zeros(len(states[0]), len(states), WIDTH)
    for step, state in enumerate(states):
        buffer[:, step] = state
    return buffer[:, -1]


def gathered(states: list[Tensor]) -> Tensor:
    last = torch.full((len(states[0]), 1, WIDTH), len(states) - 1)
    return torch.stack(states, 1).gather(1, last)[:, 0]


WAYS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "last": lambda states: states[-1],
    "stack": lambda states: torch.stack(states, 1)[:, -1],
    "cat": lambda states: torch.cat(states)[-len(states[0]) :],
    "index": lambda states: torch.stack(states).index_select(0, torch.tensor([47]))[0],
    "gather": gathered,
    "buffer": into_a_buffer,
    "mean": lambda states: torch.stack(states, 1).mean(1),
}
CELLS: dict[str, Callable[[], nn.Module]] = {
    "LSTMCell": Remembering,
    "GRUCell": lambda: nn.GRUCell(3, WIDTH),
    "RNNCell": lambda: nn.RNNCell(3, WIDTH),
    "own": Mixing,
    "Sequential": Joined,
    "ConvLSTM": Convolved,
    "graph": Neighbours,
}


class Loop(nn.Module):
    def __init__(
        self, cell: nn.Module, collect: Callable[[list[Tensor]], Tensor], each: nn.Module | None
    ) -> None:
        super().__init__()
        self.cell, self.head, self.each, self.collect = cell, nn.Linear(WIDTH, 5), each, collect

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), WIDTH)
        states = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            states.append(state if self.each is None else self.each(state))
        out: Tensor = self.head(self.collect(states))
        return out


def probed(cell: nn.Module, way: str, each: nn.Module | None = None, **options: Any) -> Diagnosis:
    x, y = torch.randn(8, STEPS, 3), torch.randint(5, (8,))
    model = Loop(cell, WAYS[way], each)
    return probe(model, x, y, loss=nn.functional.cross_entropy, **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", CELLS)
def test_what_a_loop_does_with_its_answers_changes_no_verdict(cell: str, way: str) -> None:
    diagnosis = probed(CELLS[cell](), way)
    assert diagnosis.verdict == "healthy", diagnosis


@pytest.mark.parametrize("each", [nn.Identity, lambda: nn.Linear(WIDTH, WIDTH)])
@pytest.mark.parametrize("cell", ["own", "Sequential"])
def test_a_layer_at_each_step_changes_none_either(cell: str, each: Callable[[], nn.Module]) -> None:
    for way in ("stack", "mean"):
        diagnosis = probed(CELLS[cell](), way, each())
        assert diagnosis.verdict == "healthy", diagnosis


@pytest.mark.parametrize("way", ["last", "stack", "mean"])
def test_depth_within_one_step_is_still_depth(way: str) -> None:
    deep = [layer for _ in range(6) for layer in (nn.Linear(WIDTH, WIDTH), nn.Sigmoid())]

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Linear(3, WIDTH), nn.Sequential(*deep)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            out: Tensor = self.rest(self.first(x) + h)
            return out

    assert "GH101" in codes(probed(Deep(), way))


@pytest.mark.parametrize("way", ["last", "stack", "cat"])
@pytest.mark.parametrize("cut", [12, 24, 47])
def test_a_state_that_is_cut_now_and_then_is_along_one_step(way: str, cut: int) -> None:
    class Truncated(Loop):
        def forward(self, x: Tensor) -> Tensor:
            state, states = x.new_zeros(len(x), WIDTH), []
            for number, step in enumerate(x.unbind(1)):
                state = self.cell(step, state.detach() if number % cut == 0 else state)
                states.append(state)
            out: Tensor = self.head(self.collect(states))
            return out

    x, y = torch.randn(8, STEPS, 3), torch.randint(5, (8,))
    model = Truncated(nn.GRUCell(3, WIDTH), WAYS[way], None)
    diagnosis = probe(model, x, y, loss=nn.functional.cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis


def test_how_far_back_is_asked_for_by_a_dependency() -> None:
    found = probed(nn.RNNCell(3, WIDTH), "stack", dependency=STEPS - 1).findings
    assert [f.code for f in found if f.severity == "failure"] == ["GH102"]
