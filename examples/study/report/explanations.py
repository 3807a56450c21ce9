"""Why healthy networks get warnings: one explanation for each network that does."""

from __future__ import annotations

_FOR_OTHER_HEADS = "True: a part of the library's model that this task's head does not read."

#: By the name of the network.
EXPLANATIONS = {
    "FNet": _FOR_OTHER_HEADS,
    "SqueezeBERT": _FOR_OTHER_HEADS,
    "BigBird": _FOR_OTHER_HEADS,
    "DINOv2": _FOR_OTHER_HEADS,
    "SigLIP classifier": _FOR_OTHER_HEADS,
    "se3_transformer_pytorch: SE(3) transformer": (
        "True of one seed: networks of the distance alone, which weigh values in an attention that"
        " hardly feels them at first."
    ),
    "deepctr_torch: ONN": (
        "True: the embeddings of its base class are looked up, and what comes of it is ignored."
    ),
    "torch_rechub: EDCN": (
        "True: a softmax over one logit regulates its towers, which is 1 whatever comes in."
    ),
    "iTransformer: iTransformer": (
        "True: its residual streams double from layer to layer; with a norm before the head it"
        " learns in 150 steps what it has not begun to learn without."
    ),
}
