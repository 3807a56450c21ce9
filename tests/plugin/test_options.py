"""Marker, command line and ini file: which wins, what is refused, where a limit came from."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest

import pytest_gradhealth
from pytest_gradhealth import plugin
from pytest_gradhealth.config import options
from pytest_gradhealth.config.options import OPTIONS
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.rules import built_in_rules
from tests.helpers.projects import run

NAMES = [option.name for option in OPTIONS]

MODEL = """
import torch
from torch import nn


def model():
    layers = [nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)]
    for layer in layers[::2]:
        nn.init.constant_(layer.weight, 0.01)
    return nn.Sequential(*layers)


x = torch.ones(3, 4)
"""

#: Of each setting: the text in the ini file and on the command line, what a marker and a call say,
#: and how the four are read.
LISTED: dict[str, tuple[str, str, Any, Any, tuple[Any, Any, Any]]] = {
    "device": ("cpu:0", "cpu:1", "cpu:2", "cpu", ("cpu:0", "cpu:1", "cpu:2")),
    "seeds": ("2", "3", [4, 5], 2, (2, 3, (4, 5))),
    "confirm_steps": ("0", "2", 3, 4, (0, 2, 3)),
    "learn_steps": ("6", "7", 8, 9, (6, 7, 8)),
    "copy": ("true", "", False, True, (True, True, False)),
    "exact": ("true", "", False, True, (True, True, False)),
    "baseline_init": ("true", "", False, True, (True, True, False)),
    "min_ratio": ("1e-6", "1e-7", 1e-8, 1e-9, (1e-6, 1e-7, 1e-8)),
    "max_ratio": ("1e6", "1e7", 1e8, 1e9, (1e6, 1e7, 1e8)),
    "warn_min_ratio": ("0.1", "0.2", 0.3, 0.4, (0.1, 0.2, 0.3)),
    "warn_max_ratio": ("11", "12", 13, 14, (11.0, 12.0, 13.0)),
    "max_update": ("2", "3", 4, 5, (2.0, 3.0, 4.0)),
    "max_penalty": ("20", "30", 40, 50, (20.0, 30.0, 40.0)),
    "max_output": ("10", "20", 30, 40, (10.0, 20.0, 30.0)),
    "min_spread": ("1e-6", "1e-5", 1e-4, 1e-3, (1e-6, 1e-5, 1e-4)),
    "max_dead": ("0.5", "0.6", 0.7, 0.8, (0.5, 0.6, 0.7)),
    "max_saturated": ("0.5", "0.6", 0.7, 0.8, (0.5, 0.6, 0.7)),
    "max_underflow": ("0.5", "0.6", 0.7, 0.8, (0.5, 0.6, 0.7)),
    "baseline": ("true", "", False, True, (True, True, False)),
    "max_path_change": ("1", "2", 3, 4, (1.0, 2.0, 3.0)),
    "max_step_change": ("1", "2", 3, 4, (1.0, 2.0, 3.0)),
    "remedy_budget": ("0", "1", 2, 3, (0.0, 1.0, 2.0)),
    "select": ("GH1 GH2", "GH1,GH3", ["GH1"], "GH", (("GH1", "GH2"), ("GH1", "GH3"), ("GH1",))),
    "ignore": ("GH301", "GH4", "GH2,GH4", ("GH4",), (("GH301",), ("GH4",), ("GH2", "GH4"))),
}


def numbers(place: int) -> tuple[str, str, Any, Any, tuple[Any, Any, Any]]:
    """Four numbers that no other limit has, for one that is not in this list."""
    ini, option, marker, call = (float(f"{place + 1}e{power}") for power in (3, 4, 5, 6))
    return str(ini), str(option), marker, call, (ini, option, marker)


VALUES = {
    option.name: LISTED.get(option.name) or numbers(place) for place, option in enumerate(OPTIONS)
}
CODES = ", ".join(rule.code for rule in built_in_rules())


@pytest.fixture(autouse=True)
def _model(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(net=MODEL)
    pytester.syspathinsert()
    monkeypatch.setenv("COLUMNS", "160")


def write_ini(pytester: pytest.Pytester, *lines: str) -> None:
    pytester.makeini("\n".join(["[pytest]", *lines]))


def complaint(result: pytest.RunResult) -> str:
    """What pytest says when it does not start: one line, and exit code 4."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines + result.outlines if line.startswith("ERROR: ")]
    return line.removeprefix("ERROR: ")


