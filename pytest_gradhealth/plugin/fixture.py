"""What the `gradhealth` fixture gives to a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_gradhealth.config.options import SettingValues
    from pytest_gradhealth.results.diagnosis import Diagnosis


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

    def assert_no_vanishing(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that the gradient does not vanish on its way to the first layer (GH101)."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_no_vanishing

        return assert_no_vanishing(model, *args, **kwargs)

    def assert_no_vanishing_in_time(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that the gradient reaches far enough back in time (GH102)."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_no_vanishing_in_time

        return assert_no_vanishing_in_time(model, *args, **kwargs)

    def assert_no_exploding(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that the gradient does not explode on its way to the first layer (GH201)."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_no_exploding

        return assert_no_exploding(model, *args, **kwargs)

    def assert_no_exploding_update(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that the training step does not blow the model up (GH202)."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_no_exploding_update

        return assert_no_exploding_update(model, *args, **kwargs)

    def assert_no_dominating_regularizer(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that the penalty does not drown the data (GH601)."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_no_dominating_regularizer

        return assert_no_dominating_regularizer(model, *args, **kwargs)

    def assert_finite_gradients(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that loss and gradients are finite (GH301)."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_finite_gradients

        return assert_finite_gradients(model, *args, **kwargs)

    def assert_no_underflow(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that no gradient is lost to a low-precision number format (GH501)."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_no_underflow

        return assert_no_underflow(model, *args, **kwargs)

    def assert_all_reached(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that every trainable parameter gets a gradient (GH401)."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_all_reached

        return assert_all_reached(model, *args, **kwargs)

    def assert_matches_baseline(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that the gradients are no worse than the test's baseline says."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_matches_baseline

        return assert_matches_baseline(model, *args, **kwargs)

    def assert_healthy(self, model: Any, *args: Any, **kwargs: Any) -> Diagnosis:
        """Assert that no rule fails."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions import assert_healthy

        return assert_healthy(model, *args, **kwargs)
