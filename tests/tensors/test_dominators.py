"""Walks and dominators of a graph agree with brute force, and take linear time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
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


def graph_of(users: Sequence[Sequence[int]]) -> DominatorTree:
    """A tree whose vertices are all marks, by their users."""
    tree = DominatorTree()
    for vertex, above in enumerate(users):
        tree.add(dict.fromkeys(above, True), "", mark=vertex)
    return tree


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_dominators_agree_with_removing_vertices_one_by_one(size: int, seed: int) -> None:
    users = random_users(random.Random(seed), size)
    tree = graph_of(users)
    for vertex in range(size):
        chain = tree.chain(vertex, range(size))
        assert list(chain.marks) == brute_force_dominators(users, vertex)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_the_outermost_marks_have_a_way_to_the_loss_without_another(size: int, seed: int) -> None:
    rng = random.Random(seed)
    users = random_users(rng, size)
    wanted = {vertex for vertex in range(1, size) if rng.random() < 0.4}
    tree = graph_of(users)

    def arrives(vertex: int) -> bool:
        return vertex == 0 or any(user not in wanted and arrives(user) for user in users[vertex])

    assert tree.outermost(wanted) == sorted(filter(arrives, wanted))


@settings(max_examples=100, deadline=None)
@given(st.integers(3, 40), st.integers(0, 10_000))
def test_the_nearest_marks_are_gone_to_without_another(size: int, seed: int) -> None:
    rng = random.Random(seed)
    users = random_users(rng, size)
    wanted = {vertex for vertex in range(1, size) if rng.random() < 0.4}
    starts = [size - 1, size // 2]
    tree = graph_of(users)

    def onwards(vertex: int) -> set[int]:
        return {
            mark for user in users[vertex] for mark in ({user} if user in wanted else onwards(user))
        }

    found = tree.nearest(starts, wanted)
    for place, start in enumerate(starts):
        assert {mark for mark, groups in found.items() if groups >> place & 1} == onwards(start)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_sources_depend_on_no_other_wanted_mark(size: int, seed: int) -> None:
    rng = random.Random(seed)
    users = random_users(rng, size)
    tree = graph_of(users)
    wanted = set(rng.sample(range(size), rng.randint(1, size)))
    behind: list[set[int]] = [set() for _ in range(size)]
    for vertex in range(size - 1, -1, -1):
        for user in users[vertex]:
            behind[user] |= behind[vertex] | {vertex}
    assert tree.sources(wanted) == sorted(v for v in wanted if not behind[v] & wanted)


def reached_by(users: Sequence[Sequence[int]]) -> list[set[int]]:
    """What each vertex is computed from, itself included."""
    reached: list[set[int]] = [{vertex} for vertex in range(len(users))]
    for vertex in range(len(users) - 1, -1, -1):
        for user in users[vertex]:
            reached[user] |= reached[vertex]
    return reached


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10_000))
def test_what_lies_behind_a_vertex_are_the_groups_that_it_is_computed_from(
    size: int, seed: int
) -> None:
    rng = random.Random(seed)
    users = random_users(rng, size)
    groups = [rng.sample(range(size), rng.randint(1, size)) for _ in range(2)]
    groups[1] = sorted({*groups[1]} - {*groups[0]})
    expected = [sum(bool(r & {*g}) << i for i, g in enumerate(groups)) for r in reached_by(users)]
    assert graph_of(users).behind(groups) == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(3, 30), st.integers(0, 10_000))
def test_an_entry_is_crossed_by_all_that_comes_into_its_part_of_the_loss(
    size: int, seed: int
) -> None:
    """By removing it: nothing from outside reaches the part's last mark any more.

    Nor does anything get past that mark on the way to others.
    """
    users = random_users(random.Random(seed), size)
    tree = graph_of(users)
    lines = [brute_force_dominators(users, vertex) for vertex in range(size)]
    last_of = {v: line[-2] if len(line) > 1 else v for v, line in enumerate(lines)}
    reached = reached_by(users)
    wanted = {*range(1, size)}
    expected = {}
    for last in {last_of[v] for v in wanted}:
        part = {v for v in wanted if last_of[v] == last}
        doors = [u for v in wanted - part for u in users[v] if u in part]
        above = {v for v in wanted - {last} if last in reached[v]}
        past = any({*users[v]} & above and last not in reached[v] for v in wanted)
        common = [v for v in lines[doors[0]] if all(v in lines[d] for d in doors)] if doors else []
        if common and not past:
            expected[last] = max(common)
    assert tree.entries(wanted, wanted) == sorted(expected.values())


def test_only_what_comes_into_branches_of_another_joins_a_branch() -> None:
    # 0 loss, 1 = x2 + branch, 2 branch (attention), 3 x2 = x1 + branch, 4 branch, 5 x1, 6 the bias.
    attention = [[], [0], [1], [1, 2], [3], [3, 4], [2, 4]]
    tree = graph_of(attention)
    groups = [[5], [6]]
    assert tree.joins_a_branch(groups, tree.behind(groups)) == {1}
    # 0 loss, 1 head, 2 what is concatenated, 3 and 4 the two towers.
    towers = [[], [0], [1], [2], [2]]
    tree = graph_of(towers)
    groups = [[3], [4]]
    assert tree.joins_a_branch(groups, tree.behind(groups)) == set()


#: A loop of three steps: 0 loss, 1 head, 2 to 4 the steps from the last, 5 what begins it.
LOOP = [[], [0], [1], [2], [3], [4]]


@pytest.mark.parametrize(
    ("users", "aside", "past"),
    [
        (LOOP, [], False),
        ([*LOOP[:5], [4, 3]], [], True),  # it is data of a later step
        ([*LOOP[:5], [4, 1]], [], True),  # a skip gets past all steps
        ([*LOOP[:5], [4, 1]], [1], False),  # or goes on to what begins there
        ([*LOOP[:5], [4, 2]], [1], True),
    ],
)
def test_what_gets_past_the_first_step_of_a_loop(
    users: Sequence[Sequence[int]], aside: Sequence[int], past: bool
) -> None:
    assert graph_of(users).gets_past(5, [2, 3, 4], [2, 3], aside) is past


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10_000))
def test_the_inputs_of_a_mark_are_the_nearest_wanted_ones(size: int, seed: int) -> None:
    rng = random.Random(seed)
    users = random_users(rng, size)
    wanted = {*rng.sample(range(size), rng.randint(1, size))}
    mark = rng.randrange(size)
    nearest: list[bool] = [False] * size  # reaches the mark without crossing a wanted one
    for vertex in range(mark + 1, size):
        nearest[vertex] = any(u == mark or (nearest[u] and u not in wanted) for u in users[vertex])
    expected = {vertex for vertex in wanted if nearest[vertex]}
    assert graph_of(users).inputs(mark, wanted) == expected


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
        trunk = tree.add({}, "")
        weight = trunk
        for _ in range(depth):
            trunk = tree.add({trunk: True, weight: True}, "")
        tree.add({trunk: True, 0: True}, "")
        return Counting.reads

    assert reads(8000) < 8.8 * reads(1000)
