"""What was meant by options, and keys of the ini file, that are nearly ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_gradhealth.config.options import OPTIONS
from pytest_gradhealth.plugin.options import RUN_OPTIONS, flag_of
from pytest_gradhealth.plugin.output import usage_error


def meant_options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options that are none of ours and look as if they were, with what may have been meant."""
    known = {name: flag_of(name) for name, *_ in RUN_OPTIONS}
    known |= {option.name: option.flag for option in OPTIONS}
    for argument in arguments:
        flag = argument.partition("=")[0]
        looks_so = flag.startswith("--gradhealth-") and flag not in known.values()
        if looks_so and (meant := _meant(flag, known)):
            yield flag, meant


def refuse_unknown_key(said: str) -> None:
    """Raise UsageError if pytest `said` that nobody has added a key that looks like ours."""
    unknown = re.match(r"Unknown config option: (gradhealth_\w+)", said)
    if unknown is not None:
        known = {name: f"gradhealth_{name}" for name, *_, ini in RUN_OPTIONS if ini}
        meant = _meant(unknown[1], known | {option.name: option.key for option in OPTIONS})
        told = f"; {meant}" * bool(meant)
        raise usage_error(f"{unknown[1]} in the ini file is no setting{told}")


def _meant(given: str, known: dict[str, str]) -> str:
    from pytest_gradhealth.formatting import meant_by  # a run without mistakes needs none

    return meant_by(re.sub("^-*gradhealth.", "", given).replace("-", "_"), known)
