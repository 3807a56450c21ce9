"""Models are checked without a test: --gradhealth-model, and gradhealth_models in the ini file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_gradhealth.plugin import model_items, models, paths  # noqa: F401  # kept loaded
from pytest_gradhealth.specs import written  # noqa: F401
from tests.helpers.projects import probed, run, text_of
from tests.helpers.specs import modules_put_back

NETS = """
import torch
from torch import nn

made = []

def deep(activation, depth):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(16, 16), activation())]
    return nn.Sequential(nn.Linear(6, 16), *layers, nn.Linear(16, 3))

def healthy(depth=2):
    made.append(depth)
    return deep(nn.ReLU, depth)


class Sick(nn.Module):
    def __init__(self, depth=9):
        super().__init__()
        self.layers = deep(nn.Sigmoid, depth)

    def forward(self, x):
        return self.layers(x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, left, right):
        return self.layer(left) + self.layer(right)
"""
TEST = "def test_nothing():\n    pass\n"


@pytest.fixture(autouse=True)
def _project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("CI", "GITHUB_ACTIONS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(nets=NETS)
    ini(pytester)
    with modules_put_back():
        yield


def ini(pytester: pytest.Pytester, *lines: str) -> None:
    """Write the ini file with a list of models."""
    listed = (
        f"gradhealth_models =\n    {chr(10).join(lines)}".replace("\n", "\n    ") if lines else ""
    )
    pytester.makeini(f"[pytest]\ngradhealth_remedy_budget = 0\n{listed}\n")


def model(*specs: str) -> list[str]:
    return [f"--gradhealth-model={spec}" for spec in specs]


def test_a_model_is_a_test_of_its_own(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    write = "--gradhealth-write-test=tests/test_it.py"
    result = run(pytester, *model("nets:healthy", "nets.py:Sick(8)"), write, *workers)
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = text_of(result)
    assert "the gradient vanishes" in text
    assert "Sick on cpu, loss cross_entropy, 18 points" in text
    assert "next:   pytest '--gradhealth-model=nets.py:Sick(8)' -v" in text
    said = (
        "input 8x6 (layers.0 is Linear(in_features=6)), loss cross_entropy (the outputs are (8, 3)"
    )
    assert text.count(f"guessed: {said}") == 2
    assert f"    guessed: {said} float32)" in result.outlines
    assert "the same as a test: tests/test_it.py" in result.outlines
    assert "def test_healthy(gradhealth):" in Path("tests/test_it.py").read_text()
    assert "FAILED nets.py:Sick(8) - pytest_gradhealth.VanishingGradientError: the g" in text


def test_the_run_ends_with_the_test_file(pytester: pytest.Pytester) -> None:
    lines = run(pytester, *model("nets:healthy")).outlines
    start = lines.index("the same as a test (--gradhealth-write-test=test_models.py writes it):")
    assert lines[start + 2 : start + 14] == [
        '"""The gradients of nets:healthy."""',
        "",
        "import torch",
        "from nets import healthy",
        "from torch.nn.functional import cross_entropy",
        "",
        "",
        "def test_healthy(gradhealth):",
        "    torch.manual_seed(0)",
        "    inputs = torch.randn(8, 6)",
        "    targets = torch.randint(3, (8,))",
        "    gradhealth.assert_healthy(healthy, inputs, targets, loss=cross_entropy)",
    ]


@pytest.mark.parametrize("path", ["test_it.py", "tests/test_it.py"])
def test_the_test_file_is_written_and_passes(pytester: pytest.Pytester, path: str) -> None:
    result = run(pytester, *model("nets:healthy"), f"--gradhealth-write-test={path}")
    assert f"the same as a test: {path}" in result.outlines
    assert "def test_healthy(gradhealth):" in Path(path).read_text()
    run(pytester, path).assert_outcomes(passed=1)


def test_no_file_is_written_over(pytester: pytest.Pytester) -> None:
    Path("test_it.py").write_text(TEST)
    result = run(pytester, *model("nets:healthy"), "--gradhealth-write-test=test_it.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert Path("test_it.py").read_text() == TEST
    assert result.errlines[0] == (
        "ERROR: --gradhealth-write-test=test_it.py: test_it.py is there already, and stays; give"
        " the name of a new file"
    )
    assert run(pytester, *model("nets:healthy"), "--gradhealth-write-test=a").ret == 4
    Path("conftest.py").write_text("open('new.py', 'w').close() if __name__ == 'x' else None")
    run(pytester, *model("nets:healthy"), "--gradhealth-write-test=new.py", "--co")
    assert not Path("new.py").exists()


def test_one_that_comes_meanwhile_stays(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_runtest_setup():\n    open('test_it.py', 'w').close()\n")
    result = run(pytester, *model("nets:healthy"), "--gradhealth-write-test=test_it.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert Path("test_it.py").read_text() == ""
    assert any(line.startswith("test_it.py was not written (") for line in result.outlines)


def test_tests_run_beside_models_where_they_are_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a=TEST)
    run(pytester, *model("nets:healthy")).assert_outcomes(passed=1)
    run(pytester, *model("nets:healthy"), "test_a.py").assert_outcomes(passed=2)
    run(pytester, *model("nets:healthy"), ".", "-k", "healthy").assert_outcomes(
        passed=1, deselected=1
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (model("nets:helthy"), "nets has no helthy; did you mean healthy?"),
        (model("nest:healthy"), "there is no module nest; did you mean nets?"),
        (model("nets:healthy(9, 9)"), "too many positional arguments"),
        (model("nets:healthy(open('x'))"), "is no literal"),
        (
            model("nets:Pair"),
            "the batch of nets:Pair cannot be guessed (its forward takes left, right); add"
            " --gradhealth-input=8x3x32x32, 'input_ids=int64[4,16]<1000', or module:batch",
        ),
        (
            [*model("nets:healthy"), "--gradhealth-input=8y6"],
            "--gradhealth-input: '8y6' is no tensor",
        ),
        ([*model("nets:healthy"), "--gradhealth-loss=mze"], "'mze' is no loss; did you mean mse?"),
        (["--gradhealth-loss=mse"], "--gradhealth-loss is for a model; add --gradhealth-model"),
        (["--gradhealth-input=8"], "--gradhealth-input is for a model; add --gradhealth-model"),
        (["--gradhealth-write-test=a.py"], "--gradhealth-write-test is for a model; add"),
    ],
)
def test_a_mistake_stops_the_run_before_any_test(
    pytester: pytest.Pytester, arguments: list[str], said: str
) -> None:
    pytester.makepyfile(test_a=TEST)
    result = run(pytester, *arguments, "test_a.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()
    assert "passed" not in result.stdout.str()


def test_with_workers_as_well_and_all_mistakes_at_once(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    result = run(pytester, *model("nets:helthy", "nets:Pair", "nets:healthy"), "-n1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "nets has no helthy" in result.stderr.str()
    assert "the batch of nets:Pair cannot be guessed" in result.stderr.str()


def test_inputs_and_loss_are_given(pytester: pytest.Pytester) -> None:
    inputs = [f"--gradhealth-input={one}" for one in ("left=5x4", "right=5x4")]
    result = run(pytester, *model("nets:Pair"), *inputs, "--gradhealth-loss=mse")
    result.assert_outcomes(passed=1)
    assert "    nothing was guessed" in result.outlines
    assert '    inputs = {"left": torch.randn(5, 4), "right": torch.randn(5, 4)}' in result.outlines


def test_settings_of_all_kinds_are_heard(pytester: pytest.Pytester) -> None:
    mild = ["--gradhealth-min-ratio=1e-20", "--gradhealth-select=GH101"]
    run(pytester, *model("nets:Sick"), *mild).assert_outcomes(passed=1)
    run(pytester, *model("nets:Sick"), "--no-gradhealth").assert_outcomes(skipped=1)
    result = run(pytester, *model("nets:Sick"), "--gradhealth-seeds=2", "--gradhealth-report")
    assert probed(result) == ["nets:Sick"]
    pytester.makeconftest(
        """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid == "nets:Sick":
            item.add_marker(pytest.mark.xfail(strict=True))
            item.add_marker(pytest.mark.gradhealth(min_ratio=1e-4))
