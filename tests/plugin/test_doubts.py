"""What rules warn of in tests that pass: warnings of pytest, and one line at the end."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pytest_gradhealth
from pytest_gradhealth import GradientHealthWarning, assert_healthy, assert_no_vanishing, probe
from pytest_gradhealth.context import entered

pytestmark = pytest.mark.usefixtures("_networks")

SUITE = """
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4, 4) for _ in range(2)]
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)

    def test_listed(gradhealth):
        x, y = torch.randn(8, 4), torch.randint(3, (8,))
        gradhealth.assert_healthy(Listed(), x, y, loss=cross_entropy)
"""
TOLD = (
    "GH408: the forward uses 4 parameters that model.parameters() does not list (of shapes 4, 4,"
    " 4x4 and 1 more); cause: layers in a plain list, tuple or dict, or parameters of another model"
)
#: Over the filters of the run around it.
SHOWN = "-Wdefault::pytest_gradhealth.GradientHealthWarning"
LINE = (
    "gradients warn in 1 test (GH408);"
    " --gradhealth-report shows where, --gradhealth-explain=GH408 why"
)


SPARE = (
    "GH405 at spare: the loss does not depend on spare (2 parameters); cause: their module is never"
    " called, does without them, or its output is not used"
)


class Spare(nn.Module):
    """A layer whose output changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare, self.head = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(x))
        self.spare(hidden)
        out: Tensor = self.head(hidden)
        return out


X, Y = torch.randn(8, 4), torch.randint(3, (8,))


def test_a_test_that_passes_with_warnings_shows_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_net=SUITE)
    result = pytester.runpytest_inprocess(SHOWN)
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "=* warnings summary *=",
            "test_net.py::test_listed",
            f"  *test_net.py:18: GradientHealthWarning: {TOLD}",
            "    gradhealth.assert_healthy(Listed(), x, y, loss=cross_entropy)",
            LINE,
        ]
    )


def test_filters_make_errors_of_them_or_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_net=SUITE)
    strict = "-Werror::pytest_gradhealth.GradientHealthWarning"
    result = pytester.runpytest_inprocess(strict)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       gradhealth.assert_healthy(Listed(), x, y, loss=cross_entropy)",
            f"E       pytest_gradhealth.GradientHealthWarning: {TOLD}",
        ]
    )
    result = pytester.runpytest_inprocess(SHOWN, "-Wignore:GH408")
    result.assert_outcomes(passed=1, warnings=0)
    result.stdout.no_fnmatch_line("*gradients warn*")


def test_the_report_says_so_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_net=SUITE)
    result = pytester.runpytest_inprocess(SHOWN, "--gradhealth-report")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.no_fnmatch_line("*gradients warn*")


def test_workers_of_xdist_hand_them_over() -> None:
    remote, manage = pytest.importorskip("xdist.remote"), pytest.importorskip("xdist.workermanage")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert_healthy(Spare(), X, Y, loss=cross_entropy)
    (warning,) = seen
    back = manage.unserialize_warning_message(remote.serialize_warning_message(warning))
    assert (back.category, str(back.message)) == (GradientHealthWarning, str(warning.message))


def test_they_name_the_layer_and_come_from_the_line_of_the_call() -> None:
    with pytest.warns(GradientHealthWarning) as seen:
        assert_healthy(Spare(), X, Y, loss=cross_entropy)
    assert [str(w.message) for w in seen] == [SPARE]
    assert seen[0].filename == __file__
    with pytest.warns(GradientHealthWarning) as again:
        assert_healthy(probe(Spare(), X, Y, loss=cross_entropy))
    assert [str(w.message) for w in again] == [str(w.message) for w in seen]


