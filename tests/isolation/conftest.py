"""Keeps what a failing test leaves behind from the tests after it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _modes() -> Iterator[None]:
    """Undo what a failing test leaves behind."""
    dtype, numbers = torch.get_default_dtype(), (random.getstate(), np.random.get_state())
    yield
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    random.setstate(numbers[0])
    np.random.set_state(numbers[1])
