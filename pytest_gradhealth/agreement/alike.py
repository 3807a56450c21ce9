"""Random numbers and decisions that are the same in every format, layout and device."""

from __future__ import annotations

import math
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
#: Those whose gradient has steps: on the way back, times a slope at what came in.
_KINKS = tuple(f"{name}_backward" for name in ("threshold", "leaky_relu", "hardtanh", "hardswish"))
#: What counts as another slope.
_STEP = 0.01
#: What share of all decisions may be others for rounding, in rounding units; one always may.
_SHARE = 8.0
#: How far from its edge rounding may turn a decision, in units of the largest number there.
_EDGE = 32.0
#: Comparisons, those that ask for all digits, and choices among the numbers of a tensor.
_COMPARISONS, _EXACT = ("gt", "ge", "lt", "le"), ("eq", "ne", "_to_copy")
_CHOICES = ("argmax", "argmin", "argsort", "sort", "topk", "max", "min", "kthvalue", "median")
#: Operations that draw by what they are given, not only in its shape.
_SAMPLES = ("multinomial", "poisson", "binomial", "normal", "standard_gamma", "sample_dirichlet")


@dataclass
class Decisions:
    """What a run has decided: choices, comparisons, samples; by operation and shape, in order."""

    taken: dict[Any, list[Tensor]] = field(default_factory=lambda: defaultdict(list))


class Alike(DispatchMode):
    """Draws random numbers in one format, and decides as an earlier run did.

    A number on the edge of a decision (which expert, which code, above zero) may be rounded to the
    other side of it; then nothing behind it can be compared. Decisions are taken over where no more
    differ than rounding in units of `unit` may turn; without a unit they are noted. Numbers are
    drawn one after the other all the same: one that is drawn too often moves those behind it.
    """

    def __init__(self, decisions: Decisions, unit: float | None = None) -> None:
        super().__init__()
        self._decisions, self._unit = decisions, unit
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
        if name in _KINKS:
            self._bent(func, args, kwargs, out)
        elif made and any(t.is_floating_point() for t in tensors((args, kwargs))):
            decides = not any(map(_is_number, made)) or name in _STEPS
            if name.lstrip("_") in _SAMPLES if random else decides:
                for number, tensor in enumerate(made):
                    self._decided((func, number), tensor, _Edge(name, func, args, kwargs))
            elif len(made) == 2 and made[1].dtype is torch.int64:
                self._chosen(func, args, kwargs, made)
        return out

    def _decided(self, key: Any, tensor: Tensor, edge: _Edge | None = None) -> bool:
        """Put in what was decided here before; whether it is another decision."""
        known = self._known((*key, tensor.shape), tensor)
        if known is None or self._unit is None:
            return False
        if edge is not None and not edge.is_near(tensor, known, _EDGE * self._unit):
            return False
        tensor.copy_(known)
        return True

    def _chosen(self, func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
        """Numbers of a tensor and where they are in it: those that are there now."""
        values, indices = made
        name = func._schema.name.removeprefix("aten::")
        other = self._decided((func, 1), indices, _Edge(name, func, args, kwargs))
        if not other or func._schema.returns[0].name != "values":
            return
        source, dim = (_argument(func, args, kwargs, name) for name in ("self", "dim"))
        whole = indices.dim() == source.dim()
        found = source.gather(dim, indices if whole else indices.unsqueeze(dim))
        values.copy_(found if whole else found.squeeze(dim))

    def _bent(self, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        """The gradient behind a kink, with the slopes that it had."""
        gradient, *others = args
        slope = func(torch.ones_like(gradient), *others, **kwargs)
        before = slope.clone()
        if self._decided((func,), slope):
            turned = (slope - before).abs() > _STEP
            out.copy_(torch.where(turned, gradient * slope, out))

    def _known(self, key: Any, tensor: Tensor) -> Tensor | None:
        """What was decided here before, if it is another decision, and for rounding."""
        taken, at = self._decisions.taken[key], self._seen[key]
        self._seen[key] += 1
        if self._unit is None:
            taken.append(tensor.detach().clone())
            return None
        if at >= len(taken):
            return None
        known = taken[at].to(tensor.device)
        apart = (known - tensor).abs() > _STEP if _is_number(tensor) else known != tensor
        others = int(apart.count_nonzero())
        few = others <= max(1.0, _SHARE * self._unit * tensor.numel())
        return known if others and few else None


@dataclass(frozen=True)
class _Edge:
    """What an operation decides of, to tell what rounding may turn from any other decision."""

    name: str
    func: Any
    args: Any
    kwargs: Any

    def is_near(self, own: Tensor, known: Tensor, share: float) -> bool:
        """Whether two decisions are of numbers that differ by a share of the largest, or less.

        True where nobody can say: of what is no comparison, choice or step.
        """
        source = self.args[0] if self.args and isinstance(self.args[0], Tensor) else None
        if source is None or not source.is_floating_point() or not source.numel():
            return True
        gap = self._gap(source, own, known)
        if gap is None:
            return True
        size = source.abs()
        largest = size[size.isfinite()].max() if bool(size.isfinite().any()) else size.new_ones(())
        return bool((gap <= share * largest).all())

    def _gap(self, source: Tensor, own: Tensor, known: Tensor) -> Tensor | None:
        """How far the numbers are from where the decision turns, None where that is unknown."""
        turned = own != known
        if self.name in _EXACT and own.dtype is torch.bool:
            return source.new_full((1,), math.inf)  # what is 0 in all digits is not rounded
        if self.name in _COMPARISONS and own.dtype is torch.bool:
            apart: Tensor = (source - self.args[1]).abs().expand(own.shape)
            return apart[turned]
        if self.name in _STEPS and own.shape == source.shape:
            if self.name in ("sign", "sgn"):
                return source.abs()[turned]
            middle = (own.to(source.dtype) + known.to(source.dtype)) / 2
            return ((source - middle).abs() - (self.name != "round") / 2).clamp(min=0)[turned]
        if self.name in _CHOICES and own.dtype is torch.int64:
            dim = _argument(self.func, self.args, self.kwargs, "dim")
            if dim is None or not source.dim():
                flat = source.reshape(-1)
                return (flat[own.reshape(-1)] - flat[known.reshape(-1)]).abs()
            one, other = (i if i.dim() == source.dim() else i.unsqueeze(dim) for i in (own, known))
            return (source.gather(dim, one) - source.gather(dim, other)).abs()
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
