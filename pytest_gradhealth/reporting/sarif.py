"""SARIF 2.1.0, which code scanning reads: one result for each thing to tell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from pytest_gradhealth.formatting import harmless, shortened
from pytest_gradhealth.reporting.run import Probe, Run
from pytest_gradhealth.reporting.summary import MISSING, Item, fails, is_clean, items
from pytest_gradhealth.results.environment import package_version
from pytest_gradhealth.rules import Rule, built_in_rules
from pytest_gradhealth.rules.page import HOME, address_of

_LEVELS = {"failure": "error", "warning": "warning", "not judged": "none", "info": "note"}
#: What a baseline may say, which is no rule's.
_OF_BASELINES = {
    "regression": "the gradients are worse than the baseline says",
    "layers": "other layers get gradient than the baseline says",
    MISSING: "there is no baseline to compare with",
}


def sarif_report(run: Run, rules: Sequence[Rule] = ()) -> dict[str, Any]:
    """Return the report as builtins; `rules` are those that are described in it."""
    known = {rule.code: _described(rule) for rule in rules}
    known |= {code: _described_baseline(code, said) for code, said in _OF_BASELINES.items()}
    told = [(p, item) for p in run.probes if not is_clean(p) for item in items(p)]
    for _, item in told:
        known.setdefault(item.code, _named(item.code, item.code, item.code))
    places = {code: index for index, code in enumerate(known)}
    driver = {
        "name": "pytest-gradhealth",
        "version": package_version() or "0",
        "rules": [*known.values()],
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


def _described(rule: Rule) -> dict[str, Any]:
    """A rule with its page, which code scanning shows beside what the rule has found."""
    page = harmless(rule.page)
    named = _named(rule.code, rule.name, rule.summary) | {
        "fullDescription": {"text": _text(f"{rule.summary}; it reads: {rule.reads}")},
        "help": {"text": page, "markdown": page},
    }
    if rule.code in {known.code for known in built_in_rules()}:
        named["helpUri"] = address_of(rule.code)
    return named


def _described_baseline(code: str, said: str) -> dict[str, Any]:
    return _named(code, code, said) | {"helpUri": f"{HOME}/baselines.html"}


def _named(code: str, name: str, summary: str) -> dict[str, Any]:
    return {"id": _text(code), "name": _text(name), "shortDescription": {"text": _text(summary)}}


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