def refusal(result: pytest.RunResult, error: str = "SettingError: ") -> str:
    """What a test that fails says in the first line of its error."""
    result.assert_outcomes(failed=1)
    (line,) = [line for line in result.outlines if line.startswith("E ") and error in line]
    return line.partition(error)[2]


# The table


def keywords_of(name: str) -> list[str]:
    """The keywords of a TypedDict that is there for the type checker alone."""
    classes = list(ast.walk(ast.parse(inspect.getsource(options))))
    (found,) = [c for c in classes if isinstance(c, ast.ClassDef) and c.name == name]
    fields = [node.target for node in found.body if isinstance(node, ast.AnnAssign)]
    return [field.id for field in fields if isinstance(field, ast.Name)]


def test_every_option_is_a_setting_a_keyword_and_in_the_help_of_the_marker() -> None:
    of_probes = [option.name for option in OPTIONS if option.use != "test"]
    assert keywords_of("ProbeValues") == of_probes
    assert sorted(of_probes + keywords_of("SettingValues")) == sorted(NAMES)
    assert [getattr(Settings(), option.name) for option in OPTIONS] == [
        option.default for option in OPTIONS
    ]
    keywords = plugin.MARKER.partition("(*, ")[2].partition(")")[0]
    assert keywords.split(", ") == NAMES
    assert list(VALUES) == NAMES


def test_what_a_probe_says_of_itself_has_all_that_a_measurement_depends_on() -> None:
    said = " ".join(str(pytest_gradhealth.probe.__doc__).split())
    for option in OPTIONS:
        if option.use == "measurement":
            assert f"`{option.name}`: " in said


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_one_word_makes_all_names_of_a_setting(option: Any) -> None:
    assert option.flag == "--gradhealth-" + option.name.replace("_", "-")
    assert option.key == "gradhealth_" + option.name
    assert option.help


# Precedence


def given(option: Any) -> str:
    """An option as it is typed; switches take no value."""
    return option.flag if option.is_switch else f"{option.flag}={VALUES[option.name][1]}"


def dump(pytester: pytest.Pytester, decorator: str = "") -> None:
    """A test that writes down the settings it runs with."""
    pytester.makepyfile(
        test_dump=f"""
        import pytest
        from pathlib import Path
        from pytest_gradhealth.context import current

        {decorator}
        def test_a(gradhealth):
            settings = current().settings
            values = {{name: getattr(settings, name) for name in {NAMES}}}
            Path("settings.txt").write_text(repr((values, dict(settings.sources))))
        """
    )


def dumped(pytester: pytest.Pytester) -> tuple[dict[str, Any], dict[str, str]]:
    text = (pytester.path / "settings.txt").read_text()
    values, sources = eval(text)
    return values, sources


@pytest.mark.parametrize("highest", [None, "ini", "option", "marker"])
def test_marker_over_option_over_ini_over_default(
    pytester: pytest.Pytester, highest: str | None
) -> None:
    levels = [None, "ini", "option", "marker"]
    level = levels.index(highest)
    if level >= 1:
        write_ini(pytester, *(f"gradhealth_{name} = {VALUES[name][0]}" for name in NAMES))
    options = [given(o) for o in OPTIONS] if level >= 2 else []
    marked = {name: VALUES[name][2] for name in NAMES}
    dump(pytester, f"@pytest.mark.gradhealth(**{marked!r})" if level >= 3 else "")
    run(pytester, *options).assert_outcomes(passed=1)

    values, sources = dumped(pytester)
    if highest is None:
        assert values == {option.name: option.default for option in OPTIONS}
        assert sources == {}
        return
    assert values == {name: VALUES[name][4][level - 1] for name in NAMES}
    assert sources == {
        option.name: (
            f"{option.key} in tox.ini",
            option.flag,
            "@pytest.mark.gradhealth on test_a",
        )[level - 1]
        for option in OPTIONS
    }


