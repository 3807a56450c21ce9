"""GH407: attention must be able to learn where to look.

## What it does

Warns where all tokens that attention gets are the same, and query and key get less than 1e-4 of the
gradient of value. Small weights alone make small gradients too, and are no fault.

## Why

Among equal tokens it makes no difference which is attended to, so that query and key get no
gradient and the tokens stay equal.

## Example

Warns:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.TransformerEncoderLayer(32, 4, dropout=0.0, batch_first=True)
    same_token = torch.randn(16, 1, 32).expand(16, 10, 32)
    gradhealth.assert_healthy(model, same_token)
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.TransformerEncoderLayer(32, 4, dropout=0.0, batch_first=True)
    same_token = torch.randn(16, 1, 32).expand(16, 10, 32)
    positions = torch.randn(10, 32)
    gradhealth.assert_healthy(model, same_token + positions)
```

## When to ignore it

Where the tokens of this batch are the same and others are not.

## References

- Noci et al. (2022), Signal propagation in transformers: theoretical perspectives and the role of
  rank collapse
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

from pytest_gradhealth.errors import AttentionCollapseError
from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.names import ATTENTION_ROLES, OUTPUT
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule

#: Gradient of query and key over that of value below which they learn next to nothing.
LIMIT = 1e-4
#: How far tokens lie apart at most that are taken for the same: a cosine of .999.
SAME = 0.03


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare the gradient of query and key with that of value, where all tokens are the same."""
    ratios = attention_ratios(evidence.first)
    if evidence.second is not None:
        again = attention_ratios(evidence.second)
        ratios = {name: max(r, again.get(name, math.inf)) for name, r in ratios.items()}
    if not ratios:
        return
    name, ratio = min(ratios.items(), key=lambda item: item[1])
    if ratio < LIMIT:
        yield RULE.finding(
            "warning",
            name,
            f"attention collapses in {name}: its tokens are all the same, and query and key get"
            f" x{number(ratio)} of the gradient of value; limit x{number(LIMIT)}",
            profile=evidence.first,
            value=ratio,
        )


def attention_ratios(profile: GradientProfile) -> Mapping[str, float]:
    """Smaller gradient of query and key over that of value, by attention module.

    Only modules that get the same token again and again count.
    """
    same = {
        (o.name if o.leaf == "MultiheadAttention" or "qkv" in o.name else o.name.rpartition(".")[0])
        for o in profile.outputs
        if o.tokens is not None and o.tokens < SAME
    }
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for parameter in profile.parameters:
        for part in parameter.parts:
            if role := ATTENTION_ROLES.get(part.name):
                found[parameter.module][role].append(part.gradient)
        owner, _, last = parameter.module.rpartition(".")
        role, is_weight = ATTENTION_ROLES.get(last), parameter.name.endswith("weight")
        if role and is_weight and parameter.gradient is not None:
            found[owner][role].append(parameter.gradient)
    return {
        name or OUTPUT: min(sizes["qk"]) / sizes["v"][0]
        for name, sizes in found.items()
        if name in same and len(sizes["qk"]) == 2 and len(sizes["v"]) == 1
        if min(sizes["qk"]) > 0 and sizes["v"][0] > 0
    }


RULE = Rule(
    code="GH407",
    name="attention-collapse",
    summary="attention must be able to learn where to look",
    reads="gradient of the query and key weights, over that of the value weights",
    check=check,
    confirm_from="warning",
    error=AttentionCollapseError,
    doc=__doc__,
    cause=Cause(
        "all tokens look alike there, so that it makes no difference which is attended to",
        "residual connections around the attention, or fewer layers",
    ),
)
