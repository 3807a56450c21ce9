"""What cannot be probed is refused in words that say what to pass instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from pytest_gradhealth import ProbeError, SettingError, assert_no_vanishing, probe
from pytest_gradhealth.config.settings import Settings
from pytest_gradhealth.tensors.devices import choose_device
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import Breaks, Nameless, Returning, check, raising, refusal

cross_entropy = nn.functional.cross_entropy
without_accelerator = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="the message lists the accelerator of this machine"
)


# Models.


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            5,
            "model is a int; pass a torch.nn.Module, or a function without arguments that builds"
            " one",
        ),
        (
            {"weight": 1},
            "model is a dict; pass a torch.nn.Module, or a function without arguments that builds"
            " one",
        ),
        (lambda: None, "the model factory returned a NoneType, not a torch.nn.Module"),
        (
            mlp().requires_grad_(False),
            "no parameter of Sequential requires grad; call model.requires_grad_(True), or pass the"
            " model before it is frozen",
        ),
        (
            lambda: nn.ReLU(),
            "ReLU has no parameters, so there is no gradient to check; layers and parameters in"
            " plain lists or dicts are not registered: keep them in nn.ModuleList or"
            " nn.ParameterList",
        ),
        (
            nn.Sequential(nn.ReLU(), nn.LazyLinear(5)),
            "1.weight is a lazy parameter without a shape; call the model once on a batch before"
            " the probe",
        ),
        (
            nn.Sequential(nn.Linear(20, 5), nn.LazyBatchNorm1d(affine=False)),
            "1.running_mean is a lazy buffer without a shape; call the model once on a batch before"
            " the probe",
        ),
        (
            nn.Sequential(nn.Linear(20, 5), nn.Linear(5, 5, device="meta")),
            "1.weight is on the meta device and holds no numbers; materialise the model first, for"
            " example with model.to_empty(device='cpu') and its initialisation",
        ),
        (
            nn.Sequential(nn.Linear(20, 5), nn.BatchNorm1d(5, affine=False, device="meta")),
            "1.running_mean is on the meta device and holds no numbers; materialise the model"
            " first, for example with model.to_empty(device='cpu') and its initialisation",
        ),
    ],
    ids=[
        "int",
        "dict",
        "no module",
        "frozen",
        "empty",
        "lazy",
        "lazy buffer",
        "meta",
        "meta buffer",
    ],
)
def test_models_that_cannot_be_probed(model: Any, message: str) -> None:
    check(refusal(model), message)


@pytest.mark.parametrize(
    ("factory", "name", "cause", "text"),
    [
        (raising, "raising", KeyError, "'nothing'"),
        (Nameless(), "Nameless", KeyError, "'nothing'"),
        (lambda: 1 / 0, "<lambda>", ZeroDivisionError, "division by zero"),
    ],
)
def test_a_factory_that_raises(factory: Any, name: str, cause: type[Exception], text: str) -> None:
    check(
        refusal(factory),
        f"the model factory {name} raised {cause.__name__}: {text}; a factory is called without"
        " arguments, for example lambda: Net(width=64)",
        cause,
    )


def test_a_class_that_needs_arguments() -> None:
    error = refusal(nn.Linear)
    assert str(error).startswith("the model factory Linear raised TypeError: ")
    assert str(error).endswith("called without arguments, for example lambda: Net(width=64)")
    assert isinstance(error.__cause__, TypeError)


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = mlp()
    check(
        refusal(model),
        "0.weight was made in inference mode and can never get a gradient; build the model outside"
        " torch.inference_mode()",
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_scripted_model() -> None:
    message = (
        " holds a ScriptModule, which takes no hooks; pass the model as it was before"
        " torch.jit.script or torch.jit.trace"
    )
    scripted = torch.jit.script(mlp())
    check(refusal(scripted), f"{type(scripted).__name__}{message}")
    check(refusal(nn.Sequential(nn.Linear(20, 20), scripted)), f"Sequential{message}")


class Single(nn.Sequential):
    """A model that cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there is only one")


def test_a_model_that_cannot_be_copied_for_the_confirm_steps() -> None:
    (x, y), model = batch(), Single(*mlp(nn.Sigmoid, hidden=10))
    check(
        refusal(model, x, y, loss=cross_entropy),
        "Single cannot be deep-copied (TypeError: there is only one), which confirming a verdict or"
        " moving to cpu takes; pass a factory that builds the model on its device, or"
        " confirm_steps=0 to judge the first look alone",
        TypeError,
    )
    assert probe(model, x, y, loss=cross_entropy, confirm_steps=0).verdict == "failure"
    assert probe(Single(*mlp()), x, y, loss=cross_entropy).verdict == "healthy"


