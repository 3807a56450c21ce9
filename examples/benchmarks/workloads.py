"""The models that are timed, each with a batch and a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

#: A seed for weights and batches, so that every run times the same numbers.
SEED = 0


@dataclass(frozen=True)
class Workload:
    """A model in training mode, a batch of one tensor, and a loss of outputs and targets.

    `scores` makes outputs and targets what cross_entropy takes: of shape (N, C) and (N,).
    """

    name: str
    about: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Callable[[Any, Tensor], Tensor]
    scores: Callable[[Any, Tensor], tuple[Tensor, Tensor]] = lambda *given: given

    def step(self) -> None:
        """The plain forward and backward that everything is measured against."""
        self.loss(self.model(self.inputs), self.targets).backward()  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Drop the gradients, as an optimizer's zero_grad does."""
        self.model.zero_grad(set_to_none=True)

    def to(self, device: torch.device) -> Workload:
        """The same on another device; the model itself is moved."""
        return replace(
            self,
            model=self.model.to(device),
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
        )


def mlp(depth: int = 10, width: int = 64, batch: int = 100) -> Workload:
    """Linear layers of one width with ReLU and He's initialisation, on images of 28 x 28."""
    torch.manual_seed(SEED)
    layers: list[nn.Module] = [nn.Flatten()]
    for size in (784, *[width] * (depth - 2)):
        layers += [nn.Linear(size, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    images, labels = torch.randn(batch, 1, 28, 28), torch.arange(batch) % 10
    about = f"{depth} layers of {width}, batch {batch} of 1x28x28"
    return Workload("MLP", about, model, images, labels, cross_entropy)


def resnet50() -> Workload:
    """ResNet-50 as torchvision initialises it."""
    from torchvision.models import resnet50 as build

    torch.manual_seed(SEED)
    images, labels = torch.randn(8, 3, 224, 224), torch.arange(8)
    return Workload("ResNet-50", "batch 8 of 3x224x224", build(), images, labels, cross_entropy)


def vit() -> Workload:
    """ViT-B/16 of torchvision with its head drawn as a Linear's is.

    torchvision sets that head to zero, for fine-tuning: then no layer before it gets a gradient,
    and a probe has to take its second look.
    """
    from torchvision.models import vit_b_16 as build

    torch.manual_seed(SEED)
    model = build()
    model.heads[-1].reset_parameters()
    images, labels = torch.randn(8, 3, 224, 224), torch.arange(8)
    return Workload("ViT-B/16", "batch 8 of 3x224x224", model, images, labels, cross_entropy)


def gpt2() -> Workload:
    """GPT-2 as its small configuration has it: 12 layers, 768 wide, 50,257 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(GPT2Config(use_cache=False))
    tokens = torch.randint(0, model.config.vocab_size, (1, 256))
    about = "batch 1 of 256 tokens"
    return Workload("GPT-2 small", about, model, tokens, tokens, _next_token, _scores_of_next)


def _next_token(outputs: Any, tokens: Tensor) -> Tensor:
    return cross_entropy(*_scores_of_next(outputs, tokens))


def _scores_of_next(outputs: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    logits = getattr(outputs, "logits", outputs)  # which some tools unpack
    return logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()


#: What is timed, smallest first.
WORKLOADS: dict[str, Callable[[], Workload]] = {
    "mlp": mlp,
    "resnet50": resnet50,
    "vit": vit,
    "gpt2": gpt2,
}
