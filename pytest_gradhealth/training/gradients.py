"""What the user's training step does besides forward, backward and optimizer: penalty, clipping."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.subject.step import Clip, Regularizer, Step
from pytest_gradhealth.tensors.graph import walk
from pytest_gradhealth.tensors.modules import is_dtensor
from pytest_gradhealth.tensors.unwrap import is_one_number, odd_kind, shape_of, whole


def clip_gradients(parameters: list[nn.Parameter], clip: Clip | None) -> None:
    """Clip gradients in place; raises ProbeError if the user's function fails."""
    if clip is None:
        return
    if not callable(clip):
        _clip_norm(parameters, clip)
        return
    try:
        clip(parameters)
    except Exception as error:
        raise ProbeError(
            f"clip raised {told(error)}; it is called with a list of parameters,"
            " for example lambda ps: torch.nn.utils.clip_grad_value_(ps, 0.5)"
        ) from error


def _clip_norm(parameters: list[nn.Parameter], most: float) -> None:
    """Scale all gradients down to a common norm, also where only some are DTensors."""
    groups = [[p for p in parameters if is_dtensor(p) is spread] for spread in (False, True)]
    if not all(groups):
        torch.nn.utils.clip_grad_norm_(parameters, most)
        return
    norms = [
        whole(torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]))
        for group in groups
    ]
    for group in groups:
        torch.nn.utils.clip_grads_with_norm_(group, most, torch.stack(norms).norm())


def penalty_of(model: nn.Module, regularizer: Regularizer) -> Tensor:
    """Return the penalty; raises ProbeError if it is no scalar on the parameters of `model`."""
    try:
        penalty = regularizer(model)
    except ProbeError:
        raise
    except Exception as error:
        raise ProbeError(
            f"regularizer raised {told(error)}; it is called with the model"
        ) from error
    if not isinstance(penalty, Tensor) or not is_one_number(penalty) or not penalty.requires_grad:
        kind = type(penalty).__name__
        shape = f" of shape {shape_of(penalty)}" if isinstance(penalty, Tensor) else ""
        raise ProbeError(
            f"regularizer returned a {kind}{shape}, not a scalar that depends on the model it is"
            " given; for example lambda model: 1e-4 * sum(p.abs().sum() for p in"
            " model.parameters())"
        )
    if odd_kind(penalty):
        raise ProbeError(
            f"regularizer returned a {odd_kind(penalty)} tensor; return a dense one in float32"
        )
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(leaf) in own for leaf in walk(penalty).leaves):
        raise ProbeError(
            "regularizer does not depend on the parameters of the model it is given; write it as a"
            " function of its argument, lambda model: ..., since it is called with copies too"
        )
    return penalty.reshape(())


def penalty_gradients(
    model: nn.Module, step: Step, decay: Mapping[str, float]
) -> dict[str, Tensor] | None:
    """Return the gradient of the regularisation term for each parameter that has one.

    That is the gradient of the penalty, plus `decay` (by parameter name) times the parameter. None
    without a penalty and without weight decay. The graph of the model's forward is kept. Raises
    ProbeError for a penalty without a gradient.
    """
    if step.regularizer is None and not any(decay.values()):
        return None
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, Tensor] = {}
    if step.regularizer is not None:
        penalty = penalty_of(model, step.regularizer)
        try:
            gradients = torch.autograd.grad(
                penalty, list(named.values()), retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            raise ProbeError(
                f"the gradient of the regularizer cannot be computed: {told(error)}"
            ) from error
        found = {n: g for n, g in zip(named, gradients, strict=True) if g is not None}
    for name, parameter in named.items():
        if decay.get(name):
            pull = decay[name] * parameter.detach()
            found[name] = found[name] + pull if name in found else pull
    return found
