"""Outputs as the loss feels them: masks, sums and offsets, sick and well."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from pytest_gradhealth import Diagnosis, probe
from pytest_gradhealth.baseline.comparison import compare
from pytest_gradhealth.baseline.entry import entry_of
from pytest_gradhealth.formatting import number
from pytest_gradhealth.results.diagnosis import Limit
from tests.helpers.architectures import Wired
from tests.helpers.findings import said, told
from tests.helpers.nets import mlp

cross_entropy = F.cross_entropy
X = torch.linspace(-1.7, 1.7, 16 * 20).reshape(16, 20).cos() * 1.4
Y = torch.arange(16) % 5
#: The same elements for the loss to ignore, and others in each example.
LEGAL = (torch.arange(5) + torch.arange(16)[:, None]) % 5 < 3


def deviation(values: Tensor, felt: Tensor | None = None) -> float:
    """The standard deviation over each row's elements that are felt, all rows together."""
    felt = torch.ones_like(values, dtype=torch.bool) if felt is None else felt
    rows = [row[chosen].double() for row, chosen in zip(values.detach(), felt, strict=True)]
    squares = sum(float((row - row.mean()).square().sum()) for row in rows)
    return math.sqrt(squares / sum(len(row) - 1 for row in rows))


def judged(model: nn.Module, x: Any, *args: Any, **options: Any) -> Diagnosis:
    return probe(model, x, *args, select=["GH203", "GH404", "GH301"], **options)


def sized(gain: float, **options: Any) -> nn.Sequential:
    model = mlp(**options)
    with torch.no_grad():
        model[-1].weight.mul_(gain)  # type: ignore[operator]
    return model


def collapsed(classes: int = 5) -> nn.Sequential:
    """A net that nothing of its input gets through."""
    return mlp(nn.Sigmoid, hidden=10, width=8, classes=classes)


MASKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "-1e3": lambda m, x: m.body(x).masked_fill(~LEGAL, -1e3),
    "-1e9": lambda m, x: m.body(x).masked_fill(~LEGAL, -1e9),
    "the smallest": lambda m, x: m.body(x).masked_fill(~LEGAL, torch.finfo(x.dtype).min),
    "-inf": lambda m, x: m.body(x).masked_fill(~LEGAL, -math.inf),
    "where": lambda m, x: torch.where(LEGAL, m.body(x), -1e8),
    "added": lambda m, x: m.body(x) + torch.where(LEGAL, 0.0, -1e30),
    "log-probabilities": lambda m, x: m.body(x).masked_fill(~LEGAL, -1e9).log_softmax(1),
    "-inf, log-probabilities": lambda m, x: m.body(x).masked_fill(~LEGAL, -math.inf).log_softmax(1),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("gain", [1.0, 1e5])
def test_a_mask_is_not_what_the_outputs_are_judged_by(name: str, gain: float) -> None:
    legal = LEGAL.long().argmax(1)
    loss = F.nll_loss if "log" in name else cross_entropy
    model = Wired(MASKS[name], body=sized(gain))
    diagnosis = judged(model, X, legal, loss=loss)
    if gain == 1:
        assert said(diagnosis) == []
        expected = deviation(model.body(X), LEGAL)
        assert diagnosis.profile.magnitude == pytest.approx(expected, rel=1e-3)
        assert 1e-2 < (diagnosis.profile.spread or 0.0) <= 1.5
    else:
        size = diagnosis.profile.magnitude or 0.0
        assert 2e3 < size < 3e5
        felt = "" if name == "-1e3" else "as the loss feels them, "
        assert [message for _, _, message in told(diagnosis, "GH203")] == [
            f"{felt}the outputs are too large: their RMS is {number(size)}; limit 1e+03 (default)"
        ]


@pytest.mark.parametrize("value", [-1e4, -1e12, -math.inf])
def test_a_mask_that_is_the_same_for_all_examples_does_not_make_them_alike(value: float) -> None:
    """As of a triangle, a diagonal or a word that is never said."""
    labels = torch.arange(16) % 2

    def forward(m: Any, x: Tensor) -> Any:
        return m.body(x).masked_fill(torch.arange(5) > 2, value)

    assert said(judged(Wired(forward, body=mlp()), X, labels, loss=cross_entropy)) == []
    sick = judged(Wired(forward, body=collapsed()), X, labels, loss=cross_entropy)
    assert [(severity, message) for severity, _, message in told(sick, "GH404")] == [
        (
            "failure",
            "as the loss feels them, the outputs of different examples differ by only"
            f" x{number(sick.findings[0].value or 0.0)}; limit x5e-06 (default)",
        )
    ]


