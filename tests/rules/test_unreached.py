"""Parameters that get no gradient fail, unless they are frozen or wait for their turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from pytest_gradhealth.results.profile import (
    ActivationRecord,
    GradientProfile,
    OutputRecord,
    ParameterRecord,
)
from pytest_gradhealth.rules.unreached import silenced
from tests.helpers.architectures import ReZero, Wired, adapter
from tests.helpers.findings import said
from tests.helpers.nets import batch, mlp

cross_entropy = nn.functional.cross_entropy


class Extra(nn.Module):
    def __init__(self, use: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.extra, self.use = mlp(), nn.Linear(5, 5), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.extra, self.body(x))


def test_a_layer_that_is_cut_off_from_the_loss_is_unreached() -> None:
    x, y = batch()
    model = Extra(lambda layer, x: x + layer(x).detach())
    (finding,) = probe(model, x, y, loss=cross_entropy).findings
    assert (finding.code, finding.severity, finding.layer) == ("GH401", "failure", "extra")
    assert finding.message == (
        "no gradient reaches 2 parameters (extra.weight and extra.bias): cut off from the loss"
    )


def test_a_batch_with_nothing_left_to_learn_is_no_failure() -> None:
    """Prototypes of a single example each lie on it, and all others are far away."""

    def distances(m: Any, x: Tensor) -> Tensor:
        made = 1e3 * m.net(x)
        return -torch.cdist(made, made)

    model = Wired(distances, net=mlp(hidden=1))
    x, _ = batch(5)
    diagnosis = probe(model, x, torch.arange(5), loss=cross_entropy)
    assert diagnosis.profile.loss == 0
    assert {(f.code, f.severity) for f in diagnosis.findings} == {
        ("GH101", "warning"),
        ("GH401", "warning"),
    }


def test_unrouted_experts_are_no_warning() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(20, 5) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.experts[0](x) + self.experts[2](x)
            return out

    diagnosis = probe(Experts(), batch()[0])
    assert diagnosis.verdict == "healthy"
    (finding,) = diagnosis.findings
    assert finding.severity == "info"
    assert finding.message == (
        "no gradient on this batch for 4 parameters (experts.1.weight, experts.1.bias,"
        " experts.3.weight and 1 more); siblings in the same list got one"
    )


def test_frozen_parameters_are_not_expected_to_get_a_gradient() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy"
    assert {p.name for p in diagnosis.profile.parameters if p.state == "frozen"} == {
        "0.weight",
        "0.bias",
    }
    assert diagnosis.paths[0].first.name == "2"


def test_a_bias_before_batch_norm_is_no_finding_worth_a_warning() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)).double()
    x = torch.randn(16, 20, dtype=torch.float64)
    assert probe(model, x, torch.randint(0, 5, (16,)), loss=cross_entropy).verdict == "healthy"


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: m.body(x) + m.extra(x).detach(),
        lambda m, x: m.body(x) + F.one_hot(m.extra(x).argmax(-1), 5),
        lambda m, x: m.body(x) + (m.extra(x) > 0),
    ],
    ids=["detach", "argmax", "comparison"],
)
def test_a_leaf_that_was_called_and_cut_off_is_a_failure(use: Callable[..., Any]) -> None:
    x, y = batch()
    model = Wired(use, body=mlp(), extra=nn.Linear(20, 5))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "failure", "extra")]
    assert diagnosis.findings[0].message == (
        "no gradient reaches 2 parameters (extra.weight and extra.bias): cut off from the loss"
    )
    with pytest.raises(UnreachedParameterError) as caught:
        assert_all_reached(model, x, y, loss=cross_entropy)
    assert not isinstance(caught.value, UnusedParameterError)


def test_a_composite_that_was_cut_off_is_a_failure_with_its_own_parameters() -> None:
    part = Wired(
        lambda m, x: (m.fc(x) * m.gain).detach(),
        fc=nn.Linear(20, 5),
        gain=nn.Parameter(torch.ones(5)),
    )
    x, y = batch()
    model = Wired(lambda m, x: m.body(x) + m.part(x), body=mlp(), part=part)
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "failure", "part")]


def listed() -> Any:
    return nn.ModuleList(nn.Linear(20, 5) for _ in range(3))


def named() -> Any:
    return nn.ModuleDict({f"expert_{i}": nn.Linear(20, 5) for i in range(3)})


@pytest.mark.parametrize("in_dict", [False, True], ids=["ModuleList", "ModuleDict"])
def test_idle_experts_are_no_warning(in_dict: bool) -> None:
    first = "expert_1" if in_dict else "1"
    last = "expert_2" if in_dict else "2"
    model = Wired(
        lambda m, x: m.experts["expert_0" if in_dict else 0](x),
        experts=named() if in_dict else listed(),
    )
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert ("GH401", "info", f"experts.{first}") in said(diagnosis)
    assert diagnosis.of(["GH401"])[0].message == (
        f"no gradient on this batch for 4 parameters (experts.{first}.weight,"
        f" experts.{first}.bias, experts.{last}.weight and 1 more);"
        " siblings in the same list got one"
    )
    assert_all_reached(model, x, y, loss=cross_entropy)


def test_an_adapter_with_both_factors_zero_trains_nothing() -> None:
    x, y = batch()
    assert probe(adapter(1.0, 0.0), x, y, loss=cross_entropy).verdict == "healthy"
    diagnosis = probe(adapter(0.0, 0.0), x, y, loss=cross_entropy)
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    assert [(f.code, f.severity, f.message) for f in diagnosis.findings] == [
        (
            "GH101",
            "failure",
            "the gradient vanishes: it is exactly zero from A (Parameter) on; limit x1e-05"
            " (default)",
        ),
        (
            "GH401",
            "failure",
            "exactly zero gradient for 2 parameters (A and B): it is zero at A already",
        ),
    ]


def routed(weigh: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """A residual block whose branch is weighted by what `weigh` makes of a router's logits."""

    def forward(m: Any, x: Tensor) -> Any:
        h = m.embed(x).relu()
        return m.head(h + weigh(m.gate(h)) * m.branch(h))

    return forward


