"""Layers and parameters that a rule is told to ignore by patterns of their names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from pytest_gradhealth import (
    Diagnosis,
    Evidence,
    Finding,
    Rule,
    SettingError,
    assert_healthy,
    probe,
)
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes, of, said
from tests.helpers.nets import batch, mlp
from tests.helpers.projects import run

cross_entropy = nn.functional.cross_entropy


def tokens() -> nn.Module:
    """Three tokens that nothing uses, two of them in an encoder."""
    encoder = Wired(
        lambda m, x: m.body(x),
        body=mlp(),
        mask_token=nn.Parameter(torch.zeros(4)),
        class_token=nn.Parameter(torch.zeros(4)),
    )
    return Wired(lambda m, x: m.encoder(x), encoder=encoder, token=nn.Parameter(torch.zeros(4)))


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("token", "encoder.mask_token and encoder.class_token (2 parameters)"),
        ("encoder.mask_token", "token and encoder.class_token (2 parameters)"),
        ("*_token", "token (1 parameter)"),
        ("*.mask_*", "token and encoder.class_token (2 parameters)"),
        ("encoder", "token (1 parameter)"),
        ("enc*er", "token (1 parameter)"),
        ("*.[!m]*", "token and encoder.mask_token (2 parameters)"),
        ("*", ""),
    ],
)
def test_what_a_pattern_names_does_not_count(pattern: str, left: str) -> None:
    (x, y), model = batch(), tokens()
    found = of(probe(model, x, y, loss=cross_entropy, ignore=f"GH405:{pattern}"), "GH405")
    assert [f.message for f in found] == [f"the loss does not depend on {left}"][: bool(left)]


def test_rules_of_others_name_what_they_like() -> None:
    def check(evidence: Evidence) -> Iterator[Finding]:
        yield mine.finding("warning", "budget of all", "too many", profile=evidence.first)

    mine = Rule(code="MY001", name="budget", summary="few steps", reads="steps", check=check)
    (x, y), model = batch(), tokens()
    ignored = ["MY001:budget of*"]
    found = probe(model, x, y, loss=cross_entropy, rules=[mine], select=["MY001"], ignore=ignored)
    assert found.findings == ()


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("mask_token", "did you mean 'encoder.mask_token'?"),
        ("ENCODER", "did you mean 'encoder'?"),
        ("encoder.cls_token", "did you mean 'encoder.class_token'?"),
        ("encodr.*_token", "did you mean 'encoder.mask_token'?"),
        ("*.pooler.*", "its parts are encoder and token"),
        ("encoder.body.0.weights", "did you mean 'encoder.body.0.weight'?"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused(pattern: str, said: str) -> None:
    (x, y), model, codes = batch(), tokens(), f"GH405:token,GH4:{pattern}"
    words = (
        f"the call: ignore = 'GH4:{pattern}' fits no layer and no parameter of the model; {said}"
    )
    for probed in (model, probe(model, x, y, loss=cross_entropy)):
        with pytest.raises(SettingError) as caught:
            assert_healthy(probed, x, y, loss=cross_entropy, ignore=codes)
        assert str(caught.value) == words


@pytest.mark.parametrize(
    "pattern", ["encoder.body", "*.2", "encoder.body.0.bias", "(output)", "tok?n", "*y.[0-2]"]
)
def test_a_pattern_fits_whatever_is_in_the_model_or_sees_the_batch(pattern: str) -> None:
    (x, y), model = batch(), tokens()
    assert probe(model, x, y, loss=cross_entropy, ignore=f"GH4:{pattern}") is not None


def test_a_pattern_is_for_the_rules_of_its_code() -> None:
    (x, y), model = batch(), tokens()
    for ignored in ("GH401:*", "GH1:*,GH2:*"):
        diagnosis = probe(model, x, y, loss=cross_entropy, ignore=ignored)
        assert len(of(diagnosis, "GH405")) == 1
    assert probe(model, x, y, loss=cross_entropy, ignore="GH4:*").findings == ()


def test_what_fails_elsewhere_fails_still() -> None:
    x, y = batch()
    model = Wired(
        lambda m, x: m.body(x) + m.a(x).detach() + m.b(x).detach(),
        body=mlp(),
        a=nn.Linear(20, 5),
        b=nn.Linear(20, 5),
    )
    both = probe(model, x, y, loss=cross_entropy)
    one = probe(model, x, y, loss=cross_entropy, ignore=["GH401:a.*"])
    assert [f.message for d in (both, one) for f in d.findings] == [
        "no gradient reaches 4 parameters (a.weight, a.bias, b.weight and 1 more): cut off from"
        " the loss",
        "no gradient reaches 2 parameters (b.weight and b.bias): cut off from the loss",
    ]
    assert_healthy(model, x, y, loss=cross_entropy, ignore=["GH401:a", "GH401:b.*"])


def test_layers_of_dead_units_are_ignored_by_name() -> None:
    model = mlp(hidden=3)
    with torch.no_grad():
        model.get_parameter("2.bias").fill_(-100.0)
    x, y = batch()
    sick = probe(model, x, y, loss=cross_entropy, select="GH402")
    assert [f.layer for f in sick.findings] == ["3"]
    for pattern, left in (("3", []), ("[345]", []), ("1", ["GH402"])):
        found = probe(model, x, y, loss=cross_entropy, select="GH402", ignore=f"GH402:{pattern}")
        assert codes(found) == left


def test_a_finding_that_names_a_layer_is_dropped_with_it() -> None:
    x, y = batch()
    model = mlp(nn.Sigmoid, hidden=20)
    diagnosis = probe(model, x, y, loss=cross_entropy, select="GH101", confirm_steps=0)
    (finding,) = diagnosis.findings
    again = assert_healthy(diagnosis, select="GH101", ignore=[f"GH101:{finding.layer}"])
    assert again.findings == ()


def test_to_ignore_a_part_makes_no_failure_of_a_warning() -> None:
    """A dead adapter without the rest would be all there is."""
    x, y = batch()
    model = Wired(
        lambda m, x: m.body(x) + x @ m.A @ m.B,
        body=mlp(),
        A=nn.Parameter(torch.zeros(20, 2)),
        B=nn.Parameter(torch.zeros(2, 5)),
    )
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "warning", "A")]
    assert said(probe(model, x, y, loss=cross_entropy, ignore="GH401:body")) == []


def loud(evidence: Evidence) -> Iterator[Finding]:
    names = [p.name for p in evidence.first.parameters]
    yield LOUD.finding("failure", "head#1", ", ".join(names), profile=evidence.first)


LOUD = Rule("MY1", "loud", "is not loud", "the names", loud)


def test_rules_of_ones_own_ignore_by_the_same_names() -> None:
    x, y = batch()
    model = Wired(lambda m, x: m.head(m.stem(x)), stem=nn.Linear(20, 5), head=nn.Linear(5, 5))

    def found(**settings: Any) -> list[str]:
        diagnosis = probe(model, x, y, loss=cross_entropy, rules=[LOUD], **settings)
        return [finding.message for finding in diagnosis.findings]

    assert found() == ["stem.weight, stem.bias, head.weight, head.bias"]
    assert found(ignore="MY1:*.bias") == ["stem.weight, head.weight"]
    assert found(ignore="MY:stem,MY1:head.bias") == ["head.weight"]
    assert found(ignore="MY1:head") == [], "the finding names a call of it"


def judged_as(diagnosis: Diagnosis, **settings: Any) -> list[tuple[str, str, str]]:
    return said(assert_healthy(diagnosis, **settings))


def test_a_diagnosis_is_judged_again_with_other_patterns() -> None:
    (x, y), model = batch(), tokens()
    diagnosis = probe(model, x, y, loss=cross_entropy, ignore="GH405:*")
    assert diagnosis.findings == ()
    assert judged_as(diagnosis) == [("GH405", "warning", "token")]
    assert judged_as(diagnosis, ignore="GH405:token") == [("GH405", "warning", "encoder")]


PROJECT = """
import pytest, torch
from torch import nn
from torch.nn.functional import cross_entropy

