"""Whether healthy networks have the same gradients in each way: python -m examples.study.ways

Compares a sample of the healthy networks of the study with themselves, run in another format, with
autocast, checkpointed, laid out otherwise and compiled. Writes WAYS.md; exits with 1 where one
differs.
"""

from __future__ import annotations

import argparse
import copy
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
#: Networks are compared that are probed within so many milliseconds, and of those every so manieth.
MOST, EACH = 250.0, 6


def keys() -> list[str]:
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
    for name, way in WAYS.items():
        batch = copy.deepcopy((inputs, targets))
        try:
            assert_same_gradients(model, *batch, loss=network.loss, **way)
        except DifferentGradientsError as error:
            differs[name] = str(error)
        except ProbeError as error:
            refused[name] = str(error)
    return {"differs": differs, "refused": refused}


def main() -> int:
    """Compare, write and print."""
    parser = argparse.ArgumentParser(prog="python -m examples.study.ways")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--only", nargs="+", default=[""], help="what begins so, as libraries:")
    options = parser.parse_args()
    chosen = [key for key in keys() if key.startswith(tuple(options.only))]
    found = complete(RESULTS / "ways.jsonl", chosen, compare, workers=options.workers)
    rows, notes = list[tuple[str, int, int, int]](), list[str]()
    for way in WAYS:
        differs = {key: r["differs"][way] for key, r in found.items() if way in r["differs"]}
        refused = {key: r["refused"][way] for key, r in found.items() if way in r["refused"]}
        same = len(found) - len(differs) - len(refused)
        rows.append((way, same, len(differs), len(refused)))
        for what, those in (("differs", differs), ("not compared", refused)):
            notes += [f"- {way}, {what}: {key} ({_line(said)})" for key, said in those.items()]
    table = markdown_table(rows, "way", "the same", "differ", "cannot be compared")
    title = "# The same gradients in each way"
    head = f"{len(found)} healthy networks, compared with themselves."
    text = "\n\n".join([title, head, table, "\n".join(notes), environment()]) + "\n"
    WRITTEN.write_text(text, encoding="utf-8")
    print(text)
    return int(any(differ for _, _, differ, _ in rows))


def _line(said: str) -> str:
    """The first line of a message."""
    return said.splitlines()[0]


if __name__ == "__main__":
    raise SystemExit(main())