def router(weigh: Callable[[Tensor], Tensor], outputs: int = 4) -> Wired:
    parts = {"embed": nn.Linear(20, 16), "gate": nn.Linear(16, outputs)}
    return Wired(routed(weigh), **parts, branch=nn.Linear(16, 16), head=nn.Linear(16, 5))


ONE_UNIT = "is a softmax over one element, which is 1 whatever comes in"
CUT_OFF = "cuts off all that comes in, which is out of its range"
ROUTERS: dict[str, tuple[Callable[[Tensor], Tensor], int, str]] = {
    "softmax over the one logit": (
        lambda g: g.topk(1, -1)[0].softmax(-1),
        4,
        f"softmax behind gate (Linear) {ONE_UNIT}",
    ),
    "softmax over one expert": (
        lambda g: g.softmax(-1),
        1,
        f"softmax behind gate (Linear) {ONE_UNIT}",
    ),
    "its sign alone": (
        lambda g: g.sign().abs(),
        1,
        "sign behind gate (Linear) has no slope anywhere",
    ),
    "clamped to where it is not": (
        lambda g: g.clamp(9, 10),
        1,
        f"clamp behind gate (Linear) {CUT_OFF}",
    ),
    "rounded": (
        lambda g: g.round().abs() + 1,
        1,
        "round behind gate (Linear) has no slope anywhere",
    ),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_a_router_with_a_gradient_of_zero_is_not_reached(name: str) -> None:
    x, y = batch()
    weigh, outputs, because = ROUTERS[name]
    model = router(weigh, outputs)
    diagnosis = assert_healthy(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "warning", "gate")]
    text = "exactly zero gradient for 2 parameters (gate.weight and gate.bias), in a side branch"
    assert diagnosis.findings[0].message == text
    with pytest.raises(UnreachedParameterError) as caught:
        assert_all_reached(model, x, y, loss=cross_entropy)
    assert str(caught.value).startswith(f"{text} [GH401]")
    assert f"cause: {because} try:" in " ".join(str(caught.value).split())
    with pytest.raises(UnreachedParameterError):
        assert_all_reached(diagnosis)
    assert_all_reached(diagnosis, ignore="GH401:gate")


def test_a_path_of_zeros_is_put_down_to_what_stops_it_also_where_this_rule_is_asked_alone() -> None:
    model = mlp(nn.ReLU, hidden=1)
    nn.init.constant_(model[0].bias, -99)  # type: ignore[arg-type]
    x, y = batch()
    with pytest.raises(UnreachedParameterError) as caught:
        assert_all_reached(model, x, y, loss=cross_entropy, remedy_budget=0)
    said = " ".join(str(caught.value).split())
    assert (
        "cause: all units of 1 (ReLU) are dead: its output is zero for the whole batch try: smaller"
        " or zero biases, scaled inputs, or nn.LeakyReLU() (F.softplus where it has to be positive)"
    ) in said


def test_a_router_that_learns_is_reached() -> None:
    x, y = batch()
    assert_all_reached(router(lambda g: g.softmax(-1).topk(1, -1)[0]), x, y, loss=cross_entropy)


