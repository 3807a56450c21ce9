"""Activation functions by name: which flatten out, which cut off, and what autograd calls them."""

from __future__ import annotations

#: Activations that flatten out on both sides, with the largest slope they have.
SATURATING = {
    "Sigmoid": "1/4",
    "Hardsigmoid": "1/6",
    "LogSigmoid": "1",
    "Softmax": "1/4",
    "Softsign": "1",
    "Tanh": "1",
    "Hardtanh": "1",
}
RECTIFIERS = {"ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "GELU", "SiLU", "Mish", "ELU"}
#: Names that the autograd graph has for functional activations.
FUNCTIONAL = {
    "Relu": "ReLU",
    "LeakyRelu": "LeakyReLU",
    "Gelu": "GELU",
    "Silu": "SiLU",
    "Elu": "ELU",
}
