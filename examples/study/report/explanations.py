"""Why healthy networks get warnings: one explanation for each network that does."""

from __future__ import annotations

_BY_A_TOKEN = (
    "True: the head reads a class token, and LayerScale keeps what the patches tell it behind a"
    " factor of 1e-5 at first; the factor grows with training, and so does the gradient."
)
_SMALL_HEAD = "True: the head starts with weights of a thousandth, to be found behind the norm."
_FOR_OTHER_HEADS = "True: a part of the library's model that this task's head does not read."
_LAST_QUERIES = (
    "True: only the class token is read, so that the queries of the other tokens in the last block"
    " change nothing."
)
_IDLE = "True: the router sends no word of this batch to some experts."
_NARROWING = (
    "True: eight ReLU layers with PyTorch's weights, each of which lets through about 0.4 of the"
    " gradient where He's would keep it."
)

#: By the name of the network.
EXPLANATIONS = {
    "resnet152": (
        "True: the gradient grows through batch norm, by pi / (pi - 1) in the square for each ReLU"
        " layer (Yang et al. 2019); the weights before a norm do not mind, and it trains."
    ),
    "beit_base_patch16_224": _SMALL_HEAD,
    "beitv2_base_patch16_224": _SMALL_HEAD,
    "eva02_tiny_patch14_224": _SMALL_HEAD,
    "deit3_small_patch16_224": _BY_A_TOKEN,
    "vit_pe_core_tiny_patch16_384": _BY_A_TOKEN,
    "vit_small_patch16_dinov3": _BY_A_TOKEN,
    "vit_small_patch16_18x2_224": _BY_A_TOKEN,
    "vit_small_patch16_rope_224": (
        _BY_A_TOKEN + " At x1.6e-8 it would fail, and the second look clears it."
    ),
    "mvitv2_small_cls": _LAST_QUERIES,
    "CvT": _LAST_QUERIES,
    "Switch Transformer": _IDLE,
    "16 experts, few words": _IDLE,
    "FNet": _FOR_OTHER_HEADS,
    "SqueezeBERT": _FOR_OTHER_HEADS,
    "BigBird": _FOR_OTHER_HEADS,
    "DINOv2": _FOR_OTHER_HEADS,
    "SigLIP classifier": _FOR_OTHER_HEADS,
    "wav2vec 2, Conformer": (
        "True: position convolutions that rotary positions have taken the place of."
    ),
    "VideoMAE": (
        "True of this small rebuild: a mean over the tokens of a short video, behind PyTorch's"
        " small weights."
    ),
    "NeRF 8x128": _NARROWING,
    "NeRF 8x256": _NARROWING,
}