CHECKS = """
    import pytest
    import pytest_gradhealth
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.spare, self.head = nn.Linear(4, 2), nn.Linear(4, 4)
            self.last = nn.Linear(4, 3)

        def forward(self, x):
            self.spare(x)
            return self.last(torch.tanh(self.head(x)))

    ARGS = torch.ones(8, 4), torch.arange(8) % 3

    def test_one_rule(gradhealth):
        gradhealth.assert_no_vanishing(Spare(), *ARGS, loss=cross_entropy)

    def test_shared(gradhealth):
        model = Spare()
        gradhealth.probe(model, *ARGS, loss=cross_entropy)
        gradhealth.assert_no_exploding(model, *ARGS, loss=cross_entropy)
        gradhealth.assert_healthy(model, *ARGS, loss=cross_entropy)
        gradhealth.assert_finite_gradients(gradhealth.probe(model, *ARGS, loss=cross_entropy))
        pytest_gradhealth.probe(model, *ARGS, loss=cross_entropy)

    def test_probe(gradhealth):
        gradhealth.probe(Spare(), *ARGS, loss=cross_entropy)

    def test_function():
        found = pytest_gradhealth.probe(Spare(), *ARGS, loss=cross_entropy)
        assert found.verdict == "warning"

    def test_judged_otherwise():
        found = pytest_gradhealth.probe(Spare(), *ARGS, loss=cross_entropy)
        pytest_gradhealth.assert_healthy(found, ignore=["GH405"])

    def test_failed():
        found = pytest_gradhealth.probe(Spare(), *ARGS, loss=cross_entropy)
        with pytest.raises(pytest_gradhealth.UnreachedParameterError):
            pytest_gradhealth.assert_all_reached(found)

    @pytest.mark.gradhealth(ignore=["GH405:spare"])
    def test_ignored(gradhealth):
        pytest_gradhealth.probe(Spare(), *ARGS, loss=cross_entropy)
        gradhealth.probe(Spare(), *ARGS, loss=cross_entropy)

    @pytest.fixture(scope="module")
    def diagnosis():
        return pytest_gradhealth.probe(Spare(), *ARGS, loss=cross_entropy)

    def test_of_a_fixture(diagnosis):
        pytest_gradhealth.assert_no_exploding(diagnosis)

    @pytest.mark.xfail
    def test_fails_otherwise():
        pytest_gradhealth.probe(Spare(), *ARGS, loss=cross_entropy)
        raise AssertionError
"""


@pytest.mark.parametrize("repeated", [False, True])
def test_every_check_warns_of_all_rules_once(pytester: pytest.Pytester, repeated: bool) -> None:
    pytester.makepyfile(test_net=CHECKS)
    # With "always" nobody else would leave out a second one.
    shown = SHOWN.replace("default", "always") if repeated else SHOWN
    result = pytester.runpytest_inprocess(shown)
    result.assert_outcomes(passed=8, xfailed=1, warnings=5)
    lines = [line.strip() for line in result.outlines]
    told = [
        (before.partition("::")[2], after.partition("(")[0])
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False)
        if line.endswith(SPARE)
    ]
    assert told == [
        ("test_one_rule", "gradhealth.assert_no_vanishing"),
        ("test_shared", "gradhealth.assert_no_exploding"),
        ("test_probe", "gradhealth.probe"),
        ("test_function", "found = pytest_gradhealth.probe"),
        ("test_of_a_fixture", "pytest_gradhealth.assert_no_exploding"),
    ]
    where = "--gradhealth-report shows where, --gradhealth-explain=GH405 why"
    assert f"gradients warn in 5 tests (GH405); {where}" in lines


def test_what_was_only_probed_fails_at_its_end_where_warnings_are_errors(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_net=CHECKS)
    strict = "-Werror::pytest_gradhealth.GradientHealthWarning"
    result = pytester.runpytest_inprocess(strict, "-k", "probe or function or ignored")
    result.assert_outcomes(passed=1, failed=2)
    assert [line for line in result.outlines if line.startswith("GradientHealth")] == [
        f"GradientHealthWarning: {SPARE}"
    ] * 2
    result = pytester.runpytest_inprocess(strict, "-k", "function", "--tb=line")
    (line,) = [line for line in result.outlines if "Failed: " in line and "FAILED" not in line]
    place = CHECKS.splitlines().index("    def test_function():")
    file = pytester.path / "test_net.py"
    assert line == f"{file}:{place}: Failed: GradientHealthWarning: {SPARE}"


def test_where_pytest_keeps_none_the_line_is_all_that_is_said(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_net=CHECKS)
    chosen = "one_rule or function or ignored or healthy"
    result = pytester.runpytest_inprocess("-pno:warnings", "-k", chosen)
    lines = [line for line in result.outlines if "warn" in line]
    where = "--gradhealth-report shows where, --gradhealth-explain=GH405 why"
    assert lines == [f"gradients warn in 2 tests (GH405); {where}"]


def test_outside_of_a_test_only_assertions_warn() -> None:
    with entered(None), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.simplefilter("error")
        diagnosis = probe(Spare(), X, Y, loss=cross_entropy)
        for check in (assert_healthy, assert_no_vanishing):
            with pytest.warns(GradientHealthWarning, match="GH405"):
                check(diagnosis)
        with pytest.raises(pytest_gradhealth.UnreachedParameterError):
            pytest_gradhealth.assert_all_reached(diagnosis)
