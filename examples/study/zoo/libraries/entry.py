"""A row of the tables of networks of other libraries, and what makes a network from a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from examples.study.network import Batch

#: Name, build, batch, loss.
Row = tuple[str, Callable[[], nn.Module], Callable[[], Batch], Callable[..., Any] | None]
#: Rows by the name that their library is imported under.
Table = Mapping[str, tuple[Row, ...]]


@dataclass(frozen=True)
class Made:
    """What a class, or a dotted name of a library, makes of parts that are made just before."""

    kind: str | Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def __call__(self) -> Any:
        """Import the library, make the parts and put them together."""
        kind: Any = self.kind
        if isinstance(kind, str):
            module, _, name = kind.rpartition(".")
            kind = getattr(import_module(module), name)
        options = {name: _made(option) for name, option in self.options.items()}
        return kind(*map(_made, self.arguments), **options)


def of(kind: str | Callable[..., Any], *arguments: Any, **options: Any) -> Made:
    """Say what is to be made, and of what."""
    return Made(kind, arguments, options)


def _made(part: Any) -> Any:
    if isinstance(part, Made):
        return part()
    if isinstance(part, list | tuple):
        return type(part)(map(_made, part))
    return part


class Asked(nn.Module):
    """A model that is asked for its loss or its log-density by a method or an option."""

    def __init__(self, model: nn.Module, method: str = "forward", **options: Any):
        super().__init__()
        self.model, self.method, self.options = model, method, options

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return getattr(self.model, self.method)(*inputs, **named, **self.options)


def itself(outputs: Tensor) -> Tensor:
    """Return the loss that the model has worked out."""
    return outputs


def first(outputs: tuple[Tensor, ...]) -> Tensor:
    """Return the loss that the model has worked out, before other things."""
    return outputs[0]


def unlikelihood(densities: Tensor) -> Tensor:
    """Return the mean negative log-density."""
    return -densities.mean()
