"""Parameters that the forward does not use are a warning, unless all have to be reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import (
    UnreachedParameterError,
    UnusedParameterError,
    assert_all_reached,
    assert_healthy,
    probe,
)
from tests.helpers.architectures import Wired
from tests.helpers.findings import explained, said, told
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def beside(**parts: Any) -> Wired:
    return Wired(lambda m, x: m.body(x), body=mlp(), **parts)


class OwnLinear(nn.Linear):
    """A layer with a forward of its own, which has a use for a bias or has none."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__(20, 20)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def own(use: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return Wired(lambda m, x: m.body(m.own(x)), body=mlp(), own=OwnLinear(use))


UNUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "module of a class of its own": (
        lambda: beside(special_token_embed=nn.Embedding(3, 5)),
        "special_token_embed",
        "the loss does not depend on special_token_embed (1 parameter)",
    ),
    "token": (
        lambda: beside(mask_token=nn.Parameter(torch.zeros(4))),
        "mask_token",
        "the loss does not depend on mask_token (1 parameter)",
    ),
    "token of a block": (
        lambda: Wired(
            lambda m, x: m.inner(x),
            inner=Wired(
                lambda m, x: m.second(m.first(x)),
                first=nn.Linear(20, 8),
                second=nn.Linear(8, 5),
                mask_token=nn.Parameter(torch.zeros(4)),
            ),
        ),
        "inner",
        "the loss does not depend on inner.mask_token (1 parameter)",
    ),
    "ignored pooler": (
        lambda: Wired(
            lambda m, x: (m.pooler(x), m.body(x))[1],
            body=mlp(),
            pooler=nn.Sequential(nn.Linear(20, 4), nn.Tanh()),
        ),
        "pooler.0",
        "the loss does not depend on pooler (2 parameters)",
    ),
    "bias": (
        lambda: own(lambda m, x: F.linear(x, m.weight)),
        "own",
        "the loss does not depend on own.bias (1 parameter)",
    ),
    "bias beside a function of the weight": (
        lambda: own(lambda m, x: F.linear(x, m.weight.tanh())),
        "own",
        "the loss does not depend on own.bias (1 parameter)",
    ),
    "many": (
        lambda: beside(
            conv=nn.Sequential(nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 1)),
            token=nn.Parameter(torch.zeros(4)),
            norm=nn.LayerNorm(3),
            bilinear=nn.Bilinear(2, 2, 2),
        ),
        "token",
        "the loss does not depend on token, conv, norm and 1 more (9 parameters)",
    ),
}


@pytest.mark.parametrize("name", UNUSED)
def test_what_the_forward_does_not_use_is_a_warning_unless_asked_for(name: str) -> None:
    build, layer, message = UNUSED[name]
    x, y = batch()
    model = build()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "warning"
    assert said(diagnosis) == [("GH405", "warning", layer)]
    assert diagnosis.findings[0].message == message
    assert_healthy(model, x, y, loss=cross_entropy)
    with pytest.raises(UnusedParameterError) as caught:
        assert_all_reached(model, x, y, loss=cross_entropy)
    assert isinstance(caught.value, UnreachedParameterError)
    assert message in str(caught.value)
    with pytest.raises(UnusedParameterError):
        assert_all_reached(diagnosis)
    assert_all_reached(model, x, y, loss=cross_entropy, ignore=["GH405"])
    model.requires_grad_(False)
    model.get_submodule("inner.first" if "block" in name else "body").requires_grad_(True)
    assert_all_reached(model, x, y, loss=cross_entropy)


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: F.linear(x, m.weight, m.bias.detach()),
        lambda m, x: F.linear(x, m.weight, m.bias.data),
        lambda m, x: F.linear(x, m.weight) + torch.from_numpy(m.bias.detach().numpy()),
        lambda m, x: F.linear(x, m.weight) + float(m.bias[0]),
    ],
    ids=["detach", "data", "numpy", "float"],
)
def test_a_bias_that_is_used_and_cut_off_fails(use: Callable[[Any, Tensor], Tensor]) -> None:
    x, y = batch()
    diagnosis = probe(own(use), x, y, loss=cross_entropy)
    assert [message for _, _, message in told(diagnosis, "GH401")] == [
        "no gradient reaches 1 parameter (own.bias): cut off from the loss"
    ]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gain = nn.Linear(20, 20), nn.Parameter(torch.ones(20))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.gain * self.norm(x).relu()
        return out


