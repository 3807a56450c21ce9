"""One table of settings: how each is read, and the names it has outside of Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

#: Ratios, first layer over last, with Adam or an unknown optimizer; change of a weight in one step
#: over the weight; gradient of the penalty over that of the data; RMS of the outputs, and their
#: spread over the batch; shares of dead and of saturated units. examples/study/RESULTS.md shows
#: where they come from.
DEFAULTS = {
    "min_ratio": 1e-5,
    "warn_min_ratio": 1e-3,
    "max_ratio": 1e3,
    "warn_max_ratio": 1e2,
    "max_update": 1.0,
    "max_penalty": 10.0,
    "max_output": 1e3,
    "warn_max_output": 1e2,
    "min_spread": 5e-6,
    "warn_min_spread": 1e-4,
    "max_dead": 0.95,
    "max_saturated": 0.995,
    "max_underflow": 0.5,
}
#: The setting that a rule's value is compared with.
SETTING_OF = {
    "GH101": "min_ratio",
    "GH102": "min_ratio",
    "GH201": "max_ratio",
    "GH202": "max_update",
    "GH203": "max_output",
    "GH402": "max_dead",
    "GH403": "max_saturated",
    "GH501": "max_underflow",
    "GH404": "min_spread",
    "GH601": "max_penalty",
}
#: What differs with SGD, whose steps shrink with the gradient.
WITH_SGD = {"min_ratio": 3e-5}
#: Settings that only matter to the judgement, not to the measurement.
JUDGEMENT = (
    "min_ratio",
    "max_ratio",
    "warn_min_ratio",
    "warn_max_ratio",
    "max_update",
    "max_penalty",
    "max_output",
    "min_spread",
    "max_dead",
    "max_saturated",
    "max_underflow",
    "baseline",
    "max_path_change",
    "max_step_change",
    "remedy_budget",
    "select",
    "ignore",
)


class Option(NamedTuple):
    """A setting: how its values are read, and how command line and ini file call it.

    `ini` is the type that pytest reads from native TOML; from ini files text comes in.
    """

    name: str
    parse: Callable[[Any], Any]
    expects: str
    help: str
    ini: str = "string"

    @property
    def is_switch(self) -> bool:
        """Whether the command line takes it without a value."""
        return self.ini == "bool"

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
    if isinstance(value, str) and "," in value:
        value = value.split(",")
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError
        return tuple(_integer(seed, least=0) for seed in value)
    return _integer(value, least=1)


def _integer(value: Any, least: int) -> int:
    number = int(value)
    rounded = isinstance(value, float) and number != value
    if isinstance(value, bool) or rounded or not least <= number < 2**62:
        raise ValueError
    return number


def _steps(value: Any) -> int:
    return _integer(value, least=0)


def _ratio(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not number > 0 or math.isinf(number):
        raise ValueError
    return number


def _seconds(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise ValueError
    return number


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        value = {"true": True, "false": False}[str(value).lower()]
    return bool(value)


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
        "GH101 fails below this ratio, first layer over last (default: 1e-5, for SGD 3e-5)",
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
        "GH101 warns below this ratio (default: 1e-3)",
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
        "max_update",
        _ratio,
        "a positive number",
        "GH202 fails when a training step changes a weight by more than this share (default: 1)",
        ini="float",
    ),
    Option(
        "max_penalty",
        _ratio,
        "a positive number",
        "GH601 fails above this ratio, gradient of the penalty over that of the data (default: 10)",
        ini="float",
    ),
    Option(
        "max_output",
        _ratio,
        "a positive number",
        "GH203 fails when the RMS of the outputs is above this (default: 1e3)",
        ini="float",
    ),
    Option(
        "min_spread",
        _ratio,
        "a positive number",
        "GH404 fails when outputs differ by less than this over the batch (default: 5e-6)",
        ini="float",
    ),
    Option(
        "max_dead",
        _ratio,
        "a positive number",
        "GH402 fails when more than this share of a layer's units is dead (default: 0.95)",
        ini="float",
    ),
    Option(
        "max_saturated",
        _ratio,
        "a positive number",
        "GH403 fails when more than this share of a layer is saturated (default: 0.995)",
        ini="float",
    ),
    Option(
        "max_underflow",
        _ratio,
        "a positive number",
        "GH501 fails when more than this share of a layer's gradient is flushed (default: 0.5)",
        ini="float",
    ),
    Option(
        "baseline",
        _switch,
        "true or false",
        "compare every probe with a baseline beside its test module (default: false)",
        ini="bool",
    ),
    Option(
        "max_path_change",
        _ratio,
        "a positive number",
        "decades that a path's ratio may get worse by against a baseline (default: 0.5)",
        ini="float",
    ),
    Option(
        "max_step_change",
        _ratio,
        "a positive number",
        "decades that a step between two layers may get worse by (default: 1)",
        ini="float",
    ),
    Option(
        "remedy_budget",
        _seconds,
        "a number of seconds, at least 0",
        "seconds for trying remedies on copies of a failing model, 0 for none (default: 10)",
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
