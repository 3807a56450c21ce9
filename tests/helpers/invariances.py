"""What a verdict must not depend on: small models, and changes that leave their gradients alone."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import Diagnosis, GradientPath, probe
from tests.helpers.attacks import Attack
from tests.helpers.switches import in_double, other_threads

Signature = tuple[str, tuple[str, ...], tuple[float, ...]]


class Chain(nn.Module):
    """Layers one after another, under any names and registered in any order."""

    def __init__(self, layers: list[nn.Module], *, names: str = "layer{}", turned: bool = False):
        super().__init__()
        named = [(names.format(number), layer) for number, layer in enumerate(layers)]
        self.order = [name for name, _ in named]
        for name, layer in reversed(named) if turned else named:
            self.add_module(name, layer)

    @property
    def layers(self) -> list[nn.Module]:
        return [self.get_submodule(name) for name in self.order]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Wrapper(nn.Module):
    """Passes everything on to what it holds."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


@dataclass(frozen=True)
class Case:
    """A chain with its batch and loss."""

    model: nn.Module
    inputs: Any
    targets: Tensor
    loss: Callable[..., Tensor] = cross_entropy

    def probed(self) -> Diagnosis:
        return probe(self.model, self.inputs, self.targets, loss=self.loss, confirm_steps=1)


def _chain(depth: int, activation: type[nn.Module], gain: float = 1.0) -> Case:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(8, 8), activation()]
    layers.append(nn.Linear(8, 4))
    with torch.no_grad():
        for layer in layers[:-1]:
            for parameter in layer.parameters():
                parameter.mul_(gain)
    return Case(Chain(layers), torch.randn(16, 8), torch.arange(16) % 4)


def _convolutions(activation: type[nn.Module]) -> Case:
    layers = [nn.Conv2d(3, 4, 3, padding=1), activation(), nn.Conv2d(4, 4, 3), activation()]
    model = Chain([*layers, nn.Flatten(), nn.Linear(4 * 16, 4)])
    return Case(model, torch.randn(8, 3, 6, 6), torch.arange(8) % 4)


def _dead() -> Case:
    case = _chain(2, nn.ReLU)
    with torch.no_grad():
        case.model.get_submodule("layer2").get_parameter("bias").fill_(-100)
    return case


#: Healthy and sick ones.
MODELS: Mapping[str, Callable[[], Case]] = {
    "healthy": lambda: _chain(3, nn.ReLU),
    "smooth": lambda: _chain(3, nn.Tanh),
    "normalised": lambda: _chain(2, partial(nn.LayerNorm, 8)),  # type: ignore[arg-type]
    "convolutions": lambda: _convolutions(nn.ReLU),
    "vanishing": lambda: _chain(12, nn.Sigmoid),
    "exploding": lambda: _chain(8, nn.ReLU, gain=16.0),
    "dead": _dead,
}


