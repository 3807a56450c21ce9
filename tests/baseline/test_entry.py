"""What is kept of a probe."""

from __future__ import annotations

import math

import pytest

from pytest_gradhealth.baseline.entry import entry_of
from tests.helpers.baselines import diagnosed


def test_what_is_kept_are_the_norms_of_the_first_look_in_decades() -> None:
    diagnosis = diagnosed()
    kept = entry_of(diagnosis, {"torch": "2"})
    (measured,) = diagnosis.paths
    assert [p.layer for p in kept.paths[0].points] == [str(i) for i in range(7)]
    for mine, theirs in zip(kept.paths[0].points, measured.points, strict=True):
        assert mine.norm == pytest.approx(math.log10(theirs.norm), abs=0.006)
    assert kept.paths[0].ratio == pytest.approx(measured.l2, abs=0.006)
    assert kept.limits["min_ratio"] == 1e-5
    assert kept.environment == {"device": "cpu", "optimizer": "Adam(lr=0.001)", "torch": "2"}
