"""How much memory is left, by what the system says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_gradhealth.tensors import memory

CPU = torch.device("cpu")


def test_the_least_of_machine_and_container_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_MACHINE", machine)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    machine.write_text("MemTotal:  9000 kB\nMemAvailable:  5000 kB\n")
    assert memory.free_bytes(CPU) == 5000 * 1024
    machine.write_text("MemAvailable:  5000 kB\nSwapFree:  1000 kB\nHugePages_Free:  0\n")
    assert memory.free_bytes(CPU) == 6000 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 200\nactive_file 100\n")
    assert memory.free_bytes(CPU) == 6000 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert memory.free_bytes(CPU) == 2300


def test_other_devices_are_not_asked() -> None:
    assert memory.free_bytes(torch.device("meta")) is None
