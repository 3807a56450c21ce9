"""What a test compares with its baseline, under which key, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_gradhealth import ProbeError, assert_matches_baseline
from tests.helpers.projects import FILE, NETS, ONE, TWO, damage, kept, run

pytestmark = pytest.mark.usefixtures("_nets")


def test_written_same_and_worse(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    # What workers write is seen in test_baseline_session.py.
    pytester.makepyfile(test_models=TWO)
    result = run(pytester, "--gradhealth-update")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"wrote {FILE}: new: test_deep and test_net"])
    assert sorted(kept()) == ["test_deep", "test_net"]
    before = Path(FILE).read_bytes()

    result = run(pytester)
    result.assert_outcomes(passed=2)
    assert "gradient baselines" not in result.stdout.str()

    worse = TWO.replace("BATCH, net", "BATCH, net, nn").replace("net()", "net(nn.Sigmoid)")
    pytester.makepyfile(test_models=worse)
    result = run(pytester, *workers)
    result.assert_outcomes(passed=1, failed=1)
    assert "gradient baselines" not in result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "*RegressionError: * of the gradient reaches 0 (Linear); it was x* (it lost * decades;"
            " limit 0.5, default) [[]regression]",
            "*Sequential against test_* in __gradhealth__/test_models.json",
            "*accept: pytest test_models.py::test_* --gradhealth-update",
        ],
    )
    assert Path(FILE).read_bytes() == before


def test_a_missing_baseline_is_told_and_nothing_written(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=TWO)
    result = run(pytester)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*= gradient baselines =*",
            "without a baseline: test_deep and test_net; pytest --gradhealth-update writes them",
        ]
    )
    assert not Path("__gradhealth__").exists()


def test_in_ci_a_missing_baseline_fails_with_the_command(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(test_models=ONE)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"E *MissingBaselineError: no baseline for test_net in {FILE}",
            "E *next:   pytest test_models.py::test_net --gradhealth-update",
            "E *(writes it; commit the file)",
        ]
    )
    run(pytester, "--gradhealth-fail-on=regression").assert_outcomes(passed=1)


@pytest.mark.parametrize("source", ["ini", "marker", "option"])
def test_every_probe_can_have_a_baseline(pytester: pytest.Pytester, source: str) -> None:
    marker = "@pytest.mark.gradhealth(baseline=True)" if source == "marker" else ""
    pytester.makepyfile(
        test_models=f"""
import pytest
from nets import BATCH, net

{marker}
def test_net(gradhealth):
    model = net()
    gradhealth.assert_no_vanishing(model, **BATCH)
    gradhealth.assert_no_exploding(model, **BATCH)
    gradhealth.probe(net(layers=6), **BATCH)

@pytest.mark.gradhealth(baseline=False)
def test_other(gradhealth):
    gradhealth.assert_no_vanishing(net(), **BATCH)
"""
    )
    options = []
    if source == "ini":
        pytester.makeini("[pytest]\ngradhealth_baseline = true")
    if source == "option":
        options.append("--gradhealth-baseline")
    run(pytester, "--gradhealth-update", *options).assert_outcomes(passed=2)
    assert list(kept()) == ["test_net", "test_net#2"]
    damage(pytester)
    result = run(pytester, *options)
    result.assert_outcomes(failed=1, passed=1)
    text = result.stdout.str()
    assert text.count("[regression]") >= 2
    assert f"Sequential against test_net#2 in {FILE}" in text
    assert "Traceback" not in text


def test_keys_are_names_in_the_module(pytester: pytest.Pytester) -> None:
    source = """
import pytest
from nets import BATCH, net

class TestA:
    @pytest.mark.parametrize("layers", [2, 3], ids=["a/b#2", "x (y)"])
    def test_net(self, gradhealth, layers):
        gradhealth.assert_matches_baseline(net(layers=layers), **BATCH)

class TestB:
    def test_net(self, gradhealth):
        gradhealth.assert_matches_baseline(net(), **BATCH, name="small")
        gradhealth.assert_matches_baseline(net(layers=6), **BATCH, name="large")
