"""What is healthy and what is not: zero gates, dead layers, seeds, limits, side sources."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import Finding, probe
from tests.helpers.architectures import ReZero, ZeroHead, lora_net
from tests.helpers.findings import codes
from tests.helpers.nets import batch, mlp, scalar_chain

cross_entropy = nn.functional.cross_entropy


def test_a_deep_sigmoid_net_vanishes_and_a_relu_net_does_not() -> None:
    x, y = batch()
    sick = probe(mlp(nn.Sigmoid, hidden=10), x, y, loss=cross_entropy)
    assert (sick.verdict, codes(sick)) == ("failure", ["GH101"])
    assert [profile.steps for profile in sick.profiles] == [0, 5]
    healthy = probe(mlp(nn.ReLU), x, y, loss=cross_entropy)
    assert (healthy.verdict, healthy.findings) == ("healthy", ())
    assert [profile.steps for profile in healthy.profiles] == [0]


def test_large_weights_explode() -> None:
    model = mlp(nn.ReLU, hidden=10)
    for weight in (p for name, p in model.named_parameters() if name.endswith("weight")):
        nn.init.normal_(weight, std=1.0)
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert codes(diagnosis) == ["GH201"]
    (finding,) = diagnosis.findings
    assert finding.value is not None
    assert finding.value > 1e3
    assert finding.limit == 1e3
    assert finding.limit_source == "default"


def test_an_explosion_that_the_confirm_steps_turn_into_ruin_is_confirmed() -> None:
    x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    model = scalar_chain(5, weight=10.0, bias=0.0, activation=None)
    diagnosis = probe(model, x, loss=lambda y: y.sum(), optimizer=torch.optim.SGD)
    second = diagnosis.profiles[1].paths[0]
    assert second.vanishing < -50, "five steps of SGD overshoot"
    assert codes(diagnosis) == ["GH201"]


@pytest.mark.parametrize(
    ("hidden", "adam", "sgd"),
    [(3, "healthy", "healthy"), (11, "warning", "failure"), (16, "failure", "failure")],
)
def test_sgd_has_stricter_limits(hidden: int, adam: str, sgd: str) -> None:
    x, y = batch()
    model = mlp(nn.ReLU, hidden=hidden)
    assert probe(model, x, y, loss=cross_entropy, select=["GH101"]).verdict == adam
    strict = probe(model, x, y, loss=cross_entropy, select=["GH101"], optimizer=torch.optim.SGD)
    assert strict.verdict == sgd
    for finding in strict.findings:
        assert finding.limit_source == "default with SGD"


class ZeroGamma(nn.Module):
    """Residual blocks whose last normalisation starts at zero (Goyal et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(20, 16), nn.Linear(16, 5)
        self.layer1 = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16))
            for _ in range(3)
        )
        for block in self.layer1:
            nn.init.zeros_(block[3].weight)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.layer1:
            x = x + block(x)
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD])
@pytest.mark.parametrize(
    "build",
    [lambda: ZeroHead(mlp()), ReZero, ZeroGamma, lora_net],
    ids=["zero head", "ReZero", "zero gamma", "LoRA"],
)
def test_gates_that_start_at_zero_are_healthy(
    build: Callable[[], nn.Module], optimizer: type[torch.optim.Optimizer] | None
) -> None:
    x, y = batch()
    diagnosis = probe(build, x, y, loss=cross_entropy, optimizer=optimizer)
    assert diagnosis.verdict == "healthy", diagnosis.findings


def test_a_vanishing_body_behind_a_zero_head_is_still_found() -> None:
    x, y = batch()
    diagnosis = probe(ZeroHead(mlp(nn.Sigmoid, hidden=12)), x, y, loss=cross_entropy)
    assert "GH101" in codes(diagnosis)


def test_an_adapter_with_both_factors_zero_never_wakes_up() -> None:
    x, y = batch()
    diagnosis = probe(lora_net(both_zero=True), x, y, loss=cross_entropy)
    assert codes(diagnosis) == ["GH101", "GH401"]


def test_without_confirm_steps_the_first_look_stands() -> None:
    x, y = batch()
    diagnosis = probe(ZeroHead(mlp()), x, y, loss=cross_entropy, confirm_steps=0)
    assert diagnosis.verdict == "failure"
    assert [profile.steps for profile in diagnosis.profiles] == [0]


