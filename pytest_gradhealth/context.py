"""What surrounds an assertion: a pytest test, or nothing.

The plugin enters a context for each test; assertions ask for it. Outside pytest there is none, and
they work with the defaults.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_gradhealth.session import TestContext

_entered: list[TestContext] = []


def current() -> TestContext | None:
    """The context of the running test, None outside pytest."""
    return _entered[-1] if _entered else None


@contextmanager
def entered(context: TestContext) -> Generator[None, None, None]:
    """Make `context` the current one; a pytest run inside a test has its own in between."""
    _entered.append(context)
    try:
        yield
    finally:
        _entered.remove(context)
