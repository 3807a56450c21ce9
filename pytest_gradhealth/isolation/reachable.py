"""All that a forward could read or write: from a model, a loss or a batch to what is behind it."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import decimal
import enum
import fractions
import functools
import inspect
import logging
import os
import re
import threading
import types
import uuid
import weakref
from collections import UserDict, UserList, defaultdict
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pytest_gradhealth.isolation.arrays import is_array, is_readable
from pytest_gradhealth.isolation.code import (
    file_of,
    is_installed,
    is_standard,
    kinds_of_code,
    module_of,
    package_of,
    reads_unseen,
)
from pytest_gradhealth.isolation.places import (
    ATTRIBUTES,
    CONTAINERS,
    FACTORY,
    OTHERS,
    Items,
    Kind,
    of_numpy,
    slots,
)

#: Values that are what they are, and are the same where they are equal.
ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None), type(...), range})
#: What never changes, or not by anything that a forward could notice.
_FIXED = (
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType),
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.CodeType, types.ModuleType),
    *(type(threading.Lock()), type(threading.RLock()), re.Pattern, logging.Logger, PurePath),
    *(decimal.Decimal, fractions.Fraction, datetime.date, datetime.time, datetime.timedelta),
    *(inspect.Signature, inspect.Parameter, uuid.UUID, types.GenericAlias, types.UnionType),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    *(torch.jit.ScriptFunction, type(os.environ)),  # the environment is compared as a whole
)
#: What a deep copy has in common with the original.
_SHARED: dict[type, tuple[Kind, ...]] = dict.fromkeys(
    (
        *(types.FunctionType, types.BuiltinFunctionType, types.MethodWrapperType),
        *(type(functools.cache(int)), weakref.ref, type),
    ),
    (),
)
#: Modules whose objects are as fixed.
_FIXED_MODULES = frozenset({"typing", "_collections"})
#: Classes of libraries whose objects are no more than their attributes.
_PLAIN = (
    *(types.SimpleNamespace, argparse.Namespace, UserDict, UserList, functools.cached_property),
    *(contextlib.nullcontext, nn.Module, Optimizer, LRScheduler),
)
#: Packages whose objects stand for more than their attributes: fixtures, trainers, and whatever
#: other threads, processes and files are at work on.
_TOOLS = frozenset(
    {"_pytest", "pytest", "pluggy", "pytest_gradhealth", "lightning", "pytorch_lightning"}
    | {"threading", "queue", "multiprocessing", "concurrent", "asyncio", "subprocess", "selectors"}
    | {"io", "_io", "socket", "logging", "tempfile", "zipfile", "tarfile", "sqlite3", "unittest"}
)
#: Packages whose objects are read, but left alone.
_LIBRARIES = frozenset({"torch", "numpy"})
#: Packages whose code is taken for fixed, and "", Python's own.
_KNOWN = (
    _TOOLS
    | _LIBRARIES
    | {
        *("torchvision", "torchaudio", "timm", "transformers", "diffusers", "accelerate", "peft"),
        *("torchmetrics", "lightning_utilities", "torch_geometric", "scipy", "sklearn", "pandas"),
        *("matplotlib", "PIL", "cv2", "tqdm", "einops", "wandb", "tensorboard", "jax"),
        *("tensorflow", ""),
    }
)
#: What is in containers that are longer is not looked into to be put back.
LONGEST = 10_000
#: Values, and tensors, from which on comparing would cost more than another probe.
MOST, MOST_TENSORS = 100_000, 5_000


class Reachable:
    """The places behind some values, in the order in which they are come to, and their tensors.

    `written` leaves out the objects of libraries, which are not to be put back; without `code`,
    what functions, classes and references lead to is left out. `complete` is false
    where something may change without a sign: a file, an iterator, an object of C; or where there
    is too much of it, unless it is `written`. Runs no code of the values' own; keeps them all
    alive, so that no other takes the place of one in memory.
    """

    def __init__(self, roots: Iterable[Any], *, written: bool, code: bool = True) -> None:
        self.places: list[tuple[Any, Kind, Items]] = []
        #: Containers that hold nothing, which most of those in a module do.
        self.empty: list[Any] = []
        self.tensors: list[Tensor] = []
        self.arrays: list[Any] = []
        self.complete = True
        #: The number of each value by its id.
        self.order: dict[int, int] = {}
        #: The ids of containers that nothing but names of modules and classes leads to.
        self.lent: set[int] = set()
        self._roots = tuple(roots)
        self._written = written
        self._is_own = _is_own_to_put_back if written else _is_own_to_read
        self._others = OTHERS | (kinds_of_code(self._is_own) if code else _SHARED)
        self._kinds: dict[type, tuple[Kind, ...]] = {}
        order, noted, waiting, lent = self.order, set[type](), list(self._roots), list[Any]()
        while (waiting or lent) and (written or self._may_be_complete()):
            if not waiting:
                waiting, lent = lent, []
                self._lend(waiting)
            value = waiting.pop()
            kind, key = type(value), id(value)
            if kind in ATOMS or key in order:
                continue
            order[key] = len(order)
            kinds = self._kinds.get(kind)
            if kinds is None:
                kinds = self._kinds[kind] = self._kinds_of(kind)
                if kind is types.FunctionType or issubclass(kind, Tensor) or is_array(kind):
                    noted.add(kind)
            for one in kinds:
                items = one.read(value)
                self.places.append((value, one, items))
                if not one.opened or (written and len(items) > LONGEST):
                    continue
                if one.lends:
                    lent += items
                elif key in self.lent:
                    self._lend(items)
                    waiting += items
                else:
                    waiting += self._filled(items)
            if kind in noted:
                self._note(value, kind)
        self.complete = self._may_be_complete()

    def _may_be_complete(self) -> bool:
        return self.complete and len(self.order) <= MOST and len(self.tensors) <= MOST_TENSORS

    def _filled(self, items: Items) -> list[Any]:
        """What is to be looked into; empty containers are noted."""
        found, order = [], self.order
        for item in [item for item in items if type(item) not in ATOMS]:
            if type(item) not in CONTAINERS or item:
                found.append(item)
            elif id(item) not in order:
                order[id(item)] = len(order)
                self.empty.append(item)
        return found

    def _note(self, value: Any, kind: type) -> None:
        """Keep tensors and arrays, and see to it that all there is can be compared."""
        if issubclass(kind, Tensor):
            self.tensors.append(value)
        elif kind is types.FunctionType:
            if self._is_own(value.__code__.co_filename) and reads_unseen(value.__code__):
                self.complete = False
        elif is_array(kind):
            self.arrays.append(value)
            self.complete = self.complete and is_readable(value)

    def _lend(self, values: Iterable[Any]) -> None:
        """Note the containers among some values that have not been come to otherwise."""
        new = (id(v) for v in values if type(v) in CONTAINERS and id(v) not in self.order)
        self.lent.update(new)

    def forget_states(self) -> None:
        """Let go of the states that were read; the places stay."""
        self.places = [(v, kind, () if kind.state else items) for v, kind, items in self.places]

    def _kinds_of(self, kind: type) -> tuple[Kind, ...]:
        """The places in values of a class; notes if they may have others, which nobody sees."""
        module = module_of(kind)
        if issubclass(kind, _FIXED) or kind is object or module in _FIXED_MODULES:
            return ()
        if issubclass(kind, enum.Enum):
            return (ATTRIBUTES, _CLASS) if self._is_own(file_of(kind)) else ()
        found = next(
            (kinds for base, kinds in self._others.items() if issubclass(kind, base)), None
        )
        if found is not None:
            return found
        state = of_numpy(kind)
        if state is not None or is_array(kind):
            return () if state is None else (state,)
        inside = [place for base, place in CONTAINERS.items() if issubclass(kind, base)][:1]
        if issubclass(kind, defaultdict):
            inside.append(FACTORY)
        if kind not in CONTAINERS and self._is_open(kind):
            own = slots(kind)
            inside += [own] if own is not None else []
            inside += [ATTRIBUTES] if _has_attributes(kind) else []
            inside += [_CLASS]
            known = len(inside) > 1 or module.startswith("torch._C")
            self.complete = self.complete and known
        elif not inside:
            self.complete = False
        return tuple(inside)

    def _is_open(self, kind: type) -> bool:
        """Whether objects of a class are no more than what their attributes say."""
        if issubclass(kind, _PLAIN):
            return True
        packages = {module_of(base).partition(".")[0] for base in kind.__mro__}
        if is_standard(kind) or not packages.isdisjoint(_TOOLS):
            return False
        return not (self._written and module_of(kind).partition(".")[0] in _LIBRARIES)


def _is_own_to_put_back(file: str) -> bool:
    """Whether code in a file is the caller's own."""
    return not is_installed(file)


def _is_own_to_read(file: str) -> bool:
    """The same, and of what is installed all that is not known to be fixed."""
    return not is_installed(file) or package_of(file) not in _KNOWN


_CLASS = Kind(lambda value: (type(value),))


def _has_attributes(kind: type) -> bool:
    """Whether objects of a class have attributes that are kept where Python keeps them."""
    named = [vars(base)["__dict__"] for base in kind.__mro__ if "__dict__" in vars(base)]
    kept = types.GetSetDescriptorType, types.MemberDescriptorType
    known = all(isinstance(found, kept) for found in named)
    return kind.__dictoffset__ != 0 and known
