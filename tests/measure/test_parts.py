"""Parts of a model that only one term of the loss sees have paths of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from pytest_gradhealth import Diagnosis, probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes
from tests.helpers.nets import mlp

X, Y = torch.randn(16, 20), torch.randint(5, (16,))


def ends(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [(path.first.label, path.last.label) for path in diagnosis.profile.judged_paths]


def deep(activation: Callable[[], nn.Module], *, inputs: int = 20, classes: int = 5) -> nn.Module:
    return mlp(activation, hidden=11, inputs=inputs, classes=classes)


class Variational(nn.Module):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(hidden=2, classes=16), decoder
        self.mean, self.spread = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x).relu()
        mean, spread = self.mean(hidden), self.spread(hidden)
        return self.decoder(mean + torch.randn_like(mean) * (spread / 2).exp()), mean, spread


def evidence(outputs: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    made, mean, spread = outputs
    return mse_loss(made, x) - 0.5 * (1 + spread - mean**2 - spread.exp()).mean()


def test_a_decoder_behind_a_sample_is_judged_beside_its_encoder() -> None:
    good = probe(Variational(mlp(inputs=8, classes=20)), X, X, loss=evidence)
    assert good.verdict == "healthy"
    assert ends(good) == [("encoder.0", "(outputs)"), ("decoder.0", "decoder.6")]
    sick = probe(Variational(deep(nn.Sigmoid, inputs=8, classes=20)), X, X, loss=evidence)
    assert {*codes(sick)} == {"GH101"}
    assert sick.worst_path is not None
    assert sick.worst_path.first.label == "decoder.0"


@pytest.mark.parametrize("asked", [False, True])
def test_towers_are_judged_whether_their_input_takes_gradients_or_not(*, asked: bool) -> None:
    x = torch.randn(16, 20, generator=torch.Generator().manual_seed(0)).requires_grad_(asked)
    for activation, expected in ((nn.Sigmoid, ["GH101"]), (nn.ReLU, [])):
        model = Wired(lambda m, x: m.one(x) + m.other(x), one=mlp(), other=deep(activation))
        diagnosis = probe(model, x, Y, loss=cross_entropy)
        assert codes(diagnosis) == expected, diagnosis


def both(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    return cross_entropy(outputs[0], targets) + outputs[1].square().mean()


def forked(**heads: nn.Module) -> Any:
    def forward(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = model.trunk(x)
        return model.near(hidden), model.far(hidden)

    return Wired(forward, trunk=mlp(hidden=2, classes=20), **heads)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("sick", [False, True], ids=["healthy", "sick"])
def test_each_of_several_heads_is_judged(sick: bool, frozen: bool) -> None:
    model = forked(near=mlp(hidden=1), far=deep(nn.Sigmoid) if sick else mlp(hidden=2))
    model.trunk.requires_grad_(not frozen)
    diagnosis = probe(model, X, Y, loss=both)
    assert ("GH101" in codes(diagnosis)) == sick, diagnosis
    assert {("near.0", "near.2")} < {*ends(diagnosis)}


class Deepened(nn.Module):
    """A residual network, every block of which is supervised; branches start at next to nothing."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.stem, self.gain = nn.Linear(20, 16), gain
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
            for _ in range(4)
        )
        self.heads = nn.ModuleList(nn.Linear(16, 5) for _ in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        hidden, answers = self.stem(x), []
        for block, head in zip(self.blocks, self.heads, strict=True):
            hidden = hidden + self.gain * block(hidden)
            answers.append(head(hidden))
        return answers


def each(outputs: list[Tensor], targets: Tensor) -> Tensor:
    return torch.stack([cross_entropy(output, targets) for output in outputs]).sum()


def test_a_branch_that_a_skip_gets_past_is_no_part() -> None:
    diagnosis = probe(Deepened(1e-7), X, Y, loss=each)
    assert not codes(diagnosis)
    assert ends(diagnosis) == [("stem", "(outputs)")]


def test_stages_between_heads_are_parts() -> None:
    """Each stage takes all that the one before it gives: nothing gets past."""

    def forward(model: Any, x: Tensor) -> list[Tensor]:
        first = model.first(x)
        second = model.second(first)
        return [model.near(first), model.far(second)]

    def staged(second: nn.Module) -> Any:
        ends = {"near": nn.Linear(20, 5), "far": mlp(hidden=1)}
        return Wired(forward, first=mlp(hidden=2, classes=20), second=second, **ends)

    assert ends(probe(staged(mlp(hidden=2, classes=20)), X, Y, loss=each)) == [
        ("first.0", "(outputs)"),
        ("second.0", "far.2"),
    ]
    sick = probe(staged(mlp(nn.Sigmoid, hidden=12, classes=20)), X, Y, loss=each)
    assert {*codes(sick)} == {"GH101"}


def test_a_head_whose_term_counts_nothing_is_no_failure() -> None:
    model = forked(near=mlp(hidden=1), far=mlp(hidden=2))

    def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        return cross_entropy(outputs[0], targets) + 0.0 * outputs[1].sum()

    assert not codes(probe(model, X, Y, loss=loss))


class Critic(nn.Module):
    """A critic with a gradient penalty (Gulrajani et al. 2017), made of pieces that are linear."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        between = ((real + fake) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(self.body(between).sum(), between, create_graph=True)
        score = self.body(fake).mean() - self.body(real).mean()
        loss: Tensor = score + 10 * (slope.norm(dim=1) - 1).square().mean()
        return loss


class Folding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def test_a_deep_critic_of_sigmoids_fails() -> None:
    """What its penalty differentiates is as small as what comes to its first layer."""

    def scored(m: Any, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        scores = m.body(x)
        (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        gap = scores[:8].mean() - scores[8:].mean()
        loss: Tensor = gap + (slope.norm(dim=1) - 1).square().mean()
        return loss

    for activation, expected in ((nn.Sigmoid, {"GH101"}), (nn.ReLU, set())):
        model = deep(activation, classes=1) if expected else mlp(classes=1)
        diagnosis = probe(Wired(scored, body=model), X)
        assert {*codes(diagnosis)} == expected, diagnosis


@pytest.mark.parametrize(
    "activation", [nn.LeakyReLU, nn.ReLU, Folding, nn.Tanh, nn.Softplus, nn.Hardtanh]
)
def test_a_critic_is_judged_by_its_scores(activation: Callable[[], nn.Module]) -> None:
    diagnosis = probe(Critic(mlp(activation, classes=1)), (X, torch.randn(16, 20)))
    assert diagnosis.verdict == "healthy", diagnosis
    assert {("body.0#1", "body.6#1"), ("body.0#2", "body.6#2")} <= {*ends(diagnosis)}
    assert all(path.entry.norm for path in diagnosis.profile.judged_paths)


def test_a_critic_that_vanishes_is_found_by_its_scores() -> None:
    sick = probe(Critic(mlp(nn.Sigmoid, hidden=12, classes=1)), (X, torch.randn(16, 20)))
    assert "GH101" in codes(sick)


class Rounded(nn.Module):
    """A layer that is used twice, once behind a rounding that lets nothing through."""

    def __init__(self, dead: Callable[[Tensor], Tensor], *heads: nn.Module) -> None:
        super().__init__()
        self.encoder = mlp(nn.Tanh, hidden=2, classes=16)
        self.heads, self.dead = nn.ModuleList(heads), dead

    def forward(self, x: Tensor) -> list[Tensor]:
        hidden = self.dead(self.encoder(x)), self.encoder(x + 0.1)
        return [head(h) for head, h in zip(self.heads, hidden, strict=True)]


@pytest.mark.parametrize(
    "dead",
    [torch.round, lambda x: (x > 0).float() + 0 * x, lambda x: x.sign(), torch.floor],
    ids=["round", "compare", "sign", "floor"],
)
@pytest.mark.parametrize("other", [nn.Flatten, lambda: mlp(inputs=16)], ids=["mean", "head"])
def test_a_second_call_hides_no_dead_first_one(
    dead: Callable[[Tensor], Tensor], other: Callable[[], nn.Module]
) -> None:
    def loss(outputs: list[Tensor], targets: Tensor) -> Tensor:
        return cross_entropy(outputs[0], targets) + 1e-3 * outputs[1].square().mean()

    model = Rounded(dead, nn.Linear(16, 5), other())
    assert "GH101" in codes(probe(model, X, Y, loss=loss))
    alive = Rounded(torch.tanh, nn.Linear(16, 5), other())
    assert not codes(probe(alive, X, Y, loss=loss))


class Biased(nn.Module):
    """Attention whose bias a network makes of the tokens' places, next to nothing at first."""

    def __init__(self, *, layers: int = 2, width: int = 4, places: int = 11) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 64), nn.Linear(64, 5)
        self.mix = nn.ModuleList(nn.Linear(64, 192) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(64, 64) for _ in range(layers))
        self.bias = mlp(nn.Sigmoid, hidden=places, inputs=1, width=width, classes=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x)
        apart = torch.cdist(x[..., :3], x[..., :3])
        bias = self.bias(apart.unsqueeze(-1)).squeeze(-1)
        for mix, out in zip(self.mix, self.out, strict=True):
            query, key, value = mix(hidden).chunk(3, -1)
            weights = (query @ key.transpose(1, 2) / 8 + bias).softmax(-1)
            hidden = hidden + out(weights @ value)
        answer: Tensor = self.head(hidden.mean(1))
        return answer