@pytest.mark.parametrize(
    "loss",
    [
        lambda q, t: F.smooth_l1_loss(q.gather(1, LEGAL.long().argmax(1)[:, None]), t[:, :1]),
        lambda q, t: F.binary_cross_entropy_with_logits(q, (LEGAL & (t > 0)).float()),
        lambda q, t: (q - t)[LEGAL].square().mean(),
    ],
    ids=["chosen", "one by one", "selected"],
)
def test_masks_of_other_losses(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    masked = lambda m, x: m.body(x).masked_fill(~LEGAL, -1e9)  # noqa: E731
    targets = X[:, :5]
    assert said(judged(Wired(masked, body=mlp()), X, targets, loss=loss)) == []
    sick = judged(Wired(masked, body=sized(1e5)), X, targets, loss=loss)
    assert [severity for severity, *_ in told(sick, "GH203")] == ["failure"]


def with_loss(forward: Callable[[Any, Tensor], Tensor], loss: Callable[..., Tensor]) -> Any:
    """A model that makes its loss itself, and returns what it was made of beside it."""

    def both(m: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        outputs = forward(m, x)
        return {"loss": loss(outputs, y), "outputs": outputs}

    return both


def distances(m: Any, x: Tensor) -> Any:
    return -(30 * x[:, None] - m.w).square().sum(-1)


def per_pixel(m: Any, x: Tensor) -> Any:
    return distances(m, x.reshape(-1, 20)).view(4, 4, -1).permute(0, 2, 1)


def bound(m: Any, x: Tensor) -> Any:
    """Log weights of 8 samples, of some hundred nats each."""
    samples = m.body(x) + torch.randn(8, len(x), 5)
    return -3e3 - samples.square().sum(2).T


SUMS: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[..., Tensor], float | None]] = {
    "log-likelihoods": (
        lambda m, x: -4e3 - m.body(x).square().sum(1),
        lambda o, _: -o.mean(),
        None,
    ),
    "bits per dimension": (
        lambda m, x: -4e3 - m.body(x).square().sum(1),
        lambda o, _: -o.sum() / 16 / 400 / math.log(2),
        None,
    ),
    "a critic": (
        lambda m, x: m.body(x)[:, :1] - 2e3,
        lambda o, _: o[:8].mean() - o[8:].mean(),
        None,
    ),
    "a cosine": (
        lambda m, x: 1e5 * m.body(x),
        lambda o, _: (F.normalize(o, dim=1) @ F.normalize(o, dim=1).T).square().mean(),
        None,
    ),
    "distances": (distances, cross_entropy, 200.0),
    "distances per pixel": (per_pixel, lambda o, y: cross_entropy(o, y.view(4, 4)), 200.0),
    "energies over a batch": (
        lambda m, x: 5e3 + m.body(x)[:, 0],
        lambda o, _: o[0] + (-o).logsumexp(0),
        1.0,
    ),
    "a bound": (bound, lambda o, _: -o.logsumexp(1).mean(), 20.0),
    "a bound, samples first": (
        lambda m, x: bound(m, x).T,
        lambda o, _: -o.logsumexp(0).mean(),
        20.0,
    ),
}


def parts(gain: float = 1.0) -> dict[str, Any]:
    torch.manual_seed(0)
    return {"body": mlp(), "w": nn.Parameter(gain * torch.randn(5, 20))}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("own", [False, True], ids=["given loss", "own loss"])
def test_a_sum_is_not_too_large(name: str, own: bool) -> None:
    forward, loss, most = SUMS[name]
    if own:
        diagnosis = judged(Wired(with_loss(forward, loss), **parts()), (X, Y))
    else:
        diagnosis = judged(Wired(forward, **parts()), X, Y, loss=loss)
    assert [found for found in said(diagnosis) if found[1] == "failure"] == []
    if most is None:
        assert diagnosis.profile.magnitude is None
    else:
        assert 0 < (diagnosis.profile.magnitude or 0.0) < most
    assert "magnitude" in diagnosis.profile.felt


