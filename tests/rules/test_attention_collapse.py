"""Attention that cannot learn where to look fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import probe
from pytest_gradhealth.results.profile import GradientProfile, OutputRecord, ParameterRecord
from pytest_gradhealth.rules import Evidence, attention_collapse
from pytest_gradhealth.rules.attention_collapse import LIMIT, attention_ratios
from tests.helpers.findings import told


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
