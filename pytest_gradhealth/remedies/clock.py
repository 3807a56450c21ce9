"""The time that there is for trying remedies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class Clock:
    """The seconds that there are from now on, and how long the slowest trial took."""

    seconds: float
    longest: float = 0.0
    _started: float = field(default_factory=lambda: perf_counter())

    @property
    def left(self) -> float:
        """The seconds until the time is up."""
        return self._started + self.seconds - perf_counter()

    @property
    def leaves_room(self) -> bool:
        """Whether a trial as long as the slowest so far would end in time."""
        return self.longest < self.left

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.left < 0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take the time of a trial."""
        before = self.left
        yield
        self.longest = max(self.longest, before - self.left)
