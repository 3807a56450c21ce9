"""Probes that several assertions share: the same model and batch are measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from pytest_gradhealth.diagnosis import Origin, diagnose, judge_again
from pytest_gradhealth.distributed import anywhere
from pytest_gradhealth.findings import Diagnosis
from pytest_gradhealth.limits import limits_of
from pytest_gradhealth.optimizers import OptimizerLike
from pytest_gradhealth.packed import own_part
from pytest_gradhealth.rules import Rule
from pytest_gradhealth.settings import Settings, check_codes, is_selected
from pytest_gradhealth.tree import tensors
from pytest_gradhealth.trial import Case

#: Settings that only matter to the judgement, not to the measurement.
_JUDGEMENT = (
    "min_ratio",
    "max_ratio",
    "warn_min_ratio",
    "warn_max_ratio",
    "max_update",
    "max_penalty",
    "max_output",
    "min_spread",
    "max_dead",
    "max_saturated",
    "max_underflow",
    "baseline",
    "max_path_change",
    "max_step_change",
    "remedy_budget",
    "select",
    "ignore",
)


@dataclass
class ProbeCache:
    """The probes of one test; keeps their models and batches alive as long as it lives."""

    _known: list[tuple[Case, Settings, Any, Diagnosis]] = field(default_factory=list)

    def diagnose(
        self, case: Case, settings: Settings, rules: Sequence[Rule], base_seed: int
    ) -> Diagnosis:
        """Return the diagnosis of a case, from an earlier probe if nothing has changed since.

        Other limits are applied to what was measured; a failure that no second look has confirmed
        costs a new probe.
        """
        state = fingerprint(case)
        measuring = _measuring(settings)
        known_already: Diagnosis | None = None
        for known, theirs, their_state, diagnosis in self._known:
            if _is_same(known, case) and theirs == measuring and their_state == state:
                again, unconfirmed = judged(diagnosis, settings, rules)
                if not unconfirmed or not settings.confirm_steps:
                    known_already = again
                    break
        if not anywhere(case.model, known_already is None) and known_already is not None:
            return known_already
        fresh = diagnose(case, settings, rules, base_seed)
        # Taken again: a probe leaves the values of buffers alone, but not their version counters.
        self._known.insert(0, (case, measuring, fingerprint(case), fresh))
        return fresh


def judged(
    diagnosis: Diagnosis, settings: Settings, rules: Sequence[Rule]
) -> tuple[Diagnosis, bool]:
    """Judge a diagnosis with other settings; say whether a failure is left unconfirmed."""
    check_codes(settings, [rule.code for rule in rules])
    chosen = tuple(rule for rule in rules if is_selected(rule.code, settings))
    if isinstance(diagnosis.origin, Origin):
        judgement = {name: getattr(settings, name) for name in _JUDGEMENT}
        theirs = replace(diagnosis.origin.settings, **judgement, sources=settings.sources)
        origin = replace(diagnosis.origin, settings=theirs, rules=chosen)
        diagnosis = replace(diagnosis, origin=origin, treatments=())
    return judge_again(
        diagnosis, chosen, limits_of(settings, sgd=diagnosis.sgd, eps=diagnosis.limits.get("eps"))
    )


def fingerprint(case: Case) -> tuple[Any, ...]:
    """Values that change when a model, its batch or its mode do; runs no code of the model.

    Version counters see every in-place change but those through `.data`, which norms and a sample
    of the elements see.
    """
    roots = [m for m in (case.model, case.loss) if isinstance(m, nn.Module)]
    modules = [module for root in roots for module in root.modules()]
    state = [t for root in roots for t in (*root.parameters(), *root.buffers())]
    batch = list(tensors((case.inputs, case.targets)))
    return (
        tuple(_module_state(module) for module in modules),
        tuple(_tensor_state(tensor) for tensor in (*state, *batch)),
        _optimizer_state(case.optimizer),
    )


def _optimizer_state(optimizer: OptimizerLike | None) -> object:
    """Settings and parameters of every group of an instance."""
    if not isinstance(optimizer, Optimizer):
        return None
    groups = optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    return str(settings), [[id(p) for p in group["params"]] for group in groups]


def _module_state(module: nn.Module) -> tuple[object, ...]:
    """Identity, hooks, and the attributes that are plain values: modes, rates, slopes."""
    plain = tuple(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, str))
    )
    hooks = tuple(module._forward_hooks), tuple(module._forward_pre_hooks)
    return id(module), type(module), hooks, str(plain)


def _tensor_state(tensor: Tensor) -> tuple[object, ...]:
    if is_lazy(tensor):
        return (id(tensor),)
    version = -1 if tensor.is_inference() else tensor._version
    return id(tensor), tensor.requires_grad, version, _sample(tensor)


def _sample(tensor: Tensor) -> str:
    """Norm and up to 64 elements, as text where NaN would differ from itself; "" without any."""
    tensor = own_part(tensor)
    if tensor.is_meta or tensor.layout != torch.strided or not tensor.numel():
        return ""
    try:
        with torch.no_grad():
            flat = tensor.detach().reshape(-1)
            norm = torch.linalg.vector_norm(flat).item() if flat.is_floating_point() else 0.0
            return f"{norm} {flat[:: max(1, flat.numel() // 64)].tolist()}"
    except (RuntimeError, TypeError):
        return ""  # exotic number formats have neither norm nor list


def _measuring(settings: Settings) -> Settings:
    neutral = {name: getattr(Settings(), name) for name in _JUDGEMENT}
    return replace(settings, **neutral, sources={})


def _is_same(one: Case, other: Case) -> bool:
    return (
        one.model is other.model
        and one.loss is other.loss
        and one.optimizer is other.optimizer
        and one.step == other.step
        and one.dependency == other.dependency
        and one.loss_scale is other.loss_scale
        and one.precision == other.precision
        and _is_same_tree(one.inputs, other.inputs)
        and _is_same_tree(one.targets, other.targets)
    )


def _is_same_tree(one: Any, other: Any) -> bool:
    """Whether two nested values hold the very same tensors in the same places."""
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Tensor):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(_is_same_tree(one[k], other[k]) for k in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_is_same_tree, one, other))
    return bool(isinstance(one, (int, float, str, bool, type(None))) and one == other)
