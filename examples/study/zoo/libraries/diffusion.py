"""Diffusion, variational and quantised autoencoders of small libraries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.libraries.batches import WIDTH, grey_pictures
from examples.study.zoo.libraries.entry import Made, Row, Table, itself, of

#: The widths of a small U-Net of diffusers.
UNET: dict[str, Any] = {"sample_size": 16, "block_out_channels": (16, 32), "norm_num_groups": 8}


def smooth_pictures(size: int = 16, count: int = 8) -> Tensor:
    """Return smooth pictures of three channels from -1 to 1."""
    return 2 * grey_pictures(3, size, count)[0] - 1  # type: ignore[no-any-return]


def noised(channels: int = 3, size: int = 16, count: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Return smooth pictures in noise, times and the noise."""
    clean = 2 * grey_pictures(channels, size, count)[0] - 1
    times, noise = torch.randint(1000, (count,)), torch.randn_like(clean)
    kept = torch.cos(times / 1000 * torch.pi / 2)[:, None, None, None]
    return kept * clean + (1 - kept**2).sqrt() * noise, times, noise


def timed() -> Batch:
    """Return pictures in noise and times; the noise is to be foretold."""
    pictures, times, noise = noised()
    return (pictures, times), noise


def told() -> Batch:
    """Return latent pictures in noise, times and what a text says."""
    pictures, times, noise = noised(4)
    return (pictures, times, torch.randn(8, 7, 32)), noise


def named_latents() -> Batch:
    """Return latent pictures in noise, times and classes, named as in diffusers."""
    pictures, times, noise = noised(4)
    labels = torch.randint(10, (8,))
    return {"hidden_states": pictures, "timestep": times, "class_labels": labels}, noise


def told_latents() -> Batch:
    """Return latent pictures in noise, times and texts with padding, named as in diffusers."""
    pictures, times, noise = noised(4)
    mask = (torch.arange(7) < torch.randint(3, 8, (8, 1))).long()
    return {
        "hidden_states": pictures,
        "timestep": times,
        "encoder_hidden_states": torch.randn(8, 7, 32),
        "encoder_attention_mask": mask,
    }, noise


def moments() -> Batch:
    """Return latent pictures, a text, its summary and times, as Stable Diffusion 3 takes them."""
    pictures, times, noise = noised(4)
    inputs = (pictures, torch.randn(8, 7, 32), torch.randn(8, 16), times)
    names = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")
    return dict(zip(names, inputs, strict=True)), noise - pictures


def alone() -> Batch:
    """Return pictures from 0 to 1 for a model that works out its own loss."""
    return grey_pictures(3, 16, 8)


def twice() -> Batch:
    """Return smooth pictures that are to be drawn again."""
    pictures = smooth_pictures()
    return pictures, pictures


def foretold(outputs: Any, targets: Tensor) -> Tensor:
    """Return how far the sample of diffusers is from the targets."""
    return F.mse_loss(outputs.sample[:, : targets.shape[1]], targets)


class Drawn(nn.Module):
    """A variational autoencoder of diffusers; its answer is the picture and the divergence."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.model.encode(pictures).latent_dist
        return self.model.decode(codes.sample()).sample, codes.kl().mean()


def drawn_again(outputs: tuple[Tensor, Tensor], pictures: Tensor) -> Tensor:
    """Return how far the picture is from what it is to be, and a little of the divergence."""
    return F.mse_loss(outputs[0], pictures) + 1e-4 * outputs[1]


class Quantised(nn.Module):
    """An encoder, a library's codebook and a decoder."""

    def __init__(self, book: nn.Module):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, WIDTH, 4, 2, 1)
        )
        self.book = book
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)
        )

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.encoder(pictures)
        rows = codes.flatten(2).transpose(1, 2)
        answer = self.book(rows)
        chosen = answer[0].transpose(1, 2).unflatten(2, codes.shape[2:])
        extra = answer[2] if len(answer) > 2 else torch.zeros(())
        return self.decoder(chosen), extra.sum()


