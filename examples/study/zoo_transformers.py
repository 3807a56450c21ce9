"""Healthy networks: architectures of transformers, small and at their initialisation.

Each comes with its own loss, and with a batch that reaches all its parameters where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from examples.study.network import Batch, Network

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


def _words(length: int = LENGTH) -> Tensor:
    return torch.randint(FIRST_WORD, VOCABULARY, (COUNT, length))


def next_words(length: int = LENGTH) -> Batch:
    """Return random words that are to be foretold from those before."""
    words = _words(length)
    return {"input_ids": words, "labels": words}, None


def masked_words(length: int = LENGTH) -> Batch:
    """Return random words, every seventh masked and to be found."""
    words = _words(length)
    masked = torch.zeros_like(words, dtype=torch.bool)
    masked[:, ::7] = True
    return {
        "input_ids": words.masked_fill(masked, MASK),
        "labels": words.masked_fill(~masked, IGNORED),
    }, None


def masked_words_of_pairs(order: str) -> Batch:
    """Return masked words with the label of a pair of sentences under the key `order`."""
    inputs, _ = masked_words()
    return {**inputs, order: torch.randint(2, (COUNT,))}, None


def with_global_attention(batch: Callable[[], Batch]) -> Batch:
    """Return a batch whose first words attend to all others."""
    inputs, targets = batch()
    attention = torch.zeros(COUNT, LENGTH, dtype=torch.long)
    attention[:, 0] = 1
    return {**inputs, "global_attention_mask": attention}, targets


def replaced_words() -> Batch:
    """Return random words, each with whether it was replaced."""
    return {"input_ids": _words(), "labels": torch.randint(2, (COUNT, LENGTH))}, None


def permuted_words() -> Batch:
    """Return random words whose last eight are to be foretold without being seen."""
    words = _words()
    hidden = 8
    mask = torch.zeros(COUNT, LENGTH, LENGTH)
    mask[:, :, -hidden:] = 1
    targets = torch.zeros(COUNT, hidden, LENGTH)
    targets[:, range(hidden), range(LENGTH - hidden, LENGTH)] = 1
    return {
        "input_ids": words,
        "perm_mask": mask,
        "target_mapping": targets,
        "token_type_ids": torch.arange(LENGTH)
        .div(LENGTH // 2, rounding_mode="floor")
        .repeat(COUNT, 1),
        "labels": words[:, -hidden:],
    }, None


def labelled_words() -> Batch:
    """Return random sentences with random labels."""
    return {"input_ids": _words(), "labels": torch.randint(CLASSES, (COUNT,))}, None


def translated_words() -> Batch:
    """Return random sentences and what they are to become."""
    return {"input_ids": _words(), "labels": _words(16)}, None


def labelled_pictures(size: int = 32) -> Batch:
    """Return random pictures with random labels."""
    return {
        "pixel_values": torch.randn(COUNT, 3, size, size),
        "labels": torch.randint(CLASSES, (COUNT,)),
    }, None


def masked_pictures(size: int = 32, patch: int = 8) -> Batch:
    """Return random pictures with half of their patches masked."""
    patches = (size // patch) ** 2
    masked = torch.zeros(COUNT, patches, dtype=torch.bool)
    masked[:, ::2] = True
    return {"pixel_values": torch.randn(COUNT, 3, size, size), "bool_masked_pos": masked}, None


def pictures_alone(size: int = 32) -> Batch:
    """Return random pictures."""
    return {"pixel_values": torch.randn(COUNT, 3, size, size)}, None


def masked_films() -> Batch:
    """Return random films of four frames with half of their tubes masked."""
    masked = torch.zeros(COUNT, 2 * 16, dtype=torch.bool)
    masked[:, ::2] = True
    return {"pixel_values": torch.randn(COUNT, 4, 3, 32, 32), "bool_masked_pos": masked}, None


def captioned_pictures(size: int = 32) -> Batch:
    """Return random pictures and captions that are to find each other."""
    words = _words(16)
    words[:, -1] = 2
    return {
        "input_ids": words,
        "pixel_values": torch.randn(COUNT, 3, size, size),
        "return_loss": True,
    }, None


def transcribed_sounds(samples: int = 4000) -> Batch:
    """Return random sounds with random transcripts."""
    return {
        "input_values": torch.randn(COUNT, samples),
        "labels": torch.randint(1, 32, (COUNT, 12)),
    }, None


def transcribed_spectra(bins: int, frames: int, words: int = 12, width: int = 0) -> Batch:
    """Return random spectra with random transcripts; time comes last where `width` is 0."""
    shape = (COUNT, frames, width) if width else (COUNT, bins, frames)
    return {
        "input_features": torch.randn(*shape),
        "labels": torch.randint(FIRST_WORD, 32, (COUNT, words)),
    }, None


def labelled_spectra() -> Batch:
    """Return random spectra with random labels."""
    return {
        "input_values": torch.randn(COUNT, 64, 32),
        "labels": torch.randint(CLASSES, (COUNT,)),
    }, None


def contrasted_sounds() -> Batch:
    """Return random sounds with masked spans, and wrong answers to tell from the right ones."""
    frames = 99
    masked = torch.zeros(COUNT, frames, dtype=torch.long)
    masked[:, 10:30] = masked[:, 60:75] = 1
    return {
        "input_values": torch.randn(COUNT, 4000),
        "mask_time_indices": masked,
        "sampled_negative_indices": torch.randint(COUNT * frames, (COUNT, frames, 10)),
    }, None


def past_and_future() -> Batch:
    """Return random time series with what comes next."""
    return {
        "past_values": torch.randn(COUNT, 32, 3),
        "future_values": torch.randn(COUNT, 8, 3),
    }, None


#: Causal language models: the class without its ending, and options.
CAUSAL: Mapping[str, tuple[str, Options]] = {
    "GPT-2": ("GPT2LMHeadModel", {**GPT2, "n_layer": 12}),
    "GPT": ("OpenAIGPTLMHeadModel", GPT2),
    "CTRL": ("CTRLLMHeadModel", {**GPT2, "dff": 128}),
    "GPT-BigCode": ("GPTBigCodeForCausalLM", GPT2),
    "GPT-J": ("GPTJForCausalLM", {**GPT2, "rotary_dim": 8}),
    "CodeGen": ("CodeGenForCausalLM", {**GPT2, "rotary_dim": 8}),
    "GPT-Neo": (
        "GPTNeoForCausalLM",
        {
            **BERT,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 8,
        },
    ),
    "GPT-NeoX": ("GPTNeoXForCausalLM", BERT),
    "OPT": ("OPTForCausalLM", {**BERT, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    "OPT 350m": (
        "OPTForCausalLM",
        {**BERT, "ffn_dim": 128, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    ),
    "Bloom": ("BloomForCausalLM", {**MAMBA, "n_layer": 4, "n_head": 4}),
    "Falcon": ("FalconForCausalLM", BERT),
    "MPT": (
        "MptForCausalLM",
        {"vocab_size": VOCABULARY, "d_model": 64, "n_heads": 4, "n_layers": 4, "max_seq_len": 64},
    ),
    "Llama": ("LlamaForCausalLM", LLAMA),
    "Mistral": ("MistralForCausalLM", LLAMA),
    "Mixtral": ("MixtralForCausalLM", {**LLAMA, "num_local_experts": 8}),
    "Qwen2": ("Qwen2ForCausalLM", LLAMA),
    "Qwen2-MoE": ("Qwen2MoeForCausalLM", {**LLAMA, **EXPERTS}),
    "Qwen3": ("Qwen3ForCausalLM", LLAMA),
    "Qwen3-MoE": ("Qwen3MoeForCausalLM", {**LLAMA, **EXPERTS}),
    "Qwen3-Next": (
        "Qwen3NextForCausalLM",
        {
            **LLAMA,
            **EXPERTS,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
    "Gemma": ("GemmaForCausalLM", LLAMA),
    "Gemma 2": ("Gemma2ForCausalLM", LLAMA),
    "Gemma 3": ("Gemma3ForCausalLM", LLAMA),
    "RecurrentGemma": (
        "RecurrentGemmaForCausalLM",
        {**LLAMA, "num_hidden_layers": 6, "lru_width": 64, "attention_window_size": 16},
    ),
    "Phi": ("PhiForCausalLM", BERT),
    "Phi-3": ("Phi3ForCausalLM", {**BERT, "num_key_value_heads": 2}),
    "Cohere": ("CohereForCausalLM", LLAMA),
    "OLMo": ("OlmoForCausalLM", LLAMA),
    "OLMo 2": ("Olmo2ForCausalLM", LLAMA),
    "OLMoE": ("OlmoeForCausalLM", {**LLAMA, "num_experts": 8, "num_experts_per_tok": 2}),
    "StableLM": ("StableLmForCausalLM", LLAMA),
    "Starcoder2": ("Starcoder2ForCausalLM", LLAMA),
    "Granite": ("GraniteForCausalLM", LLAMA),
    "Nemotron": ("NemotronForCausalLM", LLAMA),
    "GLM-4": ("Glm4ForCausalLM", LLAMA),
    "GPT-OSS": ("GptOssForCausalLM", {**LLAMA, "num_local_experts": 8, "sliding_window": 16}),
    "DeepSeek-V3": (
        "DeepseekV3ForCausalLM",
        {
            **BERT,
            "moe_intermediate_size": 32,
            "num_key_value_heads": 4,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 32,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        },
    ),
    "BioGPT": ("BioGptForCausalLM", BERT),
    "XGLM": (
        "XGLMForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "num_layers": 4,
            "attention_heads": 4,
            "ffn_dim": 128,
            "max_position_embeddings": 64,
            **SPECIAL,
        },
    ),
    "Mamba": ("MambaForCausalLM", MAMBA),
    "Mamba-2": ("Mamba2ForCausalLM", {**MAMBA, "num_heads": 8, "head_dim": 16, "chunk_size": 16}),
    "FalconMamba": ("FalconMambaForCausalLM", MAMBA),
    "Jamba": (
        "JambaForCausalLM",
        {
            **LLAMA,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "use_mamba_kernels": False,
        },
    ),
    "Bamba": (
        "BambaForCausalLM",
        {
            **BERT,
            "num_key_value_heads": 2,
            "attn_layer_indices": [1, 3],
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_chunk_size": 16,
        },
    ),
    "RWKV": (
        "RwkvForCausalLM",
        {**MAMBA, "attention_hidden_size": 64, "intermediate_size": 128, "context_length": 64},
    ),
    "LFM2": ("Lfm2ForCausalLM", {**BERT, "num_key_value_heads": 2, "block_ff_dim": 128}),
    "xLSTM": (
        "xLSTMForCausalLM",
        {**MAMBA, "num_heads": 4, "num_blocks": 4, "qk_dim_factor": 1.0},
    ),
}

#: Encoders of text: class, options, batch.
ENCODERS: Mapping[str, tuple[str, Options, Callable[[], Batch]]] = {
    "BERT": ("BertForMaskedLM", BERT, masked_words),
    "BERT, next sentence": (
        "BertForPreTraining",
        BERT,
        partial(masked_words_of_pairs, "next_sentence_label"),
    ),
    "BERT classifier": (
        "BertForSequenceClassification",
        {**BERT, "num_labels": CLASSES},
        labelled_words,
    ),
    "RoBERTa": ("RobertaForMaskedLM", {**BERT, "type_vocab_size": 1}, masked_words),
    "RoBERTa, pre-norm": ("RobertaPreLayerNormForMaskedLM", BERT, masked_words),
    "XLM-RoBERTa": ("XLMRobertaForMaskedLM", BERT, masked_words),
    "ALBERT": (
        "AlbertForPreTraining",
        {**BERT, "embedding_size": 32},
        partial(masked_words_of_pairs, "sentence_order_label"),
    ),
    "ELECTRA": ("ElectraForPreTraining", {**BERT, "embedding_size": 32}, replaced_words),
    "DeBERTa": (
        "DebertaForMaskedLM",
        {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        masked_words,
    ),
    "DeBERTa-v2": (
        "DebertaV2ForMaskedLM",
        {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        masked_words,
    ),
    "DistilBERT": (
        "DistilBertForMaskedLM",
        {
            "vocab_size": VOCABULARY,
            "dim": 64,
            "hidden_dim": 128,
            "n_layers": 4,
            "n_heads": 4,
            "max_position_embeddings": 64,
        },
        masked_words,
    ),
    "MobileBERT": (
        "MobileBertForMaskedLM",
        {**BERT, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
        masked_words,
    ),
    "ModernBERT": (
        "ModernBertForMaskedLM",
        {**BERT, "cls_token_id": 1, "sep_token_id": 2},
        masked_words,
    ),
    "MPNet": ("MPNetForMaskedLM", BERT, masked_words),
    "FNet, next sentence": (
        "FNetForPreTraining",
        {**BERT, "type_vocab_size": 2},
        partial(masked_words_of_pairs, "next_sentence_label"),
    ),
    "BigBird, next sentence": (
        "BigBirdForPreTraining",
        {**BERT, "attention_type": "original_full"},
        partial(masked_words_of_pairs, "next_sentence_label"),
    ),
    "SqueezeBERT classifier": (
        "SqueezeBertForSequenceClassification",
        {**BERT, "embedding_size": 64, "num_labels": CLASSES},
        labelled_words,
    ),
    "FNet": ("FNetForMaskedLM", {**BERT, "type_vocab_size": 2}, masked_words),
    "RoFormer": ("RoFormerForMaskedLM", BERT, masked_words),
    "ConvBERT": ("ConvBertForMaskedLM", {**BERT, "embedding_size": 32}, masked_words),
    "SqueezeBERT": ("SqueezeBertForMaskedLM", {**BERT, "embedding_size": 64}, masked_words),
    "Nystromformer": (
        "NystromformerForMaskedLM",
        {**BERT, "num_landmarks": 8, "segment_means_seq_len": LENGTH},
        masked_words,
    ),
    "Longformer": (
        "LongformerForMaskedLM",
        {**BERT, "attention_window": 8},
        partial(with_global_attention, masked_words),
    ),
    "BigBird": ("BigBirdForMaskedLM", {**BERT, "attention_type": "original_full"}, masked_words),
    "Funnel": (
        "FunnelForMaskedLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "n_head": 4,
            "d_head": 16,
            "d_inner": 128,
            "block_sizes": [2, 2],
            "num_decoder_layers": 2,
        },
        masked_words,
    ),
    "XLNet": (
        "XLNetLMHeadModel",
        {"vocab_size": VOCABULARY, "d_model": 64, "n_layer": 4, "n_head": 4, "d_inner": 128},
        permuted_words,
    ),
    "XLM": (
        "XLMWithLMHeadModel",
        {
            "vocab_size": VOCABULARY,
            "emb_dim": 64,
            "n_layers": 4,
            "n_heads": 4,
            "max_position_embeddings": 64,
            "n_langs": 1,
        },
        masked_words,
    ),
}

#: From sentence to sentence: class, options.
TRANSLATORS: Mapping[str, tuple[str, Options]] = {
    "T5": ("T5ForConditionalGeneration", T5),
    "T5 v1.1": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mT5": ("MT5ForConditionalGeneration", T5),
    "UMT5": ("UMT5ForConditionalGeneration", T5),
    "LongT5": ("LongT5ForConditionalGeneration", {**T5, "local_radius": 7}),
    "Switch Transformer": (
        "SwitchTransformersForConditionalGeneration",
        {**T5, "num_experts": 8, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    ),
    "BART": ("BartForConditionalGeneration", BART),
    "mBART": ("MBartForConditionalGeneration", BART),
    "Pegasus": ("PegasusForConditionalGeneration", BART),
    "Marian": ("MarianMTModel", BART),
    "M2M-100": ("M2M100ForConditionalGeneration", BART),
    "Blenderbot": ("BlenderbotForConditionalGeneration", BART),
    "PLBART": ("PLBartForConditionalGeneration", BART),
    "ProphetNet": (
        "ProphetNetForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "num_encoder_layers": 3,
            "num_decoder_layers": 3,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "max_position_embeddings": 64,
            **SPECIAL,
        },
    ),
}

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

_TEXT_TOWER = {**BERT, "max_position_embeddings": 16}
_VISION_TOWER = {k: v for k, v in VIT.items() if k != "num_labels"}

#: Long texts, sounds, series, and pictures with words: class, options, batch.
OTHERS: Mapping[str, tuple[str, Options, Callable[[], Batch]]] = {
    "LED": (
        "LEDForConditionalGeneration",
        {
            **BART,
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 64,
            "attention_window": 8,
        },
        partial(with_global_attention, translated_words),
    ),
    "Whisper": (
        "WhisperForConditionalGeneration",
        {
            **BART,
            "num_mel_bins": 20,
            "max_source_positions": 32,
            "max_target_positions": 32,
        },
        partial(transcribed_spectra, 20, 64),
    ),
    "Speech2Text": (
        "Speech2TextForConditionalGeneration",
        {
            **BART,
            "input_feat_per_channel": 20,
            "max_source_positions": 64,
            "max_target_positions": 32,
            "conv_channels": 32,
        },
        partial(transcribed_spectra, 20, 64, width=20),
    ),
    "wav2vec 2": ("Wav2Vec2ForCTC", SPEECH, transcribed_sounds),
    "wav2vec 2, large": (
        "Wav2Vec2ForCTC",
        {
            **SPEECH,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "conv_bias": True,
            "layerdrop": 0.0,
        },
        transcribed_sounds,
    ),
    "wav2vec 2, contrastive": (
        "Wav2Vec2ForPreTraining",
        {
            **SPEECH,
            "codevector_dim": 32,
            "proj_codevector_dim": 32,
            "num_codevectors_per_group": 16,
            "num_negatives": 10,
        },
        contrasted_sounds,
    ),
    "wav2vec 2, Conformer": ("Wav2Vec2ConformerForCTC", SPEECH, transcribed_sounds),
    "HuBERT": ("HubertForCTC", SPEECH, transcribed_sounds),
    "WavLM": ("WavLMForCTC", SPEECH, transcribed_sounds),
    "UniSpeech": ("UniSpeechForCTC", SPEECH, transcribed_sounds),
    "SEW": ("SEWForCTC", {**SPEECH, "squeeze_factor": 2}, transcribed_sounds),
    "Data2Vec, audio": ("Data2VecAudioForCTC", SPEECH, transcribed_sounds),
    "AST": (
        "ASTForAudioClassification",
        {
            **{k: v for k, v in VIT.items() if k not in ("image_size", "patch_size")},
            "patch_size": 8,
            "frequency_stride": 6,
            "time_stride": 6,
            "max_length": 64,
            "num_mel_bins": 32,
        },
        labelled_spectra,
    ),
    "CLIP": (
        "CLIPModel",
        {"text_config": _TEXT_TOWER, "vision_config": _VISION_TOWER, "projection_dim": 32},
        captioned_pictures,
    ),
    "SigLIP": (
        "SiglipModel",
        {"text_config": _TEXT_TOWER, "vision_config": _VISION_TOWER},
        captioned_pictures,
    ),
    "PatchTST": (
        "PatchTSTForPrediction",
        {
            "num_input_channels": 3,
            "context_length": 32,
            "prediction_length": 8,
            "patch_length": 8,
            "patch_stride": 8,
            "d_model": 32,
            "ffn_dim": 64,
            "num_attention_heads": 4,
        },
        past_and_future,
    ),
    "PatchTSMixer": (
        "PatchTSMixerForPrediction",
        {
            "num_input_channels": 3,
            "context_length": 32,
            "prediction_length": 8,
            "patch_length": 8,
            "patch_stride": 8,
            "d_model": 32,
        },
        past_and_future,
    ),
}


def _built(architecture: str, options: Options) -> nn.Module:
    import transformers

    kind = getattr(transformers, architecture)
    model: nn.Module = kind(kind.config_class(**options))
    return model


def _network(name: str, architecture: str, options: Options, batch: Callable[[], Batch]) -> Network:
    return Network(
        name=name,
        family="transformers",
        build=partial(_built, architecture, options),
        batch=batch,
        source=f"transformers.{architecture}",
    )


def transformers_networks() -> tuple[Network, ...]:
    """Return the architectures of all tables."""
    entries = [
        *((name, *entry, next_words) for name, entry in CAUSAL.items()),
        *((name, *entry, translated_words) for name, entry in TRANSLATORS.items()),
        *((name, *entry) for table in (ENCODERS, VISION, OTHERS) for name, entry in table.items()),
    ]
    return tuple(_network(*entry) for entry in entries)
