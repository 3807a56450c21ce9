"""Measures every pair under five seeds and writes the table: python -m examples.remedies.table"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import median

import torch
from tabulate import tabulate

from examples.mnist.digits import load_digits
from examples.mnist.training import one_thread
from examples.remedies.pair import SEEDS, Measured, Pair, Recipe, Symptom, measured
from examples.remedies.pairs import PAIRS

README = Path(__file__).parent / "README.md"
HEADERS = (
    "sick",
    "remedy",
    "cured",
    "what the linter compares",
    "before -> after",
    "loss",
    "accuracy",
)
INTRODUCTION = """\
# Remedies

There is one file per remedy: why a network needs it, and that network as a strict xfail. `pairs.py`
lists these networks and the same ones with the remedy. `test_pairs.py` shows that the latter pass,
and by a short training of both that the linter is right. They run on the 2,000 MNIST digits in
`../mnist/data/` and are tested on another 500.

```sh
pytest examples/remedies
pytest examples/remedies/test_batch_normalisation.py --runxfail  # the message of the sick network
python -m examples.remedies.test_activation_functions  # trains and prints, with progress bars
python -m examples.remedies.table  # writes this file
```

Every row holds under each of {seeds} seeds: the linter fails the sick network and passes the cured
one, and after the same number of steps the cured one reads digits (the mean loss of the last ten
steps is below 1, and more than 60% of the test digits are right), while the sick one's loss is no
better than 2.0; guessing has 2.3 and 10%. The numbers are medians over the seeds. "Trained" means
that the linter looked after the training, else before it.
"""


def holds(sick: Measured, cured: Measured) -> bool:
    """Whether a pair shows what it is meant to show."""
    return not sick.passes and sick.trained.failed and cured.passes and cured.trained.learned


def row(pair: Pair, sick: Sequence[Measured], cured: Sequence[Measured]) -> tuple[str, ...]:
    """One line of the table: medians over the seeds."""

    def both(number: Callable[[Measured], float], form: str) -> str:
        return " -> ".join(format(median(map(number, side)), form) for side in (sick, cured))

    return (
        pair.sick.what,
        pair.remedy,
        pair.cured.what,
        pair.symptom.name,
        both(lambda found: found.number, ".2g"),
        both(lambda found: found.trained.loss, ".3g"),
        both(lambda found: found.trained.accuracy, ".0%"),
    )


@one_thread()
def table(seeds: Sequence[int] = SEEDS) -> str:
    """Measure all pairs; raises AssertionError for one that does not hold under some seed."""
    training, test = load_digits(train=True), load_digits(train=False)

    @cache
    def of(recipe: Recipe, symptom: Symptom) -> list[Measured]:
        return [measured(recipe, symptom, training, test, seed=seed) for seed in seeds]

    rows = []
    for pair in PAIRS:
        sick, cured = of(pair.sick, pair.symptom), of(pair.cured, pair.symptom)
        for seed, both in zip(seeds, zip(sick, cured, strict=True), strict=True):
            assert holds(*both), f"{pair.sick.what} -> {pair.cured.what}, seed {seed}: {both}"
        rows.append(row(pair, sick, cured))
    return tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True)


def environment() -> str:
    """Say what the numbers were measured with."""
    return (
        f"Measured with Python {platform.python_version()}, torch {torch.__version__} on the CPU,"
        f" one thread, seeds {SEEDS[0]} to {SEEDS[-1]}."
    )


if __name__ == "__main__":
    introduction = INTRODUCTION.format(seeds=len(SEEDS))
    README.write_text(f"{introduction}\n{environment()}\n\n{table()}\n")
