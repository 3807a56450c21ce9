"""One check against a baseline: what was kept, what is now, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pytest_gradhealth.baseline.comparison import Comparison, Layers, compare, is_same
from pytest_gradhealth.baseline.entry import Entry
from pytest_gradhealth.results.diagnosis import Limit

CheckStatus = Literal["same", "changed", "better", "worse", "missing", "new", "written"]


@dataclass(frozen=True)
class Check:
    """A probe beside its baseline.

    `file` is where the baseline is, from pytest's rootdir, and `key` its name in there. `before` is
    None where there is none: "missing", or "new" where another run is compared with. "changed" is
    neither better nor worse; "written" is what an update is to keep of this run.
    """

    file: str
    key: str
    status: CheckStatus
    entry: Entry
    before: Entry | None = None
    comparison: Comparison = field(default_factory=Comparison)


@dataclass(frozen=True)
class Now:
    """What is to be compared: the first look and, where there was one, the second.

    `layers` are those of the model, None if they are not known.
    """

    entry: Entry
    later: Entry | None = None
    layers: Layers | None = None


def check_entry(
    now: Now,
    kept: Mapping[str, Entry],
    *,
    file: str,
    key: str,
    max_path: Limit,
    max_step: Limit,
    absent: Literal["missing", "new", "written"] = "missing",
) -> Check:
    """Compare what is now with what is kept under its key.

    What looks worse, and does not after the steps of a second look, is not worse; nor is a path
    that is silent at first and was found to learn: a last layer that starts at zero. `absent` says
    what it is if nothing is kept: "written" where all that has changed is to be kept itself.
    """
    before, entry = kept.get(key), now.entry
    if before is None:
        return Check(file, key, absent, entry)
    comparison = compare(before, entry, max_path, max_step, now.layers)
    if comparison.worse and now.later is not None:
        comparison = _forgiving(comparison, entry)
        second = compare(before, now.later, max_path, max_step, now.layers)
        comparison = comparison if second.worse else second
    status: CheckStatus
    if absent == "written":
        status = "same" if is_same(before, entry) and not comparison.changes else "written"
    elif comparison.worse:
        status = "worse"
    elif comparison.better:
        status = "better"
    else:
        status = "changed" if comparison.changes else "same"
    return Check(file, key, status, entry, before, comparison)


def _forgiving(comparison: Comparison, entry: Entry) -> Comparison:
    """The same, but silence is neither better nor worse where the rules have found it harmless."""
    if entry.verdict == "failure":
        return comparison
    changes = [
        replace(change, worse=change.worse and change.after != -math.inf)
        for change in comparison.changes
    ]
    changes.sort(key=lambda change: not change.worse)
    return replace(comparison, changes=tuple(changes))
