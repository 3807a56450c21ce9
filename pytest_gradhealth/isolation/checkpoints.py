"""Checkpoints of activations, of which one kind hides what it runs and another stays open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from traceback import walk_tb
from types import SimpleNamespace
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

    The gradients are the same, but where no input of theirs needs one: then they pass none on.
    """
    own = checkpoint.CheckpointFunction
    setattr(checkpoint, own.__name__, SimpleNamespace(apply=_apply, __name__=own.__name__))
    try:
        yield
    finally:
        setattr(checkpoint, own.__name__, own)


def _apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
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
