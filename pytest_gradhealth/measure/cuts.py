"""What cuts parameters off from the loss: functions without a slope, and passages without gradient.

Seen by what functions are given and return. Of something that sends gradient to parameters they
make what does not; what is made of that in turn is followed to the loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode, resolve_name

from pytest_gradhealth.errors import CutOffError
from pytest_gradhealth.isolation.checkpoints import REENTRANT
from pytest_gradhealth.measure.asked import asked
from pytest_gradhealth.measure.calls import Calls
from pytest_gradhealth.results.names import LOSS, OUTPUT
from pytest_gradhealth.results.stop import Stop
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.graph import walk
from pytest_gradhealth.tensors.storage import address_of
from pytest_gradhealth.tensors.trees import tensors

#: Functions that make plain numbers of tensors. What else returns none only looks at a tensor.
_NUMBERS = frozenset({"numpy", "array", "item", "tolist", "float"})
_ARRAYS = frozenset({"numpy", "array"})
#: Functions that have to come before some of these.
_DETACHING = frozenset({"detach", "detach_", "data"})

#: Parameters that something was made of and sends no gradient to, by what cuts them off.
_Lost = frozenset[tuple[Stop, str]]


@asked(())
def cuts(
    subject: Subject, names: Collection[str], *, seed: int, felt: Collection[str] = ()
) -> tuple[Stop, ...]:
    """Return what cuts some parameters off from the loss, in the order of the forward.

    Nothing for those that several functions cut off, of which any may be meant. Of those that the
    loss has `felt`, numbers may have come to it that cannot be followed: `math.exp(x.item())`.
    """
    parameters = {id(p): n for n, p in subject.model.named_parameters() if n in names}
    calls = Calls(subject.model)
    watch = _Watch(parameters, calls)
    try:
        run = Pass(subject, seed)
        with calls.attached(), watch:
            run.forward()
            watch.outside = LOSS
            made: Sequence[object] = [run.loss()]
    except CutOffError as error:
        made = error.made
    return watch.cuts_before(made, felt)


@dataclass(frozen=True)
class _Known:
    """What is known of something that was made: the parameters it sends gradient to, or lost.

    It is held, so that its id is not given away again. `grad` says that it needed gradient then.
    """

    thing: Any = None
    felt: frozenset[str] = frozenset()
    lost: _Lost = frozenset()
    grad: bool = False


#: What a function was given, with what is known of it.
_Given = Sequence[tuple[Any, _Known]]


class _Watch(TorchFunctionMode):
    """Follows parameters through functions, and what was made of them where no gradient gets."""

    def __init__(self, parameters: Mapping[int, str], calls: Calls) -> None:
        super().__init__()
        self._parameters = parameters
        self._calls = calls
        self._known: dict[int, _Known] = {}
        self._memory: dict[int, _Lost] = {}
        self._numbers: _Lost = frozenset()
        #: What runs where no module does.
        self.outside = OUTPUT
        self._enabled = True  # as the forward itself says, and not a function of its own

    def cuts_before(self, made: Iterable[object], felt: Collection[str]) -> tuple[Stop, ...]:
        """What cuts parameters off from what was made of them, where it is one thing."""
        by_name: dict[str, dict[Stop, None]] = {}
        lost = frozenset[tuple[Stop, str]]().union(*(self._of(thing).lost for thing in made))
        known = {name for _, name in lost}
        lost |= {(stop, name) for stop, name in self._numbers if name in felt and name not in known}
        for stop, name in sorted(lost, key=str):
            by_name.setdefault(name, {})[stop] = None
        found: dict[Stop, list[str]] = {}
        for name in self._parameters.values():
            stops = by_name.get(name, {})
            if len({stop.op for stop in stops}) == 1:
                found.setdefault(next(iter(stops)), []).append(name)
        return tuple(replace(stop, parameters=tuple(sorted(cut))) for stop, cut in found.items())

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = _name(func)
        given = [(thing, self._of(thing)) for thing in _things((args, kwargs))]
        versions = [_version(thing) for thing, _ in given]
        result = func(*args, **(kwargs or {}))
        if name == "_set_grad_enabled":
            self._enabled = args[0]
        if any(known.felt or known.lost for _, known in given):
            written = [t for (t, _), old in zip(given, versions, strict=True) if old != _version(t)]
            self._note(name, result, given[_takes_a_shape(name) :], written)
        return result

    def _note(self, name: str, result: Any, given: _Given, written: Collection[Tensor]) -> None:
        """Keep what a function has made of what it was given, or written to."""
        felt = frozenset[str]().union(*(known.felt for _, known in given))
        made = [*tensors(result)]
        for tensor in (*made, *written, *_bases(written)):
            lost = self._lost(name, given if written else _shown_by(tensor, given))
            if tensor.requires_grad:
                rest = frozenset((stop, n) for stop, n in lost if n not in felt)
                self._keep(_Known(tensor, felt, rest, grad=True))
            else:
                self._keep(_Known(tensor, lost=lost))
        if not made and name in _NUMBERS:
            lost, stop = self._lost(name, given), self._stop(name)
            lost = frozenset(((stop or s) if s.op in _DETACHING else s, n) for s, n in lost)
            self._numbers |= lost
            for thing in _things(result):
                self._keep(_Known(thing, lost=lost))
            for tensor in tensors([thing for thing, _ in given] * (name in _ARRAYS)):
                self._remember(tensor, lost)

    def _lost(self, name: str, given: _Given) -> _Lost:
        """What something without gradient has lost that a function has made of these."""
        lost = frozenset[tuple[Stop, str]]().union(*(known.lost for _, known in given))
        felt = frozenset[str]().union(*(known.felt for _, known in given))
        stop = self._stop(name) if felt else None
        return lost if stop is None else lost | {(stop, n) for n in felt}

    def _of(self, thing: Any) -> _Known:
        known = self._known.get(id(thing))
        if known is None:  # or in memory that is known: an array's, or that of another tensor
            address = address_of(thing) if isinstance(thing, Tensor) else 0
            known = _Known(lost=self._memory.get(address, frozenset()))
        if isinstance(thing, Tensor) and thing.requires_grad and not known.grad:
            # A leaf, or what a function has returned that torch does not tell of.
            leaves = [thing] if thing.is_leaf else walk(thing).leaves
            felt = frozenset(self._parameters.get(id(leaf), "") for leaf in leaves) - {""}
            lost = frozenset((stop, n) for stop, n in known.lost if n not in felt)
            known = self._keep(_Known(thing, felt, lost, grad=True))
        return known

    def _keep(self, known: _Known) -> _Known:
        self._known[id(known.thing)] = known
        if isinstance(known.thing, Tensor) and not known.grad:
            self._remember(known.thing, known.lost)
        return known

    def _remember(self, tensor: Tensor, lost: _Lost) -> None:
        if address := address_of(tensor):
            self._memory[address] = lost

    def _stop(self, name: str) -> Stop | None:
        """What it is that lets no gradient through a function, None if that is uncertain."""
        layer, kind = self._calls.innermost()
        here = Stop(name, layer or self.outside, kind, "in")
        if any(map(_draws, _frames())):
            return replace(here, op="sample")
        if torch.is_grad_enabled():
            return here
        functions = _functions()
        within = next((functions[f.f_code] for f in _frames() if f.f_code in functions), None)
        inference = torch.is_inference_mode_enabled()
        if within not in (None, REENTRANT):
            if inference or not self._enabled:  # which may be what it is for
                return None
            return replace(here, op=within.__name__, kind="none")
        op = "checkpoint" if within else "inference_mode" if inference else "no_grad"
        whole = next((call for call in self._calls.running if not call.grad), None)
        return Stop(op, whole.name, whole.type) if whole else replace(here, op=f"{op}()")


def _things(value: object) -> Iterator[Any]:
    """What can be followed: all that is no container, and of which there is but one."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _things(item)
    elif isinstance(value, Mapping):
        yield from _things([*value.values()])
    elif value is not None and not isinstance(value, (bool, int, str)):
        yield value


