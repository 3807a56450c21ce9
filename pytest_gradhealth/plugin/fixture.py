"""What the `gradhealth` fixture gives to a test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_gradhealth import HOMES
from pytest_gradhealth.config.arguments import called
from pytest_gradhealth.context import called_from, current

if TYPE_CHECKING:
    from typing import Concatenate, ParamSpec, TypeVar

    import torch
    from typing_extensions import Unpack

    from pytest_gradhealth import assertions
    from pytest_gradhealth.config.options import SettingValues
    from pytest_gradhealth.probing.case import ModelLike
    from pytest_gradhealth.results.diagnosis import Diagnosis
    from pytest_gradhealth.rules import Rule
    from pytest_gradhealth.subject.calling import Call
    from pytest_gradhealth.subject.loss import Loss
    from pytest_gradhealth.subject.step import Clip, Regularizer
    from pytest_gradhealth.training.optimizers import OptimizersLike

    P = ParamSpec("P")
    R = TypeVar("R")

    def _method(assertion: Callable[P, R]) -> Callable[Concatenate[GradHealth, P], R]: ...


class _Assertion:
    """An assertion as a method, with its arguments; it is loaded, with torch, when asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._method if instance is None else self._method.__get__(instance, owner)

    @cached_property
    def _method(self) -> Any:
        from pytest_gradhealth import assertions

        assertion: Callable[..., Any] = getattr(assertions, self._name)

        def method(self: GradHealth, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            del self
            return assertion(*args, **kwargs)

        own, *_ = inspect.signature(method).parameters.values()
        taken = inspect.signature(assertion)
        signature = taken.replace(parameters=[own, *taken.parameters.values()])
        method.__signature__ = signature  # type: ignore[attr-defined]
        method.__name__, method.__qualname__ = self._name, f"GradHealth.{self._name}"
        method.__doc__ = assertion.__doc__
        return method


class GradHealth:
    """The assertions and the probe with the settings of the test that uses it.

    Assertions on one model and batch share one probe, as long as neither has changed in between.
    The functions of the same names in `pytest_gradhealth` do the same inside a test.
    """

    @called
    def probe(
        self,
        model: ModelLike,
        inputs: Any,
        targets: Any = None,
        *,
        loss: Loss | None = None,
        call: Call | None = None,
        optimizer: OptimizersLike | None = None,
        clip: Clip | None = None,
        regularizer: Regularizer | None = None,
        dependency: int | None = None,
        precision: str | torch.dtype | None = None,
        loss_scale: Any = None,
        rules: Sequence[Rule] = (),
        **settings: Unpack[SettingValues],
    ) -> Diagnosis:
        """Measure and judge without raising; `settings` are those of `pytest_gradhealth.probe`."""
        __tracebackhide__ = True
        from pytest_gradhealth.assertions.verdict import measured
        from pytest_gradhealth.probing.case import Case
        from pytest_gradhealth.probing.probe import declared_step

        step = declared_step(clip, regularizer)
        case = Case(
            *(model, inputs, targets, loss, optimizer, step),
            *(dependency, precision, loss_scale, call, rules),
        )
        diagnosis = measured(case, settings)
        context = current()
        if context is not None:
            context.heard.probed(diagnosis, called_from())
        return diagnosis

    if TYPE_CHECKING:
        assert_no_vanishing = _method(assertions.assert_no_vanishing)
        assert_no_vanishing_in_time = _method(assertions.assert_no_vanishing_in_time)
        assert_no_exploding = _method(assertions.assert_no_exploding)
        assert_no_exploding_update = _method(assertions.assert_no_exploding_update)
        assert_no_dominating_regularizer = _method(assertions.assert_no_dominating_regularizer)
        assert_learns = _method(assertions.assert_learns)
        assert_finite_gradients = _method(assertions.assert_finite_gradients)
        assert_no_underflow = _method(assertions.assert_no_underflow)
        assert_all_reached = _method(assertions.assert_all_reached)
        assert_matches_baseline = _method(assertions.assert_matches_baseline)
        assert_same_gradients = _method(assertions.assert_same_gradients)
        assert_healthy = _method(assertions.assert_healthy)

    else:

        def __getattr__(self, name: str) -> Any:
            """Say what may have been meant by an assertion that there is not."""
            from pytest_gradhealth.formatting import meant_by

            said = f"there is no {name} of gradhealth"
            meant = "" if name[:1] == "_" else meant_by(name, [*_ASSERTIONS, "probe"])
            raise AttributeError(f"{said}; {meant}" if meant else said)


_ASSERTIONS = HOMES["assertions"].split()

for _name in _ASSERTIONS:
    setattr(GradHealth, _name, _Assertion(_name))
