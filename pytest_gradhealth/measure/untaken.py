"""Which parameters no operation of a forward takes, as a bias that a layer of one's own ignores."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from pytest_gradhealth.measure.asked import asked
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.dispatch import DispatchMode
from pytest_gradhealth.tensors.storage import storage_of
from pytest_gradhealth.tensors.trees import tensors


@asked(())
def untaken(subject: Subject, names: Collection[str], *, seed: int) -> tuple[str, ...]:
    """Return those of some parameters that nothing takes from the inputs to the loss.

    Only beside another one of the same module that is taken: what reads that without the operations
    of torch, as a kernel may, can read the rest as well.
    """
    with _Taken() as taken:
        Pass(subject, seed).run()
    found = {n: storage_of(p) in taken.memory for n, p in subject.model.named_parameters()}
    seen = {name.rpartition(".")[0] for name, is_taken in found.items() if is_taken}
    return tuple(n for n in names if not found.get(n, True) and n.rpartition(".")[0] in seen)


class _Taken(DispatchMode):
    """Notes where the memory of all that operations are given begins."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.memory.update(map(storage_of, tensors((args, kwargs))))
        return func(*args, **(kwargs or {}))
