"""What the study looks at: a network, a batch for it, and how it is known to fare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

#: Inputs and targets, as `pytest_gradhealth.probe` takes them.
Batch = tuple[Any, Any]


@dataclass(frozen=True)
class Network:
    """A network at its initialisation, and one batch.

    `build` and `batch` draw from torch's global random numbers, which the study seeds. Without a
    `loss` the network's own is used (`outputs.loss`). `family` groups networks in tables;
    `source` says where it was described.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    loss: Callable[[Any, Any], Any] | None = None
    source: str = ""


@dataclass(frozen=True)
class Fault:
    """A network that is known to fail, and the same network cured.

    `out_of_reach` says why no gradient shows the fault; empty where the linter is to find it.
    """

    sick: Network
    cured: Network
    symptom: str
    remedy: str
    out_of_reach: str = ""