@pytest.mark.parametrize("name", ["distances", "distances per pixel"])
@pytest.mark.parametrize("own", [False, True], ids=["given loss", "own loss"])
def test_distances_that_explode_fail(name: str, own: bool) -> None:
    forward, loss, _ = SUMS[name]
    if own:
        diagnosis = judged(Wired(with_loss(forward, loss), **parts(1e3)), (X, Y))
    else:
        diagnosis = judged(Wired(forward, **parts(1e3)), X, Y, loss=loss)
    assert [severity for severity, *_ in told(diagnosis, "GH203")] == ["failure"]


def log_density(x: Tensor, mean: Tensor) -> Tensor:
    found: Tensor = Normal(mean, 1.0).log_prob(x)  # type: ignore[no-untyped-call]
    return found


#: Ways to write the squared distance of an example's 20 numbers to each of five points.
DISTANCES: dict[str, Callable[[Any, Tensor], Any]] = {
    "cdist": lambda m, x: -torch.cdist(x, m.w).square(),
    "expanded": lambda m, x: 2 * x @ m.w.T - (x**2).sum(1, keepdim=True) - (m.w**2).sum(1),
    "with a temperature": lambda m, x: -((x[:, None] - m.w) ** 2).sum(2) / 0.5,
    "log-probabilities": lambda m, x: (-torch.cdist(x, m.w).square()).log_softmax(1),
    "Gaussians": lambda m, x: -0.5 * ((x[:, None] - m.w) ** 2 + math.log(2 * math.pi)).sum(-1),
    "a product": lambda m, x: -((x[:, None] - m.w) * (x[:, None] - m.w)).sum(2),
    "a density": lambda m, x: log_density(x[:, None], m.w).sum(2),
    "in a dict": lambda m, x: {"logits": -torch.cdist(x, m.w).square()},
}


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_count_by_their_dimensions(name: str) -> None:
    """A sum of 20 squares in the hundreds does, one in the hundreds of thousands does not."""

    def loss(o: Any, y: Tensor) -> Tensor:
        return F.cross_entropy(o["logits"] if isinstance(o, dict) else o, y)

    found = []
    for gain, severities in ((8.0, []), (1e3, ["failure"])):
        model = Wired(lambda m, x: DISTANCES[name](m, m.body(x)), body=far(gain), **weights(gain))
        diagnosis = judged(model, X, Y, loss=loss, confirm_steps=0)
        assert [severity for severity, *_ in told(diagnosis, "GH203")] == severities
        found.append(diagnosis.profile.magnitude or 0.0)
    assert 100 / 20 < found[0] < 100
    assert found[1] > 1e3


def far(gain: float) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20), Times(gain))


