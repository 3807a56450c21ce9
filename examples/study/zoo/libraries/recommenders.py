"""Recommenders and networks for tables, of small libraries."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.libraries.batches import BCE, labelled, valued
from examples.study.zoo.libraries.entry import Made, Row, Table, of

#: Columns of ids, how many ids each has, columns of numbers, and clicks in a batch.
COLUMNS, IDS, NUMBERS, CLICKS = 6, 50, 4, 256
HISTORY = 8


def clicked(ids: Tensor, numbers: Tensor) -> Tensor:
    """Return clicks that follow from whether two ids are alike, from a third and from a number."""
    alike = (ids[:, 0] % 2 == ids[:, 1] % 2).float()
    return (2 * alike + ids[:, 2] % 3 + numbers[:, 0] > 2.5).float()


def table(count: int = CLICKS) -> tuple[Tensor, Tensor]:
    """Return columns of ids and of numbers."""
    return torch.randint(IDS, (count, COLUMNS)), torch.rand(count, NUMBERS)


def clicks(count: int = CLICKS) -> Batch:
    """Return ids and numbers in one tensor, as deepctr-torch takes them, and clicks."""
    ids, numbers = table(count)
    return torch.cat([ids.float(), numbers], 1), clicked(ids, numbers)[:, None]


def clicks_and_purchases() -> Batch:
    """Return ids and numbers, and for two tasks what followed."""
    inputs, clicked = clicks()
    return inputs, torch.cat([clicked, clicked * (inputs[:, 3:4] % 2)], 1)


def histories() -> Batch:
    """Return a user, a thing, what the user chose before, and whether it is chosen."""
    users, things = torch.randint(1, IDS, (2, CLICKS, 1)).float()
    before = torch.randint(1, IDS, (CLICKS, HISTORY)).float()
    lengths = torch.randint(1, HISTORY + 1, (CLICKS, 1)).float()
    before = before * (torch.arange(HISTORY) < lengths)
    chosen = (things % 2 == before[:, :1] % 2).float()
    return torch.cat([users, things, before, lengths], 1), chosen


def rows() -> Batch:
    """Return ids and numbers as two inputs, and clicks."""
    ids, numbers = table()
    return (ids, numbers), clicked(ids, numbers)[:, None]


def numbers_first() -> Batch:
    """Return numbers and ids as two inputs, and clicks."""
    (ids, numbers), clicks = rows()
    return (numbers, ids), clicks


def columns() -> Batch:
    """Return each column under its name, as torch-rechub takes them, and clicks."""
    ids, numbers = table()
    named = {f"id{i}": ids[:, i] for i in range(COLUMNS)}
    named |= {f"number{i}": numbers[:, i] for i in range(NUMBERS)}
    return (named,), clicked(ids, numbers)


def deepctr_columns(numbers: int = NUMBERS) -> list[Any]:
    """Return the columns as deepctr-torch names them."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat

    ids = [SparseFeat(f"id{i}", IDS, 8) for i in range(COLUMNS)]
    return [*ids, *(DenseFeat(f"number{i}", 1) for i in range(numbers))]


def deepctr_histories() -> list[Any]:
    """Return a user, a thing and the things chosen before as deepctr-torch names them."""
    from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat

    before = SparseFeat("hist_thing", IDS, 8, embedding_name="thing")
    return [
        SparseFeat("user", IDS, 8),
        SparseFeat("thing", IDS, 8),
        VarLenSparseFeat(before, HISTORY, length_name="seq_length"),
    ]


def deepctr(name: str, *, linear: bool = True, numbers: int = NUMBERS, **options: Any) -> Row:
    """Return the row of a model of deepctr-torch, whose deep part sees some columns of numbers."""
    deep = of(deepctr_columns, numbers)
    arguments = (of(deepctr_columns), deep) if linear else (deep,)
    built = of(f"deepctr_torch.models.{name}", *arguments, **options)
    return name, built, clicks, F.binary_cross_entropy


def tasks(name: str) -> Row:
    """Return the row of a model of deepctr-torch for two tasks."""
    built = of(f"deepctr_torch.models.{name}", of(deepctr_columns))
    return name, built, clicks_and_purchases, F.binary_cross_entropy


def interest(name: str, **options: Any) -> Row:
    """Return the row of a model of deepctr-torch for what was chosen before."""
    features = of(deepctr_histories)
    built = of(f"deepctr_torch.models.{name}", features, ["thing"], **options)
    return name, built, histories, F.binary_cross_entropy


def rechub(name: str, build: str, *groups: str, **options: Any) -> Row:
    """Return the row of a ranking model of torch-rechub, with the columns that it asks for."""
    features = {group: of(rechub_columns) for group in groups}
    built = of(f"torch_rechub.models.ranking.{build}", **features, **options)
    return name, built, columns, F.binary_cross_entropy


