"""Networks that start at zero, or close to it, by design."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study.network import Batch
from examples.study.zoo.special.batches import (
    CLASSES,
    LENGTH,
    VOCABULARY,
    WIDTH,
    next_words,
    next_words_with_labels,
    noisy_pictures,
    pictures,
    sentences,
    token_cross_entropy,
    unlabelled_vectors,
    vectors,
)
from examples.study.zoo.special.entry import Entry
from examples.study.zoo.special.generative import (
    Diffusion,
    DiffusionTransformer,
    Flow,
    UNet,
    unlikelihood,
)
from examples.study.zoo.special.parts import (
    Apply,
    Attention,
    Residual,
    conv,
    feed_forward,
    group_norm,
    he_,
    head,
    orthogonal,
    pooled,
    pre_norm,
    vision,
    zero_,
)
from examples.study.zoo.special.sequences import Language


def low_rank_language() -> nn.Module:
    """Return a frozen language model with LoRA's matrices, the second of which is zero."""
    model = Language(4, rank=4)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".down." in name or ".up." in name)
    return model


def peft_language() -> nn.Module:
    """Return GPT-2 in small with the LoRA layers of peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=4,
        n_head=4,
        n_positions=LENGTH,
        bos_token_id=1,
        eos_token_id=2,
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    model: nn.Module = get_peft_model(GPT2LMHeadModel(config), lora)
    return model


def rezero_mlp(depth: int = 24) -> nn.Module:
    """Return a residual network whose branches start at a factor of zero."""
    blocks = (
        Residual(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()), 0.0) for _ in range(depth)
    )
    return nn.Sequential(*blocks, nn.Linear(WIDTH, CLASSES))


def rezero_transformer(depth: int = 12) -> nn.Module:
    """Return a transformer without norms whose branches start at a factor of zero."""
    blocks = (
        nn.Sequential(Residual(Attention(WIDTH), 0.0), Residual(feed_forward(WIDTH), 0.0))
        for _ in range(depth)
    )
    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH), *blocks, Apply(partial(torch.mean, dim=1)), head()
    )


def skip_init(depth: int = 12, channels: int = 32) -> nn.Module:
    """Return a convolutional residual network without norms, branches times a zero."""

    def branch() -> nn.Module:
        body = nn.Sequential(
            nn.ReLU(), conv(channels, channels), nn.ReLU(), conv(channels, channels)
        )
        he_(body)
        return Residual(body, 0.0)

    return nn.Sequential(conv(3, channels), *(branch() for _ in range(depth)), pooled(channels))


class FixupBlock(nn.Module):
    """Two convolutions with scalar biases, the second of which starts at zero."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.first = conv(channels, channels, bias=False)
        self.second = conv(channels, channels, bias=False)
        self.biases = nn.Parameter(torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        with torch.no_grad():
            self.first.weight.mul_(depth**-0.5)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = self.biases
        y = self.first(x + a).add(b).relu()
        return (x + self.scale * self.second(y + c) + d).relu()  # type: ignore[no-any-return]


def fixup(depth: int = 9, channels: int = 32) -> nn.Module:
    """Return a residual network without norms whose head starts at zero as well."""
    last = pooled(channels)
    zero_(last)
    blocks = (FixupBlock(channels, depth) for _ in range(depth))
    return nn.Sequential(conv(3, channels), nn.ReLU(), *blocks, last)


def layer_scale(depth: int = 12, start: float = 1e-6) -> nn.Module:
    """Return a vision transformer whose branches start at a millionth."""
    return vision(*(pre_norm(WIDTH, scale=start) for _ in range(depth)), last=head())


def zero_head_vision(depth: int = 6) -> nn.Module:
    """Return a vision transformer whose head starts at zero."""
    last = head()
    zero_(last)
    return vision(*(pre_norm(WIDTH) for _ in range(depth)), last=last)


def zero_gamma_resnet(name: str) -> nn.Module:
    """Return a residual network of torchvision whose branches end with a factor of zero."""
    from torchvision.models import get_model

    model: nn.Module = get_model(name, num_classes=CLASSES, zero_init_residual=True)
    return model


class TopOne(nn.Module):
    """A switch that sends each word to one of many experts."""

    def __init__(self, experts: int = 16):
        super().__init__()
        self.router = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(feed_forward(WIDTH) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        share, chosen = shares.max(-1)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            here = chosen == number
            if here.any():
                y = y.masked_scatter(here.unsqueeze(-1), expert(x[here]))
        return share.unsqueeze(-1) * y  # type: ignore[no-any-return]


def idle_experts(depth: int = 2) -> nn.Module:
    """Return a transformer with many experts and few words."""
    blocks: list[nn.Module] = []
    for _ in range(depth):
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(WIDTH), Attention(WIDTH))))
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(WIDTH), TopOne())))
    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH), *blocks, Apply(partial(torch.mean, dim=1)), head()
    )


