"""Numbers, lists, bars and columns as they read in every message, and how one is drawn.

Names of layers, tests and rules are anyone's: `printable` is what keeps them from doing harm.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import TypeVar

T = TypeVar("T")

#: Columns of a failure message: 80, less what pytest puts before each line.
WIDTH = 76
#: Rows of a path or of penalties that are shown without -v.
MOST_ROWS = 12
#: Characters of a finding, of a paragraph and of any line that are shown, however long the names.
LONGEST_FINDING, LONGEST_PARAGRAPH, LONGEST_LINE = 400, 1_000, 4_000
#: Characters from which on a text that was cut says how long it is.
_ROOM_FOR_LENGTH = 100
#: What a CI system takes for a command: ::error at the start of a line, ##[error] or ##vso[task...]
#: wherever it is.
_COMMAND = re.compile(r"^([ \t]*):(?=:)|(?<=#)#(?=\w*\[)")
#: Levels of a sparkline, low to high, and what stands for them where an encoding has no blocks.
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "._-=+*%#"


@dataclass(frozen=True)
class View:
    """How a message is drawn: all rows or the worst, in how many columns.

    `rerun` is the command that draws it for one test alone, "" where there is none; `own` are the
    codes of the rules that were registered for that test beside the package's.
    """

    verbose: bool = False
    width: int = WIDTH
    rerun: str = ""
    own: tuple[str, ...] = ()


def number(value: float) -> str:
    """Two significant digits: 0.58, 12, 3.1e-09, 1e+12; "0", "nan" and "inf" as they are.

    >>> [number(v) for v in (0.5812, 1.0, 12.3, 3.14e-9, 1e-5, 123456.0, 0.0)]
    ['0.58', '1', '12', '3.1e-09', '1e-05', '1.2e+05', '0']
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:.2g}"


def told_apart(one: float, other: float, digits: int = 2) -> tuple[str, str]:
    """Two numbers, with as many digits as it takes to see that they differ.

    >>> told_apart(2.0, 3.0), told_apart(2.302, 2.303)
    (('2', '3'), ('2.302', '2.303'))
    """
    shown = ((f"{one:.{n}g}", f"{other:.{n}g}") for n in range(digits, 17))
    return next((pair for pair in shown if pair[0] != pair[1]), (f"{one:.17g}", f"{other:.17g}"))


def factor(decades: float) -> str:
    """A ratio given in decades, also where 10**decades is no float: x0.58, x3.1e-312, x0.

    >>> [factor(d) for d in (0.0, -0.236, -311.5, -math.inf, math.nan)]
    ['x1', 'x0.58', 'x3.2e-312', 'x0', 'nan']
    """
    if math.isnan(decades):
        return "nan"
    if math.isinf(decades):
        return "x0" if decades < 0 else "xinf"
    if abs(decades) < 300:
        return "x" + number(10.0**decades)
    exponent = math.floor(decades)
    return f"x{10 ** (decades - exponent):.1f}e{exponent:+03d}"


def portion(decades: float, whole: str) -> str:
    """A part of something, by its ratio to the whole in decades.

    >>> portion(-0.236, "it"), portion(-math.inf, "the gradient")
    ('x0.58 of it', 'none of the gradient')
    """
    return f"{'none' if decades == -math.inf else factor(decades)} of {whole}"


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


def meant_by(name: str, names: Iterable[str], alike: float = 0.6) -> str:
    """What somebody may have meant by a name that is not among some others, "" for nothing.

    Of a mapping of names what they stand for is told. `alike` is the share of their letters that is
    the same.

    >>> meant_by("ratio", ["min_ratio", "max_ratio", "seeds"]), meant_by("x", ["y"])
    ('did you mean min_ratio or max_ratio?', '')
    """
    import difflib

    close = difflib.get_close_matches(name, names, cutoff=alike)
    likeness = [difflib.SequenceMatcher(None, one, name).ratio() for one in close]
    found = [one for one, like in zip(close, likeness, strict=True) if like > likeness[0] - 0.1]
    found = [names[one] for one in found] if isinstance(names, Mapping) else found
    return f"did you mean {' or '.join(found)}?" if found else ""


def printable(text: str, kept: str = "") -> str:
    """The text with a question mark for everything that could move the cursor or break the line.

    Also for what a CI system would take for a command. Characters that are `kept` stay.

    >>> printable("layer" + chr(27) + "[2J" + chr(10)), printable(" ::error::a"), printable("##[b]")
    ('layer?[2J?', ' ?:error::a', '#?[b]')
    """
    seen = visible(text, kept)
    # To look for two characters takes a hundredth of the search, and hardly a line has them.
    return _COMMAND.sub(r"\1?", seen) if "::" in seen or "##" in seen else seen


def visible(text: str, kept: str = "") -> str:
    """The text with a question mark for every character that is not one that is seen, or `kept`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else "?" for c in text)


def harmless(text: str) -> str:
    """Lines of text, each of them printable but for tabs, and none too long to be read.

    >>> harmless("the forward raised KeyError: a" + chr(10) + "::error::b")
    'the forward raised KeyError: a\\n?:error::b'
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(printable(_cut(line, LONGEST_LINE), "\t") for line in lines)