SPARE: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "head": (lambda: beside(head=nn.Linear(5, 5)), "head", "head (2 parameters)"),
    "head for another task": (
        lambda: beside(lm_head=nn.Sequential(nn.Linear(5, 5), nn.GELU(), nn.LayerNorm(5))),
        "lm_head.0",
        "lm_head (4 parameters)",
    ),
    "two heads": (
        lambda: beside(a=nn.Linear(5, 5), b=nn.ModuleList([nn.Linear(5, 5)])),
        "a",
        "a and b (4 parameters)",
    ),
    "embedding": (
        lambda: Wired(
            lambda m, x: m.body(x + m.positions(torch.arange(20)).mT),
            body=mlp(),
            positions=nn.Embedding(20, 1),
            special_token_embed=nn.Embedding(2, 4),
        ),
        "special_token_embed",
        "special_token_embed (1 parameter)",
    ),
    "block": (
        lambda: Wired(
            lambda m, x: m.last(m.first(x)), first=Block(), last=nn.Linear(20, 5), other=Block()
        ),
        "other",
        "other (3 parameters)",
    ),
    "parametrised layer": (
        lambda: beside(extra=nn.utils.parametrizations.weight_norm(nn.Linear(5, 5))),
        "extra",
        "extra (3 parameters)",
    ),
    "beside weights that a function takes": (
        lambda: Wired(
            lambda m, x: m.head(F.linear(x, m.body.weight, m.body.bias)),
            body=nn.Linear(20, 5),
            head=nn.Sequential(nn.PReLU(), nn.PReLU()),
            extra=nn.Linear(5, 5),
        ),
        "extra",
        "extra (2 parameters)",
    ),
    "second layer of a block": (
        lambda: nn.Sequential(
            Wired(lambda m, x: m.fc1(x).relu(), fc1=nn.Linear(20, 20), fc2=nn.Linear(20, 20)),
            nn.Linear(20, 5),
        ),
        "0.fc2",
        "0.fc2 (2 parameters)",
    ),
}


@pytest.mark.parametrize("name", SPARE)
def test_what_is_not_called_where_others_of_its_class_are_is_no_warning(name: str) -> None:
    build, layer, names = SPARE[name]
    (x, y), model = batch(), build()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    text = f"the loss does not depend on {names}: not called here, as others of the class or its"
    text += " own parts are"
    assert told(diagnosis, "GH405") == [("info", layer, text)]
    with pytest.raises(UnusedParameterError):
        assert_all_reached(diagnosis)


def test_the_message_says_what_to_type_and_that_helps() -> None:
    (x, y), model = batch(), UNUSED["many"][0]()
    del model.token
    diagnosis = probe(model, x, y, loss=cross_entropy)
    typed = "GH405:conv,GH405:norm,GH405:bilinear"
    assert f"--gradhealth-ignore='{typed}'" in " ".join(str(diagnosis).split())
    assert probe(model, x, y, loss=cross_entropy, ignore=typed).findings == ()
    assert_all_reached(diagnosis, ignore=typed)
    model.more = nn.Sequential(nn.Embedding(2, 2), nn.Bilinear(2, 2, 2))
    model.odd = nn.ModuleDict({"it's, odd": nn.Embedding(2, 2)})
    model.conv = nn.Identity()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert "--gradhealth-ignore='GH405'" in str(diagnosis)
    model.more = model.norm = model.bilinear = nn.Identity()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert "--gradhealth-ignore='GH405:odd'" in str(diagnosis)


@pytest.mark.parametrize("body", [lambda: nn.Linear(20, 5), mlp], ids=["Linear", "Sequential"])
def test_a_token_beside_an_only_child_is_unused_too(body: Callable[[], nn.Module]) -> None:
    token = nn.Parameter(torch.zeros(4))
    model = nn.Sequential(Wired(lambda m, x: m.body(x), body=body(), token=token))
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis)[0] == ("GH405", "warning", "0")


def test_a_token_of_the_model_beside_a_list_is_unused_too() -> None:
    model = Wired(
        lambda m, x: m.layers[1](m.layers[0](x)),
        layers=nn.ModuleList([nn.Linear(20, 8), nn.Linear(8, 5)]),
        token=nn.Parameter(torch.zeros(4)),
    )
    x, y = batch()
    assert said(probe(model, x, y, loss=cross_entropy)) == [("GH405", "warning", "token")]


