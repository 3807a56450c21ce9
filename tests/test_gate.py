"""The gate on model changes, as a user meets it: options, files, messages, exit codes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_gradhealth import ProbeError, assert_matches_baseline
from tests.helpers.projects import FILE, NETS, ONE, TWO, damage, kept, run


@pytest.fixture(autouse=True)
def _here(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with a module of nets; not in CI, wherever this runs."""
    for name in ("CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(nets=NETS)


@pytest.fixture(params=[(), ("-n0",), ("-n1",)], ids=["plain", "n0", "n1"])
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param:
        pytest.importorskip("xdist")
    options: tuple[str, ...] = request.param
    return options


def test_written_same_and_worse(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(test_models=TWO)
    result = run(pytester, "--gradhealth-update", *workers)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"wrote {FILE}: new: test_deep and test_net"])
    assert sorted(kept()) == ["test_deep", "test_net"]
    before = Path(FILE).read_bytes()

    result = run(pytester, *workers)
    result.assert_outcomes(passed=2)
    assert "gradient baselines" not in result.stdout.str()

    damage(pytester)
    result = run(pytester, *workers)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*RegressionError: * of the gradient reaches 0 (Linear); it was x* (* decades worse;"
            " limit 0.5, default) [[]regression]",
            "*Sequential against test_* in __gradhealth__/test_models.json",
            "*accept: pytest test_models.py::test_* --gradhealth-update",
        ],
    )
    assert Path(FILE).read_bytes() == before


def test_a_missing_baseline_is_told_and_nothing_written(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=TWO)
    result = run(pytester)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*= gradient baselines =*",
            "without a baseline: test_deep and test_net; pytest --gradhealth-update writes them",
        ]
    )
    assert not Path("__gradhealth__").exists()


def test_an_update_of_some_tests_leaves_the_others(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=TWO)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=2)
    old = kept()
    damage(pytester)
    result = run(pytester, "--gradhealth-update", "-k", "net")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines([f"wrote {FILE}: changed: test_net"])
    assert kept()["test_deep"] == old["test_deep"]
    assert kept()["test_net"] != old["test_net"]


def test_in_ci_a_missing_baseline_fails_with_the_command(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(test_models=ONE)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"E *MissingBaselineError: no baseline for test_net in {FILE}",
            "E *next:   pytest test_models.py::test_net --gradhealth-update",
            "E *(writes it; commit the file)",
        ]
    )
    run(pytester, "--gradhealth-fail-on=regression").assert_outcomes(passed=1)


@pytest.mark.parametrize("source", ["ini", "marker", "option"])
def test_every_probe_can_have_a_baseline(pytester: pytest.Pytester, source: str) -> None:
    marker = "@pytest.mark.gradhealth(baseline=True)" if source == "marker" else ""
    pytester.makepyfile(
        test_models=f"""
import pytest
from nets import BATCH, net

{marker}
def test_net(gradhealth):
    model = net()
    gradhealth.assert_no_vanishing(model, **BATCH)
    gradhealth.assert_no_exploding(model, **BATCH)
    gradhealth.probe(net(layers=6), **BATCH)

@pytest.mark.gradhealth(baseline=False)
def test_other(gradhealth):
    gradhealth.assert_no_vanishing(net(), **BATCH)
"""
    )
    options = []
    if source == "ini":
        pytester.makeini("[pytest]\ngradhealth_baseline = true")
    if source == "option":
        options.append("--gradhealth-baseline")
    run(pytester, "--gradhealth-update", *options).assert_outcomes(passed=2)
    assert list(kept()) == ["test_net", "test_net#2"]
    damage(pytester)
    result = run(pytester, *options)
    result.assert_outcomes(failed=1, passed=1)
    text = result.stdout.str()
    assert text.count("[regression]") >= 2
    assert f"Sequential against test_net#2 in {FILE}" in text
    assert "Traceback" not in text


