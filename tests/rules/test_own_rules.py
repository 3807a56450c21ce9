"""A rule from the hook gets all that a built-in one has: told side by side with its twin."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import (
    Cause,
    Diagnosis,
    Evidence,
    Finding,
    GradientHealthError,
    Option,
    Patient,
    Quantity,
    Remedy,
    Rule,
    SettingError,
    View,
    assert_healthy,
    built_in_rules,
    probe,
)
from pytest_gradhealth.remedies.trial import treat
from pytest_gradhealth.reporting.message import render
from pytest_gradhealth.results.diagnosis import Limit
from tests.helpers.nets import batch, mlp
from tests.helpers.projects import run

BUILT_IN = next(rule for rule in built_in_rules() if rule.code == "GH203")
LOUDEST = Option("loudest", "MY203 fails when the RMS of the outputs is above this", 1e3)


def too_loud(evidence: Evidence) -> Iterator[Finding]:
    limit, size, second = evidence.limits["loudest"], evidence.first.magnitude, evidence.second
    if size is None or not size > limit.value:
        return
    if second is not None and second.magnitude is not None and second.magnitude <= 100:
        return
    yield OWN.finding(
        "failure",
        evidence.first.judged_paths[0].last.label,
        f"the outputs are too large: their RMS is {size:.2g};"
        f" limit {limit.value:.2g} ({limit.source})",
        profile=evidence.first,
        value=size,
        limit=limit,
    )


OWN = Rule(
    "MY203",
    "too-loud",
    "the model's outputs must not be loud",
    "RMS of the outputs",
    too_loud,
    doc="## What it does\n\nListens.",
    settings=(LOUDEST,),
    quantity=Quantity(lambda look: look.magnitude, "output", "{}"),
    cause=BUILT_IN.cause,
)


def quieter(patient: Patient) -> str:
    assert isinstance(patient.model, nn.Sequential)
    head = patient.model[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(1e-6)
    return "model[-1].weight.data *= 1e-6"


REMEDY = Remedy("quieter head", ("GH203", "MY203"), quieter)


def loud() -> nn.Sequential:
    torch.manual_seed(0)
    head = nn.Linear(16, 4)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), head)
    with torch.no_grad():
        head.weight.mul_(1e6)
    return model


def loss(outputs: Tensor) -> Tensor:
    return torch.log(outputs.square().mean())


def judged(code: str, **settings: Any) -> Diagnosis:
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    diagnosis = probe(loud(), inputs, loss=loss, rules=[OWN], select=[code], **settings)
    return replace(diagnosis, treatments=treat(diagnosis, diagnosis.findings, [REMEDY], 60.0))


def translated(text: str) -> str:
    return text.replace("GH203", "MY203").replace("max_output", "loudest")


def test_its_message_is_that_of_a_built_in_rule_line_by_line() -> None:
    built_in, own = judged("GH203"), judged("MY203")
    view = View(rerun="pytest test_a.py::test_b", own=("MY203",))
    theirs, ours = (render(diagnosis, view=view).splitlines() for diagnosis in (built_in, own))
    place = theirs.index("rule:   pytest --gradhealth-explain GH203")
    # Pytest knows of it where it loads the conftest of the test.
    assert ours.pop(place) == "rule:   pytest test_a.py::test_b --gradhealth-explain MY203"
    del theirs[place]
    assert ours == [translated(line) for line in theirs]
    assert not any(line.startswith("rule:") for line in str(own).splitlines())
    assert ours[0].startswith("the outputs are too large: their RMS is 3.1e+05; limit 1e+03")
    starts = [line.partition(" ")[0] for line in ours]
    assert {"looked", "cause:", "accept:", "remedy", "quieter", "write"} <= {*starts}
    assert "accept: loudest=1e+06, if this is meant to be" in ours


def test_its_number_is_shown_for_the_second_look_and_for_remedies() -> None:
    diagnosis = judged("MY203")
    (treatment,) = diagnosis.treatments
    assert treatment.outcome == "cured"
    assert treatment.before.value == diagnosis.profile.magnitude
    assert treatment.after is not None
    assert treatment.after.value == pytest.approx(1e-6 * (treatment.before.value or 0), rel=0.1)
    lines = str(diagnosis).splitlines()
    assert any(
        line.startswith("looked at again after 5 steps") and "output" in line for line in lines
    )
    (head,) = [line for line in lines if line.startswith("remedy")]
    assert head.split() == ["remedy", "outcome", "output", "loss", "steps"]


def test_without_a_number_the_path_is_what_is_seen_again() -> None:
    plain = replace(OWN, quantity=None, cause=None)
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    text = str(probe(loud(), inputs, loss=loss, rules=[plain], select=["MY203"]))
    assert "looked at again after 5 steps of Adam(lr=0.001): x" in text
    assert "cause:" not in text


def test_its_setting_is_read_from_the_call_and_shown_with_its_source() -> None:
    assert judged("MY203", loudest=1e6).verdict == "healthy"
    failed = judged("MY203", loudest="2e3")
    (finding,) = failed.findings
    assert (finding.limit, finding.limit_source) == (2e3, "the call")
    assert failed.limits["loudest"].source == "the call"
    with pytest.raises(SettingError, match=r"^the call: loudest = -1 is not a positive number$"):
        judged("MY203", loudest=-1)
    with pytest.raises(SettingError, match=r"unknown setting 'quietest'; the .*, loudest$"):
        judged("MY203", quietest=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("loudness",),
            "rule MY203 reads 'loudness', which is no setting; the settings are device",
        ),
        (
            (Option("max_output", "other words", 3.0),),
            "rule MY203 brings a setting 'max_output', which there is already",
        ),
    ],
)
def test_settings_that_nobody_could_tell_apart_are_refused(
    settings: tuple[str | Option, ...], message: str
) -> None:
    inputs, targets = batch()
    with pytest.raises(SettingError, match=f"^{message}"):
        probe(
            mlp(),
            inputs,
            targets,
            loss=nn.CrossEntropyLoss(),
            rules=[replace(OWN, settings=settings)],
        )


def test_two_rules_may_share_a_setting_of_their_own() -> None:
    twin = replace(OWN, code="MY204")
    inputs = torch.randn(16, 8)
    loudest: Any = {"loudest": 1e9}
    found = probe(loud(), inputs, loss=loss, rules=[OWN, twin], select=["MY"], **loudest)
    assert found.verdict == "healthy"


def test_it_may_name_a_setting_that_there_is() -> None:
    assert replace(OWN, settings=("max_output",)).options == BUILT_IN.options


def test_its_page_has_what_a_built_in_page_has() -> None:
    assert OWN.page == (
        "# MY203 too-loud\n\n"
        "The model's outputs must not be loud.\n\n"
        "It reads: RMS of the outputs.\n\n"
        "## What it does\n\nListens.\n\n"
        "## Settings\n\n"
        "- `loudest`: MY203 fails when the RMS of the outputs is above this (default: 1e3)\n\n"
        '## When to ignore it\n\n`ignore=["MY203"]` in a call or a marker, or'
        " `--gradhealth-ignore=MY203`, leaves it\nout; with `:encoder.*` behind the code for some"
        " layers.\n"
    )


def test_rules_do_without_docstrings_where_python_leaves_them_out() -> None:
    code = "from pytest_gradhealth.rules import built_in_rules as b; print(b()[0].page)"
    command = [sys.executable, "-OO", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("# GH101 vanishing\n\nThe gradient must not vanish")
    assert "## Settings" in ran.stdout


def test_its_cause_may_be_told_from_what_was_measured() -> None:
    def cause(finding: Finding, look: Any) -> Cause:
        return Cause(f"{finding.layer} of {len(look.parameters)} parameters shouts", "a gag")

    own = replace(OWN, cause=cause)
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    lines = str(probe(loud(), inputs, loss=loss, rules=[own], select=["MY203"])).splitlines()
    assert "cause:  2 of 4 parameters shouts" in lines
    assert "try:    a gag" in lines


def test_its_own_table_takes_the_place_of_the_path() -> None:
    def exhibit(diagnosis: Diagnosis, findings: Any, view: View) -> str:
        return f"{len(findings)} of {diagnosis.model}, {view.width} wide"

    own = replace(OWN, exhibit=exhibit)
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    blocks = str(probe(loud(), inputs, loss=loss, rules=[own], select=["MY203"])).split("\n\n")
    assert blocks[1:3] == [
        "Sequential on cpu, loss loss, trained with Adam(lr=0.001), seed 0",
        "1 of Sequential, 76 wide",
    ]


QUIETEST = Option("quietest", "MY203 fails when the RMS of the outputs is below this", 0.1)
NONE = "no loudest lets this pass; --gradhealth-ignore=MY203 leaves the rule out"


@pytest.mark.parametrize(
    ("changes", "value", "limit", "text"),
    [
        ({}, 1234.0, 1e3, "loudest=1e+04, if this is meant to be"),
        ({}, 1.5e-7, 1e-3, "loudest=1e-07, if this is meant to be"),
        ({}, math.inf, 1e3, NONE),
        ({}, math.nan, 1e3, NONE),
        ({}, 0.0, 1e3, NONE),
        ({}, -3.0, 1e3, NONE),
        ({"settings": ()}, 1234.0, 1e3, "--gradhealth-ignore=MY203 leaves the rule out"),
        ({"unacceptable": 1e3}, 1234.0, 1e2, ""),
        ({"unacceptable": 1e-3}, 1e-2, 0.1, "loudest=1e-02, if this is meant to be"),
        ({"unacceptable": 1e-3}, 1e-4, 0.1, ""),
        ({"settings": (LOUDEST._replace(share=True),)}, 0.123, 0.1, "loudest=0.13, if this is"),
        ({"settings": (LOUDEST._replace(share=True),)}, 0.123, 0.2, "loudest=0.12, if this is"),
        ({"settings": (LOUDEST._replace(share=True),)}, 0.001, 0.2, NONE),
        ({"settings": (LOUDEST, QUIETEST)}, 0.03, 0.1, "quietest=1e-02, if this is meant to be"),
        ({"settings": (LOUDEST._replace(parse=lambda _: 1 / 0),)}, 1234.0, 1e3, NONE),
    ],
)
def test_what_would_let_it_pass(
    changes: dict[str, Any], value: float, limit: float, text: str
) -> None:
    limits = {"loudest": Limit(1e3, "default"), "quietest": Limit(0.1, "default")}
    finding = Finding("MY203", "too-loud", "failure", "2", "", value, limit)
    assert replace(OWN, **changes).acceptance(finding, limits).startswith(text)
    assert bool(text) == bool(replace(OWN, **changes).acceptance(finding, limits))


X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


def test_a_diagnosis_brings_its_rules_to_assertions() -> None:
    diagnosis = probe(loud(), X, loss=loss, rules=[OWN], select=["MY"])
    loudest: Any = {"loudest": 1e9}
    with pytest.raises(GradientHealthError, match=r"the outputs are too large.*MY203"):
        assert_healthy(diagnosis, select=["MY"])
    assert assert_healthy(diagnosis, select=["MY"], **loudest).verdict == "healthy"


@pytest.mark.parametrize(
    "option",
    [
        *(Option(name, "", 1.0) for name in ("eps", "warn_max_output", "loss", "max-x", "", "for")),
        *(LOUDEST._replace(default=default) for default in (None, "a", (1,), True)),
        LOUDEST._replace(use="measurement"),
    ],
)
def test_what_cannot_be_a_setting_of_its_own(option: Option) -> None:
    with pytest.raises(SettingError, match=f"^rule MY203 brings a setting {option.name!r}"):
        probe(loud(), X, loss=loss, rules=[replace(OWN, settings=(option,))])


def test_a_limit_may_be_off_by_default() -> None:
    own = replace(OWN, settings=(LOUDEST._replace(default=math.inf),))
    diagnosis = probe(loud(), X, loss=loss, rules=[own], select=["MY"])
    assert diagnosis.verdict == "healthy"
    assert Diagnosis.from_dict(diagnosis.to_dict()).limits == diagnosis.limits
    assert "(default: inf)" in own.page


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([None], "rules has a NoneType in it; pass pytest_gradhealth.Rule objects"),
        ([OWN, replace(OWN, name="other")], "two rules have the code MY203"),
        ([replace(OWN, code="GH203")], "two rules have the code GH203"),
        (0, "rules is a int; pass pytest_gradhealth.Rule objects in a list"),
    ],
)
def test_rules_that_cannot_be_applied_together(rules: Any, message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        probe(loud(), X, loss=loss, rules=rules)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"confirm_from": "failures"},
            "confirm_from of rule MY203 is 'failures'; pass one of failure, warning, not judged,"
            " info or None",
        ),
        ({"code": None}, "code of rule None is None; pass a string"),
        (
            {"cause": ("a", "b")},
            "cause of rule MY203 is ('a', 'b'); pass a Cause or a function or None",
        ),
        ({"echoes": ("GH101", 1)}, "echoes of rule MY203 is ('GH101', 1); pass a tuple of strings"),
        ({"error": ValueError}, "error of rule MY203 is <class 'ValueError'>; pass a subclass of"),
        ({"unacceptable": True}, "unacceptable of rule MY203 is True; pass a number or None"),
        (
            {"settings": ("max_ratio", 1)},
            "settings of rule MY203 is ('max_ratio', 1); pass a tuple of strings or Options",
        ),
    ],
)
def test_a_rule_that_cannot_be_is_refused_where_it_is_made(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(message)}"):
        replace(OWN, **changes)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: (),
            "the check of rule MY203 raised TypeError: .*; it is called with the Evidence and"
            " returns findings, or None$",
        ),
        (lambda _: 3, "the check of rule MY203 raised TypeError: "),
        (
            lambda _: ["bad"],
            r"the check of rule MY203 yields a str; yield what rule\.finding\(\.\.\.\) returns$",
        ),
    ],
)
def test_a_check_that_fails_names_its_rule(check: Any, message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        probe(loud(), X, loss=loss, rules=[replace(OWN, check=check)])


def broken(*_: Any) -> Any:
    raise ZeroDivisionError("of mine")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cause": broken}, "cause:  unknown: that of MY203 raised ZeroDivisionError: of mine"),
        (
            {"cause": lambda *_: ("a", "b")},
            "cause:  unknown: that of MY203 raised AttributeError: ",
        ),
        ({"exhibit": broken}, "(the table of MY203 raised ZeroDivisionError: of mine)"),
        ({"exhibit": lambda *_: None}, "accept: loudest=1e+06"),
        ({"exhibit": lambda *_: "\x1b[31m::error::" + "a" * 1000}, "?[31m::error::aaa"),
        ({"quantity": Quantity(broken)}, "accept: loudest=1e+06"),
        ({"quantity": Quantity(lambda _: 2.0, "\n" + "n" * 99, "\x1b{}")}, ": ?nnn..nnnnnnnnnn ?2"),
        ({"quantity": Quantity(lambda _: 2.0, "n", "{:.2f}")}, "Adam(lr=0.001): n 2"),
    ],
)
def test_what_is_wrong_with_a_rule_does_not_hide_what_failed(
    changes: dict[str, Any], text: str
) -> None:
    diagnosis = probe(loud(), X, loss=loss, rules=[replace(OWN, **changes)], select=["MY"])
    treatments = treat(diagnosis, diagnosis.findings, [REMEDY], 60.0)
    message = str(replace(diagnosis, treatments=treatments))
    assert message.startswith("the outputs are too large")
    assert text in message
    assert max(map(len, message.splitlines())) <= 400
    assert all(character.isprintable() or character == "\n" for character in message)


def test_a_page_keeps_what_is_no_title() -> None:
    page = replace(OWN, doc="See\n\nMY203: not this\n\nrest").page
    assert "See\n\nMY203: not this\n\nrest" in page
    assert "## Settings" in replace(OWN, doc="").page


def test_only_rules_on_scale_are_excused_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    layers = [m for _ in range(20) for m in (nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(8, 4)).eval()

    def check(evidence: Evidence) -> Iterator[Finding]:
        if not evidence.first.awake and evidence.first.paths[0].vanishing < -3:
            yield rule.finding("failure", "0", "small", profile=evidence.first)

    for of_scale, severity in ((True, "info"), (False, "failure")):
        rule = replace(OWN, check=check, of_scale=of_scale, confirm_from=None, settings=())
        diagnosis = probe(model, X, loss=loss, rules=[rule], select=["MY"])
        assert [finding.severity for finding in diagnosis.findings] == [severity]


MODULE = """
import torch
from torch import nn
from pytest_gradhealth import Option, Quantity, Remedy, Rule

