"""What a module multiplies by matrices of its own are layers, beside the modules that it holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.measure.functional import bare_matrices

WIDTH, DEPTH = 16, 12
X, Y = torch.randn(32, WIDTH), torch.arange(32) % 4
Act = Callable[[Tensor], Tensor]


def matrices(scale: float) -> list[Tensor]:
    """A stem, `DEPTH` square ones and a head, the same ones every time."""
    torch.manual_seed(0)
    shapes = [(WIDTH, WIDTH)] * (DEPTH + 1) + [(4, WIDTH)]
    return [scale * torch.randn(shape) / WIDTH**0.5 for shape in shapes]


def layer(weight: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight = nn.Parameter(weight)
    return made


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Written(nn.Module):
    """One network: which of its matrices are layers, and how the others are multiplied by."""

    def __init__(self, act: Act, scale: float, layers: str, way: str) -> None:
        super().__init__()
        self.act, self.way = act, way
        stem, *hidden, head = matrices(scale)
        self.stem = layer(stem) if "stem" in layers else nn.Parameter(stem)
        self.head = layer(head) if "head" in layers else nn.Parameter(head)
        stacked = nn.Parameter(torch.stack(hidden))
        self.hidden = (
            stacked if way in ("stacked", "copied") else nn.ParameterList(map(nn.Parameter, hidden))
        )
        self.end = Scale() if "scale" in layers else nn.Identity()
        self.mask = torch.ones(WIDTH, WIDTH)

    def times(self, x: Tensor, weight: Tensor | nn.Module) -> Tensor:
        if isinstance(weight, nn.Module):
            made: Tensor = weight(x)
            return made
        if self.way == "linear":
            return linear(x, weight)
        if self.way == "einsum":
            return torch.einsum("bi,oi->bo", x, weight)
        if self.way == "masked":
            return x @ (weight * self.mask[: len(weight)]).t()
        return x @ weight.T

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.times(x, self.stem))
        for number, weight in enumerate(self.hidden):
            if self.way == "copied" and isinstance(self.hidden, Tensor):
                weight = self.hidden[[number]][0]
            x = self.act(self.times(x, weight))
        end: Tensor = self.end(self.times(x, self.head))
        return end


class Body(nn.Module):
    """All layers but the head of the same network in a module without modules."""

    def __init__(self, act: Act, scale: float, *, stacked: bool = False) -> None:
        super().__init__()
        self.act, weights = act, matrices(scale)[:-1]
        listed = nn.ParameterList(map(nn.Parameter, weights))
        self.weights = nn.Parameter(torch.stack(weights)) if stacked else listed

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = self.act(x @ weight.T)
        return x


def in_layers(act: Act, scale: float) -> nn.Module:
    class Activation(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return act(x)

    *others, head = map(layer, matrices(scale))
    pairs = (part for other in others for part in (other, Activation()))
    return nn.Sequential(*pairs, head)


#: Which are layers, and how the others are multiplied by.
WRITINGS = {
    f"{layers}, {way}": (layers, way)
    for layers in ("stem and head", "stem", "head", "scale")
    for way in ("linear", "einsum", "matmul", "masked", "stacked", "copied")
}
FUNCTIONS: dict[str, tuple[Act, float]] = {
    "vanishing": (torch.sigmoid, 1.0),
    "level": (torch.relu, 2**0.5),
    "exploding": (torch.relu, 4.0),
}


def judged(model: nn.Module) -> Diagnosis:
    return probe(model, X, Y, loss=cross_entropy, confirm_steps=0)


def ratio(diagnosis: Diagnosis) -> float:
    (path,) = diagnosis.paths
    return path.first.norm / path.last.norm


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("writing", WRITINGS)
def test_one_network_is_judged_as_one_however_it_is_written(writing: str, function: str) -> None:
    act, scale = FUNCTIONS[function]
    ours = judged(Written(act, scale, *WRITINGS[writing]))
    theirs = judged(in_layers(act, scale))
    assert ours.verdict == theirs.verdict
    assert [f.code for f in ours.findings if f.complains] == [
        f.code for f in theirs.findings if f.complains
    ]
    assert ratio(ours) == pytest.approx(ratio(theirs), rel=1e-4)
    assert len(ours.paths[0].points) == DEPTH + 2 + ("scale" in writing)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_so_is_one_that_begins_with_a_module_of_weights_alone(function: str, stacked: bool) -> None:
    act, scale = FUNCTIONS[function]
    body = Body(act, scale, stacked=stacked)
    ours = judged(nn.Sequential(body, layer(matrices(scale)[-1])))
    theirs = judged(in_layers(act, scale))
    assert ours.verdict == theirs.verdict
    assert ratio(ours) == pytest.approx(ratio(theirs), rel=1e-4)


class Scaled(nn.Module):
    """Adds a table and multiplies by another, element by element: neither is a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.table, self.scales = nn.Parameter(torch.zeros(32, WIDTH)), nn.Parameter(X.clone())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) * self.scales + self.table
        return out


def test_what_is_added_or_scales_is_no_layer() -> None:
    (path,) = judged(nn.Sequential(Scaled(), nn.Linear(WIDTH, 4))).paths
    assert [point.name for point in path.points] == ["0.inner", "0", "1"]


