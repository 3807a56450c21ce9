"""Layers that a sequence runs through, fused or called step by step, and the graph behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.measure.recorder import recorded_modules
from pytest_gradhealth.subject.loss import COTANGENT_SEED
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.trees import tensors


@dataclass(frozen=True)
class SequenceRun:
    """A sequence layer at work: what it got (one tensor, or one for each step) and gave.

    `axis` is the dimension of time, `sizes` are the batch sizes of a packed sequence; a layer
    called step by step has neither, but `ends`: what it gave at each step, by its number.
    """

    name: str
    type: str
    taps: list[Tensor]
    end: Tensor
    axis: int | None = None
    sizes: Tensor | None = None
    directions: int = 1
    ends: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many steps its longest sequence has."""
        if self.sizes is not None:
            return len(self.sizes)
        return len(self.taps) if self.axis is None else self.taps[0].shape[self.axis]

    def distances(self, *, reverse: bool) -> Tensor:
        """How many steps each row of the input lies before the end, in the order of `rows`."""
        if self.sizes is not None:
            steps = torch.arange(len(self.sizes)).repeat_interleave(self.sizes)
            sequences = torch.cat([torch.arange(int(size)) for size in self.sizes])
            lengths = (self.sizes[:, None] > torch.arange(int(self.sizes[0]))).sum(0)
            return steps if reverse else lengths[sequences] - 1 - steps
        if self.axis is None:
            return torch.arange(len(self.taps)).flip(0)
        tap = self.taps[0]
        steps = torch.arange(tap.shape[self.axis])
        steps = steps if reverse else steps.flip(0)
        return steps.repeat_interleave(tap.numel() // tap.shape[-1] // len(steps))

    def rows(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Squared norms of the gradient, one for each step and example (or for each call)."""
        if self.axis is None and self.sizes is None:
            return torch.stack([_square(g) for g in gradients])
        (gradient,) = gradients
        if gradient is None:
            return torch.zeros(self.taps[0].numel() // self.taps[0].shape[-1], dtype=torch.float64)
        wide = _wide(gradient)
        wide = wide if self.axis is None else wide.movedim(self.axis, 0)
        return wide.square().sum(-1).reshape(-1)

    def cotangent(self, *, reverse: bool) -> Tensor:
        """A fixed random gradient for the state after the last step, zero for all others."""
        generator = torch.Generator().manual_seed(COTANGENT_SEED)
        drawn = torch.randn(self.end.shape, generator=generator, dtype=torch.float64)
        if self.directions > 1:
            half = self.end.shape[-1] // 2
            drawn[..., slice(0, half) if reverse else slice(half, None)] = 0.0
        if self.sizes is not None:
            drawn[self.distances(reverse=reverse) != 0] = 0.0
        elif self.axis is not None:
            last = 0 if reverse else self.end.shape[self.axis] - 1
            others = [step for step in range(self.end.shape[self.axis]) if step != last]
            drawn.index_fill_(self.axis, torch.tensor(others, dtype=torch.long), 0.0)
        return drawn.to(self.end.device, self.end.dtype)


@dataclass
class SequenceTape:
    """Hooks that put a tensor of our own before each sequence layer and keep what comes out.

    Fused layers are told by their type. Cells are modules that are called for more steps than the
    dependency is long, each call depending on the one before. Once `recording` is off, the hooks do
    the same and note nothing. `hidden` names a layer that ran without a graph.
    """

    dependency: int
    calls: Counter[str]
    recording: bool = True
    hidden: str = ""
    _fused: list[SequenceRun] = field(default_factory=list)
    _taps: dict[str, list[Tensor]] = field(default_factory=dict)
    _ends: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    _types: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Hooks for the length of the context; none is left afterwards."""
        with hooked(self._hooks(model)):
            yield

    def runs(self) -> list[SequenceRun]:
        """The sequence layers that were called, in the order in which they ended."""
        return [*self._fused, *_outermost([run for run in self._stepwise() if feeds(run, run)])]

    def alone(self) -> list[SequenceRun]:
        """Layers called step by step, where no call of any depends on its first one."""
        return _outermost([*self._stepwise()])

    def _hooks(self, model: nn.Module) -> Iterator[RemovableHandle]:
        for name, module in recorded_modules(model):
            stepwise = self.calls[name] > self.dependency
            if stepwise or isinstance(module, nn.RNNBase):
                self._types[name] = class_name(module)
                keep = self._keep_step if stepwise else self._keep_sequence
                yield module.register_forward_pre_hook(self._tap(name), with_kwargs=True)
                yield module.register_forward_hook(self._after(name, keep))

    def _stepwise(self) -> Iterator[SequenceRun]:
        for name, taps in self._taps.items():
            ends = self._ends.get(name)
            if ends and len(taps) > self.dependency:
                yield SequenceRun(name, self._types[name], taps, ends[max(ends)], ends=ends)

    def _tap(self, name: str) -> Callable[..., Any]:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            for index, given in enumerate(args):
                if _can_be_tapped(given):
                    return (*args[:index], self._tapped(name, given), *args[index + 1 :]), kwargs
            for key, given in kwargs.items():
                if _can_be_tapped(given):
                    return args, {**kwargs, key: self._tapped(name, given)}
            return None

        return before

    def _tapped(self, name: str, given: Any) -> Any:
        if isinstance(given, PackedSequence):
            return given._replace(data=self._tapped(name, given.data))
        tap = given.view_as(given) if given.requires_grad else given.detach().requires_grad_()
        if self.recording:
            self._taps.setdefault(name, []).append(tap)
        return tap

    def _after(self, name: str, keep: Callable[..., None]) -> Callable[..., None]:
        def after(module: nn.Module, _: Any, outputs: Any) -> None:
            if not self.recording:
                return
            if torch.is_grad_enabled():
                keep(name, module, outputs)
            else:
                self._taps.pop(name, None)
                self.hidden = name

        return after

    def _keep_step(self, name: str, _: nn.Module, outputs: Any) -> None:
        end = next((t for t in tensors(outputs) if t.requires_grad), None)
        if end is not None:
            self._ends.setdefault(name, {})[len(self._taps.get(name, ())) - 1] = end

    def _keep_sequence(self, name: str, module: nn.RNNBase, outputs: Any) -> None:
        end = outputs[0]
        packed = isinstance(end, PackedSequence)
        taps = self._taps.pop(name, [])
        if not taps:
            return
        first = 1 if module.batch_first and taps[0].dim() > 2 else 0
        self._fused.append(
            SequenceRun(
                name,
                self._types[name],
                taps,
                end.data if packed else end,
                axis=None if packed else first,
                sizes=end.batch_sizes if packed else None,
                directions=2 if module.bidirectional else 1,
            )
        )


def _outermost(runs: Sequence[SequenceRun]) -> list[SequenceRun]:
    return [run for run in runs if not any(run.name.startswith(f"{other.name}.") for other in runs)]


def longest_stretch(run: SequenceRun) -> tuple[SequenceRun, int]:
    """The calls of a layer up to where most of them in a row depend on one another, and how many.

    Coming from the end, the last of those that are equally long.
    """
    best, most, last = run, 0, len(run.taps) - 1
    while last >= 0:
        first = last
        if last in run.ends:
            part = replace(run, taps=run.taps[: last + 1], end=run.ends[last])
            got = gradients(part, part.taps)
            first = next((i for i, gradient in enumerate(got) if gradient is not None), last)
            if last - first + 1 > most:
                best, most = part, last - first + 1
        last = first - 1
    return best, most


def _can_be_tapped(given: Any) -> bool:
    data = given.data if isinstance(given, PackedSequence) else given
    return isinstance(data, Tensor) and data.is_floating_point()


def feeds(source: SequenceRun, run: SequenceRun, step: int = 0) -> bool:
    """Whether what a layer got at a step (the first) has a part in another's (its own) last state.

    Only a graph counts.
    """
    return run.end.requires_grad and gradients(run, [source.taps[step]]) != [None]


def gradients(
    run: SequenceRun, taps: list[Tensor], *, reverse: bool = False
) -> list[Tensor | None]:
    """What gets from a layer's last state to some tensors, None where no graph leads there."""
    along = (run.end * run.cotangent(reverse=reverse)).sum()
    try:
        found = torch.autograd.grad(along, taps, retain_graph=True, allow_unused=True)
    except Exception as error:
        raise ProbeError(
            f"the gradient through the steps of {run.name} cannot be computed: {told(error)}"
        ) from error
    return list(found)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _square(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros((), dtype=torch.float64)
    return _wide(gradient).square().sum()
