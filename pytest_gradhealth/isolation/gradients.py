"""The caller's gradients, set aside while a probe makes its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pytest_gradhealth.isolation.write_guard import unguarded


@contextmanager
def gradients_set_aside(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Give leaf tensors an empty `.grad` and no accumulation hooks, and put both back on exit.

    The hooks are the caller's: an optimizer that steps during the backward must not step here.
    """
    kept: list[tuple[Tensor, Tensor | None, Any]] = []
    try:
        with unguarded():
            for tensor in tensors:
                hooks = tensor._post_accumulate_grad_hooks
                kept.append((tensor, tensor.grad, hooks))
                tensor.grad = None
                if hooks:
                    tensor._post_accumulate_grad_hooks = OrderedDict()
        yield
    finally:
        with unguarded():
            for tensor, gradient, hooks in kept:
                tensor.grad = gradient
                if hooks:
                    tensor._post_accumulate_grad_hooks = hooks
