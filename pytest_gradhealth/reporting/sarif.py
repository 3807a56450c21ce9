"""SARIF 2.1.0, which code scanning reads: one result for each thing to tell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from pytest_gradhealth.formatting import shortened
from pytest_gradhealth.reporting.run import Probe, Run
from pytest_gradhealth.reporting.summary import MISSING, REGRESSION, Item, fails, is_clean, items
from pytest_gradhealth.results.environment import package_version

_LEVELS = {"failure": "error", "warning": "warning", "not judged": "none", "info": "note"}
_OWN_RULES = (
    (REGRESSION, REGRESSION, "the gradients are worse than the baseline says"),
    (MISSING, MISSING, "there is no baseline to compare with"),
)


def sarif_report(run: Run, rules: Sequence[tuple[str, str, str]] = ()) -> dict[str, Any]:
    """Return the report as builtins; `rules` are code, name and summary of each."""
    known = {code: (name, summary) for code, name, summary in (*rules, *_OWN_RULES)}
    told = [(p, item) for p in run.probes if not is_clean(p) for item in items(p)]
    for _, item in told:
        known.setdefault(item.code, (item.code, item.code))
    places = {code: index for index, code in enumerate(known)}
    driver = {
        "name": "pytest-gradhealth",
        "version": package_version() or "0",
        "rules": [
            {"id": _text(code), "name": _text(name), "shortDescription": {"text": _text(summary)}}
            for code, (name, summary) in known.items()
        ],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "results": [_result(probe, item, places[item.code]) for probe, item in told],
            }
        ],
    }


def _result(probe: Probe, item: Item, index: int) -> dict[str, Any]:
    unjudged = item.severity == "not judged"
    level = _LEVELS[item.severity] if fails(probe) or unjudged else "warning"
    result: dict[str, Any] = {
        "ruleId": _text(item.code),
        "ruleIndex": index,
        "level": level,
        "message": {"text": _message(f"{probe.test}: {item.message}")},
        "partialFingerprints": {"gradhealth/v1": _fingerprint(probe, item)},
    }
    if unjudged:
        result["kind"] = "notApplicable"
    if probe.file:
        place: dict[str, Any] = {"artifactLocation": {"uri": _uri(probe.file)}}
        if probe.line is not None:
            place["region"] = {"startLine": max(1, probe.line)}
        result["locations"] = [{"physicalLocation": place}]
    return result


def _fingerprint(probe: Probe, item: Item) -> str:
    """The same in every run that finds the same in the same test."""
    key = "\n".join((probe.test, item.code, item.layer))
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path.encode("utf-8", "replace"))


def _message(value: str) -> str:
    """Text in which brackets make no link."""
    return re.sub(r"([\\\[\]])", r"\\\1", _text(value))


def _text(value: str) -> str:
    return shortened(value, 1000) or "-"
