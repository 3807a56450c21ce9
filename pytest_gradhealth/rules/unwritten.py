"""GH409: every parameter must have been written once.

## What it does

Where a factory builds the model, it is called in memory that torch fills with NaN: a parameter that
holds some then, and still does after a forward, was never written, and fails. So does a buffer that
the outputs are made of. If nothing uses it, it is a warning. Without a factory, parameters warn
that look like raw memory: larger than any weight that computes (a norm above 1e30), or nothing but
what float32 rounds to zero (below 1e-37).

## Why

`torch.empty` without an initialiser, `to_empty()` after a build on the meta device, or an
`_init_weights` that skips a class leave what was in memory before: often zeros, sometimes 1e30, so
that the model trains on one machine and is NaN on another.

## Example

Fails:

```python
import torch
from torch import nn


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8))

    def forward(self, x):
        return self.weight * x


def test_gradients(gradhealth):
    gradhealth.assert_healthy(Scale, torch.randn(64, 8))
```

Passes:

```python
import torch
from torch import nn


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.weight * x


def test_gradients(gradhealth):
    gradhealth.assert_healthy(Scale, torch.randn(64, 8))
```

## When to ignore it

Where a checkpoint is loaded over it in any case, which the factory does not do.

## References

`torch.utils.deterministic.fill_uninitialized_memory`, in the documentation of PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_gradhealth.errors import UnwrittenParameterError
from pytest_gradhealth.formatting import count, in_code, listing, number
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.names import module_of
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule

#: L2 norms of a weight that nobody has initialised so, and no training leads to.
HUGE, TINY = 1e30, 1e-37


def check(evidence: Evidence) -> Iterator[Finding]:
    """Tell what was never written, or looks as if it had not been."""
    profile = evidence.first
    known = {p.name: p for p in profile.parameters}
    if profile.unwritten:
        used = [n for n in profile.unwritten if n not in known or known[n].state != "none"]
        idle = [name for name in profile.unwritten if name not in used]
        if used:
            yield _finding(profile, used, "nothing has ever written {}")
        if idle:
            text = "nothing has ever written {}, which the loss does not depend on"
            yield _finding(profile, idle, text, warns=True)
        return
    for parameter in _raw(profile):
        text = "{} looks like raw memory: its L2 norm is " + number(parameter.norm)
        yield _finding(profile, [parameter.name], text, warns=True)


def _raw(profile: GradientProfile) -> list[ParameterRecord]:
    return [p for p in profile.parameters if p.norm > HUGE or 0 < p.norm < TINY]


def _finding(
    profile: GradientProfile, names: Sequence[str], text: str, *, warns: bool = False
) -> Finding:
    known = {p.name for p in profile.parameters}
    noun = "parameter" if known.issuperset(names) else "buffer"
    text = text.format(f"{count(len(names), noun)} ({listing(names)})")
    layer = module_of(names[0]) or names[0]
    return RULE.finding("warning" if warns else "failure", layer, text, profile=profile)


def cause_of(finding: Finding, profile: GradientProfile) -> Cause:
    """What leaves memory as it was, and what to write there."""
    names = profile.unwritten
    if not names:
        return Cause(
            "torch.empty(...) without an initialiser, or a file that is damaged",
            "pass the factory that builds the model in place of the model, which tells for sure",
        )
    shapes = {p.name: p.shape for p in profile.parameters}
    own = [n for n in names if finding.layer in (n, module_of(n))]
    own = [n for n in names if own and module_of(n) == module_of(own[0])]
    typed = "; ".join(_initialiser(name, shapes.get(name)) for name in own[:2])
    return Cause(
        "torch.empty(...) or to_empty() without an initialiser, or an _init_weights that skips it",
        f"write it once the model is built, for example {typed}",
    )


def _initialiser(name: str, shape: tuple[int, ...] | None) -> str:
    """What writes a parameter, or a buffer, which has no shape here."""
    tensor = in_code(name, "buffer" if shape is None else "parameter")
    if shape is not None and len(shape) > 1:
        return f"nn.init.xavier_uniform_({tensor})"
    return f"nn.init.{'ones' if name.endswith('weight') else 'zeros'}_({tensor})"


RULE = Rule(
    code="GH409",
    name="unwritten",
    summary="every parameter must have been written once",
    reads="what a factory leaves in memory that was filled with NaN, and the norms of weights",
    check=check,
    confirm_from=None,
    explains=("GH101", "GH201", "GH202", "GH203", "GH301", "GH401", "GH404"),
    error=UnwrittenParameterError,
    doc=__doc__,
    cause=cause_of,
)
