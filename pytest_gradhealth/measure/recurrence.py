"""Gradients through time: how much of what leaves the last step of a sequence reaches earlier ones.

A fused nn.LSTM hides its steps, and a loss on every step hides how far back a gradient reaches. So
the gradient that is looked at here starts at the state after the last step alone, with a fixed
random direction, and is read at what the sequence layer gets at each step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import told
from pytest_gradhealth.measure.look import look
from pytest_gradhealth.measure.reading import Look
from pytest_gradhealth.measure.recorder import recorded_modules
from pytest_gradhealth.results.profile import GradientProfile, TimeRecord
from pytest_gradhealth.subject.loss import COTANGENT_SEED
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.trees import tensors


def look_through_time(subject: Subject, *, seed: int, steps: int = 0) -> Look:
    """Look at a subject and, where it has a dependency to reach, at its gradient through time.

    To be called inside `isolated`. Raises ProbeError as `look` does, and where there are no
    steps, or too few of them.
    """
    seen = look(subject, seed=seed, steps=steps)
    if subject.dependency is None:
        return seen
    times = time_records(subject, seen.profile, subject.dependency, seed)
    return replace(seen, profile=replace(seen.profile, times=times))


def time_records(
    subject: Subject, profile: GradientProfile, dependency: int, seed: int
) -> tuple[TimeRecord, ...]:
    """Measure the layers by which sequences enter, one record for each and for each direction."""
    run = Pass(subject, seed)
    tape = _Tape(dependency, _calls(profile))
    with tape.attached(subject.model):
        run.forward()
        # A checkpoint runs its part again for each gradient, and needs the same hooks there.
        tape.recording = False
        runs = tape.runs()
        if not runs and tape.hidden:
            raise ProbeError(
                f"{tape.hidden} runs without a graph (under no_grad, or in a re-entrant"
                " checkpoint), so that nothing can be followed through time; pass"
                " use_reentrant=False to the checkpoint, or probe the layer without it"
            )
        if not runs:
            raise ProbeError(
                f"dependency={dependency} was given, but the model has no recurrent layer (nn.RNN,"
                " nn.LSTM, nn.GRU) and calls no module step by step for more than"
                f" {dependency} steps"
            )
        return tuple(_read(runs, dependency))


def _calls(profile: GradientProfile) -> Counter[str]:
    """How often each module was called."""
    calls: Counter[str] = Counter()
    for output in profile.outputs:
        calls[output.name] = max(calls[output.name], output.call + 1)
    return calls


@dataclass(frozen=True)
class _Run:
    """A sequence layer at work: what it got (one tensor, or one for each step) and gave.

    `axis` is the dimension of time, `sizes` are the batch sizes of a packed sequence; a layer
    called step by step has neither.
    """

    name: str
    type: str
    taps: list[Tensor]
    end: Tensor
    axis: int | None = None
    sizes: Tensor | None = None
    directions: int = 1

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
class _Tape:
    """Hooks that put a tensor of our own before each sequence layer and keep what comes out.

    Fused layers are told by their type. Cells are modules that are called for more steps than the
    dependency is long, each call depending on the one before. Once `recording` is off, the hooks do
    the same and note nothing. `hidden` names a layer that ran without a graph.
    """

    dependency: int
    calls: Counter[str]
    recording: bool = True
    hidden: str = ""
    _fused: list[_Run] = field(default_factory=list)
    _taps: dict[str, list[Tensor]] = field(default_factory=dict)
    _ends: dict[str, Tensor] = field(default_factory=dict)
    _types: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Hooks for the length of the context; none is left afterwards."""
        handles = []
        try:
            for name, module in recorded_modules(model):
                stepwise = self.calls[name] > self.dependency
                if not stepwise and not isinstance(module, nn.RNNBase):
                    continue
                self._types[name] = class_name(module)
                before = module.register_forward_pre_hook(self._tap(name), with_kwargs=True)
                keep = self._keep_step if stepwise else self._keep_sequence
                handles += [before, module.register_forward_hook(self._after(name, keep))]
            yield
        finally:
            for handle in handles:
                handle.remove()

    def runs(self) -> list[_Run]:
        """The sequence layers that were called, in the order in which they ended."""
        stepwise = [
            _Run(name, self._types[name], taps, self._ends[name])
            for name, taps in self._taps.items()
            if name in self._ends and len(taps) > self.dependency
        ]
        recurrent = [run for run in stepwise if _feeds(run, run)]
        outermost = [
            run
            for run in recurrent
            if not any(run.name.startswith(f"{other.name}.") for other in recurrent)
        ]
        return [*self._fused, *outermost]

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
            self._ends[name] = end

    def _keep_sequence(self, name: str, module: nn.RNNBase, outputs: Any) -> None:
        end = outputs[0]
        packed = isinstance(end, PackedSequence)
        taps = self._taps.pop(name, [])
        if not taps:
            return
        first = 1 if module.batch_first and taps[0].dim() > 2 else 0
        self._fused.append(
            _Run(
                name,
                self._types[name],
                taps,
                end.data if packed else end,
                axis=None if packed else first,
                sizes=end.batch_sizes if packed else None,
                directions=2 if module.bidirectional else 1,
            )
        )


