"""GH602: the declared optimizers must hold what gets a gradient.

## What it does

Compares, by identity, the parameters of the model with those in the groups of the optimizer: an
instance, several in a list, what a factory makes of the parameters that it is given, or those of
`configure_optimizers`. Trainable parameters that get a gradient and are in none of them fail. A
group whose learning rate is zero before any scheduler, and a parameter that stands twice in one
optimizer, warn; tensors that the model does not have are information.

## Why

A layer that was replaced or unfrozen after the optimizer was built stays as it was initialised:
its gradient is perfect, the loss falls, and nothing says that it is not trained.

## Example

Fails:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters())
    model[2] = nn.Linear(32, 10)
    gradhealth.assert_healthy(model, torch.randn(64, 8), optimizer=optimizer)
```

Passes:

```python
import torch
from torch import nn


def test_gradients(gradhealth):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    model[2] = nn.Linear(32, 10)
    optimizer = torch.optim.Adam(model.parameters())
    gradhealth.assert_healthy(model, torch.randn(64, 8), optimizer=optimizer)
```

## When to ignore it

Where an optimizer that is not declared holds the rest. Better declare both, in a list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from pytest_gradhealth.errors import UntrainedParameterError
from pytest_gradhealth.formatting import count, in_code, listing
from pytest_gradhealth.results.diagnosis import Finding, Severity
from pytest_gradhealth.results.holdings import Holdings
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule
from pytest_gradhealth.rules.unused import folded, ignoring


def check(evidence: Evidence) -> Iterator[Finding]:
    """Tell what no optimizer trains, what stands still, and what is held twice."""
    profile, holdings = evidence.first, evidence.first.holdings
    if holdings is None:
        return
    if left_out := _left_out(evidence):
        yield _finding(
            "failure", left_out, profile, f"{_NONE[holdings.maker]} {{}}, which {{get}} a gradient"
        )
    if still := _among(profile, holdings.still):
        yield _finding("warning", still, profile, "{} {is} held with a learning rate of 0")
    if twice := _among(profile, holdings.twice):
        yield _finding("warning", twice, profile, "{} {is} held twice by one optimizer")
    if holdings.foreign and not left_out:
        n = len(holdings.foreign)
        layer = profile.last_label
        text = f"the optimizer also holds {count(n, 'tensor')} that the model does not have"
        yield RULE.finding("info", layer, text, profile=profile)


#: Parts of a model that advice names one by one.
MOST_NAMES = 3
#: What to say of each maker's optimizers where they leave something out.
_NONE = {
    "caller": "no optimizer holds",
    "factory": "the optimizer's factory leaves out",
    "configure_optimizers": "configure_optimizers leaves out",
}


def _left_out(evidence: Evidence) -> list[ParameterRecord]:
    """Parameters in no optimizer, if any of them has a gradient in some look or step."""
    first = evidence.first
    assert first.holdings is not None
    looks = [first] if evidence.second is None else [first, evidence.second]
    alive = {p.name for look in looks for p in look.parameters if p.gradient}
    alive |= {name for look in looks for name in look.awake}
    missing = _among(first, first.holdings.missing)
    if alive.isdisjoint(p.name for p in missing):
        return []
    return [p for p in missing if p.name in alive or p.state == "zero"]


def _among(profile: GradientProfile, names: Collection[str]) -> list[ParameterRecord]:
    return [p for p in profile.parameters if p.name in names]


def _finding(
    severity: Severity, parameters: Sequence[ParameterRecord], profile: GradientProfile, text: str
) -> Finding:
    n, names = len(parameters), listing([parameter.name for parameter in parameters])
    verbs = {"get": "gets" if n == 1 else "get", "is": "is" if n == 1 else "are"}
    text = text.format(f"{count(n, 'parameter')} ({names})", **verbs)
    layer = parameters[0].module or parameters[0].name
    return RULE.finding(severity, layer, text, profile=profile)


def cause_of(finding: Finding, profile: GradientProfile) -> Cause | None:
    """How it came to that, and what to type."""
    holdings = profile.holdings
    if holdings is None or finding.severity == "info":
        return None
    if "learning rate of 0" in finding.message:
        names = folded(_among(profile, holdings.still), profile)
        return Cause(
            "a group of the optimizer has lr=0, and no scheduler has set an initial_lr",
            f"give the group its rate, or freeze them; if it is meant to be, {_unless(names)}",
        )
    if "held twice" in finding.message:
        return Cause(
            "a group was built from lists that overlap, as the parts of a model with tied weights",
            "each parameter once: [*dict.fromkeys(params)]",
        )
    missing = _among(profile, holdings.missing)
    names = folded(missing, profile)
    advice = _advice(holdings, folded(missing, profile, _frozen(profile)))
    return Cause(_because(holdings, missing), f"{advice}; or {_unless(names)}")


def _frozen(profile: GradientProfile) -> list[str]:
    """Modules with frozen parameters, which an optimizer may hold already, as beside adapters."""
    return [p.module for p in profile.parameters if p.state == "frozen"]


def _because(holdings: Holdings, missing: Sequence[ParameterRecord]) -> str:
    if holdings.maker == "factory":
        return "it makes its optimizer of some of the parameters that it is given"
    lost = Counter(holdings.foreign) & Counter(p.shape for p in missing)
    n = lost.total() or len(holdings.foreign)
    if n:
        shapes = "of these shapes " if lost else ""
        return (
            f"the optimizer holds {count(n, 'tensor')} {shapes}that the model does not have: a"
            " layer was replaced, or parametrised, after it was built"
        )
    return "a group was left out, or they were added or unfrozen after the optimizer was built"


def _advice(holdings: Holdings, names: Sequence[str]) -> str:
    if holdings.maker == "factory":
        return "all of them: lambda params: torch.optim.SGD(params, lr=0.1)"
    if holdings.maker == "configure_optimizers":
        return "build it from self.parameters()"
    if holdings.foreign or len(names) > MOST_NAMES:
        return "build the optimizer over model.parameters() once all layers are in place"
    parts = ", ".join(_parts(name, holdings.missing) for name in names)
    return f'optimizer.add_param_group({{"params": [{parts}]}})'


def _parts(name: str, parameters: Collection[str]) -> str:
    """A parameter, or those of a module, as they are typed in a list."""
    if name in parameters:
        return in_code(name, "parameter")
    return f"*{in_code(name, 'submodule')}.parameters()"


def _unless(names: Sequence[str]) -> str:
    return f"leave them out with {ignoring(RULE.code, names)}"


RULE = Rule(
    code="GH602",
    name="untrained",
    summary="the declared optimizers must hold what gets a gradient",
    reads="the groups of the optimizer, and every parameter's gradient",
    check=check,
    confirm_from=None,
    error=UntrainedParameterError,
    leads=True,
    doc=__doc__,
    cause=cause_of,
)