"""
    )
    result = run(pytester, *model("nets:Sick", "nets:healthy"), "--runxfail")
    assert "limit x0.0001 (@pytest.mark.gradhealth on nets:Sick)" in text_of(result)
    run(pytester, *model("nets:Sick", "nets:healthy")).assert_outcomes(passed=1, xfailed=1)


def test_the_ini_file_has_a_table_for_each(pytester: pytest.Pytester) -> None:
    ini(
        pytester,
        "nets:healthy(depth=3)",
        "nets:Pair input=left=5x4,right=5x4 loss=cross_entropy name=pair",
        "nets:Sick min_ratio=1e-4 marks=xfail",
        "'",
    )
    assert run(pytester).ret == pytest.ExitCode.USAGE_ERROR
    ini(
        pytester,
        "nets:healthy(depth = 3)",
        "nets:Pair input=left=5x4,right=5x4 loss=cross_entropy name=pair",
        "nets:Sick min_ratio=1e-4 marks=xfail",
    )
    pytester.makepyfile(test_a=TEST)
    result = run(pytester, "-rx", "-v")
    result.assert_outcomes(passed=3, xfailed=1)
    assert "the same as a test" not in text_of(result)
    result = run(pytester, "--runxfail")
    assert "limit x0.0001 (gradhealth_models in tox.ini, nets:Sick)" in text_of(result)
    run(pytester, "test_a.py").assert_outcomes(passed=1)
    run(pytester, "-k", "healthy").assert_outcomes(passed=1, deselected=3)
    result = run(pytester, *model("pair"))
    result.assert_outcomes(passed=1)
    assert "    nothing was guessed" in result.outlines
    result = run(pytester, *model("nets:Pair"), "--gradhealth-input=7x4,7x4", "--gradhealth-report")
    result.assert_outcomes(passed=1)
    assert "    inputs = (torch.randn(7, 4), torch.randn(7, 4))" in result.outlines


def test_files_are_found_from_a_folder_inside(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    ini(pytester, "nets.py:healthy", "nets:Sick marks=xfail")
    pytester.mkdir("inside")
    Path("inside/own.py").write_text(NETS)
    monkeypatch.chdir("inside")
    run(pytester).assert_outcomes(passed=1, xfailed=1)
    run(pytester, *model("own.py:healthy", "nets.py:healthy")).assert_outcomes(passed=2)


def test_a_table_in_toml(pytester: pytest.Pytester) -> None:
    Path("tox.ini").unlink()
    pytester.makepyprojecttoml(
        """
