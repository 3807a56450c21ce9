"""The time that there is for trying remedies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Clock:
    """When the time is up, and how long the slowest trial took."""

    deadline: float
    longest: float

    @property
    def leaves_room(self) -> bool:
        """Whether a trial as long as the slowest so far would end in time."""
        return time.perf_counter() + self.longest < self.deadline

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() > self.deadline

    def share(self, parts: int) -> float:
        """The time at which one of `parts` equal parts of what is left will be over."""
        now = time.perf_counter()
        return now + max(0.0, self.deadline - now) / parts

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take the time of a trial."""
        started = time.perf_counter()
        yield
        self.longest = max(self.longest, time.perf_counter() - started)
