"""What was measured is judged by other limits, but for what fails by these alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import Diagnosis, assert_no_vanishing, built_in_rules, probe
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.probing.cache import ProbeCache
from pytest_gradhealth.probing.case import Case
from tests.helpers.architectures import Wired
from tests.helpers.nets import batch, mlp

LAX = {"min_ratio": 1e-300, "warn_min_ratio": 1e-300}
STRICT = {"min_ratio": 0.99, "warn_min_ratio": 0.99}


def judged(model: nn.Module, inputs: Any, targets: Tensor, *settings: Any) -> list[Diagnosis]:
    """Diagnoses with one setting after the other, where nothing but the first look is wanted."""
    cache, case = ProbeCache(), Case(model, inputs, targets, cross_entropy)
    given = (Settings().merged({"confirm_steps": 0, **each}, "the call") for each in settings)
    return [cache.diagnose(case, each, built_in_rules(), 0) for each in given]


def test_what_was_measured_is_judged_by_other_limits() -> None:
    lax, usual = judged(mlp(), *batch(), LAX, {})
    assert lax.verdict == usual.verdict == "healthy"
    assert lax.profiles is usual.profiles


def test_what_is_known_to_fail_is_not_measured_again() -> None:
    one, other = judged(mlp(nn.Sigmoid, hidden=10), *batch(), {}, {"max_ratio": 1e9})
    assert one.verdict == other.verdict == "failure"
    assert one.profiles is other.profiles


def loop() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A cell that forgets what a layer makes of its context, which looks like depth at first."""

    def forward(m: Any, context: Tensor, data: Tensor) -> Tensor:
        state = m.begin(context)
        for now in data.unbind(1):
            state = m.cell(now, state)
        out: Tensor = m.head(state)
        return out

    cell, ends = nn.RNNCell(3, 8), {"begin": nn.Linear(5, 8), "head": nn.Linear(8, 4)}
    inputs = torch.randn(8, 5), torch.randn(8, 40, 3)
    return Wired(forward, cell=cell, **ends), inputs


def test_what_seems_to_fail_is_asked_whether_it_is_a_loop() -> None:
    torch.manual_seed(0)
    model, inputs = loop()
    for diagnosis in judged(model, inputs, torch.arange(8) % 4, LAX, {}):
        assert diagnosis.verdict == "healthy", diagnosis


def test_a_diagnosis_is_asked_again_for_what_it_newly_fails() -> None:
    """The same loop, first probed with the rule left out, or with limits that let it pass."""
    torch.manual_seed(0)
    model, inputs = loop()
    for settings in ({"select": ["GH203"]}, {"ignore": ["GH101"]}, LAX):
        diagnosis = probe(model, inputs, torch.arange(8) % 4, loss=cross_entropy, **settings)
        assert len(diagnosis.profiles) == 1
        assert_no_vanishing(diagnosis)


def test_what_fails_is_read_as_a_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 1024), nn.ReLU(), nn.Linear(1024, 5))
    healthy, failing = judged(model, torch.randn(200, 20), torch.arange(200) % 5, LAX, STRICT)
    assert failing.verdict == "failure"
    kept = [{output.sampled for output in d.profile.outputs} for d in (healthy, failing)]
    assert kept == [{"", "activation"}, {""}]