def test_the_call_wins_over_the_marker(pytester: pytest.Pytester) -> None:
    marked = {name: VALUES[name][2] for name in NAMES}
    called = {name: VALUES[name][3] for name in NAMES}
    pytester.makepyfile(
        f"""
        import pytest
        from net import model, x
        from pytest_gradhealth.results.diagnosis import Limit

        CALLED = {called!r}

        @pytest.mark.gradhealth(**{marked!r})
        def test_a(gradhealth):
            found = gradhealth.probe(model, x, **CALLED)
            limits = {{n: Limit(CALLED[n], "the call") for n in found.limits if n in CALLED}}
            assert {{n: limit for n, limit in found.limits.items() if n in CALLED}} == limits
            assert set(found.limits) - set(CALLED) == {{"warn_max_output", "warn_min_spread"}}
            assert found.confirm_steps == CALLED["confirm_steps"]
            assert len(found.seeds) == CALLED["seeds"]
            assert found.device == CALLED["device"]
            (finding,) = gradhealth.probe(model(), x, select="GH1").findings
            assert (finding.code, finding.severity) == ("GH101", "warning")
            assert not gradhealth.probe(model(), x, select="GH", ignore="GH1").findings
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_every_setting_comes_from_its_own_nearest_place(pytester: pytest.Pytester) -> None:
    write_ini(pytester, "gradhealth_max_ratio = 1e6", "gradhealth_confirm_steps = 1")
    pytester.makepyfile(
        """
        import pytest
        from net import model, x
        from pytest_gradhealth.results.diagnosis import Limit

        def test_a(gradhealth):
            found = gradhealth.probe(model(), x, min_ratio=1e-9)
            assert found.confirm_steps == 2
            assert found.limits.items() >= {
                "min_ratio": Limit(1e-9, "the call"),
                "warn_min_ratio": Limit(1e-3, "default"),
                "max_ratio": Limit(1e6, "gradhealth_max_ratio in tox.ini"),
                "warn_max_ratio": Limit(50.0, "--gradhealth-warn-max-ratio"),
                "max_update": Limit(1.0, "default"),
                "max_penalty": Limit(10.0, "default"),
                "max_output": Limit(1e3, "default"),
                "warn_max_output": Limit(1e2, "default"),
                "min_spread": Limit(5e-6, "default"),
                "warn_min_spread": Limit(1e-4, "default"),
                "max_dead": Limit(0.95, "default"),
                "max_saturated": Limit(0.995, "default"),
                "max_underflow": Limit(0.5, "default"),
            }.items()
        """
    )
    options = ["--gradhealth-warn-max-ratio=50", "--gradhealth-confirm-steps=2"]
    run(pytester, *options).assert_outcomes(passed=1)


def test_nested_markers_merge_key_by_key(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from net import model, x

        pytestmark = pytest.mark.gradhealth(min_ratio=1e-6, max_ratio=1e6, confirm_steps=1)

        def values(gradhealth):
            found = gradhealth.probe(model(), x)
            limits = {name: limit.value for name, limit in found.limits.items()}
            return limits["min_ratio"], limits["max_ratio"], found.confirm_steps

        def test_module(gradhealth):
            assert values(gradhealth) == (1e-6, 1e6, 1)

        @pytest.mark.gradhealth(min_ratio=1e-7, max_ratio=1e7)
        class TestNested:
            def test_class(self, gradhealth):
                assert values(gradhealth) == (1e-7, 1e7, 1)

            @pytest.mark.gradhealth(min_ratio=1e-8)
            def test_function(self, gradhealth):
                assert values(gradhealth) == (1e-8, 1e7, 1)

            @pytest.mark.gradhealth(min_ratio=1e-8)
            @pytest.mark.gradhealth(min_ratio=1e-9, confirm_steps=3)
            def test_twice(self, gradhealth):
                assert values(gradhealth) == (1e-9, 1e7, 3)

            @pytest.mark.gradhealth(min_ratio=None)
            def test_none_changes_nothing(self, gradhealth):
                assert values(gradhealth) == (1e-7, 1e7, 1)

            @pytest.mark.parametrize(
                "steps", [pytest.param(4, marks=pytest.mark.gradhealth(confirm_steps=4))]
            )
            def test_parameter(self, gradhealth, steps):
                assert values(gradhealth) == (1e-7, 1e7, 4)
        """
    )
    run(pytester).assert_outcomes(passed=6)