def made(name: str) -> Case:
    """A model as it always is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name]()


def _scaled(case: Case, power: int) -> Case:
    return replace(case, loss=lambda *given: 2.0**power * case.loss(*given))


def _reordered(case: Case) -> Case:
    order = torch.randperm(len(case.targets), generator=torch.Generator().manual_seed(7))
    return replace(case, inputs=case.inputs[order], targets=case.targets[order])


def _rebuilt(case: Case, **how: Any) -> Case:
    assert isinstance(case.model, Chain)
    return replace(case, model=Chain(case.model.layers, **how))


def _parameters_turned(case: Case) -> Case:
    for module in case.model.modules():
        own = list(module.named_parameters(recurse=False))
        for name, _ in own:
            delattr(module, name)
        for name, parameter in reversed(own):
            module.register_parameter(name, parameter)
    return case


def _with_gradients(case: Case) -> Case:
    for parameter in case.model.parameters():
        parameter.grad = torch.full_like(parameter, math.pi)
    return case


CHANGES: Mapping[str, Callable[[Case], Case]] = {
    "loss * 2**-20": partial(_scaled, power=-20),
    "loss * 2**20": partial(_scaled, power=20),
    "order of the batch": _reordered,
    "the batch twice": lambda case: replace(
        case,
        inputs=torch.cat([case.inputs, case.inputs]),
        targets=torch.cat([case.targets, case.targets]),
    ),
    "names": partial(_rebuilt, names="été_{}_loss"),
    "order of modules": partial(_rebuilt, turned=True),
    "order of parameters": _parameters_turned,
    "in a Sequential": lambda case: replace(case, model=nn.Sequential(case.model)),
    "in a wrapper": lambda case: replace(case, model=Wrapper(case.model)),
    "in two wrappers": lambda case: replace(case, model=Wrapper(Wrapper(case.model))),
    "a copy": lambda case: replace(case, model=copy.deepcopy(case.model)),
    "eval": lambda case: replace(case, model=case.model.eval()),
    "inputs with gradients": lambda case: replace(case, inputs=case.inputs.requires_grad_()),
    "inputs in a tuple": lambda case: replace(case, inputs=(case.inputs,)),
    "inputs by name": lambda case: replace(case, inputs={"x": case.inputs}),
    "inputs that are a view": lambda case: replace(case, inputs=case.inputs.mT.contiguous().mT),
    "channels last": lambda case: replace(
        case, inputs=case.inputs.contiguous(memory_format=torch.channels_last)
    ),
    "gradients before": _with_gradients,
}


@contextmanager
def _random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(999)
        yield


@contextmanager
def _others_before() -> Iterator[None]:
    for name in reversed([*MODELS]):
        made(name).probed()
    yield


#: What is around a probe.
SURROUNDINGS: Mapping[str, Callable[[], Any]] = {
    "threads": other_threads,
    "default dtype": in_double,
    "random numbers": _random_numbers,
    "other probes before": _others_before,
}


def signature(diagnosis: Diagnosis) -> Signature:
    """What has to stay: the verdict, what failed or warns, and how far paths are from level."""
    codes = {f"{f.code} {f.severity}" for f in diagnosis.findings if f.severity != "info"}
    ratios = sorted(map(_decades, diagnosis.profiles[0].judged_paths))
    return diagnosis.verdict, tuple(sorted(codes)), tuple(ratios)


def _decades(path: GradientPath) -> float:
    """From the first layer to the last; inputs that require grad are a point before that."""
    first = next(point for point in path.points if point.name != "(input)")
    return math.log10(first.norm / path.last.norm) if first.norm else -math.inf


@cache
def plain(name: str) -> Signature:
    """The signature of a model as it is."""
    return signature(made(name).probed())


def same(found: Signature, expected: Signature) -> bool:
    """Whether two signatures are the same but for rounding."""
    (*words, numbers), (*other_words, other_numbers) = found, expected
    return (
        words == other_words
        and len(numbers) == len(other_numbers)
        and all(
            math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3)
            for a, b in zip(numbers, other_numbers, strict=True)
        )
    )


def _check_changed(name: str, change: Callable[[Case], Case]) -> None:
    case = change(made(name))
    modes = [module.training for module in case.model.modules()]
    found = signature(case.probed())
    assert same(found, plain(name)), (found, plain(name))
    assert [module.training for module in case.model.modules()] == modes


def _check_surrounded(name: str, around: Callable[[], Any]) -> None:
    case = made(name)
    with around():
        found = signature(case.probed())
    assert same(found, plain(name)), (found, plain(name))


def invariances() -> Iterator[Attack]:
    """Every model under every change that applies to it, and in all surroundings."""
    for name in MODELS:
        for what, change in CHANGES.items():
            if what != "channels last" or name == "convolutions":
                yield Attack(what, name, partial(_check_changed, name, change))
        for what, around in SURROUNDINGS.items():
            yield Attack(what, name, partial(_check_surrounded, name, around))


def hash_seeds() -> Iterator[Attack]:
    """The same in a process that hashes otherwise; it has to import torch again."""
    code = f"from {__name__} import *; print([plain(name) for name in MODELS])"

    def run() -> None:
        environment = {**os.environ, "PYTHONHASHSEED": "12345"}
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str([plain(name) for name in MODELS])

    yield Attack("PYTHONHASHSEED", "all", run)
