"""From what a forward and a backward have left on the device to the records of a look."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from pytest_gradhealth.distributed.shards import whole_norms
from pytest_gradhealth.measure.activations import SeenActivation
from pytest_gradhealth.measure.asleep import asleep
from pytest_gradhealth.measure.flow import gradient_flow
from pytest_gradhealth.measure.forgotten import forgotten
from pytest_gradhealth.measure.outputs import Seen
from pytest_gradhealth.measure.parameters import Measured
from pytest_gradhealth.measure.paths import Network, gradient_paths
from pytest_gradhealth.measure.recorder import Key, Mark, Recorder
from pytest_gradhealth.results.names import OUTPUT, module_of
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.results.path import PathPoint
from pytest_gradhealth.results.profile import GradientProfile, OutputRecord, ParameterRecord
from pytest_gradhealth.tensors.dominators import DominatorTree
from pytest_gradhealth.tensors.readout import Readout


@dataclass(frozen=True)
class DataFlow:
    """Where data comes into a model: outputs that carry some, and modules of loops that are fed.

    Without `carriers`, all outputs may.
    """

    carriers: Collection[Key] | None = None
    fed: Collection[str] = ()


@dataclass(frozen=True)
class Look:
    """A profile, and what it takes to read its paths again from other first layers.

    `hides_layers` says that re-entrant checkpoints show nothing of the layers in them.
    """

    profile: GradientProfile
    network: Network
    keys: dict[int, Key]
    hides_layers: bool = False

    def along(self, flow: DataFlow) -> Look:
        """The same look, with paths from where data comes in, along one step of each loop."""
        marks = None
        if flow.carriers is not None:
            marks = [mark for mark, key in self.keys.items() if key in flow.carriers]
        profile = _with_paths(self.profile, self.network, marks, flow.fed)
        if not flow.fed:
            return replace(self, profile=profile)
        uncut = gradient_paths(self.network, marks)
        gone = forgotten(self.network, flow.fed)
        return replace(self, profile=replace(profile, uncut=uncut, forgotten=gone))

    def silenced(self, outputs: Collection[Key]) -> Look:
        """The same look, in which the gradients of some outputs are zero, and their modules'."""
        marks = {mark for mark, key in self.keys.items() if key in outputs}
        points = {
            mark: replace(point, norm=0.0) if mark in marks else point
            for mark, point in self.network.points.items()
        }
        network = replace(self.network, points=points)
        names = {name for name, _, _ in outputs}
        profile = replace(
            self.profile,
            outputs=tuple(
                replace(o, norm=0.0) if o.key in outputs else o for o in self.profile.outputs
            ),
            parameters=tuple(
                replace(p, state="zero", gradient=0.0) if p.is_of(names) and p.gradient else p
                for p in self.profile.parameters
            ),
        )
        return replace(self, profile=_with_paths(profile, network), network=network)

    def marked(self, bad: NonFinite) -> Look:
        """The same look, with where its first NaN or infinity came up."""
        return replace(self, profile=replace(self.profile, non_finite=bad))


