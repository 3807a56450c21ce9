"""What rules warn of, as warnings of Python: where the check was called, with code and layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_gradhealth.config.settings import Settings, ignored_names, is_selected
from pytest_gradhealth.context import Place, current, frames_inside
from pytest_gradhealth.errors import GradientHealthWarning
from pytest_gradhealth.formatting import LONGEST_FINDING, harmless, shortened
from pytest_gradhealth.probing.ignored import matches
from pytest_gradhealth.reporting.advice import causes
from pytest_gradhealth.results.diagnosis import Diagnosis, Finding
from pytest_gradhealth.results.profile import GradientProfile


@dataclass
class Heard:
    """What one test was warned of, and what it has probed without judging it so far.

    It holds on to what was measured where there is something to warn of, never to a model. `codes`
    are those of the rules it was warned of.
    """

    codes: set[str] = field(default_factory=set)
    _told: list[tuple[tuple[GradientProfile, ...], str]] = field(default_factory=list)
    _waiting: list[tuple[tuple[GradientProfile, ...], Finding, str, Place]] = field(
        default_factory=list
    )

    def probed(self, diagnosis: Diagnosis, place: Place) -> None:
        """Take a diagnosis that nothing warns of unless the test does nothing with it."""
        for finding, text in _warnings(diagnosis):
            self._waiting.append((diagnosis.profiles, finding, text, place))

    def judged(self, diagnosis: Diagnosis) -> None:
        """Leave it to an assertion to warn of what was measured."""
        self._waiting = [w for w in self._waiting if w[0] is not diagnosis.profiles]

    def is_news(self, diagnosis: Diagnosis, text: str) -> bool:
        """Whether nobody has said so of what was measured; from then on somebody has."""
        known = any(one is diagnosis.profiles and said == text for one, said in self._told)
        self._told.append((diagnosis.profiles, text))
        self.codes.add(text.partition(" ")[0].rstrip(":"))
        return not known

    def unjudged(self, settings: Settings) -> Iterator[tuple[str, Place]]:
        """What there is to warn of in what was not judged, but for what the settings ignore."""
        told = {text for _, text in self._told}
        for _, finding, text, place in self._waiting:
            code = finding.code
            ignored = matches(finding.layer, ignored_names(code, settings))
            if is_selected(code, settings) and not ignored and text not in told:
                told.add(text)
                self.codes.add(code)
                yield text, place
        self._waiting.clear()


def warn_of(diagnosis: Diagnosis) -> None:
    """Warn of what rules warn of in a model that passes, once for several checks of one probe.

    Raises GradientHealthWarning where a filter makes errors of them.
    """
    __tracebackhide__ = True
    heard = None if (context := current()) is None else context.heard
    if heard is not None:
        heard.judged(diagnosis)
    for _, text in _warnings(diagnosis):
        if heard is None or heard.is_news(diagnosis, text):
            warnings.warn(
                harmless(text), category=GradientHealthWarning, stacklevel=frames_inside()
            )


def warn_of_unjudged(heard: Heard, settings: Settings) -> None:
    """Warn, at the end of a test, of what it has probed and no assertion has judged."""
    for text, (file, line) in heard.unjudged(settings):
        warnings.warn_explicit(
            harmless(text), category=GradientHealthWarning, filename=file, lineno=line
        )


def _warnings(diagnosis: Diagnosis) -> Iterator[tuple[Finding, str]]:
    """What there is to warn of, and what is said of that and its cause."""
    for finding in diagnosis.findings:
        if finding.severity == "warning":
            where = "" if finding.layer.startswith("(") else f" at {finding.layer}"
            why = [text for label, text in causes(diagnosis, [finding]) if label == "cause"]
            told = "; cause: ".join([f"{finding.code}{where}: {finding.message}", *why])
            yield finding, shortened(told, LONGEST_FINDING)
