"""One look at a model: a forward, a backward, and every gradient turned into a number."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from torch import Tensor, nn
from torch.autograd.graph import Node

from pytest_gradhealth.distributed.shards import owners
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation.write_guard import unguarded
from pytest_gradhealth.measure.activations import activations_of
from pytest_gradhealth.measure.outputs import seen
from pytest_gradhealth.measure.parameters import ParameterReader
from pytest_gradhealth.measure.paths import on_paths
from pytest_gradhealth.measure.places import parameter_places, places_of
from pytest_gradhealth.measure.reading import Look, Taken
from pytest_gradhealth.measure.recorder import Mark, Recorder
from pytest_gradhealth.measure.summands import added_up
from pytest_gradhealth.measure.ways import Ways
from pytest_gradhealth.subject.loss import STAND_IN
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.dominators import DominatorTree, dominators
from pytest_gradhealth.tensors.graph import Edge, Graph, walk
from pytest_gradhealth.tensors.modules import Named, is_sharded, named_parameters
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.training.gradients import penalty_gradients


def look(
    subject: Subject, *, seed: int, steps: int = 0, functional: bool = False, holding: bool = False
) -> Look:
    """Run one forward and one backward and measure every gradient on the way.

    Random numbers are drawn from `seed`; `steps` is only written down. Models that turn out to be
    `functional` are run again as such, and `holding` the gradients of all parameters to the end
    where they came in parts. Only inside `isolated`; ProbeError if model, loss or backward fails.
    """
    run = Pass(subject, seed)
    sampling = subject.may_sample and not is_sharded(subject.model)
    recorder = Recorder(subject.model, functional, sampling=sampling)
    with recorder.attached():
        recorder.mark_inputs(run.inputs)
        run.forward()
        recorder.active = False
        if recorder.missed:
            return look(subject, seed=seed, steps=steps, functional=True)
        loss = run.loss()
        with unguarded(), _uncollected():
            outputs = seen(run.outputs, run.inputs, run.targets, sampling=sampling)
            graph = run.graph(loss)
            named = named_parameters(subject.model)
            unregistered = _unregistered(subject, named, graph.leaves, run)
            marks = _path_marks(recorder.without_loops(), graph.root)
            cut = _find_owners(subject.model, graph, marks.values())
            activations = activations_of(
                [node for node in graph.nodes if not cut.get(node)],
                places_of(recorder.marks) | parameter_places(named, graph),
                _ways(graph, marks.values(), run.outputs),
            )
            run.forget_batch()
            recorder.gradients = "ignored"
            tree = _tree(graph, marks, None if run.objective == STAND_IN else loss)
            estimates = _glance_beside(tree, marks, recorder)
        # Before the backward frees the graph, which a penalty on activations needs.
        penalties = penalty_gradients(subject.model, subject.step, subject.decay)
        recorder.gradients = "measured"
        # Growth that they might excuse is looked at once more, without estimates.
        aligned = frozenset[str]() if estimates else _fed_to_norms(marks)
        with run.own_gradients(), ExitStack() as stack:
            reader = None
            if not holding and not is_sharded(subject.model):
                reader = ParameterReader(subject.model, named, aligned, penalties)
                stack.enter_context(reader.dropping(graph))
            hides_layers = graph.hides_layers
            del graph
            recorder.forget_graph()
            run.backward(loss * subject.loss_scale.value)
            _check_sync(subject.model, recorder.marks)
            # fully_shard puts the gradients on other parameters than it computes with.
            reader = reader or ParameterReader(subject.model, None, aligned, penalties)
            parameters = reader.results()
    if reader.incomplete:
        return look(subject, seed=seed, steps=steps, functional=functional, holding=True)
    taken = Taken(loss, recorder, marks, tree, parameters, activations, outputs, unregistered)
    with unguarded(), _uncollected():
        unscale = 1 / subject.loss_scale.value
        read = taken.read(unscale, seed=seed, steps=steps, objective=run.objective)
    return replace(read, hides_layers=hides_layers)


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

    Nor outputs without elements, which have no norm to compare.

    A model that computes its own loss returns 0-dim tensors, whose gradient is whatever the loss
    is scaled by; where a model consists of nothing else they have to do.
    """
    usable = [mark for mark in marks if mark.numel and mark.edge not in (None, root)]
    layers = [mark for mark in usable if mark.shape] or usable
    return dict(enumerate(layers))


def _tree(graph: Graph, marks: Mapping[int, Mark], loss: Tensor | None) -> DominatorTree:
    """The dominators of a graph; terms of a loss stay apart."""
    at = {mark.edge: number for number, mark in marks.items() if mark.edge is not None}
    tree = dominators(graph, at)
    for mark in () if loss is None else added_up(loss, graph, tree, at):
        tree.forget(mark)
    return tree


def _glance_beside(tree: DominatorTree, marks: Mapping[int, Mark], recorder: Recorder) -> bool:
    """Have the norms of what is beside the paths estimated, too, where any are; return whether."""
    if not any(mark.sampled for mark in marks.values()):
        return False
    judged = on_paths(tree, {i: (m.name, m.output) for i, m in marks.items()})
    recorder.glance_at(mark for i, mark in marks.items() if i not in judged)
    return True


def _ways(graph: Graph, marks: Iterable[Mark], outputs: object) -> Ways:
    points = {mark.edge[0] for mark in marks if mark.edge is not None}
    return Ways(graph, points, [tensor.grad_fn for tensor in tensors(outputs)])


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


def _unregistered(
    subject: Subject, named: Named, leaves: Iterable[Tensor], run: Pass
) -> tuple[tuple[int, ...], ...]:
    """Shapes of parameters behind the outputs that neither model nor loss lists.

    A sharded model computes with gathered ones, which it does not list either.
    """
    if is_sharded(subject.model):
        return ()
    of_model = (parameter for parameter, _ in named.values())
    of_loss = (parameter for module in subject.modules[1:] for parameter in module.parameters())
    known = {*map(id, of_model), *map(id, of_loss), *map(id, tensors(run.inputs))}
    foreign = [t for t in leaves if isinstance(t, nn.Parameter) and id(t) not in known]
    if not foreign:
        return ()
    roots = [t for t in tensors(run.outputs) if t.requires_grad and t.grad_fn is not None]
    used = {id(leaf) for root in roots for leaf in walk(root).leaves}
    return tuple(tuple(t.shape) for t in foreign if id(t) in used)


def _fed_to_norms(marks: dict[int, Mark]) -> frozenset[str]:
    """Modules whose output went, next in the forward, through a normalisation layer."""
    ordered = list(marks.values())
    pairs = itertools.pairwise(ordered)
    return frozenset(mark.name for mark, following in pairs if "Norm" in following.leaf)