[[tool.pytest.ini_options.gradhealth_models]]
spec = "nets:healthy"
input = ["7x6"]
min_ratio = 1e-4

[[tool.pytest.ini_options.gradhealth_models]]
spec = "nets:healthy"
name = "deep"
loss = "mse"
"""
    )
    result = run(pytester, "-v")
    result.assert_outcomes(passed=2)
    assert "nets:healthy[deep] PASSED" in text_of(result)


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="this pytest reads no native TOML")
def test_native_toml_has_lines(pytester: pytest.Pytester) -> None:
    Path("tox.ini").unlink()
    pytester.makepyprojecttoml('[tool.pytest]\ngradhealth_models = ["nets:healthy input=7x6"]')
    run(pytester).assert_outcomes(passed=1)
    pytester.makepyprojecttoml('[[tool.pytest.gradhealth_models]]\nspec = "nets:healthy"')
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "gradhealth_models in pyproject.toml is no list of lines" in result.stderr.str()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nets:healthy inputs=8x6", "nets:healthy: there is no inputs; did you mean input?"),
        ("nets:healthy min_ration=1", "unknown setting 'min_ration'"),
        ("nets:healthy min_ratio=x", "min_ratio = 'x' is not a positive number"),
        ("nets:healthy 8x6", "gradhealth_models in tox.ini: '8x6' behind nets:healthy is not one"),
        ("nets:healthy loss=mze", "loss of gradhealth_models in tox.ini: 'mze' is no loss"),
        ("nets:helthy", "nets has no helthy; did you mean healthy?"),
    ],
)
def test_mistakes_of_the_ini_file(pytester: pytest.Pytester, line: str, said: str) -> None:
    ini(pytester, line)
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()


def test_last_failed_runs_them_again(pytester: pytest.Pytester) -> None:
    arguments = model("nets:Sick", "nets:healthy")
    pytester.runpytest_inprocess(*arguments).assert_outcomes(passed=1, failed=1)
    result = pytester.runpytest_inprocess(*arguments, "--lf")
    result.assert_outcomes(failed=1, deselected=1)


def test_baselines_are_in_the_rootdir(pytester: pytest.Pytester) -> None:
    ini(pytester, "nets:healthy", "nets:healthy(3)")
    pytester.makepyfile(
        test_a="""
