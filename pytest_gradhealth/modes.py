"""Models in evaluation mode: what only fails there is no failure, since no model trains in it.

Batch normalisation then scales by statistics that an untrained model has not learned yet, so that
a network that trains well can vanish or explode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pytest_gradhealth.capture import Subject
from pytest_gradhealth.distributed import anywhere
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation import isolated
from pytest_gradhealth.records import Finding, GradientProfile, Severity

#: The looks under one seed, and what the rules say of them.
Examined = tuple[list[GradientProfile], tuple[Finding, ...]]

#: Rules on what the scale of the outputs decides.
_OF_SCALE = frozenset({"GH101", "GH103", "GH201", "GH202", "GH203", "GH402", "GH403", "GH404"})


def as_trained(subject: Subject, examine: Callable[[], Examined]) -> Examined:
    """Examine a model, again in training mode if it is in evaluation mode and looks sick there.

    What has gone then is left as information; where something else has come, or training mode takes
    another batch (a single example), the model stands as it was handed over.
    """
    looks, findings = examine()
    model = subject.model
    sick = any(f.code in _OF_SCALE and f.severity != "info" for f in findings)
    if not anywhere(model, sick and is_evaluating(model)):
        return looks, findings
    trained, left = looks, findings
    with isolated(subject.modules, subject.device), suppress(ProbeError):
        model.train()
        trained, left = examine()
    here = _sick(left)
    if anywhere(model, not here < _sick(findings)):
        return looks, findings
    return trained, (*left, *_gone(findings, here))


def is_evaluating(model: nn.Module) -> bool:
    """Whether a model is in evaluation mode and normalises by statistics it has kept."""
    kept = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    return not model.training and any(not module.training for module in kept)


def _sick(findings: Sequence[Finding]) -> set[tuple[str, Severity]]:
    return {(f.code, f.severity) for f in findings if f.severity != "info"}


def _gone(findings: Sequence[Finding], here: set[tuple[str, Severity]]) -> list[Finding]:
    return [
        replace(
            finding,
            severity="info",
            path=None,
            message=f"{finding.message}; but only in evaluation mode, where batch normalisation has"
            " no statistics of the data yet: judged in training mode",
        )
        for finding in findings
        if finding.severity != "info" and (finding.code, finding.severity) not in here
    ]
