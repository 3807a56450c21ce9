"""Each remedy: what it does to a copy, and the code that does the same."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pytest_gradhealth import CannotApplyError, Patient, Remedy, built_in_remedies
from pytest_gradhealth.subject.step import Step
from tests.helpers.nets import mlp

BY_NAME = {remedy.name: remedy for remedy in built_in_remedies()}
#: Those that change the model, and not how it is trained.
CHANGING = [
    r for r in built_in_remedies() if r.family not in ("clipping", "regularisation", "recurrence")
]
INITIALISING = [r for r in CHANGING if r.family == "initialisation"]


class Branches(nn.Module):
    """A custom forward with functions for activations, and blocks in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(20, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(3))
        self.gate = nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, 5)."""
        x = torch.sigmoid(self.stem(x))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(torch.relu(self.gate(x)))
        return out


def convolutional() -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.Sigmoid(),
    )
    return nn.Sequential(
        features, nn.Flatten(), nn.Linear(8 * 16, 12), nn.Sigmoid(), nn.Linear(12, 5)
    )


def sigmoids() -> nn.Module:
    return mlp(nn.Sigmoid, hidden=6)


def with_output() -> nn.Module:
    return nn.Sequential(*mlp(nn.Sigmoid, hidden=4, classes=1), nn.Sigmoid())


def without_biases() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 8, bias=False), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5)
    )


def tapering() -> nn.Module:
    sizes = (20, 16, 16, 8, 5)
    layers = [(nn.Linear(a, b), nn.Sigmoid()) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*itertools.chain(*layers), nn.Linear(5, 5))


def sequences() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


FLAT, IMAGE, SEQUENCE = torch.randn(64, 20), torch.randn(16, 1, 8, 8), torch.randn(8, 5, 6)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "sigmoids": (sigmoids, FLAT),
    "with output": (with_output, FLAT),
    "without biases": (without_biases, FLAT),
    "tapering": (tapering, FLAT),
    "branches": (Branches, FLAT),
    "convolutional": (convolutional, IMAGE),
    "sequences": (sequences, SEQUENCE),
}
each_model = pytest.mark.parametrize("model", MODELS)
each_change = pytest.mark.parametrize("remedy", CHANGING, ids=lambda remedy: remedy.name)
each_remedy = pytest.mark.parametrize("remedy", BY_NAME.values(), ids=lambda remedy: remedy.name)


def treated(remedy: Remedy, model: nn.Module, inputs: Any) -> tuple[Patient, str]:
    torch.manual_seed(7)
    patient = Patient(copy.deepcopy(model), inputs)
    code = remedy.change(patient) or remedy.code
    return patient, code


def architecture(model: nn.Module) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Types of the innermost modules and the shapes of what they hold, in order."""
    return [
        (type(m).__name__, [tuple(p.shape) for p in m.parameters()])
        for m in model.modules()
        if not any(m.children()) and not isinstance(m, nn.Identity)
    ]


def layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


@each_model
@each_remedy
def test_the_model_stays_as_it_is(remedy: Remedy, model: str) -> None:
    build, inputs = MODELS[model]
    given = build().eval()
    given.register_forward_hook(lambda *_: None)
    state = copy.deepcopy(given.state_dict())
    before = (str(given), list(given._forward_hooks), [id(p) for p in given.parameters()])
    try:
        changed = remedy.apply(given, inputs)
    except CannotApplyError:
        changed = nn.Identity()
    assert not {id(p) for p in changed.parameters()} & set(before[2])
    assert (str(given), list(given._forward_hooks), [id(p) for p in given.parameters()]) == before
    for name, tensor in given.state_dict().items():
        assert torch.equal(tensor, state[name])


@each_model
@each_change
def test_the_code_does_to_a_model_what_the_remedy_does(remedy: Remedy, model: str) -> None:
    build, inputs = MODELS[model]
    given = build()
    try:
        patient, code = treated(remedy, given, inputs)
    except CannotApplyError:
        pytest.skip("it cannot be applied")
    torch.manual_seed(7)
    space: dict[str, Any] = {"model": given, "nn": nn, "torch": torch, "images": inputs}
    exec(code, space)
    by_hand = space["model"]
    assert sorted(architecture(by_hand)) == sorted(architecture(patient.model))
    assert by_hand(inputs).shape == patient.model(inputs).shape
    for mine, theirs in zip(layers(by_hand), layers(patient.model), strict=True):
        if remedy.family == "residual connections":
            break  # projections draw numbers of their own
        assert mine.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.2)
        if remedy.family == "normalisation":
            assert torch.equal(mine.weight, theirs.weight)


