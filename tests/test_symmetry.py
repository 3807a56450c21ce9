"""Units that nothing tells apart (GH406), and attention that cannot learn where to look (GH407)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import IdenticalUnitsError, assert_healthy, probe, suggest
from pytest_gradhealth.results.profile import GradientProfile, OutputRecord, ParameterRecord
from pytest_gradhealth.rules import Evidence, attention_collapse
from pytest_gradhealth.rules.attention_collapse import LIMIT, attention_ratios
from tests.helpers.findings import told
from tests.helpers.nets import batch, mlp


def constant(model: nn.Module, *indices: int, value: float = 0.05) -> nn.Module:
    """A model with constant weights in the layers given."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for index in indices or range(len(layers)):
        nn.init.constant_(layers[index].weight, value)
        assert layers[index].bias is not None
        nn.init.zeros_(layers[index].bias)  # type: ignore[arg-type]
    return model


def test_units_of_a_constant_initialisation_fail() -> None:
    x, y = batch()
    model = constant(mlp(hidden=3, width=8))
    diagnosis = probe(model, x, y, loss=F.cross_entropy)
    assert told(diagnosis, "GH406") == [
        (
            "failure",
            "0",
            "all 8 units of 0.weight are the same, and get the same gradient; so are those of"
            " 2 more weights",
        )
    ]
    with pytest.raises(IdenticalUnitsError, match=r"kaiming_normal_"):
        assert_healthy(model, x, y, loss=F.cross_entropy)


def test_a_random_initialisation_cures_them() -> None:
    x, y = batch(32)
    diagnosis = probe(constant(mlp()), x, y, loss=F.cross_entropy)
    cured = {t.remedy for t in suggest(diagnosis) if t.outcome == "cured"}
    assert {"Kaiming init", "orthogonal init"} <= cured


def test_the_units_are_the_same_after_any_training() -> None:
    """The identity behind the rule: equal rows with equal gradients stay equal."""
    x, y = batch()
    model: Any = constant(mlp(hidden=3, width=8)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        loss: Any = F.cross_entropy(model(x.double()), y)
        loss.backward()
        optimizer.step()
    for layer in (model[0], model[2]):
        rows = layer.weight.detach()
        assert torch.allclose(rows, rows[:1].expand_as(rows), rtol=1e-9, atol=1e-12)


def test_a_constant_convolution_fails() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)
    )
    constant(model, 0, 1)
    x, y = torch.randn(8, 1, 6, 6), torch.randint(0, 5, (8,))
    (found,) = told(probe(model, x, y, loss=F.cross_entropy), "GH406")
    assert found[:2] == ("failure", "0")


HARMLESS: dict[str, Callable[[], nn.Module]] = {
    "constant layer behind a random one": lambda: constant(mlp(), 2),
    "one unit": lambda: constant(nn.Sequential(nn.Linear(20, 1), nn.Tanh(), nn.Linear(1, 5)), 0),
    "constant with dropout": lambda: constant(
        nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 5)), 0
    ),
    "zero output layer": lambda: constant(mlp(), 2, value=0.0),
    "zero layer in the middle": lambda: nn.Sequential(
        constant(nn.Linear(20, 32), 0, value=0.0), nn.Tanh(), nn.Linear(32, 5)
    ),
    "constant layer before a random one": lambda: constant(mlp(), 0),
    "constant layer": lambda: constant(nn.Linear(20, 5)),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_the_gradient_tells_apart_is_healthy(name: str) -> None:
    x, y = batch()
    diagnosis = probe(HARMLESS[name](), x, y, loss=F.cross_entropy, select=["GH406"])
    assert diagnosis.findings == ()
    assert diagnosis.confirmation is None, "the first look was enough"


def test_equal_outputs_under_a_sum_are_the_losss_doing() -> None:
    x, _ = batch()
    model = constant(mlp(), 3)
    assert told(probe(model, x, loss=lambda y: y.sum()), "GH406") == []


