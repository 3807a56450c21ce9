"""A gradient path in a few characters, the first layer on the left."""

from __future__ import annotations

import math

from pytest_gradhealth.formatting import block, sampled
from pytest_gradhealth.results.path import GradientPath

#: Characters of a sparkline.
WIDTH = 8
#: Decades that a sparkline spans at least, so that a level path looks level.
_SPAN = 3.0


def sparkline(path: GradientPath | None) -> str:
    """Return a path's norms on a log scale, "" without two of them; "!" is not finite, "0" zero.

    >>> from pytest_gradhealth.results.path import PathPoint
    >>> points = tuple(PathPoint(str(i), "L", (1,), 10.0**-i, 1) for i in reversed(range(4)))
    >>> sparkline(GradientPath(points, points[0]))
    '▁▃▆█'
    """
    if path is None or path.links == 0:
        return ""
    norms = sampled([point.norm for point in path.points], WIDTH)
    logs = [math.log10(norm) for norm in norms if 0 < norm < math.inf]
    if not logs:
        return ""
    top = max(logs)
    span = max(_SPAN, top - min(logs))
    return "".join(_level(norm, top, span) for norm in norms)


def _level(norm: float, top: float, span: float) -> str:
    if norm == 0:
        return "0"
    if not math.isfinite(norm):
        return "!"
    return block(1 + (math.log10(norm) - top) / span)
