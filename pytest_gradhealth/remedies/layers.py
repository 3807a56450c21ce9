"""The layers of a model in the order of their calls, and code that picks some of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.parametrize import is_parametrized

from pytest_gradhealth.errors import CannotApplyError
from pytest_gradhealth.formatting import quoted
from pytest_gradhealth.results.activation_functions import GAINS
from pytest_gradhealth.subject.forward import call_model, fresh
from pytest_gradhealth.tensors.graph import op_name
from pytest_gradhealth.tensors.hooks import hooked
from pytest_gradhealth.tensors.trees import tensors

#: The layers that remedies work on.
WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
#: Functions that lie between an activation and the next layer without changing the picture.
_IN_BETWEEN = 8
#: How the names of operations begin that multiply with weights.
_PRODUCTS = ("Addmm", "Mm", "Convolution", "Linear")


@dataclass(frozen=True)
class Call:
    """One call of a module: the shapes of the one tensor in and the one out (None if not one).

    `before` is the nonlinearity that the input came through, as `calculate_gain` calls it; `ends`
    says that no layer with weights lies between what it returns and what the model does.
    """

    name: str
    module: nn.Module
    entered: tuple[int, ...] | None = None
    returned: tuple[int, ...] | None = None
    before: str = ""
    ends: bool = False

    @property
    def is_leaf(self) -> bool:
        """Whether the module holds no further ones."""
        return not any(self.module.children())


def calls_of(model: nn.Module, inputs: Any) -> Sequence[Call]:
    """Run a forward on the batch and return the calls in the order in which they began.

    Without a batch, the leaf modules in the order in which they were registered.
    """
    if inputs is None:
        read = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
        leaves = ((n, m) for n, m in model.named_modules() if not any(m.children()))
        return [Call(name, module) for name, module in leaves if module not in read]
    found: list[Call | None] = []
    made_by: dict[Node, list[int]] = {}
    open_calls: list[tuple[int, tuple[int, ...] | None, str]] = []

    def enter(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        shape = tuple(tensors[0].shape) if len(tensors) == 1 else None
        open_calls.append((len(found), shape, _nonlinearity(tensors[0]) if tensors else ""))
        found.append(None)

    def leave(module: nn.Module, _arguments: Any, output: Any) -> None:
        index, entered, before = open_calls.pop()
        returned = tuple(output.shape) if isinstance(output, Tensor) else None
        found[index] = Call(names[id(module)], module, entered, returned, before)
        if isinstance(output, Tensor) and output.grad_fn is not None:
            made_by.setdefault(output.grad_fn, []).append(index)

    # By identity: a metric's hash changes with what it has counted.
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    with (
        hooked(m.register_forward_pre_hook(enter) for m in modules.values()),
        hooked(m.register_forward_hook(leave) for m in modules.values()),
    ):
        outputs = run(model, inputs)
    calls = [call for call in found if call is not None]
    at_end = _ends({n: [found[i] for i in made] for n, made in made_by.items()}, outputs)
    return [replace(call, ends=id(call) in at_end) for call in calls]


def run(model: nn.Module, inputs: Any) -> Any:
    """Run a forward on a copy of the batch, on the device of the model, and return what it does.

    With a graph: the forward may differentiate.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.enable_grad():
        return call_model(model, fresh(inputs, device))


def _ends(made_by: Mapping[Node, Sequence[Call | None]], outputs: Any) -> set[int]:
    """The calls, by identity, between which and the outputs no layer with weights lies."""
    waiting = [t.grad_fn for t in tensors(outputs) if t.grad_fn is not None]
    seen, found = set(waiting), set()
    while waiting:
        node = waiting.pop()
        calls = [call for call in made_by.get(node, ()) if call is not None]
        found |= {id(call) for call in calls}
        if op_name(node).startswith(_PRODUCTS) or any(_has_weights(call) for call in calls):
            continue
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
    return found


def _has_weights(call: Call) -> bool:
    return call.is_leaf and any(p.dim() > 1 for p in call.module.parameters(recurse=False))


