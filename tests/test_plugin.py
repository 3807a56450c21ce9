"""The plugin as a test suite sees it: fixture, shared probes, report, switches, rules."""

from __future__ import annotations

import os
import re
import shlex
import sys

import pytest

from pytest_gradhealth.config.options import OPTIONS
from tests.helpers.projects import HEALTHY, NETWORKS, SICK, folders, probed, rows, run, text_of


@pytest.fixture(autouse=True)
def _networks(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks for the inner tests, which run as under no other pytest and try no remedies."""
    pytester.makepyfile(networks=NETWORKS)
    pytester.makeini("[pytest]\ngradhealth_remedy_budget = 0")
    pytester.syspathinsert()
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


# Fixture, functions and failures


def test_fixture_and_functions_give_the_same_inside_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import pytest_gradhealth
        from networks import cross_entropy, healthy, sick, x, y

        CHECKS = [name for name in pytest_gradhealth.__all__ if name.startswith("assert_")]
        CHECKS.remove("assert_matches_baseline")  # two of one key are an error
        OPTIONS = {"assert_no_vanishing_in_time": {"dependency": 9}}
        FAILING = ("assert_healthy", "assert_no_vanishing", "assert_no_underflow")
        OF_THEIR_OWN = (
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
    run(pytester).assert_outcomes(passed=9)


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
            for check in (gradhealth.assert_no_vanishing, assert_no_vanishing):
                with pytest.raises(VanishingGradientError, match="limit x0.9 .the call.") as info:
                    check(diagnosis, min_ratio=0.9)
                assert info.value.diagnosis.profiles == diagnosis.profiles
            assert Net.forwards == 1
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


# Shared probes


SHARED = """
import pytest
import torch
from torch import nn
from pytest_gradhealth import VanishingGradientError, assert_no_exploding
from networks import Net, cross_entropy, healthy, x as shared_x, y as shared_y


def test_a(gradhealth):
    model, x, y = healthy(), shared_x.clone(), shared_y.clone()
    model.register_buffer("scale", torch.ones(1))
    gradhealth.assert_no_vanishing(model, x, y, loss=cross_entropy)
    {change}
    gradhealth.assert_no_exploding(model, x, y, loss=cross_entropy)
    {change_again}
    assert_no_exploding(model, x, y, loss=cross_entropy)
    assert Net.forwards == {forwards}, Net.forwards
"""


@pytest.mark.parametrize(
    "change",
    [
        "gradhealth.assert_healthy(model, x, y, loss=cross_entropy)",
        "gradhealth.probe(model, x, y, loss=cross_entropy, min_ratio=1e-9, max_ratio=1e9)",
        "gradhealth.assert_healthy(model, x, y, loss=cross_entropy, ignore=['GH401'])",
        "(x, y) = (x, y)",
        "model.zero_grad()",
        "torch.manual_seed(5)",
    ],
)
def test_assertions_on_one_model_and_batch_share_one_probe(
    pytester: pytest.Pytester, change: str
) -> None:
    pytester.makepyfile(SHARED.format(change=change, change_again=change, forwards=1))
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "layer",
    [
        "nn.BatchNorm1d(6)",
        "nn.Dropout(0.1)",
        "nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))",
        "nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))",
    ],
)
def test_models_whose_forward_changes_them_share_a_probe(
    pytester: pytest.Pytester, layer: str
) -> None:
    pytester.makepyfile(
        f"""
        from networks import Net, nn, x

        def test_a(gradhealth):
            model = Net(nn.Linear(6, 6), {layer}, nn.ReLU(), nn.Linear(6, 3))
            gradhealth.assert_no_vanishing(model, x)
            gradhealth.assert_no_exploding(model, x)
            assert Net.forwards == 1
        """
    )
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "odd",
    [
        "torch.zeros(4).to(torch.float8_e4m3fn)",
        "torch.zeros(4, dtype=torch.uint16)",
        "torch.zeros(4, dtype=torch.complex64).conj()",
        "torch.full((4,), torch.nan)",
        "torch.zeros(0)",
        "torch.eye(4).to_sparse()",
        "torch.eye(4).to_sparse_csr()",
        "torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)",
        "torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)",
    ],
)
def test_odd_buffers_are_compared_too(pytester: pytest.Pytester, odd: str) -> None:
    pytester.makepyfile(
        f"""
        import warnings
        from networks import Net, healthy, torch, x

        def test_a(gradhealth):
            model = healthy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.register_buffer("odd", {odd})
            gradhealth.assert_no_vanishing(model, x)
            gradhealth.assert_no_exploding(model, x)
            assert Net.forwards == 1
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_comparing_models_runs_no_code_of_theirs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from networks import Net, nn, x

        class Shy(nn.Linear):
            def extra_repr(self):
                raise RuntimeError("not before the first forward")

        def test_a(gradhealth):
            model = Net(Shy(6, 6), nn.ReLU(), nn.Linear(6, 3))
            gradhealth.assert_no_vanishing(model, x)
            gradhealth.assert_no_exploding(model, x)
            assert Net.forwards == 1
        """
    )
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nn.Sequential(nn.LazyLinear(3))", "is a lazy parameter without a shape"),
        ("nn.Linear(6, 3, device='meta')", "is on the meta device"),
        ("'model'", "model is a str"),
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


@pytest.mark.parametrize(
    "change",
    [
        "torch.optim.SGD(model.parameters(), lr=0.1).step(lambda: model(x).sum().backward())",
        "nn.init.zeros_(model[0].bias)",
        "model[0].weight.data.mul_(1.5)",
        "model[0].weight.data = model[0].weight.data * 1.5",
        "model[0].weight = nn.Parameter(model[0].weight * 1.5)",
        "model[0].weight.data.neg_()",
        "model[0].requires_grad_(False)",
        "model[0] = nn.Linear(6, 16)",
        "model[1] = nn.Tanh()",
        "model.scale.add_(1)",
        "model.eval()",
        "model[1].eval()",
        "model[1].register_forward_hook(lambda module, args, out: out * 2)",
        "x = x.clone()",
        "x.mul_(2)",
        "x.data.mul_(2)",
        "y = y.clone()",
        "y.zero_()",
        "x, y = x[:4], y[:4]",
        "model = healthy()",
    ],
)
def test_a_probe_is_not_shared_after_a_change(pytester: pytest.Pytester, change: str) -> None:
    extra = 1 if "model(x)" in change else 0
    code = SHARED.format(change=change, change_again="pass", forwards=2 + extra)
    pytester.makepyfile(code)
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "other",
    ["loss=lambda out, y: cross_entropy(out, y)", "optimizer=torch.optim.SGD", "confirm_steps=1"],
)
def test_a_probe_is_not_shared_with_another_question(pytester: pytest.Pytester, other: str) -> None:
    first = "" if "loss" in other else "loss=cross_entropy, "
    pytester.makepyfile(
        f"""
        import torch
        from networks import Net, cross_entropy, healthy, x, y

        def test_a(gradhealth):
            model = healthy()
            gradhealth.probe(model, x, y, loss=cross_entropy)
            gradhealth.probe(model, x, y, {first}{other})
            assert Net.forwards == 2
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_batches_of_the_same_tensors_in_other_containers_share_a_probe(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        from networks import Net, healthy, x

        def test_a(gradhealth):
            model = healthy()
            gradhealth.assert_no_vanishing(model, (x,))
            gradhealth.assert_no_exploding(model, (x,))
            assert Net.forwards == 1
            gradhealth.assert_no_exploding(model, x)
            assert Net.forwards == 2, "a tuple is spread over the arguments, a tensor is not"
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_stricter_limit_that_fails_is_confirmed_with_a_new_probe(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import VanishingGradientError
        from networks import Net, healthy, x

        def test_a(gradhealth):
            model = healthy()
            assert gradhealth.assert_no_vanishing(model, x).confirmation is None
            assert Net.forwards == 1
            with pytest.raises(VanishingGradientError) as info:
                gradhealth.assert_no_vanishing(model, x, min_ratio=0.9)
            assert info.value.diagnosis.confirmation.steps == 5
            paid = Net.forwards
            assert paid > 2
            with pytest.raises(VanishingGradientError):
                gradhealth.assert_no_vanishing(model, x, min_ratio=0.95)
            gradhealth.assert_no_vanishing(model, x)
            assert Net.forwards == paid
        """
    )
    result = run(pytester, "--gradhealth-report")
    result.assert_outcomes(passed=1)
    assert len(rows(result)) == 2


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


# The report


SUITE = """
import pytest
from pytest_gradhealth import VanishingGradientError
from networks import cross_entropy, healthy, net, nn, sick, x, y

def test_healthy(gradhealth):
    model = healthy()
    gradhealth.assert_no_vanishing(model, x)
    gradhealth.assert_no_exploding(model, x)
    gradhealth.assert_healthy(model, x)

def test_two(gradhealth):
    gradhealth.assert_healthy(healthy, x, seeds=3)
    gradhealth.assert_healthy(healthy(), x)

def test_sick(gradhealth):
    gradhealth.assert_no_vanishing(sick(), x, y, loss=cross_entropy)

@pytest.mark.xfail(raises=VanishingGradientError, strict=True)
def test_known(gradhealth):
    gradhealth.assert_no_vanishing(sick(), x, y, loss=cross_entropy)

def test_warns(gradhealth):
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 4), x, warn_min_ratio=0.5)

def test_without():
    pass
"""


def test_the_report_has_a_row_for_each_probe(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "--gradhealth-report")
    result.assert_outcomes(passed=4, failed=1, xfailed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = rows(result)
    key = ("test", "verdict", "layers", "seeds", "device", "model")
    assert [tuple(row[name] for name in key) for row in found] == [
        ("test_suite.py::test_healthy", "healthy", "5", "1", "cpu", "Net"),
        ("test_suite.py::test_two", "healthy", "5", "3", "cpu", "Net"),
        ("test_suite.py::test_two", "healthy", "5", "1", "cpu", "Net"),
        ("test_suite.py::test_sick", "failure", "17", "1", "cpu", "Net"),
        ("test_suite.py::test_known", "failure", "17", "1", "cpu", "Net"),
        ("test_suite.py::test_warns", "warning", "9", "1", "cpu", "Net"),
    ]
    for row in found:
        ratio, rate = float(row["ratio"][1:]), float(row["rate"][1:])
        assert rate ** (int(row["layers"]) - 1) == pytest.approx(ratio, rel=0.5)
        assert (ratio < 1e-5) == (row["verdict"] == "failure")
    result.stdout.fnmatch_lines(
        [
            "=* gradient health *=",
            "verdict * ratio *",
            "",
            "ratio: L2 norm of the gradient at the first layer over the last; rate: per step",
            "6 probes: 2 failure, 1 warning, 3 healthy (1 failure expected by xfail)",
            "",
            "test_suite.py::test_sick",
            "the gradient vanishes: *GH101*",
            "Net on cpu, 17 points, seed *",
            "looked at again after 5 steps of Adam*",
            "* layer * type * output * norm * step*",
            "test_suite.py::test_known",
            "test_suite.py::test_warns",
            "the gradient vanishes: *GH101*",
        ],
        consecutive=False,
    )
    section = result.stdout.str().partition(" gradient health ")[2].partition("6 probes")[2]
    assert "test_healthy" not in section.partition("short test summary")[0]


def test_the_report_shows_all_profiles_and_layers_with_v(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "--gradhealth-report", "-v", "--tb=no")
    result.stdout.fnmatch_lines(
        [
            "6 probes: *",
            "test_suite.py::test_healthy",
            "Net is healthy: x* of the gradient reaches 0 (Linear)",
            "Net on cpu, 5 points, seed *",
            "test_suite.py::test_sick",
        ]
    )
    section = result.stdout.str().partition("6 probes")[2]
    assert section.count(" Sigmoid ") == 8 + 8 + 4
    assert " more " not in section


def test_nothing_is_shown_without_the_option(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "--tb=no")
    result.assert_outcomes(passed=4, failed=1, xfailed=1)
    assert "gradient health" not in text_of(result)
    assert "probes:" not in text_of(result)


@pytest.mark.parametrize(
    "ini",
    [
        {"pytest.ini": "[pytest]\ngradhealth_report = true\n"},
        {"pyproject.toml": "[tool.pytest.ini_options]\ngradhealth_report = true\n"},
    ],
    ids=["pytest.ini", "pyproject.toml"],
)
def test_the_ini_file_can_ask_for_the_report(
    pytester: pytest.Pytester, ini: dict[str, str]
) -> None:
    for name, text in ini.items():
        (pytester.path / name).write_text(text)
    pytester.makepyfile(test_suite=HEALTHY)
    assert probed(run(pytester)) == ["test_a"]


def test_the_report_says_so_when_nothing_was_probed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(): pass")
    result = run(pytester, "--gradhealth-report")
    result.stdout.fnmatch_lines(["=* gradient health *=", "no test probed a model"])
    assert "verdict" not in text_of(result)


def test_the_option_of_the_report_does_not_swallow_a_path(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_one=HEALTHY, test_two=HEALTHY)
    result = run(pytester, "--gradhealth-report", "test_two.py")
    assert [row["test"] for row in rows(result)] == ["test_two.py::test_a"]


def test_probes_of_a_fixtures_setup_and_teardown_are_in_the_report(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from networks import healthy, sick, x

        @pytest.fixture
        def checked(gradhealth):
            model = healthy()
            gradhealth.assert_healthy(model, x)
            yield model
            gradhealth.assert_healthy(healthy(), x)

        @pytest.fixture
        def broken(gradhealth):
            gradhealth.assert_healthy(sick(), x)

        def test_fine(checked):
            pass

        def test_error(broken):
            pass
        """
    )
    result = run(pytester, "--gradhealth-report")
    result.assert_outcomes(passed=1, errors=1)
    assert probed(result) == ["test_error", "test_fine", "test_fine"]


