"""What the gate is for: damage is caught, refactorings are not, on three small real networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.mnist import digits
from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.baseline.comparison import Comparison, compare
from pytest_gradhealth.baseline.entry import Entry, entry_of
from pytest_gradhealth.records import Limit

PATH, STEP = Limit(0.5, "default"), Limit(1.0, "default")


class LeNet(nn.Module):
    """LeCun et al. (1998), with ReLU."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            activation(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            activation(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(400, 120),
            activation(),
            nn.Linear(120, 84),
            activation(),
            nn.Linear(84, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x))
        return out


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.skip = True

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return self.act(out + x) if self.skip else self.act(out)


class ResNet(nn.Module):
    def __init__(self, blocks: int = 4, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.blocks(torch.relu(self.norm(self.stem(x))))
        out: Tensor = self.head(h.mean((2, 3)))
        return out


class Layer(nn.Module):
    """A pre-norm transformer layer (Xiong et al. 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.skip = True

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        attended = self.attention(h, h, h, need_weights=False)[0]
        x = x + attended if self.skip else attended
        out: Tensor = x + self.mlp(self.norm2(x)) if self.skip else self.mlp(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Reads a digit row by row."""

    def __init__(self, layers: int = 4, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(28, width)
        self.position = nn.Parameter(0.02 * torch.randn(28, width))
        self.layers = nn.Sequential(*(Layer(width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layers(self.embed(x.squeeze(1)) + self.position)
        out: Tensor = self.head(self.norm(h).mean(1))
        return out


NETS: Mapping[str, Callable[[], nn.Module]] = {
    "lenet": LeNet,
    "resnet": ResNet,
    "transformer": Transformer,
}


@cache
def batch(start: int = 0, size: int = 64) -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[start : start + size], labels[start : start + size]


def built(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NETS[name]()


def measured(
    model: nn.Module, data: tuple[Tensor, Tensor] | None = None, **options: Any
) -> Diagnosis:
    x, y = data or batch()
    options.setdefault("loss", F.cross_entropy)
    return probe(model, x, y, **options)


@cache
def baseline(name: str) -> Entry:
    return entry_of(measured(built(name)), {})


def against_baseline(name: str, diagnosis: Diagnosis) -> Comparison:
    return compare(baseline(name), entry_of(diagnosis, {}), PATH, STEP)


# Damage


def scaled(factor: float, *kinds: type[nn.Module]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, kinds or (nn.Linear, nn.Conv2d)):
                    module.weight.mul_(factor)

    return change


def swapped(kind: type[nn.Module], other: Callable[[], nn.Module]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name, module in list(model.named_modules()):
            if isinstance(module, kind):
                model.set_submodule(name, other())

    return change


def without_skips(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (Block, Layer)):
            module.skip = False


class Detach(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Round(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.round()


def inserted(after: str, module: Callable[[], nn.Module]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        model.set_submodule(after, nn.Sequential(model.get_submodule(after), module()))

    return change


def repeated(name: str, times: int) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        layer = model.get_submodule(name)
        copies = [copy.deepcopy(layer) for _ in range(times)]
        model.set_submodule(name, nn.Sequential(*copies))

    return change


def filled(value: float, name: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        nn.init.constant_(model.get_parameter(name), value)

    return change


def _large_embedding(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("embed.weight").mul_(100)


@dataclass(frozen=True)
class Damage:
    """A change that hurts a network, or that may look as if it did.

    `harmless` says why the gate lets it pass.
    """

    net: str
    change: Callable[[nn.Module], None] = lambda _: None
    options: Mapping[str, Any] | None = None
    harmless: str = ""


def in_half(model: nn.Module) -> None:
    model.bfloat16()


DAMAGE: Mapping[str, Damage] = {
    "ReLU to sigmoid": Damage("lenet", swapped(nn.ReLU, nn.Sigmoid)),
    "ReLU to softsign of a tenth": Damage(
        "lenet", swapped(nn.ReLU, lambda: nn.Sequential(Scale(0.1), nn.Softsign()))
    ),
    "ReLU to hard sigmoid": Damage("lenet", swapped(nn.ReLU, nn.Hardsigmoid)),
    "weights times 0.1": Damage("lenet", scaled(0.1)),
    "weights times 10": Damage("lenet", scaled(10.0)),
    "first weights times 10": Damage("lenet", scaled(10.0, nn.Conv2d)),
    "a detach in the middle": Damage("lenet", inserted("features.3", Detach)),
    "a rounding in the middle": Damage("lenet", inserted("features.3", Round)),
    "outputs scaled down": Damage("lenet", inserted("classifier.1", lambda: Scale(0.01))),
    "a layer times 8": Damage(
        "lenet", lambda m: repeated("classifier.3", 1)(m) or deepened(m, "classifier.1", 8)
    ),
    "a layer of zeros": Damage("lenet", filled(0.0, "classifier.3.weight")),
    "a bias that kills all units": Damage("lenet", filled(-100.0, "classifier.1.bias")),
    "a softmax before the loss": Damage("lenet", inserted("classifier.5", lambda: nn.Softmax(1))),
    "skips removed, sigmoid": Damage(
        "resnet", lambda m: (without_skips(m), swapped(nn.ReLU, nn.Sigmoid)(m))[0]
    ),
    "norms and skips removed": Damage(
        "resnet", lambda m: (without_skips(m), swapped(nn.BatchNorm2d, nn.Identity)(m))[0]
    ),
    "norms that scale down": Damage(
        "resnet", lambda m: [nn.init.constant_(n.weight, 0.01) for n in norms(m)] and None
    ),
    "a block scaled down": Damage("resnet", inserted("blocks.3", lambda: Scale(0.01))),
    "a detach behind the stem": Damage("resnet", inserted("norm", Detach)),
    "a detach before the head": Damage("resnet", inserted("blocks", Detach)),
    "weights of convolutions times 100, no norms": Damage(
        "resnet",
        lambda m: (swapped(nn.BatchNorm2d, nn.Identity)(m), scaled(100.0, nn.Conv2d)(m))[0],
    ),
    "residual blocks that double": Damage(
        "resnet",
        lambda m: [inserted(f"blocks.{i}", lambda: Scale(4.0))(m) for i in range(4)] and None,
    ),
    "transformer without skips": Damage("transformer", without_skips),
    "transformer weights times 0.1, no skips": Damage(
        "transformer", lambda m: (without_skips(m), scaled(0.1, nn.Linear)(m))[0]
    ),
    "head weights times 100": Damage("transformer", filled(1.0, "head.weight")),
    "a sigmoid on the stream": Damage(
        "transformer", lambda m: [inserted(f"layers.{i}", nn.Sigmoid)(m) for i in range(4)] and None
    ),
    "an embedding times 100": Damage("transformer", _large_embedding),
    "a layer that freezes all before it": Damage("transformer", inserted("layers.1", Detach)),
    # What is not caught, and why.
    "norms removed beside skips": Damage(
        "resnet",
        swapped(nn.BatchNorm2d, nn.Identity),
        harmless="four blocks beside their skips keep the gradient's scale without normalisation",
    ),
    "skips removed, four blocks": Damage(
        "resnet",
        without_skips,
        harmless="eight normalised convolutions train without skips",
    ),
    "bfloat16": Damage(
        "lenet", in_half, harmless="bfloat16 has float32's range: norms move by a percent"
    ),
    "learning rate times 100": Damage(
        "lenet",
        options={"optimizer": lambda ps: torch.optim.SGD(ps, lr=1.0)},
        harmless="no gradient changes before the first step; GH202 judges declared steps",
    ),
    "residual branch times 0.1": Damage(
        "transformer",
        lambda m: [inserted(f"layers.{i}.mlp", lambda: Scale(0.1))(m) for i in range(4)] and None,
        harmless="the stream carries the gradient past its branches",
    ),
}


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def deepened(model: nn.Module, after: str, layers: int) -> None:
    """Eight more layers of PyTorch's own initialisation, each of which halves what comes through."""
    width = model.get_submodule(after).out_features
    more: list[nn.Module] = []
    for _ in range(layers):
        more += [nn.ReLU(), nn.Linear(width, width)]
    model.set_submodule(after, nn.Sequential(model.get_submodule(after), *more))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_caught_or_known_to_be_harmless(kind: str) -> None:
    damage = DAMAGE[kind]
    model = built(damage.net)
    damage.change(model)
    data = batch()
    if next(model.parameters()).dtype == torch.bfloat16:
        data = data[0].bfloat16(), data[1]
    found = against_baseline(damage.net, measured(model, data, **(damage.options or {})))
    assert bool(found.worse) is not bool(damage.harmless), found.changes


def test_enough_kinds_of_damage_are_caught() -> None:
    assert sum(not damage.harmless for damage in DAMAGE.values()) >= 25


# Refactorings


def renamed(name: str) -> nn.Module:
    """The same modules, registered under other names."""
    model = built(name)
    inner = model.forward

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for place, (_, child) in enumerate(model.named_children()):
                self.add_module(f"part_{place}", child)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = inner(x)
            return out

    return Renamed()


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.backbone = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.backbone(x)
        return out


def reordered(name: str) -> nn.Module:
    """The same modules, registered in another order."""
    model = built(name)
    for key in reversed(list(model._modules)):
        model._modules[key] = model._modules.pop(key)
    return model


def functional(name: str) -> nn.Module:
    """Activations as functions instead of modules."""
    model = built(name)
    for key, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU):
            model.set_submodule(key, _Function())
    return model


class _Function(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


def in_double(name: str) -> Diagnosis:
    x, y = batch()
    return measured(built(name).double(), (x.double(), y))


HARMLESS: Mapping[str, Callable[[str], Diagnosis]] = {
    "again": lambda name: measured(built(name)),
    "another seed": lambda name: measured(built(name, 1)),
    "a third seed": lambda name: measured(built(name, 2)),
    "other examples": lambda name: measured(built(name), batch(64)),
    "a smaller batch": lambda name: measured(built(name), batch(0, 16)),
    "a larger batch": lambda name: measured(built(name), batch(0, 200)),
    "a summed loss": lambda name: measured(
        built(name), loss=lambda out, y: F.cross_entropy(out, y, reduction="sum")
    ),
    "a smoothed loss": lambda name: measured(
        built(name), loss=lambda out, y: F.cross_entropy(out, y, label_smoothing=0.1)
    ),
    "other names": lambda name: measured(renamed(name)),
    "in a wrapper": lambda name: measured(Wrapped(built(name))),
    "another order": lambda name: measured(reordered(name)),
    "functional activations": lambda name: measured(functional(name)),
    "double precision": in_double,
    "another optimizer": lambda name: measured(
        built(name), optimizer=lambda ps: torch.optim.SGD(ps, lr=0.01)
    ),
    "a copy": lambda name: measured(copy.deepcopy(built(name))),
    "a factory": lambda name: measured(built(name), seeds=1),
    "identities in between": lambda name: measured(nn.Sequential(nn.Identity(), built(name))),
    "hooks": lambda name: measured(_hooked(built(name))),
    "compiled": lambda name: measured(torch.compile(built(name), backend="eager")),  # type: ignore[arg-type]
    "a scaled batch": lambda name: measured(built(name), (0.8 * batch()[0], batch()[1])),
}


def _hooked(model: nn.Module) -> nn.Module:
    model.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_refactorings_are_not_flagged(kind: str, name: str) -> None:
    found = against_baseline(name, HARMLESS[kind](name))
    assert not found.worse, found.worse


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("resnet", lambda: ResNet(blocks=6)),
        ("resnet", lambda: ResNet(blocks=3)),
        ("resnet", lambda: ResNet(width=16)),
        ("transformer", lambda: Transformer(layers=6)),
        ("transformer", lambda: Transformer(layers=3)),
        ("transformer", lambda: Transformer(width=64)),
        ("lenet", lambda: LeNet(nn.LeakyReLU)),
        ("lenet", lambda: LeNet(nn.GELU)),
        ("lenet", lambda: LeNet(nn.Tanh)),
    ],
    ids=str,
)
def test_healthy_growth_is_not_flagged(name: str, change: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    found = against_baseline(name, measured(change()))
    assert not found.worse, found.worse


def test_another_torch_is_information(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = measured(built("lenet"))
    kept = entry_of(diagnosis, {"torch": "2.6.0", "device": "cuda"})
    now = entry_of(diagnosis, {"torch": "2.15.0", "device": "cpu"})
    assert not compare(kept, now, PATH, STEP).changes


def test_the_nets_are_healthy() -> None:
    for name in NETS:
        assert measured(built(name)).verdict == "healthy"
        assert math.isfinite(baseline(name).paths[0].ratio)