def test_a_net_of_dead_units_is_unreached_and_vanished() -> None:
    model = mlp(nn.ReLU, hidden=2)
    model[2].register_parameter("bias", nn.Parameter(torch.full((32,), -100.0)))
    x, y = batch()
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert codes(diagnosis) == ["GH101", "GH401"]
    assert diagnosis.findings[0].layer == "2"


def test_a_softmax_over_one_unit_is_found() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softmax(dim=-1))
    x, _ = batch()
    diagnosis = probe(model, x, torch.rand(16, 1), loss=nn.functional.mse_loss)
    assert codes(diagnosis) == ["GH101", "GH401"]


def test_a_loss_that_sends_nothing_back_fails_and_a_perfect_fit_warns() -> None:
    x, _ = batch()
    constant = probe(mlp(), x, loss=lambda y: y.clamp(50, 60).mean())
    assert "GH101" in codes(constant)
    fitted = probe(mlp(), x, loss=lambda y: (y - 1000).relu().sum())
    assert "GH101" in codes(fitted, "warning")


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


def test_unrouted_experts_are_a_warning() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(20, 5) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.experts[0](x) + self.experts[2](x)
            return out

    diagnosis = probe(Experts(), batch()[0])
    assert diagnosis.verdict == "warning"
    (finding,) = diagnosis.findings
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


