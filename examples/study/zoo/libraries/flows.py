"""Flows of small libraries, asked for the log-density of points."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from examples.study.network import Batch
from examples.study.zoo.libraries.batches import grey_pictures
from examples.study.zoo.libraries.entry import Asked, Made, Row, Table, itself, of, unlikelihood

SIZE = 6


def bent(size: int = SIZE, count: int = 128) -> Batch:
    """Return points around a bent curve, for a density, without targets."""
    along = torch.randn(count, 1)
    return torch.cat([along, along**2 - 1 + 0.3 * torch.randn(count, size - 1)], 1), None


def bent_under_conditions() -> Batch:
    """Return points around a curve that a condition moves."""
    points, _ = bent()
    condition = torch.randn(len(points), 2)
    return (points + condition.sum(1, keepdim=True), condition), None


class Density(nn.Module):
    """A flow of zuko, asked for the log-density of points."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, points: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.flow(condition).log_prob(points)  # type: ignore[no-any-return]


def zuko(kind: str, **options: Any) -> Row:
    """Return the row of a flow of zuko for bent points."""
    return kind, of(Density, of(f"zuko.flows.{kind}", SIZE, **options)), bent, unlikelihood


def nflow(name: str, kind: str, **options: Any) -> Row:
    """Return the row of a flow of nflows for bent points."""
    sizes = {"features": SIZE, "hidden_features": 32, "num_layers": 5, "num_blocks_per_layer": 2}
    built = of(Asked, of(f"nflows.flows.{kind}", **sizes, **options), "log_prob")
    return name, built, bent, unlikelihood


def layered(name: str, *layers: Made, repeat: int = 4) -> Row:
    """Return the row of a flow of normflows, its layers again and again."""
    base = of("normflows.distributions.DiagGaussian", SIZE)
    flow = of("normflows.NormalizingFlow", base, list(layers) * repeat)
    return name, of(Asked, flow, "forward_kld"), bent, itself


def glow(depth: int = 4) -> nn.Module:
    """Return normflows' Glow of two scales, for pictures of eight pixels."""
    import normflows as nf

    scales = (8, 4)
    model: nn.Module = nf.MultiscaleFlow(
        [nf.distributions.DiagGaussian(shape) for shape in ((8, 2, 2), (2, 4, 4))],
        [
            [*(nf.flows.GlowBlock(channels, 32) for _ in range(depth)), nf.flows.Squeeze()]
            for channels in scales
        ],
        [nf.flows.Merge()],
        class_cond=False,
    )
    return model


FLOWS: Table = {
    "zuko": (
        zuko("NICE"),
        zuko("MAF"),
        zuko("NSF"),
        zuko("NAF"),
        zuko("GF"),
        zuko("BPF"),
        zuko("CNF"),
        (
            "MAF under a condition",
            of(Density, of("zuko.flows.MAF", SIZE, 2)),
            bent_under_conditions,
            unlikelihood,
        ),
    ),
    "nflows": (
        nflow("MAF", "MaskedAutoregressiveFlow"),
        nflow("RealNVP", "SimpleRealNVP"),
        nflow("RealNVP, batch norm", "SimpleRealNVP", batch_norm_between_layers=True),
    ),
    "normflows": (
        layered(
            "coupled splines",
            of("normflows.flows.CoupledRationalQuadraticSpline", SIZE, 2, 32),
            of("normflows.flows.LULinearPermute", SIZE),
        ),
        layered(
            "coupling",
            of(
                "normflows.flows.AffineCouplingBlock",
                of("normflows.nets.MLP", [SIZE // 2, 32, 32, SIZE], init_zeros=True),
            ),
            of("normflows.flows.Permute", SIZE),
        ),
        layered(
            "splines",
            of("normflows.flows.AutoregressiveRationalQuadraticSpline", SIZE, 2, 32),
            of("normflows.flows.LULinearPermute", SIZE),
        ),
        ("Glow", of(Asked, of(glow), "forward_kld"), partial(grey_pictures, 1, 8), itself),
    ),
}