class Attention(nn.Module):
    """One head of self-attention, with names for the projections; no skip."""

    def __init__(self, width: int, names: tuple[str, str, str] | None) -> None:
        super().__init__()
        self.names = names
        if names is None:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            for name in names:
                self.add_module(name, nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        if self.names is None:
            q, k, v = self.qkv(x).chunk(3, -1)
        else:
            q, k, v = (getattr(self, name)(x) for name in self.names)
        mixed: Tensor = F.scaled_dot_product_attention(q, k, v)
        return mixed


NAMES = {
    "fused": None,
    "Hugging Face": ("q_proj", "k_proj", "v_proj"),
    "BERT": ("query", "key", "value"),
    "diffusers": ("to_q", "to_k", "to_v"),
}


def tower(names: tuple[str, str, str] | None, depth: int, skip: bool) -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(16), Attention(16, names)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.attention(self.norm(x))
            return x + out if skip else out

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
            self.head = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.blocks(x).mean(1))
            return out

    return Tower()


@pytest.mark.parametrize("name", NAMES)
def test_attention_without_skips_collapses(name: str) -> None:
    x, y = torch.randn(8, 12, 16), torch.randint(0, 5, (8,))
    sick = probe(tower(NAMES[name], 8, skip=False), x, y, loss=F.cross_entropy)
    ((severity, layer, message),) = told(sick, "GH407")
    assert severity == "warning"
    assert layer.endswith("attention.qkv" if name == "fused" else "attention")
    start = f"attention collapses in {layer}: its tokens are all the same, and query and key get x"
    assert message.startswith(start)
    assert message.endswith("of the gradient of value; limit x0.0001")
    healthy = probe(tower(NAMES[name], 8, skip=True), x, y, loss=F.cross_entropy)
    assert told(healthy, "GH407") == []
    assert attention_ratios(healthy.profile) == {}, "its tokens differ"


@pytest.mark.parametrize("spread", [1e-3, 0.1])
def test_both_the_tokens_and_the_gradients_have_to_collapse(spread: float) -> None:
    """Small weights alone make the gradient of query and key small, and are no fault."""
    x = torch.randn(8, 1, 16) + spread * torch.randn(8, 12, 16)
    y = torch.randint(0, 5, (8,))
    model = tower(NAMES["BERT"], 1, skip=False)
    block: Any = model.blocks[0]  # type: ignore[index]
    with torch.no_grad():
        for layer in (block.attention.query, block.attention.key):
            layer.weight.mul_(1e-3)
            layer.bias.zero_()
    diagnosis = probe(model, x, y, loss=F.cross_entropy, confirm_steps=0)
    (ratio,) = attention_ratios(diagnosis.profile).values() if spread < 0.03 else (0.0,)
    assert ratio < LIMIT
    assert [s for s, _, _ in told(diagnosis, "GH407")] == (["warning"] if spread < 0.03 else [])


@pytest.mark.parametrize(("later", "severities"), [(1e-6, ["warning"]), (0.5, [])])
def test_the_second_look_has_to_see_it_too(later: float, severities: list[str]) -> None:
    sizes = {"att.q_proj.weight": 1e-9, "att.k_proj.weight": 1e-9, "att.v_proj.weight": 1.0}
    weights = tuple(ParameterRecord(n, (4, 4), "gradient", 1.0, g) for n, g in sizes.items())

    def look_with(tokens: float, steps: int) -> GradientProfile:
        value = OutputRecord("att.v_proj", "Linear", "measured", (8, 5, 4), tokens=tokens)
        return GradientProfile(0, steps, 2.3, (), (value,), parameters=weights)

    found = attention_collapse.check(Evidence(look_with(1e-6, 0), look_with(later, 5), {}))
    assert [finding.severity for finding in found] == severities


def test_the_ratio_of_multihead_attention_is_counted_by_hand() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(16, 2), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.attention(x, x, x)[0].mean(0))
            return out

    model = Pooled()
    x, y = torch.randn(8, 16) + 0.01 * torch.randn(12, 8, 16), torch.randint(0, 5, (8,))
    loss: Any = F.cross_entropy(model(x), y)
    loss.backward()
    gradient: Any = model.attention.in_proj_weight.grad
    q, k, v = (part.norm().item() for part in gradient.chunk(3))
    model.zero_grad()
    ratios = attention_ratios(probe(model, x, y, loss=F.cross_entropy).profile)
    assert ratios == {"attention": pytest.approx(min(q, k) / v, rel=1e-5)}


@pytest.mark.parametrize("name", NAMES)
def test_a_single_token_is_no_collapse(name: str) -> None:
    """Attention over one token is one whatever query and key are."""
    x, y = torch.randn(8, 1, 16), torch.randint(0, 5, (8,))
    diagnosis = probe(tower(NAMES[name], 2, skip=True), x, y, loss=F.cross_entropy)
    assert told(diagnosis, "GH407") == []
