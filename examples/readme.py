"""Writes into README and docs what comes from a command: python -m examples.readme

With `--tables`, only what takes no run of the examples.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_gradhealth.config.options import OPTIONS, plain
from pytest_gradhealth.rules import built_in_rules
from pytest_gradhealth.rules.page import address_of

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
COSTS = ROOT / "docs" / "costs.md"
SUMMARY = ROOT / "examples" / "study" / "results" / "summary.json"

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


#: Models that need no test, as the quickstart shows them: of two libraries, and of a file.
MODELS = ("timm:resnet18", "hf:gpt2", "examples/mnist/models.py:sigmoid_classifier")


def models() -> str:
    """What is said of models without a test, from the line that counts them on."""
    return "\n\n".join(map(_model, MODELS))


def _model(spec: str) -> str:
    command = [f"--gradhealth-model={spec}", *(["--tb=no"] if ".py" in spec else [])]
    lines = pytest_output(*command).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("collected"))
    return "\n".join([f"$ pytest {' '.join(command)}", *lines[start:]])


def failure() -> str:
    """The message of the example that is expected to fail."""
    test = "examples/mnist/test_classifier.py::test_deep_sigmoid"
    return _message(pytest_output(test, "--runxfail", *TIME))


def regression() -> str:
    """The message of the test on the page of baselines, once the initialisation is gone."""
    page = ROOT / "docs" / "baselines.md"
    code = re.search(
        r"def test_classifier\(gradhealth\):\n.*?\n(?=```)", page.read_text("utf-8"), re.DOTALL
    )
    assert code is not None, "the page has no test of a baseline"
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
    rows = ["| setting | what it does | default |", "| --- | --- | --- |"]
    for option in OPTIONS:
        value = option.example or plain(option.default)
        called = {"string": f'"{value}"', "args": f'["{value}"]'}.get(option.ini, value)
        typed = option.flag if option.is_switch else f"{option.flag}={value}"
        names = f"`{option.name}={called}`<br>`{typed}`<br>`{option.key}`"
        rows.append(f"| {names} | {option.help} | {option.default_in_words} |")
    return "\n".join(rows)


def rules() -> str:
    """The table of rules, each with the address of its page."""
    rows = [
        f"| [{rule.code}]({address_of(rule.code)}) | {rule.name} | {rule.summary} |"
        for rule in built_in_rules()
    ]
    return "\n".join(["| code | name | rule |", "| --- | --- | --- |", *rows])


def quiet() -> str:
    """How many healthy architectures are called sick, from the study."""
    found = json.loads(SUMMARY.read_text())
    return (
        f"**How quiet it is:** {found['healthy architectures']} healthy architectures under three"
        f" seeds each: {found['healthy failures']} fail, {found['healthy warnings']} get a warning,"
        f" {found['healthy not judged']} are not judged."
    )


def cost() -> str:
    """What a probe costs, from the table of the benchmarks."""
    rows = [re.split(r"  +", row) for row in block("benchmarks").splitlines()]
    names, costs = rows[0], next(row for row in rows if row[0] == "probe / step")
    found = dict(zip(names[1:], (cell.split()[0] for cell in costs[1:]), strict=False))
    tiny, *large = (f"{name} {found[name]}" for name in list(found)[:4])
    return (
        "**Cost:** a probe is one forward and one backward; what looks sick takes more, and a step"
        " of a declared optimizer that promises much. Times a plain step:"
        f" {', '.join(large)}, a tiny {tiny}."
    )


def wrong() -> str:
    """How often it is wrong, from the study."""
    found = json.loads(SUMMARY.read_text())
    (lost, of_lost), (alarms, of_fine) = found["recall"], found["false failures"]
    return (
        f"**Errors:** of {found['random networks']} random networks, all trained to compare, half"
        f" were kept for testing: {lost} of {of_lost} that neither SGD nor Adam can train fail, and"
        f" {alarms} of {of_fine} that SGD trains. {found['faults found']} of"
        f" {found['faults in reach']} known faults are found."
    )


def short(message: str) -> str:
    """A message in a few lines: the verdict, the guilty layer, the cause, and the first cure."""
    first, _, table, advice, _, tried, *rest = message.split("\n\n")
    head, *rows = table.splitlines()
    worst = next(place for place, row in enumerate(rows) if row.startswith(">"))
    cause = [line for line in advice.splitlines() if line.startswith(("cause:", "rule:"))]
    code = next(block for block in rest if block.startswith("write "))
    blocks = [
        first,
        [head, "    ...", *rows[worst - 1 : worst + 2], "    ..."],
        cause,
        [*tried.splitlines()[:4], "..."],
        code,
    ]
    return "\n\n".join(b if isinstance(b, str) else "\n".join(b) for b in blocks)


def _message(output: str) -> str:
    lines = [line for line in output.splitlines() if line[:2] == "E "]
    return "\n".join(line[1:].removeprefix("       ").rstrip() for line in lines)


def with_blocks(text: str, **blocks: str) -> str:
    """Put each block between its markers: tables and sentences as they are, outputs as code."""
    for name, block in blocks.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        plain = block.startswith(("|", "**"))
        fenced = f"{block}\n" if plain else f"```text\n{block}\n```\n"
        text = re.sub(pattern, lambda m, new=fenced: m[1] + new + m[2], text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def pages() -> list[Path]:
    """The README and all pages of the documentation that are files."""
    return [README, *sorted((ROOT / "docs").glob("*.md")), *(ROOT / "docs/decisions").glob("*.md")]


def block(name: str) -> str:
    """Return what a command has printed between the markers of a block."""
    for page in pages():
        text = page.read_text("utf-8")
        if found := re.search(rf"<!-- {name} -->\n```text\n(.*?)\n```", text, flags=re.DOTALL):
            return found[1]
    raise LookupError(f"no page has a block {name}")


#: What takes no run of the examples, by the names of the blocks.
TABLES = {"settings": settings, "rules": rules, "quiet": quiet, "cost": cost, "wrong": wrong}


def main(*arguments: str) -> None:
    """Write all blocks, or those that take no run of the examples."""
    blocks = {name: made() for name, made in TABLES.items()}
    if "--tables" in arguments:
        blocks["short"] = short(block("failure"))
    else:
        told = failure()
        blocks |= {"report": report(), "failure": told, "short": short(told), "models": models()}
        blocks["regression"] = regression()
    for page in pages():
        text = page.read_text("utf-8")
        page.write_text(with_blocks(text, **blocks), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