def test_keys_are_names_in_the_module(pytester: pytest.Pytester) -> None:
    source = """
import pytest
from nets import BATCH, net

class TestA:
    @pytest.mark.parametrize("layers", [2, 3], ids=["a/b#2", "x (y)"])
    def test_net(self, gradhealth, layers):
        gradhealth.assert_matches_baseline(net(layers=layers), **BATCH)

class TestB:
    def test_net(self, gradhealth):
        gradhealth.assert_matches_baseline(net(), **BATCH, name="small")
        gradhealth.assert_matches_baseline(net(layers=6), **BATCH, name="large")
"""
    pytester.makepyfile(**{"test_models": source, "sub/test_models": source})
    pytester.makeini("[pytest]\npythonpath = .\naddopts = --import-mode=importlib")
    run(pytester, "--gradhealth-update").assert_outcomes(passed=6)
    keys = [
        "TestA::test_net[a/b#2]",
        "TestA::test_net[x (y)]",
        "TestB::test_net (large)",
        "TestB::test_net (small)",
    ]
    assert sorted(kept()) == sorted(kept(f"sub/{FILE}")) == keys
    result = run(pytester)
    result.assert_outcomes(passed=6)
    assert "stale" not in result.stdout.str()


def test_two_checks_of_one_key_are_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_models=ONE + "    gradhealth.assert_matches_baseline(net(), **BATCH)\n"
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *ProbeError: two checks of this test have the key 'test_net' in its baseline; give"
            " each a name of its own: assert_matches_baseline(..., name='decoder')"
        ]
    )


def test_only_what_passes_is_written(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(
        test_models=TWO
        + """
    assert False

import pytest

@pytest.mark.xfail
def test_expected(gradhealth):
    gradhealth.assert_matches_baseline(net(), **BATCH)
    assert False

@pytest.fixture
def broken():
    yield
    raise ValueError

def test_teardown(gradhealth, broken):
    gradhealth.assert_matches_baseline(net(), **BATCH)

def test_skipped(gradhealth):
    gradhealth.assert_matches_baseline(net(), **BATCH)
    pytest.skip()
"""
    )
    result = run(pytester, "--gradhealth-update", *workers)
    assert result.parseoutcomes() == {
        "passed": 2,
        "failed": 1,
        "xfailed": 1,
        "errors": 1,
        "skipped": 1,
    }
    assert list(kept()) == ["test_net"]


def test_a_run_that_stops_early_keeps_what_it_has(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=TWO + "def test_last(gradhealth): pass\n")
    run(pytester, "--gradhealth-update").assert_outcomes(passed=3)
    before = kept()
    damage(pytester)
    result = run(pytester, "-x", "--gradhealth-fail-on=regression,stale")
    result.assert_outcomes(failed=1)
    assert "stale" not in result.stdout.str()
    assert kept() == before


def test_last_failed_judges_nothing_stale(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=TWO)
    pytester.runpytest("--gradhealth-update").assert_outcomes(passed=2)
    damage(pytester)
    pytester.runpytest("--deselect", "test_models.py::test_deep").assert_outcomes(
        failed=1, deselected=1
    )
    result = pytester.runpytest("--lf", "--gradhealth-fail-on=stale,regression")
    assert "stale in" not in result.stdout.str()
    assert sorted(kept()) == ["test_deep", "test_net"]


def test_a_crashed_worker_loses_nothing(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(test_models=TWO)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=2)
    before = kept()
    pytester.makepyfile(
        test_models=TWO.replace("def test_net", "def test_renamed")
        + "def test_crash(gradhealth):\n    import os\n    os._exit(1)\n"
    )
    result = run(pytester, "-n2", "--gradhealth-update", "--gradhealth-prune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["nothing pruned: a worker crashed, so that nobody can tell what is stale"]
    )
    after = kept()
    assert {key: after[key] for key in before} == before


STALE = "stale in __gradhealth__/test_models.json: test_net; pytest --gradhealth-prune removes it"


def rename(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=TWO.replace("def test_net", "def test_renamed"))


def test_what_no_test_has_any_more_is_stale_until_pruned(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_models=TWO)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=2)
    rename(pytester)
    result = run(pytester)
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines([STALE])
    result = run(pytester, "--gradhealth-fail-on=stale", *workers)
    result.assert_outcomes(passed=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines([STALE, "the run fails by --gradhealth-fail-on"])
    result = run(pytester, "--gradhealth-update", "--gradhealth-prune", *workers)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [f"wrote {FILE}: new: test_renamed", f"pruned from {FILE}: test_net"]
    )
    assert sorted(kept()) == ["test_deep", "test_renamed"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-k", "deep"), "tests were left out"),
        (("-k", "test"), "tests were left out"),
        (("-m", "not slow"), "tests were left out"),
        (("test_models.py::test_deep",), "single tests were run"),
        (("--no-gradhealth",), "gradient checks are switched off"),
        (("test_models.py", "test_bad.py"), "a module could not be collected"),
        (("test_models.py", "test_red.py"), "tests failed"),
        (("test_models.py", "test_red.py", "-n2"), "tests failed"),
    ],
)
def test_a_run_that_is_not_whole_prunes_nothing(
    pytester: pytest.Pytester, options: tuple[str, ...], why: str
) -> None:
    pytester.makepyfile(test_models=TWO)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=2)
    rename(pytester)
    pytester.makepyfile(test_bad="import nothing_of_the_kind", test_red="def test_red(): assert 0")
    before = Path(FILE).read_bytes()
    if "test_bad.py" in options:
        options = (*options, "--continue-on-collection-errors")
    elif not any(option.endswith(".py") or "::" in option for option in options):
        options = (*options, "test_models.py")
    result = run(pytester, "--gradhealth-prune", *options)
    result.stdout.fnmatch_lines([f"nothing pruned: {why}, so that nobody can tell what is stale"])
    assert Path(FILE).read_bytes() == before


