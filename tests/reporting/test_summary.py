"""One line on all probes of a run."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from pytest_gradhealth import Probe, Run
from pytest_gradhealth.reporting.summary import verdict_line
from tests.helpers.runs import measured, net


def test_one_line_on_all_probes() -> None:
    healthy = Probe("t", "passed", measured(net()))
    failing = Probe("t", "failed", measured(net(nn.Sigmoid, 12)))
    expected = replace(failing, outcome="xfailed")
    for probes, line in (
        ((), "no test probed a model"),
        ((healthy,), "1 probe, healthy"),
        ((healthy, expected), "2 probes: 1 fails as expected"),
        ((failing,), "1 of 1 probe fails"),
        ((failing, failing, healthy), "2 of 3 probes fail"),
    ):
        assert verdict_line(Run(probes)) == line