def test_a_layer_whose_result_is_thrown_away_is_unused() -> None:
    x, y = batch()
    model = Wired(lambda m, x: (m.extra(x), m.body(x))[1], body=mlp(), extra=nn.Linear(20, 5))
    assert said(probe(model, x, y, loss=cross_entropy)) == [("GH405", "warning", "extra")]


class Attending(nn.Module):
    """Layers that move tokens and places, of which only one kind is read in the end."""

    def __init__(self, read: int) -> None:
        super().__init__()
        self.read, self.embed, self.head = read, nn.Linear(20, 20), nn.Linear(20, 5)
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Linear(20, 20), nn.Linear(20, 20), nn.LayerNorm(20)])
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = places = self.embed(x)
        layer: Any
        for layer in self.layers:
            both = tokens + places
            tokens = tokens + layer[0](both).tanh()
            places = places + layer[2](layer[1](both)).tanh()
        out: Tensor = self.head((tokens, places)[self.read])
        return out


@pytest.mark.parametrize("read", [0, 1])
def test_what_the_last_of_a_stack_makes_for_no_next_one_is_no_warning(read: int) -> None:
    x, y = batch()
    diagnosis = probe(Attending(read), x, y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    (told_of,) = diagnosis.of(["GH405"])
    names = ["layers.2.1 and layers.2.2 (4 parameters)", "layers.2.0 (2 parameters)"][read]
    text = f"the loss does not depend on {names}: the last of a stack, where nothing reads it"
    assert (told_of.severity, told_of.message) == ("info", text)
    with pytest.raises(UnusedParameterError) as caught:
        assert_all_reached(Attending(read), x, y, loss=cross_entropy)
    assert "--gradhealth-ignore='GH405:layers.2" in " ".join(str(caught.value).split())


def test_queries_of_tokens_that_nobody_reads_are_zero_in_the_last_layer_alone() -> None:
    """As where a class token alone is read: the same in every layer would be a warning."""

    class Last(nn.Module):
        def __init__(self, dead: tuple[int, ...]) -> None:
            super().__init__()
            self.dead, self.embed, self.head = dead, nn.Linear(20, 20), nn.Linear(20, 5)
            self.layers = nn.ModuleList(
                nn.ModuleDict({"move": nn.Linear(20, 20), "ask": nn.Linear(20, 20)})
                for _ in range(3)
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            for number, layer in enumerate(self.layers):
                asked = layer["ask"](x)  # type: ignore[index]
                asked = asked * (x.abs().sum() < 1 if number in self.dead else 1.0)
                x = x + layer["move"](x).tanh() + asked.tanh()  # type: ignore[index]
            out: Tensor = self.head(x)
            return out

    x, y = batch()
    diagnosis = probe(Last((2,)), x, y, loss=cross_entropy)
    assert told(diagnosis, "GH401") == []
    assert [severity for severity, *_ in told(diagnosis, "GH405")] == ["info"]
    assert told(probe(Last((0,)), x, y, loss=cross_entropy), "GH401")[0][0] == "warning"
    assert told(probe(Last((1, 2)), x, y, loss=cross_entropy), "GH401")[0][0] == "warning"


class Levels(nn.Module):
    """Layers as lists of their parts side by side; what goes beside is not read in the end."""

    def __init__(self, read: int) -> None:
        super().__init__()
        self.read, self.embed, self.head = read, nn.Linear(20, 20), nn.Linear(20, 5)
        self.moves = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))
        self.asides = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(20) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        states = [self.embed(x)]
        aside = x
        for move, beside, norm in zip(self.moves, self.asides, self.norms, strict=True):
            states.append(states[-1] + move(states[-1] + aside).tanh())
            aside = norm(beside(aside))
        out: Tensor = self.head(states[self.read])
        return out


