"""One look at a model: a forward, a backward, and every gradient turned into a number."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from pytest_gradhealth.distributed.shards import owners, whole_norms
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation.gradients import gradients_set_aside
from pytest_gradhealth.isolation.random_state import seed_everything
from pytest_gradhealth.isolation.write_guard import unguarded
from pytest_gradhealth.measure.activations import Place, SeenActivation, activations_of
from pytest_gradhealth.measure.outputs import Seen, seen
from pytest_gradhealth.measure.parameters import Measured, ParameterReader
from pytest_gradhealth.measure.paths import gradient_paths
from pytest_gradhealth.measure.recorder import Key, Mark, Recorder
from pytest_gradhealth.results.path import PathPoint
from pytest_gradhealth.results.profile import (
    ActivationRecord,
    GradientProfile,
    NonFinite,
    OutputRecord,
)
from pytest_gradhealth.subject.forward import call_model, fresh
from pytest_gradhealth.subject.loss import scalar_loss
from pytest_gradhealth.subject.passes import run_backward
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.dominators import DominatorTree, dominators
from pytest_gradhealth.tensors.graph import Edge, Graph, sequence_number, walk
from pytest_gradhealth.tensors.modules import is_sharded
from pytest_gradhealth.tensors.norms import to_numbers
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.training.gradients import penalty_gradients


@dataclass(frozen=True)
class Look:
    """A profile, and what it takes to read its paths again from other first layers."""

    profile: GradientProfile
    tree: DominatorTree
    points: dict[int, PathPoint]
    keys: dict[int, Key]

    def restricted_to(self, carriers: Collection[Key]) -> Look:
        """The same look, judging only paths that start at one of these outputs."""
        marks = [mark for mark, key in self.keys.items() if key in carriers]
        paths = gradient_paths(self.tree, self.points, marks)
        return replace(self, profile=replace(self.profile, paths=paths))

    def marked(self, bad: NonFinite) -> Look:
        """The same look, with where its first NaN or infinity came up."""
        return replace(self, profile=replace(self.profile, non_finite=bad))


def look(
    subject: Subject, *, seed: int, steps: int = 0, functional: bool = False, holding: bool = False
) -> Look:
    """Run one forward and one backward and measure every gradient on the way.

    Random numbers are drawn from `seed`; `steps` is only written down. Models that turn out to be
    `functional` are run again as such, and with the gradients of the parameters held until the end
    (`holding`) where they came in parts. To be called inside `isolated`. Raises ProbeError if the
    model, the loss or the backward fails.
    """
    seed_everything(seed, subject.device)
    began = sequence_number()
    # Under fully_shard, a forward leaves other parameters in place.
    leaves: dict[int, Tensor] = {id(t): t for m in subject.modules for t in m.parameters()}
    recorder = Recorder(subject.model, functional)
    with recorder.attached():
        inputs, targets = fresh((subject.inputs, subject.targets), subject.device)
        recorder.mark_inputs(inputs)
        outputs = call_model(subject.model, inputs)
        recorder.active = False
        if recorder.missed:
            return look(subject, seed=seed, steps=steps, functional=True)
        loss = scalar_loss(outputs, targets, subject.loss)
        with unguarded(), _uncollected():
            measured_outputs = seen(outputs, inputs, targets)
            graph = walk(loss)
            unregistered = _unregistered(subject, graph.leaves, inputs, outputs)
            del inputs, targets, outputs
            keep = graph.reaches_behind(began)
            marks = _path_marks(recorder.marks, graph.root)
            cut = _find_owners(subject.model, graph, marks.values())
            activations = activations_of(
                [node for node in graph.nodes if not cut.get(node)],
                _places(recorder.marks) | _parameter_places(subject.model, graph),
            )
            tree = dominators(graph, {m.edge: i for i, m in marks.items() if m.edge is not None})
            if is_sharded(subject.model):
                leaves |= {id(t): t for m in subject.modules for t in m.parameters()}
            leaves |= {id(t): t for t in graph.leaves}
        # Before the backward frees the graph, which a penalty on activations needs.
        penalties = penalty_gradients(subject.model, subject.step, subject.decay)
        recorder.forget_gradients()
        aligned = _fed_to_norms(marks)
        with gradients_set_aside(leaves.values()), ExitStack() as stack:
            reader = None
            if not holding and not is_sharded(subject.model):
                reader = ParameterReader(subject.model, aligned, penalties)
                stack.enter_context(reader.dropping(graph))
            del graph
            recorder.forget_graph()
            run_backward(loss * subject.loss_scale.value, keep=keep)
            _check_sync(subject.model, recorder.marks)
            # fully_shard puts the gradients on other parameters than it computes with.
            reader = reader or ParameterReader(subject.model, aligned, penalties)
            measured = reader.results()
    if reader.incomplete:
        return look(subject, seed=seed, steps=steps, functional=functional, holding=True)
    factor = 1 / subject.loss_scale.value
    with unguarded(), _uncollected():
        return _read(
            recorder,
            loss,
            marks,
            tree,
            measured,
            activations,
            measured_outputs,
            factor,
            seed=seed,
            steps=steps,
            unregistered=unregistered,
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector, which would go through all that a deep network leaves behind.

    Only for the package's own work: a forward may rely on it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _path_marks(marks: Iterable[Mark], root: Edge) -> dict[int, Mark]:
    """The marks that paths are made of, numbered: not the loss itself, nor other lone numbers.

    A model that computes its own loss returns 0-dim tensors, whose gradient is whatever the loss
    is scaled by; where a model consists of nothing else they have to do.
    """
    usable = [mark for mark in marks if mark.edge is not None and mark.edge != root]
    layers = [mark for mark in usable if mark.shape] or usable
    return dict(enumerate(layers))


def _check_sync(model: nn.Module, marks: Iterable[Mark]) -> None:
    """Raise ProbeError where fully_shard keeps gradients to itself, as in accumulation steps."""
    if not is_sharded(model) or all(mark.gradient is None for mark in marks):
        return
    if all(parameter.grad is None for parameter in model.parameters()):
        raise ProbeError(
            "no parameter has a gradient after the backward, since fully_shard keeps them where"
            " gradients are not synchronised; call model.set_requires_gradient_sync(True) before"
            " the probe"
        )


def _find_owners(
    model: nn.Module, graph: Graph, marks: Iterable[Mark]
) -> Mapping[Node, Collection[int]]:
    """Note which marks are parts, that tensor parallelism has left to each rank."""
    if not is_sharded(model):
        return {}
    found = owners(graph.nodes)
    for mark in marks:
        mark.owners = frozenset() if mark.edge is None else found.get(mark.edge[0], frozenset())
        mark.numel *= len(mark.owners) or 1
    return found


def _places(marks: Iterable[Mark]) -> dict[Node, Place]:
    """The nodes that computed module outputs."""
    return {m.edge[0]: Place(m.name, m.type, m.leaf) for m in marks if m.edge is not None}


def _parameter_places(model: nn.Module, graph: Graph) -> dict[Node, Place]:
    """The nodes that parameters enter the graph by."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    named = ((node, names.get(id(leaf))) for node, leaf in graph.leaf_of.items())
    return {node: Place(name, "Parameter", "") for node, name in named if name is not None}


