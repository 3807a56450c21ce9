"""All attacks, and a table of how many of each kind were tried and held."""

from __future__ import annotations

import sys
import warnings

import torch

from pytest_gradhealth.formatting import columns
from tests.helpers.attacks import Subject, broken_by, junk_arguments, junk_objects
from tests.helpers.buffers import buffers
from tests.helpers.bystanders import bystanders
from tests.helpers.invariances import hash_seeds, invariances


def main() -> int:
    """Print the table and what did not hold; return whether anything did not."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    subject, rows, broken = Subject(), [], []
    for kind, attacks in {
        "junk for arguments": junk_arguments(subject),
        "junk in objects": junk_objects(subject),
        "state of bystanders": bystanders(),
        "state of buffers": buffers(),
        "invariances": invariances(),
        "hash seeds": hash_seeds(),
    }.items():
        faults = [broken_by(attack) for attack in attacks]
        rows.append([kind, str(len(faults)), str(faults.count(""))])
        broken += [fault for fault in faults if fault]
    print(columns(rows, ["attacks", "tried", "held"], "lrr"))
    print(*broken, sep="\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
