"""A row of the tables of small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from examples.study.network import Batch

Build = Callable[[], nn.Module]
Entry = tuple[str, Build, Callable[[], Batch], Callable[..., Any] | None, str]
