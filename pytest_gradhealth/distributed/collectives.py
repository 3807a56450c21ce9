"""Whether a model talks to other processes in its forward: a gathered batch, shared statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_gradhealth.tensors.dispatch import DispatchMode

_NAMESPACES = ("c10d", "_c10d_functional", "c10d_functional")


class Collectives(DispatchMode):
    """Sees the collectives that run inside the context."""

    any = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and note what kind it is."""
        del types
        self.any = self.any or func.namespace in _NAMESPACES
        return func(*args, **(kwargs or {}))
