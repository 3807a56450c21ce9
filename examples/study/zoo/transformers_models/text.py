"""Encoders of text, and from sentence to sentence, of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from examples.study.network import Batch
from examples.study.zoo.transformers_models.batches import (
    labelled_words,
    masked_words,
    masked_words_of_pairs,
    permuted_words,
    replaced_words,
    with_global_attention,
)
from examples.study.zoo.transformers_models.sizes import (
    BART,
    BERT,
    CLASSES,
    LENGTH,
    SPECIAL,
    T5,
    VOCABULARY,
    Options,
)

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
