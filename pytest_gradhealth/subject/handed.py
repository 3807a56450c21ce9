"""What a forward or a loss was handed, and what in it is no tensor, or one of another type."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import isroutine
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pytest_gradhealth.formatting import listing, meant_by
from pytest_gradhealth.subject.calling import Call
from pytest_gradhealth.tensors.trees import attribute, tensors
from pytest_gradhealth.tensors.unwrap import dtype_name

#: What torch says where numbers are of a type that it does not take, or not together.
_OF_TYPES = re.compile(
    r"dtype|scalar type|result type|Input type|not implemented for '|floating point type"
    r"|bool tensor"
)
#: What it calls types that have other names in code.
_CALLED = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "half",
    torch.int64: "long",
    torch.int32: "int",
    torch.int16: "short",
    torch.int8: "char",
    torch.uint8: "byte|unsigned char",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
}


@dataclass(frozen=True)
class Handed:
    """What a forward was called with, or a loss, what they were to make of it, and have raised.

    `call` is what calls the model with its inputs, None where that is its forward; `said` is the
    text of the `cause`, and `at` the name of the module in which that was raised.
    """

    to: Literal["forward", "loss"]
    model: nn.Module
    inputs: Any
    targets: Any
    call: Call | None
    loss: Any
    outputs: Any
    cause: BaseException | None = None
    said: str = ""
    at: str = ""

    @property
    def inside(self) -> nn.Module:
        """The module in which the cause was raised."""
        return self.model.get_submodule(self.at)


def no_tensors(handed: Handed) -> str:
    """Arrays, loaders, numbers and text."""
    of_loss = handed.to == "loss"
    name, value = ("targets", handed.targets) if of_loss else ("inputs", handed.inputs)
    some = any(True for _ in tensors(value))
    if not isinstance(handed.cause, (TypeError, AttributeError, *[ValueError] * (not some))):
        return ""
    whole = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    if not of_loss and isinstance(whole, tuple) and {type(one) for one in whole} == {int}:
        sizes = ", ".join(map(str, whole))
        return f"the inputs look like a shape; pass a tensor of it: torch.randn({sizes})"
    found = (one for one in _foreign(value) if not some or type(one).__name__ in handed.said)
    words = (_instead_of(one, _wanted(handed, one), of_loss) for one in found)
    return next((f"the {name} are {said}" for said in words if said), "")


def to_numpy(handed: Handed) -> str:
    """What leaves torch, and is told by it to detach."""
    if "call numpy() on Tensor that requires grad" not in handed.said:
        return ""
    return f"no gradient comes through NumPy; have the {handed.to} compute the same in torch"


def missing_key(handed: Handed) -> str:
    """A key that a batch, targets or outputs do not have."""
    keys = handed.cause.args if isinstance(handed.cause, KeyError) else ()
    if len(keys) != 1 or not isinstance(keys[0], str):
        return ""
    of_loss = {"targets": handed.targets, "outputs": handed.outputs}
    for name, value in (of_loss if handed.to == "loss" else {"inputs": handed.inputs}).items():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Mapping) and keys[0] not in one:
                names = [str(key) for key in one]
                said = f"the {name} hold {listing(names, 6) or 'nothing'}, and no {keys[0]!r}"
                return "; ".join(filter(None, (said, meant_by(keys[0], names))))
    return ""


def places(value: Any, name: str) -> Iterator[str]:
    """Code for each tensor in a nested value: "batch['image']", "batch.x", "batch[0]"."""
    if isinstance(value, Tensor):
        yield name
    for key, item in _items(value):
        yield from places(item, name + key)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """What is in a value, behind the code that gets it from there."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name)
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None)
        codes = [f".{one}" for one in names] if names else [f"[{i}]" for i in range(len(value))]
        yield from zip(codes, value, strict=True)


def _foreign(value: Any) -> Iterator[Any]:
    """What in a nested value is no tensor."""
    items = [item for _, item in _items(value)]
    if items or isinstance(value, (Mapping, tuple, list)):
        for item in items:
            yield from _foreign(item)
    elif not isinstance(value, Tensor) and value is not None:
        yield value


def _wanted(handed: Handed, value: Any) -> str:
    """The type of number that a tensor has to have in place of a value, "" for that of its own."""
    columns = attribute(value, "dtypes")
    of_frame = None if columns is None else next(iter(columns), None)
    kind = str(attribute(value, "dtype") or of_frame or type(value).__name__).lower()
    if not re.match(r"u?int|bool|float", kind):
        return ""
    if handed.to == "loss":
        classes = attribute(value, "shape") != attribute(handed.outputs, "shape")
    else:
        classes = any(isinstance(module, nn.Embedding) for module in handed.model.modules())
    floating = (p.dtype for p in handed.model.parameters() if p.is_floating_point())
    whole = classes and not kind.startswith("float")
    wanted = dtype_name(torch.int64 if whole else next(floating, torch.float32))
    return "" if kind in (wanted, wanted[:-2]) else f", dtype=torch.{wanted}"


def _instead_of(value: Any, dtype: str, of_loss: bool) -> str:
    """What something is that is no tensor, and what to pass instead; "" for what may hold some."""
    kind, name = type(value), "y" if of_loss else "x"
    package = kind.__module__.partition(".")[0]
    if isinstance(value, DataLoader):
        return f"a {kind.__name__}; pass a batch of it: x, y = next(iter(loader))"
    if isinstance(value, Dataset):
        return f"a {kind.__name__}; pass a batch of it: x, y = next(iter(DataLoader(dataset, 16)))"
    if isinstance(value, Iterator):
        return f"a {kind.__name__}; pass a batch that comes out of it: x, y = next(batches)"
    if isinstance(value, str):
        made = "of their classes" if of_loss else "that a tokenizer makes of it"
        return f"text; pass the numbers {made}"
    if package == "PIL":
        return f"pictures; pass tensors: torchvision.transforms.functional.to_tensor({name})"
    if kind in (int, float, complex):
        return f"plain numbers; pass a tensor: torch.tensor({name}{dtype})"
    if isroutine(value):
        return "a function; pass what it returns"
    if hasattr(kind, "__array__"):
        arrays = {"numpy": name, "pandas": f"{name}.to_numpy()"}
        array = arrays.get(package, f"numpy.asarray({name})")
        return f"of {package} ({kind.__name__}); pass a tensor: torch.as_tensor({array}{dtype})"
    if hasattr(kind, "__iter__") and package not in ("builtins", "array"):
        return f"a {kind.__name__}; pass what comes out of it: x, y = next(iter(batches))"
    if attribute(value, "to") is None:
        return f"of class {kind.__name__}; pass tensors, or tuples, lists and mappings of tensors"
    return ""


def is_about(said: str, dtype: torch.dtype) -> bool:
    """Whether an error is about numbers of a type."""
    name = _CALLED.get(dtype, dtype_name(dtype))
    named = re.search(rf"\b({name})(Tensor)?\b", said, re.IGNORECASE)
    return bool(_OF_TYPES.search(said) and named)


def made_of(name: str, dtype: torch.dtype) -> str:
    """Code that makes a tensor one of a type."""
    short = {torch.float32: "float", torch.float64: "double", torch.int64: "long"}
    return f"{name}.{short[dtype]}()" if dtype in short else f"{name}.to({dtype})"


def reach_of(tensor: Tensor) -> str:
    """From where to where numbers go, in words."""
    low, high = (float(end) for end in tensor.detach().aminmax())
    return f"from {low:.3g} to {high:.3g}"
