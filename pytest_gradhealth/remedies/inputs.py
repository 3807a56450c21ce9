"""Standardised inputs: each feature, or each channel of images, with mean 0 and deviation 1."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.remedies.layers import Call
from pytest_gradhealth.remedies.printed import printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy
from pytest_gradhealth.subject.calling import Called, parameters_of, spread

FAMILY = "inputs"
SYMPTOMS = ("GH101", "GH201", "GH202", "GH203", "GH301", "GH402", "GH403", "GH404")
#: Inputs are far from standard if the largest root mean square of a feature is, by this factor.
FAR = 10.0

#: It computes in float32 whatever the model is made, and what is the same for all examples, which
#: rounding moves by less than the least of sizes, stays near 0.
CODE = """class Standardise(nn.Module):
    def __init__(self, features, dim=-1):
        super().__init__()
        self.dim = dim
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
    def forward(self, x):
        rows = x.movedim(self.dim, -1).float()
        if self.training:  # mean and deviation of all batches so far
            with torch.no_grad():
                flat = rows.flatten(0, -2)
                self.batches += 1
                self.mean += (flat - self.mean).mean(0) / self.batches
                now = (flat - self.mean).square().mean(0).sqrt()
                self.deviation += (now - self.deviation) / self.batches
        mean, deviation = self.mean.float(), self.deviation.float()
        size = torch.hypot(deviation, 1e-6 * mean.abs() + 1e-12)
        return ((rows - mean) / size).movedim(-1, self.dim).to(x.dtype)
class Standardised(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.norms = nn.ModuleList([{norms}])
    def forward(self, {taken}):
        return self.model({given})
model = Standardised(model)"""


@dataclass(frozen=True)
class _Input:
    """A tensor among the arguments of a forward: one of them, or under a key of one, a mapping.

    `argument` is its position or its keyword; its features are in dimension `dim`.
    """

    tensor: Tensor
    argument: int | str
    key: str | None
    dim: int

    @property
    def norm(self) -> str:
        """The layer that standardises it, in code."""
        features = self.tensor.shape[self.dim]
        return f"Standardise({features})" if self.dim == -1 else f"Standardise({features}, dim=1)"

    @property
    def size(self) -> float:
        """The largest root mean square of a feature."""
        rows = self.tensor.detach().cpu().movedim(self.dim, -1).double().flatten(0, -2)
        return float(rows.square().mean(0).max().sqrt())


def change(patient: Patient) -> str:
    """Put a layer in front of the model that standardises the inputs that are far from that."""
    if patient.inputs is None:
        raise CannotApplyError("it takes a batch, to see the features")
    if isinstance(patient.inputs, Called):
        raise CannotApplyError("it goes in front of a forward, and call takes the place of that")
    far = _far(patient)
    taken, given = _forward(patient, far)
    norms = ", ".join(one.norm for one in far)
    code = printed(CODE.format(norms=norms, taken=taken, given=given))
    space: dict[str, Any] = {"__name__": __name__, "model": patient.model}
    exec(code, space)  # so that what is tried is what is printed
    model: nn.Module = space.pop("model").to(far[0].tensor.device)
    layers = model.get_submodule("norms")
    for norm, one in zip(layers.children(), far, strict=True):
        norm(one.tensor)  # which is for models in eval mode, that have seen no training
    for module in (model, *layers.modules()):
        module.training = patient.model.training
    patient.model = model
    return code


def _far(patient: Patient) -> list[_Input]:
    """The inputs that are far from standard; raises CannotApplyError where there are none."""
    found = list(_inputs(patient))
    if not found:
        raise CannotApplyError("no input is a batch of floating features")
    finite = [(one, size) for one in found if math.isfinite(size := one.size)]
    if not finite:
        raise CannotApplyError("the inputs are not finite")
    far = [one for one, size in finite if size and not 1 / FAR <= size <= FAR]
    if not far:
        raise CannotApplyError("the inputs are within a factor of 10 of mean 0 and deviation 1")
    return far


def _inputs(patient: Patient) -> Iterator[_Input]:
    """The batches of floating features among the arguments of a forward."""
    args, keywords = spread(patient.inputs)
    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *keywords.items()]
    calls = patient.calls
    for argument, value in arguments:
        parts = value.items() if type(value) is dict else [(None, value)]
        for key, x in parts:
            floating = isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 0
            # The code that is run and printed has their names in it.
            plain = type(argument) in (str, int) and type(key) in (str, int, type(None))
            named = isinstance(argument, int) or argument.isidentifier()
            if floating and x.dim() >= 2 and len(x) >= 2 and plain and named:
                yield _Input(x, argument, key, _dimension(calls, x))


def _dimension(calls: Sequence[Call], x: Tensor) -> int:
    """Where the features are: second in what convolutions take, and in pictures, else last."""
    takers = [call.module for call in calls if call.entered == tuple(x.shape)]
    if any(isinstance(module, (nn.Linear, nn.RNNBase)) for module in takers):
        return -1
    maps = any(isinstance(module, (_ConvNd, _BatchNorm)) for module in takers)
    return 1 if maps or x.dim() > 3 else -1


def _forward(patient: Patient, far: Sequence[_Input]) -> tuple[str, str]:
    """What the forward of the printed wrapper takes, and what it hands to that of the model."""
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    known = [p.name for p in parameters_of(patient.model.forward).values() if p.kind in kinds]
    last = max((one.argument for one in far if isinstance(one.argument, int)), default=-1)
    first = [known[i] if i < len(known) else f"arg{i}" for i in range(last + 1)]
    named = dict.fromkeys(one.argument for one in far if isinstance(one.argument, str))

    def handed(argument: int | str, name: str) -> str:
        norms = {
            one.key: f"self.norms[{i}]" for i, one in enumerate(far) if one.argument == argument
        }
        if None in norms:
            return f"{norms[None]}({name})"
        parts = (f"{key!r}: {norm}({name}[{key!r}])" for key, norm in norms.items())
        return f"{{**{name}, {', '.join(parts)}}}" if norms else name

    taken = [*first, "*args", *named, "**kwargs"]
    given = [handed(i, name) for i, name in enumerate(first)]
    given += ["*args", *(f"{name}={handed(name, name)}" for name in named), "**kwargs"]
    return ", ".join(taken), ", ".join(given)


STANDARDISED = Remedy("standardised inputs", SYMPTOMS, change, family=FAMILY)
