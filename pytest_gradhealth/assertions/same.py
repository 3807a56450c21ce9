"""The assertion that two ways of computing one model give the same gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from pytest_gradhealth.agreement.agree import agreement
from pytest_gradhealth.agreement.processes import all_alike, group, mean, said_by_all
from pytest_gradhealth.agreement.side import Side
from pytest_gradhealth.agreement.tolerance import Tolerance
from pytest_gradhealth.agreement.ways import (
    Compiling,
    Way,
    compiled_side,
    side_by,
    twin_of,
)
from pytest_gradhealth.agreement.weights import Renaming, given, take
from pytest_gradhealth.assertions.verdict import Message, asked_for, with_message
from pytest_gradhealth.config.arguments import called, require
from pytest_gradhealth.config.values import as_float, as_int
from pytest_gradhealth.context import current
from pytest_gradhealth.distributed.team import anywhere, together
from pytest_gradhealth.errors import DifferentGradientsError, ProbeError
from pytest_gradhealth.formatting import View
from pytest_gradhealth.probing.case import Case, ModelLike, check_case
from pytest_gradhealth.probing.prepare import prepare
from pytest_gradhealth.probing.refusal import refused
from pytest_gradhealth.reporting.agreement import render
from pytest_gradhealth.results.agreement import Agreement
from pytest_gradhealth.results.diagnosis import Diagnosis
from pytest_gradhealth.subject.calling import Call
from pytest_gradhealth.subject.inputs import check_inputs
from pytest_gradhealth.subject.loss import Loss
from pytest_gradhealth.tensors.modules import class_name, is_ddp, is_sharded, runs_compiled

#: The ways that take a group of processes.
_TOGETHER = ("ddp", "fully_shard")


@called
def assert_same_gradients(
    a: ModelLike,
    b: Any = None,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss: Loss | None = None,
    call: Call | None = None,
    via: Way | None = None,
    backend: Any = None,
    mode: str | None = None,
    weights: Literal["a", "own"] = "a",
    renamed: Mapping[str, str] | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    seed: int | None = None,
    together: bool | None = None,
    msg: Message | None = None,
) -> Agreement:
    """Assert that two models, or one model run in two ways, compute the same gradients.

    Both run on one batch with random numbers from one `seed` (the test's, else 0), on the weights
    of `a`: `b` takes them, and its saved buffers, by their names, which `renamed` translates (a's
    names of parameters or modules to b's), or keeps its own (`weights="own"`). `via` runs the one
    model, or `b`, in another way: "compile" (with `backend` and `mode` of torch.compile),
    "autocast", "checkpoint", "channels_last", "ddp", "fully_shard" (of the process group, or of
    this process alone), a format ("float64", "bfloat16", "float16"), a device ("cuda"), or a
    function that makes of a copy of the model what is to be called; then `b` is left out:
    `assert_same_gradients(model, x, y, loss=loss, via="compile")`.

    Compared are the outputs, the loss, the gradient of each parameter and of inputs that require
    one, and what the layers on the gradient's path return and get back, unless one side is
    compiled. The distance (L2 norm of the difference over the norm in a) may be `rtol`, and `atol`
    more in absolute terms: by default four times what rounding the results of all operations to
    the coarser of both formats does. Random numbers, and decisions that rounding would turn, are
    the same on both sides, but in compiled code. Gradients of `a` are the mean over all processes
    where `b` computes `together` with the others (by default "ddp" and "fully_shard"). `msg` is put
    in front of the failure message, or called with it to make another.

    Returns the Agreement, whose text is a table. Raises DifferentGradientsError, which names the
    first place where they part; ProbeError for what cannot be run or compared. Models, batch,
    random numbers and modes are left as they were.
    """
    __tracebackhide__ = True
    if isinstance(b, str) and via is None:
        via, b = b, None
    elif via is not None and b is not None and not callable(b):
        b, inputs, targets = None, b, inputs if targets is None else targets
    asked = _Asked(
        via, Compiling(backend, mode), weights, renamed or {}, rtol, atol, seed, together
    )
    found, text = _compared(Case(a, inputs, targets, loss, call=call), b, asked)
    if text:
        raise DifferentGradientsError(with_message(text, msg))
    return found


@dataclass(frozen=True)
class _Asked:
    """How two sides are to be compared, as the caller has it."""

    via: Way | None
    compiling: Compiling
    weights: str
    renamed: Mapping[str, str]
    rtol: float | None
    atol: float
    seed: int | None
    together: bool | None

    @property
    def shares(self) -> bool:
        """Whether processes compute together."""
        return self.via in _TOGETHER if self.together is None else self.together

    @property
    def tolerance(self) -> Tolerance:
        """Up to which distance tensors are the same."""
        return Tolerance(
            None if self.rtol is None else as_float(self.rtol), as_float(self.atol) or 0
        )

    def check(self, a: object, b: object) -> None:
        """Raise ProbeError for arguments that cannot be what they are meant to be."""
        if not callable(b) and self.via is None:
            raise ProbeError(
                "assert_same_gradients has one model and nothing to compare it with; pass another"
                " one, assert_same_gradients(a, b, x, y, loss=...), or a way to run it,"
                ' via="compile"'
            )
        if isinstance(a, Diagnosis) or isinstance(b, Diagnosis):
            raise ProbeError("a diagnosis holds no gradients to compare; pass the model")
        kept = '"a", or "own" to leave b its own'
        require("weights", self.weights, ("a", "own").__contains__, kept)
        ways = 'the name of a way, for example "compile", or a function'
        require("via", self.via, _is_way, ways)
        names = 'a mapping of a\'s names to b\'s, for example {"attention": "attn"}'
        require("renamed", self.renamed, _is_renaming, names)
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            require(name, value, _is_tolerance, "a number from 0 on, for example 1e-5")
        require("seed", self.seed, _is_seed, "a whole number from 0 on, for example 0")
        truth = "True where processes compute together with a function or a model of your own"
        require("together", self.together, lambda given: given in (None, True, False), truth)
        self._check_unused(alone=b is None)

    def _check_unused(self, *, alone: bool) -> None:
        """Raise ProbeError for arguments that would change nothing."""
        chosen = (self.compiling.backend, self.compiling.mode)
        if self.via != "compile" and chosen != (None, None):
            raise ProbeError('backend and mode are of via="compile"; pass that, or leave them out')
        if alone and (self.weights != "a" or self.renamed):
            given = "renamed" if self.renamed else "weights"
            raise ProbeError(f"{given} is of two models, and b was not passed; leave it out")
        if self.together is not None and isinstance(self.via, str):
            does = "does" if self.via in _TOGETHER else "does not"
            if self.together != (self.via in _TOGETHER):
                raise ProbeError(
                    f'together is {self.together}, and via="{self.via}" {does} share the work with'
                    " other processes; leave together out"
                )


def _compared(case: Case, b: Any, asked: _Asked) -> tuple[Agreement, str]:
    """What comes of a comparison, and what it fails with, "" if it does not."""
    context = current()
    try:
        with ExitStack() as stack:
            if asked.shares:
                stack.enter_context(group())
                stack.enter_context(together())
            asked.check(case.model, b)
            one, found = _agreement(case, b, asked)
            text = "" if found.same else render(found, View() if context is None else context.view)
            return found, said_by_all(one, text) if asked.shares else text
    except ProbeError as error:
        raise refused(error) from error.__cause__


def _agreement(case: Case, b: Any, asked: _Asked) -> tuple[nn.Module, Agreement]:
    """The model of a, and how far b agrees with it."""
    context = current()
    seed = 0 if context is None else context.base_seed
    seed = seed if asked.seed is None else int(asked.seed)
    one, renaming, own = _side(case, seed), Renaming(asked.renamed), asked.weights == "own"
    other = one if b is None else _side(replace(case, model=b), seed)
    if asked.via is not None:
        twin = twin_of(other.subject)
        anywhere(twin.model, False)  # who has failed is not waited for
        if b is not None and not own:
            take(twin.model, given(one.subject.model, twin.model, renaming))
        other, own = side_by(asked.via, twin, asked.compiling), True
    if asked.shares:
        one = replace(one.changed(all_alike), averaged=mean)
    return one.subject.model, agreement(
        one, other, seed=seed, own_weights=own, renaming=renaming, tolerance=asked.tolerance
    )


def _side(case: Case, seed: int) -> Side:
    """The side that runs a model as it was handed over."""
    check_case(case)
    check_inputs(case.inputs)
    model = case.model
    if is_ddp(model) or is_sharded(model):
        way = "ddp" if is_ddp(model) else "fully_shard"
        raise ProbeError(
            f"{class_name(model)} is spread over processes already; pass the model as it was"
            f' before, and via="{way}"'
        )
    subject = prepare(case, asked_for({}, case), seed).subject
    if isinstance(model, nn.Module) and runs_compiled(model.modules()):
        return compiled_side(subject, Compiling(), model)
    return Side(subject, class_name(subject.model))


def _is_seed(value: Any) -> bool:
    read = as_int(value)
    return value is None or (read is not None and 0 <= read < 2**63)


def _is_way(value: object) -> bool:
    return value is None or isinstance(value, str) or callable(value)


def _is_renaming(value: Any) -> bool:
    return all(isinstance(s, str) for pair in value.items() for s in pair)


def _is_tolerance(value: object) -> bool:
    read = as_float(value)
    return value is None or (read is not None and 0 <= read < math.inf)
