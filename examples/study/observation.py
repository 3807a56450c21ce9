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

Loss = Callable[[Any, Any], Any]

#: Of the update after which torchtest2 looks at gradients of zero again: its default is Adam's.
SECOND_LOOK_RATE = 1e-3
#: A unit that is active, or not saturated, for less than this share of a batch is idle.
IDLE = 0.01
#: Where tanh and sigmoid are flat: their derivative is below 1e-7.
FLAT = {"Tanh": (-9.4999, 9.4999), "Sigmoid": (-23.0, 16.99999)}
#: The range of what they return.
RANGE = {"Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0)}
BINS = 50


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
            self._inputs[module] = _input_numbers(inputs[0], type(module).__name__)

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
                **_output_numbers(values, kind),
            ),
            self._inputs.pop(module, {}),
        )
        self.calls.append(call)
        if values.requires_grad:
            # never a module's backward hook, which an operation in place makes fail
            self._handles.append(values.register_hook(partial(self._arrived, call)))

    def _arrived(self, call: _Call, gradient: Tensor) -> None:
        with torch.no_grad():
            exact = _exact(gradient)
            call.more |= {
                "gradient_norm": float(exact.norm()),
                "gradient_rms": _rms(exact),
                "gradient_zero_share": _share(exact == 0),
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
            value = scale * _loss_of(_call(model, inputs), targets, loss)
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


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _loss_of(outputs: Any, targets: Any, loss: Loss | None) -> Tensor:
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
            if p.requires_grad and (p.grad is None or not bool(_dense(p.grad).any()))
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
        value = scale * _loss_of(_call(twin, inputs), targets, loss)
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
    weight = _exact(p)
    gradient = None if p.grad is None else _exact(_dense(p.grad))
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
        **(_NOTHING if gradient is None else _gradient_numbers(gradient)),
        finite=gradient is None or bool(gradient.isfinite().all()),
    )


_NOTHING: dict[str, Any] = dict.fromkeys(
    ("gradient_norm", "finite_norm", "mean_abs", "max_abs", "zero_share", "spread"), math.nan
)


def _gradient_numbers(gradient: Tensor) -> dict[str, Any]:
    finite = gradient[gradient.isfinite()]
    low, high = _percentiles(gradient.flatten(), 0.05, 0.95)
    return {
        "gradient_norm": float(gradient.norm()),
        "finite_norm": float(finite.norm()) if finite.numel() else math.inf,
        "mean_abs": float(gradient.abs().mean()),
        "max_abs": float(gradient.abs().max()),
        "zero_share": _share(gradient == 0),
        "spread": float(high - low),
    }


def _input_numbers(values: Tensor, kind: str) -> dict[str, Any]:
    with torch.no_grad():
        exact = _exact(values)
        low, high = FLAT[kind]
        alive = _share_per_unit(~((exact <= low) | (exact >= high)))
        return {
            "large_input_share": _share(exact.abs() >= 5),
            "flat_share": _share(alive < IDLE),
        }


def _output_numbers(values: Tensor, kind: str) -> dict[str, Any]:
    with torch.no_grad():
        exact = _exact(values)
        size = exact.abs()
        numbers: dict[str, Any] = {
            "rms": _rms(exact),
            "std": float(exact.std(correction=0)) if exact.numel() else math.nan,
            "finite": bool(exact.isfinite().all()),
            "nonpositive_share": _share(exact <= 0),
            "near_zero_share": _share(size < 1e-6),
            "high_share": _share(size > 0.95),
        }
        if kind in ACTIVATIONS and exact.numel():
            columns = _columns(exact)
            numbers["dim_share"] = _share(_percentiles(columns.abs(), 0.95)[0] < 1e-5)
            if kind == "ReLU":
                numbers["idle_share"] = _share(_share_per_unit(exact > 0) < IDLE)
            if kind in RANGE:
                numbers["rho_share"] = _share(_rho(columns, *RANGE[kind]) > 0.85)
        return numbers


#: The kinds of layers that are activations.
ACTIVATIONS = frozenset(
    kind.__name__
    for kind in (
        *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU),
        *(nn.LogSoftmax, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid),
        *(nn.Softmax, nn.Softplus, nn.Softsign, nn.Tanh),
    )
)


def _rho(columns: Tensor, low: float, high: float) -> Tensor:
    """Rakitianskaia and Engelbrecht's rho_B per column, with the bins' own means."""
    place = ((columns - low) / (high - low) * BINS).nan_to_num(0).long().clamp(0, BINS - 1)
    shape = (BINS, columns.shape[1])
    counts = torch.zeros(shape, dtype=columns.dtype, device=columns.device)
    sums = torch.zeros_like(counts)
    counts.scatter_add_(0, place, torch.ones_like(columns))
    sums.scatter_add_(0, place, columns)
    means = sums / counts.clamp(min=1)
    return ((2 * (means - low) / (high - low) - 1).abs() * counts).sum(0) / counts.sum(0)


def _columns(values: Tensor) -> Tensor:
    """One column per channel of images, else per position of the last axis."""
    if values.ndim < 2:
        return values.reshape(-1, 1)
    channels_last = values.movedim(1, -1) if values.ndim >= 4 else values
    return channels_last.reshape(-1, channels_last.shape[-1])


def _share_per_unit(mask: Tensor) -> Tensor:
    return mask.reshape(len(mask), -1).double().mean(0) if mask.ndim else mask.double()


def _percentiles(values: Tensor, *shares: float) -> list[Tensor]:
    """Along the first axis, with linear interpolation; torch.quantile takes no large tensors."""
    last = len(values) - 1
    found = []
    for share in shares:
        place = share * last
        below = math.floor(place)
        low, high = (
            values.kthvalue(1 + min(rank, last), dim=0).values for rank in (below, below + 1)
        )
        found.append(torch.lerp(low, high, place - below))
    return found


def _share(mask: Tensor) -> float:
    return float(mask.double().mean()) if mask.numel() else 0.0


def _rms(values: Tensor) -> float:
    return float(values.norm()) / math.sqrt(max(values.numel(), 1))


def _exact(values: Tensor) -> Tensor:
    values = values.detach()
    return values.abs().double() if values.is_complex() else values.double()


def _dense(values: Tensor) -> Tensor:
    return values if values.layout == torch.strided else values.to_dense()


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None
