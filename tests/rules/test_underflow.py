"""Gradients that a low-precision format flushes to zero fail, until a loss scale saves them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import (
    Diagnosis,
    ProbeError,
    UnderflowError,
    assert_healthy,
    assert_no_underflow,
    assert_no_vanishing,
    probe,
)
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.magnitudes import LossScale, MagnitudeRecord
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.rule import Evidence
from pytest_gradhealth.rules.underflow import check, window
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def said(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    return [(f.severity, f.layer, f.message) for f in diagnosis.findings if f.code == "GH501"]


@pytest.mark.parametrize("scale", [1.0, 2.0**12])
def test_the_scale_in_the_message_repairs(scale: float) -> None:
    torch.manual_seed(0)
    model, (x, y) = mlp(nn.Sigmoid, hidden=6, width=64), batch(64)
    if scale == 1.0:
        with pytest.raises(UnderflowError) as caught:
            assert_no_underflow(model, x, y, loss=cross_entropy)
        text = str(caught.value)
        assert text.startswith("float16 flushes 9")
        assert "% of the gradient of 0 (Linear) to zero at loss scale 1; limit 50%" in text
        assert "cause:  float16 holds nothing below 2^-24 and nothing above 2^16\n" in text
        assert "try:    torch.amp.GradScaler(init_scale=2.0**13): scales from 2^" in text
        assert caught.value.diagnosis is not None
        low, high = window(caught.value.diagnosis.profile.magnitudes, "float16")
        assert low < 13 < high
        for shift in (low, high):
            good = probe(
                model, x, y, loss=cross_entropy, precision="float16", loss_scale=2.0**shift
            )
            assert said(good) == []
        over = probe(
            model, x, y, loss=cross_entropy, precision="float16", loss_scale=2.0 ** (high + 1)
        )
        assert [s for s, _, _ in said(over)] == ["failure"]
        assert "float16 overflows at loss scale" in said(over)[0][2]
    else:
        diagnosis = assert_no_underflow(model, x, y, loss=cross_entropy, loss_scale=scale)
        assert said(assert_no_underflow(diagnosis, loss_scale=scale)) == []


def test_bfloat16_needs_no_scale() -> None:
    x, y = batch(64)
    model = mlp(nn.Sigmoid, hidden=6, width=64)
    assert_no_underflow(model, x, y, loss=cross_entropy, precision=torch.bfloat16)


def test_no_scale_fits_gradients_that_span_too_much() -> None:
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return (2.0**-60 * self.small * x + 2.0**9 * self.large * x).sum()

    with pytest.raises(UnderflowError) as caught:
        assert_no_underflow(Apart(), torch.ones(2, 2))
    assert caught.value.diagnosis is not None
    assert window(caught.value.diagnosis.profile.magnitudes, "float16") == (-25 + 60, 15 - 9)
    assert str(caught.value).endswith(
        "cause:  float16 holds nothing below 2^-24 and nothing above 2^16\n"
        "try:    bfloat16: no loss scale fits, as the gradients span 2^29 more than\n"
        "        float16 holds\n"
        "accept: max_underflow=1, if this is meant to be\n"
        "rule:   pytest --gradhealth-explain GH501"
    )


def test_many_elements_of_next_to_nothing_are_a_note() -> None:
    """As of the words that are not the target, in a large vocabulary."""
    x, y = torch.randn(64, 16), torch.zeros(64, dtype=torch.long)
    model = nn.Linear(16, 20000)
    with torch.no_grad():
        model.weight.mul_(0.01)
    diagnosis = probe(model, x, y, loss=lambda o, t: cross_entropy(o, t) / 32, precision="float16")
    out = model(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(out, y) / 32, out)
    share = (gradient.half() == 0).double().mean().item()
    assert said(diagnosis) == [
        (
            "info",
            "(output)",
            f"float16 flushes {share:.0%} of the gradient of (output) (Linear) to zero at loss"
            " scale 1",
        )
    ]


def test_a_scaler_gets_out_of_an_overflow_by_itself() -> None:
    x, y = batch()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    diagnosis = probe(mlp(), x, y, loss=cross_entropy, precision=torch.float16, loss_scale=scaler)
    assert [s for s, _, _ in said(diagnosis)] == ["warning"]
    assert diagnosis.profile.loss_scale == LossScale("float16", 2.0**40, adapts=True)


def test_without_a_precision_nothing_is_forecast() -> None:
    x, y = batch()
    diagnosis = probe(mlp(), x, y, loss=lambda o, t: cross_entropy(o, t) * 1e-12)
    assert diagnosis.profile.magnitudes == ()
    assert said(diagnosis) == []
    with pytest.raises(ProbeError) as caught:
        assert_no_underflow(diagnosis)
    assert str(caught.value) == (
        "this diagnosis was made without a precision; pass the model, or"
        " probe(..., precision='float16', loss_scale=1)"
    )
    made = probe(mlp(), x, y, loss=cross_entropy, precision="bfloat16")
    with pytest.raises(ProbeError, match="was made with precision='bfloat16' and loss_scale=1;"):
        assert_no_underflow(made)


def test_assert_healthy_takes_it_along() -> None:
    torch.manual_seed(0)
    x, y = batch(64)
    model = mlp(nn.Sigmoid, hidden=5, width=64)
    assert_no_vanishing(model, x, y, loss=cross_entropy)
    with pytest.raises(UnderflowError):
        assert_healthy(
            model,
            x,
            y,
            loss=lambda o, t: cross_entropy(o, t) * 1e-2,
            precision="float16",
        )


def test_the_layer_that_fails_is_told_before_one_that_loses_more_elements() -> None:
    many = MagnitudeRecord("many", "Linear", -40, (90, *[0] * 38, 10))
    felt = MagnitudeRecord("felt", "Linear", -26, (60, 0, 40))
    look = GradientProfile(
        0, 0, 2.3, paths=(), magnitudes=(many, felt), loss_scale=LossScale("float16", 1.0)
    )
    found = [*check(Evidence(look, None, {"max_underflow": Limit(0.5, "default")}))]
    assert [(f.severity, f.layer) for f in found] == [("failure", "felt")]
