"""The sizes of small architectures of transformers, by the names that their configurations use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VOCABULARY = 256
COUNT = 4
LENGTH = 32
CLASSES = 10
#: Below it are padding, start and end; the one above is the mask.
FIRST_WORD = 4
MASK = 3
#: For what a loss leaves out.
IGNORED = -100

Options = Mapping[str, Any]

SPECIAL: Options = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BERT: Options = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    **SPECIAL,
}
LLAMA: Options = {**BERT, "num_key_value_heads": 2, "head_dim": 16}
GPT2: Options = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 6,
    "n_head": 4,
    "n_positions": 64,
    **SPECIAL,
}
EXPERTS: Options = {
    "moe_intermediate_size": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}
BART: Options = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    **SPECIAL,
}
T5: Options = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
VIT: Options = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": CLASSES,
}
SWIN: Options = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 24,
    "depths": [2, 2, 2],
    "num_heads": [2, 4, 8],
    "window_size": 4,
    "num_labels": CLASSES,
}
#: More and shorter spans are masked than by default: the sounds are a quarter of a second long.
SPEECH: Options = {
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "conv_dim": (32, 32, 32, 32),
    "conv_kernel": (10, 3, 3, 2),
    "conv_stride": (5, 2, 2, 2),
    "num_feat_extract_layers": 4,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.3,
    "mask_time_length": 4,
    "ctc_loss_reduction": "mean",
}
MAMBA: Options = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    **SPECIAL,
}
