"""One forward and one backward: told in words where they raise, and what they leave behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from tests.helpers.refusals import Breaks, Returning, check, raising, refusal


@pytest.mark.parametrize("where", ["function", "tensor hook", "module hook"])
def test_a_backward_that_raises(where: str) -> None:
    model: Any = Returning(Breaks.apply if where == "function" else torch.clone)
    if where == "tensor hook":
        model.layer.weight.register_hook(raising)
    if where == "module hook":
        model.layer.register_full_backward_pre_hook(raising)
    check(refusal(model), "the backward pass raised KeyError: 'nothing'", KeyError)


def subject(model: nn.Module, inputs: torch.Tensor) -> Subject:
    return Subject(model, inputs, None, lambda outputs: outputs.sum(), torch.device("cpu"))


class Stateful(nn.Module):
    """Adds what it returned before, with its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.before: torch.Tensor | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(inputs)
        return outputs if self.before is None else outputs + self.before


@pytest.mark.parametrize("keeps", [False, True])
def test_a_graph_is_kept_where_a_part_of_it_is_the_callers(keeps: bool) -> None:
    model, inputs = Stateful(), torch.ones(2, 4)
    earlier = model.layer(inputs)
    model.before = earlier if keeps else None
    run = Pass(subject(model, inputs), seed=0)
    loss = run.run()
    run.graph(loss)
    with run.own_gradients():
        run.backward(loss)
        if keeps:
            earlier.sum().backward()
        else:
            with pytest.raises(RuntimeError, match="second time"):
                loss.backward()  # type: ignore[no-untyped-call]
    assert model.layer.weight.grad is None


@pytest.mark.parametrize("lent", [False, True])
def test_the_batch_is_a_copy_or_lent_and_can_be_let_go_of(lent: bool) -> None:
    leaf = torch.ones(2, 4, requires_grad=True)
    inputs = leaf if lent else leaf * 1
    run = Pass(subject(nn.Linear(4, 4), inputs))
    assert (run.inputs is inputs) == lent
    assert run.inputs.is_leaf
    assert run.inputs.requires_grad
    loss = run.run()
    run.forget_batch()
    assert run.inputs is run.targets is run.outputs is None
    run.graph(loss)
    with run.own_gradients():
        run.backward(loss)
    assert leaf.grad is None


def test_a_seed_is_drawn_from_and_none_goes_on() -> None:
    model, inputs = nn.Dropout(), torch.ones(64)
    one, other = (Pass(subject(model, inputs), seed=1).forward() for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(other, Pass(subject(model, inputs)).forward())