def _can_be_tapped(given: Any) -> bool:
    data = given.data if isinstance(given, PackedSequence) else given
    return isinstance(data, Tensor) and data.is_floating_point()


def _feeds(source: _Run, run: _Run) -> bool:
    """Whether what a layer got at its first step has a part in another's (its own) last state."""
    return run.end.requires_grad and any(g is not None for g in _gradients(run, source.taps[:1]))


def _gradients(run: _Run, taps: list[Tensor], *, reverse: bool = False) -> list[Tensor | None]:
    start = run.cotangent(reverse=reverse)
    try:
        found = torch.autograd.grad(run.end, taps, start, retain_graph=True, allow_unused=True)
    except Exception as error:
        raise ProbeError(
            f"the gradient through the steps of {run.name} cannot be computed: {told(error)}"
        ) from error
    return list(found)


def _read(runs: list[_Run], dependency: int) -> Iterator[TimeRecord]:
    """From the last layer of each stack to the first ones, which the sequence enters by."""
    covered: set[int] = set()
    for top in reversed(range(len(runs))):
        if top in covered:
            continue
        below = [i for i in range(top + 1) if i == top or _feeds(runs[i], runs[top])]
        covered |= {*below}
        entries = [i for i in below if not any(_feeds(runs[j], runs[i]) for j in below if j < i)]
        for entry in entries:
            for reverse in range(runs[top].directions):
                yield _record(runs[top], runs[entry], dependency, reverse=bool(reverse))


def _record(top: _Run, entry: _Run, dependency: int, *, reverse: bool) -> TimeRecord:
    rows = entry.rows(_gradients(top, entry.taps, reverse=reverse)).cpu()
    distances = entry.distances(reverse=reverse)
    longest = int(distances.max())
    if dependency > longest:
        raise ProbeError(
            f"dependency={dependency} is more than {entry.name} can show: it gets sequences of"
            f" {longest + 1} steps, so that at most {longest} lie between first and last"
        )
    sums = torch.zeros(longest + 1, dtype=torch.float64).index_add_(0, distances, rows)
    counts = torch.bincount(distances, minlength=longest + 1)
    norms = tuple((sums / counts).sqrt().tolist())
    given = torch.zeros_like(sums).index_add_(0, distances, entry.rows(entry.taps).cpu())
    blank = tuple(int(distance) for distance in (given == 0).nonzero())
    return TimeRecord(entry.name, entry.type, norms, dependency, reverse, blank)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _square(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros((), dtype=torch.float64)
    return _wide(gradient).square().sum()
