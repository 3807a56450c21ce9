"""What nobody means to pass: values of every wrong kind, each made anew."""

from __future__ import annotations

import decimal
import io
import math
import types
from collections import UserDict, deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class Text(str):
    """A string of another class."""

    __slots__ = ()


class Colour(Enum):
    """Something that is neither text nor number."""

    RED = 1


class Raiser:
    """Raises whatever is asked of it, truth, length and text included."""

    def _raise(self, *_: object, **__: object) -> Any:
        raise RuntimeError("ask somebody else")

    __bool__ = __repr__ = __str__ = __eq__ = __len__ = __iter__ = __hash__ = _raise
    __float__ = __int__ = __index__ = __format__ = __lt__ = __gt__ = __getitem__ = _raise


class Vain:
    """Says yes to every attribute."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Vain()


class Half(nn.Module):
    """A module whose constructor has forgotten that of nn.Module."""

    def __init__(self) -> None:
        pass


def _ring() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def _numbers() -> Iterator[int]:
    yield 1
    raise RuntimeError("no more")


#: By name; each makes its value anew, so that nothing is used up.
JUNK: Mapping[str, Callable[[], Any]] = {
    "None": lambda: None,
    "False": lambda: False,
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "1.5": lambda: 1.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "10**400": lambda: 10**400,
    "10**5000": lambda: 10**5000,
    "1j": lambda: 1j,
    "Decimal": lambda: decimal.Decimal("sNaN"),
    "empty text": lambda: "",
    "text": lambda: "x",
    "NUL": lambda: "\0",
    "surrogate": lambda: "\ud800",
    "text of another class": lambda: Text("GH101"),
    "bytes": lambda: b"x",
    "list": list,
    "list of None": lambda: [None],
    "ring": _ring,
    "tuple": tuple,
    "set": lambda: {1},
    "dict": dict,
    "dict by number": lambda: {1: 2},
    "UserDict": lambda: UserDict(a=1),
    "deque": lambda: deque([1]),
    "generator": _numbers,
    "range": lambda: range(3),
    "object": object,
    "class": lambda: dict,
    "exception": lambda: ValueError("x"),
    "enum": lambda: Colour.RED,
    "path": lambda: Path("x"),
    "file": io.StringIO,
    "module of Python": lambda: types,
    "function of nothing": lambda: lambda: None,
    "function of three": lambda: _of_three,
    "raiser": Raiser,
    "vain": Vain,
    "dtype": lambda: torch.int8,
    "device": lambda: torch.device("meta"),
    "generator of torch": torch.Generator,
    "class of model": lambda: nn.Linear,
    "model": lambda: _model(),
    "half a model": Half,
    "model without parameters": nn.Identity,
    "optimizer": lambda: torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1),
    "number tensor": lambda: torch.tensor(2.0),
    "empty tensor": lambda: torch.empty(0, 4),
    "int tensor": lambda: torch.ones(8, 4, dtype=torch.int64),
    "bool tensor": lambda: torch.ones(8, 4, dtype=torch.bool),
    "half tensor": lambda: torch.ones(8, 4, dtype=torch.float16),
    "float8 tensor": lambda: torch.ones(8, 4).to(torch.float8_e4m3fn),
    "complex tensor": lambda: torch.ones(8, 4, dtype=torch.complex64),
    "quantized tensor": lambda: torch.quantize_per_tensor(torch.ones(8, 4), 0.1, 0, torch.qint8),
    "meta tensor": lambda: torch.ones(8, 4, device="meta"),
    "sparse tensor": lambda: torch.eye(8, 4).to_sparse(),
    "sparse CSR tensor": lambda: torch.eye(8, 4).to_sparse_csr(),
    "nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)]),
    "lazy parameter": lambda: nn.parameter.UninitializedParameter(),
    "tensor of a graph": lambda: torch.ones(8, 4, requires_grad=True) * 2,
    "inference tensor": lambda: _inferred(),
    "freed tensor": lambda: _freed(),
    "array": lambda: np.ones((8, 4)),
    "array of objects": lambda: np.array([None, "x"], dtype=object),
    "array of no dimension": lambda: np.array(2),
    "number of NumPy": lambda: np.float64(2),
}


def _model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(3, 3)


def _inferred() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(8, 4)


def _freed() -> torch.Tensor:
    tensor = torch.ones(8, 4)
    tensor.untyped_storage().resize_(0)
    return tensor


def _of_three(one: object, two: object, three: object) -> tuple[object, ...]:
    return one, two, three
