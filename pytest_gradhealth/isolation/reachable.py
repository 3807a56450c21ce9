"""All that a forward could read or write: from a model, a loss or a batch to what is behind it."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import inspect
import io
import logging
import re
import threading
import types
import uuid
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gradhealth.isolation.places import (
    ATTRIBUTES,
    CONTAINERS,
    OTHERS,
    PLAIN,
    Items,
    Kind,
    is_standard,
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
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, enum.Enum),
)
#: Packages whose objects stand for more than their attributes: fixtures, trainers, writers.
_TOOLS = frozenset(
    {"_pytest", "pytest", "pluggy", "pytest_gradhealth", "lightning", "pytorch_lightning"}
)
#: Packages whose objects are read, but left alone.
_LIBRARIES = frozenset({"torch", "numpy", "transformers", "torchmetrics"})
#: What is in containers that are longer is not looked into.
LONGEST = 10_000
#: Values after which all is taken for unknown.
MOST = 300_000


class Reachable:
    """The places behind some values, in the order in which they are come to, and their tensors.

    `written` leaves out the objects of libraries, which are not to be put back. `complete` is false
    where something may change without a sign: a file, an iterator, an object of C. Runs no code of
    the values' own; keeps them all alive, so that no other takes the place of one in memory.
    """

    def __init__(self, roots: Iterable[Any], *, written: bool) -> None:
        self.places: list[tuple[Any, Kind, Items]] = []
        self.tensors: list[Tensor] = []
        self.complete = True
        #: The number of each value by its id.
        self.order: dict[int, int] = {}
        #: The ids of containers that nothing but names of modules and classes leads to.
        self.lent: set[int] = set()
        self._roots = tuple(roots)
        self._written = written
        self._kinds: dict[type, tuple[Kind, ...]] = {}
        waiting, lent = list(self._roots), list[Any]()
        while (waiting or lent) and len(self.order) < MOST:
            if not waiting:
                waiting, lent = lent, []
                self._lend(waiting)
            value = waiting.pop()
            kind = type(value)
            if kind in ATOMS or id(value) in self.order:
                continue
            self.order[id(value)] = len(self.order)
            kinds = self._kinds.get(kind)
            if kinds is None:
                kinds = self._kinds[kind] = self._kinds_of(kind)
            if kind in CONTAINERS and not value:  # most of what a module holds
                self.places.append((value, kinds[0], ()))
                continue
            for one in kinds:
                items = one.read(value)
                self.places.append((value, one, items))
                if one.opened and (len(items) <= LONGEST or not written):
                    found = [item for item in items if type(item) not in ATOMS]
                    if one.lends:
                        lent += found
                        continue
                    if id(value) in self.lent:
                        self._lend(found)
                    waiting += found
            if issubclass(kind, Tensor):
                self.tensors.append(value)
        self.complete = self.complete and not waiting

    def _lend(self, values: Iterable[Any]) -> None:
        """Note the containers among some values that have not been come to otherwise."""
        new = (id(v) for v in values if type(v) in CONTAINERS and id(v) not in self.order)
        self.lent.update(new)

    def forget_states(self) -> None:
        """Let go of the states that were read; the places stay."""
        self.places = [(v, kind, () if kind.state else items) for v, kind, items in self.places]

    def _kinds_of(self, kind: type) -> tuple[Kind, ...]:
        """The places in values of a class; notes if they may have others, which nobody sees."""
        if issubclass(kind, _FIXED) or kind is object or kind.__module__ == "typing":
            return ()
        found = next((kinds for base, kinds in OTHERS.items() if issubclass(kind, base)), None)
        if found is not None:
            return found
        state = of_numpy(kind)
        if state is not None:
            return (state,)
        inside = [place for base, place in CONTAINERS.items() if issubclass(kind, base)][:1]
        if kind not in CONTAINERS and self._is_open(kind):
            own = slots(kind)
            inside += [own] if own is not None else []
            inside += [ATTRIBUTES] if _has_attributes(kind) else []
            inside += [_CLASS]
            known = len(inside) > 1 or kind.__module__.startswith("torch._C")
            self.complete = self.complete and known
        elif not inside:
            self.complete = False
        return tuple(inside)

    def _is_open(self, kind: type) -> bool:
        """Whether objects of a class are no more than what their attributes say."""
        if issubclass(kind, (nn.Module, *PLAIN)):
            return True
        package = kind.__module__.partition(".")[0]
        if issubclass(kind, io.IOBase) or is_standard(kind) or package in _TOOLS:
            return False
        return not (self._written and package in _LIBRARIES)


_CLASS = Kind(lambda value: (type(value),))


def _has_attributes(kind: type) -> bool:
    return kind.__dictoffset__ != 0
