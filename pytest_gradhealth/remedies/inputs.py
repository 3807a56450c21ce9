"""Standardised inputs: each feature, or each channel of images, with mean 0 and deviation 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.remedies.layers import weighted
from pytest_gradhealth.remedies.printed import printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy

FAMILY = "inputs"
SYMPTOMS = ("GH101", "GH201", "GH202", "GH203", "GH301", "GH402", "GH403", "GH404")
#: Inputs are far from standard if the largest root mean square of a feature is, by this factor.
FAR = 10.0
#: Keeps features that are the same for all examples from a division by zero.
EPSILON = 1e-12

CODE = """class Standardised(nn.Module):
    def __init__(self, model):
        super().__init__()
        # momentum=None: means and deviations of all batches of the training
        norm = nn.BatchNorm1d({features}, {epsilon}, momentum=None, affine=False)
        self.norm = norm.double()  # a mean that is large is not rounded
        self.model = model
    def forward(self, x, *rest):
        return self.model({standardised}, *rest)
model = Standardised(model)"""


class Standardised(nn.Module):
    """The model behind a layer that standardises dimension `features` of its first input."""

    def __init__(self, model: nn.Module, features: int, dimension: int) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(features, EPSILON, momentum=None, affine=False)
        self.norm = norm.double()  # a mean that is large is not rounded
        self.model = model
        self.dimension = dimension

    def forward(self, x: Tensor, *rest: Any) -> Any:
        """Return what the model makes of the standardised input."""
        return self.model(self.standardised(x), *rest)

    def standardised(self, x: Tensor) -> Tensor:
        """The input, standardised."""
        rows = x.flatten(0, -2) if self.dimension == -1 else x.flatten(2)
        normed: Tensor = self.norm(rows.double())
        return normed.view_as(x).to(x.dtype)


def change(patient: Patient) -> str:
    """Put a layer in front of the model that standardises its first input."""
    if patient.inputs is None:
        raise CannotApplyError("it takes a batch, to see the features")
    x = patient.inputs[0] if isinstance(patient.inputs, tuple) else patient.inputs
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or len(x) < 2:
        raise CannotApplyError("the first input is no batch of floating features")
    dimension = _dimension(patient, x)
    sizes = _sizes(x, dimension)
    if not sizes.numel() or 1 / FAR <= float(sizes.max()) <= FAR:
        raise CannotApplyError("the inputs are within a factor of 10 of mean 0 and deviation 1")
    features = x.shape[dimension]
    model = Standardised(patient.model, features, dimension).to(x.device)
    model.standardised(x)  # which is for models in eval mode, that have seen no training
    model.norm.train(patient.model.training)
    model.training = patient.model.training
    patient.model = model
    rows = {2: "x"}.get(x.dim(), "x.flatten(0, -2)" if dimension == -1 else "x.flatten(2)")
    shaped = "" if x.dim() == 2 else ".view_as(x)"
    standardised = f"self.norm({rows}.double()){shaped}.to(x.dtype)"
    return printed(
        CODE.format(features=features, epsilon=f"eps={EPSILON:g}", standardised=standardised)
    )


def _dimension(patient: Patient, x: Tensor) -> int:
    """Where the features are: last for linear layers that take them so, second in feature maps."""
    first = weighted(patient.calls)[0].module
    takes_last = not isinstance(first, _ConvNd) and first.in_features == x.shape[-1]
    return -1 if x.dim() == 2 or takes_last else 1


def _sizes(x: Tensor, dimension: int) -> Tensor:
    """The root mean square of each feature, without those that are 0 throughout."""
    others = [d for d in range(x.dim()) if d != dimension % x.dim()]
    sizes = x.detach().double().square().mean(others).sqrt()
    if not bool(torch.isfinite(sizes).all()):
        raise CannotApplyError("the inputs are not finite")
    return sizes[sizes > 0]


STANDARDISED = Remedy("standardised inputs", SYMPTOMS, change, family=FAMILY)
