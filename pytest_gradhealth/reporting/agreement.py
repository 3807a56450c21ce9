"""The text of a comparison: where two ways of computing one model part, how far, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_gradhealth.formatting import (
    MOST_ROWS,
    View,
    columns,
    count,
    hanging,
    number,
    shortened,
    told_apart,
)
from pytest_gradhealth.results.agreement import Agreement, Difference, Kind

#: Up to which angle, as 1 - cosine, two gradients count as multiples of each other.
_PARALLEL = 1e-3
#: Up to which distance a tolerance is worth to be declared.
_LARGEST_TOLERANCE = 1e-3
#: How many characters of a name are shown.
_LONGEST_NAME = 44


def render(agreement: Agreement, view: View | None = None) -> str:
    """Return the message for sides that do not agree."""
    view = view or View()
    first = agreement.apart[0]
    head = f"{shortened(agreement.b, 60)} differs from {_a(agreement)}: "
    rows = agreement.apart if view.verbose else agreement.apart[:MOST_ROWS]
    hidden = len(agreement.apart) - len(rows)
    words = [("cause", _cause(agreement)), ("try", _advice(agreement))]
    blocks = [
        f"{head}{_where(first)} {_parted(first)}",
        _setting(agreement),
        _table(rows) + (f"\n... and {hidden} more" if hidden else ""),
        "\n".join(hanging(label, text, view.width) for label, text in words),
    ]
    return "\n\n".join(blocks)


def table(agreement: Agreement) -> str:
    """All that was compared, a line each, under one that says whether it agrees."""
    verdict = "agrees with" if agreement.same else "differs from"
    head = f"{shortened(agreement.b, 60)} {verdict} {_a(agreement)}"
    return "\n\n".join([head, _setting(agreement), _table(agreement.differences)])


def _a(agreement: Agreement) -> str:
    return shortened(agreement.a, 60)


def _where(difference: Difference) -> str:
    """A place in words."""
    words = {
        "activation": "what {} returns",
        "output": "output {}",
        "loss": "the loss{}",
        "layer gradient": "the gradient at {}",
        "parameter gradient": "the gradient of {}",
        "input gradient": "the gradient of input {}",
    }
    return words[difference.kind].format(shortened(difference.name, _LONGEST_NAME))


def _parted(difference: Difference) -> str:
    """How far a place is from what it is in a."""
    if difference.only:
        return f"is in {difference.only} alone"
    a, b = told_apart(difference.a, difference.b)
    if math.isnan(difference.distance) and math.isfinite(difference.b):
        return "is of another size"
    if difference.a == 0 or not math.isfinite(difference.distance):
        return f"is {b}, not {a} (L2 norm)"
    if abs(difference.ratio - 1) < 0.1 * difference.distance:
        return f"is off by {_share(difference.distance)} of itself{_digits(difference.distance)}"
    off = f"off by {_share(difference.distance)}{_digits(difference.distance)}"
    return f"is {b}, not {a} (L2 norm), {off}"


def _digits(distance: float) -> str:
    """How many digits agree of what is so far apart."""
    found = 0 if distance >= 1 else math.floor(0.01 - math.log10(distance))
    agree = "agrees" if found < 2 else "agree"
    return f": {count(found, 'digit') if found else 'no digit'} {agree}"


def _share(distance: float) -> str:
    if not distance < 10:
        return f"x{number(distance)}" if math.isfinite(distance) else str(distance)
    return f"{100 * distance:.{0 if distance >= 0.1 else 2}{'f' if distance >= 0.1 else 'g'}}%"


def _setting(agreement: Agreement) -> str:
    parameters, layers = agreement.of("parameter gradient"), agreement.of("layer gradient")
    lines = [
        f"compared in {agreement.format}: outputs, loss and the gradients of"
        f" {count(len(parameters), 'parameter')}"
    ]
    if layers:
        verbs = "returns and gets" if len(layers) == 1 else "return and get"
        lines.append(f"and what {count(len(layers), 'layer')} {verbs} back")
    if not agreement.layers:
        lines.append("compiled code does not show its layers")
    if agreement.without_dropout:
        lines.append("dropout is off: its random numbers come in another order there")
    repeats = agreement.repeats
    apart = f"differ by {_share(repeats)}" if repeats else "are the same to the last bit"
    lines.append(f"two runs of {_a(agreement)} alone {apart}")
    for side, only in (("a", agreement.only_a), ("b", agreement.only_b)):
        if only:
            lines.append(f"only in {side}, and not compared: {shortened(', '.join(only), 100)}")
    return "\n".join(lines)


def _table(differences: Sequence[Difference]) -> str:
    rows = [
        [
            _where(d).removeprefix("the "),
            "" if d.only == "b" else number(d.a),
            "" if d.only == "a" else number(d.b),
            "" if d.only else _share(d.distance),
            "" if d.only else _share(d.tolerance),
            "" if d.agrees else "!",
        ]
        for d in differences
    ]
    return columns(rows, ["", "norm in a", "in b", "apart", "allowed", ""], "lrrrrl")


def _cause(agreement: Agreement) -> str:
    return next(_causes(agreement))


def _causes(agreement: Agreement) -> Iterator[str]:
    apart = agreement.apart
    first, gradients = apart[0], [d for d in apart if "gradient" in d.kind]
    forward = "the forward is the same, "
    if agreement.redrawn:
        yield "random numbers are drawn in another order: another seed changes a by as much"
    if first.only:
        yield f"{_where(first)} is returned by {first.only}, and not by the other"
    for side, frozen in (("a", agreement.frozen_a), ("b", agreement.frozen_b)):
        if first.name in frozen:
            yield f"{first.name} is frozen in {side}, and not in the other"
    if first.kind in ("activation", "output"):
        before = _before(agreement, "activation")
        yield f"the forward is another one from {_where(first)} on{before}"
    if first.kind == "loss":
        yield "the outputs are the same, and the loss that is made of them is not"
    factor = _common_factor(gradients)
    if factor == 0:
        what = "input " * (first.kind == "input gradient")
        yield f"{forward}but no gradient reaches {what}{first.name}"
    if factor is not None and f"{factor:.3g}" != "1":
        parameters = agreement.of("parameter gradient")
        whole = len(parameters) > 1 and not any(d.agrees for d in parameters)
        what = "every gradient of a parameter" if whole else _where(first)
        yield f"{forward}and {what} is {factor:.3g} times a's: a mean, a sum or a scale"
    yield f"{forward}and the way back is another one from {_where(first)} on" + _before(
        agreement, "layer gradient", "parameter gradient"
    )


def _before(agreement: Agreement, *kinds: Kind) -> str:
    """What was still the same before the first place where the sides part."""
    seen = list(agreement.of(*kinds))
    until = next((i for i, d in enumerate(seen) if not d.agrees), 0)
    return f"; {_where(seen[until - 1])} is still the same" if until else ""


def _common_factor(gradients: Sequence[Difference]) -> float | None:
    """What all gradients are multiplied by, None where they are no multiples of a's."""
    if all(d.b == 0 for d in gradients):
        return 0.0
    if not all(d.cosine > 1 - _PARALLEL for d in gradients):
        return None
    ratios = [d.ratio for d in gradients]
    return ratios[0] if max(ratios) - min(ratios) < 0.01 * abs(ratios[0] - 1) else None


