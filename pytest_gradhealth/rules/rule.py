"""What a rule is: all that is known of it in one place, whoever wrote it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_gradhealth.config.options import BY_NAME, Option
from pytest_gradhealth.errors import GradientHealthError, SettingError
from pytest_gradhealth.formatting import View, number
from pytest_gradhealth.results.diagnosis import RANK, Diagnosis, Finding, Limit, Severity
from pytest_gradhealth.results.profile import GradientProfile


@dataclass(frozen=True)
class Evidence:
    """What a rule judges: the first look and, once a rule would fail on it, the second.

    `second` is the look after the confirm steps; None until some rule would fail, and for good
    when confirm steps are switched off. `limits` holds the thresholds by setting name.
    """

    first: GradientProfile
    second: GradientProfile | None
    limits: Mapping[str, Limit]


@dataclass(frozen=True)
class Cause:
    """A sentence on the cause and one on what to try."""

    because: str
    advice: str


@dataclass(frozen=True)
class Quantity:
    """The number that a rule compares with its limit.

    `of` reads it from a look (None where there is nothing to compare), `name` is the head of its
    column where remedies are compared, `form` how it is written there. `better` says which way.
    """

    of: Callable[[GradientProfile], float | None]
    name: str = "ratio"
    form: str = "x{}"
    better: Literal["smaller", "larger"] = "smaller"

    def shown(self, value: float | None) -> str:
        """A value as it is written, "" for none."""
        return "" if value is None else self.form.format(number(value))


@dataclass(frozen=True)
class Rule:
    """A check with a stable code, and what there is to say of it.

    `check` maps the evidence to findings. A rule that fails on the first look is asked again with
    the second; what it returns then stands. `confirm_from` is the mildest severity that calls for
    the second look; with None the first look decides. `error` is what an assertion raises for its
    failures; `summary` and `reads` are one-liners. `echoes` names rules whose findings say the same
    more plainly: beside one that is as severe, this rule is silent.

    `doc` is the text of its page, in Markdown. `settings` are the thresholds it reads, the one that
    its `quantity` is compared with first: names of settings there are, or an Option for one of its
    own. `cause` is why it fails and what to try, or a function that tells from a finding and the
    look. `exhibit` returns a table of its own (by default the gradient path is shown) for its
    findings in a diagnosis.

    `of_scale`: it may fail for the scale of the outputs alone, which is nothing to go by in
    evaluation mode. `judges_steps`: it judges training steps, not a look. `fails_if_asked`: its
    warnings fail an assertion on it. `unacceptable` is the value from which on no setting is
    proposed that would let it pass.

    >>> from pytest_gradhealth.rules import built_in_rules
    >>> [rule.code for rule in built_in_rules()][:5]
    ['GH101', 'GH102', 'GH103', 'GH201', 'GH202']
    """

    code: str
    name: str
    summary: str
    reads: str
    check: Callable[[Evidence], Iterable[Finding] | None]
    confirm_from: Severity | None = "failure"
    error: type[GradientHealthError] = GradientHealthError
    echoes: tuple[str, ...] = ()
    doc: str = ""
    settings: tuple[str | Option, ...] = ()
    quantity: Quantity | None = None
    cause: Cause | Callable[[Finding, GradientProfile], Cause | None] | None = None
    exhibit: Callable[[Diagnosis, Sequence[Finding], View], str] | None = None
    of_scale: bool = False
    judges_steps: bool = False
    fails_if_asked: bool = False
    unacceptable: float | None = None

    @property
    def options(self) -> tuple[Option, ...]:
        """Its settings as rows of the table of options; raises SettingError for an unknown name."""
        unknown = [s for s in self.settings if isinstance(s, str) and s not in BY_NAME]
        if unknown:
            raise SettingError(
                f"rule {self.code} reads {unknown[0]!r}, which is no setting; the settings are"
                f" {', '.join(BY_NAME)}, or an Option for one of its own"
            )
        return tuple(BY_NAME[s] if isinstance(s, str) else s for s in self.settings)

    def value(self, profile: GradientProfile) -> float | None:
        """What it compares with its limit in a look, None where it compares nothing."""
        return None if self.quantity is None else self.quantity.of(profile)

    def explain(self, finding: Finding, profile: GradientProfile) -> Cause | None:
        """The likely cause of one of its findings, None where nothing is known of it."""
        return self.cause(finding, profile) if callable(self.cause) else self.cause

    def acceptance(self, finding: Finding) -> str:
        """What would let a failing value pass, for whoever knows better; "" for what is too bad."""
        value, leaves_out = finding.value, f"--gradhealth-ignore={self.code} leaves the rule out"
        wild = self.unacceptable is not None and not (value or 0.0) < self.unacceptable
        if value is None or wild:
            return ""
        if not self.options:
            return leaves_out
        option = self.options[0]
        if not value or math.isinf(value):
            return f"no {option.name} lets this pass; {leaves_out}"
        if option.share:
            return f"{option.name}={math.ceil(100 * value) / 100:g}, if this is meant to be"
        larger = self.quantity is not None and self.quantity.better == "larger"
        exponent = (math.floor if larger else math.ceil)(math.log10(value))
        return f"{option.name}=1e{exponent:+03d}, if this is meant to be"

    @property
    def page(self) -> str:
        """The rule's page of documentation, in Markdown."""
        _, titled, text = self.doc.rpartition(f"{self.code}: ")
        text = text.partition("\n")[2] if titled else text
        settings = "\n".join(f"- `{option.name}`: {option.described}" for option in self.options)
        parts = [
            f"# {self.code} {self.name}",
            f"{self.summary[:1].upper()}{self.summary[1:]}.",
            f"It reads: {self.reads}.",
            text.strip(),
            f"## Settings\n\n{settings or 'It has none.'}",
            f'## Leaving it out\n\n`ignore=["{self.code}"]` in a call or a marker, or'
            f" `--gradhealth-ignore={self.code}`.",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def wants_second_look(self, findings: Iterable[Finding]) -> bool:
        """Whether findings from the first look alone need confirming."""
        return self.confirm_from is not None and any(
            RANK[finding.severity] <= RANK[self.confirm_from] for finding in findings
        )

    def finding(
        self,
        severity: Severity,
        layer: str,
        message: str,
        *,
        profile: GradientProfile,
        value: float | None = None,
        limit: Limit | None = None,
        path: int | None = None,
    ) -> Finding:
        """Make a finding of this rule; `limit` brings its source along."""
        return Finding(
            code=self.code,
            rule=self.name,
            severity=severity,
            layer=layer,
            message=message,
            value=value,
            limit=limit.value if limit else None,
            limit_source=limit.source if limit else "",
            seed=profile.seed,
            path=path,
        )


def own_settings(rules: Iterable[Rule]) -> tuple[Option, ...]:
    """The settings that rules bring along.

    Raises SettingError for two of one name, which nobody could tell apart.
    """
    found: dict[str, Option] = {}
    for rule in rules:
        for option in rule.options:
            known = BY_NAME.get(option.name) or found.get(option.name)
            if known is not None and known != option:
                raise SettingError(
                    f"rule {rule.code} brings a setting {option.name!r}, which there is already;"
                    " give it a name of its own"
                )
            if known is None:
                found[option.name] = option
    return tuple(found.values())


def without_echoes(rules: Iterable[Rule], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Leave out what another rule has said more plainly."""
    echoes = {rule.code: rule.echoes for rule in rules}
    return tuple(
        finding
        for finding in findings
        if not any(
            other.code in echoes.get(finding.code, ())
            and RANK[other.severity] <= RANK[finding.severity]
            for other in findings
        )
    )
