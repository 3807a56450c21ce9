"""Baselines as files: one JSON per test module, made to be read in a review.

What is kept of tests that did not run stays as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gradhealth import files
from pytest_gradhealth.baseline.entry import Entry
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.results.serialization import from_plain, to_plain

#: The version of the format that is written, and the newest that is read: the first had judged
#: paths alone, and no parameters; the second did not know which layers use which, the
#: third had no numbers.
VERSION = 4
#: Bytes of a file: a million layers, which take seconds to read.
MOST = 64 * 2**20


@dataclass(frozen=True)
class _File:
    """What is in a file."""

    version: int
    entries: Mapping[str, Entry]


def file_for(module: Path, folder: str) -> Path:
    """Return where the baselines of a test module are: in a folder beside it."""
    return module.parent / folder / f"{module.stem}.json"


def read(path: Path, shown: str) -> dict[str, Entry]:
    """Return the entries of a file by key, none if it does not exist.

    Raises ProbeError, calling the file `shown`, for one that cannot be read.
    """
    try:
        text = files.read(path, MOST).decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeError(f"{shown} cannot be read ({error})") from error
    try:
        data = json.loads(text, object_pairs_hook=without_repeats)
        version = data["version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"version is {version!r}")
        if version <= VERSION:
            return dict(from_plain(_File, data, checked=True).entries)
    except Exception as error:
        raise ProbeError(
            f"{shown} is no baseline ({told(error)}); restore it from version"
            " control, or delete it and run pytest with --gradhealth-update"
        ) from error
    raise ProbeError(
        f"{shown} was written by a newer version (format {version}, this one reads up to"
        f" {VERSION}); update pytest-gradhealth"
    )


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with every key once; a merge that has kept both sides has some twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice!r} is in it twice")
    return found


def update(
    path: Path, shown: str, fresh: Mapping[str, Entry] | None = None, gone: Collection[str] = ()
) -> dict[str, Entry]:
    """Put `fresh` entries into a file and take out those that are `gone`; return what was there.

    What other processes have changed meanwhile stays. Where no entry is left, the file and its
    empty folder are removed. Raises ProbeError, calling the file `shown`, where it cannot be read
    or written, and leaves it as it is.
    """
    before: dict[str, Entry] = {}

    def text() -> bytes | None:
        before.update(read(path, shown))
        kept = {key: entry for key, entry in before.items() if key not in gone}
        return _text(kept | dict(fresh or {}))

    try:
        files.rewrite(path, text)
    except OSError as error:
        raise ProbeError(f"{shown} cannot be written ({error})") from error
    return before


def _text(entries: Mapping[str, Entry]) -> bytes | None:
    if not entries:
        return None
    kept = _File(VERSION, {key: entries[key] for key in sorted(entries)})
    text = (text_of(to_plain(kept)) + "\n").encode()
    if len(text) > MOST:
        raise OSError(f"it would have more than {MOST // 2**20} MiB, which is not read back")
    return text


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
    """Whether it fits on a line: there are plain values in it, and lists of such."""
    parts = [part for item in value.values() for part in (item if type(item) is list else [item])]
    return not any(isinstance(part, (dict, list)) for part in parts)
