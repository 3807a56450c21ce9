"""GH408: a model should know the parameters that it computes with.

## What it does

Warns of trainable parameters behind the outputs that `model.parameters()` does not list.

## Why

No optimizer trains them, no state_dict saves them, and no device move takes them along.

## Example

Warns:

```python
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 8) for _ in range(3)]
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


def test_gradients(gradhealth):
    gradhealth.assert_healthy(Net(), torch.randn(64, 8))
```

Passes:

```python
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


def test_gradients(gradhealth):
    gradhealth.assert_healthy(Net(), torch.randn(64, 8))
```

## When to ignore it

Where the parameters are another model's, whose optimizer trains them.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gradhealth.errors import UnregisteredParameterError
from pytest_gradhealth.formatting import count, listing
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.names import OUTPUT
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule


def check(evidence: Evidence) -> Iterator[Finding]:
    """Tell the shapes of what the model does not list."""
    shapes = evidence.first.unregistered
    if shapes:
        named = listing(["x".join(map(str, shape)) or "1" for shape in shapes])
        yield RULE.finding(
            "warning",
            OUTPUT,
            f"the forward uses {count(len(shapes), 'parameter')} that model.parameters() does not"
            f" list (of {'shape' if len(shapes) == 1 else 'shapes'} {named})",
            profile=evidence.first,
        )


RULE = Rule(
    code="GH408",
    name="unregistered",
    summary="a model should know the parameters that it computes with",
    reads="trainable parameters behind the outputs that the model does not list",
    check=check,
    error=UnregisteredParameterError,
    doc=__doc__,
    cause=Cause(
        "layers in a plain list, tuple or dict, or parameters of another model",
        "nn.ModuleList, nn.ModuleDict or nn.ParameterList, or register_parameter",
    ),
)
