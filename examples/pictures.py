"""Draws the pictures of the documentation from probes: python -m examples.pictures"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.formatting import factor, number

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
#: The page's own colours, so that a picture is light or dark with it.
MAIN, QUIET = "var(--color-brand-primary, #0a4bff)", "currentColor"


class Block(nn.Module):
    """A residual block, whose branch is not on the path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the branch makes of the input."""
        out: Tensor = x + self.fc2(self.act(self.fc1(x)))
        return out


class Net(nn.Module):
    """A first layer, a residual block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(32, 32), Block(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        out: Tensor = self.head(self.block(self.stem(x)))
        return out


#: Where the modules of the network stand in the picture.
PLACES = {
    "stem": (75, 120),
    "block.fc1": (220, 50),
    "block.act": (315, 50),
    "block.fc2": (410, 50),
    "block": (530, 120),
    "head": (645, 120),
}


def residual_net() -> Diagnosis:
    """What a probe finds in a network with a residual block."""
    torch.manual_seed(0)
    return probe(Net(), torch.randn(64, 32), torch.arange(64) % 10, loss=nn.CrossEntropyLoss())


def residual(diagnosis: Diagnosis) -> str:
    """The gradient path through a residual block: what is on it, and what gradient goes round."""
    path = {point.name: point for point in diagnosis.paths[0].points}
    parts = [
        _line([(645, 120), (530, 120), (75, 120)], MAIN, 3),
        _line(
            [(530, 120), (410, 50), (315, 50), (220, 50), (150, 50), (110, 120)], QUIET, 1.5, "5"
        ),
    ]
    for name, (x, y) in PLACES.items():
        on = name in path
        label = "x + f(x)" if name == "block" else name.rpartition(".")[2]
        parts.append(_box(x, y, label, MAIN if on else QUIET))
        if on:
            parts.append(_text(x, y + 44, f"norm {number(path[name].norm)}", MAIN))
    parts.append(_text(360, 200, "on the path: every way from the loss crosses it", MAIN))
    parts.append(_text(315, 14, "a branch: gradient gets past it", QUIET))
    return _svg(720, 214, "The gradient path through a residual block", parts)


def depth() -> str:
    """The norm of the gradient against depth, of three networks of twenty layers."""
    curves: dict[str, Callable[[], nn.Module]] = {
        "sigmoid": lambda: nn.Sequential(nn.Linear(64, 64), nn.Sigmoid()),
        "ReLU": lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU()),
        "residual": lambda: Block(64),
    }
    left, right, top, each = 60.0, 540.0, 60.0, 10.0
    parts = []
    for decades in range(4, -21, -4):
        y = top - each * decades
        parts.append(_line([(left, y), (right, y)], QUIET, 0.4))
        parts.append(_text(left - 10, y + 5, f"1e{decades}" if decades else "1", QUIET, "end"))
    for place, (name, make) in enumerate(curves.items()):
        ratios = [math.log10(norm) for norm in _norms(make)]
        ratios = [ratio - ratios[-1] for ratio in ratios]
        step, y = (right - left) / (len(ratios) - 1), top + 24 * place
        dash = ("", "6 4", "2 3")[place]
        curve = [(left + step * i, top - each * ratio) for i, ratio in enumerate(ratios)]
        parts.append(_line(curve, MAIN, 2.5, dash))
        parts.append(_line([(right + 20, y), (right + 52, y)], MAIN, 2.5, dash))
        parts.append(_text(right + 60, y + 5, f"{name}: {factor(ratios[0])}", MAIN, "start"))
    parts.append(_text(left, 285, "first layer", QUIET, "start"))
    parts.append(_text(right, 285, "last layer", QUIET, "end"))
    return _svg(740, 294, "The norm of the gradient against depth", parts)


def _norms(make: Callable[[], nn.Module]) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(*(make() for _ in range(20)), nn.Linear(64, 10))
    diagnosis = probe(
        model,
        torch.randn(128, 64),
        torch.arange(128) % 10,
        loss=nn.CrossEntropyLoss(),
        confirm_steps=0,
    )
    return [point.norm for point in diagnosis.paths[0].points if point.type in ("Linear", "Block")]


def _svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<figure class="picture">\n<svg viewBox="0 0 {width} {height}" role="img"'
        f' width="{width}" font-family="system-ui, sans-serif" font-size="14">\n'
        f"<title>{title}</title>\n{body}\n</svg>\n</figure>\n"
    )


def _line(points: Sequence[tuple[float, float]], colour: str, width: float, dash: str = "") -> str:
    path = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"'
        f' stroke-dasharray="{dash}" stroke-linejoin="round"/>'
    )


def _box(x: int, y: int, text: str, colour: str) -> str:
    return (
        f'<rect x="{x - 42}" y="{y - 18}" width="84" height="36" rx="6" stroke="{colour}"'
        ' stroke-width="1.5" fill="var(--color-background-primary, white)"/>\n'
        f"{_text(x, y + 5, text, colour)}"
    )


def _text(x: float, y: float, text: str, colour: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "residual.html").write_text(residual(residual_net()), "utf-8")
    (FOLDER / "depth.html").write_text(depth(), "utf-8")
