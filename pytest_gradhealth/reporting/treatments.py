"""What came of the remedies that were tried, as a table and as code to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_gradhealth.formatting import View, columns, hanging, number, shortened
from pytest_gradhealth.results.diagnosis import Diagnosis, Measure, Treatment
from pytest_gradhealth.rules import known_rules
from pytest_gradhealth.rules.rule import Quantity

#: Cured remedies whose code is shown without -v.
MOST_CODES = 3
#: The share of what the best has taken off the loss that an alternative has to take off.
ALTERNATIVE = 0.5
#: What is left to say where nothing that was tried is a cure.
NO_CURE = "no remedy cured it: change more than one thing, or the architecture"


def treatment_blocks(diagnosis: Diagnosis, view: View, *, certain: bool = False) -> list[str]:
    """What was tried on copies, as a table, and the code of what cured them.

    `certain` says that a cure was told already: no more is to be changed.
    """
    treatments = diagnosis.treatments
    if not treatments:
        return []
    rule = known_rules(diagnosis).get(treatments[0].rule)
    table = _table(treatments, (rule and rule.quantity) or Quantity(lambda _: None))
    blocks = []
    if table:
        title = f"tried on copies, trained with {shortened(diagnosis.optimizer, 80)} on this batch:"
        blocks += [title, table]
    cured = [treatment for treatment in treatments if treatment.outcome == "cured"]
    known = cured or certain
    told = [t for t in treatments if view.verbose or not (known and t.outcome == "cannot")]
    blocks.append("\n".join(_reasons(told, view.width)))
    shown = cured if view.verbose else _worth_a_try(cured)[:MOST_CODES]
    for place, treatment in enumerate(shown):
        lead = "write" if place == 0 else "or"
        code = "\n".join(f"    {line}" for line in treatment.code.splitlines())
        blocks.append(f"{lead} ({shortened(treatment.remedy, 40)}):\n{code}")
    if len(shown) < len(cured):
        others = ", ".join(shortened(t.remedy, 40) for t in cured if t not in shown)
        blocks.append(hanging("more", f"-v shows the code of {others} as well", view.width))
    if table and not known:
        blocks.append(NO_CURE)
    return [block for block in blocks if block]


def _worth_a_try(cured: Sequence[Treatment]) -> list[Treatment]:
    """The first of each family, but for those whose loss falls much less than that of the best."""
    found: dict[str, Treatment] = {}
    for treatment in cured:
        if _fall(treatment) >= ALTERNATIVE * _fall(cured[0]):
            found.setdefault(treatment.family or treatment.remedy, treatment)
    return list(found.values())


def _fall(treatment: Treatment) -> float:
    after = treatment.after
    if after is None or after.start is None or after.end is None:
        return 0.0
    return after.start - after.end


def _reasons(treatments: Sequence[Treatment], width: int) -> Iterator[str]:
    """Why, where the numbers do not say so; remedies with the same reason share a line."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for treatment in treatments:
        lead = {"cannot": "cannot", "not tried": "untried"}.get(treatment.outcome, "note")
        if treatment.reason:
            names = by_reason.setdefault((lead, treatment.reason), [])
            names.append(shortened(treatment.remedy, 40))
    for (lead, reason), names in by_reason.items():
        yield hanging(lead, f"{', '.join(names)}: {reason}", width)


def _table(treatments: Sequence[Treatment], quantity: Quantity) -> str:
    """Return what was tried as a table, an unchanged copy on top, the best first.

    What could not be applied or was not tried is left out.
    """
    before = treatments[0].before
    rows = [["(as it is)", "", quantity.shown(before.value), *_training(before)]]
    rows += [
        [shortened(t.remedy, 40), t.outcome, quantity.shown(t.after.value), *_training(t.after)]
        for t in treatments
        if t.after is not None
    ]
    if len(rows) == 1:
        return ""
    names = ["remedy", "outcome", quantity.title, "loss", "steps"]
    return columns(rows, names, "llrlr")


def _training(measure: Measure) -> tuple[str, str]:
    if measure.start is None or measure.end is None:
        return "", ""
    return f"{number(measure.start)} -> {number(measure.end)}", str(measure.steps)
