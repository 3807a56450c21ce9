"""Which of the processes of a distributed run this is, told without importing torch."""

from __future__ import annotations

import os
import sys
from typing import Any

#: What launchers say: torchrun, Slurm, Open MPI.
_NAMES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")


def rank() -> int:
    """Return the rank of this process, 0 outside of a distributed run."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    for name in _NAMES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0