def test_probes_of_one_test_never_share_a_key(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_models="""
from nets import BATCH, net

def test_net(gradhealth):
    gradhealth.assert_no_exploding(net(layers=6), **BATCH)
    gradhealth.assert_matches_baseline(net(), **BATCH)
"""
    )
    options = ("--gradhealth-baseline",)
    run(pytester, *options, "--gradhealth-update").assert_outcomes(passed=1)
    assert sorted(kept()) == ["test_net", "test_net#2"]
    assert len(kept()["test_net#2"]["paths"][0]["points"]) == 13
    run(pytester, *options).assert_outcomes(passed=1)
    run(pytester, "--gradhealth-prune").assert_outcomes(passed=1)
    assert sorted(kept()) == ["test_net", "test_net#2"]


def test_a_parametrisation_without_parameters_keeps_its_baselines(
    pytester: pytest.Pytester,
) -> None:
    text = """
import pytest
from nets import BATCH, net

@pytest.mark.parametrize("layers", [2, 4])
def test_net(gradhealth, layers):
    gradhealth.assert_matches_baseline(net(layers=layers), **BATCH)
"""
    pytester.makepyfile(test_models=text)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=2)
    pytester.makepyfile(test_models=text.replace("[2, 4]", "[]"))
    run(pytester, "--gradhealth-prune").assert_outcomes(skipped=1)
    assert sorted(kept()) == ["test_net[2]", "test_net[4]"]


INTERRUPTED = """
import os, pytest
from nets import BATCH, net

def test_net(gradhealth):
    if os.environ.get("INTERRUPT") == "key":
        raise KeyboardInterrupt
    if os.environ.get("INTERRUPT") == "exit":
        pytest.exit("enough")
    gradhealth.assert_matches_baseline(net(), **BATCH)

def test_deep(gradhealth):
    gradhealth.assert_matches_baseline(net(layers=6), **BATCH)
"""


@pytest.mark.parametrize("how", ["key", "exit"])
def test_an_interrupted_run_prunes_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pytester.makepyfile(test_models=INTERRUPTED)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=2)
    before = Path(FILE).read_bytes()
    monkeypatch.setenv("INTERRUPT", how)
    pytester.runpytest_subprocess("--gradhealth-update", "--gradhealth-prune")
    assert Path(FILE).read_bytes() == before


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only", "--collect-only"])
def test_a_run_without_calls_prunes_nothing(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile(test_models=TWO)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=2)
    run(pytester, "--gradhealth-prune", option)
    assert sorted(kept()) == ["test_deep", "test_net"]


