"""What to pass instead to a forward that raises, by what it was handed and what the error says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from inspect import Parameter

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pytest_gradhealth.formatting import listing, meant_by
from pytest_gradhealth.subject.calling import fits, parameters_of, spread
from pytest_gradhealth.subject.handed import (
    Handed,
    is_about,
    made_of,
    missing_key,
    no_tensors,
    places,
    to_numpy,
)
from pytest_gradhealth.subject.lightning import is_lightning
from pytest_gradhealth.subject.width_advice import dimensions, indices, width
from pytest_gradhealth.tensors.modules import class_name
from pytest_gradhealth.tensors.trees import tensors
from pytest_gradhealth.tensors.unwrap import dtype_name


def _without_forward(handed: Handed) -> str:
    model = handed.model
    if f'Module [{class_name(model)}] is missing the required "forward"' not in handed.said:
        return ""
    own = [name for name, value in vars(type(model)).items() if callable(value) and name[0] != "_"]
    own += [name for name, _ in model.named_children()]
    how = f"model.{own[0] if own else 'encode'}(x)"
    if isinstance(model, (nn.ModuleDict, nn.ModuleList)):
        key = next(iter(model), "name") if isinstance(model, nn.ModuleDict) else 0
        how = f"model[{key!r}](x)"
    return f"pass what calls it in place of a forward, for example call=lambda model, x: {how}"


def _without_trainer(handed: Handed) -> str:
    logs = re.search(r"'NoneType' object has no attribute '(experiment|log_)", handed.said)
    if not is_lightning(handed.model) or not (logs or "not attached to a `Trainer`" in handed.said):
        return ""
    what = "self.logger" if logs else "self.trainer"
    return (
        f"a probe runs without a Trainer: have training_step do without {what}, or pass loss=..."
        " and the inputs of forward"
    )


def _without_inputs(handed: Handed) -> str:
    empty = handed.inputs is None and handed.call is None
    return "no inputs were given; pass a batch behind the model" if empty else ""


def _together(handed: Handed) -> str:
    """Targets beside the inputs of a model that takes them itself."""
    takes = parameters_of(handed.model.forward).keys() & {"targets", "target", "labels", "y"}
    if handed.loss is not None or handed.targets is None or not takes or handed.call is not None:
        return ""
    return f"forward takes {listing(sorted(takes))} itself; pass (inputs, targets) as the inputs"


def _whole(handed: Handed) -> str:
    """Several things that went as one argument, inputs and targets most often."""
    given, named = spread(handed.inputs)
    one = given[0] if len(given) == 1 else given
    kind = type(one).__name__
    if isinstance(one, list) and handed.call is None and fits(handed.model.forward, tuple(one)):
        return "the inputs are a list, which is one argument; pass a tuple to have it spread"
    if named or not (isinstance(one, (tuple, list, Mapping)) or is_dataclass(one)):
        return ""
    if handed.call is not None and is_lightning(handed.model):
        return ""  # a batch, as its loader makes it
    if not (kind in handed.said or "positional argument" in handed.said or _misfits(handed)):
        return ""
    if isinstance(one, (tuple, list)) and len(one) == 2 and handed.targets is None:
        if type(one[0]) is int and not isinstance(one[1], Tensor):
            return "the inputs are a number and a batch, as of enumerate(loader); pass the batch"
        return f"the inputs are a {kind} of two; pass inputs and targets apart, behind the model"
    if len(given) > 1:
        return ""
    says = f"the inputs are a {kind}, which went as one argument"
    if isinstance(one, (tuple, list)) and len(one) > 2 and all(map(_is_example, one)):
        made = "x, y = torch.utils.data.default_collate(examples)"
        return f"the inputs are {len(one)} examples; pass a batch of them: {made}"
    if isinstance(one, (tuple, list)) and all(isinstance(i, Tensor) for i in one):
        alike = len({tuple(i.shape) for i in one}) == 1
        made = "torch.stack(x)" if alike else "torch.nn.utils.rnn.pad_sequence(x)"
        return f"{says}; pass one tensor: {made}"
    alone, parts = handed.loss is None or handed.targets is not None, [*places(one, "batch")]
    some = ", ".join(parts[: 1 if alone else 2])
    return says + f"; pass {'a part of it' if alone else 'parts of it'}: {some}" * bool(parts)


def _is_example(item: object) -> bool:
    """Whether something is inputs and target of one example, as a dataset has them."""
    return isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], Tensor)


def _named(handed: Handed) -> str:
    """Arguments by position with a mapping of others behind them."""
    given, _ = spread(handed.inputs)
    taken = [*parameters_of(handed.model.forward)]
    if handed.call is not None or len(given) < 2 or not isinstance(given[-1], Mapping):
        return ""
    names = [*taken[: len(given) - 1], *given[-1]]
    if len({*names}) < len(names) or not {*names} <= {*taken}:
        return ""
    every = ", ".join(f"{name!r}: ..." for name in names)
    return f"a mapping is one argument among others; pass all by name: {{{every}}}"


def _in_sequence(handed: Handed) -> str:
    """Layers in an nn.Sequential that return several things, or take them."""
    above, _, own = handed.at.rpartition(".")
    chain, layer = handed.model.get_submodule(above), handed.inside
    if not isinstance(chain, nn.Sequential) or not own.isdigit():
        return ""
    if isinstance(layer, nn.MultiheadAttention) and "positional arguments" in handed.said:
        return (
            f"{handed.at} (MultiheadAttention) takes query, key and value, and nn.Sequential hands"
            " on one thing; call it in a forward: attention(x, x, x)[0]"
        )
    before = chain[int(own) - 1] if int(own) else None
    if not isinstance(before, (nn.RNNBase, nn.MultiheadAttention)) or "tuple" not in handed.said:
        return ""
    name = above and f"self.{above}"
    says = f"{class_name(before)} returns a tuple, which nn.Sequential hands on as it is"
    code = f"{name or 'model'}[{own}:]({name or 'model'}[:{own}](x)[0])"
    return f"{says}; " + (
        f"write {code} in the forward" if name else f"pass call=lambda model, x: {code}"
    )


def _too_few(handed: Handed) -> str:
    """A normalisation over one number."""
    if "Expected more than 1 value per channel" in handed.said:
        return f"{class_name(handed.inside)} compares examples; pass a batch of at least two"
    if "Expected more than 1 spatial element" in handed.said:
        return f"{class_name(handed.inside)} compares places; pass larger inputs"
    return ""


def _channels_last(handed: Handed) -> str:
    """Pictures as they are kept in files."""
    x, layer = handed.inputs, handed.inside
    if not isinstance(x, Tensor) or not isinstance(layer, _ConvNd) or _takes(layer, x):
        return ""
    fits = _takes(layer, x.movedim(-1, 1))
    return "channels come before height and width; pass x.movedim(-1, 1)" if fits else ""


def _swapped(handed: Handed) -> str:
    """Targets that the first layer would take, in place of inputs that it does not."""
    x, y = handed.inputs, handed.targets
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or y.numel() <= x.numel():
        return ""
    first = next(m for m in handed.model.modules() if isinstance(m, _FIRST))
    if handed.at and any(module is first for module in handed.inside.children()):
        return ""  # what has layers of its own may take something else
    if _takes(first, x) or not _takes(first, y) or _embeds(first) == y.is_floating_point():
        return ""
    return "the targets would do as inputs, and the inputs do not; pass x before y"


#: Layers that say what they take.
_FIRST = (nn.Linear, _ConvNd, nn.RNNBase, nn.Embedding)


def _embeds(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Embedding)


def _takes(layer: nn.Module, x: Tensor) -> bool:
    """Whether a tensor is of the shape that a layer takes, or for embeddings of the type."""
    if isinstance(layer, nn.Linear):
        return layer.in_features in (x.shape[-1], x[0].numel())
    if isinstance(layer, nn.RNNBase):
        return bool(x.shape[-1] == layer.input_size)
    if isinstance(layer, _ConvNd):
        return x.dim() == len(layer.kernel_size) + 2 and x.shape[1] == layer.in_channels
    return not x.is_floating_point()


def _misfits(handed: Handed) -> bool:
    """Whether Python cannot call the forward with the inputs."""
    return handed.call is None and not fits(handed.model.forward, handed.inputs)


def _unknown(handed: Handed) -> str:
    """Other arguments than a forward takes, or what is to call the model."""
    if handed.call is not None and not fits(handed.call, handed.inputs, handed.model):
        return "call gets the model before the inputs: call=lambda model, x: ..."
    if not _misfits(handed):
        return ""
    taken = [*parameters_of(handed.model.forward)]
    says = f"forward takes {listing(taken, 6) or 'nothing'}"
    given, named = spread(handed.inputs)
    others = [str(name) for name in named if name not in taken]
    if given and taken and not _takes_by_position(handed):
        return f"{says} by name alone; pass {{{taken[0]!r}: x}}"
    if not others:
        return f"{says}; a tuple is spread over that, a mapping over the names"
    meant = meant_by(others[0], taken)
    return f"{says}, not {listing(others)}; {meant or 'pass what only the loss needs as targets'}"


def _takes_by_position(handed: Handed) -> bool:
    taken = parameters_of(handed.model.forward).values()
    return any(p.kind not in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD) for p in taken)


def _kind_of_number(handed: Handed) -> str:
    """Numbers of another type than the parameters'."""
    kinds = (p.dtype for p in handed.model.parameters())
    own = next((kind for kind in kinds if kind.is_floating_point or kind.is_complex), None)
    given = [t.dtype for t in tensors(handed.inputs) if is_about(handed.said, t.dtype)]
    if "indices" in handed.said and any(dtype.is_floating_point for dtype in given):
        return "an embedding takes whole numbers; pass x.long()"
    others = [dtype for dtype in given if dtype != own]
    if own is None or not others:
        return ""
    types = f"the inputs are {dtype_name(others[0])}, the parameters {dtype_name(own)}"
    real = others[0].is_complex and not own.is_complex
    return f"{types}; pass {'torch.view_as_real(x), or x.abs()' if real else made_of('x', own)}"


#: The first that has something to say is heard.
OF_FORWARDS = (
    *(_without_forward, _without_trainer, _without_inputs, to_numpy, missing_key, _together),
    *(no_tensors, _named, _whole),
    *(_unknown, _in_sequence, _too_few, _channels_last, _swapped, _kind_of_number),
    *(indices, dimensions, width),
)
