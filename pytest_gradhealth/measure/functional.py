"""Layers that are no modules: the operations that mix parameters with data."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

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

#: Indices up to which parts of a parameter are told apart by what was asked for.
_FEW = 1024


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

    One that holds a single matrix is a layer, unless it is a stack of some, and so are torch's own.
    """
    held: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, module in modules.items():
        user = name
        while user and _only_holds(modules[user]):
            user = user.rpartition(".")[0]
        for own, parameter in module.named_parameters(name, recurse=False):
            held.setdefault(user, []).extend([(own, parameter)] * _is_trained_matrix(parameter))
    around = {outer for name in held for outer in ("", *ancestry(name)) if outer != name}
    found = set[str]()
    for user, own_ones in held.items():
        stacks = any(parameter.dim() == 3 for _, parameter in own_ones)
        if (user in around or len(own_ones) > 1 or stacks) and not _is_of_torch(modules[user]):
            found.update(name for name, _ in own_ones)
    return frozenset(found)


def _is_trained_matrix(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.dim() > 1


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "torch"


def constants_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The tensors beside parameters that modules hold: buffers, and those in attributes."""
    values = (v for m in modules for v in (*m.buffers(recurse=False), *vars(m).values()))
    return [value for value in values if isinstance(value, Tensor)]


#: Which part of a parameter something is: how it was cut, call by call.
Part: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """What an operation has made of a parameter, or a `part` of it, and data.

    `width` is that of the layer which it is, None where it may be none.
    """

    name: str
    made: Tensor
    part: Part = ()
    width: int | None = None


@dataclass(frozen=True, slots=True)
class _Weight:
    """A parameter, or a part of one, or what was made of parameters and constants alone.

    The tensor is kept, or another could take its id.
    """

    tensor: Tensor
    name: str
    dims: int
    part: Part = ()


class ParameterUses(TorchFunctionMode):
    """Passes on what operations make of a parameter and data, with the parameter's name.

    What is made of parameters alone (a transposed weight) goes by the name of the first of them
    with the most dimensions. With `entries`, only those are passed on whose data take no gradient:
    what is looked up by tokens, say. Where the `bare` ones are named, only products of those are;
    `constants` (masks) leave them weights.
    """

    def __init__(
        self,
        model: nn.Module,
        use: Callable[[Use], None],
        *,
        entries: bool = False,
        bare: Collection[str] = (),
        constants: Iterable[Tensor] = (),
    ) -> None:
        super().__init__()
        self._use, self._entries, self._products = use, entries, bool(bare)
        named = [(n, p) for n, p in model.named_parameters() if not bare or n in bare]
        self._known = {id(p): _Weight(p, n, p.dim()) for n, p in named}
        self._constants = {id(tensor): tensor for tensor in constants}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        handed = [*map(unwrapped, tensors((args, kwargs)))]
        given = [self._known.get(id(tensor)) for tensor in handed]
        known = [weight for weight in given if weight is not None]
        if not known and handed and all(id(tensor) in self._constants for tensor in handed):
            self._constants.update({id(tensor): tensor for tensor in tensors(result)})
        elif known:
            weight = max(known, key=lambda weight: weight.dims)
            data = [t for t, found in zip(handed, given, strict=True) if found is None]
            data = [tensor for tensor in data if id(tensor) not in self._constants]
            multiplies = getattr(func, "__name__", "") in _PRODUCTS
            for number, tensor in enumerate(map(unwrapped, tensors(result))):
                if not tensor.requires_grad:
                    continue
                if not data:
                    part = self._part(weight, tensor, (func, number, args, kwargs))
                    made = _Weight(tensor, weight.name, weight.dims, part)
                    self._known.setdefault(id(tensor), made)
                elif multiplies if self._products else self._counts(data):
                    width = _width(func, weight.tensor, tensor) if self._products else None
                    self._use(Use(weight.name, tensor, weight.part, width))
        return result

    def _part(self, weight: _Weight, made: Tensor, call: tuple[Any, ...]) -> Part:
        """Which part of a weight a call has made: the same call makes the same part."""
        if not self._products or made.numel() == weight.tensor.numel():
            return weight.part
        func, number, args, kwargs = call
        return (*weight.part, func, number, self._written((args, kwargs)))

    def _written(self, value: Any) -> object:
        """What a call was given, to be compared."""
        if isinstance(value, Tensor):
            known = self._known.get(id(value))
            if known is not None:
                return known.name, known.part
            indices = not value.is_floating_point() and value.numel() <= _FEW and value.is_cpu
            return tuple(value.reshape(-1).tolist()) if indices else id(value)
        if isinstance(value, (list, tuple)):
            return tuple(map(self._written, value))
        return str(value)

    def _counts(self, data: Iterable[Tensor]) -> bool:
        """Whether a use is to be passed on, of the data of an operation."""
        return not (self._entries and any(tensor.requires_grad for tensor in data))


def _width(func: Any, weight: Tensor, made: Tensor) -> int | None:
    """Width of a product as that of a layer: its units, times the kernel size of a convolution."""
    kernel = weight.shape[2:] if func.__name__.startswith("conv") else ()
    if made.is_nested or not made.dim():
        return None
    channels = made.shape[-1 - len(kernel)] if kernel else made.shape[-1]
    return channels * math.prod(kernel)
