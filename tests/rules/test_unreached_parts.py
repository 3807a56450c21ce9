"""One weight that is several in one gets the verdict of several weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, assert_all_reached, probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import told
from tests.helpers.state import unchanged

WORDS, WIDTH, LENGTH = 30, 16, 6


def diagnosed(model: nn.Module, x: Tensor, y: Tensor) -> Diagnosis:
    with unchanged(model):
        return probe(model, x, y, loss=F.cross_entropy)


def sentences() -> tuple[Tensor, Tensor]:
    return torch.randint(WORDS, (8, LENGTH)), torch.randint(5, (8,))


def attention(
    joint: bool, change: Callable[[Tensor], Tensor], mix: Callable[[Tensor], Tensor] | None = None
) -> nn.Module:
    """Attention with a change of its scores, by one weight for query, key and value or by three."""

    def forward(m: Any, ids: Tensor) -> Tensor:
        x = m.words(ids)
        q, k, v = m.qkv(x).chunk(3, -1) if joint else (m.query(x), m.key(x), m.value(x))
        weights = change(q @ k.mT / 4).softmax(-1)
        out: Tensor = m.head((x + (mix or (lambda v: v))(weights @ v)).mean(1))
        return out

    names = ("qkv",) if joint else ("query", "key", "value")
    parts = {name: nn.Linear(WIDTH, 3 * WIDTH // len(names)) for name in names}
    return Wired(forward, words=nn.Embedding(WORDS, WIDTH), head=nn.Linear(WIDTH, 5), **parts)


SEVERED: dict[str, Callable[[Tensor], Tensor]] = {
    "detached": torch.detach,
    "rounded to a grid": lambda scores: (8 * scores).round() / 8,
    "by their order": lambda scores: scores.argsort(-1).to(scores.dtype),
}


@pytest.mark.parametrize("change", [SEVERED["detached"], SEVERED["by their order"]])
def test_attention_whose_scores_are_cut_off(change: Callable[[Tensor], Tensor]) -> None:
    apart = diagnosed(attention(False, change), *sentences())
    joint = diagnosed(attention(True, change), *sentences())
    assert [f.severity for f in apart.findings if f.code == "GH401"] == ["failure"]
    text = "no gradient reaches 2 parameters (qkv.weight[query] and qkv.weight[key]): cut off"
    assert told(joint, "GH401") == [("failure", "qkv", f"{text} from the loss")]


def test_attention_over_scores_that_are_rounded_is_cut_off() -> None:
    (found,) = told(diagnosed(attention(True, SEVERED["rounded to a grid"]), *sentences()), "GH401")
    assert found[:2] == ("failure", "qkv")


@pytest.mark.parametrize("length", [LENGTH, 1])
def test_the_attention_of_torch(length: int) -> None:
    """Over one token, query and key have no say, whoever makes them."""

    def forward(m: Any, ids: Tensor) -> Tensor:
        x = m.words(ids[:, :length])
        out: Tensor = m.head((x + m.mix(x, x, x)[0]).mean(1))
        return out

    model = Wired(
        forward,
        words=nn.Embedding(WORDS, WIDTH),
        mix=nn.MultiheadAttention(WIDTH, 2, batch_first=True),
        head=nn.Linear(WIDTH, 5),
    )
    text = "zero gradient for 2 parameters (mix.in_proj_weight[query] and"
    text += " mix.in_proj_weight[key]): over one token, attention has nothing to choose"
    expected = [] if length > 1 else [("info", "mix", text)]
    assert told(diagnosed(model, *sentences()), "GH401") == expected


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(("length", "severity"), [(1, "info"), (LENGTH, "warning")])
def test_attention_that_is_the_same_whatever_the_scores(
    joint: bool, length: int, severity: str
) -> None:
    """Over one token by its nature, over more since the scores are flat where they are."""
    model = attention(joint, lambda s: s if length == 1 else s.clamp(min=9.0))
    ids, labels = sentences()
    diagnosis = diagnosed(model, ids[:, :length], labels)
    assert [f.severity for f in diagnosis.findings if f.code == "GH401"] == [severity]


@pytest.mark.parametrize("joint", [True, False])
def test_values_that_start_at_zero_wake_up(joint: bool) -> None:
    model = attention(joint, lambda scores: scores)
    for name, parameter in model.named_parameters():
        if name.startswith("qkv"):
            nn.init.zeros_(parameter.data[2 * WIDTH :])
        if name.startswith("value"):
            nn.init.zeros_(parameter)
    assert diagnosed(model, *sentences()).verdict == "healthy"


def recurrent(kind: Callable[..., nn.Module], gate: int | None, size: float) -> nn.Module:
    """A layer with one of its gates pushed so far that it is flat."""

    def forward(m: Any, x: Tensor) -> Any:
        return m.head(m.layer(x)[0][:, -1])

    model = Wired(forward, layer=kind(8, WIDTH, batch_first=True), head=nn.Linear(WIDTH, 5))
    if gate is not None:
        bias = model.layer.get_parameter("bias_ih_l0").data
        bias[gate * WIDTH : (gate + 1) * WIDTH] = size
    return model


@pytest.mark.parametrize(
    ("kind", "gate", "size", "name"),
    [
        (nn.LSTM, 0, 1e4, "input"),
        (nn.LSTM, 1, 1e4, "forget"),
        (nn.LSTM, 3, 1e4, "output"),
        (nn.GRU, 0, 1e4, "reset"),
        (nn.GRU, 1, -1e4, "update"),
    ],
)
def test_a_gate_that_is_flat(
    kind: Callable[..., nn.Module], gate: int, size: float, name: str
) -> None:
    x, y = torch.randn(8, LENGTH, 8), torch.randint(5, (8,))
    text = f"exactly zero gradient for 2 parameters (layer.weight_ih_l0[{name}] and"
    text += f" layer.weight_hh_l0[{name}]), in a side branch"
    diagnosis = diagnosed(recurrent(kind, gate, size), x, y)
    assert told(diagnosis, "GH401") == [("warning", "layer", text)]
    with pytest.raises(AssertionError, match=f"{name}"):
        assert_all_reached(recurrent(kind, gate, size), x, y, loss=F.cross_entropy)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("gate", [None, 1])
def test_gates_that_are_open_or_shut_as_people_have_them(
    kind: Callable[..., nn.Module], gate: int | None
) -> None:
    x, y = torch.randn(8, LENGTH, 8), torch.randint(5, (8,))
    assert told(diagnosed(recurrent(kind, gate, 3.0), x, y), "GH401") == []


def test_one_step_from_a_state_of_zeros_is_told_once() -> None:
    """It has nothing to forget, as weight_hh says already."""
    x, y = torch.randn(8, 1, 8), torch.randint(5, (8,))
    text = "exactly zero gradient for 1 parameter (layer.weight_hh_l0), in a side branch"
    diagnosis = diagnosed(recurrent(nn.LSTM, None, 0.0), x, y)
    assert told(diagnosis, "GH401") == [("warning", "layer", text)]


def language_model(tied: bool, cut: bool) -> nn.Module:
    def forward(m: Any, ids: Tensor) -> Tensor:
        x = m.words(ids)
        out: Tensor = m.head(m.body(x.detach() if cut else x))
        return out.mT

    model = Wired(
        forward,
        words=nn.Embedding(WORDS, WIDTH),
        body=nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)),
        head=nn.Linear(WIDTH, WORDS, bias=False),
    )
    if tied:
        model.head.weight = model.words.weight
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cut", [True, False])
def test_an_embedding_whose_own_use_is_cut_off(tied: bool, cut: bool) -> None:
    ids = torch.randint(WORDS, (8, LENGTH))
    diagnosis = diagnosed(language_model(tied, cut), ids, torch.randint(WORDS, (8, LENGTH)))
    text = "no gradient reaches 1 parameter (words.weight): cut off from the loss"
    assert told(diagnosis, "GH401") == ([("failure", "words", text)] if cut else [])


def test_a_tied_layer_whose_output_is_written_over_is_not_cut_off() -> None:
    """Hooks on the output see nothing of a gradient that comes past what was written to a view."""

    class Words(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids).view(*ids.shape, -1)

    def forward(m: Any, ids: Tensor) -> Any:
        x = m.words(ids)
        x.mul_(2)
        return m.head(m.body(x)).mT

    model = Wired(
        forward,
        words=Words(WORDS, WIDTH),
        body=nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(inplace=True)),
        head=nn.Linear(WIDTH, WORDS, bias=False),
    )
    model.head.weight = model.words.weight
    ids = torch.randint(WORDS, (8, LENGTH))
    diagnosis = diagnosed(model, ids, torch.randint(WORDS, (8, LENGTH)))
    assert {o.state for o in diagnosis.profile.outputs if o.name == "words"} == {"unreached"}
    assert diagnosis.verdict == "healthy", diagnosis


def test_a_module_of_two_names_is_not_cut_off() -> None:
    """As in networks whose levels are also kept in a chain; its norm is written over in place."""

    class Norm(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).view(len(x), -1)

    def forward(m: Any, x: Tensor) -> Any:
        return m.head(F.leaky_relu_(m.norm(F.relu(m.first(x)))))

    model = Wired(
        forward, first=nn.Linear(20, 8), norm=Norm(8, 8), head=nn.Linear(8, 5), again=nn.Module()
    )
    model.again.norm = model.norm
    x, y = torch.randn(8, 20), torch.randint(5, (8,))
    assert told(diagnosed(model, x, y), "GH401") == []


def test_a_tied_layer_that_is_called_for_a_target_too_is_not_cut_off() -> None:
    """Of its calls, one is to have no gradient, as it is in learning from one's own outputs."""

    def forward(m: Any, ids: Tensor) -> Any:
        shift = (m.words(ids.flip(0)).detach() - m.words(ids)).pow(2).mean()
        return m.head(m.words(ids)).mT * (1 + shift)

    words, head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
    head.weight = words.weight
    ids = torch.randint(WORDS, (8, LENGTH))
    model = Wired(forward, words=words, head=head)
    assert diagnosed(model, ids, torch.randint(WORDS, (8, LENGTH))).verdict == "healthy"


def test_a_tied_layer_that_is_not_used_is_not_cut_off() -> None:
    """Its weight has all that it needs from the other."""

    def forward(m: Any, ids: Tensor) -> Tensor:
        m.words(ids[:, :1])
        out: Tensor = m.head(m.body(m.others(ids)))
        return out.mT

    model = Wired(
        forward,
        words=nn.Embedding(WORDS, WIDTH),
        others=nn.Embedding(WORDS, WIDTH),
        body=nn.Linear(WIDTH, WIDTH),
        head=nn.Linear(WIDTH, WORDS, bias=False),
    )
    model.head.weight = model.words.weight
    ids = torch.randint(WORDS, (8, LENGTH))
    assert diagnosed(model, ids, torch.randint(WORDS, (8, LENGTH))).verdict == "healthy"
