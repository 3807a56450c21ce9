"""Re-entrant checkpoints are seen through while something is isolated, and give what they gave."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils import checkpoint

from pytest_gradhealth import probe
from pytest_gradhealth.isolation.isolate import isolated

X, Y = torch.randn(6, 4), torch.arange(6) % 3
CPU = torch.device("cpu")


def part() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 4))


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.parts = nn.Linear(4, 4), nn.ModuleList(part() for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for each in self.parts:
            h = checkpoint.checkpoint(each, h, use_reentrant=True)
        out: Tensor = self.head(h)
        return out


def gradients(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(3)
    cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_the_gradients_are_those_of_the_checkpoint() -> None:
    model = Parts()
    with isolated([model], CPU):
        seen = gradients(model)
    own = gradients(model)
    assert len(seen) == len(own) == len([*model.parameters()])
    assert all(map(torch.equal, seen, own))


def test_each_layer_in_them_is_measured() -> None:
    diagnosis = probe(Parts(), X, Y, loss=cross_entropy)
    assert "parts.1.0" in [point.label for point in diagnosis.paths[0].points]


@pytest.mark.parametrize("needed", [torch.no_grad, torch.enable_grad])
def test_what_passes_no_gradient_on_still_does_not(needed: Callable[[], torch.no_grad]) -> None:
    """Of inputs that need none, whatever the weights inside do."""
    with isolated([], CPU), needed():
        assert not checkpoint.checkpoint(part(), X, use_reentrant=True).requires_grad


def test_torch_is_as_it_was_whatever_happens() -> None:
    before = checkpoint.CheckpointFunction
    with pytest.raises(KeyError, match="False"), isolated([], CPU):
        raise KeyError(checkpoint.CheckpointFunction is before)
    assert checkpoint.CheckpointFunction is before
