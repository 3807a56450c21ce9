"""A short training run, to compare with what the linter says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

Batch = tuple[Tensor, Tensor]
#: Builds an optimizer for some parameters.
Optimizing = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
#: The largest norm of all gradients together, or a function that clips those of some parameters.
Clip = float | Callable[[list[nn.Parameter]], object]
#: What is to be paid for the weights of a model.
Penalty = Callable[[nn.Module], Tensor]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: for layers this small, sharing the work costs more than doing it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    lr: float = 1e-3,
    optimizer: Optimizing | None = None,
    clip: Clip | None = None,
    penalty: Penalty | None = None,
    title: str = "",
) -> list[float]:
    """Train with Adam, or the given optimizer, and return the loss of every step.

    `clip` clips the gradient of the loss. That of the `penalty` is added after it, where SGD adds
    its weight decay too; clipped together, a huge gradient of the loss would scale it to nothing.
    A terminal shows a progress bar.
    """
    parameters = list(model.parameters())
    stepper = torch.optim.Adam(parameters, lr=lr) if optimizer is None else optimizer(parameters)
    losses = []
    with tqdm(batches, desc=title, disable=None) as bar:
        for images, labels in bar:
            stepper.zero_grad()
            loss = cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            if callable(clip):
                clip(parameters)
            elif clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            if penalty is not None:
                penalty(model).backward()  # type: ignore[no-untyped-call]
            stepper.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.3g}", refresh=False)
    return losses


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of digits that the model gets right, in evaluation mode."""
    was_training = model.training
    model.eval()
    right = (model(images).argmax(1) == labels).float().mean()
    model.train(was_training)
    return float(right)
