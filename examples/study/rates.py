"""Learning rates against what comes of them: python -m examples.study.rates

Trains random networks at rates that are usual and far too large, asks what GH603 says of the first
step, asks the same of the healthy networks at usual rates, and writes RATES.md.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import torch

from examples.study.corpus import SIZE, recipe
from examples.study.journal import read
from examples.study.network import Network
from examples.study.report import rates as report
from examples.study.stages import (
    RESULTS,
    SEEDS,
    Stage,
    corpus_keys,
    digits,
    healthy,
    random_network,
)
from examples.study.trainability import LEARNED, Run, Truth, train_once
from pytest_gradhealth import GradientProfile, ProbeError, probe
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.measure.look import look
from pytest_gradhealth.probing.case import Case
from pytest_gradhealth.probing.prepare import prepare
from pytest_gradhealth.probing.steps import first_step_of
from pytest_gradhealth.training.first_step import may_be_too_long
from pytest_gradhealth.training.loop import optimizer_for, train

Maker = Callable[..., torch.optim.Optimizer]

momentum = partial(torch.optim.SGD, momentum=0.9)
#: Optimizers, and the rates that they are tried at beside those of the journal of trainings.
TRIED: Mapping[str, tuple[Maker, tuple[float, ...]]] = {
    "SGD": (torch.optim.SGD, (0.01, 0.1, 1.0, 10.0)),
    "momentum": (momentum, (1.0, 10.0)),
    "Adam": (torch.optim.Adam, (0.01, 0.1, 1.0)),
}
#: What people use.
USUAL: Mapping[str, Maker] = {
    "momentum .1": partial(momentum, lr=0.1),
    "momentum .01": partial(momentum, lr=0.01),
    "Adam 1e-3": partial(torch.optim.Adam, lr=1e-3),
    "AdamW 1e-3": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.05),
}
#: Random networks that are trained once more, the shallow ones that something trains.
NETWORKS, DEPTH = 140, 16
#: Steps on its batch that show whether a healthy network stands a rate.
STEPS = 60


@cache
def trained() -> dict[int, Truth]:
    """What the journal of trainings knows, by number."""
    records = read(RESULTS / "training.jsonl")
    return {int(k): Truth(int(k), tuple(Run(**x) for x in r["runs"])) for k, r in records.items()}


def run_keys() -> list[str]:
    """Numbers of networks with an optimizer and a rate."""
    chosen = [
        n
        for n in range(SIZE)
        if recipe(n).kind == "mlp"
        and recipe(n).depth <= DEPTH
        and trained()[n].label in ("both", "sgd", "adam")
    ]
    return [
        f"{n}:{name}:{rate:g}"
        for n in chosen[:NETWORKS]
        for name, (_, rates) in TRIED.items()
        for rate in rates
    ]


def train_random(key: str) -> Mapping[str, Any]:
    """Train one random network with one optimizer at one rate."""
    number, name, rate = key.split(":")
    make = partial(TRIED[name][0], fused=True)
    return asdict(train_once(name, make, float(rate), recipe(int(number)), digits()))


def runs_of(number: int) -> dict[tuple[str, float], Run]:
    """All trainings of a random network, by optimizer and rate."""
    known = trained()[number].runs
    named = {("Adam" if r.optimizer == "Adam" else "momentum", r.lr): r for r in known}
    return named | more_runs().get(number, {})


@cache
def more_runs() -> dict[int, dict[tuple[str, float], Run]]:
    """The trainings that are made here, by network."""
    found: dict[int, dict[tuple[str, float], Run]] = {}
    for key, record in read(RESULTS / "rates.jsonl").items():
        number, name, rate = key.split(":")
        run = Run(**{field: record[field] for field in Run.__dataclass_fields__})
        found.setdefault(int(number), {})[name, float(rate)] = run
    return found


def probe_random(key: str) -> Mapping[str, Any]:
    """What is said of one random network at all rates that it was trained at."""
    number = int(key)
    optimizers = {f"{o}:{rate:g}": partial(TRIED[o][0], lr=rate) for o, rate in runs_of(number)}
    return said_of(random_network(recipe(number)), optimizers, number)


def probe_healthy(key: str) -> Mapping[str, Any]:
    """What is said of one healthy network at usual rates, and where they lead if that is much."""
    found = said_of(healthy()[key], USUAL, SEEDS[0])
    for name, said in found.get("said", {}).items():
        if said["severity"]:
            said["losses"] = _losses(healthy()[key], USUAL[name])
    return found


def said_of(network: Network, optimizers: Mapping[str, Maker], seed: int) -> dict[str, Any]:
    """What is said of a network with each of some optimizers: one look is the same for all."""
    torch.manual_seed(seed)
    model = network.build()
    batch = network.batch()
    profile: GradientProfile | None = None
    said: dict[str, dict[str, Any]] = {}
    for name, optimizer in optimizers.items():
        try:
            trial = prepare(Case(model, *batch, network.loss, optimizer), Settings(), seed)
            if profile is None:
                with trial.subject.isolated():
                    profile = look(trial.subject, seed=seed).profile
        except ProbeError as error:
            return {"error": str(error)}
        step = first_step_of(trial, profile)
        asked, excess = may_be_too_long(trial.kind, profile), step and step.excess
        said[name] = {"asked": asked, "excess": excess, "severity": ""}
        if excess is not None and excess > report.WARNED:
            given: dict[str, Any] = {"loss": network.loss, "optimizer": optimizer}
            found = probe(model, *batch, select=["GH603"], **given).findings
            said[name]["severity"] = next((f.severity for f in found if f.complains), "")
    return {"said": said}


def _losses(network: Network, optimizer: Maker) -> list[float]:
    """The first and the last loss of a training on the batch."""
    torch.manual_seed(SEEDS[0])
    model = network.build()
    case = Case(model, *network.batch(), network.loss, optimizer)
    trial = prepare(case, Settings(), SEEDS[0])
    with trial.subject.isolated():
        stepper = optimizer_for(trial.subject, optimizer)
        losses: list[float] = []
        try:
            losses.extend(map(float, train(trial.subject, stepper, seed=SEEDS[0], steps=STEPS)))
        except ProbeError:  # of what refuses such weights
            losses.append(math.nan)
    return [losses[0], losses[-1]]


def healthy_keys() -> list[str]:
    """Family and name of the healthy networks."""
    return [*healthy()]


STAGES = (
    Stage("rates", run_keys, train_random),
    Stage("rates-random", corpus_keys, probe_random),
    Stage("rates-healthy", healthy_keys, probe_healthy),
)


def rows(random: Mapping[str, Mapping[str, Any]]) -> Iterator[report.Row]:
    """Every training of a network that some training has taught, with what is said of it."""
    for key, record in random.items():
        number = int(key)
        runs = runs_of(number)
        if "said" not in record or max(r.accuracy for r in runs.values()) < LEARNED:
            continue
        for (name, rate), run in runs.items():
            said = record["said"][f"{name}:{rate:g}"]
            yield report.Row(number, name, rate, run.accuracy, said["excess"], said["severity"])


def main() -> None:
    """Do what the journals lack and write the page."""
    parser = argparse.ArgumentParser(prog="python -m examples.study.rates")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    workers = parser.parse_args().workers
    _, random, known = (stage.run(workers) for stage in STAGES)
    report.write([*rows(random)], known)


if __name__ == "__main__":
    main()
