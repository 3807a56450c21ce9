"""From what the caller handed over to a model on a device, ready to be looked at."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.distributed.support import check_shared
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.isolation.isolate import isolated
from pytest_gradhealth.measure.distribution import distributions
from pytest_gradhealth.measure.precision import declared_scale
from pytest_gradhealth.measure.unwritten import never_written
from pytest_gradhealth.probing.building import Built, build_model
from pytest_gradhealth.probing.case import Case
from pytest_gradhealth.results.diagnosis import Diagnosis
from pytest_gradhealth.results.holdings import Maker
from pytest_gradhealth.results.learning import Learning
from pytest_gradhealth.results.weights import WeightRecord
from pytest_gradhealth.subject.calling import as_taken
from pytest_gradhealth.subject.lightning import is_lightning, training_batch
from pytest_gradhealth.subject.step import Step
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.devices import choose_device, device_of
from pytest_gradhealth.tensors.formats import coarsest
from pytest_gradhealth.tensors.modules import (
    as_written,
    class_name,
    is_ddp,
    is_sharded,
    runs_compiled,
)
from pytest_gradhealth.training.kind import Kind, kind_of
from pytest_gradhealth.training.optimizers import (
    OptimizerLike,
    check_belongs,
    configured_optimizer,
    needs_building,
)
from pytest_gradhealth.training.together import as_one


@dataclass(frozen=True)
class Trial:
    """A model under one seed, ready to be looked at, and the optimizer for its confirm steps.

    `makes_steps` says whether the training step was declared, and is to be judged. `target` is the
    device that a copy is to be looked at on, None where the model itself is; `wished` says that
    nobody asked for that device. `unwritten` names what its factory has left as memory was; `eager`
    says that it was compiled. The batch is to be learned in `learn_steps`, 0 for not at all;
    `learning` is what came of that.
    """

    subject: Subject
    optimizer: OptimizerLike | None
    kind: Kind
    seed: int
    makes_steps: bool = False
    target: torch.device | None = None
    wished: bool = False
    unwritten: tuple[str, ...] = ()
    format: str = "float32"
    eager: bool = False
    weights: tuple[WeightRecord, ...] = ()
    learn_steps: int = 0
    learning: Learning | None = None


def prepare(case: Case, settings: Settings, seed: int) -> Trial:
    """Build or take the model, and choose the device to probe on."""
    assert not isinstance(case.model, Diagnosis)
    built = Built(case.model) if isinstance(case.model, nn.Module) else None
    built = built or build_model(case.model, seed, settings.device)
    model = as_written(built.model)
    modules, parameters = check_model(model)
    check_shared(model, is_factory=case.is_factory, declared=_declared(case, settings))
    shared = is_ddp(model)
    model = model.get_submodule("module") if shared else model
    case = _as_the_model_takes(case, model)
    optimizer, maker = _stepper(case, model)
    kind = _kind(optimizer, model, maker)
    step, decay = (Step(), {}) if case.step is None else (case.step, kind.decay)
    home = device_of(model) or torch.device("cpu")
    subject = Subject(
        model,
        case.inputs,
        case.targets,
        case.loss,
        home,
        step,
        decay,
        dependency=case.dependency,
        loss_scale=declared_scale(case.precision, case.loss_scale),
        copy=settings.copy,
        exact=settings.exact or case.step is not None,  # steps ask which weights have no scale
    )
    in_place, anyhow = is_sharded(model), settings.device == "auto"
    device = home
    if not (anyhow and (shared or in_place)):
        device = choose_device(settings.device, model, settings.source("device"))
    there = all(found in (None, device) for found in map(device_of, subject.modules))
    if in_place and not there:
        raise ProbeError(
            f"{class_name(model)} is sharded on {home} and cannot be moved to {device}; pass"
            " device='auto' to probe it where it is"
        )
    return Trial(
        subject,
        optimizer,
        kind,
        seed,
        makes_steps=case.step is not None,
        # The reducer hangs on the parameters of a wrapped model, and would count our backwards.
        target=device if shared or not there else None,
        wished=anyhow and device != home,
        unwritten=_unwritten(subject, built, seed),
        format=str(coarsest(parameters)).removeprefix("torch."),
        eager=runs_compiled([built.model, *modules]),
        weights=tuple(distributions(model)) if settings.baseline_init else (),
        learn_steps=settings.steps_to_learn,
    )


def _unwritten(subject: Subject, built: Built, seed: int) -> tuple[str, ...]:
    if built.filled is None or is_ddp(built.model):
        return ()
    filled = replace(subject, model=as_written(built.filled))
    return never_written(filled, built.suspects, seed=seed)


def _stepper(case: Case, model: nn.Module) -> tuple[OptimizerLike | None, Maker]:
    """The optimizer, several as one, and who made it; a Lightning module does if none is given."""
    if case.optimizer is None and is_lightning(model):
        with isolated([model], torch.device("cpu")):
            return configured_optimizer(model), "configure_optimizers"
    optimizer = as_one(case.optimizer)
    check_belongs(optimizer, model)
    return optimizer, "factory" if needs_building(optimizer) else "caller"


def _kind(optimizer: OptimizerLike | None, model: nn.Module, maker: Maker) -> Kind:
    """Tell the kind of the optimizer, isolated where that runs code of the caller's."""
    if maker != "factory":
        return kind_of(optimizer, model, maker)
    with isolated([model, optimizer], torch.device("cpu")):
        return kind_of(optimizer, model, maker)


