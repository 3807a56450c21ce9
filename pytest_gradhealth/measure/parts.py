"""Weights that are several in one: query, key and value, the gates of a recurrent layer, uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pytest_gradhealth.measure.asked import asked
from pytest_gradhealth.measure.perturbation import is_same, shifted_loss
from pytest_gradhealth.results.names import part_name
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.training.copies import copied

_ATTENTION = ("query", "key", "value")
_GATES = {"LSTM": ("input", "forget", "cell", "output"), "GRU": ("reset", "update", "new")}
#: Parts that are asked one by one.
MOST = 16


def parts_of(model: nn.Module, name: str, weight: Tensor) -> tuple[str, ...]:
    """What the parts of a weight's rows are called, () where they are no weights of their own.

    Each has as many rows. A gate's weights are told by the layers of torch that have gates.
    """
    owner, _, last = name.rpartition(".")
    found: Sequence[str] = ()
    if name.endswith(("in_proj_weight", "qkv.weight")):
        found = _ATTENTION
    elif last.startswith(("weight_ih", "weight_hh")):
        mro = type(model.get_submodule(owner)).mro()
        kinds = (kind.__name__.removesuffix("Cell") for kind in mro)
        found = next((_GATES[kind] for kind in kinds if kind in _GATES), ())
    whole = weight.dim() > 1 and found and weight.shape[0] % len(found) == 0
    return tuple(found) if whole else ()


@asked(())
def felt_parts(
    subject: Subject, parts: Sequence[tuple[str, str]], uses: Sequence[str], *, seed: int
) -> tuple[str, ...]:
    """Return those of some parts of weights, or uses, that the loss feels.

    `parts` are weights with the names of parts, `uses` modules. What the loss feels changes it when
    it is changed. Told by the names that a part has as a parameter: "weight[part]".
    """
    twin, _ = copied(subject, None, subject.device)  # to write to a weight shows in its version
    before, again = (float(shifted_loss(twin, (), seed)) for _ in range(2))
    if not is_same(before, again):
        return ()
    cut = [module for module in uses[:MOST] if not _gets_gradient(twin, module, seed)]
    changed = {module: float(shifted_loss(twin, [module], seed)) for module in cut}
    named = dict(twin.model.named_parameters())
    for name, part in parts[:MOST]:
        with _turned(twin.model, name, named[name], part):
            changed[part_name(name, part)] = float(shifted_loss(twin, (), seed))
    return tuple(name for name, after in changed.items() if not is_same(before, after))


def _gets_gradient(twin: Subject, module: str, seed: int) -> bool:
    """Whether a module would, had it weights of its own: told by giving a copy's some.

    What its outputs get says less: they may be written over in place.
    """
    owner = twin.model.get_submodule(module)
    tied = dict(owner.named_parameters(recurse=False))
    own = {name: nn.Parameter(p.detach().clone()) for name, p in tied.items()}
    for name, parameter in own.items():
        setattr(owner, name, parameter)
    loss = Pass(twin, seed).run()
    found = torch.autograd.grad(loss, [*own.values()], allow_unused=True)
    for name, parameter in tied.items():
        setattr(owner, name, parameter)
    return any(gradient is not None and bool(gradient.any()) for gradient in found)


@contextmanager
def _turned(model: nn.Module, name: str, weight: Tensor, part: str) -> Iterator[None]:
    """Change the rows of a part for a while: turned round, and with the other sign."""
    parts = parts_of(model, name, weight)
    rows = weight.detach().chunk(len(parts))[parts.index(part)]
    before = rows.clone()
    rows.copy_(-before.flip(0))
    yield
    rows.copy_(before)