# Forward and backward.


@pytest.mark.parametrize(
    ("inputs", "described"),
    [
        (torch.ones(2, 20), "(2, 20) float32"),
        ((torch.ones(2, 20),), "(2, 20) float32"),
        ({"x": torch.ones(2, 20, dtype=torch.float64)}, "(2, 20) float64"),
        (
            [torch.ones(2), torch.tensor(1), [torch.ones(0), torch.ones(1).bool()]],
            "(2,) float32, () int64, (0,) float32, (1,) bool",
        ),
        ([torch.ones(i + 1) for i in range(6)], None),
        ("text", "str"),
        ([], "list"),
    ],
    ids=["tensor", "tuple", "dict", "nested", "many", "text", "empty list"],
)
def test_a_forward_that_raises(inputs: Any, described: str | None) -> None:
    class Failing(nn.Linear):
        def forward(self, x: Any) -> Tensor:
            raise KeyError("nothing")

    many = "(1,) float32, (2,) float32, (3,) float32, (4,) float32 and 2 more"
    check(
        refusal(Failing(2, 2), inputs),
        f"Failing.forward raised KeyError: 'nothing'\n  it was called with {described or many}",
        KeyError,
    )


def test_a_hook_that_raises() -> None:
    model = mlp()
    model.register_forward_hook(raising)
    check(
        refusal(model),
        "Sequential.forward raised KeyError: 'nothing'\n  it was called with (16, 20) float32",
        KeyError,
    )


@pytest.mark.parametrize("where", ["function", "tensor hook", "module hook"])
def test_a_backward_that_raises(where: str) -> None:
    model: Any = Returning(Breaks.apply if where == "function" else torch.clone)
    if where == "tensor hook":
        model.layer.weight.register_hook(raising)
    if where == "module hook":
        model.layer.register_full_backward_pre_hook(raising)
    check(refusal(model), "the backward pass raised KeyError: 'nothing'", KeyError)


def test_a_second_look_is_refused_in_the_same_words() -> None:
    x, y = batch()
    calls: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return cross_entropy(outputs, targets) if len(calls) < 3 else raising()

    check(
        refusal(mlp(nn.Sigmoid, hidden=10), x, y, loss=loss),
        "loss loss raised KeyError: 'nothing'\n  it was called with outputs: (16, 5) float32;"
        " targets: (16,) int64",
        KeyError,
    )


# Inputs.


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            torch.empty(0, 20),
            "the batch is empty: the first input has shape (0, 20); pass at least one example",
        ),
        (
            {"x": [torch.empty(4, 0)]},
            "the batch is empty: the first input has shape (4, 0); pass at least one example",
        ),
        (
            torch.empty(2, 20, device="meta"),
            "an input of shape (2, 20) is on the meta device and holds no numbers; pass a real"
            " batch",
        ),
        (
            torch.tensor([[math.nan, 1.0, math.nan]]),
            "the inputs hold NaN (2 of 3 elements of an input of shape (1, 3)); clean the batch"
            " before the probe",
        ),
        (
            (torch.ones(2), {"x": torch.tensor(complex(0, math.nan))}),
            "the inputs hold NaN (1 of 1 elements of an input of shape ()); clean the batch before"
            " the probe",
        ),
        (
            torch.full((1, 20), math.nan, dtype=torch.float16),
            "the inputs hold NaN (20 of 20 elements of an input of shape (1, 20)); clean the batch"
            " before the probe",
        ),
    ],
    ids=["no examples", "no features", "meta", "NaN", "complex NaN", "half NaN"],
)
def test_batches_that_cannot_be_probed(inputs: Any, message: str) -> None:
    check(refusal(mlp(), inputs), message)


def test_only_the_first_input_may_not_be_empty() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 5)

        def forward(self, x: Tensor, past: Tensor) -> Tensor:
            out: Tensor = self.layer(torch.cat([x, past]))
            return out

    assert probe(Two(), (batch()[0], torch.empty(0, 20))).verdict == "healthy"


