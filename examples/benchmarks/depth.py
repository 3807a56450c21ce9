"""What a layer costs in deep networks: a probe has to stay linear in the number of layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from examples.benchmarks.steps import probe_of
from examples.benchmarks.table import Row
from examples.benchmarks.timing import in_turns, ratio
from examples.benchmarks.workloads import SEED, Workload

SHALLOW, DEEP = 100, 10_000
TARGET = 1.2


def stack(depth: int, width: int = 8, batch: int = 4) -> Workload:
    """Orthogonal layers without activations: however many there are, no norm changes."""
    torch.manual_seed(SEED)
    layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
    inputs, targets = torch.randn(batch, width), torch.randn(batch, width)
    about = f"{depth:,} layers of {width}"
    return Workload(
        "orthogonal", about, nn.Sequential(*layers), inputs, targets, nn.functional.mse_loss
    )


def depth_rows(rounds: int) -> list[Row]:
    """Time per layer of a deep network over that of a shallow one, of a probe and of a step."""
    shallow, deep = stack(SHALLOW), stack(DEEP)
    repeats = DEEP // SHALLOW

    def many(call: Callable[[], object]) -> Callable[[], object]:
        return lambda: [call() for _ in range(repeats)]

    calls = {"probe": (probe_of(shallow), probe_of(deep)), "step": (shallow.step, deep.step)}
    rows = []
    for name, (small, large) in calls.items():
        times = in_turns({"small": many(small), "large": large}, rounds)
        of = f"{DEEP:,} layers / {SHALLOW}, {name}"
        target = None if name == "step" else TARGET
        rows.append(Row("time per layer", of, ratio(times["large"], times["small"]), target=target))
    return rows