def scaled_before(norm: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """Six layers whose weights grow by 30 from one to the next, each followed by `norm`."""
    layers: list[nn.Module] = []
    for i in range(6):
        linear = nn.Linear(20 if i == 0 else 32, 32)
        linear.weight.data.mul_(30.0 ** (i - 6))
        linear.bias.data.zero_()
        layers += [linear, norm(), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(32, 5)).double()
    return model, torch.randn(64, 20, dtype=torch.float64), torch.randint(0, 5, (64,))


def test_weights_before_batch_norm_may_have_any_scale() -> None:
    model, x, y = scaled_before(lambda: nn.BatchNorm1d(32, eps=1e-30))
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.paths[0].exploding > 6
    assert diagnosis.verdict == "healthy"
    (finding,) = diagnosis.of(["GH201"])
    assert finding.severity == "info"
    assert finding.message.endswith("a normalisation layer takes out again: harmless")


class PositionBias(nn.Module):
    """A trunk, and a side branch that computes the same whatever the batch."""

    def __init__(self, data: bool) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(20, 16), nn.Linear(16, 5)
        self.bias = mlp(nn.Sigmoid, hidden=12, width=16, inputs=16, classes=16)
        self.register_buffer("positions", torch.randn(1, 16))
        self.data = data

    def forward(self, x: Tensor) -> Tensor:
        positions = self.get_buffer("positions")
        side = self.bias(x[:, :16] if self.data else positions)
        out: Tensor = self.head(self.trunk(x) + side)
        return out


@pytest.mark.parametrize(("data", "verdict"), [(False, "healthy"), (True, "failure")])
def test_only_sources_that_carry_data_are_judged(data: bool, verdict: str) -> None:
    x, y = batch()
    diagnosis = probe(PositionBias(data), x, y, loss=cross_entropy)
    assert diagnosis.verdict == verdict
    assert {path.first.name: path.judged for path in diagnosis.paths} == {
        "bias.0": data,
        "trunk": True,
    }


def narrow() -> nn.Module:
    return mlp(nn.ReLU, hidden=12, width=4)


def test_a_built_model_is_judged_under_one_seed() -> None:
    x, y = batch()
    assert len(probe(narrow(), x, y, loss=cross_entropy, confirm_steps=0).seeds) == 1


def test_a_wide_factory_is_decided_by_one_seed() -> None:
    x, y = batch()
    assert probe(lambda: mlp(width=256), x, y, loss=cross_entropy).seeds == (0,)


def test_a_factory_near_a_limit_gets_more_seeds() -> None:
    """Eight default ReLU layers end within 0.3 decades of the limit of 1e-3 at any width."""
    x, y = batch()
    diagnosis = probe(lambda: mlp(hidden=8, width=256), x, y, loss=cross_entropy)
    assert abs(diagnosis.paths[0].vanishing + 3) < 0.3
    assert len(diagnosis.seeds) == 5


def test_a_narrow_factory_gets_more_seeds_and_any_failing_one_fails() -> None:
    x, y = batch()
    lively = probe(lambda: mlp(nn.Tanh, hidden=8, width=4), x, y, loss=cross_entropy)
    assert len(lively.seeds) == 5
    assert lively.verdict != "failure"
    failing = probe(narrow, x, y, loss=cross_entropy, seeds=5)
    assert failing.verdict == "failure"
    assert failing.findings[0].seed == failing.seeds[-1] == failing.decisive_seed


def test_seeds_are_reproducible_and_can_be_named() -> None:
    x, y = batch()

    def ratios(seeds: list[int]) -> list[float]:
        diagnosis = probe(lambda: mlp(width=64), x, y, loss=cross_entropy, seeds=seeds)
        return [profile.paths[0].ratio for profile in diagnosis.profiles]

    assert ratios([7, 8]) == [*ratios([7]), *ratios([8])]
    assert ratios([7]) != ratios([8])


def test_the_verdict_does_not_depend_on_batch_order_or_names() -> None:
    x, y = batch()
    model = mlp(nn.Sigmoid, hidden=8)
    order = torch.randperm(len(y))
    plain, turned = (
        probe(model, *pair, loss=cross_entropy) for pair in [(x, y), (x[order], y[order])]
    )
    assert turned.verdict == plain.verdict
    assert turned.ratio == pytest.approx(plain.ratio, rel=1e-4)
    renamed = nn.Sequential()
    for i, layer in enumerate(model):
        renamed.add_module(f"very_{i}_other", layer)
    other = probe(renamed, x, y, loss=cross_entropy)
    assert (other.verdict, other.ratio) == (plain.verdict, plain.ratio)


def test_an_optimizer_instance_sets_the_limits_and_is_never_stepped() -> None:
    x, y = batch()
    model = mlp(nn.Sigmoid, hidden=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    diagnosis = probe(model, x, y, loss=cross_entropy, optimizer=optimizer)
    assert diagnosis.optimizer == "SGD(lr=0.1)"
    assert optimizer.state_dict()["state"] == {}


def test_the_confirm_steps_are_those_of_the_users_optimizer() -> None:
    """With a step size of zero nothing wakes up; with the default everything does."""
    x, y = batch()
    model = ZeroHead(mlp())
    asleep = probe(model, x, y, loss=cross_entropy, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    assert asleep.verdict == "failure"
    assert probe(model, x, y, loss=cross_entropy).verdict == "healthy"


def test_lbfgs_confirms_too() -> None:
    x, y = batch()
    diagnosis = probe(ZeroHead(mlp()), x, y, loss=cross_entropy, optimizer=torch.optim.LBFGS)
    assert diagnosis.verdict == "healthy"
    assert len(diagnosis.profiles) == 2


def test_user_rules_are_applied_and_can_be_left_out() -> None:
    from pytest_gradhealth import Evidence, Rule

    def check(evidence: Evidence) -> list[Finding]:
        return [rule.finding("failure", "(loss)", "no luck", profile=evidence.first)]

    rule = Rule("MY1", "luck", "needs luck", "nothing", check)
    x, y = batch()
    assert codes(probe(mlp(), x, y, loss=cross_entropy, rules=[rule])) == ["MY1"]
    assert probe(mlp(), x, y, loss=cross_entropy, rules=[rule], ignore=["MY"]).findings == ()
    chosen = probe(mlp(nn.Sigmoid, hidden=12), x, y, loss=cross_entropy, select=["GH2"])
    assert chosen.findings == ()


def test_mha_and_other_modules_that_bypass_forward_get_their_gradients() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    diagnosis = probe(model, torch.randn(4, 6, 16))
    assert diagnosis.verdict == "healthy"
    assert "layers.0.self_attn.out_proj" in diagnosis.profile.uncalled


def test_a_bias_before_batch_norm_is_no_finding_worth_a_warning() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)).double()
    x = torch.randn(16, 20, dtype=torch.float64)
    assert probe(model, x, torch.randint(0, 5, (16,)), loss=cross_entropy).verdict == "healthy"
