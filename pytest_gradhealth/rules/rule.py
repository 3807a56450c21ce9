"""What a rule is: all that is known of it in one place, whoever wrote it."""

from __future__ import annotations

import contextlib
import keyword
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_gradhealth.config.arguments import fields_read, listed, settle_fields
from pytest_gradhealth.config.options import BY_NAME, FIXED_LIMITS, Option
from pytest_gradhealth.config.values import as_float
from pytest_gradhealth.errors import GradientHealthError, SettingError
from pytest_gradhealth.formatting import View, number, shortened, shown, told
from pytest_gradhealth.results.diagnosis import RANK, Diagnosis, Finding, Limit, Severity
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.page import page_of


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
    """A sentence on the cause and one on what to try.

    `certain`: it mends the one operation that is to blame, and so is told beside any cure as well.
    """

    because: str
    advice: str
    certain: bool = False

    def __post_init__(self) -> None:
        settle_fields(self, Cause, "a Cause")


@dataclass(frozen=True)
class Quantity:
    """The number that a rule compares with its limit.

    `of` reads it from a look (None where there is nothing to compare), `name` is the head of its
    column where remedies are compared, `form` how its text is put there. `better` says which way.
    """

    of: Callable[[GradientProfile], float | None]
    name: str = "ratio"
    form: str = "x{}"
    better: Literal["smaller", "larger"] = "smaller"

    def __post_init__(self) -> None:
        settle_fields(self, Quantity, "a Quantity")

    def shown(self, value: float | None) -> str:
        """A value as it is written, "" for none."""
        if value is None:
            return ""
        with contextlib.suppress(Exception):
            return shortened(self.form.format(number(value)), 24)
        return number(value)

    @property
    def title(self) -> str:
        """The name, as far as there is room for it."""
        return shortened(self.name, 16)


@dataclass(frozen=True)
class Rule:
    """A check with a stable code, and what there is to say of it.

    `check` maps the evidence to findings. A rule that fails on the first look is asked again with
    the second; what it returns then stands. `confirm_from` is the mildest severity that calls for
    the second look; with None the first look decides. `error` is what an assertion raises for its
    failures; `summary` and `reads` are one-liners. `echoes` names rules whose findings say the same
    more plainly: beside one that is as severe, this rule is silent. What a rule finds that `leads`
    is told first, after what is the cause of all that the rules find that it `explains`.

    `doc` is the text of its page, in Markdown (None where Python leaves docstrings out). `settings`
    are the thresholds it reads, the one that its `quantity` is compared with first: names of
    settings there are, or an Option for one of its own. `cause` is why it fails and what to try, or
    a function that tells from a finding and the look. `exhibit` returns a table of its own (by
    default the gradient path is shown) for its findings in a diagnosis.

    `of_scale`: it may fail for the scale of the outputs alone, which is nothing to go by in
    evaluation mode. `patient`: training may yet cure what it finds. `judges_steps`: it judges
    training steps, not a look. `fails_if_asked`: the mildest severity that fails the assertion that
    is about it. `unacceptable` is the value from which on no setting is proposed to let it pass.

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
    leads: bool = False
    explains: tuple[str, ...] = ()
    doc: str | None = ""
    settings: tuple[str | Option, ...] = ()
    quantity: Quantity | None = None
    cause: Cause | Callable[[Finding, GradientProfile], Cause | None] | None = None
    exhibit: Callable[[Diagnosis, Sequence[Finding], View], str] | None = None
    of_scale: bool = False
    patient: bool = False
    judges_steps: bool = False
    fails_if_asked: Severity = "failure"
    unacceptable: float | None = None

    def __post_init__(self) -> None:
        settle_fields(self, Rule, "rule", "code")

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

    def judge(self, evidence: Evidence) -> tuple[Finding, ...]:
        """What it finds; raises SettingError for a check that fails, or returns something else."""
        part = f"the check of rule {self.code} yields a {{}}; yield what rule.finding(...) returns"
        one = f"a finding of rule {self.code}"
        try:
            found = self.check(evidence)
            findings = listed(() if found is None else [*found], Finding, "", part)
            return tuple(replace(f, **fields_read(f, Finding, one)) for f in findings)
        except SettingError:
            raise
        except Exception as error:
            said = f"the check of rule {self.code} raised {told(error)}"
            raise SettingError(f"{said}; {self._after_a_crash()}") from error

    def value(self, profile: GradientProfile) -> float | None:
        """What it compares with its limit in a look, None where it compares nothing."""
        if self.quantity is None:
            return None
        with contextlib.suppress(Exception):  # what is wrong with it must not hide what failed
            value = self.quantity.of(profile)
            return None if value is None else float(value)
        return None

    def explain(self, finding: Finding, profile: GradientProfile) -> Cause | None:
        """The likely cause of one of its findings, None where nothing is known of it."""
        try:
            cause = self.cause(finding, profile) if callable(self.cause) else self.cause
            if cause is None:
                return None
            return Cause(str(cause.because), str(cause.advice), cause.certain)
        except Exception as error:
            return Cause(
                f"unknown: that of {self.code} raised {told(error)}", "mend the rule's cause"
            )

    def table(self, diagnosis: Diagnosis, findings: Sequence[Finding], view: View) -> str:
        """Its own table for its findings, "" without one."""
        if self.exhibit is None:
            return ""
        try:
            return str(self.exhibit(diagnosis, findings, view) or "")
        except Exception as error:
            return f"(the table of {self.code} raised {told(error)})"

    def acceptance(self, finding: Finding, limits: Mapping[str, Limit]) -> str:
        """What would let a failing value pass, for whoever knows better; "" for what is too bad."""
        value, limit = finding.value, finding.limit
        if value is None or limit is None:
            return ""
        more = value > limit  # whether a larger limit would let it pass
        bound = self.unacceptable
        if bound is not None and not (value < bound if more else value > bound):
            return ""
        leaves_out = f"--gradhealth-ignore={shortened(self.code, 40)} leaves the rule out"
        if not self.options:
            return leaves_out
        of_limit = [o for o in self.options if o.name in limits and limits[o.name].value == limit]
        option = (*of_limit, *self.options)[0]
        rounded = math.ceil if more else math.floor
        try:
            if option.share:
                proposed = f"{rounded(100 * value) / 100:g}"
            else:
                proposed = f"1e{rounded(math.log10(value)):+03d}"
            option.parse(float(proposed))
        except Exception:  # no number is like this one, or the setting takes none
            return f"no {option.name} lets this pass; {leaves_out}"
        return f"{option.name}={proposed}, if this is meant to be"

    @property
    def page(self) -> str:
        """The rule's page of documentation, in Markdown."""
        return page_of(self)

    def _after_a_crash(self) -> str:
        of = getattr(self.check, "__module__", None) or ""
        if of.partition(".")[0] != __name__.partition(".")[0]:
            return "it is called with the Evidence and returns findings, or None"
        return (
            "that is a fault of pytest-gradhealth, not of the model; to go on without the rule,"
            f" pass ignore=['{self.code}'], or --gradhealth-ignore={self.code}"
        )

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
            value=None if value is None else float(value),
            limit=limit.value if limit else None,
            limit_source=limit.source if limit else "",
            seed=profile.seed,
            path=path,
        )