# Losses.


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda o: o.sum().item(),
            "the loss is a float, not a tensor; return the tensor itself, without .item() or"
            " float()",
        ),
        (
            lambda _: None,
            "the loss is a NoneType, not a tensor; return a scalar tensor",
        ),
        (lambda o: o, "the loss has shape (16, 5); reduce it to one number, for example with"),
        (lambda o: o[:0], "the loss has shape (0, 5); reduce it to one number, for example with"),
        (
            lambda o: o.detach().sum(),
            "the loss does not depend on the model's trainable parameters; is something detached,"
            " or computed under torch.no_grad()?",
        ),
        (
            torch.no_grad()(torch.sum),
            "the loss does not depend on the model's trainable parameters; is something detached,"
            " or computed under torch.no_grad()?",
        ),
        (
            "mse",
            "loss is a str; pass a function of outputs and targets, for example"
            " torch.nn.functional.cross_entropy",
        ),
    ],
    ids=["float", "None", "not reduced", "empty", "detached", "no_grad", "not callable"],
)
def test_losses_that_cannot_be_differentiated(loss: Any, message: str) -> None:
    check(refusal(mlp(), loss=loss), message + (" .mean()" if message.endswith("with") else ""))


@pytest.mark.parametrize(
    ("loss", "name"),
    [(raising, "raising"), (Nameless(), "Nameless"), (lambda *_: raising(), "<lambda>")],
)
def test_a_loss_that_raises(loss: Any, name: str) -> None:
    x, y = batch()
    check(
        refusal(mlp(), x, y, loss=loss),
        f"loss {name} raised KeyError: 'nothing'\n  it was called with outputs: (16, 5) float32;"
        " targets: (16,) int64",
        KeyError,
    )


def test_a_loss_that_misses_its_targets() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return raising() if targets is None else cross_entropy(outputs, targets)

    check(
        refusal(mlp(), loss=loss),
        "loss loss raised KeyError: 'nothing'\n  it was called with outputs: (16, 5) float32;"
        " targets: None",
        KeyError,
    )


def test_a_loss_module_is_named_by_its_class() -> None:
    class Criterion(nn.Module):
        def forward(self, outputs: Tensor) -> Tensor:
            return torch.as_tensor(raising())

    check(
        refusal(mlp(), loss=Criterion()),
        "loss Criterion raised KeyError: 'nothing'\n  it was called with outputs: (16, 5) float32;"
        " targets: None",
        KeyError,
    )


@pytest.mark.parametrize(
    ("function", "targets", "message"),
    [
        (
            torch.clone,
            torch.ones(16),
            "targets were given, but nothing to compare them with: the model returns no loss; pass"
            " loss=..., for example loss=torch.nn.functional.cross_entropy",
        ),
        (
            lambda y: y.argmax(1),
            None,
            "the model returns nothing a gradient can flow back from (torch.int64) and no loss was"
            " given; pass loss=... that computes one from what the model returns",
        ),
        (
            lambda y: {"a": [y > 0, y.argmax(1)]},
            None,
            "the model returns nothing a gradient can flow back from (torch.bool, torch.int64) and"
            " no loss was given; pass loss=... that computes one from what the model returns",
        ),
        (
            lambda _: "done",
            None,
            "the model returns nothing a gradient can flow back from (str) and no loss was given;"
            " pass loss=... that computes one from what the model returns",
        ),
        (
            torch.Tensor.detach,
            None,
            "the model's outputs do not depend on its trainable parameters; is something detached,"
            " or the forward wrapped in torch.no_grad()?",
        ),
        (
            lambda y: {"loss": y.sum().detach()},
            None,
            "the model's own loss does not depend on the model's trainable parameters; is something"
            " detached, or computed under torch.no_grad()?",
        ),
        (
            lambda y: {"loss": y},
            None,
            "the model's own loss has shape (16, 5); reduce it to one number, for example with"
            " .mean()",
        ),
        (
            lambda y: {"loss": y.sum().item()},
            None,
            "the model's own loss is a float, not a tensor; return the tensor itself, without"
            " .item() or float()",
        ),
    ],
    ids=[
        "targets without a loss",
        "integers",
        "integers and bools",
        "text",
        "detached",
        "own loss detached",
        "own loss not reduced",
        "own loss a float",
    ],
)
def test_outputs_without_a_way_back(
    function: Callable[[Tensor], Any], targets: Tensor | None, message: str
) -> None:
    check(refusal(Returning(function), targets=targets), message)


# Devices.


