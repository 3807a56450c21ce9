"""GH202: a training step must not change a weight beyond recognition, nor the training run away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_gradhealth.errors import ExplodingUpdateError
from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.diagnosis import Finding
from pytest_gradhealth.results.profile import Update
from pytest_gradhealth.rules.rule import Evidence, Rule

#: Growth of the gradient norm over the steps, while the loss rises, that is called running away.
RUNAWAY = 1e3


def check(evidence: Evidence) -> Iterator[Finding]:
    """Compare the steps that were made with `max_update`; silent where none were.

    >>> from pytest_gradhealth.results.diagnosis import Limit
    >>> from pytest_gradhealth.results.profile import GradientProfile, Update
    >>> wild = Update(1, loss=2.3, gradient=7e5, clipped=7e5, layer="fc1", change=340.0)
    >>> look = GradientProfile(0, 0, 2.3, paths=(), updates=(wild,))
    >>> [(f.severity, f.layer) for f in check(Evidence(look, None, {"max_update": Limit(1, "")}))]
    [('failure', 'fc1')]
    """
    made, limit = evidence.first.updates, evidence.limits.get("max_update")
    if not made or limit is None:
        return
    broken = next((update for update in made if not update.finite), None)
    worst = max((u for u in made if u.finite), key=lambda update: update.change, default=None)
    if worst is not None and worst.change > limit.value:
        text = (
            f"training explodes: step {worst.step} changes {worst.layer} by x{number(worst.change)}"
            f" of its weight; limit x{number(limit.value)} ({limit.source})"
        )
        if broken is not None:
            text += f"; the {_broken(broken)} in step {broken.step}"
        yield RULE.finding(
            "failure",
            worst.layer,
            text,
            profile=evidence.first,
            value=worst.change,
            limit=limit,
        )
    elif broken is not None:
        text = f"training explodes: the {_broken(broken)} in step {broken.step}"
        yield RULE.finding("failure", broken.layer, text, profile=evidence.first)
    elif _runs_away(made):
        text = (
            f"training explodes: the gradient norm goes from {number(made[0].gradient)} to"
            f" {number(made[-1].gradient)} in {len(made)} steps, the loss from"
            f" {number(made[0].loss)} to {number(made[-1].loss)}"
        )
        yield RULE.finding("failure", made[-1].layer, text, profile=evidence.first)


def _broken(update: Update) -> str:
    """What is not finite in a step, the first thing first."""
    numbers = {
        "loss": update.loss,
        "gradient": update.gradient,
        "clipped gradient": update.clipped,
        "weight": update.change,
    }
    name, value = next((n, v) for n, v in numbers.items() if not math.isfinite(v))
    return f"{name} is {'NaN' if math.isnan(value) else 'infinite'}"


def _runs_away(made: Sequence[Update]) -> bool:
    start, end = made[0], made[-1]
    return end.gradient > RUNAWAY * start.gradient > 0 and end.loss > start.loss


RULE = Rule(
    code="GH202",
    name="exploding-update",
    summary="a training step must not change a weight beyond recognition",
    reads="ten training steps on a copy, with the given optimizer, clipping and penalty",
    check=check,
    confirm_from=None,
    error=ExplodingUpdateError,
)
