"""Recurrent layers that remember: gates that stay open, orthogonal recurrent weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.remedies.layers import classes_of
from pytest_gradhealth.remedies.printed import printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy

FAMILY = "recurrence"
#: Steps to remember where no dependency was declared.
STEPS = 30
_GATED = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell)
_SIMPLE = (nn.RNN, nn.RNNCell)


def open_gates(patient: Patient) -> str:
    """Set the bias of forget gates (LSTM) or update gates (GRU) to log(T).

    Tallec and Ollivier, 2018: a gate of T / (T + 1) forgets over about T steps.
    """
    layers = [m for m in patient.model.modules() if isinstance(m, _GATED)]
    layers = [m for m in layers if m.bias]
    if not layers:
        raise CannotApplyError("the model has no nn.LSTM or nn.GRU with biases")
    bias = math.log(1 + (patient.dependency or STEPS))
    with torch.no_grad():
        for layer in layers:
            for name, parameter in layer.named_parameters():
                if name.startswith("bias"):
                    gate = parameter[layer.hidden_size : 2 * layer.hidden_size]
                    gate.fill_(bias if "_hh" in name else 0.0)
    return printed(
        "for m in model.modules():\n"
        f"    if isinstance(m, {classes_of(layers)}):\n"
        "        for name, p in m.named_parameters():\n"
        '            if name.startswith("bias"):\n'
        "                gate = p.data[m.hidden_size : 2 * m.hidden_size]\n"
        f'                gate.fill_({bias:.3g} if "_hh" in name else 0.0)'
    )


def orthogonal(patient: Patient) -> str:
    """Make the recurrent weights of plain RNNs orthogonal, and their biases zero.

    Saxe et al., 2014: a gradient keeps its norm through an orthogonal matrix.
    """
    layers = [m for m in patient.model.modules() if isinstance(m, _SIMPLE)]
    if not layers:
        raise CannotApplyError("the model has no nn.RNN")
    for layer in layers:
        for name, parameter in layer.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter)
            elif name.startswith("bias"):
                nn.init.zeros_(parameter)
    return printed(
        "for m in model.modules():\n"
        f"    if isinstance(m, {classes_of(layers)}):\n"
        "        for name, p in m.named_parameters():\n"
        '            if name.startswith("weight_hh"): nn.init.orthogonal_(p)\n'
        '            elif name.startswith("bias"): nn.init.zeros_(p)'
    )


OPEN_GATES = Remedy("open gates", ("GH102",), open_gates, family=FAMILY)
ORTHOGONAL = Remedy("orthogonal recurrence", ("GH102",), orthogonal, family=FAMILY)
