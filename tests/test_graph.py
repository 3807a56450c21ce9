"""Dominators and paths: against brute force, and on networks whose paths are known."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import Node

from pytest_gradhealth import GradientPath, probe
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


class Residual(nn.Module):
    def __init__(self, width: int = 20, blocks: int = 4, scale: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.head = nn.Linear(width, 5)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + self.scale * block(norm(x)).relu()
        out: Tensor = self.head(x)
        return out


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.linear(x) + x)
        return out


def names(path: GradientPath) -> list[str]:
    return [point.label for point in path.points]


def test_a_plain_net_has_every_layer_on_its_path() -> None:
    x, y = batch()
    diagnosis = probe(mlp(hidden=2), x, y, loss=nn.functional.cross_entropy)
    (path,) = diagnosis.paths
    assert [(p.label, p.type, p.shape, p.numel) for p in path.points] == [
        ("0", "Linear", (16, 32), 512),
        ("1", "ReLU", (16, 32), 512),
        ("2", "Linear", (16, 32), 512),
        ("3", "ReLU", (16, 32), 512),
        ("4", "Linear", (16, 5), 80),
    ]


def test_the_gradients_are_those_that_autograd_returns() -> None:
    model, (x, y) = mlp(nn.Tanh, hidden=2), batch()
    outputs, hidden = [], x
    for layer in model:
        hidden = layer(hidden)
        outputs.append(hidden)
    gradients = torch.autograd.grad(nn.functional.cross_entropy(hidden, y), outputs)
    path = probe(model, x, y, loss=nn.functional.cross_entropy).paths[0]
    for point, gradient in zip(path.points, gradients, strict=True):
        assert point.norm == pytest.approx(float(gradient.norm()), rel=1e-5)


def test_a_residual_net_has_its_stem_and_head_on_the_path_and_no_branch() -> None:
    x, y = batch()
    path = probe(Residual(), x, y, loss=nn.functional.cross_entropy).paths[0]
    assert names(path) == ["stem", "head"]


def test_blocks_that_return_an_inner_tensor_give_it_their_name() -> None:
    x, _ = batch()
    model = nn.Sequential(nn.Linear(20, 8), nn.Sequential(Block(8), Block(8)), nn.Linear(8, 2))
    path = probe(model, x).paths[0]
    assert [(p.label, p.type, p.leaf) for p in path.points] == [
        ("0", "Linear", "Linear"),
        ("1.0", "Block", "ReLU"),
        ("1.1", "Block", "ReLU"),
        ("2", "Linear", "Linear"),
    ]


def test_in_place_activations_do_not_hide_the_layer_before_them() -> None:
    x, y = batch()
    ours = mlp(lambda: nn.ReLU(inplace=True))
    plain = mlp(nn.ReLU)
    plain.load_state_dict(ours.state_dict())
    loss = nn.functional.cross_entropy
    in_place, apart = (probe(m, x, y, loss=loss).paths[0] for m in (ours, plain))
    assert names(in_place) == names(apart)
    assert [p.norm for p in in_place.points] == pytest.approx([p.norm for p in apart.points])


def test_functional_activations_are_named_between_the_points() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(20, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two(torch.sigmoid(self.one(x)))
            return out

    path = probe(Net(), batch()[0]).paths[0]
    assert path.points[0].ops == ("Sigmoid",)


def test_two_towers_have_a_path_each() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = mlp(hidden=2), mlp(hidden=2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = (self.left(a) * self.right(b)).sum(1)
            return out

    diagnosis = probe(Towers(), (batch()[0], batch()[0]))
    assert [path.first.name for path in diagnosis.paths] == ["left.0", "right.0"]


class Recurrent(nn.Module):
    def __init__(self, cell: nn.Module, embed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6) if embed else None
        self.cell = cell
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            step = x[:, t] if self.embed is None else self.embed(x[:, t])
            state = self.cell(step, state)
        out: Tensor = self.head(state[0] if isinstance(state, tuple) else state)
        return out


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("embed", [False, True])
def test_decay_through_time_is_not_vanishing_through_layers(
    cell: type[nn.Module], embed: bool
) -> None:
    x = torch.randint(0, 10, (4, 60)) if embed else torch.randn(4, 60, 6)
    diagnosis = probe(Recurrent(cell(6, 12), embed), x)
    assert diagnosis.verdict == "healthy"
    (path,) = diagnosis.paths
    assert path.ratio < 1e-8, "the first step's gradient does fade"
    assert path.entry.call == 59, "but the layer gets its gradient from the last"


def test_a_tied_embedding_starts_the_path_at_its_output() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.body = mlp(inputs=16, classes=16, width=16)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(self.embed(x)))
            return out

    diagnosis = probe(Tied(), torch.randint(0, 50, (4, 7)))
    assert names(diagnosis.paths[0])[0] == "embed"
    assert names(diagnosis.paths[0])[-1] == "head"
    (shared,) = [p for p in diagnosis.profile.parameters if p.other_names]
    assert (shared.name, shared.other_names) == ("embed.weight", ("head.weight",))


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_by_checkpointing_is_not_recorded(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = nn.Linear(20, 32), mlp(inputs=32), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = checkpoint(self.body, self.stem(x), use_reentrant=reentrant)
            out: Tensor = self.head(hidden)
            return out

    diagnosis = probe(Checkpointed(), batch()[0])
    assert diagnosis.verdict == "healthy"
    assert names(diagnosis.paths[0])[0] == "stem"
    assert all(p.state == "gradient" for p in diagnosis.profile.parameters)
    assert max(record.call for record in diagnosis.profile.outputs) == 0


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
