"""Operations with weights, use after use: the steps of a loop that no layers tell of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from pytest_gradhealth.measure.perturbation import weighted_sum
from pytest_gradhealth.tensors.dispatch import DispatchMode
from pytest_gradhealth.tensors.storage import address_of
from pytest_gradhealth.tensors.trees import map_tensors, tensors

#: One use of a weight: its id, and the number of the use.
Use = tuple[int, int]


class Uses(DispatchMode):
    """Watches operations with weights, by their ids, in one forward after the other.

    From the second one on, the first uses of the `held` ones return what they did in the first. A
    use may get at a weight through operations on weights alone, as where one is transposed.
    """

    def __init__(self, weights: Mapping[int, Tensor], held: Collection[int] = ()) -> None:
        super().__init__()
        self._weights = weights
        self._held = held
        self._kept: dict[int, Any] = {}
        self._returned: dict[Use, float] = {}
        self._counts: Counter[int] = Counter()
        self._made_of: dict[int, set[int]] = {}  # by address
        self.begin()

    def begin(self) -> dict[Use, float]:
        """End a forward and begin the next; return fingerprints of what the uses returned."""
        returned, self._returned = self._returned, {}
        self._counts.clear()
        self._made_of = {}
        for leaf, weight in self._weights.items():  # several may share their memory
            self._made_of.setdefault(address_of(weight), set()).add(leaf)
        return returned

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [address_of(tensor) for tensor in tensors((args, kwargs or {}))]
        leaves: set[int] = set().union(*(self._made_of.get(a, ()) for a in given))
        out = func(*args, **(kwargs or {}))
        new = {address_of(tensor) for tensor in tensors(out)}.difference(given)
        if leaves and all(a in self._made_of for a in given):
            self._made_of |= dict.fromkeys(new, leaves)
            return out
        for address in new:  # memory that was given back
            self._made_of.pop(address, None)
        writes = func._schema.is_mutable
        return self._used(leaves, out, writes) if leaves and (new or writes) else out

    def _used(self, leaves: Collection[int], out: Any, writes: bool) -> Any:
        value = sum(float(weighted_sum(tensor)) for tensor in tensors(out))
        self._returned |= {(leaf, self._counts[leaf]): value for leaf in leaves}
        first = [leaf for leaf in leaves if leaf in self._held and not self._counts[leaf]]
        self._counts.update(leaves)
        for leaf in first:
            if leaf not in self._kept:
                self._kept[leaf] = map_tensors(Tensor.clone, out)
            elif writes:
                for tensor, kept in zip(tensors(out), tensors(self._kept[leaf]), strict=True):
                    tensor.copy_(kept)
            else:
                return map_tensors(Tensor.clone, self._kept[leaf])
        return out
