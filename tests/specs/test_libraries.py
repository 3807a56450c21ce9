"""Architectures of libraries go by their names: without weights, and without any network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
from torch import nn

from pytest_gradhealth import assert_healthy
from pytest_gradhealth.errors import SettingError
from pytest_gradhealth.specs.drawn import Batch
from pytest_gradhealth.specs.small import ever_larger
from tests.helpers.libraries import library
from tests.helpers.specs import planned


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whatever asks for an address, or connects to one."""

    def refused(*arguments: object, **options: object) -> NoReturn:
        pytest.fail(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket, "create_connection", refused)


def test_the_network_is_out_of_reach() -> None:
    with pytest.raises(pytest.fail.Exception):
        socket.create_connection(("localhost", 1))


@pytest.mark.parametrize(
    ("text", "inputs", "targets"),
    [
        ("timm:resnet18", "4x3x224x224", "int64[4]<1000"),
        ("timm:resnet10t.c3_in1k(num_classes=7)", "4x3x176x176", "int64[4]<7"),
        ("timm:vit_tiny_patch16_224(img_size=64, num_classes=5)", "8x3x64x64", "int64[8]<5"),
        ("timm:test_vit(in_chans=1)", "8x1x160x160", "int64[8]<1000"),
        ("timm:inception_v3", "4x3x299x299", "int64[4]<1000"),
        ("timm:resnet18(num_classes=0)", "4x3x224x224", "None"),
        ("torchvision:resnet18", "4x3x224x224", "int64[4]<1000"),
        ("torchvision:vit_b_16(image_size=32, num_classes=4)", "8x3x32x32", "int64[8]<4"),
        ("torchvision:inception_v3", "4x3x299x299", "None"),
        ("torchvision:r3d_18", "4x3x16x112x112", "int64[4]<400"),
        ("torchvision:fcn_resnet50", "4x3x224x224", "None"),
    ],
)
def test_pictures_are_of_the_size_of_the_library(text: str, inputs: str, targets: str) -> None:
    library("timm")
    library("torchvision")
    plan = planned(text)
    assert (str(plan.batch), str(plan.targets)) == (inputs, targets)
    assert "size)" in plan.guessed[0]


def test_a_batch_that_is_given_counts_for_what_they_make_of_it() -> None:
    library("timm")
    library("transformers")
    plan = planned("timm:test_resnet", "2x3x64x64")
    assert (str(plan.batch), str(plan.targets)) == ("2x3x64x64", "int64[2]<1000")
    plan = planned("timm:test_resnet", "2x4x64x64", loss="mse")
    assert (str(plan.batch), plan.targets) == ("2x4x64x64", None)
    plan = planned("hf:gptj(n_layer=1)", "input_ids=int64[2,9]<50,labels=int64[2,9]<50")
    assert plan.guessed[-1] == "the model's own loss"


def test_they_are_checked_as_they_are() -> None:
    library("timm")
    plan = planned("timm:test_resnet")
    assert plan.loss is not None
    assert_healthy(plan.model, *plan.batch_and_targets(), loss=plan.loss.function)


@pytest.mark.parametrize(
    ("text", "kind", "inputs"),
    [
        ("hf:gpt2", "GPT2LMHeadModel", "input_ids=int64[4,32]>3<256,labels=int64[4,32]>3<256"),
        (
            "hf:GPT2Config",
            "GPT2LMHeadModel",
            "input_ids=int64[4,32]>3<256,labels=int64[4,32]>3<256",
        ),
        ("hf:GPT2Model", "GPT2Model", "input_ids=int64[4,32]>3<256"),
        (
            "hf:gpt2(vocab_size=99)",
            "GPT2LMHeadModel",
            "input_ids=int64[4,32]>3<99,labels=int64[4,32]>3<99",
        ),
        ("hf:bert", "BertForMaskedLM", "input_ids=int64[4,32]>3<256,labels=int64[4,32]>3<256"),
        (
            "hf:BertForSequenceClassification(num_labels=3)",
            "BertForSequenceClassification",
            "input_ids=int64[4,32]>3<256,labels=int64[4]<3",
        ),
        (
            "hf:BertForTokenClassification",
            "BertForTokenClassification",
            "input_ids=int64[4,32]>3<256,labels=int64[4,32]<2",
        ),
        (
            "hf:BertForQuestionAnswering",
            "BertForQuestionAnswering",
            "input_ids=int64[4,32]>3<256,start_positions=int64[4]<32,end_positions=int64[4]<32",
        ),
        (
            "hf:t5",
            "T5ForConditionalGeneration",
            "input_ids=int64[4,32]>3<256,labels=int64[4,32]>3<256",
        ),
        ("hf:vit", "ViTForImageClassification", "pixel_values=4x3x32x32,labels=int64[4]<2"),
        ("hf:wav2vec2", "Wav2Vec2ForCTC", "input_values=4x16000,labels=int64[4,12]>3<32"),
    ],
)
def test_transformers_are_made_small_and_make_their_own_loss(
    text: str, kind: str, inputs: str
) -> None:
    library("transformers")
    plan = planned(text)
    assert plan.guessed[0].startswith(f"{kind} with ")
    assert (str(plan.batch), plan.targets, plan.loss) == (inputs, None, None)
    assert not isinstance(plan.model, nn.Module)
    model = plan.model()
    assert type(model).__name__ == kind
    assert sum(parameter.numel() for parameter in model.parameters()) < 8e6
    assert_healthy(plan.model, *plan.batch_and_targets())