def test_what_the_command_line_says_of_baselines_is_in_the_commands(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_models=TWO.replace("assert_matches_baseline", "assert_no_exploding"))
    given = ("--gradhealth-baseline", "--gradhealth-baseline-dir=my kept")
    run(pytester, *given, "--gradhealth-update").assert_outcomes(passed=2)
    file = "my kept/test_models.json"
    assert sorted(kept(file)) == ["test_deep", "test_net"]
    # Without them, nothing is compared, which does not make it stale.
    run(pytester, "--gradhealth-prune", given[1]).assert_outcomes(passed=2)
    assert sorted(kept(file)) == ["test_deep", "test_net"]
    damage(pytester)
    result = run(pytester, *given)
    result.assert_outcomes(failed=2)
    asked = "--gradhealth-baseline --gradhealth-baseline-dir='my kept'"
    result.stdout.fnmatch_lines(
        [f"accept: pytest test_models.py::test_net {asked} --gradhealth-update"]
    )
    pytester.makepyfile(
        nets=NETS, test_models=ONE.replace("assert_matches_baseline", "assert_no_exploding")
    )
    result = run(pytester, *given)
    result.stdout.fnmatch_lines(
        [f"stale in {file}: test_deep; pytest --gradhealth-prune {asked} removes it"]
    )


def test_tests_outside_the_root_have_baselines_beside_them(pytester: pytest.Pytester) -> None:
    for folder in ("project", "other"):
        for name, text in (("nets", NETS), ("test_models", TWO)):
            path = pytester.mkdir(folder) if not Path(folder).is_dir() else Path(folder).resolve()
            (path / f"{name}.py").write_text(text)
    root = Path("project").resolve()
    (root / "pytest.ini").write_text("[pytest]\n")
    run(pytester, "project", "--gradhealth-update").assert_outcomes(passed=2)
    (Path("other") / "test_models.py").write_text(ONE)
    result = pytester.runpytest_subprocess(
        "-c", "project/pytest.ini", "--rootdir=project", "other", "--gradhealth-update",
        "--gradhealth-prune",
    )  # fmt: skip
    result.assert_outcomes(passed=1)
    assert sorted(kept(f"project/{FILE}")) == ["test_deep", "test_net"]
    assert sorted(kept(f"other/{FILE}")) == ["test_net"]


@pytest.mark.parametrize("name", ["decoder (deep)", "layer #2", "plain"])
def test_any_name_of_a_check_belongs_to_its_test(pytester: pytest.Pytester, name: str) -> None:
    named = ONE.replace("**BATCH", f"**BATCH, name={name!r}")
    pytester.makepyfile(test_models=named)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    skipped = named.replace("def test_net", "import pytest\n@pytest.mark.skip\ndef test_net")
    pytester.makepyfile(test_models=skipped)
    run(pytester, "--gradhealth-prune").assert_outcomes(skipped=1)
    assert list(kept()) == [f"test_net ({name})"]


def test_a_file_that_cannot_be_written_is_said_and_the_others_are_written(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_models=ONE, test_others=ONE)
    make = tempfile.mkstemp

    def refuse(*, prefix: str, dir: Path, suffix: str) -> tuple[int, str]:  # noqa: A002
        if "models" in prefix:
            raise PermissionError(13, "Permission denied")
        return make(prefix=prefix, dir=dir, suffix=suffix)

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    result = run(pytester, "--gradhealth-update")
    result.assert_outcomes(passed=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            f"{FILE} cannot be written ([[]Errno 13] Permission denied)",
            "wrote __gradhealth__/test_others.json: new: test_net",
        ]
    )


def test_a_regression_that_is_not_to_fail_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    damage(pytester)
    result = run(pytester, "--gradhealth-fail-on=missing")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["worse: test_net: x* of the gradient reaches 0 (Linear); *"])


