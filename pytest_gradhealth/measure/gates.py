"""Whether gates are what a stretch without layers loses its gradient by."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pytest_gradhealth.measure.loop import Call, Gates
from pytest_gradhealth.measure.perturbation import on_another_batch
from pytest_gradhealth.results.names import OUTPUT
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.norms import l2_norm
from pytest_gradhealth.tensors.trees import map_tensors, tensors

#: What layers are made to return, with either sign: some opens sigmoids, some exponents, some is a
#: factor itself.
SIZES = (10.0, 1.0, 0.0)
#: How often signs are drawn.
DRAWS = 8
#: What has to come through gates that are open: a share of what gets to the layers beside, and so
#: much of the decades lost.
OPENED, REGAINED = 3e-2, 0.25
#: The share by which what comes through gates differs between two batches.
CHANGED = 0.1

#: What a call returns in place of a tensor that it has computed.
Instead = Callable[[Call, Tensor], Tensor]


def are_closed(subject: Subject, gates: Gates, seed: int) -> bool:
    """Whether what layers return could let the gradient through from the ends of a way to its door.

    The layers that may make gates return one number or its opposite, unit by unit: what is closed
    by constants, or by what comes through itself, stays closed. Where bare weights are in their
    place, the batch has to decide how much comes through. To be called inside `isolated`.
    """
    closed = comes_back(subject, gates, seed).share
    least = max(OPENED * max(gates.layers.values(), default=0.0), closed ** (1 - REGAINED))
    for draw, size, dim in product(range(DRAWS if gates.layers else 0), SIZES, (-1, 1)):
        opened = comes_back(subject, gates, seed, _set_to(gates, draw, size, dim)).share
        if math.isfinite(opened) and opened > least:
            return True
    return gates.bare and _differs(subject, gates, seed)


def _set_to(gates: Gates, draw: int, size: float, dim: int) -> Instead:
    """Set what the layers of gates return to a number or its opposite for each of their units.

    Which is drawn for each of them: gates may have to be open while others are shut.
    """

    def instead(call: Call, tensor: Tensor) -> Tensor:
        if call[0] not in gates.layers or not tensor.is_floating_point() or not tensor.dim():
            return tensor
        level = torch.zeros_like(tensor)
        units = level.movedim(dim if dim < tensor.dim() else -1, -1)
        drawn = torch.Generator().manual_seed(zlib.crc32(f"{call[0]} {draw}".encode()))
        signs = 2 * torch.randint(2, units.shape[-1:], generator=drawn) - 1
        units += (size * signs).to(units)
        return tensor - tensor.detach() + level

    return instead


def _differs(subject: Subject, gates: Gates, seed: int) -> bool:
    """Whether what comes back depends on the batch, the door held at what it returned."""
    kept: list[Tensor] = []

    def keep(call: Call, tensor: Tensor) -> Tensor:
        kept.extend([tensor.detach().clone()] * (call == gates.door))
        return tensor

    def hold(call: Call, tensor: Tensor) -> Tensor:
        return tensor - tensor.detach() + kept.pop(0) if call == gates.door and kept else tensor

    ours = comes_back(subject, gates, seed, keep)
    theirs = comes_back(on_another_batch(subject), gates, seed, hold, ours.along)
    felt = (ours.gradient != 0) | (theirs.gradient != 0)
    most = torch.maximum(ours.gradient.abs(), theirs.gradient.abs())
    changed = (ours.gradient - theirs.gradient).abs() > CHANGED * most
    return bool(2 * changed.sum() > felt.sum())


@dataclass(frozen=True)
class Back:
    """The gradient that comes back to the door of a way, and the one at its ends, of norm one."""

    gradient: Tensor
    along: Sequence[Tensor]

    @property
    def share(self) -> float:
        """The L2 norm of what comes back."""
        return float(self.gradient.norm())


def comes_back(
    subject: Subject,
    gates: Gates,
    seed: int,
    instead: Instead | None = None,
    along: Sequence[Tensor] = (),
) -> Back:
    """What one forward lets through from the ends of a way to its door.

    Of the gradient of the loss, or `along` another one of norm one.
    """
    ends: list[Tensor] = []
    doors: list[GradientEdge] = []
    calls: Counter[str] = Counter()

    def hook(name: str) -> Any:
        def returned(module: nn.Module, inputs: Any, outputs: Any) -> Any:
            del module, inputs
            call = name, calls[name]
            calls[name] += 1
            if instead is not None:
                outputs = map_tensors(lambda tensor: instead(call, tensor), outputs)
            known = [tensor for tensor in tensors(outputs) if tensor.requires_grad]
            ends.extend(known if call in gates.ends else ())
            doors.extend(map(get_gradient_edge, known if call == gates.door else ()))
            return outputs

        return returned

    names = {*gates.layers, *(name for name, _ in {*gates.ends, gates.door})}
    modules = [(name, m) for name, m in subject.model.named_modules() if name in names]
    with hooked(module.register_forward_hook(hook(name)) for name, module in modules):
        run = Pass(subject, seed)
        outputs = run.forward()
        if any(name == OUTPUT for name, _ in gates.ends):
            ends.extend(tensor for tensor in tensors(outputs) if tensor.requires_grad)
        if not (ends and doors):  # as where the way begins with an input
            return Back(torch.zeros(1, dtype=torch.float64), along)
        along = along or _of_norm_one(
            torch.autograd.grad(run.loss(), ends, retain_graph=True, materialize_grads=True)
        )
        scale = min(torch.finfo(each.dtype).max for each in along) ** 0.75  # little of it is lost
        found = torch.autograd.grad(
            ends, doors, [scale * each for each in along], materialize_grads=True
        )
    return Back(torch.cat([each.double().reshape(-1) / scale for each in found]), along)


def _of_norm_one(gradients: Sequence[Tensor]) -> list[Tensor]:
    norm = math.hypot(*(float(l2_norm(gradient)) for gradient in gradients))
    return [gradient / norm for gradient in gradients] if norm else [*gradients]