def check(evidence):
    limit, size = evidence.limits["loudest"], evidence.first.magnitude
    if size > limit.value:
        text = f"their RMS is {size:.2g}; limit {limit.value:g} ({limit.source})"
        yield RULE.finding(
            "failure", "(output)", text, profile=evidence.first, value=size, limit=limit
        )

RULE = Rule(
    "MY203", "too-loud", "not too loud", "RMS", check,
    settings=(Option("loudest", "the most", 1e3),),
    quantity=Quantity(lambda look: look.magnitude, "loudness", "{}"),
)

def pytest_gradhealth_rules(config):
    return [RULE]

def change(patient):
    patient.model[-1].weight.data *= 1e-6
    return "hush"

def pytest_gradhealth_remedies(config):
    return [Remedy("hush", ("MY203",), change)]
"""
TESTS = """
import pytest
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    model[2].weight.data *= 1e6
    return model

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
def loss(y): return y.square().mean().log()

def test_loud(gradhealth):
    gradhealth.assert_healthy(model(), X, loss=loss)

@pytest.mark.gradhealth(loudest=1e9)
def test_marked(gradhealth):
    gradhealth.assert_healthy(model(), X, loss=loss)

def test_called(gradhealth):
    gradhealth.assert_healthy(model(), X, loss=loss, loudest=1e9)

