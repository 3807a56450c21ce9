"""The activation functions there are: what torch and autograd call them, and what they do."""

from __future__ import annotations

from typing import NamedTuple


class ActivationFunction(NamedTuple):
    """An activation: the name of its module, and of its node in the autograd graph.

    `slope` is the largest that one has which flattens out on both sides, `rectifies` says that it
    cuts off one side. `gain` is what `torch.nn.init.calculate_gain` calls it, or its nearest.
    """

    name: str
    node: str = ""
    slope: str = ""
    rectifies: bool = False
    gain: str = ""


_ALL = (
    ActivationFunction("ReLU", "Relu", rectifies=True, gain="relu"),
    ActivationFunction("ReLU6", "Relu6", rectifies=True),
    ActivationFunction("LeakyReLU", "LeakyRelu", rectifies=True, gain="leaky_relu"),
    ActivationFunction("PReLU", rectifies=True),
    ActivationFunction("RReLU", rectifies=True),
    ActivationFunction("GELU", "Gelu", rectifies=True, gain="relu"),
    ActivationFunction("SiLU", "Silu", rectifies=True, gain="relu"),
    ActivationFunction("Mish", "Mish", rectifies=True, gain="relu"),
    ActivationFunction("ELU", "Elu", rectifies=True, gain="relu"),
    ActivationFunction("Softplus", "Softplus", gain="relu"),
    ActivationFunction("Sigmoid", "Sigmoid", "1/4", gain="sigmoid"),
    ActivationFunction("Hardsigmoid", "Hardsigmoid", "1/6"),
    ActivationFunction("LogSigmoid", "LogSigmoid", "1"),
    ActivationFunction("Softmax", "Softmax", "1/4"),
    ActivationFunction("Softsign", "", "1"),
    ActivationFunction("Tanh", "Tanh", "1", gain="tanh"),
    ActivationFunction("Hardtanh", "Hardtanh", "1", gain="tanh"),
)
NAMES = {activation.name for activation in _ALL}
#: Activations that flatten out on both sides, with the largest slope they have.
SATURATING = {activation.name: activation.slope for activation in _ALL if activation.slope}
RECTIFIERS = {activation.name for activation in _ALL if activation.rectifies}
#: Names by those of the nodes that functional activations leave in the autograd graph.
FUNCTIONAL = {activation.node: activation.name for activation in _ALL if activation.node}
#: What `calculate_gain` calls them, by the same.
GAINS = {a.node: a.gain for a in _ALL if a.node and a.gain}