TOKENS = torch.randn(16, 5, 6)


def beside(diagnosis: Diagnosis) -> dict[str, float | None]:
    return {path.first.name: path.beside for path in diagnosis.profile.judged_paths}


@pytest.mark.parametrize("layers", [1, 2])
def test_a_small_network_beside_the_trunk_is_a_note(layers: int) -> None:
    diagnosis = probe(Biased(layers=layers), TOKENS, Y, loss=cross_entropy)
    assert [f.severity for f in diagnosis.of(["GH101"])] == ["info"]
    assert diagnosis.verdict == "healthy", diagnosis
    share = beside(diagnosis)
    assert share["embed"] is None
    sizes = {n: p.numel() for n, p in Biased(layers=layers).named_parameters()}
    expected = sum(size for name, size in sizes.items() if name.startswith("bias"))
    assert share["bias.0"] == pytest.approx(expected / sum(sizes.values()))


def test_a_large_one_is_a_failure() -> None:
    assert {*codes(probe(Biased(width=48), TOKENS, Y, loss=cross_entropy))} == {"GH101"}


def test_neither_trunk_nor_tower_nor_encoder_is_small_beside_another() -> None:
    narrow = {"hidden": 11, "inputs": 20, "width": 4}
    towers = Wired(
        lambda m, x: m.head(torch.cat([m.wide(x), m.narrow(x)], 1)),
        wide=mlp(width=256),
        narrow=mlp(nn.Sigmoid, **narrow),
        head=nn.Linear(10, 5),
    )
    diagnosis = probe(towers, X, Y, loss=cross_entropy)
    assert beside(diagnosis) == {"wide.0": None, "narrow.0": None}
    assert {*codes(diagnosis)} == {"GH101"}


class Crossed(nn.Module):
    """A decoder that looks at an encoder's answer in every layer."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.embed, self.head = encoder, nn.Linear(6, 32), nn.Linear(32, 5)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(32, 2, 64, batch_first=True, dropout=0.0) for _ in range(2)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        memory, hidden = self.encoder(x), self.embed(y)
        for layer in self.layers:
            hidden = layer(hidden, memory)
        answer: Tensor = self.head(hidden.mean(1))
        return answer


def test_an_encoder_that_vanishes_fails_though_it_comes_into_branches() -> None:
    encoder = mlp(nn.Sigmoid, hidden=12, inputs=6, classes=32)
    diagnosis = probe(Crossed(encoder), (TOKENS, TOKENS), Y, loss=cross_entropy)
    assert "GH101" in codes(diagnosis)
    share = beside(diagnosis)
    assert share["embed"] is None
    assert share["encoder.0"] is not None
