"""Baselines as files: one JSON per test module, made to be read in a review.

A file is written beside its final place and moved there, so that no interruption leaves half of
one. What is kept of tests that did not run stays as it is.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_gradhealth.baseline.entry import Entry
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.results.serialization import from_plain, to_plain

#: The version of the format that is written, and the newest that is read.
VERSION = 1


def file_for(module: Path, folder: str) -> Path:
    """Return where the baselines of a test module are: in a folder beside it."""
    return module.parent / folder / f"{module.stem}.json"


def read(path: Path, shown: str) -> dict[str, Entry]:
    """Return the entries of a file by key, none if it does not exist.

    Raises ProbeError, calling the file `shown`, for one that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeError(f"{shown} cannot be read ({error})") from error
    try:
        data = json.loads(text, object_pairs_hook=_without_repeats)
        version = data["version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"version is {version!r}")
        if version > VERSION:
            raise ProbeError(
                f"{shown} was written by a newer version (format {version}, this one reads up to"
                f" {VERSION}); update pytest-gradhealth"
            )
        entries = {key: from_plain(Entry, entry) for key, entry in data["entries"].items()}
        for key, entry in entries.items():
            _check(key, entry)
        return entries
    except ProbeError:
        raise
    except Exception as error:
        raise ProbeError(
            f"{shown} is no baseline ({type(error).__name__}: {error}); restore it from version"
            " control, or delete it and run pytest with --gradhealth-update"
        ) from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with every key once; a merge that has kept both sides has some twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key in found if sum(name == key for name, _ in pairs) > 1)
        raise ValueError(f"{twice!r} is in it twice")
    return found


def _check(key: str, entry: Entry) -> None:
    """Raise ValueError for what no measurement can have written."""
    points = [point for path in entry.paths for point in path.points]
    texts = [text for point in points for text in (point.layer, point.type)]
    if (
        entry.verdict not in ("healthy", "warning", "failure")
        or not all(path.points for path in entry.paths)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise ValueError(f"the entry {key!r} is incomplete")


def write(path: Path, shown: str, entries: Mapping[str, Entry]) -> None:
    """Write all entries of a file, sorted by key; without any, remove it and its empty folder.

    Raises ProbeError, calling the file `shown`, where that is not possible.
    """
    try:
        _write(path.resolve(), entries)
    except OSError as error:
        raise ProbeError(f"{shown} cannot be written ({error})") from error


def _write(path: Path, entries: Mapping[str, Entry]) -> None:
    if not entries:
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
        return
    data = {"version": VERSION, "entries": {key: to_plain(entries[key]) for key in sorted(entries)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    fresh = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text_of(data) + "\n")
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        fresh.chmod(mode)
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise


def text_of(value: Any, indent: str = "") -> str:
    """JSON with a line for each layer, so that a change of one is a change of one line.

    >>> print(text_of({"points": [{"layer": "0", "norm": -1.5}]}))
    {
     "points": [
      {"layer": "0", "norm": -1.5}
     ]
    }
    """
    inner = indent + " "
    if isinstance(value, dict) and not _is_flat(value):
        parts = [f"{inner}{json.dumps(key)}: {text_of(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        parts = [inner + text_of(item, inner) for item in value]
        return "[\n" + ",\n".join(parts) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=True)


def _is_flat(value: dict[str, Any]) -> bool:
    return not any(isinstance(item, (dict, list)) for item in value.values())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
