"""GH501: gradients must survive the number format that the model is to be trained in.

## What it does

Counts the elements of every gradient by their power of two in a probe in float32, and forecasts how
many of them `precision=` would flush to zero at the given `loss_scale`. A layer fails above
`max_underflow`, where a tenth of its norm goes with them; so does an overflow at a fixed scale.
Where next to nothing of the norm goes with many elements, that is a note.

## Why

float16 holds nothing below 2^-24. What is flushed is lost before any optimizer sees it.

## Example

Fails:

```python
import torch
from torch import nn


def test_fits_float16(gradhealth):
    gradhealth.assert_no_underflow(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)),
        torch.randn(64, 8),
        loss=lambda y: 1e-6 * y.square().mean(),
        precision="float16",
    )
```

Passes:

```python
import torch
from torch import nn


def test_fits_float16(gradhealth):
    gradhealth.assert_no_underflow(
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)),
        torch.randn(64, 8),
        loss=lambda y: 1e-6 * y.square().mean(),
        precision="float16",
        loss_scale=2.0**16,
    )
```

## When to ignore it

Nowhere: it judges only where `precision=` is declared.

## References

- Micikevicius et al. (2018), Mixed precision training
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_gradhealth.errors import UnderflowError
from pytest_gradhealth.formatting import MOST_ROWS, View, columns, number, shortened
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding
from pytest_gradhealth.results.magnitudes import FORMATS, MagnitudeRecord
from pytest_gradhealth.results.names import module_of
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule

#: Share of a layer's gradient that is mentioned when it is flushed.
MENTION = 0.05
#: A scale fits where no layer loses more than this share, and less of a norm is no loss: the many
#: probabilities of next to nothing of a large vocabulary, the early steps of a long loop.
FITS = 0.01
#: Share of a layer's gradient norm that has to be lost with its elements for a failure.
NOTICEABLE = 0.1


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare the share of each layer's gradient that would be zero with `max_underflow`."""
    profile, limit = evidence.first, evidence.limits["max_underflow"]
    records = _judged(profile)
    if not records:
        return
    kind, shift = profile.loss_scale.format, profile.loss_scale.exponent
    at = f"at loss scale {number(profile.loss_scale.value)}"

    def felt(record: MagnitudeRecord) -> tuple[bool, bool, float]:
        share, lost = record.flushed(kind, shift), record.lost(kind, shift)
        tells = share > least and lost > FITS
        return share > limit.value and lost > NOTICEABLE, tells, share

    least = min(MENTION, limit.value)
    worst = max(records, key=felt)
    fails, tells, share = felt(worst)
    if share > least:
        text = f"{kind} flushes {share:.0%} of the gradient of {worst.title} to zero {at}"
        yield RULE.finding(
            "failure" if fails else "warning" if tells else "info",
            worst.name,
            f"{text}; limit {limit.value:.0%} ({limit.source})" if fails else text,
            profile=profile,
            value=share,
            limit=limit if fails else None,
        )
    top = max(records, key=lambda record: record.high)
    if top.counts and top.high + shift > FORMATS[kind].highest:
        yield RULE.finding(
            "warning" if profile.loss_scale.adapts else "failure",
            top.name,
            f"{kind} overflows {at}: the gradient of {top.title} has elements of"
            f" {number(2.0 ** (top.high + shift))}",
            profile=profile,
        )


def _judged(profile: GradientProfile) -> list[MagnitudeRecord]:
    """The records but for those of which it is memory what gets there."""
    return [
        record
        for record in profile.magnitudes
        if {record.name, module_of(record.name)}.isdisjoint(profile.forgotten)
    ]


def window(records: Sequence[MagnitudeRecord], kind: str) -> tuple[int, int]:
    """Powers of two between which every loss scale fits: none if the first is the larger.

    From the least at which no layer loses more than a hundredth to the largest that overflows none.
    """
    filled = [record for record in records if record.counts]
    highest = FORMATS[kind].highest - max((record.high for record in filled), default=0)
    lowest = max((record.needs(kind, FITS) for record in filled), default=0)
    return lowest, highest


def advice(profile: GradientProfile) -> str:
    """The loss scales that fit, in words."""
    low, high = window(_judged(profile), profile.loss_scale.format)
    if low > high:
        span = low - high
        return (
            f"bfloat16: no loss scale fits, as the gradients span 2^{span} more than"
            f" {profile.loss_scale.format} holds"
        )
    middle = math.floor((low + high) / 2)
    return (
        f"torch.amp.GradScaler(init_scale=2.0**{middle}): scales from 2^{low} to 2^{high} lose"
        f" less than {FITS:.0%} of any layer; or bfloat16, which needs none"
    )


def cause_of(_finding: Finding, profile: GradientProfile) -> Cause:
    """What the format holds, and the loss scales that fit."""
    kind = profile.loss_scale.format
    lowest, highest = FORMATS[kind].lowest, FORMATS[kind].highest
    because = f"{kind} holds nothing below 2^{lowest} and nothing above 2^{highest + 1}"
    return Cause(because, advice(profile))


def exhibit(diagnosis: Diagnosis, _findings: Sequence[Finding], view: View) -> str:
    """What the format makes of each layer's gradient, the worst first."""
    profile = diagnosis.profile
    kind, shift = profile.loss_scale.format, profile.loss_scale.exponent
    records = [record for record in profile.magnitudes if record.counts]
    records.sort(key=lambda record: (-record.flushed(kind, shift), -record.high))
    shown = records if view.verbose else records[:MOST_ROWS]
    rows = [
        [
            shortened(record.name, 30),
            shortened(record.type, 16),
            f"2^{record.low} .. 2^{record.high}",
            f"{record.flushed(kind, shift):.0%}",
            f"{record.lost(kind, shift):.0%}",
        ]
        for record in shown
    ]
    if len(shown) < len(records):
        rows.append([f"... {len(records) - len(shown)} more", "", "", "", ""])
    names = ["gradient of", "type", "from .. to", "flushed", "of norm"]
    return columns(rows, names, "llrrr")


RULE = Rule(
    code="GH501",
    name="underflow",
    summary="gradients must survive the number format that the model is to be trained in",
    reads="powers of two of all gradient elements, where precision= is declared",
    check=check,
    confirm_from=None,
    error=UnderflowError,
    doc=__doc__,
    settings=("max_underflow",),
    cause=cause_of,
    exhibit=exhibit,
)
