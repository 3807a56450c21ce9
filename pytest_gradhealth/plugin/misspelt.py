"""What was meant by options, and keys of the ini file, that are nearly ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_gradhealth.config.options import OPTIONS
from pytest_gradhealth.plugin.options import MODELS, RUN_OPTIONS, flag_of
from pytest_gradhealth.plugin.output import usage_error


def meant_options(unknown: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options that are none of ours, with what may have been meant where that is known."""
    known = {name: flag_of(name) for name, *_ in RUN_OPTIONS}
    known |= {option.name: option.flag for option in OPTIONS}
    return ((flag, meant) for flag in unknown if (meant := _meant(flag, known)))


def refuse_unknown_key(said: str) -> None:
    """Raise UsageError if pytest `said` that nobody has added a key that looks like ours."""
    unknown = re.match(r"Unknown config option: (gradhealth_\w+)", said)
    if unknown is not None:
        known = {name: f"gradhealth_{name}" for name, *_, ini in RUN_OPTIONS if ini}
        known["models"] = MODELS
        meant = _meant(unknown[1], known | {option.name: option.key for option in OPTIONS})
        told = f"; {meant}" * bool(meant)
        raise usage_error(f"{unknown[1]} in the ini file is no setting{told}")


def _meant(given: str, known: dict[str, str]) -> str:
    from pytest_gradhealth.formatting import meant_by  # a run without mistakes needs none

    return meant_by(re.sub("^-*gradhealth.", "", given).replace("-", "_"), known)
