"""The section on random networks: verdicts, rules, statistics and misses against training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from examples.study.measurement import STATISTICS
from examples.study.report.scoring import (
    Judged,
    area,
    fails,
    fails_with_sgd,
    limit_for,
    share,
    statistic,
)
from examples.study.report.text import markdown_table, short

#: Rules in the order in which they are added, and what each of them reads.
TERMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the path: vanishing, exploding, zero, non-finite", ("GH101", "GH201", "GH301", "GH401")),
    ("+ size of the outputs", ("GH203",)),
    ("+ spread of the outputs", ("GH404",)),
    ("+ dead units", ("GH402",)),
    ("+ saturated units", ("GH403",)),
)


#: How many of the 39 that neither trains in the test half are to fail.
AIM, AIM_WITH_SGD = 36, 38


def trainability(networks: Sequence[Judged]) -> str:
    """Recall and false alarms on both halves."""
    rows: list[tuple[object, ...]] = []
    groups: tuple[tuple[str, Callable[[Judged], bool]], ...] = (
        ("neither optimizer trains it", lambda j: j.label == "neither"),
        ("in between", lambda j: j.label == "partly"),
        ("only Adam trains it", lambda j: j.label == "adam"),
        ("SGD trains it", lambda j: j.sgd),
    )
    for title, belongs in groups:
        halves = [
            share([j for j in networks if j.recipe.half == half and belongs(j)], fails)
            for half in ("calibration", "test")
        ]
        rows.append((title, *halves))
        declared = [j for j in networks if belongs(j)]
        tested = [j for j in declared if j.recipe.half == "test"]
        rows[-1] += (share(tested, fails_with_sgd), share(declared, fails_with_sgd))
    moved = sum(len(set(j.record["verdicts"])) > 1 for j in networks)
    return (
        "### Verdicts\n\n"
        + markdown_table(
            rows,
            "truth",
            "fail, calibration half",
            "fail, test half",
            "fail with SGD declared, test half",
            "both halves",
        )
        + f"\n\n{_targets(networks)}\n\nWith the loss multiplied by 1e-4 and by 1e4, {moved} of"
        f" {len(networks)} verdicts change. None failing of so many fits the upper end"
        " of its interval: these networks alone cannot show that fewer than 0.5% fail."
    )


def _targets(networks: Sequence[Judged]) -> str:
    """The counts that are aimed at, and how far they are reached."""
    test = [j for j in networks if j.recipe.half == "test"]
    lost, fine = [j for j in test if j.label == "neither"], [j for j in test if j.sgd]
    return " ".join(
        f"{title}: {sum(map(test, lost))} of the {len(lost)} that neither trains fail (aimed at:"
        f" {aim}), and {sum(map(test, fine))} of the {len(fine)} that SGD trains (aimed at: 0)."
        for title, test, aim in (
            ("Test half, nothing declared", fails, AIM),
            ("With SGD declared", fails_with_sgd, AIM_WITH_SGD),
        )
    )


def terms(test: Sequence[Judged]) -> str:
    """What every rule adds."""
    rows = []
    codes: tuple[str, ...] = ()
    for title, added in TERMS:
        codes += added
        rows.append(
            (
                title,
                share([j for j in test if j.label == "neither"], lambda j, c=codes: fails(j, c)),  # type: ignore[misc]
                share([j for j in test if j.sgd], lambda j, c=codes: fails(j, c)),  # type: ignore[misc]
                share([j for j in test if j.label == "adam"], lambda j, c=codes: fails(j, c)),  # type: ignore[misc]
            )
        )
    table = markdown_table(
        rows, "rules", "neither trains: fail", "SGD trains: fail", "only Adam trains: fail"
    )
    return f"### What each term buys (test half)\n\n{table}\n\n{SHORTFALL}"


def statistics(networks: Sequence[Judged]) -> str:
    """Every statistic as the only one, at the limit that costs 0.5% false alarms in calibration."""
    rows = []
    for one in STATISTICS:
        values = {
            (half, label): [
                statistic(j, one.name)
                for j in networks
                if j.recipe.half == half and (j.sgd if label == "sgd" else j.label == label)
            ]
            for half in ("calibration", "test")
            for label in ("neither", "sgd")
        }
        limit = limit_for(values["calibration", "sgd"], 0.005)
        sick, fine = values["test", "neither"], values["test", "sgd"]
        rows.append(
            (
                one.name,
                one.what,
                f"{area(sick, fine):.3f}",
                f"{limit:.2g}",
                f"{sum(v > limit for v in sick) / len(sick):.0%}",
                f"{sum(v > limit for v in fine) / len(fine):.1%}",
            )
        )
    return (
        "### Statistics, each alone\n\nLimits (in decades) are the lowest with at most 0.5% false"
        " alarms in the calibration half; the rest is the test half, networks that neither"
        " optimizer trains against those that SGD trains, at the first look.\n\n"
        + markdown_table(rows, "statistic", "what", "AUC", "limit", "recall", "false alarms")
        + "\n\n![ROC](results/roc.svg)"
    )


def bins(networks: Sequence[Judged]) -> str:
    """What trains, by path ratio, on all networks."""
    edges = [-math.inf, -8, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, math.inf]
    rows = []
    for low, high in pairwise(edges):
        labels: Counter[str] = Counter()
        for judged in networks:
            down, up = judged.record["vanishing"], judged.record["exploding"]
            if down is None:
                continue
            value = down if -down > up else up
            if low <= value < high or (low == value == -math.inf):
                labels["sgd" if judged.sgd else judged.label] += 1
        name = f"{low:g} to {high:g}"
        rows.append((name, *(labels[label] for label in ("sgd", "adam", "partly", "neither"))))
    return "### What trains, by path ratio (all networks, decades)\n\n" + markdown_table(
        rows, "path ratio", "SGD", "only Adam", "in between", "neither"
    )


def missed(test: Sequence[Judged]) -> str:
    """The networks that nothing trains and that do not fail."""
    rows = [
        (
            j.recipe.name,
            j.record["verdicts"][0],
            short(j.record["vanishing"]),
            short(j.record["exploding"]),
            short(j.record["output"]),
            short(j.record["spread"]),
            short(j.record["flat"]),
        )
        for j in test
        if j.label == "neither" and not fails(j)
    ]
    return "### Misses (test half)\n\n" + markdown_table(
        rows, "network", "verdict", "V", "X", "output RMS", "spread", "saturated"
    )


SHORTFALL = """\
The target was 90%. A `min_spread` of 1e-4 would find one more, but fails two cured twins of the
known faults, whose single sigmoid output starts at almost the same value for every example and
learns all the same: no false alarm was worth it. Missed are two sigmoid networks on inputs of a
hundredth whose outputs differ a bit more than that, a tanh network that is chaotic but small, and
forty-five layers with layer norm, which learn about half of the digits at a rate that is not among
the seven (Adam, 3e-4, 2,400 steps)."""
