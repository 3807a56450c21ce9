"""What takes no part in a forward, and whether others of its kind do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_gradhealth.results.names import ancestry, outermost
from pytest_gradhealth.results.profile import GradientProfile, OutputRecord, ParameterRecord


class Resting:
    """The modules that take no part in a forward: not called, with an empty batch, or gated out."""

    def __init__(self, profile: GradientProfile) -> None:
        self._profile = profile
        busy = {p.module for p in profile.parameters if p.state == "gradient"}
        ran = [o for o in profile.outputs if o.numel or o.state == "no-tensor"]
        self._busy = {prefix for module in busy for prefix in ancestry(module)}
        self._uncalled = {*profile.uncalled}
        self._active = {prefix for o in ran for prefix in ancestry(o.name)} | self._busy
        self._felt = {prefix for o in ran if o.norm != 0 for prefix in ancestry(o.name)}
        self._side_by_side = self._with_later_silence(ran)
        # By weights alone, as where a function takes them, a module is used as well.
        used = [o for o in profile.outputs if o.state == "not-called" and o.name in busy]
        self._kinds = {_kind(kind) for o in (*ran, *used) for kind in (o.type, o.leaf)} - {""}

    def around(self, parameter: ParameterRecord) -> str:
        """The outermost module around a parameter that takes no part, "" if its own one does."""
        return outermost(parameter.module, self._active)

    def has_kin(self, parameter: ParameterRecord) -> bool:
        """Whether modules of one class with those around a parameter do what these do not.

        Or parts of its own module are called, and that as a whole is not.
        """
        whole = self.around(parameter)
        if parameter.module in self._uncalled & self._active:
            return True
        inside = (p for p in self._profile.parameters if f"{p.name}.".startswith(f"{whole}."))
        owners = {p.module for p in inside} if whole else set()
        return any(o.name in owners and _kind(o.type) in self._kinds for o in self._profile.outputs)

    def has_busy_sibling(self, parameter: ParameterRecord) -> bool:
        """Whether a member of a list that takes no part has a brother that got a gradient."""
        return any(self.busy_lists(parameter))

    def busy_lists(self, parameter: ParameterRecord) -> Iterator[str]:
        """Names of the lists in which a member takes no part, and a brother of it got a gradient.

        Members of an nn.ModuleList, by their numbers, or of an nn.ModuleDict with numbers in its
        keys: idle experts of a mixture.
        """
        parts = parameter.name.split(".")
        for position in range(len(parts) - 1):
            member, before, after = parts[: position + 1], parts[:position], parts[position + 1 :]
            if ".".join(member) in self._active and not self._is_gated_out(".".join(member)):
                continue
            if not self._is_numbered(parts[position], ".".join(before)):
                continue
            names = (other.name.split(".") for other in self._profile.parameters if other.gradient)
            if any(n[:position] == before and n[position + 1 :] == after for n in names):
                yield ".".join(before)

    def _is_gated_out(self, member: str) -> bool:
        """Whether a member was called, and what it returned multiplied by zero."""
        gated = member not in self._busy and member not in self._felt
        return gated and member.rpartition(".")[0] in self._side_by_side

    def _with_later_silence(self, ran: Iterable[OutputRecord]) -> set[str]:
        """Modules with a part that got no gradient and was called after one that did.

        Of layers one behind the other it is the first ones that can be left without.
        """
        zero = {m for p in self._profile.parameters if p.state == "zero" for m in ancestry(p.name)}
        began, found = set[str](), set[str]()
        for output in ran:
            for prefix in ancestry(output.name):
                owner = prefix.rpartition(".")[0]
                if prefix in self._busy:
                    began.add(owner)
                elif prefix in zero and owner in began:
                    found.add(owner)
        return found

    def _is_numbered(self, part: str, owner: str) -> bool:
        """Whether a name is that of a list's member and not of an attribute such as fc2."""
        return part.isdigit() or (any(map(str.isdigit, part)) and owner in self._profile.keyed)


def _kind(type_name: str) -> str:
    """A class, whether or not its weights are parametrised."""
    return type_name.removeprefix("Parametrized")
