"""The four sets of the study: what their keys are, and what is done for one key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.mnist.digits import load_digits
from examples.study.corpus import SIZE, Recipe, build, recipe
from examples.study.faults import known_faults
from examples.study.journal import Record, complete
from examples.study.measurement import measure, verdict_with_sgd
from examples.study.network import Batch, Fault, Network
from examples.study.trainability import train_all
from examples.study.zoo import healthy_networks

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Stage:
    """A set: its keys, in order, and the work for one of them, done in any process."""

    name: str
    keys: Callable[[], list[str]]
    work: Callable[[str], Mapping[str, Any]]

    @property
    def journal(self) -> Path:
        """Where the results are."""
        return RESULTS / f"{self.name}.jsonl"

    def run(self, workers: int) -> dict[str, Record]:
        """Do what is missing and return all records by key."""
        return complete(
            self.journal, self.keys(), self.work, workers=workers, title=f"{self.name:13}"
        )


@cache
def digits() -> tuple[Tensor, Tensor]:
    """The digits that random networks are trained on."""
    return load_digits()


def first_digits() -> Batch:
    """The batch that random networks are probed with: a hundred digits."""
    images, labels = digits()
    return images[:100], labels[:100]


def corpus_keys() -> list[str]:
    """Numbers of the random networks, the quick ones first."""
    return [str(n) for n in sorted(range(SIZE), key=lambda n: (recipe(n).kind == "conv", n))]


def train(key: str) -> Mapping[str, Any]:
    """Train one random network with every optimizer and rate."""
    return {"runs": [asdict(run) for run in train_all(recipe(int(key)), digits()).runs]}


def random_network(chosen: Recipe) -> Network:
    """One random network, with the batch that it is probed with."""
    return Network(chosen.name, chosen.kind, partial(build, chosen), first_digits, cross_entropy)


def probe_random(key: str) -> Mapping[str, Any]:
    """Measure one random network."""
    chosen = recipe(int(key))
    network = random_network(chosen)
    return {**measure(network, chosen.number), "with SGD": verdict_with_sgd(network, chosen.number)}


@cache
def healthy() -> dict[str, Network]:
    """The healthy networks by family and name."""
    return {f"{network.family}:{network.name}": network for network in healthy_networks()}


def healthy_keys() -> list[str]:
    """Family, name and seed of the healthy networks, one seed of each first."""
    return [f"{name}@{seed}" for seed in SEEDS for name in healthy()]


def probe_healthy(key: str) -> Mapping[str, Any]:
    """Measure one healthy network under one seed."""
    name, _, seed = key.rpartition("@")
    return measure(healthy()[name], int(seed), peers=int(seed) == SEEDS[0])


@cache
def faults() -> dict[str, Fault]:
    """The known faults by name."""
    return {fault.sick.name: fault for fault in known_faults()}


def fault_keys() -> list[str]:
    """Side, name and seed of the known faults and their cured twins."""
    return [
        f"{side}:{name}@{seed}" for seed in SEEDS for name in faults() for side in ("sick", "cured")
    ]


def probe_fault(key: str) -> Mapping[str, Any]:
    """Measure one side of one fault under one seed."""
    name, _, seed = key.rpartition("@")
    side, _, name = name.partition(":")
    fault = faults()[name]
    return measure(fault.sick if side == "sick" else fault.cured, int(seed))


STAGES = (
    Stage("training", corpus_keys, train),
    Stage("random", corpus_keys, probe_random),
    Stage("healthy", healthy_keys, probe_healthy),
    Stage("faults", fault_keys, probe_fault),
)
