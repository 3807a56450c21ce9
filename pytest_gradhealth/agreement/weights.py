"""The weights of one side for the other: by name, with a map for those that were renamed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import count, listing, meant_by
from pytest_gradhealth.tensors.unwrap import shape_of


@dataclass(frozen=True)
class Renaming:
    """Names of a's in b: of a tensor or of a module, for all that is in it."""

    names: Mapping[str, str]

    def in_b(self, name: str) -> str:
        """What a name of a's is called in b; the longest name that is mapped decides."""
        for old in sorted(self.names, key=len, reverse=True):
            if not old or name == old or name.startswith(f"{old}."):
                rest = name[len(old) :].removeprefix(".")
                return ".".join(filter(None, (self.names[old], rest)))
        return name

    def check(self, a: nn.Module) -> None:
        """Raise ProbeError for a name that a does not have."""
        known = [*dict(a.named_modules()), *_state(a)]
        for name in self.names:
            if name not in known:
                meant = meant_by(name, known)
                raise ProbeError(
                    f"renamed maps {name!r}, which a does not have; {meant or 'pass names of a'}"
                )


def given(a: nn.Module, b: nn.Module, renaming: Renaming) -> list[tuple[Tensor, Tensor]]:
    """Pairs of tensors, of b's and of a's that it is to take: parameters and saved buffers.

    Those that b shares with a are left out, and buffers that b does not have. Raises ProbeError for
    parameters that b lacks, or has in another shape.
    """
    ours, theirs = _state(a), _state(b)
    missing, other = list[str](), list[str]()
    parameters = {name for name, _ in a.named_parameters(remove_duplicate=False)}
    pairs: list[tuple[Tensor, Tensor]] = []
    for name, tensor in ours.items():
        found = theirs.get(renaming.in_b(name))
        if found is tensor:
            continue
        if found is None:
            missing += [name] * (name in parameters)
        elif found.shape != tensor.shape:
            other.append(f"{name} {shape_of(tensor)}, in b {shape_of(found)}")
        else:
            pairs.append((found, tensor))
    if missing:
        meant = meant_by(missing[0], [n for n in theirs if n not in ours])
        raise ProbeError(
            f"b has no parameter {listing(missing)} to take from a"
            + (f"; {meant}" if meant else "")
            + "\n  pass renamed={...} with a's names of modules or parameters and b's, or"
            " weights='own' to compare both as they are"
        )
    if other:
        raise ProbeError(
            f"{count(len(other), 'parameter')} of b cannot take a's, for their shape:"
            f" {listing(other)}\n  pass weights='own' to compare both as they are"
        )
    return pairs


def take(model: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Write values of a's into tensors of b's, a model."""
    del model
    for mine, theirs in pairs:
        mine.data.copy_(theirs.detach())  # no write that autograd counts


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters under all their names, and the buffers that a checkpoint holds."""
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if name not in vars(module)["_non_persistent_buffers_set"]:
                found[f"{path}.{name}" if path else name] = buffer
    return found
