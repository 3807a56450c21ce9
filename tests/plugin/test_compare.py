"""One run compared with another: main's JSON report against a branch, without committed files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.projects import NETS, damage, run

TESTS = """
import pytest
from nets import BATCH, net

@pytest.mark.parametrize("layers", [2, 4])
def test_net(gradhealth, layers):
    gradhealth.assert_no_exploding(net(layers=layers), **BATCH)

def test_two_probes(gradhealth):
    gradhealth.probe(net(), **BATCH)
    gradhealth.probe(net(layers=6), **BATCH)
"""
OLD = "main/old.json"


@pytest.fixture(autouse=True)
def _here(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project; in CI, where nothing of this kind may count as missing."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    pytester.makepyfile(nets=NETS, test_models=TESTS)


@pytest.fixture(params=[(), ("-n1",)], ids=["plain", "n1"])
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param:
        pytest.importorskip("xdist")
    options: tuple[str, ...] = request.param
    return options


def on_main(pytester: pytest.Pytester) -> None:
    run(pytester, f"--gradhealth-json={OLD}").assert_outcomes(passed=3)


def on_branch(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    return run(pytester, f"--gradhealth-compare={OLD}", *options)


def test_the_same_models_pass_and_nothing_is_written(pytester: pytest.Pytester) -> None:
    on_main(pytester)
    result = on_branch(pytester, "--gradhealth-fail-on=regression,missing,stale")
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    assert "gradient baselines" not in result.stdout.str()
    on_branch(pytester, "--gradhealth-update").assert_outcomes(passed=3)
    assert not Path("__gradhealth__").exists()


def test_a_regression_fails_with_the_layer_before_and_after(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    on_main(pytester)
    damage(pytester)
    result = on_branch(pytester, *workers)
    result.assert_outcomes(failed=3)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "x* of the gradient reaches 0 (Linear); it was x* (it lost * decades; limit *, default)"
            " [[]regression]",
            f"Sequential against test_models.py::test_net[[]4[]] in {OLD}",
            "*layer * step before *step now",
            "*1 (Sigmoid) *was ReLU *x* *x*",
            f"next:   pytest 'test_models.py::test_net[[]4[]]' --gradhealth-compare={OLD} -v",
            "        (shows all layers)",
            "the verdict was healthy and is a failure [[]regression]",
            f"Sequential against test_models.py::test_two_probes#2 in {OLD}",
        ]
    )
    assert "--gradhealth-update" not in result.stdout.str()


def test_what_fails_and_its_limits_can_be_set(pytester: pytest.Pytester) -> None:
    on_main(pytester)
    damage(pytester)
    on_branch(pytester, "--gradhealth-fail-on=none").assert_outcomes(passed=3)
    result = on_branch(pytester, "--gradhealth-max-path-change=9")
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(
        [
            "the verdict was healthy and is a failure [[]regression]",
            "  the gradient vanishes: *",
            "changed: test_models.py::test_net[[]4[]]: the verdict was healthy and is a warning",
        ]
    )


def test_new_tests_are_not_missing_and_old_ones_not_stale(pytester: pytest.Pytester) -> None:
    on_main(pytester)
    pytester.makepyfile(test_models=TESTS.replace("test_two_probes", "test_renamed"))
    result = on_branch(pytester, "--gradhealth-fail-on=regression,missing,stale")
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    assert "gradient baselines" not in result.stdout.str()


def test_what_got_better_is_told(pytester: pytest.Pytester) -> None:
    damage(pytester)
    on_main(pytester)
    pytester.makepyfile(nets=NETS)
    result = on_branch(pytester)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "better: test_models.py::test_net[[]4[]]: the verdict was a warning and is healthy",
            "better: test_models.py::test_net[[]4[]]: x* of the gradient reaches 0 (Linear); *",
        ]
    )


def test_what_is_neither_better_nor_worse_is_told_as_changed(pytester: pytest.Pytester) -> None:
    on_main(pytester)
    pytester.makeini("[pytest]\ngradhealth_warn_min_ratio = 0.9")
    result = on_branch(pytester)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["changed: test_models.py::test_net[[]2[]]: the verdict was healthy and is a warning"]
    )


def test_committed_files_and_another_run_can_both_be_compared(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ngradhealth_baseline = true")
    run(pytester, "--gradhealth-update", f"--gradhealth-json={OLD}").assert_outcomes(passed=3)
    on_branch(pytester).assert_outcomes(passed=3)
    damage(pytester)
    result = on_branch(pytester, "-k", "test_net and 4")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(
        [
            "Sequential against test_net[[]4[]] in __gradhealth__/test_models.json",
            "accept: pytest 'test_models.py::test_net[[]4[]]' --gradhealth-update",
            f"Sequential against test_models.py::test_net[[]4[]] in {OLD}",
            "next: *",
        ]
    )
    result = on_branch(pytester, "--gradhealth-update", "--gradhealth-fail-on=none")
    result.stdout.fnmatch_lines(["wrote __gradhealth__/test_models.json: changed: *"])


def test_the_report_may_be_written_over_what_it_was_compared_with(
    pytester: pytest.Pytester,
) -> None:
    on_main(pytester)
    before = Path(OLD).read_bytes()
    damage(pytester)
    on_branch(pytester, f"--gradhealth-json={OLD}").assert_outcomes(failed=3)
    assert Path(OLD).read_bytes() != before


def cut(text: str) -> str:
    return text[: len(text) // 2]


def stopped(result: pytest.RunResult, message: str) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --gradhealth-compare: *{message}"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def newer(text: str) -> str:
    return json.dumps(json.loads(text) | {"version": 99})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "this is no JSON report of pytest-gradhealth (JSONDecodeError: *"),
        (lambda _: "", "this is no JSON report of pytest-gradhealth (JSONDecodeError: *"),
        (lambda _: "[1]", "this is no JSON report of pytest-gradhealth (TypeError: *"),
        (
            lambda _: '{"version": 1, "entries": {}}',
            "this is no JSON report of pytest-gradhealth (*; write one with --gradhealth-json=PATH",
        ),
        (lambda _: "\0\x7fELF", "this is no JSON report of pytest-gradhealth (*"),
        (
            newer,
            "the report was written by a newer version (format 99, this one reads up to 1); update"
            " pytest-gradhealth",
        ),
    ],
    ids=["cut off", "empty", "other JSON", "a baseline", "binary", "newer"],
)
def test_a_file_that_is_no_report_stops_the_run_before_it_starts(
    pytester: pytest.Pytester, spoil: Callable[[str], str], message: str
) -> None:
    on_main(pytester)
    Path(OLD).write_text(spoil(Path(OLD).read_text()))
    stopped(on_branch(pytester), f"{OLD}: {message}")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_is_no_report(pytester: pytest.Pytester) -> None:
    Path(OLD).parent.mkdir()
    os.mkfifo(OLD)
    stopped(on_branch(pytester), f"{OLD} cannot be read (it is a pipe or a device, not a file)")


def test_a_folder_is_no_report(pytester: pytest.Pytester) -> None:
    Path(OLD).mkdir(parents=True)
    stopped(on_branch(pytester), f"{OLD} cannot be read (*")


def test_a_file_that_is_absent_stops_the_run_before_it_starts(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    stopped(on_branch(pytester, *workers), f"{OLD} cannot be read (*")
