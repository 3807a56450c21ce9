"""Paths of the command line, and the files that a run is to write, looked at before it begins."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_gradhealth.plugin.output import usage_error


def path_of(config: pytest.Config, given: str) -> Path:
    """A path of the command line, from where pytest was started; "~" is the user's home."""
    return config.invocation_params.dir / Path(given).expanduser()


def reports_to_write(config: pytest.Config, kinds: Iterable[str]) -> dict[str, Path]:
    """The reports to write by kind; raises UsageError for paths that no file can be at."""
    found: dict[str, Path] = {}
    for kind in kinds:
        given = config.getoption(f"gradhealth_{kind}")
        if given is None:
            continue
        option = f"--gradhealth-{kind}={given}"
        path = _place_of_a_file(config, option, given)
        twin = next((other for other, theirs in found.items() if theirs == path), None)
        if twin is not None:
            raise usage_error(f"{option} is what --gradhealth-{twin} writes; name two files")
        found[kind] = path
    return found


def test_to_write(config: pytest.Config) -> Path | None:
    """The test file to write; raises UsageError where there is something already."""
    given = config.getoption("gradhealth_write_test")
    if given is None:
        return None
    option = f"--gradhealth-write-test={given}"
    path = _place_of_a_file(config, option, given)
    if path.exists() or path.suffix != ".py":
        why = "is there already, and stays" if path.exists() else "is no file of Python"
        raise usage_error(f"{option}: {given} {why}; give the name of a new file")
    return path


def _place_of_a_file(config: pytest.Config, option: str, given: str) -> Path:
    try:
        path = path_of(config, given)
        is_folder = not given.strip() or path.is_dir()
        folder = next((p for p in path.parents if p.exists()), path.parent)
    except (OSError, ValueError, RuntimeError) as error:
        raise usage_error(f"{option}: no file can have this name ({error})") from error
    if is_folder:
        raise usage_error(f"{option} is a folder; give the name of a file in it")
    if not folder.is_dir():
        raise usage_error(f"{option}: {folder} is not a folder")
    return path
