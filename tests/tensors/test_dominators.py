"""Walks and dominators of a graph agree with brute force, and take linear time."""

from __future__ import annotations

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import Node

from pytest_gradhealth.tensors.dominators import DominatorTree, dominators
from pytest_gradhealth.tensors.graph import edge_of, op_name, walk
from tests.helpers.nets import batch, mlp


def brute_force_dominators(users: list[list[int]], vertex: int) -> list[int]:
    """The vertices without which the loss, vertex 0, no longer reaches `vertex`, nearest first."""

    def reaches(removed: int) -> bool:
        seen, stack = set(), [vertex]
        while stack:
            here = stack.pop()
            if here in seen or here == removed:
                continue
            seen.add(here)
            stack += users[here]
        return 0 in seen

    return [v for v in range(vertex, -1, -1) if v in (vertex, 0) or not reaches(v)]


def random_users(rng: random.Random, size: int) -> list[list[int]]:
    """A random graph: for each vertex those that use it, all of them nearer to the loss."""
    return [
        rng.sample(range(vertex), rng.randint(1, min(3, vertex))) if vertex else []
        for vertex in range(size)
    ]


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_dominators_agree_with_removing_vertices_one_by_one(size: int, seed: int) -> None:
    users = random_users(random.Random(seed), size)
    tree = DominatorTree()
    for vertex, above in enumerate(users):
        tree.add(above, "", mark=vertex)
    for vertex in range(size):
        chain = tree.chain(vertex, range(size))
        assert list(chain.marks) == brute_force_dominators(users, vertex)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_sources_depend_on_no_other_wanted_mark(size: int, seed: int) -> None:
    rng = random.Random(seed)
    users = random_users(rng, size)
    tree = DominatorTree()
    for vertex, above in enumerate(users):
        tree.add(above, "", mark=vertex)
    wanted = set(rng.sample(range(size), rng.randint(1, size)))
    behind: list[set[int]] = [set() for _ in range(size)]
    for vertex in range(size - 1, -1, -1):
        for user in users[vertex]:
            behind[user] |= behind[vertex] | {vertex}
    assert tree.sources(wanted) == sorted(v for v in wanted if not behind[v] & wanted)


def test_several_outputs_of_one_node_are_told_apart() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    left, right = torch.split(x * 2, 3, dim=1)
    loss = (left.exp() * right).sum()
    tree = dominators(walk(loss), {edge_of(left): 0, edge_of(right): 1, edge_of(x): 2})
    assert tree.chain(2, {0, 1, 2}).marks == (2,)
    assert tree.chain(0, {0, 1, 2}).marks == (0,)


def test_the_walk_is_topological_and_finds_every_leaf() -> None:
    model = mlp()
    loss = model(batch()[0]).sum()
    graph = walk(loss)
    position: dict[Node, int] = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        for child, _ in node.next_functions:
            assert child is None or position[child] > position[node]
    assert {id(leaf) for leaf in graph.leaves} == {id(p) for p in model.parameters()}


def test_operations_are_called_by_their_name() -> None:
    x = torch.ones(1, requires_grad=True)
    names = [op_name(y.grad_fn) for y in (x.sigmoid(), x * 2, x.relu()) if y.grad_fn is not None]
    assert names == ["Sigmoid", "Mul", "Relu"]


def test_the_walk_and_the_dominators_take_linear_time() -> None:
    """Counted, not timed: visits of one vertex per meeting stay logarithmic in the depth."""

    class Counting(list[int]):
        reads = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            Counting.reads += 1
            return super().__getitem__(index)

    def reads(depth: int) -> int:
        tree = DominatorTree()
        tree._jump = Counting()
        Counting.reads = 0
        trunk = tree.add([], "")
        weight = trunk
        for _ in range(depth):
            trunk = tree.add([trunk, weight], "")
        tree.add([trunk, 0], "")
        return Counting.reads

    assert reads(8000) < 8.8 * reads(1000)
