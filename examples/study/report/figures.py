"""The study's plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from examples.mnist.models import DeepClassifier, DeepConvNet
from examples.study.measurement import STATISTICS
from examples.study.report.scoring import Judged, area, statistic
from examples.study.stages import first_digits
from pytest_gradhealth import probe

COLOURS = {"sgd": "#2a7f62", "adam": "#e0a030", "partly": "#9a9a9a", "neither": "#b03030"}
#: Decades beyond which a ratio is drawn at the edge.
EDGE = 15.0


def draw(networks: Sequence[Judged], limits: Mapping[str, float], folder: Path) -> None:
    """Write all plots into a folder."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "gradhealth"
    distribution(networks, limits, folder / "distribution.svg")
    roc(networks, folder / "roc.svg")
    profiles(folder / "profiles.svg")


def _saved(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def _axes(**size: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained", **size)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def distribution(networks: Sequence[Judged], limits: Mapping[str, float], path: Path) -> None:
    """Histogram of the path ratio by what trains the network, with the limits."""
    figure, axes = _axes()
    groups: dict[str, list[float]] = {name: [] for name in COLOURS}
    for judged in networks:
        down, up = judged.record["vanishing"], judged.record["exploding"]
        value = down if down is None or -down > up else up
        if value is not None:
            name = "sgd" if judged.sgd else judged.label
            groups[name].append(max(-EDGE, min(EDGE, value)))
    titles = {
        "sgd": "SGD trains it",
        "adam": "only Adam does",
        "partly": "in between",
        "neither": "neither does",
    }
    axes.hist(
        list(groups.values()),
        bins=[b / 2 for b in range(-30, 31)],
        stacked=True,
        color=list(COLOURS.values()),
        label=[titles[name] for name in groups],
    )
    for name in ("min_ratio", "max_ratio"):
        axes.axvline(limits[name], color="black", linestyle="--", linewidth=1)
    axes.set_xlabel("gradient of the first layer over the last, decades (outliers at the edges)")
    axes.set_ylabel("networks")
    axes.set_yscale("symlog", linthresh=10)
    axes.legend(frameon=False)
    _saved(figure, path)


def roc(networks: Sequence[Judged], path: Path) -> None:
    """ROC of every statistic: networks that nothing trains against those that SGD trains."""
    figure, axes = _axes()
    sick = [judged for judged in networks if judged.label == "neither"]
    healthy = [judged for judged in networks if judged.sgd]
    for one in STATISTICS:
        bad = sorted((statistic(j, one.name) for j in sick), reverse=True)
        good = [statistic(j, one.name) for j in healthy]
        levels = sorted({*bad, *good}, reverse=True)
        alarms = [0.0, *(sum(v >= level for v in good) / len(good) for level in levels)]
        recall = [0.0, *(sum(v >= level for v in bad) / len(bad) for level in levels)]
        axes.plot(alarms, recall, label=f"{one.name} ({area(bad, good):.3f})")
    axes.set_xlabel("false alarms among networks that SGD trains")
    axes.set_ylabel("recall of networks that nothing trains")
    axes.legend(frameon=False, loc="lower right")
    _saved(figure, path)


def profiles(path: Path) -> None:
    """Gradient norm against depth for five networks."""
    figure, axes = _axes()
    builders: dict[str, nn.Module] = {}
    torch.manual_seed(0)
    builders["ten ReLU layers, He"] = DeepClassifier(nn.ReLU, kaiming=True)
    builders["ten ReLU layers, PyTorch's weights"] = DeepClassifier(nn.ReLU)
    builders["ten sigmoid layers"] = DeepClassifier(nn.Sigmoid)
    builders["forty ReLU layers, batch norm"] = DeepClassifier(
        nn.ReLU, depth=40, width=100, batch_norm=True
    )
    builders["24 residual blocks"] = DeepConvNet(blocks=24, width=8, shortcuts=True)
    for name, model in builders.items():
        diagnosis = probe(model, *first_digits(), loss=cross_entropy, confirm_steps=0)
        points = diagnosis.paths[0].points
        depth = [i / (len(points) - 1) for i in range(len(points))]
        axes.plot(depth, [p.norm / points[-1].norm for p in points], ".-", label=name, markersize=3)
    axes.set_yscale("log")
    axes.set_xlabel("position on the path, first layer to loss")
    axes.set_ylabel("gradient norm over that at the loss")
    axes.legend(frameon=False)
    _saved(figure, path)
