"""Penalties that drown the gradient of the loss fail, and healthy practice does not."""

from __future__ import annotations

import math
import string
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam

from pytest_gradhealth import (
    Diagnosis,
    DominatingRegularizerError,
    NonFiniteGradientError,
    assert_healthy,
    assert_no_dominating_regularizer,
    probe,
)
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.path import GradientPath, PathPoint
from pytest_gradhealth.results.profile import GradientProfile, ParameterRecord
from pytest_gradhealth.rules.regulariser_dominates import check
from pytest_gradhealth.rules.rule import Evidence
from tests.helpers.architectures import LayerScale, ZeroHead, lora_net
from tests.helpers.nets import ONES, batch, constant, mlp, total
from tests.helpers.penalties import Penalty, lasso, of_rule, penalty_of, ridge
from tests.helpers.steps import Factory, sgd

cross_entropy = nn.functional.cross_entropy


# Limits and looks.


@pytest.mark.parametrize(("limit", "fails"), [(39.9, True), (40.0, False), (40.1, False)])
def test_max_penalty_is_honoured_on_both_sides(limit: float, fails: bool) -> None:
    # 2 * 20 * 1 against 1 in each element.
    diagnosis = probe(
        constant(), ONES, loss=total, regularizer=ridge(20), max_penalty=limit, confirm_steps=0
    )
    found = of_rule(diagnosis)
    assert bool(found) == fails
    for finding in found:
        assert (finding.value, finding.limit, finding.limit_source) == (40, limit, "the call")
        assert (finding.layer, finding.rule) == ("0", "regulariser-dominates")


def test_the_default_limit_is_ten() -> None:
    for strength, fails in ((4.9, False), (5.1, True)):
        diagnosis = probe(
            constant(), ONES, loss=total, regularizer=ridge(strength), confirm_steps=0
        )
        assert bool(of_rule(diagnosis)) == fails
        assert diagnosis.limits["max_penalty"] == Limit(10.0, "default")


def test_a_penalty_that_the_second_look_finds_level_does_not_fail() -> None:
    # Steps of 0.1 take a weight of 1 to 1 - 0.1 (40 + 1), and on to where 40 w is about -1.
    settled = probe(
        constant(), ONES, loss=total, optimizer=sgd(1 / 50), regularizer=ridge(20), ignore=["GH202"]
    )
    second = settled.confirmation
    assert second is not None
    weight = 1.0
    for _ in range(5):
        weight -= (40 * weight + 1) / 50
    assert second.parameters[0].penalty == pytest.approx(4 * 40 * abs(weight), rel=1e-9)
    assert of_rule(settled) == []


def look(*parameters: tuple[str, tuple[int, ...], float | None, float | None]) -> GradientProfile:
    """A look at parameters (name, shape, gradient, penalty), with "fc" on the path."""
    point = PathPoint("fc", "Linear", (8, 4), norm=1.0, numel=32)
    records = tuple(
        ParameterRecord(name, shape, "gradient", 1.0, gradient=gradient, penalty=penalty)
        for name, shape, gradient, penalty in parameters
    )
    return GradientProfile(0, 0, 1.0, (GradientPath((point,), entry=point),), parameters=records)


def found_in(first: GradientProfile, second: GradientProfile | None = None) -> list[Any]:
    evidence = Evidence(first, second, {"max_penalty": Limit(10.0, "default")})
    return [(f.severity, f.layer, f.value) for f in check(evidence)]


def test_only_weights_with_a_gradient_are_compared() -> None:
    assert found_in(look(("fc.weight", (4, 4), 1.0, 10.5))) == [("failure", "fc", 10.5)]
    assert found_in(look(("fc.weight", (4, 4), 1.0, 10.0))) == []
    assert found_in(look(("fc.bias", (4,), 1.0, 1e9))) == []
    assert found_in(look(("fc.weight", (4, 4), None, 1e9))) == []
    assert found_in(look(("fc.weight", (4, 4), 1.0, None))) == []
    assert found_in(look(("fc.weight", (4, 4), 0.0, 0.0))) == []
    assert found_in(look(("fc.weight", (4, 4), 0.0, 1e-9))) == [("failure", "fc", math.inf)]