"""
    pytester.makepyfile(**{"test_models": source, "sub/test_models": source})
    pytester.makeini("[pytest]\npythonpath = .\naddopts = --import-mode=importlib")
    run(pytester, "--gradhealth-update").assert_outcomes(passed=6)
    keys = [
        "TestA::test_net[a/b#2]",
        "TestA::test_net[x (y)]",
        "TestB::test_net (large)",
        "TestB::test_net (small)",
    ]
    assert sorted(kept()) == sorted(kept(f"sub/{FILE}")) == keys
    result = run(pytester)
    result.assert_outcomes(passed=6)
    assert "stale" not in result.stdout.str()


def test_two_checks_of_one_key_are_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_models=ONE + "    gradhealth.assert_matches_baseline(net(), **BATCH)\n"
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *ProbeError: two checks of this test have the key 'test_net' in its baseline; give"
            " each a name of its own: assert_matches_baseline(..., name='decoder')"
        ]
    )


def test_probes_of_one_test_never_share_a_key(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_models="""
from nets import BATCH, net

def test_net(gradhealth):
    gradhealth.assert_no_exploding(net(layers=6), **BATCH)
    gradhealth.assert_matches_baseline(net(), **BATCH)
"""
    )
    options = ("--gradhealth-baseline",)
    run(pytester, *options, "--gradhealth-update").assert_outcomes(passed=1)
    assert sorted(kept()) == ["test_net", "test_net#2"]
    assert len(kept()["test_net#2"]["paths"][0]["points"]) == 13
    run(pytester, *options).assert_outcomes(passed=1)
    run(pytester, "--gradhealth-prune").assert_outcomes(passed=1)
    assert sorted(kept()) == ["test_net", "test_net#2"]


@pytest.mark.parametrize("name", ["decoder (deep)", "layer #2", "plain"])
def test_any_name_of_a_check_belongs_to_its_test(pytester: pytest.Pytester, name: str) -> None:
    named = ONE.replace("**BATCH", f"**BATCH, name={name!r}")
    pytester.makepyfile(test_models=named)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    skipped = named.replace("def test_net", "import pytest\n@pytest.mark.skip\ndef test_net")
    pytester.makepyfile(test_models=skipped)
    run(pytester, "--gradhealth-prune").assert_outcomes(skipped=1)
    assert list(kept()) == [f"test_net ({name})"]


def test_a_regression_that_is_not_to_fail_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    damage(pytester)
    result = run(pytester, "--gradhealth-fail-on=missing")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["worse: test_net: x* of the gradient reaches 0 (Linear); *"])


def test_a_change_for_the_better_is_told_and_passes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    damage(pytester)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    pytester.makepyfile(nets=NETS)
    result = run(pytester)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["better: test_net: x* of the gradient reaches 0 (Linear); *(it grew by *, towards x1)"]
    )


DEEPER = NETS.replace("layers=4", "layers=5")
FROZEN = NETS.replace(
    "    return nn", "    for part in parts[:4]:\n        part.requires_grad_(False)\n    return nn"
)


def test_other_layers_fail_until_they_are_accepted(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    pytester.makepyfile(nets=DEEPER)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *Error: new on the path: 8 (72 elements; 324 got gradient before) [[]layers]",
            "E *accept: pytest test_models.py::test_net --gradhealth-update",
        ]
    )
    result = run(pytester, "--gradhealth-fail-on=regression")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["changed: test_net: new on the path: *"])
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    run(pytester).assert_outcomes(passed=1)
    assert sum(each["elements"] for each in kept()["test_net"]["parameters"]) == 396


def test_a_part_that_is_frozen_is_a_regression(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    pytester.makepyfile(nets=FROZEN)
    words = (
        "no gradient reaches 0 and 2 any more: frozen (144 of the 324 elements that got gradient)"
    )
    result = run(pytester, "--gradhealth-fail-on=layers")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"worse: test_net: {words}"])
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E *RegressionError: {words} [[]regression]"])


def test_a_file_of_the_first_format_is_read_and_says_nothing_of_layers(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    before, data = Path(FILE).read_bytes(), json.loads(Path(FILE).read_text())
    entry = data["entries"]["test_net"]
    for name in ("parameters", "unlisted", "training"):
        del entry[name]
    for path in entry["paths"]:
        del path["judged"]
    Path(FILE).write_text(json.dumps({**data, "version": 1}))
    pytester.makepyfile(nets=DEEPER)
    run(pytester).assert_outcomes(passed=1)
    pytester.makepyfile(nets=FROZEN)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *: no gradient reaches 0 (Linear) any more: is it frozen, *"])
    pytester.makepyfile(nets=NETS)
    result = run(pytester, "--gradhealth-update")
    result.stdout.fnmatch_lines([f"wrote {FILE}: changed: test_net"])
    assert Path(FILE).read_bytes() == before


def test_limits_can_be_set_anywhere(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    smaller = "    nn.init.normal_(parts[2].weight, std=0.05)\n    return nn.Sequential"
    pytester.makepyfile(nets=NETS.replace("    return nn.Sequential", smaller))
    run(pytester, "--gradhealth-max-path-change=9").assert_outcomes(passed=1)
    result = run(pytester, "--gradhealth-max-path-change=9", "--gradhealth-max-step-change=0.1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*limit 0.1, --gradhealth-max-step-change) [[]regression]*"])
    pytester.makepyfile(test_models=ONE.replace("**BATCH", "**BATCH, max_path_change=9"))
    run(pytester).assert_outcomes(passed=1)


def test_reruns_are_no_second_check(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runtestprotocol(item, nextitem=nextitem, log=False)
    item._initrequest()
    for report in runtestprotocol(item, nextitem=nextitem, log=False):
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
    )
    pytester.makepyfile(test_models=ONE)
    run(pytester, "--gradhealth-update").assert_outcomes(passed=1)
    assert list(kept()) == ["test_net"]


def test_a_file_that_is_none_fails_the_tests_and_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE)
    Path("__gradhealth__").mkdir()
    Path(FILE).write_text("<<<<<<< HEAD\n")
    for options in ((), ("--gradhealth-update",), ("--gradhealth-prune",)):
        result = run(pytester, *options)
        assert result.ret == 1
        result.stdout.fnmatch_lines([f"E *ProbeError: {FILE} is no baseline (JSONDecodeError*"])
        assert "INTERNALERROR" not in result.stdout.str()
        assert Path(FILE).read_text() == "<<<<<<< HEAD\n"


def test_outside_of_a_test_there_is_no_baseline() -> None:
    from pytest_gradhealth.context import entered

    with entered(None), pytest.raises(ProbeError) as caught:  # type: ignore[arg-type]
        assert_matches_baseline(nn.Linear(2, 2), torch.randn(4, 2))
    assert str(caught.value) == (
        "assert_matches_baseline needs a running pytest test, which its baseline is named after"
    )


def test_the_callers_words_come_first(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_models=ONE.replace("**BATCH", "**BATCH, msg='the encoder'"))
    result = run(pytester, "--gradhealth-fail-on=missing")
    result.stdout.fnmatch_lines(["E *MissingBaselineError: the encoder", "E *no baseline for*"])


def test_what_fixtures_probe_belongs_to_no_test(pytester: pytest.Pytester) -> None:
    """It would be the first test's that uses them, another one with every selection."""
    pytester.makepyfile(
        test_models="""
import pytest
from nets import BATCH, net
from pytest_gradhealth import assert_no_vanishing

@pytest.fixture(scope="module")
def checked():
    return assert_no_vanishing(net(), **BATCH)

def test_one(checked): pass

def test_two(checked, gradhealth):
    gradhealth.probe(net(layers=6), **BATCH)
"""
    )
    run(pytester, "--gradhealth-baseline", "--gradhealth-update").assert_outcomes(passed=2)
    assert list(kept()) == ["test_two"]
    fail = "--gradhealth-fail-on=missing,regression,stale"
    for selected in ("test_one", "test_two", "test"):
        result = run(pytester, "--gradhealth-baseline", fail, "-k", selected)
        assert result.ret == 0, selected
    run(pytester, "--gradhealth-json=old.json").assert_outcomes(passed=2)
    damage(pytester)
    result = run(pytester, "--gradhealth-compare=old.json")
    result.assert_outcomes(passed=1, failed=1)
