"""Which operation of a forward made the first NaN or infinity, and of what numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pytest_gradhealth.measure.operation import Operation
from pytest_gradhealth.measure.zeros import Zeros
from pytest_gradhealth.results.names import LOSS
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.tensors.dispatch import DispatchMode
from pytest_gradhealth.tensors.norms import kind_of
from pytest_gradhealth.tensors.storage import address_of
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import dtype_name

During = Literal["forward", "loss", "backward"]


@dataclass(frozen=True, slots=True)
class Made:
    """What an operation returned that is NaN or infinite, in the order of the forward.

    `sources` are the operations that had returned what it got. What was handed over is its own.
    """

    number: int
    found: NonFinite
    sources: tuple[Made, ...]


class Operations(DispatchMode):
    """Notes every operation that returns NaN or infinity, and what `owner()` was running."""

    def __init__(self, owner: Callable[[], tuple[During, str, str]]) -> None:
        super().__init__()
        self._owner = owner
        self._number = 0
        self._zeros = Zeros()
        # By address. Whoever gets memory that was given back writes an entry of its own.
        self._made: dict[int, Made] = {}

    def hand(self, name: str, value: Any) -> None:
        """Take what is NaN or infinite in what is handed to the loss for made by that."""
        for tensor in tensors(value):
            if kind := kind_of(tensor):
                # Of a mask of 0 and -inf it is what mixes it that is told.
                is_mask = kind == "-inf" and not bool(tensor.nan_to_num(neginf=0.0).any())
                taken = kind if is_mask else ""
                found = NonFinite("loss", LOSS, "", kind, parameter=name, taken=taken)
                self._made[address_of(tensor)] = Made(0, found, ())

    def made(self, tensor: Tensor) -> bool:
        """Whether an operation that was seen returned what is wrong with a tensor."""
        return address_of(tensor) in self._made

    def origin(self, tensor: Tensor) -> NonFinite | None:
        """The first operation that what is wrong with a tensor came from, None if it was given."""
        last = self._made.get(address_of(tensor))
        if last is None:
            return None
        ordered = [m.found for m in sorted(_with_sources(last), key=lambda made: made.number)]
        begun = [found for found in ordered if not found.taken]
        mixed = [found for found in ordered if found.value == "nan" != found.taken]
        filled = [found for found in ordered if found.taken != "nan"]
        return (*begun, *mixed, *filled, None)[0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named, writes = kwargs or {}, func._schema.is_mutable
        given = [*tensors((args, named))]
        kinds = [*map(kind_of, given)]
        before = [a.clone() if writes and isinstance(a, Tensor) else a for a in args]
        operation = Operation(func, before, named, given, kinds, self._zeros.of_last(args))
        made = func(*args, **named)
        known = {address_of(tensor) for tensor in given}
        for out in tensors(made):
            if writes or address_of(out) not in known:
                self._zeros.note(operation, out)
                self._note(operation, out)
        return made

    def _note(self, operation: Operation, out: Tensor) -> None:
        value, address = kind_of(out), address_of(out)
        if not value or operation.name.startswith(("empty", "new_empty")):
            if not operation.writes:
                self._made.pop(address, None)
            return
        bad = (t for t, kind in zip(operation.given, operation.kinds, strict=True) if kind)
        sources = (self._made.get(address_of(tensor)) for tensor in bad)
        fed = operation.fed(out)
        found = NonFinite(
            *self._owner(),
            value,
            op=operation.name,
            taken=operation.taken,
            fed=fed,
            elements=operation.elements(out),
            format=dtype_name(out.dtype),
            behind=operation.behind if fed else (),
        )
        self._number += 1
        self._made[address] = Made(self._number, found, tuple(filter(None, sources)))


def _with_sources(made: Made) -> Iterator[Made]:
    """An operation and all that its numbers came from."""
    seen, stack = {made.number}, [made]
    while stack:
        current = stack.pop()
        yield current
        fresh = [source for source in current.sources if source.number not in seen]
        seen.update(source.number for source in fresh)
        stack += fresh
