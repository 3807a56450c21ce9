"""Runs of torchrun, made once for all tests that look at them."""

from __future__ import annotations

import pytest

from tests.helpers.ranks import DDP, SHARDED, Run, torchrun


@pytest.fixture(scope="session")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = ["--gradhealth-report", "--gradhealth-update"]
    return torchrun(tmp_path_factory.mktemp("ddp"), DDP, *options)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return torchrun(tmp_path_factory.mktemp("sharded"), SHARDED, "--gradhealth-report")