def _unregistered(
    subject: Subject, leaves: Iterable[Tensor], inputs: Any, outputs: Any
) -> tuple[tuple[int, ...], ...]:
    """Shapes of parameters behind the outputs that neither model nor loss lists.

    A sharded model computes with gathered ones, which it does not list either.
    """
    if is_sharded(subject.model):
        return ()
    known = {id(t) for m in subject.modules for t in m.parameters()} | set(map(id, tensors(inputs)))
    foreign = [t for t in leaves if isinstance(t, nn.Parameter) and id(t) not in known]
    if not foreign:
        return ()
    roots = [t for t in tensors(outputs) if t.requires_grad and t.grad_fn is not None]
    used = {id(leaf) for root in roots for leaf in walk(root).leaves}
    return tuple(tuple(t.shape) for t in foreign if id(t) in used)


def _fed_to_norms(marks: dict[int, Mark]) -> frozenset[str]:
    """Modules whose output went, next in the forward, through a normalisation layer."""
    ordered = list(marks.values())
    pairs = itertools.pairwise(ordered)
    return frozenset(mark.name for mark, following in pairs if "Norm" in following.leaf)


def _read(
    recorder: Recorder,
    loss: Tensor,
    marks: dict[int, Mark],
    tree: DominatorTree,
    measured: list[Measured],
    activations: list[SeenActivation],
    outputs_seen: Seen,
    unscale: float,
    *,
    seed: int,
    steps: int,
    unregistered: tuple[tuple[int, ...], ...],
) -> Look:
    """Bring all numbers to the host at once and write the records."""
    scalars = [loss.detach().reshape(())]
    for mark in recorder.marks:
        scalars += [t for t in (mark.activation, mark.gradient, mark.tokens) if t is not None]
    for parameter in measured:
        scalars += [t for t in parameter.scalars if t is not None]
    for unit in activations:
        scalars += [t for t in (unit.dead, unit.flat) if t is not None]
    scalars += outputs_seen.scalars
    numbers = iter(to_numbers(scalars))

    def read(tensor: Tensor | None) -> float | None:
        return None if tensor is None else next(numbers)

    loss_value = next(numbers)
    norms = [
        (mark, read(mark.activation), read(mark.gradient), read(mark.tokens))
        for mark in recorder.marks
    ]
    wholes = whole_norms(
        recorder.model,
        {i: (a or 0.0, g or 0.0) for i, (mark, a, g, _) in enumerate(norms) if mark.owners},
        {i: mark.owners for i, mark in enumerate(recorder.marks)},
    )
    outputs: dict[int, OutputRecord] = {}
    for i, (mark, activation, gradient, tokens) in enumerate(norms):
        if i in wholes:
            activation, whole_gradient = wholes[i]
            gradient = None if gradient is None else whole_gradient
        gradient = None if gradient is None else gradient * unscale
        outputs[id(mark)] = _output_record(mark, activation, gradient, tokens)
    parameters = tuple(p.record(unscale, *map(read, p.scalars)) for p in measured)
    units = [_activation_record(a, read(a.dead), read(a.flat)) for a in activations]
    spread, magnitude = outputs_seen.read(numbers)
    points = {
        i: _point(mark, outputs[id(mark)])
        for i, mark in marks.items()
        if i in tree.marks and mark.gradient is not None
    }
    silent = [OutputRecord(m.name, m.type, "no-tensor", call=m.call) for m in recorder.opaque]
    silent += [OutputRecord(name, kind, "not-called") for name, kind in recorder.uncalled()]
    profile = GradientProfile(
        seed=seed,
        steps=steps,
        loss=loss_value,
        paths=gradient_paths(tree, points),
        outputs=(*outputs.values(), *silent),
        parameters=parameters,
        activations=tuple(reversed(units)),
        spread=spread,
        magnitude=magnitude,
        keyed=recorder.keyed(),
        unregistered=unregistered,
    )
    return Look(profile, tree, points, {i: mark.key for i, mark in marks.items()})


def _output_record(
    mark: Mark, activation: float | None, gradient: float | None, tokens: float | None
) -> OutputRecord:
    needed = mark.activation is not None
    return OutputRecord(
        name=mark.name,
        type=mark.type,
        state="measured" if gradient is not None else "unreached" if needed else "no-grad",
        shape=mark.shape,
        numel=mark.numel,
        norm=gradient,
        activation=activation,
        call=mark.call,
        output=mark.output,
        leaf=mark.leaf,
        tokens=tokens,
    )


def _activation_record(
    seen: SeenActivation, dead: float | None, flat: float | None
) -> ActivationRecord:
    place = seen.place
    return ActivationRecord(
        place.name, place.type, seen.function, seen.units, dead, flat, seen.after
    )


def _point(mark: Mark, record: OutputRecord) -> PathPoint:
    return PathPoint(
        name=mark.name,
        type=mark.type,
        shape=mark.shape,
        norm=math.nan if record.norm is None else record.norm,
        numel=mark.numel,
        call=mark.call,
        output=mark.output,
        activation=math.nan if record.activation is None else record.activation,
        leaf=mark.leaf,
        width=mark.width,
    )