def rechub_columns() -> list[Any]:
    """Return the columns as torch-rechub names them."""
    from torch_rechub.basic.features import SparseFeature

    return [SparseFeature(f"id{i}", IDS, 8) for i in range(COLUMNS)]


class Embedded(nn.Module):
    """Numbers embedded by a library before its network, as the paper on embeddings has it."""

    def __init__(self, embeddings: nn.Module, body: nn.Module):
        super().__init__()
        self.embeddings, self.body = embeddings, body

    def forward(self, numbers: Tensor) -> Tensor:
        return self.body(self.embeddings(numbers).flatten(1))  # type: ignore[no-any-return]


def embedded(kind: str, width: int, **options: Any) -> Made:
    """Say how a perceptron after embeddings of sixteen numbers is made."""
    return of(
        Embedded,
        of(f"rtdl_num_embeddings.{kind}", 16, width, **options),
        of(
            "rtdl_revisiting_models.MLP",
            d_in=16 * width,
            d_out=1,
            n_blocks=2,
            d_block=WIDTH,
            dropout=0.1,
        ),
    )


WIDTH = 64
MLP = {"dims": [WIDTH, 32], "dropout": 0.2, "activation": "relu"}
NUMBERED = partial(valued, 16, count=CLICKS)


def tabnet_loss(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Return TabNet's loss, whose masks are to be sparse."""
    logits, sparsity = outputs
    return F.cross_entropy(logits, labels) - 1e-3 * sparsity


RECOMMENDERS: Table = {
    "deepctr_torch": (
        deepctr("WDL"),
        deepctr("DeepFM"),
        deepctr("xDeepFM"),
        deepctr("NFM"),
        deepctr("AFM", numbers=0),
        deepctr("DCN"),
        deepctr("DCNMix"),
        deepctr("FiBiNET"),
        deepctr("ONN"),
        deepctr("AutoInt"),
        deepctr("IFM"),
        deepctr("DIFM"),
        deepctr("AFN"),
        deepctr("CCPM", numbers=0),
        deepctr("PNN", linear=False),
        tasks("SharedBottom"),
        tasks("ESMM"),
        tasks("MMOE"),
        tasks("PLE"),
        interest("DIN"),
        interest("DIEN"),
    ),
    "torch_rechub": (
        rechub("wide and deep", "WideDeep", "wide_features", "deep_features", mlp_params=MLP),
        rechub("DeepFM", "DeepFM", "fm_features", "deep_features", mlp_params=MLP),
        rechub("DCN", "DCN", "features", n_cross_layers=3, mlp_params=MLP),
        rechub("EDCN", "EDCN", "features", n_cross_layers=3, mlp_params=MLP),
    ),
    "pytorch_tabnet": (
        (
            "TabNet",
            of(
                "pytorch_tabnet.tab_network.TabNet",
                16,
                4,
                group_attention_matrix=of("torch.eye", 16),
            ),
            partial(labelled, 16, count=CLICKS, classes=4),
            tabnet_loss,
        ),
    ),
    "tab_transformer_pytorch": (
        (
            "TabTransformer",
            of(
                "tab_transformer_pytorch.TabTransformer",
                categories=(IDS,) * COLUMNS,
                num_continuous=NUMBERS,
                dim=32,
                depth=3,
                heads=4,
                mlp_act=of("torch.nn.ReLU"),
            ),
            rows,
            BCE,
        ),
        (
            "FT-Transformer",
            of(
                "tab_transformer_pytorch.FTTransformer",
                categories=(IDS,) * COLUMNS,
                num_continuous=NUMBERS,
                dim=32,
                depth=3,
                heads=4,
            ),
            rows,
            BCE,
        ),
    ),
    "rtdl_revisiting_models": (
        (
            "ResNet",
            of(
                "rtdl_revisiting_models.ResNet",
                d_in=16,
                d_out=1,
                n_blocks=4,
                d_block=WIDTH,
                d_hidden_multiplier=2.0,
                dropout1=0.15,
                dropout2=0.0,
            ),
            NUMBERED,
            F.mse_loss,
        ),
        (
            "FT-Transformer",
            of(
                "rtdl_revisiting_models.FTTransformer",
                n_cont_features=NUMBERS,
                cat_cardinalities=[IDS] * COLUMNS,
                d_out=1,
                n_blocks=3,
                d_block=32,
                attention_n_heads=4,
                attention_dropout=0.2,
                ffn_d_hidden_multiplier=4 / 3,
                ffn_dropout=0.1,
                residual_dropout=0.0,
            ),
            numbers_first,
            BCE,
        ),
    ),
    "rtdl_num_embeddings": (
        ("MLP, periodic", embedded("PeriodicEmbeddings", 24, lite=True), NUMBERED, F.mse_loss),
        ("MLP, linear ReLU", embedded("LinearReLUEmbeddings", 24), NUMBERED, F.mse_loss),
    ),
}
