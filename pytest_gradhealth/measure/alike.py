"""From where on in a forward the examples of a batch are alike."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from pytest_gradhealth.measure.asked import asked
from pytest_gradhealth.measure.calls import Call, Calls
from pytest_gradhealth.measure.outputs import last_bias
from pytest_gradhealth.results.alike import Alike
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.norms import spread
from pytest_gradhealth.tensors.trees import tensors

#: A spread below which examples count as alike.
NOTHING = 1e-3
#: What is left of a spread, at most, where it is lost in one place.
AT_ONCE = 1e-2


@asked(None)
def alike_from(subject: Subject, *, seed: int) -> Alike | None:
    """Return where the spread of the examples gets lost, None where that is unknown."""
    run = Pass(subject, seed)
    given = [t for t in tensors(run.inputs) if t.dim() and len(t) > 1 and not t.is_nested]
    if not given:
        return None
    if all(bool((t == t[:1]).all()) for t in given):
        return Alike("inputs")
    seen = _Spreads(subject.model, examples=len(given[0]))
    seen.whole = min(seen.apart(given) or 1.0, 1.0)
    with seen.attached():
        run.forward()
    return seen.lost()


@dataclass
class _Spreads(Calls):
    """Notes how far the examples lie apart before and behind each module that holds no other.

    Over how far the inputs do, whose spread `whole` is.
    """

    examples: int = 0
    whole: float = 1.0
    found: list[tuple[Alike, float]] = field(default_factory=list)
    given: list[float | None] = field(default_factory=list)

    def begun(self, given: Any) -> None:
        self.given.append(self.apart(given))

    def ended(self, call: Call, module: nn.Module, outputs: Any) -> None:
        before, behind = self.given.pop(), self.apart(outputs)
        if before is None or behind is None or any(module.children()):
            return
        self.found.append((Alike("before", call.name, call.type), before))
        kind: Literal["bias", "behind"] = "bias" if self._drowned(module, outputs) else "behind"
        self.found.append((Alike(kind, call.name, call.type), behind))

    def lost(self) -> Alike | None:
        """Where what is left falls below NOTHING for good, in one place or by and by."""
        shares = [1.0, *(value / self.whole for _, value in self.found)]
        kept = [*itertools.takewhile(lambda share: share >= NOTHING, shares)]
        lost = shares[len(kept) :]
        if not lost or max(lost) >= NOTHING:  # side by side with what keeps them apart
            return None
        place = self.found[len(kept) - 1][0]
        if lost[0] <= AT_ONCE * kept[-1]:
            return place
        steps = [math.log(b / a) for a, b in itertools.pairwise([*kept, lost[0]])]
        outside = sum(s for s, (at, _) in zip(steps, self.found, strict=False) if at.at == "before")
        return replace(place, at="between" if 2 * outside < sum(steps) else "by and by")

    def apart(self, values: Any) -> float | None:
        """How far apart the examples are at most in tensors that hold all of them."""
        shares = [
            float(spread(t))
            for t in tensors(values)
            if t.dim() and len(t) == self.examples and not t.is_nested
        ]
        return max((0.0 if math.isnan(share) else share for share in shares), default=None)

    def _drowned(self, module: nn.Module, outputs: Any) -> bool:
        """Whether an output tells the examples apart without the bias of the layer.

        Or would, had that not rounded away all that the weights make.
        """
        bias = last_bias(outputs) if isinstance(outputs, Tensor) else None
        if bias is None:
            return False
        rest = outputs.detach() - bias
        eaten = not bool(rest.any()) and any(
            bool(p.any()) for p in module.parameters() if p.dim() > 1
        )
        return eaten or (self.apart(rest) or 0.0) > NOTHING
