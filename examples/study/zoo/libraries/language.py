"""Language models of small libraries: attention of many kinds, recurrence, experts."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from examples.study.network import Batch
from examples.study.zoo.libraries.batches import (
    CLASSES,
    LENGTH,
    VOCABULARY,
    WIDTH,
    next_words,
    same_words,
    sentences,
    token_cross_entropy,
    words,
)
from examples.study.zoo.libraries.entry import Asked, Made, Row, Table, first, itself, of
from examples.study.zoo.libraries.parts import Sparse, Tagger, Words

SIZES: dict[str, Any] = {"num_tokens": VOCABULARY, "dim": WIDTH, "depth": 3, "heads": 4}
RECURRENT: dict[str, Any] = {"num_tokens": VOCABULARY, "dim": WIDTH, "depth": 4}
LONG: dict[str, Any] = {**SIZES, "max_seq_len": LENGTH, "causal": True}


def x_decoder(**options: Any) -> Made:
    """Say how a causal language model of x-transformers is made."""
    layers = of("x_transformers.Decoder", dim=WIDTH, depth=4, heads=4, **options)
    return of(
        "x_transformers.AutoregressiveWrapper",
        of(
            "x_transformers.TransformerWrapper",
            num_tokens=VOCABULARY,
            max_seq_len=LENGTH,
            attn_layers=layers,
        ),
    )


def x_encoder(**options: Any) -> Made:
    """Say how an encoder of x-transformers is made."""
    layers = of("x_transformers.Encoder", dim=WIDTH, depth=4, heads=4)
    return of(
        "x_transformers.TransformerWrapper",
        num_tokens=VOCABULARY,
        max_seq_len=LENGTH,
        attn_layers=layers,
        **options,
    )


def translator() -> Made:
    """Say how an encoder and a decoder of x-transformers are made."""
    sides = {"num_tokens": VOCABULARY, "depth": 2, "heads": 4, "max_seq_len": LENGTH}
    options = {f"{side}_{name}": size for side in ("enc", "dec") for name, size in sides.items()}
    return of("x_transformers.XTransformer", dim=WIDTH, tie_token_emb=True, **options)


def nystrom() -> Made:
    """Say how a Nystromformer for every word is made."""
    sizes = {"dim": WIDTH, "depth": 3, "dim_head": 16, "heads": 4, "num_landmarks": 16}
    return of(Words, of("nystrom_attention.Nystromformer", **sizes))


def asked(name: str, kind: str, *parts: Made, loss: Any = itself, **options: Any) -> Row:
    """Return the row of a language model that works out its own loss where it is asked to."""
    return name, of(Asked, of(kind, *parts, **options), return_loss=True), sentences, loss


def plain(name: str, kind: str, **options: Any) -> Row:
    """Return the row of a causal language model whose words are compared with the next ones."""
    return name, of(kind, **LONG, **options), next_words, token_cross_entropy


def mixture(name: str, kind: str, **options: Any) -> Row:
    """Return the row of a transformer's block with a library's experts."""
    return name, of(Sparse, of(kind, WIDTH, **options)), guessed, itself


def padded_sentences() -> Batch:
    """Return sentences of several lengths, as a mask says, with labels of their first words."""
    walk = words(LENGTH, 8)
    mask = torch.arange(LENGTH) < torch.randint(LENGTH // 2, LENGTH, (8, 1))
    return {"x": walk, "mask": mask}, walk[:, 0] % CLASSES


def translated() -> Batch:
    """Return padded sentences and the same ones some words further."""
    walk = words(LENGTH + 8)
    return (walk[:, :LENGTH], walk[:, 8:40], torch.arange(LENGTH).expand(4, -1) < LENGTH - 9), None


def tagged() -> Batch:
    """Return padded sentences, a tag of each word and the mask."""
    walk, after = same_words(count=8)
    mask = torch.arange(LENGTH) < torch.randint(LENGTH // 2, LENGTH, (8, 1))
    return (walk, after % CLASSES, mask), None


def guessed() -> Batch:
    """Return sentences and the words after them as two inputs of a model with its own loss."""
    return next_words(), None


def x(name: str, **options: Any) -> Row:
    """Return the row of a causal language model of x-transformers."""
    return name, x_decoder(**options), sentences, itself


LANGUAGE: Table = {
    "x_transformers": (
        x("decoder"),
        x("decoder, Llama-like", rotary_pos_emb=True, ff_swish=True, ff_glu=True, use_rmsnorm=True),
        x("decoder, ALiBi", alibi_pos_bias=True),
        x("decoder, T5's bias", rel_pos_bias=True),
        x("decoder, dynamic position bias", dynamic_pos_bias=True),
        x("decoder, sandwich norm", sandwich_norm=True),
        x("decoder, post-norm", pre_norm=False),
        (
            "encoder, padding",
            x_encoder(num_memory_tokens=4, average_pool_embed=True, logits_dim=CLASSES),
            padded_sentences,
            cross_entropy,
        ),
        ("translator, padding", translator(), translated, itself),
    ),
    "local_attention": (
        asked(
            "local transformer",
            "local_attention.LocalTransformer",
            **LONG,
            local_attn_window_size=16,
        ),
    ),
    "performer_pytorch": (
        (
            "Performer",
            of("performer_pytorch.PerformerLM", **SIZES, max_seq_len=LENGTH),
            same_words,
            token_cross_entropy,
        ),
    ),
    "linformer": (
        (
            "Linformer",
            of(Words, of("linformer.Linformer", WIDTH, LENGTH, depth=3, k=16, heads=4)),
            same_words,
            token_cross_entropy,
        ),
    ),
    "nystrom_attention": (("Nystromformer", nystrom(), same_words, token_cross_entropy),),
    "minGRU_pytorch": (
        asked("minGRU", "minGRU_pytorch.minLM.minLM", **RECURRENT),
        asked(
            "minLSTM, convolutions",
            "minGRU_pytorch.minLM.minLM",
            **RECURRENT,
            use_lstm=True,
            enable_conv=True,
        ),
    ),
    "mambapy": (
        (
            "Mamba",
            of(Words, of("mambapy.mamba.Mamba", of("mambapy.mamba.MambaConfig", WIDTH, 4))),
            next_words,
            token_cross_entropy,
        ),
    ),
    "routing_transformer": (
        asked(
            "routing transformer",
            "routing_transformer.AutoregressiveWrapper",
            of(
                "routing_transformer.RoutingTransformerLM",
                **LONG,
                window_size=16,
                n_local_attn_heads=2,
            ),
        ),
    ),
    "reformer_pytorch": (
        plain("Reformer", "reformer_pytorch.ReformerLM", bucket_size=8, n_hashes=2, ff_chunks=1),
    ),
    "sinkhorn_transformer": (
        plain(
            "Sinkhorn transformer",
            "sinkhorn_transformer.SinkhornTransformerLM",
            bucket_size=16,
        ),
    ),
    "h_transformer_1d": (
        plain("H-transformer", "h_transformer_1d.HTransformer1D", dim_head=16, block_size=16),
    ),
    "block_recurrent_transformer_pytorch": (
        asked(
            "block-recurrent transformer",
            "block_recurrent_transformer_pytorch.BlockRecurrentTransformer",
            **SIZES,
            loss=first,
            dim_head=16,
            max_seq_len=LENGTH,
            block_width=16,
            recurrent_layers=(2,),
        ),
    ),
    "recurrent_memory_transformer_pytorch": (
        asked(
            "recurrent memory transformer",
            "recurrent_memory_transformer_pytorch.RecurrentMemoryTransformerWrapper",
            of(
                "recurrent_memory_transformer_pytorch.RecurrentMemoryTransformer",
                **SIZES,
                num_memory_tokens=4,
                seq_len=32,
            ),
            loss=first,
        ),
    ),
    "MEGABYTE_pytorch": (
        asked(
            "MEGABYTE",
            "MEGABYTE_pytorch.MEGABYTE",
            num_tokens=VOCABULARY,
            dim=(WIDTH, 32),
            depth=(2, 2),
            max_seq_len=(16, 4),
            dim_head=16,
            heads=4,
        ),
    ),
    "titans_pytorch": (
        asked(
            "Titans, memory as context",
            "titans_pytorch.MemoryAsContextTransformer",
            **SIZES,
            dim_head=16,
            segment_len=16,
            num_persist_mem_tokens=2,
            num_longterm_mem_tokens=4,
        ),
    ),
    "st_moe_pytorch": (mixture("ST-MoE", "st_moe_pytorch.MoE", num_experts=4),),
    "soft_moe_pytorch": (mixture("soft MoE", "soft_moe_pytorch.SoftMoE", seq_len=LENGTH),),
    "mixture_of_experts": (
        mixture("sparsely gated experts", "mixture_of_experts.MoE", num_experts=4),
    ),
    "torchcrf": (
        (
            "BiLSTM-CRF, padding",
            of(Tagger, of("torchcrf.CRF", CLASSES, batch_first=True)),
            tagged,
            itself,
        ),
    ),
}
