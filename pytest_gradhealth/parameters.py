"""What is measured of the parameters of a model, and of their gradients after a backward."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pytest_gradhealth.norms import cosine, has_equal_rows, l2_norm, to_numbers
from pytest_gradhealth.packed import whole
from pytest_gradhealth.records import ParameterRecord, ParameterState


def named_parameters(model: nn.Module) -> dict[str, tuple[nn.Parameter, tuple[str, ...]]]:
    """Each parameter once, under its first name, with its further names."""
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    return {first: (parameters[key], tuple(rest)) for key, (first, *rest) in names.items()}


@dataclass(frozen=True)
class MeasuredParameter:
    """A parameter's record without its numbers, and the numbers, still on the device."""

    name: str
    shape: tuple[int, ...]
    others: tuple[str, ...]
    trainable: bool
    norm: Tensor
    gradient: Tensor | None
    alignment: Tensor | None
    penalty: Tensor | None
    same: bool
    thirds: tuple[Tensor, ...]

    @property
    def scalars(self) -> tuple[Tensor | None, ...]:
        """The numbers, in the order in which they are read back."""
        return self.norm, self.gradient, self.alignment, self.penalty, *self.thirds


def measure_parameters(
    model: nn.Module, aligned: Collection[str], penalties: Mapping[str, Tensor] | None
) -> list[MeasuredParameter]:
    """Measure the parameters of a model and the gradients that a backward has left on them.

    Weights of the modules in `aligned` are compared with the direction of their gradient.
    `penalties` are the gradients of the regularisation term by name, None without one.
    """
    measured = []
    parameters = named_parameters(model)
    same = _with_same_rows({name: parameter for name, (parameter, _) in parameters.items()})
    for name, (parameter, others) in parameters.items():
        gradient = parameter.grad
        wanted = (
            gradient is not None
            and gradient.layout == torch.strided
            and name.rpartition(".")[0] in aligned
            and parameter.dim() > 1
        )
        measured.append(
            MeasuredParameter(
                name=name,
                shape=tuple(parameter.shape),
                others=others,
                trainable=parameter.requires_grad,
                norm=l2_norm(parameter),
                gradient=None if gradient is None else l2_norm(gradient),
                alignment=cosine(parameter, gradient) if wanted and gradient is not None else None,
                penalty=_norm_of(penalties, name, parameter),
                same=name in same,
                thirds=_thirds(name, gradient),
            )
        )
    return measured


def _with_same_rows(parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Weights other than zero, all rows of which are equal, as are those of their gradients."""
    weights = {
        name: p
        for name, p in parameters.items()
        if p.grad is not None and p.dim() > 1 and p.shape[0] > 1 and p.numel()
        if p.layout == torch.strided and p.grad.layout == torch.strided
    }
    with torch.no_grad():
        ends = [whole(weight)[:: len(weight) - 1] for weight in weights.values()]
        equal = to_numbers([(first == last).all() for first, last in ends])
        suspects = [item for item, same in zip(weights.items(), equal, strict=True) if same]
        return [
            name
            for name, w in suspects
            if w.grad is not None and has_equal_rows(w) and has_equal_rows(w.grad)
        ]


def _thirds(name: str, gradient: Tensor | None) -> tuple[Tensor, ...]:
    """Norms of the gradient of query, key and value, where one weight makes all three."""
    joint = name.endswith(("in_proj_weight", "qkv.weight"))
    if not joint or gradient is None or gradient.dim() < 2 or gradient.shape[0] % 3:
        return ()
    return tuple(map(l2_norm, whole(gradient).chunk(3)))


def _norm_of(penalties: Mapping[str, Tensor] | None, name: str, parameter: Tensor) -> Tensor | None:
    if penalties is None or not parameter.requires_grad:
        return None
    return l2_norm(penalties[name]) if name in penalties else parameter.new_zeros(())


def parameter_record(
    measured: MeasuredParameter,
    unscale: float,
    norm: float | None,
    gradient: float | None,
    alignment: float | None,
    penalty: float | None,
    *thirds: float | None,
) -> ParameterRecord:
    """Write the record of a parameter, with `unscale` times what its gradient measures."""
    gradient = None if gradient is None else gradient * unscale
    parts = [unscale * (third or 0.0) for third in thirds]
    state: ParameterState = "gradient"
    if not measured.trainable:
        state = "frozen"
    elif gradient is None:
        state = "none"
    elif gradient == 0:
        state = "zero"
    return ParameterRecord(
        name=measured.name,
        shape=measured.shape,
        state=state,
        norm=math.nan if norm is None else norm,
        gradient=gradient,
        alignment=alignment,
        penalty=penalty,
        other_names=measured.others,
        same=measured.same,
        thirds=(parts[0], parts[1], parts[2]) if parts else None,
    )
