"""What makes the output: no rectifier that may be shut for all, and a bias at the usual answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.measure.outputs import last_bias
from pytest_gradhealth.remedies.layers import exchange, heads
from pytest_gradhealth.remedies.printed import printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy

FAMILY = "output"
SHUT = ("GH101", "GH402", "GH404")
FAR_OFF = ("GH201", "GH202", "GH203", "GH404")
#: Numbers that are still read as code.
MOST_NUMBERS = 16

_RELUS = (functional.relu, torch.relu)


def _open(activation: Callable[[], nn.Module], function: str) -> Callable[[Patient], str]:
    def change(patient: Patient) -> str:
        modules = [c.module for c in patient.calls if c.ends and type(c.module) is nn.ReLU]
        attributes = [
            (module, name)
            for module in patient.model.modules()
            for name, value in vars(module).items()
            if any(value is relu for relu in _RELUS)
        ]
        lines = exchange(patient.model, modules, activation) if modules else []
        if attributes:
            lines += [
                "for m in model.modules():",
                "    for name, f in [*vars(m).items()]:",
                "        if f is nn.functional.relu or f is torch.relu:",
                f"            setattr(m, name, nn.functional.{function})",
            ]
        for module, name in attributes:
            setattr(module, name, getattr(functional, function))
        if not lines:
            raise CannotApplyError("no nn.ReLU makes an output, and none is kept as an attribute")
        return printed("\n".join(lines))

    return change


def usual_answer(patient: Patient) -> str:
    """Set the last bias to the best constant answer: log odds of classes, the mean of targets."""
    if not patient.answer:
        raise CannotApplyError("the best answer for all examples is not known")
    last = heads(patient.calls)
    names = [name for name, module in patient.model.named_modules() if module in last]
    bias = patient.model.get_submodule(names[0]).bias if len(names) == 1 else None
    outputs = patient.run()
    added = last_bias(outputs) if isinstance(outputs, Tensor) else None
    if not isinstance(bias, Tensor) or added is None:
        raise CannotApplyError("no single layer with a bias makes the output")
    if not bias.numel() == len(patient.answer) <= MOST_NUMBERS:
        raise CannotApplyError(
            f"its last bias has {bias.numel()} numbers, the best answer {len(patient.answer)}, and"
            f" at most {MOST_NUMBERS} are set"
        )
    with torch.no_grad():
        bias.copy_(torch.tensor(patient.answer).to(bias))
    numbers = ", ".join(f"{number:.4g}" for number in patient.answer)
    head = f"model.get_submodule({names[0]!r})" if names[0] else "model"
    return printed(f"with torch.no_grad():\n    {head}.bias.copy_(torch.tensor([{numbers}]))")


LEAKY = Remedy("LeakyReLU at the output", SHUT, _open(nn.LeakyReLU, "leaky_relu"), family=FAMILY)
SOFTPLUS = Remedy("Softplus at the output", SHUT, _open(nn.Softplus, "softplus"), family=FAMILY)
BIAS = Remedy("initial bias", FAR_OFF, usual_answer, family="initial bias")
