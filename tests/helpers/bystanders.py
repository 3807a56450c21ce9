"""What a loss, a regulariser or a batch brings along, and the ways in which it holds on to it."""

from __future__ import annotations

import argparse
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import ProbeError, probe, suggest
from tests.helpers.attacks import Attack
from tests.helpers.nets import batch, mlp
from tests.helpers.state import content, sick, state_of

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Slotted:
    __slots__ = ("mean", "more", "seen")

    def __init__(self) -> None:
        self.seen, self.mean = 0, torch.zeros(())

    def note(self, value: Tensor) -> None:
        self.seen += 1
        self.more = self.seen
        self.mean.mul_(0.9).add_(value.detach())


@dataclass(slots=True)
class Meter:
    values: deque[float] = field(default_factory=lambda: deque([1.0]))
    total: float = 0.0

    def note(self, value: Tensor) -> None:
        self.values.append(float(value.detach()))
        self.total += 1


class Plain:
    def __init__(self) -> None:
        self.inner = Slotted()
        self.calls = 0

    def note(self, value: Tensor) -> None:
        self.calls += 1
        self.__dict__["new"] = value
        self.inner.note(value)


class Criterion(nn.Module):
    """A loss with buffers, beside the one that is called."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def note(self, value: Tensor) -> None:
        self.mean = 0.9 * self.mean + value.detach()


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5)), nn.BatchNorm1d(5)
        )

    def note(self, value: Tensor) -> None:
        self.layers(value.detach().expand(4, 5) + torch.randn(4, 5))


class Drawing:
    """Random numbers from generators of its own."""

    def __init__(self) -> None:
        self.torch = torch.Generator()
        self.python = random.Random(0)
        self.numpy = np.random.default_rng(0)
        self.legacy = np.random.RandomState(0)

    def note(self, _: Tensor) -> None:
        torch.rand(1, generator=self.torch)
        self.python.random(), self.numpy.random(), self.legacy.rand()

    def draw(self) -> tuple[float, ...]:
        """The next numbers, without drawing them."""
        torch_state, python_state = self.torch.get_state(), self.python.getstate()
        numpy_state, legacy_state = self.numpy.bit_generator.state, self.legacy.get_state()
        found = (
            float(torch.rand(1, generator=self.torch)),
            self.python.random(),
            self.numpy.random(),
            self.legacy.rand(),
        )
        self.torch.set_state(torch_state)
        self.python.setstate(python_state)
        self.numpy.bit_generator.state = numpy_state
        self.legacy.set_state(legacy_state)
        return found


class Arrays:
    def __init__(self) -> None:
        self.array = np.zeros(3)
        self.history: list[Tensor] = []
        self.config = types.SimpleNamespace(steps=0, options=argparse.Namespace(rate=1.0))

    def note(self, value: Tensor) -> None:
        self.array[1] += 1
        self.history.append(value)
        self.config.steps += 1
        self.config.options.rate *= 0.5


HOLDERS = [Slotted, Meter, Plain, Criterion, Discriminator, Drawing, Arrays]


def seen(holder: Any) -> object:
    """All that a holder knows."""
    if isinstance(holder, nn.Module):
        return state_of(holder)
    if isinstance(holder, Drawing):
        return holder.draw()
    found: dict[str, object] = {}
    for name in dir(holder):
        value: Any = getattr(holder, name, None)
        if not name.startswith("__") and not callable(value):
            inner = isinstance(value, (Slotted, types.SimpleNamespace, argparse.Namespace))
            array = isinstance(value, np.ndarray)
            found[name] = value.tolist() if array else seen(value) if inner else content(value)
    return found


def noting(holder: Any, loss: Tensor) -> Tensor:
    holder.note(loss)
    return loss


def closing(holder: Any) -> Loss:
    return lambda outputs, targets: noting(holder, cross_entropy(outputs, targets))


def default(holder: Any) -> Loss:
    def loss(outputs: Tensor, targets: Tensor, holder: Any = holder, *, also: Any = holder) -> Any:
        assert also is holder
        return noting(holder, cross_entropy(outputs, targets))

    return loss


def given_first(holder: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    return noting(holder, cross_entropy(outputs, targets))


class Calling:
    """An object that is called."""

    def __init__(self, holder: Any) -> None:
        self.holder = [holder]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return noting(self.holder[0], cross_entropy(outputs, targets))


def attribute(holder: Any) -> Loss:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        known: Any = loss
        return noting(known.holder, cross_entropy(outputs, targets))

    loss.holder = holder  # type: ignore[attr-defined]
    return loss


GLOBAL: dict[str, Any] = {}


def by_a_global(holder: Any) -> Loss:
    GLOBAL["holder"] = holder
    return lambda outputs, targets: noting(GLOBAL["holder"], cross_entropy(outputs, targets))


WAYS: dict[str, Callable[[Any], Loss]] = {
    "closure": closing,
    "default": default,
    "partial": lambda holder: functools.partial(given_first, holder),
    "bound method": lambda holder: Calling(holder).__call__,
    "object": Calling,
    "attribute of a function": attribute,
    "global": by_a_global,
    "decorated": lambda holder: torch.enable_grad()(closing(holder)),
    "closure in a closure": lambda holder: closing(types.SimpleNamespace(note=holder.note)),
    "weak": lambda holder: functools.lru_cache(maxsize=1)(closing(holder)),
}


def brought_along(kind: type, way: str, body: Callable[[], nn.Module]) -> None:
    """Probe with a loss that notes things down, in use as the loss is; it must not show."""
    holder, model = kind(), body()
    loss = WAYS[way](holder)
    x, y = batch()
    loss(model(x), y)
    before = seen(holder)
    asserted(lambda: probe(model, x, y, loss=loss, confirm_steps=1))
    assert seen(holder) == before
    loss(model(x), y)
    assert seen(holder) != before, "the attack shows nothing"


def beside_the_loss(kind: type) -> None:
    """Clip and penalise with functions that note things down."""
    holder, (x, y) = kind(), batch()

    def penalty(model: nn.Module) -> Tensor:
        return noting(holder, 1e-4 * torch.cat([p.flatten() for p in model.parameters()]).norm())

    def clip(parameters: list[nn.Parameter]) -> None:
        holder.note(torch.ones(()))
        nn.utils.clip_grad_norm_(parameters, 1.0)

    before = seen(holder)
    diagnosis = probe(sick(), x, y, loss=cross_entropy, regularizer=penalty, clip=clip)
    assert seen(holder) == before
    suggest(diagnosis, budget=0.2)
    assert seen(holder) == before


class Reader(nn.Module):
    """Uses up what comes with its batch."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, beside: Any) -> Tensor:
        out: Tensor = self.body(x)
        if hasattr(beside, "note"):
            beside.note(out.mean())
        elif isinstance(beside, deque):
            beside.popleft()
        else:
            beside += 1
        return out


