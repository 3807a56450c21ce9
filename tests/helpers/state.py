"""Everything a probe has to leave as it was, and models that make that hard."""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers.nets import mlp


def sick() -> nn.Sequential:
    """A net that fails, so that the confirm steps run."""
    return mlp(nn.Sigmoid, hidden=10)


def bits(tensor: Tensor) -> bytes:
    """The bytes of a tensor's elements: NaN equals itself only with the same payload."""
    flat = tensor.detach().to_dense().reshape(-1).contiguous()
    return flat.view(torch.uint8).cpu().numpy().tobytes()


def look_of(tensor: Tensor) -> dict[str, Any]:
    """What a caller can see of a tensor; objects stand for themselves by their identity."""
    gradient = tensor.grad if tensor.is_leaf else None
    strided = tensor.layout == torch.strided
    return {
        "object": id(tensor),
        "memory": (tensor.data_ptr(), tensor.stride()) if strided else None,
        "bits": (tensor.dtype, tuple(tensor.shape), bits(tensor)),
        "graph": (tensor.requires_grad, tensor.is_leaf, tensor.grad_fn),
        "grad": None if gradient is None else (id(gradient), bits(gradient)),
        "hooks": list((tensor._backward_hooks or {}).items()),
        "post hooks": list((tensor._post_accumulate_grad_hooks or {}).items()),
    }


def content(value: object) -> object:
    """What is in an attribute, down to the tensors and the identity of everything else."""
    if isinstance(value, Tensor):
        return look_of(value)
    if isinstance(value, Mapping):
        return id(value), [(key, content(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return id(value), [content(item) for item in value]
    if isinstance(value, set):
        return id(value), set(map(id, value))
    return id(value)


def state_of(model: nn.Module) -> dict[str, object]:
    """Modules with their attributes, flags and hooks; parameters and buffers under every name."""
    state: dict[str, object] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for key, value in module.__dict__.items():
            state[f"{name}/{key}"] = content(value)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        state[f"version of {name}"] = parameter._version
    return state


def state_of_the_world() -> dict[str, object]:
    """Random numbers, modes and warning filters."""
    numbers: Any = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (numbers[1].tobytes(), *numbers[2:]),
        "torch": bits(torch.get_rng_state()),
        "dtype": torch.get_default_dtype(),
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "warnings": list(warnings.filters),
    }


@contextmanager
def unchanged(*things: object) -> Iterator[None]:
    """Assert that modules, tensors and the world are the same at the end of the context."""

    def everything() -> dict[str, object]:
        found = state_of_the_world()
        for number, thing in enumerate(things):
            inner = state_of(thing) if isinstance(thing, nn.Module) else {"": content(thing)}
            found |= {f"{number}: {key}": value for key, value in inner.items()}
        return found

    before = everything()
    yield
    after = everything()
    assert {key for key in {**before, **after} if before.get(key) != after.get(key)} == set()


def with_gradients(model: nn.Module) -> nn.Module:
    """The model with a `.grad` of its own on every other parameter."""
    for parameter in list(model.parameters())[::2]:
        parameter.grad = torch.randn_like(parameter)
    return model


class Doing(nn.Module):
    """A small net whose forward does something to itself and its input first."""

    kept: Any

    def __init__(
        self, act: Callable[[Any, Tensor], object], kept: object = None, body: Any = None
    ) -> None:
        super().__init__()
        self.body = mlp() if body is None else body
        self.act = act
        if isinstance(kept, Tensor):
            self.register_buffer("kept", kept)
        else:
            self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        self.act(self, x)
        out: Tensor = self.body(x)
        return out


class Busy(nn.Module):
    """Counts, caches, collects, draws numbers, updates buffers and works in place on its input."""

    stem: Any
    tied: Any
    nan: Tensor
    seen: Tensor
    cached: Any

    def __init__(self, activation: Callable[[], nn.Module], hidden: int) -> None:
        super().__init__()
        self.stem = nn.utils.parametrizations.spectral_norm(nn.Linear(20, 20))
        self.norm = nn.BatchNorm1d(20)
        self.body = mlp(activation, hidden=hidden)
        self.tied = nn.Linear(20, 20)
        self.tied.weight = self.stem.parametrizations.weight.original
        self.frozen = nn.Linear(20, 20).requires_grad_(False)
        self.dropout = nn.Dropout(0.1)
        payload = torch.tensor([0x7FC00001, 0x7F800001, 0x3F800000], dtype=torch.int32)
        self.register_buffer("nan", payload.view(torch.float32))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.calls, self.cached = 0, None
        self.history: list[Tensor] = []
        self.names: dict[str, int] = {}
        self.shapes: set[tuple[int, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        self.names[f"call {self.calls}"] = self.calls
        self.shapes.add((self.calls, *x.shape))
        random.random(), np.random.rand()
        x = self.norm(self.frozen(self.stem(x.mul_(0.5))))
        x = self.dropout(nn.functional.relu(self.tied(x), inplace=True))
        self.nan.fill_(1.0)
        self.cached = self.body(x)
        out: Tensor = self.cached
        self.history.append(out)
        return out


def nothing(*_: object) -> None:
    """A hook that does nothing."""


def busy(activation: Callable[[], nn.Module] = nn.ReLU, hidden: int = 3) -> Busy:
    """A busy net in use: mixed training flags, gradients on it, hooks of every kind."""
    model: Any = Busy(activation, hidden)
    model.norm.eval()
    model.frozen.train()
    model.body[0].eval()
    with_gradients(model)
    model.register_forward_pre_hook(nothing)
    model.body.register_forward_hook(nothing, with_kwargs=True)
    model.body[0].register_full_backward_hook(nothing)
    model.frozen.register_full_backward_pre_hook(nothing)
    model.register_state_dict_post_hook(nothing)
    model.register_state_dict_pre_hook(nothing)
    model.register_load_state_dict_post_hook(nothing)
    model.tied.weight.register_hook(nothing)
    result: Busy = model
    return result


def count(self: Doing, _: Tensor) -> None:
    self.kept = (self.kept or 0) + 1