class Net(nn.Module):
    forwards = 0

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.pooler, self.mask_token = nn.Bilinear(2, 2, 2), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        Net.forwards += 1
        return self.encoder(x)

def test_a(gradhealth):
    model, x, y = Net(), torch.randn(8, 4), torch.arange(8) % 3
    with pytest.raises(AssertionError, match="mask_token"):
        gradhealth.assert_all_reached(model, x, y, loss=cross_entropy, ignore=["GH405:pooler.*"])
    seen = Net.forwards
    with pytest.raises(AssertionError, match="pooler"):
        gradhealth.assert_all_reached(model, x, y, loss=cross_entropy, ignore=["GH405:mask*"])
    gradhealth.assert_all_reached(model, x, y, loss=cross_entropy, ignore=["GH405:[pm]*"])
    assert Net.forwards == seen

def test_b(gradhealth):
    model, x, y = Net(), torch.randn(8, 4), torch.arange(8) % 3
    gradhealth.assert_healthy(model, x, y, loss=cross_entropy)
"""


@pytest.mark.parametrize("by", ["flag", "ini", "marker"])
def test_patterns_from_the_command_line_ini_and_marker(pytester: pytest.Pytester, by: str) -> None:
    ignored = "GH405:pooler.*", "GH405:mask_token", "GH401:in_another_model"
    marked = f"@pytest.mark.gradhealth(ignore={[*ignored]!r})\ndef test_b"
    text = PROJECT if by != "marker" else PROJECT.replace("def test_b", marked)
    pytester.makepyfile(text)
    if by == "ini":
        pytester.makeini(f"[pytest]\ngradhealth_ignore = {' '.join(ignored)}")
    flags = [f"--gradhealth-ignore={','.join(ignored)}"] if by == "flag" else []
    for option in ("--gradhealth-update", "--gradhealth-json=report.json"):
        run(pytester, "--gradhealth-baseline", option, *flags).assert_outcomes(passed=2)
    report = json.loads((pytester.path / "report.json").read_text())
    found = {p["test"].rpartition("::")[2]: p["diagnosis"]["findings"] for p in report["probes"]}
    assert [finding["code"] for finding in found["test_b"]] == ["GH101"]  # of one layer, no more
