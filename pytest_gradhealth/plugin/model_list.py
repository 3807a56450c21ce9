"""The models of a run that need no test: those of the command line, else those of the ini file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_gradhealth.config.options import BY_NAME
from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.plugin.options import OF_MODELS, flag_of, ini_file, models_in_ini
from pytest_gradhealth.plugin.output import usage_error

#: What a table of the ini file has beside settings.
_KEYS = ("spec", "input", "loss", "name", "marks")


class Listed(NamedTuple):
    """A model that is listed: its spec, what is given with it, and `where`.

    `settings` are those of checks; `marks` the names of markers; `name` is what the command line
    may call it by.
    """

    spec: str
    where: str
    inputs: Sequence[str] = ()
    loss: str = ""
    name: str = ""
    settings: Mapping[str, Any] = {}
    marks: Sequence[str] = ()


def listed_models(config: pytest.Config) -> Sequence[Listed]:
    """The models to check, none if single files or tests are; raises UsageError.

    Those of the command line take the place of those of the ini file, which they may name: then
    what the table says of them counts, but for what the command line says as well.
    """
    try:
        in_ini = [*_in_ini(config)]
        chosen = config.getoption("gradhealth_model")
        _check_said(config, bool(in_ini))
        if chosen is None:
            return () if _are_single(config.args) else in_ini
        inputs, loss = config.getoption("gradhealth_input"), config.getoption("gradhealth_loss")
        known = {key: one for one in in_ini for key in (one.name, one.spec) if key}
        found = (known.get(text, Listed(text, flag_of("model"))) for text in dict.fromkeys(chosen))
        return [one._replace(inputs=inputs or one.inputs, loss=loss or one.loss) for one in found]
    except SettingError as error:
        raise usage_error(str(error)) from error


def _check_said(config: pytest.Config, in_ini: bool) -> None:
    """Raise SettingError for what is said of models where there are none."""
    if config.getoption("gradhealth_model") is not None:
        return
    for name in OF_MODELS[1:-1] if in_ini else OF_MODELS[1:]:
        if config.getoption(f"gradhealth_{name}") is not None:
            raise SettingError(f"{flag_of(name)} is for a model; add {flag_of('model')}")


def _in_ini(config: pytest.Config) -> Iterator[Listed]:
    where = f"gradhealth_models in {ini_file(config)}"
    for entry in models_in_ini(config):
        yield _of_table(entry if isinstance(entry, dict) else _table(str(entry), where), where)


def _are_single(arguments: Sequence[str]) -> bool:
    """Whether all that pytest is to collect is files, or tests in them."""
    return bool(arguments) and all("::" in one or Path(one).is_file() for one in arguments)


def _table(line: str, where: str) -> dict[str, Any]:
    """A line of the ini file as a table: a spec, and KEY=VALUE behind it."""
    spec, rest = _parted(line)
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise SettingError(f"{where}: {line}: {error}") from error
    table: dict[str, Any] = {"spec": spec}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key in table:
            raise SettingError(f"{where}: {word!r} behind {spec} is not one KEY=VALUE")
        table[key] = value
    return table


def _parted(line: str) -> tuple[str, str]:
    """A spec, whose parentheses may have spaces in them, and what comes behind it."""
    depth, quote = 0, ""
    for place, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and depth:
            quote = char
        elif char.isspace() and depth == 0:
            return line[:place], line[place:]
        else:
            depth += (char in "([{") - (char in ")]}")
    return line, ""


def _of_table(table: Mapping[str, Any], where: str) -> Listed:
    """A table as a model that is listed; raises SettingError for what it cannot say."""
    from pytest_gradhealth.config.settings import Settings
    from pytest_gradhealth.formatting import meant_by

    spec = table.get("spec")
    if not isinstance(spec, str):
        raise SettingError(f"{where}: a table has no spec, as in spec = 'timm:resnet18'")
    settings = {key: value for key, value in table.items() if key not in _KEYS}
    for key in settings.keys() - BY_NAME.keys():
        if meant := meant_by(key, _KEYS):
            raise SettingError(f"{where}, {spec}: there is no {key}; {meant}")
    Settings().merged(settings, f"{where}, {spec}")
    return Listed(
        spec,
        where,
        _several(table.get("input")),
        str(table.get("loss", "")),
        str(table.get("name", "")),
        settings,
        [mark for text in _several(table.get("marks")) for mark in text.split(",")],
    )


def _several(value: object) -> Sequence[str]:
    return () if value is None else [*map(str, value)] if isinstance(value, list) else [str(value)]
