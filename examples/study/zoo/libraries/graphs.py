"""Networks for graphs, of PyTorch Geometric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.libraries.entry import Row, Table, itself, of

#: Nodes of a graph, their numbers, and the classes of the nodes.
NODES, NUMBERS, KINDS = 120, 16, 4


def graph() -> tuple[Tensor, Tensor, Tensor]:
    """Return numbers of nodes, edges mostly between nodes of a class, and the classes."""
    kinds = torch.randint(KINDS, (NODES,))
    alike = kinds[:, None] == kinds
    edges = (torch.rand(NODES, NODES) < alike.float() * 0.15 + 0.01).nonzero().T
    numbers = F.one_hot(kinds, NUMBERS).float() + torch.randn(NODES, NUMBERS)
    return numbers, edges, kinds


def nodes() -> Batch:
    """Return a graph, with classes of its nodes."""
    numbers, edges, kinds = graph()
    return (numbers, edges), kinds


def node_and_edge_numbers() -> Batch:
    """Return a graph in four parts with numbers of its edges too, and a number of each part."""
    numbers, edges, _ = graph()
    part = torch.arange(NODES) // (NODES // 4)
    edges = edges[:, part[edges[0]] == part[edges[1]]]
    value = torch.stack([numbers[part == i, 0].sum() for i in range(4)])
    return (numbers, edges, torch.randn(edges.shape[1], 4), part), value[:, None] / 4


def links() -> Batch:
    """Return a graph alone, for a model that foretells its edges."""
    numbers, edges, _ = graph()
    return (numbers, edges), None


def liked() -> Batch:
    """Return what users like and pairs of things, one liked and one not, to be ranked."""
    users, things = torch.arange(60).repeat_interleave(6), torch.randint(30, (360,)) * 2
    things = 60 + (things + users % 2) % 60
    edges = torch.stack([users, things])
    pairs = edges[:, torch.randint(360, (128,))]
    other = torch.stack([pairs[0], 60 + (pairs[1] - 60 + 1) % 60])
    both = torch.cat([edges, edges.flip(0)], 1)
    return (both, torch.cat([pairs, other], 1)), None


def ranked(scores: Tensor) -> Tensor:
    """Return the loss of pairs of which the first half are to score above the second."""
    liked, other = scores.chunk(2)
    return -F.logsigmoid(liked - other).mean()


def pyg(name: str, kind: str, **options: Any) -> Row:
    """Return the row of a network of PyTorch Geometric that names the class of each node."""
    sizes = {"in_channels": NUMBERS, "hidden_channels": 32, "num_layers": 3, "out_channels": KINDS}
    built = of(f"torch_geometric.nn.{kind}", **{**sizes, **options})
    return name, built, nodes, F.cross_entropy


class Ends(nn.Module):
    """A mean and a deviation of each node from two convolutions after a common one."""

    def __init__(self, first: nn.Module, mean: nn.Module, deviation: nn.Module):
        super().__init__()
        self.first, self.mean, self.deviation = first, mean, deviation

    def forward(self, numbers: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(numbers, edges).relu()
        return self.mean(hidden, edges), self.deviation(hidden, edges)


class EdgesFound(nn.Module):
    """A graph autoencoder of PyTorch Geometric that works out its loss."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, numbers: Tensor, edges: Tensor) -> Tensor:
        codes = self.model.encode(numbers, edges)
        loss: Tensor = self.model.recon_loss(codes, edges)
        return loss + self.model.kl_loss() / NODES  # type: ignore[no-any-return]


GRAPHS: Table = {
    "torch_geometric": (
        pyg("GCN", "GCN"),
        pyg("GCN, 8 layers", "GCN", num_layers=8),
        pyg("GraphSAGE", "GraphSAGE"),
        pyg("GIN", "GIN"),
        pyg("GAT", "GAT", heads=4),
        pyg("GAT v2", "GAT", heads=4, v2=True),
        pyg("edge CNN", "EdgeCNN"),
        pyg("GCN, jumping knowledge", "GCN", jk="lstm"),
        pyg(
            "PNA",
            "PNA",
            aggregators=["mean", "min", "max", "std"],
            scalers=["identity", "amplification", "attenuation"],
            deg=of("torch.tensor", [0, 10, 20, 40, 30, 20]),
        ),
        (
            "graph U-Net",
            of("torch_geometric.nn.GraphUNet", NUMBERS, 32, KINDS, depth=3),
            nodes,
            F.cross_entropy,
        ),
        (
            "attentive fingerprints",
            of(
                "torch_geometric.nn.AttentiveFP",
                NUMBERS,
                32,
                1,
                edge_dim=4,
                num_layers=3,
                num_timesteps=2,
            ),
            node_and_edge_numbers,
            F.mse_loss,
        ),
        (
            "LightGCN",
            of("torch_geometric.nn.LightGCN", num_nodes=120, embedding_dim=32, num_layers=3),
            liked,
            ranked,
        ),
        (
            "variational graph autoencoder",
            of(
                EdgesFound,
                of(
                    "torch_geometric.nn.VGAE",
                    of(
                        Ends,
                        of("torch_geometric.nn.GCNConv", NUMBERS, 32),
                        of("torch_geometric.nn.GCNConv", 32, 16),
                        of("torch_geometric.nn.GCNConv", 32, 16),
                    ),
                ),
            ),
            links,
            itself,
        ),
    ),
}
