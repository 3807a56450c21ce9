"""What a run writes, finds stale and prunes, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gradhealth import files
from tests.helpers.projects import FILE, NETS, ONE, TWO, damage, kept, run

pytestmark = pytest.mark.usefixtures("_nets")


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
    result = run(pytester, "-n1", "--gradhealth-update", "--gradhealth-prune")
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
        (("test_models.py", "test_red.py", "-n1"), "tests failed"),
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
    options = ("--gradhealth-update", "--gradhealth-prune")
    result = pytester.runpytest_inprocess(*options, no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
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
    options = ("--gradhealth-update", "--gradhealth-prune")
    result = run(pytester, "-c", "project/pytest.ini", "--rootdir=project", "other", *options)
    result.assert_outcomes(passed=1)
    assert sorted(kept(f"project/{FILE}")) == ["test_deep", "test_net"]
    assert sorted(kept(f"other/{FILE}")) == ["test_net"]


@pytest.mark.parametrize("option", ["--gradhealth-update", "--gradhealth-prune"])
def test_a_file_that_cannot_be_written_is_said_and_the_others_are_written(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    pytester.makepyfile(test_models=TWO, test_others=TWO)
    prunes = option == "--gradhealth-prune"
    if prunes:
        run(pytester, "--gradhealth-update").assert_outcomes(passed=4)
        pytester.makepyfile(test_models=ONE, test_others=ONE)
    write = files.rewrite

    def refuse(path: Path, change: Callable[[], bytes | None]) -> None:
        if "models" in path.name:
            raise PermissionError(13, "Permission denied")
        write(path, change)

    monkeypatch.setattr(files, "rewrite", refuse)
    result = run(pytester, option)
    assert result.ret == 1
    others = "__gradhealth__/test_others.json"
    done = f"pruned from {others}: test_deep" if prunes else f"wrote {others}: new: *"
    result.stdout.fnmatch_lines(
        [f"{FILE} cannot be written ([[]Errno 13] Permission denied)", done]
    )


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_a_link_to_nowhere_makes_no_file_outside_of_the_project(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    pytester.makepyfile(test_models=ONE)
    Path("__gradhealth__").symlink_to(tmp_path / "outside")
    result = run(pytester, "--gradhealth-update")
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [f"{FILE} cannot be written (the link */__gradhealth__ leads to *outside, which does not *"]
    )
    assert not (tmp_path / "outside").exists()
    assert Path("__gradhealth__").is_symlink()


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
@pytest.mark.parametrize("options", [(), ("--gradhealth-update",)])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_models=ONE)
    pytester.mkdir("__gradhealth__")
    os.mkfifo(FILE)
    result = run(pytester, *options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{FILE} cannot be read (it is a pipe or a device, not a file)"])
    assert Path(FILE).is_fifo()


def test_names_are_no_patterns(pytester: pytest.Pytester) -> None:
    for name in ("test_a[1].py", "test_[!x].py", "test_models.py", "test_[m]odels.py"):
        Path(name).write_text(ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=4)
    Path("test_[m]odels.py").unlink()
    result = run(pytester, "--gradhealth-prune", "test_models.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["pruned from __gradhealth__/test_[[]m]odels.json: test_net"])
    assert {path.name for path in Path("__gradhealth__").iterdir()} == {
        *("test_a[1].json", "test_[!x].json", "test_models.json")
    }


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
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_models=TWO)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=2)
    pytester.makeconftest("def pytest_collection_modifyitems(items): del items[0]")
    result = run(pytester, "--gradhealth-prune")
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


def test_warnings_can_fail_a_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_models="""
from nets import BATCH, net

def test_net(gradhealth):
    assert gradhealth.probe(net(), **BATCH, warn_min_ratio=0.9).verdict == "warning"
"""
    )
    assert run(pytester).ret == 0
    result = run(pytester, "--gradhealth-fail-on=warning")
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "gradients warn in: test_models.py::test_net",
            "the run fails by --gradhealth-fail-on",
        ]
    )


def test_what_is_not_judged_can_fail_a_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_models="""
import torch
from nets import BATCH

def test_net(gradhealth):
    gradhealth.assert_healthy(torch.nn.Linear(8, 4), **BATCH)
"""
    )
    assert run(pytester, "--gradhealth-fail-on=warning").ret == 0
    result = run(pytester, "--gradhealth-fail-on=not-judged")
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["nothing to judge in: test_models.py::test_net"])


@pytest.mark.parametrize(
    ("options", "ini", "message"),
    [
        (
            ("--gradhealth-fail-on=slow",),
            "",
            "--gradhealth-fail-on: fail_on = 'slow' is not none, or some of regression, layers,"
            " missing, stale, warning, not-judged",
        ),
        (
            (),
            "gradhealth_fail_on = none stale",
            "gradhealth_fail_on in tox.ini: fail_on = 'none,stale' is not none, or some of"
            " regression, layers, missing, stale, warning, not-judged",
        ),
        (
            ("--gradhealth-baseline-dir=a/b",),
            "",
            "--gradhealth-baseline-dir: baseline_dir = 'a/b' is not the name of a folder, which is"
            " made beside each test module",
        ),
        (
            ("--gradhealth-baseline-dir=..",),
            "",
            "--gradhealth-baseline-dir: baseline_dir = '..' is not the name of a folder, which is"
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


def test_what_others_make_of_a_report_counts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(nets=NETS)
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_logreport(report):
            if report.when == "call" and "forced" in report.nodeid:
                report.outcome, report.longrepr = "failed", "forced"
        """
    )
    pytester.makepyfile(
        test_nets="""
        from nets import BATCH, net

        def test_kept(gradhealth):
            gradhealth.assert_matches_baseline(net(), **BATCH)

        def test_forced(gradhealth):
            gradhealth.assert_matches_baseline(net(), **BATCH)
        """
    )
    pytester.runpytest("-p", "no:cacheprovider", "--gradhealth-update")
    (file,) = pytester.path.glob("__gradhealth__/*.json")
    assert "test_kept" in file.read_text()
    assert "test_forced" not in file.read_text()


def test_in_a_folder_that_is_no_utf_8_baselines_are_found_again(pytester: pytest.Pytester) -> None:
    folder = pytester.path / os.fsdecode(b"d\xff")
    try:
        folder.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("no name for a folder here")
    test = "import torch\ndef test_one(gradhealth):\n    model = torch.nn.Linear(2, 2)\n"
    test += "    gradhealth.assert_matches_baseline(model, torch.ones(2, 2))\n"
    (folder / "test_x.py").write_text(test)
    options = ["-p", "no:cacheprovider", "--gradhealth-fail-on=missing"]
    pytester.runpytest(*options, "--gradhealth-update").assert_outcomes(passed=1)
    assert [path.name for path in pytester.path.iterdir() if path.name[0] == "d"] == [folder.name]
    assert (folder / "__gradhealth__" / "test_x.json").is_file()
    pytester.runpytest(*options).assert_outcomes(passed=1)
