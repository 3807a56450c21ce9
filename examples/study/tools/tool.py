"""A tool that is run: what it takes, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from examples.study.network import Network

#: A network, the seed that it is built under, and what its loss is multiplied by.
Run = Callable[[Network, int, float], Sequence["Said"]]


#: Of networks: random ones that nothing or SGD trains, known faults and their cured twins,
#: transformer operators and right transformers, healthy architectures.
SETS = ("lost", "trained", "fault", "twin", "sick", "cured", "healthy")


class NotApplicableError(Exception):
    """A tool that cannot be asked about a network; the message says why."""


@dataclass(frozen=True)
class Said:
    """One complaint: the check that makes it, and what the tool makes of it."""

    check: str
    level: Literal["error", "warning"]


@dataclass(frozen=True)
class Tool:
    """A tool, as of a version of its package, and how it is run.

    `about` says in a few words what was run, `scales` whether it sees the loss, so that it is run
    on every scale of it. One in `every` networks of some `sets` is asked.
    """

    name: str
    package: str
    version: str
    about: str
    run: Run
    scales: bool = False
    every: int = 1
    sets: tuple[str, ...] = SETS
