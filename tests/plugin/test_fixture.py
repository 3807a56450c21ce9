"""The fixture and the functions say the same inside a test."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

import pytest_gradhealth
from pytest_gradhealth import Evidence, Finding, GradHealth, Rule, SettingError
from tests.helpers.nets import batch, mlp
from tests.helpers.projects import SICK, folders, rows, run, text_of

pytestmark = pytest.mark.usefixtures("_networks")


def test_fixture_and_functions_give_the_same_inside_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import pytest_gradhealth
        from networks import cross_entropy, healthy, sick, x, y

        CHECKS = [name for name in pytest_gradhealth.__all__ if name.startswith("assert_")]
        CHECKS.remove("assert_matches_baseline")  # two of one key are an error
        CHECKS.remove("assert_same_gradients")  # takes two models
        OPTIONS = {"assert_no_vanishing_in_time": {"dependency": 9}}
        FAILING = (
            "assert_healthy", "assert_learns", "assert_no_vanishing", "assert_no_underflow"
        )
        OF_THEIR_OWN = (
            "assert_learns",
            "assert_no_exploding_update",
            "assert_no_dominating_regularizer",
            "assert_no_underflow",
            "assert_no_vanishing_in_time",
        )

        @pytest.mark.parametrize("name", CHECKS)
        @pytest.mark.gradhealth(confirm_steps=2)
        def test_same(gradhealth, name):
            model = sick()
            outcomes = []
            for place in (gradhealth, pytest_gradhealth):
                try:
                    options = OPTIONS.get(name, {})
                    result = getattr(place, name)(model, x, y, loss=cross_entropy, **options)
                except pytest_gradhealth.GradientHealthError as error:
                    outcomes.append((type(error), str(error), error.diagnosis))
                except pytest_gradhealth.ProbeError as error:
                    outcomes.append((type(error), str(error), None))
                else:
                    outcomes.append((None, "", result))
            assert outcomes[0] == outcomes[1]
            kind, _, diagnosis = outcomes[0]
            if name == "assert_no_vanishing_in_time":
                assert kind is pytest_gradhealth.ProbeError
                return
            assert diagnosis.confirm_steps == 2
            if name not in OF_THEIR_OWN:
                assert diagnosis == gradhealth.probe(model, x, y, loss=cross_entropy)
            assert (kind is not None) == (name in FAILING)
        """
    )
    run(pytester).assert_outcomes(passed=10)


def test_a_failing_assertion_fails_the_call_phase_with_its_message(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_one="""
        from pytest_gradhealth import assert_no_vanishing
        from networks import cross_entropy, sick, x, y

        def test_fixture(gradhealth):
            gradhealth.assert_no_vanishing(sick(), x, y, loss=cross_entropy)

        def test_function():
            assert_no_vanishing(sick(), x, y, loss=cross_entropy)
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "E*VanishingGradientError: the gradient vanishes: x*of it reaches 0 (Linear); limit"
            " x1e-05 (default) [[]GH101[]]",
            "E * layer * type * output * norm * step",
            "E * > * Sigmoid *",
            "E *cause: *8 Sigmoids let x*",
            "E *try: *nn.ReLU()*",
            "E *next: *pytest test_one.py::test_fixture -v",
            "E * (shows all 17 points)",
            "E *accept: *min_ratio=1e-*",
        ]
    )
    text = text_of(result)
    assert not re.search(r"(asserts|fixture)\.py:\d+", text), "our own frames are not shown"
    assert "Captured" not in text


def test_raises_names_the_error_for_a_strict_xfail(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import ExplodingGradientError, VanishingGradientError
        from networks import healthy, sick, x

        @pytest.mark.xfail(raises=VanishingGradientError, strict=True)
        def test_known(gradhealth):
            gradhealth.assert_no_vanishing(sick(), x)

        @pytest.mark.xfail(raises=ExplodingGradientError, strict=True)
        def test_other(gradhealth):
            gradhealth.assert_no_vanishing(sick(), x)

        @pytest.mark.xfail(raises=VanishingGradientError, strict=True)
        def test_fixed(gradhealth):
            gradhealth.assert_no_vanishing(healthy(), x)
        """
    )
    result = run(pytester)
    result.assert_outcomes(xfailed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["*[[]XPASS(strict)[]]*", "FAILED *::test_other*", "FAILED *::test_fixed*"]
    )


