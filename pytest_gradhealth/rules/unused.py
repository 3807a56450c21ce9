"""GH405: every trainable parameter should have a say in the loss.

## What it does

Warns of parameters whose module is never called, does without them, or whose output the loss
ignores. Idle members of a list whose siblings were called (experts of a mixture) are left out.
`assert_all_reached` fails for them.

## Why

They take memory and optimizer state and learn nothing; often they are a layer that was meant to be
used.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gradhealth.errors import UnusedParameterError
from pytest_gradhealth.formatting import count, listing
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.names import OUTPUT
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.rules.rule import Cause, Evidence, Rule


def check(evidence: Evidence) -> Iterator[Finding]:
    """Warn of parameters whose module is never called, is ignored, or does without them.

    Library models keep poolers and mask tokens for other heads. What changes the loss and yet gets
    no gradient is cut off, which is GH401.

    >>> from pytest_gradhealth.results.profile import GradientProfile, OutputRecord, ParameterRecord
    >>> pooler = ParameterRecord("pooler.weight", (4, 4), "none", norm=1.0)
    >>> idle = OutputRecord("pooler", "Linear", "not-called")
    >>> look = GradientProfile(0, 0, 2.3, paths=(), outputs=(idle,), parameters=(pooler,))
    >>> [(f.severity, f.layer) for f in check(Evidence(look, None, {}))]
    [('warning', 'pooler')]
    """
    profile = evidence.second or evidence.first
    unused = [p for p in unused_parameters(profile) if not has_busy_sibling(p, profile)]
    if unused:
        names = f"{count(len(unused), 'parameter')} ({listing([p.name for p in unused])})"
        yield RULE.finding(
            "warning",
            unused[0].module or unused[0].name,
            f"the loss does not depend on {names}",
            profile=evidence.first,
        )


def unused_parameters(profile: GradientProfile) -> list[ParameterRecord]:
    """Parameters without a gradient that the loss does not depend on.

    Their module was never called, the loss ignores it, or gradient went past them through its
    submodules; a leaf module that was called should have used its own parameters.
    """
    called = {o.name for o in profile.outputs if o.state not in ("not-called", "ignored")}
    passed = _passed(profile)
    return [
        p
        for p in profile.parameters
        if p.state == "none"
        and p.name not in profile.awake
        and ((p.module or OUTPUT) not in called or (p.module or OUTPUT) in passed)
    ]


def _passed(profile: GradientProfile) -> set[str]:
    """Modules whose submodules were called and that gradient came through."""
    measured = [o for o in profile.outputs if o.state == "measured"]
    composite = {o.name for o in measured if o.leaf != o.type}
    for output in measured:
        owner = output.name
        while owner != OUTPUT:
            owner = owner.rpartition(".")[0] or OUTPUT
            composite.add(owner)
    return composite


def has_busy_sibling(parameter: ParameterRecord, profile: GradientProfile) -> bool:
    """Whether an uncalled member of a list has a brother that was called and got a gradient.

    Members of an nn.ModuleList, by their numbers, or of an nn.ModuleDict with numbers in its keys:
    idle experts of a mixture.
    """
    uncalled = set(profile.uncalled)
    parts = parameter.name.split(".")
    for position in range(len(parts) - 1):
        if ".".join(parts[: position + 1]) not in uncalled:
            continue
        before, after = parts[:position], parts[position + 1 :]
        if not _is_numbered(parts[position], ".".join(before), profile):
            continue
        for other in profile.parameters:
            theirs = other.name.split(".")
            if (
                other.state == "gradient"
                and theirs[:position] == before
                and theirs[position + 1 :] == after
            ):
                return True
    return False


def _is_numbered(part: str, owner: str, profile: GradientProfile) -> bool:
    """Whether a name is that of a list's member and not of an attribute such as fc2."""
    return part.isdigit() or (any(c.isdigit() for c in part) and owner in profile.keyed)


RULE = Rule(
    code="GH405",
    name="unused",
    summary="every trainable parameter should have a say in the loss",
    reads="parameters without a gradient, and whether their modules change the loss",
    check=check,
    error=UnusedParameterError,
    doc=__doc__,
    cause=Cause(
        "their module is never called, does without them, or its output is not used",
        "use them, delete them, or freeze them with requires_grad_(False)",
    ),
    fails_if_asked=True,
)