def quantised_loss(outputs: tuple[Tensor, Tensor], pictures: Tensor) -> Tensor:
    """Return how far the picture is from what it is to be, and the loss of the codebook."""
    return F.mse_loss(outputs[0], pictures) + outputs[1]


def diffusion(kind: str, channels: int = 3, **options: Any) -> Made:
    """Say how denoising-diffusion-pytorch's diffusion is made, which works out its own loss."""
    return of(
        f"denoising_diffusion_pytorch.{kind}",
        of("denoising_diffusion_pytorch.Unet", dim=16, dim_mults=(1, 2), channels=channels),
        image_size=16,
        **options,
    )


def book(name: str, kind: str, **options: Any) -> Row:
    """Return the row of an autoencoder with a codebook of vector-quantize-pytorch."""
    built = of(Quantised, of(f"vector_quantize_pytorch.{kind}", **options))
    return name, built, twice, quantised_loss


DIFFUSION: Table = {
    "denoising_diffusion_pytorch": (
        ("DDPM, velocity", diffusion("GaussianDiffusion"), alone, itself),
        (
            "DDPM, noise",
            diffusion("GaussianDiffusion", objective="pred_noise", min_snr_loss_weight=True),
            alone,
            itself,
        ),
    ),
    "diffusers": (
        (
            "U-Net",
            of(
                "diffusers.UNet2DModel",
                **UNET,
                layers_per_block=1,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            ),
            timed,
            foretold,
        ),
        (
            "U-Net under a text",
            of(
                "diffusers.UNet2DConditionModel",
                **UNET,
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=32,
                attention_head_dim=4,
            ),
            told,
            foretold,
        ),
        (
            "variational autoencoder",
            of(
                Drawn,
                of(
                    "diffusers.AutoencoderKL",
                    **UNET,
                    down_block_types=("DownEncoderBlock2D",) * 2,
                    up_block_types=("UpDecoderBlock2D",) * 2,
                ),
            ),
            twice,
            drawn_again,
        ),
        (
            "DiT",
            of(
                "diffusers.DiTTransformer2DModel",
                num_attention_heads=4,
                attention_head_dim=16,
                in_channels=4,
                num_layers=3,
                sample_size=16,
                num_embeds_ada_norm=1000,
            ),
            named_latents,
            foretold,
        ),
        (
            "PixArt",
            of(
                "diffusers.PixArtTransformer2DModel",
                num_attention_heads=4,
                attention_head_dim=16,
                in_channels=4,
                out_channels=8,
                num_layers=3,
                sample_size=16,
                cross_attention_dim=64,
                caption_channels=32,
                use_additional_conditions=False,
            ),
            told_latents,
            foretold,
        ),
        (
            "Stable Diffusion 3",
            of(
                "diffusers.SD3Transformer2DModel",
                sample_size=16,
                in_channels=4,
                out_channels=4,
                num_layers=3,
                attention_head_dim=16,
                num_attention_heads=4,
                joint_attention_dim=32,
                caption_projection_dim=64,
                pooled_projection_dim=16,
                pos_embed_max_size=16,
            ),
            moments,
            foretold,
        ),
    ),
    "vector_quantize_pytorch": (
        book("VQ-VAE", "VectorQuantize", dim=WIDTH, codebook_size=128),
        book(
            "VQ-VAE, cosines",
            "VectorQuantize",
            dim=WIDTH,
            codebook_size=128,
            codebook_dim=16,
            use_cosine_sim=True,
        ),
        book("residual codebooks", "ResidualVQ", dim=WIDTH, codebook_size=64, num_quantizers=3),
        book("finite scalars", "FSQ", levels=[8, 5, 5], dim=WIDTH),
        book("lookup-free", "LFQ", codebook_size=256, dim=WIDTH),
    ),
}
