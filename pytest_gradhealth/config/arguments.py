"""Whether what was passed is what was declared, and the words for what is not."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, ParamSpec, TypeVar

from pytest_gradhealth.config.values import as_float, as_int, is_truth
from pytest_gradhealth.errors import ProbeError, SettingError
from pytest_gradhealth.formatting import shown

P = ParamSpec("P")
T = TypeVar("T")

#: Annotations in words: those that stand alone, and those that are one of a kind.
_WHOLE: Mapping[Any, str] = {bool: "True or False", type(None): "None"}
_NOUNS: Mapping[Any, str] = {str: "string", float: "number", int: "whole number"}
#: What reads values of other libraries too.
_READ: Mapping[Any, Callable[[Any], Any]] = {
    bool: lambda value: bool(value) if is_truth(value) else None,
    float: as_float,
    int: as_int,
}


def called(check: Callable[P, T]) -> Callable[P, T]:
    """The check, which says what to pass instead where Python could not call it."""
    signature, name = inspect.signature(check), check.__name__

    @functools.wraps(check)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            said = str(error)
        else:
            return check(*args, **kwargs)
        taken = signature.parameters
        typed = f"{name}({'a, b, x, y' if 'b' in taken else 'model, x, y'}"
        raise ProbeError(f"{name} {_instead(name, said, args, typed, named='name' in taken)}")

    return call


def _instead(name: str, said: str, args: tuple[object, ...], typed: str, *, named: bool) -> str:
    """What Python says of a call, and how it is to be made, which begins as it is `typed`."""
    if said.startswith("multiple values"):
        return f"got {said}"
    if named and args and isinstance(args[-1], str):
        return f"takes the name by its name: {typed}, name={args[-1]!r})"
    if said.startswith("missing"):
        missing = said.rpartition(": ")[2].strip("'")
        batch = "x, y, loss=..." if missing in ("model", "inputs") else f"..., {missing}=..."
        return f"is {said}; pass {name}(model, {batch})"
    functions = [getattr(one, "__name__", "") for one in args[3:] if callable(one)]
    if functions:
        loss = functions[0] if functions[0].isidentifier() else "..."
        return f"takes the loss by its name: {typed}, loss={loss})"
    return f"got {said}; several inputs go as one tuple: {name}(model, (a, b), y, loss=...)"


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


def fields_read(value: Any, kind: type, noun: str, key: str = "") -> dict[str, Any]:
    """Return the fields of a dataclass or a NamedTuple that are to be put as they are declared.

    Only those that `kind` declares are looked at: what a subclass adds is its author's. Raises
    SettingError for what cannot be read; `noun` names the object, with what its `key` says.
    """
    what, read = f"{noun} {_name_of(value, key)}" if key else noun, {}
    for name, hint in _hints(kind).items():
        given: Any = "missing"
        try:
            given = getattr(value, name)
            taken = taken_for(hint, given)
        except Exception as error:
            cause = None if type(error) is TypeError else error
            raise SettingError(
                f"{name} of {what} is {shown(given)}; pass {_in_words(hint)}"
            ) from cause
        if taken is not given:
            read[name] = taken
    return read


def settle_fields(value: Any, kind: type, noun: str, key: str = "") -> None:
    """Put the fields of a frozen dataclass as `kind` declares them; raises SettingError."""
    for name, taken in fields_read(value, kind, noun, key).items():
        object.__setattr__(value, name, taken)


def _name_of(value: object, key: str) -> str:
    name = None
    with contextlib.suppress(Exception):
        name = getattr(value, key)
    return name if isinstance(name, str) and name else shown(name)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return hints


def taken_for(hint: Any, value: Any) -> Any:
    """Return a value as an annotation has it; raises TypeError for one that is of another type.

    Numbers may be of any library, tuples anything that is gone through, or one of their items.

    >>> taken_for(float, 1), taken_for(tuple[str, ...], {"a"}), taken_for(tuple[str, ...], "ab")
    (1.0, ('a',), ('ab',))
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_taken(arguments, value)
    if origin is tuple:
        with contextlib.suppress(TypeError):
            return (taken_for(arguments[0], value),)
        items = tuple(taken_for(arguments[0], item) for item in value)
        return value if type(value) is tuple and items == value else items
    if origin is typing.Literal:
        fits = isinstance(value, str) and value in arguments
    elif origin is type:
        fits = isinstance(value, type) and issubclass(value, arguments[0])
    elif origin is Callable:
        fits = callable(value)
    elif hint in _READ:
        value = _READ[hint](value)
        fits = value is not None
    else:
        fits = hint is Any or isinstance(value, origin or hint)
    if not fits:
        raise TypeError
    return value


def _first_taken(hints: Iterable[Any], value: Any) -> Any:
    for hint in hints:
        with contextlib.suppress(TypeError):
            return taken_for(hint, value)
    raise TypeError


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