def _as_the_model_takes(case: Case, model: nn.Module) -> Case:
    """Inputs as they are to be spread; of a Lightning module also the loss, if none is given."""
    if is_lightning(model) and case.loss is None and case.call is None:
        batch = training_batch(model, case.inputs, case.targets)
        return replace(case, inputs=batch, targets=None)
    return replace(case, inputs=as_taken(model, case.inputs, case.call))


def _declared(case: Case, settings: Settings) -> list[str]:
    """What was asked for beyond a plain look, by name."""
    named = {
        "dependency": case.dependency,
        "precision": case.precision,
        "regularizer": None if case.step is None else case.step.regularizer,
        "learn_steps": settings.steps_to_learn or None,
    }
    return [name for name, value in named.items() if value is not None]


def check_model(model: nn.Module) -> tuple[list[nn.Module], list[nn.Parameter]]:
    """Return a model's modules and parameters; ProbeError if it cannot get a gradient as it is."""
    try:
        modules = list(model.modules())
    except RecursionError as error:
        raise ProbeError(
            f"{type(model).__name__} nests its modules too deeply for Python's recursion limit"
            f" ({sys.getrecursionlimit()}); raise it with sys.setrecursionlimit(...), or nest less"
        ) from error
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        raise ProbeError(
            f"{type(model).__name__} holds a ScriptModule, which takes no hooks; pass the model as"
            " it was before torch.jit.script or torch.jit.trace"
        )
    parameters = dict(model.named_parameters())
    tensors = [*parameters.items(), *model.named_buffers()]
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        kind = "parameter" if lazy[0] in parameters else "buffer"
        raise ProbeError(
            f"{lazy[0]} is a lazy {kind} without a shape; call the model once on a batch"
            " before the probe"
        )
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise ProbeError(
            f"{empty[0]} is on the meta device and holds no numbers; materialise the model first,"
            " for example with model.to_empty(device='cpu') and its initialisation"
        )
    frozen_for_good = [name for name, p in parameters.items() if p.is_inference()]
    if frozen_for_good:
        raise ProbeError(
            f"{frozen_for_good[0]} was made in inference mode and can never get a gradient; build"
            " the model outside torch.inference_mode()"
        )
    if not parameters:
        raise ProbeError(
            f"{type(model).__name__} has no parameters, so there is no gradient to check; "
            + (
                "quantized layers are not trained: pass the model as it was before"
                if any(".quantized" in type(module).__module__ for module in modules)
                else "layers and parameters in plain lists or dicts are not registered: keep them"
                " in nn.ModuleList or nn.ParameterList"
            )
        )
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ProbeError(
            f"no parameter of {type(model).__name__} requires grad; call"
            " model.requires_grad_(True), or pass the model before it is frozen"
        )
    return modules, [*parameters.values()]
