"""Parts that a loss leaves to something else to train are told from those that are cut off."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, UnreachedParameterError, assert_all_reached, probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import codes, said
from tests.helpers.nets import batch, mlp


def coder(inputs: int = 20, outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 2), nn.Tanh(), nn.Linear(2, outputs))


class Autoencoder(nn.Module):
    """Its encoder was trained before; the decoder is there for another day."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = coder(), coder(4, 20)

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            return self.encoder(x)


class Codebook(nn.Module):
    """Codes that follow the means of what falls to them (van den Oord et al. 2017, appendix)."""

    counts: Tensor

    def __init__(self, codes: int = 16, width: int = 8) -> None:
        super().__init__()
        self.codes, self.sums = nn.Embedding(codes, width), nn.Parameter(torch.randn(codes, width))
        self.register_buffer("counts", torch.ones(codes))

    def forward(self, z: Tensor) -> Any:
        nearest = torch.cdist(z, self.codes.weight).argmin(1)
        chosen = F.one_hot(nearest, len(self.counts)).float()
        quantised = chosen @ self.codes.weight
        self.counts = 0.9 * self.counts + 0.1 * chosen.sum(0)
        self.sums = nn.Parameter(0.9 * self.sums + 0.1 * chosen.mT @ z)
        self.codes.weight = nn.Parameter(self.sums / self.counts[:, None])
        return z + (quantised - z).detach(), F.mse_loss(z, quantised.detach())


