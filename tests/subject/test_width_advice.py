"""What to pass instead is said of labels, lengths, ranges, indices, channels and widths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import ProbeError, probe

X, Y = torch.arange(96.0).reshape(16, 6) / 96, torch.arange(16) % 3
IMAGE = torch.zeros(16, 8, 8)
OUT_OF_3 = "and the outputs have the classes 0 to 2; pass "


def net(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs))


def convolutional(channels: int) -> nn.Module:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv2d(channels, 4, 3), *pooled)


LABELS = (
    "the targets have shape {}, the outputs (16, 3): they look like labels of classes; pass"
    " loss=torch.nn.functional.cross_entropy, or torch.nn.functional.one_hot(y.long(), 3).float()"
)
SHORT = "there are 15 targets for 16 outputs; pass as many targets as examples, in the same order"
LOGITS = "pass loss=torch.nn.functional.binary_cross_entropy_with_logits"
TARGETS: dict[str, tuple[nn.Module, Any, Callable[..., Tensor], str]] = {
    "classes from 1": (
        *(net(), Y + 1, F.cross_entropy),
        f"the targets go from 1 to 3, {OUT_OF_3}y - 1",
    ),
    "negative classes": (
        *(net(), Y - 1, F.cross_entropy),
        f"the targets go from -1 to 1, {OUT_OF_3}labels from 0 on, and ignore_index=-1 for what is"
        " to be left out",
    ),
    "more classes": (
        *(net(), Y * 2, lambda out, y: -out.log_softmax(1).gather(1, y[:, None]).mean()),
        f"the targets go from 0 to 4, {OUT_OF_3}labels below 3, or a model whose last layer"
        " returns 5",
    ),
    "more classes than one_hot has": (
        *(net(), Y * 2, lambda out, y: F.mse_loss(out, F.one_hot(y, 3).float())),
        f"the targets go from 0 to 4, {OUT_OF_3}labels below 3, or a model whose last layer"
        " returns 5",
    ),
    "fewer labels": (net(), Y[:15], F.cross_entropy, SHORT),
    "fewer numbers": (net(1), X[:15, :1], F.mse_loss, SHORT),
    "fewer probabilities": (net(1), X[:15, :1], F.binary_cross_entropy_with_logits, SHORT),
    "labels": (net(), Y, F.mse_loss, LABELS.format("(16,)")),
    "labels in floats": (net(), Y.float(), nn.MSELoss(), LABELS.format("(16,)")),
    "numbers": (
        *(net(), X[:, 0] - 1, F.mse_loss),
        "the targets have shape (16,), the outputs (16, 3); pass 3 targets for each, or a model"
        " whose last layer returns 1",
    ),
    "logits": (
        *(net(1), (X[:, :1] > 0.5).float(), lambda out, y: F.binary_cross_entropy(out - 9, y)),
        "",
    ),
    "probabilities": (
        *(nn.Sequential(net(1), nn.Sigmoid()), X[:, :1] * 96, F.binary_cross_entropy),
        "the targets go from 0 to 90, and the loss takes numbers between 0 and 1; pass targets that"
        " are probabilities, or nn.functional.mse_loss",
    ),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets(case: str) -> None:
    model, targets, loss, advice = TARGETS[case]
    with pytest.raises(ProbeError) as raised:
        probe(model, X, targets, loss=loss)
    said = str(raised.value).splitlines()[-1].strip()
    if advice:
        assert said == advice
    else:
        assert said.startswith("the outputs go from ")
        assert said.endswith(f", and the loss takes numbers between 0 and 1; {LOGITS}")


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(40, 3))


class Rows(nn.Module):
    """Looks rows up in a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.ones(10, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.rows)


ROWS = "0 (Embedding) has 10 rows, 0 to 9, and the inputs go from {0} to {0}; pass indices of these"
INPUTS: dict[str, tuple[nn.Module, Tensor, str]] = {
    "index": (
        *(embedding(), torch.full((16, 5), 10)),
        f"{ROWS.format(10)}, or more rows: nn.Embedding(n, 8)",
    ),
    "negative index": (
        *(embedding(), torch.full((16, 5), -1)),
        f"{ROWS.format(-1)}, or more rows: nn.Embedding(n, 8)",
    ),
    "index of a function": (
        *(Rows(), torch.full((16, 5), 10)),
        "the inputs go from 10 to 10: an embedding has rows from 0 on, and one for each index",
    ),
    "no channels": (
        *(convolutional(1), IMAGE),
        "the inputs (16, 8, 8) lack a dimension of channels; pass x.unsqueeze(1)",
    ),
    "grey for colours": (
        *(convolutional(3), IMAGE),
        "the inputs (16, 8, 8) lack a dimension of channels; pass"
        " x.unsqueeze(1).expand(-1, 3, -1, -1)",
    ),
    "one example": (
        *(convolutional(3), IMAGE[:3]),
        "the inputs (3, 8, 8) are one example; pass a batch: x.unsqueeze(0)",
    ),
    "flat": (
        *(convolutional(1), IMAGE.flatten(1)),
        "the inputs (16, 64) lack a dimension; pass 4: examples, channels, and 2 of places",
    ),
    "channels": (
        *(convolutional(3), IMAGE[:, None]),
        "0 (Conv2d) takes 3 channels, and gets 1; pass inputs of that width, or make it"
        " Conv2d(1, ...)",
    ),
    "width": (
        *(net(), torch.zeros(16, 7)),
        "0 (Linear) takes 6 features, and gets 7; pass inputs of that width, or make it"
        " Linear(7, ...)",
    ),
    "not flat": (
        *(nn.Linear(64, 3), IMAGE[:, None]),
        "Linear takes 64 features, and gets 8; pass x.flatten(1)",
    ),
    "width inside": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(99, 3)),
        IMAGE[:, None],
        "2 (Linear) takes 99 features, and gets 144; pass inputs of that width, or make it"
        " Linear(144, ...)",
    ),
    "recurrent": (
        *(nn.LSTM(6, 8, batch_first=True), torch.zeros(16, 4, 5)),
        "LSTM takes 6 features, and gets 5; pass inputs of that width, or make it LSTM(5, ...)",
    ),
    "batch norm": (
        *(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(6, 3)), X),
        "0 (BatchNorm1d) takes 5 features, and gets 6; pass inputs of that width, or make it"
        " BatchNorm1d(6, ...)",
    ),
    "layer norm": (
        *(nn.Sequential(nn.LayerNorm(5), nn.Linear(6, 3)), X),
        "0 (LayerNorm) takes 5 features, and gets 6; pass inputs of that width, or make it"
        " LayerNorm(6, ...)",
    ),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs(case: str) -> None:
    model, inputs, advice = INPUTS[case]
    with pytest.raises(ProbeError) as raised:
        probe(model, inputs)
    assert str(raised.value).splitlines()[-1].strip() == advice