class Times(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


def weights(gain: float) -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {"w": nn.Parameter(gain * torch.randn(5, 20))}


#: Ways to write the sum of what a layer returns for each of an example's 20 numbers.
POOLED: dict[str, Callable[[Tensor], Any]] = {
    "sum": lambda h: h.sum(1),
    "einsum": lambda h: torch.einsum("bnc->bc", h),
    "mean": lambda h: 20 * h.mean(1),
    "matmul": lambda h: (torch.ones(1, 20) @ h)[:, 0],
    "loop": lambda h: sum(h.unbind(1)),
}


@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("normed", [False, True])
def test_activations_that_are_added_up_are_as_large_as_they_are(name: str, *, normed: bool) -> None:
    """Also where they are normalised by hand."""

    def forward(m: Any, x: Tensor) -> Any:
        h = m.body(x[..., None])
        return 2e3 * POOLED[name](h / h.square().sum(2, keepdim=True).sqrt() if normed else h)

    torch.manual_seed(0)
    diagnosis = judged(Wired(forward, body=nn.Linear(1, 5)), X, Y, loss=F.cross_entropy)
    size = f"their RMS is {number(diagnosis.profile.magnitude or 0.0)}"
    assert [message for _, _, message in told(diagnosis, "GH203")] == [
        f"the outputs are too large: {size}; limit 1e+03 (default)"
    ]


def test_a_sum_with_targets_of_its_size_is_compared_with_these() -> None:
    loss = lambda o, t: (o - t).abs().mean()  # noqa: E731
    forward = lambda m, x: (1e4 * m.body(x)).sum(1)  # noqa: E731
    diagnosis = judged(Wired(forward, body=mlp(classes=20)), X, X[:, 0], loss=loss)
    assert [severity for severity, *_ in told(diagnosis, "GH203")] == ["failure"]


def test_what_is_returned_beside_the_loss_counts_by_its_terms_too() -> None:
    def both(m: Any, x: Tensor) -> dict[str, Tensor]:
        each = (m.body(x) - 700).square().sum(1), (m.body(x) - 700).square().sum(1)
        return {"loss": each[0].mean(), "each": each[1] / 1e4}

    diagnosis = judged(Wired(both, body=mlp()), X)
    assert diagnosis.profile.magnitude == pytest.approx(49, rel=0.01)


def test_sums_of_which_only_the_difference_is_felt() -> None:
    """As of answers that were chosen and answers that were not, or of distances to two items."""

    def preferred(gain: float) -> Any:
        return lambda m, x: tuple(gain * m.body(x)[:, :2].T - 3e3)

    loss = lambda o: -F.logsigmoid(o[0] - o[1]).mean()  # noqa: E731
    diagnosis = judged(Wired(preferred(1.0), body=mlp()), X, loss=loss)
    assert said(diagnosis) == []
    pairs = mlp()
    both = judged(Wired(preferred(1.0), body=pairs), X, loss=loss).profile.magnitude
    assert both == pytest.approx(deviation(pairs(X)[:, :2]), rel=1e-3)
    sick = judged(Wired(preferred(1e6), body=mlp()), X, loss=loss)
    assert [severity for severity, *_ in told(sick, "GH203")] == ["failure"]


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, _: o.abs().mean(),
        lambda o, y: F.relu(1 - o * (2.0 * (y > 2) - 1)[:, None]).mean(),
        lambda o, y: F.multi_margin_loss(o, y),
        lambda o, y: F.mse_loss(o, 0.01 * F.one_hot(y, 5).float()),
        lambda o, y: F.binary_cross_entropy_with_logits(o, F.one_hot(y, 5).float()),
    ],
    ids=["absolute", "hinge", "margin", "square", "logistic"],
)
def test_a_loss_that_is_linear_from_afar_still_feels_the_size(loss: Callable[..., Tensor]) -> None:
    diagnosis = judged(sized(1e6), X, Y, loss=loss)
    assert [severity for severity, *_ in told(diagnosis, "GH203")] == ["failure"]


ENERGIES = -2079 + 0.5 * X[:, :1].sin()


def energy(m: Any, x: Tensor) -> Any:
    return m.body(x) * 0.01 - 2079


OFFSETS: dict[str, tuple[Callable[[Any, Tensor], Tensor], Tensor, Callable[..., Tensor]]] = {
    "squared": (energy, ENERGIES, F.mse_loss),
    "absolute": (energy, ENERGIES, F.l1_loss),
    "squeezed": (lambda m, x: energy(m, x)[:, 0], ENERGIES[:, 0], F.huber_loss),
    "standardised in the loss": (
        energy,
        ENERGIES,
        lambda o, t: F.mse_loss((o + 2079) / 0.5, (t + 2079) / 0.5),
    ),
    "exponential": (
        lambda m, x: (m.body(x) * 1e-3 + 12).exp(),
        1.6e5 * (1 + 0.1 * X[:, :1]),
        lambda o, t: F.mse_loss(o / 1e5, t / 1e5),
    ),
    "atoms": (
        lambda m, x: (m.body(x.view(16, 4, 5).repeat(1, 1, 4))[..., 0] * 0.01 - 519.75).sum(1),
        ENERGIES[:, 0],
        F.mse_loss,
    ),
    "integer years": (
        lambda m, x: m.body(x)[:, 0] * 0.05 + 1998,
        (1998 + 2 * X[:, 0]).round().long(),
        lambda o, t: F.mse_loss(o, t.float()),
    ),
    "logits": (lambda m, x: m.body(x) + 1e5, Y, cross_entropy),
}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        *((name, False) for name in OFFSETS),
        # The slopes of an absolute error do not tell how far it is.
        *((name, True) for name in OFFSETS if name != "absolute"),
    ],
)
def test_an_offset_does_not_make_outputs_alike(name: str, own: bool) -> None:
    forward, targets, loss = OFFSETS[name]
    classes = 5 if name == "logits" else 1
    torch.manual_seed(1)
    for body, code in ((mlp(classes=classes), ""), (collapsed(classes), "GH404")):
        model = Wired(with_loss(forward, loss) if own else forward, body=body)
        diagnosis = judged(model, (X, targets)) if own else judged(model, X, targets, loss=loss)
        assert [c for c, severity, _ in said(diagnosis) if severity == "failure"] == (
            [code] if code else []
        )


