"""What a layer costs in deep networks: a probe has to stay linear in the number of layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from examples.benchmarks.steps import probe_of
from examples.benchmarks.table import Row
from examples.benchmarks.timing import Spread, in_turns, ratio, ratios
from examples.benchmarks.workloads import SEED, Workload

SHALLOW, DEEP = 100, 10_000
#: How much more a layer of a deep network may cost a probe than it costs a step.
TARGET = 1.1


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

    def many(call: Callable[[], object]) -> Callable[[], object]:
        return lambda: [call() for _ in range(DEEP // SHALLOW)]

    times = in_turns(
        {
            "probe": probe_of(deep),
            "shallow probes": many(probe_of(shallow)),
            "step": deep.step,
            "shallow steps": many(shallow.step),
        },
        rounds,
    )
    of = f"{DEEP:,} layers / {SHALLOW}"
    growth = {name: ratios(times[name], times[f"shallow {name}s"]) for name in ("probe", "step")}
    each = [Row("time per layer", f"{of}, {n}", Spread.of(found)) for n, found in growth.items()]
    beyond = ratio(growth["probe"], growth["step"])
    return [*each, Row("time per layer", f"{of}, probe / step", beyond, target=TARGET)]
