"""Rates against what comes of them: python -m examples.study.rates"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from examples.study.corpus import SIZE, recipe
from examples.study.journal import complete, read
from examples.study.stages import RESULTS, digits
from examples.study.trainability import Run, Truth, train_once

#: Optimizers, and the rates that they are tried at beside those of the journal of trainings.
OPTIMIZERS: Mapping[str, tuple[Callable[..., torch.optim.Optimizer], tuple[float, ...]]] = {
    "SGD": (torch.optim.SGD, (0.01, 0.1, 1.0, 10.0)),
    "momentum": (partial(torch.optim.SGD, momentum=0.9), (1.0, 10.0)),
    "Adam": (torch.optim.Adam, (0.01, 0.1, 1.0)),
}
#: Random networks that are trained once more, the shallow ones that something trains.
NETWORKS, DEPTH = 140, 16


def trained() -> dict[int, Truth]:
    """What the journal of trainings knows, by number."""
    records = read(RESULTS / "training.jsonl")
    return {int(k): Truth(int(k), tuple(Run(**x) for x in r["runs"])) for k, r in records.items()}


def run_keys() -> list[str]:
    """Numbers of networks with an optimizer and a rate."""
    known = trained()
    chosen = [
        n
        for n in range(SIZE)
        if recipe(n).kind == "mlp"
        and recipe(n).depth <= DEPTH
        and known[n].label in ("both", "sgd", "adam")
    ]
    return [
        f"{n}:{name}:{rate:g}"
        for n in chosen[:NETWORKS]
        for name, (_, rates) in OPTIMIZERS.items()
        for rate in rates
    ]


def train(key: str) -> Mapping[str, Any]:
    """Train one network with one optimizer at one rate."""
    number, name, rate = key.split(":")
    make = partial(OPTIMIZERS[name][0], fused=True)
    return asdict(train_once(name, make, float(rate), recipe(int(number)), digits()))


if __name__ == "__main__":
    complete(RESULTS / "rates.jsonl", run_keys(), train, workers=1, title="rates")
