"""Batch and layer normalisation, put between each layer and its activation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd

from pytest_gradhealth.errors import CannotApplyError, ProbeError
from pytest_gradhealth.remedies.layers import Call, by_kind, condition, heads, weighted
from pytest_gradhealth.remedies.printed import printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy

FAMILY = "normalisation"
SYMPTOMS = ("GH101", "GH201", "GH202", "GH301", "GH203", "GH402", "GH403", "GH404")


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _width(layer: nn.Module) -> int:
    width = layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features
    assert isinstance(width, int)
    return width


def _batch_norm(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, _ConvNd):
        return nn.BatchNorm1d(_width(layer))
    kinds: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    return kinds[len(layer.kernel_size)](_width(layer))


def _layer_norm(layer: nn.Module) -> nn.Module:
    """Layer normalisation; for feature maps that is group normalisation with one group."""
    if isinstance(layer, _ConvNd):
        return nn.GroupNorm(1, _width(layer))
    return nn.LayerNorm(_width(layer))


def _written(norm: nn.Module, layer: nn.Module) -> str:
    width = "m.out_channels" if isinstance(layer, _ConvNd) else "m.out_features"
    groups = "1, " if isinstance(norm, nn.GroupNorm) else ""
    return f"nn.{type(norm).__name__}({groups}{width})"


def _bare(calls: Sequence[Call]) -> list[Call]:
    """The layers that no normalisation follows, but those that make an output of the model."""
    leaves = [call for call in calls if call.is_leaf]
    following = {a.module: b.module for a, b in itertools.pairwise(leaves)}
    last = heads(calls)
    layers = [call for call in weighted(calls) if call.module not in last]
    bare = [c for c in layers if not _is_norm(following.get(c.module, c.module))]
    if not bare:
        raise CannotApplyError(
            "every layer but the last is normalised already"
            if layers
            else "what its layers return goes to the loss"
        )
    return bare


def _check_eval_mode(patient: Patient) -> None:
    """Raise CannotApplyError where in eval mode alone the forward reads weights of its layers."""
    modes = [(module, module.training) for module in patient.model.modules()]
    patient.model.eval()
    try:
        if patient.inputs is not None:
            patient.run()
    except ProbeError as error:
        if not isinstance(error.__cause__, AttributeError):
            raise
        raise CannotApplyError(
            f"in eval mode its forward reads weights of its layers: {error.__cause__}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training


def _change(make: Callable[[nn.Module], nn.Module]) -> Callable[[Patient], str]:
    def change(patient: Patient) -> str:
        layers = _bare(patient.calls)
        for call in layers:
            is_sequence = isinstance(call.module, nn.Linear) and len(call.returned or ()) > 2
            if is_sequence and make is _batch_norm:
                raise CannotApplyError(
                    f"{call.name} puts out {len(call.returned or ())} dimensions, of which batch"
                    " norm would take the second for the features"
                )
        lines = ["for name, m in [*model.named_modules()]:"]
        for alike in by_kind([call.module for call in layers]):
            lines += [
                f"    if {condition(alike, patient.model)}:",
                "        model.set_submodule(name, nn.Sequential(m, "
                f"{_written(make(alike[0]), alike[0])}))",
            ]
        for call in layers:
            parameter = next(call.module.parameters())
            norm = make(call.module).to(parameter.device, parameter.dtype)
            if not call.name:
                raise CannotApplyError("the model is a single layer")
            both = nn.Sequential(call.module, norm.train(call.module.training))
            patient.model.set_submodule(call.name, both.train(call.module.training))
        _check_eval_mode(patient)
        return printed("\n".join(lines))

    return change


BATCH_NORM = Remedy("batch norm", SYMPTOMS, _change(_batch_norm), family=FAMILY)
LAYER_NORM = Remedy("layer norm", SYMPTOMS, _change(_layer_norm), family=FAMILY)