#: What may come with a batch.
BESIDE: dict[str, Callable[[], Any]] = {
    **{kind.__name__: kind for kind in HOLDERS},
    "array": lambda: np.zeros(3),
    "array of integers": lambda: np.ones((2, 2), dtype=np.int32),
    "deque": lambda: deque([1, 2]),
}


def in_a_batch(name: str, body: Callable[[], nn.Module]) -> None:
    """Probe with a batch that the forward uses up."""
    beside: Any = BESIDE[name]()

    def known() -> object:
        if isinstance(beside, deque):
            return list(beside)
        return seen(beside) if type(beside) in HOLDERS else bytes(beside)

    before = known()
    x, y = batch()
    asserted(lambda: probe(Reader(body()), (x, beside), y, loss=cross_entropy, confirm_steps=1))
    assert known() == before


def asserted(run: Callable[[], object]) -> None:
    """Run what has to end without an error, of the package's own neither."""
    try:
        run()
    except ProbeError as error:
        raise AssertionError(str(error)) from error


BODIES: dict[str, Callable[[], nn.Module]] = {"healthy": mlp, "sick": sick}


def bystanders() -> Iterator[Attack]:
    """All of it, in healthy and sick nets."""
    for name, body in BODIES.items():
        for kind in HOLDERS:
            for way in WAYS:
                run = partial(brought_along, kind, way, body)
                yield Attack("loss", f"{kind.__name__}-{way}-{name}", run)
        for beside in BESIDE:
            yield Attack("batch", f"{beside}-{name}", partial(in_a_batch, beside, body))
    for kind in HOLDERS:
        yield Attack("step", kind.__name__, partial(beside_the_loss, kind))