def test_all_layers_are_in_the_message_with_v(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SICK)
    shown = [sum(" Sigmoid " in line for line in run(pytester, *v).outlines) for v in ([], ["-v"])]
    assert shown[0] < shown[1] == 8


@pytest.mark.parametrize("name", ["short", "with  two spaces", "long " * 20 + "one", "it's $HOME"])
def test_the_command_that_a_failure_names_runs_that_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folders(
        pytester,
        sub__test_suite=f"""
import pytest
from networks import sick, x

@pytest.mark.parametrize("n", [1, 2], ids=[{name!r}, "other"])
def test_a(gradhealth, n):
    gradhealth.assert_no_vanishing(sick(), x)
""",
    )
    monkeypatch.chdir(pytester.path / "sub")
    (line, *_) = [line for line in run(pytester).outlines if line.startswith("E       next:")]
    program, *arguments = shlex.split(line.partition("next:")[2].partition("  (shows all")[0])
    assert program == "pytest"
    result = run(pytester, *arguments)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_suite.py::test_a* FAILED *"])
    assert "::test_a[other]" not in text_of(result)


@pytest.mark.parametrize(
    ("msg", "first", "last"),
    [
        ("'is it the tower?'", "is it the tower?", "accept: min_ratio=*"),
        ("lambda text: 'only ' + text[:13]", "only the gradient ", None),
    ],
)
def test_msg_is_put_in_front_or_makes_another_message(
    pytester: pytest.Pytester, msg: str, first: str, last: str | None
) -> None:
    pytester.makepyfile(
        f"""
        from networks import sick, x

        def test_a(gradhealth):
            gradhealth.assert_no_vanishing(sick(), x, msg={msg})
        """
    )
    result = run(pytester)
    said = [
        line[1:].strip().partition("VanishingGradientError: ")[2] or line[1:].strip()
        for line in result.outlines
        if line.startswith("E ")
    ]
    assert said[0] == first.strip()
    if last is None:
        assert len(said) == 1
    else:
        result.stdout.fnmatch_lines([f"E *{last}"])


