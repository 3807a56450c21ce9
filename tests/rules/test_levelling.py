"""What a few steps take away is no warning: it is told, and told how far it got."""

from __future__ import annotations

import pytest

from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.path import GradientPath, PathPoint, power
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules import Evidence, collapsed_output, exploding, vanishing

LIMITS = {
    "min_ratio": Limit(1e-5, "default"),
    "warn_min_ratio": Limit(1e-3, "default"),
    "max_ratio": Limit(1e3, "default"),
    "warn_max_ratio": Limit(1e2, "default"),
    "min_spread": Limit(5e-6, "default"),
    "warn_min_spread": Limit(1e-4, "default"),
}


def look(decades: float, steps: int = 0, *names: str) -> GradientProfile:
    """Paths from embeddings of some names into one layer, on which so many decades are gained."""
    last = PathPoint("head", "Linear", (8, 4), norm=1.0, numel=32)
    paths = []
    for place, name in enumerate(names or ("stem",)):
        norm = power(decades - 0.1 * place)
        first = PathPoint(name, "Embedding", (8, 4), norm=norm, numel=32)
        paths.append(GradientPath((first, last), entry=first))
    return GradientProfile(0, steps, 2.3, paths=tuple(paths), spread=power(decades))


@pytest.mark.parametrize(
    ("before", "after", "severity"),
    [
        (-12.0, -4.0, "info"),
        (-5.1, -3.5, "info"),
        (-4.5, -3.4, "info"),
        (-4.2, -4.1, "warning"),
        (-3.4, -3.9, "warning"),
        (-5.6, -4.7, "warning"),
        (-12.0, -6.0, "failure"),
        (-12.0, -2.0, None),
    ],
)
def test_a_gradient_that_vanishes_less_and_less_is_no_warning(
    before: float, after: float, severity: str | None
) -> None:
    found = [*vanishing.check(Evidence(look(before), look(after, 5), LIMITS))]
    assert [f.severity for f in found] == [severity] * (severity is not None)


@pytest.mark.parametrize(
    ("before", "after", "severity"),
    [(9.3, 2.2, "info"), (2.1, 2.05, "warning"), (3.4, 2.6, "warning"), (9.3, 4.0, "failure")],
)
def test_a_gradient_that_explodes_less_and_less_is_no_warning(
    before: float, after: float, severity: str
) -> None:
    found = [*exploding.check(Evidence(look(before), look(after, 5), LIMITS))]
    assert [f.severity for f in found] == [severity]


@pytest.mark.parametrize(
    ("before", "after", "severity"),
    [(-7.0, -4.2, "info"), (-4.3, -4.2, "warning"), (-8.0, -6.0, "failure")],
)
def test_outputs_that_part_are_no_warning(before: float, after: float, severity: str) -> None:
    found = [*collapsed_output.check(Evidence(look(before), look(after, 5), LIMITS))]
    assert [f.severity for f in found] == [severity]


def test_it_is_said_how_far_the_steps_got() -> None:
    (finding,) = vanishing.check(Evidence(look(-12.0), look(-4.0, 150), LIMITS))
    assert finding.message == (
        "the gradient vanishes: x1e-12 of it reaches stem (Embedding); x0.0001 after 150 steps:"
        " training levels it"
    )
    (finding,) = exploding.check(Evidence(look(9.0), look(2.5, 5), LIMITS))
    assert finding.message == (
        "the gradient explodes: it grows x1e+09 to stem (Embedding); x3.2e+02 after 5 steps:"
        " training levels it"
    )
    (finding,) = collapsed_output.check(Evidence(look(-7.0), look(-4.3, 5), LIMITS))
    assert finding.message == (
        "the outputs of different examples differ by only x5e-05 of their size; training levels"
        " it, from x1e-07"
    )


def test_without_a_second_look_a_warning_stands() -> None:
    (finding,) = vanishing.check(Evidence(look(-4.0), None, LIMITS))
    assert finding.severity == "warning"


def test_a_body_that_vanishes_behind_a_gate_has_not_been_level_before() -> None:
    """Before the gate opened nothing came through at all: no steps have taken that away."""

    def behind(*norms: float, steps: int = 0) -> GradientProfile:
        names = ("stem", "body", "head")
        points = [
            PathPoint(n, "Linear", (8,), norm=g, numel=8) for n, g in zip(names, norms, strict=True)
        ]
        path = GradientPath(tuple(points), entry=points[0])
        return GradientProfile(0, steps, 2.3, paths=(path,))

    evidence = Evidence(behind(0.0, 0.0, 1.0), behind(1e-6, 1e-2, 1.0, steps=5), LIMITS)
    assert [f.severity for f in vanishing.check(evidence)] == ["warning"]


def test_layers_side_by_side_that_differ_are_findings_of_their_own() -> None:
    profile = look(-4.95, 0, "a", "b")  # one warns and one fails
    found = [*vanishing.check(Evidence(profile, None, LIMITS))]
    assert [(f.severity, f.layer) for f in found] == [("warning", "a"), ("failure", "b")]


def test_layers_side_by_side_are_one_finding_of_the_one_that_gets_the_least() -> None:
    profile = look(-6.0, 0, "a", "b", "c", "d")
    (finding,) = vanishing.check(Evidence(profile, None, LIMITS))
    assert (finding.severity, finding.layer, finding.path) == ("failure", "d", 3)
    assert finding.message == (
        "the gradient vanishes: x5e-07 of it reaches d (Embedding), at most x1e-06 c, b and 1 more;"
        " limit x1e-05 (default)"
    )
