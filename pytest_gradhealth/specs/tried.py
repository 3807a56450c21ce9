"""A model that is built, and called once, to see whether a batch goes through it.

Both leave no trace, and take no time where the meta device will do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from pytest_gradhealth.errors import ProbeError, SettingError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.isolation.isolate import isolated
from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.probing.case import check_begun, in_place_of
from pytest_gradhealth.specs.drawn import SEED
from pytest_gradhealth.specs.offer import Way
from pytest_gradhealth.subject.calling import as_taken
from pytest_gradhealth.subject.forward import call_model, fresh
from pytest_gradhealth.subject.lightning import training_batch
from pytest_gradhealth.subject.loss import has_loss

_CPU = torch.device("cpu")


def build(way: Way, said: str, *, meta: bool = False) -> nn.Module:
    """The model of a way, built once; raises SettingError where that fails."""
    if isinstance(way.model, nn.Module):
        return way.model
    if way.most is not None and not meta:
        size = sum(p.numel() for p in build(way, said, meta=True).parameters())
        if size > way.most:
            raise SettingError(
                f"{said} has {size:,} parameters, made as small as is known; give it less of what"
                " its configuration has, as in hf:gpt2(n_layer=2)"
            )
    with isolated([way.model], _CPU), _quiet(), torch.device("meta") if meta else nullcontext():
        seed_everything(SEED, _CPU)
        try:
            model = way.model()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also what ends a test, or Python
            raise SettingError(f"{said} cannot be built: it raised {told(error)}") from error
    if not isinstance(model, nn.Module):
        kind = "None" if model is None else f"a {type(model).__name__}"
        instead = in_place_of(model)
        raise SettingError(
            f"{said} builds {kind}, not a torch.nn.Module" + f"; return {instead}" * bool(instead)
        )
    try:
        check_begun(model)
    except ProbeError as error:
        raise SettingError(f"{said}: {error}") from error
    return model


def outputs_of(model: nn.Module, inputs: Any) -> Any:
    """What a model returns for a batch; raises ProbeError where that fails."""
    with untouched(model), _not_ended():
        return call_model(model, as_taken(model, fresh(inputs, _device_of(model))))


def no_training(model: nn.Module, inputs: Any, targets: Any) -> str:
    """Why the training step of a Lightning module makes no loss of a batch, "" where it does."""
    try:
        with untouched(model), _not_ended():
            batch = training_batch(model, *fresh((inputs, targets), _device_of(model)))
            return "" if has_loss(call_model(model, batch), None) else "it returns no loss"
    except ProbeError as error:
        return str(error).partition("\n")[0]


@contextmanager
def _not_ended() -> Iterator[None]:
    """Raise ProbeError where a forward would end the test, or Python."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ProbeError(f"the forward raised {told(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave what libraries log of a model to the test that runs it."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run a model with random numbers of its own, and put all of it back; "meta" has nothing."""
    device = _device_of(model)
    with isolated([], _CPU) if device.type == "meta" else isolated([model], device), _quiet():
        seed_everything(SEED, _CPU if device.type == "meta" else device)
        yield


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), _CPU)
