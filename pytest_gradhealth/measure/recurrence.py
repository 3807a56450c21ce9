"""Gradients through time: how much of what leaves the last step of a sequence reaches earlier ones.

A fused nn.LSTM hides its steps, and a loss on every step hides how far back a gradient reaches. So
the gradient that is looked at here starts at the state after the last step alone, with a fixed
random direction, and is read at what the sequence layer gets at each step.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.measure.look import look
from pytest_gradhealth.measure.perturbation import remembering
from pytest_gradhealth.measure.reading import Look
from pytest_gradhealth.measure.sequence_layers import (
    SequenceRun,
    SequenceTape,
    feeds,
    gradients,
    longest_stretch,
)
from pytest_gradhealth.results.profile import GradientProfile
from pytest_gradhealth.results.times import TimeRecord
from pytest_gradhealth.subject.passes import Pass
from pytest_gradhealth.subject.subject import Subject


def look_through_time(subject: Subject, *, seed: int, steps: int = 0) -> Look:
    """Look at a subject and, where it has a dependency to reach, at its gradient through time.

    To be called inside `isolated`. Raises ProbeError as `look` does, and where there are no
    steps, or too few of them.
    """
    seen = look(subject, seed=seed, steps=steps)
    if subject.dependency is None:
        return seen
    times = time_records(subject, seen.profile, subject.dependency, seed)
    return replace(seen, profile=replace(seen.profile, times=times))


def time_records(
    subject: Subject, profile: GradientProfile, dependency: int, seed: int
) -> tuple[TimeRecord, ...]:
    """Measure the layers by which sequences enter, one record for each and for each direction."""
    run = Pass(subject, seed)
    tape = SequenceTape(dependency, _calls(profile))
    with tape.attached(subject.model):
        run.forward()
        # A checkpoint runs its part again for each gradient, and needs the same hooks there.
        tape.recording = False
        runs = tape.runs()
        if not runs and tape.hidden:
            raise ProbeError(
                f"{tape.hidden} runs without a graph (under no_grad, or in a re-entrant"
                " checkpoint), so that nothing can be followed through time; pass"
                " use_reentrant=False to the checkpoint, or probe the layer without it"
            )
        parts = _in_parts(runs, dependency) if runs else [[run] for run in tape.alone()]
        cut = _remembering(subject, parts, seed)
        if cut:
            return tuple(_cut_record(layer, dependency) for layer in cut)
        if not runs:
            raise ProbeError(
                f"dependency={dependency} was given, but the model has no recurrent layer (nn.RNN,"
                " nn.LSTM, nn.GRU) and calls no module step by step for more than"
                f" {dependency} steps"
            )
        return tuple(_read(runs, dependency))


def _calls(profile: GradientProfile) -> Counter[str]:
    """How often each module was called."""
    calls: Counter[str] = Counter()
    for output in profile.outputs:
        calls[output.name] = max(calls[output.name], output.call + 1)
    return calls


def _read(runs: list[SequenceRun], dependency: int) -> Iterator[TimeRecord]:
    """From the last layer of each stack to the first ones, which the sequence enters by."""
    covered: set[int] = set()
    for top in reversed(range(len(runs))):
        if top in covered:
            continue
        below = [i for i in range(top + 1) if i == top or feeds(runs[i], runs[top])]
        covered |= {*below}
        entries = [i for i in below if not any(feeds(runs[j], runs[i]) for j in below if j < i)]
        for entry in entries:
            for reverse in range(runs[top].directions):
                yield _record(runs[top], runs[entry], dependency, reverse=bool(reverse))


def _record(top: SequenceRun, entry: SequenceRun, dependency: int, *, reverse: bool) -> TimeRecord:
    longest = entry.steps - 1
    if dependency > longest:
        raise ProbeError(
            f"dependency={dependency} is more than {entry.name} can show: it gets sequences of"
            f" {longest + 1} steps, so that at most {longest} lie between first and last"
        )
    distances = entry.distances(reverse=reverse)
    given = torch.zeros(entry.steps, dtype=torch.float64)
    given.index_add_(0, distances, entry.rows(entry.taps).cpu())
    blank = tuple(int(distance) for distance in (given == 0).nonzero())
    norms = _norms(top, entry, reverse=reverse)
    return TimeRecord(entry.name, entry.type, norms, dependency, reverse, blank)


def _norms(top: SequenceRun, entry: SequenceRun, *, reverse: bool = False) -> tuple[float, ...]:
    """What reaches the input of one layer from the last state of another, by steps back."""
    rows = entry.rows(gradients(top, entry.taps, reverse=reverse)).cpu()
    distances = entry.distances(reverse=reverse)
    sums = torch.zeros(entry.steps, dtype=torch.float64).index_add_(0, distances, rows)
    counts = torch.bincount(distances, minlength=entry.steps)
    return tuple((sums / counts).sqrt().tolist())


def _in_parts(runs: list[SequenceRun], dependency: int) -> list[list[SequenceRun]]:
    """Fused layers that get a sequence in parts, all too short, of which none feeds the next."""
    found: dict[str, list[SequenceRun]] = {}
    for run in runs:
        if not run.ends:
            found.setdefault(run.name, []).append(run)
    return [
        parts
        for parts in found.values()
        if len(parts) > 1
        and sum(part.steps for part in parts) > dependency >= max(part.steps for part in parts)
        and not any(feeds(one, other) for one, other in itertools.pairwise(parts))
    ]


def _remembering(
    subject: Subject, layers: list[list[SequenceRun]], seed: int
) -> list[list[SequenceRun]]:
    """Those of some layers that feel their first call later, and get data from no other of them."""
    names = [parts[0].name for parts in layers]
    felt = remembering(subject, names, seed=seed) if names else []
    found = [parts for parts in layers if parts[0].name in felt]
    return [
        parts
        for parts in found
        if not any(feeds(other[-1], parts[-1], -1) for other in found if other is not parts)
    ]


def _cut_record(parts: list[SequenceRun], dependency: int) -> TimeRecord:
    """What reaches back where the state goes on by value, and its gradient does not.

    `parts` are the calls of a fused layer, or what is called step by step.
    """
    total = sum(part.steps for part in parts)
    part = max(reversed(parts), key=lambda part: part.steps)
    cut = part.steps
    if part.ends:
        part, cut = longest_stretch(part)
    norms = _norms(part, part)
    beyond = (0.0,) * (total - len(norms))
    return TimeRecord(part.name, part.type, (*norms, *beyond), dependency, cut=cut)