def test_a_diagnosis_can_be_held_to_another_limit(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import VanishingGradientError, assert_no_vanishing
        from networks import Net, healthy, x

        def test_a(gradhealth):
            diagnosis = gradhealth.probe(healthy(), x)
            assert diagnosis.verdict == "healthy"
            assert gradhealth.assert_no_vanishing(diagnosis) == diagnosis
            assert Net.forwards == 1
            for check in (gradhealth.assert_no_vanishing, assert_no_vanishing):
                with pytest.raises(VanishingGradientError, match="limit x0.9 .the call.") as info:
                    check(diagnosis, min_ratio=0.9)
                assert info.value.diagnosis.profiles[0] == diagnosis.profiles[0]
                assert len(info.value.diagnosis.profiles) == 2  # what newly fails is confirmed
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_settings_of_one_test_do_not_reach_the_next(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import probe
        from networks import healthy, x

        @pytest.mark.gradhealth(min_ratio=0.9)
        def test_strict(gradhealth):
            gradhealth.assert_no_vanishing(healthy(), x)

        def test_default(gradhealth):
            gradhealth.assert_no_vanishing(healthy(), x)

        @pytest.mark.gradhealth(min_ratio=0.9)
        def test_probe_is_the_plain_one():
            assert probe(healthy(), x).verdict == "healthy"
        """
    )
    run(pytester).assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nn.Sequential(nn.LazyLinear(3))", "is a lazy parameter without a shape"),
        ("nn.Linear(6, 3, device='meta')", "is on the meta device"),
        ("'model'", "model is .model.; pass"),
    ],
)
def test_what_cannot_be_probed_is_told_inside_a_test_too(
    pytester: pytest.Pytester, model: str, message: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        from pytest_gradhealth import ProbeError
        from networks import nn, x

        def test_a(gradhealth):
            with pytest.raises(ProbeError, match={message!r}):
                gradhealth.assert_healthy({model}, x)
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_each_test_probes_for_itself_and_lets_its_models_go(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import gc, weakref
        import pytest
        from networks import Net, healthy, x

        MODEL = healthy()
        SEEN = []

        @pytest.mark.parametrize("n", [1, 2])
        def test_shared(gradhealth, n):
            gradhealth.assert_healthy(MODEL, x)
            assert Net.forwards == n

        def test_own(gradhealth):
            model = healthy()
            SEEN.append(weakref.ref(model))
            gradhealth.assert_healthy(model, x)

        def test_gone():
            gc.collect()
            assert SEEN[0]() is None
        """
    )
    run(pytester).assert_outcomes(passed=4)


def test_a_parametrised_test_draws_the_same_seeds_in_any_order(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_suite="""
        import pytest
        from networks import Net, nn, x

        def factory():
            return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))

        @pytest.mark.parametrize("n", [1, 2])
        def test_seeds(gradhealth, n):
            gradhealth.assert_healthy(factory, x)
        """
    )
    names = ["test_suite.py::test_seeds[1]", "test_suite.py::test_seeds[2]"]
    forth = rows(run(pytester, "--gradhealth-report", *names))
    back = rows(run(pytester, "--gradhealth-report", *reversed(names)))
    assert [row["test"] for row in forth] == names
    assert forth == back[::-1]
    assert forth[0]["ratio"] != forth[1]["ratio"], "each test has a seed of its own"


ASSERTIONS = [name for name in pytest_gradhealth.__all__ if name.startswith("assert_")]
ON_TWO_MODELS = "assert_same_gradients"


@pytest.mark.parametrize("name", ASSERTIONS)
def test_a_method_takes_what_the_function_takes(name: str) -> None:
    method, function = getattr(GradHealth(), name), getattr(pytest_gradhealth, name)
    assert inspect.signature(method) == inspect.signature(function)
    own = {"a", "b"} if name == ON_TWO_MODELS else {"model", "optimizer"}
    assert own | {"inputs", "targets", "loss", "msg"} <= {*inspect.signature(method).parameters}
    assert (method.__name__, method.__doc__) == (name, function.__doc__)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("assert_helthy", "; did you mean assert_healthy?"),
        ("assert_no_vanish", "; did you mean assert_no_vanishing?"),
        ("prob", "; did you mean probe?"),
        ("nothing_like_it", ""),
        ("__array__", ""),
    ],
)
def test_a_method_that_there_is_not_is_told_by_its_likeness(name: str, words: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(GradHealth(), name)
    assert str(caught.value) == f"there is no {name} of gradhealth{words}"
    assert not hasattr(GradHealth(), name)


def test_its_probe_takes_what_the_function_takes() -> None:
    ours, function = (
        inspect.signature(each).parameters for each in (GradHealth().probe, pytest_gradhealth.probe)
    )
    assert [*ours] == [*function]


def test_its_probe_applies_rules_of_the_callers_own() -> None:
    def check(evidence: Evidence) -> Iterator[Finding]:
        yield rule.finding("info", "", "seen", profile=evidence.first, value=0.5)

    rule = Rule("MY101", "mine", "summary", "rationale", check, None)
    model, (inputs, targets) = mlp(), batch()
    named: Any = {"loss": nn.CrossEntropyLoss()}
    for ours in (GradHealth().probe, pytest_gradhealth.probe):
        assert "MY101" in {
            f.code for f in ours(model, inputs, targets, **named, rules=[rule]).findings
        }
        for rules, said in (
            ([5], "rules has a int in it; pass pytest_gradhealth.Rule objects"),
            ([replace(rule, code="GH101")], "two rules have the code GH101"),
        ):
            with pytest.raises(SettingError, match=said):
                ours(model, inputs, targets, **named, rules=rules)  # type: ignore[arg-type]
    found = GradHealth().probe(model, inputs, targets, **named)
    assert "MY101" not in {f.code for f in found.findings}


def test_the_assertions_of_the_fixture_are_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = GradHealth.assert_healthy, []

    def watched(self: GradHealth, *args: Any, **kwargs: Any) -> Any:
        seen.append(self)
        return original(self, *args, **kwargs)

    class Mine(GradHealth):
        def assert_no_vanishing(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            return GradHealth.assert_no_vanishing(self, model, *args, **kwargs)

    monkeypatch.setattr(GradHealth, "assert_healthy", watched)
    mine = Mine()
    inputs, targets = batch()
    mine.assert_healthy(mlp(), inputs, targets, loss=nn.CrossEntropyLoss())
    assert seen == [mine]
    assert mine.assert_no_vanishing(mlp(), inputs).verdict == "healthy"
    assert inspect.ismethod(mine.assert_healthy)
