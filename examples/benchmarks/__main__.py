"""Measures what a probe costs and prints the table: python -m examples.benchmarks

Exits with 1 where a target is missed. `--only` takes parts by name; `--write` also writes the table
to RESULTS.md and its medians into the page of costs, and the figures of a GPU to RESULTS-cuda.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from examples.benchmarks.depth import depth_rows
from examples.benchmarks.peers import peer_rows
from examples.benchmarks.startup import first_use_row, startup_rows
from examples.benchmarks.steps import memory_row, peak_on_cuda, peak_on_host, time_rows
from examples.benchmarks.suite import suite_rows
from examples.benchmarks.table import Row, environment, summary, table
from examples.benchmarks.workloads import WORKLOADS
from examples.readme import COSTS, with_blocks

FOLDER = Path(__file__).parent
#: Rounds of pairs: many of what takes a millisecond, few of what takes seconds.
ROUNDS = {"mlp": 300}
FEW = 11
STEPS = 15


def steps() -> Iterator[Row]:
    """Time and memory of a probe against a step, on the CPU."""
    for name, build in tqdm(WORKLOADS.items(), desc="models", leave=False):
        workload = build()
        yield from time_rows(workload, ROUNDS.get(name, STEPS), tiny=name == "mlp")
        yield memory_row(workload, peak_on_host)


def cuda() -> Iterator[Row]:
    """The same on a GPU, and how often the host waits for it; nothing without one."""
    if not torch.cuda.is_available():
        return
    from examples.benchmarks.synchronisation import waiting_row

    for name, build in tqdm(WORKLOADS.items(), desc="models on the GPU", leave=False):
        workload = build().to(torch.device("cuda"))
        yield from time_rows(workload, 100, tiny=name == "mlp", wait=torch.cuda.synchronize)
        yield memory_row(workload, peak_on_cuda)
        yield waiting_row(workload)


def depth() -> Iterator[Row]:
    """Time per layer in deep networks."""
    yield from depth_rows(FEW)


def startup() -> Iterator[Row]:
    """Time beyond the probes."""
    yield from startup_rows(50)
    yield first_use_row(FEW)


def suite() -> Iterator[Row]:
    """What is left of each test until a run of many is over."""
    yield from suite_rows()


def peers() -> Iterator[Row]:
    """Other tools, as far as they are installed."""
    for name in tqdm(WORKLOADS, desc="other tools", leave=False):
        yield from peer_rows(name, ROUNDS.get(name, 3))


PARTS = {
    "steps": steps,
    "depth": depth,
    "startup": startup,
    "suite": suite,
    "peers": peers,
    "cuda": cuda,
}
#: The parts whose figures stand in a file, which is written as a whole.
FILES = {
    "RESULTS.md": ("steps", "depth", "startup", "suite", "peers"),
    "RESULTS-cuda.md": ("cuda",),
}


def write(name: str, rows: Sequence[Row], machine: str) -> None:
    """Write all figures to a file, and the medians of those without a GPU into the costs page."""
    title = "# What a probe costs on a GPU" if "cuda" in name else "# What a probe costs"
    (FOLDER / name).write_text(f"{title}\n\n```text\n{table(rows)}\n\n{machine}\n```\n")
    if "cuda" not in name:
        blocks = with_blocks(COSTS.read_text(), benchmarks=f"{summary(rows)}\n\n{machine}")
        COSTS.write_text(blocks)


def main() -> int:
    """Measure, print, and return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m examples.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    for name, parts in FILES.items():
        missing = [part for part in parts if part not in options.only]
        if options.write and missing and len(missing) < len(parts):
            parser.error(f"--write replaces {name}, which takes --only {' '.join(parts)}")
    measured = {part: [*PARTS[part]()] for part in options.only}
    rows = [row for found in measured.values() for row in found]
    print(f"{table(rows)}\n\n{environment()}")
    for name, parts in FILES.items():
        found = [row for part in parts for row in measured.get(part, [])]
        if options.write and found:
            write(name, found, environment())
    return int(any(row.missed for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
