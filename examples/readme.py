"""Runs the examples and writes what they print into the README: python -m examples.readme"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_gradhealth.config.options import OPTIONS, plain

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


#: A project with a baseline, and the line that somebody takes something out of.
PROJECT = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from examples.mnist.digits import BATCH, load_digits
from examples.mnist.models import DeepClassifier

images, labels = (part[:BATCH] for part in load_digits())


def classifier():
    return DeepClassifier(nn.ReLU, kaiming=True)


"""


#: Enough for all remedies, also where the machine has other things to do.
TIME = ("--gradhealth-remedy-budget=90",)


def pytest_output(*arguments: str, cwd: Path = ROOT) -> str:
    """Return what pytest prints on a terminal of 100 columns, without colours."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "COLUMNS": "100", "PY_COLORS": "0", "PYTHONPATH": path}
    for name in ("CI", "GITHUB_ACTIONS", "BUILD_NUMBER", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    run = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    return run.stdout


def report() -> str:
    """The terminal's report on the first example, from its header on."""
    first = "examples/mnist/test_classifier.py"
    lines = pytest_output(first, "--gradhealth-report", *TIME).splitlines()
    start = next(i for i, line in enumerate(lines) if "gradient health" in line)
    return "\n".join(lines[start:])


def failure() -> str:
    """The message of the example that is expected to fail."""
    test = "examples/mnist/test_classifier.py::test_deep_sigmoid"
    return _message(pytest_output(test, "--runxfail", *TIME))


def regression() -> str:
    """The message of the README's own test of a baseline, once the initialisation is gone."""
    code = re.search(
        r"def test_classifier\(gradhealth\):\n    torch\.manual_seed.*?\n(?=```)",
        README.read_text(),
        re.DOTALL,
    )
    assert code is not None, "the README has no test of a baseline"
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "pytest.ini").write_text("[pytest]\n")
        module = project / "test_models.py"
        module.write_text(PROJECT + code[0])
        pytest_output("--gradhealth-update", cwd=project)
        module.write_text((PROJECT + code[0]).replace(", kaiming=True", ""))
        return _message(pytest_output(cwd=project))


def settings() -> str:
    """The table of settings, from the one of the options."""
    rows = ["| call and marker | command line | ini | default |", "| --- | --- | --- | --- |"]
    for option in OPTIONS:
        value = option.example or plain(option.default)
        called = {"string": f'"{value}"', "args": f'["{value}"]'}.get(option.ini, value)
        typed = option.flag if option.is_switch else f"{option.flag}={value}"
        rows.append(
            f"| `{option.name}={called}` | `{typed}` | `{option.key}` | {option.default_in_words} |"
        )
    return "\n".join(rows)


def _message(output: str) -> str:
    lines = [line for line in output.splitlines() if line[:2] == "E "]
    return "\n".join(line[1:].removeprefix("       ").rstrip() for line in lines)


def with_blocks(text: str, **blocks: str) -> str:
    """Put each block between its markers: a table as it is, outputs as code."""
    for name, block in blocks.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        fenced = f"{block}\n" if block.startswith("|") else f"```text\n{block}\n```\n"
        text = re.sub(pattern, lambda m, new=fenced: m[1] + new + m[2], text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def block(text: str, name: str) -> str:
    """Return what stands between the markers of a block."""
    found = re.search(rf"<!-- {name} -->\n```text\n(.*?)\n```", text, flags=re.DOTALL)
    assert found is not None, f"the README has no block {name}"
    return found[1]


if __name__ == "__main__":
    blocks = {
        "report": report(),
        "failure": failure(),
        "regression": regression(),
        "settings": settings(),
    }
    README.write_text(with_blocks(README.read_text(), **blocks))
