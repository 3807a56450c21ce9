"""One forward and one backward of what is probed."""

from __future__ import annotations

from torch import Tensor

from pytest_gradhealth.errors import ProbeError


def run_backward(loss: Tensor, *, keep: bool = False) -> None:
    """Back-propagate; raises ProbeError with the cause chained.

    A graph that is partly the caller's (a state kept of an earlier forward) is to be kept.
    """
    try:
        loss.backward(retain_graph=keep)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ProbeError(f"the backward pass raised {type(error).__name__}: {error}") from error
