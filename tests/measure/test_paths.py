"""Paths of networks whose paths are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import GradientPath, probe
from tests.helpers.nets import batch, mlp


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
    steps = [
        o
        for o in diagnosis.profile.outputs
        if (o.name, o.output) == (path.first.name, path.first.output)
    ]
    together = math.hypot(*(step.norm or 0.0 for step in steps))
    assert path.entry.norm == pytest.approx(together), "but all steps count together"
    assert path.entry.numel == sum(step.numel for step in steps)


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


def test_mha_and_other_modules_that_bypass_forward_get_their_gradients() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    diagnosis = probe(model, torch.randn(4, 6, 16))
    assert diagnosis.verdict == "healthy"
    assert "layers.0.self_attn.out_proj" in diagnosis.profile.uncalled


class Idle(nn.Linear):
    """Adds what a layer without units makes of the input: nothing."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.idle = nn.Linear(4, 1)
        self.idle.weight = nn.Parameter(torch.empty(0, 4))
        self.idle.bias = nn.Parameter(torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x) + self.idle(x).sum()
        return y


@pytest.mark.parametrize("rest", [[], [nn.Linear(4, 2)]])
def test_outputs_without_elements_are_on_no_path(rest: list[nn.Module]) -> None:
    diagnosis = probe(nn.Sequential(Idle(), *rest), torch.randn(8, 4))
    assert diagnosis.verdict == "healthy"
    assert not any("idle" in point.name for path in diagnosis.paths for point in path.points)
