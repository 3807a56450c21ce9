"""The loss of a spec as it is typed, and targets for outputs as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.formatting import meant_by, shown
from pytest_gradhealth.specs.drawn import Drawn
from pytest_gradhealth.specs.homes import function_of, module_of
from pytest_gradhealth.specs.offer import Code
from pytest_gradhealth.specs.own_code import code_of
from pytest_gradhealth.specs.spec import parse

NAMES = {"cross_entropy": "cross_entropy", "mse": "mse_loss"}
FUNCTIONAL = "torch.nn.functional"


@dataclass(frozen=True)
class Loss:
    """A loss with the name that it was given by, and the code that gives it to a test file."""

    function: Callable[..., Any]
    name: str
    code: Code


def named(name: str) -> Loss:
    """A loss of torch by its name."""
    own = NAMES[name]
    return Loss(getattr(functional, own), name, Code(own, (f"from {FUNCTIONAL} import {own}",)))


def parse_loss(text: str, where: str, folders: Sequence[Path], beside: Path) -> Loss:
    """Read a loss; raises SettingError that names where it was given."""
    name = text.strip().removeprefix(f"{FUNCTIONAL}:")
    if name in NAMES.values():
        name = next(short for short, own in NAMES.items() if own == name)
    if name in NAMES:
        return named(name)
    if ":" not in name:
        meant = meant_by(name, [*NAMES])
        said = f"{where}: {shown(text)} is no loss"
        raise SettingError(f"{said}; {meant or 'write cross_entropy, mse, or module:function'}")
    spec = parse(name)
    function = function_of(spec, folders, "makes a loss of outputs and targets")
    return Loss(function, name, code_of(spec, module_of(spec, folders), beside))


def targets_for(name: str, outputs: Any) -> Drawn | None:
    """Targets that a loss of torch can compare outputs with, None where those are not of a kind."""
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return None
    shape = tuple(outputs.shape)
    if name == "mse":
        return Drawn(shape)
    if len(shape) < 2 or shape[1] < 2:
        return None
    return Drawn((shape[0], *shape[2:]), "int64", shape[1])


def is_classification(outputs: Any, classes: int) -> bool:
    """Whether outputs are scores of so many classes, for each example."""
    return isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] == classes > 1


def likely(outputs: Any, inputs: Any, classes: int, *, known: bool) -> str:
    """The loss of torch that outputs are most likely for, "" where nothing tells.

    Of models that are `known`, those are scores of `classes` or none. Of others, several numbers
    for each example count as scores, and one, or as many as came in, as what is to be hit.
    """
    if known:
        return "cross_entropy" if is_classification(outputs, classes) else ""
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return ""
    if isinstance(inputs, Tensor) and inputs.shape == outputs.shape and outputs.dim() > 1:
        return "mse"
    if outputs.dim() == 2 and outputs.shape[1] > 1:
        # What compares the examples with each other has as many numbers as there are.
        pairs = not isinstance(inputs, Tensor) and outputs.shape[0] == outputs.shape[1]
        return "" if pairs else "cross_entropy"
    return "mse" if 0 < outputs.dim() < 3 else ""
