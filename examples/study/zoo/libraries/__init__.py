"""Healthy networks of some fifty small libraries, from language to molecules.

Each is small and at its library's initialisation, with the loss that its library or paper trains it
with. What batches ask for can be learnt from them.
"""

from __future__ import annotations

from examples.study.network import Network
from examples.study.zoo.libraries.diffusion import DIFFUSION
from examples.study.zoo.libraries.flows import FLOWS
from examples.study.zoo.libraries.graphs import GRAPHS
from examples.study.zoo.libraries.language import LANGUAGE
from examples.study.zoo.libraries.molecules import MOLECULES
from examples.study.zoo.libraries.physics import PHYSICS
from examples.study.zoo.libraries.recommenders import RECOMMENDERS
from examples.study.zoo.libraries.segmentation import SEGMENTATION
from examples.study.zoo.libraries.sequences import SEQUENCES
from examples.study.zoo.libraries.vision import VISION
from examples.study.zoo.libraries.vit import TRANSFORMERS

TABLES = (
    LANGUAGE,
    TRANSFORMERS,
    VISION,
    SEGMENTATION,
    DIFFUSION,
    FLOWS,
    GRAPHS,
    MOLECULES,
    RECOMMENDERS,
    SEQUENCES,
    PHYSICS,
)
#: The names under which their libraries are imported.
LIBRARIES = tuple(dict.fromkeys(library for table in TABLES for library in table))


def library_networks() -> tuple[Network, ...]:
    """Return the networks of all tables."""
    return tuple(
        Network(f"{library}: {name}", "libraries", build, batch, loss, library)
        for table in TABLES
        for library, rows in table.items()
        for name, build, batch, loss in rows
    )
