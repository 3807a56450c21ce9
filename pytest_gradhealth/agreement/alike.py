"""Random numbers and decisions that are the same in every format, layout and device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pytest_gradhealth.tensors.dispatch import DispatchMode
from pytest_gradhealth.tensors.trees import map_tensors, tensors

#: What is drawn is cut to the digits that bfloat16 has: any format holds it, and no number is
#: rounded up to the 1 that a uniform one never is.
_DIGITS = -1 << 16
#: Operations that decide, and return what they decide as floating numbers.
_STEPS = ("round", "floor", "ceil", "trunc", "sign", "sgn")


@dataclass
class Decisions:
    """What a run has decided: choices, comparisons, samples; by operation and shape, in order."""

    taken: dict[Any, list[Tensor]] = field(default_factory=lambda: defaultdict(list))


class Alike(DispatchMode):
    """Draws random numbers in one format, and decides as an earlier run did.

    A number on the edge of a decision (which expert, which code, beyond a threshold) may be rounded
    to the other side of it; then nothing behind it can be compared. Numbers are drawn one after
    the other all the same: one that is drawn too often moves those behind it. With `known`
    decisions an operation that these do not have decides for itself; without, it notes its own.
    """

    def __init__(self, decisions: Decisions, *, known: bool) -> None:
        super().__init__()
        self._decisions, self._known = decisions, known
        self._seen: dict[Any, int] = defaultdict(int)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and put in what it draws or decides."""
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        random = torch.Tag.nondeterministic_seeded in func.tags and "attention" not in name
        out = (_drawn if random else _run)(func, args, kwargs)
        made = [*tensors(out)]
        if made and any(t.is_floating_point() for t in tensors((args, kwargs))):
            if random or name in _STEPS or not any(map(_is_number, made)):
                self._decided(func, made)
            elif [r.name for r in func._schema.returns] == ["values", "indices"]:
                self._chosen(func, args, kwargs, made)
        return out

    def _decided(self, func: Any, made: list[Tensor]) -> None:
        for number, tensor in enumerate(made):
            known = self._of(func, number, tensor)
            if known is not None:
                tensor.copy_(known)

    def _chosen(self, func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
        """Numbers of a tensor and where they are in it: those that are there now."""
        values, indices = made
        known = self._of(func, 1, indices)
        if known is None:
            return
        source, dim = (_argument(func, args, kwargs, name) for name in ("self", "dim"))
        if not isinstance(dim, int) or not source.dim():
            return
        whole = indices.dim() == source.dim()
        indices.copy_(known)
        places = indices if whole else indices.unsqueeze(dim)
        found = source.gather(dim, places)
        values.copy_(found if whole else found.squeeze(dim))

    def _of(self, func: Any, number: int, tensor: Tensor) -> Tensor | None:
        """What was decided here before, None for the first time."""
        key = func, number, tensor.shape
        taken, at = self._decisions.taken[key], self._seen[key]
        self._seen[key] += 1
        if self._known:
            return taken[at] if at < len(taken) else None
        taken.append(tensor.detach().to("cpu", copy=True))
        return None


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _drawn(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation draws as it is, with the numbers that it draws in float32 on the CPU."""
    given = kwargs.get("generator")
    generator = given if given is not None and given.device.type == "cpu" else None
    state = generator or torch.default_generator
    plain_args, plain = map_tensors(_plain, (args, {**kwargs}))
    plain |= {"generator": generator} if "generator" in plain else {}
    plain |= {"device": torch.device("cpu")} if "device" in plain else {}
    dtype = plain.get("dtype")
    plain |= {"dtype": torch.float32} if dtype is not None and dtype.is_floating_point else {}
    before = state.get_state()
    out = func(*args, **kwargs)
    state.set_state(before)
    for own, made in zip(
        _written(func, args, out),
        _written(func, plain_args, func(*plain_args, **plain)),
        strict=True,
    ):
        own.copy_(_cut(made))
    return out


def _written(func: Any, args: Any, out: Any) -> Iterator[Tensor]:
    """What an operation has made, and what it was given and has written to."""
    yield from tensors(out)
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors(value)


def _plain(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype).copy_(tensor)


def _cut(tensor: Tensor) -> Tensor:
    if tensor.dtype is not torch.float32:
        return tensor
    return tensor.contiguous().view(torch.int32).bitwise_and(_DIGITS).view(torch.float32)


def _argument(func: Any, args: Any, kwargs: Any, name: str) -> Any:
    """What an operation was given under a name, or has by default."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[number] if number < len(args) else kwargs.get(name, argument.default_value)
    return None
