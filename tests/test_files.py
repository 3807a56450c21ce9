"""Files are written whole or not at all, with nothing beside them, whoever else writes them."""

from __future__ import annotations

import ast
import errno
import fnmatch
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

import pytest_gradhealth
from pytest_gradhealth import files
from pytest_gradhealth.files import read, rewrite

PAGE = Path(__file__).parents[1] / "docs" / "baselines.md"
PACKAGE = Path(pytest_gradhealth.__file__).parent
posix = pytest.mark.skipif(os.name != "posix", reason="pipes, modes and links of POSIX")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refusing(code: int) -> Callable[..., Any]:
    def refuse(*arguments: object, **_: object) -> None:
        raise OSError(code, os.strerror(code), *map(str, arguments[:1]))

    return refuse


def close(folder: pytest.MonkeyPatch, code: int) -> None:
    """Let nothing be made that has a name of the package's own."""
    make, begin = os.open, Path.open

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, *arguments: Any, **options: Any) -> Any:
            if files.MARK in os.fspath(path):
                raise OSError(code, os.strerror(code), str(path))
            return real(path, *arguments, **options)

        return opened

    folder.setattr(os, "open", guarded(make))
    folder.setattr(Path, "open", guarded(begin))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# Whole or not at all


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        (os, "fsync", full),
        (os, "fsync", interrupt),
        (shutil, "copymode", full),
        (Path, "replace", full),
        (Path, "replace", interrupt),
    ],
)
def test_what_fails_on_the_way_leaves_the_old_file_alone(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    fault: Callable[..., None],
) -> None:
    monkeypatch.setattr(owner, name, fault)
    with pytest.raises((OSError, KeyboardInterrupt)):
        rewrite(file, lambda: b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert names(file.parent) == ["x.json"]


def test_what_fails_before_there_is_a_text_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        rewrite(tmp_path / "a" / "b" / "x.json", lambda: bytes(1 // 0))
    assert names(tmp_path) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(ZeroDivisionError):
        rewrite(tmp_path / "a" / "b" / "x.json", lambda: bytes(1 // 0))
    assert names(tmp_path) == ["a"]


def test_it_is_on_the_disk_before_it_is_moved(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    flush, move = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        flush(handle)

    def replace(path: Path, target: Path) -> Path:
        done.append("moved")
        return move(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    rewrite(file, lambda: b"new")
    assert done[:2] == ["file", "moved"]
    assert done[2:] in ([], ["folder"])


@posix
def test_what_a_killed_run_leaves_is_ignored_by_git_and_gone_after_the_next(file: Path) -> None:
    code = (
        "import os\nfrom pathlib import Path\nfrom pytest_gradhealth.files import rewrite\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        f"rewrite(Path({str(file)!r}), lambda: b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == -9
    assert file.read_bytes() == b"old"
    left = [name for name in names(file.parent) if name != "x.json"]
    (advice,) = re.findall(r"^\s*(\.gradhealth\S+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert left == fnmatch.filter(left, advice) != []
    rewrite(file, lambda: b"newer")
    assert file.read_bytes() == b"newer"
    assert names(file.parent) == ["x.json"]


@pytest.mark.parametrize("name", ["n" * 250, "ü" * 120, "a b", ".hidden", "tab\tx", "[!x]*?"])
def test_any_name_that_a_file_may_have_will_do(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    try:
        file.touch()
    except OSError:
        pytest.skip("no name for a file here")
    rewrite(file, lambda: b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_without_a_text_the_file_goes_and_its_folder_if_that_is_empty(tmp_path: Path) -> None:
    for name in ("one", "other"):
        rewrite(tmp_path / "kept" / name, lambda: b"")
    rewrite(tmp_path / "kept" / "one", lambda: None)
    assert names(tmp_path) == ["kept", "kept/other"]
    rewrite(tmp_path / "kept" / "other", lambda: None)
    assert names(tmp_path) == []


# What else stands there


@posix
def test_modes_stay_and_new_files_have_those_of_the_user(file: Path, tmp_path: Path) -> None:
    file.chmod(0o640)
    rewrite(file, lambda: b"new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    before = os.umask(0o027)
    try:
        rewrite(tmp_path / "fresh", lambda: b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


def test_a_file_that_may_not_be_written_is_not_replaced(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError):
        rewrite(file, lambda: b"new")
    assert file.read_bytes() == b"old"


@posix
def test_a_link_is_followed_and_stays(file: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link"
    link.symlink_to(file)
    rewrite(link, lambda: b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    rewrite(link, lambda: None)
    assert names(tmp_path) == ["x.json"]


@posix
@pytest.mark.parametrize("linked", ["project/kept", "project/kept/x.json"])
def test_a_link_to_nowhere_makes_no_file_anywhere(tmp_path: Path, linked: str) -> None:
    link = tmp_path / linked
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    before = names(tmp_path)
    with pytest.raises(OSError, match=r"^the link \S+ leads to \S+elsewhere, which does not exist"):
        rewrite(tmp_path / "project" / "kept" / "x.json", lambda: b"new")
    assert names(tmp_path) == before


@posix
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a file"):
        read(pipe, 10)
    with pytest.raises(OSError, match="No such device"):
        rewrite(pipe, lambda: b"new")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        rewrite(pipe, lambda: b"new")
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
    assert names(tmp_path) == ["pipe"]


@posix
def test_a_device_stays_one() -> None:
    rewrite(Path(os.devnull), lambda: b"new")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_folder_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "x.json"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        read(folder, 10)
    with pytest.raises(OSError, match=r".+"):
        rewrite(folder, lambda: b"new")
    assert names(tmp_path) == ["x.json"]


def test_a_size_has_an_end(file: Path) -> None:
    assert read(file, 3) == b"old"
    with file.open("wb") as opened:
        opened.truncate(5 * 2**20)
    with pytest.raises(OSError, match="it has 5 MiB, and may have 4"):
        read(file, 4 * 2**20)


# Where nothing can be made beside it, or moved into its place

REFUSED = [errno.EACCES, errno.EPERM, errno.EROFS]


@pytest.mark.parametrize("code", REFUSED)
@pytest.mark.parametrize("text", [b"new", b"", b"longer than it was"])
def test_a_file_in_a_closed_folder_is_written_as_it_lies(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: bytes
) -> None:
    node = file.stat().st_ino
    close(monkeypatch, code)
    rewrite(file, lambda: text)
    assert (file.read_bytes(), file.stat().st_ino) == (text, node)
    assert names(file.parent) == ["x.json"]


@pytest.mark.parametrize("code", [*REFUSED, errno.EBUSY, errno.EXDEV])
def test_a_file_that_nothing_is_moved_onto_is_written_as_it_lies(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(Path, "replace", refusing(code))
    rewrite(file, lambda: b"new")
    assert file.read_bytes() == b"new"
    assert names(file.parent) == ["x.json"]


def test_what_fails_in_place_leaves_the_old_text(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(monkeypatch, errno.EROFS)
    write, left = os.write, [2]

    def some(handle: int, text: bytes) -> int:
        left[0] -= 1
        if not left[0]:
            full()
        return write(handle, text[:1])

    monkeypatch.setattr(os, "write", some)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        rewrite(file, lambda: b"new and long")
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("code", [*REFUSED, errno.ENOSPC])
def test_the_error_names_the_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    close(monkeypatch, code)
    fresh = re.escape(str(tmp_path / "fresh"))
    with pytest.raises(OSError, match=rf"^\[Errno {code}\] .*'{fresh}'$"):
        rewrite(tmp_path / "fresh", lambda: b"new")
    assert names(tmp_path) == []


@posix
def test_a_lock_of_somebody_else_is_not_passed_by(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.with_name(".gradhealth-x.json.lock").touch()
    close(monkeypatch, errno.EACCES)
    with pytest.raises(PermissionError, match=r"/x\.json'$"):
        rewrite(file, lambda: b"new")
    assert file.read_bytes() == b"old"


@posix
@pytest.mark.parametrize("place", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_what_is_open_is_written_behind_what_it_has(file: Path, tmp_path: Path, place: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_TRUNC)
    try:
        path = Path(place.format(handle))
        if place == "link":
            path = tmp_path / place
            path.symlink_to(f"/dev/fd/{handle}")
        if not path.exists():
            pytest.skip("no such folder here")
        os.write(handle, b"before ")
        rewrite(path, lambda: b"new")
        os.write(handle, b" after")
    finally:
        os.close(handle)
    assert file.read_bytes() == b"before new after"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="processes are no files here")
def test_what_another_process_has_open_is_written_behind_what_it_has(file: Path) -> None:
    with file.open("ab") as opened, subprocess.Popen(["cat"], stdin=-1, stdout=opened) as other:
        rewrite(Path(f"/proc/{other.pid}/fd/1"), lambda: b" new")
        assert other.stdin is not None
        other.stdin.close()
    assert file.read_bytes() == b"old new"


@posix
def test_memory_that_is_a_file_is_written_like_one() -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no such folder here")
    file = Path(f"/dev/shm/gradhealth-{os.getpid()}.json")
    try:
        for text in (b"old", b"new"):
            rewrite(file, lambda text=text: text)  # type: ignore[misc]
        assert file.read_bytes() == b"new"
    finally:
        file.unlink(missing_ok=True)


# Whoever else writes it


def test_another_process_is_waited_for_and_not_for_ever(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    lock = file.with_name(".gradhealth-x.json.lock")
    with filelock.FileLock(lock), pytest.raises(OSError, match=r"held \S+/x\.json for"):
        rewrite(file, lambda: b"new")
    assert file.read_bytes() == b"old"
    rewrite(file, lambda: b"new")
    assert file.read_bytes() == b"new"


@posix
def test_where_nothing_can_be_locked_nothing_is_written(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["fcntl"], "flock", refusing(errno.ENOLCK))
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOLCK))):
        rewrite(file, lambda: b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert names(file.parent) == ["x.json"]


@posix
def test_a_file_system_without_locks_of_its_own_is_locked_by_files(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(sys.modules["fcntl"], "flock", missing)
    rewrite(file, lambda: b"new")
    assert file.read_bytes() == b"new"
    assert names(file.parent) == ["x.json"]


def test_a_folder_that_another_process_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, left = Path.mkdir, [2]

    def mkdir(path: Path, *arguments: bool, **options: bool) -> None:
        make(path, *arguments, **options)
        if path.name == "kept" and left[0]:
            left[0] -= 1
            path.rmdir()

    take = filelock.FileLock.acquire

    def acquire(lock: filelock.FileLock, **options: float) -> object:
        if not Path(lock.lock_file).parent.exists():  # as it may be between two steps
            raise FileNotFoundError
        return take(lock, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    rewrite(tmp_path / "kept" / "x", lambda: b"new")
    assert (tmp_path / "kept" / "x").read_bytes() == b"new"


# There is no other way to a file


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """The calls in a source by the last part of what is called."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2], node


def test_all_that_is_written_goes_through_one_function() -> None:
    writing = {"open", "fdopen", "write_text", "write_bytes", "mkdir", "makedirs", "mkstemp"}
    writing |= {"NamedTemporaryFile", "TemporaryFile", "mkdtemp", "copyfile", "symlink_to", "touch"}
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for name, _ in calls(path.read_text("utf-8"))
        if name in writing
    }
    assert found == {"files.py"}


def test_no_name_is_taken_for_a_pattern() -> None:
    matching = {"glob", "rglob", "iglob", "fnmatch", "fnmatchcase", "full_match"}
    patterns = [
        node.args[-1]
        for path in PACKAGE.rglob("*.py")
        if path.name != "ignored.py"  # of layers, by the caller's patterns
        for name, node in calls(path.read_text("utf-8"))
        if name in matching
    ]
    assert [ast.unparse(p) for p in patterns if not isinstance(p, ast.Constant)] == []