def test_a_probe_of_a_fixture_that_the_test_shares_has_one_row(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from networks import Net, healthy, x

        @pytest.fixture
        def model(gradhealth):
            model = healthy()
            gradhealth.assert_no_vanishing(model, x)
            return model

        def test_a(gradhealth, model):
            gradhealth.assert_no_exploding(model, x)
            assert Net.forwards == 1
        """
    )
    result = run(pytester, "--gradhealth-report")
    result.assert_outcomes(passed=1)
    assert probed(result) == ["test_a"]


def test_module_fixtures_and_unittest_classes_can_probe(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import unittest
        import pytest
        from pytest_gradhealth import assert_healthy
        from networks import healthy, sick, x

        @pytest.fixture(scope="module")
        def model():
            model = healthy()
            assert_healthy(model, x)
            return model

        def test_one(model):
            pass

        class TestOld(unittest.TestCase):
            def test_old(self):
                assert_healthy(healthy(), x)

            def test_old_sick(self):
                assert_healthy(sick(), x)
        """
    )
    result = run(pytester, "--gradhealth-report")
    result.assert_outcomes(passed=2, failed=1)
    assert probed(result) == ["test_old", "test_old_sick", "test_one"]


def test_a_probe_that_raises_leaves_no_row_and_no_harm(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import ProbeError
        from networks import healthy, x

        def test_bad_batch(gradhealth):
            with pytest.raises(ProbeError, match="forward raised"):
                gradhealth.assert_healthy(healthy(), x.T)

        def test_good(gradhealth):
            gradhealth.assert_healthy(healthy(), x)
        """
    )
    result = run(pytester, "--gradhealth-report")
    result.assert_outcomes(passed=2)
    assert probed(result) == ["test_good"]


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


# pytest-xdist


def test_the_rows_are_the_same_with_and_without_xdist(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(test_suite=SUITE)
    found = []
    for arguments in (["-p", "no:xdist"], ["-n", "0"], ["-n", "2"]):
        result = run(pytester, "--gradhealth-report", "--tb=no", *arguments)
        result.assert_outcomes(passed=4, failed=1, xfailed=1)
        result.stdout.fnmatch_lines(["6 probes: *(1 failure expected by xfail)"])
        assert text_of(result).count(" gradient health ") == 1
        found.append(sorted(rows(result), key=lambda row: (row["test"], row["seeds"])))
    assert found[0] == found[1] == found[2]


def test_a_crashing_worker_does_not_break_the_report(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        test_suite="""
        import os
        from networks import healthy, x

        def test_before(gradhealth):
            gradhealth.assert_healthy(healthy(), x)

        def test_crash(gradhealth):
            gradhealth.assert_healthy(healthy(), x)
            os._exit(1)

        def test_after(gradhealth):
            gradhealth.assert_healthy(healthy(), x)
        """
    )
    result = run(pytester, "--gradhealth-report", "-n", "1")
    result.assert_outcomes(passed=2, failed=1)
    assert probed(result) == ["test_after", "test_before"]
    assert "INTERNALERROR" not in text_of(result)


def test_what_was_found_travels_whatever_its_numbers_and_names_are_made_of(
    pytester: pytest.Pytester,
) -> None:
    pytest.importorskip("xdist")
    pytester.makeconftest(
        """
        import numpy
        from pytest_gradhealth import Rule

        def check(evidence):
            yield RULE.finding(
                "warning", "0", "loud", profile=evidence.first, value=numpy.float64(3.0)
            )

        RULE = Rule("MY101", "loud", "is not loud", "nothing", check)

        def pytest_gradhealth_rules(config):
            return [RULE]
        """
    )
    pytester.makepyfile(
        test_suite="""
        from networks import healthy, nn, x

        def test_number(gradhealth):
            gradhealth.assert_no_vanishing(healthy(), x)

        def test_name(gradhealth):
            model = healthy()
            model.add_module(chr(0xD800), nn.Linear(3, 3))
            gradhealth.assert_no_vanishing(model, x)
        """
    )
    result = run(pytester, "--gradhealth-report", "-n", "1")
    assert "INTERNALERROR" not in text_of(result)
    result.assert_outcomes(passed=2)
    assert [row["verdict"] for row in rows(result)] == ["warning", "warning"]


# Switches


def test_no_gradhealth_skips_at_the_first_check(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import assert_healthy
        from networks import Net, healthy, sick, x

        SEEN = []

        def test_fixture(gradhealth):
            SEEN.append("before")
            gradhealth.assert_healthy(sick(), x)
            SEEN.append("after")

        def test_function():
            assert_healthy(sick(), x)

        @pytest.mark.gradhealth(min_ratio=1e-4)
        def test_unused(gradhealth):
            pass

        def test_other():
            assert SEEN == ["before"]
            assert Net.forwards == 0
        """
    )
    result = run(pytester, "--no-gradhealth", "--gradhealth-report", "-rs")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "no test probed a model",
            "SKIPPED * gradient checks are switched off (--no-gradhealth)",
        ]
    )


