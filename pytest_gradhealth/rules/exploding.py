"""GH201: the gradient must not explode between the loss and the first layer.

## What it does

Follows the gradient from the loss back along every path, and compares what arrives at the first
layer with what leaves the last one with weights: the smaller of the ratio of L2 norms and the ratio
of root mean squares. What is behind that (a unit, a logarithm) is the same for all layers. Growth
through weights whose scale a normalisation layer takes out again is told, and is no fault; nor is
what would warn, if a few steps of the optimizer take a decade of it away.

## Why

A step that suits the last layers throws the first ones away. In a plain network the norm grows by
about the same factor with each layer, so that a little too much variance in the weights is enough;
batch normalisation without skip connections does the same.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(12)))
    for layer in model:
        nn.init.normal_(layer.weight, std=0.5)
    gradhealth.assert_healthy(model, torch.randn(64, 32))
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(12)))
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    gradhealth.assert_healthy(model, torch.randn(64, 32))
```

## When to ignore it

Where the layers have learning rates of their own that make up for it.

## References

- Pascanu, Mikolov and Bengio (2013), On the difficulty of training recurrent neural networks
- Philipp, Song and Carbonell (2017), The exploding gradient problem demystified
- Yang et al. (2019), A mean field theory of batch normalization
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from pytest_gradhealth.errors import ExplodingGradientError
from pytest_gradhealth.formatting import factor, number
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.path import GradientPath, decades, power
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.levelling import levelled_to, levels_out
from pytest_gradhealth.rules.path_causes import path_cause
from pytest_gradhealth.rules.rule import Evidence, Quantity, Rule

#: A weight whose cosine with its gradient is below this has a scale that does not matter.
SCALE_FREE_ALIGNMENT = 1e-3
#: Decades that the gradient scale coefficient may span, and the largest output RMS, of a chain of
#: such weights that is called harmless.
SCALE_FREE_COEFFICIENT = 2.0
SCALE_FREE_OUTPUT = 1e3


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare X of every judged path with `max_ratio` and `warn_max_ratio`."""
    fail, warn = evidence.limits["max_ratio"], evidence.limits["warn_max_ratio"]
    for index, path in enumerate(evidence.first.paths):
        if not path.judged or not path.exploding > math.log10(min(fail.value, warn.value)):
            continue
        if is_scale_free(path, evidence.first):
            yield RULE.finding(
                "info",
                path.first.label,
                f"the gradient grows {factor(path.exploding)} towards {path.first.title}, through"
                " weights whose scale a normalisation layer takes out again: harmless",
                profile=evidence.first,
                value=power(path.exploding),
                path=index,
            )
            continue
        grown, levelled = path.exploding, ""
        if evidence.second is not None:
            grown = min(grown, _second_growth(path, evidence))
        limit = fail if grown > math.log10(fail.value) else warn
        if not grown > math.log10(limit.value):
            continue
        if limit is warn and evidence.second and levels_out(path.exploding, grown):
            levelled = levelled_to(grown, evidence.second)
        layer = path.crossing(math.log10(limit.value), down=False).label
        text = f"the gradient explodes: it grows {factor(path.exploding)} to {path.first.title}"
        text += levelled or f"; limit x{number(limit.value)} ({limit.source})"
        yield RULE.finding(
            "failure" if limit is fail else "info" if levelled else "warning",
            layer,
            text,
            profile=evidence.first,
            value=power(path.exploding),
            limit=limit,
            path=index,
        )


def _second_growth(path: GradientPath, evidence: Evidence) -> float:
    """X of the same path in the second look.

    Steps that ended in NaN, infinity or a vanished gradient confirm: the explosion broke the model.
    """
    assert evidence.second is not None
    other = evidence.second.same_path(path)
    if other is None:
        return math.inf if evidence.second.non_finite else 0.0
    broken = not other.finite or power(other.vanishing) < evidence.limits["min_ratio"].value
    return math.inf if broken else other.exploding


def is_scale_free(path: GradientPath, profile: GradientProfile) -> bool:
    """Whether the growth comes from weights before normalisation layers, which do not feel it.

    True if every weight on the path but the last is orthogonal to its gradient and followed by a
    normalisation layer, while the gradient scale coefficient (gradient L2 times activation RMS,
    Philipp et al. 2017) stays level and the output is of sane size.
    """
    alignment = {p.module: p.alignment for p in profile.parameters if p.alignment is not None}
    weighted = [
        i for i, p in enumerate(path.points[:-1]) if p.name in alignment and "Norm" not in p.leaf
    ]
    if not weighted or path.last.activation > SCALE_FREE_OUTPUT * math.sqrt(path.last.numel):
        return False
    coefficient = path.exploding + decades(path.first.activation, path.last.activation)
    coefficient -= 0.5 * math.log10(path.first.numel / path.last.numel)
    return abs(coefficient) <= SCALE_FREE_COEFFICIENT and all(
        abs(alignment[path.points[i].name] or 0.0) < SCALE_FREE_ALIGNMENT
        and "Norm" in path.points[i + 1].leaf
        for i in weighted
    )


def scale_free_weights(profile: GradientProfile) -> frozenset[str]:
    """Names of the weights that are orthogonal to their gradient, before a normalisation layer."""
    return frozenset(
        p.name
        for p in profile.parameters
        if p.alignment is not None and abs(p.alignment) < SCALE_FREE_ALIGNMENT
    )


def largest_growth(profile: GradientProfile) -> float | None:
    """The most that a gradient grows by to a first layer, as a ratio."""
    paths = [path for path in profile.judged_paths if path.links and path.finite]
    return power(max(path.exploding for path in paths)) if paths else None


RULE = Rule(
    code="GH201",
    name="exploding",
    summary="the gradient must not explode between the loss and the first layer",
    reads="X = min(L2 ratio, RMS ratio), first layer over last with weights, along each path",
    check=check,
    confirm_from="warning",
    error=ExplodingGradientError,
    doc=__doc__,
    settings=("max_ratio", "warn_max_ratio"),
    quantity=Quantity(largest_growth),
    cause=partial(path_cause, down=False),
    of_scale=True,
    patient=True,
)
