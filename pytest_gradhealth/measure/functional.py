"""Layers that are no modules: the operations that mix parameters with data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pytest_gradhealth.results.names import ancestry
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import unwrapped

#: What multiplies data by a matrix, which is all that some layers do.
_PRODUCTS = frozenset(
    """
    linear bilinear matmul __matmul__ __rmatmul__ mm bmm mv addmm addmv addbmm baddbmm einsum inner
    tensordot conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    """.split()  # noqa: SIM905
)


def is_functional(modules: Mapping[str, nn.Module]) -> bool:
    """Whether no submodule of a model, its `modules` by name, computes with parameters.

    They only hold them, or have none.
    """
    inner = (module for name, module in modules.items() if name)
    return all(_only_holds(module) or _has_none(module) for module in inner)


def _only_holds(module: nn.Module) -> bool:
    holders = (nn.ParameterList, nn.ParameterDict)
    return type(module).forward is nn.Module.forward or isinstance(module, holders)


def _has_none(module: nn.Module) -> bool:
    return next(module.parameters(), None) is None


def bare_matrices(modules: Mapping[str, nn.Module]) -> frozenset[str]:
    """Names of the trained matrices that modules hold themselves, beside layers inside or others.

    One that holds a single matrix is a layer, and so are torch's own.
    """
    held: dict[str, list[str]] = {}
    for name, module in modules.items():
        user = name
        while user and _only_holds(modules[user]):
            user = user.rpartition(".")[0]
        for own, parameter in module.named_parameters(name, recurse=False):
            held.setdefault(user, []).extend([own] * _is_trained_matrix(parameter))
    around = {outer for name in held for outer in ("", *ancestry(name)) if outer != name}
    bare = {name for name, own in held.items() if name in around or len(own) > 1}
    return frozenset(n for name in bare if not _is_of_torch(modules[name]) for n in held[name])


def _is_trained_matrix(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.dim() > 1


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "torch"


@dataclass(frozen=True, slots=True)
class _Weight:
    """A parameter, or what was made of parameters alone: `part` says which part of one it is.

    The tensor is kept, or another could take its id.
    """

    tensor: Tensor
    name: str
    dims: int
    part: int | None = None

    def made_into(self, tensor: Tensor) -> _Weight:
        """The same, transposed, cut or masked."""
        cut = tensor.numel() != self.tensor.numel() and tensor.layout is torch.strided
        part = int(tensor.storage_offset()) if cut else self.part
        return _Weight(tensor, self.name, self.dims, part)


class ParameterUses(TorchFunctionMode):
    """Passes on what operations make of a parameter and data, with the parameter's name.

    What is made of parameters alone (a transposed weight) goes by the name of the first of them
    with the most dimensions. With `entries`, only those are passed on whose data take no gradient:
    what is looked up by tokens, say. Where the `bare` ones are named, only products of those are,
    and those of which a part was used twice are noted as `repeated`.
    """

    def __init__(
        self,
        model: nn.Module,
        use: Callable[[str, Tensor], None],
        *,
        entries: bool = False,
        bare: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.repeated: set[str] = set()
        self._use, self._entries, self._products = use, entries, bool(bare)
        named = [(n, p) for n, p in model.named_parameters() if not bare or n in bare]
        self._known = {id(p): _Weight(p, n, p.dim()) for n, p in named}
        self._used: set[tuple[str, int | None]] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        handed = [*map(unwrapped, tensors((args, kwargs)))]
        given = [self._known.get(id(tensor)) for tensor in handed]
        known = [weight for weight in given if weight is not None]
        if known:
            weight = max(known, key=lambda weight: weight.dims)
            multiplies = getattr(func, "__name__", "") in _PRODUCTS
            for tensor in (t for t in map(unwrapped, tensors(result)) if t.requires_grad):
                masked = not multiplies and tensor.shape == weight.tensor.shape
                if len(known) == len(given) or (self._products and masked):
                    self._known.setdefault(id(tensor), weight.made_into(tensor))
                elif multiplies if self._products else self._counts(handed, given):
                    self._pass_on(weight, tensor)
        return result

    def _counts(self, handed: Sequence[Tensor], known: Sequence[object]) -> bool:
        """Whether a use is to be passed on, of what was handed to an operation."""
        pairs = zip(handed, known, strict=True)
        takes_gradient = any(entry is None and t.requires_grad for t, entry in pairs)
        return not (self._entries and takes_gradient)

    def _pass_on(self, weight: _Weight, tensor: Tensor) -> None:
        part = weight.name, weight.part
        self.repeated.update({weight.name} if part in self._used else ())
        self._used.add(part)
        self._use(weight.name, tensor)
