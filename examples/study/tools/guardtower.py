"""guardtower's audit of one training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from examples.study.network import Network
from examples.study.peers.observation import call, loss_of
from examples.study.tools.tool import NotApplicableError, Said, Tool


def run(network: Network, seed: int, scale: float) -> list[Said]:
    """Audit one forward and one backward in train mode, with the inputs that are floats.

    Raises NotApplicableError where its hooks make the step fail.
    """
    from guardtower import Severity, audit

    torch.manual_seed(seed)
    model = network.build().train()
    inputs, targets = network.batch()

    def step() -> torch.Tensor:
        return scale * loss_of(call(model, inputs), targets, network.loss)

    report = audit(model, step, inputs=_floats(inputs))
    for finding in report.errors:
        if "raised" in finding.message:
            raise NotApplicableError(finding.message)
    levels = {Severity.ERROR: "error", Severity.WARN: "warning"}
    return [
        Said(finding.check, levels[finding.severity])  # type: ignore[arg-type]
        for finding in report.findings
        if finding.severity in levels
    ]


def _floats(inputs: Any) -> list[torch.Tensor] | None:
    """Leaves that a gradient can be asked of."""
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    values = [values] if isinstance(values, torch.Tensor) else values
    found = [v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()]
    return found or None


TOOL = Tool(
    "guardtower",
    "guardtower",
    "0.1.0",
    "`audit()` of one training step",
    run,
    scales=True,
)
