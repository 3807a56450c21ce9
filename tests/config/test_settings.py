"""Settings: their table, their values, where they came from, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_gradhealth import SettingError, assert_no_vanishing, probe
from pytest_gradhealth.config.options import OPTIONS
from pytest_gradhealth.config.settings import (
    Settings,
    check_codes,
    ignored_names,
    is_selected,
    rule_meant,
)
from pytest_gradhealth.formatting import shown
from pytest_gradhealth.rules import built_in_rules
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import refusal

DEVICE = "a device such as 'auto', 'cpu' or 'cuda:0'"
SEEDS = "a number of seeds, at least 1, or a list of seeds"
STEPS = "a number of steps, at least 0"
POSITIVE = "a positive number"
CODES = "rule codes such as GH101,GH2"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("device", "", DEVICE),
        *(
            ("seeds", value, SEEDS)
            for value in (
                *(0, -1, 2.5, math.nan, math.inf, True, "three", ""),
                *([], (), [-1], [1.5], [True], ["a"], [[1]], {1}, range(2)),
            )
        ),
        *(("confirm_steps", value, STEPS) for value in (-1, 0.5, math.inf, False, "many", [1])),
        *(
            (name, value, POSITIVE)
            for name in ("min_ratio", "max_ratio", "warn_min_ratio", "warn_max_ratio")
            for value in (0, -1e-5, math.nan, math.inf, True, "small", [1e-5])
        ),
        pytest.param("min_ratio", 10**400, POSITIVE, id="10**400"),
        ("select", 101, CODES),
        ("ignore", 101, f"{CODES}, or CODE:PATTERN such as GH405:*.pooler.*"),
    ],
)
def test_values_that_a_setting_cannot_have(name: str, value: Any, expected: str) -> None:
    error = refusal(mlp(), **{name: value})
    assert str(error) == f"the call: {name} = {shown(value)} is not {expected}"
    assert type(error) is SettingError


def test_the_error_behind_a_setting_is_chained() -> None:
    assert isinstance(refusal(mlp(), seeds="three").__cause__, ValueError)
    assert isinstance(refusal(mlp(), seeds={1}).__cause__, TypeError)


def test_seeds_that_no_generator_takes() -> None:
    error = refusal(mlp, seeds=[0, 2**70])
    assert str(error) == f"the call: seeds = [0, {2**70}] is not {SEEDS}"
    assert probe(mlp, batch()[0], seeds=[2**62 - 1]).verdict == "healthy"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("select", ["GH999"], "GH999"),
        ("select", "GH101,GH9", "GH9"),
        ("select", "GH101:encoder.*", "GH101:encoder.*"),
        ("ignore", "GH999:encoder.*", "GH999:encoder.*"),
        ("ignore", ":encoder.*", ":encoder.*"),
    ],
)
def test_codes_of_no_rule(name: str, value: Any, code: str) -> None:
    error = refusal(mlp(), **{name: value})
    codes = ", ".join(rule.code for rule in built_in_rules())
    assert str(error) == f"the call: {name} = {code!r} matches no rule; the rules are {codes}"
    assert codes.startswith("GH101, GH102, GH103, GH201")
    assert type(error) is SettingError
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("vanishing", "GH101 (vanishing)"),
        ("vanishng", "GH101 (vanishing)"),
        ("Dead_Units", "GH402 (dead-units)"),
        ("exploding_updates", "GH202 (exploding-update)"),
        ("unregister:encoder.*", "GH408 (unregistered)"),
    ],
)
def test_names_of_rules_lead_to_their_codes(name: str, meant: str) -> None:
    error = refusal(mlp(), ignore=name)
    assert str(error) == f"the call: ignore = {name!r} matches no rule; did you mean {meant}?"


def test_what_only_assertions_do_is_told() -> None:
    for name in ("remedy_budget", "baseline", "max_path_change"):
        assert str(refusal(mlp(), **{name: 1})) == (
            f"the call: {name} is no setting of probe; the assertions take it"
        )


def test_names_of_no_setting() -> None:
    known = ", ".join(option.name for option in OPTIONS)
    assert known.startswith("device, seeds, confirm_steps, learn_steps, copy, exact")
    with pytest.raises(SettingError) as caught:
        Settings().merged({"loss": 1}, "the marker")
    assert str(caught.value) == f"the marker: unknown setting 'loss'; the settings are {known}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ratio", "unknown setting 'ratio'; did you mean min_ratio or max_ratio?"),
        ("max_deaf", "unknown setting 'max_deaf'; did you mean max_dead?"),
        ("loss_fn", "unknown setting 'loss_fn'; did you mean loss?"),
        ("criterion", "unknown setting 'criterion'; did you mean loss?"),
        ("labels", "unknown setting 'labels'; did you mean targets?"),
        ("regularization", "unknown setting 'regularization'; did you mean regularizer?"),
        ("lr", "unknown setting 'lr'; did you mean optimizer?"),
        ("MAX_DEAD", "unknown setting 'MAX_DEAD'; did you mean max_dead?"),
        ("Loss_FN", "unknown setting 'Loss_FN'; did you mean loss?"),
        ("tolerance", "unknown setting 'tolerance'; did you mean min_ratio or max_ratio?"),
        ("disable", "unknown setting 'disable'; did you mean ignore?"),
        ("only", "unknown setting 'only'; did you mean select?"),
        ("clip", "clip is no argument of this check; probe and assert_healthy take it"),
    ],
)
def test_names_that_are_nearly_right(name: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        assert_no_vanishing(mlp(), batch()[0], **{name: 1})  # type: ignore[arg-type]
    assert str(caught.value) == f"the call: {said}"
    with pytest.raises(SettingError) as caught:
        Settings().merged({"seeds": 0}, {"seeds": "pytest.ini"})
    assert str(caught.value) == f"pytest.ini: seeds = 0 is not {SEEDS}"


# Settings by themselves


def test_merged_lays_values_on_top_and_remembers_their_sources() -> None:
    base = Settings().merged({"min_ratio": "1e-4", "seeds": 2}, {"min_ratio": "A", "seeds": "B"})
    top = base.merged({"seeds": (1, 2), "max_ratio": 7, "device": None}, "C")
    assert (top.min_ratio, top.seeds, top.max_ratio, top.device) == (1e-4, (1, 2), 7.0, "auto")
    assert dict(top.sources) == {"min_ratio": "A", "seeds": "C", "max_ratio": "C"}
    assert [top.source(name) for name in ("seeds", "device")] == ["C", "default"]
    assert base.seeds == 2, "the settings below are as they were"
    assert Settings().merged({}, "nowhere") == Settings()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("device", "cuda:1", "cuda:1"),
        ("seeds", 1, 1),
        ("seeds", "12", 12),
        ("seeds", [0], (0,)),
        ("seeds", (7, "8"), (7, 8)),
        ("confirm_steps", 0, 0),
        ("confirm_steps", 3.0, 3),
        ("min_ratio", 1, 1.0),
        ("max_ratio", "1e300", 1e300),
        ("select", "GH1, GH2,", ("GH1", "GH2")),
        ("select", ["GH1,GH2", "GH3"], ("GH1", "GH2", "GH3")),
        ("ignore", {"GH1"}, ("GH1",)),
        ("ignore", "", ()),
    ],
)
def test_values_are_read(name: str, value: Any, read: Any) -> None:
    assert getattr(Settings().merged({name: value}, "here"), name) == read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", ""),
        ("seeds", 0),
        ("seeds", True),
        ("seeds", 1.5),
        ("seeds", "1.5"),
        ("seeds", [-1]),
        ("seeds", ()),
        ("seeds", math.nan),
        ("seeds", math.inf),
        ("seeds", {"a": 1}),
        ("confirm_steps", -1),
        ("confirm_steps", False),
        ("min_ratio", 0),
        ("min_ratio", -1e-5),
        ("min_ratio", math.nan),
        ("max_ratio", math.inf),
        ("max_ratio", 10**400),
        ("max_ratio", True),
        ("max_ratio", [1]),
        ("select", 5),
    ],
)
def test_values_that_cannot_be_are_refused_with_their_source(name: str, value: Any) -> None:
    expects = next(option.expects for option in OPTIONS if option.name == name)
    with pytest.raises(SettingError) as caught:
        Settings().merged({name: value}, "here")
    assert str(caught.value) == f"here: {name} = {shown(value)} is not {expects}"


@pytest.mark.parametrize(
    ("select", "ignore", "selected"),
    [
        ((), (), ["GH101", "GH201", "GH202", "MY101"]),
        (("GH101",), (), ["GH101"]),
        (("GH2",), (), ["GH201", "GH202"]),
        (("GH",), ("GH2",), ["GH101"]),
        ((), ("GH", "MY"), []),
        (("GH202", "MY"), ("GH201",), ["GH202", "MY101"]),
        (("GH101",), ("GH101",), []),
        (("GH101",), ("GH101:encoder.*",), ["GH101"]),
    ],
)
def test_rules_are_chosen_by_the_beginnings_of_their_codes(
    select: tuple[str, ...], ignore: tuple[str, ...], selected: list[str]
) -> None:
    settings = Settings({"select": select, "ignore": ignore})
    codes = ["GH101", "GH201", "GH202", "MY101"]
    assert [code for code in codes if is_selected(code, settings)] == selected
    check_codes(settings, dict.fromkeys(codes, "name"))


@pytest.mark.parametrize("name", ["select", "ignore"])
def test_codes_that_match_no_rule_are_refused(name: str) -> None:
    settings = Settings().merged({name: ["GH1", "GH999"]}, "here")
    with pytest.raises(SettingError) as caught:
        check_codes(settings, {"GH101": "one", "GH409": "other"})
    assert str(caught.value) == (
        f"here: {name} = 'GH999' matches no rule; the rules are GH101, GH409"
    )


@pytest.mark.parametrize(
    ("item", "meant"),
    [
        ("GH1O1", "did you mean GH101 (vanishing)?"),
        ("gh101", "did you mean GH101 (vanishing)?"),
        ("GH41", "did you mean GH401 (unreached)?"),
        ("vanish", "did you mean GH101 (vanishing)?"),
        ("GH999", ""),
        ("GH", ""),
        ("gh1", ""),
        ("", ""),
    ],
)
def test_one_letter_of_a_code_may_be_wrong(item: str, meant: str) -> None:
    known = {"GH101": "vanishing", "GH203": "exploding-output", "GH401": "unreached"}
    assert rule_meant(item, known) == meant


def test_a_pattern_of_names_has_to_be_one() -> None:
    error = refusal(mlp(), ignore="GH101,GH4: ")
    assert type(error) is SettingError
    assert str(error) == (
        "the call: ignore = 'GH4:' has no pattern behind the colon; pass one for names of layers"
        " and parameters, such as GH4:encoder.*, or GH4 alone for all of them"
    )


def test_patterns_of_names_go_to_the_rules_of_their_codes() -> None:
    settings = Settings().merged({"ignore": "GH40:*.pooler.*, GH405:mask_token, GH1"}, "here")
    assert [ignored_names(code, settings) for code in ("GH405", "GH401", "GH101", "GH4")] == [
        ("*.pooler.*", "mask_token"),
        ("*.pooler.*",),
        (),
        (),
    ]
