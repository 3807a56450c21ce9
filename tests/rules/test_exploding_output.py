"""Outputs that are too large fail, unless targets or a few steps excuse them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import ExplodingOutputError, assert_healthy, probe
from pytest_gradhealth.formatting import number
from tests.helpers.architectures import Wired
from tests.helpers.findings import of, severities
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def rms_of(model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        size: float = model(x).square().mean().sqrt().item()
    return size


def sized(size: float, x: Tensor, classes: int = 5) -> nn.Sequential:
    """A net whose outputs have an RMS of `size`."""
    model = mlp(classes=classes)
    gain = size / rms_of(model, x)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.mul_(gain)
    return model


@pytest.mark.parametrize(
    ("size", "severity", "limit"),
    [
        (90.0, None, None),
        (110.0, "warning", "1e+02"),
        (900.0, "warning", "1e+02"),
        (1200.0, "failure", "1e+03"),
        (5e4, "failure", "1e+03"),
    ],
)
def test_large_logits(size: float, severity: str | None, limit: str | None) -> None:
    x, y = batch()
    model = sized(size, x)
    diagnosis = probe(model, x, y, loss=cross_entropy, select=["GH203"])
    assert diagnosis.profile.magnitude == pytest.approx(size, rel=1e-5)
    assert diagnosis.verdict == (severity or "healthy")
    assert [(f.severity, f.layer, f.message) for f in of(diagnosis, "GH203")] == (
        []
        if severity is None
        else [
            (
                severity,
                "6",
                f"the outputs are too large: their RMS is {number(size)}; limit {limit} (default)",
            )
        ]
    )
    if severity == "failure":
        with pytest.raises(ExplodingOutputError):
            assert_healthy(model, x, y, loss=cross_entropy, select=["GH203"])


@pytest.mark.parametrize(("rate", "severity"), [(0.1, "failure"), (0.5, "warning")])
def test_large_outputs_that_a_few_steps_bring_down_are_a_warning(
    rate: float, severity: str
) -> None:
    """Five steps leave (1 - rate)^5 of 1500: 886, and 47."""
    x, _ = batch()
    diagnosis = probe(
        Wired(lambda m, x: x * 0 + m.size, size=nn.Parameter(torch.full((20,), 1500.0))),
        x,
        loss=lambda out: out.square().sum() / (2 * len(out)),
        optimizer=lambda p: torch.optim.SGD(p, lr=rate),
        select=["GH203"],
    )
    first, second = diagnosis.profiles
    assert (first.magnitude, second.magnitude) == pytest.approx((1500, 1500 * (1 - rate) ** 5))
    assert severities(diagnosis, "GH203") == [severity]


def test_a_large_output_leaves_the_word_to_no_explosion_that_it_causes() -> None:
    """A last layer that is this large makes the gradient grow as well."""
    x, y = batch()
    model = sized(5e4, x)
    alone = probe(model, x, y, loss=cross_entropy, ignore=["GH201"])
    assert severities(alone, "GH203") == ["failure"]
    both = probe(model, x, y, loss=cross_entropy)
    assert severities(both, "GH201") == ["failure"]
    assert of(both, "GH203") == []


@pytest.mark.parametrize("size", [500.0, 5e3])
def test_targets_of_the_same_size_make_large_outputs_healthy(size: float) -> None:
    x, _ = batch()
    prices = size * torch.randn(16, 5)
    model = sized(size, x)
    diagnosis = probe(model, x, prices, loss=F.mse_loss)
    expected = size / prices.square().mean().sqrt().item()
    assert diagnosis.profile.magnitude == pytest.approx(expected, rel=1e-5)
    assert of(diagnosis, "GH203") == []
    small = probe(model, x, prices / size * 0.1, loss=F.mse_loss, select=["GH203"])
    assert small.profile.magnitude == pytest.approx(size, rel=1e-5)
    assert severities(small, "GH203") == ["warning" if size == 500 else "failure"]


def test_integer_labels_do_not_excuse_large_outputs() -> None:
    x, _ = batch()
    y = torch.randint(5000, 6000, (16,))
    diagnosis = probe(sized(5e3, x, classes=6000), x, y, loss=cross_entropy, select=["GH203"])
    assert severities(diagnosis, "GH203") == ["failure"]


@pytest.mark.parametrize(
    ("size", "limit", "severity"),
    [(70.0, 50.0, "failure"), (40.0, 50.0, None), (5e3, 1e4, "warning"), (2e4, 1e4, "failure")],
)
def test_max_output_moves_the_limit(size: float, limit: float, severity: str | None) -> None:
    x, y = batch()
    diagnosis = probe(sized(size, x), x, y, loss=cross_entropy, max_output=limit, select=["GH203"])
    assert severities(diagnosis, "GH203") == ([severity] if severity else [])
    if severity == "failure":
        assert diagnosis.findings[0].message == (
            f"the outputs are too large: their RMS is {number(size)};"
            f" limit {number(limit)} (the call)"
        )
