"""Whether healthy networks have the same gradients in each way: python -m examples.study.ways

Compares a sample of the healthy networks of the study with themselves, run in another format, with
autocast, checkpointed, laid out otherwise and compiled. Writes WAYS.md; exits with 1 where one
differs.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from examples.benchmarks.table import environment
from examples.study.journal import complete, read
from examples.study.report.text import markdown_table
from examples.study.stages import RESULTS, SEEDS, healthy
from pytest_gradhealth import DifferentGradientsError, ProbeError, assert_same_gradients

WRITTEN = Path(__file__).parent / "WAYS.md"
#: The ways that a CPU goes, each with what is to be passed.
WAYS: Mapping[str, Mapping[str, Any]] = {
    **{name: {"via": name} for name in ("float64", "bfloat16", "autocast", "checkpoint")},
    "channels_last": {"via": "channels_last"},
    "compile, aot_eager": {"via": "compile", "backend": "aot_eager"},
}
#: What may come of a comparison; no number there: of operations that the way has no right form of.
OUTCOMES = ("the same", "differ", "no number there", "cannot be compared")
#: Networks are compared that are probed within so many milliseconds, of those every so manieth; and
#: of those again every so manieth is compiled, which takes longest.
MOST, EACH, COMPILED = 100.0, 4, 4


def sample() -> list[str]:
    """The networks of the sample, by family and name."""
    probed = read(RESULTS / "healthy.jsonl")
    times = {name: probed.get(f"{name}@{SEEDS[0]}", {}).get("milliseconds") for name in healthy()}
    return [name for name, time in times.items() if time is not None and time <= MOST][::EACH]


def compare(key: str) -> Mapping[str, Any]:
    """What comes of each way with one network: "" for the same, or what is said instead."""
    network = healthy()[key]
    torch.manual_seed(SEEDS[0])
    model = network.build()
    inputs, targets = network.batch()
    differs: dict[str, str] = {}
    refused: dict[str, str] = {}
    ways = {name: way for name, way in WAYS.items() if way["via"] != "compile" or _is_compiled(key)}
    for name, way in ways.items():
        batch = copy.deepcopy((inputs, targets))
        try:
            assert_same_gradients(model, *batch, loss=network.loss, **way)
        except DifferentGradientsError as error:
            differs[name] = str(error)
        except ProbeError as error:
            refused[name] = str(error)
    return {"ways": [*ways], "differs": differs, "refused": refused}


def _is_compiled(key: str) -> bool:
    return sample().index(key) % COMPILED == 0


def outcome(record: Mapping[str, Any], way: str) -> tuple[str, str]:
    """What came of a way, and the first line of what was said of it."""
    differs, refused = (str(record[what].get(way, "")) for what in ("differs", "refused"))
    said = (differs or refused).partition("\n")[0]
    if " is nan, not" in said or " is inf, not" in said:
        return "no number there", said
    return OUTCOMES[1 if differs else 3 if refused else 0], said


def main() -> int:
    """Compare, write and print."""
    parser = argparse.ArgumentParser(prog="python -m examples.study.ways")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--only", nargs="+", default=[""], help="what begins so, as libraries:")
    options = parser.parse_args()
    chosen = [key for key in sample() if key.startswith(tuple(options.only))]
    found = complete(RESULTS / "ways.jsonl", chosen, compare, workers=options.workers)
    rows, notes = list[tuple[object, ...]](), list[str]()
    for way in WAYS:
        gone = {key: record for key, record in found.items() if way in record["ways"]}
        outcomes = {key: outcome(record, way) for key, record in gone.items()}
        counts = Counter(name for name, _ in outcomes.values())
        rows.append((way, *(counts[name] for name in OUTCOMES)))
        notes += [
            f"- {way}, {name}: {key} ({said})"
            for key, (name, said) in outcomes.items()
            if name != OUTCOMES[0]
        ]
    title = "# The same gradients in each way"
    head = f"{len(found)} healthy networks, compared with themselves."
    table = markdown_table(rows, "way", *OUTCOMES)
    text = "\n\n".join([title, head, table, "\n".join(notes), environment()]) + "\n"
    WRITTEN.write_text(text, encoding="utf-8")
    print(text)
    return int(any(differ for _, _, differ, *_ in rows))


if __name__ == "__main__":
    raise SystemExit(main())