def test_a_marker_set_while_the_test_is_set_up_is_heard(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker(pytest.mark.gradhealth(min_ratio=1e-7))
        """
    )
    dump(pytester)
    run(pytester).assert_outcomes(passed=1)
    assert dumped(pytester)[0]["min_ratio"] == 1e-7


# Where a limit came from


@pytest.mark.parametrize(
    ("ini", "options", "decorator", "argument", "source"),
    [
        ("", [], "", "min_ratio=0.5", "the call"),
        ("", [], "@pytest.mark.gradhealth(min_ratio=0.5)", "", "@pytest.mark.gradhealth on test_a"),
        ("", ["--gradhealth-min-ratio=0.5"], "", "", "--gradhealth-min-ratio"),
        ("gradhealth_min_ratio = 0.5", [], "", "", "gradhealth_min_ratio in tox.ini"),
    ],
    ids=["call", "marker", "option", "ini"],
)
def test_the_failure_says_where_the_limit_came_from(
    pytester: pytest.Pytester,
    ini: str,
    options: list[str],
    decorator: str,
    argument: str,
    source: str,
) -> None:
    write_ini(pytester, ini, "gradhealth_remedy_budget = 0")
    pytester.makepyfile(
        f"""
        import pytest
        from net import model, x

        {decorator}
        def test_a(gradhealth):
            gradhealth.assert_no_vanishing(model(), x, {argument})
        """
    )
    message = refusal(run(pytester, *options), "VanishingGradientError: ")
    assert message.startswith("the gradient vanishes: x")
    assert message.endswith(f"; limit x0.5 ({source}) [GH101]")


# What is refused


KNOWN = ", ".join(NAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("minratio=1e-4", "unknown setting 'minratio'; did you mean min_ratio?"),
        ("sources={}", f"unknown setting 'sources'; the settings are {KNOWN}"),
        ("1e-4", "takes keywords only, for example min_ratio=1e-4; got (0.0001,)"),
        ("min_ratio='abc'", "min_ratio = 'abc' is not a positive number"),
        ("seeds=[]", "seeds = [] is not a number of seeds, at least 1, or a list of seeds"),
        ("confirm_steps=1.5", "confirm_steps = 1.5 is not a number of steps, at least 0"),
    ],
)
def test_a_bad_marker_fails_its_test_used_or_not(
    pytester: pytest.Pytester, arguments: str, message: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.gradhealth({arguments})
        def test_a():
            pass

        def test_b():
            pass
        """
    )
    result = run(pytester)
    result.assert_outcomes(errors=1, passed=1)
    assert f"@pytest.mark.gradhealth on test_a: {message}" in result.outlines


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--gradhealth-min-ratio=abc", "min_ratio = 'abc' is not a positive number"),
        ("--gradhealth-min-ratio=0", "min_ratio = '0' is not a positive number"),
        ("--gradhealth-min-ratio=nan", "min_ratio = 'nan' is not a positive number"),
        ("--gradhealth-max-ratio=inf", "max_ratio = 'inf' is not a positive number"),
        ("--gradhealth-warn-min-ratio=-1", "warn_min_ratio = '-1' is not a positive number"),
        (
            "--gradhealth-seeds=0",
            "seeds = '0' is not a number of seeds, at least 1, or a list of seeds",
        ),
        (
            "--gradhealth-confirm-steps=-1",
            "confirm_steps = '-1' is not a number of steps, at least 0",
        ),
        (
            "--gradhealth-device=",
            "device = '' is not a device such as 'auto', 'cpu' or 'cuda:0'",
        ),
    ],
)
def test_a_bad_option_stops_the_run(pytester: pytest.Pytester, argument: str, message: str) -> None:
    pytester.makepyfile("def test_a(): pass")
    assert complaint(run(pytester, argument)) == f"{argument.partition('=')[0]}: {message}"


