"""Where reports are written, and what stops a run that could not write them."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_gradhealth import Run, read_report
from pytest_gradhealth.reporting.files import render_file, rendered

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


KINDS = ("json", "html", "markdown", "sarif")


def test_a_full_disk_leaves_the_reports_that_were_there(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pytester.makepyfile(PROBING)
    folder = pytester.mkdir("reports")
    for kind in KINDS:
        (folder / kind).write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    result = pytester.runpytest(
        "-p", "no:cacheprovider", *(f"--gradhealth-{kind}=reports/{kind}" for kind in KINDS)
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [f"gradient health as {kind}: reports/{kind} was not written (*space*)" for kind in KINDS]
    )
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(KINDS, "old")


def test_runs_that_write_one_report_at_once_leave_a_whole_one(tmp_path: Path) -> None:
    runs = [Run((), {"run": str(index)}, ()) for index in range(4)]
    (tmp_path / "markdown").write_bytes(b"before \xff\r\n")
    with ThreadPoolExecutor(4) as pool:
        for kind in KINDS:
            list(pool.map(lambda run, kind=kind: render_file(kind, run, tmp_path / kind), runs))
    for kind in KINDS[:2] + KINDS[3:]:
        assert (tmp_path / kind).read_text("utf-8") in {rendered(kind, run) for run in runs}
    text = (tmp_path / "markdown").read_bytes()
    assert text.startswith(b"before \xff\r\n")
    assert len(text) == 10 + sum(len(rendered("markdown", run).encode()) for run in runs)
    assert {path.name for path in tmp_path.iterdir()} == {*KINDS}


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_to_what_is_open_has_what_came_before_once(tmp_path: Path, kind: str) -> None:
    handle = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    try:
        if not Path(f"/dev/fd/{handle}").exists():
            pytest.skip("no such folder here")
        os.write(handle, b"log\n")
        render_file(kind, Run((), {}, ()), Path(f"/dev/fd/{handle}"))
        os.write(handle, b"end")
    finally:
        os.close(handle)
    text = (tmp_path / "log").read_text("utf-8")
    assert text == "log\n" + rendered(kind, Run((), {}, ())) + "end"