def test_parts_of_the_last_layer_in_lists_side_by_side_may_be_read_by_nobody() -> None:
    x, y = batch()
    diagnosis = probe(Levels(3), x, y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    ((severity, _, message),) = told(diagnosis, "GH405")
    assert severity == "info"
    assert message == (
        "the loss does not depend on asides.2 and norms.2 (4 parameters): the last of a stack,"
        " where nothing reads it"
    )
    early = probe(Levels(2), x, y, loss=cross_entropy)
    severity, _, message = told(early, "GH405")[0]
    assert severity == "warning", "one layer too few is read"
    assert "moves.2" in message


class Typed(nn.Module):
    """A normalisation of features of several degrees, of which the last is not read in the end."""

    def __init__(self, scales: Any, *, read: int = 1) -> None:
        super().__init__()
        self.embed, self.scales, self.head = nn.Linear(20, 20), scales, nn.Linear(20, 5)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        features = [self.embed(x), self.embed(x) - x]
        normed = [f * scale for f, scale in zip(features, self.scales, strict=True)]
        out: Tensor = self.head(sum(normed[: self.read]))
        return out


def test_a_parameter_of_a_list_of_which_others_are_used_is_information() -> None:
    x, y = batch()
    model = Typed(nn.ParameterList(torch.ones(20) for _ in range(2)))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    text = "the loss does not depend on scales.1 (1 parameter): others in the same list get a"
    assert told(diagnosis, "GH405") == [("info", "scales", f"{text} gradient")]
    with pytest.raises(UnusedParameterError):
        assert_all_reached(model, x, y, loss=cross_entropy)


def test_a_list_of_which_none_is_used_and_a_lone_parameter_are_warnings() -> None:
    x, y = batch()
    for parts in (
        {"scales": nn.ParameterList(torch.ones(20) for _ in range(2))},
        {"scale": nn.Parameter(torch.ones(20))},
    ):
        model = Wired(lambda m, x: m.body(x), body=mlp(), **parts)
        diagnosis = probe(model, x, y, loss=cross_entropy)
        assert [severity for severity, *_ in told(diagnosis, "GH405")] == ["warning"]


def test_a_last_block_of_which_nothing_is_read_is_a_warning() -> None:
    """One step too few, by mistake: no part of the last block is used."""

    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(20, 20), nn.Linear(20, 5)
            self.blocks = nn.ModuleList(mlp(hidden=1, classes=20) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            before = x = self.embed(x)
            for block in self.blocks:
                before, x = x, x + block(x)
            out: Tensor = self.head(before)
            return out

    x, y = batch()
    diagnosis = probe(Early(), x, y, loss=cross_entropy)
    assert [severity for severity, *_ in told(diagnosis, "GH405")] == ["warning"]


@pytest.mark.parametrize(
    ("use", "because", "advice"),
    [
        (
            lambda scale: nn.Parameter(2 * scale),
            "the forward makes an nn.Parameter of its own of that shape, which no optimizer has",
            "nn.Parameter(...) in __init__ alone, and the tensor itself in the forward",
        ),
        (
            lambda scale: torch.tensor(scale.tolist()),
            "tolist in (output) (Wired) makes plain numbers, which have no gradient",
            "the same in torch, without it",
        ),
        (
            lambda scale: scale.data,
            "data in (output) (Wired) cuts the gradient off",
            "take it out, or freeze what is before it",
        ),
    ],
    ids=["a parameter of its own", "numbers", "data"],
)
def test_a_parameter_that_the_forward_makes_another_tensor_of(
    use: Callable[[Tensor], Tensor], because: str, advice: str
) -> None:
    parts = {"a": nn.Linear(4, 16), "b": nn.Linear(16, 3)}
    model = Wired(lambda m, x: m.b((m.a(x) * use(m.scale)).relu()), **parts)
    model.scale = nn.Parameter(torch.ones(16))
    diagnosis = probe(model, torch.randn(8, 4), torch.arange(8) % 3, loss=F.cross_entropy)
    assert explained(diagnosis, "GH405")[1:] == (because, advice)


def test_a_list_of_layers_makes_no_parameter_of_the_shape_of_one_of_theirs() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.head = [nn.Linear(8, 8)], nn.Linear(8, 1)
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.layers[0](x).tanh())
            return out

    diagnosis = probe(Listed(), torch.randn(8, 8), torch.randn(8, 1), loss=F.mse_loss)
    assert sorted(diagnosis.profile.unregistered) == [(8,), (8, 8)]
    assert explained(diagnosis, "GH405")[1] == (
        "their module is never called, does without them, or its output is not used"
    )
