"""Runs the examples and writes what they print into the README: python -m examples.readme"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def pytest_output(*arguments: str) -> str:
    """Return what pytest prints on a terminal of 100 columns, without colours."""
    environment = {**os.environ, "COLUMNS": "100", "PY_COLORS": "0"}
    for name in ("CI", "BUILD_NUMBER", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return run.stdout


def report() -> str:
    """The terminal's report on the first example, from its header on."""
    first = "examples/test_mnist_classifier.py"
    lines = pytest_output(first, "--gradhealth-report").splitlines()
    start = next(i for i, line in enumerate(lines) if "gradient health" in line)
    return "\n".join(lines[start:])


def failure() -> str:
    """The message of the example that is expected to fail."""
    test = "examples/test_mnist_classifier.py::test_deep_sigmoid"
    lines = pytest_output(test, "--runxfail").splitlines()
    message = [line[1:].removeprefix("       ").rstrip() for line in lines if line[:2] == "E "]
    return "\n".join(message)


def with_blocks(text: str, **blocks: str) -> str:
    """Put each block between its markers."""
    for name, block in blocks.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        fenced = f"```text\n{block}\n```\n"
        text = re.sub(pattern, lambda m, new=fenced: m[1] + new + m[2], text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def block(text: str, name: str) -> str:
    """Return what stands between the markers of a block."""
    found = re.search(rf"<!-- {name} -->\n```text\n(.*?)\n```", text, flags=re.DOTALL)
    assert found is not None, f"the README has no block {name}"
    return found[1]


if __name__ == "__main__":
    README.write_text(with_blocks(README.read_text(), report=report(), failure=failure()))