def test_without_the_plugin_the_functions_still_work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import VanishingGradientError, assert_no_vanishing
        from networks import healthy, sick, x

        def test_function():
            assert_no_vanishing(healthy(), x)
            with pytest.raises(VanishingGradientError):
                assert_no_vanishing(sick(), x)

        def test_fixture(gradhealth):
            pass
        """
    )
    result = run(pytester, "-p", "no:gradhealth")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'gradhealth' not found"])


def test_help_lists_every_option(pytester: pytest.Pytester) -> None:
    text = " ".join(run(pytester, "--help").stdout.str().split())
    for flag in ("--gradhealth-report", "--no-gradhealth", *(option.flag for option in OPTIONS)):
        assert f" {flag} " in text or f" {flag}=" in text
    for key in ("gradhealth_report", *(option.key for option in OPTIONS)):
        assert f" {key} (" in text
    for option in OPTIONS:
        assert " ".join(option.help.split()) in text


def test_markers_lists_the_marker_and_strict_markers_know_it(pytester: pytest.Pytester) -> None:
    run(pytester, "--markers").stdout.fnmatch_lines(["@pytest.mark.gradhealth(*min_ratio*): *"])
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.gradhealth(min_ratio=1e-4)
        def test_a():
            pass
        """
    )
    run(pytester, "--strict-markers", "--strict-config").assert_outcomes(passed=1)


