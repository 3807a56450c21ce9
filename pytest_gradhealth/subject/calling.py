"""What was handed over, as the arguments of a function: of a forward, a call or a loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from pytest_gradhealth.tensors.trees import attribute

#: What calls a model with its inputs: a function of both.
Call = Callable[..., Any]


@dataclass(frozen=True)
class Called:
    """Inputs with the function that calls a model with them, None for its forward."""

    inputs: Any
    call: Call | None = None


def as_called(inputs: Any) -> Called:
    """Inputs with what calls a model with them, whether or not that is its forward."""
    return inputs if isinstance(inputs, Called) else Called(inputs)


def spread(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Inputs as arguments: a tuple over positions, a mapping over keywords, all else as one."""
    if isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):
        return inputs, {}
    if isinstance(inputs, Mapping):
        return (), inputs
    return (inputs,), {}


def as_taken(model: nn.Module, inputs: Any, call: Call | None = None) -> Any:
    """Inputs as they are to be spread over what a model takes: unchanged, unless that cannot be.

    Then a tuple or a mapping is one argument, a list several, and None is none.
    """
    if call is not None:
        return Called(_fitting(call, _forms(call, inputs), model), call)
    # Hooks may make other arguments of them.
    plain = type(model).__call__ is nn.Module.__call__ and not model._forward_pre_hooks
    forward = attribute(model, "forward") if plain else None
    return _fitting(forward, _forms(forward, inputs))


def function_of(loss: Any) -> Any:
    """The function that a loss is called by: its forward, if it is a module."""
    return loss.forward if isinstance(loss, nn.Module) else loss


def loss_arguments(loss: Callable[..., Any], outputs: Any, targets: Any) -> tuple[Any, ...]:
    """The arguments of a loss: outputs and targets, or outputs alone where there are no targets.

    Targets that do not fit as one argument are several.
    """
    forms: list[Any] = [(outputs, targets)]
    if targets is None:
        forms.insert(0, (outputs,))
    elif isinstance(targets, (tuple, list)):
        forms.append((outputs, *targets))
    arguments: tuple[Any, ...] = _fitting(function_of(loss), forms)
    return arguments


def name_of(function: Any) -> str:
    """What a function is called by, a partial one by what it calls, an object by its class."""
    if type(function) is partial:
        return name_of(function.func)
    return attribute(function, "__name__") or type(function).__name__


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter]:
    """What a function takes by name, as Python will bind it; nothing where nobody can say."""
    signature = _signature(function)
    return {} if signature is None else signature.parameters


def fits(function: Any, form: Any, *first: Any) -> bool:
    """Whether a function can be called with something that is spread; yes where nobody can say."""
    signature = _signature(function)
    if signature is None:
        return True
    args, named = spread(form)
    try:
        signature.bind(*first, *args, **named)
    except TypeError:
        return False
    return True


def _signature(function: Any) -> inspect.Signature | None:
    if attribute(function, "__signature__") is not None:  # what is to be shown, whatever is taken
        return None
    try:
        return inspect.signature(function, follow_wrapped=False)
    except Exception:  # also what an object of anyone's raises when it is asked
        return None


def _fitting(function: Any, forms: Iterable[Any], *first: Any) -> Any:
    """The first form of some inputs that a function can be called with, the first of all if none.

    The function gets what comes `first` before them.
    """
    forms = [*forms]
    if len(forms) > 1:
        return next((form for form in forms if fits(function, form, *first)), forms[0])
    return forms[0]


def _forms(function: Any, inputs: Any) -> Iterator[Any]:
    """Inputs as they are, and what else may be meant by them."""
    yield inputs
    if isinstance(inputs, Mapping):
        if not parameters_of(function).keys() & inputs.keys():  # else keywords are meant
            yield (inputs,)
    elif isinstance(inputs, list):
        yield tuple(inputs)
    elif inputs is None:
        yield ()
    elif spread(inputs)[0] is inputs:
        yield (inputs,)
