"""Healthy architectures at their default initialisation: none of them may fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import probe
from tests.helpers.architectures import TOKENS, LanguageModel, Recurrent, labels
from tests.helpers.nets import mlp

cross_entropy = nn.functional.cross_entropy


def images(size: int = 64, examples: int = 4) -> Tensor:
    return torch.randn(examples, 3, size, size)


def torchvision_models() -> Any:
    return pytest.importorskip("torchvision").models


def mean_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Cross entropy, over the auxiliary heads too where a model has some."""
    heads = (
        [head for head in outputs if head is not None] if isinstance(outputs, tuple) else [outputs]
    )
    return torch.stack([cross_entropy(head, targets) for head in heads]).mean()


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("resnet18", {}, 64),
        ("resnet50", {"zero_init_residual": True}, 64),
        ("mobilenet_v3_small", {}, 64),
        ("convnext_tiny", {}, 64),
        ("densenet121", {}, 64),
        ("efficientnet_b0", {}, 64),
        ("googlenet", {"aux_logits": True, "init_weights": False}, 96),
        ("regnet_y_400mf", {}, 64),
        ("shufflenet_v2_x0_5", {}, 64),
        ("squeezenet1_1", {}, 64),
        ("vgg11_bn", {}, 32),
    ],
)
def test_classifiers_of_torchvision(name: str, options: dict[str, Any], size: int) -> None:
    model = torchvision_models().get_model(name, num_classes=10, **options)
    diagnosis = probe(model, images(size), labels(), loss=mean_loss)
    assert diagnosis.verdict == "healthy", diagnosis


def test_a_vision_transformer_with_its_zero_head() -> None:
    model = torchvision_models().VisionTransformer(32, 8, 4, 4, 64, 128, num_classes=10)
    diagnosis = probe(model, images(32), labels(), loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([block(3, 16), block(16, 32), block(32, 64)])
        self.up = nn.ModuleList([block(64 + 32, 32), block(32 + 16, 16)])
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, layer in enumerate(self.down):
            x = layer(x if i == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for layer, skip in zip(self.up, skips[-2::-1], strict=True):
            x = layer(torch.cat([nn.functional.interpolate(x, scale_factor=2), skip], 1))
        out: Tensor = self.head(x)
        return out


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_transformer_language_models(norm_first: bool, tied: bool) -> None:
    model = LanguageModel(norm_first=norm_first, tied=tied)
    diagnosis = probe(model, TOKENS, TOKENS.roll(-1, 1), loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_classifiers(kind: Callable[..., nn.Module]) -> None:
    diagnosis = probe(Recurrent(kind), TOKENS, labels(), loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis


def test_a_u_net() -> None:
    target = torch.randint(0, 10, (4, 32, 32))
    diagnosis = probe(UNet(), images(32), target, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis


def test_an_autoencoder_and_a_nerf_like_field_do_not_fail() -> None:
    autoencoder = nn.Sequential(mlp(inputs=40, classes=4), nn.ReLU(), mlp(inputs=4, classes=40))
    x = torch.rand(64, 40)
    assert probe(autoencoder, x, x, loss=nn.functional.mse_loss).verdict != "failure"
    field = mlp(nn.ReLU, hidden=8, width=128, inputs=60, classes=4)
    assert probe(field, torch.randn(256, 60)).verdict != "failure"


def test_an_encoder_decoder() -> None:
    model = nn.Transformer(32, 4, 3, 3, 64, batch_first=True)
    inputs = {"src": torch.randn(4, 9, 32), "tgt": torch.randn(4, 7, 32)}
    diagnosis = probe(model, inputs)
    assert diagnosis.verdict == "healthy", diagnosis


def test_a_detector_that_returns_a_mapping_of_losses() -> None:
    """Boxes of one image are missing, as they may be; a list of images is one argument."""
    detection = torchvision_models().detection
    model = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )
    pictures = [torch.rand(3, 96, 96), torch.rand(3, 96, 96)]
    targets = [
        {"boxes": torch.tensor([[10.0, 10.0, 60.0, 60.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
    ]
    diagnosis = probe(model, (pictures, targets))
    assert diagnosis.verdict != "failure", diagnosis
