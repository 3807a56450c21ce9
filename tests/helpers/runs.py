"""Runs of a test suite to write reports of, and how to read one in HTML."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import Diagnosis, Probe, Run, VanishingGradientError, assert_no_vanishing
from pytest_gradhealth import probe as probe_model
from pytest_gradhealth.baseline.check import Check, Now, check_entry
from pytest_gradhealth.baseline.entry import entry_of
from pytest_gradhealth.results.diagnosis import Limit, Measure, Outcome, Treatment

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.act = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.act(self.inner(x))
        return out


def net(activation: type[nn.Module] = nn.ReLU, layers: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(8, 8), activation()]
    return nn.Sequential(*parts, nn.Linear(8, 4))


def measured(model: nn.Module, **settings: Any) -> Diagnosis:
    return probe_model(model, X, Y, loss=cross_entropy, **settings)


def head_on_a_frozen_body() -> nn.Sequential:
    """A network of which one layer is trained, which is nothing to judge."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].requires_grad_(False)
    return model


def checked(before: Diagnosis, after: Diagnosis) -> Check:
    return check_entry(
        Now(entry_of(after, {})),
        {"test_net": entry_of(before, {})},
        file="tests/__gradhealth__/test_models.json",
        key="test_net",
        max_path=Limit(0.5, "default"),
        max_step=Limit(1.0, "default"),
    )


def sample() -> Run:
    """A healthy probe, one that has got worse, one that failed and was treated, one in time."""
    healthy = measured(nn.Sequential(nn.Linear(8, 8), Block(), nn.Linear(8, 4)))
    worse = measured(net(nn.Sigmoid))
    with pytest.raises(VanishingGradientError) as caught:
        assert_no_vanishing(net(nn.Sigmoid, 12), X, Y, loss=cross_entropy, remedy_budget=1)
    sick = caught.value.diagnosis
    assert sick is not None
    reader = nn.RNN(8, 8, batch_first=True)
    times = probe_model(
        reader, torch.randn(4, 12, 8), loss=lambda out: out[0][:, -1].sum(), dependency=9
    )
    return Run(
        (
            Probe("test_a.py::test_healthy", "passed", healthy, file="test_a.py", line=3),
            Probe("test_a.py::test_net", "failed", worse, (checked(measured(net()), worse),), "m"),
            Probe("test_a.py::test_sick", "failed", sick, (), str(caught.value), "test_a.py", 9),
            Probe("test_a.py::test_time", "passed", times),
        ),
        {"torch": torch.__version__},
        ("stale in f.json: test_old",),
    )


class Reader(HTMLParser):
    """Collects elements and text; HTML that is not closed shows in `open`."""

    VOID = frozenset({"meta", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def renamed(value: Any, name: str) -> Any:
    """The same records with one name in all places that hold text of no fixed wording."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {item.name: item.type for item in dataclasses.fields(value)}
        changed = {
            key: name if kind == "str" else renamed(getattr(value, key), name)
            for key, kind in kept.items()
        }
        return replace(value, **changed)
    if isinstance(value, tuple):
        return tuple(renamed(item, name) for item in value)
    if isinstance(value, dict):
        return {key: renamed(item, name) for key, item in value.items()}
    return value


#: Diagnoses of a net that fails and of one that gets a warning.
OUTCOMES: dict[Outcome, Measure | None] = {
    "cured": Measure(0.1, 2.0, 0.1, 10),
    "no effect": Measure(1e-9, 2.0, 2.0, 10),
    "cannot": None,
    "not tried": None,
}
TREATED = tuple(
    Treatment("a remedy", outcome, "GH101", Measure(1e-9, 2.0, 1.9, 10), after, "a = 1", "a reason")
    for outcome, after in OUTCOMES.items()
)
SICK = replace(measured(net(nn.Sigmoid, 12)), treatments=TREATED)
WARNS = probe_model(net(), X, Y, loss=cross_entropy, warn_min_ratio=0.9)

LONG_NAME = "n" * 290


def many(kind: str, n: int, name: str = LONG_NAME) -> tuple[Probe, ...]:
    """Probes of one kind, all with names as long as those of a large project get at most."""
    shown = {"healthy": measured(net()), "warning": WARNS, "failing": SICK}[kind]
    named = renamed(shown, name)
    outcome: Any = "failed" if kind == "failing" else "passed"
    message = 50 * f"{200 * 'x'}\n" if kind == "failing" else ""
    return tuple(Probe(f"t{i}{name}", outcome, named, (), message) for i in range(n))