def own_rules(given: object) -> tuple[Rule, ...]:
    """Return the rules of a caller; raises SettingError for what is none."""
    words = "pass pytest_gradhealth.Rule objects"
    return listed(
        given, Rule, f"rules is a {{}}; {words} in a list", f"rules has a {{}} in it; {words}"
    )


def checked(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return rules that can be applied together, by code; SettingError for two with the same."""
    found: dict[str, Rule] = {}
    for rule in rules:
        if found.setdefault(rule.code, rule) is not rule:
            raise SettingError(
                f"two rules have the code {rule.code} ({found[rule.code].name} and {rule.name});"
                " give yours a code of its own"
            )
    return tuple(found[code] for code in sorted(found))


#: What a setting of a rule's own may not be called: limits that nobody sets, and arguments.
_TAKEN = {"eps", *FIXED_LIMITS, "model", "inputs", "targets", "loss", "optimizer", "clip", "msg"}
_TAKEN |= {"regularizer", "dependency", "precision", "loss_scale", "rules", "name"}


#: The settings that there are anyhow, by their ids.
_ROWS = frozenset(map(id, BY_NAME.values()))


def own_settings(rules: Iterable[Rule]) -> tuple[Option, ...]:
    """The settings that rules bring along.

    Raises SettingError for two of one name, which nobody could tell apart, and for those that could
    be no limit.
    """
    found: dict[str, Option] = {}
    for rule in rules:
        for option in rule.options:
            if id(option) in _ROWS:
                continue
            fields_read(option, Option, f"a setting of rule {rule.code}")
            known = BY_NAME.get(option.name) or found.get(option.name)
            if known is not None and known != option:
                raise SettingError(
                    f"rule {rule.code} brings a setting {option.name!r}, which there is already;"
                    " give it a name of its own"
                )
            if known is None:
                _check_own(rule, option)
                found[option.name] = option
    return tuple(found.values())


def _check_own(rule: Rule, option: Option) -> None:
    said = f"rule {rule.code} brings a setting {option.name!r}"
    name, default = option.name, option.default
    if name in _TAKEN or not name.isidentifier() or keyword.iskeyword(name):
        raise SettingError(f"{said}, which cannot be one's name; give it another")
    if option.use != "limit" or as_float(default) is None:
        raise SettingError(
            f"{said} with the default {shown(default)}; it has to be a limit, a number"
        )
