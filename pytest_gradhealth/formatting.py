"""Numbers, lists, bars and columns as they read in every message, and how one is drawn."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Columns of a failure message: 80, less what pytest puts before each line.
WIDTH = 76
#: Rows of a path or of penalties that are shown without -v.
MOST_ROWS = 12
#: What a CI system takes for a command wherever it is: ##[error], ##vso[task...].
_COMMAND = re.compile(r"##(?=\w*\[)")


@dataclass(frozen=True)
class View:
    """How a message is drawn: all rows or the worst, in how many columns.

    `rerun` is the command that draws it for one test alone, "" where there is none.
    """

    verbose: bool = False
    width: int = WIDTH
    rerun: str = ""


def number(value: float) -> str:
    """Two significant digits: 0.58, 12, 3.1e-09, 1e+12; "0", "nan" and "inf" as they are.

    >>> [number(v) for v in (0.5812, 1.0, 12.3, 3.14e-9, 1e-5, 123456.0, 0.0)]
    ['0.58', '1', '12', '3.1e-09', '1e-05', '1.2e+05', '0']
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:.2g}"


def factor(decades: float) -> str:
    """A ratio given in decades, also where 10**decades is no float: x0.58, x3.1e-312, x0.

    >>> [factor(d) for d in (0.0, -0.236, -311.5, -math.inf)]
    ['x1', 'x0.58', 'x3.2e-312', 'x0']
    """
    if math.isnan(decades) or math.isinf(decades):
        return "x" + ("nan" if math.isnan(decades) else "0" if decades < 0 else "inf")
    if abs(decades) < 300:
        return "x" + number(10.0**decades)
    exponent = math.floor(decades)
    return f"x{10 ** (decades - exponent):.1f}e{exponent:+03d}"


def count(n: int, noun: str) -> str:
    """A count with its noun: "1 layer", "3 layers".

    >>> count(1, "layer"), count(3, "layer")
    ('1 layer', '3 layers')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listing(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are.

    >>> listing(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def printable(text: str) -> str:
    """The text with a question mark for everything that could move the cursor or break the line.

    Also for what a CI system would take for a command.

    >>> printable("layer" + chr(27) + "[2J" + chr(10)), printable("::error::a"), printable("##[b]")
    ('layer?[2J?', '?:error::a', '#?[b]')
    """
    if text.lstrip().startswith("::"):
        text = "?" + text.lstrip()[1:]
    text = _COMMAND.sub("#?", text)
    return "".join(character if character.isprintable() else "?" for character in text)


def quoted(name: str) -> str:
    """A name as a literal in code, in double quotes, on one line whatever is in it.

    >>> quoted("head"), quoted("a" + chr(10))
    ('"head"', '"a\\\\n"')
    """
    plain = name.isprintable() and not {'"', "\\"} & {*name}
    return f'"{name}"' if plain else json.dumps(name)


def shortened(text: str, most: int) -> str:
    """Shorten a long text in the middle and keep control characters out of the terminal."""
    text = printable(text)
    if len(text) <= most:
        return text
    head = (most - 2) // 3
    return f"{text[:head]}..{text[len(text) - (most - 2 - head) :]}"


def hanging(label: str, text: str, width: int) -> str:
    """A paragraph behind its label, such as "cause:", the further lines below its first."""
    return textwrap.fill(
        printable(text),
        width,
        initial_indent=f"{label + ':':7} ",
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )


def log_scale(norms: Iterable[float]) -> tuple[float, float]:
    """Decades of the smallest and the largest of some norms, zeros and what is not finite apart."""
    logs = [math.log10(norm) for norm in norms if norm > 0 and math.isfinite(norm)]
    return (min(logs), max(logs)) if logs else (0.0, 0.0)


def bar(norm: float, scale: tuple[float, float], longest: int) -> str:
    """A norm as a bar on a log scale; "" for zero, "!" for what is not finite."""
    if not norm > 0 or not math.isfinite(norm):
        return "" if norm == 0 else "!"
    low, high = scale
    share = 1.0 if high == low else (math.log10(norm) - low) / (high - low)
    return "#" * max(1, round(share * longest))


def columns(rows: Sequence[Sequence[str]], names: Sequence[str], aligned: str) -> str:
    """Rows of text under the names of their columns; `aligned` has "l" or "r" for each of them."""
    from tabulate import tabulate

    sides = tuple({"l": "left", "r": "right"}[side] for side in aligned)
    text = tabulate(rows, names, "plain", disable_numparse=True, colalign=sides)
    return "\n".join(line.rstrip() for line in text.splitlines())