@each_change
def test_what_the_remedy_could_not_do_has_its_reason(remedy: Remedy) -> None:
    with pytest.raises(CannotApplyError) as caught:
        remedy.apply(nn.Sequential(nn.Embedding(5, 3), nn.Tanh()), torch.arange(4))
    assert str(caught.value)


# Initialisations


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("Kaiming init", lambda fans: 1 / fans[0]),
        ("Xavier init", lambda fans: 2 / sum(fans)),
        ("orthogonal init", lambda fans: 1 / max(fans)),
    ],
)
@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU])
def test_weights_have_the_variance_for_the_activation_that_follows(
    name: str, variance: Callable[[tuple[int, int]], float], kind: Callable[[], nn.Module]
) -> None:
    model = nn.Sequential(
        nn.Linear(200, 300), kind(), nn.Linear(300, 300), kind(), nn.Linear(300, 100)
    )
    nonlinearity = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}.get(kind, "leaky_relu")  # type: ignore[call-overload]
    gain = nn.init.calculate_gain(nonlinearity)
    patient, _ = treated(BY_NAME[name], model, torch.randn(4, 200))
    for layer in layers(patient.model):
        expected = gain**2 * variance((layer.in_features, layer.out_features))
        assert layer.weight.var().item() == pytest.approx(expected, rel=0.05)
        assert not layer.bias.any()
        if name == "orthogonal init" and layer.in_features == layer.out_features:
            product = layer.weight @ layer.weight.T
            assert torch.allclose(product, gain**2 * torch.eye(300), atol=1e-4)


def test_activations_that_are_functions_are_seen() -> None:
    torch.manual_seed(0)

    class Wide(Branches):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gate = nn.Linear(20, 400), nn.Linear(400, 400, bias=False)
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(400, 400), nn.Tanh())])
            self.head = nn.Linear(400, 5)

    patient, code = treated(BY_NAME["Kaiming init"], Wide(), FLAT)
    model: Any = patient.model
    for layer, nonlinearity in (
        (model.stem, "sigmoid"),
        (model.blocks[0][0], "tanh"),
        (model.gate, "relu"),
    ):
        gain = nn.init.calculate_gain(nonlinearity)  # type: ignore[arg-type]
        std = gain / math.sqrt(layer.in_features)
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert f'nonlinearity="{nonlinearity}"' in code


@pytest.mark.parametrize("model", ["sigmoids", "branches", "convolutional", "sequences"])
def test_unit_variance_puts_out_unit_variance(model: str) -> None:
    build, inputs = MODELS[model]
    patient, _ = treated(BY_NAME["unit-variance init"], build(), inputs)
    spreads: list[float] = []
    for layer in layers(patient.model):
        layer.register_forward_hook(lambda *arguments: spreads.append(arguments[2].std().item()))
    patient.model(inputs)
    assert spreads == pytest.approx([1.0] * len(spreads), rel=1e-3)


def test_unit_variance_takes_a_batch() -> None:
    with pytest.raises(CannotApplyError, match="it takes a batch"):
        BY_NAME["unit-variance init"].apply(sigmoids())


@pytest.mark.parametrize("remedy", INITIALISING, ids=lambda remedy: remedy.name)
def test_frozen_and_parametrised_weights_are_left_alone(remedy: Remedy) -> None:
    model: Any = mlp(nn.Tanh, hidden=4)
    model[0].weight.requires_grad_(False)
    model[2] = weight_norm(nn.Linear(32, 32))
    patient, _ = treated(remedy, model, FLAT)
    changed: Any = patient.model
    assert torch.equal(changed[0].weight, model[0].weight)
    assert torch.equal(changed[2].weight, model[2].weight)
    assert not torch.equal(changed[4].weight, model[4].weight)


# Activations


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ReLU", nn.ReLU), ("LeakyReLU", nn.LeakyReLU), ("GELU", nn.GELU), ("SELU", nn.SELU)],
)
def test_saturating_activations_between_layers_are_exchanged(name: str, kind: type) -> None:
    patient, _ = treated(BY_NAME[name], with_output(), FLAT)
    kinds = [type(m) for m in patient.model.modules() if not any(m.children())]
    assert kinds.count(kind) == 4
    assert kinds[-1] is nn.Sigmoid, "what comes after the last layer belongs to the loss"
    assert kinds.count(nn.Sigmoid) == 1


