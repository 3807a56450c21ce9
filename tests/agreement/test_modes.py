"""What rounds at random and what decides alike, one operation at a time."""

from __future__ import annotations

import pytest
import torch

from pytest_gradhealth.agreement.alike import Alike, Decisions
from pytest_gradhealth.agreement.rounding import Rounding


def test_rounding_is_to_a_neighbour_and_to_none_on_average() -> None:
    x = torch.full((3, 2**17), 1 + 1 / 512)  # a quarter of the way from 1 to 1 + 1 / 128
    with Rounding(torch.float32, torch.bfloat16, seed=0):
        found = x * 1
    assert set(found.flatten().tolist()) == {1.0, 1 + 1 / 128}
    assert found.mean().item() == pytest.approx(1 + 1 / 512, abs=5e-5)


def test_what_the_coarser_format_holds_stays() -> None:
    x = torch.tensor([0.0, -0.0, 1.0, 0.75, -2.5, 3e38, torch.inf, -torch.inf, torch.nan])
    with Rounding(torch.float32, torch.bfloat16, seed=0):
        found = x[:5] + 0
        assert found.tolist() == x[:5].tolist()
        assert (x * 1)[6:].isfinite().sum() == 0
        view = x[2:4]
        assert view.data_ptr() == x[2:].data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_same_numbers_are_drawn_in_each_format_and_layout(dtype: torch.dtype) -> None:
    def drawn(dtype: torch.dtype) -> list[torch.Tensor]:
        torch.manual_seed(0)
        like = torch.empty(2, 3, 4, 4, dtype=dtype)
        other = like.to(memory_format=torch.channels_last) if dtype != torch.float32 else like
        with Alike(Decisions()):
            found = [torch.rand_like(other), torch.randn(5, dtype=dtype), other.bernoulli_(0.3)]
            found += [torch.randint(9, (7,)), torch.randperm(6), other.exponential_()]
        return [each.double() for each in found]

    for one, other in zip(drawn(dtype), drawn(torch.float32), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)  # float16 has few small numbers
    assert drawn(dtype)[0].max() < 1


def test_decisions_on_the_edge_are_taken_over_and_others_are_not() -> None:
    decisions = Decisions()
    scores = torch.tensor([[0.5, 0.5 + 1e-7, 0.1], [0.2, 0.9, 0.3]])
    turned = scores.flip(0).flip(0) - torch.tensor([[0, 2e-7, 0], [0, 0, 0]])
    with Alike(decisions):
        values, chosen = scores.topk(1)
        above = scores > 0.5
        torch.autograd.backward(torch.relu(scores.requires_grad_() - 0.5).sum())
    unit = torch.finfo(torch.float32).eps
    own = turned.topk(1).indices
    assert own.tolist() != chosen.tolist()
    again = turned.clone().requires_grad_()
    with Alike(decisions, unit):
        values, taken = turned.topk(1)
        assert taken.tolist() == chosen.tolist()
        assert values.tolist() == turned.gather(1, chosen).tolist()
        assert (turned > 0.5).tolist() == above.tolist()
        torch.autograd.backward(torch.relu(again - 0.5).sum())
    assert again.grad is not None
    assert scores.grad is not None
    assert again.grad.tolist() == scores.grad.tolist()
    with Alike(decisions, unit):
        assert (1 - scores.detach()).topk(1).indices.tolist() == [[2], [0]]
        assert (scores > 0.15).tolist() == [[True, True, False], [True, True, True]]
