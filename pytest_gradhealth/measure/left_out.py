"""Which parameters a forward itself leaves out: with zeros that nothing trains, or by stand-ins.

A mask that is all zeros, a term whose weight is 0, a function that is not chosen yet; a template
whose module is called with other tensors in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from pytest_gradhealth.measure.asked import asked
from pytest_gradhealth.results.names import ancestry
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.dispatch import DispatchMode
from pytest_gradhealth.tensors.graph import Graph, op_name
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.storage import storage_of
from pytest_gradhealth.tensors.trees import attribute, tensors


@asked(())
def left_out(subject: Subject, names: Collection[str], *, seed: int) -> tuple[str, ...]:
    """Return those of some parameters without a gradient that the forward leaves out.

    None where no mode can look into the forward.
    """
    parameters = {n: p for n, p in subject.model.named_parameters() if n in names}
    run = Pass(subject, seed)
    trained = (p for m in subject.modules for p in m.parameters() if p.requires_grad)
    moving = _Moving([*tensors((run.inputs, run.targets)), *trained])
    with _stood_in_for(subject.model, parameters) as replaced, moving:
        loss = run.run()
    graph = run.graph(loss)
    behind = {id(leaf) for leaf in graph.leaves}
    felt = {id(leaf) for leaf in _felt(graph, moving)}
    masked = {n for n, p in parameters.items() if id(p) in behind and id(p) not in felt}
    return tuple(name for name in parameters if name in masked or name in replaced)


class _Moving(DispatchMode):
    """Knows the memory that depends on the batch or on what is trained; all else is fixed.

    It holds on to all that moves, so that no memory is given away again.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self._held = [*given]
        self._memory = set(map(storage_of, self._held))

    def __contains__(self, tensor: Tensor) -> bool:
        return storage_of(tensor) in self._memory

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(tensor in self for tensor in tensors((args, kwargs))):
            self._held += tensors(made)
            self._memory.update(map(storage_of, tensors(made)))
        return made


@contextmanager
def _stood_in_for(
    model: nn.Module, parameters: dict[str, nn.Parameter]
) -> Iterator[Collection[str]]:
    """Collect the parameters with another tensor in their place while a module around them runs.

    One that takes a gradient: what is merely cut off from the parameter stands in for nothing.
    """
    replaced: set[str] = set()
    around: dict[str, list[str]] = {}
    for name in parameters:
        for whole in ancestry(name)[:-1]:
            around.setdefault(whole, []).append(name)

    def look(inside: list[str], *called: Any) -> None:
        del called
        for name in inside:
            owner, _, last = name.rpartition(".")
            held = attribute(model.get_submodule(owner), last)
            if held is not parameters[name] and isinstance(held, Tensor) and held.requires_grad:
                replaced.add(name)

    hooks = ((model.get_submodule(w), partial(look, inside)) for w, inside in around.items())
    with hooked(module.register_forward_pre_hook(hook) for module, hook in hooks):
        yield replaced


def _felt(graph: Graph, moving: _Moving) -> Iterator[Tensor]:
    """The leaves that the loss feels past all products with fixed zeros."""
    reached = {graph.root[0]}
    for node in graph.nodes:  # whatever leads to a node comes before it
        if node not in reached:
            continue
        if node in graph.leaf_of:
            yield graph.leaf_of[node]
        cut = {*_cut(node, moving)}
        ways = (child for place, (child, _) in enumerate(node.next_functions) if place not in cut)
        reached.update(child for child in ways if child is not None)


def _cut(node: Node, moving: _Moving) -> Iterator[int]:
    """The inputs of an operation that fixed zeros, or a fixed choice, keep all gradient from."""
    yield from (place for factor, place in shutting(node) if factor not in moving)


def shutting(node: Node) -> Iterator[tuple[Tensor, int]]:
    """The factors and masks that an operation has saved that let nothing through, and to where."""
    for saved, place, through in _FACTORS.get(op_name(node), ()):
        factor = getattr(node, saved, None)
        if not isinstance(factor, Tensor) or not factor.numel():
            continue
        if not bool((factor.bool() == through).any()):
            yield factor, place


#: By operation: what it has saved, the input whose gradient that decides, and what lets it through.
_FACTORS = {
    "Mul": (("_saved_other", 0, True), ("_saved_self", 1, True)),
    "Where": (("_saved_condition", 0, True), ("_saved_condition", 1, False)),
    "MaskedFill": (("_saved_mask", 0, False),),
}
