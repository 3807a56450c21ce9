"""Whatever a user has named, in whatever is printed, on whatever terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_gradhealth import Cause, Diagnosis, Evidence, Finding, Option, Quantity, Rule, probe
from pytest_gradhealth.formatting import BLOCKS, LONGEST_LINE
from pytest_gradhealth.plugin.transport import Recorded, carried, spoken

pytestmark = pytest.mark.usefixtures("_nets")

#: Control characters and commands; a command that a wrapped line would begin with; a long one.
HOSTILE = {
    "controls": "a\n::error file=x::y\r\x1b[31m\x1b]0;t\x07\x9b2J\u202e\u200b\u2028\ud800"
    "##[error]##vso[b]",
    "words": "::error::a ::warning::b " * 12,
    "long": "::" + "n" * 30_000 + "\n::error::",
}

CONFTEST = """
import json
from pathlib import Path

import pytest
from torch import nn

from pytest_gradhealth import CannotApplyError, Cause, Quantity, Remedy, Rule

NAME = json.loads(Path("name.json").read_text())


@pytest.hookimpl(optionalhook=True)
def pytest_gradhealth_rules(config):
    def check(evidence):
        profile = evidence.first
        if profile.outputs[0].type != "Linear" and profile.outputs[1].type == "Tanh":
            yield RULE.finding("failure", NAME, NAME, profile=profile, value=0.5)

    RULE = Rule(
        NAME, NAME, NAME, NAME, check, None, quantity=Quantity(lambda _: 0.5, NAME, NAME),
        cause=Cause(NAME, NAME), exhibit=lambda *_: NAME,
    )
    return [RULE]


@pytest.hookimpl(optionalhook=True)
def pytest_gradhealth_remedies(config):
    def cannot(patient):
        raise CannotApplyError(NAME)

    def cure(patient):
        patient.model[0].__class__ = nn.Linear

    return [
        Remedy(NAME, (NAME,), cannot, "", NAME), Remedy(NAME + "2", (NAME,), cure, NAME, NAME)
    ]
"""

TESTS = """
import os

import pytest
import torch
from torch import nn

from conftest import NAME
from pytest_gradhealth import MissingBaselineError, ProbeError

