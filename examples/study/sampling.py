"""Whether estimates change what is said: python -m examples.study.sampling

Probes the networks of the study with norms that are estimated from samples, and those that have
any once more with exact=True. Writes SAMPLING.md; exits with 1 where a verdict differs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from examples.benchmarks.table import environment
from examples.study.corpus import recipe
from examples.study.journal import complete
from examples.study.network import Network
from examples.study.stages import RESULTS, SEEDS, corpus_keys, faults, healthy, random_network
from pytest_gradhealth import Diagnosis, ProbeError, probe
from pytest_gradhealth.baseline.entry import entry_of

WRITTEN = Path(__file__).parent / "SAMPLING.md"


def networks() -> dict[str, Network]:
    """Healthy networks, known faults with their cured twins and random networks, by name."""
    sick = {f"sick:{name}": fault.sick for name, fault in faults().items()}
    cured = {f"cured:{name}": fault.cured for name, fault in faults().items()}
    random = {f"random:{n}": random_network(recipe(int(n))) for n in corpus_keys()}
    return {**healthy(), **sick, **cured, **random}


def compare(key: str) -> Mapping[str, Any]:
    """What is said of one network, and what else where all is measured as a whole.

    `sampled` counts estimates, `differs` names what of verdict, message and baseline does;
    `verdict` is that with estimates.
    """
    network = networks()[key]
    try:
        ours = _diagnosed(network, exact=False)
        count = sum(bool(output.sampled) for output in ours.profile.outputs)
        if not count:
            return {"sampled": 0, "differs": [], "verdict": ours.verdict}
        exact = _diagnosed(network, exact=True)
    except ProbeError as error:
        return {"sampled": 0, "differs": [], "error": str(error)}
    seen = {
        "verdict": (ours.verdict, exact.verdict),
        "message": (str(ours), str(exact)),
        "baseline": (entry_of(ours, {}), entry_of(exact, {})),
    }
    differs = [what for what, (one, other) in seen.items() if one != other]
    return {"sampled": count, "differs": differs, "verdict": ours.verdict}


def _diagnosed(network: Network, *, exact: bool) -> Diagnosis:
    torch.manual_seed(SEEDS[0])
    model = network.build()
    inputs, targets = network.batch()
    return probe(model, inputs, targets, loss=network.loss, exact=exact)


def main() -> int:
    """Compare, write and print."""
    parser = argparse.ArgumentParser(prog="python -m examples.study.sampling")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only", nargs="+", default=[""], help="what begins so, as libraries:")
    options = parser.parse_args()
    keys = [name for name in networks() if name.startswith(tuple(options.only))]
    found = complete(RESULTS / "sampling.jsonl", keys, compare, workers=options.workers)
    of = [record for record in found.values() if "error" not in record]
    sampled = [record for record in of if record["sampled"]]
    lines = [
        f"{len(of)} networks were probed, {len(sampled)} of them with estimates"
        f" ({sum(record['sampled'] for record in sampled)} of single outputs).",
        "",
        "| with exact=True | differs in |",
        "| --- | --- |",
    ]
    counts = dict.fromkeys(("verdict", "message", "baseline"), 0)
    for record in sampled:
        for what in record["differs"]:
            counts[what] += 1
    lines += [f"| {what} | {n} |" for what, n in counts.items()]
    names = [key for key, record in found.items() if record["differs"]]
    lines += ["", f"They are {', '.join(names)}." * bool(names), environment()]
    text = "# Sampled and exact\n\n" + "\n".join(lines) + "\n"
    WRITTEN.write_text(text, encoding="utf-8")
    print(text)
    return int(counts["verdict"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
