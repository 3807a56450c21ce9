"""The JSON report fits its schema and is read back, with workers and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pytest_gradhealth
from pytest_gradhealth import ProbeError, Run, read_report
from pytest_gradhealth.reporting.json_report import VERSION, read_json, schema, write_json
from tests.helpers import projects

jsonschema: Any = pytest.importorskip("jsonschema")


def test_a_run_survives_json_and_fits_the_schema(run: Run) -> None:
    text = write_json(run)
    assert text.isascii()
    assert write_json(read_json(text)) == text
    jsonschema.Draft202012Validator(schema()).validate(json.loads(text))


def test_the_shipped_schema_is_that_of_the_records() -> None:
    path = Path(pytest_gradhealth.__file__).parent / "reporting" / "schema.json"
    assert json.loads(path.read_text()) == schema(), "write schema() to it"
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_schema_refuses_what_is_not_a_report(run: Run) -> None:
    data = json.loads(write_json(run))
    data["probes"][0]["diagnosis"]["verdict"] = "fine"
    assert not jsonschema.Draft202012Validator(schema()).is_valid(data)
    assert not jsonschema.Draft202012Validator(schema()).is_valid({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this is no JSON report of pytest-gradhealth (JSONDecodeError: Expecting value"),
        ("{}", "this is no JSON report of pytest-gradhealth (KeyError: 'version')"),
        ('{"version": 1}', "this is no JSON report of pytest-gradhealth (TypeError: "),
        (
            json.dumps({"version": VERSION + 1}),
            f"the report was written by a newer version (format {VERSION + 1}, this one reads up to"
            f" {VERSION}); update pytest-gradhealth",
        ),
    ],
)
def test_other_files_are_no_reports(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "old.json"
    file.write_text(text)
    with pytest.raises(ProbeError) as caught:
        read_report(file)
    assert str(caught.value).startswith(f"{file}: {message}")
    if "no JSON report" in message:
        assert str(caught.value).endswith("; write one with --gradhealth-json=PATH")
    with pytest.raises(ProbeError, match="cannot be read"):
        read_report(tmp_path / "none.json")


def test_a_report_that_is_cut_off_is_none(run: Run) -> None:
    with pytest.raises(ProbeError, match="no JSON report"):
        read_json(write_json(run)[:-100])


def test_reports_are_the_same_with_workers(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
import torch
from torch import Tensor, nn

def test_one(gradhealth):
    torch.manual_seed(0)
    gradhealth.assert_healthy(nn.Linear(4, 2), torch.randn(8, 4))

def test_two(gradhealth):
    torch.manual_seed(0)
    gradhealth.assert_healthy(nn.Linear(4, 2), torch.randn(8, 4), max_output=1e-9)
"""
    )
    found = []
    untried = "--gradhealth-remedy-budget=0"  # which takes as many steps as there is time for
    for options in ([], ["-n1"]):
        file = f"out{len(options)}/deep/report.json"
        result = projects.run(pytester, f"--gradhealth-json={file}", untried, *options)
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines([f"gradient health as json: {file}"])
        data = json.loads(Path(file).read_text())
        for probe in data["probes"]:
            probe["diagnosis"]["milliseconds"] = 0
        assert file in data.pop("invocation")["command"]
        found.append(data)
    assert found[0] == found[1]
    assert found[0]["probes"][1]["outcome"] == "failed"
    assert found[0]["probes"][1]["message"].startswith("the outputs are")
    assert found[0]["probes"][1]["line"] == 8
    assert not any(probe["of_fixture"] for probe in found[0]["probes"])
    assert found[0]["environment"]["torch"] == torch.__version__


ENDS = """
import pytest, torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BATCH = {"inputs": torch.randn(16, 8), "targets": torch.arange(16) % 4, "loss": cross_entropy}

def net(activation, layers):
    torch.manual_seed(0)
    parts = []
    for _ in range(layers):
        parts += [nn.Linear(8, 8), activation()]
    return nn.Sequential(*parts, nn.Linear(8, 4))

@pytest.fixture
def sick(gradhealth):
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 12), **BATCH)

@pytest.fixture
def late(gradhealth):
    yield
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 12), **BATCH)

@pytest.fixture
def broken():
    yield
    raise OSError("gone")

def test_setup(sick): pass

def test_teardown(late): pass

def test_both(gradhealth, broken):
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 12), **BATCH)

def test_several(gradhealth):
    gradhealth.assert_no_vanishing(net(nn.ReLU, 2), **BATCH)
    gradhealth.assert_no_vanishing(net(nn.Sigmoid, 12), **BATCH)
"""


def test_the_message_is_there_wherever_a_check_fails_and_on_that_probe_alone(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_ends=ENDS)
    options = ["--gradhealth-json=x.json", "--gradhealth-remedy-budget=0.3"]
    pytester.runpytest("-p", "no:cacheprovider", *options)
    found: dict[str, list[str]] = {}
    for probe in read_report("x.json").probes:
        said = probe.message.partition(":")[0]
        found.setdefault(probe.test.partition("::")[2], []).append(said)
    assert found == {
        "test_setup": ["the gradient vanishes"],
        "test_teardown": ["the gradient vanishes"],
        "test_both": ["the gradient vanishes"],
        "test_several": ["", "the gradient vanishes"],
    }
