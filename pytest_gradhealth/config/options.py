"""The one table of settings: how each is read, its default, and the names it has outside of Python.

Flags, ini keys, the marker's text, the settings of a check, thresholds and the tables of the
documentation follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_gradhealth.config import values

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypedDict

    import torch


class Option(NamedTuple):
    """A setting: what it does, how its values are read, and what it is if nobody gives it.

    `use` says what it bears on: "measurement" (another value takes another probe), the "limit" of a
    rule, which "rules" apply, or what a "test" does with a probe. `with_sgd` is the default for
    models trained with SGD, whose steps shrink with the gradient. A `share` is a part of a layer.
    `expects` completes "... is not"; `ini` is the type that pytest reads from native TOML (from ini
    files text comes in); `example` is a value as it is typed, `told` the default in words.
    """

    name: str
    help: str
    default: Any
    with_sgd: float | None = None
    use: Literal["measurement", "limit", "rules", "test"] = "limit"
    share: bool = False
    parse: Callable[[Any], Any] = values.ratio
    expects: str = "a positive number"
    ini: str = "float"
    example: str = ""
    told: str = ""

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

    @property
    def described(self) -> str:
        """What it does, and its default."""
        return f"{self.help} (default: {self.default_in_words})"

    @property
    def default_in_words(self) -> str:
        """The default as help and documentation have it: "1e-5, for SGD 3e-5"."""
        told = self.told or plain(self.default)
        return told if self.with_sgd is None else f"{told}, for SGD {plain(self.with_sgd)}"


def plain(value: float) -> str:
    """A number as one would type it.

    >>> [plain(value) for value in (1e-5, 1e3, 100.0, 10.0, 0.995, 5e-6)]
    ['1e-5', '1e3', '1e2', '10', '0.995', '5e-6']
    """
    if not math.isfinite(value):
        return str(value)
    digits, _, exponent = f"{value:e}".partition("e")
    power = int(exponent)
    return f"{float(digits):g}e{power}" if abs(power) > 1 else f"{value:g}"


#: Ratios are first layer over last. examples/study/RESULTS.md shows where the limits come from.
OPTIONS: tuple[Option, ...] = (
    Option(
        "device",
        "device to probe on",
        "auto",
        use="measurement",
        parse=values.device,
        expects="a device such as 'auto', 'cpu' or 'cuda:0'",
        ini="string",
        example="cpu",
        told="auto: the accelerator that the model is on, or one that it runs on, else the CPU",
    ),
    Option(
        "seeds",
        "number of seeds, or a list of them, for models given as factories",
        None,
        use="measurement",
        parse=values.seeds,
        expects="a number of seeds, at least 1, or a list of seeds",
        ini="int",
        example="3",
        told="1, up to 5 near a limit or in a narrow net",
    ),
    Option(
        "confirm_steps",
        "optimizer steps before a failing verdict is looked at again",
        5,
        use="measurement",
        parse=values.steps,
        expects="a number of steps, at least 0",
        ini="int",
        told="5, with 0 the first look stands",
    ),
    Option(
        "learn_steps",
        "training steps on a copy in which the batch has to be learned (GH604)",
        None,
        use="measurement",
        parse=values.learning_steps,
        expects="a number of steps, at least 6, or 0 for none",
        ini="int",
        example="60",
        told="none, 60 where GH604 is selected",
    ),
    Option(
        "copy",
        "copy all that a run may change before it, not once something writes to it",
        None,
        use="measurement",
        parse=values.switch,
        expects="true or false",
        ini="bool",
        example="True",
        told="what others write to unseen, up to a tenth of free memory",
    ),
    Option(
        "exact",
        "read large tensors as a whole, also where no verdict depends on it",
        False,
        use="measurement",
        parse=values.switch,
        expects="true or false",
        ini="bool",
        example="True",
        told="false",
    ),
    Option(
        "baseline_init",
        "keep in the baseline how each parameter is distributed before training",
        False,
        use="measurement",
        parse=values.switch,
        expects="true or false",
        ini="bool",
        example="True",
        told="false",
    ),
    Option(
        "min_ratio",
        "GH101 and GH102 fail below this ratio, first layer or step over last",
        1e-5,
        with_sgd=3e-5,
    ),
    Option("max_ratio", "GH201 fails above this ratio, first layer over last", 1e3),
    Option("warn_min_ratio", "GH101 and GH102 warn below this ratio", 1e-3),
    Option("warn_max_ratio", "GH201 warns above this ratio", 1e2),
    Option(
        "max_update",
        "GH202 fails when a training step changes a weight by more than this share",
        1.0,
    ),
    Option(
        "max_penalty",
        "GH601 fails above this ratio, gradient of the penalty over that of the data",
        10.0,
    ),
    Option(
        "max_rate",
        "GH603 fails when the learning rate is more than this many times the critical one",
        10.0,
    ),
    Option("warn_max_rate", "GH603 warns above this many times the critical learning rate", 5.0),
    Option("max_output", "GH203 fails when the RMS of the outputs is above this", 1e3),
    Option("min_spread", "GH404 fails when outputs differ by less than this over the batch", 5e-6),
    Option(
        "max_dead",
        "GH402 fails when more than this share of a layer's units is dead",
        0.95,
        share=True,
    ),
    Option(
        "max_saturated",
        "GH403 fails when more than this share of a layer is saturated",
        0.995,
        share=True,
    ),
    Option(
        "max_underflow",
        "GH501 fails when more than this share of a layer's gradient is flushed",
        0.5,
        share=True,
    ),
    Option(
        "baseline",
        "compare every probe with a baseline beside its test module",
        False,
        use="test",
        parse=values.switch,
        expects="true or false",
        ini="bool",
        example="True",
        told="false",
    ),
    Option(
        "max_path_change",
        "how many decades a path's ratio may move from its baseline, for the worse",
        0.5,
        use="test",
        told="0.5 decades",
    ),
    Option(
        "max_step_change",
        "how many decades a step between two layers may move from its baseline, for the worse",
        1.0,
        use="test",
        told="1 decade",
    ),
    Option(
        "baseline_rtol",
        "share by which loss and gradient norms may differ from their baseline",
        None,
        use="test",
        expects="a positive number such as 1e-3",
        example="1e-3",
        told="none: they are kept in decades alone",
    ),
    Option(
        "remedy_budget",
        "time for trying remedies on copies of a failing model",
        10.0,
        use="test",
        parse=values.seconds,
        expects="a number of seconds, at least 0",
        told="10 seconds, 0 for none",
    ),
    Option(
        "select",
        "rules to apply: codes or their beginnings, separated by commas",
        (),
        use="rules",
        parse=values.codes,
        expects="rule codes such as GH101,GH2",
        ini="args",
        example="GH1",
        told="all rules",
    ),
    Option(
        "ignore",
        "rules to leave out: codes or their beginnings, separated by commas, or CODE:PATTERN for"
        " some layers and parameters by name",
        (),
        use="rules",
        parse=values.codes,
        expects="rule codes such as GH101,GH2, or CODE:PATTERN such as GH405:*.pooler.*",
        ini="args",
        example="GH401",
        told="none",
    ),
)
BY_NAME = {option.name: option for option in OPTIONS}
#: The rule that applies where it is asked for alone, and in how many steps a batch has to be
#: learned where nobody says it.
LEARNING, LEARN_STEPS = "GH604", 60
#: Limits of the built-in rules that nobody can set: RMS of the outputs, and their spread over the
#: batch, from which on there is a warning.
FIXED_LIMITS = {"warn_max_output": 1e2, "warn_min_spread": 1e-4}
#: The limits that count where none are given, and what differs with SGD.
DEFAULTS = {o.name: o.default for o in OPTIONS if o.use == "limit"} | FIXED_LIMITS
WITH_SGD = {o.name: o.with_sgd for o in OPTIONS if o.with_sgd is not None}


# For the type checker alone: to make these takes longer than all else in this file.
if TYPE_CHECKING:

    class ProbeValues(TypedDict, total=False):
        """What a probe can be told, as keywords of a call; None leaves a setting as it is."""

        device: str | torch.device | None
        seeds: int | Sequence[int] | None
        confirm_steps: int | None
        learn_steps: int | None
        copy: bool | None
        exact: bool | None
        baseline_init: bool | None
        min_ratio: float | None
        max_ratio: float | None
        warn_min_ratio: float | None
        warn_max_ratio: float | None
        max_update: float | None
        max_penalty: float | None
        max_rate: float | None
        warn_max_rate: float | None
        max_output: float | None
        min_spread: float | None
        max_dead: float | None
        max_saturated: float | None
        max_underflow: float | None
        select: Sequence[str] | None
        ignore: Sequence[str] | None

    class SettingValues(ProbeValues, total=False):
        """The settings of a test as keywords of a call, what it does with a probe included."""

        baseline: bool | None
        max_path_change: float | None
        max_step_change: float | None
        baseline_rtol: float | None
        remedy_budget: float | None
