"""What a forward leaves out by fixed zeros or masks, or by other tensors, is a choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from pytest_gradhealth import UnusedParameterError, assert_all_reached, probe
from tests.helpers.architectures import Wired
from tests.helpers.findings import of, told
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def beside(use: Callable[..., Any], **parts: Any) -> nn.Module:
    """A network, and a term beside it that is made of further parts."""
    return Wired(lambda m, x: m.body(x) + use(m, x), body=mlp(), **parts)


def fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def buffered(value: Tensor) -> nn.Module:
    holder = nn.Module()
    holder.register_buffer("mask", value)
    return holder


def edges(m: Any, x: Tensor) -> Tensor:
    """Functions on the edges of a Kolmogorov-Arnold network, not chosen yet."""
    a, b = m.affine
    columns = [m.mask[j] * (a[j] * x[:, j] + b[j]).sin() for j in range(5)]
    return torch.stack(columns, 1)


def of_one_variable(m: Any, x: Tensor) -> Tensor:
    """A conditioner of the first of several variables, which depends on none (MADE)."""
    masked = m.extra.weight * m.holder.mask.to(x.dtype)
    return F.linear(x, masked, m.extra.bias)


def extra() -> nn.Linear:
    return nn.Linear(20, 5)


def pruned() -> nn.Module:
    layer = extra()
    prune.custom_from_mask(layer, "weight", torch.zeros(5, 20))  # type: ignore[no-untyped-call]
    return layer


LEFT_OUT: dict[str, Callable[[], nn.Module]] = {
    "functions on edges": lambda: beside(
        edges, affine=nn.Parameter(torch.ones(2, 5)), mask=fixed(torch.zeros(5))
    ),
    "pruned": lambda: beside(lambda m, x: m.extra(x), extra=pruned()),
    "masked weight": lambda: beside(
        of_one_variable, extra=extra(), holder=buffered(torch.zeros(5, 20, dtype=torch.bool))
    ),
    "causal table of one step": lambda: beside(
        lambda m, x: (m.table[:1, :1] * torch.ones(1, 1).tril(-1)) * x[:, :5],
        table=nn.Parameter(torch.ones(8, 8)),
    ),
    "inverted mask": lambda: beside(
        lambda m, x: m.extra(x) * (1 - m.holder.mask), extra=extra(), holder=buffered(torch.ones(5))
    ),
    "where": lambda: beside(
        lambda m, x: torch.where(m.holder.mask, m.extra(x), torch.zeros(())),
        extra=extra(),
        holder=buffered(torch.zeros(5, dtype=torch.bool)),
    ),
    "where not": lambda: beside(
        lambda m, x: torch.where(m.holder.mask, torch.zeros(()), m.extra(x)),
        extra=extra(),
        holder=buffered(torch.ones(5, dtype=torch.bool)),
    ),
    "filled": lambda: beside(
        lambda m, x: m.extra(x).masked_fill(m.holder.mask, 0.0),
        extra=extra(),
        holder=buffered(torch.ones(5, dtype=torch.bool)),
    ),
    "a weight of 0": lambda: beside(lambda m, x: 0.0 * m.extra(x), extra=extra()),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_fixed_zeros_leave_out_is_information(name: str) -> None:
    diagnosis = probe(LEFT_OUT[name](), *batch(), loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    ((severity, _, message),) = told(diagnosis, "GH401")
    assert severity == "info"
    assert message.endswith(": kept out by zeros or a mask that nothing trains")
    assert diagnosis.profile.left_out


SICK: dict[str, Callable[[], nn.Module]] = {
    "zeros of the batch": lambda: beside(
        lambda m, x: m.extra(x) * (x[:, :1] > 99).float(), extra=extra()
    ),
    "zeros of a weight": lambda: beside(
        lambda m, x: m.extra(x) * (m.gate > 5).float(),
        extra=extra(),
        gate=nn.Parameter(torch.zeros(5)),
    ),
    "zeros like the batch": lambda: beside(
        lambda m, x: m.extra(x) * torch.zeros_like(x[:, :5]), extra=extra()
    ),
    "a matrix that is frozen at zero": lambda: beside(
        lambda m, x: m.extra(x) @ m.up, extra=extra(), up=fixed(torch.zeros(5, 5))
    ),
    "a softmax over one": lambda: beside(
        lambda m, x: m.one(x).softmax(-1) * x[:, :5], one=nn.Linear(20, 1)
    ),
    "a clamp": lambda: beside(lambda m, x: m.extra(x).clamp(90, 99), extra=extra()),
}


@pytest.mark.parametrize("name", SICK)
def test_zeros_that_nobody_chose_are_still_told(name: str) -> None:
    diagnosis = probe(SICK[name](), *batch(), loss=cross_entropy)
    assert diagnosis.verdict in ("warning", "failure"), diagnosis
    assert of(diagnosis, "GH401")[0].severity in ("warning", "failure")
    assert diagnosis.profile.left_out == ()


def test_a_mask_that_lets_some_through_leaves_nothing_out() -> None:
    mask = torch.tensor([0.0, 0, 0, 0, 1])
    model = beside(lambda m, x: m.extra(x) * m.mask, extra=extra(), mask=fixed(mask))
    diagnosis = probe(model, *batch(), loss=cross_entropy)
    assert (diagnosis.findings, diagnosis.profile.left_out) == ((), ())


def test_a_mask_that_nothing_goes_past_fails() -> None:
    model = Wired(
        lambda m, x: m.head(m.stem(x) * m.mask),
        stem=nn.Linear(20, 8),
        mask=fixed(torch.zeros(8)),
        head=nn.Linear(8, 5),
    )
    diagnosis = probe(model, *batch(), loss=cross_entropy)
    assert diagnosis.verdict == "failure"
    assert of(diagnosis, "GH401")[0].severity == "failure"


def called_with_others(m: Any, x: Tensor) -> Tensor:
    """A template whose weights another layer makes."""
    made = m.made(x.mean(0))
    weights = {"weight": made[:100].view(5, 20), "bias": made[100:]}
    out: Tensor = torch.func.functional_call(m.template, weights, (x,))
    return out


def fast_weights(m: Any, x: Tensor) -> Tensor:
    """A memory whose weights are kept in a list beside it, and copied for each batch."""
    kept = dict(zip(("0.weight", "0.bias"), (w + 0 for w in m.kept), strict=True))
    out: Tensor = torch.func.functional_call(m.memory, kept, (x,))
    return out


TEMPLATES: dict[str, Callable[[], nn.Module]] = {
    "hypernetwork": lambda: beside(called_with_others, template=extra(), made=nn.Linear(20, 105)),
    "fast weights": lambda: beside(
        fast_weights,
        memory=nn.Sequential(extra()),
        kept=nn.ParameterList([torch.ones(5, 20) / 20, torch.zeros(5)]),
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_runs_with_other_tensors_is_information(name: str) -> None:
    model = TEMPLATES[name]()
    diagnosis = probe(model, *batch(), loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    ((severity, _, message),) = told(diagnosis, "GH405")
    assert severity == "info"
    assert message.endswith(": other tensors take their place while it runs")
    with pytest.raises(UnusedParameterError):
        assert_all_reached(model, *batch(), loss=cross_entropy)


def test_a_layer_that_does_without_its_own_parameter_is_still_told() -> None:
    class Forgets(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight)

    model = beside(lambda m, x: m.extra(x), extra=Forgets(20, 5))
    diagnosis = probe(model, *batch(), loss=cross_entropy)
    assert [severity for severity, *_ in told(diagnosis, "GH405")] == ["warning"]


def detached(m: Any, x: Tensor) -> Tensor:
    weights = {name: weight.detach() for name, weight in m.inner.named_parameters()}
    out: Tensor = torch.func.functional_call(m.inner, weights, (x,))
    return out


def test_a_layer_that_runs_with_copies_cut_off_from_its_own_weights_is_told() -> None:
    diagnosis = probe(beside(detached, inner=extra()), *batch(), loss=cross_entropy)
    assert diagnosis.verdict == "warning"
    assert [severity for severity, *_ in told(diagnosis, "GH401")] == ["warning"]


def test_it_leaves_the_random_numbers_alone() -> None:
    model = beside(
        lambda m, x: F.dropout(m.extra(x), 0.5) * m.mask, extra=extra(), mask=fixed(torch.zeros(5))
    )
    x, y = batch()
    before = torch.get_rng_state()
    assert probe(model, x, y, loss=cross_entropy).profile.left_out
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("large", [False, True])
def test_a_path_through_fixed_zeros_is_not_shown_as_healthy(large: bool) -> None:
    """Where they keep most of a model out, they are worth a warning."""
    model = Wired(
        lambda m, x: m.out(m.trunk(x)) * m.holder.mask + m.skip(x),
        trunk=mlp(classes=20, width=32 if large else 4),
        out=nn.Linear(20, 5),
        skip=nn.Linear(20, 5) if large else mlp(width=64),
        holder=buffered(torch.zeros(5)),
    )
    diagnosis = probe(model, *batch(), loss=cross_entropy)
    assert diagnosis.ratio is None or diagnosis.ratio > 0
    assert all(path.entry.norm for path in diagnosis.profile.judged_paths)
    (found,) = of(diagnosis, "GH401")
    assert found.severity == ("warning" if large else "info")
    assert found.message.endswith(": kept out by zeros or a mask that nothing trains")