def _nonlinearity(tensor: Tensor) -> str:
    """The activation that a tensor came through last, "" if that was a layer or is unknown."""
    node = tensor.grad_fn
    for _ in range(_IN_BETWEEN):
        if node is None:
            return ""
        name = op_name(node)
        if name in GAINS:
            return GAINS[name]
        if name.startswith(_PRODUCTS):
            return ""
        node = node.next_functions[0][0] if node.next_functions else None
    return ""


def weighted(calls: Sequence[Call]) -> list[Call]:
    """The first call of every trainable linear or convolutional layer.

    Raises CannotApplyError if there is none.
    """
    found: dict[nn.Module, Call] = {}
    for call in calls:
        if isinstance(call.module, WEIGHTED) and not is_parametrized(call.module):
            found.setdefault(call.module, call)
    trained = [c for m, c in found.items() if m.weight is not None and m.weight.requires_grad]
    if not trained:
        raise CannotApplyError("it has no trainable linear or convolutional layer of its own")
    return trained


def heads(calls: Sequence[Call]) -> set[nn.Module]:
    """The layers whose output is one of the model: the one called last where no graph tells."""
    layers = weighted(calls)
    return {layer.module for layer in layers if layer.ends} or {layers[-1].module}


def nonlinearities(layers: Sequence[Call]) -> dict[str, str]:
    """The activation that follows each layer, by name.

    A layer that feeds the next without any is "linear"; the last takes that of the others.
    """
    after = {a.name: b.before or "linear" for a, b in itertools.pairwise(layers)}
    known = Counter(kind for kind in after.values() if kind != "linear")
    usual = known.most_common(1)[0][0] if known else "linear"
    return {**after, layers[-1].name: usual}


def _known_as(module: nn.Module) -> type:
    """The class that code knows a module by: the nearest of its classes that `nn` has."""
    kinds: tuple[type, ...] = type(module).__mro__
    return next(kind for kind in kinds if getattr(nn, kind.__name__, None) == kind)


def classes_of(modules: Iterable[nn.Module]) -> str:
    """How code calls the classes of some modules: "nn.Linear", "(nn.LSTM, nn.GRU)"."""
    names = [*dict.fromkeys(f"nn.{_known_as(module).__name__}" for module in modules)]
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def condition(chosen: Collection[nn.Module], model: nn.Module) -> str:
    """Return the condition on `name` and `m` that picks the chosen of `model.named_modules()`.

    And none that only derive from them, as what an attention multiplies with and never calls.
    """
    kinds, picked = {_known_as(module) for module in chosen}, {*map(id, chosen)}
    others = [
        (name, type(m))
        for name, m in model.named_modules()
        if isinstance(m, tuple(kinds)) and id(m) not in picked
    ]
    classes = classes_of(chosen)
    text = f"isinstance(m, {classes})"
    if {type(module) for module in chosen} == kinds and any(k not in kinds for _, k in others):
        text = f"type(m) {'is' if len(kinds) == 1 else 'in'} {classes}"
        others = [(name, kind) for name, kind in others if kind in kinds]
    left_out = [name for name, _ in others]
    if len(left_out) == 1:
        return f"{text} and name != {quoted(left_out[0])}"
    return f"{text} and name not in {tuple(left_out)}" if left_out else text


def exchange(
    model: nn.Module, chosen: Collection[nn.Module], new: Callable[[], nn.Module]
) -> list[str]:
    """Put a new module in the place of each of the chosen; return the loop that does so in code."""
    loop = [
        "for name, m in [*model.named_modules()]:",
        f"    if {condition(chosen, model)}: model.set_submodule(name, {classes_of([new()])}())",
    ]
    for name, module in [*model.named_modules()]:
        if any(module is one for one in chosen):  # anyone's module may be equal to whatever it is
            model.set_submodule(name, new().train(module.training))
    return loop


def by_kind(modules: Sequence[nn.Module]) -> Iterator[list[nn.Module]]:
    """The modules, grouped by the class that code knows them by."""
    for kind in dict.fromkeys(map(_known_as, modules)):
        yield [module for module in modules if _known_as(module) is kind]
