"""Runs of two ranks, made once for all tests that look at them, in whichever process."""

from __future__ import annotations

import os
import pickle

import pytest
from filelock import FileLock

from tests.helpers.ranks import DDP, SHARDED, Run, together


def shared(factory: pytest.TempPathFactory, name: str, source: str, *arguments: str) -> Run:
    """What the first process of this test run made; the others of xdist wait for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    kept = folder / "run.pickle"
    with FileLock(f"{folder}.lock"):
        if not kept.exists():
            folder.mkdir()
            kept.write_bytes(pickle.dumps(together(folder, source, *arguments)))
    made: Run = pickle.loads(kept.read_bytes())
    return made


@pytest.fixture(scope="session")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = ["--gradhealth-report", "--gradhealth-update"]
    return shared(tmp_path_factory, "ddp", DDP, *options)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return shared(tmp_path_factory, "sharded", SHARDED, "--gradhealth-report")
