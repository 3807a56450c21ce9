"""What rides on test reports, so that it arrives from pytest-xdist workers as it does without."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gradhealth.config.options import BY_NAME, Option

if TYPE_CHECKING:
    from pytest_gradhealth.baseline.check import Check, Result
    from pytest_gradhealth.results.diagnosis import Diagnosis
    from pytest_gradhealth.rules.rule import Rule

#: Attribute of a test's last report that carries its probes, for the reports of the run.
CARRIED = "gradhealth_probes"
#: Attribute of a test's last report with what the end of every run has to know of its probes.
CONCLUDED = "gradhealth_concluded"
#: Attribute of the report of a test that has probed what it did not compare with baselines.
UNCHECKED = "gradhealth_unchecked"
#: Attribute of a test report that says what a check has failed the test with.
MESSAGE = "gradhealth_message"
#: Attribute of a test report with the codes of what rules have warned of, if nobody else has those.
WARNED = "gradhealth_warned"
#: Whether tests that were collected are not run.
LEFT_OUT = pytest.StashKey[bool]()


class Recorded:
    """A probe of a test and the checks of it against baselines.

    What fixtures probe belongs to whichever test comes first, and is compared with nothing.
    """

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis
        self.checks: list[Check] = []
        self.of_fixture = True
        self.message = ""


def concluded(record: Recorded) -> dict[str, Any]:
    """What came of a probe, as plain builtins."""
    results = [_plain(check.result) for check in record.checks]
    return {"verdict": record.diagnosis.verdict, "results": results}


def carried(record: Recorded) -> dict[str, Any]:
    """A probe as plain builtins, with the environment of the process that made it."""
    from pytest_gradhealth.results.environment import environment

    return {
        "diagnosis": record.diagnosis.to_dict(),
        "checks": list(map(_plain, record.checks)),
        "of_fixture": record.of_fixture,
        "message": record.message,
        "environment": environment(),
        "rules": words(record.diagnosis),
    }


def _plain(check: Check | Result) -> dict[str, Any]:
    from pytest_gradhealth.results.serialization import to_plain

    # A name that is no UTF-8 is to lead to the same file where it arrives.
    return {**to_plain(check), "file": check.file}


def words(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """What rules of others have to say of a diagnosis, for where they are not known themselves."""
    from pytest_gradhealth.formatting import View
    from pytest_gradhealth.results.serialization import to_plain
    from pytest_gradhealth.rules import built_in_rules

    known, found = built_in_rules(), []
    for rule in getattr(diagnosis.origin, "rules", ()):
        if rule not in known:
            findings = diagnosis.of((rule.code,))
            causes = [(f.layer, rule.explain(f, diagnosis.profile)) for f in findings]
            found.append(
                {
                    "code": rule.code,
                    "name": rule.name,
                    "summary": rule.summary,
                    "reads": rule.reads,
                    "doc": rule.doc,
                    "settings": [_told(option) for option in rule.options],
                    "quantity": rule.quantity and [rule.quantity.name, rule.quantity.form],
                    "causes": {layer: [c.because, c.advice, c.certain] for layer, c in causes if c},
                    "table": rule.table(diagnosis, findings, View()) if findings else "",
                }
            )
    return to_plain(found)  # type: ignore[no-any-return]


def packed(probes: Iterable[Mapping[str, Any]]) -> str:
    """The probes of a test as one short text, which is what is kept of them until the run ends.

    Text, since other plugins write what is on reports as JSON.
    """
    text = json.dumps([*probes])
    return base64.b85encode(zlib.compress(text.encode())).decode()


def unpacked(text: str) -> list[dict[str, Any]]:
    """What `packed` was given, as plain builtins; nothing of no text."""
    found: list[dict[str, Any]] = (
        json.loads(zlib.decompress(base64.b85decode(text))) if text else []
    )
    return found


def _told(option: Option) -> str | list[str]:
    """A setting by its name, one of a rule's own with what is said of it."""
    known = option.name in BY_NAME
    return option.name if known else [option.name, option.help, option.default_in_words]


@dataclass(frozen=True)
class Spoken:
    """The origin of a diagnosis that was read back: rules that say what those of it said."""

    rules: tuple[Rule, ...]


def spoken(words: Sequence[Mapping[str, Any]]) -> Spoken:
    """Return rules that judge nothing and say what was carried of others."""
    return Spoken(tuple(map(_speaker, words)))


def _speaker(said: Mapping[str, Any]) -> Rule:
    from pytest_gradhealth.rules.rule import Cause, Quantity, Rule

    causes, table = said["causes"], said["table"]
    return Rule(
        said["code"],
        said["name"],
        said["summary"],
        said["reads"],
        lambda _: (),
        doc=said["doc"],
        settings=tuple(
            each if isinstance(each, str) else Option(each[0], each[1], None, told=each[2])
            for each in said["settings"]
        ),
        quantity=Quantity(lambda _: None, *said["quantity"]) if said["quantity"] else None,
        cause=lambda finding, _: Cause(*causes[finding.layer]) if finding.layer in causes else None,
        exhibit=(lambda *_: table) if table else None,
    )
