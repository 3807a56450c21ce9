"""An update keeps what has changed beyond noise."""

from __future__ import annotations

import dataclasses

from pytest_gradhealth.baseline.check import Now, check_entry
from pytest_gradhealth.baseline.entry import Entry, KeptParameters, KeptPath, Use
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.flow import FlowRecord
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


def test_an_update_keeps_what_older_files_do_not_know() -> None:
    flow = (FlowRecord("0", ("2",), 1, 1), FlowRecord("2", ("(loss)",), 1, 1))
    known = dataclasses.replace(entry(PLAIN), flow=flow)

    def status(before: Entry) -> str:
        return check_entry(
            Now(known),
            {"a": before},
            file="f.json",
            key="a",
            max_path=PATH,
            max_step=STEP,
            absent="written",
        ).status

    assert [status(before) for before in (entry(PLAIN), known)] == ["written", "same"]


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


def test_a_second_look_clears_each_number_by_itself_and_no_layers() -> None:
    """What training makes of the outputs, or of layers, says nothing about the first look."""

    def known(kept: KeptPath, output: float, use: Use) -> Entry:
        parameters = (KeptParameters("0", "gradient", 64), KeptParameters("2", use, 8))
        return dataclasses.replace(entry(kept), output=output, parameters=parameters)

    quiet = path(("0", "Linear", -3.0), ("1", "ReLU", -2.6), ("2", "Linear", -0.4))
    before = {"a": known(PLAIN, 0.0, "gradient")}

    def failing(now: Entry, later: Entry | None) -> list[str]:
        check = check_entry(
            Now(now, later), before, file="f", key="a", max_path=PATH, max_step=STEP
        )
        return sorted(change.kind for change in check.failing)

    assert failing(known(quiet, 0.0, "gradient"), None) == ["path", "step"]
    assert failing(known(quiet, 0.0, "gradient"), known(PLAIN, 3.0, "gradient")) == []
    assert failing(known(quiet, 3.0, "gradient"), known(PLAIN, 3.0, "gradient")) == ["output"]
    assert failing(known(quiet, 0.0, "frozen"), known(PLAIN, 0.0, "frozen")) == ["lost"]
    assert failing(known(quiet, 0.0, "gradient"), known(quiet, 0.0, "gradient")) == ["path", "step"]
