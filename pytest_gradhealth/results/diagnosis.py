"""What was found in the looks at a model, what was tried on it, and the verdict."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.formatting import encodable, harmless, listing, portion, shortened, told
from pytest_gradhealth.results.path import GradientPath
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.results.serialization import LIVE, AtLeast, from_plain, to_plain

Severity = Literal["failure", "warning", "not judged", "info"]
Verdict = Literal["failure", "warning", "not judged", "healthy"]
#: All of them, worst first.
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

#: What came of a remedy: the failed rule passes and the loss falls; part of that, or none of it; it
#: could not be applied; there was no time for it.
Outcome = Literal["cured", "better", "no effect", "worse", "cannot", "not tried"]


@dataclass(frozen=True)
class Limit:
    """A threshold and where it came from ("default", "the call", ...)."""

    value: float
    source: str


@dataclass(frozen=True)
class Finding:
    """What one rule found: `value` was measured at `layer`, against `limit` from `limit_source`.

    `value` and `limit` are ratios, not decades; both are None where a rule compares nothing.
    `path` is the index of the gradient path in the profile of the seed that shows it. `others` are
    further layers of which the same is said. Of severity "not judged" is the reason why there was
    nothing to judge.
    """

    code: str
    rule: str
    severity: Severity
    layer: str
    message: str
    value: float | None = None
    limit: float | None = None
    limit_source: str = ""
    seed: int | None = None
    path: int | None = None
    others: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that it is about, the worst first."""
        return self.layer, *self.others

    @property
    def complains(self) -> bool:
        """Whether it says that something is wrong."""
        return self.severity in ("failure", "warning")


@dataclass(frozen=True)
class Measure:
    """How a model, or a copy with a remedy, did.

    `value` is what the failed rule compares with its limit (a ratio; None where it compares
    nothing), `start` and `end` the loss at the first and the last of `steps` training steps.
    """

    value: float | None = None
    start: float | None = None
    end: float | None = None
    steps: int = 0


@dataclass(frozen=True)
class Treatment:
    """One remedy, tried on a copy: what came of it, and the code that does the same.

    `rule` is the code of the failed rule whose value is compared. `before` was measured on an
    unchanged copy, `after` on the changed one (None if it was not tried or could not be applied).
    `reason` says why, where the numbers do not; `family` is the kind of remedy.
    """

    remedy: str
    outcome: Outcome
    rule: str
    before: Measure
    after: Measure | None = None
    code: str = ""
    reason: str = ""
    family: str = ""


