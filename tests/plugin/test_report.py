"""The report in the terminal, with workers and without, whatever names and numbers are in it."""

from __future__ import annotations

import pytest

from tests.helpers.projects import HEALTHY, SUITE, probed, rows, run, text_of

pytestmark = pytest.mark.usefixtures("_networks")


def test_the_report_has_a_row_for_each_probe(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "--gradhealth-report", "--tb=no")
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
            "Net on cpu, loss cross_entropy, 17 points, seed *",
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


def test_in_ci_a_message_is_written_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "1")
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "--gradhealth-report")
    failures, _, rest = result.stdout.str().partition(" gradient health ")
    report, _, summary = rest.partition(" short test summary info ")
    assert failures.count("Net on cpu, loss cross_entropy, 17 points") == 1
    assert failures.count("cause: ") == 1
    assert "test_suite.py::test_sick\nthe gradient vanishes" not in report
    assert report.count("Net on cpu, loss cross_entropy, 17 points") == 1, (
        "of the test that is to fail"
    )
    failed, *others = summary.splitlines()[1:]
    start = (
        "FAILED test_suite.py::test_sick - pytest_gradhealth.VanishingGradientError: the gradient"
    )
    assert failed.startswith(start), failed
    assert failed.endswith("[GH101]")
    assert len(others) == 1, others


def test_in_ci_the_summary_has_the_first_line_of_what_cannot_be_probed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "1")
    pytester.makepyfile(
        test_suite="""
        from networks import cross_entropy, healthy, x, y

        def test_given(gradhealth):
            gradhealth.assert_healthy(healthy(), [x, y], loss=cross_entropy)
        """
    )
    told, _, summary = run(pytester).stdout.str().partition(" short test summary info ")
    assert told.count("pass inputs and targets apart, behind the model") == 1
    assert summary.splitlines()[1:-1] == [
        "FAILED test_suite.py::test_given - pytest_gradhealth.ProbeError: Net.forward raised"
        " TypeError: linear(): argument 'input' (position 1) must be Tensor, not list"
    ]


IN_TURN = """
import pytest, torch
from torch import nn
from torch.nn.functional import cross_entropy

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(8, 16), nn.Linear(16, 5)

    def forward(self, x):
        state = x.new_zeros(len(x), 16)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)

class Gated(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
        nn.init.zeros_(self[2].weight)

@pytest.mark.parametrize("build", [Recurrent, Gated])
def test_net(gradhealth, build):
    x = torch.randn(8, 40, 8) if build is Recurrent else torch.randn(8, 8)
    gradhealth.assert_healthy(build(), x, torch.arange(8) % 5, loss=cross_entropy)
"""


def test_no_row_says_healthy_of_next_to_nothing(pytester: pytest.Pytester) -> None:
    """All calls of a cell count, and behind a gate the look in which it has opened."""
    pytester.makepyfile(IN_TURN)
    for row in rows(run(pytester, "--gradhealth-report")):
        assert row["verdict"] == "healthy"
        assert float(row["ratio"][1:]) > 1e-4, row


def test_the_report_shows_all_profiles_and_layers_with_v(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_suite=SUITE)
    result = run(pytester, "--gradhealth-report", "-v", "--tb=no")
    result.stdout.fnmatch_lines(
        [
            "6 probes: *",
            "test_suite.py::test_healthy",
            "Net is healthy: x* of the gradient reaches 0 (Linear)",
            "Net on cpu, a random direction of the outputs, 5 points, seed *",
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


def test_of_a_test_that_is_run_again_the_last_run_is_reported(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            for _ in range(2):
                runtestprotocol(item, nextitem=nextitem)
            return True
        """
    )
    pytester.makepyfile(
        """
        from networks import healthy, x

        RUNS = []

        def test_a(gradhealth):
            RUNS.append(1)
            gradhealth.probe(healthy(), x, seeds=[0])
            assert len(RUNS) > 1
        """
    )
    result = run(pytester, "--gradhealth-report")
    assert [row["verdict"] for row in rows(result)] == ["healthy"]


INTERRUPTED = "import pytest\ndef pytest_collection_finish(session):\n    raise KeyboardInterrupt\n"


@pytest.mark.parametrize(
    ("options", "conftest", "test", "code"),
    [
        ([], "", "import nothing_of_the_kind", 2),
        (["-k", "nomatch"], "", "def test_one(): pass", 5),
        ([], INTERRUPTED, "def test_one(): pass", 2),
    ],
)
def test_a_run_without_a_test_leaves_the_earlier_reports(
    pytester: pytest.Pytester, options: list[str], conftest: str, test: str, code: int
) -> None:
    pytester.makeconftest(conftest)
    pytester.makepyfile(test)
    report, other = pytester.path / "r.json", pytester.path / "new.md"
    report.write_text("old")
    files = ["--gradhealth-json=r.json", "--gradhealth-markdown=new.md"]
    result = pytester.runpytest("-p", "no:cacheprovider", *files, *options, no_reraise_ctrlc=True)
    assert result.ret == code
    assert report.read_text() == "old"
    assert not other.exists()
    told = [line for line in result.outlines if line.startswith("gradient health")]
    assert told == ["gradient health as json: r.json stays as it was, since no test ran"]
