"""Vision transformers of vit-pytorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.libraries.batches import CLASSES, WIDTH, labelled
from examples.study.zoo.libraries.entry import Row, Table, itself, of

SIZES: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": CLASSES,
    "dim": WIDTH,
    "depth": 4,
    "heads": 4,
    "mlp_dim": 128,
}


def vit(name: str, module: str, kind: str, size: int = 32, **options: Any) -> Row:
    """Return the row of a classifier of vit-pytorch."""
    built = of(f"vit_pytorch.{module}.{kind}", **options)
    return name, built, partial(labelled, 3, size, size, count=8), F.cross_entropy


def usual(name: str, module: str, kind: str = "ViT", *left_out: str, **options: Any) -> Row:
    """Return the row of a classifier of vit-pytorch with the usual sizes."""
    sizes = {option: size for option, size in SIZES.items() if option not in left_out}
    return vit(name, module, kind, **{**sizes, **options})


def pictures_alone(count: int = 8) -> Batch:
    """Return pictures for a model that works out its own loss."""
    return labelled(3, 32, 32, count=count)[0], None


def pictures_of_sizes() -> Batch:
    """Return pictures of several sizes, packed into sequences, with their labels."""
    labels = torch.randint(CLASSES, (4,))
    sizes = ((32, 32), (16, 32), (24, 8), (32, 16))
    pictures = [
        torch.randn(3, *size) + label / CLASSES
        for size, label in zip(sizes, labels.tolist(), strict=True)
    ]
    return [[pictures[0], pictures[1]], [pictures[2], pictures[3]]], labels


TRANSFORMERS: Table = {
    "vit_pytorch": (
        usual("ViT", "vit"),
        usual("simple ViT", "simple_vit", "SimpleViT"),
        usual("ViT, register tokens", "simple_vit_with_register_tokens", "SimpleViT"),
        usual("ViT, normed queries and keys", "simple_vit_with_qk_norm", "SimpleViT"),
        usual("ViT for small data", "vit_for_small_dataset"),
        usual("ViT, parallel branches", "parallel_vit"),
        usual("DeepViT", "deepvit", "DeepViT"),
        usual("CaiT", "cait", "CaiT", cls_depth=2),
        usual("XCiT", "xcit", "XCiT", cls_depth=2),
        usual("PiT", "pit", "PiT", depth=(2, 2), patch_size=4),
        usual("RvT", "rvt", "RvT"),
        usual("T2T-ViT", "t2t", "T2TViT", "patch_size", t2t_layers=((7, 4), (3, 2))),
        usual("normalised ViT", "normalized_vit", "nViT"),
        usual("U-ViT", "simple_uvit", "SimpleUViT"),
        usual("ViT, tokens sampled", "ats_vit", max_tokens_per_depth=(16, 12, 8, 6)),
        usual("ViT, patches merged", "vit_with_patch_merger", patch_merge_layer=2),
        usual("ViT, patches dropped", "simple_vit_with_patch_dropout", "SimpleViT"),
        vit(
            "CrossViT",
            "cross_vit",
            "CrossViT",
            image_size=32,
            num_classes=CLASSES,
            sm_dim=32,
            lg_dim=WIDTH,
            sm_patch_size=4,
            sm_enc_mlp_dim=64,
            lg_patch_size=8,
            lg_enc_depth=2,
            lg_enc_mlp_dim=128,
            depth=2,
        ),
        vit(
            "CvT",
            "cvt",
            "CvT",
            num_classes=CLASSES,
            s1_emb_dim=16,
            s2_emb_dim=32,
            s3_emb_dim=WIDTH,
            s3_depth=2,
        ),
        # LeViT is left out: it narrows behind batch norms with weights of zero, one after the other
        # and without a skip, so that nothing before them trains (the loss stays at log 10).
        vit(
            "MaxViT",
            "max_vit",
            "MaxViT",
            size=64,
            num_classes=CLASSES,
            dim=32,
            depth=(1, 2),
            window_size=4,
        ),
        vit(
            "NesT",
            "nest",
            "NesT",
            image_size=32,
            patch_size=4,
            num_classes=CLASSES,
            dim=32,
            heads=2,
            num_hierarchies=3,
            block_repeats=(1, 1, 2),
        ),
        vit(
            "MobileViT",
            "mobile_vit",
            "MobileViT",
            size=64,
            image_size=(64, 64),
            dims=[32, 48, 64],
            channels=[16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96],
            num_classes=CLASSES,
        ),
        (
            "masked autoencoder",
            of(
                "vit_pytorch.mae.MAE",
                encoder=of("vit_pytorch.ViT", **SIZES, pool="mean"),
                decoder_dim=32,
                masking_ratio=0.75,
                decoder_depth=2,
            ),
            pictures_alone,
            itself,
        ),
        (
            "NaViT, packed",
            of("vit_pytorch.na_vit.NaViT", **SIZES),
            pictures_of_sizes,
            F.cross_entropy,
        ),
        (
            "ViT for films",
            of(
                "vit_pytorch.simple_vit_3d.SimpleViT",
                image_size=32,
                image_patch_size=8,
                frames=4,
                frame_patch_size=2,
                num_classes=CLASSES,
                dim=WIDTH,
                depth=4,
                heads=4,
                mlp_dim=128,
            ),
            partial(labelled, 3, 4, 32, 32, count=4),
            F.cross_entropy,
        ),
    ),
}
