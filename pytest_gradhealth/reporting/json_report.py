"""The JSON report: everything that was measured and found, for other programs and other runs."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_gradhealth import files
from pytest_gradhealth.config.arguments import require
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.reporting.run import Run
from pytest_gradhealth.results.serialization import LIVE, from_plain, to_plain

#: The version of the format that is written, and the newest that is read.
VERSION = 1
#: Bytes of a report that is read: thousands of large models.
MOST = 2**30
_KINDS = {str: "string", int: "integer", bool: "boolean"}
#: NaN and infinities, which JSON has no numbers for.
_NUMBER: dict[str, Any] = {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}


def write_json(run: Run) -> str:
    """Return a run as JSON text, in ASCII; `schema()` describes it."""
    return json.dumps(to_plain(run), indent=1) + "\n"


def read_json(text: str) -> Run:
    """Read back what `write_json` wrote; raises ProbeError that says what else the text is."""
    try:
        data = json.loads(text)
        version = data["version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"version is {version!r}")
        if version <= VERSION:
            return from_plain(Run, data, checked=True)
    except Exception as error:
        raise ProbeError(
            f"this is no JSON report of pytest-gradhealth ({told(error)}); write"
            " one with --gradhealth-json=PATH"
        ) from error
    raise ProbeError(
        f"the report was written by a newer version (format {version}, this one reads up to"
        f" {VERSION}); update pytest-gradhealth"
    )


def read_report(path: str | os.PathLike[str]) -> Run:
    """Read a report that `--gradhealth-json` wrote; raises ProbeError for a file that is none."""
    require(
        "path",
        path,
        lambda given: isinstance(given, (str, os.PathLike)),
        "the path of a file that --gradhealth-json=PATH wrote",
    )
    try:
        return read_json(files.read(Path(path), MOST).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ProbeError(f"{os.fspath(path)} cannot be read ({error})") from error
    except ProbeError as error:
        raise ProbeError(f"{os.fspath(path)}: {error}") from error.__cause__


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the report, read off its dataclasses."""
    definitions: dict[str, Any] = {}
    root = _schema_of(Run, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pytest-gradhealth report",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        inner = _schema_of(arguments[0], definitions)
        return {**inner, "minItems" if "items" in inner else "minimum": arguments[1].least}
    if dataclasses.is_dataclass(kind):
        return _reference(typing.cast("type", kind), definitions)
    if origin is typing.Literal:
        return {"enum": [*arguments]}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of(argument, definitions) for argument in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0], definitions)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], definitions)}
    if kind is float:
        return _NUMBER
    return {"type": "null" if kind is type(None) else _KINDS[kind]}


def _reference(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}  # in case it holds one of its own kind
        hints = typing.get_type_hints(kind, include_extras=True)
        kept = [f for f in dataclasses.fields(kind) if not f.metadata.get(LIVE)]
        definitions[name] = {
            "description": (kind.__doc__ or "").partition("\n")[0],
            "type": "object",
            "properties": {f.name: _schema_of(hints[f.name], definitions) for f in kept},
            "required": [f.name for f in kept],
        }
    return {"$ref": f"#/$defs/{name}"}
