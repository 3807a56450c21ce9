"""Architectures for pictures, of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from examples.study.network import Batch
from examples.study.zoo.transformers_models.batches import (
    labelled_pictures,
    masked_films,
    masked_pictures,
    pictures_alone,
)
from examples.study.zoo.transformers_models.sizes import CLASSES, SWIN, VIT, Options

#: Pictures: class, options, batch.
VISION: Mapping[str, tuple[str, Options, Callable[[], Batch]]] = {
    "ViT": ("ViTForImageClassification", VIT, labelled_pictures),
    "ViT, masked": ("ViTForMaskedImageModeling", {**VIT, "encoder_stride": 8}, masked_pictures),
    "ViT-MAE": (
        "ViTMAEForPreTraining",
        {
            **VIT,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
        },
        pictures_alone,
    ),
    "ViT-MSN": ("ViTMSNForImageClassification", VIT, labelled_pictures),
    "DeiT": ("DeiTForImageClassification", VIT, labelled_pictures),
    "DeiT, masked": ("DeiTForMaskedImageModeling", {**VIT, "encoder_stride": 8}, masked_pictures),
    "DINOv2": ("Dinov2ForImageClassification", VIT, labelled_pictures),
    "BEiT": ("BeitForImageClassification", VIT, labelled_pictures),
    "Data2Vec, vision": ("Data2VecVisionForImageClassification", VIT, labelled_pictures),
    "Swin": ("SwinForImageClassification", SWIN, partial(labelled_pictures, 64)),
    "Swin, masked": (
        "SwinForMaskedImageModeling",
        {**SWIN, "encoder_stride": 16},
        partial(masked_pictures, 64, 4),
    ),
    "Swin v2": ("Swinv2ForImageClassification", SWIN, partial(labelled_pictures, 64)),
    "ConvNeXt": (
        "ConvNextForImageClassification",
        {"hidden_sizes": [24, 48, 96], "depths": [2, 2, 2], "num_stages": 3, "num_labels": CLASSES},
        partial(labelled_pictures, 64),
    ),
    "ConvNeXt v2": (
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [24, 48, 96], "depths": [2, 2, 2], "num_stages": 3, "num_labels": CLASSES},
        partial(labelled_pictures, 64),
    ),
    "ResNet": (
        "ResNetForImageClassification",
        {
            "embedding_size": 16,
            "hidden_sizes": [32, 64, 128],
            "depths": [2, 2, 2],
            "num_labels": CLASSES,
        },
        partial(labelled_pictures, 64),
    ),
    "BiT": (
        "BitForImageClassification",
        {
            "embedding_size": 32,
            "hidden_sizes": [128, 256, 512],
            "depths": [2, 2, 2],
            "num_labels": CLASSES,
        },
        partial(labelled_pictures, 64),
    ),
    "SegFormer": (
        "SegformerForImageClassification",
        {
            "hidden_sizes": [16, 32, 64, 128],
            "depths": [2, 2, 2, 2],
            "num_attention_heads": [1, 2, 4, 8],
            "num_labels": CLASSES,
        },
        partial(labelled_pictures, 64),
    ),
    "PVT": (
        "PvtForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 64, 128],
            "depths": [2, 2, 2, 2],
            "num_attention_heads": [1, 2, 4, 8],
            "num_labels": CLASSES,
        },
        partial(labelled_pictures, 64),
    ),
    "CvT": (
        "CvtForImageClassification",
        {
            "embed_dim": [16, 32, 64],
            "num_heads": [1, 2, 4],
            "depth": [1, 2, 4],
            "num_labels": CLASSES,
        },
        partial(labelled_pictures, 64),
    ),
    "MobileViT": (
        "MobileViTForImageClassification",
        {"image_size": 128, "hidden_sizes": [32, 48, 64], "num_labels": CLASSES},
        partial(labelled_pictures, 128),
    ),
    "PoolFormer": (
        "PoolFormerForImageClassification",
        {"hidden_sizes": [16, 32, 64, 128], "depths": [2, 2, 2, 2], "num_labels": CLASSES},
        partial(labelled_pictures, 64),
    ),
    "FocalNet": (
        "FocalNetForImageClassification",
        {
            "image_size": 64,
            "embed_dim": 24,
            "depths": [2, 2, 2],
            "focal_levels": [2, 2, 2],
            "focal_windows": [3, 3, 3],
            "num_labels": CLASSES,
        },
        partial(labelled_pictures, 64),
    ),
    "SigLIP classifier": (
        "SiglipForImageClassification",
        {
            "vision_config": {k: v for k, v in VIT.items() if k != "num_labels"},
            "num_labels": CLASSES,
        },
        labelled_pictures,
    ),
    "VideoMAE": (
        "VideoMAEForPreTraining",
        {
            **VIT,
            "num_frames": 4,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
            "norm_pix_loss": False,
        },
        masked_films,
    ),
}
