"""The section on transformer operators: what training makes of them, and what is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from examples.study.operators.faults import operators
from examples.study.operators.truth import LOST, RATES, STEPS, TAUGHT, label_of
from examples.study.peers import PEERS
from examples.study.report.faults import told
from examples.study.report.scoring import Share
from examples.study.report.text import Records, markdown_table
from examples.study.stages import SEEDS

#: What the peers' rules are about, as the journals have it.
ABOUT = ("gradients", "all")


@dataclass(frozen=True)
class Probed:
    """One transformer under one seed: its truth, and what was said of it."""

    name: str
    side: str
    accuracy: float
    label: str
    verdict: str
    codes: tuple[str, ...]


def probed(training: Records, measured: Records) -> list[Probed]:
    """All that both journals have."""
    found = []
    for key, record in measured.items():
        side, _, rest = key.partition(":")
        if key in training:
            best = max(run["accuracy"] for run in training[key]["runs"])
            codes = tuple(code for code, *_ in record["findings"])
            name, label = rest.rpartition("@")[0], label_of(training[key])
            found.append(Probed(name, side, best, label, record["verdicts"][0], codes))
    return found


def transformer_operators(training: Records, measured: Records) -> str:
    """Every operator with its truth and its verdicts, and the shares of each truth."""
    every = probed(training, measured)
    sick = [one for one in every if one.side == "sick"]
    rows = []
    for name, fault in operators().items():
        mine = [one for one in sick if one.name == name]
        codes = sorted({code for one in mine for code in one.codes})
        accuracies = " ".join(f"{one.accuracy:.2f}" for one in mine)
        verdicts = told([one.verdict for one in mine])
        rows.append((name, fault.symptom, accuracies, verdicts, " ".join(codes)))
    groups = {label: [one for one in sick if one.label == label] for label in LABELS}
    right = {"right ones": [one for one in every if one.side == "cured"]}
    shares = [
        (label, _share(of, "failure"), _share(of, "failure", "warning"))
        for label, of in (groups | right).items()
    ]
    spared = dict.fromkeys(one.name for one in groups["trains"] if one.verdict == "failure")
    return (
        f"## 4. Transformer operators\n\n{len(operators())} transformers with one operation changed"
        f" (`operators/`), under {len(SEEDS)} seeds. Asked for is the token three places before."
        f" Truth is training: Adam at {' and '.join(f'{rate:g}' for rate in RATES)}, {STEPS} steps"
        f" each. It *trains* where one run names {TAUGHT:.0%} of the tokens of a new batch, and"
        f" *does not train* where none names {LOST:.0%}.\n\n"
        + markdown_table(shares, "truth of runs", "fail", "fail or warn")
        + f"\n\nFail and train all the same: {', '.join(spared) or 'none'}.{EXCUSE * bool(spared)}"
        f"\n\n{_peers(every, measured)}\n\n"
        + markdown_table(rows, "operator", "what is wrong", "accuracy by seed", "verdict", "codes")
    )


LABELS = ("does not train", "partly", "trains")
EXCUSE = " Parameters that get no gradient are said to get none, whether or not the rest learns."


def _share(of: Sequence[Probed], *verdicts: str) -> Share:
    return Share(sum(one.verdict in verdicts for one in of), len(of))


def _peers(every: Iterable[Probed], measured: Records) -> str:
    """What the peers' formulas say of the same runs."""
    truths = {(one.side, one.name): one.label for one in every}

    def flagged(label: str, says: Callable[[str], bool]) -> str:
        of = [
            key
            for key in measured
            if truths.get((key.partition(":")[0], key.partition(":")[2].rpartition("@")[0]))
            == label
            and "peers" in measured[key]
        ]
        return f"{sum(map(says, of)) / len(of):.0%}" if of else ""

    rows = []
    for peer in PEERS:
        cells = [
            flagged(label, lambda key, p=peer, a=about: measured[key]["peers"][p.name][a][0])  # type: ignore[misc]
            for about in ABOUT
            for label in ("does not train", "trains")
        ]
        rows.append((peer.name, *cells))
    return markdown_table(
        rows,
        "peer",
        "does not train: rules on gradients",
        "trains",
        "does not train: all its rules",
        "trains",
    )
