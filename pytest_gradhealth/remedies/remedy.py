"""What a remedy is, and the patient that it gets to change: always a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_gradhealth.config.arguments import require, settle_fields
from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.formatting import told

if TYPE_CHECKING:
    from torch import nn

    from pytest_gradhealth.remedies.layers import Call
    from pytest_gradhealth.subject.step import Step
    from pytest_gradhealth.training.optimizers import OptimizerLike


@dataclass
class Patient:
    """A deep copy of a model, and how it is trained, for a remedy to change.

    `model` may be edited or replaced; `optimizer` (None: Adam, lr 1e-3) and `step` (clipping and
    penalty) replaced. `inputs` is the batch, None if there is none; `dependency` is how many steps
    back in time the gradient has to reach, where that was declared; `answer` is the best that one
    answer for all examples can be, a number for each of the output's, empty if that is unknown.
    """

    model: nn.Module
    inputs: Any = None
    optimizer: OptimizerLike | None = None
    step: Step | None = None
    dependency: int | None = None
    answer: tuple[float, ...] = ()

    @property
    def calls(self) -> Sequence[Call]:
        """The modules in the order in which a forward on the batch calls them."""
        from pytest_gradhealth.remedies.layers import calls_of

        return calls_of(self.model, self.inputs)

    def run(self) -> Any:
        """Return what a forward on the batch does; raises CannotApplyError without a batch."""
        from pytest_gradhealth.remedies.layers import run

        if self.inputs is None:
            raise CannotApplyError("it takes a batch")
        return run(self.model, self.inputs)


@dataclass(frozen=True)
class Remedy:
    """A change to a model or its training that may keep gradients level.

    `symptoms` are the codes of the rules for whose failures it is tried. `change` edits a Patient;
    it may return the code that does the same to `model`, where that depends on the model, else
    `code` stands. It raises CannotApplyError with the reason where there is nothing it can do.
    Of remedies of one `family`, messages show the code of the best.

    >>> from pytest_gradhealth.remedies import built_in_remedies
    >>> [remedy.name for remedy in built_in_remedies()][:4]
    ['standardised inputs', 'ReLU', 'Kaiming init', 'batch norm']
    """

    name: str
    symptoms: tuple[str, ...]
    change: Callable[[Patient], str | None]
    code: str = ""
    family: str = ""

    def __post_init__(self) -> None:
        settle_fields(self, Remedy, "remedy", "name")

    def apply(self, model: nn.Module, inputs: Any = None) -> nn.Module:
        """Return a changed deep copy of `model`, which stays as it is.

        `inputs` is a batch, for remedies that have to see it. Raises CannotApplyError.
        """
        from torch import nn

        from pytest_gradhealth.subject.calling import as_taken
        from pytest_gradhealth.subject.inputs import check_batch

        require("model", model, lambda given: isinstance(given, nn.Module), "a torch.nn.Module")
        check_batch(inputs)
        taken = inputs if inputs is None else as_taken(model, inputs)
        patient = Patient(copy.deepcopy(model), taken)
        try:
            self.change(patient)
        except CannotApplyError:
            raise
        except Exception as error:
            raise CannotApplyError(
                f"remedy {self.name} raised {told(error)}; its change is called with a Patient"
            ) from error
        return patient.model
