"""GH407: attention must be able to learn where to look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from pytest_gradhealth.errors import AttentionCollapseError
from pytest_gradhealth.records import Finding, GradientProfile
from pytest_gradhealth.rules.rule import Evidence, Rule
from pytest_gradhealth.wording import number

#: Gradient of query and key over that of value below which all tokens look alike. Healthy
#: transformers stay above 1e-3 (Noci et al. 2022 has why it vanishes).
LIMIT = 1e-4
#: Names that the three projections go by.
_ROLES = {
    "query": "qk",
    "key": "qk",
    "value": "v",
    "q_proj": "qk",
    "k_proj": "qk",
    "v_proj": "v",
    "to_q": "qk",
    "to_k": "qk",
    "to_v": "v",
    "q_lin": "qk",
    "k_lin": "qk",
    "v_lin": "v",
    "q": "qk",
    "k": "qk",
    "v": "v",
}


def check(evidence: Evidence) -> Iterator[Finding]:
    """Warn where the gradient of query and key is next to nothing beside that of value.

    Where all tokens are the same, it makes no difference which of them is attended to.

    >>> from pytest_gradhealth.records import GradientProfile, ParameterRecord
    >>> sizes = {"att.q_proj.weight": 1e-9, "att.k_proj.weight": 1e-9, "att.v_proj.weight": 1.0}
    >>> weights = [ParameterRecord(n, (4, 4), "gradient", 1.0, g) for n, g in sizes.items()]
    >>> look = GradientProfile(0, 0, 2.3, paths=(), parameters=tuple(weights))
    >>> [(f.severity, f.layer) for f in check(Evidence(look, None, {}))]
    [('warning', 'att')]
    """
    ratios = attention_ratios(evidence.first)
    if evidence.second is not None:
        again = attention_ratios(evidence.second)
        ratios = {name: max(r, again.get(name, r)) for name, r in ratios.items()}
    if not ratios:
        return
    name, ratio = min(ratios.items(), key=lambda item: item[1])
    if ratio < LIMIT:
        yield RULE.finding(
            "warning",
            name,
            f"attention collapses in {name}: query and key get x{number(ratio)} of the gradient of"
            f" value; limit x{number(LIMIT)}",
            profile=evidence.first,
            value=ratio,
        )


def attention_ratios(profile: GradientProfile) -> Mapping[str, float]:
    """Smaller gradient of query and key over that of value, by attention module.

    Modules in which one of them has none, as behind a zero-initialised layer, and those that attend
    to a single token are left out.
    """
    single = {o.name for o in profile.outputs if len(o.shape) > 2 and o.shape[-2] == 1}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for parameter in profile.parameters:
        if parameter.module in single:
            continue
        if parameter.thirds is not None:
            query, key, value = parameter.thirds
            found[parameter.module]["qk"] += [query, key]
            found[parameter.module]["v"].append(value)
        owner, _, last = parameter.module.rpartition(".")
        if last in _ROLES and parameter.name.endswith("weight") and parameter.gradient is not None:
            found[owner][_ROLES[last]].append(parameter.gradient)
    return {
        name or "(output)": min(sizes["qk"]) / sizes["v"][0]
        for name, sizes in found.items()
        if len(sizes["qk"]) == 2 and len(sizes["v"]) == 1
        if min(sizes["qk"]) > 0 and sizes["v"][0] > 0
    }


RULE = Rule(
    code="GH407",
    name="attention-collapse",
    summary="attention must be able to learn where to look",
    reads="gradient of the query and key weights, over that of the value weights",
    check=check,
    confirm_from="warning",
    error=AttentionCollapseError,
)