def test_only_leaky_relu_takes_the_place_of_relu() -> None:
    patient, _ = treated(BY_NAME["LeakyReLU"], mlp(nn.ReLU), FLAT)
    assert sum(isinstance(m, nn.LeakyReLU) for m in patient.model.modules()) == 3
    with pytest.raises(CannotApplyError, match="nothing saturates between its layers"):
        BY_NAME["GELU"].apply(mlp(nn.ReLU), FLAT)


def test_a_function_cannot_be_exchanged() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(20, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two(torch.sigmoid(self.one(x)))
            return out

    with pytest.raises(CannotApplyError) as caught:
        BY_NAME["ReLU"].apply(Functional(), FLAT)
    assert str(caught.value) == (
        "its forward calls sigmoid as a function, which cannot be exchanged from outside"
    )


# Normalisation


@pytest.mark.parametrize(
    ("name", "flat", "image"),
    [("batch norm", "BatchNorm1d", "BatchNorm2d"), ("layer norm", "LayerNorm", "GroupNorm")],
)
def test_norms_stand_between_layer_and_activation(name: str, flat: str, image: str) -> None:
    patient, _ = treated(BY_NAME[name], convolutional().double(), IMAGE.double())
    kinds = [type(m).__name__ for m in patient.model.modules() if not any(m.children())]
    block = ["Conv2d", image, "Sigmoid"]
    assert kinds == [*block * 3, "Flatten", "Linear", flat, "Sigmoid", "Linear"]
    assert {p.dtype for p in patient.model.parameters()} == {torch.float64}
    outputs: list[Tensor] = []
    norm = next(m for m in patient.model.modules() if type(m).__name__ == flat)
    norm.register_forward_hook(lambda *arguments: outputs.append(arguments[2]))
    patient.model(IMAGE.double())
    over = 0 if name == "batch norm" else 1
    assert outputs[0].mean(over).abs().max() < 1e-9
    assert outputs[0].std(over, correction=0).sub(1).abs().max() < 0.01


def test_what_is_normalised_is_not_normalised_again() -> None:
    model = nn.Sequential(
        nn.Linear(20, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5)
    )
    patient, _ = treated(BY_NAME["batch norm"], model, FLAT)
    kinds = [type(m).__name__ for m in patient.model.modules() if "Norm" in type(m).__name__]
    assert kinds == ["LayerNorm", "BatchNorm1d"]
    with pytest.raises(CannotApplyError, match="every layer but the last is normalised already"):
        BY_NAME["layer norm"].apply(patient.model, FLAT)


def test_batch_norm_refuses_sequences_and_layer_norm_takes_them() -> None:
    with pytest.raises(CannotApplyError) as caught:
        BY_NAME["batch norm"].apply(sequences(), SEQUENCE)
    assert str(caught.value) == (
        "0 puts out 3 dimensions, of which batch norm would take the second for the features"
    )
    assert BY_NAME["layer norm"].apply(sequences(), SEQUENCE)(SEQUENCE).shape == (8, 5, 2)


def test_new_modules_are_in_the_mode_of_the_old() -> None:
    for remedy in CHANGING:
        changed = remedy.apply(sigmoids().eval(), FLAT)
        assert not any(m.training for m in changed.modules()), remedy.name


# Residual connections


def test_residual_adds_what_went_in() -> None:
    model: Any = mlp(nn.Sigmoid, hidden=4)
    changed = BY_NAME["residual"].apply(model, FLAT)
    x = model[1](model[0](FLAT))
    for i in range(2, 8, 2):
        x = x + model[i + 1](model[i](x))
    assert torch.allclose(changed(FLAT), model[8](x))


def test_residual_projects_where_the_shape_changes() -> None:
    given: Any = tapering()
    patient, code = treated(BY_NAME["residual"], given, FLAT)
    model: Any = patient.model
    shortcuts = [getattr(m, "shortcut", None) for m in model]
    linear = [s for s in shortcuts if isinstance(s, nn.Linear)]
    assert [(s.in_features, s.out_features) for s in linear] == [(16, 8), (8, 5)]
    assert "nn.Linear(16, 8, bias=False)" in code
    x = given[1](given[0](FLAT))
    x = x + given[3](given[2](x))
    x = linear[0](x) + given[5](given[4](x))
    x = linear[1](x) + given[7](given[6](x))
    assert torch.allclose(model(FLAT), given[8](x))


def test_residual_projects_feature_maps_with_a_stride() -> None:
    patient, code = treated(BY_NAME["residual"], convolutional(), IMAGE)
    assert "nn.Conv2d(4, 8, 1, 2, bias=False)" in code
    assert patient.model(IMAGE).shape == (16, 5)


def test_residual_leaves_the_layer_that_makes_the_output_alone() -> None:
    patient, code = treated(BY_NAME["residual"], with_output(), FLAT)
    assert "nn.Linear(32, 1" not in code
    outputs = patient.model(FLAT)
    assert bool(((outputs > 0) & (outputs < 1)).all())


def test_residual_wraps_the_blocks_of_a_list() -> None:
    model = Branches()
    changed = BY_NAME["residual"].apply(model, FLAT)
    x = torch.sigmoid(model.stem(FLAT))
    for block in model.blocks:
        x = x + block(x)
    assert torch.allclose(changed(FLAT), model.head(torch.relu(model.gate(x))))


def test_residual_says_what_to_write_in_a_custom_forward() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(20, 20), nn.Linear(20, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two(self.one(x).tanh())
            return out

    with pytest.raises(CannotApplyError, match=r"write x = x \+ block\(x\)"):
        BY_NAME["residual"].apply(Custom(), FLAT)


# The training step


def test_clipping_and_penalties_change_the_step_and_not_the_model() -> None:
    model = sigmoids()
    parameters = list(model.parameters())
    for name in ("clip by norm", "clip by value", "L1 penalty", "L2 penalty", "weight decay"):
        patient, code = treated(BY_NAME[name], model, FLAT)
        assert code
        assert architecture(patient.model) == architecture(model)
        assert (patient.step is not None) != (patient.optimizer is not None), name
    l1, _ = treated(BY_NAME["L1 penalty"], model, FLAT)
    l2, _ = treated(BY_NAME["L2 penalty"], model, FLAT)
    for patient, power in ((l1, 1), (l2, 2)):
        assert patient.step is not None
        assert patient.step.regularizer is not None
        expected = 1e-2 * sum(p.detach().abs().pow(power).sum().item() for p in parameters)
        assert patient.step.regularizer(model).item() == pytest.approx(expected)


def test_clipping_by_value_cuts_each_entry() -> None:
    patient, _ = treated(BY_NAME["clip by value"], sigmoids(), FLAT)
    assert patient.step is not None
    assert callable(patient.step.clip)
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([-7.0, 0.25, 9.0])
    patient.step.clip([weight])
    assert weight.grad.tolist() == [-0.5, 0.25, 0.5]


def test_weight_decay_keeps_the_optimizer_and_names_it() -> None:
    patient = Patient(sigmoids(), FLAT, lambda ps: torch.optim.SGD(ps, lr=0.3, momentum=0.9))
    code = BY_NAME["weight decay"].change(patient)
    assert code == "torch.optim.SGD(model.parameters(), lr=0.3, weight_decay=0.01)"
    assert callable(patient.optimizer)
    built = patient.optimizer(patient.model.parameters())
    assert built.param_groups[0]["weight_decay"] == 0.01
    assert built.param_groups[0]["momentum"] == 0.9


def test_what_is_done_already_is_not_done_again() -> None:
    step = Step(clip=1.0, regularizer=lambda model: next(model.parameters()).sum())
    for name, reason in (
        ("clip by norm", "gradients are clipped already"),
        ("L2 penalty", "the loss has a penalty already"),
    ):
        with pytest.raises(CannotApplyError, match=reason):
            BY_NAME[name].change(Patient(sigmoids(), FLAT, None, step))
    decaying = Patient(sigmoids(), FLAT, lambda ps: torch.optim.SGD(ps, weight_decay=1e-4))
    with pytest.raises(CannotApplyError, match="SGD decays weights already"):
        BY_NAME["weight decay"].change(decaying)
    lbfgs = Patient(sigmoids(), FLAT, torch.optim.LBFGS)
    with pytest.raises(CannotApplyError, match="LBFGS knows no weight decay"):
        BY_NAME["weight decay"].change(lbfgs)


def test_without_a_batch_the_registered_order_has_to_do() -> None:
    for remedy in CHANGING:
        if remedy.name in ("residual", "unit-variance init"):
            continue
        assert remedy.apply(sigmoids())(FLAT).shape == (64, 5), remedy.name
