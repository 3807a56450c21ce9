"""What is probed: a model on a device, its batch, its loss and its training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pytest_gradhealth.isolation.isolate import isolated
from pytest_gradhealth.results.magnitudes import LossScale
from pytest_gradhealth.subject.calling import as_called
from pytest_gradhealth.subject.loss import Loss
from pytest_gradhealth.subject.step import Step


@dataclass(frozen=True)
class Subject:
    """What is looked at: a model, one batch and how they make a loss, all on one device.

    `step` says how it is trained, and `decay`, by parameter name, the weight decay that the
    optimizer adds to the gradient. `scale` multiplies the loss in training steps; `dependency` is
    how many steps back in time the gradient has to reach. A backward is made with the loss times
    `loss_scale`, which is taken out of what is measured. `copy` says whether all
    is copied before a run that could be later, None where writes might go unseen and there is
    memory; `exact` that no norm is to be estimated;
    `fused` that Adam, where no optimizer is declared, may make its steps in one pass.
    """

    model: nn.Module
    inputs: Any
    targets: Any
    loss: Loss | None
    device: torch.device
    step: Step = field(default_factory=Step)
    decay: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0
    dependency: int | None = None
    loss_scale: LossScale = field(default_factory=LossScale)
    copy: bool | None = None
    exact: bool = False
    fused: bool = False

    @property
    def may_sample(self) -> bool:
        """Whether norms of large tensors may be estimated; an accelerator reads them at once."""
        return not self.exact and self.device.type == "cpu"

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules whose state a run may touch: the model, and a loss that is one."""
        return (self.model, self.loss) if isinstance(self.loss, nn.Module) else (self.model,)

    @contextmanager
    def isolated(self, optimizer: object = None, *, eager: bool = True) -> Iterator[None]:
        """Put back on exit all that the subject is made of, whatever was done to it.

        So is what a function holds that makes the `optimizer`; one itself is never stepped.
        Compiled modules run as they were written, unless not `eager`: then large parameters are
        copied, since what watches over them cannot be compiled.
        """
        step = self.step.clip, self.step.regularizer
        called = as_called(self.inputs)
        batch = called.inputs, self.targets
        maker = None if isinstance(optimizer, Optimizer) else optimizer
        values = self.model, self.loss, called.call, *step, maker
        copy = self.copy if eager else True
        with isolated(values, self.device, batch=batch, copy=copy, eager=eager):
            yield