def test_side_branches_only_warn_and_are_told_apart() -> None:
    trunk, side = ("fc.weight", (4, 4), 1.0, 20.0), ("gate.weight", (4, 4), 1.0, 90.0)
    assert found_in(look(side)) == [("warning", "gate", 90)]
    assert found_in(look(side, trunk)) == [("failure", "fc", 20), ("warning", "gate", 90)]


def test_a_path_that_carries_no_data_is_a_side_branch() -> None:
    seen = look(("fc.weight", (4, 4), 1.0, 20.0))
    unjudged = replace(seen, paths=(replace(seen.paths[0], judged=False),))
    assert found_in(unjudged) == [("warning", "fc", 20)]


def test_a_loss_that_is_nan_leaves_nothing_to_compare() -> None:
    with pytest.raises(NonFiniteGradientError):
        assert_no_dominating_regularizer(
            constant(math.nan), ONES, loss=total, regularizer=ridge(1e-4)
        )


def test_both_looks_must_agree_on_the_weight() -> None:
    def weights(a: float, b: float) -> GradientProfile:
        return look(("fc.weight", (4, 4), 1.0, a), ("fc.other", (4, 4), 1.0, b))

    assert found_in(weights(20, 30), weights(11, 1)) == [("failure", "fc", 20)]
    assert found_in(weights(20, 30), weights(1, 11)) == [("failure", "fc", 30)]
    assert found_in(weights(20, 1), weights(1, 20)) == []
    assert found_in(weights(1, 1), weights(20, 20)) == []


def findings_by_position(diagnosis: Diagnosis) -> list[tuple[str, int]]:
    """Severity, and the number of the layer, whatever its name."""
    modules = list(dict.fromkeys(p.module for p in diagnosis.profile.parameters))
    return [(f.severity, modules.index(f.layer)) for f in diagnosis.findings if f.code == "GH601"]


