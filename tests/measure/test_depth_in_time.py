"""What a loop of fed steps forgets is no depth: one network, one verdict, however it is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.baseline.entry import entry_of
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes

WIDTH, STEPS, CLASSES = 12, 36, 5
A, B, CONTEXT = torch.randn(8, STEPS, 3), torch.randn(8, STEPS, 3), torch.randn(8, 5)
Y = torch.randint(CLASSES, (8,))
TOKENS = torch.randint(CLASSES, (8, STEPS))

State = Any


class Late(nn.Module):
    """One activation for all layers, and more data halfway."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.act = sigmoids(12)[::2], nn.Sigmoid()
        self.first, self.more = nn.Linear(5, WIDTH), nn.Linear(3, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        hidden = self.first(context)
        for number, layer in enumerate(self.layers):
            hidden = self.act(layer(hidden)) + (self.more(x[:, 0]) if number == 6 else 0.0)
        out: Tensor = self.head(hidden)
        return out


class Mixing(nn.Module):
    """A cell of two layers of its own, and what comes behind them."""

    def __init__(self, inputs: int, width: int, deep: int = 0) -> None:
        super().__init__()
        self.given, self.kept = nn.Linear(inputs, width), nn.Linear(width, width)
        self.rest = sigmoids(deep)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        h = x.new_zeros(len(x), WIDTH) if h is None else h
        out: Tensor = self.rest(torch.tanh(self.given(x) + self.kept(h)))
        return out


def sigmoids(count: int) -> nn.Sequential:
    pairs = ((nn.Linear(WIDTH, WIDTH), nn.Sigmoid()) for _ in range(count))
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


CELLS: dict[str, Callable[[int, int], nn.Module]] = {
    "LSTMCell": nn.LSTMCell,
    "GRUCell": nn.GRUCell,
    "RNNCell": nn.RNNCell,
    "own": Mixing,
}


def answer(state: State) -> Tensor:
    out: Tensor = state[0] if isinstance(state, tuple) else state
    return out


def run(cells: nn.ModuleList, x: Tensor, states: list[State], *, by_layer: bool) -> Tensor:
    """All steps of a stack of cells, one after the other or layer by layer."""
    if not by_layer:
        for step in x.unbind(1):
            for place, cell in enumerate(cells):
                states[place] = cell(step, states[place])
                step = answer(states[place])
        return step
    for place, cell in enumerate(cells):
        steps = []
        for step in x.unbind(1):
            states[place] = cell(step, states[place])
            steps.append(answer(states[place]))
        x = torch.stack(steps, 1)
    return x[:, -1]


def encoder_decoder(
    cell: Callable[[int, int], nn.Module], *, layers: int = 1, by_layer: bool = False, **parts: Any
) -> nn.Module:
    def forward(model: Any, given: Tensor, asked: Tensor) -> Tensor:
        states = [None] * layers
        run(model.encoder, model.before(given), states, by_layer=by_layer)
        begun = [state if state is None else over(model.between, state) for state in states]
        out: Tensor = model.head(run(model.decoder, asked, begun, by_layer=by_layer))
        return out

    stacks = {
        name: nn.ModuleList(cell(WIDTH if place else 3, WIDTH) for place in range(layers))
        for name in ("encoder", "decoder")
    }
    ends = {"before": nn.Identity(), "between": nn.Identity(), "head": nn.Linear(WIDTH, CLASSES)}
    return Wired(forward, **{**stacks, **ends, **parts})


def over(layer: nn.Module, state: State) -> State:
    return tuple(map(layer, state)) if isinstance(state, tuple) else layer(state)


def started(cell: nn.Module, begin: nn.Module | None = None) -> nn.Module:
    """A layer that makes the first state of a cell."""

    def forward(model: Any, context: Tensor, x: Tensor) -> Tensor:
        first = model.begin(context)
        state = (first, torch.zeros_like(first)) if isinstance(cell, nn.LSTMCell) else first
        for step in x.unbind(1):
            state = model.cell(step, state)
        out: Tensor = model.head(answer(state))
        return out

    begin = begin or nn.Linear(5, WIDTH)
    return Wired(forward, begin=begin, cell=cell, head=nn.Linear(WIDTH, CLASSES))


def fused(kind: Callable[..., nn.Module], first: nn.Module, begin: nn.Module) -> nn.Module:
    """A fused layer that begins with what another one has ended with, or a layer has made."""

    def forward(model: Any, given: Tensor, asked: Tensor) -> Tensor:
        state = model.first(given)
        state = state[1] if isinstance(state, tuple) else state[None]
        state = over(model.begin, state)
        out: Tensor = model.head(model.decoder(asked, state)[0][:, -1])
        return out

    decoder = kind(3, WIDTH, batch_first=True)
    parts = {"first": first, "begin": begin, "decoder": decoder, "head": nn.Linear(WIDTH, CLASSES)}
    return Wired(forward, **parts)


def repeated(step: Callable[[Any, Tensor, Tensor], Tensor], inputs: int = WIDTH) -> nn.Module:
    """One layer, called for each step by the model itself, with whatever it gets beside a state."""

    def forward(model: Any, context: Tensor, x: Tensor) -> Tensor:
        state = model.begin(context)
        for now in x.unbind(1):
            state = step(model, now, state)
        out: Tensor = model.head(state)
        return out

    parts = {"begin": nn.Linear(5, WIDTH), "layer": nn.Linear(inputs, WIDTH)}
    ends = {"given": nn.Linear(3, WIDTH), "head": nn.Linear(WIDTH, CLASSES)}
    return Wired(forward, **parts, **ends, act=nn.Tanh())


def fed_back(teacher: int) -> nn.Module:
    """A decoder that gets its own answers, and every so often the right one."""

    def forward(model: Any, source: Tensor, target: Tensor) -> Tensor:
        state = None
        for token in model.embed(source).unbind(1):
            state = model.encoder(token, state)
        out = torch.zeros(len(source), CLASSES)
        for number, right in enumerate(target.unbind(1)):
            token = right if number % teacher == 0 else out.argmax(1)
            state = model.decoder(model.embed(token), state)
            out = model.head(state)
        return out

    cells = {"encoder": nn.GRUCell(3, WIDTH), "decoder": nn.GRUCell(3, WIDTH)}
    embed, head = nn.Embedding(CLASSES, 3), nn.Linear(WIDTH, CLASSES)
    return Wired(forward, **cells, embed=embed, head=head)


def leaky(model: Any, now: Tensor, state: Tensor, kept: float = 0.1) -> Tensor:
    new = torch.tanh(model.layer(torch.cat([now, state], 1)))
    return kept * state + (1 - kept) * new


def judged(model: nn.Module, one: Tensor = A, other: Tensor = B, **settings: Any) -> Diagnosis:
    return probe(model, (one, other), Y, loss=cross_entropy, **settings)


def ends(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [(p.first.name, p.last.name) for p in diagnosis.profile.judged_paths]


@pytest.mark.parametrize("cell", CELLS)
def test_a_decoder_that_forgets_is_no_depth_behind_its_encoder(cell: str) -> None:
    diagnosis = judged(encoder_decoder(CELLS[cell]))
    assert diagnosis.verdict == "healthy", diagnosis
    assert ends(diagnosis)[0][1].startswith("decoder"), "where the encoder's path ends"
    assert ends(diagnosis)[1][0].startswith("decoder"), "where the decoder's begins"


@pytest.mark.parametrize("by_layer", [False, True], ids=["by step", "by layer"])
@pytest.mark.parametrize("cell", ["LSTMCell", "RNNCell"])
def test_nor_is_one_of_several_layers_in_whatever_order(cell: str, by_layer: bool) -> None:
    diagnosis = judged(encoder_decoder(CELLS[cell], layers=2, by_layer=by_layer))
    assert diagnosis.verdict == "healthy", diagnosis


@pytest.mark.parametrize("cell", ["LSTMCell", "own"])
def test_nor_is_what_a_layer_that_makes_the_first_state_is_far_from(cell: str) -> None:
    diagnosis = judged(started(CELLS[cell](3, WIDTH)), CONTEXT)
    assert diagnosis.verdict == "healthy", diagnosis


FUSED: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: fused(nn.GRU, nn.Linear(5, WIDTH), nn.Identity()),
    "GRU": lambda: fused(nn.GRU, nn.GRU(3, WIDTH, batch_first=True), nn.Identity()),
    "LSTM": lambda: fused(nn.LSTM, nn.LSTM(3, WIDTH, batch_first=True), nn.Identity()),
}


@pytest.mark.parametrize("first", FUSED)
def test_nor_is_it_inside_a_fused_layer(first: str) -> None:
    diagnosis = judged(FUSED[first](), CONTEXT if first == "layer" else A)
    assert diagnosis.verdict == "healthy", diagnosis


WRITTEN_OUT: dict[str, Callable[[], nn.Module]] = {
    "cat": lambda: repeated(
        lambda m, now, state: torch.tanh(m.layer(torch.cat([now, state], 1))), WIDTH + 3
    ),
    "sum": lambda: repeated(lambda m, now, state: torch.tanh(m.given(now) + m.layer(state))),
    "leaky": lambda: repeated(leaky, WIDTH + 3),
    "module": lambda: repeated(lambda m, now, state: m.act(m.given(now) + m.layer(state))),
    "scaled": lambda: repeated(lambda m, now, state: torch.tanh(m.layer(state)) * m.given(now)),
}


@pytest.mark.parametrize("way", WRITTEN_OUT)
def test_nor_is_it_in_a_loop_without_a_cell(way: str) -> None:
    diagnosis = judged(WRITTEN_OUT[way](), CONTEXT)
    assert diagnosis.verdict == "healthy", diagnosis


def test_nor_where_the_layers_of_a_step_change_a_state_that_decays() -> None:
    model = repeated(
        lambda m, now, h: 0.5 * h + 0.2 * m.again(m.act(m.layer(torch.cat([now, h], 1)))), WIDTH + 3
    )
    model.again = nn.Linear(WIDTH, WIDTH)
    diagnosis = judged(model, CONTEXT, torch.randn(8, 40, 3), confirm_steps=0)
    assert diagnosis.verdict == "healthy", diagnosis


def test_nor_where_a_step_calls_its_layers_again_on_what_the_state_was() -> None:
    def step(m: Any, now: Tensor, state: Tensor) -> Tensor:
        slope = change(m, now, state)
        for share in (0.5, 0.5, 1.0):
            slope = change(m, now, state + share * slope)
        return 0.4 * state + slope

    def change(m: Any, now: Tensor, state: Tensor) -> Tensor:
        out: Tensor = 0.2 * m.again(m.act(m.layer(torch.cat([now, state], 1))))
        return out

    model = repeated(step, WIDTH + 3)
    model.again = nn.Linear(WIDTH, WIDTH)
    assert judged(model, CONTEXT, confirm_steps=0).verdict == "healthy"
    begun = torch.cat([B[:, :1], torch.zeros_like(B[:, 1:])], 1)
    assert "GH101" in codes(judged(model, CONTEXT, begun, confirm_steps=0)), "no data after that"


def test_a_state_that_gets_past_the_layers_of_a_step_does_not_explode() -> None:
    model = repeated(lambda m, now, state: leaky(m, now, 0.7 * state, 0.998), WIDTH + 3)
    diagnosis = judged(model, CONTEXT)
    assert diagnosis.verdict == "healthy", diagnosis


def test_answers_that_are_fed_back_are_no_data_but_a_teachers_are() -> None:
    assert judged(fed_back(teacher=3), TOKENS, TOKENS.flip(1)).verdict == "healthy"
    alone = judged(fed_back(teacher=STEPS), TOKENS, TOKENS.flip(1), confirm_steps=0)
    assert "GH101" in codes(alone)


def test_where_nothing_is_left_behind_a_loop_only_the_loop_is_judged() -> None:
    diagnosis = judged(started(nn.RNNCell(3, WIDTH)), CONTEXT, torch.randn(8, 150, 3))
    assert "GH101" not in [finding.code for finding in diagnosis.findings]
    assert ends(diagnosis) == [("cell", "head")]


SICK: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "before": (
        lambda: encoder_decoder(
            nn.GRUCell,
            before=nn.Sequential(nn.Linear(3, WIDTH), sigmoids(10), nn.Linear(WIDTH, 3)),
        ),
        A,
    ),
    "between": (lambda: encoder_decoder(nn.LSTMCell, between=sigmoids(10)), A),
    "behind": (
        lambda: encoder_decoder(
            nn.GRUCell, head=nn.Sequential(sigmoids(10), nn.Linear(WIDTH, CLASSES))
        ),
        A,
    ),
    "in a step": (lambda: encoder_decoder(lambda i, w: Mixing(i, w, 10)), A),
    "in a fed step": (lambda: started(Mixing(3, WIDTH, 10)), CONTEXT),
    "in a stack": (lambda: encoder_decoder(nn.LSTMCell, layers=12), A),
    "first state": (
        lambda: started(nn.RNNCell(3, WIDTH), nn.Sequential(nn.Linear(5, WIDTH), sigmoids(10))),
        CONTEXT,
    ),
    "with one activation": (Late, CONTEXT),
    "between fused": (
        lambda: fused(nn.LSTM, nn.LSTM(3, WIDTH, batch_first=True), sigmoids(10)),
        A,
    ),
}


