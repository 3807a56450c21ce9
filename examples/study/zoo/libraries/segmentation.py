"""Networks that mark pictures and volumes, of libraries for segmentation and for medicine."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.libraries.batches import BCE, labelled
from examples.study.zoo.libraries.entry import Row, Table, of

MARKS = 3
PLANE: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": MARKS}
SPACE: dict[str, Any] = {**PLANE, "spatial_dims": 3}


def marked(*shape: int, count: int = 4) -> Batch:
    """Return smooth random pictures or volumes, each point marked by how bright it is."""
    coarse = torch.randn(count, 1, *(side // 8 for side in shape[1:]))
    mode = "bilinear" if len(shape) == 3 else "trilinear"
    smooth = F.interpolate(coarse, shape[1:], mode=mode)
    marks = (smooth > -0.4).long() + (smooth > 0.4).long()
    return smooth + 0.1 * torch.randn(count, *shape), marks.squeeze(1)


def spots(size: int = 64, channels: int = 3, count: int = 4) -> Batch:
    """Return pictures and which of their points are bright, as 0 and 1."""
    pictures, marks = marked(channels, size, size, count=count)
    return pictures, (marks == 2).float().unsqueeze(1)


def pairs(size: int = 32, count: int = 4) -> Batch:
    """Return pictures, and the same ones moved a little, to be registered."""
    pictures, _ = marked(1, size, size, count=count)
    return (pictures, pictures.roll(2, -1)), pictures.roll(2, -1)


def true_or_false() -> Batch:
    """Return pictures, each with whether it is true, as a discriminator is trained."""
    pictures, labels = labelled(1, 32, 32, classes=2)
    return pictures, labels[:, None].float()


def marks_loss(outputs: Tensor, marks: Tensor) -> Tensor:
    """Return MONAI's dice and cross entropy over the points."""
    from monai.losses import DiceCELoss

    loss: Tensor = DiceCELoss(to_onehot_y=True, softmax=True)(outputs, marks.unsqueeze(1))
    return loss


def deep_loss(outputs: Any, marks: Tensor) -> Tensor:
    """Return the loss at every scale, where a network answers at several, each worth half."""
    heads = outputs.unbind(1) if isinstance(outputs, Tensor) else outputs
    return sum(  # type: ignore[no-any-return]
        marks_loss(head, _at(head, marks)) / 2**place for place, head in enumerate(heads)
    )


def _at(head: Tensor, marks: Tensor) -> Tensor:
    sides = head.shape[2:]
    return F.interpolate(marks.unsqueeze(1).float(), sides, mode="nearest").squeeze(1).long()


def smp(architecture: str, encoder: str = "resnet18", size: int = 64, **options: Any) -> Row:
    """Return the row of an architecture of segmentation-models-pytorch."""
    built = of(
        f"segmentation_models_pytorch.{architecture}",
        encoder,
        encoder_weights=None,
        classes=1,
        **options,
    )
    return f"{architecture}, {encoder}", built, partial(spots, size), spots_loss


def spots_loss(outputs: Tensor, spots: Tensor) -> Tensor:
    """Return the dice loss of segmentation-models-pytorch and the cross entropy."""
    from segmentation_models_pytorch.losses import DiceLoss

    loss: Tensor = DiceLoss("binary")(outputs, spots)
    return loss + BCE(outputs, spots)


def monai(name: str, kind: str, *shape: int, **options: Any) -> Row:
    """Return the row of a network of MONAI for pictures, or volumes, of a shape."""
    built = of(f"monai.networks.nets.{kind}", **options)
    return name, built, partial(marked, 1, *shape, count=2 if len(shape) == 3 else 4), marks_loss


def unet(**options: Any) -> dict[str, Any]:
    """Return the channels and strides that the U-Nets of MONAI share."""
    return {"channels": (16, 32, 64), "strides": (2, 2), **options}


def drawn_again(outputs: tuple[Tensor, ...], images: Tensor) -> Tensor:
    """Return the loss of MONAI's variational autoencoder."""
    drawn, mean, log_variance = outputs[:3]
    divergence = -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum(1).mean()
    return F.binary_cross_entropy(drawn, images, reduction="sum") / len(images) + divergence