SEEDS = "seeds is not a number of seeds, at least 1, or a list of seeds"
#: What is said of a number that is none; pytest 8.4 and later read those of ini files themselves.
NO_SEEDS = (
    rf"{SEEDS} \(invalid literal for int\(\) with base 10: 'x'\)"
    if pytest.version_tuple >= (8, 4)
    else SEEDS.replace("seeds is", "seeds = 'x' is")
)
MINUS_ONE, ZERO = ("-1.0", "0.0") if pytest.version_tuple >= (8, 4) else ("'-1'", "'0'")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "pytest.ini",
            "[pytest]\ngradhealth_seeds = x",
            f"gradhealth_seeds in pytest.ini: {NO_SEEDS}",
        ),
        (
            "setup.cfg",
            "[tool:pytest]\ngradhealth_max_ratio = -1",
            f"gradhealth_max_ratio in setup.cfg: max_ratio = {MINUS_ONE} is not a positive number",
        ),
        (
            "pytest.ini",
            "[pytest]\ngradhealth_report = maybe",
            r"gradhealth_report in pytest.ini: .*'maybe'.*",
        ),
        (
            "pyproject.toml",
            '[tool.pytest.ini_options]\ngradhealth_seeds = "x"',
            f"gradhealth_seeds in pyproject.toml: {NO_SEEDS}",
        ),
        (
            "pyproject.toml",
            "[tool.pytest.ini_options]\ngradhealth_min_ratio = 0",
            f"gradhealth_min_ratio in pyproject.toml: min_ratio = {ZERO} is not a positive number",
        ),
    ],
    ids=["pytest.ini", "setup.cfg", "report", "toml text", "toml number"],
)
def test_a_bad_ini_value_stops_the_run(
    pytester: pytest.Pytester, name: str, text: str, message: str
) -> None:
    pytester.makepyfile("def test_a(): pass")
    (pytester.path / name).write_text(text)
    assert re.fullmatch(message, complaint(run(pytester)))


def test_an_option_hides_no_bad_ini_value(pytester: pytest.Pytester) -> None:
    write_ini(pytester, "gradhealth_min_ratio = abc")
    pytester.makepyfile("def test_a(): pass")
    said = complaint(run(pytester, "--gradhealth-min-ratio=1e-4"))
    assert re.match(
        r"gradhealth_min_ratio in tox.ini: min_ratio( = 'abc')? is not a positive number", said
    )


NATIVE = pytest.mark.skipif(
    pytest.version_tuple < (9,), reason="[tool.pytest] is read by pytest 9 and later"
)


@NATIVE
def test_native_toml_values_are_read(pytester: pytest.Pytester) -> None:
    lines = [
        "[tool.pytest]",
        'gradhealth_device = "cpu"',
        "gradhealth_seeds = 3",
        "gradhealth_confirm_steps = 0",
        "gradhealth_min_ratio = 1e-6",
        "gradhealth_max_ratio = 2000",
        'gradhealth_select = ["GH1", "GH2"]',
    ]
    pytester.makepyprojecttoml("\n".join(lines))
    dump(pytester)
    run(pytester, "--strict-config").assert_outcomes(passed=1)
    values, sources = dumped(pytester)
    expected = {
        "device": "cpu",
        "seeds": 3,
        "confirm_steps": 0,
        "min_ratio": 1e-6,
        "max_ratio": 2000.0,
        "select": ("GH1", "GH2"),
    }
    assert {name: values[name] for name in expected} == expected
    assert sources == {name: f"gradhealth_{name} in pyproject.toml" for name in expected}


