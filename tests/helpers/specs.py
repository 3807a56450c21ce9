"""Models by name: what they are checked with, in a folder of a test's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_gradhealth.specs.plan import Given, Plan, Planner
from pytest_gradhealth.specs.spec import parse


def planned(text: str, *inputs: str, loss: str = "", folder: Path | None = None) -> Plan:
    """What a spec is checked with, where files and modules are looked for in one folder."""
    place = folder or Path.cwd()
    return Planner(parse(text), Given(inputs, loss), [place], place).plan()


@contextmanager
def modules_put_back() -> Iterator[None]:
    """Forget the modules that are imported meanwhile, and where they were looked for."""
    modules, path = set(sys.modules), [*sys.path]
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if not name.startswith(("torch", "timm", "transformers", "lightning")):
                del sys.modules[name]
