"""Projects for the runs of pytest inside the tests of the plugin."""

from __future__ import annotations

import pytest

from tests.helpers.projects import NETS, NETWORKS


@pytest.fixture
def _networks(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks for the inner tests, which run as under no other pytest and try no remedies."""
    pytester.makepyfile(networks=NETWORKS)
    pytester.makeini("[pytest]\ngradhealth_remedy_budget = 0")
    pytester.syspathinsert()
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def _nets(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with a module of nets; not in CI, wherever this runs."""
    for name in ("CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(nets=NETS)


@pytest.fixture(params=[(), ("-n0",), ("-n1",)], ids=["plain", "n0", "n1"])
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param:
        pytest.importorskip("xdist")
    options: tuple[str, ...] = request.param
    return options
