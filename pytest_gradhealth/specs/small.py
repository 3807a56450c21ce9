"""Configurations of transformers made small: the same architecture with less of everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: How many words there are, the first of which mean something and are none of a text.
VOCABULARY, SPECIAL = 256, 4
#: What configurations call the number of their layers, and everything else that is made less.
_LAYERS = dict.fromkeys(
    (
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_encoder_layers"),
        *("num_decoder_layers", "encoder_layers", "decoder_layers", "num_hidden_groups"),
    ),
    2,
)
#: Enough where every fourth, sixth or eighth layer is of another kind.
_SOME = dict.fromkeys(_LAYERS, 8)
_WORDS = {"vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY}
#: Numbers of words that mean something, which have to be among those that there are.
_SPECIAL = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_bos_token_id": 1,
    "forced_eos_token_id": 2,
    "mask_token_id": 3,
    "sep_token_id": 2,
    "cls_token_id": 1,
}
_WIDTHS = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "emb_dim"), 64),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "hidden_dim"), 128),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"), 128),
    **dict.fromkeys(("shared_expert_intermediate_size", "attention_hidden_size"), 64),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "rotary_dim", "v_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_PICTURES = {"image_size": 32, "patch_size": 8}
#: What would load weights of somebody else's, or be changed by a forward of few words.
_INSTEAD = {
    ("use_pretrained_backbone", True): False,
    ("use_timm_backbone", True): False,
    ("attention_type", "block_sparse"): "original_full",
}
#: Lists with an item for each layer, which follow from how many there are.
_BY_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type")


def ever_larger(known: Mapping[str, Any], named: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options of a configuration, the smallest architecture first, by what is `known` of it.

    `known` are its options with their values, and what of them is `named` stays.
    """
    tables = [_LAYERS | _WIDTHS | _WORDS | _PICTURES, _LAYERS | _WIDTHS | _WORDS]
    tables += [_SOME | _WIDTHS | _WORDS, _WIDTHS | _WORDS, _LAYERS | _WORDS, _LAYERS, {}]
    before = None
    for table in tables:
        instead = {n: new for (n, old), new in _INSTEAD.items() if known.get(n) == old}
        found = {**_smaller(known, table), **instead, **named}
        if known.get("is_encoder_decoder") and known.get("decoder_start_token_id") is None:
            found.setdefault("decoder_start_token_id", known.get("pad_token_id") or 0)
        if found != before:
            yield found
        before = found


def without_lists(known: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that there is one of for each layer."""
    return {name: value for name, value in known.items() if name not in _BY_LAYER}


def _smaller(known: Mapping[str, Any], table: Mapping[str, int]) -> dict[str, Any]:
    """What of a configuration is more than in a table, also in the configurations inside it."""
    found: dict[str, Any] = {n: most for n, most in table.items() if _exceeds(known.get(n), most)}
    found |= _within(known, found.get("vocab_size"))
    heads, shared = "num_attention_heads", "num_key_value_heads"
    if {heads, shared} <= found.keys() and known[heads] == known[shared]:
        found[shared] = found[heads]  # some do not share theirs, whatever they are told
    if {"num_heads", "head_dim", "hidden_size"} <= found.keys() and known.get("expand"):
        found["num_heads"] = known["expand"] * found["hidden_size"] // found["head_dim"]
    for name, inner in known.items():
        if name.endswith("_config") and isinstance(inner, Mapping):
            found |= {name: less} if (less := _smaller(inner, table)) else {}
    return found


def _exceeds(value: object, most: int) -> bool:
    return type(value) is int and value > most


def _within(known: Mapping[str, Any], words: int | None) -> dict[str, int]:
    """The words that mean something and are not among so many."""
    if words is None:
        return {}
    return {n: new for n, new in _SPECIAL.items() if _exceeds(known.get(n), words - 1)}
