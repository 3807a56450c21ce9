"""A rule's page of documentation, which is made of what the rule says of itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_gradhealth.rules.rule import Rule

#: Where the documentation is published. Whoever publishes a fork sets this, and `project.urls`.
HOME = "https://pytest-gradhealth.readthedocs.io"
_IGNORING, _REFERENCES = "When to ignore it", "References"


def page_of(rule: Rule) -> str:
    """Return the page in Markdown.

    Its sections are those of the rule's `doc`, with the settings before what is said of ignoring it
    and the references, which come last.
    """
    doc = rule.doc or ""
    first, _, rest = doc.partition("\n")
    opening, *sections = _sections(rest if first.startswith(f"{rule.code}: ") else doc)
    last = dict.fromkeys((_IGNORING, _REFERENCES), "")
    last |= {title: text for title, text in sections if title in last}
    settings = "\n".join(f"- `{option.name}`: {option.described}" for option in rule.options)
    last[_IGNORING] = f"{last[_IGNORING]}\n\n{_how_to_ignore(rule.code)}".strip()
    blocks = [
        f"# {rule.code} {rule.name}",
        f"{rule.summary[:1].upper()}{rule.summary[1:]}.",
        f"It reads: {rule.reads}.",
        opening[1],
        *(f"## {title}\n\n{text}" for title, text in sections if title not in last),
        f"## Settings\n\n{settings or 'It has no limits to set.'}",
        *(f"## {title}\n\n{text}" for title, text in last.items() if text),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def address_of(code: str) -> str:
    """Where the page of one of the package's own rules is published."""
    return f"{HOME}/rules/{code}.html"


def _sections(doc: str) -> Iterator[tuple[str, str]]:
    """The sections by their titles; what stands before the first comes first, without a title."""
    parts = re.split(r"^## +(.+)$", doc, flags=re.MULTILINE)
    yield "", parts[0].strip()
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        yield title.strip(), text.strip()


def _how_to_ignore(code: str) -> str:
    return (
        f'`ignore=["{code}"]` in a call or a marker, or `--gradhealth-ignore={code}`, leaves it\n'
        "out; with `:encoder.*` behind the code for some layers."
    )
