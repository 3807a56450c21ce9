"""Two sides that are run alike: on one seed, with the same draws and decisions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.agreement.alike import Alike, Decisions
from pytest_gradhealth.agreement.names import Names
from pytest_gradhealth.agreement.side import Layers, Reading, Side
from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.tensors.formats import coarsest


@dataclass(frozen=True)
class Pair:
    """Both sides, what b calls what a has, and the seed of their random numbers."""

    a: Side
    b: Side
    names: Names
    seed: int

    @property
    def shows_layers(self) -> bool:
        """Whether layers can be watched: not in compiled code."""
        return not (self.a.compiled or self.b.compiled)

    def mine(
        self, layers: Layers, decisions: Decisions | None = None, *, seed: int | None = None
    ) -> Reading:
        """What a makes; it notes its decisions, if asked to, and draws from another seed."""
        beside = self._alike(Decisions() if decisions is None else decisions)
        return self._read(self.a, layers, beside, self.seed if seed is None else seed)

    def other(
        self,
        side: Side,
        layers: Layers,
        decisions: Decisions,
        unit: float,
        beside: Beside | None = None,
    ) -> Reading:
        """What b makes by the names of a, or what a side of a's names makes that is not b's.

        Each decides as a has, up to rounding units, with something more `beside` it.
        """
        theirs = side.subject.model is self.b.subject.model
        named = self.names.layers(layers) if theirs else layers
        around = _nested(beside, self._alike(decisions, unit))
        made = self._read(side, named, around, self.seed)
        return self.names.in_a(made) if theirs else made

    def _read(self, side: Side, layers: Layers, beside: Beside, seed: int) -> Reading:
        anywhere(self.a.subject.model, False)  # who has failed is not waited for
        return side.read(seed=seed, layers=layers, beside=beside)

    def _alike(self, decisions: Decisions, unit: float | None = None) -> Beside:
        """What has both sides draw and decide alike; compiled code cannot be watched."""
        return Alike(decisions, unit) if self.shows_layers else nullcontext()


Beside = AbstractContextManager[Any]


def format_of(side: Side) -> torch.dtype:
    """The format that a side computes in: what it is said to be, or that of weights it trains."""
    return side.format or coarsest(trained(side)).to_real()


def trained(side: Side) -> list[Tensor]:
    """The parameters that are trained."""
    return [parameter for parameter in side.parameters().values() if parameter.requires_grad]


@contextmanager
def _nested(*contexts: Beside | None) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            if context is not None:
                stack.enter_context(context)
        yield