def _advice(agreement: Agreement) -> str:
    first = agreement.apart[0]
    limit = "" if agreement.declared else _limit(agreement)
    allowed = f", or allow for it: rtol={limit}" if limit else ""
    if agreement.redrawn:
        return "compare in eval mode, or with dropout at 0"
    if first.only:
        return "return the same in both, or compare a function of the outputs: call=..."
    if first.name in agreement.frozen_a + agreement.frozen_b:
        return "train it in both, or in neither: requires_grad_(False)"
    if not agreement.layers:
        return (
            'backend="aot_eager", then "eager": the first that agrees leaves out the part of the'
            f" compiler that is wrong{allowed}"
        )
    if first.kind in ("activation", "output", "loss"):
        return f"look at what both compute there{allowed}"
    return f"look for a detach, a scale or a missing sum there{allowed}"


def _limit(agreement: Agreement) -> str:
    """The least tolerance of one digit that lets all pass, "" where that would be no tolerance."""
    largest = max((d.distance for d in agreement.apart), key=lambda d: math.inf if d != d else d)
    if not 0 < largest < _LARGEST_TOLERANCE:
        return ""
    exponent = math.floor(math.log10(largest))
    return f"{math.ceil(largest / 10**exponent + 1e-9) * 10.0**exponent:.0e}"
