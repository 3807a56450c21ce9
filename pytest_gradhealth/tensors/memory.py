"""How much memory there is left."""

from __future__ import annotations

from pathlib import Path

import torch

#: Where Linux says what a process in a container may use, and what the machine has.
_GROUP = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/meminfo")


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device, None if nobody tells."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _free_on_host() if device.type == "cpu" else None


def _free_on_host() -> int | None:
    try:
        kilobytes = _table(_MACHINE)
        free = 1024 * (kilobytes["MemAvailable:"] + kilobytes.get("SwapFree:", 0))
    except (OSError, KeyError, ValueError):
        return None
    try:
        most, used = (int((_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        files = _table(_GROUP / "memory.stat")
    except (OSError, ValueError):  # "max" where there is no limit
        return free
    cached = files.get("active_file", 0) + files.get("inactive_file", 0)
    return min(free, most - used + cached)


def _table(path: Path) -> dict[str, int]:
    """The first number of each line by the word before it."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {name: int(number) for name, number, *_ in lines}
