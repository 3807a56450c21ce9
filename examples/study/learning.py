"""Batches that are to be learned: python -m examples.study.learning

Asks GH604 of the healthy networks, of the random ones that are warned of or that nothing trains,
and of those that SGD trains or nothing does, with SGD declared at the rate that is best; holds the
tangent kernel of the random networks that do not fail against what trains them; and writes
LEARNING.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from examples.study.corpus import build, recipe
from examples.study.journal import read
from examples.study.network import Network
from examples.study.rates import healthy_keys, trained
from examples.study.report import learning as report
from examples.study.stages import (
    RESULTS,
    SEEDS,
    Stage,
    corpus_keys,
    first_digits,
    healthy,
    random_network,
)
from examples.study.tangent import residual
from pytest_gradhealth import ProbeError, probe

Maker = Callable[[Iterable[Any]], torch.optim.Optimizer]

momentum = partial(torch.optim.SGD, momentum=0.9)
#: What is declared, by name, with rates that the random networks were trained at.
DECLARED: Mapping[str, Maker | None] = {
    "nothing": None,
    "momentum .01": partial(momentum, lr=0.01),
    "momentum .1": partial(momentum, lr=0.1),
}


def standing() -> list[int]:
    """Random networks that do not fail, nothing declared, in the order of the corpus."""
    known = read(RESULTS / "random.jsonl")
    return [int(key) for key in corpus_keys() if known[key]["verdicts"][0] != "failure"]


def doubtful_keys() -> list[str]:
    """Numbers of those that are warned of or that nothing trains, with what is declared."""
    known = read(RESULTS / "random.jsonl")
    chosen = [
        n
        for n in standing()
        if known[str(n)]["verdicts"][0] == "warning" or trained()[n].label == "neither"
    ]
    return [f"{n}:{name}" for n in chosen for name in DECLARED]


def ask_random(key: str) -> Mapping[str, Any]:
    """What GH604 says of one random network."""
    number, name = key.split(":")
    chosen = recipe(int(number))
    return said_of(random_network(chosen), DECLARED[name], chosen.number)


def ask_healthy(key: str) -> Mapping[str, Any]:
    """What GH604 says of one healthy network, nothing declared."""
    return said_of(healthy()[key], None, SEEDS[0])


def said_of(network: Network, optimizer: Maker | None, seed: int) -> dict[str, Any]:
    """Whether a batch is learned, and in how many steps."""
    torch.manual_seed(seed)
    model, batch = network.build(), network.batch()
    asked: dict[str, Any] = {"loss": network.loss, "optimizer": optimizer, "learn_steps": 60}
    try:
        found = probe(model, *batch, **asked, select=["GH604"])
    except ProbeError as error:
        return {"error": str(error)}
    learning = found.profile.learning
    severity = next((f.severity for f in found.findings if f.code == "GH604"), "")
    steps, course = (len(learning.losses), learning.course) if learning else (0, "")
    return {"course": course, "steps": steps, "severity": severity}


def trained_keys() -> list[str]:
    """Numbers of the random networks that SGD trains, or nothing does."""
    return [n for n in corpus_keys() if trained()[int(n)].label in ("both", "sgd", "neither")]


def ask_trained(key: str) -> Mapping[str, Any]:
    """The verdict on one random network with SGD at its best rate declared, and GH604 asked."""
    chosen = recipe(int(key))
    network = random_network(chosen)
    runs = [run for run in trained()[chosen.number].runs if run.optimizer == "SGD"]
    rate = max(runs, key=lambda run: run.accuracy).lr
    torch.manual_seed(chosen.number)
    model, batch = network.build(), network.batch()
    optimizer = partial(momentum, lr=rate)
    found = probe(model, *batch, loss=network.loss, optimizer=optimizer, learn_steps=60)
    codes = sorted({f.code for f in found.findings if f.severity == "failure"})
    course = found.profile.learning.course if found.profile.learning else ""
    return {"rate": rate, "verdict": found.verdict, "failing": codes, "course": course}


def tangent(key: str) -> Mapping[str, Any]:
    """What gradient descent leaves of the residual of one random network."""
    images, labels = first_digits()
    return residual(build(recipe(int(key))), images, labels, cross_entropy)


STAGES = (
    Stage("learning-random", doubtful_keys, ask_random),
    Stage("learning-healthy", healthy_keys, ask_healthy),
    Stage("learning-trained", trained_keys, ask_trained),
    Stage("tangent", lambda: [str(n) for n in standing()], tangent),
)


def main() -> None:
    """Do what the journals lack and write the page."""
    parser = argparse.ArgumentParser(prog="python -m examples.study.learning")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--write", action="store_true", help="write the page of what is known")
    options = parser.parse_args()
    if not options.write:
        for stage in STAGES:
            stage.run(options.workers)
    report.write({stage.name: read(stage.journal) for stage in STAGES}, trained())


if __name__ == "__main__":
    main()
