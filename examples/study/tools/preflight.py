"""torch-preflight's static analysis, of a script that is written from a network."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from examples.study.network import Network
from examples.study.tools.tool import Said, Tool

LOOP = """\
import torch
from torch import Tensor, nn
from torch.nn import functional as F

{sources}

torch.manual_seed(0)
model = {model}
optimizer = torch.optim.Adam(model.parameters())
model.train()
for inputs, targets in loader:
    optimizer.zero_grad()
    outputs = model(inputs)
    loss = {loss}
    loss.backward()
    optimizer.step()
"""


def run(network: Network, seed: int, _scale: float) -> list[Said]:
    """Check the textbook's loop around a network, with its default rules."""
    from torch_preflight.diagnostics import Severity
    from torch_preflight.engine import check_source

    torch.manual_seed(seed)
    found, _ = check_source("train.py", script(network))
    levels = {Severity.ERROR: "error", Severity.WARNING: "warning"}
    return [Said(d.code, levels[d.severity]) for d in found if d.severity in levels]  # type: ignore[arg-type]


def script(network: Network) -> str:
    """A script that trains a network: its own classes as written, sequences spelt out.

    What is made of layers of torch alone stands there as it would be typed; of others the class is
    above, and the call is without its arguments.
    """
    model = network.build()
    sources = dict.fromkeys(_sources(model))
    loss: Any = network.loss
    loss = loss.func if isinstance(loss, partial) else loss
    if loss is None:
        call = "outputs.loss"
    elif loss.__module__ == "torch.nn.functional":
        call = f"F.{loss.__name__}(outputs, targets)"
    else:
        call = f"{loss.__name__}(outputs, targets)"
        sources[_source(loss)] = None
    return LOOP.format(sources="\n\n".join(sources), model=_typed(model), loss=call)


def _sources(model: nn.Module) -> Iterator[str]:
    for module in model.modules():
        if not _of_torch(module):
            yield _source(type(module))


def _source(what: Any) -> str:
    try:
        return inspect.cleandoc("\n" + inspect.getsource(what))
    except (OSError, TypeError):  # of what a library makes while it runs
        return ""


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _typed(module: nn.Module) -> str:
    if isinstance(module, nn.Sequential):
        name = "nn.Sequential" if _of_torch(module) else type(module).__name__
        return f"{name}({', '.join(map(_typed, module))})"
    if not _of_torch(module):
        return f"{type(module).__name__}()"
    return f"nn.{type(module).__name__}({module.extra_repr()})"


TOOL = Tool(
    "torch-preflight",
    "torch-preflight",
    "0.5.0",
    "static, of the network's source in a textbook's loop",
    run,
)