@pytest.mark.parametrize("where", SICK)
def test_depth_around_a_loop_and_within_a_step_fails(where: str) -> None:
    model, given = SICK[where]
    again = {} if where in ("between", "behind") else {"confirm_steps": 0}
    given = given if given is CONTEXT else given[:, :6]
    diagnosis = judged(model(), given, B[:, :6], **again)
    assert "GH101" in codes(diagnosis), diagnosis


DEEP: dict[str, Callable[[], nn.Module]] = {
    "alone": lambda: repeated(lambda m, _, state: torch.sigmoid(m.layer(state))),
    "gated": lambda: repeated(lambda m, x, h: leaky(m, torch.zeros_like(x), h), WIDTH + 3),
    "time": lambda: repeated(lambda m, x, h: leaky(m, torch.ones_like(x), h), WIDTH + 3),
}


@pytest.mark.parametrize("step", DEEP)
def test_a_layer_that_is_repeated_without_data_of_its_own_is_depth(step: str) -> None:
    diagnosis = judged(DEEP[step](), CONTEXT)
    assert "GH101" in codes(diagnosis), diagnosis
    assert ends(diagnosis) == [("begin", "head")]


def test_what_two_heads_read_of_a_loop_goes_up_to_both() -> None:
    class Heads(nn.ModuleList):
        def forward(self, hidden: Tensor) -> list[Tensor]:
            return [head(hidden) for head in self]

    def both(outputs: list[Tensor], targets: Tensor) -> Tensor:
        return torch.stack([cross_entropy(output, targets) for output in outputs]).sum()

    heads = Heads(nn.Linear(WIDTH, CLASSES) for _ in range(2))
    model = encoder_decoder(nn.GRUCell, head=heads)
    diagnosis = probe(model, (A, B), Y, loss=both)
    assert diagnosis.verdict == "healthy", diagnosis
    assert ends(diagnosis) == [("encoder.0", "decoder.0"), ("decoder.0", "(outputs)")]


