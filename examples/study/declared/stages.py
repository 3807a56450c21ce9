"""What is said with a factory and an optimizer declared, and of a batch that is to be learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.sharedctypes import RawValue
from typing import Any

import torch
from torch import nn

from examples.study.declared.faults import Declared, declared
from examples.study.network import Network
from examples.study.stages import SEEDS, Stage, faults, healthy
from pytest_gradhealth import Diagnosis, ProbeError, probe

#: Healthy networks are taken in strides of so many, so that a run that was stopped has seen all
#: families; one stride is asked to learn, and one in three known faults: both take their time.
STRIDE, THIRD = 16, 3
usual = partial(torch.optim.Adam, lr=1e-3)


#: Calls of what is probed: in shared memory, since a probe puts back whatever a factory changes.
BUILDS, FORWARDS = RawValue("l"), RawValue("l")


def counted(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A factory that counts its calls, and those of what it builds and of copies of that."""
    BUILDS.value = FORWARDS.value = 0

    def factory() -> nn.Module:
        BUILDS.value += 1
        model = build()
        model.register_forward_pre_hook(_called)
        return model

    return factory


def _called(*_: object) -> None:
    FORWARDS.value += 1


def _counts() -> dict[str, int]:
    return {"builds": BUILDS.value, "forwards": FORWARDS.value}


def _order() -> list[str]:
    names = [*healthy()]
    return [name for first in range(STRIDE) for name in names[first::STRIDE]]


def keys() -> list[str]:
    """Sides of the declared faults under each seed, then healthy networks under the first."""
    sides = [f"{side}:{n}@{seed}" for seed in SEEDS for n in declared() for side in SIDES]
    return sides + [f"healthy:{name}@{SEEDS[0]}" for name in _order()]


SIDES = ("sick", "cured")


def probe_declared(key: str) -> Mapping[str, Any]:
    """All that is said of one network with a factory and Adam, and how often it was called."""
    side, _, rest = key.partition(":")
    name, _, seed = rest.rpartition("@")
    if side == "healthy":
        return _declared_healthy(healthy()[name], int(seed))
    return _declared_fault(declared()[name], side, int(seed))


def _declared_healthy(network: Network, seed: int) -> Mapping[str, Any]:
    torch.manual_seed(seed)
    batch = network.batch()
    try:
        factory = counted(network.build)
        found = probe(factory, *batch, loss=network.loss, optimizer=usual)
    except ProbeError as error:
        return {"error": str(error).partition("\n")[0]}
    return {**_said(found), **_counts()}


def _declared_fault(fault: Declared, side: str, seed: int) -> Mapping[str, Any]:
    torch.manual_seed(seed)
    make = fault.sick if side == "sick" else fault.cured
    batch = fault.batch()
    if fault.whole:
        return _said(probe(lambda: make()[0], *batch, loss=fault.loss))
    model, optimizer = make()
    try:
        return _said(probe(model, *batch, loss=fault.loss, optimizer=optimizer))
    except ProbeError as error:
        return {"error": str(error).partition("\n")[0]}


def _said(found: Diagnosis) -> dict[str, Any]:
    complaints = [f for f in found.findings if f.complains]
    return {
        "verdict": found.verdict,
        "findings": [[f.code, f.severity, f.layer] for f in complaints],
    }


def learning_keys() -> list[str]:
    """Some of the known faults, with their twins, and of the healthy networks."""
    known = [name for name, fault in faults().items() if not fault.out_of_reach]
    return [f"{side}:{name}" for name in known[::THIRD] for side in SIDES] + [
        f"healthy:{name}" for name in [*healthy()][::STRIDE]
    ]


def learn(key: str) -> Mapping[str, Any]:
    """Whether one network learns its batch, by GH604 alone, and how often it was called."""
    side, _, name = key.partition(":")
    network = healthy()[name] if side == "healthy" else getattr(faults()[name], side)
    torch.manual_seed(SEEDS[0])
    batch = network.batch()
    try:
        factory = counted(network.build)
        found = probe(factory, *batch, loss=network.loss, select=["GH604"], seeds=[SEEDS[0]])
    except ProbeError as error:
        return {"error": str(error).partition("\n")[0]}
    return {**_said(found), **_counts()}


DECLARED = (
    Stage("declared", keys, probe_declared),
    Stage("learning", learning_keys, learn),
)
