"""What the gate makes of a probe beside what was kept of another one."""

from __future__ import annotations

from pytest_gradhealth import Diagnosis
from pytest_gradhealth.baseline.check import Check, Now, check_entry
from pytest_gradhealth.baseline.entry import Entry
from pytest_gradhealth.plugin.baseline_gate import kept_of
from pytest_gradhealth.results.diagnosis import Limit


def compared(before: Entry | Diagnosis, after: Diagnosis) -> Check:
    """The check of a probe against another one, or against what a file says of it."""
    second = next((p for p in after.looks(after.seeds[0]) if p.steps), None)
    return check_entry(
        Now(kept_of(after, {}), None if second is None else kept_of(after, {}, second)),
        {"k": before if isinstance(before, Entry) else kept_of(before, {})},
        file="f.json",
        key="k",
        max_path=Limit(0.5, "default"),
        max_step=Limit(1.0, "default"),
    )