from nets import healthy, torch

def test_a(gradhealth):
    gradhealth.assert_healthy(healthy, torch.ones(4, 6).tril())
"""
    )
    result = run(pytester, "--gradhealth-baseline", "--gradhealth-update")
    result.assert_outcomes(passed=3)
    file = Path("__gradhealth__/gradhealth_models.json")
    assert [*json.loads(file.read_text())["entries"]] == ["nets:healthy", "nets:healthy(3)"]
    for arguments in ([], ["test_a.py"], model("nets:healthy"), ["-k", "3"]):
        result = run(
            pytester, "--gradhealth-baseline", "--gradhealth-fail-on=missing,stale", *arguments
        )
        assert result.ret == 0, text_of(result)
    Path("nets.py").write_text(NETS.replace("deep(nn.ReLU", "deep(nn.Sigmoid"))
    result = run(pytester, "--gradhealth-baseline", *model("nets:healthy(3)"))
    result.assert_outcomes(failed=1)
    assert "reaches 0 (Linear); it was x" in text_of(result)
    ini(pytester, "nets:healthy")
    Path("nets.py").write_text(NETS)
    result = run(pytester, "--gradhealth-baseline", "--gradhealth-prune")
    assert "nets:healthy(3)" in text_of(result)
    assert [*json.loads(file.read_text())["entries"]] == ["nets:healthy"]


def test_reports_are_at_the_line_of_the_class(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = run(
        pytester,
        *model("nets:Sick", "nets:healthy"),
        *("--gradhealth-json=a.json", "--junitxml=a.xml", "-o", "junit_family=xunit1"),
    )
    line = 1 + NETS.strip().splitlines().index("class Sick(nn.Module):")
    assert f"::error file=nets.py,line={line},title=gradient health" in text_of(result)
    report = json.loads(Path("a.json").read_text())
    assert [probe["test"] for probe in report["probes"]] == ["nets:Sick", "nets:healthy"]
    xml = Path("a.xml").read_text()
    assert re.search(rf'name="nets:Sick" file="nets.py" line="{line - 1}"', xml)
    assert 'name="gradhealth.guessed" value="guessed: input 8x6' in xml
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_model_that_is_only_listed_is_not_built(pytester: pytest.Pytester) -> None:
    result = run(pytester, *model("nets:Pair"), "--collect-only", "-q")
    assert result.ret == 0
    assert "nets:Pair" in result.outlines


def test_names_do_no_harm(pytester: pytest.Pytester) -> None:
    Path("nets.py").write_text(NETS.replace("depth=2", "depth=2, text=''"))
    result = run(pytester, *model("nets:healthy(text='\x1b[2J\\n::error::x')"), "-v")
    result.assert_outcomes(passed=1)
    assert "\x1b[2J" not in text_of(result)
    assert not any(line.startswith("::error") for line in result.outlines)


def test_an_error_of_the_model_is_told_as_one_of_a_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, *model("nets:healthy"), "--gradhealth-input=8x7")
    result.assert_outcomes(failed=1)
    assert "it was called with (8, 7) float32" in text_of(result)