def test_a_test_that_was_to_fail_and_passes_is_not_without_a_baseline(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_models=ONE.replace("def test_net", "import pytest\n@pytest.mark.xfail\ndef test_net")
    )
    result = run(pytester)
    result.assert_outcomes(xpassed=1)
    assert "without a baseline" not in result.stdout.str()


SUBTESTS = """
import pytest
from nets import BATCH, net

def test_net(gradhealth, subtests):
    with subtests.test("skipped"):
        pytest.skip("not here")
    with subtests.test("checked"):
        gradhealth.assert_matches_baseline(net(), **BATCH)
"""


def test_a_subtest_that_is_skipped_does_not_keep_a_baseline_from_being_written(
    pytester: pytest.Pytester,
) -> None:
    if not hasattr(pytest, "Subtests"):
        pytest.skip("subtests came with pytest 9")
    pytester.makepyfile(test_models=SUBTESTS)
    run(pytester, "--gradhealth-update")
    assert list(kept()) == ["test_net"]


def test_tests_that_a_plugin_takes_without_a_word_are_not_stale(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_models=TWO)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=2)
    pytester.makeconftest("def pytest_collection_modifyitems(items): del items[0]")
    result = run(pytester, "--gradhealth-prune", *workers)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["nothing pruned: tests were left out, so that nobody can tell what is stale"]
    )
    assert sorted(kept()) == ["test_deep", "test_net"]


def test_skipped_tests_and_other_modules_are_not_stale(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=TWO, test_other=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=3)
    pytester.makepyfile(
        test_models=TWO.replace("def test_deep", "import pytest\n@pytest.mark.skip\ndef test_deep")
    )
    result = run(pytester, "--gradhealth-prune", "test_models.py")
    result.assert_outcomes(passed=1, skipped=1)
    assert sorted(kept()) == ["test_deep", "test_net"]
    assert list(kept("__gradhealth__/test_other.json")) == ["test_net"]


def test_a_test_that_no_longer_checks_and_a_module_that_is_gone_are_stale(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_models=TWO, test_gone=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=3)
    Path("test_gone.py").unlink()
    pytester.makepyfile(test_models=ONE + "def test_deep(): pass\n")
    result = run(pytester)
    result.stdout.fnmatch_lines(
        [
            "stale in __gradhealth__/test_gone.json: test_net; *",
            f"stale in {FILE}: test_deep; *",
        ]
    )
    run(pytester, "--gradhealth-prune").assert_outcomes(passed=2)
    assert [p.name for p in Path("__gradhealth__").iterdir()] == ["test_models.json"]
    assert list(kept()) == ["test_net"]


def test_a_change_for_the_better_is_told_and_passes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    damage(pytester)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    pytester.makepyfile(nets=NETS)
    result = run(pytester)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["better: test_net: x* of the gradient reaches 0 (Linear); it was x* (* decades better)"]
    )


def test_limits_can_be_set_anywhere(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    smaller = "    nn.init.normal_(parts[2].weight, std=0.05)\n    return nn.Sequential"
    pytester.makepyfile(nets=NETS.replace("    return nn.Sequential", smaller))
    run(pytester, "--gradhealth-max-path-change=9").assert_outcomes(passed=1)
    result = run(pytester, "--gradhealth-max-path-change=9", "--gradhealth-max-step-change=0.1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*limit 0.1, --gradhealth-max-step-change) [[]regression]*"])
    pytester.makepyfile(test_models=ONE.replace("**BATCH", "**BATCH, max_path_change=9"))
    run(pytester).assert_outcomes(passed=1)


def test_reruns_are_no_second_check(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runtestprotocol(item, nextitem=nextitem, log=False)
    item._initrequest()
    for report in runtestprotocol(item, nextitem=nextitem, log=False):
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
    )
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    assert list(kept()) == ["test_net"]


def test_a_file_that_is_none_fails_the_tests_and_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    Path("__gradhealth__").mkdir()
    Path(FILE).write_text("<<<<<<< HEAD\n")
    for options in ((), ("--gradhealth-update",), ("--gradhealth-prune",)):
        result = run(pytester, *options)
        assert result.ret == 1
        result.stdout.fnmatch_lines([f"E *ProbeError: {FILE} is no baseline (JSONDecodeError*"])
        assert "INTERNALERROR" not in result.stdout.str()
        assert Path(FILE).read_text() == "<<<<<<< HEAD\n"