#: Characters of a diagnosis in a list, in a debugger, or beside a failed assert.
LONGEST_REPR = 120
RANK: Mapping[str, int] = {severity: place for place, severity in enumerate(SEVERITIES)}


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The verdict on one model and batch, with everything it rests on.

    `profiles` holds one look per seed, and a second look after the confirm steps where the first
    would have failed. `findings` are sorted worst first. `sgd` says whether the default limits are
    those for SGD; `format` is that of the parameters, the coarsest; `eager` that a compiled model
    was measured as it was written. `treatments` are the remedies that were tried, best first.
    `origin` is what was diagnosed, which remedies are tried on: it stays in this process. Printing
    a diagnosis gives the table and the words of a failure message, its `repr` one line, both in
    characters that the standard output has.
    """

    model: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    profiles: Annotated[tuple[GradientProfile, ...], AtLeast(1)]
    device: str = "cpu"
    optimizer: str = "Adam(lr=0.001)"
    sgd: bool = False
    confirm_steps: int = 5
    limits: Mapping[str, Limit] = field(default_factory=dict)
    milliseconds: float = 0.0
    treatments: tuple[Treatment, ...] = ()
    version: int = 1
    eager: bool = False
    format: str = "float32"
    origin: Any = field(default=None, repr=False, compare=False, metadata={LIVE: True})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "origin"}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were looked at, in order."""
        return tuple(dict.fromkeys(profile.seed for profile in self.profiles))

    @property
    def decisive_seed(self) -> int:
        """The seed of the worst finding, else the first."""
        seen = self.seeds
        seeds = (finding.seed for finding in self.findings if finding.seed in seen)
        return next((seed for seed in seeds if seed is not None), seen[0])

    @property
    def profile(self) -> GradientProfile:
        """The first look under the decisive seed."""
        return next(self.looks(self.decisive_seed))

    def looks(self, seed: int) -> Iterator[GradientProfile]:
        """The looks under one seed: as given, then, if it was needed, after the confirm steps."""
        return (profile for profile in self.profiles if profile.seed == seed)

    @property
    def confirmation(self) -> GradientProfile | None:
        """The second look under the decisive seed, if there was one."""
        return next((p for p in self.looks(self.decisive_seed) if p.steps), None)

    @property
    def paths(self) -> tuple[GradientPath, ...]:
        """The gradient paths of `profile`."""
        return self.profile.paths

    @property
    def worst_path(self) -> GradientPath | None:
        """The path of the worst finding, else the judged path that is farthest from level."""
        return worst_path(self.profile, self.findings)

    @property
    def judged_path(self) -> GradientPath | None:
        """The worst path in the look that counts: the second, where it was silent in the first."""
        path, second = self.worst_path, self.confirmation
        if path is None or path.entry.norm or second is None:
            return path
        woken = second.same_path(path)
        return woken if woken is not None and woken.entry.norm else path

    @property
    def ratio(self) -> float:
        """L2 gradient norm, entry over last, of the worst path as judged (NaN without a path)."""
        path = self.judged_path
        return math.nan if path is None else path.share

    def of(self, codes: Sequence[str]) -> tuple[Finding, ...]:
        """The findings of some rules."""
        return tuple(finding for finding in self.findings if finding.code in codes)

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins, valid as JSON (NaN and infinities as strings)."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Diagnosis:
        """Read back what `to_dict` wrote; raises ProbeError for what it has not written."""
        try:
            return from_plain(cls, data)
        except Exception as error:
            raise ProbeError(
                f"this is no diagnosis ({told(error)}); pass what to_dict() returned"
            ) from error

    def __repr__(self) -> str:
        """One line: the verdict, what arrives of the gradient, and the codes that complain."""
        parts, path = [str(self.verdict)], self.judged_path
        if path is not None and path.links and self.verdict != "not judged":
            destination = shortened(path.destination, 28)
            parts.append(f"{portion(path.arrival, 'the gradient')} reaches {destination}")
        codes = dict.fromkeys(f.code for f in self.findings if f.complains)
        if codes:
            parts.append(listing([shortened(code, 8) for code in codes], most=2))
        line = f"<Diagnosis of {shortened(self.model, 24)}: {', '.join(parts)}>"
        return shortened(encodable(line, sys.stdout), LONGEST_REPR)

    def __str__(self) -> str:
        from pytest_gradhealth.reporting.message import render

        return encodable(harmless(render(self)), sys.stdout)

    def _repr_html_(self) -> str:
        """The plot and the table of the HTML report, for notebooks."""
        from pytest_gradhealth.reporting.html import html_fragment

        return html_fragment(self)


def worst_path(profile: GradientProfile, findings: Sequence[Finding]) -> GradientPath | None:
    """Return the path of the first finding that names one, else the farthest from level."""
    for finding in findings:
        if finding.path in range(len(profile.paths)) and finding.seed == profile.seed:
            return profile.paths[finding.path or 0]
    paths = profile.judged_paths or profile.paths
    return max(paths, key=_farness, default=None)


def _farness(path: GradientPath) -> float:
    if not path.finite:
        return math.inf
    return max(-path.vanishing, path.exploding)


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """Return the worst severity, "healthy" if there is nothing worse than information."""
    severities = {str(finding.severity) for finding in findings}
    return next((verdict for verdict in VERDICTS if verdict in severities), "healthy")