@dataclass(frozen=True)
class Taken:
    """What one forward and one backward have measured, all of it still on the device.

    `marks` are those that paths are made of, by the numbers that they have in `tree`.
    """

    loss: Tensor
    recorder: Recorder
    marks: dict[int, Mark]
    tree: DominatorTree
    parameters: Sequence[Measured]
    activations: Sequence[SeenActivation]
    outputs: Seen
    unregistered: tuple[tuple[int, ...], ...]

    def read(self, unscale: float, *, seed: int, steps: int, objective: str) -> Look:
        """Bring all numbers to the host at once and write the records.

        Gradients count `unscale` times; `seed`, `steps` and `objective` are only written down.
        """
        loss = self.loss.detach().reshape(())
        numbers = Readout([loss, *self._scalars()])
        outputs = self._output_records(numbers, unscale)
        spread, magnitude = self.outputs.read(numbers)
        points = {
            i: _point(mark, outputs[id(mark)])
            for i, mark in self.marks.items()
            if i in self.tree.marks and mark.gradient is not None
        }
        parameters = tuple(p.record(numbers, unscale) for p in self.parameters)
        weights = [measured.parameter for measured in self.parameters]
        network = Network(
            self.tree,
            points,
            {id(p): p.numel() if p.requires_grad else 0 for p in weights},
            self._round_about(parameters),
            self.recorder.sequences(),
            {id(p.parameter): module_of(p.name) for p in self.parameters},
            frozenset(id(p.parameter) for p in self.parameters if p.is_matrix),
        )
        opaque, uncalled = self.recorder.opaque, self.recorder.uncalled()
        silent = [OutputRecord(m.name, m.type, "no-tensor", call=m.call) for m in opaque]
        silent += [OutputRecord(name, kind, "not-called") for name, kind in uncalled]
        profile = GradientProfile(
            seed=seed,
            steps=steps,
            loss=numbers[loss],
            paths=(),
            outputs=(*outputs.values(), *silent),
            parameters=parameters,
            activations=tuple(a.record(numbers) for a in reversed(self.activations)),
            spread=spread,
            magnitude=magnitude,
            wanted=self.outputs.read_targets(numbers),
            keyed=self.recorder.keyed(),
            unregistered=self.unregistered,
            objective=objective,
            flow=gradient_flow(self.tree, self._origins(), self.recorder.calls),
        )
        return Look(
            _with_paths(profile, network), network, {i: mark.key for i, mark in self.marks.items()}
        )

    def _origins(self) -> Mapping[int, Key]:
        """The calls that returned the marked tensors, of the modules with parameters of their own.

        The innermost ones, whatever is around them.
        """
        names = [name for p in self.parameters for name in (p.name, *p.others)]
        layers = {module_of(name) or OUTPUT for name in names}
        return {i: mark.origin for i, mark in self.marks.items() if mark.origin[0] in layers}

    def _round_about(self, parameters: Sequence[ParameterRecord]) -> frozenset[int]:
        """Marks that the forward has differentiated, but for those whose weights get nothing."""
        silent = {p.module for p in parameters if p.gradient == 0}
        silent -= {p.module for p in parameters if p.gradient}
        marks = ((i, mark) for i, mark in self.marks.items() if mark.differentiated)
        return frozenset(i for i, mark in marks if mark.name not in silent)

    def _scalars(self) -> Iterator[Tensor | None]:
        for mark in self.recorder.marks:
            yield from (mark.activation, mark.gradient, mark.tokens)
        for parameter in self.parameters:
            yield from parameter.scalars
        for activation in self.activations:
            yield from (activation.dead, activation.flat)
        yield from self.outputs.scalars

    def _output_records(self, numbers: Readout, unscale: float) -> dict[int, OutputRecord]:
        """The records of all marks by their ids; parts of a cut output make a whole."""
        marks = self.recorder.marks
        norms = [(numbers.get(m.activation), numbers.get(m.gradient)) for m in marks]
        wholes = whole_norms(
            self.recorder.model,
            {i: (a or 0.0, g or 0.0) for i, (a, g) in enumerate(norms) if marks[i].owners},
            {i: mark.owners for i, mark in enumerate(marks)},
        )
        found: dict[int, OutputRecord] = {}
        for i, mark in enumerate(marks):
            activation, gradient = norms[i]
            if i in wholes:
                activation, whole = wholes[i]
                gradient = None if gradient is None else whole
            gradient = None if gradient is None else gradient * unscale
            found[id(mark)] = _output_record(mark, activation, gradient, numbers.get(mark.tokens))
        return found


def _with_paths(
    profile: GradientProfile,
    network: Network,
    carriers: Collection[int] | None = None,
    fed: Collection[str] = (),
) -> GradientProfile:
    """The profile with what is read along the paths of its network."""
    idle = {p.module for p in profile.parameters if p.state == "zero" and len(p.shape) > 1}
    return replace(
        profile,
        paths=gradient_paths(network, carriers, fed),
        asleep=asleep(network, network.marks if carriers is None else carriers, idle),
    )


def _output_record(
    mark: Mark, activation: float | None, gradient: float | None, tokens: float | None
) -> OutputRecord:
    needed = mark.activation is not None
    return OutputRecord(
        name=mark.name,
        type=mark.type,
        state="measured" if gradient is not None else "unreached" if needed else "no-grad",
        shape=mark.shape,
        numel=mark.numel,
        norm=gradient,
        activation=activation,
        call=mark.call,
        output=mark.output,
        leaf=mark.leaf,
        tokens=tokens,
        sampled=mark.sampled,
    )


def _point(mark: Mark, record: OutputRecord) -> PathPoint:
    return PathPoint(
        name=mark.name,
        type=mark.type,
        shape=mark.shape,
        norm=math.nan if record.norm is None else record.norm,
        numel=mark.numel,
        call=mark.call,
        output=mark.output,
        activation=math.nan if record.activation is None else record.activation,
        leaf=mark.leaf,
        width=mark.width,
    )
