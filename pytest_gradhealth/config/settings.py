"""The settings of one check, with where each value came from.

A value given in the call wins over the marker, then the command line, the ini file, the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

from pytest_gradhealth.config.options import OPTIONS, Option
from pytest_gradhealth.errors import SettingError

if TYPE_CHECKING:
    from pytest_gradhealth.results.diagnosis import Limit

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
    max_update: float | None
    max_penalty: float | None
    max_output: float | None
    min_spread: float | None
    max_dead: float | None
    max_saturated: float | None
    max_underflow: float | None
    baseline: bool | None
    max_path_change: float | None
    max_step_change: float | None
    remedy_budget: float | None
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
    max_update: float | None = None
    max_penalty: float | None = None
    max_output: float | None = None
    min_spread: float | None = None
    max_dead: float | None = None
    max_saturated: float | None = None
    max_underflow: float | None = None
    baseline: bool = False
    max_path_change: float = 0.5
    max_step_change: float = 1.0
    remedy_budget: float = 10.0
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

    def limit(self, name: str) -> Limit:
        """A setting that has a default of its own, as a limit."""
        from pytest_gradhealth.results.diagnosis import Limit

        return Limit(getattr(self, name), self.source(name))

    def source(self, name: str) -> str:
        """Where the value of a setting came from."""
        return self.sources.get(name, "default")


def parse(option: Option, value: Any, where: str) -> Any:
    """Read one value; raises SettingError that names the place it came from."""
    try:
        return option.parse(value)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
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