@without_accelerator
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device 'gpu' (from the call) is not a device; pass 'auto' or 'cpu'"),
        (0, "device '0' (from the call) is not a device; pass 'auto' or 'cpu'"),
        ("cuda:x", "device 'cuda:x' (from the call) is not a device; pass 'auto' or 'cpu'"),
    ],
)
def test_devices_that_do_not_exist(device: Any, message: str) -> None:
    check(refusal(mlp(), device=device), message, RuntimeError)


@without_accelerator
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu", "meta", torch.device("cuda")])
def test_devices_that_this_machine_lacks(device: Any) -> None:
    check(
        refusal(mlp(), device=device),
        f"device '{device}' (from the call) is not available on this machine; pass 'auto' or 'cpu'",
    )


@without_accelerator
def test_the_source_of_a_device_is_named() -> None:
    with pytest.raises(ProbeError) as caught:
        choose_device("cuda", mlp(), "--gradhealth-device")
    check(
        caught.value,
        "device 'cuda' (from --gradhealth-device) is not available on this machine; pass 'auto' or"
        " 'cpu'",
    )


# Optimizers.


@pytest.mark.parametrize(
    ("optimizer", "message", "cause"),
    [
        (
            "adam",
            "optimizer is a str; pass a class (torch.optim.SGD), a factory"
            " (lambda params: torch.optim.SGD(params, lr=0.1)) or an optimizer",
            None,
        ),
        (
            0.1,
            "optimizer is a float; pass a class (torch.optim.SGD), a factory"
            " (lambda params: torch.optim.SGD(params, lr=0.1)) or an optimizer",
            None,
        ),
        (
            raising,
            "optimizer raised KeyError: 'nothing'; pass a factory that takes the parameters, for"
            " example lambda params: torch.optim.SGD(params, lr=0.1)",
            KeyError,
        ),
        (
            lambda _: "adam",
            "optimizer returned a str, not a torch.optim.Optimizer",
            None,
        ),
        (
            lambda _: SGD(mlp().parameters(), lr=0.1),
            "optimizer returned one over other parameters than it was given; build it from its"
            " argument, for example lambda params: torch.optim.SGD(params, lr=0.1)",
            None,
        ),
        (
            SGD(mlp().parameters(), lr=0.1),
            "optimizer holds none of the model's parameters; build it from this model's"
            " parameters() or pass its class",
            None,
        ),
    ],
    ids=["text", "number", "raising", "no optimizer", "own parameters", "of another model"],
)
def test_optimizers_of_the_wrong_kind(
    optimizer: Any, message: str, cause: type[Exception] | None
) -> None:
    check(refusal(mlp(), optimizer=optimizer), message, cause)


def test_an_optimizer_instance_with_a_factory() -> None:
    model = mlp()
    check(
        refusal(lambda: model, optimizer=SGD(model.parameters(), lr=0.1)),
        "optimizer is an instance, but the model is built anew for every seed; pass the optimizer's"
        " class or a factory",
    )


def test_a_class_that_fails_on_the_models_parameters() -> None:
    class Picky(SGD):
        def __init__(self, params: Any) -> None:
            raise ValueError("no")

    x, y = batch()
    check(
        refusal(mlp(nn.Sigmoid, hidden=10), x, y, loss=cross_entropy, optimizer=Picky),
        "optimizer raised ValueError: no; pass a factory that takes the parameters, for example"
        " lambda params: torch.optim.SGD(params, lr=0.1)",
        ValueError,
    )


def test_an_optimizer_whose_step_raises() -> None:
    class Failing(SGD):
        def step(self, closure: Any = None) -> Any:
            raise ValueError("no")

    x, y = batch()
    check(
        refusal(mlp(nn.Sigmoid, hidden=10), x, y, loss=cross_entropy, optimizer=Failing),
        "optimizer Failing raised ValueError: no in its step",
        ValueError,
    )


@pytest.mark.parametrize("as_instance", [False, True])
def test_an_optimizer_that_needs_a_closure_is_fine(as_instance: bool) -> None:
    (x, y), model = batch(), mlp(nn.Sigmoid, hidden=10)

    def build(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, max_iter=2)

    optimizer: Any = build(model.parameters()) if as_instance else build
    assert len(probe(model, x, y, loss=cross_entropy, optimizer=optimizer).profiles) == 2


@pytest.mark.parametrize("steps", [0, 5])
def test_a_factory_may_choose_among_its_parameters(steps: int) -> None:
    (x, y), model = batch(), mlp(nn.Sigmoid, hidden=10)

    def weights_only(parameters: Any) -> torch.optim.Optimizer:
        return SGD([p for p in parameters if p.dim() > 1], lr=0.1)

    arguments: dict[str, Any] = {"optimizer": weights_only, "confirm_steps": steps}
    diagnosis = probe(model, x, y, loss=cross_entropy, **arguments)
    assert diagnosis.optimizer == "SGD(lr=0.1)"


