"""What the `gradhealth` fixture gives to a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_gradhealth.config.options import SettingValues
    from pytest_gradhealth.results.diagnosis import Diagnosis


def _asserting(name: str) -> Callable[..., Diagnosis]:
    """The assertion of a name as a method; it is loaded, with torch, when it is called."""

    def method(self: GradHealth, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        __tracebackhide__ = True
        del self
        from pytest_gradhealth import assertions

        assertion: Callable[..., Diagnosis] = getattr(assertions, name)
        return assertion(model, *args, **kwargs)

    method.__name__, method.__qualname__ = name, f"GradHealth.{name}"
    method.__doc__ = f"`pytest_gradhealth.{name}`, with the settings of this test."
    return method


class GradHealth:
    """The assertions and the probe with the settings of the test that uses it.

    Assertions on one model and batch share one probe, as long as neither has changed in between.
    The functions of the same names in `pytest_gradhealth` do the same inside a test.
    """

    def probe(
        self,
        model: Any,
        inputs: Any,
        targets: Any = None,
        *,
        loss: Any = None,
        call: Any = None,
        optimizer: Any = None,
        clip: Any = None,
        regularizer: Any = None,
        dependency: int | None = None,
        precision: Any = None,
        loss_scale: Any = None,
        **settings: Unpack[SettingValues],
    ) -> Diagnosis:
        """Measure and judge without raising; `settings` are those of `pytest_gradhealth.probe`."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions.verdict import measured
        from pytest_gradhealth.probing.case import Case
        from pytest_gradhealth.probing.probe import declared_step

        step = declared_step(clip, regularizer)
        case = Case(
            model, inputs, targets, loss, optimizer, step, dependency, precision, loss_scale, call
        )
        return measured(case, settings)

    assert_no_vanishing = _asserting("assert_no_vanishing")
    assert_no_vanishing_in_time = _asserting("assert_no_vanishing_in_time")
    assert_no_exploding = _asserting("assert_no_exploding")
    assert_no_exploding_update = _asserting("assert_no_exploding_update")
    assert_no_dominating_regularizer = _asserting("assert_no_dominating_regularizer")
    assert_finite_gradients = _asserting("assert_finite_gradients")
    assert_no_underflow = _asserting("assert_no_underflow")
    assert_all_reached = _asserting("assert_all_reached")
    assert_matches_baseline = _asserting("assert_matches_baseline")
    assert_healthy = _asserting("assert_healthy")
