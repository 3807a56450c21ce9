"""Other tools as they are installed, run on the networks of the study: a file for each.

Beside `peers/`, which judges by formulas: what these need cannot be read from one observation.
"""

from __future__ import annotations

from examples.study.tools import defaultplusplus, guardtower, numguard, preflight
from examples.study.tools.tool import Tool

TOOLS: tuple[Tool, ...] = (
    guardtower.TOOL,
    preflight.TOOL,
    defaultplusplus.TOOL,
    numguard.TOOL,
)
