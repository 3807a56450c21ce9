"""Hooks that mark every module output in a forward and measure its gradient in the backward."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from pytest_gradhealth.distributed.shards import Owners
from pytest_gradhealth.isolation.write_guard import unguarded
from pytest_gradhealth.measure.functional import (
    ParameterUses,
    Part,
    Use,
    bare_matrices,
    constants_of,
    is_functional,
)
from pytest_gradhealth.results.names import INPUT, OUTPUT, makes_values
from pytest_gradhealth.results.profile import Sampled
from pytest_gradhealth.tensors.graph import Edge, edge_of, follow_on_each_other
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.norms import l2_norm, spread
from pytest_gradhealth.tensors.samples import SMALL, sampled_norm
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import outside_transforms, shape_of, unwrapped

#: The type of a mark that no module made, but an operation on a parameter.
PARAMETER = "Parameter"
#: Modules inside a layer that compute its weights: parametrisations, and fake quantisation.
_OF_WEIGHTS = frozenset({"parametrizations", "weight_fake_quant", "weight_fake_quantizer"})

#: Which tensor a mark stands for: name, call and output number, the same in every forward.
Key = tuple[str, int, int]


@dataclass(slots=True)
class Mark:
    """One tensor that one call of a module returned; `edge` is None if it needs no gradient.

    `origin` is its key before a module around it spoke for it. `differentiated` says that the
    forward or the loss has asked for its gradient. `activation` and `gradient` are L2 norms,
    `tokens` the spread of what attention gets over its sequence; all are 0-dim and still on the
    device; `sampled` says which norms may be estimates. `owners` are the ranks that have a part
    each of the tensor, if it is cut.
    """

    name: str
    type: str
    call: int
    output: int
    shape: tuple[int, ...]
    numel: int
    edge: Edge | None = None
    leaf: str = ""
    width: int | None = None
    owners: Owners = frozenset()
    activation: Tensor | None = None
    gradient: Tensor | None = None
    tokens: Tensor | None = None
    differentiated: bool = False
    sampled: Sampled = ""
    origin: Key = ("", 0, 0)

    @property
    def key(self) -> Key:
        """Name, call and output number."""
        return self.name, self.call, self.output


@dataclass(frozen=True, slots=True)
class _Layer:
    """What every call of a module has in common."""

    name: str
    module: nn.Module
    type: str
    width: int | None
    attends: bool

    @classmethod
    def of(cls, name: str, module: nn.Module) -> _Layer:
        attends = isinstance(module, nn.MultiheadAttention) or makes_values(name)
        return cls(name, module, class_name(module), units(module), attends)


@dataclass
class Recorder:
    """Marks in the order in which the modules returned.

    Tensor hooks work where module backward hooks do not: before in-place operations, and for
    modules that return anything but plain tensors. `fingerprint` makes the number that is kept of
    an output (its L2 norm), `reading` what is kept of its gradient; when `sampling`, the norms of
    large ones are estimated, and their gradients' where `glance_at` says so. With `entries`, what
    parameters without a layer make of data is marked as well. Once `active` is off,
    forwards are ignored: those that activation checkpointing runs again during the backward.
    `gradients` says what becomes of those that come by: that a forward or a loss asks for one is
    only noted, since nothing can be computed with what a batched backward passes around.
    """

    model: nn.Module
    functional: bool = False
    fingerprint: Callable[[Tensor], Tensor] = l2_norm
    reading: Callable[[Tensor], Tensor] = l2_norm
    sampling: bool = False
    entries: bool = False
    marks: list[Mark] = field(default_factory=list)
    opaque: list[Mark] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    active: bool = True
    gradients: Literal["noted", "ignored", "measured"] = "noted"
    _layers: list[_Layer] = field(default_factory=list)
    _by_edge: dict[Edge, Mark] = field(default_factory=dict)
    _handles: list[RemovableHandle] = field(default_factory=list)
    _uses: dict[tuple[str, Part], list[Mark]] = field(default_factory=dict)

    @contextmanager
    def attached(self) -> Iterator[Recorder]:
        """Hooks on every module for the length of the context; none is left afterwards.

        A model whose forward has no submodules is recorded by what it does with its parameters;
        where they only turn out to be not called, a second run has to be `functional`. What else
        modules multiply by matrices of their own counts as layers, beside those inside of them.
        """
        self._layers = [_Layer.of(name, m) for name, m in recorded_modules(self.model)]
        modules = dict(self.model.named_modules())
        self.functional = self.functional or is_functional(modules)
        noting: AbstractContextManager[object] = nullcontext()
        if self.functional or self.entries:
            noting = ParameterUses(self.model, self._used, entries=not self.functional)
        elif bare := bare_matrices(modules):
            constants = constants_of(modules.values())
            noting = ParameterUses(self.model, self._used, bare=bare, constants=constants)
        hooks = (x.module.register_forward_hook(self._hook(x)) for x in self._layers)
        with hooked(hooks) as self._handles, noting:
            yield self

    def mark_inputs(self, inputs: Any) -> None:
        """Mark the inputs that require grad: each is then the first point of a path."""
        for number, tensor in enumerate(t for t in tensors(inputs) if t.requires_grad):
            self._mark(INPUT, "Tensor", 0, number, tensor)

    def without_loops(self) -> list[Mark]:
        """Return the marks, less weights that are used again, where some follow on themselves.

        The steps of a loop are no layers. Without any, two towers or parts of a batch share one.
        """
        again = [marks for marks in self._uses.values() if len(marks) > 1]
        if any(map(follow_on_each_other, ([m.edge[0] for m in u if m.edge] for u in again))):
            steps = {id(mark) for marks in again for mark in marks}
            self.marks = [m for m in self.marks if m.type != PARAMETER or id(m) not in steps]
        return self.marks

    def glance_at(self, marks: Iterable[Mark]) -> None:
        """Let a sample do for the gradients of some marks, where it did for what was returned."""
        for mark in marks:
            if mark.sampled:
                mark.sampled = "both"

    def forget_graph(self) -> None:
        """Let go of the graph's nodes, so that the backward can free it."""
        self._by_edge.clear()
        for mark in self.marks:
            mark.edge = None

    @property
    def missed(self) -> bool:
        """Whether the forward went past all submodules; functions may have used what they hold."""
        bare = {name for name, _ in self._uses}
        return not self.functional and self.calls.keys() - bare == {OUTPUT}

    def uncalled(self) -> Iterator[tuple[str, str]]:
        """Names and types of the modules whose forward never ran."""
        for layer in self._layers:
            runs = type(layer.module).forward is not nn.Module.forward
            if runs and not self.calls[layer.name]:
                yield layer.name, layer.type

    def keyed(self) -> tuple[str, ...]:
        """Names of the nn.ModuleDicts, whose members have the caller's keys for names."""
        return tuple(x.name for x in self._layers if isinstance(x.module, nn.ModuleDict))

    def sequences(self) -> frozenset[str]:
        """Names of the layers that run over a sequence inside."""
        return frozenset(x.name for x in self._layers if isinstance(x.module, nn.RNNBase))

    def _pass(self, mark: Mark, gradient: Tensor | None) -> None:
        """Tensor hook: keep the gradient's norm, or what else is read of it.

        It is None for an output that nothing was made of, beside another of the same operation.
        """
        if gradient is None or self.gradients == "ignored":
            return
        if self.gradients == "noted":
            mark.differentiated = True
            return
        with unguarded():
            read = sampled_norm if mark.sampled == "both" else self.reading
            mark.gradient = read(gradient)

    def _used(self, use: Use) -> None:
        if not self.active:
            return
        call, before = self.calls[use.name], len(self.marks)
        self.calls[use.name] += 1
        self._mark(use.name, PARAMETER, call, 0, use.made)
        for mark in self.marks[before:]:
            mark.width = use.width
            if not (self.functional or self.entries):
                self._uses.setdefault((use.name, use.part), []).append(mark)

    def _hook(self, layer: _Layer) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if self.active:
                with unguarded():
                    self._record(layer, module, inputs, outputs)

        return hook

    def _record(self, layer: _Layer, module: nn.Module, inputs: Any, outputs: Any) -> None:
        name = layer.name
        call = self.calls[name]
        self.calls[name] += 1
        found = (outputs,) if isinstance(outputs, Tensor) else tuple(tensors(outputs))
        if not found:
            self.opaque.append(Mark(name, layer.type, call, 0, (), 0))
        for number, tensor in enumerate(found):
            self._mark(name, layer.type, call, number, tensor, layer)
        if found and layer.attends and self.marks[-1].name == name:
            self.marks[-1].tokens = _token_spread(module, inputs)

    def _mark(
        self,
        name: str,
        kind: str,
        call: int,
        number: int,
        tensor: Tensor,
        layer: _Layer | None = None,
    ) -> None:
        tensor = unwrapped(tensor)
        if not tensor.requires_grad:
            shape = shape_of(tensor)
            self.marks.append(Mark(name, kind, call, number, shape, math.prod(shape), leaf=kind))
            return
        edge = edge_of(tensor)
        known = self._by_edge.get(edge)
        if known is not None:
            if layer is not None and _speaks_for(name, layer.module, known):
                known.name, known.type, known.call, known.output = name, kind, call, number
                if known.leaf == PARAMETER:
                    known.leaf, known.width = kind, layer.width
            return
        shape = shape_of(tensor)
        mark = Mark(name, kind, call, number, shape, math.prod(shape), edge, kind)
        mark.width = None if layer is None else layer.width
        mark.origin = mark.key
        mark.sampled = "activation" if self.sampling and mark.numel > SMALL else ""
        with outside_transforms():
            mark.activation = (sampled_norm if mark.sampled else self.fingerprint)(tensor)
        self._by_edge[edge] = mark
        hook = partial(self._pass, mark)
        self._handles.append(tensor.register_hook(hook))  # type: ignore[no-untyped-call]
        self.marks.append(mark)


