"""Both sides of a baseline compare the same: whichever of them was looked at more closely."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.baseline.entry import Entry, entry_of
from pytest_gradhealth.plugin.baseline_gate import kept_of
from tests.helpers.gate import compared

TOKENS = torch.randint(0, 12, (4, 6), generator=torch.Generator().manual_seed(1))
WIDTH = 8


class Reader(nn.Module):
    """Tokens and something beside them that does not depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tok, self.head = nn.Embedding(12, WIDTH), nn.Linear(WIDTH, 12)
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.make()

    def make(self) -> None:
        """Make what is beside the tokens."""

    def beside(self, h: Tensor) -> Tensor:
        """Put it to them."""
        return h

    def forward(self, x: Tensor) -> Tensor:
        h = self.beside(self.tok(x))
        out: Tensor = self.head(h + self.block(h))
        return out.transpose(1, 2)


class Positions(Reader):
    """A position embedding (GPT-2, `wpe`)."""

    def make(self) -> None:
        self.pos = nn.Embedding(6, WIDTH)

    def beside(self, h: Tensor) -> Tensor:
        mixed: Tensor = h + self.pos(torch.arange(6))
        return mixed


class PositionBias(Reader):
    """A network of its own that makes a bias for attention out of distances."""

    def make(self) -> None:
        self.bias = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))

    def beside(self, h: Tensor) -> Tensor:
        apart = torch.arange(6.0)[:, None] - torch.arange(6.0)
        scores = h @ h.transpose(1, 2) + self.bias(apart[..., None])[..., 0]
        mixed: Tensor = h + scores.softmax(-1) @ h
        return mixed


class Queries(Reader):
    """Learned queries that ask the tokens (DETR, Perceiver)."""

    def make(self) -> None:
        self.queries, self.ask = nn.Embedding(6, WIDTH), nn.Linear(WIDTH, WIDTH)

    def beside(self, h: Tensor) -> Tensor:
        asked = self.ask(self.queries.weight) @ h.transpose(1, 2)
        mixed: Tensor = h + 0.1 * asked.softmax(-1) @ h
        return mixed


class Shared(Reader):
    """A style that goes into two layers, so that neither of them is behind the other."""

    def make(self) -> None:
        self.style, self.two = nn.Linear(3, WIDTH), nn.Linear(WIDTH, WIDTH)

    def beside(self, h: Tensor) -> Tensor:
        style = self.style(torch.ones(3))
        styled: Tensor = self.two(h * (1 + style)) + style
        return styled


NETS: Mapping[str, Callable[[], Reader]] = {
    kind.__name__: kind for kind in (Positions, PositionBias, Queries, Shared)
}


def measured(model: nn.Module | Callable[[], nn.Module], **options: float) -> Diagnosis:
    return probe(model, TOKENS, TOKENS, loss=F.cross_entropy, **options)  # type: ignore[arg-type]


@cache
def looked_at(kind: str, *, closely: bool) -> Diagnosis:
    """A probe; a limit that warns makes it ask which first layers carry data."""
    low, high = (0.99, 1.01) if closely else (1e-9, 1e9)
    return measured(NETS[kind](), warn_min_ratio=low, warn_max_ratio=high)


def of_version_1(entry: Entry) -> Entry:
    """What a file of the first format says: of judged paths, and nothing of parameters."""
    paths = tuple(path for path in entry.paths if path.judged)
    return dataclasses.replace(entry, paths=paths, parameters=None)


@pytest.mark.parametrize("kind", NETS)
def test_no_path_is_lost_for_being_looked_at(kind: str) -> None:
    plain, close = looked_at(kind, closely=False), looked_at(kind, closely=True)
    judged = [{path.first.name for path in d.profile.judged_paths} for d in (plain, close)]
    assert judged[1] < judged[0], "one side knows what carries data, and the other does not"
    for before, after in itertools.permutations((plain, close)):
        kept = kept_of(before, {})
        for entry in (kept, of_version_1(kept)):
            changes = compared(entry, after).comparison.changes
            assert {change.kind for change in changes} <= {"verdict"}


class Forgetful(Positions):
    """Residual blocks of which the last may be forgotten, which is a warning and a closer look."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.used = blocks
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def beside(self, h: Tensor) -> Tensor:
        h = super().beside(h)
        for block in self.blocks[: self.used]:
            h = h + block(h)
        return h


def test_what_was_forgotten_is_told_and_nothing_else_is_lost() -> None:
    whole, forgetful = (measured(Forgetful(blocks)) for blocks in (3, 2))
    assert (whole.verdict, forgetful.verdict) == ("healthy", "healthy")
    check = compared(kept_of(whole, {}), forgetful)
    assert [change.message for change in check.comparison.changes] == [
        "not called any more, though others of the list are: blocks.2 (72 of the 540 elements that"
        " got gradient)"
    ]
    assert [c.fails for c in check.failing] == ["layers"]
    assert [c.message for c in compared(kept_of(forgetful, {}), whole).comparison.changes] == [
        "gradient reaches blocks.2 now (72 elements), and did not before"
    ]


@pytest.mark.parametrize("closely", [False, True])
def test_what_is_beside_and_gets_no_gradient_is_lost(closely: bool) -> None:
    frozen = Positions()
    frozen.pos.requires_grad_(False)
    before = kept_of(looked_at("Positions", closely=closely), {})
    check = compared(before, measured(frozen))
    assert [c.message for c in check.failing] == [
        "no gradient reaches pos any more: frozen (48 of the 324 elements that got gradient)"
    ]


def test_the_same_seed_is_compared_whichever_decides() -> None:
    """A seed that warns would be the one that is reported, and is not the one of the baseline."""

    def unlucky() -> nn.Module:
        seed, model = torch.initial_seed(), Positions()
        if seed:
            with torch.no_grad():
                model.head.weight.mul_(1000)
        return model

    healthy = measured(Positions, seeds=1)
    warned = measured(unlucky, seeds=2)
    assert warned.decisive_seed != warned.seeds[0]
    assert warned.verdict != "healthy"
    changes = compared(kept_of(healthy, {}), warned).comparison.changes
    assert [change.kind for change in changes] == ["verdict"]
    assert entry_of(warned, {}) == kept_of(warned, {})


class Normalised(nn.Sequential):
    """Outputs that only batch normalisation keeps at their size."""

    def __init__(self, gain: float) -> None:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for _ in range(6):
            linear = nn.Linear(WIDTH, WIDTH)
            nn.init.orthogonal_(linear.weight, gain)
            layers += [linear, nn.BatchNorm1d(WIDTH), nn.ReLU()]
        super().__init__(*layers, nn.Linear(WIDTH, 4))
        self.eval()


def test_numbers_of_two_modes_are_not_compared() -> None:
    x, y = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 4

    def found(gain: float) -> Diagnosis:
        return probe(Normalised(gain), x, y, loss=F.cross_entropy)

    level, sick = found(1.4), found(0.01)
    assert [d.profile.training for d in (level, sick)] == [False, True]
    for before, after, words in (
        (level, sick, "judged in training mode now, the baseline was not: no numbers are compared"),
        (sick, level, "judged in training mode in the baseline, not now: no numbers are compared"),
    ):
        changes = compared(kept_of(before, {}), after).comparison.changes
        assert [(c.kind, c.worse, c.message) for c in changes] == [("mode", False, words)]
