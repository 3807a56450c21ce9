"""Losses that are made of gradients: what they change is weights, not the outputs of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import jacfwd, jacrev, vmap
from torch.nn.functional import cross_entropy, mse_loss

from pytest_gradhealth import probe
from pytest_gradhealth.measure.recorder import Recorder


class Critic(nn.Module):
    """A critic with a gradient penalty (Gulrajani et al. 2017)."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 64), activation, nn.Linear(64, 1))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        middle = ((real + fake) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(self.body(middle).sum(), middle, create_graph=True)
        gap: Tensor = self.body(fake).mean() - self.body(real).mean()
        penalty: Tensor = 10 * (slope.norm(dim=1) - 1).square().mean()
        return gap + penalty


class Potential(nn.Module):
    """Returns the forces of a potential."""

    def __init__(self, activation: nn.Module, *, cut: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(16, 64), activation, nn.Linear(64, 64), activation, nn.Linear(64, 1)
        )
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.body(x).sum(), x, create_graph=True)
        return -slope.detach() if self.cut else -slope


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.ReLU(), nn.Tanh()], ids=str)
def test_a_critic_with_a_gradient_penalty_is_healthy(activation: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    diagnosis = probe(Critic(activation), (torch.randn(32, 16) + 1, torch.randn(32, 16)))
    assert diagnosis.verdict == "healthy", diagnosis


@pytest.mark.parametrize(
    ("activation", "verdict"),
    [(nn.ReLU(), "not judged"), (nn.LeakyReLU(), "not judged"), (nn.SiLU(), "healthy")],
    ids=str,
)
def test_forces_do_not_fail(activation: nn.Module, verdict: str) -> None:
    """Those of linear pieces depend on the weights, and on no output of a layer."""
    torch.manual_seed(0)
    model = Potential(activation)
    diagnosis = probe(model, torch.randn(32, 16), torch.randn(32, 16), loss=mse_loss)
    assert diagnosis.verdict == verdict


def test_zero_weights_behind_a_zero_path_still_fail() -> None:
    """Nothing gets round a path of zeros that nothing else leads to either."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.constant_(model.get_parameter("0.bias"), -1e3)
    diagnosis = probe(model, torch.randn(8, 16), torch.arange(8) % 4, loss=cross_entropy)
    assert diagnosis.verdict == "failure"


def test_layers_that_only_the_loss_calls_are_told_of() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.deep = nn.Linear(16, 16), nn.Linear(16, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.stem(x)
            return out

    model = Encoder()
    diagnosis = probe(
        model,
        torch.randn(8, 16),
        torch.arange(8) % 4,
        loss=lambda out, y: cross_entropy(model.head(model.deep(out)), y),
    )
    assert [f.message for f in diagnosis.of(["GH101"]) if f.severity == "not judged"] == [
        "nothing to judge: 2 layers (deep and head) get a gradient without being called in the"
        " forward (in the loss, or by their weights alone?)"
    ]


Net = Callable[[Tensor], Tensor]
#: What has no types, or the wrong ones.
func: Any = torch.func
functional: Any = torch.autograd.functional
forward_ad: Any = torch.autograd.forward_ad
#: The Jacobian of a network that takes and gives two features, or something that is made of it.
SPELLINGS: dict[str, Callable[[Net, Tensor], Any]] = {}


def spelling(make: Callable[[Net, Tensor], Any]) -> Callable[[Net, Tensor], Any]:
    SPELLINGS[make.__name__.replace("_", " ")] = make
    return make


def directions(x: Tensor) -> Tensor:
    return torch.eye(2)[:, None].expand(2, len(x), 2)


@spelling
def one_by_one(f: Net, x: Tensor) -> Any:
    y = f(x.requires_grad_())
    return y, torch.stack([grad(y, x, v, create_graph=True)[0] for v in directions(x)])


@spelling
def batched(f: Net, x: Tensor) -> Any:
    y = f(x.requires_grad_())
    return y, grad(y, x, directions(x), create_graph=True, is_grads_batched=True)[0]


@spelling
def vectorised(f: Net, x: Tensor) -> Any:
    j = functional.jacobian(lambda x: f(x).sum(0), x, create_graph=True, vectorize=True)
    return f(x), j


@spelling
def mapped_over_a_gradient(f: Net, x: Tensor) -> Any:
    y = f(x.requires_grad_())
    return y, vmap(lambda v: grad(y, x, v, create_graph=True)[0])(directions(x))


@spelling
def reverse_mode(f: Net, x: Tensor) -> Any:
    return f(x), vmap(jacrev(f))(x).movedim(1, 0)


@spelling
def forward_mode(f: Net, x: Tensor) -> Any:
    return f(x), vmap(jacfwd(f))(x).movedim(1, 0)


@spelling
def pulled_back(f: Net, x: Tensor) -> Any:
    y, back = func.vjp(f, x)
    return y, vmap(back)(directions(x))[0]


#: The same for what is no Jacobian: these are compared with nothing but torch.
OTHERS: dict[str, Callable[[Net, Tensor], Any]] = {
    "Hessian": lambda f, x: (
        f(x),
        functional.hessian(lambda x: f(x).square().sum(), x[:2], create_graph=True, vectorize=True),
    ),
    "Jacobian, forward": lambda f, x: (
        f(x),
        f(x)
        * functional.jacobian(
            lambda x: f(x).sum(0), x, vectorize=True, strategy="forward-mode"
        ).sum(),
    ),
    "jvp": lambda f, x: func.jvp(f, (x,), (torch.ones_like(x),)),
    "Laplacian": lambda f, x: (f(x), laplacian(f, x.requires_grad_())),
    "Hutchinson": lambda f, x: (f(x), trace(f, x.requires_grad_())),
    "dual": lambda f, x: dual(f, x),
    "second batch only read": lambda f, x: (
        batched(f, x)[0],
        f(x) * batched(f, x)[1].detach().sum(),
    ),
}


def laplacian(f: Net, x: Tensor) -> Tensor:
    (slope,) = grad(f(x).sum(), x, create_graph=True)
    return grad(slope.sum(0), x, torch.eye(2), create_graph=True, is_grads_batched=True)[0]


def trace(f: Net, x: Tensor) -> Tensor:
    noise = torch.randn(3, len(x), 2)
    pulled = grad(f(x), x, noise, create_graph=True, is_grads_batched=True)[0]
    return (pulled * noise).sum(-1)


def dual(f: Net, x: Tensor) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x))))


class Differentiating(nn.Module):
    """Returns what a function makes of a network and its input."""

    def __init__(self, make: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.body, x.detach())


def both(outputs: Any) -> Tensor:
    loss: Tensor = outputs[0].square().mean() + outputs[1].square().mean()
    return loss


def gradients(model: nn.Module, x: Tensor) -> list[Any]:
    torch.manual_seed(0)  # as a probe does
    found = grad(both(model(x)), list(model.parameters()))
    return [pytest.approx(float(g.norm()), rel=1e-4) for g in found]


@pytest.mark.parametrize("make", [*SPELLINGS.values(), *OTHERS.values()], ids=[*SPELLINGS, *OTHERS])
def test_a_forward_may_differentiate_as_it_likes(make: Any) -> None:
    torch.manual_seed(0)
    model, x = Differentiating(make), torch.randn(8, 2)
    diagnosis = probe(model, x, loss=both, precision="float16")
    assert diagnosis.verdict == "healthy", diagnosis
    assert [p.gradient for p in diagnosis.profile.parameters] == gradients(model, x)


def test_all_ways_to_write_a_jacobian_are_one_network() -> None:
    torch.manual_seed(0)
    model, x = Differentiating(batched), torch.randn(8, 2)
    expected = gradients(model, x)
    for make in SPELLINGS.values():
        model.make = make
        found = probe(model, x, loss=both).profile.parameters
        assert [p.gradient for p in found] == expected


def slopes(outputs: Tensor, given: Tensor) -> Tensor:
    starts = directions(outputs)
    return grad(outputs, given, starts, create_graph=True, is_grads_batched=True)[0].square().mean()


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["penalty", "loss and penalty"])
def test_a_loss_and_a_penalty_may_differentiate_in_batches_too(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Tensor] = []
    recorders: list[Recorder] = []

    class Keeping(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self[0](x)
            kept[:] = [hidden, self[2](self[1](hidden))]
            return kept[1]

    class Kept(Recorder):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            recorders.append(self)

    monkeypatch.setattr("pytest_gradhealth.measure.look.Recorder", Kept)
    torch.manual_seed(0)
    diagnosis = probe(
        Keeping(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)),
        *[torch.randn(8, 2).requires_grad_()] * 2,
        loss=lambda y, x: y.square().mean() + (share * slopes(y, x) if share else 0),
        regularizer=lambda _: 1e-4 * slopes(kept[1], kept[0]),
    )
    assert diagnosis.verdict == "healthy", diagnosis
    noted = {mark.differentiated for recorder in recorders for mark in recorder.marks}
    assert noted == {bool(share)}  # what a penalty asks for is not the network's


def test_what_a_forward_differentiates_is_noted_and_not_measured() -> None:
    model, x = Differentiating(batched), torch.randn(8, 2)
    recorder = Recorder(model)
    with recorder.attached():
        loss = both(model(x))
        assert [mark.differentiated for mark in recorder.marks] == [True] * 3 + [False]
        assert [mark.gradient for mark in recorder.marks] == [None] * 4
        recorder.gradients = "measured"
        loss.backward()  # type: ignore[no-untyped-call]
    assert all(mark.gradient is not None for mark in recorder.marks)