def test_a_message_says_that_all_calls_count() -> None:
    told = str(judged(encoder_decoder(nn.GRUCell))).splitlines()[0]
    assert told.startswith("Wired is healthy: x0.")
    assert told.endswith("coder.0 (GRUCell), all calls together")
    (found, *_) = judged(started(Mixing(3, WIDTH, 10)), CONTEXT, confirm_steps=0).findings
    assert " of it reaches cell.kept (Linear), all calls together, likewise " in found.message


def test_a_source_that_is_fed_in_at_each_step_is_none() -> None:
    def step(model: Any, now: Tensor, state: Tensor) -> Tensor:
        return torch.tanh(model.layer(state) + model.given(now))

    same = B[:, :1].expand(-1, STEPS, -1)
    assert judged(repeated(step), CONTEXT, same).verdict == "healthy"


def test_a_block_with_a_skip_that_is_repeated_is_healthy_as_it_is() -> None:
    model = repeated(lambda m, _, state: state + 0.1 * torch.tanh(m.layer(state)))
    diagnosis = judged(model, CONTEXT)
    assert diagnosis.verdict == "healthy"
    assert ends(diagnosis) == [("begin", "head")]


def test_growth_through_a_loop_is_counted_to_its_end() -> None:
    def step(cell: Any, now: Tensor, state: Tensor | None) -> Tensor:
        return now if state is None else 1.6 * state @ cell.turn.weight + now

    def turning(inputs: int, width: int) -> nn.Module:
        cell = Wired(step, turn=nn.Linear(inputs, inputs, bias=False))
        nn.init.orthogonal_(cell.turn.weight)
        return cell

    model = encoder_decoder(turning, before=nn.Linear(3, 3), head=nn.Linear(3, CLASSES))
    diagnosis = judged(model, A[:, :12], B[:, :12])
    assert "GH201" in codes(diagnosis), diagnosis


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_stack_reads_the_same_by_step_by_layer_and_by_sequence(kind: str) -> None:
    def forward(model: Any, x: Tensor, by_layer: Tensor) -> Tensor:
        out = run(model.cells, x, [None] * 6, by_layer=bool(by_layer.any()))
        return model.head(out)  # type: ignore[no-any-return]

    def in_sequence(model: Any, x: Tensor, _: Tensor) -> Tensor:
        for layer in model.layers:
            x = layer(x)[0]
        return model.head(x[:, -1])  # type: ignore[no-any-return]

    layers = [getattr(nn, kind)(WIDTH if i else 3, WIDTH, batch_first=True) for i in range(6)]
    cells = [getattr(nn, f"{kind}Cell")(WIDTH if i else 3, WIDTH) for i in range(6)]
    for layer, cell in zip(layers, cells, strict=True):
        cell.load_state_dict({n.removesuffix("_l0"): p for n, p in layer.state_dict().items()})
    head = nn.Linear(WIDTH, CLASSES)
    stack = Wired(forward, cells=nn.ModuleList(cells), head=head)
    whole = Wired(in_sequence, layers=nn.ModuleList(layers), head=head)
    x = A[:, :20]
    ways = ((stack, torch.zeros(1)), (stack, torch.ones(1)), (whole, B))
    found = [judged(model, x, other, confirm_steps=0) for model, other in ways]
    reached = [d.profiles[0].judged_paths[0].vanishing for d in found]
    # What a GRU keeps of its state, half of it at first, counts with what a cell returns.
    assert max(reached) - min(reached) < 0.35
    assert len({diagnosis.verdict for diagnosis in found}) == 1


