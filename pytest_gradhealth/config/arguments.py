"""Whether what was passed is what was declared, and the words for what is not."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from pytest_gradhealth.errors import ProbeError, SettingError
from pytest_gradhealth.formatting import shown

T = TypeVar("T")

#: Annotations in words: those that stand alone, and those that are one of a kind.
_WHOLE: Mapping[Any, str] = {bool: "True or False", type(None): "None"}
_NOUNS: Mapping[Any, str] = {str: "string", float: "number"}


def require(name: str, value: object, accepts: Callable[[Any], object], advice: str) -> None:
    """Raise ProbeError for an argument that is not accepted; what raises on the way is its cause.

    `advice` completes "pass ...".
    """
    cause = None
    try:
        if accepts(value):
            return
    except Exception as error:
        cause = error
    raise ProbeError(f"{name} is {shown(value)}; pass {advice}") from cause


def is_float(value: object) -> bool:
    """Whether a value is a number that a float can be; no truth value, and no integer too large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    with contextlib.suppress(OverflowError):
        float(value)
        return True
    return False


def listed(given: object, kind: type[T], whole: str, part: str) -> tuple[T, ...]:
    """Return the items of a list whose items are all of one kind.

    Raises SettingError: `whole` and `part`, with a brace for the type, are the words for what is no
    list and for what is none of its items.
    """
    try:
        items = tuple(typing.cast("Iterable[object]", given))
    except Exception as error:
        raise SettingError(whole.format(type(given).__name__)) from error
    for item in items:
        if not isinstance(item, kind):
            raise SettingError(part.format(type(item).__name__))
    return typing.cast("tuple[T, ...]", items)


def check_fields(value: Any, what: str) -> None:
    """Raise SettingError for a field of a dataclass or a NamedTuple that is not what it says.

    `what` names the object.
    """
    kind: Any = type(value)
    for name, hint in _hints(kind).items():
        given = getattr(value, name)
        if not fits(hint, given):
            raise SettingError(f"{name} of {what} is {shown(given)}; pass {_in_words(hint)}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return hints


def fits(hint: Any, value: object) -> bool:
    """Whether a value is of a type, as an annotation has it.

    >>> fits(float, 1), fits(float, True), fits(tuple[str, ...], ("a", 1)), fits(int | None, None)
    (True, False, False, True)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(argument, value) for argument in arguments)
    if origin is typing.Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(fits(arguments[0], i) for i in value)
    if origin is type:
        return isinstance(value, type) and issubclass(value, arguments[0])
    if origin is Callable:
        return callable(value)
    if hint is float:
        return is_float(value)
    return isinstance(value, origin or hint)


def _in_words(hint: Any, *, many: bool = False) -> str:
    """What an annotation asks for: "a number or None", "a tuple of strings"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(argument, many=many) for argument in arguments)
    if origin is typing.Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        return f"a tuple of {_in_words(arguments[0], many=True)}"
    if origin is type:
        return f"a subclass of {arguments[0].__name__}"
    if hint in _WHOLE:
        return _WHOLE[hint]
    noun = "function" if origin is Callable else _NOUNS.get(hint, getattr(hint, "__name__", ""))
    return f"{noun}s" if many else f"{'an' if noun[:1] in 'AEIOU' else 'a'} {noun}"
