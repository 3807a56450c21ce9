"""Initialisations that keep the size of the signal: Xavier, Kaiming, orthogonal, unit variance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from textwrap import wrap

import torch
from torch import Tensor, nn

from pytest_gradhealth.formatting import quoted
from pytest_gradhealth.remedies.layers import condition, nonlinearities, weighted
from pytest_gradhealth.remedies.printed import printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy
from pytest_gradhealth.tensors.hooks import hooked

FAMILY = "initialisation"
SYMPTOMS = ("GH101", "GH201", "GH202", "GH301", "GH203", "GH402", "GH403", "GH404", "GH406")

#: Sets a weight for the nonlinearity that follows it.
Initialise = Callable[[Tensor, str], object]


def _with_gain(initialise: Callable[..., object]) -> Initialise:
    def set_weight(weight: Tensor, nonlinearity: str) -> None:
        initialise(weight, gain=nn.init.calculate_gain(nonlinearity))  # type: ignore[arg-type]

    return set_weight


def _kaiming(weight: Tensor, nonlinearity: str) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]


def _change(set_weight: Initialise, call: str) -> Callable[[Patient], str]:
    """Initialise every layer for the activation that follows it.

    `call` is the call that sets `m.weight`, with "{}" for the quoted nonlinearity.
    """

    def change(patient: Patient) -> str:
        layers = weighted(patient.calls)
        kinds = nonlinearities(layers)
        lines: list[str] = []
        for kind in dict.fromkeys(kinds.values()):
            chosen = [layer.module for layer in layers if kinds[layer.name] == kind]
            lines += [
                "for name, m in model.named_modules():",
                f"    if {condition(chosen, patient.model)}:",
                f"        {call.format(quoted(kind))}",
                *_zero_biases(chosen, " " * 8),
            ]
        for layer in layers:
            set_weight(layer.module.weight, kinds[layer.name])  # type: ignore[arg-type]
        return printed("\n".join(lines))

    return change


def _zero_biases(modules: Collection[nn.Module], indent: str) -> list[str]:
    """Set the biases of some layers to zero; return the line that does so to `m`, if any."""
    biases = [module.bias for module in modules if module.bias is not None]
    for bias in biases:
        nn.init.zeros_(bias)  # type: ignore[arg-type]
    sometimes = "m.bias is None or " if len(biases) < len(modules) else ""
    return [f"{indent}{sometimes}nn.init.zeros_(m.bias)"] if biases else []


def unit_variance(patient: Patient) -> str:
    """Orthogonal weights, divided layer by layer by the spread of what they put out.

    Mishkin and Matas, 2015 (LSUV), in one forward. The code has the factors that came of it.
    """
    layers = weighted(patient.calls)
    for layer in layers:
        nn.init.orthogonal_(layer.module.weight)  # type: ignore[arg-type]
    factors = dict.fromkeys((layer.module for layer in layers), 1.0)
    zero_biases = _zero_biases(factors, " " * 4)

    def rescale(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        spread = output.detach().std()
        if not bool(torch.isfinite(spread)) or not bool(spread > 0):
            return output
        assert isinstance(module.weight, Tensor)
        module.weight.data /= spread
        factors[module] /= float(spread)
        return output / spread

    with hooked(layer.module.register_forward_hook(rescale) for layer in layers):
        patient.run()
    in_order = [factors[m] for m in patient.model.modules() if m in factors]
    lines = [
        f"ms = [m for name, m in model.named_modules() if {condition([*factors], patient.model)}]",
        *_listed("gains", in_order),
        "for m, gain in zip(ms, gains):",
        "    nn.init.orthogonal_(m.weight, gain)",
        *zero_biases,
    ]
    return printed("\n".join(lines))


def _listed(name: str, numbers: Sequence[float]) -> list[str]:
    """The lines of a list of numbers."""
    text = ", ".join(f"{number:.3g}" for number in numbers)
    return wrap(f"{name} = [{text}]", width=88, subsequent_indent=" " * (len(name) + 4))


KAIMING = Remedy(
    "Kaiming init",
    SYMPTOMS,
    _change(_kaiming, "nn.init.kaiming_normal_(m.weight, nonlinearity={})"),
    family=FAMILY,
)
XAVIER = Remedy(
    "Xavier init",
    SYMPTOMS,
    _change(
        _with_gain(nn.init.xavier_normal_),
        "nn.init.xavier_normal_(m.weight, nn.init.calculate_gain({}))",
    ),
    family=FAMILY,
)
ORTHOGONAL = Remedy(
    "orthogonal init",
    SYMPTOMS,
    _change(
        _with_gain(nn.init.orthogonal_), "nn.init.orthogonal_(m.weight, nn.init.calculate_gain({}))"
    ),
    family=FAMILY,
)
UNIT_VARIANCE = Remedy("unit-variance init", SYMPTOMS, unit_variance, family=FAMILY)
