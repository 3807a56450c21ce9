"""Zeros, powers, derivatives and means over neighbours: the cause is what multiplies."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from pytest_gradhealth import probe
from pytest_gradhealth.reporting.advice import causes
from tests.helpers.architectures import Wired

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 4


def told(
    model: nn.Module,
    x: Tensor = X,
    y: Tensor | None = Y,
    loss: Callable[..., Tensor] = F.cross_entropy,
) -> tuple[list[str], list[str]]:
    """What is said of causes, and of what to try."""
    diagnosis = probe(model, x, y, loss=loss)
    assert diagnosis.verdict == "failure"
    failed = [finding for finding in diagnosis.findings if finding.severity == "failure"]
    said = [*causes(diagnosis, failed)]
    return ([text for label, text in said if label == kind] for kind in ("cause", "try"))  # type: ignore[return-value]


def net(middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), middle, nn.Linear(16, 4))


def pruned(name: str) -> nn.Sequential:
    model = net(nn.Linear(16, 16))
    prune.l1_unstructured(model.get_submodule(name), "weight", amount=1.0)  # type: ignore[no-untyped-call]
    return model


def masked() -> nn.Module:
    model = Wired(lambda m, x: m.b(m.a(x) * m.keep), a=nn.Linear(16, 16), b=nn.Linear(16, 4))
    model.register_buffer("keep", torch.zeros(16))
    return model


KEEP = "a mask that keeps some of it (an amount below 1 where it prunes), or a start other than 0"
NUMBER = "is one with the number 0 for the whole batch, as where F.dropout has p=1"


@pytest.mark.parametrize(
    ("model", "because", "advice"),
    [
        (
            lambda: net(nn.Dropout(1.0)),
            "2 (Dropout) drops all units for the whole batch: its p is 1",
            "a p below 1",
        ),
        (
            lambda: net(nn.AlphaDropout(1.0)),
            "2 (AlphaDropout) drops all units for the whole batch: its p is 1",
            "a p below 1",
        ),
        (
            lambda: Wired(
                lambda m, x: m.b(F.dropout(m.a(x), 1.0)), a=nn.Linear(16, 16), b=nn.Linear(16, 4)
            ),
            f"mul behind a (Linear) {NUMBER}",
            "another factor, or a p below 1",
        ),
        (
            lambda: pruned("2"),
            "2.weight_mask is all zeros, and so is what it is multiplied with",
            KEEP,
        ),
        (masked, "keep is all zeros, and so is what it is multiplied with", KEEP),
    ],
    ids=["Dropout", "AlphaDropout", "F.dropout", "pruned", "mask"],
)
def test_zeros_are_named_by_where_they_come_from(
    model: Callable[[], nn.Module], because: str, advice: str
) -> None:
    torch.manual_seed(0)
    assert [*told(model())] == [[because], [advice]]


def test_a_mask_that_keeps_something_is_not_blamed() -> None:
    model = pruned("2")
    dict(model.named_buffers())["2.weight_mask"][0, 0] = 1.0
    found = probe(model, X, Y, loss=F.cross_entropy)
    said = [text for _, text in causes(found, found.findings)]
    assert not any("all zeros" in text for text in said)


class Slope(nn.Module):
    """Returns the derivative of its network."""

    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        sizes = [1, *[16] * 10]
        layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), activation())]
        self.net = nn.Sequential(*layers, nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


def test_a_derivative_is_a_product_of_slopes() -> None:
    torch.manual_seed(0)
    line = torch.linspace(-1, 1, 32)[:, None]
    because, advice = told(Slope(nn.Sigmoid), line, None, lambda g, _: (g - 1).square().mean())
    assert because == [
        "what (output) (Slope) returns is small itself, with an RMS of 2.9e-09: a product of what"
        " 9 calls make of it (net.2, net.4, net.6 and 6 more), as the derivative of a network is of"
        " its slopes (at most 1/4 for a Sigmoid)"
    ]
    assert advice == [
        "activations of larger slopes (nn.SiLU(), torch.sin), residual connections, or larger"
        " initial weights"
    ]


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**3


OF_SIZE = (
    "an activation in their place whose slope does not follow the size of what comes in"
    " (nn.ReLU()), or a normalisation layer before each"
)


def cubes(x: Tensor, depth: int, *, functional: bool) -> tuple[list[str], list[str]]:
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16) for _ in range(depth)]
    head = nn.Linear(16, 4)
    if not functional:
        return told(nn.Sequential(*(m for one in layers for m in (one, Cube())), head), x)

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x) ** 3
        out: Tensor = head(x)
        return out

    return told(Wired(forward, layers=nn.ModuleList(layers), head=head), x)


def test_powers_of_what_is_small_are_smaller() -> None:
    assert [*cubes(0.3 * X, 6, functional=False)] == [["6 Cubes let x0.1 through each"], [OF_SIZE]]
    because = "6 Pows let x0.065 through each, by how large it is what comes in"
    assert [*cubes(0.3 * X, 6, functional=True)] == [[because], [OF_SIZE]]


def test_a_factor_is_no_fault_of_the_rectifiers() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x).relu() * 0.02
        return x

    (because,), _ = told(Wired(forward, layers=layers), loss=F.cross_entropy)
    assert because.startswith("it shrinks x0.")


def test_a_power_that_grows_most_is_named_where_it_is() -> None:
    (because,), (advice,) = cubes(1.5 * X, 4, functional=True)
    assert because.startswith("most of it is gained in one place: x")
    assert because.endswith(" from head to layers.3")
    assert advice.startswith("look at pow behind layers.3, or at Linear in head")


@pytest.mark.parametrize("activation", [torch.tanh, lambda x: x], ids=["tanh", "linear"])
def test_a_mean_over_neighbours_takes_out_what_tells_them_apart(
    activation: Callable[[Tensor], Tensor],
) -> None:
    """Oversmoothing: however level the gradients are, each layer averages."""
    torch.manual_seed(0)
    edges = (torch.rand(32, 32) < 0.2).float()
    edges = ((edges + edges.T + torch.eye(32)) > 0).float()
    mean = edges / edges.sum(1, keepdim=True)
    layers = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(16))
    for parameter in layers.parameters():
        nn.init.orthogonal_(parameter)

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for layer in layers:
            x = activation(mean @ layer(x))
        out: Tensor = m.head(x)  # type: ignore[operator]
        return out

    (because,), (advice,) = told(Wired(forward, layers=layers, head=nn.Linear(16, 4)))
    assert because.startswith(
        "the examples come closer together between the layers, and are alike from layers."
    )
    assert because.endswith(
        " (Linear) on: by what is done to what layers return, such as a mean over neighbours of a"
        " graph"
    )
    assert advice == (
        "residual connections x + block(x), which keep what tells them apart, or fewer layers"
    )


def test_a_function_that_is_flat_where_its_values_lie_is_no_small_factor() -> None:
    """The sigmoid of what has been multiplied by 3,000."""
    torch.manual_seed(0)
    model = Wired(
        lambda m, x: m.head(torch.sigmoid(3000 * m.stem(x))),
        stem=nn.Linear(10, 8),
        head=nn.Linear(8, 4),
    )
    x, y = torch.randn(64, 10), torch.arange(64) % 4
    diagnosis = probe(model, x, y, loss=F.cross_entropy, select=["GH101", "GH403"])
    because = " ".join(str(diagnosis).split())
    assert "small factors" not in because
    assert "sigmoid" in because