def test_what_asks_for_weights_while_it_is_built_is_offline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transformers = library("transformers")
    constants = library("huggingface_hub.constants")

    class Asking(transformers.GPT2Model):  # type: ignore[misc, name-defined]
        def __init__(self, config: Any) -> None:
            if not constants.HF_HUB_OFFLINE:
                raise OSError("it would ask")
            super().__init__(config)

    monkeypatch.setattr(transformers, "GPT2Model", Asking)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert isinstance(planned("hf:GPT2Model").batch, Batch)
    assert constants.HF_HUB_OFFLINE is False


def test_a_configuration_in_a_file(tmp_path: Path) -> None:
    library("transformers")
    data = {
        "model_type": "llama",
        "architectures": ["LlamaForSequenceClassification"],
        "hidden_size": 96,
        "num_attention_heads": 6,
        "num_hidden_layers": 40,
        "vocab_size": 500,
        "rms_norm_eps": 1e-3,
        "pad_token_id": 499,
        "auto_map": {"AutoModel": "evil.Model"},
        "_name_or_path": "evil/model",
    }
    (tmp_path / "config.json").write_text(json.dumps(data))
    for text in ("hf:config.json", "hf:."):
        plan = planned(text, folder=tmp_path)
        assert not isinstance(plan.model, nn.Module)
        config: Any = plan.model().config
        assert (config.num_hidden_layers, config.rms_norm_eps) == (2, 1e-3)
        assert (config.vocab_size, config.pad_token_id) == (256, 0)
        assert plan.guessed[0].startswith("LlamaForSequenceClassification with ")
        assert_healthy(plan.model, *plan.batch_and_targets())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timm:resnet19", "timm has no model resnet19; did you mean resnet18"),
        ("torchvision:resnt18", "torchvision has no model resnt18; did you mean resnet18"),
        ("hf:gpt3", "transformers has no model gpt3; did you mean gptj or gpt2"),
        ("hf:BertForMaskedLMM", "did you mean BertForMaskedLM"),
        (
            "hf:openai/gpt2",
            "there is no file openai/gpt2, and nothing is downloaded; name a type, as",
        ),
        ("hf:pipeline", "transformers.pipeline is neither a model nor a configuration"),
        ("hf:AutoModel", "transformers.AutoModel is neither a model nor a configuration"),
        ("timm:resnet18(10)", "arguments go by name, for example num_classes=10"),
        (
            "timm:resnet18(pretrained=True)",
            "no weights and no code are loaded; leave pretrained out",
        ),
        ("timm:resnet18(checkpoint_path='x')", "leave checkpoint_path out"),
        (
            "hf:TimmWrapperForImageClassification(model_args={'checkpoint_path': 'x'})",
            "leave model_args out",
        ),
        ("hf:detr(backbone_kwargs={'pretrained': True})", "leave backbone_kwargs out"),
        ("hf:gpt2(inner_config={'use_pretrained_backbone': True})", "use_pretrained_backbone out"),
        ("torchvision:resnet18(weights='DEFAULT')", "leave weights out"),
        ("hf:gpt2(trust_remote_code=True)", "leave trust_remote_code out"),
        ("hf:gpt2(attn_implementation='evil/kernel')", "leave attn_implementation out"),
        ("timm:resnet18(num_clases=3)", "cannot be built: it raised TypeError"),
        (
            "torchvision:fasterrcnn_resnet50_fpn",
            "the batch of torchvision:fasterrcnn_resnet50_fpn cannot be guessed (it makes its loss"
            " from boxes and labels among its inputs); add --gradhealth-input=",
        ),
        ("torchvision:raft_small", "(it takes two pictures of a film)"),
        (
            "hf:CLIPModel",
            "cannot be guessed (its forward takes input_ids, pixel_values, attention_mask,"
            " position_ids; CLIPModel.forward raised AttributeError: 'NoneType' object",
        ),
    ],
)
def test_what_a_library_does_not_have(text: str, said: str) -> None:
    library("timm")
    library("torchvision")
    library("transformers")
    with pytest.raises(SettingError) as caught:
        planned(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    library("transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingError, match=r"config.json is no configuration of transformers"):
        planned("hf:config.json", folder=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt22"}')
    with pytest.raises(SettingError, match=r"no model_type gpt22; did you mean gpt2"):
        planned("hf:config.json", folder=tmp_path)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(SettingError) as caught:
        planned("timm:resnet18")
    assert str(caught.value) == (
        "timm:resnet18 needs timm, which is not installed: pip install timm"
    )


def test_what_is_small_already_and_what_is_named_stay() -> None:
    known = {"n_layer": 12, "n_embd": 32, "vocab_size": 50_000, "eos_token_id": 49_999, "a": "b"}
    first, *others = ever_larger(known, {"n_layer": 3})
    assert first == {"n_layer": 3, "vocab_size": 256, "eos_token_id": 2}
    assert others[-1] == {"n_layer": 3}
    assert [*ever_larger({}, {})] == [{}]
