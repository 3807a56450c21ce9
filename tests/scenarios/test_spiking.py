"""Layers that spike in time: judged alike however the loop over the steps is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import probe
from tests.helpers.spikes import Spike

WIDTH, STEPS, CLASSES = 32, 8, 4


class Spiking(nn.Module):
    """Layers that keep a potential each, over steps that get the same; no module returns it."""

    def __init__(self, depth: int, way: str = "by step", read: str = "all") -> None:
        super().__init__()
        self.way, self.read, self.head = way, read, nn.Linear(WIDTH, CLASSES)
        self.layers = nn.ModuleList(nn.Linear(WIDTH if i else 10, WIDTH) for i in range(depth))

    def spikes(self, charges: list[Tensor]) -> list[Tensor]:
        potential, found = torch.zeros(()), []
        for charge in charges:
            potential = 0.9 * potential + charge
            found.append(Spike.apply(potential - 1))
            potential = potential - found[-1]
        return found

    def forward(self, x: Tensor) -> Tensor:
        steps = [x] * STEPS
        if self.way == "by step":
            potentials: list[Any] = [0.0] * len(self.layers)
            steps = [self.step(x, potentials) for x in steps]
        for layer in self.layers if self.way != "by step" else ():
            made = layer(torch.stack(steps)) if self.way == "at once" else map(layer, steps)
            steps = self.spikes([*made])
        votes = [self.head(step) for step in steps]
        return torch.stack(votes if self.read == "all" else votes[-1:]).mean(0)

    def step(self, x: Tensor, potentials: list[Any]) -> Tensor:
        for number, layer in enumerate(self.layers):
            potential = 0.9 * potentials[number] + layer(x)
            x = Spike.apply(potential - 1)
            potentials[number] = potential - x
        return x


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(32, 10), torch.randint(CLASSES, (32,))


def test_layers_are_judged_alike_by_step_by_layer_and_at_once() -> None:
    found = []
    for way in ("by step", "by layer", "at once"):
        x, y = batch()
        diagnosis = probe(Spiking(3, way), x, y, loss=cross_entropy)
        (path,) = diagnosis.profile.judged_paths
        found.append((diagnosis.verdict, path.first.name, round(path.vanishing, 1)))
    assert len({*found}) == 1, found


@pytest.mark.parametrize("read", ["all", "last"])
def test_a_head_that_has_seen_no_spike_yet_is_asked_again(read: str) -> None:
    x, y = batch()
    model = Spiking(4, read=read)
    nn.init.constant_(model.layers[3].bias, -0.2)  # type: ignore[arg-type]
    diagnosis = probe(model, x, y, loss=cross_entropy)
    first, second = diagnosis.profiles
    assert {point.name for point in first.asleep} == {"head"}
    assert "head.weight" in second.awake
    assert diagnosis.verdict == "healthy", diagnosis