class Particular(nn.Module):
    """Starts a cell with what a layer makes, and takes no batch but one."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.start, self.cell = nn.Linear(5, WIDTH), nn.GRUCell(3, WIDTH)
        self.head, self.known = nn.Linear(WIDTH, CLASSES), known.clone()

    def forward(self, context: Tensor, steps: Tensor) -> Tensor:
        if not torch.equal(self.known, context):
            raise ValueError("not these")
        state = torch.tanh(self.start(context))
        for step in range(steps.shape[1]):
            state = self.cell(steps[:, step], state)
        return torch.as_tensor(self.head(state))


def test_a_cell_that_has_run_before_begins_again_with_a_state() -> None:
    def forward(model: Any, context: Tensor, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), WIDTH)
        for step in x.unbind(1):
            state = model.cell(step, state)
        before, state = state, model.begin(context)
        for step in x.flip(1).unbind(1):
            state = model.cell(step, state)
        out: Tensor = model.head(state + before)
        return out

    ends = {"begin": nn.Linear(5, WIDTH), "head": nn.Linear(WIDTH, CLASSES)}
    model = Wired(forward, cell=nn.RNNCell(3, WIDTH), **ends)
    found = probe(model, (CONTEXT, A), Y, loss=cross_entropy, select=["GH101"], confirm_steps=0)
    assert codes(found) == codes(found, "warning") == []


def test_where_no_other_batch_is_taken_what_a_loop_loses_is_memory() -> None:
    assert judged(Particular(CONTEXT), CONTEXT, A).verdict == "healthy"


def test_a_baseline_keeps_whole_paths_whether_or_not_they_were_cut() -> None:
    model = started(nn.GRUCell(3, WIDTH))
    cut = judged(model, CONTEXT)
    whole = judged(model, CONTEXT, min_ratio=1e-30, warn_min_ratio=1e-30)
    assert len(cut.profile.paths) > len(whole.profile.paths)
    assert entry_of(cut, {}).paths == entry_of(whole, {}).paths
    (kept, *_) = entry_of(cut, {}).paths
    (path, *_) = whole.profile.paths
    assert [p.norm for p in kept.points] == pytest.approx(
        [math.log10(p.norm) for p in path.points], abs=0.01
    )
    assert kept.ratio == pytest.approx(path.arrival, abs=0.01)
