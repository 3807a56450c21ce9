"""Which outputs a look measures, and how."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_gradhealth import probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import of, severities
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def test_one_number_per_example_is_an_output() -> None:
    """As of a binary classifier that squeezes its last dimension away."""
    x, y = batch()
    targets = (y > 2).float()
    averaging = Wired(lambda m, x: m.body(x)[:, 0].mean().expand(len(x)), body=mlp())
    loss = F.binary_cross_entropy_with_logits
    diagnosis = probe(averaging, x, targets, loss=loss)
    assert severities(diagnosis, "GH404") == ["failure"]
    huge = Wired(lambda m, x: 1e6 * m.body(x)[:, 0], body=mlp())
    with torch.no_grad():
        size = huge(x).square().mean().sqrt().item()
    diagnosis = probe(huge, x, targets, loss=loss, select=["GH203"], confirm_steps=0)
    assert diagnosis.profile.magnitude == pytest.approx(size, rel=1e-5)
    assert severities(diagnosis, "GH203") == ["failure"]
    healthy = Wired(lambda m, x: m.body(x)[:, 0], body=mlp())
    assert probe(healthy, x, targets, loss=loss).verdict == "healthy"


def test_the_smallest_of_several_outputs_is_judged() -> None:
    """Features beside the answer may be as large as they like."""
    x, y = batch()
    model = Wired(
        lambda m, x: (m.body(x), 1e6 * x @ m.w), body=mlp(), w=nn.Parameter(torch.eye(20))
    )
    diagnosis = probe(model, x, y, loss=lambda out, labels: cross_entropy(out[0], labels))
    assert severities(diagnosis, "GH203") == []


def test_a_batch_of_one_has_no_spread() -> None:
    x, y = batch(1)
    diagnosis = probe(mlp(), x, y, loss=cross_entropy)
    assert (diagnosis.profile.spread, diagnosis.profile.magnitude) == (None, None)
    assert of(diagnosis, "GH404") == []
