"""What modules still feel of another batch while others return what they did before."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import starmap, zip_longest
from typing import Any

from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.gates import forgetful
from pytest_gradhealth.measure.loop import Call, Loop
from pytest_gradhealth.measure.perturbation import (
    MOST,
    is_same,
    nudged,
    on_another_batch,
    weighted_sum,
)
from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.measure.uses import HELD, Uses
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.trees import map_tensors, tensors


def fed(
    subject: Subject, crossed: Iterable[tuple[Loop, Collection[Call], bool]], *, seed: int
) -> frozenset[str]:
    """Return the modules of loops whose later steps get data of their own.

    The calls of a path and of a loop on it are held at what they returned: what another batch still
    changes in there has come from elsewhere. A layer that is repeated in depth feels nothing, and
    what no gradient gets back to was only forgotten if the loop has felt it to begin with. To be
    called inside `isolated`. Where that cannot be told, what a loop loses counts as memory.
    """
    loops = [*crossed]
    found = forgetful((loop for loop, *_ in loops), subject, seed=seed)
    for loop, path, silent in [each for each in loops if each[0].gates is None][:MOST]:
        if not found.issuperset(loop.names) and _forgets(subject, loop, path, silent, seed):
            found |= loop.names
    return frozenset(found)


def _forgets(subject: Subject, loop: Loop, path: Collection[Call], silent: bool, seed: int) -> bool:
    """Whether a loop goes on with data of its own, and has begun with what the path brings it.

    Of several loops side by side, each has to.
    """
    every, before = {*path, *loop.calls}, {*path} - loop.calls
    modules = {n: m for n, m in subject.model.named_modules() if n in {name for name, _ in every}}
    weights = {id(w): w for w in subject.model.parameters() if id(w) in loop.weights}
    begun = loop.calls.union((weight, 0) for weight in weights)
    try:
        if silent:
            shaken, uses = Held(modules, before, nudged), Uses(weights)
            felt = _compared(shaken, uses, (subject, subject), seed, operator.eq)
            if all(felt.get(step, True) for step in begun):
                return False
        kept, uses = Held(modules, every), Uses(weights, held=True)
        same = _compared(kept, uses, (subject, on_another_batch(subject)), seed, is_same)
    except (ProbeError, RuntimeError):  # the model refuses it, or it cannot be taken to pieces
        return True
    later = ([s for s in same if s[0] == weight and s[1] >= HELD] for weight in weights)
    return all(
        any(not same.get(step, True) for step in steps)
        for steps in (*loop.steps, *filter(None, later))
    )


def _compared(
    held: Held,
    uses: Uses,
    subjects: Iterable[Subject],
    seed: int,
    same: Callable[[float, float], bool],
) -> dict[tuple[str | int, int], bool]:
    """Whether calls and uses return the same in a second forward, some of them held in it."""
    found: list[dict[tuple[str | int, int], list[float]]] = []
    with held.attached(uses.begins), uses:
        for subject in subjects:
            Pass(subject, seed).forward()
            found.append({})
            for (name, call, _), value in held.begin().items():
                found[-1].setdefault((name, call), []).append(value)
            found[-1] |= {use: [value] for use, value in uses.end().items()}
    ours, theirs = found
    return {
        step: all(starmap(same, zip_longest(values, theirs.get(step, ()), fillvalue=math.nan)))
        for step, values in ours.items()
    }


def _copy(outputs: Any) -> Any:
    """What a module returned, safe from operations that write to it."""
    return map_tensors(lambda tensor: tensor.detach().clone(), outputs)


def _behind(outputs: Any, kept: Any) -> Any:
    """What was kept, in the place that the outputs have in the graph."""
    own = iter([*tensors(outputs)])

    def put(tensor: Tensor) -> Tensor:
        output = next(own, tensor)
        if output.requires_grad and output.shape == tensor.shape:
            return output - output.detach() + tensor
        return tensor

    return map_tensors(put, _copy(kept))


@dataclass
class Held:
    """Modules that, from the second forward on, return what they returned in the first one.

    With `calls`, only those of them do; with a `change`, that is made to it.
    """

    modules: dict[str, nn.Module]
    calls: Collection[Call] | None = None
    change: Callable[[Tensor], Tensor] = Tensor.detach
    _kept: dict[Call, Any] | None = None
    _returned: dict[Call, Any] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def attached(self, returned: Callable[[Any], object] = id) -> Iterator[None]:
        """Hooks on the modules for the length of the context; tell what those in `calls` return."""
        handles = [
            m.register_forward_hook(self._hook(n, returned)) for n, m in self.modules.items()
        ]
        with hooked(handles):
            yield

    def begin(self) -> dict[Key, float]:
        """End a forward and begin the next; return fingerprints of what the modules computed."""
        returned = self._returned
        if self._kept is None:
            calls = returned if self.calls is None else self.calls
            kept = ((call, value) for call, value in returned.items() if call in calls)
            self._kept = {call: map_tensors(self.change, value) for call, value in kept}
        self._returned, self._calls = {}, Counter()
        return {
            (name, call, number): float(weighted_sum(tensor))
            for (name, call), value in returned.items()
            for number, tensor in enumerate(tensors(value))
        }

    def _hook(self, name: str, returned: Callable[[Any], object]) -> Any:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> Any:
            del module, inputs
            key = name, self._calls[name]
            self._calls[name] += 1
            self._returned[key] = _copy(outputs)
            if self._kept and key in self._kept:
                outputs = _behind(outputs, self._kept[key])
            if self.calls is None or key in self.calls:
                returned(outputs)
            return outputs

        return hook