X = torch.ones(4, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name in (NAME, NAME + "2"):
            self.add_module(name, nn.Linear(8, 8))

    def forward(self, x):
        for layer in self.children():
            x = torch.tanh(layer(x))
        return x


class Layer(nn.Linear):
    pass


class SGD(torch.optim.SGD):
    pass


def loss(outputs):
    return outputs.square().mean()


def raising(*_):
    raise RuntimeError(NAME)


for kind in (Net, Layer, SGD, loss, raising):
    kind.__name__ = kind.__qualname__ = NAME.replace("\\ud800", "")  # which Python refuses


def tell(function, *arguments, **options):
    '''Fail with the words of an error alone: pytest prints the user's own that led to it raw.'''
    try:
        function(*arguments, **options)
    except ProbeError as error:
        text = str(error)
    pytest.fail(text, pytrace=False)


@pytest.mark.gradhealth(baseline=True)
def test_note(gradhealth):
    net = Net()
    if os.path.exists("worse"):
        for parameter in net.parameters():
            parameter.data.mul_(0.01)
    gradhealth.probe(net, X)


@pytest.mark.skipif(not os.path.exists("worse"), reason="for the second run")
class TestFails:
    def test_path(self, gradhealth):
        net = Net()
        optimizer = SGD(net.parameters(), lr=0.1)
        gradhealth.assert_healthy(
            net, X, loss=loss, optimizer=optimizer, min_ratio=0.9, remedy_budget=0
        )

    def test_own_rule(self, gradhealth):
        net = nn.Sequential(Layer(8, 8), nn.Tanh(), nn.Linear(8, 4))
        gradhealth.assert_healthy(
            net, X, loss=loss, msg=NAME, remedy_budget=20, ignore=["GH"]
        )

    def test_missing(self, gradhealth):
        gradhealth.assert_matches_baseline(Net(), X, name=NAME)

    def test_key(self, gradhealth):
        with pytest.raises(MissingBaselineError):
            gradhealth.assert_matches_baseline(Net(), X, name=NAME)
        tell(gradhealth.assert_matches_baseline, Net(), X, name=NAME)

    @pytest.mark.gradhealth(min_ratio=NAME)
    def test_marker(self, gradhealth):
        pass

    def test_setting(self, gradhealth):
        tell(gradhealth.probe, Net(), X, **{NAME: 1})

    @pytest.mark.parametrize("arguments", [{"loss": raising}, {"optimizer": raising}])
    def test_raises(self, gradhealth, arguments):
        tell(gradhealth.assert_no_exploding_update, Net(), X, **arguments)

    def test_forward(self, gradhealth):
        net = Net()
        net.register_forward_hook(raising)
        tell(gradhealth.probe, net, X)

    def test_backward(self, gradhealth):
        net = Net()
        net.register_full_backward_hook(raising)
        tell(gradhealth.probe, net, X)

    def test_outputs(self, gradhealth):
        tell(gradhealth.probe, Net(), {NAME: X})

    @pytest.mark.parametrize("name", [NAME], ids=[NAME[:200].replace("##", "")])
    def test_name(self, gradhealth, name):
        gradhealth.assert_healthy(Net(), X, min_ratio=0.9, remedy_budget=0)
"""


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_name_does_harm_in_what_is_printed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    name = HOSTILE[kind]
    Path("name.json").write_text(json.dumps(name))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    options = ["-p", "no:cacheprovider", "-v", "--tb=short"]
    pytester.runpytest(*options, "--gradhealth-update").assert_outcomes(passed=1, skipped=12)
    Path("worse").touch()
    result = pytester.runpytest(
        *options,
        "--gradhealth-report",
        "--gradhealth-fail-on=missing,stale,warning",
        "--junitxml=r.xml",
        f"--gradhealth-html={encodable(name)[:100]}",
    )
    result.assert_outcomes(passed=1, failed=11, errors=1)
    check(result.stdout.str())
    assert "worse: test_note: " in result.stdout.str()
    assert "2  cured " in result.stdout.str(), "a row of a table is a line"


def encodable(name: str) -> str:
    """What the name of a file can be."""
    return name.encode(errors="ignore").decode()


def check(text: str) -> None:
    """No control characters, no command of a name's, nothing that fills a screen."""
    for line in text.split("\n"):
        assert line.isprintable()
        assert len(line) <= LONGEST_LINE + len("E   pytest_gradhealth.GradientHealthError: ")
        assert not re.search(r"##\w*\[", line)
        if line.lstrip().startswith("::"):
            assert re.match(r"::(error|warning) file=[\w.]+,line=\d+,title=[^,:]*::", line)


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_argument_does_harm_in_what_stops_a_run(pytester: pytest.Pytester, kind: str) -> None:
    name = encodable(HOSTILE[kind])[:200]
    Path("report.json").write_text(json.dumps({"version": 1, "probes": [{name: 1}]}))
    for option in (
        f"--gradhealth-html={name}/",
        f"--gradhealth-json=report.json/{name}",
        f"--gradhealth-compare={name}",
        f"--gradhealth-fail-on={name}",
        f"--gradhealth-baseline-dir=/{name}",
        f"--gradhealth-min-ratio={name}",
    ):
        Path(name).mkdir(exist_ok=True)
        result = pytester.runpytest(option, "-p", "no:cacheprovider")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        check(result.stderr.str())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_a_terminal_shows_what_it_has_characters_for(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    pytester.makeconftest(
        f"""
import io

import pytest


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    stream = io.TextIOWrapper(open("screen", "wb"), {encoding!r}, newline="", write_through=True)
    config.pluginmanager.get_plugin("terminalreporter")._tw._file = stream
    config.add_cleanup(stream.close)
"""
    )
    pytester.makepyfile(
        """
import pytest
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.größe, self.層 = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, x):
        return self.層(self.größe(x).tanh()).tanh()

def test_net(gradhealth):
    gradhealth.assert_healthy(Net(), torch.ones(2, 4), min_ratio=0.99, remedy_budget=0)

@pytest.mark.xfail
def test_known(gradhealth):
    gradhealth.assert_healthy(Net(), torch.ones(2, 4), min_ratio=0.99, remedy_budget=0)

@pytest.mark.gradhealth(baseline=True)
def test_missing(gradhealth):
    gradhealth.probe(Net(), torch.ones(2, 4))
"""
    )
    monkeypatch.setenv("COLUMNS", "120")
    options = ["--gradhealth-report", "--color=yes", "-p", "no:cacheprovider"]
    assert pytester.inline_run(*options, "--gradhealth-fail-on=missing").ret == 1
    text = Path("screen").read_bytes().decode(encoding)
    assert "Error: the gradient vanishes: " in text
    assert "no baseline for test_missing in " in text
    assert "without a baseline: test_missing; " in text
    report = text.partition("= gradient health =")[2].partition("= short test summary")[0]
    shown = {"ascii": r"gr\xf6\xdfe", "cp437": "größe", "latin-1": "größe", "utf-8": "größe"}
    assert f"of it reaches {shown[encoding]} (Linear)" in report
    assert ("層" if encoding == "utf-8" else r"\u5c64") in report
    assert r"\x1b" not in report
    assert ({*BLOCKS} & {*report} != set()) == (encoding == "utf-8")


def test_words_of_own_rules_can_be_sent_to_another_process() -> None:
    def check(evidence: Evidence) -> Iterator[Finding]:
        yield rule.finding("failure", name, name, profile=evidence.first, value=0.5)

    name = HOSTILE["controls"]
    rule = Rule(name, name, name, name, check, None, cause=Cause(name, name))
    rule = replace(rule, quantity=Quantity(lambda _: 0.5, name, name), exhibit=lambda *_: name)
    found = probe(nn.Linear(4, 4), torch.ones(2, 4))
    profile = found.profile
    found = replace(
        found,
        findings=tuple(check(Evidence(profile, None, {}))),
        origin=replace(found.origin, rules=(rule,)),
    )
    sent = json.dumps(carried(Recorded(found)), ensure_ascii=False).encode()
    (said,) = spoken(json.loads(sent)["rules"]).rules
    assert said.code == name.encode(errors="backslashreplace").decode()
    (finding,) = Diagnosis.from_dict(json.loads(sent)["diagnosis"]).findings
    assert said.explain(finding, profile) == Cause(said.code, said.code)


def test_the_page_of_an_own_rule_can_be_sent_to_another_process() -> None:
    own = Option("max_gap", "the largest gap", 0.5)
    doc = "OWN1: a gap.\n\n## Why\n\nGaps are bad."
    rule = Rule(
        "OWN1", "gap", "no gaps", "the gap", lambda _: (), doc=doc, settings=(own, "max_dead")
    )
    found = probe(nn.Linear(4, 4), torch.ones(2, 4))
    found = replace(found, origin=replace(found.origin, rules=(rule,)))
    (said,) = spoken(json.loads(json.dumps(carried(Recorded(found))))["rules"]).rules
    assert said.page == rule.page
    assert "It reads: the gap." in said.page
    assert "- `max_gap`: the largest gap (default: 0.5)" in said.page
