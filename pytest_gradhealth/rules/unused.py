"""GH405: every trainable parameter should have a say in the loss.

## What it does

Warns of parameters that a module which is called does without, of modules whose output the loss
ignores, and of modules that are never called though no other of their class is either.

What is merely not called in this forward is information: a module whose class is called elsewhere
(a head for another task), a parameter of a list whose others get a gradient, a template that runs
with other tensors in the place of its own, a constant that is lost where the loss is made of
gradients (forces), and idle members of a list whose siblings were called (experts of a mixture,
which are GH401's). `assert_all_reached` fails for all but the experts. What changes the loss and
yet gets no gradient is cut off, which is GH401.

## Why

They take memory and optimizer state and learn nothing; often they are a layer that was meant to be
used.

## Example

Warns:

```python
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 32), nn.Linear(32, 4)
        self.norm = nn.LayerNorm(32)

    def forward(self, x):
        return self.head(self.stem(x).relu())


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
        self.norm = nn.LayerNorm(32)

    def forward(self, x):
        return self.head(self.norm(self.stem(x).relu()))


def test_gradients(gradhealth):
    gradhealth.assert_healthy(Net(), torch.randn(64, 8))
```

## When to ignore it

Where a part waits for another task or stage. Name it: `ignore=["GH405:decoder.*"]`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from pytest_gradhealth.errors import UnusedParameterError
from pytest_gradhealth.formatting import count, listing
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.names import OUTPUT, ancestry, outermost
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.rules.resting import Resting
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule
from pytest_gradhealth.rules.stops import cause_of_silence

#: Names that are proposed for ignore= one by one.
_MOST_NAMES = 3
_READ_NO_MORE = ": the last of a stack, where nothing reads it"


def check(evidence: Evidence) -> Iterator[Finding]:
    """Sort the parameters that the loss does without by what excuses that."""
    profile = evidence.second or evidence.first
    for more, unused in _sorted(profile).items():
        names = f"{listing(_folded(unused, profile))} ({count(len(unused), 'parameter')})"
        yield RULE.finding(
            "info" if more else "warning",
            unused[0].module or unused[0].name,
            f"the loss does not depend on {names}{more}",
            profile=profile,
        )


def _sorted(profile: GradientProfile) -> dict[str, list[ParameterRecord]]:
    """Parameters by what excuses that the loss does without them, in words; "" for nothing."""
    found: dict[str, dict[str, ParameterRecord]] = {"": {}}
    if all(p.state in ("gradient", "frozen") for p in profile.parameters):
        return {}
    resting, last = Resting(profile), without_readers(profile)
    ignored = {output.name for output in profile.outputs if output.state == "ignored"}
    sloped = ignored & {p.module for p in profile.parameters if p.gradient and not p.other_names}
    for p in (*last, *unused_parameters(profile)):
        if p in last:
            reason = _READ_NO_MORE
        elif resting.has_busy_sibling(p):
            continue
        elif p.name in profile.left_out:
            reason = ": other tensors take their place while it runs"
        elif p.module in sloped:
            reason = ": it is made of gradients, which constants do not change"
        elif resting.has_kin(p):
            reason = ": not called here, as others of the class or its own parts are"
        elif _is_listed_with_busy(p, profile):
            reason = ": others in the same list get a gradient"
        else:
            reason = ""
        found.setdefault(reason, {})[p.name] = p
    return {reason: [*unused.values()] for reason, unused in found.items() if unused}


def _is_listed_with_busy(parameter: ParameterRecord, profile: GradientProfile) -> bool:
    """Whether a parameter is in an nn.ParameterList of which others get a gradient."""
    owner, _, last = parameter.name.rpartition(".")
    others = (other.name.rpartition(".") for other in profile.parameters if other.gradient)
    return last.isdigit() and any(o == owner and number.isdigit() for o, _, number in others)


def without_readers(profile: GradientProfile) -> list[ParameterRecord]:
    """Parameters in a part of the last layer of a list, whose namesakes in all others get gradient.

    What it makes is for a next layer: the class token alone is read, or no coordinates are. The
    parts may be in lists of their own, side by side and as long. A layer of which nothing is read
    is another matter.
    """
    states: dict[tuple[str, str], dict[int, str]] = {}
    for p in profile.parameters:
        for name, number, part in _numbered(p.name):
            states.setdefault((name, part), {})[number] = p.state
    unused = {p.name for p in unused_parameters(profile)}
    busy = {m for p in profile.parameters if p.gradient for m in ancestry(p.module)}
    lengths = {name: max(members) for (name, _), members in states.items()}

    def is_last(name: str, number: int, part: str, *, beside: bool) -> bool:
        """Whether all others are trained, and so is another part of the layer.

        That is one of the same member, or one of a list `beside`.
        """
        *others, last = sorted(states[name, part])
        within = name.rpartition(".")[0]
        lists = [n for n in lengths if n != name and n.rpartition(".")[0] == within and beside]
        lists = [n for n in lists if lengths[n] == number] + [name] * ("." in part)
        return (
            number == last
            and {states[name, part][other] for other in others} == {"gradient"}
            and any(f"{n}.{number}".lstrip(".") in busy for n in lists)
        )

    return [
        p
        for p in profile.parameters
        if (p.name in unused or p.state == "zero") and p.name not in profile.awake
        if any(is_last(*place, beside=p.name in unused) for place in _numbered(p.name))
    ]


def _numbered(parameter: str) -> Iterator[tuple[str, int, str]]:
    """The lists that a parameter is in, the number of the member, and the name in there."""
    parts = parameter.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdigit():
            yield ".".join(parts[:place]), int(part), ".".join(parts[place + 1 :])


def unused_parameters(profile: GradientProfile) -> list[ParameterRecord]:
    """Parameters without a gradient that the loss does not depend on.

    Their module was never called, the loss ignores it, gradient went past them through its
    submodules, other tensors took their place, or no operation took them.
    """
    silent = [p for p in profile.parameters if p.state == "none"]
    if not silent:
        return []
    called = {o.name for o in profile.outputs if o.state not in ("not-called", "ignored")}
    passed, known = _passed(profile), {*profile.awake, *profile.apart}
    without = {*profile.left_out, *profile.untaken}
    owners = owners_of(profile)
    return [
        p
        for p in silent
        if p.name not in known
        if owners[p.name] not in called or owners[p.name] in passed or p.name in without
    ]


def owners_of(profile: GradientProfile) -> dict[str, str]:
    """By the name of a parameter, the module whose record speaks for its own.

    That is its own module, or one around it that returned the very tensor of a module inside.
    """
    recorded = {output.name for output in profile.outputs}
    outer = {output.name for output in profile.outputs if output.leaf not in ("", output.type)}
    found = {}
    for parameter in profile.parameters:
        own = parameter.module or OUTPUT
        around = reversed([OUTPUT, *ancestry(own)])
        nearest = next((name for name in around if name in recorded), OUTPUT)
        found[parameter.name] = nearest if own not in recorded and nearest in outer else own
    return found


def _passed(profile: GradientProfile) -> set[str]:
    """Modules whose submodules were called and that gradient came through."""
    measured = [o for o in profile.outputs if o.state == "measured"]
    composite = {o.name for o in measured if o.leaf != o.type}
    for output in measured:
        composite |= {OUTPUT, *ancestry(output.name)[:-1]} - {output.name}
    return composite


def folded(
    parameters: Sequence[ParameterRecord], profile: GradientProfile, used: Iterable[str] = ()
) -> list[str]:
    """The outermost modules of which all parameters are among these, and names of single ones.

    Of modules around those that are `used`, only the parts.
    """
    names = {p.name for p in parameters}
    rest = [p.module for p in profile.parameters if p.state != "frozen" and p.name not in names]
    others = {prefix for name in (*rest, *used) for prefix in ancestry(name)}
    return [*dict.fromkeys(outermost(p.module, others) or p.name for p in parameters)]


def _folded(parameters: Sequence[ParameterRecord], profile: GradientProfile) -> list[str]:
    return folded(parameters, profile, (o.name for o in profile.outputs if o.norm))


def ignoring(code: str, names: Collection[str]) -> str:
    """What to type to have a rule ignore layers and parameters of some names."""
    patterns = [f"{code}:{re.sub(r'[^A-Za-z0-9_.]', '?', name)}" for name in names]
    typed = ",".join(patterns) if len(patterns) <= _MOST_NAMES else code
    return f"--gradhealth-ignore='{typed}'"


def cause_of(finding: Finding, profile: GradientProfile) -> Cause:
    """What leaves parameters out, and what to type where that is meant to be."""
    kinds = _sorted(profile)
    told = next((more for more in kinds if more and finding.message.endswith(more)), "")
    parameters = kinds.get(told, [])
    if known := cause_of_silence([p.name for p in parameters], profile.stops):
        return known
    if any(p.shape in profile.anew for p in parameters):
        return Cause(
            "the forward makes an nn.Parameter of its own of that shape, which no optimizer has",
            "nn.Parameter(...) in __init__ alone, and the tensor itself in the forward",
        )
    return Cause(
        "their module is never called, does without them, or its output is not used",
        "use them, delete them, freeze them with requires_grad_(False), or leave them out with"
        f" {ignoring(RULE.code, _folded(parameters, profile))}",
    )


RULE = Rule(
    code="GH405",
    name="unused",
    summary="every trainable parameter should have a say in the loss",
    reads="parameters without a gradient, and whether their modules change the loss",
    check=check,
    error=UnusedParameterError,
    doc=__doc__,
    cause=cause_of,
    fails_if_asked="info",
)
