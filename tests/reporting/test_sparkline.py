"""Gradient paths in a few characters, where there is room for them and a font that has them."""

from __future__ import annotations

import math

import pytest

from pytest_gradhealth.formatting import BLOCKS
from pytest_gradhealth.reporting.sparkline import sparkline
from pytest_gradhealth.results.path import GradientPath, PathPoint


def path(*norms: float) -> GradientPath:
    points = tuple(PathPoint(str(i), "Linear", (1,), norm, 1) for i, norm in enumerate(norms))
    return GradientPath(points, points[0])


@pytest.mark.parametrize(
    ("norms", "line"),
    [
        ((1.0, 1.0, 1.0), "███"),
        ((0.5, 1.0), "▇█"),
        ((1e-3, 1e-2, 1e-1, 1.0), "▁▃▆█"),
        ((1e-12, 1.0), "▁█"),
        ((1e6, 1.0), "█▁"),
        ((0.0, 1.0), "0█"),
        ((math.nan, math.inf, 1.0), "!!█"),
        ((1.0,), ""),
        ((0.0, 0.0), ""),
    ],
)
def test_norms_are_levels_on_a_log_scale(norms: tuple[float, ...], line: str) -> None:
    assert sparkline(path(*norms)) == line


def test_long_paths_are_sampled_with_both_ends() -> None:
    norms = [10.0**-i for i in reversed(range(100))]
    assert sparkline(path(*norms)) == BLOCKS
    assert sparkline(None) == ""


@pytest.mark.parametrize(("columns", "expected"), [("80", False), ("120", True), ("160", True)])
def test_there_is_room_on_wide_terminals(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, columns: str, expected: bool
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    pytester.makepyfile(
        """
import torch
from torch import nn

def test_net(gradhealth):
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8), nn.Sigmoid()] * 3
    gradhealth.probe(nn.Sequential(*layers, nn.Linear(8, 2)), torch.randn(8, 8))
"""
    )
    result = pytester.runpytest("--gradhealth-report", "-p", "no:cacheprovider")
    lines = result.stdout.str().splitlines()
    (row,) = [line for line in lines if line.endswith("::test_net")]
    assert any(block in row for block in BLOCKS) is expected
    assert len(row) <= int(columns)
    header = next(line for line in lines if line.startswith("verdict"))
    assert ("profile" in header) is expected
