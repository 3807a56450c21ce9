"""A small model of every kind that needs torch alone, with a sick twin where it can have one."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import torch
import torch.ao.quantization
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.helpers.nets import mlp

#: First point, last point and number of points of a path.
Path = tuple[str, str, int]


@dataclass(frozen=True)
class Kind:
    """A kind of model: how it is built (healthy, or with ten sigmoid layers) and what is measured.

    `twin` is the name of the layer that the gradient fades on its way to in the sick twin, "" for
    kinds without one. `hooked` says that an output can be shifted by a forward hook, which is how
    the norms are checked, `gated` that a weight of zero lets nothing through before its first step.
    """

    name: str
    build: Callable[[bool], nn.Module]
    paths: tuple[Path, ...]
    twin: str
    inputs: Callable[[], Any] = lambda: torch.randn(16, 20)
    loss: Callable[..., Any] = F.cross_entropy
    targets: Callable[[], Any] = lambda: torch.randint(0, 5, (16,))
    hooked: bool = True
    gated: bool = False
    dtype: torch.dtype = torch.float32


def body(sick: bool, **sizes: int) -> nn.Sequential:
    """A net that is level, or one in which the gradient vanishes."""
    return mlp(nn.Sigmoid, hidden=10, **sizes) if sick else mlp(nn.ReLU, **sizes)


def faint(sick: bool, **sizes: int) -> nn.Sequential:
    """A net without sigmoids, which strided nested tensors lack: the sick twin has tiny weights."""
    net = mlp(nn.ReLU, hidden=10 if sick else 3, **sizes)
    for parameter in net.parameters():
        parameter.data *= 0.2 if sick else 1.0
    return net


def layers(sick: bool, change: Callable[[nn.Module], object]) -> nn.Sequential:
    """The same, with every linear layer changed."""
    net = body(sick)
    for layer in net:
        if isinstance(layer, nn.Linear):
            change(layer)
    return net


class Around(nn.Module):
    """A net called by a function of it and the inputs."""

    def __init__(self, net: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.net = net
        self.call = call

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.call(self.net, *inputs, **named)


# Weights.


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.body = body(sick, inputs=16, width=16, classes=16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(self.embed(x))).transpose(1, 2)


class TiedAutoencoder(nn.Module):
    """A decoder that uses the encoder's weight the other way round."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.encode = nn.Linear(20, 8)
        self.code = body(sick, inputs=8, classes=8)
        self.bias = nn.Parameter(torch.zeros(20))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.code(self.encode(x)), self.encode.weight.t(), self.bias)


def repeated(_: bool) -> nn.Sequential:
    """One layer, used again and again: judged by the call that gets the most gradient."""
    one: list[nn.Module] = [nn.Linear(20, 20), nn.ReLU()]
    return nn.Sequential(*(one * 3), nn.Linear(20, 5))


class Embedded(nn.Module):
    """An embedding before a net."""

    def __init__(self, sick: bool, *, bag: bool, sparse: bool) -> None:
        super().__init__()
        kind = nn.EmbeddingBag if bag else nn.Embedding
        self.embed: Any = kind(50, 20, sparse=sparse)
        self.body = body(sick)

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Any:
        if isinstance(self.embed, nn.EmbeddingBag):
            return self.body(self.embed(x, offsets))
        return self.body(self.embed(x).mean(1))


class Complex(nn.Module):
    """Complex weights; the loss takes magnitudes."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(20, 20, dtype=torch.cfloat) for _ in range(10 if sick else 2)
        )
        self.head = nn.Linear(20, 5, dtype=torch.cfloat)
        self.scale = 0.2 if sick else 1.0

    def forward(self, x: Tensor) -> Any:
        hidden = x.to(torch.cfloat)
        for layer in self.layers:
            hidden = torch.tanh(layer(hidden)) * self.scale
        return self.head(hidden).abs()


def pruned(layer: nn.Module) -> None:
    nn.utils.prune.random_unstructured(layer, "weight", amount=0.2)  # type: ignore[no-untyped-call]


def quantised(sick: bool) -> nn.Module:
    """Prepared for quantisation-aware training."""
    stubs = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
    net: Any = nn.Sequential(stubs[0], *body(sick), stubs[1])
    net.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")  # type: ignore[no-untyped-call]
    prepared: nn.Module = torch.ao.quantization.prepare_qat(net.train())  # type: ignore[no-untyped-call]
    prepared(torch.randn(16, 20))
    return prepared


class StraightThrough(nn.Module):
    """Rounds to eighths, and lets the gradient past the rounding."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.body, self.head = body(sick), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x)
        return self.head(hidden + ((hidden * 8).round() / 8 - hidden).detach())


