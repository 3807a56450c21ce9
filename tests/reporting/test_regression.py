"""The message of a regression, compared exactly."""

from __future__ import annotations

from torch import nn

from pytest_gradhealth.baseline.check import Now, check_entry
from pytest_gradhealth.baseline.entry import entry_of
from pytest_gradhealth.formatting import View
from pytest_gradhealth.reporting.regression import missing, regression
from pytest_gradhealth.results.diagnosis import Limit
from tests.helpers.baselines import PATH, STEP, diagnosed


def test_the_message_names_layer_before_after_and_command() -> None:
    before, after = diagnosed(nn.ReLU, 4), diagnosed(nn.Sigmoid, 4)
    kept = {"test_net": entry_of(before, {"torch": "2.6.0"})}
    check = check_entry(
        Now(entry_of(after, {"torch": "2.15.0"})),
        kept,
        file="tests/__gradhealth__/test_models.json",
        key="test_net",
        max_path=PATH,
        max_step=Limit(0.35, "@pytest.mark.gradhealth on test_net"),
    )
    assert regression(check, after, View(rerun="pytest tests/test_models.py::test_net")) == MESSAGE
    lost = check_entry(Now(check.entry), {}, file="f.json", key="k", max_path=PATH, max_step=STEP)
    assert missing(lost, rerun="pytest test_a.py::test_b") == (
        "no baseline for k in f.json\n\n"
        "next:   pytest test_a.py::test_b --gradhealth-update\n"
        "        (writes it; commit the file)"
    )


MESSAGE = """\
x0.0005 of the gradient reaches 0 (Linear); it was x0.035 (it lost 1.84 decades; limit 0.5, default) [regression]

Sequential against test_net in tests/__gradhealth__/test_models.json
measured with torch 2.6.0 (now 2.15.0)

    layer                    step before    step now
    0 (Linear)                     x0.59       x0.23
    1 (Sigmoid)  was ReLU          x0.58        x0.6
    2 (Linear)                     x0.72       x0.25
    3 (Sigmoid)  was ReLU          x0.63       x0.59
    4 (Linear)                     x0.68       x0.25
    5 (Sigmoid)  was ReLU          x0.59        x0.6
>   6 (Linear)                     x0.81       x0.25
    7 (Sigmoid)  was ReLU          x0.68       x0.68
    8 (Linear)

accept: pytest tests/test_models.py::test_net --gradhealth-update
        (if this is meant to be; commit the change of tests/__gradhealth__/test_models.json)"""  # noqa: E501