def registered(outputs: tuple[Tensor, Tensor], fixed: Tensor) -> Tensor:
    """Return how far the moved picture is from the fixed one, and how bent the field is."""
    from monai.losses import BendingEnergyLoss

    moved, field = outputs
    bent: Tensor = BendingEnergyLoss()(field)
    return F.mse_loss(moved, fixed) + bent


def bags() -> Batch:
    """Return bags of pictures, with labels of the bags."""
    pictures, labels = labelled(3, 32, 32, count=4, classes=2)
    return pictures.unsqueeze(1) + torch.randn(4, 6, 3, 32, 32), labels


def smooth_pictures() -> Batch:
    """Return pictures from 0 to 1 that are to be drawn again."""
    pictures = marked(1, 32, 32, count=8)[0].sigmoid()
    return pictures, pictures


SEGMENTATION: Table = {
    "segmentation_models_pytorch": (
        smp("Unet"),
        smp("UnetPlusPlus"),
        smp("MAnet"),
        smp("Linknet"),
        smp("FPN"),
        smp("PSPNet"),
        smp("DeepLabV3Plus"),
        smp("PAN", size=128),
        smp("Segformer", "mit_b0"),
        smp("Unet", "mobilenet_v2", decoder_attention_type="scse"),
    ),
    "monai": (
        monai("U-Net", "UNet", 64, 64, **PLANE, **unet(num_res_units=2)),
        monai("U-Net, volumes", "UNet", 32, 32, 32, **SPACE, **unet(num_res_units=2)),
        monai("basic U-Net", "BasicUNet", 64, 64, **PLANE, features=(16, 16, 32, 64, 64, 16)),
        monai("attention U-Net", "AttentionUnet", 64, 64, **PLANE, **unet()),
        monai("SegResNet", "SegResNet", 32, 32, 32, **SPACE),
        monai(
            "UNETR",
            "UNETR",
            32,
            32,
            32,
            in_channels=1,
            out_channels=MARKS,
            img_size=(32, 32, 32),
            feature_size=8,
            hidden_size=48,
            mlp_dim=96,
            num_heads=4,
        ),
        monai(
            "Swin UNETR",
            "SwinUNETR",
            64,
            64,
            **PLANE,
            feature_size=12,
            window_size=4,
        ),
        monai("HighResNet", "HighResNet", 16, 16, 16, **SPACE),
        monai("MedNeXt", "MedNeXt", 32, 32, 32, **SPACE, init_filters=8, kernel_size=3),
        (
            "nnU-Net, deep supervision",
            of(
                "monai.networks.nets.DynUNet",
                **PLANE,
                kernel_size=[3, 3, 3, 3],
                strides=[1, 2, 2, 2],
                upsample_kernel_size=[2, 2, 2],
                filters=[16, 32, 64, 64],
                deep_supervision=True,
                deep_supr_num=2,
            ),
            partial(marked, 1, 64, 64),
            deep_loss,
        ),
        (
            "variational autoencoder",
            of(
                "monai.networks.nets.VarAutoEncoder",
                spatial_dims=2,
                in_shape=(1, 32, 32),
                out_channels=1,
                latent_size=16,
                channels=(16, 32),
                strides=(2, 2),
            ),
            smooth_pictures,
            drawn_again,
        ),
        (
            "discriminator",
            of(
                "monai.networks.nets.Discriminator",
                in_shape=(1, 32, 32),
                channels=(16, 32, 64),
                strides=(2, 2, 2),
            ),
            true_or_false,
            F.binary_cross_entropy,
        ),
        (
            "VoxelMorph",
            of(
                "monai.networks.nets.VoxelMorph",
                of(
                    "monai.networks.nets.VoxelMorphUNet",
                    spatial_dims=2,
                    in_channels=2,
                    unet_out_channels=16,
                    channels=(16, 16, 32, 32),
                    final_conv_channels=(16,),
                ),
                spatial_dims=2,
            ),
            pairs,
            registered,
        ),
        (
            "bags of pictures, attention",
            of(
                "monai.networks.nets.MILModel",
                num_classes=2,
                pretrained=False,
                backbone="resnet18",
            ),
            bags,
            F.cross_entropy,
        ),
    ),
}
