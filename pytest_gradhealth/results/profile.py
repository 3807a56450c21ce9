"""What one look at a model has measured: frozen dataclasses of plain builtins."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from pytest_gradhealth.results.alike import Alike
from pytest_gradhealth.results.first_step import FirstStep
from pytest_gradhealth.results.flow import FlowRecord
from pytest_gradhealth.results.holdings import Holdings
from pytest_gradhealth.results.learning import Learning
from pytest_gradhealth.results.magnitudes import LossScale, MagnitudeRecord
from pytest_gradhealth.results.names import OUTPUT, module_of
from pytest_gradhealth.results.non_finite import NonFinite
from pytest_gradhealth.results.path import GradientPath, PathPoint
from pytest_gradhealth.results.stop import Stop
from pytest_gradhealth.results.times import TimeRecord
from pytest_gradhealth.results.weights import WeightRecord

#: How the gradient of a module output was found: measured (possibly exactly zero), waiting for a
#: gradient that never came, cut off from every trainable parameter, of a module whose forward
#: never ran, out of reach because the module returned nothing a hook could be put on, or without
#: influence on the loss.
OutputState = Literal["measured", "unreached", "no-grad", "not-called", "no-tensor", "ignored"]

#: How the gradient of a parameter was found: it has one (zero counts, when all its elements are
#: exactly zero), nothing used it, or it is frozen or has no elements.
ParameterState = Literal["gradient", "zero", "none", "frozen"]

#: Which norms of an output may be estimated from a sample: neither, its own, or its gradient's too.
Sampled = Literal["", "activation", "both"]


@dataclass(frozen=True)
class OutputRecord:
    """The gradient of the loss with respect to one tensor that one call of a module returned.

    `norm` is None unless the state is "measured"; `output` numbers the tensors of one call; `leaf`
    is the type of the innermost module that returned this very tensor. `tokens` says how far the
    tokens lie apart that attention gets: RMS distance from their mean over RMS. Norms that are
    `sampled` are right to 5 % (one standard error), but for few large elements that were missed.
    """

    name: str
    type: str
    state: OutputState
    shape: tuple[int, ...] = ()
    numel: int = 0
    norm: float | None = None
    activation: float | None = None
    call: int = 0
    output: int = 0
    leaf: str = ""
    tokens: float | None = None
    sampled: Sampled = ""

    @property
    def key(self) -> tuple[str, int, int]:
        """Name, call and output number, which a point on a path has too."""
        return self.name, self.call, self.output


@dataclass(frozen=True)
class PartRecord:
    """A part of a weight that is a weight of its own, and the L2 norm of its gradient."""

    name: str
    gradient: float


@dataclass(frozen=True)
class ParameterRecord:
    """A parameter, its L2 norm and that of its gradient (None without one).

    `alignment` is the cosine between a weight and its gradient: zero for a weight whose scale does
    not matter, as before a normalisation layer; None elsewhere, and where a look estimates norms.
    `penalty` is the L2 norm of the gradient of the regularisation term (weight decay included where
    it is part of the gradient), None without one.
    `other_names` are further names of a shared parameter. `same` says that all rows of a weight are
    equal, and so are those of its gradient; `parts` are query, key and value, or the gates of a
    layer, where one weight makes them all.
    """

    name: str
    shape: tuple[int, ...]
    state: ParameterState
    norm: float
    gradient: float | None = None
    alignment: float | None = None
    penalty: float | None = None
    other_names: tuple[str, ...] = ()
    same: bool = False
    parts: tuple[PartRecord, ...] = ()

    @property
    def module(self) -> str:
        """Name of the module that holds the parameter, or that a parametrised one is made for."""
        return module_of(self.name)

    def is_of(self, layers: Collection[str]) -> bool:
        """Whether it belongs to one of some layers: a module, or a weight that is one itself."""
        return self.module in layers or self.name in layers


@dataclass(frozen=True)
class ActivationRecord:
    """An activation function and what it let through, over the whole batch.

    `name` and `type` are those of its module or, for a function, of the layer it is `at`: "behind".
    `dead` is the share of its `units` (features or channels) that are zero for the whole batch,
    None for functions that cannot be; `flat` the share of elements where its slope is below a
    hundredth of the largest, None for functions that do not saturate. `after` names the layer
    before it where one module serves several. `point` is the module output that gets its gradient
    through it alone, by its label; None where the output behind a function also goes elsewhere.
    """

    name: str
    type: str
    function: str
    units: int
    dead: float | None = None
    flat: float | None = None
    after: str = ""
    at: Literal["", "behind"] = ""
    point: str | None = None

    @property
    def title(self) -> str:
        """The name, and the layer before it where that is needed to tell which is meant."""
        if self.at:
            return f"{self.function.lower()} {self.at} {self.name}"
        return f"{self.name} after {self.after}" if self.after else self.name


#: An RMS of the outputs above which it is measured as the loss feels it.
LARGE = 10.0

#: For a NaN that a second run does not show again, or that another process has brought in.
SOMEWHERE = NonFinite("backward", "(loss)", "", "nan")


@dataclass(frozen=True)
class Update:
    """One step of the user's training, made on a copy.

    `gradient` is the L2 norm of all parameters' gradients before clipping, `clipped` that after.
    `change` is the largest relative change of a weight: the L2 norm of what the step adds to it
    over its own (or that of a level initialisation, if larger), per backward of the step, of which
    LBFGS makes several; `layer` is where that was. `carry` is what the steps of a constant gradient
    come to over the first, which momentum makes longer, None for an optimizer whose steps do not
    shrink with the gradient.
    """

    step: int
    loss: float
    gradient: float
    clipped: float
    layer: str
    change: float
    carry: float | None = None

    @property
    def finite(self) -> bool:
        """Whether loss, gradient and change are finite numbers."""
        return all(map(math.isfinite, (self.loss, self.gradient, self.clipped, self.change)))


@dataclass(frozen=True)
class GradientProfile:
    """One look at one model: a forward and a backward pass on one batch under one seed.

    `steps` counts the optimizer steps before the look (0: as given). `awake` names parameters
    that read "none" or "zero" in this look but had a gradient in one of those steps, `apart` those
    that this loss leaves to something else to train (a codebook, a teacher), `left_out` those that
    the forward multiplies by fixed zeros or puts other tensors in the place of, `untaken` those
    that no operation takes, where others of their module are. `updates` are the training steps made
    from here, where a rule needs them. `spread` says how far the model's
    outputs for different examples lie apart: RMS distance from their mean over RMS, relative to the
    same of the inputs; `magnitude` is the RMS of the outputs (over that of floating targets, if
    larger than 1), the smallest where there are several. Both are None without outputs to compare.
    `wanted` is the RMS of those targets, None without any.
    `felt` names those of the two that are given as the loss feels the outputs, where that differs.
    `keyed` names the nn.ModuleDicts in the model. `times` says how gradients fare through time,
    where a dependency was declared; `magnitudes` how large their elements are, where a precision
    was, to be judged at `loss_scale`. `unregistered` are the shapes of parameters that the forward
    uses and the model does not list. `training` says that the look was made in training mode, since
    the model looks sick in the evaluation mode that it was given in. `flow` says which layers are
    used by which. `uncut` are the paths as they were, where some of them end at loops that get data
    of their own; `forgotten` the modules that are felt through the first steps of these alone, so
    that what they get is a matter of memory. `learned` names the first layers of paths with a share
    in bringing the loss below what one answer for all examples has, where it was asked. `asleep`
    are points that let nothing but zeros through, and gradient all the same. `objective` says what
    was differentiated: which loss, or what stood in for one. `stops` are the operations that keep
    the gradient from parameters which get none or only zeros, and those that return the same
    whatever comes in, where something fails because of it. `alike` says from where on the examples
    are, where the outputs should tell them apart and do not; `anew` are the shapes of parameters
    that each forward makes. `holdings` is what the optimizer has of the model, where one was
    declared that can be asked; `unwritten` names the parameters and buffers that its factory has
    left as memory was; `felt_parts` those parts of weights, or modules with a weight of another,
    that get no gradient and change the loss; `learning` is what training on the batch has come to,
    where that was asked; `first_step` is that of the declared optimizers, where it is too long.
    `weights` are kept where a baseline of the initialisation was asked for.
    """

    seed: int
    steps: int
    loss: float
    paths: tuple[GradientPath, ...]
    outputs: tuple[OutputRecord, ...] = ()
    parameters: tuple[ParameterRecord, ...] = ()
    non_finite: NonFinite | None = None
    awake: tuple[str, ...] = ()
    updates: tuple[Update, ...] = ()
    activations: tuple[ActivationRecord, ...] = ()
    spread: float | None = None
    magnitude: float | None = None
    wanted: float | None = None
    felt: tuple[Literal["spread", "magnitude"], ...] = ()
    keyed: tuple[str, ...] = ()
    times: tuple[TimeRecord, ...] = ()
    magnitudes: tuple[MagnitudeRecord, ...] = ()
    unregistered: tuple[tuple[int, ...], ...] = ()
    loss_scale: LossScale = field(default_factory=LossScale)
    apart: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    untaken: tuple[str, ...] = ()
    training: bool = field(default=False, compare=False)
    flow: tuple[FlowRecord, ...] = ()
    uncut: tuple[GradientPath, ...] = ()
    forgotten: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    asleep: tuple[PathPoint, ...] = ()
    objective: str = ""
    stops: tuple[Stop, ...] = ()
    alike: Alike | None = None
    anew: tuple[tuple[int, ...], ...] = ()
    holdings: Holdings | None = None
    unwritten: tuple[str, ...] = ()
    felt_parts: tuple[str, ...] = ()
    learning: Learning | None = None
    first_step: FirstStep | None = None
    weights: tuple[WeightRecord, ...] = ()

    @property
    def judged_paths(self) -> tuple[GradientPath, ...]:
        """The paths whose first layer carries data."""
        return tuple(path for path in self.paths if path.judged)

    @property
    def last_label(self) -> str:
        """The layer that a verdict on the outputs names: the last one judged, or the output."""
        paths = self.judged_paths
        return paths[0].last.label if paths else OUTPUT

    @property
    def lasting_magnitude(self) -> float | None:
        """The magnitude to compare with other looks, of outputs on either side of LARGE."""
        if self.magnitude is None or "magnitude" not in self.felt:
            return self.magnitude
        return max(self.magnitude, LARGE)

    @property
    def uncalled(self) -> tuple[str, ...]:
        """Modules whose forward never ran."""
        return tuple(o.name for o in self.outputs if o.state == "not-called")

    def same_path(self, path: GradientPath) -> GradientPath | None:
        """The path from the same first layer as one of another look, None if there is none."""
        return next((p for p in self.paths if p.first.label == path.first.label), None)

    def norm_of(self, module: str) -> float | None:
        """Largest gradient norm measured on the outputs of `module`, None if none was."""
        norms = [o.norm for o in self.outputs if o.name == module and o.norm is not None]
        return max(norms, default=None)
