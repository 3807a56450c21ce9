"""The settings of one check, with where each value came from.

A value given in the call wins over the marker, then the command line, the ini file, the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_gradhealth.config.options import BY_NAME, LEARN_STEPS, LEARNING, OPTIONS, Option
from pytest_gradhealth.errors import SettingError

if TYPE_CHECKING:
    from pytest_gradhealth.config.options import ProbeValues
    from pytest_gradhealth.results.diagnosis import Limit


@dataclass(frozen=True)
class Settings:
    """The settings of one check: `values` are those that were given, `sources` says where.

    Every setting is an attribute, which has the default of the table of options where none was
    given. Limits that rules of others bring along are read by `limit` alone.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        if name not in BY_NAME:
            raise AttributeError(f"there is no setting {name!r}")
        return self.values.get(name, BY_NAME[name].default)

    def merged(
        self,
        values: Mapping[str, Any] | ProbeValues,
        source: str | Mapping[str, str],
        options: Iterable[Option] = OPTIONS,
    ) -> Settings:
        """Return these settings with `values` on top; a value of None changes nothing.

        `options` are those there are. Raises SettingError, naming the source, for an unknown name
        or a value that cannot be.
        """
        known = {option.name: option for option in options}
        merged, sources = dict(self.values), dict(self.sources)
        for name, value in values.items():
            where = source if isinstance(source, str) else source.get(name, "")
            if name not in known:
                raise SettingError(_unknown(name, where, known))
            if value is not None:
                merged[name] = parse(known[name], value, where)
                sources[name] = where
        return Settings(merged, sources)

    @property
    def steps_to_learn(self) -> int:
        """The steps in which a batch has to be learned, 0 where nobody asks for that."""
        given: int | None = self.learn_steps
        return LEARN_STEPS * (LEARNING in self.select) if given is None else given

    @property
    def of_measurement(self) -> dict[str, Any]:
        """The values that a measurement depends on; the others only matter to its judgement."""
        names = [option.name for option in OPTIONS if option.use == "measurement"]
        return {name: getattr(self, name) for name in names} | {"learn_steps": self.steps_to_learn}

    def measured_with(self, other: Settings) -> Settings:
        """The same settings, but for what `other` has measured with."""
        return Settings({**self.values, **other.of_measurement}, self.sources)

    def limit(self, option: Option, *, sgd: bool = False) -> Limit:
        """The value of a limit and where it came from; `sgd` says which default counts."""
        from pytest_gradhealth.results.diagnosis import Limit  # a run without checks needs none

        if option.name in self.values:
            return Limit(self.values[option.name], self.source(option.name))
        if sgd and option.with_sgd is not None:
            return Limit(float(option.with_sgd), "default with SGD")
        return Limit(float(option.default), "default")

    def source(self, name: str) -> str:
        """Where the value of a setting came from."""
        return self.sources.get(name, "default")


#: Arguments of a check that are no settings, and what other libraries call them.
_ARGUMENTS = {
    "inputs": "input, x, batch, data, images, features",
    "targets": "target, y, labels, label, ground_truth",
    "loss": "loss_fn, loss_function, criterion, objective",
    "call": "forward, forward_fn, fn",
    "optimizer": "optim, opt, lr, learning_rate, optimiser",
    "clip": "clip_norm, max_norm, grad_clip, gradient_clip_val",
    "regularizer": "regulariser, penalty",
    "dependency": "",
    "precision": "dtype, amp",
    "loss_scale": "scaler, grad_scaler",
}
_MEANT = {other: name for name, others in _ARGUMENTS.items() for other in others.split(", ")}
#: What settings are called elsewhere.
_ALIASES = {
    **dict.fromkeys(("disable", "disabled", "exclude", "skip", "omit", "ignores"), "ignore"),
    **dict.fromkeys(("enable", "enabled", "include", "only", "codes"), "select"),
    **dict.fromkeys(("threshold", "tolerance", "tol", "limit"), "min_ratio or max_ratio"),
}


def _unknown(name: str, where: str, known: Iterable[str]) -> str:
    """What to say of a setting that there is not: of arguments only where a call could have one."""
    from pytest_gradhealth.formatting import meant_by  # a run without checks needs none

    likely = name.lower()
    names, meant = [*known], _ALIASES.get(likely, "")
    if name in BY_NAME:
        return f"{where}: {name} is no setting of probe; the assertions take it"
    if where == "the call":
        if name in _ARGUMENTS:
            return f"{where}: {name} is no argument of this check; probe and assert_healthy take it"
        meant = meant or _MEANT.get(likely, "")
        names += _ARGUMENTS
    meant = f"did you mean {meant}?" if meant else meant_by(likely, names)
    said = f"{where}: unknown setting {name!r}"
    return f"{said}; {meant}" if meant else f"{said}; the settings are {', '.join(known)}"


def parse(option: Option, value: Any, where: str) -> Any:
    """Read one value; raises SettingError that names the place it came from."""
    try:
        read = option.parse(value)
        return float(read) if option.use == "limit" else read
    except Exception as error:  # also what the parser of a rule's own setting raises
        from pytest_gradhealth.formatting import shown  # a run without checks needs none

        raise SettingError(
            f"{where}: {option.name} = {shown(value)} is not {option.expects}"
        ) from error


def check_codes(settings: Settings, known: Mapping[str, str]) -> None:
    """Raise SettingError if `select` or `ignore` names a rule that does not exist, or no layers.

    Those that there are are `known` by their codes, with their names.
    """
    for name in ("select", "ignore"):
        for item in getattr(settings, name):
            code, pattern = parts_of(item) if name == "ignore" else (item, None)
            said = f"{settings.source(name)}: {name} = {item!r}"
            if not code or not any(rule.startswith(code) for rule in known):
                meant = rule_meant(code, known) or f"the rules are {', '.join(known)}"
                raise SettingError(f"{said} matches no rule; {meant}")
            if pattern == "":
                raise SettingError(
                    f"{said} has no pattern behind the colon; pass one for names of layers and"
                    f" parameters, such as {code}:encoder.*, or {code} alone for all of them"
                )


#: Share of its letters in which a code is like another: all but one of five.
_LIKE_A_CODE = 0.78


def rule_meant(item: str, known: Mapping[str, str]) -> str:
    """Which rule was meant by what is none's code and none's name, "" where that is any's guess."""
    from pytest_gradhealth.formatting import meant_by  # a run without checks needs none

    likely = item.lower().replace("_", "-")
    names = {name.lower(): f"{code} ({name})" for code, name in known.items()}
    codes = {code.lower(): f"{code} ({name})" for code, name in known.items()}
    return meant_by(likely, names) or meant_by(likely, codes, _LIKE_A_CODE)


def is_selected(code: str, settings: Settings) -> bool:
    """Whether a rule applies: selected (by default all are) and not ignored."""
    chosen = not settings.select or any(code.startswith(prefix) for prefix in settings.select)
    ignored = [prefix for prefix, pattern in map(parts_of, settings.ignore) if pattern is None]
    return chosen and not any(map(code.startswith, ignored))


def ignored_names(code: str, settings: Settings) -> tuple[str, ...]:
    """The patterns of names that a rule is told to ignore."""
    parts = map(parts_of, settings.ignore)
    return tuple(pattern for prefix, pattern in parts if pattern and code.startswith(prefix))


def parts_of(item: str) -> tuple[str, str | None]:
    """The code of something to ignore, and the pattern of names, None where the rule is meant."""
    code, colon, pattern = item.partition(":")
    return code.strip(), pattern.strip() if colon else None
