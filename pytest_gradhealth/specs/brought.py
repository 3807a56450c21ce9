"""A batch that a function of somebody's returns: inputs, or inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.isolation.random_state import restore_random_state, seed_everything
from pytest_gradhealth.specs.drawn import SEED
from pytest_gradhealth.specs.homes import function_of, module_of
from pytest_gradhealth.specs.offer import Code
from pytest_gradhealth.specs.own_code import code_of
from pytest_gradhealth.specs.spec import parse

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Brought:
    """A function that returns a batch, its name, and the code that gives it to a test file."""

    function: Callable[[], Any]
    name: str
    code: Code

    def made(self) -> tuple[Any, Any]:
        """Inputs and targets, None where there are none, made with the same random numbers.

        Raises SettingError where the function does.
        """
        put_back = restore_random_state(_CPU)
        seed_everything(SEED, _CPU)
        try:
            batch = self.function()
        except Exception as error:
            raise SettingError(f"{self.name} raised {told(error)}") from error
        finally:
            put_back()
        if batch is None:
            raise SettingError(f"{self.name} returned None; return inputs, or inputs and targets")
        return batch if _is_pair(batch) else (batch, None)

    @property
    def has_targets(self) -> bool:
        """Whether it returns targets too."""
        return self.made()[1] is not None

    def __str__(self) -> str:
        """As it is typed."""
        return self.name


def bring(text: str, folders: Sequence[Path], beside: Path) -> Brought:
    """Find the function that a batch is to come from; raises SettingError."""
    spec = parse(text)
    function = function_of(spec, folders, "returns inputs, or inputs and targets")
    return Brought(function, text, code_of(spec, module_of(spec, folders), beside))


def _is_pair(batch: object) -> bool:
    return isinstance(batch, (tuple, list)) and len(batch) == 2
