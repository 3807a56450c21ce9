"""A spec as it is typed: where a model comes from, its name there, and literals to build it with.

Nothing of it is ever evaluated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.formatting import shown

#: The libraries whose models go by their names there.
LIBRARIES = ("timm", "torchvision", "hf")
#: What else stands before a colon, and says that a Lightning module follows.
LIGHTNING = "lightning"
#: Characters of a spec that are read.
_LONGEST = 1_000
FORMS = (
    "package.module:Net, path/to/file.py:Net(64, depth=3), timm:NAME, torchvision:NAME, hf:NAME or"
    " lightning:module:Net"
)


@dataclass(frozen=True)
class Arguments:
    """Literals in parentheses, and the `code` that they were read from, without those."""

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""


@dataclass(frozen=True)
class Spec:
    """A model by its name: of a library, or in a module or a file, which is its `home`.

    `arguments` are None where there are no parentheses; `lightning` says that it has to be a
    Lightning module.
    """

    text: str
    home: str
    name: str
    arguments: Arguments | None = None
    lightning: bool = False

    @property
    def is_file(self) -> bool:
        """Whether it is in a file that goes by its path."""
        return self.home.endswith(".py")

    @property
    def is_library(self) -> bool:
        """Whether it goes by its name in a library."""
        return self.home in LIBRARIES

    @property
    def given(self) -> Arguments:
        """The arguments, empty where there are no parentheses."""
        return self.arguments or Arguments()


def parse(text: str) -> Spec:
    """Read a spec; raises SettingError for what is none.

    >>> spec = parse("nets/deep.py:Net(64, act='relu')")
    >>> spec.home, spec.name, spec.given.positional, spec.given.named
    ('nets/deep.py', 'Net', (64,), {'act': 'relu'})
    >>> parse("timm:resnet18").is_library
    True
    """
    typed = text.strip()
    if not typed or len(typed) > _LONGEST:
        raise _none(text)
    prefix, colon, rest = typed.partition(":")
    if colon and prefix in LIBRARIES:
        return _of_library(typed, prefix, rest)
    lightning = bool(colon) and prefix == LIGHTNING
    inner = rest if lightning else typed
    found = re.match(r"((?:[A-Za-z]:)?[^:(]*\.py|[^:(]*):(.*)\Z", inner, re.DOTALL)
    if found is None:
        raise _none(typed)
    home, (name, arguments) = found[1], _called(typed, found[2])
    if not (home.endswith(".py") or all(map(_is_name, home.split(".")))):
        raise _none(typed)
    if not all(map(_is_name, name.split("."))):
        raise SettingError(f"{shown(name)} in {typed} is no name; write {_example(home)}")
    return Spec(typed, home, name, arguments, lightning)


def _of_library(typed: str, library: str, rest: str) -> Spec:
    name, arguments = _called(typed, rest)
    if not re.fullmatch(r"[\w.\-/~ ]+", name):
        raise SettingError(f"{shown(name)} in {typed} is no name of a model; write {library}:NAME")
    return Spec(typed, library, name, arguments)


def _called(typed: str, rest: str) -> tuple[str, Arguments | None]:
    """A name, and the literals behind it."""
    name, parenthesis, inside = rest.partition("(")
    if not parenthesis:
        return name.strip(), None
    return name.strip(), _arguments(typed, f"({inside}")


def _arguments(typed: str, code: str) -> Arguments:
    try:
        call = ast.parse(f"f{code}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SettingError(f"the parentheses of {typed} are no Python ({_why(error)})") from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise SettingError(f"{typed} is more than a name and its arguments; {_LITERALS}")
    named: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg.startswith("_"):
            what = "**" if keyword.arg is None else keyword.arg
            raise SettingError(f"{what} in {typed} is no argument to build a model with")
        if keyword.arg in named:
            raise SettingError(f"{keyword.arg} is given twice in {typed}")
        named[keyword.arg] = _literal(typed, keyword.value)
    positional = tuple(_literal(typed, argument) for argument in call.args)
    return Arguments(positional, named, ast.unparse(call)[2:-1])


_LITERALS = "arguments are literals: numbers, strings, True, None, and tuples, lists and dicts"


def _literal(typed: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        said = shown(ast.unparse(node)) if len(typed) < 200 else "an argument"
        raise SettingError(f"{said} in {typed} is no literal; {_LITERALS}") from error


def _is_name(part: str) -> bool:
    return part.isidentifier() and not part.startswith("__")


def _example(home: str) -> str:
    return f"{home}:Net, or {home}:build_net"


def _why(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else type(error).__name__


def _none(text: str) -> SettingError:
    """What to write in place of what is no spec."""
    typed, said = text.strip(), f"{shown(text)} names no model"
    if typed.endswith(".py"):
        return SettingError(f"{said}; say which of that file: {_example(typed)}")
    home, dot, name = typed.rpartition(".")
    if dot and all(map(_is_name, typed.split("."))):
        return SettingError(f"{said}; did you mean {home}:{name}?")
    return SettingError(f"{said}; write {FORMS}")