@pytest.mark.gradhealth(loudset=1e9)
def test_misspelt(gradhealth):
    pass
"""


@pytest.fixture
def in_project(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    pytester.makeconftest(MODULE)
    pytester.makepyfile(test_own=TESTS)
    return partial(pytester.runpytest, "-p", "no:cacheprovider", "--gradhealth-select=MY")


def test_in_a_project_its_setting_is_a_setting(
    in_project: Callable[..., pytest.RunResult],
) -> None:
    result = in_project("--gradhealth-report")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*@pytest.mark.gradhealth on test_misspelt: unknown setting 'loudset'; did you mean"
            " loudest?",
            "E *their RMS is 2.4e+05; limit 1000 (default) [[]MY203[]]",
            "E *looked at again after * of Adam(lr=0.001): loudness *",
            "E *remedy  *outcome *loudness *",
            "E *hush  *cured *",
            "*gradient health*",
        ]
    )


def test_in_a_report_each_rule_speaks_for_itself(pytester: pytest.Pytester) -> None:
    other = MODULE.replace('"loudness"', '"noise"').replace('"the most", 1e3', '"the most", 2e3')
    for folder, conftest in (("a", MODULE), ("b", other)):
        pytester.mkpydir(folder).joinpath("conftest.py").write_text(conftest)
        (pytester.path / folder / f"test_{folder}.py").write_text(TESTS)
    options = ("--gradhealth-select=MY", "-k", "loud", "--gradhealth-report", "--tb=no")
    for more in ((), ("-n", "1")):
        result = run(pytester, *options, *more, "--gradhealth-sarif=out.sarif")
        result.assert_outcomes(failed=2)
        heads = [line.split()[2] for line in result.outlines if line.startswith("remedy ")]
        assert heads == ["loudness", "noise"]
        rules = json.loads((pytester.path / "out.sarif").read_text())["runs"][0]["tool"]["driver"]
        (own,) = [rule for rule in rules["rules"] if rule["id"] == "MY203"]
        assert (own["name"], own["shortDescription"]["text"]) == ("too-loud", "not too loud")


def test_in_a_test_limits_of_its_own_share_a_probe(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(MODULE)
    pytester.makepyfile(
        TESTS
        + """