def test_fixtures_lists_the_fixture_with_its_doc(pytester: pytest.Pytester) -> None:
    run(pytester, "--fixtures").stdout.fnmatch_lines(
        ["gradhealth -- *plugin.py:*", "*Gradient checks with the settings of this test."]
    )


def test_the_plugin_does_without_the_terminal(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import VanishingGradientError
        from networks import healthy, sick, x

        def test_a(gradhealth):
            gradhealth.assert_healthy(healthy(), x)
            with pytest.raises(VanishingGradientError):
                gradhealth.assert_no_vanishing(sick(), x)
        """
    )
    result = run(pytester, "-p", "no:terminal", "--gradhealth-report")
    assert result.ret == pytest.ExitCode.OK


def test_warnings_as_errors_change_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "-W", "error", "--gradhealth-report", "--tb=no")
    result.assert_outcomes(passed=4, failed=1, xfailed=1, warnings=0)
    result.stdout.fnmatch_lines(["6 probes: 2 failure, 1 warning, 3 healthy *"])


def test_nothing_is_written_to_disk(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_suite=SUITE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    opened: list[str] = []
    recording = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if recording and event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if writes and path != os.devnull:
                opened.append(str(path))

    sys.addaudithook(hook)
    try:
        result = run(pytester, "--gradhealth-report", "-v", "--capture=sys")
        recording = False
        (pytester.path / "proof").write_text("recorded while recording")
    finally:
        recording = False
    result.assert_outcomes(passed=4, failed=1, xfailed=1)
    assert opened == []
    assert sorted(path.name for path in pytester.path.iterdir()) == [
        "networks.py",
        "proof",
        "test_suite.py",
        "tox.ini",
    ]


# Rules of one's own


RULE = """
from pytest_gradhealth import Rule

def check(evidence):
    if evidence.first.loss > {limit}:
        yield RULE.finding(
            "failure", "(loss)", "the loss starts high", profile=evidence.first
        )

RULE = Rule("{code}", "large-loss", "the loss starts small", "the loss", check)

def pytest_gradhealth_rules(config):
    return {returned}
"""

CHECKS_ALL = """
from networks import cross_entropy, healthy, x, y

def test_a(gradhealth):
    gradhealth.assert_healthy(healthy(), x, y, loss=cross_entropy)
"""


def rule(code: str = "MY101", limit: str = "0", returned: str = "[RULE]") -> str:
    return RULE.format(code=code, limit=limit, returned=returned)


def test_a_rule_of_a_conftest_fires_in_its_own_folder(pytester: pytest.Pytester) -> None:
    folders(pytester, a__conftest=rule(), a__test_in=CHECKS_ALL, b__test_out=CHECKS_ALL)
    result = run(pytester, "--gradhealth-report")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E *GradientHealthError: the loss starts high [[]MY101[]]"])
    verdicts = {row["test"]: row["verdict"] for row in rows(result)}
    assert verdicts == {"a/test_in.py::test_a": "failure", "b/test_out.py::test_a": "healthy"}


@pytest.mark.parametrize("ignore", ["--gradhealth-ignore=MY101", "--gradhealth-select=GH"])
def test_a_rule_of_ones_own_can_be_left_out(pytester: pytest.Pytester, ignore: str) -> None:
    folders(pytester, conftest=rule(), test_in=CHECKS_ALL)
    run(pytester, ignore).assert_outcomes(passed=1)


def test_rules_of_nested_folders_add_up(pytester: pytest.Pytester) -> None:
    folders(
        pytester,
        conftest=rule("MY101", limit="0"),
        a__conftest=rule("MY102", limit="0"),
        a__test_in=CHECKS_ALL,
    )
    run(pytester).stdout.fnmatch_lines(
        ["*the loss starts high [[]MY101[]]", "*the loss starts high [[]MY102[]]"]
    )


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            "['MY101']",
            "pytest_gradhealth_rules returned a str in its list; return pytest_gradhealth.Rule"
            " objects",
        ),
        (
            "'MY101'",
            "pytest_gradhealth_rules returned a str in its list; return pytest_gradhealth.Rule"
            " objects",
        ),
        ("RULE", "pytest_gradhealth_rules returned a"),
        ("7", "pytest_gradhealth_rules returned a"),
    ],
    ids=["list of text", "text", "one rule", "number"],
)
def test_a_hook_that_returns_something_else_is_told(
    pytester: pytest.Pytester, returned: str, message: str
) -> None:
    folders(pytester, conftest=rule(returned=returned), test_in=CHECKS_ALL)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    assert f"SettingError: {message}" in text_of(result)


@pytest.mark.parametrize("returned", ["None", "[]", "(RULE,)", "iter([RULE])"])
def test_a_hook_may_return_nothing_or_any_iterable(
    pytester: pytest.Pytester, returned: str
) -> None:
    folders(pytester, conftest=rule(returned=returned), test_in=CHECKS_ALL)
    fails = "RULE" in returned
    run(pytester).assert_outcomes(failed=int(fails), passed=int(not fails))


def test_two_rules_of_one_code_are_told_apart(pytester: pytest.Pytester) -> None:
    folders(pytester, conftest=rule("GH101"), test_in=CHECKS_ALL)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    names = "vanishing and large-loss", "large-loss and vanishing"
    assert any(
        f"SettingError: two rules have the code GH101 ({pair}); give yours a code of its own"
        in text_of(result)
        for pair in names
    )


# Hostile names


HOSTILE = r"""
from collections import OrderedDict
from types import MethodType
import pytest
import torch
from torch import nn
from networks import sick, x

EVIL = "evil\x1b[31m\n\r\x07::error::" + chr(0x202E) + chr(0x9B) + "2J"


def hostile(body):
    model = type(EVIL, (nn.Sequential,), {"__module__": EVIL})()
    for number, layer in enumerate(body):
        model.add_module(f"{EVIL}{number}", type(EVIL, (type(layer),), {})(*shape(layer)))
    return model


def shape(layer):
    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else ()


@pytest.mark.parametrize("name", [EVIL], ids=[EVIL])
def test_sick(gradhealth, name):
    gradhealth.assert_healthy(hostile(sick()), x)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        up = nn.Linear(8, 8)
        nn.init.zeros_(up.weight)
        self.add_module(EVIL, nn.Sequential(OrderedDict(down=nn.Linear(8, 8), up=up)))

    def forward(self, x):
        x = self.trunk(x)
        return self.head(x + getattr(self, EVIL)(x))


def test_information(gradhealth):
    assert [f.severity for f in gradhealth.assert_healthy(Gated(), x).findings] == ["info"]


def test_unused(gradhealth):
    model = sick()
    model.add_module(EVIL, nn.Linear(2, 2))
    model.forward = MethodType(lambda self, x: self[0](x), model)
    gradhealth.assert_all_reached(model, x)
"""


@pytest.mark.parametrize("verbose", [[], ["-v"]], ids=["short", "verbose"])
def test_hostile_names_do_no_harm(pytester: pytest.Pytester, verbose: list[str]) -> None:
    pytester.makepyfile(test_suite=HOSTILE)
    result = run(pytester, "--gradhealth-report", "--color=no", "--tb=line", *verbose)
    result.assert_outcomes(passed=1, failed=2)
    assert len(rows(result)) == 3
    text = text_of(result)
    for harmful in ("\x1b", "\r", "\x07", "\u202e", "\x9b"):
        assert harmful not in text
    assert not any(line.lstrip().startswith("::error::") for line in text.split("\n"))
    assert "evil?[31m" in text
