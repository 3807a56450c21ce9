"""The layers of a model without submodules: the operations that mix its parameters with data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import unwrapped


def is_functional(model: nn.Module) -> bool:
    """Whether no submodule computes with parameters: they only hold them, or have none."""
    inner = (module for module in model.modules() if module is not model)
    return all(_only_holds(module) or _has_none(module) for module in inner)


def _only_holds(module: nn.Module) -> bool:
    holders = (nn.ParameterList, nn.ParameterDict)
    return type(module).forward is nn.Module.forward or isinstance(module, holders)


def _has_none(module: nn.Module) -> bool:
    return next(module.parameters(), None) is None


class ParameterUses(TorchFunctionMode):
    """Passes on what operations make of a parameter and data, with the parameter's name.

    What is made of parameters alone (a transposed or a masked weight) goes by the name of the
    first of them with the most dimensions. With `entries`, only those are passed on whose data take
    no gradient: what is looked up by tokens, say.
    """

    def __init__(
        self, model: nn.Module, use: Callable[[str, Tensor], None], *, entries: bool = False
    ) -> None:
        super().__init__()
        self._use, self._entries = use, entries
        # The tensors are kept, or others could take their ids.
        self._known: dict[int, tuple[Tensor, str, int]]
        self._known = {id(p): (p, n, p.dim()) for n, p in model.named_parameters()}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t for t in map(unwrapped, tensors(result)) if t.requires_grad]
        if made:
            handed = [*map(unwrapped, tensors((args, kwargs)))]
            given = [self._known.get(id(tensor)) for tensor in handed]
            known = [entry for entry in given if entry is not None]
            if known:
                _, name, size = max(known, key=lambda entry: entry[2])
                for tensor in made:
                    if len(known) == len(given):
                        self._known.setdefault(id(tensor), (tensor, name, size))
                    elif not (self._entries and _takes_gradient(handed, given)):
                        self._use(name, tensor)
        return result


def _takes_gradient(handed: Sequence[Tensor], known: Sequence[object]) -> bool:
    """Whether any takes gradients of what was handed to an operation beside what is known."""
    pairs = zip(handed, known, strict=True)
    return any(entry is None and tensor.requires_grad for tensor, entry in pairs)