class Lora(nn.Module):
    """A frozen layer with a trainable product of two small weights beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(4, base.in_features) / math.sqrt(base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Any:
        return self.base(x) + x @ self.a.t() @ self.b.t()


def adapted(sick: bool) -> nn.Module:
    return nn.Sequential(*(Lora(m) if isinstance(m, nn.Linear) else m for m in body(sick)))


def frozen(sick: bool, *parts: int) -> nn.Module:
    net = body(sick)
    for part in parts:
        net[part].requires_grad_(False)
    return net


# Inputs and outputs.


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclasses.dataclass
class Record:
    left: Tensor
    right: Tensor


class Loose:
    """An object of the model's own, which nobody can look into."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right


class Forked(nn.Module):
    """Two inputs, a trunk, and two outputs packed into something, which a module returns too."""

    def __init__(self, sick: bool, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.trunk = body(sick, classes=16)
        self.fork = Fork(pack)

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.fork(self.trunk(a + b))


class Fork(nn.Module):
    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(16, 5), nn.Linear(16, 5)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.left(x), self.right(x))


class Siamese(nn.Module):
    """The same tower for both sides."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.tower = body(sick)

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.tower(a), self.tower(b)


class Towers(nn.Module):
    """A tower for each side, the second of which may be sick."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.image, self.text = body(False), body(sick)

    def forward(self, image: Tensor, text: Tensor) -> Any:
        return {"image": self.image(image), "text": self.text(text)}


def contrast(outputs: Any, _: object = None) -> Tensor:
    """How well each example finds its own partner."""
    left, right = outputs.values() if isinstance(outputs, dict) else outputs
    scores = F.normalize(left) @ F.normalize(right).t() / 0.1
    return F.cross_entropy(scores, torch.arange(len(scores)))


class Gan(nn.Module):
    """A generator, seen through a discriminator."""

    def __init__(self, sick: bool, *, trainable: bool, sick_judge: bool = False) -> None:
        super().__init__()
        self.generator = body(sick, classes=20)
        self.judge = body(sick_judge, classes=1).requires_grad_(trainable)

    def forward(self, noise: Tensor) -> Any:
        return self.judge(self.generator(noise))


def fools(scores: Tensor, _: object = None) -> Tensor:
    return F.softplus(-scores).mean()


# Forwards.


