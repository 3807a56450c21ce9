"""Energies of molecules, by equivariant networks of small libraries."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.libraries.entry import Made, Table, of

#: Molecules of a batch, atoms of each, and elements.
COUNT, ATOMS, ELEMENTS = 8, 10, 9


def molecules() -> tuple[Tensor, Tensor, Tensor]:
    """Return elements and places of atoms and the energy that follows from them."""
    elements = torch.randint(1, ELEMENTS, (COUNT, ATOMS))
    grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3)[:ATOMS]
    places = 1.5 * grid + 0.3 * torch.randn(COUNT, ATOMS, 3)
    charges = elements / ELEMENTS
    distances = torch.cdist(places, places) + 2 * torch.eye(ATOMS)
    pairs = charges[:, None] * charges[..., None] / distances
    return elements, places, pairs.sum((1, 2)) - charges.sum(1)


def energies(offset: float = 0.0) -> Batch:
    """Return atoms of all molecules in a row, with the molecule of each, and energies."""
    elements, places, energy = molecules()
    owner = torch.arange(COUNT).repeat_interleave(ATOMS)
    return (elements.flatten(), places.flatten(0, 1), owner), energy[:, None] + offset


def shapes() -> Batch:
    """Return elements and places of atoms by molecule, and energies."""
    elements, places, energy = molecules()
    return (elements, places), energy[:, None]


def neighbours(places: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs of atoms of each molecule, and how far apart they are."""
    pairs = (owner[:, None] == owner) & ~torch.eye(len(owner), dtype=torch.bool)
    edges = pairs.nonzero().T
    return edges, (places[edges[0]] - places[edges[1]]).norm(dim=-1)


class Pooled(nn.Module):
    """What an equivariant network says of each atom, summed to an energy.

    Where it answers with places or vectors too, what is said of the atom is the first.
    """

    def __init__(self, model: nn.Module, width: int):
        super().__init__()
        self.model = model
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, elements: Tensor, places: Tensor) -> Tensor:
        answer = self.model(elements, places)
        per_atom = answer if isinstance(answer, Tensor) else answer[0]
        return self.head(per_atom).mean(1)  # type: ignore[no-any-return]


class Pushed(nn.Module):
    """What e3nn's network says of molecules that are graphs with elements at the nodes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, elements: Tensor, places: Tensor, owner: Tensor) -> Tensor:
        edges, _ = neighbours(places, owner)
        kinds = F.one_hot(elements, ELEMENTS).float()
        graph = {
            "batch": owner,
            "pos": places,
            "edge_index": edges,
            "node_input": kinds,
            "node_attr": kinds,
            "edge_attr": torch.ones(edges.shape[1], 1),
        }
        return self.model(graph)  # type: ignore[no-any-return]


def molecular(kind: str, width: int = 32, **options: Any) -> Made:
    """Say how an equivariant network with a head for energies is made."""
    return of(Pooled, of(kind, dim=width, num_tokens=ELEMENTS, depth=2, **options), width)


MOLECULES: Table = {
    "torch_geometric": (
        (
            "SchNet",
            of(
                "torch_geometric.nn.SchNet",
                hidden_channels=32,
                num_filters=32,
                num_interactions=3,
                interaction_graph=neighbours,
            ),
            energies,
            F.mse_loss,
        ),
        (
            "SchNet, mean and deviation",
            of(
                "torch_geometric.nn.SchNet",
                hidden_channels=32,
                num_filters=32,
                num_interactions=3,
                interaction_graph=neighbours,
                readout="mean",
                mean=-76.0,
                std=0.5,
            ),
            partial(energies, -76.0),
            F.mse_loss,
        ),
    ),
    "egnn_pytorch": (
        ("EGNN", molecular("egnn_pytorch.EGNN_Network", norm_coors=True), shapes, F.mse_loss),
        (
            "EGNN, nearest neighbours",
            molecular("egnn_pytorch.EGNN_Network", num_nearest_neighbors=4, norm_coors=True),
            shapes,
            F.mse_loss,
        ),
    ),
    "en_transformer": (
        (
            "E(n) transformer",
            molecular("en_transformer.EnTransformer", dim_head=32, heads=2, neighbors=6),
            shapes,
            F.mse_loss,
        ),
        (
            "E(n) transformer, cross products",
            molecular("en_transformer.EnTransformer", dim_head=32, heads=2, use_cross_product=True),
            shapes,
            F.mse_loss,
        ),
    ),
    "equiformer_pytorch": (
        (
            "Equiformer",
            molecular("equiformer_pytorch.Equiformer", 16, num_degrees=2, heads=2, dim_head=8),
            shapes,
            F.mse_loss,
        ),
    ),
    "se3_transformer_pytorch": (
        (
            "SE(3) transformer",
            molecular(
                "se3_transformer_pytorch.SE3Transformer",
                16,
                num_degrees=2,
                heads=2,
                dim_head=4,
                num_neighbors=4,
            ),
            shapes,
            F.mse_loss,
        ),
    ),
    "e3nn": (
        (
            "gated convolutions",
            of(
                Pushed,
                of(
                    "e3nn.nn.models.v2106.gate_points_networks.NetworkForAGraphWithAttributes",
                    irreps_node_input=f"{ELEMENTS}x0e",
                    irreps_node_attr=f"{ELEMENTS}x0e",
                    irreps_edge_attr="1x0e",
                    irreps_node_output="0e",
                    max_radius=4.0,
                    num_neighbors=ATOMS - 1.0,
                    num_nodes=ATOMS,
                    mul=8,
                    layers=2,
                    lmax=1,
                ),
            ),
            energies,
            F.mse_loss,
        ),
    ),
}
