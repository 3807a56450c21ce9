"""numguard's edge cases, of a network as a function of its one input."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from examples.study.network import Network
from examples.study.tools.tool import NotApplicableError, Said, Tool

#: Examples in a case, and elements of it: finite differences cost forwards by the thousand.
EXAMPLES, MOST = 2, 2000
#: Parameters of a network; numguard makes about ten thousand forwards.
LARGEST = 50_000


def run(network: Network, seed: int, _scale: float) -> list[Said]:
    """Check outputs and gradients of a network in eval mode at every edge case of float32.

    Raises NotApplicableError where there is not one input of floats, and for large networks.
    """
    import numguard

    torch.manual_seed(seed)
    model = network.build().eval()
    inputs, _ = network.batch()
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise NotApplicableError("it needs one array of floats")
    shape = (EXAMPLES, *inputs.shape[1:])
    if torch.Size(shape).numel() > MOST or sum(p.numel() for p in model.parameters()) > LARGEST:
        raise NotApplicableError("it is large")

    precise = copy.deepcopy(model).double()  # of the references

    def function(values: Tensor) -> Any:
        return (precise if values.dtype == torch.float64 else model)(values)

    given = numguard.Array(*shape)
    report = numguard.check(
        function, [given], dtypes=("float32",), backend="torch", grad=True, seed=seed
    )
    return [Said(check, "error") for check in report.failed_checks()]


TOOL = Tool(
    "numguard-ci",
    "numguard-ci",
    "1.1.0",
    "edge cases of the network as a function, and its gradient against finite differences",
    run,
    every=8,
)
