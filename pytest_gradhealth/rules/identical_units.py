"""GH406: the units of a layer must differ.

## What it does

Fails layers all of whose units have the same weights and get the same gradient, in every look. The
last layer, whose units the targets tell apart, may start so.

## Why

Nothing will ever tell such units apart: whatever the layer's width, it learns as one unit.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    gradhealth.assert_healthy(model, torch.randn(64, 8))
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    for weight in (model[0].weight, model[2].weight):
        nn.init.kaiming_normal_(weight)
    gradhealth.assert_healthy(model, torch.randn(64, 8))
```

## When to ignore it

Where noise in the training (dropout) tells the units apart, which the probe has not seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gradhealth.errors import IdenticalUnitsError
from pytest_gradhealth.formatting import count
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule


def check(evidence: Evidence) -> Iterator[Finding]:
    """Look for weights with equal rows that get equal gradients, but for the last layers'."""
    first, second = evidence.first, evidence.second
    ends = {path.last.name for path in first.judged_paths}
    layers = [p for p in first.parameters if p.same and p.module not in ends]
    if second is not None:
        again = {p.name for p in second.parameters if p.same}
        layers = [p for p in layers if p.name in again]
    if not layers:
        return
    worst = layers[0]
    text = f"all {worst.shape[0]} units of {worst.name} are the same, and get the same gradient"
    if len(layers) > 1:
        text += f"; so are those of {count(len(layers) - 1, 'more weight')}"
    yield RULE.finding("failure", worst.module or worst.name, text, profile=first)


RULE = Rule(
    code="GH406",
    name="identical-units",
    summary="the units of a layer must differ",
    reads="whether the rows of a weight are equal, and those of its gradient",
    check=check,
    error=IdenticalUnitsError,
    echoes=("GH101",),
    doc=__doc__,
    cause=Cause(
        "a constant initialisation: whatever is learned, each of them learns the same",
        "nn.init.kaiming_normal_(layer.weight), or any other random initialisation",
    ),
)
