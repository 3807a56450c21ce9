"""What no verdict depends on is sampled where it is large; what one depends on never is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from pytest_gradhealth import Diagnosis, GradientProfile, probe
from pytest_gradhealth.baseline.entry import entry_of
from pytest_gradhealth.reporting.html import html_fragment
from pytest_gradhealth.tensors.samples import SMALL
from tests.helpers.libraries import library

_GENERATOR = torch.Generator().manual_seed(0)
X, Y = (torch.randn(shape, generator=_GENERATOR) for shape in ((8, 3, 48, 48), (8, 4)))


def conv(channels: int = 16) -> nn.Conv2d:
    return nn.Conv2d(channels, 16, 3, padding=1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(), nn.BatchNorm2d(16), nn.ReLU(), conv())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


class Pooled(nn.Module):
    """Features that are averaged over an image and read out, by several heads if there are."""

    def __init__(self, *features: nn.Module, heads: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.heads = nn.ModuleList(nn.Sequential(conv(), nn.ReLU(), conv()) for _ in range(heads))
        self.out = nn.ModuleList(nn.Linear(16, 4) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        pooled = (head(features).mean((2, 3)) for head in self.heads)
        return sum((out(x) for out, x in zip(self.out, pooled, strict=True)), torch.zeros(()))


class Towers(nn.Module):
    """Two first layers, and a cell that is called on what both return."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.cell = conv(3), conv(3), Block()
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = self.one(x) + self.other(x.flip(0)).tanh()
        for _ in range(3):
            state = self.cell(state)
        out: Tensor = self.out(state.mean((2, 3)))
        return out


