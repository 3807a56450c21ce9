"""Parts of weights that get no gradient where the others do: query, a gate, a tied weight's use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pytest_gradhealth.results.names import ATTENTION_ROLES, module_of, part_name
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord


def silent_parts(profile: GradientProfile) -> list[tuple[str, str]]:
    """Weights and the names of those of their parts that have a gradient of exactly zero.

    Where the rest of the weight, and all others of its module, have another.
    """
    zero = {p.module for p in profile.parameters if p.state == "zero"}
    alive = (p for p in profile.parameters if p.gradient and p.module not in zero)
    return [(p.name, part.name) for p in alive for part in p.parts if part.gradient == 0]


def silent_uses(profile: GradientProfile) -> list[str]:
    """Modules whose weight gets its gradient from another that has it too, and none from them."""
    states: dict[str, set[str]] = {}
    for output in profile.outputs:
        states.setdefault(output.name, set()).add(output.state)
    tied = (p for p in profile.parameters if p.gradient and p.other_names)
    owners = {module_of(name) for p in tied for name in (p.name, *p.other_names)}
    return [name for name, found in states.items() if name in owners and found == {"unreached"}]


def cut_parts(profile: GradientProfile) -> Iterator[ParameterRecord]:
    """Parts of parameters that change the loss and get no gradient, as parameters of their own."""
    yield from (p for p in _parts(profile) if p.name in profile.felt_parts)
    for module in (m for m in silent_uses(profile) if m in profile.felt_parts):
        for p in profile.parameters:
            own = (name for name in (p.name, *p.other_names) if module_of(name) == module)
            yield from (_apart(p, name) for name in own if p.other_names)


def dull_parts(profile: GradientProfile) -> Iterator[ParameterRecord]:
    """Parts of parameters that get no gradient since they make no difference, as at a flat gate."""
    yield from (p for p in _parts(profile) if p.name not in profile.felt_parts)


def attends_to_one(parameter: ParameterRecord, profile: GradientProfile) -> bool:
    """Whether a parameter, or a part of one, makes the query or key of a single token."""
    own = parameter.name.rpartition("[")[2].rstrip("]"), parameter.module.rpartition(".")[2]
    if "qk" not in map(ATTENTION_ROLES.get, own):
        return False
    shapes = [o.shape for o in profile.outputs if o.name == parameter.module and o.numel]
    return bool(shapes) and all(len(s) > 2 and 1 in s[:-1] for s in shapes)


def _parts(profile: GradientProfile) -> Iterator[ParameterRecord]:
    weights = {p.name: p for p in profile.parameters}
    for name, part in silent_parts(profile):
        yield _apart(weights[name], part_name(name, part))


def _apart(parameter: ParameterRecord, name: str) -> ParameterRecord:
    return replace(parameter, name=name, state="zero", gradient=0.0, parts=(), other_names=())
