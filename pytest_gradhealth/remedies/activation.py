"""Activations that let gradients through in place of saturating ones, with their initialisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.remedies.layers import (
    WEIGHTED,
    condition,
    exchange,
    nonlinearities,
    weighted,
)
from pytest_gradhealth.remedies.printed import printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy
from pytest_gradhealth.results.activation_functions import SATURATING

FAMILY = "activation"
SYMPTOMS = ("GH101", "GH201", "GH202", "GH301", "GH402", "GH403", "GH404")

_SATURATING: tuple[type, ...] = tuple(getattr(nn, name) for name in SATURATING)


def _change(
    activation: Callable[[], nn.Module], nonlinearity: str, replaced: tuple[type, ...] = _SATURATING
) -> Callable[[Patient], str]:
    def change(patient: Patient) -> str:
        calls = patient.calls
        layers = weighted(calls)
        last = max(i for i, call in enumerate(calls) if isinstance(call.module, WEIGHTED))
        # What comes after the last layers is part of the loss: a sigmoid for probabilities, say.
        after = {call.module for i, call in enumerate(calls) if call.ends or i > last}
        found = dict.fromkeys(c.module for c in calls if type(c.module) in replaced)
        chosen = [module for module in found if module not in after]
        if not chosen:
            called = sorted({"sigmoid", "tanh"} & set(nonlinearities(layers).values()))
            raise CannotApplyError(
                f"its forward calls {called[0]} as a function, which cannot be exchanged from"
                " outside"
                if called
                else "nothing saturates between its layers"
            )
        all_layers = [layer.module for layer in layers]
        lines = [
            *exchange(patient.model, chosen, activation),
            f"    if {condition(all_layers, patient.model)}:",
            f'        nn.init.kaiming_normal_(m.weight, nonlinearity="{nonlinearity}")',
        ]
        for layer in all_layers:
            assert isinstance(layer.weight, Tensor)
            nn.init.kaiming_normal_(layer.weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]
        return printed("\n".join(lines))

    return change


RELU = Remedy("ReLU", SYMPTOMS, _change(nn.ReLU, "relu"), family=FAMILY)
LEAKY_RELU = Remedy(
    "LeakyReLU",
    SYMPTOMS,
    _change(nn.LeakyReLU, "leaky_relu", (*_SATURATING, nn.ReLU)),
    family=FAMILY,
)
GELU = Remedy("GELU", SYMPTOMS, _change(nn.GELU, "relu"), family=FAMILY)
SELU = Remedy("SELU", SYMPTOMS, _change(nn.SELU, "linear"), family=FAMILY)