class Parted(nn.Module):
    """A trunk that parts into several outputs, each of which has a term of the loss to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(3), nn.ReLU(), Block())
        self.parts = nn.ModuleList(nn.Sequential(Block(), nn.ReLU(), conv()) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk(x)
        return tuple(part(features) for part in self.parts)


HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: Pooled(conv(3), Block(), nn.ReLU(), Block()),
    "heads": lambda: Pooled(conv(3), nn.ReLU(), Block(), heads=2),
    "towers": Towers,
    "outputs": Parted,
}


def loss(outputs: Tensor | tuple[Tensor, ...], targets: Tensor) -> Tensor:
    if isinstance(outputs, Tensor):
        return mse_loss(outputs, targets)
    return sum((part.square().mean() for part in outputs), torch.zeros(()))


def look(model: nn.Module, **settings: Any) -> GradientProfile:
    torch.manual_seed(0)
    return judged(model, **settings).profile


def judged(model: nn.Module, **settings: Any) -> Diagnosis:
    return probe(model, X, Y, loss=loss, device="cpu", **settings)


def built(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return HEALTHY[kind]()


def estimated(profile: GradientProfile) -> set[str]:
    return {output.name for output in profile.outputs if output.sampled == "both"}


@pytest.mark.parametrize("kind", HEALTHY)
def test_paths_and_gradients_of_weights_are_exact(kind: str) -> None:
    ours, exact = look(built(kind)), look(built(kind), exact=True)
    assert estimated(ours), "there is nothing to tell the difference by"
    assert not {o.sampled for o in exact.outputs} - {""}
    assert [[p.norm for p in path.points] for path in ours.paths] == [
        [p.norm for p in path.points] for path in exact.paths
    ]
    on_paths = {point.key for path in ours.paths for point in path.points}
    assert not on_paths & {o.key for o in ours.outputs if o.sampled == "both"}
    assert [p.gradient for p in ours.parameters] == [p.gradient for p in exact.parameters]


def test_so_is_what_comes_to_the_layers_that_a_path_parts_into() -> None:
    ours = look(built("outputs"))
    assert {"trunk.2.branch.0", "parts.0.0.branch.2"} <= estimated(ours)
    assert not {"parts.0.0.branch.0", "parts.1.0.branch.0"} & estimated(ours)


@pytest.mark.parametrize("kind", HEALTHY)
def test_estimates_are_told_and_near(kind: str) -> None:
    pairs = zip(look(built(kind)).outputs, look(built(kind), exact=True).outputs, strict=True)
    for ours, exact in pairs:
        assert ours.norm == pytest.approx(exact.norm, rel=0.15 if ours.sampled == "both" else 1e-6)
        assert ours.activation == pytest.approx(exact.activation, rel=0.15 if ours.sampled else 0)
        assert bool(ours.sampled) == (ours.numel > SMALL)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_neither_verdicts_nor_baselines_depend_on_it(name: str) -> None:
    torch.manual_seed(0)
    model = library("torchvision").models.get_model(name, num_classes=4)
    x = nn.functional.interpolate(X, scale_factor=2)
    ours, exact = (probe(model, x, Y, loss=loss, device="cpu", exact=e) for e in (False, True))
    assert estimated(ours.profile)
    assert str(ours) == str(exact)
    assert entry_of(ours, {}) == entry_of(exact, {})


def sick() -> nn.Module:
    torch.manual_seed(0)
    blocks = [layer for _ in range(8) for layer in (conv(), nn.Sigmoid())]
    return Pooled(conv(3), nn.Sigmoid(), *blocks)


def test_what_fails_was_read_as_a_whole() -> None:
    ours, exact = judged(sick()), judged(sick(), exact=True)
    assert str(ours) == str(exact)
    assert ours.verdict == "failure"
    assert ours.profiles == exact.profiles


def test_what_is_warned_of_was_read_as_a_whole() -> None:
    """Large outputs are no finding of a path; their cause names what comes to a layer."""

    def loud() -> nn.Module:
        model = built("residual")
        with torch.no_grad():
            model.out[0].weight.mul_(20_000)  # type: ignore[index, union-attr]
        return model

    ours, exact = (judged(loud(), exact=e, confirm_steps=0) for e in (False, True))
    assert [(f.code, f.severity) for f in ours.findings] == [("GH203", "warning")]
    assert ours.profile == exact.profile


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("width", "eps"), [(512, 1e-5), (4096, 10.0)])
def test_so_is_growth_that_layers_before_a_norm_do_not_feel(
    width: int, eps: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Linear(300, 64, bias=False), nn.LayerNorm(64, eps=1e-20), nn.ReLU()),
        *(nn.Linear(64, width), nn.LayerNorm(width, eps=eps), nn.ReLU(), nn.Linear(width, 4)),
    )
    batch = 1e-5 * torch.randn(64, 300), torch.randn(64, 4)
    ours, exact = (
        probe(model, *batch, loss=mse_loss, exact=e, device="cpu") for e in (False, True)
    )
    assert str(ours) == str(exact)
    assert "GH201" in {finding.code for finding in ours.findings}


def read(model: nn.Module, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> int:
    """How many elements a probe takes norms of."""
    norm, counted = torch.linalg.vector_norm, []

    def counting(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        counted.append(values.numel())
        out: Tensor = norm(values, *args, **kwargs)
        return out

    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "vector_norm", counting)
        look(model, **settings)
    return sum(counted)


def test_a_healthy_probe_reads_less_than_half(monkeypatch: pytest.MonkeyPatch) -> None:
    every = read(built("residual"), monkeypatch, exact=True)
    assert read(built("residual"), monkeypatch) < 0.5 * every


def test_a_page_shows_which_numbers_are_estimates() -> None:
    diagnosis = judged(built("residual"))
    on_path = {point.key for path in diagnosis.profile.paths for point in path.points}
    told = [o.sampled == "both" or o.key in on_path for o in diagnosis.profile.outputs if o.sampled]
    assert estimated(diagnosis.profile)
    assert html_fragment(diagnosis).count("&gt;~") == sum(told)
    assert "~" not in html_fragment(judged(built("residual"), exact=True))