@NATIVE
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'gradhealth_seeds = "3"',
            f"gradhealth_seeds in pyproject.toml: {SEEDS} ("
            "{path}: config option 'gradhealth_seeds' expects an int, got str: '3')",
        ),
        (
            "gradhealth_seeds = 0",
            "gradhealth_seeds in pyproject.toml: seeds = 0 is not a number of seeds, at least 1,"
            " or a list of seeds",
        ),
    ],
)
def test_a_bad_native_toml_value_stops_the_run(
    pytester: pytest.Pytester, line: str, message: str
) -> None:
    path = pytester.makepyprojecttoml(f"[tool.pytest]\n{line}")
    pytester.makepyfile("def test_a(): pass")
    assert complaint(run(pytester)) == message.format(path=path)


@pytest.mark.parametrize(
    ("version", "knows"),
    [("8.0.0", False), ("8.3.5", False), ("8.4.0", True), ("8.4.0.dev3+g1", True), ("10.0", True)],
)
def test_older_versions_of_pytest_read_text(
    monkeypatch: pytest.MonkeyPatch, version: str, knows: bool
) -> None:
    monkeypatch.setattr(pytest, "__version__", version)
    assert plugin.options._knows_numbers() is knows


@pytest.mark.parametrize("text", ["gradhealth_seeds = 3", "gradhealth_seeds = three"])
def test_text_in_ini_files_is_read_without_the_help_of_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(plugin.options, "_knows_numbers", lambda: False)
    write_ini(pytester, text)
    dump(pytester)
    if text.endswith("three"):
        assert complaint(run(pytester)) == (
            "gradhealth_seeds in tox.ini: seeds = 'three' is not a number of seeds, at least 1, or"
            " a list of seeds"
        )
    else:
        run(pytester).assert_outcomes(passed=1)
        assert dumped(pytester)[0]["seeds"] == 3


@pytest.mark.parametrize(
    ("option", "decorator", "argument", "message"),
    [
        (
            "--gradhealth-select=GH9",
            "",
            "",
            f"--gradhealth-select: select = 'GH9' matches no rule; the rules are {CODES}",
        ),
        (
            "",
            "@pytest.mark.gradhealth(ignore=['GH101', 'vanishing'])",
            "",
            "@pytest.mark.gradhealth on test_a: ignore = 'vanishing' matches no rule; did you mean"
            " GH101 (vanishing)?",
        ),
        (
            "",
            "",
            "select='gh1'",
            f"the call: select = 'gh1' matches no rule; the rules are {CODES}",
        ),
        ("", "", "minratio=1", "the call: unknown setting 'minratio'; did you mean min_ratio?"),
    ],
    ids=["option", "marker", "call", "unknown"],
)
def test_what_no_rule_answers_to_fails_the_check(
    pytester: pytest.Pytester, option: str, decorator: str, argument: str, message: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        from net import model, x

        {decorator}
        def test_a(gradhealth):
            gradhealth.assert_healthy(model(), x, {argument})
        """
    )
    assert refusal(run(pytester, *filter(None, [option]))) == message


@pytest.mark.parametrize(
    ("option", "decorator", "source"),
    [
        ("--gradhealth-device=tpu9", "", "--gradhealth-device"),
        ("", "@pytest.mark.gradhealth(device='tpu9')", "@pytest.mark.gradhealth on test_a"),
    ],
    ids=["option", "marker"],
)
def test_a_device_that_is_none_names_where_it_came_from(
    pytester: pytest.Pytester, option: str, decorator: str, source: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        from net import model, x

        {decorator}
        def test_a(gradhealth):
            gradhealth.assert_healthy(model(), x)
        """
    )
    said = refusal(run(pytester, *filter(None, [option])), "ProbeError: ")
    assert said.startswith(f"device 'tpu9' (from {source}) is not a device; pass 'auto'")
