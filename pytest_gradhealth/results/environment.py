"""What a measurement was made with, as text; nothing is imported for it."""

from __future__ import annotations

import platform
import sys
from functools import cache


@cache
def package_version() -> str:
    """The version of this package, "" if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pytest-gradhealth")
    except PackageNotFoundError:
        return ""


def environment() -> dict[str, str]:
    """Versions of torch, Python and this package, and the platform."""
    torch = sys.modules.get("torch")
    return {
        "torch": str(getattr(torch, "__version__", "")),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "pytest-gradhealth": package_version(),
    }
