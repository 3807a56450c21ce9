"""Where a state meets weights, time after time: the steps of a loop that no layers tell of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pytest_gradhealth.measure.perturbation import weighted_sum
from pytest_gradhealth.tensors.dispatch import DispatchMode
from pytest_gradhealth.tensors.storage import storage_of
from pytest_gradhealth.tensors.trees import map_tensors, tensors

#: One use of a weight: its id, and the number of the use.
Use = tuple[int, int]

#: Uses that are held: data that join in the first step come to the second.
HELD = 2


class Uses(DispatchMode):
    """Watches operations of states with weights, by their ids, in one forward after the other.

    A state is what has been made of tensors that were `begin`s of it. Data, constants and weights
    that meet before, as where a weight is masked or a row of it chosen, make no use: what comes of
    them counts as the weight. From the second forward on, the first uses of each weight return what
    they did in the first, if they are `held`.
    """

    def __init__(self, weights: Mapping[int, Tensor], *, held: bool = False) -> None:
        super().__init__()
        self._weights = weights
        self._held = held
        self._kept: dict[Use, Any] = {}
        self._returned: dict[Use, float] = {}
        self._counts: Counter[int] = Counter()
        # By memory, which an operation that gets memory that was given back writes anew.
        self._states: set[int] = set()
        self._made_of: dict[int, frozenset[int]] = {}
        self.end()

    def end(self) -> dict[Use, float]:
        """End a forward and begin the next; return fingerprints of what the uses returned."""
        returned, self._returned = self._returned, {}
        self._counts.clear()
        self._states.clear()
        self._made_of.clear()
        for leaf, weight in self._weights.items():  # several may share their memory
            memory = storage_of(weight)
            self._made_of[memory] = self._made_of.get(memory, frozenset()) | {leaf}
        return returned

    def begins(self, value: object) -> None:
        """Take the tensors in a value for states."""
        self._states.update(map(storage_of, tensors(value)))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = set(map(storage_of, tensors((args, kwargs or {}))))
        out = func(*args, **(kwargs or {}))
        writes = func._schema.is_mutable
        if not writes and given.issuperset(map(storage_of, tensors(out))):
            return out  # a view
        leaves = frozenset[int]().union(*(self._made_of.get(memory, ()) for memory in given))
        is_state = not given.isdisjoint(self._states)
        if leaves and is_state:
            out = self._used(leaves, out, writes)
        for memory in map(storage_of, tensors(out)):
            self._states.discard(memory)
            self._made_of.pop(memory, None)
            if is_state:
                self._states.add(memory)
            elif leaves:
                self._made_of[memory] = leaves
        return out

    def _used(self, leaves: frozenset[int], out: Any, writes: bool) -> Any:
        uses = [(leaf, self._counts[leaf]) for leaf in leaves]
        self._counts.update(leaves)
        value = sum(float(weighted_sum(tensor)) for tensor in tensors(out))
        self._returned |= dict.fromkeys(uses, value)
        for use in uses:
            if not self._held or use[1] >= HELD:
                continue
            if use not in self._kept:
                self._kept[use] = map_tensors(Tensor.clone, out)
            elif writes:
                for tensor, kept in zip(tensors(out), tensors(self._kept[use]), strict=True):
                    tensor.copy_(kept)
            else:
                return map_tensors(Tensor.clone, self._kept[use])
        return out
