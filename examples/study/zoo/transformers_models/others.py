"""Long texts, sounds, series, and pictures with words, of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from examples.study.network import Batch
from examples.study.zoo.transformers_models.batches import (
    captioned_pictures,
    contrasted_sounds,
    labelled_spectra,
    past_and_future,
    transcribed_sounds,
    transcribed_spectra,
    translated_words,
    with_global_attention,
)
from examples.study.zoo.transformers_models.sizes import BART, BERT, SPEECH, VIT, Options

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
