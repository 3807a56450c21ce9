"""An update keeps what has changed beyond noise."""

from __future__ import annotations

import dataclasses

from pytest_gradhealth.baseline.check import Now, check_entry
from pytest_gradhealth.baseline.entry import Entry, KeptPath
from pytest_gradhealth.results.diagnosis import Limit
from tests.helpers.baselines import PATH, PLAIN, STEP, entry, path


def test_an_update_keeps_what_has_changed_beyond_noise() -> None:
    kept = {"a": entry(PLAIN)}

    def status(after: KeptPath, key: str = "a", *, update: bool = True) -> str:
        return check_entry(
            Now(entry(after)),
            kept,
            file="f.json",
            key=key,
            max_path=PATH,
            max_step=STEP,
            absent="written" if update else "missing",
        ).status

    noisy = path(("0", "Linear", -1.03), ("1", "ReLU", -0.79), ("2", "Linear", -0.4))
    other = path(("0", "Linear", -1.2), ("1", "ReLU", -0.79), ("2", "Linear", -0.4))
    better = path(("0", "Linear", -0.4), ("1", "ReLU", -0.4), ("2", "Linear", -0.4))
    assert [status(p) for p in (PLAIN, noisy, other, better)] == [
        "same",
        "same",
        "written",
        "written",
    ]
    assert status(other, update=False) == "same"
    assert status(better, update=False) == "better"
    assert status(path(("0", "Linear", -9.0), ("2", "Linear", -0.4)), update=False) == "worse"
    assert status(better, "b") == "written"
    assert status(better, "b", update=False) == "missing"


def test_an_update_keeps_whatever_would_fail_without_it() -> None:
    kept = {"a": dataclasses.replace(entry(PLAIN), output=0.0)}

    def status(after: Entry, limit: float = 1.0, *, update: bool = True) -> str:
        change = Limit(limit, "default")
        return check_entry(
            Now(after),
            kept,
            file="f",
            key="a",
            max_path=change,
            max_step=change,
            absent="written" if update else "missing",
        ).status

    louder = dataclasses.replace(entry(PLAIN), output=2.0)
    noisy = entry(path(("0", "Linear", -1.04), ("1", "ReLU", -0.79), ("2", "Linear", -0.4)))
    noisy = dataclasses.replace(noisy, output=0.0)
    assert status(louder, update=False) == "worse"
    assert status(louder) == "written"
    assert status(noisy, 0.01, update=False) == "worse"
    assert status(noisy, 0.01) == "written"
    assert status(noisy) == "same"
    assert status(dataclasses.replace(louder, output=None)) == "written"
