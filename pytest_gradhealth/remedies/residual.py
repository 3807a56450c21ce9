"""Residual connections: x + f(x) around runs of layers, or blocks, that keep the shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.formatting import quoted
from pytest_gradhealth.remedies.layers import WEIGHTED, Call, heads
from pytest_gradhealth.remedies.printed import printed
from pytest_gradhealth.remedies.remedy import Patient, Remedy

FAMILY = "residual connections"
SYMPTOMS = ("GH101", "GH201", "GH202", "GH404")

#: What the user writes where all shapes stay as they are.
PLAIN = """class Residual(nn.Sequential):
    def forward(self, x): return x + super().forward(x)"""
#: The same with projections where they do not.
PROJECTED = """class Residual(nn.Module):
    def __init__(self, block, shortcut):
        super().__init__(); self.block, self.shortcut = block, shortcut
    def forward(self, x): return self.shortcut(x) + self.block(x)"""


class Residual(nn.Module):
    """shortcut(x) + block(x)."""

    def __init__(self, block: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        total: Tensor = self.shortcut(x) + self.block(x)
        return total


@dataclass(frozen=True)
class _Run:
    """Children `start` to `stop` of a container, and the projection beside them, if any."""

    start: int
    stop: int
    shortcut: nn.Module
    written: str = ""


def change(patient: Patient) -> str:
    """Wrap runs of layers in every `nn.Sequential`, and the blocks in every `nn.ModuleList`."""
    if patient.inputs is None:
        raise CannotApplyError("it takes a batch, to see which layers keep the shape")
    calls: dict[nn.Module, Call] = {}
    for call in patient.calls:
        calls.setdefault(call.module, call)
    plan: list[tuple[str, nn.Module, list[_Run]]] = []
    covered: set[nn.Module] = set()
    last = heads(list(calls.values()))
    for name, module in patient.model.named_modules():
        if module in covered or not isinstance(module, (nn.Sequential, nn.ModuleList)):
            continue
        runs = [run for run in _runs(module, calls) if not _makes_output(run, module, last)]
        children = list(module)
        for run in runs:
            for child in children[run.start : run.stop]:
                covered.update(child.modules())
        if runs:
            plan.append((name, module, runs))
    if not plan:
        raise CannotApplyError(
            "no nn.Sequential or nn.ModuleList in it has layers that keep the shape; in a custom"
            " forward, write x = x + block(x)"
        )
    plain = not any(run.written for _, _, runs in plan for run in runs)
    lines: list[str] = []
    for name, module, runs in reversed(plan):  # the inner ones first: names stay what they are
        lines += _written(name, module, runs, plain)
        rebuilt = _rebuilt(module, runs)
        if name:
            patient.model.set_submodule(name, rebuilt)
        else:
            patient.model = rebuilt
    return printed("\n".join([PLAIN if plain else PROJECTED, *lines]))


def _runs(
    container: nn.Sequential | nn.ModuleList, calls: Mapping[nn.Module, Call]
) -> Iterator[_Run]:
    """The runs to wrap: each from one layer with weights up to the next, or a block of a list."""
    children = list(container)
    if isinstance(container, nn.ModuleList):
        for i, block in enumerate(children):
            if _keeps_shape(block, calls):
                yield _Run(i, i + 1, nn.Identity())
        return
    if type(container).forward is not nn.Sequential.forward:
        return
    starts = [i for i, child in enumerate(children) if _has_weights(child)]
    for number, start in enumerate(starts):
        stop = starts[number + 1] if number + 1 < len(starts) else len(children)
        if stop == start + 1 == len(children) and isinstance(children[start], WEIGHTED):
            continue  # the layer that makes the output
        first, last = calls.get(children[start]), calls.get(children[stop - 1])
        if first is None or last is None or first.entered is None or last.returned is None:
            continue
        if first.entered == last.returned:
            yield _Run(start, stop, nn.Identity())
        elif number:
            parameter = next(children[start].parameters())
            projected = _projection(first.entered, last.returned)
            if projected is not None:
                shortcut, written = projected
                yield _Run(start, stop, shortcut.to(parameter.device, parameter.dtype), written)


def _makes_output(run: _Run, container: nn.Module, last: set[nn.Module]) -> bool:
    """Whether a projection would go around a layer that makes an output, into the loss."""
    inside = list(container.children())[run.start : run.stop]
    return bool(run.written) and any(not last.isdisjoint(child.modules()) for child in inside)


def _has_weights(module: nn.Module) -> bool:
    return any(isinstance(inner, WEIGHTED) for inner in module.modules())


def _keeps_shape(block: nn.Module, calls: Mapping[nn.Module, Call]) -> bool:
    call = calls.get(block)
    return (
        call is not None
        and _has_weights(block)
        and call.entered is not None
        and call.entered == call.returned
    )


def _projection(
    entered: tuple[int, ...], returned: tuple[int, ...]
) -> tuple[nn.Module, str] | None:
    """A linear map from one shape to the other, and how it is written; None if there is none."""
    if len(entered) != len(returned) or entered[0] != returned[0]:
        return None
    if entered[:-1] == returned[:-1]:
        old, new = entered[-1], returned[-1]
        return nn.Linear(old, new, bias=False), f"nn.Linear({old}, {new}, bias=False)"
    if len(entered) != 4:
        return None
    stride = max(1, entered[2] // returned[2])
    if any(
        (old - 1) // stride + 1 != new for old, new in zip(entered[2:], returned[2:], strict=True)
    ):
        return None
    old, new = entered[1], returned[1]
    return (
        nn.Conv2d(old, new, 1, stride, bias=False),
        f"nn.Conv2d({old}, {new}, 1, {stride}, bias=False)",
    )


def _rebuilt(container: nn.Module, runs: Sequence[_Run]) -> nn.Module:
    assert isinstance(container, (nn.Sequential, nn.ModuleList))
    children, by_start = list(container), {run.start: run for run in runs}
    rebuilt: list[nn.Module] = []
    index = 0
    while index < len(children):
        run = by_start.get(index)
        if run is None:
            rebuilt.append(children[index])
            index += 1
        else:
            rebuilt.append(Residual(nn.Sequential(*children[run.start : run.stop]), run.shortcut))
            index = run.stop
    is_sequential = isinstance(container, nn.Sequential)
    made = nn.Sequential(*rebuilt) if is_sequential else nn.ModuleList(rebuilt)
    return made.train(container.training)


def _written(name: str, container: nn.Module, runs: Sequence[_Run], plain: bool) -> list[str]:
    """The lines that rebuild a container; `plain` ones need no shortcut anywhere in the model."""
    assert isinstance(container, (nn.Sequential, nn.ModuleList))
    parts = _parts(len(container), runs, plain)
    if isinstance(container, nn.ModuleList):
        rebuilt = f"nn.ModuleList([{', '.join(parts)}])"
    else:
        rebuilt = f"nn.Sequential({', '.join(parts)})"
    if not name:
        return ["s = model", f"model = {rebuilt}"]
    return [
        f"s = model.get_submodule({quoted(name)})",
        f"model.set_submodule({quoted(name)}, {rebuilt})",
    ]


def _parts(length: int, runs: Sequence[_Run], plain: bool) -> list[str]:
    """What goes into a rebuilt container `s`; evenly spaced runs in one expression."""
    first, last, step = runs[0].start, runs[-1].stop, runs[0].stop - runs[0].start
    even = [(i, i + step) for i in range(first, last, step)]
    parts: list[str] = []
    if plain and len(runs) > 2 and even == [(run.start, run.stop) for run in runs]:
        block = f"Residual(*s[i : i + {step}])"
        parts.append(f"*({block} for i in range({first}, {last}, {step}))")
    else:
        for before, run in zip([None, *runs], runs, strict=False):
            if before is not None and before.stop < run.start:
                parts.append(f"*s[{before.stop}:{run.start}]")
            block = f"s[{run.start}:{run.stop}]"
            shortcut = run.written or "nn.Identity()"
            parts.append(f"Residual(*{block})" if plain else f"Residual({block}, {shortcut})")
    if first:
        parts.insert(0, f"*s[:{first}]")
    if last < length:
        parts.append(f"*s[{last}:]")
    return parts


RESIDUAL = Remedy("residual", SYMPTOMS, change, family=FAMILY)
