"""Where reports are written, and what stops a run that could not write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gradhealth import read_report

PROBING = (
    "import torch\ndef test_one(gradhealth):\n"
    "    gradhealth.assert_healthy(torch.nn.Linear(4, 2), torch.randn(8, 4))\n"
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gradhealth-json=folder"], "--gradhealth-json=folder is a folder; give the name of *"),
        (["--gradhealth-json="], "--gradhealth-json= is a folder; give the name of a file in it"),
        (["--gradhealth-html=file/x.html"], "--gradhealth-html=file/x.html: *file is not a folder"),
        (
            ["--gradhealth-json=x", "--gradhealth-html=./x"],
            "--gradhealth-html=./x is what --gradhealth-json writes; name two files",
        ),
    ],
)
def test_a_path_that_no_report_can_be_at_stops_the_run(
    pytester: pytest.Pytester, options: list[str], message: str
) -> None:
    pytester.makepyfile(PROBING)
    Path("folder").mkdir()
    Path("file").touch()
    result = pytester.runpytest("-p", "no:cacheprovider", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_a_report_that_cannot_be_written_fails_the_run_and_keeps_no_other_from_it(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(PROBING + "    import pathlib\n    pathlib.Path('gone.json').mkdir()\n")
    result = pytester.runpytest(
        "-p", "no:cacheprovider", "--gradhealth-json=gone.json", "--gradhealth-html=x.html"
    )
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["gradient health as json: gone.json was not written (*", "gradient health as html: x.html"]
    )
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_run_that_never_began_leaves_the_last_report(pytester: pytest.Pytester) -> None:
    Path("kept.json").write_text("kept")
    pytester.runpytest("-p", "no:cacheprovider", "--gradhealth-json=kept.json", "nothing.py")
    assert Path("kept.json").read_text() == "kept"


def test_a_path_may_begin_at_home(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(pytester.mkdir("home")))
    monkeypatch.setenv("USERPROFILE", str(Path("home").resolve()))
    pytester.makepyfile(PROBING)
    pytester.runpytest("-p", "no:cacheprovider", "--gradhealth-json=~/x.json")
    assert Path("home/x.json").is_file()


def test_files_are_from_the_top_of_the_checkout(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path))
    sub = pytester.mkdir("sub")
    (sub / "pytest.ini").write_text("[pytest]\n")
    (sub / "test_one.py").write_text(PROBING)
    monkeypatch.chdir(sub)
    pytester.runpytest("-p", "no:cacheprovider", "--gradhealth-json=x.json", f"--rootdir={sub}")
    (probe,) = read_report(sub / "x.json").probes
    assert (probe.file, probe.test) == ("sub/test_one.py", "test_one.py::test_one")
