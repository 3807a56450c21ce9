"""The remedies: one file per kind, each changes a copy of a model, or how it is trained."""

from __future__ import annotations

from pytest_gradhealth.remedies.remedy import Patient, Remedy

__all__ = ["Patient", "Remedy", "built_in_remedies"]


def built_in_remedies() -> tuple[Remedy, ...]:
    """Return the package's own remedies, in the order in which they are tried."""
    from pytest_gradhealth.remedies import (
        activation,
        clipping,
        head,
        initialisation,
        inputs,
        normalisation,
        recurrence,
        regularisation,
        residual,
    )

    return (
        inputs.STANDARDISED,
        activation.RELU,
        initialisation.KAIMING,
        normalisation.BATCH_NORM,
        residual.RESIDUAL,
        normalisation.LAYER_NORM,
        activation.LEAKY_RELU,
        activation.GELU,
        activation.SELU,
        initialisation.ORTHOGONAL,
        initialisation.UNIT_VARIANCE,
        initialisation.XAVIER,
        head.SOFTPLUS,
        head.LEAKY,
        head.BIAS,
        recurrence.OPEN_GATES,
        recurrence.ORTHOGONAL,
        clipping.BY_NORM,
        clipping.BY_VALUE,
        regularisation.WEIGHT_DECAY,
        regularisation.L2,
        regularisation.L1,
    )