class Checkpointed(nn.Module):
    """Every block of a net is run again in the backward."""

    def __init__(self, sick: bool, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(20, 20), body(sick), nn.Linear(5, 5)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


class InPieces(nn.Module):
    """A net checkpointed in three pieces."""

    def __init__(self, sick: bool, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.net = nn.Linear(20, 20), body(sick)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Any:
        return checkpoint_sequential(self.net, 3, self.stem(x), use_reentrant=self.reentrant)  # type: ignore[no-untyped-call]


def refuse(*_: object) -> NoReturn:
    """A backend for torch.compile: whoever compiles is found out."""
    raise AssertionError("something was compiled")


@torch.compile(backend=refuse)
def doubled(x: Tensor) -> Tensor:
    return x * 2


class PartlyCompiled(nn.Module):
    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(20, 20)
        self.body: Any = torch.compile(body(sick), backend=refuse)

    def forward(self, x: Tensor) -> Any:
        return self.body(doubled(self.stem(x)))


def compiled_in_place(sick: bool) -> nn.Module:
    net = body(sick)
    net.compile(backend=refuse)
    return net


def compiled_forward(sick: bool) -> nn.Module:
    net: Any = body(sick)
    net.forward = torch.compile(net.forward, backend=refuse)
    result: nn.Module = net
    return result


class Doubled(torch.autograd.Function):
    """Two results, one of them the input itself, changed in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.mark_dirty(x)
        return x.mul_(2), x / 4

    @staticmethod
    def backward(_: Any, one: Tensor, other: Tensor) -> Tensor:
        return 2 * one + other / 2


def with_own_function(net: Any, x: Tensor) -> Any:
    one, other = Doubled.apply(net[0](x))
    return net[1:](one + other)


class Functional(nn.Module):
    """No submodule at all: parameters and functions."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        width = 20
        scale = 0.02 if sick else math.sqrt(2 / width)
        weights = (nn.Parameter(torch.randn(width, width) * scale) for _ in range(6))
        self.weights = nn.ParameterList(weights)
        self.head = nn.ParameterDict({"weight": nn.Parameter(torch.randn(5, width) / width)})
        self.head["bias"] = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.hidden(x)[-1].relu(), self.head["weight"], self.head["bias"])

    def hidden(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for weight in self.weights:
            x = (found[-1].relu() if found else x) @ weight.t()
            found.append(x)
        return found


class Bare(nn.Module):
    """Nothing but one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 5) / 5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Stateless(nn.Module):
    """Parameters here, the computation in a module that is not registered."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        net = body(sick)
        object.__setattr__(self, "net", net.requires_grad_(False))
        named = {name: nn.Parameter(p.detach().clone()) for name, p in net.named_parameters()}
        self.names = list(named)
        self.values = nn.ParameterList(named.values())

    def forward(self, x: Tensor) -> Any:
        parameters = dict(zip(self.names, self.values, strict=True))
        return torch.func.functional_call(self.net, parameters, (x,))  # type: ignore[arg-type]


def called_functionally(net: nn.Module, x: Tensor) -> Any:
    parameters = {name: 1.0 * p for name, p in net.named_parameters()}
    return torch.func.functional_call(net, parameters, (x,))


class Ensemble(nn.Module):
    """Three nets as one, by torch.func.vmap over stacked parameters."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        nets = [body(sick) for _ in range(3)]
        stacked, _ = torch.func.stack_module_state(nets)
        object.__setattr__(self, "net", body(sick).to("meta"))
        self.names = list(stacked)
        self.values = nn.ParameterList(nn.Parameter(p.detach()) for p in stacked.values())

    def forward(self, x: Tensor) -> Any:
        def one(parameters: Any, x: Tensor) -> Any:
            return torch.func.functional_call(self.net, parameters, (x,))  # type: ignore[arg-type]

        stacked = dict(zip(self.names, self.values, strict=True))
        return torch.func.vmap(one, (0, None))(stacked, x).mean(0)


def slope(net: nn.Module, x: Tensor) -> Any:
    """The gradient of a scalar field at every example."""
    return torch.func.vmap(torch.func.grad(lambda one: net(one).sum()))(x)


class Views(nn.Module):
    """Parts of an output are changed in place, through views that modules returned."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.stem, self.fold = nn.Linear(20, 40), nn.Unflatten(1, (2, 20))
        self.same, self.body = nn.Identity(), body(sick)

    def forward(self, x: Tensor) -> Any:
        whole = self.stem(x)
        parts = self.fold(whole)
        parts[:, 0].mul_(2)
        whole.add_(1)
        first = self.same(parts.select(1, 0))
        first.sub_(0.5)
        return self.body(parts.sum(1))


class Remembering(nn.Module):
    """Counts calls, caches, collects, and mixes what it said before into what it says."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.body = body(sick)
        self.calls = 0
        self.cache: dict[int, Tensor] = {}
        self.said: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        out = self.cache[self.calls] = self.body(x)
        if self.said:
            out = out + 0.1 * self.said[-1].detach()
        self.said.append(out)
        return out


def in_use(sick: bool) -> nn.Module:
    model = Remembering(sick)
    for _ in range(2):
        model(torch.randn(16, 20))
    return model


class Locked(nn.Module):
    """Keeps what cannot be copied."""

    def __init__(self, kept: Any = None) -> None:
        super().__init__()
        self.body = body(False)
        self.lock = threading.Lock() if kept is None else kept

    def forward(self, x: Tensor) -> Any:
        return self.body(x)


def hooked(sick: bool, hook: Callable[[Any], object]) -> nn.Module:
    net = body(sick)
    hook(net[2])
    return net


class Ragged(nn.Module):
    """Sequences of several lengths in one nested tensor, in and inside."""

    def __init__(self, sick: bool, layout: torch.layout | None, pool: bool) -> None:
        super().__init__()
        self.body = faint(sick, inputs=8)
        self.layout, self.pool = layout, pool

    def forward(self, x: Any) -> Any:
        if self.layout is not None:
            x = torch.nested.as_nested_tensor(x, layout=self.layout)
        out = self.body(x)
        return torch.stack([part.mean(0) for part in out.unbind()]) if self.pool else out


def sequences() -> list[Tensor]:
    return [torch.randn(length, 8) for length in (3, 4, 5, 6)]


def nested(layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor(sequences(), layout=layout)


def evaluated(sick: bool) -> nn.Module:
    net = body(sick)
    return nn.Sequential(nn.BatchNorm1d(20), nn.Dropout(0.5), *net).eval()


def lazy_in_use(sick: bool) -> nn.Module:
    net = nn.Sequential(nn.LazyLinear(20), *body(sick))
    net(torch.randn(16, 20))
    return net


def in_dtype(dtype: torch.dtype) -> Kind:
    return Kind(
        str(dtype).removeprefix("torch."),
        lambda sick: body(sick).to(dtype),
        (("0", "6", 7),),
        "0",
        inputs=lambda: torch.randn(16, 20, dtype=dtype),
        dtype=dtype,
    )


PLAIN: tuple[Path, ...] = (("0", "6", 7),)
INNER: tuple[Path, ...] = (("net.0", "net.6", 7),)


def ids() -> Tensor:
    return torch.randint(0, 50, (16, 4))


def two() -> Any:
    a = torch.randn(16, 20)
    return a, a + 0.1 * torch.randn(16, 20)


def both(outputs: Any, labels: Tensor) -> Tensor:
    """The losses of two outputs, whatever they are packed in."""
    while isinstance(outputs, (dict, list)):
        outputs = outputs["deep"] if isinstance(outputs, dict) and "deep" in outputs else outputs
        outputs = tuple(outputs.values()) if isinstance(outputs, dict) else tuple(outputs)
    if isinstance(outputs, (Record, Loose)):
        outputs = outputs.left, outputs.right
    left, right = outputs
    return F.cross_entropy(left, labels) + F.cross_entropy(right, labels)


def forked(name: str, pack: Callable[[Tensor, Tensor], Any]) -> Kind:
    return Kind(
        f"outputs in a {name}",
        lambda sick: Forked(sick, pack),
        (("trunk.0", "(outputs)", 8),),
        "trunk.0",
        inputs=two,
        loss=both,
    )


def weighted(name: str, change: Callable[[nn.Module], object], twin: str = "0") -> Kind:
    return Kind(name, lambda sick: layers(sick, change), PLAIN, twin)


def checkpointed(name: str, kind: Any, reentrant: bool, paths: tuple[Path, ...]) -> Kind:
    return Kind(name, lambda sick: kind(sick, reentrant), paths, "stem", hooked=not reentrant)


def hooking(name: str, hook: Callable[[Any], object]) -> Kind:
    return Kind(name, lambda sick: hooked(sick, hook), PLAIN, "0")


def ragged(name: str, layout: torch.layout, *, inside: bool, pool: bool) -> Kind:
    return Kind(
        name,
        lambda sick: Ragged(sick, layout if inside else None, pool),
        (("body.0", "(output)" if pool else "body.6", 8 if pool else 7),),
        "body.0",
        inputs=(lambda: (sequences(),)) if inside else (lambda: nested(layout)),
        loss=F.cross_entropy if pool else torch_sum,
        targets=lambda: torch.randint(0, 5, (4,)),
    )


def torch_sum(outputs: Any, _: object = None) -> Any:
    """A loss on every part of a nested tensor."""
    return torch.stack([part.square().mean() for part in outputs.unbind()]).sum()


KINDS = [
    Kind(
        "in-place activations",
        lambda sick: nn.Sequential(
            *(nn.ReLU(inplace=True) if isinstance(m, nn.ReLU) else m for m in body(sick))
        ),
        PLAIN,
        "0",
    ),
    Kind(
        "tied embedding",
        Tied,
        (("embed", "(output)", 10),),
        "embed",
        inputs=ids,
        targets=ids,
    ),
    Kind(
        "tied autoencoder",
        TiedAutoencoder,
        (("encode", "(output)", 9),),
        "encode",
        loss=lambda outputs, x: F.mse_loss(outputs, x),
        targets=lambda: torch.randn(16, 20),
    ),
    Kind("one layer again and again", repeated, (("0", "6", 7),), ""),
    forked("tuple", lambda a, b: (a, b)),
    forked("list", lambda a, b: [a, b]),
    forked("dict", lambda a, b: {"a": a, "b": b}),
    forked("named tuple", Pair),
    forked("dataclass", Record),
    forked("nested structure", lambda a, b: {"deep": [a, b]}),
    forked("object of its own", Loose),
    Kind(
        "siamese towers",
        Siamese,
        (("tower.0", "tower.6", 7), ("tower.0#1", "tower.6#1", 7)),
        "tower.0",
        inputs=two,
        loss=contrast,
    ),
    Kind(
        "two towers",
        Towers,
        (("image.0", "image.6", 7), ("text.0", "text.6", 7)),
        "text.0",
        inputs=lambda: dict(zip(("image", "text"), two(), strict=True)),
        loss=contrast,
    ),
    Kind(
        "generator and frozen discriminator",
        lambda sick: Gan(sick, trainable=False),
        (("generator.0", "judge.6", 14),),
        "generator.0",
        loss=fools,
    ),
    Kind(
        "generator and trainable discriminator",
        lambda sick: Gan(sick, trainable=True),
        (("generator.0", "judge.6", 14),),
        "generator.0",
        loss=fools,
    ),
    Kind(
        "generator and a discriminator that stops the gradient",
        lambda sick: Gan(False, trainable=False, sick_judge=sick),
        (("generator.0", "judge.6", 14),),
        "generator.0",
        loss=fools,
    ),
    Kind("frozen first layers", lambda sick: frozen(sick, 0), (("2", "6", 5),), "2"),
    Kind("frozen middle", lambda sick: frozen(sick, 2, 4), PLAIN, "0"),
    Kind("LoRA by hand", adapted, (("0.a", "6", 9),), "0.a", hooked=False, gated=True),
    checkpointed("checkpoint", Checkpointed, False, (("stem", "head", 9),)),
    checkpointed("re-entrant checkpoint", Checkpointed, True, (("stem", "head", 2),)),
    checkpointed("checkpointed pieces", InPieces, False, (("stem", "net.6", 8),)),
    checkpointed("re-entrant pieces", InPieces, True, (("stem", "net.6", 4),)),
    Kind(
        "compiled module",
        lambda sick: torch.compile(body(sick), backend=refuse),  # type: ignore[arg-type,return-value]
        PLAIN,
        "0",
    ),
    Kind("module compiled in place", compiled_in_place, PLAIN, "0"),
    Kind("compiled forward", compiled_forward, PLAIN, "0"),
    Kind("compiled parts", PartlyCompiled, (("stem", "body", 8),), "stem"),
    in_dtype(torch.float64),
    in_dtype(torch.bfloat16),
    in_dtype(torch.float16),
    Kind("complex weights", Complex, (("layers.0", "(output)", 4),), "layers.0"),
    Kind(
        "sparse embedding",
        lambda sick: Embedded(sick, bag=False, sparse=True),
        (("embed", "body.6", 8),),
        "embed",
        inputs=ids,
    ),
    Kind(
        "EmbeddingBag",
        lambda sick: Embedded(sick, bag=True, sparse=False),
        (("embed", "body.6", 8),),
        "embed",
        inputs=ids,
    ),
    Kind(
        "sparse EmbeddingBag with offsets",
        lambda sick: Embedded(sick, bag=True, sparse=True),
        (("embed", "body.6", 8),),
        "embed",
        inputs=lambda: (ids().reshape(-1), torch.arange(0, 64, 4)),
    ),
    Kind(
        "custom autograd.Function in place",
        lambda sick: Around(body(sick), with_own_function),
        INNER,
        "net.0",
    ),
    Kind("functional", Functional, (("weights.0", "(output)", 7),), "weights.0", hooked=False),
    Kind("bare parameter", lambda _: Bare(), (("(output)", "(output)", 1),), ""),
    Kind("views changed in place", Views, (("stem", "body.6", 8),), "stem"),
    weighted("weight_norm (old)", nn.utils.weight_norm),
    weighted("spectral_norm (old)", nn.utils.spectral_norm),
    weighted("weight_norm", parametrizations.weight_norm),
    weighted("spectral_norm", parametrizations.spectral_norm),
    weighted("orthogonal", parametrizations.orthogonal),
    weighted("pruned", pruned),
    Kind("fake quantisation", quantised, (("1", "7", 7),), "1"),
    Kind("straight-through rounding", StraightThrough, (("body.0", "head", 8),), "body.0"),
    ragged("nested input, strided", torch.strided, inside=False, pool=True),
    ragged("nested input, jagged", torch.jagged, inside=False, pool=True),
    ragged("nested inside, strided", torch.strided, inside=True, pool=True),
    ragged("nested inside, jagged", torch.jagged, inside=True, pool=True),
    ragged("nested output, strided", torch.strided, inside=False, pool=False),
    ragged("nested output, jagged", torch.jagged, inside=False, pool=False),
    Kind("state in the forward", Remembering, (("body.0", "body.6", 7),), "body.0"),
    Kind("state of an earlier forward", in_use, (("body.0", "(output)", 8),), "body.0"),
    Kind("a lock", lambda _: Locked(), (("body.0", "body.6", 7),), ""),
    hooking("forward hook", lambda m: m.register_forward_hook(lambda _m, _i, out: 2 * out)),
    hooking("pre-forward hook", lambda m: m.register_forward_pre_hook(lambda _, x: (2 * x[0],))),
    hooking(
        "full backward hook",
        lambda m: m.register_full_backward_hook(lambda _m, given, _: (2 * given[0],)),
    ),
    hooking(
        "full backward pre-hook",
        lambda m: m.register_full_backward_pre_hook(lambda _, arrived: (2 * arrived[0],)),
    ),
    hooking("tensor hook", lambda m: m.weight.register_hook(lambda gradient: 2 * gradient)),
    Kind("initialised lazy layer", lazy_in_use, (("0", "7", 8),), "0"),
    Kind("eval mode", evaluated, (("0", "8", 8),), "0"),
    Kind("fx graph", lambda sick: torch.fx.symbolic_trace(body(sick)), PLAIN, "0"),
    Kind(
        "exported program",
        lambda sick: torch.export.export(body(sick), (torch.randn(16, 20),)).module(),
        (("0.weight", "(output)", 4),),
        "0.weight",
        hooked=False,
    ),
    Kind("functional_call", Stateless, (("values.0", "(output)", 4),), "values.0", hooked=False),
    Kind(
        "functional_call with derived weights",
        lambda sick: Around(body(sick), called_functionally),
        INNER,
        "net.0",
    ),
    Kind(
        "vmap over examples",
        lambda sick: Around(body(sick), lambda net, x: torch.func.vmap(net)(x)),
        INNER,
        "net.0",
        hooked=False,
    ),
    Kind(
        "vmap over stacked weights",
        Ensemble,
        (("values.0", "(output)", 5),),
        "values.0",
        hooked=False,
    ),
    Kind(
        "DataParallel",
        lambda sick: nn.DataParallel(body(sick)),
        (("module.0", "module.6", 7),),
        "module.0",
    ),
]
