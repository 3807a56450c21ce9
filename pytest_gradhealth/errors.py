"""The exceptions and the warning of the package; importing them costs nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_gradhealth.results.diagnosis import Diagnosis, Finding


class _ToldError(Exception):
    """What it says does no harm where it is printed, and can be, whatever the names in it."""

    def __str__(self) -> str:
        from pytest_gradhealth.formatting import encodable, harmless

        return encodable(harmless(super().__str__()), sys.stdout)


class GradientHealthWarning(_ToldError, UserWarning):  # noqa: N818 - no error by itself
    """A rule warns of a model that passes: its code comes first, so that it can be filtered by."""


class ProbeError(_ToldError):
    """The probe could not be run on what it was given; the message says what to pass instead."""


class CutOffError(ProbeError):
    """There is nothing to differentiate: what was `made` does not depend on any parameter."""

    def __init__(self, what: str, question: str = "", made: Sequence[object] = ()) -> None:
        super().__init__("; ".join(filter(None, (what, question))))
        self.what, self.made = what, made


class SettingError(ProbeError):
    """A setting has a value that it cannot have; the message names where the value came from."""


class GradientHealthError(_ToldError, AssertionError):
    """A gradient check failed: `findings` says what was found, `diagnosis` what was measured."""

    def __init__(
        self, message: str, findings: tuple[Finding, ...] = (), diagnosis: Diagnosis | None = None
    ) -> None:
        super().__init__(message)
        self.findings = findings
        self.diagnosis = diagnosis


class VanishingGradientError(GradientHealthError):
    """The gradient all but disappears on its way from the loss to the first layer (GH101)."""


class ExplodingGradientError(GradientHealthError):
    """The gradient grows out of bounds on its way from the loss to the first layer (GH201)."""


class ExplodingUpdateError(GradientHealthError):
    """A training step changes a weight beyond recognition, or the training runs away (GH202)."""


class NonFiniteGradientError(GradientHealthError):
    """A loss, an activation or a gradient is NaN or infinite (GH301)."""


class UnreachedParameterError(GradientHealthError):
    """A trainable parameter gets no gradient, or only zeros (GH401)."""


class ExplodingOutputError(GradientHealthError):
    """The model's outputs are of no sane size (GH203)."""


class NegligibleGradientError(GradientHealthError):
    """Gradients drown in the eps of the optimizer (GH103)."""


class DeadUnitsError(GradientHealthError):
    """Nearly all units of a layer are zero for the whole batch (GH402)."""


class SaturatedUnitsError(GradientHealthError):
    """More of a layer is saturated than was allowed (GH403)."""


class CollapsedOutputError(GradientHealthError):
    """All examples of a batch get the same output (GH404)."""


class UnusedParameterError(UnreachedParameterError):
    """A trainable parameter belongs to a module that the forward does not use (GH405)."""


class VanishingInTimeError(GradientHealthError):
    """Less of the gradient gets as far back in time as the task needs than was allowed (GH102)."""


class IdenticalUnitsError(GradientHealthError):
    """All units of a layer have the same weights and get the same gradient (GH406)."""


class AttentionCollapseError(GradientHealthError):
    """Query and key get next to no gradient beside value (GH407)."""


class UnregisteredParameterError(GradientHealthError):
    """A forward uses parameters that the model does not list (GH408)."""


class UnwrittenParameterError(GradientHealthError):
    """A parameter holds what was in memory before it (GH409)."""


class UnderflowError(GradientHealthError):
    """A low-precision format would flush a gradient to zero, or overflow (GH501)."""


class DominatingRegularizerError(GradientHealthError):
    """The gradient of the regularisation term drowns that of the data (GH601)."""


class UntrainedParameterError(GradientHealthError):
    """The declared optimizers do not train a parameter that gets a gradient (GH602)."""


class StepTooLongError(GradientHealthError):
    """The learning rate is many times the critical one: the first step overshoots (GH603)."""


class UnlearnedBatchError(GradientHealthError):
    """A few training steps do not lower the loss of one batch (GH604)."""


class DifferentGradientsError(GradientHealthError):
    """Two ways of computing one model do not give the same gradients."""


class RegressionError(GradientHealthError):
    """A model's gradients are worse than its baseline says, or reach other layers."""


class MissingBaselineError(GradientHealthError):
    """There is no baseline to compare a model with, where one has to be."""


class CannotApplyError(_ToldError):
    """A remedy cannot be applied to a model; the message says why."""


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, each once: they may go in circles."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


__all__ = [name for name in globals() if name.endswith(("Error", "Warning")) and name[0] != "_"]

for _name in __all__:
    globals()[_name].__module__ = "pytest_gradhealth"  # to import it by, and a shorter message
