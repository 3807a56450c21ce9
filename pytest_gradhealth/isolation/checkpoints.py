"""Checkpoints of activations, of which one kind hides what it runs and another stays open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint

from pytest_gradhealth.errors import chain_of

#: The function of torch that runs a part without a graph, and again in the backward.
REENTRANT = checkpoint.CheckpointFunction


@contextmanager
def seen_through() -> Iterator[None]:
    """Run re-entrant checkpoints as others, whose graph shows what is inside.

    Where both work, the gradients are mostly the same; whoever looks through has to compare them.
    """
    own = checkpoint.CheckpointFunction
    setattr(checkpoint, REENTRANT.__name__, _Open)
    try:
        yield
    finally:
        setattr(checkpoint, REENTRANT.__name__, own)


class _Open(REENTRANT):
    """Takes the place of the function: only one of which an input needs a gradient passes some."""

    @classmethod
    def apply(cls, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        if cls is not _Open:  # somebody's own
            return super().apply(function, preserve, *args)
        needed = any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
        if not needed or not torch.is_grad_enabled():
            return REENTRANT.apply(function, preserve, *args)
        return checkpoint.checkpoint(
            function,
            *args,
            use_reentrant=False,
            preserve_rng_state=preserve,
            determinism_check="none",
        )


@contextmanager
def left_on_errors() -> Iterator[None]:
    """Have an error let go of the checkpoint that it was raised in.

    Older torch leaves a non-reentrant one open there, and what any other graph saves goes to it for
    as long as the error is kept: by whoever reports it.
    """
    try:
        yield
    except BaseException as error:
        for one in chain_of(error):
            for frame, _ in walk_tb(one.__traceback__):
                if frame.f_globals.get("__name__") == checkpoint.__name__:
                    with suppress(RuntimeError):  # one that is still at work
                        frame.clear()
        raise
