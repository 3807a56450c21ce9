"""A model that is built for a probe by its factory, and what that leaves unwritten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import text_of, told
from pytest_gradhealth.isolation.fresh_memory import fresh_memory
from pytest_gradhealth.isolation.isolate import isolated
from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.measure.unwritten import with_nan
from pytest_gradhealth.probing.case import check_begun, in_place_of
from pytest_gradhealth.subject.calling import fits, name_of
from pytest_gradhealth.tensors.devices import has_accelerator


@dataclass(frozen=True)
class Built:
    """A model, and the same in memory that was filled with NaN, where that has left some in it.

    `suspects` name the tensors that may not have been written.
    """

    model: nn.Module
    filled: nn.Module | None = None
    suspects: tuple[str, ...] = ()


def build_model(factory: Callable[[], nn.Module], seed: int, wanted: str) -> Built:
    """Call a factory with random numbers from `seed`, also those of an accelerator in use.

    Once, in memory filled with NaN, and again in one of zeros where that shows, for what it shows
    is to be the same in each run. Raises ProbeError if it fails.
    """
    filled = _built(factory, seed, wanted, "nan")
    suspects = with_nan(filled)
    if not suspects:
        return Built(filled)
    model = _built(factory, seed, wanted, "zeros")
    written = with_nan(model)
    names = [n for n in suspects if n not in written or not torch.equal(suspects[n], written[n])]
    return Built(model, filled if names else None, tuple(names))


def _instead_of(factory: object, said: str) -> str:
    """What to pass in place of a factory that raises, or to write in it."""
    if "before Module.__init__() call" in said:
        return "call super().__init__() first in the __init__ of the module"
    if in_place_of(factory):
        return f"pass {in_place_of(factory)}"
    built = "a factory is called without arguments, for example lambda: Net(width=64)"
    if isinstance(factory, type) or fits(factory, ()):
        return built
    return f"{built}; what takes a batch goes with its model: probe(model, x, call=...)"


def _built(
    factory: Callable[[], nn.Module], seed: int, wanted: str, memory: Literal["nan", "zeros"]
) -> nn.Module:
    accelerator = torch.accelerator.current_accelerator() if has_accelerator() else None
    device = torch.device("cpu") if accelerator is None or wanted == "cpu" else accelerator
    with isolated([factory], device), fresh_memory(memory):
        seed_everything(seed, device)
        try:
            model = factory()
        except Exception as error:
            raise ProbeError(
                f"the model factory {name_of(factory)} raised {told(error)};"
                f" {_instead_of(factory, text_of(error))}"
            ) from error
    if not isinstance(model, nn.Module):
        kind = "None" if model is None else f"a {type(model).__name__}"
        raise ProbeError(
            f"the model factory returned {kind}, not a torch.nn.Module"
            + f"; return {in_place_of(model)}" * bool(in_place_of(model))
        )
    check_begun(model)
    return model
