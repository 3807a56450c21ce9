"""Networks for vectors: deep ones, fields, graphs, recommendations."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.special.batches import BCE, CLASSES, WIDTH, points, vectors
from examples.study.zoo.special.entry import Entry
from examples.study.zoo.special.parts import Residual, feed_forward, he_, head, mlp


class Field(nn.Module):
    """A neural radiance field: places in many frequencies, the input joined again half-way."""

    def __init__(self, width: int, depth: int = 8, bands: int = 10):
        super().__init__()
        self.bands = bands
        size = 3 + 6 * bands
        self.before = mlp((size, *[width] * (depth // 2 + 1)), nn.ReLU, None)
        self.after = mlp((width + size, *[width] * (depth - depth // 2 - 1), 4), nn.ReLU, None)

    def forward(self, x: Tensor) -> Tensor:
        angles = x.unsqueeze(-1) * math.pi * 2.0 ** torch.arange(self.bands, device=x.device)
        x = torch.cat([x, angles.sin().flatten(1), angles.cos().flatten(1)], -1)
        y: Tensor = self.after(torch.cat([self.before(x).relu(), x], -1))
        return y.sigmoid()


class Sine(nn.Module):
    """A linear layer and the sine of it, with the weights of SIREN."""

    def __init__(self, inputs: int, outputs: int, first: bool = False, rate: float = 30.0):
        super().__init__()
        self.linear, self.rate = nn.Linear(inputs, outputs), rate
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / rate
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.rate * self.linear(x))


def siren(width: int = 256, depth: int = 5) -> nn.Module:
    """Return sines over places of a picture."""
    last = nn.Linear(width, 3)
    bound = math.sqrt(6 / width) / 30
    nn.init.uniform_(last.weight, -bound, bound)
    hidden = (Sine(width, width) for _ in range(depth - 2))
    return nn.Sequential(Sine(2, width, first=True), *hidden, last)


class GraphConvolution(nn.Module):
    """A graph convolutional network of a few layers; the graph is an input."""

    def __init__(self, depth: int = 2):
        super().__init__()
        widths = [WIDTH, *[32] * (depth - 1)]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in zip(widths, [*widths[1:], CLASSES], strict=True)
        )
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]

    def forward(self, nodes: Tensor, graph: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            nodes = graph @ layer(nodes if number == 0 else nodes.relu())
        return nodes


def random_graph(nodes: int = 100) -> Batch:
    """Return a random graph with labelled nodes, its adjacency normalised by degree."""
    edges = (torch.rand(nodes, nodes) < 0.04).float()
    edges = ((edges + edges.T) > 0).float() + torch.eye(nodes)
    edges.clamp_(max=1)
    scale = edges.sum(1).rsqrt()
    graph = scale[:, None] * edges * scale
    return (torch.randn(nodes, WIDTH), graph), torch.randint(CLASSES, (nodes,))


class Recommender(nn.Module):
    """Embedded categories and numbers, their products, and a top network, as in DLRM."""

    def __init__(self, tables: int = 8, width: int = 16):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, width) for _ in range(tables))
        self.bottom = nn.Sequential(mlp((13, 64, 32, width), nn.ReLU, None), nn.ReLU())
        self.top = mlp((width + tables * (tables + 1) // 2, 64, 32, 1), nn.ReLU, None)
        for table in self.tables:
            nn.init.uniform_(table.weight, -(50**-0.5), 50**-0.5)  # type: ignore[arg-type]

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        dense = self.bottom(numbers)
        sparse = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        vectors = torch.stack([dense, *sparse], 1)
        rows, columns = torch.tril_indices(len(sparse) + 1, len(sparse) + 1, -1)
        products = (vectors @ vectors.transpose(1, 2))[:, rows, columns]
        return self.top(torch.cat([dense, products], 1)).squeeze(1)  # type: ignore[no-any-return]


def clicks(tables: int = 8) -> Batch:
    """Return random visitors of a page, and whether they clicked."""
    inputs = (torch.rand(64, 13), torch.randint(50, (64, tables)))
    return inputs, torch.randint(2, (64,)).float()


class Towers(nn.Module):
    """Users and things in two towers, compared by their cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.things = nn.Embedding(100, 32), nn.Embedding(100, 32)
        self.left, self.right = (mlp((32, 64, 32), nn.ReLU, None) for _ in range(2))

    def forward(self, users: Tensor, things: Tensor) -> Tensor:
        left = F.normalize(self.left(self.users(users)), dim=-1)
        right = F.normalize(self.right(self.things(things)), dim=-1)
        return left @ right.T / 0.1


