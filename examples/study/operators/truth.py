"""What training makes of an operator: the share of tokens that it names in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from examples.study.network import Network

#: Share of tokens that a taught network names, and below which none was taught; a right one names
#: all of them after 100 steps, one that cannot look back three tokens a third.
TAUGHT, LOST = 0.8, 0.5
#: Of Adam; the second is tried where the first has not taught it.
RATES = (3e-3, 3e-4)
STEPS = 200
#: How often it is asked whether that is enough.
EVERY = 50


def trained(network: Network, seed: int) -> list[dict[str, Any]]:
    """Train a network from one seed with every rate, until one has taught it.

    Each run says its `lr`, the `steps` made, the last `loss`, and the `accuracy` on a new batch.
    """
    runs: list[dict[str, Any]] = []
    for lr in RATES:
        runs.append(_run(network, seed, lr))
        if runs[-1]["accuracy"] >= TAUGHT:
            break
    return runs


def _run(network: Network, seed: int, lr: float) -> dict[str, Any]:
    torch.manual_seed(seed)
    model, (inputs, targets) = network.build(), network.batch()
    assert network.loss is not None
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=lr)
    value, step, accuracy = math.nan, 0, 0.0
    while step < STEPS:
        loss = network.loss(model(inputs), targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        inputs, targets = network.batch()
        if step % EVERY == 0:
            with torch.no_grad():
                accuracy = float((model(inputs).argmax(1) == targets).float().mean())
            if accuracy >= TAUGHT:
                break
    return {"lr": lr, "steps": step, "loss": value, "accuracy": accuracy}


def label_of(record: Mapping[str, Any]) -> str:
    """What the trainings of one network say: "trains", "does not train", or "partly"."""
    best = max(run["accuracy"] for run in record["runs"])
    return "trains" if best >= TAUGHT else "does not train" if best < LOST else "partly"
