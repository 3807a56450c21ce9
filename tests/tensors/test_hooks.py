"""Hooks are there for the length of a context, and none of them longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pytest_gradhealth.tensors.hooks import hooked


def test_hooks_of_modules_and_nodes_leave_with_the_context() -> None:
    layer, seen = nn.Linear(2, 2), list[str]()
    loss = layer(torch.ones(1, 2)).sum()
    with (
        hooked([layer.register_forward_hook(lambda *_: seen.append("forward"))]),
        hooked(node.register_hook(lambda *_: seen.append("backward")) for node in [loss.grad_fn]),
    ):
        layer(torch.ones(1, 2))
        loss.backward(retain_graph=True)
    layer(torch.ones(1, 2))
    loss.backward()
    assert seen == ["forward", "backward"]


def test_hooks_leave_where_the_next_one_cannot_be_made() -> None:
    layer = nn.Linear(2, 2)

    def handles() -> Iterator[RemovableHandle]:
        yield layer.register_forward_hook(lambda *_: None)
        yield Tensor.register_hook(torch.ones(1), lambda _: None)  # type: ignore[no-untyped-call]

    with pytest.raises(RuntimeError, match="doesn't require gradient"), hooked(handles()):
        pytest.fail("there is nothing to be hooked")
    assert not layer._forward_hooks
