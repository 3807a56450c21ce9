"""Faults of further fields, each with its cured twin: cause and cure are what is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from pytest_gradhealth import probe
from tests.helpers.findings import explained

RANDOM = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 4, generator=RANDOM), torch.arange(16) % 3
PICTURE = torch.rand(16, 1, 8, 8, generator=RANDOM)
FIRST = torch.arange(16) == 0


class Net(nn.Module):
    """Two layers, and what a field does with them."""

    body: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]

    def __init__(self, use: Callable[[Net, Tensor], Tensor], outputs: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, outputs)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


Use = Callable[[Net, Tensor], Tensor]


def plain(net: Net, x: Tensor) -> Tensor:
    return net.head(net.body(x).tanh())


def warped(scale: float) -> Use:
    def use(net: Net, x: Tensor) -> Tensor:
        pixels = 4 + plain(net, x).view(16, 1, 1, 2)
        return F.grid_sample(PICTURE, (pixels - 3.5) / scale, align_corners=False).flatten(1)

    return use


def embedded(net: Net, x: Tensor) -> Tensor:
    return F.normalize(F.relu(plain(net, x)), dim=-1)


def policy(net: Net, x: Tensor) -> Tensor:
    return plain(net, x).softmax(-1)


def similar(net: Net, x: Tensor) -> Tensor:
    outputs = plain(net, x)
    return F.cosine_similarity(F.relu(outputs), x[:, : outputs.shape[1]].abs())


def normed(net: Net, x: Tensor) -> Tensor:
    return F.batch_norm(plain(net, x), None, None, training=True)


def hashed(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.sign(net.body(x)))


def hashed_straight(net: Net, x: Tensor) -> Tensor:
    h = net.body(x)
    return net.head(h + (h.sign() - h).detach())


def translated(mask: Tensor) -> Use:
    def use(net: Net, x: Tensor) -> Tensor:
        h = net.body(x)[None]
        return net.head(F.scaled_dot_product_attention(h, h, h, attn_mask=mask)[0])

    return use


PADDING = torch.zeros(16, 16, dtype=torch.bool)


def orthogonal(start: float) -> Use:
    def use(net: Net, x: Tensor) -> Tensor:
        rows = plain(net, x)[:3]
        turned: Tensor = torch.linalg.qr(start * torch.eye(3) + 0 * rows)[0]
        return x[:, :3] @ turned + plain(net, x)

    return use


def vocoder(size: float) -> Net:
    net, layer = Net(plain, 3), nn.Linear(8, 3)
    nn.init.normal_(layer.weight, std=size)
    net.head = weight_norm(layer)
    return net


class Heated(Net):
    """Learns a temperature."""

    def __init__(self, factor: Callable[[Tensor], Tensor | float]) -> None:
        super().__init__(plain, 3)
        self.temperature, self.factor = nn.Linear(4, 1), factor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor(self.temperature(x).mean())


def spectral(net: Net, x: Tensor) -> Tensor:
    spectrum = np.abs(np.fft.rfft(net.body(x).detach().numpy(), n=14))
    return net.head(torch.from_numpy(spectrum).float())


def spectral_in_torch(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.fft.rfft(net.body(x), n=14).abs())


def survival(fill: float) -> Callable[[Tensor, Tensor], Tensor]:
    def cox(risks: Tensor, _: Tensor) -> Tensor:
        at_risk = (risks[:, 0] + torch.where(FIRST, fill, 0.0)).logcumsumexp(0)
        return (at_risk - risks[:, 0])[~FIRST].mean()

    return cox


def quantised(scale: float) -> Use:
    def use(net: Net, x: Tensor) -> Tensor:
        h = net.body(x) + 9
        return net.head(torch.fake_quantize_per_tensor_affine(h, scale, 0, 0, 255))

    return use


def uncertain(correction: int) -> Callable[[Tensor, Tensor], Tensor]:
    def spread(outputs: Tensor, _: Tensor) -> Tensor:
        own = torch.nan_to_num(outputs[:1].var(0, correction=correction))
        return outputs.square().mean() + own.sum()

    return spread


def molecule(distance: Callable[[Tensor], Tensor]) -> Use:
    def use(net: Net, x: Tensor) -> Tensor:
        atoms = plain(net, x)
        squares = (atoms[:, None] - atoms[None]).square().sum(-1)
        return distance(squares).mean(1)

    return use


def ranked(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.multi_margin_loss(outputs + 99 * F.one_hot(labels, 3), labels)


def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.multi_margin_loss(outputs, labels)


def chosen(outputs: Tensor, labels: Tensor) -> Tensor:
    return -outputs.gather(1, labels[:, None]).mean()


def mean(outputs: Tensor, _: Tensor) -> Tensor:
    return outputs.mean()


def apart(outputs: Tensor, _: Tensor) -> Tensor:
    return (outputs - 2).square()[::2].mean()


def net(use: Use = plain, outputs: int = 3) -> Callable[[], Net]:
    return lambda: Net(use, outputs)


Loss = Callable[[Tensor, Tensor], Tensor]
Twin = tuple[Callable[[], nn.Module], Loss]


@dataclass(frozen=True)
class Fault:
    """A sick model with its loss, its cured twin, and what is told of the sick one."""

    sick: Twin
    cured: Twin
    code: str
    because: str
    advice: str


CANCELS = (
    "what comes back to relu behind head (Linear) on several ways cancels to zero, as where it is"
    " divided by its own norm or sum, or taken from itself"
)
APART = (
    "more than one number in the dimension that is normalised (dim=...), none of it, or a loss that"
    " tells them apart"
)
EVEN = (
    "{} behind head (Linear) sends nothing back of a gradient that is the same for all that it"
    " normalises, as of a mean or a sum"
)
NO_SUM = "a loss that is no mean or sum of what comes out of it"
NUMBERS = "{} in (output) ({}) makes plain numbers, which have no gradient"
IN_TORCH = "the same in torch, without it"
FAULTS = {
    "registration": Fault(
        (net(warped(0.1), 2), apart),
        (net(warped(4.0), 2), apart),
        "GH101",
        "grid_sample behind head (Linear) samples outside of its input alone, where it has no"
        " slope",
        "positions from -1 to 1 (torch.tanh)",
    ),
    "verification": Fault(
        (net(embedded, 1), apart), (net(embedded, 4), apart), "GH101", CANCELS, APART
    ),
    "recommendation": Fault(
        (net(similar, 1), apart), (net(similar, 4), apart), "GH101", CANCELS, APART
    ),
    "self-supervision": Fault(
        (net(normed), mean), (net(normed), apart), "GH101", EVEN.format("batch_norm"), NO_SUM
    ),
    "bandits": Fault(
        (net(policy), mean), (net(policy), chosen), "GH101", EVEN.format("softmax"), NO_SUM
    ),
    "hashing": Fault(
        (net(hashed), apart),
        (net(hashed_straight), apart),
        "GH101",
        "sign behind body (Linear) has no slope anywhere",
        "a straight-through estimator: x + (x.sign() - x).detach()",
    ),
    "translation": Fault(
        (net(translated(PADDING)), apart),
        (net(translated(~PADDING)), apart),
        "GH101",
        "scaled_dot_product_flash_attention_for_cpu behind body (Linear) masks every position for"
        " the whole batch, and so returns zeros",
        "a mask that leaves some: of one that is True or False, True takes part",
    ),
    "orthogonal flow": Fault(
        (net(orthogonal(0.0)), apart),
        (net(orthogonal(1.0)), apart),
        "GH301",
        "the backward of LinalgQr divides by the diagonal of a triangle, and there is a 0 on it:"
        " the matrix is singular",
        "1e-6 * torch.eye(n) added to it",
    ),
    "vocoder": Fault(
        (lambda: vocoder(0.0), apart),
        (lambda: vocoder(0.3), apart),
        "GH301",
        "weight_norm divides by the norm of a weight, which is 0",
        "weights other than 0 before weight_norm is put on",
    ),
    "simulation": Fault(
        (lambda: Heated(lambda t: math.exp(t.item())), apart),
        (lambda: Heated(torch.exp), apart),
        "GH401",
        NUMBERS.format("item", "Heated"),
        IN_TORCH,
    ),
    "spectra": Fault(
        (net(spectral), apart),
        (net(spectral_in_torch), apart),
        "GH401",
        NUMBERS.format("numpy", "Net"),
        IN_TORCH,
    ),
    "survival": Fault(
        (net(), survival(-math.inf)),
        (net(), survival(torch.finfo(torch.float32).min)),
        "GH301",
        "the backward of Logcumsumexp is inf - inf where all up to there is -inf",
        "torch.finfo(x.dtype).min in place of -inf",
    ),
    "quantised training": Fault(
        (net(quantised(0.001)), apart),
        (net(quantised(0.1)), apart),
        "GH101",
        "fake_quantize_per_tensor_affine behind body (Linear) cuts off all that comes in, which is"
        " out of its range",
        "a wider range, or a soft bound (torch.tanh, F.softplus)",
    ),
    "uncertainty": Fault(
        (net(), uncertain(1)),
        (net(), uncertain(0)),
        "GH301",
        "the backward of Var is 0 * inf where there is one element: it divides by n - 1",
        "var(..., correction=0), or more than one element",
    ),
    "molecules": Fault(
        (net(molecule(torch.sqrt)), apart),
        (net(molecule(lambda squares: torch.sqrt(squares + 1e-8))), apart),
        "GH301",
        "the slope of Sqrt is infinite at 0, and 0 times that is NaN",
        "torch.sqrt(x + 1e-8)",
    ),
    "ranking": Fault(
        (net(), ranked),
        (net(), margins),
        "GH401",
        "multi_margin_loss behind head (Linear) is flat: all margins are met",
        "a batch for which they are not",
    ),
}


@pytest.mark.parametrize("field", FAULTS)
def test_what_is_told_of_the_sick_one_is_so_and_its_cured_twin_passes(field: str) -> None:
    fault = FAULTS[field]
    build, loss = fault.sick
    torch.manual_seed(0)
    sick = probe(build(), X, Y, loss=loss, confirm_steps=0)
    assert explained(sick, fault.code)[1:] == (fault.because, fault.advice)
    build, loss = fault.cured
    torch.manual_seed(0)
    cured = probe(build(), X, Y, loss=loss, confirm_steps=0)
    assert [f.message for f in cured.findings if f.severity == "failure"] == []
