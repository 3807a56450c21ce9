"""Architectures that more than one room looks at, and parts that can be wired at will."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def labels(classes: int = 10, examples: int = 4) -> Tensor:
    return torch.randint(0, classes, (examples,))


class LanguageModel(nn.Module):
    def __init__(self, *, norm_first: bool, tied: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50, 32), nn.Embedding(16, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(32, 50, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        out: Tensor = self.head(self.encoder(hidden, mask=mask))
        return out.mT


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(50, 16), kind(16, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(self.embed(tokens))[0][:, -1])
        return out


TOKENS = torch.arange(64).reshape(4, 16) % 50


class ZeroHead(nn.Module):
    """A net whose last layer starts at zero, as in ViT and DiT."""

    def __init__(self, body: nn.Module, width: int = 5) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


class ReZero(nn.Module):
    """Residual blocks behind a scalar gate that starts at zero (Bachlechner et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(20, 16), nn.Linear(16, 5)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, gate in zip(self.blocks, self.gates, strict=True):
            x = x + gate * block(x).relu()
        out: Tensor = self.head(x)
        return out


class LoRA(nn.Module):
    """A frozen layer with a low-rank adapter (Hu et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, *, both_zero: bool = False) -> None:
        super().__init__()
        self.frozen = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = nn.Linear(inputs, 4, bias=False)
        self.lora_B = nn.Linear(4, outputs, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        if both_zero:
            nn.init.zeros_(self.lora_A.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.frozen(x) + self.lora_B(self.lora_A(x))
        return out


def lora_net(*, both_zero: bool = False) -> nn.Module:
    first, second = LoRA(20, 16, both_zero=both_zero), LoRA(16, 5, both_zero=both_zero)
    return nn.Sequential(first, nn.ReLU(), second)


class LayerScale(nn.Module):
    """Residual blocks that start at a millionth (Touvron et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(20, 16), nn.Linear(16, 5)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
            for _ in range(4)
        )
        self.gammas = nn.ParameterList(nn.Parameter(torch.full((16,), 1e-6)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, gamma in zip(self.blocks, self.gammas, strict=True):
            x = x + gamma * block(x)
        out: Tensor = self.head(x)
        return out


class Wired(nn.Module):
    """Parts, and a function that says how they are wired."""

    def __init__(self, use: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.use = use
        for name, part in parts.items():
            setattr(self, name, part)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, *args: Tensor) -> Any:
        return self.use(self, *args)


def with_biases(layer: nn.Module, dead: Sequence[int] = (0, 2, 3)) -> nn.Module:
    """A layer whose units `dead` never come through a rectifier, and whose others do."""
    assert isinstance(layer.bias, Tensor)
    with torch.no_grad():
        layer.bias.fill_(5.0)
        layer.bias[list(dead)] = -1e3
    return layer


class Squeezed(nn.Module):
    """A convolution with a squeeze-excite gate (Hu et al. 2018)."""

    def __init__(self, units: int = 4) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 5)
        self.squeeze, self.excite = nn.Linear(16, units), nn.Linear(units, 16)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = self.excite(self.act(self.squeeze(x.mean((2, 3))))).sigmoid()
        out: Tensor = self.head((x * gate[:, :, None, None]).mean((2, 3)))
        return out


class Apply(nn.Module):
    """A layer that applies a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def around(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(20, 8), nn.Tanh(), layer, nn.Linear(8, 5))


def nan_weight() -> nn.Module:
    layer = nn.Linear(8, 8)
    with torch.no_grad():
        layer.weight[3, 3] = math.nan
    return layer


def zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def adapter(a: float, b: float) -> Wired:
    """A frozen layer with a low-rank adapter, whose factors are plain parameters."""
    return Wired(
        lambda m, x: m.frozen(x) + x @ m.A @ m.B,
        frozen=nn.Linear(20, 5).requires_grad_(False),
        A=nn.Parameter(a * torch.randn(20, 4)),
        B=nn.Parameter(b * torch.randn(4, 5)),
    )