def _version(thing: Any) -> int:
    """How often a tensor was written to."""
    follows = isinstance(thing, Tensor) and not thing.is_inference()
    return thing._version if follows else 0


def _bases(written: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors that some are views of."""
    return (tensor._base for tensor in written if tensor._base is not None)


def _shown_by(tensor: Tensor, given: _Given) -> _Given:
    """What a tensor is a view of, whatever else was given (`expand_as`); all if of nothing."""
    where = address_of(tensor)
    shown = [(t, k) for t, k in given if isinstance(t, Tensor) and where == address_of(t) != 0]
    return shown or given


def _takes_a_shape(name: str) -> bool:
    """Whether a function takes no more than the shape of its first argument."""
    return name.endswith("_like") or (name.startswith("new_") and name != "new_tensor")


def _name(func: Any) -> str:
    """What a function is called where it is typed: "detach", "data", "eq" (of `==`)."""
    name: str = (resolve_name(func) or func.__name__).removesuffix(".__get__")
    return name.rpartition(".")[2].removeprefix("__").removesuffix("__")


def _frames() -> Iterator[FrameType]:
    """What is running, the innermost first."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _draws(frame: FrameType) -> bool:
    """Whether a frame is the `.sample()` of a distribution, which goes about it in many ways."""
    module = frame.f_globals.get("__name__", "")
    return frame.f_code.co_name == "sample" and module.startswith("torch.distributions.")


def _functions() -> Mapping[CodeType | None, type[Function]]:
    """All autograd functions, by the code of their forward, which runs without gradient."""
    found: dict[CodeType | None, type[Function]] = {}
    every = [*Function.__subclasses__()]
    for function in every:  # which grows
        every += function.__subclasses__()
        found.setdefault(getattr(function.forward, "__code__", None), function)
    return found