@settings(max_examples=25, deadline=None)
@given(
    strength=st.floats(-4, 3).map(lambda power: 10**power),
    names=st.lists(st.text(string.ascii_letters, min_size=1), min_size=7, max_size=7, unique=True),
    order=st.permutations(range(16)),
    seed=st.integers(0, 1000),
)
def test_neither_names_nor_the_order_of_the_batch_change_the_verdict(
    strength: float, names: list[str], order: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    plain = mlp(nn.Tanh).double()
    x, y = batch()
    x = x.double()
    renamed = nn.Sequential(
        OrderedDict((f"{name}_", module) for name, module in zip(names, plain, strict=False))
    )
    expected = probe(plain, x, y, loss=cross_entropy, regularizer=ridge(strength))
    for model, rows in ((renamed, list(range(16))), (plain, order)):
        again = probe(model, x[rows], y[rows], loss=cross_entropy, regularizer=ridge(strength))
        assert findings_by_position(again) == findings_by_position(expected)
        assert again.verdict == expected.verdict


@settings(max_examples=25, deadline=None)
@given(strength=st.floats(1e-3, 1e3), weaker=st.floats(0, 1), seed=st.integers(0, 1000))
def test_a_weaker_penalty_is_never_worse(strength: float, weaker: float, seed: int) -> None:
    torch.manual_seed(seed)
    model, (x, y) = mlp(), batch()
    fails = [
        bool(of_rule(probe(model, x, y, loss=cross_entropy, regularizer=ridge(s))))
        for s in (strength, weaker * strength)
    ]
    assert fails != [False, True]


# Healthy practice, and what is sick. More of it is in test_exploding_update.py.


@pytest.mark.parametrize(
    ("penalty", "strength"), [(ridge, 1e-4), (ridge, 5e-4), (lasso, 1e-6), (lasso, 1e-4)]
)
def test_usual_penalties_raise_no_alarm(
    penalty: Callable[[float], Penalty], strength: float
) -> None:
    x, y = batch()
    for model in (mlp(), mlp(nn.Tanh, hidden=6), ZeroHead(mlp()), lora_net(), LayerScale()):
        for optimizer in (None, sgd(0.1, momentum=0.9)):
            diagnosis = assert_no_dominating_regularizer(
                model,
                x,
                y,
                loss=cross_entropy,
                optimizer=optimizer,
                regularizer=penalty(strength),
            )
            assert of_rule(diagnosis) == []


@pytest.mark.parametrize("regularizer", [ridge(1.0), lasso(1.0)], ids=["ridge", "lasso"])
@pytest.mark.parametrize("check_it", [assert_healthy, assert_no_dominating_regularizer])
def test_a_penalty_of_strength_one_drowns_a_classifier(
    check_it: Callable[..., object], regularizer: Penalty
) -> None:
    x, y = batch()
    with pytest.raises(DominatingRegularizerError) as caught:
        check_it(mlp(), x, y, loss=cross_entropy, regularizer=regularizer)
    assert [finding.code for finding in caught.value.findings] == ["GH601"]


@pytest.mark.parametrize(
    "optimizer",
    [sgd(0.01, weight_decay=5.0), lambda ps: Adam(ps, weight_decay=5.0)],
    ids=["SGD", "Adam"],
)
def test_weight_decay_of_five_drowns_a_classifier(optimizer: Factory) -> None:
    x, y = batch()
    with pytest.raises(DominatingRegularizerError):
        assert_no_dominating_regularizer(mlp(), x, y, loss=cross_entropy, optimizer=optimizer)
    with pytest.raises(DominatingRegularizerError):
        assert_healthy(mlp(), x, y, loss=cross_entropy, optimizer=optimizer, clip=1.0)
    plain = assert_healthy(mlp(), x, y, loss=cross_entropy, optimizer=optimizer)
    assert plain.of(["GH601"]) == ()
    assert penalty_of(plain) is None


def test_a_penalty_on_biases_alone_is_not_judged() -> None:
    x, y = batch()
    diagnosis = assert_no_dominating_regularizer(
        mlp(),
        x,
        y,
        loss=cross_entropy,
        regularizer=lambda m: 1e3 * sum(p.square().sum() for p in m.parameters() if p.dim() < 2),
    )
    assert diagnosis.findings == ()


def test_weights_behind_a_gate_of_a_millionth_only_warn() -> None:
    x, y = batch()
    diagnosis = assert_no_dominating_regularizer(
        LayerScale(), x, y, loss=cross_entropy, regularizer=ridge(1e-3)
    )
    assert of_rule(diagnosis) == []
    (finding,) = of_rule(diagnosis, "warning")
    assert finding.layer.startswith("blocks.")


@pytest.mark.parametrize(
    "optimizer",
    [
        sgd(1e-3, momentum=0.9, weight_decay=5e-4),
        lambda ps: Adam(ps, lr=1e-4, weight_decay=5e-4),
    ],
    ids=["SGD", "Adam"],
)
def test_fine_tuning_with_a_zero_head_raises_no_alarm(optimizer: Factory) -> None:
    x, y = batch()
    diagnosis = probe(ZeroHead(mlp()), x, y, loss=cross_entropy, optimizer=optimizer, clip=1.0)
    assert of_rule(diagnosis) == []


@pytest.mark.parametrize("strength", [100.0, 1e4, 1e10])
def test_a_penalty_that_ruins_the_second_look_is_confirmed(strength: float) -> None:
    x, y = batch()
    with pytest.raises(DominatingRegularizerError):
        assert_no_dominating_regularizer(
            mlp(), x, y, loss=cross_entropy, optimizer=sgd(0.1), regularizer=ridge(strength)
        )


def test_a_model_that_is_a_single_layer_can_fail() -> None:
    x, y = batch()
    with pytest.raises(DominatingRegularizerError):
        assert_no_dominating_regularizer(
            nn.Linear(20, 5), x, y, loss=cross_entropy, regularizer=ridge(1e3)
        )


def test_a_shared_weight_counts_under_each_of_its_names() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.body = nn.Linear(20, 5, bias=False), nn.Linear(20, 20)
            self.head = nn.Linear(20, 5)
            self.head.weight = self.spare.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(x).relu())
            return out

    def on_head(model: Any) -> Any:
        return 1e3 * model.head.weight.square().sum()

    x, y = batch()
    with pytest.raises(DominatingRegularizerError):
        assert_no_dominating_regularizer(
            Shared(),
            x,
            y,
            loss=cross_entropy,
            regularizer=on_head,
        )


