"""Healthy networks: one or more small members of each of timm's families."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from examples.study.network import Network
from examples.study.zoo.torchvision_models import pictures

CLASSES = 10
COUNT = 8
SIZE = 64

#: Architectures that take images of any size, by the module of timm that holds them.
ANY_SIZE: Mapping[str, str] = {
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto convnext_atto_rms convnext_tiny_hnf convnextv2_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_9_dagger_240 crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_s cspdarknet53 cspresnet50",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "densenet": "densenet121 densenetblur121d",
    "dla": "dla34 dla60x_c",
    "dpn": "dpn48b dpn68",
    "edgenext": "edgenext_xx_small",
    "efficientnet": (
        "efficientnet_b0 efficientnet_b0_gn efficientnetv2_rw_t fbnetc_100 mixnet_s "
        "mnasnet_small mobilenetv1_100 mobilenetv2_100 spnasnet_100 tf_efficientnet_lite0 "
        "tf_efficientnetv2_b0 tinynet_e"
    ),
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0 efficientvit_l1",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_sa12 fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "ghostnet": "ghostnet_050 ghostnetv2_100 ghostnetv3_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnet_tiny hgnetv2_b0",
    "hieradet_sam2": "hieradet_small",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "metaformer": "caformer_s18 convformer_s18 poolformer_s12 poolformerv2_s12",
    "mobilenetv3": (
        "fbnetv3_b lcnet_050 mobilenetv3_large_100 mobilenetv3_small_100 "
        "mobilenetv4_conv_small mobilenetv4_hybrid_medium_075"
    ),
    "mobilenetv5": "mobilenetv5_base",
    "nasnet": "nasnetalarge",
    "nextvit": "nextvit_small",
    "nfnet": "dm_nfnet_f0 eca_nfnet_l0 nf_regnet_b0 nf_resnet26 nfnet_l0",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0 pvt_v2_b2_li",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetv_040 regnetx_002 regnety_002 regnetz_005",
    "repghost": "repghostnet_050",
    "res2net": "res2net50_14w_8s res2next50",
    "resnest": "resnest14d",
    "resnet": (
        "ecaresnet26t resnet18 resnet26t resnet50_gn resnetaa34d resnetblur18 resnetrs50 "
        "resnext50_32x4d seresnet18"
    ),
    "resnetv2": "resnetv2_18 resnetv2_50d_gn resnetv2_50x1_bit",
    "rexnet": "rexnet_100 rexnetr_100",
    "selecsls": "selecsls42b",
    "senet": "legacy_seresnet18 legacy_seresnext26_32x4d",
    "shvit": "shvit_s1",
    "sknet": "skresnet18 skresnext50_32x4d",
    "starnet": "starnet_s050",
    "tiny_vit": "tiny_vit_5m_224",
    "tresnet": "tresnet_m",
    "vgg": "vgg11 vgg11_bn",
    "vovnet": "ese_vovnet19b_slim vovnet39a",
    "xception": "legacy_xception",
    "xception_aligned": "xception41 xception41p",
}

#: Architectures that are built for one size of images.
ONE_SIZE: Mapping[str, str] = {
    "beit": "beit_base_patch16_224 beitv2_base_patch16_224",
    "byoanet": "botnet26t_256 halonet26t lambda_resnet26t",
    "byobnet": "gcresnext26ts gernet_s mobileone_s0 regnetz_b16 repvgg_a0 resnet51q",
    "cait": "cait_xxs24_224",
    "coat": "coat_lite_tiny coat_tiny",
    "convit": "convit_tiny",
    "deit": "deit3_small_patch16_224 deit_tiny_distilled_patch16_224 deit_tiny_patch16_224",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": (
        "eva02_tiny_patch14_224 vit_pe_core_tiny_patch16_384 vit_small_patch16_dinov3 "
        "vit_small_patch16_rope_224"
    ),
    "gcvit": "gcvit_xxtiny",
    "hiera": "hiera_tiny_224",
    "levit": "levit_128s levit_conv_128s",
    "maxxvit": (
        "coatnet_0_224 coatnet_nano_rw_224 coatnext_nano_rw_224 maxvit_pico_rw_256 "
        "maxxvit_rmlp_nano_rw_256"
    ),
    "mlp_mixer": "gmixer_12_224 gmlp_ti16_224 mixer_s16_224 resmlp_12_224",
    "mobilevit": "mobilevit_xxs mobilevitv2_050",
    "mvitv2": "mvitv2_small_cls mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_gap",
    "nest": "nest_tiny",
    "pit": "pit_ti_224 pit_ti_distilled_224",
    "qwen3_vit": "qwen3_vit_88m",
    "repvit": "repvit_m0_9",
    "sequencer": "sequencer2d_s",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_s3_tiny_224 swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224 swinv2_cr_tiny_ns_224",
    "tnt": "tnt_s_patch16_224",
    "twins": "twins_pcpvt_small twins_svt_small",
    "visformer": "visformer_tiny",
    "vision_transformer": (
        "flexivit_small vit_base_patch32_siglip_256 vit_little_patch16_reg1_gap_256 "
        "vit_medium_patch16_gap_240 vit_small_patch16_18x2_224 vit_tiny_patch16_224 "
        "vit_wee_patch16_reg1_gap_256"
    ),
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "xcit": "xcit_nano_12_p16_224 xcit_tiny_12_p8_224",
}

#: Side of the images where 64 pixels are too few, or the architecture allows no other.
SIZES: Mapping[str, int] = {
    "efficientformer_l1": 224,
    "efficientvim_m1": 224,
    "halonet26t": 256,
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
}


def heads_cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross entropy, averaged over the heads of a distilled model in training."""
    heads = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return torch.stack([cross_entropy(head, targets) for head in heads]).mean()


def _built(name: str, **options: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)
    return model


def _network(name: str, one_size: bool) -> Network:
    size = SIZES.get(name, SIZE)
    options = {"img_size": size} if one_size else {}
    return Network(
        name=name,
        family="timm",
        build=partial(_built, name, **options),
        batch=partial(pictures, size, COUNT, CLASSES),
        loss=heads_cross_entropy,
        source=f"timm.create_model({name!r})",
    )


def timm_networks() -> tuple[Network, ...]:
    """Return the architectures of both tables."""
    return tuple(
        _network(name, one_size=table is ONE_SIZE)
        for table in (ANY_SIZE, ONE_SIZE)
        for names in table.values()
        for name in names.split()
    )
