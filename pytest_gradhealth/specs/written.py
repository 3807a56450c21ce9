"""The test file that checks what specs do: code of a few lines, to go on from."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

from pytest_gradhealth.specs.brought import Brought
from pytest_gradhealth.specs.drawn import SEED
from pytest_gradhealth.specs.offer import Code
from pytest_gradhealth.specs.plan import Plan

#: Columns of a line.
_WIDTH = 100
#: What inputs and targets are called, the first of which nothing else is called.
_PAIRS = (("inputs", "targets"), ("x", "y"), ("given", "wanted"), ("x0", "y0"))
_STANDARD = ("import runpy", "import sys", "from pathlib import Path")


@dataclass(frozen=True)
class Written:
    """A spec that goes into a test file: its plan, and the settings that it was given."""

    spec: str
    plan: Plan
    settings: Mapping[str, Any]


def file_text(specs: Sequence[Written]) -> str:
    """The text of a test file with a test for each spec."""
    tests = [
        (name, one, [*_codes(one.plan)]) for name, one in zip(_names(specs), specs, strict=True)
    ]
    apart = _ambiguous([code for *_, codes in tests for code in codes])
    top = {"import torch"} | ({"import pytest"} if any(one.settings for one in specs) else set())
    later: dict[str, None] = {}
    own: dict[str, None] = {}
    for code in (code for *_, codes in tests for code in codes):
        looked_for = [line for line in code.before if line.startswith("sys.path")]
        top |= {"import sys", "from pathlib import Path"} if looked_for else set()
        later |= dict.fromkeys(looked_for)
        for line in (*code.imports, *(one for one in code.before if one not in looked_for)):
            if line in _STANDARD or (line not in apart and not code.before):
                top.add(line)
            elif line not in apart:
                own[line] = None
    said = ", ".join(one.spec for one in specs)
    parts = [f'"""The gradients of {_doc(said)}."""', "", *_sorted(top)]
    parts += [*([""] if later or own else []), *later, *map(_noted, _merged(own))]
    bound = {name for *_, codes in tests for code in codes for name in _bound(code)}
    pair = next(pair for pair in _PAIRS if bound.isdisjoint(pair))
    for name, one, codes in tests:
        parts += ["", "", *_test(name, one, codes, apart, pair)]
    return "\n".join(parts) + "\n"


def _test(
    name: str, one: Written, codes: Sequence[Code], apart: set[str], pair: tuple[str, str]
) -> Iterator[str]:
    plan, (model, *_), (inputs, targets) = one.plan, codes, pair
    if one.settings:
        given = ", ".join(f"{key}={value!r}" for key, value in one.settings.items())
        yield f"@pytest.mark.gradhealth({given})"
    yield f"def {name}(gradhealth):"
    for code in codes:
        yield from (f"    {line}" for line in (*code.imports, *code.before) if line in apart)
    yield f"    torch.manual_seed({SEED})"
    arguments = [model.expression, inputs]
    brought = isinstance(plan.batch, Brought) and plan.batch.has_targets
    made = plan.batch.code
    made = f"{made.expression}()" if isinstance(made, Code) else made
    yield f"    {inputs}{f', {targets}' * brought} = {made}"
    if plan.targets is not None:
        yield f"    {targets} = {plan.targets.code}"
    arguments += [targets] * (brought or plan.targets is not None)
    arguments += [] if plan.loss is None else [f"loss={plan.loss.code.expression}"]
    yield from _call("    gradhealth.assert_healthy", arguments)


def _call(function: str, arguments: Sequence[str]) -> Iterator[str]:
    """A call on one line, or on one for each argument."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= _WIDTH:
        yield line
        return
    indent = " " * (len(function) - len(function.lstrip()) + 4)
    yield f"{function}("
    for argument in arguments:
        first, *more = _wrapped(f"{argument},", _WIDTH - len(indent))
        yield from (f"{indent}{first}", *(f"{indent}    {line}" for line in more))
    yield f"{indent[4:]})"


def _wrapped(code: str, width: int) -> list[str]:
    """Code with calls in it on several lines, none of which ends within a string."""
    whole = re.sub(r"'[^']*'|\"[^\"]*\"", lambda found: found[0].replace(" ", "\0"), code)
    lines = textwrap.wrap(whole, width - 4, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _codes(plan: Plan) -> Iterator[Code]:
    """Where all that a test needs comes from, the model first."""
    yield plan.way.code
    if isinstance(plan.batch, Brought):
        yield plan.batch.code
    if plan.loss is not None:
        yield plan.loss.code


def _ambiguous(codes: Sequence[Code]) -> set[str]:
    """Lines that give one name to several things, which go into the tests that need them."""
    lines = defaultdict(set)
    for code in codes:
        for name, line in _bound(code).items():
            lines[name].add(line)
    return {line for found in lines.values() if len(found) > 1 for line in found}


def _bound(code: Code) -> dict[str, str]:
    """The names that code gives a meaning to, with the line that does."""
    return {name: line for line in (*code.imports, *code.before) for name in _given_by(line)}


def _given_by(line: str) -> list[str]:
    if line.startswith("from "):
        return line.partition(" import ")[2].split(", ")
    return [line.partition(" = ")[0]] if " = " in line else []


def _names(specs: Sequence[Written]) -> Iterator[str]:
    """A name for the test of each spec."""
    taken: dict[str, int] = {}
    for one in specs:
        last = re.split(r"[:/]", one.spec.partition("(")[0])[-1]
        plain = re.sub(r"\W+", "_", last).strip("_")
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower() or "model"
        name = f"test_{words}"
        taken[name] = taken.get(name, 0) + 1
        yield name if taken[name] == 1 and not iskeyword(name) else f"{name}_{taken[name]}"


def _doc(text: str) -> str:
    """Text as it can stand in a docstring, on a line."""
    plain = text.replace("\\", "\\\\").replace('"', "'")
    return plain if len(plain) <= _WIDTH - 25 else f"{plain[: _WIDTH - 28]}..."


def _sorted(lines: set[str]) -> Iterator[str]:
    """Imports: of Python first, whole modules before what is taken from some."""
    merged = [*_merged(lines)]
    groups = [[line for line in merged if (line in _STANDARD) == first] for first in (True, False)]
    for place, group in enumerate(filter(None, groups)):
        yield from [""] * bool(place)
        yield from sorted(group, key=lambda line: (not line.startswith("import"), line))


def _merged(lines: Iterable[str]) -> Iterator[str]:
    """Imports with all that is taken from one module on one line."""
    taken: dict[str, set[str]] = {}
    for line in lines:
        if line.startswith("from "):
            module, _, names = line.partition(" import ")
            taken.setdefault(module, set()).update(names.split(", "))
        else:
            yield line
    for module, found in taken.items():
        yield f"{module} import {', '.join(sorted(found))}"


def _noted(line: str) -> str:
    return f"{line}  # noqa: E402" if line.startswith(("from ", "import ")) else line