def visits(count: int = 32) -> Batch:
    """Return random users, each with the thing that was chosen."""
    return (torch.randint(100, (count,)), torch.randint(100, (count,))), torch.arange(count)


def residual_mlp(depth: int = 50) -> nn.Module:
    """Return residual blocks that normalise first."""
    blocks = (
        Residual(nn.Sequential(nn.LayerNorm(WIDTH), feed_forward(WIDTH))) for _ in range(depth)
    )
    return nn.Sequential(*blocks, nn.LayerNorm(WIDTH), head())


class Highway(nn.Module):
    """A layer that carries most of its input on, as its gate starts out."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.change, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).sigmoid()
        return share * self.change(x).relu() + (1 - share) * x  # type: ignore[no-any-return]


class Dense(nn.Module):
    """A layer whose answer is joined to all before it."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.layer = nn.Linear(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layer(x).relu()], -1)


def dense_mlp(depth: int = 10, growth: int = 16) -> nn.Module:
    """Return layers each of which sees all before it."""
    layers = (Dense(WIDTH + i * growth, growth) for i in range(depth))
    return nn.Sequential(*layers, nn.Linear(WIDTH + depth * growth, CLASSES))


class Differential(nn.Module):
    """One small network applied again and again, as a solver of an equation does."""

    def __init__(self, steps: int = 20):
        super().__init__()
        self.slope, self.steps = mlp((WIDTH, WIDTH, WIDTH), nn.Tanh, None), steps
        self.first, self.last = nn.Linear(WIDTH, WIDTH), head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.steps):
            x = x + self.slope(x) / self.steps
        return self.last(x)  # type: ignore[no-any-return]


def highway(depth: int = 20) -> nn.Module:
    """Return highway layers before a head."""
    return nn.Sequential(*(Highway() for _ in range(depth)), head())


TINY = (WIDTH, *[256] * 4, CLASSES)

#: Networks for vectors.
MLPS: tuple[Entry, ...] = (
    (
        "ReLU MLP 5x256",
        partial(mlp, (WIDTH, *[256] * 5, CLASSES), nn.ReLU, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "ReLU MLP 5x256, He",
        partial(mlp, (WIDTH, *[256] * 5, CLASSES), nn.ReLU, he_),
        vectors,
        F.cross_entropy,
        "He et al., 2015",
    ),
    (
        "GELU MLP-6",
        partial(mlp, (WIDTH, *[256] * 5, CLASSES), nn.GELU, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "SiLU MLP-4",
        partial(mlp, (WIDTH, *[256] * 3, CLASSES), nn.SiLU, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "tanh MLP-5",
        partial(mlp, TINY, nn.Tanh, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "sigmoid MLP-2",
        partial(mlp, (WIDTH, 128, CLASSES), nn.Sigmoid, None),
        vectors,
        F.cross_entropy,
        "PyTorch's weights",
    ),
    (
        "50 residual blocks",
        residual_mlp,
        vectors,
        F.cross_entropy,
        "He et al., 2016; Xiong et al., 2020",
    ),
    ("highway network", highway, vectors, F.cross_entropy, "Srivastava et al., 2015"),
    ("DenseNet-like MLP", dense_mlp, vectors, F.cross_entropy, "Huang et al., 2017"),
    ("neural ODE, Euler", Differential, vectors, F.cross_entropy, "Chen et al., 2018"),
    (
        "NeRF 8x128",
        partial(Field, 128),
        partial(points, 3, 4),
        F.mse_loss,
        "Mildenhall et al., 2020",
    ),
    (
        "NeRF 8x256",
        partial(Field, 256),
        partial(points, 3, 4),
        F.mse_loss,
        "Mildenhall et al., 2020",
    ),
    ("SIREN", siren, partial(points, 2, 3), F.mse_loss, "Sitzmann et al., 2020"),
    ("DLRM", Recommender, clicks, BCE, "Naumov et al., 2019"),
    ("two towers", Towers, visits, F.cross_entropy, "Yi et al., 2019"),
    ("GCN, 2 layers", GraphConvolution, random_graph, F.cross_entropy, "Kipf and Welling, 2017"),
    (
        "GCN, 4 layers",
        partial(GraphConvolution, 4),
        random_graph,
        F.cross_entropy,
        "Kipf and Welling, 2017",
    ),
)
