"""Loops that all begin with one state, as both directions of a sequence do, are told as one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.measure.reuse import in_a_row
from pytest_gradhealth.measure.uses import Uses
from pytest_gradhealth.tensors.dominators import dominators
from pytest_gradhealth.tensors.graph import edge_of, walk
from tests.helpers.findings import codes

WIDTH, STEPS, CLASSES = 12, 40, 5
CONTEXT, X, Y = torch.randn(8, 5), torch.randn(8, STEPS, 3), torch.randint(CLASSES, (8,))


class WrittenOut(nn.Module):
    """The steps of a sequence, with weights and no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.kept = (
            nn.Parameter(torch.empty(inputs, WIDTH).uniform_(-0.3, 0.3)) for inputs in (3, WIDTH)
        )

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        for step in x.unbind(1):
            state = torch.tanh(step @ self.given + state @ self.kept)
        return state


class Steps(nn.Module):
    """The steps of a sequence through a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(3, WIDTH)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


class RungeKutta(Steps):
    """Each step of a state that decays calls the cell several times, on what it was before too."""

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        for step in x.unbind(1):
            slope = self.change(step, state)
            for share in (0.5, 0.5, 1.0):
                slope = self.change(step, state + share * slope)
            state = 0.4 * state + slope
        return state

    def change(self, step: Tensor, state: Tensor) -> Tensor:
        out: Tensor = 0.2 * self.cell(step, state)
        return out


class BareRungeKutta(WrittenOut):
    forward = RungeKutta.forward

    def change(self, step: Tensor, state: Tensor) -> Tensor:
        return 0.2 * torch.tanh(step @ self.given + state @ self.kept)


class Fused(nn.Module):
    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.layers, self.rnn = layers, nn.GRU(3, WIDTH, layers, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        out: Tensor = self.rnn(x, state.expand(self.layers, *state.shape).contiguous())[0][:, -1]
        return out


class Checkpointed(Steps):
    """Each step of them is computed again in the backward."""

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        for step in x.unbind(1):
            state = checkpoint(self.cell, step, state, use_reentrant=True)
        return state


LOOPS: dict[str, Callable[[], nn.Module]] = {
    "cells": Steps,
    "checkpoints": Checkpointed,
    "weights": WrittenOut,
    "fused": Fused,
    "Runge-Kutta": RungeKutta,
    "bare Runge-Kutta": BareRungeKutta,
    "stacked": lambda: Fused(2),
}


class BothWays(nn.Module):
    """An encoder begins a loop over a sequence and one over its reverse; both ends are read."""

    weight: nn.Parameter

    def __init__(self, loop: Callable[[], nn.Module], *, shared: bool = False) -> None:
        super().__init__()
        self.begin, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.there = loop()
        self.back = self.there if shared else loop()

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        state = torch.tanh(self.begin(context))
        out: Tensor = self.head(self.ends(x, state))
        return out

    def ends(self, x: Tensor, state: Tensor) -> Tensor:
        out: Tensor = self.there(x, state) + self.back(x.flip(1), state)
        return out


def judged(model: nn.Module, x: Tensor = X) -> Diagnosis:
    given = CONTEXT, x
    return probe(model, given, Y, loss=cross_entropy, select=["GH101"], confirm_steps=0)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_what_they_forget_is_no_depth(loop: str, shared: bool) -> None:
    diagnosis = judged(BothWays(LOOPS[loop], shared=shared))
    assert codes(diagnosis) == codes(diagnosis, "warning") == []
    assert any(path.last.name == "head" for path in diagnosis.profile.judged_paths)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("loop", ["cells", "weights", "fused"])
def test_without_data_of_their_own_they_are_depth(loop: str, shared: bool) -> None:
    model = BothWays(LOOPS[loop], shared=shared)
    assert codes(judged(model, torch.zeros_like(X))) == ["GH101"]


@pytest.mark.parametrize("loop", ["cells", "weights", "fused"])
def test_each_of_them_has_to_get_data(loop: str) -> None:
    class Half(BothWays):
        def ends(self, x: Tensor, state: Tensor) -> Tensor:
            deep = state
            for _ in range(STEPS):
                deep = torch.tanh(0.5 * deep @ self.weight)
            out: Tensor = self.there(x, state) + deep
            return out

    model = Half(LOOPS[loop])
    model.weight = nn.Parameter(torch.empty(WIDTH, WIDTH).uniform_(-0.3, 0.3))
    assert codes(judged(model)) == ["GH101"]


@pytest.mark.parametrize("loop", ["cells", "weights", "fused"])
def test_what_gets_around_them_is_judged(loop: str) -> None:
    class Around(BothWays):
        def __init__(self) -> None:
            super().__init__(LOOPS[loop])
            deep = [layer() for _ in range(16) for layer in (square, nn.Sigmoid)]
            self.around = nn.Sequential(*deep)

        def ends(self, x: Tensor, state: Tensor) -> Tensor:
            out: Tensor = super().ends(x, state) + self.around(state)
            return out

    assert codes(judged(Around())) == ["GH101"]


def square() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


def test_steps_that_are_made_in_one_loop_are_of_two_as_well() -> None:
    class Together(BothWays):
        def ends(self, x: Tensor, state: Tensor) -> Tensor:
            there = back = state
            for one, other in zip(x.unbind(1), x.flip(1).unbind(1), strict=True):
                there, back = self.there(one, there), self.back(other, back)
            return there + back

    diagnosis = judged(Together(lambda: nn.RNNCell(3, WIDTH)))
    assert codes(diagnosis) == codes(diagnosis, "warning") == []


@pytest.mark.parametrize(("each", "expected"), [(True, []), (False, ["GH101"])])
def test_data_that_multiply_a_state_are_new_in_each_step_or_in_the_first(
    each: bool, expected: list[str]
) -> None:
    class Scaled(BothWays):
        def ends(self, x: Tensor, state: Tensor) -> Tensor:
            for number, step in enumerate(x.unbind(1)):
                scale = torch.cat([step] * 4, 1) if each or not number else 1.0
                state = torch.tanh((state * scale) @ self.weight * 0.5)
            return state

    model = Scaled(nn.Identity)
    model.weight = nn.Parameter(torch.empty(WIDTH, WIDTH).uniform_(-0.3, 0.3))
    assert codes(judged(model)) == expected


def test_uses_side_by_side_do_not_end_each_others_rows() -> None:
    one, other = (torch.randn(3, 3, requires_grad=True) for _ in range(2))
    begun = torch.randn(1, 3, requires_grad=True) * 1.0
    ends = [begun, begun]
    for _ in range(8):
        ends = [end @ weight for end, weight in zip(ends, (one, other), strict=True)]
    both = ends[0] + ends[1]
    tree = dominators(walk(both.sum()), {edge_of(begun): 0, edge_of(both): 1})
    rows = in_a_row(tree, 0, {id(one): 1, id(other): 1}).rows
    assert [rows[1][id(weight)] for weight in (one, other)] == [8, 8]
    past = both + begun
    tree = dominators(walk(past.sum()), {edge_of(begun): 0, edge_of(past): 1})
    assert not in_a_row(tree, 0, {id(one): 1, id(other): 1}).rows[1], "it gets around them"


def uses_of(
    weight: Tensor, uses: Uses, multiply: Callable[[Tensor, Tensor], Tensor]
) -> list[tuple[Tensor, list[tuple[int, int]]]]:
    """Three products of a state with a weight, masked at first, and the uses that were seen."""
    found = []
    with uses:
        for given in STATES:
            state = given * 1.0
            uses.begins(state)
            for used in ((weight.t() * torch.ones(3, 3)).t(), weight, weight):
                state = multiply(state, used)
            found.append((state, [*uses.end()]))
    return found


STATES = torch.randn(2, 3, 3)


def in_place(state: Tensor, weight: Tensor) -> Tensor:
    return state.mul_(weight)


@pytest.mark.parametrize("multiply", [torch.matmul, in_place], ids=["product", "in place"])
def test_uses_are_counted_and_the_first_ones_held(
    multiply: Callable[[Tensor, Tensor], Tensor],
) -> None:
    weight = torch.randn(3, 3, requires_grad=True)
    (first, seen), (second, again) = uses_of(weight, Uses({1: weight}, held=True), multiply)
    assert seen == again == [(1, 0), (1, 1), (1, 2)]
    assert torch.equal(first, second), "all of it came through the first two"
    (first, _), (second, _) = uses_of(weight, Uses({1: weight}), multiply)
    assert not torch.equal(first, second)
    second.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


def test_what_meets_a_weight_before_a_state_does_is_no_use() -> None:
    weight, state, data = torch.randn(3, 3), torch.randn(2, 3) * 1.0, torch.randn(2, 3)
    with Uses({1: weight}) as uses:
        uses.begins(state)
        chosen = weight[torch.tensor([0, 2])] + torch.randn(2, 3)
        given = data @ weight
        assert not uses.end()
        uses.begins(state)
        chosen, given = weight[torch.tensor([0, 2])] * 2.0, data @ weight
        (state * chosen).sum()
        (state * 1.0 + given).sum()
        assert [*uses.end()] == [(1, 0), (1, 1)]


def test_weights_that_share_their_memory_are_used_together() -> None:
    flat, state = torch.randn(6), torch.ones(3) * 1.0
    with Uses({1: flat[:3], 2: flat[3:]}) as uses:
        uses.begins(state)
        assert (state * flat[3:]).numel() == 3
        assert sorted(uses.end()) == [(1, 0), (2, 0)]
