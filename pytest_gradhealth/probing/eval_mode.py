"""Models in evaluation mode: what only fails there is no failure, since no model trains in it.

Batch normalisation then scales by statistics that an untrained model has not learned yet, so that
a network that trains well can vanish or explode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pytest_gradhealth.distributed.team import anywhere
from pytest_gradhealth.results.diagnosis import RANK, Finding
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.rules.rule import Rule
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import is_sharded

#: The looks under one seed, and what the rules say of them.
Examined = tuple[list[GradientProfile], tuple[Finding, ...]]


def as_trained(
    subject: Subject, rules: Sequence[Rule], examine: Callable[[], Examined]
) -> Examined:
    """Examine a model, again in training mode if it is in evaluation mode and looks sick there.

    Training mode decides if it looks better; what has gone then is left as information. Where
    training mode cannot be tried (on a single example, say), failures are only warnings.
    """
    looks, findings = examine()
    model = subject.model
    of_scale = {rule.code for rule in rules if rule.of_scale}
    sick = any(f.code in of_scale and f.complains for f in findings)
    if not anywhere(model, sick and is_evaluating(model)):
        return looks, findings
    with subject.isolated():
        try:
            model.train()
            trained, left = examine()
        except Exception as error:
            if is_sharded(model):
                raise  # the other ranks are waiting in the middle of it
            return looks, tuple(_untried(f, error) if f.code in of_scale else f for f in findings)
    if not anywhere(model, _worst(left) > _worst(findings)):
        return looks, findings
    return trained, (*left, *_gone(findings, left))


def is_evaluating(model: nn.Module) -> bool:
    """Whether a model normalises by statistics it has kept, or has not even begun to keep.

    Frozen statistics in a model that trains are meant to be so, once they are those of some data.
    """
    kept = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    return any(
        not module.training and (not model.training or module.num_batches_tracked == 0)
        for module in kept
    )


def _worst(findings: Iterable[Finding]) -> int:
    return min((RANK[finding.severity] for finding in findings), default=RANK["info"])


def _gone(findings: Sequence[Finding], left: Sequence[Finding]) -> list[Finding]:
    here = {(finding.code, finding.severity) for finding in left}
    return [
        replace(
            finding,
            severity="info",
            path=None,
            message=f"{finding.message}; but only in evaluation mode, where batch normalisation has"
            " no statistics of the data yet: judged in training mode",
        )
        for finding in findings
        if finding.complains and (finding.code, finding.severity) not in here
    ]


def _untried(finding: Finding, error: Exception) -> Finding:
    if finding.severity != "failure":
        return finding
    said = str(error.__cause__ or error).partition("\n")[0]
    text = (
        f"{finding.message}; perhaps only in evaluation mode, since training mode, in which batch"
        f" normalisation takes its statistics from the batch, cannot be tried ({said})"
    )
    return replace(finding, severity="warning", message=text)