# Settings.


DEVICE = "a device such as 'auto', 'cpu' or 'cuda:0'"
SEEDS = "a number of seeds, at least 1, or a list of seeds"
STEPS = "a number of steps, at least 0"
POSITIVE = "a positive number"
CODES = "rule codes such as GH101,GH2"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("device", "", DEVICE),
        *(
            ("seeds", value, SEEDS)
            for value in (
                *(0, -1, 2.5, math.nan, math.inf, True, "three", ""),
                *([], (), [-1], [1.5], [True], ["a"], [[1]], {1}, range(2)),
            )
        ),
        *(("confirm_steps", value, STEPS) for value in (-1, 0.5, math.inf, False, "many", [1])),
        *(
            (name, value, POSITIVE)
            for name in ("min_ratio", "max_ratio", "warn_min_ratio", "warn_max_ratio")
            for value in (0, -1e-5, math.nan, math.inf, True, "small", [1e-5])
        ),
        pytest.param("min_ratio", 10**400, POSITIVE, id="10**400"),
        ("select", 101, CODES),
        ("ignore", 101, CODES),
    ],
)
def test_values_that_a_setting_cannot_have(name: str, value: Any, expected: str) -> None:
    error = refusal(mlp(), **{name: value})
    assert str(error) == f"the call: {name} = {value!r} is not {expected}"
    assert type(error) is SettingError


def test_the_error_behind_a_setting_is_chained() -> None:
    assert isinstance(refusal(mlp(), seeds="three").__cause__, ValueError)
    assert isinstance(refusal(mlp(), seeds={1}).__cause__, TypeError)


def test_seeds_that_no_generator_takes() -> None:
    error = refusal(mlp, seeds=[0, 2**70])
    assert str(error) == f"the call: seeds = [0, {2**70}] is not {SEEDS}"
    assert probe(mlp, batch()[0], seeds=[2**62 - 1]).verdict == "healthy"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("select", ["GH999"], "GH999"),
        ("select", "GH101,GH9", "GH9"),
        ("ignore", ["GH101", "gh201"], "gh201"),
        ("ignore", "vanishing", "vanishing"),
    ],
)
def test_codes_of_no_rule(name: str, value: Any, code: str) -> None:
    error = refusal(mlp(), **{name: value})
    assert str(error) == (
        f"the call: {name} = {code!r} matches no rule; the rules are GH101, GH102, GH103, GH201,"
        " GH202, GH203, GH301, GH401, GH402, GH403, GH404, GH405, GH406, GH407, GH408, GH501, GH601"
    )
    assert type(error) is SettingError
    assert error.__cause__ is None


def test_names_of_no_setting() -> None:
    known = (
        "device, seeds, confirm_steps, min_ratio, max_ratio, warn_min_ratio, warn_max_ratio,"
        " max_update, max_penalty, max_output, min_spread, max_dead, max_saturated,"
        " max_underflow, baseline, max_path_change, max_step_change, remedy_budget, select, ignore"
    )
    with pytest.raises(SettingError) as caught:
        Settings().merged({"ratio": 1}, "the marker")
    assert str(caught.value) == f"the marker: unknown setting 'ratio'; the settings are {known}"
    with pytest.raises(SettingError) as caught:
        Settings().merged({"seeds": 0}, {"seeds": "pytest.ini"})
    assert str(caught.value) == f"pytest.ini: seeds = 0 is not {SEEDS}"


# Types of errors.


def test_refusals_are_no_failed_checks() -> None:
    with pytest.raises(ProbeError) as caught:
        assert_no_vanishing(mlp().requires_grad_(False), batch()[0])
    assert not isinstance(caught.value, AssertionError)
    assert issubclass(SettingError, ProbeError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_run_is_not_wrapped(error: type[BaseException]) -> None:
    def stop(*_: object) -> Any:
        raise error

    cases: list[tuple[Any, dict[str, Any]]] = [
        (stop, {}),
        (Returning(stop), {}),
        (mlp(), {"loss": stop}),
        (mlp(), {"optimizer": stop}),
    ]
    for model, arguments in cases:
        with pytest.raises(error):
            probe(model, batch()[0], **arguments)
