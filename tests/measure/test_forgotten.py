"""What long loops forget gets next to no gradient, which no rule takes for a fault of the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import Diagnosis, probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes, of, told

WIDTH, CLASSES = 12, 5
CONTEXT, Y = torch.randn(8, 5), torch.arange(8) % CLASSES


def series(steps: int) -> Tensor:
    return torch.randn(8, steps, 3, generator=torch.Generator().manual_seed(steps))


def forgetful(cell: Any) -> Any:
    """A cell, or what does its work, of whose state a hundredth or so gets through a step."""
    gates = {"GRU": slice(WIDTH, 2 * WIDTH), "LSTM": slice(WIDTH, 2 * WIDTH)}
    closed = gates.get(type(cell).__name__.removesuffix("Cell"), slice(0))
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter *= 1e-2 if name in ("weight", "weight_hh", "weight_hh_l0") else 1
            if name.startswith("bias_ih"):
                parameter[closed] -= 4
    return cell


def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.Tanh())


def of_cell(model: Any, state: Tensor, x: Tensor) -> Tensor:
    for step in x.unbind(1):
        state = model.cell(step, state)
    return state


def of_two_states(model: Any, state: Tensor, x: Tensor) -> Tensor:
    states = state, torch.zeros_like(state)
    for step in x.unbind(1):
        states = model.cell(step, states)
    return states[0]


def of_two_layers(model: Any, state: Tensor, x: Tensor) -> Tensor:
    for step in x.unbind(1):
        state = torch.tanh(model.given(step) + model.cell(state))
    return state


def of_sequence(model: Any, state: Tensor, x: Tensor) -> Tensor:
    state, empty = state[None], torch.zeros_like(state)[None]
    states = (state, empty) if isinstance(model.cell, nn.LSTM) else state
    out: Tensor = model.cell(x, states)[0][:, -1]
    return out


def begun(
    run: Callable[[Any, Tensor, Tensor], Tensor],
    cell: nn.Module,
    change: Callable[[Tensor], Tensor] | None = None,
    **parts: Any,
) -> nn.Module:
    """A loop that begins with what an encoder makes, which a change may keep from it."""

    def forward(model: Any, context: Tensor, x: Tensor) -> Tensor:
        state = model.encoder(context)
        out: Tensor = model.head(run(model, state if change is None else change(state), x))
        return out

    every = {
        "encoder": encoder(),
        "cell": forgetful(cell),
        "head": nn.Linear(WIDTH, CLASSES),
        **parts,
    }
    return Wired(forward, **every)


LOOPS: dict[str, Callable[..., nn.Module]] = {
    "GRUCell": lambda *change: begun(of_cell, nn.GRUCell(3, WIDTH), *change),
    "LSTMCell": lambda *change: begun(of_two_states, nn.LSTMCell(3, WIDTH), *change),
    "RNNCell": lambda *change: begun(of_cell, nn.RNNCell(3, WIDTH), *change),
    "own": lambda *change: begun(
        of_two_layers, nn.Linear(WIDTH, WIDTH), *change, given=nn.Linear(3, WIDTH)
    ),
    "GRU": lambda *change: begun(of_sequence, nn.GRU(3, WIDTH, batch_first=True), *change),
    "LSTM": lambda *change: begun(of_sequence, nn.LSTM(3, WIDTH, batch_first=True), *change),
}


def squares(model: nn.Module) -> Tensor:
    return 1e-3 * torch.stack([p.square().sum() for p in model.parameters()]).sum()


def judged(model: nn.Module, x: Tensor, **settings: Any) -> Diagnosis:
    return probe(model, (CONTEXT, x), Y, loss=cross_entropy, **settings)


DECLARED: dict[str, dict[str, Any]] = {
    "GH103": {"optimizer": torch.optim.Adam},
    "GH501": {"precision": "float16", "loss_scale": 2.0**16},
    "GH601": {"optimizer": torch.optim.SGD, "regularizer": squares},
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("code", DECLARED)
def test_how_little_gets_to_an_encoder_is_memory_to_every_rule(loop: str, code: str) -> None:
    diagnosis = judged(LOOPS[loop](), series(10), select=[code], **DECLARED[code])
    assert codes(diagnosis) == []
    assert {finding.layer for finding in diagnosis.findings} <= {"cell", "given"}, (
        "their first calls"
    )
    assert diagnosis.profile.forgotten == ("encoder.0", "encoder.1", "encoder.2", "encoder.3")
    (weight,) = (p for p in diagnosis.profile.parameters if p.name == "encoder.0.weight")
    assert weight.gradient is not None
    assert weight.gradient < 1e-10


def drowns(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1e-12 * cross_entropy(outputs, targets)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_lost_before_the_loop_is_none(loop: str) -> None:
    """The loss itself is scaled down, and the weights of the loop get as little of it."""
    model = LOOPS[loop]()
    diagnosis = probe(model, (CONTEXT, series(10)), Y, loss=drowns, optimizer=torch.optim.Adam)
    (found,) = of(diagnosis, "GH103")
    assert found.severity == "failure"
    assert found.layer in ("cell", "given")


@pytest.mark.parametrize("loop", LOOPS)
def test_zeros_that_a_long_loop_leaves_are_information(loop: str) -> None:
    diagnosis = judged(LOOPS[loop](), series(40), optimizer=torch.optim.Adam)
    assert diagnosis.verdict == "healthy", diagnosis
    assert told(diagnosis, "GH401") == [
        (
            "info",
            "encoder.0",
            "zero gradient for 4 parameters (encoder.0.weight, encoder.0.bias, encoder.2.weight and"
            " 1 more): long loops forget what they begin with",
        )
    ]


NOTHING: dict[str, Callable[[Tensor], Tensor]] = {
    "clamped": lambda state: state.clamp(9, 10),
    "rectified": lambda state: torch.relu(state - 9),
    "rounded": lambda state: state.round(),
    "of one": lambda state: state[:, :1].softmax(1).expand(-1, WIDTH),
}


@pytest.mark.parametrize("steps", [2, 30])
@pytest.mark.parametrize("change", NOTHING)
@pytest.mark.parametrize("loop", ["LSTMCell", "GRU"])
def test_zeros_of_what_a_loop_never_got_fail(loop: str, change: str, steps: int) -> None:
    diagnosis = judged(LOOPS[loop](NOTHING[change]), series(steps), confirm_steps=0)
    assert diagnosis.verdict == "failure", diagnosis
    assert all("forget" not in finding.message for finding in diagnosis.findings)


def test_what_the_steps_or_the_head_see_too_is_not_forgotten() -> None:
    def forward(model: Any, context: Tensor, x: Tensor) -> Tensor:
        state, told = model.encoder(context), model.told(context)
        for step in x.unbind(1):
            state = model.cell(model.embed(step), state + model.first(told))
        out: Tensor = model.head(state) + told
        return out

    parts: dict[str, Any] = {"told": nn.Linear(5, CLASSES), "first": nn.Linear(CLASSES, WIDTH)}
    parts |= {"embed": nn.Linear(3, 3), "cell": forgetful(nn.GRUCell(3, WIDTH))}
    model = Wired(forward, encoder=encoder(), head=nn.Linear(WIDTH, CLASSES), **parts)
    diagnosis = judged(model, series(10), optimizer=torch.optim.Adam)
    assert diagnosis.verdict == "healthy", diagnosis
    assert diagnosis.profile.forgotten == ("encoder.0", "encoder.1", "encoder.2", "encoder.3")


def test_a_loop_in_front_of_another_is_forgotten_whole() -> None:
    def forward(model: Any, context: Tensor, x: Tensor) -> Tensor:
        state = model.encoder(context)
        for step in x.unbind(1):
            state = model.reader(step, state)
        out: Tensor = model.head(of_cell(model, model.between(state), x.flip(1)))
        return out

    cells = {name: forgetful(nn.GRUCell(3, WIDTH)) for name in ("reader", "cell")}
    ends = {"between": nn.Linear(WIDTH, WIDTH), "head": nn.Linear(WIDTH, CLASSES)}
    model = Wired(forward, encoder=encoder(), **cells, **ends)
    diagnosis = judged(model, series(10), optimizer=torch.optim.Adam)
    assert diagnosis.verdict == "healthy", diagnosis
    assert {"reader", "between", "encoder.0"} <= {*diagnosis.profile.forgotten}
    assert {"cell", "head"}.isdisjoint(diagnosis.profile.forgotten)


def test_what_is_dead_before_a_loop_is_not_forgotten() -> None:
    def forward(model: Any, context: Tensor, x: Tensor) -> Tensor:
        out: Tensor = model.head(of_cell(model, model.begin(context), x))
        return out

    begin = nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU())
    nn.init.constant_(begin[0].bias, -99.0)  # type: ignore[arg-type]
    parts = {"cell": nn.RNNCell(3, WIDTH), "head": nn.Linear(WIDTH, CLASSES)}
    model = Wired(forward, begin=begin, **parts)
    diagnosis = probe(model, (CONTEXT, series(5)), Y, loss=cross_entropy, select=["GH401"])
    assert codes(diagnosis) == ["GH401"], diagnosis


def test_a_loop_that_ends_by_what_comes_to_it_is_asked_and_ends() -> None:
    def forward(model: Any, context: Tensor, x: Tensor) -> Tensor:
        state = model.begin(context)
        pace, time = float(state.abs().mean()) / 40 + 0.01, 0.0
        while time < 1:
            state, time = model.cell(x[:, 0], state), time + pace
        out: Tensor = model.head(state)
        return out

    begin = nn.Sequential(nn.Linear(5, WIDTH), nn.Softplus())
    parts = {"cell": forgetful(nn.RNNCell(3, WIDTH)), "head": nn.Linear(WIDTH, CLASSES)}
    model = Wired(forward, begin=begin, **parts)
    assert probe(model, (CONTEXT, series(1)), Y, loss=cross_entropy).verdict == "healthy"
