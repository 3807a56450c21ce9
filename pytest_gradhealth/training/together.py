"""Several optimizers that take their steps together, as one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from torch.optim import Optimizer

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import shown
from pytest_gradhealth.tensors.modules import is_process_group

if TYPE_CHECKING:
    from pytest_gradhealth.training.optimizers import OptimizerLike, OptimizersLike


class Together(Optimizer):
    """Optimizers of one model: their groups and states are shared with it, not copied."""

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        # That of torch would refuse what two of them have in common.
        self.optimizers = (*optimizers,)
        self.defaults = self.optimizers[0].defaults
        self.param_groups = [group for one in self.optimizers for group in one.param_groups]

    @property
    def state(self) -> Mapping[Any, Any]:  # type: ignore[override]
        """What each of them keeps, by parameter."""
        return {key: kept for one in self.optimizers for key, kept in one.state.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Together:
        return Together(copied(one, memo) for one in self.optimizers)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all of them."""
        for one in self.optimizers:
            one.zero_grad(set_to_none)

    def step(self) -> None:  # type: ignore[override]
        """Take a step of each of them."""
        for one in self.optimizers:
            one.step()


def members(optimizer: Optimizer) -> tuple[Optimizer, ...]:
    """The optimizers that one consists of."""
    return optimizer.optimizers if isinstance(optimizer, Together) else (optimizer,)


def as_one(given: OptimizersLike | None) -> OptimizerLike | None:
    """Optimizers in a list as one that takes their steps together, anything else as it is.

    Raises ProbeError for a list with something else in it, or nothing.
    """
    if not isinstance(given, (list, tuple)):
        return cast("OptimizerLike | None", given)
    wrong = next((one for one in given if not isinstance(one, Optimizer)), None)
    if wrong is not None or not given:
        held = f"has {shown(wrong)} in it" if given else "is empty"
        raise ProbeError(
            f"optimizer is a list that {held}; pass optimizers over the model's parameters, for"
            " example [torch.optim.SGD(model.body.parameters(), lr=0.1),"
            " torch.optim.Adam(model.head.parameters())]"
        )
    return given[0] if len(given) == 1 else Together(given)


def copied(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """Deep-copy an optimizer after its parameters, which `memo` maps to their copies.

    Some optimizers (LBFGS) keep attributes that their pickled state leaves out. A step that a
    scheduler has wrapped is left behind: it belongs to the original.
    """
    memo |= {id(v): v for v in vars(optimizer).values() if is_process_group(v)}
    twin = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():
        if name not in vars(twin) and not callable(value):
            setattr(twin, name, copy.deepcopy(value, memo))
    return twin
