"""Lightning modules, told by their class: `training_step` makes the loss, without a Trainer.

Nothing of Lightning is imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.subject.calling import Called

#: The packages that LightningModule comes from.
PACKAGES = ("lightning", "pytorch_lightning")


def is_lightning(model: nn.Module) -> bool:
    """Whether a model is a LightningModule with a `training_step` of its own."""
    kinds = type(model).__mro__
    steps = [kind for kind in kinds if "training_step" in vars(kind)]
    return any(map(_is_theirs, kinds)) and not _is_theirs(steps[0])


def _is_theirs(kind: type) -> bool:
    return kind.__name__ == "LightningModule" and kind.__module__.partition(".")[0] in PACKAGES


def training_batch(model: Any, inputs: Any, targets: Any) -> Called:
    """A batch for `training_step`; inputs and targets given apart become a pair.

    Raises ProbeError for a module whose `training_step` returns no loss to differentiate.
    """
    name = type(model).__name__
    if not model.automatic_optimization:
        raise ProbeError(
            f"{name} optimises by hand (automatic_optimization is False): its training_step makes"
            " the backward passes itself; pass loss=... and the inputs of forward, or probe its"
            " networks one by one"
        )
    if "dataloader_iter" in inspect.signature(model.training_step).parameters:
        raise ProbeError(
            f"{name}.training_step takes batches from a dataloader_iter, of which a probe has none;"
            " pass loss=... and the inputs of forward"
        )
    return Called((inputs if targets is None else (inputs, targets),), training_step)


def training_step(model: Any, batch: Any) -> Any:
    """What `training_step` returns, as a mapping with the loss, for the first batch of a Trainer.

    None is attached: one of the module's past would count, log and write what is only tried here.
    Raises ProbeError if there is no loss.
    """
    with without_trainer(model):
        try:
            inspect.signature(model.training_step).bind(batch, 0)
        except TypeError:
            return _returned(model, model.training_step(batch))
        return _returned(model, model.training_step(batch, 0))


@contextmanager
def without_trainer(model: nn.Module) -> Iterator[None]:
    """Set aside what Lightning modules are attached to, which is not the probe's to use."""
    names = "_trainer", "_fabric"
    spaces = [vars(m) for m in model.modules() if any(map(_is_theirs, type(m).__mro__))]
    kept = [(space, name, space[name]) for space in spaces for name in names if name in space]
    try:
        for space, name, _ in kept:
            space[name] = None
        yield
    finally:
        for space, name, value in kept:
            space[name] = value


def _returned(model: nn.Module, outputs: Any) -> Mapping[Any, Any]:
    if isinstance(outputs, Tensor):
        outputs = {"loss": outputs}
    if isinstance(outputs, Mapping) and outputs.get("loss") is not None:
        return outputs
    name = type(model).__name__
    if outputs is None:
        what = "None, as it does to skip a batch"
    elif isinstance(outputs, Mapping):
        what = f"a mapping without a loss ({', '.join(map(str, outputs)) or 'empty'})"
    else:
        what = f"a {type(outputs).__name__}"
    raise ProbeError(
        f"{name}.training_step returned {what}; return the loss or a mapping that holds it under"
        ' "loss", or pass loss=... and the inputs of forward'
    )