def encodable(text: str, stream: object) -> str:
    """The text in characters that a stream has, escaped as in code where it has not.

    An encoding that cannot be used counts as UTF-8.

    >>> import io
    >>> encodable("größe ▁█", io.TextIOWrapper(io.BytesIO(), "latin-1"))
    'größe .#'
    >>> encodable("größe ▁█", io.TextIOWrapper(io.BytesIO(), "ascii"))
    'gr\\\\xf6\\\\xdfe .#'
    """
    with contextlib.suppress(Exception):  # a stream of anyone's may have any encoding, or none
        encoding: str = stream.encoding  # type: ignore[attr-defined]
        plain = text
        if BLOCKS.encode(encoding, "replace").decode(encoding) != BLOCKS:
            plain = text.translate(str.maketrans(BLOCKS, ASCII_BLOCKS))
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text.encode("utf-8", "backslashreplace").decode()


def quoted(name: str) -> str:
    """A name as a literal in code, in double quotes, on one line whatever is in it.

    >>> quoted("head"), quoted("a" + chr(10))
    ('"head"', '"a\\\\n"')
    """
    plain = name.isprintable() and not {'"', "\\"} & {*name}
    return f'"{name}"' if plain else json.dumps(name)


def in_code(name: str, kind: str) -> str:
    """A part of a model as it is typed: by its name, or asked for where that is none in Python.

    >>> in_code("head.bias", "parameter"), in_code("body.0", "submodule")
    ('model.head.bias', 'model.get_submodule("body.0")')
    """
    typed = all(part.isidentifier() and not iskeyword(part) for part in name.split("."))
    return f"model.{name}" if typed else f"model.get_{kind}({quoted(name)})"


def shortened(text: str, most: int) -> str:
    """One line of at most so many characters, cut in the middle and printable.

    >>> shortened("a" * 50, 20), shortened("b" * 1000, 100)[20:60]
    ('aaaaaa..aaaaaaaaaaaa', 'bbbbbb..(1,000 characters)..bbbbbbbbbbbb')
    """
    return printable(_cut(text, most))


def coded(message: str, code: str) -> str:
    """What was found on one line, with its code behind it."""
    return f"{shortened(message, LONGEST_FINDING)} [{shortened(code, 40)}]"


def _cut(text: str, most: int) -> str:
    if len(text) > most:
        gap = f"..({len(text):,} characters).." if most >= _ROOM_FOR_LENGTH else ".."
        head = (most - len(gap)) // 3
        return text[:head] + gap + text[len(text) - (most - len(gap) - head) :]
    return text


def shown(value: object, most: int = 60) -> str:
    """A wrong value in a message: plain ones as they are typed, on one line, others by their type.

    >>> shown("a" * 80)[:24], shown(10**5000), shown([None]), shown(print), shown(View())
    ("'aaaaaaaaaaaaaaaaaa..aaa", 'an int', '[None]', 'a builtin_function_or_method', 'a View')
    """
    kind = type(value)
    with contextlib.suppress(Exception):
        # Text of large or foreign objects says little, and may take long or fail to be made.
        plain = kind.__module__ in ("builtins", "torch") and not hasattr(value, "shape")
        if plain and (isinstance(value, type) or not callable(value)):
            said = repr(value)
            if " at 0x" not in said:
                return shortened(said, most)
    return f"{'an' if kind.__name__[:1] in 'aeioAEIO' else 'a'} {kind.__name__}"


#: What torch lists behind it: backends of an operation, and all that it may be called with.
_ALTERNATIVES = re.compile(
    r" This could be because the operator doesn't exist|(?<=\)), but expected one of:\n"
)


def text_of(error: BaseException) -> str:
    """What an error says, "" where it says nothing or cannot; without all that torch could do."""
    with contextlib.suppress(Exception):
        return _ALTERNATIVES.split(str(error), maxsplit=1)[0]
    return ""


def told(error: BaseException) -> str:
    """An error in a message: its type and its text.

    >>> told(KeyError("a")), told(ValueError())
    ("KeyError: 'a'", 'ValueError, which has no text')
    """
    text = text_of(error)
    return (
        f"{type(error).__name__}: {text}" if text else f"{type(error).__name__}, which has no text"
    )


def hanging(label: str, text: str, width: int) -> str:
    """A paragraph behind its label, such as "cause:", the further lines below its first."""
    return textwrap.fill(
        shortened(text, LONGEST_PARAGRAPH),
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


def block(share: float) -> str:
    """A block as high as a share of 1, the lowest and the highest for what lies beyond."""
    return BLOCKS[min(len(BLOCKS) - 1, max(0, round(share * (len(BLOCKS) - 1))))]


def sampled(values: Sequence[T], most: int) -> list[T]:
    """At most so many of some values, with the first and the last.

    >>> sampled("abcdefgh", 3)
    ['a', 'e', 'h']
    """
    if len(values) <= most:
        return [*values]
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def columns(rows: Sequence[Sequence[str]], names: Sequence[str], aligned: str) -> str:
    """Rows of text under the names of their columns; `aligned` has "l" or "r" for each of them."""
    from tabulate import tabulate

    sides = tuple({"l": "left", "r": "right"}[side] for side in aligned)
    text = tabulate(rows, names, "plain", disable_numparse=True, colalign=sides)
    return "\n".join(line.rstrip() for line in text.splitlines())
