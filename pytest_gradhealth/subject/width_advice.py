"""What to pass instead to a layer that is of another width than what comes to it."""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pytest_gradhealth.subject.handed import Handed, reach_of
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import shape_of

#: What torch says of a width that does not fit, with the width that it got.
_GOT = re.compile(
    r"shapes cannot be multiplied \(\d+x(\d+) and|Expected \d+, got (\d+)"
    r"|running_mean should contain (\d+) elements|but got (\d+) channels"
    r"|embedding dimension of \d+, but got (\d+)"
    r"|input of size\[(?:\d+, )*(\d+)\]"
)
#: What layers call the width that they take.
_WIDTHS = ("in_features", "input_size", "num_features", "in_channels", "embed_dim")


def indices(handed: Handed) -> str:
    """Indices of rows that an embedding does not have."""
    if "index out of range in self" not in handed.said:
        return ""
    whole = [t for t in tensors(handed.inputs) if not t.is_floating_point() and t.numel()]
    reach = reach_of(whole[0]) if len(whole) == 1 else ""
    given = f"the inputs go {reach}" if reach else "an index is out of range"
    layer = handed.inside
    if not isinstance(layer, nn.Embedding):
        return f"{given}: an embedding has rows from 0 on, and one for each index"
    rows = layer.num_embeddings
    says = f"{_where(handed)} has {rows} rows, 0 to {rows - 1}, and {given}"
    return f"{says}; pass indices of these, or more rows: nn.Embedding(n, {layer.embedding_dim})"


def dimensions(handed: Handed) -> str:
    """Inputs of a convolution without a dimension for the channels, or for the examples."""
    x = handed.inputs
    first = next((m for m in handed.model.modules() if isinstance(m, _ConvNd)), None)
    about = re.search(r"size|shape|channels|dimension", handed.said)
    if not isinstance(x, Tensor) or first is None or not about:
        return ""
    full, channels = len(first.kernel_size) + 2, first.in_channels
    if x.dim() == full - 1 and x.shape[0] == channels:
        return f"the inputs {shape_of(x)} are one example; pass a batch: x.unsqueeze(0)"
    if handed.inside is not first or x.dim() >= full:
        return ""
    says = f"the inputs {shape_of(x)} lack a dimension"
    if x.dim() < full - 1:
        return f"{says}; pass {full}: examples, channels, and {full - 2} of places"
    repeated = f".expand(-1, {channels}{', -1' * (full - 2)})" * (channels > 1)
    return f"{says} of channels; pass x.unsqueeze(1){repeated}"


def width(handed: Handed) -> str:
    """What comes to a layer, where that is wider or narrower than it takes."""
    layer, found = handed.inside, _GOT.search(handed.said)
    if not found:
        return ""
    got = next(filter(None, found.groups()))
    own = [getattr(layer, name) for name in _WIDTHS if hasattr(layer, name)]
    takes = (*own, *getattr(layer, "normalized_shape", ())[-1:])
    if not takes or str(takes[0]) == got:
        return ""
    what = "channels" if isinstance(layer, _ConvNd) else "features"
    says = f"{_where(handed)} takes {takes[0]} {what}, and gets {got}"
    x = handed.inputs
    if isinstance(x, Tensor) and x.dim() > 2 and x[0].numel() == takes[0]:
        return f"{says}; pass x.flatten(1)"
    return f"{says}; pass inputs of that width, or make it {class_name(layer)}({got}, ...)"


def _where(handed: Handed) -> str:
    name = class_name(handed.inside)
    return f"{handed.at} ({name})" if handed.at else name