def test_warnings_can_fail_a_run(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(
        test_models="""
from nets import BATCH, net

def test_net(gradhealth):
    assert gradhealth.probe(net(), **BATCH, warn_min_ratio=0.9).verdict == "warning"
"""
    )
    run(pytester, *workers).assert_outcomes(passed=1)
    result = run(pytester, "--gradhealth-fail-on=warning", *workers)
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "gradients warn in: test_models.py::test_net",
            "the run fails by --gradhealth-fail-on",
        ]
    )


@pytest.mark.parametrize(
    ("options", "ini", "message"),
    [
        (
            ("--gradhealth-fail-on=slow",),
            "",
            "--gradhealth-fail-on: fail_on = 'slow' is not none, or some of regression, missing,"
            " stale, warning",
        ),
        (
            (),
            "gradhealth_fail_on = none stale",
            "gradhealth_fail_on in tox.ini: fail_on = 'none,stale' is not none, or some of"
            " regression, missing, stale, warning",
        ),
        (
            ("--gradhealth-baseline-dir=a/b",),
            "",
            "--gradhealth-baseline-dir: baseline_dir = 'a/b' is not the name of a folder, which is"
            " made beside each test module",
        ),
    ],
)
def test_bad_options_stop_the_run(
    pytester: pytest.Pytester, options: tuple[str, ...], ini: str, message: str
) -> None:
    pytester.makeini(f"[pytest]\n{ini}")
    result = run(pytester, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {message}" in result.stderr.str()


@pytest.mark.parametrize("source", ["ini", "option"])
def test_the_folder_has_the_name_one_wants(pytester: pytest.Pytester, source: str) -> None:
    pytester.makepyfile(test_models=ONE)
    options = ["--gradhealth-update"]
    if source == "ini":
        pytester.makeini("[pytest]\ngradhealth_baseline_dir = kept")
    else:
        options.append("--gradhealth-baseline-dir=kept")
    run(pytester, *options).assert_outcomes(passed=1)
    assert list(kept("kept/test_models.json")) == ["test_net"]


def test_outside_of_a_test_there_is_no_baseline() -> None:
    from pytest_gradhealth.context import entered

    with entered(None), pytest.raises(ProbeError) as caught:  # type: ignore[arg-type]
        assert_matches_baseline(nn.Linear(2, 2), torch.randn(4, 2))
    assert str(caught.value) == (
        "assert_matches_baseline needs a running pytest test, which its baseline is named after"
    )


def test_the_callers_words_come_first(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE.replace("**BATCH", "**BATCH, msg='the encoder'"))
    result = run(pytester, "--gradhealth-fail-on=missing")
    result.stdout.fnmatch_lines(["E *MissingBaselineError: the encoder", "E *no baseline for*"])


def test_what_fixtures_probe_belongs_to_no_test(pytester: pytest.Pytester) -> None:
    """It would be the first test's that uses them, another one with every selection."""
    pytester.makepyfile(
        test_models="""
import pytest
from nets import BATCH, net
from pytest_gradhealth import assert_no_vanishing

@pytest.fixture(scope="module")
def checked():
    return assert_no_vanishing(net(), **BATCH)

def test_one(checked): pass

def test_two(checked, gradhealth):
    gradhealth.probe(net(layers=6), **BATCH)
"""
    )
    run(pytester, "--gradhealth-baseline", "--gradhealth-update").assert_outcomes(passed=2)
    assert list(kept()) == ["test_two"]
    fail = "--gradhealth-fail-on=missing,regression,stale"
    for selected in ("test_one", "test_two", "test"):
        result = run(pytester, "--gradhealth-baseline", fail, "-k", selected)
        assert result.ret == 0, selected
    run(pytester, "--gradhealth-json=old.json").assert_outcomes(passed=2)
    damage(pytester)
    result = run(pytester, "--gradhealth-compare=old.json")
    result.assert_outcomes(passed=1, failed=1)
