"""What is called otherwise in one side than in the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_gradhealth.agreement.side import Layers, Place, Reading, Side
from pytest_gradhealth.agreement.weights import Renaming
from pytest_gradhealth.tensors.modules import named_parameters


@dataclass(frozen=True)
class Names:
    """What b's parameters and layers are called in a."""

    parameters: Mapping[str, str]
    renaming: Renaming
    modules: Mapping[str, str]

    @classmethod
    def of(cls, a: Side, b: Side, renaming: Renaming) -> Names:
        """The names of two sides' models; tied parameters go by their first."""
        theirs = {
            name: first
            for first, (_, others) in named_parameters(b.subject.model).items()
            for name in (first, *others)
        }
        parameters: dict[str, str] = {}
        for first, (_, others) in named_parameters(a.subject.model).items():
            for name in (first, *others):
                found = theirs.get(renaming.in_b(name))
                if found is not None:
                    parameters.setdefault(found, first)
        in_b = {name for name, _ in b.subject.model.named_modules()}
        modules = {
            renaming.in_b(name): name
            for name, _ in a.subject.model.named_modules()
            if renaming.in_b(name) in in_b
        }
        return cls(parameters, renaming, modules)

    def layers(self, layers: Layers) -> Layers:
        """What layers of a's are called in b, as far as it has them."""
        if layers == "all":
            return layers
        renamed = [(self.renaming.in_b(name), call, output) for name, call, output in layers]
        return [key for key in renamed if key[0] in self.modules]

    def in_a(self, reading: Reading) -> Reading:
        """What a run of b has made, as far as a has it, by a's names."""
        return {
            self._place(place): tensor
            for place, tensor in reading.items()
            if place[0] != "parameter gradient" or place[1] in self.parameters
        }

    def _place(self, place: Place) -> Place:
        kind, name, call, output = place
        if kind in ("output", "loss", "input gradient"):
            return place
        names = self.parameters if kind == "parameter gradient" else self.modules
        return kind, names.get(name, name), call, output
