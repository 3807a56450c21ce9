"""RESULTS.md and its summary, from the journals."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from examples.study.journal import Record
from examples.study.rates import rows
from examples.study.report.architectures import false_alarms
from examples.study.report.faults import known_faults, sides
from examples.study.report.operators import transformer_operators
from examples.study.report.other_tools import peers, theory
from examples.study.report.random_networks import bins, missed, statistics, terms, trainability
from examples.study.report.rules import rules
from examples.study.report.scoring import Judged, fails, fails_with_sgd, joined, share
from examples.study.report.text import Records, markdown_table
from examples.study.report.tools import installed_tools
from pytest_gradhealth.config.options import DEFAULTS, WITH_SGD

STUDY = Path(__file__).parents[1]
RESULTS = STUDY / "RESULTS.md"
SUMMARY = STUDY / "results" / "summary.json"


def write(
    training: Records,
    random: Records,
    healthy: Records,
    known: Records,
    added: Mapping[str, Records],
) -> None:
    """Write RESULTS.md and the summary that the README quotes; `added` has records by stage.

    Raises ValueError for verdicts that were made with other limits than those in the code.
    """
    operators = added.get("operators", {})
    _check_limits(r for of in (random, healthy, known, operators) for r in of.values())
    networks = joined(training, random)
    test = [judged for judged in networks if judged.recipe.half == "test"]
    blocks = [
        introduction(networks),
        limits_table(),
        trainability(networks),
        terms(test),
        statistics(networks),
        bins(networks),
        missed(test),
        false_alarms(healthy),
        known_faults(known),
        transformer_operators(added["operators-training"], operators),
        peers(test, healthy, known),
        installed_tools(added["tools"], added["operators-training"]),
        rules(healthy, known, added, rows(added["rates-random"])),
        theory(),
    ]
    RESULTS.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    summary = headline(networks, healthy, known)
    SUMMARY.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _check_limits(records: Iterable[Record]) -> None:
    for record in records:
        known = record.get("limits", {})
        if "error" not in record and any(known.get(n) != DEFAULTS[n] for n in RESTS_ON):
            raise ValueError(
                f"{record['key']} was judged with other limits than the defaults of now: delete"
                " what CONTRIBUTING.md lists in results/ and run it again"
            )


def headline(networks: Sequence[Judged], healthy: Records, known: Records) -> dict[str, Any]:
    """The numbers that sum it up, and the limits they were reached with."""
    test = [judged for judged in networks if judged.recipe.half == "test"]
    hopeless, fine = [j for j in test if j.label == "neither"], [j for j in test if j.sgd]
    lost, alarms = share(hopeless, fails), share(fine, fails)
    declared, wrong = share(hopeless, fails_with_sgd), share(fine, fails_with_sgd)
    zoo = [record for record in healthy.values() if "error" not in record]
    warned, unjudged = (
        {(r["family"], r["name"]) for r in zoo if verdict in r["verdicts"]}
        for verdict in ("warning", "not judged")
    )
    sick, cured = sides(known)
    return {
        "random networks": len(networks),
        "recall": [lost.count, lost.of],
        "false failures": [alarms.count, alarms.of],
        "recall with SGD": [declared.count, declared.of],
        "false failures with SGD": [wrong.count, wrong.of],
        "healthy architectures": len({(r["family"], r["name"]) for r in zoo}),
        "healthy probes": len(zoo),
        "healthy failures": sum(r["verdicts"][0] == "failure" for r in zoo),
        "healthy warnings": len(warned),
        "healthy not judged": len(unjudged),
        "faults in reach": len(sick),
        "faults found": sum("failure" in verdicts for verdicts in sick.values()),
        "cured failures": sum("failure" in verdicts for verdicts in cured.values()),
        "limits": {**DEFAULTS, "with SGD": WITH_SGD},
    }


def _versions() -> str:
    names = ("torch", "torchvision", "timm", "transformers", "peft")
    found = ", ".join(f"{name} {version(name)}" for name in names)
    return f"Python {platform.python_version()}, {found}, on the CPU, one thread"


def introduction(networks: Sequence[Judged]) -> str:
    """What was done, with what, and how to do it again."""
    return f"""\
# How often the linter is wrong

Measured with {_versions()}. The command, which takes up where it was stopped (about three hours
on two cores from nothing; minutes to write this page again from `results/`):

```sh
pip install -e '.[study]' && python -m examples.study
```

A network *fails* where `pytest_gradhealth.probe(model, inputs, targets, loss=...)` does, with
default limits and no optimizer declared. Shares come with 95% intervals (Wilson).

**The rule in three sentences.** The gradient must reach the first layer with more
than {DEFAULTS["min_ratio"]:g} and less than {DEFAULTS["max_ratio"]:g} times its size at the loss,
in L2 norm and in RMS. The outputs must be of a size below {DEFAULTS["max_output"]:g} and differ
over the batch by more than {DEFAULTS["min_spread"]:g} of themselves, and no layer on the way may be
{DEFAULTS["max_dead"]:.0%} dead or {DEFAULTS["max_saturated"]:.1%} saturated. What would fail is
looked at again after five optimizer steps, and only what is still wrong fails.

## 1. Trainability: {len(networks)} random networks

MLPs and convolutional networks for MNIST digits: 2 to 50 layers, eleven activations, fifteen
initialisations, no, batch or layer norm, with and without skip connections, four scalings of the
input. Truth is training: SGD (momentum 0.9) with four learning rates and Adam with three, each for
at least 300 steps (1,800 once the loss falls below 2.275, where guessing has 2.303; up to 9,000
for shallow convolutional networks).
A network *trains* when it reads 80% of the training digits, and *neither* optimizer trains it when
no run reads 30%. The limits come from the literature and earlier measurements; the networks with
even numbers (calibration) were looked at while they were settled, those with odd ones (test) are
shown below unless a table says otherwise.

![path ratio by what trains the network](results/distribution.svg)"""


def limits_table() -> str:
    """The limits, which are those in the code."""
    rows = [
        (name, f"{value:g}", f"{WITH_SGD.get(name, value):g}", RESTS_ON[name])
        for name, value in DEFAULTS.items()
        if name in RESTS_ON
    ]
    return (
        "### Limits\n\n"
        + markdown_table(rows, "limit", "default", "with SGD declared", "rests on")
        + "\n\nOther settings (`max_update`, `max_penalty`, `max_underflow`) judge what users"
        " declare of their training, which is not studied here; for `max_rate` see RATES.md."
    )


#: The sets on which a limit can be seen to matter.
RESTS_ON = {
    "min_ratio": "random networks, healthy architectures, known faults",
    "max_ratio": "random networks, healthy architectures, known faults",
    "warn_min_ratio": "healthy architectures",
    "warn_max_ratio": "healthy architectures",
    "max_output": "random networks, known faults",
    "warn_max_output": "known faults",
    "min_spread": "random networks (both halves), cured twins",
    "warn_min_spread": "random networks",
    "max_dead": "known faults, healthy architectures",
    "max_saturated": "random networks, known faults",
}
