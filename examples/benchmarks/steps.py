"""A probe against the plain forward and backward: time, memory, and the least that it could be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from examples.benchmarks.table import Row
from examples.benchmarks.timing import Spread, difference, in_turns, ratio
from examples.benchmarks.workloads import Workload
from pytest_gradhealth import probe
from pytest_gradhealth.tensors.norms import l2_norm, to_numbers

#: Time of a probe over that of a step; of tiny models, where Python dominates; and beyond a step.
TARGET, TINY_TARGET, TINY_MILLISECONDS = 1.05, 2.5, 1.5


def probe_of(workload: Workload, *, exact: bool = False) -> Callable[[], None]:
    """A probe that has to find the model healthy, in a single look."""

    load, device = workload, workload.inputs.device

    def run() -> None:
        diagnosis = probe(
            load.model, load.inputs, load.targets, loss=load.loss, device=device, exact=exact
        )
        assert diagnosis.verdict == "healthy", diagnosis
        assert len(diagnosis.profiles) == 1

    return run


def limit_of(workload: Workload) -> Callable[[], None]:
    """A step that reads what the verdict is made of, and does nothing else.

    The gradient of each weight, which is let go of, and that of each output that paths run through.
    """
    load, device = workload, workload.inputs.device
    profile = probe(load.model, load.inputs, load.targets, loss=load.loss, device=device).profile
    load.clear()
    modules = dict(load.model.named_modules())
    names = {point.name for path in profile.judged_paths for point in path.points}
    layers = [modules[name] for name in names if name in modules]

    def run() -> None:
        norms: list[Tensor] = []
        with _measuring(workload.model, layers, norms):
            workload.step()
        to_numbers(norms)

    return run


@contextlib.contextmanager
def _measuring(
    model: nn.Module, layers: Iterable[nn.Module], norms: list[Tensor]
) -> Iterator[None]:
    def on_gradient(gradient: Tensor) -> None:
        norms.append(l2_norm(gradient))

    def on_output(module: nn.Module, inputs: Any, outputs: Any) -> None:
        del module, inputs
        if isinstance(outputs, Tensor) and outputs.requires_grad:
            outputs.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    def on_parameter(parameter: Tensor) -> None:
        assert parameter.grad is not None
        norms.append(l2_norm(parameter.grad))
        parameter.grad = None

    handles: list[Any] = [layer.register_forward_hook(on_output) for layer in layers]
    handles += [p.register_post_accumulate_grad_hook(on_parameter) for p in model.parameters()]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def time_rows(
    workload: Workload,
    rounds: int,
    *,
    tiny: bool = False,
    wait: Callable[[], object] = lambda: None,
) -> Iterator[Row]:
    """Time of a probe over that of a step, and over the least that it could be."""
    calls = {
        "step": workload.step,
        "probe": probe_of(workload),
        "exact": probe_of(workload, exact=True),
        "limit": limit_of(workload),
    }
    times = in_turns(calls, rounds, before=workload.clear, after=wait)
    of, model = workload.about, workload.name
    target = TINY_TARGET if tiny else TARGET
    cost = ratio(times["probe"], times["step"])
    yield Row("probe / step", of, cost, target=target, model=model)
    yield Row("limit / step", of, ratio(times["limit"], times["step"]), model=model)
    yield Row("probe / limit", of, ratio(times["probe"], times["limit"]), model=model)
    yield Row("exact probe / step", of, ratio(times["exact"], times["step"]), model=model)
    if tiny:
        beyond = difference(times["probe"], times["step"])
        yield Row("probe - step", of, beyond, "ms", TINY_MILLISECONDS, model)


def memory_row(workload: Workload, peak: Callable[[Callable[[], object]], int]) -> Row:
    """Peak memory of a probe over that of a step, model and batch included in both."""
    held = (*workload.model.parameters(), *workload.model.buffers())
    base = sum(t.nbytes for t in (*held, workload.inputs, workload.targets))
    workload.clear()
    step = peak(workload.step)
    workload.clear()
    value = (base + peak(probe_of(workload))) / (base + step)
    spread = Spread(value, value, value)
    figure = "peak memory, probe / step"
    return Row(figure, workload.about, spread, target=1.0, model=workload.name)


def peak_on_host(call: Callable[[], object]) -> int:
    """The most bytes of tensors that a call holds at a time, by the allocator's own count."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as profile:
        call()
    assert profile.profiler is not None
    events: Any = profile.profiler.kineto_results.events()
    events = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    held = most = 0
    for event in events:
        held += event.nbytes()
        most = max(most, held)
    return most


def peak_on_cuda(call: Callable[[], object]) -> int:
    """The most bytes of tensors that a call holds at a time on the GPU."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
