"""Why healthy networks get warnings: one explanation for each network that does."""

from __future__ import annotations

_BY_A_TOKEN = (
    "True: the head reads a class token, and LayerScale keeps what the patches tell it behind a"
    " factor of 1e-5 at first; the factor grows with training, and so does the gradient."
)
_FOR_OTHER_HEADS = "True: a part of the library's model that this task's head does not read."
_MASKED = "True: its symbolic functions are multiplied by a mask of zeros until they are chosen."
_SMALL_BIAS = (
    "True of two seeds: what makes the bias of its attention gets next to no gradient at first."
)

#: By the name of the network.
EXPLANATIONS = {
    "resnet152": (
        "True: the gradient grows through batch norm, by pi / (pi - 1) in the square for each ReLU"
        " layer (Yang et al. 2019); the weights before a norm do not mind, and it trains."
    ),
    "vit_small_patch16_rope_224": (
        _BY_A_TOKEN + " At x1.6e-8 it would fail, and the second look clears it."
    ),
    "FNet": _FOR_OTHER_HEADS,
    "SqueezeBERT": _FOR_OTHER_HEADS,
    "BigBird": _FOR_OTHER_HEADS,
    "DINOv2": _FOR_OTHER_HEADS,
    "SigLIP classifier": _FOR_OTHER_HEADS,
    "segmentation_models_pytorch: Unet, mobilenet_v2": (
        "True: squeeze-excite bottlenecks of one or two ReLU units, which are dead by chance."
    ),
    "nflows: MAF": (
        "True of this seed: layers that multiply by what they compute from one another start at a"
        " loss of 5e3, where other seeds start at 17; it trains all the same."
    ),
    "en_transformer: E(n) transformer": _SMALL_BIAS,
    "equiformer_pytorch: Equiformer": _FOR_OTHER_HEADS,
    "se3_transformer_pytorch: SE(3) transformer": (
        "True: networks of the distance alone, which weigh keys in an attention that hardly feels"
        " them at first."
    ),
    "deepctr_torch: ONN": (
        "True: products of embeddings of 1e-4; what would fail at first passes after 150 steps, a"
        " warning is left."
    ),
    "torch_rechub: EDCN": (
        "True: a softmax over one logit regulates its towers, which is 1 whatever comes in."
    ),
    "kan: KAN": _MASKED,
    "kan: KAN, three layers": _MASKED,
    "iTransformer: iTransformer": "True: its residual streams double from layer to layer.",
    "titans_pytorch: Titans, memory as context": (
        "True: its memory computes with copies of these weights, which stand idle themselves."
    ),
}
