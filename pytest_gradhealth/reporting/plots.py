"""What the HTML report draws and lists of a probe: lines over a path, blocks, times."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pytest_gradhealth.baseline.comparison import PathComparison
from pytest_gradhealth.formatting import factor, listing, number, shortened
from pytest_gradhealth.reporting.run import Probe
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile, OutputRecord
from pytest_gradhealth.results.times import TimeRecord
from pytest_gradhealth.rules import exploding, vanishing

#: Characters of a name that are shown.
LONGEST = 120
#: Lines of other seeds that are drawn.
MOST_SEEDS = 8
#: Of the limits for an L2 norm and for one that makes the RMS ratio pass, the one that counts.
_MILDER: Mapping[str, Callable[[float, float], float]] = {
    vanishing.RULE.code: min,
    exploding.RULE.code: max,
}


def path_plots(probe: Probe) -> list[dict[str, Any]]:
    """Return a plot for each judged path, worst first: points, and lines beside the first."""
    diagnosis = probe.diagnosis
    paths = diagnosis.profile.judged_paths or diagnosis.profile.paths
    worst = diagnosis.worst_path
    ordered = sorted(paths, key=lambda path: path is not worst)
    return [_plot(probe, path) for path in ordered]


def _plot(probe: Probe, path: GradientPath) -> dict[str, Any]:
    profile = probe.diagnosis.profile
    weights = _weights(profile)
    findings = [*_findings_on(path, probe.diagnosis)]
    found: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        for layer in finding.layers:
            found[layer].append(text(finding.code, 24))
    points, steps = [], path.steps
    estimated = {output.key for output in profile.outputs if output.sampled}
    for index, point in enumerate(path.points):
        step = factor(steps[index]) if index < path.links else ""
        points.append(
            {
                "layer": text(point.label),
                "type": text(point.type),
                "shape": "x".join(map(str, point.shape)) or "number",
                "norm": value(point.norm),
                "shown": number(point.norm),
                "step": step,
                "activation": value(point.activation),
                "activation_shown": "~" * (point.key in estimated) + number(point.activation),
                "weight": value(weights.get(point.name, math.nan)),
                "weight_shown": number(weights[point.name]) if point.name in weights else "",
                "found": ", ".join(dict.fromkeys(found.get(point.label, ()))),
            }
        )
    guilty = [text(point.label, 24) for point in path.points if point.label in found]
    return {
        "title": f"{text(path.first.label)} to {text(path.last.label)}",
        "name": f"seed {profile.seed}",
        "points": points,
        "lines": [*_lines(probe, path)],
        "limits": [*_limits(path, findings)],
        "found": f"found at {listing(guilty)}" if guilty else "",
    }


def _findings_on(path: GradientPath, diagnosis: Diagnosis) -> Iterator[Finding]:
    """What complains of a path of the shown look, or of a layer on whichever path."""
    profile = diagnosis.profile
    for finding in diagnosis.findings:
        of_path = finding.path is None or path in profile.paths[finding.path : finding.path + 1]
        if finding.complains and of_path and finding.seed in (profile.seed, None):
            yield finding


def _limits(path: GradientPath, findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """Where the limits of the rules on paths are crossed: at each point the norm that just passes.

    A ratio of L2 norms and one of RMS are compared, of which the milder counts.
    """
    for finding in findings:
        milder = _MILDER.get(finding.code)
        if milder is None or finding.limit is None:
            continue
        level = path.last.norm * finding.limit
        scales = [math.sqrt(point.numel / path.last.numel) for point in path.points]
        source = f" ({text(finding.limit_source, 40)})" if finding.limit_source else ""
        yield {
            "name": f"limit x{number(finding.limit)}{source}",
            "values": [value(level * milder(1.0, scale)) for scale in scales],
        }


def _lines(probe: Probe, path: GradientPath) -> Iterator[dict[str, Any]]:
    """The same path in other looks, and in the baseline, by place on this one."""
    diagnosis = probe.diagnosis
    others = [p for p in diagnosis.profiles if p is not diagnosis.profile]
    for other in others[:MOST_SEEDS]:
        again = other.same_path(path)
        if again is not None:
            norms = {point.label: point.norm for point in again.points}
            yield {
                "name": _name_of(other, diagnosis),
                "kind": "second" if other.steps else "seed",
                "values": [value(norms.get(point.label, math.nan)) for point in path.points],
                "shown": [
                    number(norms[point.label]) if point.label in norms else ""
                    for point in path.points
                ],
            }
    for check in probe.checks:
        for comparison in check.comparison.paths:
            if comparison.after.first.layer == path.first.label:
                values = _baseline(comparison, len(path.points))
                shown = ["" if norm is None else number(norm) for norm in values]
                yield {"name": "baseline", "kind": "baseline", "values": values, "shown": shown}


def _name_of(profile: GradientProfile, diagnosis: Diagnosis) -> str:
    if not profile.steps:
        return f"seed {profile.seed}"
    name = f"after {profile.steps} steps"
    return name if len(diagnosis.seeds) == 1 else f"{name}, seed {profile.seed}"


def _baseline(comparison: PathComparison, total: int) -> list[float | None]:
    values: list[float | None] = [None] * total
    for pair in comparison.pairs:
        if pair.before is not None and pair.after is not None and pair.after < total:
            decades = comparison.before.points[pair.before].norm
            values[pair.after] = value(10.0**decades if abs(decades) < 300 else math.nan)
    return values


def _weights(profile: GradientProfile) -> Mapping[str, float]:
    """The L2 norm of the gradients of a module's parameters together."""
    squares: dict[str, float] = defaultdict(float)
    for parameter in profile.parameters:
        if parameter.gradient is not None:
            squares[parameter.module] = math.hypot(squares[parameter.module], parameter.gradient)
    return squares


def branches(diagnosis: Diagnosis) -> list[tuple[str, list[OutputRecord]]]:
    """Return the module outputs that are on no path, under the block that they are in."""
    on_paths = {p.key for path in diagnosis.paths for p in path.points}
    blocks = sorted({p.name for path in diagnosis.paths for p in path.points}, key=len)
    found: dict[str, list[OutputRecord]] = defaultdict(list)
    for output in diagnosis.profile.outputs:
        if output.key in on_paths:
            continue
        inside = [block for block in blocks if output.name.startswith(f"{block}.")]
        found[inside[-1] if inside else ""].append(output)
    return sorted(found.items(), key=lambda item: not item[0])


def time_plots(times: Sequence[TimeRecord]) -> list[dict[str, Any]]:
    """Return what a recurrent layer lets through, by steps back."""
    return [
        {
            "title": text(f"{record.name} ({record.type}{', backwards' * record.reverse})"),
            "values": [value(norm) for norm in record.norms],
            "shown": [number(norm) for norm in record.norms],
            "dependency": record.dependency,
        }
        for record in times
    ]


def value(norm: float) -> float | None:
    """A number that a logarithmic axis has a place for, else None."""
    return float(f"{norm:.4g}") if math.isfinite(norm) and norm > 0 else None


def text(name: str, longest: int = LONGEST) -> str:
    """Text as far as there is room for it in the page; the JSON report has all of it."""
    return shortened(name, longest)