class Turned(nn.Module):
    """A layer inside, and one matrix beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.turn = nn.Linear(2, 2), nn.Parameter(torch.eye(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) @ self.turn
        return out


def bare(model: nn.Module) -> set[str]:
    return {*bare_matrices(dict(model.named_modules()))}


def test_what_is_a_layer_by_itself_has_no_bare_matrices() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))

    class Frozen(Own):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(torch.ones(2, 2), requires_grad=False)

    parts = (
        Own(),
        Frozen(),
        nn.MultiheadAttention(4, 2),
        nn.LSTM(2, 2, 2),
        nn.TransformerEncoderLayer(4, 1),
    )
    assert bare(nn.Sequential(*parts)) == set()
    assert bare(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))) == set()


def test_bare_ones_are_found_behind_lists_and_beside_layers() -> None:
    model = nn.Sequential(Body(torch.relu, 1.0), Scaled(), nn.Linear(2, 2))
    assert bare(model) == {
        *(f"0.weights.{i}" for i in range(DEPTH + 1)),
        *("1.table", "1.scales"),
    }
    alone = nn.Linear(2, 2)
    alone.register_parameter("turn", nn.Parameter(torch.eye(2)))
    beside = nn.Sequential(nn.Linear(2, 2))
    beside.register_parameter("turn", nn.Parameter(torch.eye(2)))
    assert bare(alone) == bare(beside) == set()  # torch's own
    assert bare(nn.Sequential(Turned())) == {"0.turn"}


class Repeated(nn.Module):
    """A matrix, or rows of it, that a state goes through again and again."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.begin, self.end = way, layer(matrices(1.0)[0]), layer(matrices(1.0)[-1])
        self.kept = nn.Parameter(torch.randn(2 * WIDTH, WIDTH) / WIDTH**0.5)

    def forward(self, x: Tensor) -> Tensor:
        state = self.begin(x)
        for _ in range(3):
            cut = self.kept[:WIDTH] if self.way == "cut" else self.kept.chunk(2)[1]
            state = state + torch.tanh(state @ (cut.T if self.way == "cut" else cut))
        out: Tensor = self.end(state)
        return out


@pytest.mark.parametrize("way", ["cut", "chunk"])
def test_what_is_used_again_is_that_of_a_loop(way: str) -> None:
    (path,) = judged(Repeated(way)).paths
    assert [point.name for point in path.points] == ["begin", "end"]


class Towers(nn.Module):
    """One network of bare weights for two halves of a batch."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body, self.head = Body(torch.relu, scale), layer(matrices(scale)[-1])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.head(self.body(half)) for half in x.chunk(2)])


def test_what_two_towers_share_is_no_loop() -> None:
    diagnosis = judged(Towers(2**0.5))
    assert diagnosis.verdict == "healthy"
    bare = [point for point in diagnosis.paths[0].points if point.type == "Parameter"]
    assert len(bare) == DEPTH + 1
    assert judged(Towers(0.1)).verdict == "failure"


class Placed(nn.Module):
    """Adds positions to a batch of one, which then has their shape, before bare layers."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.places, self.body = nn.Parameter(torch.zeros(1, 8, WIDTH)), Body(torch.relu, scale)
        self.head = layer(matrices(scale)[-1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x + self.places)).mean(1)
        return out


@pytest.mark.parametrize(("scale", "verdict"), [(2**0.5, "healthy"), (0.1, "failure")])
def test_data_of_the_shape_of_a_weight_are_no_weight(scale: float, verdict: str) -> None:
    diagnosis = probe(Placed(scale), torch.randn(1, 8, WIDTH), Y[:1], loss=cross_entropy)
    assert diagnosis.verdict == verdict
    assert len(diagnosis.paths[0].points) >= DEPTH + 2


class Held(nn.Module):
    """Layers that are never called, whose weights are used, and a bare one."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        *weights, head = matrices(scale)
        self.layers, self.head = nn.ModuleList(map(layer, weights)), nn.Parameter(head)

    def forward(self, x: Tensor) -> Tensor:
        for held in self.layers:
            x = torch.relu(linear(x, held.weight))  # type: ignore[arg-type]
        return x @ self.head.T


@pytest.mark.parametrize(("scale", "verdict"), [(2**0.5, "healthy"), (0.1, "failure")])
def test_layers_that_are_not_called_are_seen_beside_bare_weights(
    scale: float, verdict: str
) -> None:
    diagnosis = judged(Held(scale))
    assert diagnosis.verdict == verdict
    assert len(diagnosis.paths[0].points) == DEPTH + 2


class Noisy(nn.Linear):
    """A layer whose class is no torch's own, with weights for its noise."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.deviation = nn.Parameter(0.01 * torch.ones(WIDTH, WIDTH))
        self.noise = torch.randn(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight + self.deviation * self.noise, self.bias)


def test_a_layer_speaks_for_the_product_that_it_returns() -> None:
    (path,) = judged(nn.Sequential(Noisy(), nn.ReLU(), nn.Linear(WIDTH, 4))).paths
    assert [(p.name, p.leaf, p.width) for p in path.points] == [
        ("0", "Noisy", WIDTH),
        ("1", "ReLU", None),
        ("2", "Linear", 4),
    ]


class Ragged(nn.Module):
    """A nested tensor made with a bare parameter, beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.rest = nn.Parameter(torch.randn(2, WIDTH)), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        nested = torch.nested.as_nested_tensor([self.begin + x[:2], self.rest(x)])
        one, other = nested.unbind()
        out: Tensor = self.head(other + one.mean(0))
        return out


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_have_no_shape_to_be_asked_for() -> None:
    assert judged(Ragged()).verdict == "healthy"
