"""Models of torchvision, timm, transformers and PEFT, small and at their initialisation.

Each comes with the loss that its library trains it with. Healthy ones pass, on the path that one
expects; twins with a known fault fail. Nothing is downloaded.
"""

from __future__ import annotations

import warnings
from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import Diagnosis, ProbeError, probe
from pytest_gradhealth.tensors.trees import tensors
from tests.helpers.findings import explained
from tests.helpers.libraries import library
from tests.helpers.state import unchanged, with_gradients

LABELS = torch.tensor([0, 1, 2, 3])


def images(size: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, size, size)


def probed(model: nn.Module, *batch: Any, **options: Any) -> Diagnosis:
    """Probe a model that has gradients already, and see to it that nothing changes."""
    with unchanged(with_gradients(model), *tensors(batch)):
        return probe(model, *batch, **options)


def ends(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """First and last layer of each path that is judged."""
    return [(path.first.name, path.last.name) for path in diagnosis.profile.judged_paths]


def failures(diagnosis: Diagnosis) -> set[str]:
    return {finding.code for finding in diagnosis.findings if finding.severity == "failure"}


# torchvision: classifiers.


@pytest.mark.parametrize(
    ("name", "size", "first", "last"),
    [
        ("resnet18", 64, "conv1", "fc"),
        ("mobilenet_v3_small", 64, "features.0.0", "classifier.3"),
        ("shufflenet_v2_x0_5", 64, "conv1.0", "fc"),
        ("squeezenet1_1", 64, "features.0", "(output)"),
    ],
)
def test_classifiers_of_torchvision(name: str, size: int, first: str, last: str) -> None:
    model = library("torchvision").models.get_model(name, num_classes=10)
    diagnosis = probed(model, images(size), LABELS, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    assert ends(diagnosis) == [(first, last)]


def test_a_classifier_of_torchvision_without_its_normalisation_fails() -> None:
    def nothing(width: int) -> nn.Module:
        return nn.Identity()

    models = library("torchvision").models
    model = models.mobilenet_v3_small(num_classes=10, norm_layer=nothing)
    diagnosis = probed(model, images(64), LABELS, loss=cross_entropy)
    assert failures(diagnosis) == {"GH101"}
    assert ends(diagnosis) == [("features.0.0", "classifier.3")]


# torchvision: detectors.

PICTURES = [torch.rand(3, 96, 96), torch.rand(3, 80, 96)]
BOXES = [
    {"boxes": torch.tensor([[10.0, 10.0, 60.0, 60.0]]), "labels": torch.tensor([1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
]
SMALL = {"weights": None, "weights_backbone": None, "num_classes": 5}


def faster_rcnn() -> Any:
    detection = library("torchvision").models.detection
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(**SMALL, min_size=96, max_size=96)


def retina_net() -> Any:
    library("torchvision")
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return RetinaNet(backbone, 5, min_size=96, max_size=96)


@pytest.mark.parametrize(
    ("build", "first"), [(faster_rcnn, "backbone.body.0.0"), (retina_net, "backbone.body.conv1")]
)
def test_detectors_add_their_losses_up(build: Callable[[], nn.Module], first: str) -> None:
    """A path from the stem through where the heads part; then each head for itself."""
    model = build()
    diagnosis = probed(model, (PICTURES, BOXES))
    assert diagnosis.verdict == "healthy", diagnosis
    assert ends(diagnosis)[0] == (first, "(outputs)")
    torch.manual_seed(diagnosis.profile.seed)
    losses = model(PICTURES, BOXES)
    assert len(losses) > 1
    assert diagnosis.profile.loss == pytest.approx(sum(loss.item() for loss in losses.values()))


@pytest.mark.parametrize("build", [faster_rcnn, retina_net])
def test_a_detector_in_evaluation_has_no_loss(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    with unchanged(model), pytest.raises(ProbeError) as caught:
        probe(model, PICTURES)
    assert str(caught.value) == (
        "the model returns boxes and scores, which carry no loss: detectors make theirs in train"
        " mode, from targets among their inputs; call model.train() and pass (images, targets) as"
        " the inputs"
    )


def test_outputs_without_elements_are_not_zeros() -> None:
    class Finder(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = super().forward(x)
            return scores[scores.amax(1) > 1e9]

    with pytest.raises(ProbeError) as caught:
        probe(Finder(3, 2), torch.randn(4, 3))
    assert str(caught.value) == (
        "the model's outputs hold no numbers (shape (0, 2)), so that no gradient can flow back from"
        " them; pass a batch for which there are some, or loss=..."
    )


# torchvision: segmentation.


def pixelwise(outputs: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """The loss of torchvision's reference training."""
    losses = {name: cross_entropy(out, target) for name, out in outputs.items()}
    return losses["out"] + 0.5 * losses.get("aux", torch.zeros(()))


@pytest.mark.parametrize(
    ("name", "options", "first", "last"),
    [
        ("lraspp_mobilenet_v3_large", {}, "backbone.0.0", "(output)"),
        ("fcn_resnet50", {"aux_loss": True}, "backbone.conv1", "(outputs)"),
    ],
)
def test_segmentation_of_torchvision(
    name: str, options: dict[str, Any], first: str, last: str
) -> None:
    """Where an auxiliary head joins the loss, both ends are one."""
    model = library("torchvision").models.get_model(name, **SMALL, **options)
    target = torch.randint(0, 5, (2, 64, 64))
    diagnosis = probed(model, images(64, 2), target, loss=pixelwise)
    assert diagnosis.verdict == "healthy", diagnosis
    assert ends(diagnosis)[0] == (first, last)


# timm.


@pytest.mark.parametrize(
    ("name", "options", "first", "last"),
    [
        ("resnet10t", {}, "conv1.0", "fc"),
        ("convnext_atto", {}, "stem.0", "head"),
        ("efficientnet_lite0", {}, "conv_stem", "classifier"),
        (
            "vit_tiny_patch16_224",
            {"img_size": 64, "depth": 4, "embed_dim": 96},
            "patch_embed.proj",
            "head",
        ),
    ],
)
def test_classifiers_of_timm(name: str, options: dict[str, Any], first: str, last: str) -> None:
    model = library("timm").create_model(name, pretrained=False, num_classes=10, **options)
    diagnosis = probed(model, images(64), LABELS, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    assert ends(diagnosis) == [(first, last)]


# transformers.

WORDS = 4 + torch.arange(64).mul(37).remainder(124).reshape(4, 16)
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BERT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    **SPECIAL,
}
GPT2 = {"vocab_size": 128, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32, **SPECIAL}
LLAMA = {**BERT, "num_key_value_heads": 2}
T5 = {
    "vocab_size": 128,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
VIT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 4,
}
WAV2VEC2 = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "ctc_loss_reduction": "mean",
    "mask_time_prob": 0.0,
}
WHISPER = {
    "vocab_size": 128,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 16,
    "max_source_positions": 25,
    "max_target_positions": 32,
    "decoder_start_token_id": 1,
    "init_std": 0.08,  # for 32 units what the default of 0.02 is for 512
    **SPECIAL,
}


def transformer(name: str, options: Mapping[str, Any], **more: Any) -> nn.Module:
    """Build a model from its configuration alone."""
    transformers = library("transformers")
    kind = getattr(transformers, name)
    model: nn.Module = kind(kind.config_class(**options, **more)).train()
    return model


def read() -> dict[str, Tensor]:
    return {"input_ids": WORDS, "labels": LABELS}


def foretold() -> dict[str, Tensor]:
    return {"input_ids": WORDS, "labels": WORDS}


def translated() -> dict[str, Tensor]:
    return {"input_ids": WORDS, "labels": WORDS[:, :8]}


def seen() -> dict[str, Tensor]:
    return {"pixel_values": images(32), "labels": LABELS}


def heard() -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 2000), "labels": torch.randint(1, 32, (2, 6))}


def transcribed() -> dict[str, Tensor]:
    return {"input_features": torch.randn(2, 16, 50), "labels": WORDS[:2, :8]}


#: Class, configuration, batch, and the ends of the paths: one from each embedding.
TRANSFORMERS: Mapping[str, tuple[str, Mapping[str, Any], Any, list[tuple[str, str]]]] = {
    "encoder": (
        "BertForSequenceClassification",
        {**BERT, "num_labels": 4},
        read,
        [
            ("bert.embeddings.word_embeddings", "classifier"),
            ("bert.embeddings.token_type_embeddings", "classifier"),
            ("bert.embeddings.position_embeddings", "classifier"),
        ],
    ),
    "decoder": (
        "GPT2LMHeadModel",
        GPT2,
        foretold,
        [("transformer.wte", "lm_head"), ("transformer.wpe", "lm_head")],
    ),
    "decoder with rotary positions": (
        "LlamaForCausalLM",
        LLAMA,
        foretold,
        [("model.embed_tokens", "lm_head")],
    ),
    "experts": (
        "MixtralForCausalLM",
        {**LLAMA, "num_local_experts": 4},
        foretold,
        [("model.embed_tokens", "lm_head")],
    ),
    "encoder and decoder": (
        "T5ForConditionalGeneration",
        T5,
        translated,
        [
            ("encoder.embed_tokens", "lm_head"),
            ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias", "lm_head"),
            ("decoder.embed_tokens", "lm_head"),
            ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias", "lm_head"),
        ],
    ),
    "vision": (
        "ViTForImageClassification",
        VIT,
        seen,
        [("vit.embeddings.patch_embeddings.projection", "classifier")],
    ),
    "sound": (
        "Wav2Vec2ForCTC",
        WAV2VEC2,
        heard,
        [("wav2vec2.feature_extractor.conv_layers.0.conv", "lm_head")],
    ),
    "spectra": (
        "WhisperForConditionalGeneration",
        WHISPER,
        transcribed,
        [
            ("model.encoder.conv1", "proj_out"),
            ("model.decoder.embed_tokens", "proj_out"),
            ("model.decoder.embed_positions", "proj_out"),
        ],
    ),
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_with_their_own_loss(kind: str) -> None:
    name, options, batch, paths = TRANSFORMERS[kind]
    diagnosis = probed(transformer(name, options), batch())
    assert diagnosis.verdict == "healthy", diagnosis
    assert ends(diagnosis) == paths


def test_the_loss_is_that_of_the_model() -> None:
    model = transformer("LlamaForCausalLM", LLAMA)
    expected = model(**foretold()).loss.item()
    assert probe(model, foretold()).profile.loss == pytest.approx(expected)


def test_the_batch_of_a_tokenizer_is_a_mapping_like_any_other() -> None:
    """It is moved with the model and still of its class when it gets there."""
    library("transformers")
    from transformers import BatchEncoding

    batch = BatchEncoding({"input_ids": WORDS, "labels": WORDS})
    assert isinstance(batch, UserDict)
    model = transformer("LlamaForCausalLM", LLAMA)
    diagnosis = probed(model, batch)
    assert diagnosis.ratio == probe(model, foretold()).ratio
    assert ends(diagnosis) == [("model.embed_tokens", "lm_head")]
    assert batch["input_ids"] is WORDS


@pytest.mark.parametrize(("kind", "spread"), [("encoder", 1000.0), ("decoder", 300.0)])
def test_transformers_that_start_too_large_fail(kind: str, spread: float) -> None:
    """Normalisation keeps all levels but that of the head: the first loss is in the hundreds."""
    name, options, batch, _ = TRANSFORMERS[kind]
    diagnosis = probed(transformer(name, options, initializer_range=spread), batch())
    assert "GH203" in failures(diagnosis)
    assert diagnosis.profile.loss > 100


def test_the_losses_of_routers_are_ends_like_others() -> None:
    """They leave from every block: all ways cross the embedding alone, and those of the last."""
    model = transformer("MixtralForCausalLM", LLAMA, num_local_experts=4, output_router_logits=True)
    diagnosis = probed(model, foretold())
    assert diagnosis.verdict == "healthy", diagnosis
    assert ends(diagnosis) == [
        ("model.embed_tokens", "(outputs)"),
        ("model.layers.2", "lm_head"),
    ]
    assert diagnosis.profile.paths[0].last.type == "model:1, model:2, model:3 and 1 more"


NO_LABELS = (
    "the model left its loss None: its inputs lack what it makes one of, most often labels; pass"
    " them with the inputs, for example {'input_ids': ids, 'labels': ids}, or pass loss=... that"
    " makes a scalar of what the model returns (logits)"
)


@pytest.mark.parametrize("targets", [None, LABELS], ids=["none", "apart"])
def test_labels_that_are_missing_are_asked_for(targets: Tensor | None) -> None:
    model = transformer("BertForSequenceClassification", BERT, num_labels=4)
    with unchanged(model), pytest.raises(ProbeError) as caught:
        probe(model, {"input_ids": WORDS}, targets)
    assert str(caught.value) == NO_LABELS


def test_a_loss_of_the_caller_takes_what_the_model_returns() -> None:
    model = transformer("BertForSequenceClassification", BERT, num_labels=4)
    diagnosis = probed(
        model, {"input_ids": WORDS}, LABELS, loss=lambda out, y: cross_entropy(out.logits, y)
    )
    assert diagnosis.verdict == "healthy", diagnosis
    assert diagnosis.ratio == pytest.approx(probe(model, read()).ratio)


def test_a_backbone_has_no_loss_to_ask_for() -> None:
    diagnosis = probed(transformer("BertModel", BERT), {"input_ids": WORDS})
    assert diagnosis.verdict != "failure", diagnosis


# PEFT.


def adapted(kind: str, **options: Any) -> nn.Module:
    """A transformer with LoRA's adapters, the rest of it frozen."""
    peft = library("peft")
    name, configuration, _, _ = TRANSFORMERS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one library's about the other
        model: nn.Module = peft.get_peft_model(
            transformer(name, configuration), peft.LoraConfig(r=4, **options)
        )
    return model


@pytest.mark.parametrize(
    ("kind", "options", "first"),
    [
        (
            "decoder",
            {"target_modules": ["c_attn"], "fan_in_fan_out": True},
            "base_model.model.transformer.h.0.attn.c_attn.lora_A.default",
        ),
        (
            "decoder with rotary positions",
            {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"},
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default",
        ),
    ],
)
def test_adapters_that_start_at_zero_are_healthy(
    kind: str, options: dict[str, Any], first: str
) -> None:
    """The path starts at the first adapter; its gradient is zero until B has moved."""
    model = adapted(kind, **options)
    zero = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert zero
    assert not any(p.any() for p in zero)
    diagnosis = probed(model, TRANSFORMERS[kind][2]())
    assert diagnosis.verdict == "healthy", diagnosis
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    assert diagnosis.profile.paths[0].first.name == first
    trained = {p.name for p in diagnosis.profile.parameters if p.state != "frozen"}
    assert all("lora_" in name for name in trained)


def test_adapters_whose_factors_are_both_zero_fail() -> None:
    model = adapted("decoder", target_modules=["c_attn"], fan_in_fan_out=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.zero_()
    assert "GH401" in failures(probed(model, foretold()))


def adapter(m: nn.Module) -> list[nn.Parameter]:
    return [p for p in m.parameters() if p.requires_grad]


def test_an_optimizer_holds_the_adapters_or_they_are_missing() -> None:
    """LoRA, with its frozen layers in the optimizer or not; and one of before it was wrapped."""
    options = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
    model, words = adapted("decoder", **options), foretold()
    for held in (adapter(model), [*model.parameters()]):
        optimizer = torch.optim.AdamW(held, lr=1e-3)
        assert probe(model, words, optimizer=optimizer).verdict == "healthy"
    frozen = [p for p in model.parameters() if not p.requires_grad]
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    head = torch.nn.Linear(2, 2)
    diagnosis = probe(model, words, optimizer=torch.optim.AdamW([*frozen, *head.parameters()]))
    message, because, advice = explained(diagnosis, "GH602")
    assert diagnosis.findings[0].message == message
    assert message == (
        f"no optimizer holds {len(names)} parameters ({', '.join(names[:3])} and"
        f" {len(names) - 3} more), which get a gradient"
    )
    assert (because, advice) == (
        "the optimizer holds 2 tensors that the model does not have: a layer was replaced, or"
        " parametrised, after it was built",
        "build the optimizer over model.parameters() once all layers are in place; or leave them"
        " out with --gradhealth-ignore='GH602:base_model'",
    )


@pytest.mark.parametrize(
    ("configuration", "options", "lost"),
    [
        ("IA3Config", {"target_modules": ["c_attn"], "feedforward_modules": []}, "ia3_l"),
        ("PromptTuningConfig", {"num_virtual_tokens": 4}, "prompt_encoder"),
        ("PrefixTuningConfig", {"num_virtual_tokens": 4}, "prompt_encoder"),
    ],
)
def test_other_adapters_are_missing_from_an_optimizer_of_before(
    configuration: str, options: dict[str, Any], lost: str
) -> None:
    peft = library("peft")
    name, sizes, batch, _ = TRANSFORMERS["decoder"]
    base = transformer(name, sizes)
    before = torch.optim.AdamW(base.parameters(), lr=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = getattr(peft, configuration)(task_type="CAUSAL_LM", **options)
        model = peft.get_peft_model(base, settings)
    found = probe(model, batch(), optimizer=before)
    (message, _, _) = explained(found, "GH602")
    assert lost in message
    after = torch.optim.AdamW(adapter(model), lr=1e-3)
    assert [f for f in probe(model, batch(), optimizer=after).findings if f.code == "GH602"] == []
