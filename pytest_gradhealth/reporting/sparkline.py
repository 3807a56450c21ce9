"""A gradient path in a few characters, the first layer on the left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import IO

from pytest_gradhealth.results.path import GradientPath

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "._-=+*%#"
#: Characters of a sparkline.
WIDTH = 8
#: Decades that a sparkline spans at least, so that a level path looks level.
_SPAN = 3.0


def sparkline(path: GradientPath | None, levels: str = BLOCKS) -> str:
    """Return a path's norms on a log scale, "" without two of them; "!" is not finite, "0" zero.

    >>> from pytest_gradhealth.results.path import PathPoint
    >>> points = tuple(PathPoint(str(i), "L", (1,), 10.0**-i, 1) for i in reversed(range(4)))
    >>> sparkline(GradientPath(points, points[0]), ASCII)
    '.-*#'
    """
    if path is None or path.links == 0:
        return ""
    norms = _sampled([point.norm for point in path.points])
    logs = [math.log10(norm) for norm in norms if 0 < norm < math.inf]
    if not logs:
        return ""
    top = max(logs)
    span = max(_SPAN, top - min(logs))
    return "".join(_level(norm, top, span, levels) for norm in norms)


def shown_by(stream: IO[str] | object) -> str:
    """The levels that a stream can show: block characters, unless its encoding has none."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def _sampled(norms: Sequence[float]) -> list[float]:
    """At most WIDTH of them, with the first and the last."""
    if len(norms) <= WIDTH:
        return [*norms]
    return [norms[round(i * (len(norms) - 1) / (WIDTH - 1))] for i in range(WIDTH)]


def _level(norm: float, top: float, span: float, levels: str) -> str:
    if norm == 0:
        return "0"
    if not math.isfinite(norm):
        return "!"
    height = 1 + (math.log10(norm) - top) / span
    return levels[min(len(levels) - 1, max(0, round(height * (len(levels) - 1))))]
