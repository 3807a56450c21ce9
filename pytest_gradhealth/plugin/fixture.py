"""What the `gradhealth` fixture gives to a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_gradhealth.config.options import SettingValues
    from pytest_gradhealth.results.diagnosis import Diagnosis


class _Assertion:
    """The assertion of the same name, which is loaded, with torch, when it is used."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Callable[..., Diagnosis]:
        from pytest_gradhealth import assertions

        assertion: Callable[..., Diagnosis] = getattr(assertions, self._name)
        return assertion


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
            model, inputs, targets, loss, optimizer, step, dependency, precision, loss_scale
        )
        return measured(case, settings)

    assert_no_vanishing = _Assertion()
    assert_no_vanishing_in_time = _Assertion()
    assert_no_exploding = _Assertion()
    assert_no_exploding_update = _Assertion()
    assert_no_dominating_regularizer = _Assertion()
    assert_finite_gradients = _Assertion()
    assert_no_underflow = _Assertion()
    assert_all_reached = _Assertion()
    assert_matches_baseline = _Assertion()
    assert_healthy = _Assertion()
