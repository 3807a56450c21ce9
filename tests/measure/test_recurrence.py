"""How much of the gradient gets how many steps back, against recurrences whose share is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

from pytest_gradhealth import ProbeError, TimeRecord, probe
from tests.helpers.architectures import Wired
from tests.helpers.recurrences import classifier, positive, relu_rnn, scaled, sequences, times

cross_entropy = F.cross_entropy


@pytest.mark.parametrize("first", [True, False], ids=["batch first", "time first"])
@pytest.mark.parametrize("gain", [0.5, 0.9, 1.0, 1.1])
def test_a_linear_recurrence_passes_on_its_spectral_radius_at_each_step(
    gain: float, first: bool
) -> None:
    """dL/dx_t is proportional to gain ** (T - t) where the recurrent weight is gain * I."""
    model = Wired(
        lambda m, x: m.rnn(x)[0][:, -1] if first else m.rnn(x)[0][-1],
        rnn=relu_rnn(gain, batch_first=first),
    )
    (record,) = times(model, positive(3, 20, 4) if first else positive(20, 3, 4), dependency=19)
    assert (record.name, record.type, record.reverse) == ("rnn", "RNN", False)
    ratios = [norm / record.norms[0] for norm in record.norms]
    assert ratios == pytest.approx([gain**d for d in range(20)], rel=1e-12)
    assert record.reach == pytest.approx(min(19 * math.log10(gain), 0.0), abs=1e-12)


def test_an_example_without_a_batch() -> None:
    model = Wired(lambda m, x: m.rnn(x)[0][-1], rnn=relu_rnn(0.5, batch_first=True))
    (record,) = times(model, positive(10, 4))
    assert [n / record.norms[0] for n in record.norms] == pytest.approx(
        [0.5**d for d in range(10)], rel=1e-12
    )


def test_each_direction_is_measured_for_itself() -> None:
    model = Wired(
        lambda m, x: m.rnn(x)[0].mean(1),
        rnn=relu_rnn(0.5, 0.9, bidirectional=True, batch_first=True),
    )
    records = times(model, positive(3, 12, 4))
    assert [(r.name, r.reverse) for r in records] == [("rnn", False), ("rnn", True)]
    for record, gain in zip(records, (0.5, 0.9), strict=True):
        ratios = [norm / record.norms[0] for norm in record.norms]
        assert ratios == pytest.approx([gain**d for d in range(12)], rel=1e-12)


def test_packed_sequences_are_aligned_at_their_ends() -> None:
    lengths = [12, 7, 3]
    model = Wired(
        lambda m, x: m.rnn(x)[1].mean(0),
        rnn=relu_rnn(0.5, 0.9, bidirectional=True, batch_first=True),
    )
    packed = pack_padded_sequence(positive(3, 12, 4), lengths, batch_first=True)
    for record, gain in zip(times(model, packed), (0.5, 0.9), strict=True):
        assert len(record.norms) == 12
        alone = []
        for distance in range(12):
            assert record.norms[distance] > 0
            alone.append(record.norms[distance] / gain**distance)
        # The cotangents of the three sequences differ, so that the level steps where one ends.
        for start, stop in ((0, 3), (3, 7), (7, 12)):
            assert alone[start:stop] == pytest.approx([alone[start]] * (stop - start), rel=1e-12)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_fused_layer_is_what_its_steps_make(kind: Any) -> None:
    """The oracle: one step at a time, with the state carried on and kept."""
    torch.manual_seed(0)
    layer = kind(5, 8, batch_first=True).double()
    model = Wired(lambda m, x: m.rnn(x)[0][:, -1], rnn=layer)
    x = torch.randn(1, 9, 5, dtype=torch.float64)
    (record,) = times(model, x)
    steps = [x[:, t : t + 1].clone().requires_grad_() for t in range(9)]
    state = None
    for step in steps:
        out, state = layer(step, state)
    generator = torch.Generator().manual_seed(20100513)
    start = torch.randn(1, 9, 8, generator=generator, dtype=torch.float64)[:, -1:]
    gradients = torch.autograd.grad(out, steps, start)
    expected = [g.norm().item() for g in reversed(gradients)]
    assert record.norms == pytest.approx(expected, rel=1e-9)


CELLS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any]]] = {
    "RNNCell": (
        lambda: scaled(nn.RNNCell(4, 4, nonlinearity="relu", dtype=torch.float64), 0.5),
        lambda m, x, h: m.cell(x, h),
    ),
    "hand-written": (
        lambda: Wired(
            lambda m, x, h: F.relu(m.inner(h) + x), inner=nn.Linear(4, 4, bias=False).double()
        ),
        lambda m, x, h: m.cell(x, h),
    ),
    "loose layer": (
        lambda: nn.Linear(4, 4, bias=False).double(),
        lambda m, x, h: F.relu(m.cell(h) + x),
    ),
    "fused layer of one step": (
        lambda: relu_rnn(0.5, batch_first=True),
        lambda m, x, h: m.cell(x[:, None], h[None])[0][:, 0],
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_that_are_called_step_by_step(name: str) -> None:
    build, step = CELLS[name]
    cell = build()
    for weight in cell.parameters():
        if name in ("hand-written", "loose layer"):
            weight.data.copy_(0.5 * torch.eye(4))

    def use(m: Any, x: Tensor) -> Tensor:
        h = x.new_ones(len(x), 4)
        for t in range(x.shape[1]):
            h = step(m, x[:, t], h)
        return m.head(h)  # type: ignore[no-any-return]

    model = Wired(use, cell=cell, head=nn.Linear(4, 2).double())
    (record,) = times(model, positive(3, 10, 4), dependency=8)
    assert record.name == "cell"
    assert [n / record.norms[0] for n in record.norms] == pytest.approx(
        [0.5**d for d in range(10)], rel=1e-12
    )


def test_a_stack_is_measured_where_the_sequence_enters() -> None:
    """A long memory on top of a short one is enough, and the other way round."""
    for first, second in ((0.1, 1.0), (1.0, 0.1)):
        model = Wired(
            lambda m, x: m.upper(m.lower(x)[0])[0][:, -1],
            lower=relu_rnn(first, batch_first=True),
            upper=relu_rnn(second, batch_first=True),
        )
        (record,) = times(model, positive(3, 15, 4), dependency=14)
        assert record.name == "lower"
        expected = [sum(first**k * second ** (d - k) for k in range(d + 1)) for d in range(15)]
        assert [n / record.norms[0] for n in record.norms] == pytest.approx(expected, rel=1e-9)


def test_two_towers_are_two_records() -> None:
    model = Wired(
        lambda m, a, b: m.left(a)[0][:, -1] * m.right(b)[0][:, -1],
        left=relu_rnn(0.5, batch_first=True),
        right=relu_rnn(0.9, batch_first=True),
    )
    records = {r.name: r for r in times(model, positive(3, 10, 4), positive(3, 8, 4))}
    assert records["left"].norms[9] / records["left"].norms[0] == pytest.approx(0.5**9)
    assert records["right"].norms[7] / records["right"].norms[0] == pytest.approx(0.9**7)


def test_two_towers_that_join_are_both_entries() -> None:
    model = Wired(
        lambda m, a, b: m.top(m.left(a)[0] + m.right(b)[0])[0][:, -1],
        left=relu_rnn(0.5, batch_first=True),
        right=relu_rnn(0.9, batch_first=True),
        top=relu_rnn(0.0, batch_first=True),
    )
    records = {r.name: r for r in times(model, positive(3, 10, 4), positive(3, 10, 4))}
    assert records["left"].norms[9] / records["left"].norms[0] == pytest.approx(0.5**9)
    assert records["right"].norms[9] / records["right"].norms[0] == pytest.approx(0.9**9)


def test_an_encoder_is_reached_through_its_decoder() -> None:
    model = Wired(
        lambda m, a, b: m.decoder(b, m.encoder(a)[1])[0].mean(1),
        encoder=relu_rnn(0.5, batch_first=True),
        decoder=relu_rnn(0.9, batch_first=True),
    )
    (record,) = times(model, positive(3, 10, 4), positive(3, 6, 4), dependency=9)
    assert record.name == "encoder"
    assert record.norms[9] / record.norms[0] == pytest.approx(0.5**9)


def test_words_are_measured_at_their_embedding() -> None:
    model = Wired(
        lambda m, x: m.rnn(m.words(x))[0][:, -1],
        words=nn.Embedding(11, 4, _weight=positive(11, 4)),
        rnn=relu_rnn(0.5, batch_first=True),
    )
    (record,) = times(model, torch.randint(0, 11, (3, 10)))
    assert record.norms[9] / record.norms[0] == pytest.approx(0.5**9)


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "too long": (
        lambda: classifier(nn.LSTM(8, 8, batch_first=True)),
        28,
        "dependency=28 is more than rnn can show: it gets sequences of 28 steps, so that at most 27"
        " lie between first and last",
    ),
    "no steps": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(224, 5)),
        3,
        "dependency=3 was given, but the model has no recurrent layer (nn.RNN, nn.LSTM, nn.GRU) and"
        " calls no module step by step for more than 3 steps",
    ),
    "no number": (
        lambda: classifier(nn.LSTM(8, 8, batch_first=True)),
        "all",
        "dependency is 'all'; pass how many steps back in time the gradient has to reach, for"
        " example dependency=27 for the first of 28 steps",
    ),
    "zero": (
        lambda: classifier(nn.LSTM(8, 8, batch_first=True)),
        0,
        "dependency is 0; pass how many steps back in time the gradient has to reach, for example"
        " dependency=27 for the first of 28 steps",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_said(name: str) -> None:
    build, dependency, message = REFUSED[name]
    x, y = sequences()
    with pytest.raises(ProbeError) as caught:
        probe(build(), x, y, loss=cross_entropy, dependency=dependency)
    assert str(caught.value) == message


def test_the_horizon_is_the_last_step_within_the_limit() -> None:
    record = TimeRecord("rnn", "RNN", (1.0, 1e-1, 1e-2, 1e-3), dependency=2)
    assert record.reach == pytest.approx(-2)
    assert [record.horizon(limit) for limit in (-0.5, -1.5, -2.5, -9)] == [0, 1, 2, 3]


def test_a_layer_that_is_called_on_every_step_is_no_recurrence() -> None:
    def use(m: Any, x: Tensor) -> Tensor:
        h, said_ = x.new_ones(len(x), 4), []
        for t in range(x.shape[1]):
            h = m.cell(m.embed(x[:, t]), h)
            said_.append(m.head(h))
        return torch.stack(said_, 1)

    cell = scaled(nn.RNNCell(4, 4, nonlinearity="relu", dtype=torch.float64), 0.5)
    parts = {"embed": nn.Linear(4, 4).double(), "head": nn.Linear(4, 2).double()}
    model = Wired(use, cell=cell, **parts)
    assert [r.name for r in times(model, positive(3, 10, 4), dependency=8)] == ["cell"]
    with pytest.raises(ProbeError, match="has no recurrent layer"):
        times(
            Wired(lambda m, x: torch.stack([m.head(x[:, t]) for t in range(10)]), **parts),
            positive(3, 10, 4),
            dependency=8,
        )


class Checkpointed(nn.Module):
    """A tanh RNN whose steps are run again in the backward, as a whole or one by one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.inner = nn.Linear(16, 16)
        self.cell = nn.RNNCell(16, 64) if kind == "cells" else nn.RNN(16, 64, batch_first=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        h: Any = self.inner(x)
        if self.kind == "cells":
            state = torch.zeros(len(x), 64)
            for step in h.unbind(1):
                state = checkpoint(self.cell, step, state, use_reentrant=False)
        elif self.kind == "no_grad":
            with torch.no_grad():
                state = self.cell(h)[0][:, -1]
        elif self.kind == "plain":
            state = self.cell(h)[0][:, -1]
        else:
            state = checkpoint(self.cell, h, use_reentrant=self.kind == "re-entrant")[0][:, -1]
        out: Tensor = self.head(state)
        return out


@pytest.mark.parametrize("kind", ["plain", "not re-entrant", "cells"])
def test_steps_in_a_checkpoint_are_measured(kind: str) -> None:
    x, y = torch.randn(8, 30, 16), torch.arange(8) % 4
    diagnosis = probe(Checkpointed(kind), x, y, loss=cross_entropy, dependency=27)
    assert "GH102" in {f.code for f in diagnosis.findings if f.severity == "failure"}
    plain = probe(Checkpointed("plain"), x, y, loss=cross_entropy, dependency=27)
    if kind == "not re-entrant":
        assert diagnosis.profile.times == plain.profile.times


@pytest.mark.parametrize("kind", ["re-entrant", "no_grad"])
def test_steps_without_a_graph_are_refused(kind: str) -> None:
    x, y = torch.randn(8, 30, 16), torch.arange(8) % 4
    with pytest.raises(ProbeError) as caught:
        probe(Checkpointed(kind), x, y, loss=cross_entropy, dependency=27)
    assert str(caught.value) == (
        "cell runs without a graph (under no_grad, or in a re-entrant checkpoint), so that nothing"
        " can be followed through time; pass use_reentrant=False to the checkpoint, or probe the"
        " layer without it"
    )