def recorded_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules, each module once; what computes the weights of one is left out."""
    for name, module in model.named_modules():
        if _OF_WEIGHTS.isdisjoint(name.split(".")):
            yield name or OUTPUT, module


def _token_spread(module: nn.Module, inputs: Any) -> Tensor | None:
    """How far the tokens of the sequences that attention gets lie apart: RMS over RMS."""
    given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
    if given is None or given.dim() != 3 or not given.is_floating_point():
        return None
    time_first = isinstance(module, nn.MultiheadAttention) and not module.batch_first
    dim = 0 if time_first else 1
    return spread(given.detach(), dim) if given.shape[dim] > 1 else None


def units(module: nn.Module) -> int | None:
    """Width of a layer: its units, times the kernel size of a convolution; None without either."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, _ConvNd):
        return module.out_channels * math.prod(module.weight.shape[2:])
    return None


def _speaks_for(name: str, module: nn.Module, inner: Mark) -> bool:
    """Whether a module that returned an inner module's very tensor gives it its name.

    The outermost does, except those that only pass it on: the model itself and nn.Sequential.
    """
    if inner.type == PARAMETER:
        return True
    passes_on = name == OUTPUT or type(module).forward is nn.Sequential.forward
    return not passes_on and inner.name.startswith(f"{name}.")
