"""From marked tensors in their graph to which layer uses which."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

from pytest_gradhealth.measure.recorder import Key
from pytest_gradhealth.results.flow import FlowRecord
from pytest_gradhealth.results.names import LOSS
from pytest_gradhealth.tensors.dominators import DominatorTree


def gradient_flow(
    tree: DominatorTree, origins: Mapping[int, Key], calls: Mapping[str, int]
) -> tuple[FlowRecord, ...]:
    """Return which layers use which, in the order of the forward.

    `origins` are the calls that made the marks of layers, `calls` how many there were. What several
    read that no layer made has a record of its own, or the sums of a residual stream would make
    every pair of its layers a connection. What is multiplied by zero is read if nothing else of it
    is: that layers get zeros is told of their parameters.
    """
    users: dict[str, dict[str, None]] = {}
    reached: dict[bool, dict[str, set[int]]] = {True: {}, False: {}}
    joints: dict[frozenset[str], str] = {}
    readers: list[dict[bool, dict[str, None]]] = []
    for vertex, (mark, inputs) in enumerate(tree.uses()):
        more = 1 + max((*inputs, vertex)) - len(readers)
        readers += [{True: {}, False: {}} for _ in range(more)]
        felt = not vertex or bool(readers[vertex][True])
        mine = readers[vertex][felt] if vertex else {LOSS: None}
        if mark is not None and mark in origins:
            name, call, _ = origins[mark]
            users.setdefault(name, {}).update(mine)
            reached[felt].setdefault(name, set()).add(call)
            felt = True
        elif len(mine) == 1:
            (name,) = mine
        else:
            name = joints.setdefault(frozenset(mine), _free(mine, users))
            users.setdefault(name, mine)
        for child, counts in inputs.items():
            readers[child][felt and counts][name] = None
        readers[vertex].clear()
    called = reached[False] | reached[True]
    return tuple(
        FlowRecord(name, tuple(sorted(read)), calls.get(name, 0), len(called.get(name, ())))
        for name, read in reversed(users.items())
    )


def _free(readers: Collection[str], taken: Collection[str]) -> str:
    """A name for what these read, after the first of them in the forward."""
    first = ([name for name in readers if name[0] != "+"] or [*readers])[-1].lstrip("+")
    names = (f"+{first}" + (f"#{n}" if n > 1 else "") for n in itertools.count(1))
    return next(name for name in names if name not in taken)
