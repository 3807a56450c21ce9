"""Loss and gradient norms within a tolerance of their baseline, by device and format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_gradhealth.baseline.numbers import KeptNorm, KeptNumbers
from pytest_gradhealth.baseline.within import number_changes
from pytest_gradhealth.results.diagnosis import Limit
from tests.helpers.projects import FILE, ONE, kept, run

pytestmark = pytest.mark.usefixtures("_nets")

RTOL = "--gradhealth-baseline-rtol=1e-3"
#: The first weights a little larger: nothing that decades would show.
MOVED = ONE.replace(
    "gradhealth.assert_matches_baseline(net()",
    """import torch
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(FACTOR)
    gradhealth.assert_matches_baseline(model""",
)


def moved(factor: float) -> str:
    return MOVED.replace("FACTOR", repr(factor))


def test_numbers_are_written_with_the_digits_of_the_tolerance(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update", RTOL).assert_outcomes(passed=1)
    numbers = kept()["test_net"]["numbers"]
    assert [*numbers] == ["cpu float32"]
    assert [row["layer"] for row in numbers["cpu float32"]["parameters"]] == [*"02468"]
    assert numbers["cpu float32"]["points"][0]["layer"] == "0"
    for row in numbers["cpu float32"]["parameters"]:
        digits = repr(row["norm"]).replace(".", "").strip("0").partition("e")[0]
        assert len(digits) <= 6
    run(pytester, RTOL).assert_outcomes(passed=1)


def test_what_decades_do_not_show_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update", RTOL).assert_outcomes(passed=1)
    pytester.makepyfile(test_models=moved(1.05))
    run(pytester).assert_outcomes(passed=1)
    result = run(pytester, RTOL)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"E +pytest_gradhealth.RegressionError: the (loss|gradient (of|at) \d) is [\d.e-]+,"
            r" and was [\d.e-]+ \([\d.]+% apart; limit 0\.1%, --gradhealth-baseline-rtol\)"
            r" \[regression\]",
            r"E +the gradient (of|at) \d is .*",
            r"E +the gradient (of|at) \d is .*",
            r"E +and \d+ more changes",
        ]
    )
    run(pytester, "--gradhealth-baseline-rtol=0.5").assert_outcomes(passed=1)


@pytest.mark.parametrize("source", ["marker", "call", "ini"])
def test_the_tolerance_comes_from_anywhere(pytester: pytest.Pytester, source: str) -> None:
    text = moved(1.05)
    if source == "marker":
        marker = "import pytest\n\n@pytest.mark.gradhealth(baseline_rtol=1e-3)\ndef test"
        text = text.replace("def test", marker)
    elif source == "call":
        text = text.replace("**BATCH)", "baseline_rtol=1e-3, **BATCH)")
    else:
        pytester.makeini("[pytest]\ngradhealth_baseline_rtol = 1e-3")
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update", RTOL).assert_outcomes(passed=1)
    pytester.makepyfile(test_models=text)
    run(pytester).assert_outcomes(failed=1)


def test_numbers_of_another_device_or_format_are_not_compared(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update", RTOL).assert_outcomes(passed=1)
    in_double = ONE.replace("net(), **BATCH", "net().double(), **DOUBLE").replace(
        "\ndef test", "\nDOUBLE = {**BATCH, 'inputs': BATCH['inputs'].double()}\n\ndef test"
    )
    pytester.makepyfile(test_models=in_double)
    result = run(pytester, RTOL)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["without a baseline: test_net; *"])
    monkeypatch.setenv("CI", "true")
    result = run(pytester, RTOL)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *MissingBaselineError: no baseline of numbers on cpu float64 for test_net in"
            f" {FILE}",
            "E *next:   pytest test_models.py::test_net --gradhealth-update",
        ]
    )
    monkeypatch.delenv("CI")
    run(pytester, "--gradhealth-update", RTOL).assert_outcomes(passed=1)
    assert [*kept()["test_net"]["numbers"]] == ["cpu float32", "cpu float64"]
    run(pytester, RTOL).assert_outcomes(passed=1)
    pytester.makepyfile(test_models=ONE)
    run(pytester, RTOL).assert_outcomes(passed=1)


def test_a_gradient_that_is_rounding_is_not_compared_with_its_like() -> None:
    limit = Limit(1e-3, "default")
    norms = [KeptNorm("0", 1.0), KeptNorm("1", 2e-9)]
    before = KeptNumbers(2.0, tuple(norms), ())
    for rounding in (0.0, 5e-9):
        now = KeptNumbers(2.0, (norms[0], KeptNorm("1", rounding)), ())
        assert [*number_changes(before, now, limit)] == []
    woken = KeptNumbers(2.0, (norms[0], KeptNorm("1", 1e-6)), ())
    (change,) = number_changes(before, woken, limit)
    assert change.message.startswith("the gradient of 1 is 1e-06, and was 2e-09")


def test_a_finer_tolerance_reads_what_a_looser_one_has_written(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update", "--gradhealth-baseline-rtol=0.1")
    run(pytester, "--gradhealth-baseline-rtol=1e-5").assert_outcomes(passed=1)


def test_a_file_does_not_churn(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update", RTOL)
    before = Path(FILE).read_bytes()
    for how in ((RTOL,), ()):
        pytester.makepyfile(test_models=moved(1.00001))
        run(pytester, "--gradhealth-update", *how).assert_outcomes(passed=1)
        assert Path(FILE).read_bytes() == before
    pytester.makepyfile(test_models=moved(1.2))
    run(pytester, "--gradhealth-update", RTOL).assert_outcomes(passed=1)
    assert Path(FILE).read_bytes() != before


def test_an_update_without_a_tolerance_keeps_no_old_numbers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update")
    assert kept()["test_net"]["numbers"] == {}
    run(pytester, "--gradhealth-update", RTOL)
    pytester.makepyfile(test_models=moved(1.2))
    run(pytester, RTOL).assert_outcomes(failed=1)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    run(pytester, RTOL).assert_outcomes(passed=1)


def test_files_without_numbers_are_read(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update")
    data = json.loads(Path(FILE).read_text())
    data["version"] = 3
    del data["entries"]["test_net"]["numbers"]
    Path(FILE).write_text(json.dumps(data))
    run(pytester).assert_outcomes(passed=1)
    result = run(pytester, RTOL)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["without a baseline: test_net; *"])


def test_an_initialisation_is_kept_and_another_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    result = run(pytester, "--gradhealth-baseline-init")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["without a baseline: test_net; *"])
    monkeypatch.setenv("CI", "true")
    result = run(pytester, "--gradhealth-baseline-init")
    result.stdout.fnmatch_lines(
        [f"E *MissingBaselineError: no baseline of the initialisation for test_net in {FILE}"]
    )
    monkeypatch.delenv("CI")
    pytester.makeini("[pytest]\ngradhealth_baseline_init = true")
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    assert kept()["test_net"]["weights"][0]["name"] == "0.weight"
    before = Path(FILE).read_bytes()
    other = "import torch\n" + ONE.replace("net()", "net(layers=4 + 0 * torch.randn(1).shape[0])")
    pytester.makepyfile(test_models=other)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    assert Path(FILE).read_bytes() == before
    pytester.makepyfile(test_models=moved(5.0))
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *RegressionError: 0.weight is initialised otherwise: its standard deviation is 1*,"
            " and was 0.2* [[]regression]"
        ]
    )
    run(pytester, "-o", "gradhealth_baseline_init=false").assert_outcomes(passed=1)