class ActorCritic(nn.Module):
    """A policy that starts out undecided, and a critic of its own."""

    def __init__(self, actions: int = 4):
        super().__init__()
        root = math.sqrt(2)
        self.actor, self.critic = (
            nn.Sequential(
                orthogonal(8, 64, root),
                nn.Tanh(),
                orthogonal(64, 64, root),
                nn.Tanh(),
                orthogonal(64, outputs, gain),
            )
            for outputs, gain in ((actions, 0.01), (1, 1.0))
        )

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(states), self.critic(states).squeeze(1)


def played() -> Batch:
    """Return states, the actions taken, their probability, advantages and returns."""
    actions = torch.randint(4, (64,))
    return torch.randn(64, 8), (actions, torch.full((64,), 0.25), *torch.randn(2, 64))


def clipped_policy(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, ...]) -> Tensor:
    """Return the loss of PPO with the critic's and a bonus for entropy."""
    logits, values = outputs
    actions, before, advantages, returns = targets
    chances = logits.softmax(-1)
    ratio = chances.gather(1, actions.unsqueeze(1)).squeeze(1) / before
    policy = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    entropy = -(chances * logits.log_softmax(-1)).sum(-1).mean()
    return policy + 0.5 * F.mse_loss(values, returns) - 0.01 * entropy


#: What starts at zero, or close to it, by design: name, build, batch, loss, source.
NEAR_ZERO: tuple[Entry, ...] = (
    ("LoRA, by hand", low_rank_language, next_words, token_cross_entropy, "Hu et al., 2021"),
    ("LoRA, peft", peft_language, next_words_with_labels, None, "Hu et al., 2021"),
    ("ReZero MLP", rezero_mlp, vectors, F.cross_entropy, "Bachlechner et al., 2020"),
    (
        "ReZero transformer",
        rezero_transformer,
        sentences,
        F.cross_entropy,
        "Bachlechner et al., 2020",
    ),
    ("SkipInit", skip_init, pictures, F.cross_entropy, "De and Smith, 2020"),
    ("Fixup", fixup, pictures, F.cross_entropy, "Zhang et al., 2019"),
    ("LayerScale 1e-6", layer_scale, pictures, F.cross_entropy, "Touvron et al., 2021"),
    (
        "LayerScale 1e-6, 36 blocks",
        partial(layer_scale, 36),
        pictures,
        F.cross_entropy,
        "Touvron et al., 2021",
    ),
    (
        "zero gamma ResNet-18",
        partial(zero_gamma_resnet, "resnet18"),
        partial(pictures, 64),
        F.cross_entropy,
        "Goyal et al., 2017",
    ),
    (
        "zero gamma ResNet-50",
        partial(zero_gamma_resnet, "resnet50"),
        partial(pictures, 64),
        F.cross_entropy,
        "Goyal et al., 2017",
    ),
    ("ViT, zero head", zero_head_vision, pictures, F.cross_entropy, "Dosovitskiy et al., 2021"),
    ("DiT, adaLN-zero", DiffusionTransformer, noisy_pictures, F.mse_loss, "Peebles and Xie, 2023"),
    (
        "diffusion U-Net, zero convolutions",
        Diffusion,
        noisy_pictures,
        F.mse_loss,
        "Dhariwal and Nichol, 2021",
    ),
    (
        "U-Net, zero output",
        partial(UNet, group_norm, True, True),
        noisy_pictures,
        F.mse_loss,
        "Ho et al., 2020",
    ),
    (
        "RealNVP, zero last layers",
        Flow,
        unlabelled_vectors,
        unlikelihood,
        "Dinh et al., 2017; Kingma and Dhariwal, 2018",
    ),
    ("PPO, policy gain 0.01", ActorCritic, played, clipped_policy, "Andrychowicz et al., 2021"),
    (
        "16 experts, few words",
        idle_experts,
        partial(sentences, 8, 2),
        F.cross_entropy,
        "Fedus et al., 2021",
    ),
)
