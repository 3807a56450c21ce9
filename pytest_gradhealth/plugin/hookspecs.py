"""Hooks that other plugins and conftest files can implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_gradhealth.remedies import Remedy
    from pytest_gradhealth.rules import Rule


@pytest.hookspec
def pytest_gradhealth_rules(config: pytest.Config) -> Sequence[Rule]:  # type: ignore[empty-body]
    """Return further rules; a conftest's rules apply to the tests in its folder.

    .. code-block:: python

        # conftest.py
        import pytest


        @pytest.hookimpl(optionalhook=True)
        def pytest_gradhealth_rules(config):
            from pytest_gradhealth import Rule

            def check(evidence):
                if evidence.first.loss > 100:
                    yield LOSS.finding(
                        "failure", "(loss)", "the loss starts above 100", profile=evidence.first
                    )

            LOSS = Rule("MY101", "large-loss", "the loss starts small", "the loss", check)
            return [LOSS]
    """


@pytest.hookspec
def pytest_gradhealth_remedies(config: pytest.Config) -> Sequence[Remedy]:  # type: ignore[empty-body]
    """Return further remedies, to be tried on a copy of each failing model.

    .. code-block:: python

        # conftest.py
        import pytest


        @pytest.hookimpl(optionalhook=True)
        def pytest_gradhealth_remedies(config):
            from torch import nn

            from pytest_gradhealth import CannotApplyError, Remedy

            def change(patient):
                if not isinstance(patient.model, nn.Sequential):
                    raise CannotApplyError("the model is no nn.Sequential")
                nn.init.orthogonal_(patient.model[0].weight)

            code = "nn.init.orthogonal_(model[0].weight)"
            return [Remedy("first layer", ("GH101",), change, code)]
    """