def test_a_loss_in_the_forward_and_one_beside_it_are_one_network() -> None:
    def inside(m: Any, x: Tensor) -> Tensor:
        return F.mse_loss(energy(m, x), ENERGIES)

    body = mlp(classes=1)
    beside = judged(Wired(energy, body=body), X, ENERGIES, loss=F.mse_loss)
    assert judged(Wired(inside, body=body), X).verdict == beside.verdict == "healthy"


class Given:
    """The lowest value that a loss was given; a list would be put back as it was."""

    lowest: ClassVar[float] = math.inf


def test_values_that_a_loss_refuses_are_felt() -> None:
    """Probabilities are not even tried: on an accelerator a loss would assert."""

    def loss(p: Tensor, y: Tensor) -> Tensor:
        Given.lowest = min(Given.lowest, float(p.min()))
        return F.binary_cross_entropy(p, (y[:, None] > 2).float())

    nearly = Wired(lambda m, x: (1e-4 * m.body(x)).sigmoid(), body=mlp(classes=1))
    judged(nearly, X, Y, loss=loss, confirm_steps=0)
    assert 0 < Given.lowest < 1

    def strict(o: Tensor, y: Tensor) -> Tensor:
        assert float(o.max()) > 100
        return cross_entropy(o, y)

    assert judged(sized(1e5), X, Y, loss=strict).verdict == "failure"


def test_without_a_second_derivative_the_rest_is_told() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Tensor) -> Tensor:
            return x * 1.0

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(_: Any, g: Tensor) -> Tensor:
            return g

    masked = Wired(lambda m, x: m.body(x).masked_fill(~LEGAL, -1e9), body=mlp())
    loss = lambda o, _: cross_entropy(Once.apply(o), LEGAL.long().argmax(1))  # noqa: E731
    assert said(judged(masked, X, Y, loss=loss)) == []


class Counting(nn.Module):
    """Normalises by its batches, counts its forwards and, where no probe looks, all of them."""

    forwards: ClassVar[int] = 0

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.norm, self.body = nn.BatchNorm1d(20), mlp()
        self.offset, self.calls = offset, [0]

    def forward(self, x: Tensor) -> Tensor:
        type(self).forwards += 1
        self.calls[0] += 1
        out: Tensor = self.body(self.norm(x)) + self.offset
        return out


@pytest.mark.parametrize(("offset", "forwards"), [(0.0, 1), (1e4, 2)])
def test_a_closer_look_is_one_more_forward_and_leaves_no_trace(
    offset: float, forwards: int
) -> None:
    model = Counting(offset)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, Counting.forwards = torch.get_rng_state(), 0
    diagnosis = judged(model, X, Y, loss=cross_entropy)
    assert (diagnosis.verdict, Counting.forwards) == ("healthy", forwards)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.calls == [0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_outputs_on_either_side_of_a_closer_look_are_no_regression() -> None:
    """Logits with a shift of 9 are taken whole, with one of 12 they are felt to be small."""
    limit = Limit(0.5, "the call")

    def kept(shift: float, gain: float = 1.0) -> Any:
        torch.manual_seed(0)
        model = Wired(lambda m, x: m.body(x) + shift, body=sized(gain))
        diagnosis = judged(model, X, Y, loss=cross_entropy)
        felt = "magnitude" in diagnosis.profile.felt
        return felt, dataclasses.replace(entry_of(diagnosis, {}), verdict="healthy")

    (whole, below), (felt, above) = kept(9.0), kept(12.0)
    assert (whole, felt) == (False, True)
    for one, other in ((below, above), (above, below)):
        assert not compare(one, other, limit, limit).changes
    _, grown = kept(12.0, 1e4)
    assert [c.kind for c in compare(above, grown, limit, limit).worse if c.kind == "output"] == [
        "output"
    ]


def test_rows_that_are_all_masked_are_no_outputs() -> None:
    """Padded places have no class that may be, and no part in the loss."""
    tokens = torch.arange(96).reshape(8, 12) % 7
    wanted = torch.where(tokens < 2, -100, tokens % 4)
    model = Wired(
        lambda m, t: m.head(m.embed(t)).masked_fill((t < 2)[..., None], -math.inf),
        embed=nn.Embedding(7, 16),
        head=nn.Linear(16, 4),
    )
    diagnosis = probe(
        model, tokens, wanted, loss=lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten())
    )
    assert "GH203" not in [finding.code for finding in diagnosis.findings]
    assert all(severity != "failure" for _, severity, _ in said(diagnosis))
