"""The parameters of a model in one backward: each gradient is measured when it is complete.

A gradient that has been measured is let go of at once, so that a backward never holds all of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.isolation.write_guard import unguarded
from pytest_gradhealth.measure.parts import parts_of
from pytest_gradhealth.results.profile import ParameterRecord, ParameterState, PartRecord
from pytest_gradhealth.tensors.devices import on_host
from pytest_gradhealth.tensors.graph import Graph
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.modules import Named, named_parameters
from pytest_gradhealth.tensors.norms import (
    FEW,
    cosine,
    has_equal_rows,
    l2_norm,
    l2_norms,
    to_numbers,
)
from pytest_gradhealth.tensors.readout import Readout
from pytest_gradhealth.tensors.storage import has_memory
from pytest_gradhealth.tensors.unwrap import whole


@dataclass
class Measured:
    """A parameter and what was measured of it: 0-dim tensors, still on the device.

    `same_rows` says it of the weight, `same` of its gradient as well.
    """

    name: str
    parameter: nn.Parameter
    others: tuple[str, ...]
    norm: Tensor
    penalty: Tensor | None = None
    same_rows: bool = False
    same: bool = False
    gradient: Tensor | None = None
    alignment: Tensor | None = None
    part_names: tuple[str, ...] = ()
    parts: tuple[Tensor, ...] = ()

    @property
    def is_matrix(self) -> bool:
        """Whether it is trained, and does more than scale and shift."""
        return self.parameter.requires_grad and self.parameter.dim() > 1

    @property
    def scalars(self) -> tuple[Tensor | None, ...]:
        """All the numbers, None for what was not measured."""
        return self.norm, self.gradient, self.alignment, self.penalty, *self.parts

    def record(self, numbers: Readout, unscale: float) -> ParameterRecord:
        """The record of a parameter, with `unscale` times what its gradient measures."""
        gradient = numbers.get(self.gradient)
        gradient = None if gradient is None else gradient * unscale
        parts = [unscale * numbers[part] for part in self.parts]
        state: ParameterState = "gradient"
        if not self.parameter.requires_grad or not math.prod(self.parameter.shape):
            state = "frozen"  # or without elements, which comes to the same
        elif gradient is None:
            state = "none"
        elif gradient == 0:
            state = "zero"
        return ParameterRecord(
            name=self.name,
            shape=tuple(self.parameter.shape),
            state=state,
            norm=numbers[self.norm],
            gradient=gradient,
            alignment=numbers.get(self.alignment),
            penalty=numbers.get(self.penalty),
            other_names=self.others,
            same=self.same,
            parts=tuple(map(PartRecord, self.part_names, parts)),
        )


class ParameterReader:
    """Measures the `named` parameters of a model (None: all), and their gradients in one backward.

    Weights of the modules in `aligned` are compared with the direction of their gradient.
    `penalties` are the gradients of the regularisation term by name, None without one.
    """

    def __init__(
        self,
        model: nn.Module,
        named: Named | None,
        aligned: Collection[str],
        penalties: Mapping[str, Tensor] | None,
    ) -> None:
        #: Whether a gradient came in parts, of which the first have been let go of.
        self.incomplete = False
        self._aligned = aligned
        named = named_parameters(model) if named is None else named
        with unguarded():
            present = {name: p for name, (p, _) in named.items() if has_memory(p)}
            norms = dict(zip(present, l2_norms([*present.values()]), strict=True))
            alike = _with_same_rows(present)
            self._measured = {
                id(parameter): Measured(
                    name,
                    parameter,
                    others,
                    norm=norms[name] if name in norms else torch.zeros(()),
                    penalty=_norm_of(penalties, name, parameter),
                    same_rows=name in alike,
                    part_names=parts_of(model, name, parameter),
                )
                for name, (parameter, others) in named.items()
            }

    @contextmanager
    def dropping(self, graph: Graph) -> Iterator[None]:
        """Measure each large gradient when a backward through the graph completes it, and drop it.

        A re-entrant checkpoint hands gradients over in parts: with one among the nodes, all are
        held. Other code that does so shows in `incomplete`.
        """
        leaves = () if graph.hides_layers else graph.leaf_of.items()
        handles = [
            node.register_hook(partial(self._complete, leaf))
            for node, leaf in leaves
            if id(leaf) in self._measured and leaf.numel() > FEW
        ]
        del graph
        with hooked(handles):
            yield

    def results(self) -> list[Measured]:
        """All parameters, in the order of the model; gradients that are still there are measured.

        Gradients that were dropped before this are complete only if `incomplete` is false.
        """
        with unguarded():
            grads = ((measured, measured.parameter.grad) for measured in self._measured.values())
            left = [(measured, grad) for measured, grad in grads if grad is not None]
            norms = l2_norms([grad for _, grad in left])
            for (measured, grad), norm in zip(left, norms, strict=True):
                self._read(measured, grad, norm)
        return list(self._measured.values())

    def _complete(self, parameter: Tensor, *_: Any) -> None:
        gradient = parameter.grad
        if gradient is not None:
            with unguarded():
                self._read(self._measured[id(parameter)], gradient, l2_norm(gradient))
            parameter.grad = None

    def _read(self, measured: Measured, gradient: Tensor, norm: Tensor) -> None:
        name, weight = measured.name, measured.parameter
        self.incomplete |= measured.gradient is not None
        measured.gradient = norm
        if measured.part_names:
            measured.parts = tuple(map(l2_norm, whole(gradient).chunk(len(measured.part_names))))
        if weight.dim() > 1 and gradient.layout == torch.strided:
            if name.rpartition(".")[0] in self._aligned:
                measured.alignment = cosine(weight, gradient, (measured.norm, measured.gradient))
            measured.same = measured.same_rows and has_equal_rows(gradient)


def _with_same_rows(parameters: Mapping[str, nn.Parameter]) -> Collection[str]:
    """Trainable weights other than zero, all rows of which are equal."""
    weights = {
        name: p
        for name, p in parameters.items()
        if p.requires_grad and p.dim() > 1 and p.shape[0] > 1 and p.numel()
        if p.layout == torch.strided
    }
    with torch.no_grad():
        wholes = [whole(weight) for weight in weights.values()]
        if all(map(on_host, wholes)):
            equal = [float(torch.equal(weight[0], weight[-1])) for weight in wholes]
        else:
            equal = to_numbers([(weight[0] == weight[-1]).all() for weight in wholes])
        suspects = [item for item, same in zip(weights.items(), equal, strict=True) if same]
        return [name for name, weight in suspects if has_equal_rows(weight)]


def _norm_of(penalties: Mapping[str, Tensor] | None, name: str, parameter: Tensor) -> Tensor | None:
    if penalties is None or not parameter.requires_grad:
        return None
    return l2_norm(penalties[name]) if name in penalties else parameter.new_zeros(())
