"""Faults of many fields, each as small as it gets: what is named as the cause is the cause."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pytest_gradhealth import ProbeError, probe
from tests.helpers.findings import explained

X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


class Net(nn.Module):
    """Two layers, and what a field does with them."""

    body: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]

    def __init__(self, use: Callable[[Net, Tensor], Tensor], outputs: int = 3) -> None:
        super().__init__()
        self.body, self.head, self.use = nn.Linear(4, 8), nn.Linear(8, outputs), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def variational(net: Net, x: Tensor) -> Tensor:
    mean, log_variance = net.head(net.body(1e4 * x)).chunk(2, -1)
    sample: Tensor = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    return sample


def retrieval(net: Net, x: Tensor) -> Tensor:
    query, key = net.head(net.body(x)), 0 * net.body(x)[:, :3]
    norms: Tensor = query.norm(dim=-1) * key.norm(dim=-1)
    return (query * key).sum(-1) / norms


def graph(net: Net, x: Tensor) -> Tensor:
    adjacency = torch.eye(16).roll(1, 0) * (torch.arange(16) > 0)[:, None]  # the first is alone
    return net.head(adjacency @ net.body(x) / adjacency.sum(1, keepdim=True))


def attention(net: Net, x: Tensor) -> Tensor:
    h = net.body(x)
    scores = (h @ h.T).masked_fill(torch.ones(16, 16).triu().bool(), -math.inf)
    return net.head(scores.softmax(-1) @ h)


def rotations(net: Net, x: Tensor) -> Tensor:
    quaternion = net.head(net.body(x))
    return torch.acos(1 + quaternion.abs())


def flow(net: Net, x: Tensor) -> Tensor:
    matrix = net.head(net.body(x)).view(16, 2, 1)
    size: Tensor = torch.linalg.slogdet(matrix @ matrix.mT * 0)[1]
    return x[:, 0] + size


def mixture(net: Net, x: Tensor) -> Tensor:
    distance = (net.head(net.body(x)) - 1e3) ** 2
    return -torch.log(torch.exp(-distance).sum(-1))


def density(net: Net, x: Tensor) -> Tensor:
    sigma = F.relu(net.head(net.body(x).tanh()) - 99)
    return 1 - torch.exp(-sigma)


def quantised(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.round(net.body(x)))


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return torch.where(u.abs() < 0.5, gradients[0], 0)


def spiking(net: Net, x: Tensor) -> Tensor:
    spikes: Tensor = Spike.apply(0.1 * net.body(x).tanh() - 1)
    return net.head(spikes)


def mixed_experts(net: Net, x: Tensor) -> Tensor:
    h = net.body(x)
    weight, _ = net.head(h).topk(1, -1)
    return weight.softmax(-1) * h[:, :3]


def hard_choice(net: Net, x: Tensor) -> Tensor:
    return net.head(F.one_hot(net.body(x).argmax(-1), 8).float())


def recomputed(net: Net, x: Tensor) -> Tensor:
    h: Tensor = checkpoint(net.body, x, use_reentrant=True)
    return net.head(h.relu())


def watched(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = net.body(x)
    return net.head(h.relu())


def diffused(net: Net, x: Tensor) -> Tensor:
    h = net.body(x)
    for _ in range(24):
        h = h + F.relu(net.head(h))
    return h.sum(-1)


def dice(outputs: Tensor, _: Tensor) -> Tensor:
    shown, wanted = F.relu(outputs - 99), torch.zeros(16, 3)
    return 1 - (2 * (shown * wanted).sum() / (shown.sum() + wanted.sum()))


def policy(outputs: Tensor, actions: Tensor) -> Tensor:
    probabilities = (1e4 * outputs).softmax(-1)
    return -torch.log(probabilities.gather(1, actions[:, None])).mean()


def focal(outputs: Tensor, labels: Tensor) -> Tensor:
    p = torch.sigmoid(1e4 * outputs[:, 0] - 1e5)
    return -((1 - p) ** 2 * torch.log(p) * (labels > 0)).mean()


def speech(outputs: Tensor, _: Tensor) -> Tensor:
    lengths = torch.full((2,), 4), torch.full((2,), 6)
    logits = outputs[:8].reshape(4, 2, 3).log_softmax(-1)
    return F.ctc_loss(logits, torch.ones(2, 6, dtype=torch.long), *lengths)


def clipped(outputs: Tensor, _: Tensor) -> Tensor:
    return -torch.clamp(5 + outputs.tanh(), 0.8, 1.2).mean()


def plain(net: Net, x: Tensor) -> Tensor:
    return net.head(net.body(x).relu())


def mean(outputs: Tensor, _: Tensor) -> Tensor:
    return outputs.mean()


@dataclass(frozen=True)
class Fault:
    """A model and a loss with a fault, the rule that tells of it and the cause it should name."""

    use: Callable[[Net, Tensor], Tensor]
    code: str
    because: str
    loss: Callable[[Tensor, Tensor], Tensor] = mean
    outputs: int = 3


DEAD = "all units of {} are dead: its output is zero for the whole batch"
SINGULAR = "the matrix is singular: its determinant is 0, whose log is -inf"
BELOW = (
    "a division by a sum of nothing but zeros, as of an empty mask or of a node without neighbours"
)
MASKED = "softmax over a row that is all -inf is 0 / 0: every position of it is masked"
RUNS = "body (Linear) runs in a re-entrant checkpoint of which no input needs a gradient"
FAULTS = {
    "retrieval": Fault(retrieval, "GH301", "a division by the norm of a zero vector"),
    "graph": Fault(graph, "GH301", BELOW),
    "segmentation": Fault(plain, "GH301", BELOW, dice),
    "attention": Fault(attention, "GH301", MASKED),
    "rotations": Fault(rotations, "GH301", "acos of 1.5: it is defined from -1 to 1"),
    "flow": Fault(flow, "GH301", SINGULAR, outputs=2),
    "mixture density": Fault(mixture, "GH301", "log of 0: all that is summed up has rounded to 0"),
    "policy": Fault(plain, "GH301", "log of 0: softmax has rounded to 0", policy),
    "detection": Fault(plain, "GH301", "log of 0: a sigmoid has rounded to 0", focal),
    "speech": Fault(
        plain,
        "GH301",
        "a target needs more steps than its input has (its length, and one more for each label that"
        " is repeated), so that no alignment fits",
        speech,
    ),
    "radiance field": Fault(
        density,
        "GH101",
        f"{DEAD.format('relu behind head (Linear)')}; the loss is 0, as where all margins are met",
    ),
    "quantisation": Fault(quantised, "GH101", "round behind body (Linear) has no slope anywhere"),
    "spikes": Fault(
        spiking,
        "GH101",
        "the backward of Spike, a function of the model's own, is zero for all that comes in (spike"
        " behind body (Linear))",
    ),
    "experts": Fault(
        mixed_experts,
        "GH401",
        "softmax behind head (Linear) is a softmax over one element, which is 1 whatever comes in",
    ),
    "surrogate objective": Fault(
        plain,
        "GH101",
        "clamp behind head (Linear) cuts off all that comes in, which is out of its range",
        clipped,
    ),
    "hard attention": Fault(
        hard_choice, "GH401", "argmax in (output) (Net) picks positions, which have no slope"
    ),
    "checkpoint": Fault(recomputed, "GH401", RUNS),
    "frozen by mistake": Fault(watched, "GH401", "body (Linear) runs under no_grad()"),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("field", FAULTS)
def test_the_cause_is_the_cause(field: str) -> None:
    fault = FAULTS[field]
    torch.manual_seed(0)
    diagnosis = probe(Net(fault.use, fault.outputs), X, Y, loss=fault.loss, confirm_steps=0)
    assert explained(diagnosis, fault.code)[1] == fault.because


def test_growth_in_branches_beside_the_path_is_theirs() -> None:
    torch.manual_seed(0)
    net = Net(diffused, 8)
    net.head = nn.Linear(8, 8)
    nn.init.normal_(net.head.weight, std=0.5)
    _, because, advice = explained(probe(net, X, loss=mean, confirm_steps=0), "GH201")
    assert because == (
        "most of it is gained beside the path, between head#23 and body: x2 in each of 23 calls"
        " of head"
    )
    assert advice == (
        "smaller initial weights in head (a tenth, say), or a normalisation layer before each call"
    )


@pytest.mark.parametrize(
    ("loss", "because"),
    [
        (
            lambda out, y: (out.argmax(-1) == y).float().mean(),
            "argmax in (loss) picks positions, which have no slope\n  try: a soft version",
        ),
        (
            lambda out, y: torch.tensor(F.cross_entropy(out, y).item()),
            "item in (loss) makes plain numbers, which have no gradient\n  try: the same in torch",
        ),
        (
            lambda out, y: F.cross_entropy(out.detach(), y),
            "detach in (loss) cuts the gradient off\n  try: take it out",
        ),
    ],
    ids=["accuracy", "number", "detached"],
)
def test_a_loss_that_is_cut_off_altogether_names_what_cuts_it_off(loss: Any, because: str) -> None:
    with pytest.raises(ProbeError) as caught:
        probe(Net(plain), X, Y, loss=loss)
    said = "the loss does not depend on the model's trainable parameters: "
    assert str(caught.value).startswith(said + because)


def test_outputs_that_are_cut_off_altogether_name_what_cuts_them_off() -> None:
    with pytest.raises(ProbeError) as caught:
        probe(Net(lambda net, x: plain(net, x).detach()), X)
    assert str(caught.value) == (
        "the model's outputs do not depend on its trainable parameters: detach in (output) (Net)"
        " cuts the gradient off\n  try: take it out, or freeze what is before it"
    )


def test_a_variance_that_overflows_is_named_with_its_size() -> None:
    torch.manual_seed(0)
    _, because, advice = explained(probe(Net(variational, 4), X), "GH301")
    assert because == "exp of 8.2e+02 is more than float32 holds (3.4e+38)"
    assert (
        advice == "x.clamp(max=20).exp(), or stay with logarithms (torch.logsumexp, F.log_softmax)"
    )
