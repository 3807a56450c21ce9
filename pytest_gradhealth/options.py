"""One table of settings, and the settings of one check with where each value came from.

A value given in the call wins over the marker, then the command line, the ini file, the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from pytest_gradhealth.errors import SettingError


@dataclass(frozen=True)
class Option:
    """A setting: how its values are read, and where besides the call it can be given.

    `ini` is the type that pytest reads from native TOML; from ini files text comes in.
    """

    name: str
    parse: Callable[[Any], Any]
    expects: str
    help: str
    ini: str = "string"
    per_test: bool = True

    @property
    def flag(self) -> str:
        """The command-line option."""
        return f"--gradhealth-{self.name.replace('_', '-')}"

    @property
    def key(self) -> str:
        """The ini key."""
        return f"gradhealth_{self.name}"


def _device(value: Any) -> str:
    if not str(value):
        raise ValueError
    return str(value)


def _seeds(value: Any) -> int | tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError
        return tuple(_integer(seed, least=0) for seed in value)
    return _integer(value, least=1)


def _integer(value: Any, least: int) -> int:
    number = int(value)
    if isinstance(value, bool) or number < least or (isinstance(value, float) and number != value):
        raise ValueError
    return number


def _steps(value: Any) -> int:
    return _integer(value, least=0)


def _ratio(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not number > 0 or math.isinf(number):
        raise ValueError
    return number


def _codes(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Iterable):
        raise ValueError
    parts = [part.strip() for item in value for part in str(item).split(",")]
    return tuple(part for part in parts if part)


OPTIONS: tuple[Option, ...] = (
    Option("device", _device, "a device such as 'auto', 'cpu' or 'cuda:0'", "device to probe on"),
    Option(
        "seeds",
        _seeds,
        "a number of seeds, at least 1, or a list of seeds",
        "number of seeds for models given as factories (default: 1, up to 5 near a limit)",
        ini="int",
    ),
    Option(
        "confirm_steps",
        _steps,
        "a number of steps, at least 0",
        "optimizer steps before a failing verdict is looked at again (default: 5)",
        ini="int",
    ),
    Option(
        "min_ratio",
        _ratio,
        "a positive number",
        "GH101 fails below this ratio, first layer over last (default: 1e-5, for SGD 1e-3)",
        ini="float",
    ),
    Option(
        "max_ratio",
        _ratio,
        "a positive number",
        "GH201 fails above this ratio, first layer over last (default: 1e3)",
        ini="float",
    ),
    Option(
        "warn_min_ratio",
        _ratio,
        "a positive number",
        "GH101 warns below this ratio (default: 1e-3, for SGD 1e-2)",
        ini="float",
    ),
    Option(
        "warn_max_ratio",
        _ratio,
        "a positive number",
        "GH201 warns above this ratio (default: 1e2)",
        ini="float",
    ),
    Option(
        "select",
        _codes,
        "rule codes such as GH101,GH2",
        "rules to apply: codes or their beginnings, separated by commas (default: all)",
        ini="args",
    ),
    Option(
        "ignore",
        _codes,
        "rule codes such as GH101,GH2",
        "rules to leave out: codes or their beginnings, separated by commas (default: none)",
        ini="args",
    ),
)
BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}


class SettingValues(TypedDict, total=False):
    """The settings as keywords of a call; None leaves a setting as it is."""

    device: str | None
    seeds: int | Sequence[int] | None
    confirm_steps: int | None
    min_ratio: float | None
    max_ratio: float | None
    warn_min_ratio: float | None
    warn_max_ratio: float | None
    select: Sequence[str] | None
    ignore: Sequence[str] | None


@dataclass(frozen=True)
class Settings:
    """The settings of one check; `sources` says where those that are not default came from."""

    device: str = "auto"
    seeds: int | tuple[int, ...] | None = None
    confirm_steps: int = 5
    min_ratio: float | None = None
    max_ratio: float | None = None
    warn_min_ratio: float | None = None
    warn_max_ratio: float | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def merged(
        self, values: Mapping[str, Any] | SettingValues, source: str | Mapping[str, str]
    ) -> Settings:
        """Return these settings with `values` on top; a value of None changes nothing.

        Raises SettingError, naming the source, for an unknown name or a value that cannot be.
        """
        changed: dict[str, Any] = {}
        sources = dict(self.sources)
        for name, value in values.items():
            where = source if isinstance(source, str) else source.get(name, "")
            if name not in BY_NAME:
                known = ", ".join(BY_NAME)
                raise SettingError(f"{where}: unknown setting {name!r}; the settings are {known}")
            if value is None:
                continue
            changed[name] = parse(BY_NAME[name], value, where)
            sources[name] = where
        return replace(self, **changed, sources=sources)

    def source(self, name: str) -> str:
        """Where the value of a setting came from."""
        return self.sources.get(name, "default")


def parse(option: Option, value: Any, where: str) -> Any:
    """Read one value; raises SettingError that names the place it came from."""
    try:
        return option.parse(value)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{where}: {option.name} = {value!r} is not {option.expects}") from error


def check_codes(settings: Settings, known: Sequence[str]) -> None:
    """Raise SettingError if `select` or `ignore` names a rule that does not exist."""
    for name in ("select", "ignore"):
        for code in getattr(settings, name):
            if not any(rule.startswith(code) for rule in known):
                raise SettingError(
                    f"{settings.source(name)}: {name} = {code!r} matches no rule;"
                    f" the rules are {', '.join(known)}"
                )


def is_selected(code: str, settings: Settings) -> bool:
    """Whether a rule applies: selected (by default all are) and not ignored."""
    chosen = not settings.select or any(code.startswith(prefix) for prefix in settings.select)
    return chosen and not any(code.startswith(prefix) for prefix in settings.ignore)
