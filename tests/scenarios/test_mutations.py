"""What the gate is for: damage is caught and refactorings are not, on three small networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.mnist.digits import load_digits
from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.baseline.comparison import Comparison, compare
from pytest_gradhealth.baseline.entry import Entry, entry_of
from pytest_gradhealth.results.diagnosis import Limit

Change = Callable[[nn.Module], object]
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
        kept: Tensor = self.act(out + x if self.skip else out)
        return kept


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
def _digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits()
    return images.view(-1, 1, 28, 28), labels


@cache
def batch(start: int = 0, size: int = 64) -> tuple[Tensor, Tensor]:
    images, labels = _digits()
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


def scaled(factor: float, *kinds: type[nn.Module]) -> Change:
    def change(model: nn.Module) -> None:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, kinds or (nn.Linear, nn.Conv2d)):
                    module.get_parameter("weight").mul_(factor)

    return change


def swapped(kind: type[nn.Module], other: Callable[[], nn.Module]) -> Change:
    def change(model: nn.Module) -> None:
        for name, module in list(model.named_modules()):
            if isinstance(module, kind):
                model.set_submodule(name, other())

    return change


def without_skips(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (Block, Layer)):
            module.skip = False


def frozen(*names: str) -> Change:
    def change(model: nn.Module) -> None:
        for name in names:
            model.get_submodule(name).requires_grad_(False)

    return change


def without_bias(name: str) -> Change:
    def change(model: nn.Module) -> None:
        model.get_submodule(name).register_parameter("bias", None)

    return change


def in_a_list(name: str) -> Change:
    """Layers that torch does not see any more."""

    def change(model: nn.Module) -> None:
        blocks = [*model.get_submodule(name)]  # type: ignore[misc]
        delattr(model, name)

        def called(x: Tensor) -> Tensor:
            for block in blocks:
                x = block(x)
            return x

        setattr(model, name, called)

    return change


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


def inserted(after: str, module: Callable[[], nn.Module]) -> Change:
    def change(model: nn.Module) -> None:
        model.set_submodule(after, nn.Sequential(model.get_submodule(after), module()))

    return change


def deepened(model: nn.Module) -> None:
    """Eight more layers, each of which halves what comes through."""
    torch.manual_seed(0)
    more: list[nn.Module] = []
    for _ in range(8):
        more += [nn.ReLU(), nn.Linear(120, 120)]
    model.set_submodule("classifier.1", nn.Sequential(model.get_submodule("classifier.1"), *more))


def filled(value: float, name: str) -> Change:
    def change(model: nn.Module) -> None:
        nn.init.constant_(model.get_parameter(name), value)

    return change


def _large_embedding(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("embed.weight").mul_(100)


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(model: nn.Module) -> None:
        for one in changes:
            one(model)

    return change


def each(names: Iterable[str], change: Callable[[str], Change]) -> Change:
    """The same change in several places."""
    return both(*map(change, names))


def small_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.01)


BLOCKS = [f"blocks.{i}" for i in range(4)]
LAYERS = [f"layers.{i}" for i in range(4)]


@dataclass(frozen=True)
class Damage:
    """A change that hurts a network, or that may look as if it did.

    `harmless` says why the gate lets it pass.
    """

    net: str
    change: Change = lambda _: None
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
    "convolutions times 10": Damage("lenet", scaled(10.0, nn.Conv2d)),
    "linear weights times 10": Damage("lenet", scaled(10.0, nn.Linear)),
    "the first layer frozen": Damage("lenet", frozen("features.0")),
    "all but the head frozen": Damage("resnet", frozen("stem", "norm", "blocks")),
    "the embedding frozen": Damage("transformer", frozen("embed")),
    "a detach in the middle": Damage("lenet", inserted("features.3", Detach)),
    "a rounding in the middle": Damage("lenet", inserted("features.3", Round)),
    "outputs scaled down": Damage("lenet", inserted("classifier.1", lambda: Scale(0.01))),
    "a layer times 8": Damage("lenet", deepened),
    "a layer of zeros": Damage("lenet", filled(0.0, "classifier.3.weight")),
    "a bias that kills all units": Damage("lenet", filled(-100.0, "classifier.1.bias")),
    "a softmax before the loss": Damage(
        "lenet",
        inserted("classifier.5", lambda: nn.Softmax(1)),
        harmless="all gradients shrink by one factor, which Adam takes out; in a model that leaves"
        " the softmax to its loss, or takes it over, the same is no damage. The verdict becomes a"
        " warning, which is told",
    ),
    "skips removed, sigmoid": Damage("resnet", both(without_skips, swapped(nn.ReLU, nn.Sigmoid))),
    "norms and skips removed": Damage(
        "resnet", both(without_skips, swapped(nn.BatchNorm2d, nn.Identity))
    ),
    "norms that scale down": Damage("resnet", both(without_skips, small_norms)),
    "a block scaled down": Damage("resnet", inserted("blocks.3", lambda: Scale(0.01))),
    "a detach behind the stem": Damage("resnet", inserted("norm", Detach)),
    "a detach before the head": Damage("resnet", inserted("blocks", Detach)),
    "weights of convolutions times 100, no norms": Damage(
        "resnet",
        lambda m: (swapped(nn.BatchNorm2d, nn.Identity)(m), scaled(100.0, nn.Conv2d)(m))[0],
    ),
    "skips removed, four blocks": Damage("resnet", without_skips),
    "blocks frozen": Damage("transformer", frozen("layers.1", "layers.2")),
    "all in half of the blocks frozen but norms": Damage(
        "resnet", frozen("blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2")
    ),
    "the head frozen": Damage("lenet", frozen("classifier.5")),
    "a bias taken out": Damage("lenet", without_bias("classifier.3")),
    "blocks in a list": Damage("resnet", in_a_list("blocks")),
    "residual blocks that double": Damage(
        "resnet",
        lambda m: [inserted(f"blocks.{i}", lambda: Scale(4.0))(m) for i in range(4)] and None,
    ),
    "transformer without skips": Damage("transformer", without_skips),
    "transformer weights times 0.1, no skips": Damage(
        "transformer", both(without_skips, scaled(0.1, nn.Linear))
    ),
    "head weights times 100": Damage("transformer", filled(1.0, "head.weight")),
    "a sigmoid on the stream": Damage(
        "transformer",
        each(LAYERS, lambda name: inserted(name, nn.Sigmoid)),
        harmless="the norms behind each sigmoid take its factor of a quarter out again",
    ),
    "an embedding times 100": Damage(
        "transformer", _large_embedding, harmless="the norms take the scale of the stream out"
    ),
    "a layer that freezes all before it": Damage("transformer", inserted("layers.1", Detach)),
    # What is not caught, and why.
    "norms removed beside skips": Damage(
        "resnet",
        swapped(nn.BatchNorm2d, nn.Identity),
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
        each([f"{name}.mlp" for name in LAYERS], lambda name: inserted(name, lambda: Scale(0.1))),
        harmless="the stream carries the gradient past its branches",
    ),
}


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
            for place, parameter in enumerate(model.parameters(recurse=False)):
                self.register_parameter(f"own_{place}", parameter)

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
        ("lenet", lambda: LeNet(nn.Tanh)),
    ],
    ids=range(8),
)
def test_healthy_growth_is_named_and_no_regression(
    name: str, change: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(0)
    found = against_baseline(name, measured(change()))
    assert {change.fails for change in found.worse} == ({"layers"} if name != "lenet" else set())


def test_another_torch_is_information(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = measured(built("lenet"))
    kept = entry_of(diagnosis, {"torch": "2.6.0", "device": "cuda"})
    now = entry_of(diagnosis, {"torch": "2.15.0", "device": "cpu"})
    assert not compare(kept, now, PATH, STEP).changes


def test_the_nets_are_healthy() -> None:
    for name in NETS:
        assert measured(built(name)).verdict == "healthy"
        assert math.isfinite(baseline(name).paths[0].ratio)
