"""GH401: every trainable parameter must get a gradient.

## What it does

Sorts the parameters without a gradient, or with one that is exactly zero, over all looks and steps.
Layers that change the loss but are cut off from it fail, and so does a path that is exactly zero.
So do parts of a weight that is several in one (query, key and value, the gates of a layer, a tied
weight where one module uses it) if they change the loss and the others alone get a gradient.
Zeros in a side branch are a warning, and so is what is left to something else to train: parameters
that the forward itself writes (a codebook that follows its data), a copy of layers that do get a
gradient (a teacher), what makes something of random numbers alone beside layers that see data (a
generator in its critic's step), and a small part under no_grad() that tells the rest nothing of the
data which it does not see by itself. `assert_all_reached` fails for these too.

Experts that got nothing of the batch, layers behind a gate that starts at zero, parameters that are
multiplied by zeros which nothing trains (a mask, a weight of 0), the few units of a gate that are
dead by chance, query and key over one token, gradients that cancel and what a long loop has
forgotten are information; zeros that keep most of a model out warn, and so does a loss of zero with
nothing to send back: there is nothing left to learn of that batch.

## Why

A detach(), a no_grad() or an operation without a slope on the way leaves everything before it
untrained, without an error.

## Example

Fails:

```python
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.stem(x).relu().detach())


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
        self.stem, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.stem(x).relu())


def test_gradients(gradhealth):
    gradhealth.assert_healthy(Net(), torch.randn(64, 8))
```

## When to ignore it

Where another loss trains those layers, which this test does not see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

from pytest_gradhealth.errors import UnreachedParameterError
from pytest_gradhealth.formatting import count, listing
from pytest_gradhealth.results.diagnosis import Finding, Severity
from pytest_gradhealth.results.names import module_of
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.rules.dead_units import asleep_by_chance
from pytest_gradhealth.rules.resting import Resting
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule
from pytest_gradhealth.rules.silence import gets_round, is_left_out
from pytest_gradhealth.rules.stops import cause_of_silence
from pytest_gradhealth.rules.unreached_parts import attends_to_one, cut_parts, dull_parts
from pytest_gradhealth.rules.unused import ignoring, unused_parameters, without_readers

#: Units that may well be dead together, as in the bottleneck of a squeeze-and-excitation.
HANDFUL = 4

_LEFT_OUT = "zero gradient for {}: kept out by zeros or a mask that nothing trains"


def check(evidence: Evidence) -> Iterator[Finding]:
    """Sort the parameters without a gradient by what that means, one finding for each meaning."""
    first, second = evidence.first, evidence.second
    latest = second or first
    silenced = _silenced_at(latest)
    idle, rest = _idle(latest, silenced)
    apart = [p for p in _silent(latest) if p.name in latest.apart]
    cut = [*cut_off(latest), *cut_parts(latest)]
    rest += () if silenced else dull_parts(latest)
    excused, dead = _sorted_zeros(rest, latest, gated=second is None, silenced=bool(silenced))

    if cut:
        yield _finding("failure", cut, first, "no gradient reaches {}: cut off from the loss")
    if apart:
        text = "no gradient reaches {}: left to something else to train"
        yield _finding("warning", apart, first, text)
    text = "exactly zero gradient for {}"
    if dead and silenced:
        text += f": it is zero at {silenced} already"
        # A loss of zero that sends nothing back has nothing left to learn of this batch.
        met = latest.loss == 0 and all(path.last.norm == 0 for path in latest.judged_paths)
        severity: Severity = "warning" if met else "failure"
        yield _finding(severity, dead, first, text, layer=silenced)
    elif dead and len(dead) == sum(p.state != "frozen" for p in latest.parameters):
        yield _finding("failure", dead, first, text + ": nothing would be trained")
    elif dead := [p for p in dead if p not in without_readers(latest)]:
        yield _finding("warning", dead, first, text + ", in a side branch")
    if idle:
        text = "no gradient on this batch for {}; siblings in the same list got one"
        yield _finding("info", idle, first, text)
    for text, parameters in excused.items():
        much = text == _LEFT_OUT and 2 * _elements(parameters) > _elements(latest.parameters)
        yield _finding("warning" if much else "info", parameters, first, text)


def _elements(parameters: Sequence[ParameterRecord]) -> int:
    return sum(math.prod(p.shape) for p in parameters if p.state != "frozen")


def side_branches(profile: GradientProfile) -> list[ParameterRecord]:
    """Parameters whose gradient is exactly zero, where nothing excuses that as yet."""
    return _sorted_zeros(_idle(profile, None)[1], profile, gated=True, silenced=False)[1]


def _silent(profile: GradientProfile) -> list[ParameterRecord]:
    silent = (p for p in profile.parameters if p.state in ("none", "zero"))
    return [p for p in silent if p.name not in profile.awake]


def _idle(
    profile: GradientProfile, silenced: str | None
) -> tuple[list[ParameterRecord], list[ParameterRecord]]:
    """Parameters of list members whose turn it is not, and all others with a zero gradient."""
    silent = _silent(profile)
    if not silent:
        return [], []
    resting = Resting(profile)
    idle = [
        p for p in silent if resting.has_busy_sibling(p) and (p.gradient is None or not silenced)
    ]
    return idle, [p for p in silent if p.state == "zero" and p not in idle]


def _sorted_zeros(
    zero: Sequence[ParameterRecord], profile: GradientProfile, *, gated: bool, silenced: bool
) -> tuple[dict[str, list[ParameterRecord]], list[ParameterRecord]]:
    """Parameters with a gradient of zero by what excuses it, in words, and those without excuse.

    A gate that starts at zero does as long as it is `gated`; where a path is `silenced`, nothing
    does that a side branch alone may do without.
    """
    lively = {o.name for o in profile.outputs if o.norm is not None and o.norm > 0}
    gates = _gated_blocks(profile) if gated else frozenset()
    by_chance = frozenset() if silenced else asleep_by_chance(profile)
    masked = frozenset() if silenced else frozenset(profile.left_out)
    excuses: dict[str, Callable[[ParameterRecord], bool]] = {
        "zero gradient for {} until a zero-initialised neighbour has moved": (
            lambda p: bool(p.module) and _block(p.name) in gates
        ),
        "zero gradient for {}: the loss is made of gradients, which constants do not change": (
            lambda p: _is_constant(p, profile)
        ),
        "the gradient of {} cancels to zero: a later layer takes constants out": (
            lambda p: _cancels(p, lively)
        ),
        _LEFT_OUT: (lambda p: p.name in masked),
        "zero gradient for {}: over one token, attention has nothing to choose": (
            lambda p: attends_to_one(p, profile)
        ),
        "zero gradient for {}: long loops forget what they begin with": (
            lambda p: p.is_of(profile.forgotten)
        ),
        "zero gradient for {}: the few units of a side branch are all dead, as happens by chance": (
            lambda p: p.is_of(by_chance)
        ),
    }
    found: dict[str, list[ParameterRecord]] = {}
    for p in zero:
        reasons = [text for text, holds in excuses.items() if holds(p)]
        # What cancels does so whatever else there is.
        reason = next((text for text in reasons if "cancels" in text), (*reasons, "")[0])
        found.setdefault(reason, []).append(p)
    return {text: found[text] for text in excuses if text in found}, found.get("", [])


def silenced(profile: GradientProfile) -> list[ParameterRecord]:
    """Parameters with a gradient of exactly zero that nothing harmless accounts for.

    That is a gate, a sum, a constant, what a loop has forgotten, or a handful of units that are
    dead as may happen.
    """
    zero = [p for p in _silent(profile) if p.state == "zero"]
    dead = {a.units for a in profile.activations if a.dead == 1 and a.units <= HANDFUL}
    _, rest = _sorted_zeros(zero, profile, gated=True, silenced=True)
    return [p for p in rest if dead.isdisjoint(p.shape[:2])]


def cut_off(profile: GradientProfile) -> list[ParameterRecord]:
    """Parameters that change the loss and get no gradient, where nothing is known to train them."""
    silent = [p for p in profile.parameters if p.state == "none"]
    if not silent:
        return []
    resting, beside = Resting(profile), unused_parameters(profile)
    known = {*profile.awake, *profile.apart, *(parameter.name for parameter in beside)}
    return [p for p in silent if p.name not in known and not resting.has_busy_sibling(p)]


def _finding(
    severity: Severity,
    parameters: Sequence[ParameterRecord],
    profile: GradientProfile,
    text: str,
    layer: str | None = None,
) -> Finding:
    names = listing([parameter.name for parameter in parameters])
    layer = layer or parameters[0].module or parameters[0].name
    text = text.format(f"{count(len(parameters), 'parameter')} ({names})")
    return RULE.finding(severity, layer, text, profile=profile)


def _silenced_at(profile: GradientProfile) -> str | None:
    """Label of the point at which a judged gradient path goes silent, None if all carry on."""
    for path in profile.judged_paths:
        index = path.silent_at
        excused = gets_round(path, profile) or is_left_out(path, profile)
        if index is not None and not excused:
            return path.points[index].label
    return None


def _cancels(parameter: ParameterRecord, lively: Collection[str]) -> bool:
    """A bias is the sum of its output's gradient: zero over a non-zero gradient is cancellation.

    `lively` are the modules whose output gets a gradient other than zero.
    """
    return parameter.name.rpartition(".")[2] == "bias" and parameter.module in lively


def _is_constant(parameter: ParameterRecord, profile: GradientProfile) -> bool:
    """A bias without a gradient beside a weight with one: forces do not feel a constant."""
    return parameter.name.rpartition(".")[2] == "bias" and any(
        other.module == parameter.module and other.gradient and not other.other_names
        for other in profile.parameters
    )


def _gated_blocks(profile: GradientProfile) -> frozenset[str]:
    """The blocks in which a zero-valued parameter does get a gradient."""
    return frozenset(
        _block(gate.name)
        for gate in profile.parameters
        if gate.norm == 0 and gate.state == "gradient" and not gate.name.endswith("bias")
    )


def _block(name: str) -> str:
    """The name up to its first number ("layer1.0"), else its first part.

    >>> _block("layer1.0.bn2.weight"), _block("head.weight")
    ('layer1.0', 'head')
    """
    parts = name.split(".")
    numbered = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: numbered + 1])


def cause_of(finding: Finding, profile: GradientProfile) -> Cause | None:
    """What cuts layers off; of the other meanings, the finding says all there is to say."""
    if "left to something else" in finding.message:
        modules = [module_of(name) or name for name in profile.apart]
        return Cause(
            "the forward writes them, they are a copy of layers that do get a gradient, a generator"
            " in the step of its critic, or a small part under no_grad() beside layers that see the"
            " same data",
            "freeze them with requires_grad_(False), or leave them out with"
            f" {ignoring(RULE.code, dict.fromkeys(modules))}",
        )
    if finding.message.startswith("exactly zero"):
        silent = _silent(profile)
        own = [p.name for p in silent if p.module == finding.layer]
        return cause_of_silence(own or [p.name for p in silent], profile.stops, profile.loss)
    if "cut off from the loss" in finding.message:
        cut = [*cut_off(profile), *cut_parts(profile)]
        return cause_of_silence([p.name for p in cut], profile.stops) or Cause(
            "a detach(), a no_grad() or an operation without a slope lies on the way to the loss",
            "take it out, or freeze them with requires_grad_(False)",
        )
    return None


RULE = Rule(
    code="GH401",
    name="unreached",
    summary="every trainable parameter must get a gradient",
    reads="every parameter's gradient, over all looks and steps",
    check=check,
    confirm_from="warning",
    error=UnreachedParameterError,
    doc=__doc__,
    cause=cause_of,
    patient=True,
    fails_if_asked="warning",
)