class CodebookInPlace(nn.Module):
    """The same without a module for the codes, written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(16, 8))

    def forward(self, z: Tensor) -> Any:
        with torch.no_grad():
            quantised = self.codes[torch.cdist(z, self.codes).argmin(1)]
            self.codes.lerp_(z.mean(0).expand_as(self.codes), 0.1)
        return z + (quantised - z).detach(), F.mse_loss(z, quantised)


def quantised(m: Any, x: Tensor) -> Any:
    z, commitment = m.book(m.encoder(x))
    return commitment + F.mse_loss(m.decoder(z), x)


def distilled(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        wanted = m.teacher(x + 1)
    return F.mse_loss(m.student(x), wanted)


def predicted(m: Any, x: Tensor) -> Any:
    return F.mse_loss(m.predictor(m.online.first(x)), m.target.first(x + 1).detach())


def twins(**parts: nn.Module) -> Wired:
    (name, original), (other, _) = parts.items()
    wired = {name: original, other: copy.deepcopy(original)}
    return Wired(distilled, **wired)


def of_another_view(m: Any, x: Tensor) -> Any:
    wanted = m.target(x[:, 10:])
    return F.mse_loss(m.predictor(m.online(x[:, :10])), wanted.detach())


def with_views() -> Wired:
    online, predictor = mlp(inputs=10), nn.Linear(5, 5)
    parts = {"online": online, "target": copy.deepcopy(online), "predictor": predictor}
    return Wired(of_another_view, **parts)


def criticised(made: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Any]:
    """The step of a critic of what is made, with a penalty of its slope."""

    def forward(m: Any, x: Tensor) -> Any:
        fake = made(m, x)
        between = torch.lerp(x, fake, torch.rand(len(x), 1)).detach().requires_grad_()
        (slope,) = torch.autograd.grad(m.critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return m.critic(fake).mean() - 2 * m.critic(x).mean() + 10 * penalty

    return forward


def noise(x: Tensor) -> Tensor:
    return torch.randn(len(x), 8)


def pair(use: Callable[..., Any]) -> Wired:
    return Wired(use, generator=mlp(inputs=8, classes=20), critic=mlp(classes=1))


CRITICS = {
    "a critic, no_grad": criticised(lambda m, x: in_no_grad(m.generator, noise(x))),
    "a critic, detached": criticised(lambda m, x: m.generator(noise(x)).detach()),
}
BY_MISTAKE = {
    "a generator in its own step": lambda m, x: -m.critic(m.generator(noise(x)).detach()).mean(),
    "a generator of the batch": criticised(lambda m, x: m.generator(noise(x) + x[:, :8]).detach()),
    "a table that is no noise": criticised(
        lambda m, x: m.generator(torch.ones(len(x), 8)).detach()
    ),
}


def own_loss(m: Any, x: Tensor) -> Any:
    features = m.body(x)
    return features.square().mean() + F.mse_loss(m.extra(features.detach()), x[:, :5])


def with_online() -> Wired:
    online = Wired(lambda m, x: m.first(x), first=mlp())
    parts = {"online": online, "target": copy.deepcopy(online), "predictor": nn.Linear(5, 5)}
    return Wired(predicted, **parts)


def fed(m: Any, x: Tensor) -> Any:
    return m.head(m.body(x) + m.feed(m.coder(x)))


def trunk(**parts: Any) -> dict[str, nn.Module]:
    made = {"body": mlp(classes=32), "feed": nn.Linear(4, 32), "head": nn.Linear(32, 5)}
    return {**made, **parts}


def frozen_inside(*places: str) -> Callable[[Any, Tensor], Any]:
    def forward(m: Any, x: Tensor) -> Any:
        with torch.no_grad():
            code = [getattr(m, place)(x) for place in places]
        return m.head(m.body(x) + m.feed(sum(code)))

    return forward


APART: dict[str, tuple[Callable[[], Wired], str]] = {
    "autoencoder": (lambda: Wired(fed, **trunk(coder=Autoencoder())), "coder.encoder.0"),
    "encoder": (lambda: Wired(frozen_inside("coder"), **trunk(coder=coder())), "coder.0"),
    "single layer": (
        lambda: Wired(frozen_inside("coder"), **trunk(coder=nn.Linear(20, 4))),
        "coder",
    ),
    "two of them": (
        lambda: Wired(frozen_inside("a", "b"), **trunk(a=coder(), b=coder())),
        "a.0",
    ),
    "codebook": (
        lambda: Wired(
            quantised,
            encoder=mlp(classes=8),
            book=Codebook(),
            decoder=mlp(inputs=8, classes=20),
        ),
        "book",
    ),
    "codebook in place": (
        lambda: Wired(
            quantised,
            encoder=mlp(classes=8),
            book=CodebookInPlace(),
            decoder=mlp(inputs=8, classes=20),
        ),
        "book",
    ),
    "teacher": (lambda: twins(student=mlp(), teacher=mlp()), "teacher.0"),
    "target of an online network": (with_online, "target.first.0"),
    "target of another view": (with_views, "target.0"),
    **{name: (partial(pair, use), "generator.0") for name, use in CRITICS.items()},
}


OWN_LOSS = (
    *(quantised, distilled, predicted, of_another_view),
    *CRITICS.values(),
    *BY_MISTAKE.values(),
)


def probed(model: Wired) -> Diagnosis:
    (x, y), own = batch(), model.use in OWN_LOSS
    return probe(model, x) if own else probe(model, x, y, loss=F.cross_entropy)


@pytest.mark.parametrize("name", APART)
def test_what_something_else_trains_is_a_warning_and_not_reached(name: str) -> None:
    build, layer = APART[name]
    torch.manual_seed(0)
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    diagnosis = probed(model)
    assert codes(diagnosis) == [], diagnosis
    warned = [finding for finding in diagnosis.findings if finding.severity == "warning"]
    assert [(f.code, f.layer) for f in warned] == [("GH401", layer)]
    assert warned[0].message.endswith(": left to something else to train")
    assert {p.name for p in diagnosis.profile.parameters if p.state == "none"} >= {
        *diagnosis.profile.apart
    }
    with pytest.raises(UnreachedParameterError):
        assert_all_reached(diagnosis)
    ignored = {name.partition(".")[0] for name in diagnosis.profile.apart}
    assert_all_reached(diagnosis, ignore=["GH405", *(f"GH401:{name}" for name in ignored)])
    assert Diagnosis.from_dict(diagnosis.to_dict()) == diagnosis
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_the_message_says_what_may_train_it_and_what_to_type() -> None:
    text = " ".join(str(probed(APART["autoencoder"][0]())).split())
    assert "cause: the forward writes them, they are a copy" in text
    assert "--gradhealth-ignore='GH401:coder.encoder.0,GH401:coder.encoder.2'" in text


def test_a_head_with_a_loss_of_its_own_is_reached() -> None:
    model = Wired(own_loss, body=mlp(), extra=nn.Linear(5, 5))
    assert_all_reached(model, batch()[0])


def in_no_grad(module: Any, *given: Tensor) -> Any:
    with torch.no_grad():
        return module(*given)


def scaled(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        code = m.stem(x).mul_(2)
    return m.body(code)


def two_towers(m: Any, x: Tensor) -> Any:
    return m.head(m.body(x[:, :12]) + m.feed(in_no_grad(m.coder, x[:, 12:])))


def embedded(m: Any, x: Tensor) -> Any:
    words = in_no_grad(m.words, x.abs().long() % 4).flatten(1)
    return m.head(m.body(words + m.places(torch.arange(20)).flatten()))


def columns(m: Any, x: Tensor) -> Any:
    kinds = x.abs().long() % 4
    first = in_no_grad(m.embed[0], kinds[:, 0])
    rest = [embed(kinds[:, i + 1]) for i, embed in enumerate(m.embed[1:])]
    return m.head(torch.cat([first, *rest], 1))


CUT: dict[str, tuple[Callable[[], Wired], str]] = {
    "stem": (
        lambda: Wired(
            lambda m, x: m.body(in_no_grad(m.stem, x)), stem=coder(), body=mlp(inputs=4, width=64)
        ),
        "stem.0",
    ),
    "stem, scaled in place": (
        lambda: Wired(scaled, stem=coder(), body=mlp(inputs=4, width=64)),
        "stem.0",
    ),
    "stem, detached": (
        lambda: Wired(
            lambda m, x: m.body(m.stem(x).detach()), stem=coder(), body=mlp(inputs=4, width=64)
        ),
        "stem.0",
    ),
    "embedding": (
        lambda: Wired(
            embedded,
            words=nn.Embedding(4, 1),
            places=nn.Embedding(20, 1),
            body=mlp(),
            head=nn.Linear(5, 5),
        ),
        "words",
    ),
    "embedding of one column": (
        lambda: Wired(
            columns,
            embed=nn.ModuleList(nn.Embedding(4, 2) for _ in range(20)),
            head=mlp(inputs=40),
        ),
        "embed.0",
    ),
    "tower of its own data": (
        lambda: Wired(
            two_towers,
            body=mlp(inputs=12, classes=32),
            coder=coder(8),
            feed=nn.Linear(4, 32),
            head=nn.Linear(32, 5),
        ),
        "coder.0",
    ),
    "detached in the sight of all": (
        lambda: Wired(
            lambda m, x: m.body(x) + m.coder(x).detach(), body=mlp(), coder=coder(outputs=5)
        ),
        "coder.0",
    ),
    "large": (
        lambda: Wired(frozen_inside("coder"), **trunk(coder=mlp(classes=4))),
        "coder.0",
    ),
    **{name: (partial(pair, use), "generator.0") for name, use in BY_MISTAKE.items()},
    "no copy": (lambda: Wired(distilled, student=mlp(), teacher=mlp()), "teacher.0"),
    "in a layer that returns what one in it does": (
        lambda: Wired(
            lambda m, x: m.body(x) + m.side(x).detach(),
            body=mlp(),
            side=Wired(lambda m, x: m.fc(x), fc=nn.Linear(20, 5)),
        ),
        "side.fc",
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_what_was_cut_off_by_mistake_fails(name: str) -> None:
    build, layer = CUT[name]
    torch.manual_seed(0)
    diagnosis = probed(build())
    assert said(diagnosis) == [("GH401", "failure", layer)], diagnosis
    assert diagnosis.profile.apart == ()


@pytest.mark.parametrize("small", [False, True])
def test_an_encoder_of_data_that_the_decoder_does_not_get_fails(small: bool) -> None:
    model = Wired(
        lambda m, x, words: m.decoder(words) + m.feed(in_no_grad(m.encoder, x)),
        decoder=mlp(width=64 if small else 8),
        encoder=coder(),
        feed=nn.Linear(4, 5),
    )
    (x, y), (words, _) = batch(), batch()
    diagnosis = probe(model, (x, words), y, loss=F.cross_entropy)
    assert said(diagnosis) == [("GH401", "failure", "encoder.0")]
    both = probe(model, (x, x), y, loss=F.cross_entropy)
    assert both.verdict == ("warning" if small else "failure"), "which sees what the encoder sees"


@pytest.mark.parametrize("cut", [Tensor.detach, lambda h: torch.from_numpy(h.detach().numpy())])
def test_copies_on_the_way_to_what_they_equal_are_no_teachers(cut: Any) -> None:
    """Layers are cloned to begin with: those before a detach() are cut off like any others."""

    class Cloned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            block = nn.Sequential(nn.Linear(20, 20), nn.ReLU())
            self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(4))
            self.head = nn.Linear(20, 5)

        def forward(self, x: Tensor) -> Tensor:
            for number, block in enumerate(self.blocks):
                x = block(x)
                x = cut(x) if number == 1 else x
            out: Tensor = self.head(x)
            return out

    x, y = batch()
    diagnosis = probe(Cloned(), x, y, loss=F.cross_entropy)
    assert [(f.code, f.severity) for f in diagnosis.of(["GH401"])] == [("GH401", "failure")]
