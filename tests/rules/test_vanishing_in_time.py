"""Gradients that do not get as far back in time as the dependency asks fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_gradhealth import (
    Diagnosis,
    ProbeError,
    VanishingInTimeError,
    assert_healthy,
    assert_no_vanishing_in_time,
    probe,
)
from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.results.times import TimeRecord
from pytest_gradhealth.rules.rule import Evidence
from pytest_gradhealth.rules.vanishing_in_time import RULE
from tests.helpers.architectures import Wired
from tests.helpers.recurrences import classifier, positive, relu_rnn, sequences

cross_entropy = F.cross_entropy


def said(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    return [(f.severity, f.layer, f.message) for f in diagnosis.findings if f.code == "GH102"]


def test_a_loss_on_every_step_hides_nothing() -> None:
    """Its gradient is nearly level over time, and says nothing on how far back it came from."""
    rnn = relu_rnn(0.1, batch_first=True)
    model = Wired(lambda m, x: m.rnn(x)[0], rnn=rnn)
    x = positive(2, 20, 4).requires_grad_()
    loss = rnn(x)[0].sum()
    (gradient,) = torch.autograd.grad(loss, x)
    level = gradient.norm(dim=(0, 2))
    assert (level[0] / level.max()).item() > 0.9
    diagnosis = probe(model, x, loss=lambda y: y.sum(), dependency=10)
    assert [s for s, _, _ in said(diagnosis)] == ["failure"]


def test_the_message_says_what_gets_how_far_and_what_to_type() -> None:
    model = classifier(nn.RNN(8, 8, batch_first=True))
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(0.3 * torch.eye(8))
        model.rnn.weight_ih_l0.mul_(1e-3)
        model.rnn.bias_ih_l0.zero_()
        model.rnn.bias_hh_l0.zero_()
    x, y = sequences(13)
    with pytest.raises(VanishingInTimeError) as caught:
        assert_no_vanishing_in_time(
            model, x, y, loss=cross_entropy, dependency=12, confirm_steps=0, remedy_budget=0
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "the gradient vanishes in time: x5.3e-07 of it gets 12 steps back in rnn; limit x1e-05"
        " (default), passed after 9 steps [GH102]"
    )
    assert lines[2].startswith(
        "Wired on cpu, loss cross_entropy, trained with Adam(lr=0.001), seed "
    )
    assert lines[4].split() == ["steps", "back", "norm", "share"]
    table = [line.split() for line in lines[5:16]]
    shown = (0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12)
    marks = [""] * 10 + [">"]
    rows = zip(marks, shown, strict=True)
    assert [(row[0] if row[0] == ">" else "", row[-4], row[-2]) for row in table] == [
        (mark, str(d), f"x{number(0.3**d)}") for mark, d in rows
    ]
    assert lines[-5:] == [
        "cause:  each step of rnn (RNN) passes on x0.3 of the gradient",
        "try:    nn.init.orthogonal_(model.rnn.weight_hh_l0), or an nn.LSTM with a",
        "        forget-gate bias",
        "accept: min_ratio=1e-07, if this is meant to be",
        "rule:   pytest --gradhealth-explain GH102",
    ]


def test_a_dependency_that_is_reached_passes() -> None:
    torch.manual_seed(0)
    x, y = sequences()
    model = classifier(nn.LSTM(8, 32, batch_first=True))
    with pytest.raises(VanishingInTimeError, match="a larger forget-gate bias"):
        assert_no_vanishing_in_time(
            model, x, y, loss=cross_entropy, dependency=27, remedy_budget=0, min_ratio=1e-3
        )
    with torch.no_grad():
        model.rnn.bias_hh_l0[32:64] = math.log(28)
    diagnosis = assert_no_vanishing_in_time(model, x, y, loss=cross_entropy, dependency=27)
    assert diagnosis.verdict == "healthy"
    assert assert_no_vanishing_in_time(diagnosis, dependency=27).verdict == "healthy"
    assert assert_healthy(model, x, y, loss=cross_entropy, dependency=27).profile.times


def test_without_a_dependency_nothing_is_measured() -> None:
    x, y = sequences()
    model = classifier(nn.RNN(8, 8, batch_first=True))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.profile.times == ()
    assert said(diagnosis) == []
    with pytest.raises(ProbeError) as caught:
        assert_no_vanishing_in_time(diagnosis, dependency=27)
    assert str(caught.value) == (
        "this diagnosis was made without a dependency; pass the model, or probe(..., dependency=27)"
    )


def test_another_dependency_than_was_measured() -> None:
    x, y = sequences()
    model = classifier(nn.LSTM(8, 8, batch_first=True))
    diagnosis = probe(model, x, y, loss=cross_entropy, dependency=3)
    with pytest.raises(ProbeError) as caught:
        assert_no_vanishing_in_time(diagnosis, dependency=27)
    assert str(caught.value) == (
        "this diagnosis was made with dependency=3; pass the model, or probe(..., dependency=27)"
    )


def test_the_second_look_can_clear_a_layer() -> None:
    """A recurrent weight of zero that the first steps of training bring to life."""
    rnn = relu_rnn(0.0, batch_first=True)
    model = Wired(lambda m, x: m.rnn(x)[0][:, -1], rnn=rnn)
    x = positive(4, 3, 4)
    options: dict[str, Any] = {
        "loss": lambda y: -y.sum(),
        "dependency": 2,
        "optimizer": lambda ps: torch.optim.SGD(ps, lr=1.0),
        "min_ratio": 1e-5,
        "warn_min_ratio": 1e-5,
    }
    assert [s for s, _, _ in said(probe(model, x, confirm_steps=0, **options))] == ["failure"]
    assert said(probe(model, x, **options)) == []


def test_the_verdict_does_not_move_with_the_loss() -> None:
    x, y = sequences()
    model = classifier(nn.RNN(8, 8, batch_first=True))

    def reach(scale: float) -> float:
        diagnosis = probe(model, x, y, loss=lambda o, t: scale * cross_entropy(o, t), dependency=27)
        (record,) = diagnosis.profiles[0].times
        return record.reach

    assert reach(1e-4) == reach(1.0) == reach(1e4)


REMEMBERING: dict[str, tuple[Callable[[], Any], str]] = {
    "RNN": (lambda: nn.RNN(8, 32, batch_first=True), "orthogonal recurrence"),
    "LSTM": (lambda: nn.LSTM(8, 32, batch_first=True), "open gates"),
    "GRU": (lambda: nn.GRU(8, 32, batch_first=True), "open gates"),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_the_code_in_the_message_makes_it_remember(name: str) -> None:
    build, remedy = REMEMBERING[name]
    torch.manual_seed(0)
    x, y = sequences(56)
    x[:, 0] += 3 * F.one_hot(y, 8)
    options: dict[str, Any] = {
        "loss": cross_entropy,
        "dependency": 55,
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
    }
    with pytest.raises(VanishingInTimeError) as caught:
        assert_no_vanishing_in_time(classifier(build()), x, y, **options, remedy_budget=60)
    assert caught.value.diagnosis is not None
    cured = {t.remedy: t for t in caught.value.diagnosis.treatments if t.outcome == "cured"}
    assert list(cured) == [remedy]
    space: dict[str, Any] = {"model": classifier(build()), "nn": nn}
    exec(cured[remedy].code, space)
    assert_no_vanishing_in_time(space["model"], x, y, **options)


def reading(every: int) -> Wired:
    """A network that predicts each step from those before, with a state cut every so many steps."""

    def use(m: Any, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(2, len(x), 6)
        said = []
        for index, step in enumerate(x.unbind(1)):
            given = state.detach() if index % every == 0 else state
            state = torch.stack(m.cell(step[:, None], (given[0], given[1])))
            said.append(m.head(state[0]))
        return torch.cat(said, 1)

    return Wired(use, cell=nn.LSTMCell(1, 6), head=nn.Linear(6, 1))


CUT = {
    1: (
        "the state of cell is cut between steps: the gradient reaches 0 steps back; limit 5 steps"
        " (dependency, the call)",
        "a detach() of the state at every step of cell (or .data, no_grad, numpy)",
        "pass the state on as it is, and detach it between batches only",
    ),
    2: (
        "the state of cell is cut every 2 steps: the gradient reaches 1 step back; limit 5 steps"
        " (dependency, the call)",
        "truncated backpropagation: a detach() of the state every 2 steps (or .data, no_grad,"
        " numpy)",
        "detach it every 6 steps or more, or declare dependency=1",
    ),
}


@pytest.mark.parametrize("every", CUT)
def test_a_state_that_is_cut_is_said_to_be_cut(every: int) -> None:
    x = torch.randn(4, 12)
    with pytest.raises(VanishingInTimeError) as caught:
        assert_healthy(
            reading(every), x[:, :-1], x[:, 1:], loss=F.mse_loss, dependency=5, remedy_budget=0
        )
    message, because, advice = CUT[every]
    assert said(caught.value.diagnosis) == [("failure", "cell", message)]
    text = " ".join(str(caught.value).split())
    assert text.startswith(f"{message} [GH102]")
    assert f"cause: {because} try: {advice}" in text


def test_truncated_backpropagation_beyond_the_dependency_is_fine() -> None:
    x = torch.randn(4, 12)
    diagnosis = probe(reading(7), x[:, :-1], x[:, 1:], loss=F.mse_loss, dependency=5)
    assert said(diagnosis) == []
    (record,) = diagnosis.profile.times
    assert (record.cut, record.norms[6] > 0, record.norms[7]) == (7, True, 0.0)
    strict = probe(reading(7), x[:, :-1], x[:, 1:], loss=F.mse_loss, dependency=5, min_ratio=0.9)
    ((_, _, message),) = said(strict)
    assert message.startswith("the gradient vanishes in time: x")


def test_of_a_gradient_that_gets_nowhere_none_gets_back() -> None:
    record = TimeRecord("rnn", "RNN", norms=(1.0, 1e-3, 0.0, 0.0), dependency=3)
    look = GradientProfile(0, 0, 2.3, paths=(), times=(record,))
    limits = {name: Limit(1e-5, "default") for name in ("min_ratio", "warn_min_ratio")}
    (finding,) = RULE.judge(Evidence(look, None, limits))
    assert finding.message == (
        "the gradient vanishes in time: none of it gets 3 steps back in rnn; limit x1e-05"
        " (default), passed after 1 step"
    )
