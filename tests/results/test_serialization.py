"""The way of records to plain builtins and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pytest_gradhealth import Diagnosis, GradientPath, PathPoint, ProbeError, probe
from pytest_gradhealth.results.diagnosis import Finding, Limit
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.results.profile import GradientProfile, OutputRecord, ParameterRecord
from pytest_gradhealth.results.serialization import from_plain
from tests.helpers.nets import batch, mlp

numbers = st.floats(allow_nan=False)


plain_text = st.text(max_size=12)


@st.composite
def diagnoses(draw: st.DrawFn) -> Diagnosis:
    points = tuple(
        PathPoint(
            draw(plain_text),
            "Linear",
            tuple(draw(st.lists(st.integers(1, 99), max_size=3))),
            draw(numbers),
            draw(st.integers(1, 1000)),
            activation=draw(numbers),
            ops=tuple(draw(st.lists(plain_text, max_size=2))),
            width=draw(st.none() | st.integers(1, 9)),
        )
        for _ in range(draw(st.integers(1, 3)))
    )
    profile = GradientProfile(
        seed=draw(st.integers(0, 99)),
        steps=0,
        loss=draw(numbers),
        paths=(GradientPath(points, points[0], judged=draw(st.booleans())),),
        outputs=(OutputRecord(draw(plain_text), "ReLU", "measured", (2, 3), 6, draw(numbers)),),
        parameters=(ParameterRecord(draw(plain_text), (3,), "none", draw(numbers)),),
        non_finite=draw(st.none() | st.just(NonFinite("backward", "a", "B", "nan"))),
        awake=("x",),
    )
    finding = Finding("GH101", "vanishing", "failure", "0", draw(plain_text), draw(numbers), seed=0)
    return Diagnosis(
        draw(plain_text),
        "failure",
        (finding,),
        (profile,),
        limits={"min_ratio": Limit(draw(numbers), "default")},
    )


@given(diagnoses())
def test_a_diagnosis_survives_json(diagnosis: Diagnosis) -> None:
    text = json.dumps(diagnosis.to_dict(), allow_nan=False)
    assert Diagnosis.from_dict(json.loads(text)) == diagnosis


def test_a_measured_diagnosis_survives_json_with_its_text() -> None:
    x, _ = batch()
    diagnosis = probe(mlp(), x, loss=lambda outputs: (outputs * math.nan).sum())
    again = Diagnosis.from_dict(json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False)))
    assert str(again) == str(diagnosis)
    assert again.to_dict() == diagnosis.to_dict()


def test_unknown_keys_of_a_newer_writer_are_ignored_and_missing_ones_are_not() -> None:
    x, _ = batch()
    data: dict[str, Any] = probe(mlp(), x).to_dict()
    assert Diagnosis.from_dict({**data, "mood": "good"}).to_dict() == data
    del data["profiles"]
    with pytest.raises(ProbeError, match=r"^this is no diagnosis \(TypeError: .*profiles'\); pass"):
        Diagnosis.from_dict(data)


def test_records_cannot_be_changed() -> None:
    x, _ = batch()
    diagnosis = probe(mlp(), x)
    with pytest.raises(dataclasses.FrozenInstanceError):
        diagnosis.verdict = "failure"  # type: ignore[misc]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.attention(x, x, x)[0]
        return out


def test_what_does_not_fit_is_named_and_its_cause_kept() -> None:
    data: dict[str, Any] = {**probe(nn.Linear(4, 2), torch.ones(2, 4)).to_dict(), "model": 3}
    with pytest.raises(ValueError, match=r"^model is 3, not a string") as caught:
        from_plain(Diagnosis, data, checked=True)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: nn.Linear(4, 2), {"precision": "float16", "loss_scale": 8}),
        (lambda: nn.Linear(4, 2), {"regularizer": lambda model: model.weight.norm()}),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1)), {"seeds": 2}),
        (lambda: nn.Linear(4, 2), {"loss": lambda out: out.sum() * math.inf}),
        (lambda: nn.GRU(4, 4, batch_first=True), {"dependency": 2, "loss": lambda o: o[0].sum()}),
        (Attention, {}),
    ],
)
def test_what_is_measured_is_what_the_types_say(
    make: Callable[[], nn.Module], options: dict[str, Any]
) -> None:
    x = torch.randn(3, 5, 4)
    diagnosis = probe(make(), x, **{"loss": lambda out: out.square().mean(), **options})
    data = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert repr(from_plain(Diagnosis, data, checked=True)) == repr(Diagnosis.from_dict(data))
