"""Whether a model fails for an unlucky draw of its weights alone, which any other draw mends."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.remedies.layers import WEIGHTED
from pytest_gradhealth.remedies.ward import DRAWS, Ward

#: What is told of an initialisation that is no better than another draw.
REASON = "another draw of the weights as they were does as much"
#: By this factor the sizes of two draws may differ.
ALIKE = 1.3


def is_by_chance(ward: Ward) -> bool:
    """Whether most of several draws of the weights as they were pass, without any remedy.

    They are drawn by the factory, or by the layers where all have the initialisation of torch.
    """
    try:
        return 2 * sum(_passes(ward, draw) for draw in range(1, DRAWS + 1)) > DRAWS
    except Exception:  # what cannot be drawn, or looked at, tells nothing
        return False


def _passes(ward: Ward, draw: int) -> bool:
    patient, subject = ward.copy(draw)
    seed_everything(ward.seed(draw), subject.device)
    if ward.redraw is None and not _drawn_anew(patient.model):
        return False
    seen = ward.examine(subject, patient.optimizer)
    return not (seen.failing or seen.warning.intersection(ward.codes))


def _drawn_anew(model: nn.Module) -> bool:
    """Draw the weights of all layers anew; False where some were not drawn so."""
    layers = [module for module in model.modules() if isinstance(module, WEIGHTED)]
    for layer in layers:
        size, largest = _size(layer.weight), _largest(layer.bias)
        layer.reset_parameters()
        drawn, bound = _size(layer.weight), _largest(layer.weight)
        if not size / ALIKE <= drawn <= size * ALIKE or largest > ALIKE * bound:
            return False
    return bool(layers)


def _size(weight: Tensor) -> float:
    return float(weight.detach().norm()) / math.sqrt(max(1, weight.numel()))


def _largest(values: Tensor | None) -> float:
    return 0.0 if values is None else float(values.detach().abs().max())