@pytest.mark.parametrize(
    ("build", "said_of"),
    [
        (ReZero, "until a zero-initialised neighbour has moved"),
        (
            lambda: nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)).double(),
            "cancels to zero",
        ),
    ],
    ids=["gated", "cancelled"],
)
def test_zeros_that_have_to_be_are_reached(build: Callable[[], nn.Module], said_of: str) -> None:
    (x, y), model = batch(), build()
    x = x.to(next(model.parameters()).dtype)
    diagnosis = assert_all_reached(model, x, y, loss=cross_entropy)
    assert all(f.severity == "info" for f in diagnosis.findings)
    assert not diagnosis.findings or said_of in diagnosis.findings[0].message


def dense(m: Any, x: Tensor) -> Any:
    """Every expert gets the whole batch, and what those return that were not chosen is zeroed."""
    chosen = torch.tensor([0.0, 0.7, 0.0, 0.3])
    h = m.embed(x)
    return m.body(h) + sum(w * e(h) for w, e in zip(chosen, m.experts, strict=True))


def dispatched(m: Any, x: Tensor) -> Any:
    """Every expert is called, some with no example at all."""
    x, rows = m.embed(x), torch.arange(len(x)) % 2 * 2
    out = m.body(x)
    for number, expert in enumerate(m.experts):
        mine = (rows == number).nonzero()[:, 0]
        out = out.index_add(0, mine, expert(x[mine]))
    return out


@pytest.mark.parametrize(("use", "first"), [(dense, 0), (dispatched, 1)])
@pytest.mark.parametrize("deep", [False, True])
def test_experts_that_got_nothing_of_the_batch_are_idle(
    use: Callable[..., Any], first: int, deep: bool
) -> None:
    one = partial(mlp, hidden=1) if deep else partial(nn.Linear, 20, 5)
    experts = nn.ModuleList(one() for _ in range(4))
    model = Wired(use, embed=nn.Linear(20, 20), body=mlp(), experts=experts)
    x, y = batch()
    diagnosis = assert_all_reached(model, x, y, loss=cross_entropy)
    assert said(diagnosis) == [("GH401", "info", f"experts.{first}" + ".0" * deep)]
    assert diagnosis.verdict == "healthy"


def test_the_first_layers_of_a_dead_branch_are_no_experts() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        h = side = m.embed(x).relu()
        for layer in m.layers:
            side = layer(side).relu()
        return m.head(h + side)

    layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
    nn.init.constant_(layers.get_parameter("1.bias"), -100.0)
    model = Wired(forward, embed=nn.Linear(20, 16), layers=layers, head=nn.Linear(16, 5))
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy, select="GH401")
    assert said(diagnosis) == [("GH401", "warning", "layers.0")]
    with pytest.raises(UnreachedParameterError):
        assert_all_reached(diagnosis)


def test_a_parameter_without_elements_wants_no_gradient() -> None:
    """A memory of no places, say, that is appended to keys all the same."""
    model = Wired(
        lambda m, x: m.head(torch.cat([m.embed(x), m.memory.expand(len(x), -1)], 1)),
        embed=nn.Linear(20, 16),
        head=nn.Linear(16, 5),
    )
    model.memory = nn.Parameter(torch.empty(1, 0))
    x, y = batch()
    assert assert_all_reached(model, x, y, loss=cross_entropy).verdict == "healthy"


def test_zeros_that_something_harmless_accounts_for_silence_nothing() -> None:
    """Sums that cancel, constants beside forces, blocks behind a gate, and what has woken."""

    def zero(name: str, *shape: int) -> ParameterRecord:
        return ParameterRecord(name, shape or (8,), "zero", norm=1.0, gradient=0.0)

    def alive(name: str, norm: float = 1.0) -> ParameterRecord:
        return ParameterRecord(name, (8, 8), "gradient", norm=norm, gradient=1.0)

    look = GradientProfile(
        0,
        1,
        2.3,
        paths=(),
        outputs=(OutputRecord("summed", "Linear", "measured", norm=1.0),),
        parameters=(
            zero("summed.bias"),
            alive("energy.weight"),
            zero("energy.bias"),
            alive("blocks.0.scale", norm=0.0),
            zero("blocks.0.fc.weight"),
            zero("woken.weight"),
            zero("few.weight", 2, 8),
            zero("dead.weight"),
        ),
        awake=("woken.weight",),
        activations=(ActivationRecord("few", "Linear", "relu", 2, dead=1.0),),
    )
    assert [parameter.name for parameter in silenced(look)] == ["dead.weight"]
