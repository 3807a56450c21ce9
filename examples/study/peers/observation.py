"""What one forward and one backward show: the numbers that the peers' formulas are made of.

The linter's own probe has no part in it, so that the two can be compared.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from examples.study.peers.numbers import (
    FLAT,
    NOTHING,
    as_dense,
    gradient_numbers,
    in_double,
    input_numbers,
    output_numbers,
    rms_of,
    share_of,
)

Loss = Callable[[Any, Any], Any]

#: Of the update after which torchtest2 looks at gradients of zero again: its default is Adam's.
SECOND_LOOK_RATE = 1e-3


@dataclass(frozen=True)
class ParameterSeen:
    """A parameter and its gradient; of a gradient that is None all numbers are nan.

    `layer` and `kind` are the name and the type of the module that owns it. `norm`, `mean_abs`,
    `weight_max` (of absolute values) and `weight_variance` describe the parameter, the others its
    gradient, `finite_norm` over its finite elements (inf without any). `spread` is the distance
    from its 5th to its 95th percentile. `stays_zero`: it is zero everywhere (or None), and so it
    is after one step of Adam.
    """

    name: str
    shape: tuple[int, ...]
    layer: str
    kind: str
    trainable: bool
    grad_none: bool
    norm: float
    weight_mean_abs: float
    weight_max: float
    weight_variance: float
    weight_finite: bool
    gradient_norm: float
    finite_norm: float
    mean_abs: float
    max_abs: float
    zero_share: float
    spread: float
    finite: bool
    stays_zero: bool = False

    @property
    def is_kernel(self) -> bool:
        """Whether it is what Keras calls a kernel: neither a bias nor a scale."""
        return len(self.shape) >= 2


@dataclass(frozen=True)
class LayerSeen:
    """One call of a module without children: what it returned, and the gradient of that.

    Of several tensors returned the first counts. The gradient's numbers are None where none
    arrived. Shares are of elements: `nonpositive_share` (x <= 0), `near_zero_share`
    (|x| < 1e-6), `high_share` (|x| > 0.95), and `large_input_share` (|x| >= 5) of the input.
    Units are columns of the batch: `idle_share` of them are above zero for less than 1 % of it,
    `flat_share` have inputs where tanh or sigmoid is flat in more than 99 % of it, `dim_share`
    (columns of the last axis, or of a convolution's channels) have a 95th percentile of |x| under
    1e-5, and `rho_share` a rho_B over 0.85. What does not apply to a kind of layer is nan.
    """

    name: str
    kind: str
    parameterised: bool
    rms: float
    std: float
    finite: bool
    nonpositive_share: float
    near_zero_share: float
    high_share: float
    large_input_share: float = math.nan
    idle_share: float = math.nan
    flat_share: float = math.nan
    dim_share: float = math.nan
    rho_share: float = math.nan
    gradient_norm: float | None = None
    gradient_rms: float | None = None
    gradient_zero_share: float | None = None


@dataclass(frozen=True)
class Observation:
    """A forward and a backward.

    `layers` has the calls in the order of the forward, `registered` the names of all modules
    without children that have trainable parameters, in the order of registration, called or not.
    """

    loss: float
    parameters: tuple[ParameterSeen, ...]
    layers: tuple[LayerSeen, ...]
    registered: tuple[str, ...]


@dataclass
class _Call:
    seen: LayerSeen
    more: dict[str, Any] = field(default_factory=dict)


class _Recorder:
    """Notes what leaf modules return while it listens, and later the gradients of that."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.listening = True
        self._inputs: dict[nn.Module, dict[str, Any]] = {}
        self._handles: list[Any] = []

    def attach(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                if type(module).__name__ in FLAT:
                    # before the call: one that works in place would overwrite its input
                    self._handles.append(module.register_forward_pre_hook(self._before))
                self._handles.append(module.register_forward_hook(partial(self._after, name)))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.listening and inputs and isinstance(inputs[0], Tensor):
            self._inputs[module] = input_numbers(inputs[0], type(module).__name__)

    def _after(self, name: str, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        values: Any = _first_tensor(output)
        if not self.listening or values is None or not values.is_floating_point():
            return
        kind = type(module).__name__
        call = _Call(
            LayerSeen(
                name=name,
                kind=kind,
                parameterised=any(True for _ in module.parameters(recurse=False)),
                **output_numbers(values, kind),
            ),
            self._inputs.pop(module, {}),
        )
        self.calls.append(call)
        if values.requires_grad:
            # never a module's backward hook, which an operation in place makes fail
            self._handles.append(values.register_hook(partial(self._arrived, call)))

    def _arrived(self, call: _Call, gradient: Tensor) -> None:
        with torch.no_grad():
            exact = in_double(gradient)
            call.more |= {
                "gradient_norm": float(exact.norm()),
                "gradient_rms": rms_of(exact),
                "gradient_zero_share": share_of(exact == 0),
            }

    def layers(self) -> tuple[LayerSeen, ...]:
        return tuple(replace(call.seen, **call.more) for call in self.calls)


def observe(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    loss: Loss | None = None,
    *,
    scale: float = 1.0,
) -> Observation:
    """Look at one forward and one backward of `scale` times the loss, in train mode.

    `inputs`: a tensor, a tuple of arguments or a mapping of keywords. Without a `loss` the
    outputs' own counts: `outputs.loss`, `outputs["loss"]`, a scalar, or the sum of a mapping of
    scalars. Buffers and modes are left as they were, gradients None; random numbers are drawn.
    Where a gradient is zero everywhere, a copy makes one step and is looked at again.
    """
    with _left_as_it_was(model):
        model.train()
        model.zero_grad(set_to_none=True)
        recorder = _Recorder()
        recorder.attach(model)
        try:
            value = scale * loss_of(call(model, inputs), targets, loss)
            # gradient checkpointing calls modules again in the backward
            recorder.listening = False
            _backward(value)
        finally:
            recorder.detach()
        parameters = _parameters(model)
        if any(p.trainable and (p.grad_none or p.zero_share == 1) for p in parameters):
            still = _zero_after_a_step(model, inputs, targets, loss, scale)
            parameters = tuple(replace(p, stays_zero=p.name in still) for p in parameters)
    return Observation(
        loss=float(value.detach()),
        parameters=parameters,
        layers=recorder.layers(),
        registered=tuple(
            name
            for name, module in model.named_modules()
            if not any(True for _ in module.children())
            and any(p.requires_grad for p in module.parameters(recurse=False))
        ),
    )


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def loss_of(outputs: Any, targets: Any, loss: Loss | None) -> Tensor:
    value = loss(outputs, targets) if loss is not None else _own_loss(outputs)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise TypeError(f"the loss is not a scalar tensor but {type(value).__name__}")
    return value.reshape(())


def _own_loss(outputs: Any) -> Any:
    own = getattr(outputs, "loss", None)
    if own is None and isinstance(outputs, Mapping):
        own = outputs.get("loss", sum(outputs.values()) if "loss" not in outputs else None)
    return outputs if own is None else own


def _backward(value: Any) -> None:
    if value.requires_grad:
        value.backward()


def _zero_after_a_step(
    model: nn.Module, inputs: Any, targets: Any, loss: Loss | None, scale: float
) -> set[str]:
    """Return the parameters whose gradient is zero everywhere or None, now and after one step."""

    def idle(of: nn.Module) -> set[str]:
        return {
            name
            for name, p in of.named_parameters()
            if p.requires_grad and (p.grad is None or not bool(as_dense(p.grad).any()))
        }

    before = idle(model)
    try:
        twin = copy.deepcopy(model)
    except RuntimeError:  # of a model that keeps a tensor with a history
        return before
    for p, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.grad = None if p.grad is None else p.grad.detach().clone()
    trained = [p for p in twin.parameters() if p.requires_grad and p.grad is not None]
    if not trained:
        return before
    with torch.random.fork_rng():
        torch.optim.Adam(trained, lr=SECOND_LOOK_RATE).step()
        twin.zero_grad(set_to_none=True)
        value = scale * loss_of(call(twin, inputs), targets, loss)
        _backward(value)
        return before & idle(twin)


def _parameters(model: nn.Module) -> tuple[ParameterSeen, ...]:
    owners = {
        id(parameter): (name, type(module).__name__)
        for name, module in reversed(list(model.named_modules()))
        for parameter in module.parameters(recurse=False)
    }
    with torch.no_grad():
        return tuple(
            _parameter(name, p, *owners[id(p)])
            for name, p in model.named_parameters()
            if p.is_floating_point() and p.numel()
        )


def _parameter(name: str, p: nn.Parameter, layer: str, kind: str) -> ParameterSeen:
    weight = in_double(p)
    gradient = None if p.grad is None else in_double(as_dense(p.grad))
    return ParameterSeen(
        name=name,
        shape=tuple(p.shape),
        layer=layer,
        kind=kind,
        trainable=p.requires_grad,
        grad_none=gradient is None,
        norm=float(weight.norm()),
        weight_mean_abs=float(weight.abs().mean()),
        weight_max=float(weight.abs().max()),
        weight_variance=float(weight.var(correction=0)),
        weight_finite=bool(weight.isfinite().all()),
        **(NOTHING if gradient is None else gradient_numbers(gradient)),
        finite=gradient is None or bool(gradient.isfinite().all()),
    )


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None
