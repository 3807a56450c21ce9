"""Options and keys of the ini file that are nearly ours are told what was meant."""

from __future__ import annotations

import pytest

from tests.helpers.projects import folders, run

PASSES = """
def test_nothing():
    pass
"""
OF_OTHERS = """
def pytest_addoption(parser):
    parser.addoption("--gradhealth-min-ration")
    parser.addini("gradhealth_min_ration", "of somebody else")
"""


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--gradhealth-min-ration=1e-3", "--gradhealth-min-ratio"),
        ("--gradhealth-max-deaf", "--gradhealth-max-dead"),
        ("--gradhealth-jason=a.json", "--gradhealth-json"),
        ("--gradhealth-fail-in=none", "--gradhealth-fail-on"),
        ("--gradhealth-of", "--no-gradhealth"),
        ("--gradhealth-xyz", ""),
        ("--gradhelth-report", ""),
        ("--min-ratio=1", ""),
    ],
)
def test_pytest_refuses_an_option_and_we_say_which_was_meant(
    pytester: pytest.Pytester, option: str, meant: str
) -> None:
    folders(pytester, test_a=PASSES)
    result = run(pytester, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = [line for line in result.errlines if "did you mean" in line]
    assert said == [f"  {option.partition('=')[0]}: did you mean {meant}?"] * bool(meant)
    assert f"unrecognized arguments: {option}" in result.stderr.str()


def test_options_of_others_are_theirs(pytester: pytest.Pytester) -> None:
    folders(pytester, conftest=OF_OTHERS, test_a=PASSES)
    pytester.makeini("[pytest]\ngradhealth_min_ration = 5")
    result = run(pytester, "--gradhealth-min-ration=1")
    result.assert_outcomes(passed=1)
    assert "did you mean" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("gradhealth_min_ration", "; did you mean gradhealth_min_ratio?"),
        ("gradhealth_fail_in", "; did you mean gradhealth_fail_on?"),
        ("gradhealth_zzz", ""),
    ],
)
def test_a_key_of_the_ini_file_that_is_none_stops_the_run(
    pytester: pytest.Pytester, key: str, said: str
) -> None:
    folders(pytester, test_a=PASSES)
    pytester.makeini(f"[pytest]\n{key} = 1e-3")
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {key} in the ini file is no setting{said}" in result.errlines


def test_keys_of_others_are_left_to_pytest(pytester: pytest.Pytester) -> None:
    folders(pytester, test_a=PASSES)
    pytester.makeini("[pytest]\nzoo_of_graphs = 1e-3")
    run(pytester).assert_outcomes(passed=1, warnings=1)


def test_nothing_is_meant_by_options_that_there_are(pytester: pytest.Pytester) -> None:
    folders(pytester, test_a=PASSES)
    result = run(pytester, "--gradhealth-min-ratio=1e-3", "--gradhealth-report", "--xyz")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "did you mean" not in result.stderr.str()
