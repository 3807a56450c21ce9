"""One check against a baseline: what was kept, what is now, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pytest_gradhealth.baseline.change import Change
from pytest_gradhealth.baseline.comparison import Comparison, compare, is_same
from pytest_gradhealth.baseline.entry import Entry
from pytest_gradhealth.baseline.initialisation import initialisation_changes
from pytest_gradhealth.baseline.initialisation import settled as settled_weights
from pytest_gradhealth.baseline.numbers import KeptNumbers
from pytest_gradhealth.baseline.within import number_changes, settled
from pytest_gradhealth.formatting import listing
from pytest_gradhealth.results.diagnosis import Limit

#: Within what numbers of a baseline still hold where no tolerance is given.
UNASKED = 1e-3

CheckStatus = Literal["same", "changed", "better", "worse", "missing", "new", "written"]


@dataclass(frozen=True)
class Result:
    """What the end of a run has to know of a check: `entry` only where an update is to write it."""

    file: str
    key: str
    status: CheckStatus
    changes: tuple[Change, ...] = ()
    entry: Entry | None = None


@dataclass(frozen=True)
class Check:
    """A probe beside its baseline.

    `file` is where the baseline is, from pytest's rootdir, and `key` its name in there. `before` is
    None where there is none: "missing", or "new" where another run is compared with. "changed" is
    neither better nor worse, as other layers are; "written" is what an update is to keep.
    """

    file: str
    key: str
    status: CheckStatus
    entry: Entry
    before: Entry | None = None
    comparison: Comparison = field(default_factory=Comparison)

    @property
    def result(self) -> Result:
        """What came of it, without what was compared."""
        entry = self.entry if self.status == "written" else None
        return Result(self.file, self.key, self.status, self.comparison.changes, entry)

    @property
    def failing(self) -> tuple[Change, ...]:
        """The changes that fail a test, none where they are to be kept."""
        return () if self.status == "written" else self.comparison.worse

    def failing_by(self, fail_on: Collection[str]) -> Check:
        """The same, with those changes alone that some names of --gradhealth-fail-on stand for."""
        changes = tuple(change for change in self.failing if change.fails in fail_on)
        return replace(self, comparison=replace(self.comparison, changes=changes))


@dataclass(frozen=True)
class Now:
    """What is to be compared: the first look and, where there was one, the second.

    Numbers are compared within `rtol`, if that is asked for.
    """

    entry: Entry
    later: Entry | None = None
    rtol: Limit | None = None


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
    what it is if nothing is kept, or no numbers for this device: "written" where all that has
    changed is to be kept itself.
    """
    before, entry = kept.get(key), now.entry
    if before is None:
        asked = entry if now.rtol is not None else replace(entry, numbers={})
        return Check(file, key, absent, asked)
    entry = replace(
        entry,
        numbers={**before.numbers, **_settled(before, now)},
        weights=settled_weights(before.weights, entry.weights) or before.weights,
    )
    comparison = compare(before, entry, max_path, max_step)
    if comparison.worse and now.later is not None:
        second = compare(before, now.later, max_path, max_step)
        changes = _confirmed(comparison.changes, second.worse, entry)
        comparison = replace(comparison, changes=tuple(changes))
    comparison = replace(comparison, changes=(*_others(before, now), *comparison.changes))
    status: CheckStatus
    if absent == "written":
        status = "same" if is_same(before, entry) and not comparison.changes else "written"
    elif any(change.fails == "regression" for change in comparison.worse):
        status = "worse"
    elif comparison.worse:
        status = "changed"
    elif unknown(before, entry):
        status = absent
    elif comparison.better:
        status = "better"
    else:
        status = "changed" if comparison.changes else "same"
    return Check(file, key, status, entry, before, comparison)


def unknown(before: Entry, entry: Entry) -> list[str]:
    """What an entry keeps that was never kept before, in words."""
    places = [place for place in entry.numbers if place not in before.numbers]
    words = [f"numbers on {listing(places)}"] if places else []
    return words + ["the initialisation"] * bool(entry.weights and not before.weights)


def _others(before: Entry, now: Now) -> Iterator[Change]:
    """What has changed beside paths and layers: initialisations, and numbers of the same place."""
    yield from initialisation_changes(before.weights, now.entry.weights)
    for place, numbers in now.entry.numbers.items():
        if now.rtol is not None and place in before.numbers:
            yield from number_changes(before.numbers[place], numbers, now.rtol)


def _settled(before: Entry, now: Now) -> Mapping[str, KeptNumbers]:
    """The numbers that are to be kept, those of before where they still hold.

    Without a tolerance there are no more of them than before.
    """
    rtol = UNASKED if now.rtol is None else now.rtol.value
    return {
        place: settled(before.numbers.get(place), numbers, rtol)
        for place, numbers in now.entry.numbers.items()
        if now.rtol is not None or place in before.numbers
    }


def _confirmed(
    changes: Sequence[Change], second: Sequence[Change], entry: Entry
) -> Iterator[Change]:
    """What is left of changes after a second look, each by itself, worst first.

    Numbers that look worse, and zeros, have to do so in both. Silence is neither better nor worse
    where the rules have found it harmless.
    """
    seen = {(change.kind, change.layer) for change in second}
    harmless = entry.verdict != "failure"
    kept = [
        replace(change, worse=False) if harmless and change.after == -math.inf else change
        for change in changes
        if not (change.worse and (change.is_number or change.kind == "zero"))
        or (change.kind, change.layer) in seen
    ]
    yield from sorted(kept, key=lambda change: not change.worse)
