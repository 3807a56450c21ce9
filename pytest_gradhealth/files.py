"""Files: read without waiting for anybody, and written whole or not at all.

Whatever the package writes goes through `rewrite`. What it keeps beside a file while it does so has
a name that begins with MARK: the lock, which is removed afterwards, and the text on its way. After
a run that was killed in the middle both lie there until the next one writes the same file.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

#: How the names begin of what lies beside a file that is being written.
MARK = ".gradhealth-"
#: Seconds that a process waits for others that write the same file.
PATIENCE = 60.0
#: What refuses a file beside another, or a move onto it, where the file itself may be written: of
#: a folder that may not be, or of a file that is mounted by itself.
_IN_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV}
#: How often a folder is made anew that others remove as often, because it was empty.
_ATTEMPTS = 100


def read(path: Path, most: int) -> bytes:
    """Return what is in a file of at most so many bytes; raises OSError."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is a pipe or a device, not a file")
    if status.st_size > most:
        raise OSError(f"it has {status.st_size / 2**20:.0f} MiB, and may have {most // 2**20}")
    return path.read_bytes()


def rewrite(path: Path, change: Callable[[], bytes | None]) -> None:
    """Write what `change` returns into a file, or remove the file where that is None.

    No other process writes it meanwhile, so that `change` may read it first. The text is written
    beside the file, flushed to the disk and moved into its place: raises OSError, or what `change`
    raises, with the file and its folder as they were. A link is followed to where it leads, if that
    is anywhere; into a stream the text is poured. Where nothing can be made beside the file, or
    moved into its place, the text goes into the file as it lies.
    """
    if is_stream(path):
        _pour(path, change() or b"")
        return
    with _locked(_target(path)) as target:
        text = change()
        if text is None:
            path.unlink(missing_ok=True)
        else:
            _write(target, text)
    if text is None:
        _remove_if_empty(path.parent)


def is_stream(path: Path) -> bool:
    """Whether a path leads to a pipe, a device, or to what some process has open."""
    odd = path.exists() and not (path.is_file() or path.is_dir())
    return odd or _handle(path) is not None


def _handle(path: Path) -> Path | None:
    """The entry of /dev/fd or /proc that a path leads to, whatever file may be open there."""
    for _ in range(40):
        folder = Path(os.path.realpath(path.parent))
        if folder == Path("/dev/fd") or Path("/proc") in folder.parents:
            return folder / path.name
        if not path.is_symlink():
            break
        path = folder / path.readlink()
    return None


def _target(path: Path) -> Path:
    """Where the file is, links followed; one that leads nowhere would make a file anywhere."""
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise OSError(f"the link {place} leads to {place.readlink()}, which does not exist")
    return path.resolve()


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Keep other processes from writing a file; folders that nothing came into are not kept."""
    lock = _beside(path, "lock")
    missing = [place for place in path.parents if not place.exists()]
    with ExitStack() as stack:
        for place in reversed(missing):
            stack.callback(_remove_if_empty, place)
        try:
            stack.enter_context(_lock(lock, path))
        except OSError as error:
            # A lock of somebody else's is no reason to go on without one.
            if not _may_lie(error, path) or lock.exists():
                raise _about(path, error) from error
        # While it is held: whoever waits for it takes no lock on a file without a name.
        stack.callback(_remove, lock)
        yield path


def _may_lie(error: OSError, path: Path) -> bool:
    """Whether what was refused beside a file can be done to the file itself."""
    return error.errno in _IN_PLACE and path.is_file() and os.access(path, os.W_OK)


def _about(path: Path, error: OSError) -> OSError:
    """An error with a file in the place of one that is only the package's affair."""
    code = error.errno
    return error if code is None else OSError(code, os.strerror(code), str(path))


def _lock(path: Path, target: Path) -> AbstractContextManager[object]:
    from filelock import FileLock, Timeout

    try:
        for _ in range(_ATTEMPTS):
            path.parent.mkdir(parents=True, exist_ok=True)
            # filelock warns of file systems that it locks in another way.
            with suppress(FileNotFoundError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return FileLock(path, timeout=PATIENCE).acquire(poll_interval=0.01)
    except Timeout as error:
        raise OSError(f"another process has held {target} for {PATIENCE:.0f} seconds") from error
    except OSError as error:
        if error.errno == errno.ENOLCK:  # then nobody else has locked it either
            _remove(path)
        raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))


def _write(path: Path, text: bytes) -> None:
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    try:
        _replace(path, text)
    except OSError as error:
        if not _may_lie(error, path):
            raise _about(path, error) from error
        _overwrite(path, text)


def _replace(path: Path, text: bytes) -> None:
    fresh = _beside(path, "tmp")
    fresh.unlink(missing_ok=True)  # of a run that was killed
    try:
        with fresh.open("xb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, fresh)
        fresh.replace(path)
    except BaseException:
        _remove(fresh)
        raise
    with suppress(OSError):  # not every system opens folders
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _overwrite(path: Path, text: bytes) -> None:
    """Write into a file as it lies; what was in it is there again if that fails."""
    with path.open("r+b", buffering=0) as file:
        old = file.read()
        try:
            _put(file.fileno(), text)
        except BaseException:
            _put(file.fileno(), old)
            raise


def _put(handle: int, text: bytes) -> None:
    os.lseek(handle, 0, os.SEEK_SET)
    _write_all(handle, text)
    os.ftruncate(handle, len(text))  # last: until then the room of the old text is kept
    os.fsync(handle)


def _write_all(handle: int, text: bytes) -> None:
    left = memoryview(text)
    while left:
        left = left[os.write(handle, left) :]


def _pour(path: Path, text: bytes) -> None:
    """Write behind what is in a stream; a pipe that nobody reads from is an error."""
    opened = _handle(path)
    if opened is not None and _is_own(opened):
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        # Not opened anew: what this process writes afterwards has to come behind it.
        handle = os.dup(int(opened.name))
    else:
        mode = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(path, mode)
        os.set_blocking(handle, True)
    try:
        _write_all(handle, text)
    finally:
        os.close(handle)


def _is_own(opened: Path) -> bool:
    own = opened.parent == Path("/dev/fd") or str(os.getpid()) in opened.parts
    return own and opened.parent.name == "fd" and opened.name.isdigit()


def _beside(path: Path, kind: str) -> Path:
    """A file for one that is being written; the longest names share theirs."""
    return path.with_name(f"{MARK}{path.name[:40]}.{kind}")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
