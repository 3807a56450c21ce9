"""The stage that runs other tools, and the networks that they are asked about."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from examples.study.corpus import recipe
from examples.study.journal import read
from examples.study.measurement import SCALES
from examples.study.network import Network
from examples.study.operators.stages import networks as operators
from examples.study.stages import SEEDS, STAGES, Stage, faults, healthy, random_network
from examples.study.tools import TOOLS
from examples.study.tools.tool import NotApplicableError, Tool
from examples.study.trainability import Run, Truth

#: One in so many healthy networks is asked about: most of the time goes into building them.
STRIDE = 4


@cache
def networks() -> dict[str, Network]:
    """By set and name: what a tool is to tell from each other, the quick ones first."""
    return _random() | _faults() | operators() | _healthy()


def _random() -> dict[str, Network]:
    """The test half of those that nothing trains or SGD does."""
    found = {}
    for key, record in read(STAGES[0].journal).items():
        truth = Truth(int(key), tuple(Run(**run) for run in record["runs"]))
        chosen = recipe(truth.number)
        if chosen.half == "test" and truth.label in ("neither", "both", "sgd"):
            name = "lost" if truth.label == "neither" else "trained"
            found[f"{name}:{key}"] = random_network(chosen)
    return dict(sorted(found.items()))


def _faults() -> dict[str, Network]:
    known = [fault for fault in faults().values() if not fault.out_of_reach]
    sick = {f"fault:{fault.sick.name}": fault.sick for fault in known}
    return sick | {f"twin:{fault.sick.name}": fault.cured for fault in known}


def _healthy() -> dict[str, Network]:
    return {f"healthy:{name}": healthy()[name] for name in [*healthy()][::STRIDE]}


def keys() -> list[str]:
    """Tools and networks, all networks before the next tool."""
    return [
        f"{tool.name}|{name}"
        for tool in TOOLS
        for number, name in enumerate(networks())
        if number % tool.every == 0 and name.partition(":")[0] in tool.sets
    ]


def ask(key: str) -> Mapping[str, Any]:
    """What one tool says of one network, under the first seed: a list for each scale of the loss.

    Why it cannot be asked is under "not applicable".
    """
    name, _, network = key.partition("|")
    tool = next(tool for tool in TOOLS if tool.name == name)
    seed = int(network.partition(":")[2]) if network[:2] in ("lo", "tr") else SEEDS[0]
    try:
        found = [
            [[said.check, said.level] for said in tool.run(networks()[network], seed, scale)]
            for scale in (SCALES if tool.scales else SCALES[:1])
        ]
    except NotApplicableError as error:
        return {"not applicable": str(error).partition("\n")[0]}
    except Exception as error:  # of a tool that breaks off, which is no verdict
        return {"not applicable": f"it breaks off with {type(error).__name__}"}
    return {"said": found}


def missing() -> list[str]:
    """Tools that are not installed in the version that is measured."""
    return [f"{tool.package}=={tool.version}" for tool in TOOLS if not _installed(tool)]


def _installed(tool: Tool) -> bool:
    try:
        return version(tool.package) == tool.version
    except PackageNotFoundError:
        return False


ASKED = Stage("tools", keys, ask)
