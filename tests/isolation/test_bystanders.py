"""What a loss, a regulariser or a batch brings along is as it was, down to what it closes over."""

from __future__ import annotations

import argparse
import functools
import random
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import probe, suggest
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


@pytest.mark.parametrize("body", [mlp, sick], ids=["healthy", "sick"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", HOLDERS, ids=[kind.__name__ for kind in HOLDERS])
def test_what_a_loss_brings_along_is_as_it_was(
    kind: Callable[[], Any], way: Callable[[Any], Loss], body: Callable[[], nn.Module]
) -> None:
    holder, model = kind(), body()
    loss = way(holder)
    x, y = batch()
    loss(model(x), y)  # as in use
    before = seen(holder)
    probe(model, x, y, loss=loss, confirm_steps=1)
    assert seen(holder) == before
    loss(model(x), y + 0)
    assert seen(holder) != before  # or the test shows nothing


@pytest.mark.parametrize("kind", HOLDERS, ids=[kind.__name__ for kind in HOLDERS])
def test_what_a_regulariser_and_a_clip_bring_along_is_as_it_was(kind: Callable[[], Any]) -> None:
    holder, (x, y) = kind(), batch()

    def penalty(model: nn.Module) -> Tensor:
        return noting(
            holder, 1e-4 * torch.stack([p.square().sum() for p in model.parameters()]).sum()
        )

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

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor, beside: Any) -> Tensor:
        out: Tensor = self.body(x)
        if hasattr(beside, "note"):
            beside.note(out.mean())
        elif isinstance(beside, deque):
            beside.popleft()
        else:
            beside += 1
        return out


@pytest.mark.parametrize(
    "make",
    [*HOLDERS, lambda: np.zeros(3), lambda: deque([1, 2]), lambda: np.ones((2, 2), dtype=np.int32)],
)
def test_what_comes_with_a_batch_is_as_it_was(make: Callable[[], Any]) -> None:
    beside: Any = make()

    def known() -> object:
        if isinstance(beside, deque):
            return list(beside)
        return seen(beside) if type(beside) in HOLDERS else bytes(beside)

    before = known()
    x, _ = batch()
    probe(Reader(), (x, beside))
    assert known() == before


def test_an_object_among_the_targets_that_the_loss_changes_is_as_it_was() -> None:
    target = types.SimpleNamespace(labels=torch.arange(16) % 5, array=np.zeros(2), used=[])

    def loss(outputs: Tensor, targets: Any) -> Tensor:
        found = cross_entropy(outputs, targets.labels.clone())
        targets.labels.zero_()
        targets.array += 1
        targets.used.append(1)
        return found

    labels, x = target.labels.clone(), batch()[0]
    probe(mlp(), x, target, loss=loss)
    assert torch.equal(target.labels, labels)
    assert target.array.tolist() == [0, 0]
    assert target.used == []


def test_lists_in_modules_and_attributes_of_classes_are_the_programs_own() -> None:
    class Counted(nn.Sequential):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            type(self).calls += 1
            LOG.append(1)
            return super().forward(x)  # type: ignore[no-untyped-call]

    LOG.clear()
    probe(Counted(mlp()), batch()[0])
    assert (Counted.calls, LOG) == (1, [1])


LOG: list[int] = []