def test_twice(gradhealth):
    net, calls = model(), []
    net.register_forward_hook(lambda *_: calls.append(1))
    gradhealth.assert_healthy(net, X, loss=loss, loudest=1e9)
    once = len(calls)
    gradhealth.assert_healthy(net, X, loss=loss, loudest=1e8)
    assert len(calls) == once
    with pytest.raises(AssertionError, match="MY203"):
        gradhealth.assert_healthy(net, X, loss=loss, loudest=10)
"""
    )
    result = pytester.runpytest("-p", "no:cacheprovider", "--gradhealth-select=MY", "-k", "twice")
    result.assert_outcomes(passed=1)


def test_two_folders_of_one_test_may_not_bring_the_same_setting(
    pytester: pytest.Pytester,
) -> None:
    inner = MODULE.replace("MY203", "MY204").replace('"the most", 1e3', '"the most", 2e3')
    pytester.makeconftest(MODULE)
    pytester.mkpydir("a").joinpath("conftest.py").write_text(inner)
    (pytester.path / "a" / "test_a.py").write_text(TESTS)
    result = pytester.runpytest("-p", "no:cacheprovider", "-k", "loud")
    result.stdout.fnmatch_lines(["E *SettingError: rule MY204 brings a setting 'loudest', which*"])


def test_a_hook_that_skips_its_folder_leaves_the_others_alone(pytester: pytest.Pytester) -> None:
    skipping = "import pytest\ndef pytest_gradhealth_rules(config): pytest.importorskip('no_such')"
    for folder, conftest in (("a", ""), ("b", skipping)):
        pytester.mkpydir(folder).joinpath("conftest.py").write_text(conftest)
        (pytester.path / folder / f"test_{folder}.py").write_text(TESTS)
    options = "-p", "no:cacheprovider", "-k", "loud", "--gradhealth-report"
    pytester.runpytest(*options).assert_outcomes(failed=1, skipped=1)


def test_a_rule_may_find_what_has_another_code() -> None:
    def check(evidence: Evidence) -> Iterator[Finding]:
        yield replace(next(too_loud(evidence)), code="MY999")

    own = replace(OWN, check=check, confirm_from=None)
    diagnosis = probe(loud(), X, loss=loss, rules=[own], select=["MY"])
    remedy = replace(REMEDY, symptoms=("MY999",))
    (treatment,) = treat(diagnosis, diagnosis.findings, [remedy], 60.0)
    assert treatment.before.value is None
    assert "accept: --gradhealth-ignore=MY999 leaves the rule out" in str(diagnosis).splitlines()


@pytest.mark.parametrize("rule", built_in_rules(), ids=lambda rule: rule.code)
def test_built_in_rules_can_be_pickled(rule: Rule) -> None:
    assert pickle.loads(pickle.dumps(rule)).code == rule.code


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *itertools.product(("severity",), ("bad", None, 1)),
        *itertools.product(("message", "layer"), (None, 3)),
        *itertools.product(("value", "limit"), ("1", True, (1,))),
        *itertools.product(("seed", "path"), ("1", 1.5, True)),
        ("code", None),
    ],
)
def test_a_finding_that_is_none_names_its_rule(field: str, wrong: Any) -> None:
    def check(evidence: Evidence) -> list[Finding]:
        return [replace(finding, **{field: wrong}) for finding in too_loud(evidence)]

    with pytest.raises(SettingError, match=f"^{field} of a finding of rule MY203 is .*; pass "):
        probe(loud(), X, loss=loss, rules=[replace(OWN, check=check)])


def test_numbers_of_a_finding_may_be_of_any_library() -> None:
    def check(evidence: Evidence) -> list[Finding]:
        numbers = {"value": torch.tensor(5.0), "seed": torch.tensor(0), "path": torch.tensor(0)}
        return [replace(finding, **numbers) for finding in too_loud(evidence)]  # type: ignore[arg-type]

    own = replace(OWN, check=check)
    (finding,) = probe(loud(), X, loss=loss, rules=[own], select=["MY"]).findings
    assert repr((finding.value, finding.seed, finding.path)) == "(5.0, 0, 0)"


def test_a_fault_of_the_package_is_not_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_gradhealth.rules.exploding_output.number", broken)
    with pytest.raises(SettingError) as caught:
        probe(loud(), X, loss=loss)
    assert str(caught.value) == (
        "the check of rule GH203 raised ZeroDivisionError: of mine; that is a fault of"
        " pytest-gradhealth, not of the model; to go on without the rule, pass ignore=['GH203'], or"
        " --gradhealth-ignore=GH203"
    )
    assert probe(loud(), X, loss=loss, ignore=["GH203"]).verdict
