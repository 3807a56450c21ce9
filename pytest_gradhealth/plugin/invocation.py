"""When, of which commit and by which command a run was made."""

from __future__ import annotations

import os
import shlex
from datetime import datetime, timezone
from pathlib import Path

import pytest

from pytest_gradhealth.reporting.run import Invocation

#: What CI calls the commit that it tests.
_COMMITS = ("GITHUB_SHA", "CI_COMMIT_SHA")
#: Seconds that git may take to answer.
_PATIENCE = 5


def invocation(config: pytest.Config) -> Invocation:
    """Return what is known of a run that ends now; a test suite without git has no commit."""
    typed = map(os.fspath, config.invocation_params.args)
    return Invocation(
        datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
        next(filter(None, map(os.environ.get, _COMMITS)), None) or _commit(config.rootpath),
        shlex.join(["pytest", *typed]),
    )


def _commit(folder: Path) -> str:
    import subprocess

    command = ["git", "-C", os.fspath(folder), "rev-parse", "--short", "HEAD"]
    quiet = subprocess.DEVNULL
    try:
        told = subprocess.check_output(command, stdin=quiet, stderr=quiet, timeout=_PATIENCE)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return told.decode("ascii", "replace").strip()
