"""GH404: the model's outputs must tell the examples of a batch apart.

## What it does

Compares how far the outputs of different examples lie apart, over their size and over the same of
the inputs, with `min_spread`. The last bias, which is the same for all, is left out.

Below 0.01 it is measured as the loss feels it: without masked elements and a shift of all the
logits of an example, and also over how far the targets lie apart (an energy of -2079 and a little)
and by what it changes of the gradient; the largest counts. A sum that the loss is linear in has no
size to compare with. Outputs that are the same because a layer is silent (all zeros) which gradient
gets past all the same, as a spiking one, are a note: it can wake. So are outputs whose spread a few
steps make ten times larger, and what these bring above the limit is none.

## Why

A network that maps every example to the same output has lost what tells them apart on the way, and
can learn one answer for all.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    metres = 1e-7 * torch.randn(64, 8)
    gradhealth.assert_healthy(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), metres
    )
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    metres = 1e-7 * torch.randn(64, 8)
    gradhealth.assert_healthy(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), metres / metres.std(0)
    )
```

## When to ignore it

Where the batch has but one example in it, many times. A batch of different ones is better.

## References

- Poole et al. (2016), Exponential expressivity in deep neural networks through transient chaos
- Schoenholz et al. (2017), Deep information propagation
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gradhealth.errors import CollapsedOutputError
from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.alike import Alike
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.path import decades
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.results.stop import Stop
from pytest_gradhealth.rules.levelling import levels_out
from pytest_gradhealth.rules.rule import Cause, Evidence, Quantity, Rule
from pytest_gradhealth.rules.stops import cause_of_stop

#: Share of flat elements of an activation that tells no examples apart.
FLAT = 0.99


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare the spread of the outputs over the batch with `min_spread` and `warn_min_spread`."""
    fail, warn = evidence.limits["min_spread"], evidence.limits["warn_min_spread"]
    spread, second = evidence.first.spread, evidence.second
    if spread is not None and second is not None and second.spread is not None:
        spread = max(spread, second.spread)
    if spread is None or not spread < max(warn.value, fail.value):
        return
    if evidence.first.asleep:
        asleep = evidence.first.asleep[0]
        yield RULE.finding(
            "info",
            asleep.label,
            f"the outputs of different examples are alike since nothing but zeros goes through"
            f" {asleep.title}, but gradient does, so that it can wake",
            profile=evidence.first,
            value=spread,
        )
        return
    limit = fail if spread < fail.value else warn
    differ = f"the outputs of different examples differ by only x{number(spread)}"
    felt = "spread" in evidence.first.felt
    said = f"as the loss feels them, {differ}" if felt else f"{differ} of their size"
    levelled = limit is warn and levels_out(
        decades(evidence.first.spread or 0.0, 1.0), decades(spread, 1.0)
    )
    more = f"; training levels it, from x{number(evidence.first.spread or 0.0)}"
    yield RULE.finding(
        "failure" if limit is fail else "info" if levelled else "warning",
        evidence.first.last_label,
        said + (more if levelled else f"; limit x{number(limit.value)} ({limit.source})"),
        profile=evidence.first,
        value=spread,
        limit=limit,
    )


def spread(profile: GradientProfile) -> float | None:
    """How far the outputs of different examples lie apart."""
    return profile.spread


def cause_of(_finding: Finding, profile: GradientProfile) -> Cause | None:
    """The operation that returns the same whatever comes in, else where examples become alike."""
    alike = profile.alike
    near = () if alike is None else _flat_at(alike, profile)
    for stop in (*(stop for stop in profile.stops if stop.levels), *near):
        if cause := cause_of_stop(stop):
            return cause
    if alike is None:
        return None
    because, advice = _WHERE[alike.at]
    return Cause(because.format(f"{alike.layer} ({alike.type})"), advice)


def _flat_at(alike: Alike, profile: GradientProfile) -> Iterator[Stop]:
    """What lets nothing through, or next to nothing, where the examples become alike."""
    called = [output.name for output in profile.outputs]
    before = called[: called.index(alike.layer)][-1:] if alike.layer in called else []
    places = {"behind": [alike.layer], "before": before}.get(alike.at, [])
    flat = (seen for seen in profile.activations if (seen.flat or 0.0) > FLAT)
    told = (Stop(seen.function, seen.name, seen.type, seen.at) for seen in flat)
    # What takes the gradient alone, as a detach() or its number format, leaves the examples apart.
    stops = (s for s in profile.stops if s.in_graph and s.kind in ("", "cancels"))
    return (stop for stop in (*stops, *told) if stop.layer in places)


#: What makes the examples of a batch alike, and what to do about it, by where that is.
_WHERE = {
    "inputs": ("all examples of the batch are the same", "a batch of different examples"),
    "before": (
        "what {} gets is the same for all examples: something in the forward makes it so",
        "look at what is done before it: a mean over the batch (dim 0), or one number for all of it"
        " (.item(), float())",
    ),
    "behind": (
        "{} gets different examples and returns the same for all",
        "look at its weights, and at what it gets: inputs of standard deviation 1, larger initial"
        " weights",
    ),
    "bias": (
        "the bias of {} drowns what tells the examples apart",
        "a smaller bias, larger initial weights, or inputs of standard deviation 1",
    ),
    "by and by": (
        "the examples come closer together from layer to layer, and are alike from {} on",
        "larger initial weights, smaller biases, inputs of standard deviation 1, or a residual"
        " connection",
    ),
    "between": (
        "the examples come closer together between the layers, and are alike from {} on: by what is"
        " done to what layers return, such as a mean over neighbours of a graph",
        "residual connections x + block(x), which keep what tells them apart, or fewer layers",
    ),
}


RULE = Rule(
    code="GH404",
    name="collapsed-output",
    summary="the model's outputs must tell the examples of a batch apart",
    reads="RMS distance of the outputs from their mean over the batch, over their RMS, as the loss"
    " feels them",
    check=check,
    confirm_from="warning",
    error=CollapsedOutputError,
    echoes=("GH101",),
    doc=__doc__,
    cause=cause_of,
    settings=("min_spread",),
    quantity=Quantity(spread, "spread", better="larger"),
    of_scale=True,
    patient=True,
)