def root_of_squares(model: nn.Module) -> Any:
    """Without a slope at zero, where the chain rule makes NaN."""
    return 1e-4 * sum(p.square().sum().sqrt() for p in model.parameters() if p.dim() > 1)


class ZeroBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(20, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        nn.init.zeros_(self.branch.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        out: Tensor = self.head(x + self.branch(x))
        return out


def test_a_penalty_without_a_gradient_is_no_good_one() -> None:
    x, y = batch()
    with pytest.raises(AssertionError):
        assert_no_dominating_regularizer(
            ZeroBranch(), x, y, loss=cross_entropy, regularizer=root_of_squares
        )


# What is left behind, and what is reused.


def test_a_weight_decay_changed_between_two_assertions_is_seen() -> None:
    model = constant()
    optimizer = SGD(model.parameters(), lr=1e-3)
    assert_no_dominating_regularizer(model, ONES, loss=total, optimizer=optimizer)
    optimizer.param_groups[0]["weight_decay"] = 50.0
    with pytest.raises(DominatingRegularizerError):
        assert_no_dominating_regularizer(model, ONES, loss=total, optimizer=optimizer)


def test_another_limit_is_applied_to_the_same_measurement() -> None:
    diagnosis = probe(constant(), ONES, loss=total, regularizer=ridge(4.0))
    assert_no_dominating_regularizer(diagnosis)
    with pytest.raises(DominatingRegularizerError):
        assert_no_dominating_regularizer(diagnosis, max_penalty=5)


# Words.


def two_weights() -> nn.Sequential:
    """Weights of 1 and 2, whose gradients of `total` on a 1 are 2 and 1."""
    layers = [nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(2)]
    for size, layer in enumerate(layers, 1):
        nn.init.constant_(layer.weight, size)
    return nn.Sequential(*layers)


DROWNED = """\
the penalty drowns the data: its gradient is x80 that of the loss for 1.weight and 0.weight; \
limit x10 (default) [GH601]

Sequential on cpu, loss total, trained with Adam(lr=0.001), seed 0

    weight      penalty gradient    loss gradient    ratio
>   1.weight                  80                1      x80
>   0.weight                  40                2      x20

cause:  at that strength the weights follow the penalty and not the data
try:    a penalty or weight decay 80 times weaker makes both equally strong
accept: max_penalty=1e+02, if this is meant to be
rule:   pytest --gradhealth-explain GH601"""


@pytest.mark.usefixtures("_outside_pytest")
def test_the_message_of_a_penalty_that_drowns_the_data() -> None:
    with pytest.raises(DominatingRegularizerError) as caught:
        assert_no_dominating_regularizer(
            two_weights(), ONES[:, :1], loss=total, regularizer=ridge(20), remedy_budget=0
        )
    assert str(caught.value) == DROWNED
    (finding,) = caught.value.findings
    assert (finding.code, finding.layer, finding.value) == ("GH601", "1", 80)


def test_a_gate_that_hardly_opens_is_no_drowned_weight() -> None:
    x, y = batch()
    assert_no_dominating_regularizer(
        ZeroHead(mlp()),
        x,
        y,
        loss=cross_entropy,
        optimizer=lambda ps: Adam(ps, lr=1e-6, weight_decay=5e-4),
    )
