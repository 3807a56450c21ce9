"""GH102: the gradient must reach as far back in time as the task needs.

## What it does

Sends a gradient back from the state after the last step alone, and reads what of it arrives at each
step before. At the distance that `dependency=` declares, or further back, `min_ratio` of it has to
arrive. Without a declared dependency there is nothing to judge: to forget is no fault. A state that
goes from step to step by value alone (a `detach()` at every step, or every few) is told as such.

## Why

A recurrent network learns what happened that many steps ago only by a gradient that gets there.
Each step multiplies it by about the same factor, which a gate or an orthogonal weight keeps near 1.

## Example

Fails:

```python
import torch
from torch import nn


def test_memory(gradhealth):
    model, sequences = nn.RNN(8, 32, batch_first=True), torch.randn(16, 28, 8)
    gradhealth.assert_no_vanishing_in_time(
        model, sequences, loss=lambda out: out[0][:, -1].square().mean(), dependency=27
    )
```

Passes:

```python
import torch
from torch import nn


def test_memory(gradhealth):
    model, sequences = nn.RNN(8, 32, batch_first=True), torch.randn(16, 28, 8)
    nn.init.orthogonal_(model.weight_hh_l0)
    gradhealth.assert_no_vanishing_in_time(
        model, sequences, loss=lambda out: out[0][:, -1].square().mean(), dependency=27
    )
```

## When to ignore it

Where nothing that far back matters: declare the `dependency=` that the task has.

## References

- Bengio, Simard and Frasconi (1994), Learning long-term dependencies with gradient descent is
  difficult
- Pascanu, Mikolov and Bengio (2013), On the difficulty of training recurrent neural networks
- Jozefowicz, Zaremba and Sutskever (2015), An empirical exploration of recurrent network
  architectures
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_gradhealth.errors import VanishingInTimeError
from pytest_gradhealth.formatting import (
    MOST_ROWS,
    View,
    bar,
    columns,
    count,
    factor,
    log_scale,
    number,
    portion,
)
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding, Severity
from pytest_gradhealth.results.path import decades, power
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.results.times import TimeRecord
from pytest_gradhealth.rules.rule import Cause, Evidence, Quantity, Rule
from pytest_gradhealth.rules.vanishing import severity_of


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare what reaches `dependency` steps back with `min_ratio` and `warn_min_ratio`."""
    for record in evidence.first.times:
        if not record.finite or max(record.norms) == 0:
            continue
        severity = severity_of(record.reach, evidence)
        if severity == "failure" and evidence.second is not None:
            severity = severity_of(_again(record, evidence), evidence)
        if severity is not None:
            yield _finding(record, severity, evidence)


def _again(record: TimeRecord, evidence: Evidence) -> float:
    for other in () if evidence.second is None else evidence.second.times:
        if (other.name, other.reverse) == (record.name, record.reverse) and other.finite:
            return other.reach
    return -math.inf


def _finding(record: TimeRecord, severity: Severity, evidence: Evidence) -> Finding:
    limit = evidence.limits["min_ratio" if severity == "failure" else "warn_min_ratio"]
    where = f"{record.name} (backward direction)" if record.reverse else record.name
    if is_cut(record):
        often = "between steps" if record.cut == 1 else f"every {record.cut} steps"
        text = (
            f"the state of {where} is cut {often}: the gradient reaches"
            f" {count(record.cut - 1, 'step')} back; limit"
            f" {count(record.dependency, 'step')} (dependency, the call)"
        )
    else:
        horizon = record.horizon(math.log10(limit.value))
        text = (
            f"the gradient vanishes in time: {portion(record.reach, 'it')} gets"
            f" {count(record.dependency, 'step')} back in {where}; limit x{number(limit.value)}"
            f" ({limit.source}), passed after {count(horizon, 'step')}"
        )
    return RULE.finding(
        severity,
        record.name,
        text,
        profile=evidence.first,
        value=power(record.reach),
        limit=limit,
    )


def is_cut(record: TimeRecord) -> bool:
    """Whether the state goes on by value only, before the gradient is as far back as it has to."""
    return 0 < record.cut <= record.dependency


def least_reach(profile: GradientProfile) -> float | None:
    """The least that gets as far back as it has to, as a ratio."""
    return power(min(record.reach for record in profile.times)) if profile.times else None


def cause_of(finding: Finding, profile: GradientProfile) -> Cause | None:
    """What a step passes on, from the last one to the dependency, and what keeps more of it."""
    records = [r for r in profile.times if r.name == finding.layer]
    if not records:
        return None
    record = min(records, key=lambda r: r.reach)
    layer, back = record.name, record.dependency
    if is_cut(record):
        return _cause_of_cut(record)
    if record.norms[back] == 0 or record.norms[0] == 0:
        because = f"nothing of it gets {count(back, 'step')} back through {layer}"
    else:
        each = factor(decades(record.norms[back], record.norms[0]) / back)
        because = f"each step of {layer} ({record.type}) passes on {each} of the gradient"
    gate = {"LSTM": "forget", "GRU": "update"}.get(record.type)
    if gate is not None:
        bias = f"model.{layer}.bias_hh_l0.data[H : 2 * H] = {math.log(back + 1):.3g}"
        return Cause(because, f"a larger {gate}-gate bias: {bias}, where H is the hidden size")
    if record.type == "RNN":
        advice = f"nn.init.orthogonal_(model.{layer}.weight_hh_l0), or an nn.LSTM"
        return Cause(because, f"{advice} with a forget-gate bias")
    return Cause(because, "an orthogonal recurrent weight, a gate, or a skip through time")


def _cause_of_cut(record: TimeRecord) -> Cause:
    if record.cut == 1:
        because = f"a detach() of the state at every step of {record.name}"
        advice = "pass the state on as it is, and detach it between batches only"
    else:
        because = f"truncated backpropagation: a detach() of the state every {record.cut} steps"
        most = record.cut - 1
        advice = (
            f"detach it every {record.dependency + 1} steps or more, or declare dependency={most}"
        )
    return Cause(f"{because} (or .data, no_grad, numpy)", advice)


def exhibit(diagnosis: Diagnosis, findings: Sequence[Finding], view: View) -> str:
    """What gets how far back in time, the last step on top; ">" marks the dependency.

    Of the layers that findings are about, that is shown of the worst.
    """
    layers = {finding.layer for finding in findings}
    records = [record for record in diagnosis.profile.times if record.name in layers]
    if not records:
        return ""
    record = min(records, key=lambda record: record.reach)
    last = len(record.norms) - 1
    steps = {round(i * last / (MOST_ROWS - 2)) for i in range(MOST_ROWS - 1)}
    shown = sorted(steps | {record.dependency})
    largest = max(record.norms)
    scale = log_scale(record.norms[distance] for distance in shown)
    rows = [
        [
            ">" if distance == record.dependency else "",
            str(distance),
            number(record.norms[distance]),
            factor(decades(record.norms[distance], largest)),
            bar(record.norms[distance], scale, min(24, view.width - 40)),
        ]
        for distance in shown
    ]
    names = ["", "steps back", "norm", "share", ""]
    return columns(rows, names, "lrrrl")


RULE = Rule(
    code="GH102",
    name="vanishing-in-time",
    summary="the gradient must reach as far back in time as the task needs",
    reads="gradient of the last state by the input, step by step, where dependency= is declared",
    check=check,
    error=VanishingInTimeError,
    doc=__doc__,
    settings=("min_ratio", "warn_min_ratio"),
    quantity=Quantity(least_reach, better="larger"),
    cause=cause_of,
    exhibit=exhibit,
)
