"""Somebody's own model, in a module or a file; its batch is guessed from its first layer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.specs.drawn import Batch, Drawn
from pytest_gradhealth.specs.homes import builder_of, found_in, module_of, place_of
from pytest_gradhealth.specs.offer import Guess, Offer, Way
from pytest_gradhealth.specs.own_code import code_of
from pytest_gradhealth.specs.spec import Spec
from pytest_gradhealth.subject.calling import parameters_of
from pytest_gradhealth.subject.lightning import is_lightning
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.unwrap import dtype_name

_COUNT, _LENGTH = 8, 16
#: Sides of pictures to try: what most are, then what layers behind them may ask for.
_SIDES = (64, 32, 28, 48, 96, 128, 160, 224, 227, 256, 299)
_GREY = (28, 32, 64, 48, 96, 128, 224)


def offer(spec: Spec, folders: Sequence[Path], beside: Path) -> Offer:
    """The model of a spec; raises SettingError where there is none.

    `beside` is where the file will stand that builds it too.
    """
    module = module_of(spec, folders)
    value = found_in(module, spec)
    built = builder_of(value, spec)
    code = code_of(spec, module, beside)
    return Offer((Way(built, code, guesses),), place_of(value), _lacking)


def check_lightning(model: nn.Module, spec: Spec) -> None:
    """Raise SettingError for a model that had to be one of Lightning's, and is none."""
    if spec.lightning and not is_lightning(model):
        raise SettingError(
            f"{class_name(model)} is no LightningModule with a training_step; leave lightning: out"
        )


def guesses(model: nn.Module) -> Iterator[Guess]:
    """The batches of one tensor that may do, from the first layer that says its width."""
    example = getattr(model, "example_input_array", None)
    if isinstance(example, nn.Module) or example is None:
        example = None
    elif hasattr(example, "shape") and hasattr(example, "dtype"):
        dtype = str(example.dtype).removeprefix("torch.")
        below = int(example.max()) + 1 if "int" in dtype else 2
        drawn = Drawn(tuple(example.shape), dtype, max(2, below))
        yield Guess(Batch((drawn,)), "its example_input_array")
        return
    if len(_required(model)) > 1:
        return
    for name, layer in model.named_modules():
        if shapes := [shape for shape in _shapes(layer) if 0 not in shape.shape]:
            why = f"{name or 'the model'} is {_said(layer)}"
            for shape in shapes:
                yield Guess(Batch((_in_format(shape, model),)), why)
            return


def _in_format(inputs: Drawn, model: nn.Module) -> Drawn:
    """Inputs in the format that a model computes in."""
    floats = (p.dtype for p in model.parameters() if p.is_floating_point() and p.element_size() > 1)
    dtype = dtype_name(next(floats, torch.float32))
    return inputs if inputs.is_whole else replace(inputs, dtype=dtype)


def _required(model: nn.Module) -> list[str]:
    """What a forward has to be called with."""
    parameters = parameters_of(model.forward).values()
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def _shapes(layer: Any) -> Iterator[Drawn]:
    """The inputs that a layer may be behind, the likeliest first."""
    if isinstance(layer, nn.Embedding):
        yield Drawn((_COUNT, _LENGTH), "int64", layer.num_embeddings)
        yield Drawn((_COUNT,), "int64", layer.num_embeddings)
    elif isinstance(layer, nn.EmbeddingBag):
        yield Drawn((_COUNT, _LENGTH), "int64", layer.num_embeddings)
    elif isinstance(layer, nn.Linear):
        yield Drawn((_COUNT, layer.in_features))
        yield Drawn((_COUNT, _LENGTH, layer.in_features))
        yield from _flattened(layer.in_features)
    elif isinstance(layer, nn.RNNBase):
        yield Drawn((_COUNT, _LENGTH, layer.input_size))
    elif isinstance(layer, nn.RNNCellBase):
        yield Drawn((_COUNT, layer.input_size))
        yield Drawn((_COUNT, _LENGTH, layer.input_size))
    elif isinstance(layer, nn.MultiheadAttention):
        yield Drawn((_COUNT, _LENGTH, layer.embed_dim))
    elif isinstance(layer, nn.Conv1d):
        yield from (Drawn((_COUNT, layer.in_channels, n)) for n in (64, 16, 128, 256, 1024, 4000))
    elif isinstance(layer, nn.Conv2d):
        sides = _GREY if layer.in_channels == 1 else _SIDES
        yield from (Drawn((_COUNT, layer.in_channels, side, side)) for side in sides)
    elif isinstance(layer, nn.Conv3d):
        yield from (Drawn((_COUNT // 2, layer.in_channels, n, n, n)) for n in (16, 32, 64))
    elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
        yield Drawn((_COUNT, layer.num_features))
        yield Drawn((_COUNT, layer.num_features, 32, 32))
    elif isinstance(layer, nn.LayerNorm):
        yield Drawn((_COUNT, *layer.normalized_shape))
        yield Drawn((_COUNT, _LENGTH, *layer.normalized_shape))


def _flattened(width: int) -> Iterator[Drawn]:
    """Pictures that have so many numbers, where they are square."""
    for channels in (1, 3):
        side = round((width / channels) ** 0.5)
        if side > 1 and channels * side * side == width:
            yield Drawn((_COUNT, channels, side, side))


def _said(layer: nn.Module) -> str:
    """A layer with the number that says its width."""
    names = (
        *("num_embeddings", "in_features", "input_size", "embed_dim", "in_channels"),
        *("num_features", "normalized_shape"),
    )
    name = next(name for name in names if hasattr(layer, name))
    return f"{type(layer).__name__}({name}={getattr(layer, name)})"


def _lacking(model: nn.Module) -> str:
    required = _required(model)
    if len(required) > 1:
        return f"its forward takes {', '.join(required)}"
    return ""
