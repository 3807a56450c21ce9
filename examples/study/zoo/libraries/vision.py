"""Networks for pictures and films of small libraries."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.libraries.batches import (
    CLASSES,
    LENGTH,
    VOCABULARY,
    WIDTH,
    labelled,
    same_words,
    token_cross_entropy,
    words,
)
from examples.study.zoo.libraries.entry import Made, Row, Table, itself, of

#: A tower of a model that compares pictures and words.
PICTURES_TOWER = {"layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 8, "image_size": 32}
WORDS_TOWER = {
    "context_length": 16,
    "vocab_size": VOCABULARY,
    "width": WIDTH,
    "heads": 4,
    "layers": 2,
}


def rows_of_pictures(count: int = 8) -> Batch:
    """Return pictures with the channels last, and their labels."""
    pictures, labels = labelled(3, 32, 32, count=count)
    return pictures.movedim(1, -1), labels


def captioned(count: int = 8) -> Batch:
    """Return pictures and captions that tell of the same label."""
    pictures, labels = labelled(3, 32, 32, count=count)
    return (pictures, words(16, start=labels)), None


def two_views(count: int = 16) -> Batch:
    """Return pictures and the same ones with other noise."""
    pictures, _ = labelled(3, 32, 32, count=count)
    return (pictures, pictures + 0.5 * torch.randn_like(pictures)), None


class Joined(nn.Module):
    """Both views through one backbone and projection, compared by a library's loss."""

    def __init__(self, projection: nn.Module, loss: nn.Module, prediction: nn.Module | None = None):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.projection, self.loss, self.prediction = projection, loss, prediction

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = (self.projection(self.backbone(view)) for view in (left, right))
        if self.prediction is None:
            return self.loss(a, b)  # type: ignore[no-any-return]
        p, q = self.prediction(a), self.prediction(b)
        return (self.loss(p, b.detach()) + self.loss(q, a.detach())) / 2  # type: ignore[no-any-return]


class Metric(nn.Module):
    """An embedding of pictures whose distances a library's loss judges."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(512, WIDTH),
        )
        self.loss = loss

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        return self.loss(F.normalize(self.trunk(pictures)), labels)  # type: ignore[no-any-return]


def metric(name: str, kind: str, **options: Any) -> Row:
    """Return the row of an embedding with a loss of pytorch-metric-learning."""
    loss = of(f"pytorch_metric_learning.losses.{kind}", **options)
    return name, of(Metric, loss), compared, itself


def compared() -> Batch:
    """Return pictures and labels as two inputs."""
    return labelled(3, 32, 32, classes=4), None


def contrasted(outputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return CLIP's loss over the cosines of pictures and captions."""
    pictures, captions, scale = outputs
    logits = scale * pictures @ captions.T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def perceiver(**options: Any) -> Made:
    """Say how a Perceiver for pictures is made."""
    return of(
        "perceiver_pytorch.Perceiver",
        num_freq_bands=6,
        max_freq=10.0,
        depth=3,
        num_latents=32,
        latent_dim=WIDTH,
        latent_heads=4,
        num_classes=CLASSES,
        **options,
    )


def efficient(name: str) -> Made:
    """Say how an EfficientNet of efficientnet_pytorch is made."""
    return of(_efficientnet, name)


def _efficientnet(name: str) -> nn.Module:
    from efficientnet_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name(name, num_classes=CLASSES, image_size=64)
    return model


VISION: Table = {
    "perceiver_pytorch": (
        ("Perceiver", perceiver(), rows_of_pictures, F.cross_entropy),
        ("Perceiver, tied", perceiver(weight_tie_layers=True), rows_of_pictures, F.cross_entropy),
        (
            "Perceiver IO, words",
            of(
                "perceiver_pytorch.perceiver_io.PerceiverLM",
                num_tokens=VOCABULARY,
                dim=WIDTH,
                max_seq_len=LENGTH,
                depth=3,
                num_latents=32,
                latent_dim=WIDTH,
            ),
            same_words,
            token_cross_entropy,
        ),
    ),
    "efficientnet_pytorch": (
        (
            "EfficientNet-B0",
            efficient("efficientnet-b0"),
            partial(labelled, 3, 64, 64, count=8),
            F.cross_entropy,
        ),
    ),
    # CoCa is left out: one of its parameters is memory that nothing has written to.
    "open_clip": (
        (
            "CLIP",
            of("open_clip.CLIP", WIDTH, PICTURES_TOWER, WORDS_TOWER),
            captioned,
            contrasted,
        ),
    ),
    "lightly": (
        (
            "SimCLR",
            of(
                Joined,
                of("lightly.models.modules.SimCLRProjectionHead", 64, 64, 32),
                of("lightly.loss.NTXentLoss"),
            ),
            two_views,
            itself,
        ),
        (
            "SimSiam",
            of(
                Joined,
                of("lightly.models.modules.SimSiamProjectionHead", 64, 64, 32),
                of("lightly.loss.NegativeCosineSimilarity"),
                of("lightly.models.modules.SimSiamPredictionHead", 32, 16, 32),
            ),
            two_views,
            itself,
        ),
        (
            "Barlow twins",
            of(
                Joined,
                of("lightly.models.modules.BarlowTwinsProjectionHead", 64, 128, 128),
                of("lightly.loss.BarlowTwinsLoss"),
            ),
            two_views,
            itself,
        ),
        (
            "VICReg",
            of(
                Joined,
                of("lightly.models.modules.BarlowTwinsProjectionHead", 64, 128, 128),
                of("lightly.loss.VICRegLoss"),
            ),
            two_views,
            itself,
        ),
    ),
    "pytorch_metric_learning": (
        metric("triplet margin", "TripletMarginLoss"),
        metric("contrastive", "ContrastiveLoss"),
        metric("multi-similarity", "MultiSimilarityLoss"),
        metric("ArcFace", "ArcFaceLoss", num_classes=4, embedding_size=WIDTH),
        metric("proxy anchor", "ProxyAnchorLoss", num_classes=4, embedding_size=WIDTH),
    ),
}
