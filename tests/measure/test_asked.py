"""A question about a model leaves no trace, and none is asked of one that waits for others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure import asked as asking
from pytest_gradhealth.subject.subject import Subject


def subject() -> Subject:
    return Subject(nn.Linear(2, 2), torch.ones(1, 2), None, None, torch.device("cpu"))


@asking.asked("nobody knows")
def question(subject: Subject, error: type[Exception] | None = None) -> str:
    """Ask."""
    nn.init.zeros_(subject.model.get_parameter("weight"))
    if error is not None:
        raise error
    return "known"


def test_a_question_is_answered_and_leaves_no_trace() -> None:
    given = subject()
    before = given.model.get_parameter("weight").clone()
    assert question(given) == "known"
    assert torch.equal(given.model.get_parameter("weight"), before)
    assert question.__doc__ == "Ask."


@pytest.mark.parametrize("error", [ProbeError, RuntimeError])
def test_a_model_that_fails_is_no_answer(error: Any) -> None:
    assert question(subject(), error) == "nobody knows"


def test_a_fault_of_the_package_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        question(subject(), KeyError)


def test_a_model_that_waits_for_others_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "waits_for_others", lambda _: True)
    assert question(subject(), KeyError) == "nobody knows"
