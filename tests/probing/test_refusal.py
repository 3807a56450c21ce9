"""What is shown of an error: its words, its cause, and the frames of the caller's own code."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pytest_gradhealth
from pytest_gradhealth import ProbeError, assert_healthy, assert_no_vanishing, probe
from tests.helpers.nets import batch, mlp


class Reshaping(nn.Module):
    """Breaks in a function of torch that a method of its own calls."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.shaped(self.body(x))

    def shaped(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, torch.ones(3, 3))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return json.loads(str(cross_entropy(outputs, targets)))  # type: ignore[no-any-return]


def names(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize("call", [probe, assert_healthy, assert_no_vanishing])
@pytest.mark.parametrize(
    ("model", "arguments", "frames"),
    [
        (Reshaping, {}, ["forward", "shaped"]),
        (mlp, {"loss": loss}, ["loss"]),
        (mlp, {"inputs": torch.ones(2, 3)}, []),
        (mlp, {"call": lambda model, x: model.nothing(x)}, ["<lambda>"]),
    ],
    ids=["forward", "loss", "torch alone", "call"],
)
def test_the_frames_are_those_of_the_caller(
    call: Any, model: Callable[[], nn.Module], arguments: dict[str, Any], frames: list[str]
) -> None:
    x, y = batch()
    with pytest.raises(ProbeError) as caught:
        call(model(), **{"inputs": x, "targets": y, "loss": cross_entropy, **arguments})
    ours = pytest_gradhealth.__path__[0]
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert sum(file.startswith(ours) for file in files) <= 4  # those that raise it, and hide
    cause = caught.value.__cause__
    assert cause is not None
    assert names(cause) == frames


def test_a_setting_that_is_none_has_no_frames_of_ours() -> None:
    with pytest.raises(ProbeError) as caught:
        probe(mlp(), batch()[0], min_ratio="much")  # type: ignore[arg-type]
    assert names(caught.value)[-1] == "probe"
    assert isinstance(caught.value.__cause__, ValueError)


def test_causes_that_go_in_circles_are_gone_through_once() -> None:
    def circular(outputs: Tensor) -> Tensor:
        one, other = ValueError("one"), ValueError("other")
        one.__cause__, other.__cause__ = other, one
        raise one

    with pytest.raises(ProbeError, match="ValueError: one"):
        probe(mlp(), batch()[0], loss=circular)


def test_pytest_shows_the_line_of_the_test_and_that_of_the_model(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import torch
        from torch import nn
        from pytest_gradhealth import probe

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 3)

            def forward(self, x):
                return self.layer(x).nothing

        def test_net():
            probe(Net(), torch.ones(2, 4))
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    assert [line for line in result.outlines if line.startswith(">")] == [
        ">       return self.layer(x).nothing",
        ">       probe(Net(), torch.ones(2, 4))",
    ]
    assert [line for line in result.outlines if line.endswith("Error")] == [
        "test_pytest_shows_the_line_of_the_test_and_that_of_the_model.py:11: AttributeError",
        "test_pytest_shows_the_line_of_the_test_and_that_of_the_model.py:14: ProbeError",
    ]
