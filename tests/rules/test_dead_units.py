"""Units that are dead in the whole batch fail where all gradient passes through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gradhealth import DeadUnitsError, assert_healthy, probe
from pytest_gradhealth.results.diagnosis import Limit
from pytest_gradhealth.results.path import GradientPath, PathPoint
from pytest_gradhealth.results.profile import ActivationRecord, GradientProfile
from pytest_gradhealth.rules.dead_units import RULE
from pytest_gradhealth.rules.rule import Evidence
from tests.helpers.architectures import Squeezed, Wired, with_biases
from tests.helpers.findings import explained, of
from tests.helpers.nets import batch, mlp

cross_entropy = F.cross_entropy


def test_a_layer_that_is_alive_in_one_call_is_not_dead() -> None:
    layer = nn.Linear(8, 8)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)

    def use(m: Any, x: Tensor) -> Tensor:
        out: Tensor = m.head(F.relu(m.fc(-x.abs())) + F.relu(m.fc(x.abs())))
        return out

    model = Wired(use, fc=layer, head=nn.Linear(8, 5))
    diagnosis = probe(model, torch.randn(4, 8), torch.tensor([0, 1, 2, 3]), loss=cross_entropy)
    assert sorted(r.dead or 0.0 for r in diagnosis.profile.activations) == [0.0, 1.0]
    assert of(diagnosis, "GH402") == []


def half_dead(dead: int, width: int = 32, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A net of which `dead` units of the second layer (its ReLU is "3") are."""
    model = mlp(act, hidden=2, width=width)
    with_biases(model[2], range(dead))
    return model


def test_dead_units_on_the_path_fail_and_are_confirmed() -> None:
    x, y = batch()
    diagnosis = probe(half_dead(31), x, y, loss=cross_entropy, select=["GH402"])
    (finding,) = diagnosis.findings
    assert (finding.severity, finding.layer) == ("failure", "3")
    assert (finding.value, finding.limit) == (31 / 32, 0.95)
    assert finding.message == (
        "31 of 32 units of 3 are dead: zero for the whole batch; limit 95% (default)"
    )
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    with pytest.raises(DeadUnitsError):
        assert_healthy(half_dead(31), x, y, loss=cross_entropy, select=["GH402"])


def test_a_layer_with_all_units_dead_says_so_and_leaves_the_word_to_the_plainer_rule() -> None:
    x, y = batch()
    alone = probe(half_dead(32), x, y, loss=cross_entropy, select=["GH402"])
    assert [f.message for f in alone.findings] == [
        "all 32 units of 3 are dead: zero for the whole batch; limit 95% (default)"
    ]
    together = probe(half_dead(32), x, y, loss=cross_entropy)
    assert of(together, "GH101")[0].severity == "failure"
    assert of(together, "GH402") == []


def test_units_that_the_steps_bring_to_life_are_no_finding() -> None:
    x, y = batch()
    model = half_dead(32)
    with torch.no_grad():
        model[2].weight.mul_(1e-3)  # type: ignore[operator]
        model[2].bias.fill_(-0.05)  # type: ignore[operator]

    def decaying(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.1, weight_decay=0.01)

    asleep = probe(model, x, y, loss=cross_entropy, select=["GH402"], confirm_steps=0)
    assert [f.severity for f in asleep.findings] == ["failure"]
    woken = probe(model, x, y, loss=cross_entropy, select=["GH402"], optimizer=decaying)
    assert [profile.steps for profile in woken.profiles] == [0, 5]
    assert woken.findings == ()


@pytest.mark.parametrize(
    ("dead", "severity"),
    [(0, None), (16, None), (28, None), (29, "warning"), (30, "warning"), (31, "failure")],
)
def test_the_limits_of_dead_units(dead: int, severity: str | None) -> None:
    """29 of 32 are 91%, 30 are 94%."""
    diagnosis = probe(half_dead(dead), *batch(), loss=cross_entropy, select=["GH402"])
    assert [f.severity for f in diagnosis.findings] == ([severity] if severity else [])


def test_the_warning_names_no_limit() -> None:
    (finding,) = probe(half_dead(30), *batch(), loss=cross_entropy, select=["GH402"]).findings
    assert finding.message == "30 of 32 units of 3 are dead: zero for the whole batch"
    assert finding.limit is None


@pytest.mark.parametrize(
    ("limit", "dead", "severity"),
    [
        (0.4, 12, None),
        (0.4, 14, "failure"),
        (0.5, 17, "failure"),
        (0.99, 31, "warning"),
        (1.0, 32, "warning"),
    ],
)
def test_max_dead_moves_the_limit(limit: float, dead: int, severity: str | None) -> None:
    options: dict[str, Any] = {"loss": cross_entropy, "select": ["GH402"], "max_dead": limit}
    findings = probe(half_dead(dead), *batch(), **options).findings
    assert [f.severity for f in findings] == ([severity] if severity else [])
    if severity == "failure":
        assert findings[0].limit == limit
        text = f"{dead} of 32 units of 3 are dead: zero for the whole batch"
        assert findings[0].message == f"{text}; limit {limit:.0%} (the call)"


def squeezed(units: int) -> Squeezed:
    model = Squeezed(units)
    with_biases(model.squeeze, range(units))
    return model


PICTURES = torch.randn(8, 3, 8, 8), torch.randint(0, 5, (8,))


def test_a_dead_side_branch_is_only_a_warning() -> None:
    diagnosis = probe(squeezed(16), *PICTURES, loss=cross_entropy)
    assert diagnosis.verdict == "warning"
    (finding,) = of(diagnosis, "GH402")
    assert (finding.severity, finding.layer) == ("warning", "act")
    assert finding.message == "all 16 units of act are dead: zero for the whole batch"
    assert_healthy(squeezed(16), *PICTURES, loss=cross_entropy)


@pytest.mark.parametrize("units", [1, 2, 4, 7])
def test_a_gate_of_few_units_is_dead_by_chance(units: int) -> None:
    """Of inputs that hardly differ, each unit is on one side for all: one in 2 ** units is dead."""
    diagnosis = probe(squeezed(units), *PICTURES, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    assert [f.severity for f in of(diagnosis, "GH402")] == ["info"]
    (finding,) = of(diagnosis, "GH401")
    assert (finding.severity, finding.message) == (
        "info",
        "zero gradient for 3 parameters (squeeze.weight, squeeze.bias and excite.weight): the few"
        " units of a side branch are all dead, as happens by chance",
    )


class Gates(nn.Module):
    """Gates of two units, one behind the other, with a normalisation or functions inside."""

    def __init__(self, dead: int, *, functional: bool = False) -> None:
        super().__init__()
        self.functional, self.stem, self.head = functional, nn.Linear(20, 20), nn.Linear(20, 5)
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(20, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 20))
            for _ in range(6)
        )
        for number, gate in enumerate(self.gates):
            units = range(2 * (number < dead))
            with_biases(gate[1], units)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for gate in self.gates:
            inside = gate[:2](x)  # type: ignore[index]
            inside = inside.relu() if self.functional else gate[2](inside)  # type: ignore[index]
            x = x * gate[3](inside).sigmoid() + x  # type: ignore[index]
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("functional", [False, True])
def test_one_dead_gate_of_many_is_chance_and_all_of_them_are_none(functional: bool) -> None:
    one, every = (
        probe(Gates(dead, functional=functional), *batch(), loss=cross_entropy) for dead in (1, 6)
    )
    assert one.verdict == "healthy", one
    assert [f.severity for f in of(one, "GH402")] == ["info"]
    assert every.verdict == "warning"
    gate = "relu behind gates.{}.1" if functional else "gates.{}.2"
    assert [(f.severity, f.message) for f in of(every, "GH402")] == [
        (
            "warning",
            f"all 2 units of {gate.format(0)} are dead: zero for the whole batch, likewise"
            f" {gate.format(1)}, {gate.format(2)} and 3 more",
        )
    ]
    assert [f.severity for f in of(every, "GH401")] == ["warning"]


def test_a_narrow_layer_that_all_data_goes_through_still_fails() -> None:
    model = mlp(hidden=2, width=4)
    with_biases(model[2], range(4))
    diagnosis = probe(model, *batch(), loss=cross_entropy, select=["GH402"])
    assert [f.severity for f in diagnosis.findings] == ["failure"]


def mean(outputs: Tensor) -> Tensor:
    return outputs.square().mean()


class Bound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, outputs: Tensor) -> Tensor:
        out: Tensor = mean(outputs) + self.act(outputs - 100).mean()
        return out


HINGES: dict[str, Any] = {
    "penalty": lambda out: mean(out) + F.relu(out - 100).mean(),
    "both sides": lambda out: mean(out) + F.relu(out - 9).sum() + F.relu(-9 - out).sum(),
    "monotone": lambda out: mean(out) + F.relu(out[:, 1:] - out[:, :-1] - 100).sum(),
    "satisfied": lambda out: F.relu(out - 100).mean() + 0 * mean(out),
    "threshold": lambda out: mean(out) + F.threshold(out, 100.0, 0.0).mean(),
    "six": lambda out: mean(out) + F.relu6(out - 100).mean(),
    "module": Bound(),
}


@pytest.mark.parametrize("name", HINGES)
def test_a_hinge_in_the_loss_that_is_satisfied_is_none(name: str) -> None:
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 8))
    diagnosis = probe(model, batch()[0], loss=HINGES[name], select=["GH402"])
    assert diagnosis.findings == ()


@pytest.mark.parametrize("act", [F.relu, nn.ReLU()], ids=["function", "module"])
@pytest.mark.parametrize("own", [True, False], ids=["its own loss", "a loss of its outputs"])
def test_a_hinge_of_the_model_may_be_met_and_its_output_may_not_be_dead(
    act: Any, own: bool
) -> None:
    made: dict[str, nn.Module] = {"body": nn.Linear(20, 16), "head": nn.Linear(16, 8)}
    made |= {"act": act} if isinstance(act, nn.Module) else {}

    def forward(m: Any, x: Tensor) -> Any:
        out = m.head(m.body(x).tanh())
        met = act(out - 100)
        return mean(out) + met.mean() if own else (out, met)

    loss = None if own else lambda out: mean(out[0]) + out[1].mean()
    diagnosis = probe(Wired(forward, **made), batch()[0], loss=loss, select=["GH402"])
    assert [f.severity for f in diagnosis.findings] == ([] if own else ["warning"])


def test_a_penalty_on_what_comes_to_a_rectifier_does_not_make_it_a_side_branch() -> None:
    model = Wired(
        lambda m, x: (m.head(F.relu(h := m.fc(x) - 50)), h),
        fc=nn.Linear(20, 16),
        head=nn.Linear(16, 5),
    )
    loss = lambda out: mean(out[0]) + 1e-4 * mean(out[1].square())  # noqa: E731
    diagnosis = probe(model, batch()[0], loss=loss, select=["GH402"])
    assert [f.severity for f in diagnosis.findings] == ["failure"]


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.relu(out - 100).mean(),
        lambda out: (out - 100).clamp(min=0).mean(),
        lambda out: F.triplet_margin_loss(out[:8], out[:8], out[:8] + 100),
    ],
    ids=["relu", "clamp", "triplet"],
)
def test_margins_that_are_met_are_the_cause_of_silence(loss: Any) -> None:
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 8))
    diagnosis = probe(model, batch()[0], loss=loss, confirm_steps=0)
    _, because, advice = explained(diagnosis, "GH401")
    assert because.endswith("; the loss is 0, as where all margins are met")
    assert advice.startswith("a batch for which it is not, or ")


def test_a_penalty_on_activations_that_the_forward_returns_is_none() -> None:
    model = Wired(
        lambda m, x: (m.head((h := m.fc(x)).tanh()), F.relu(h.abs() - 100).mean()),
        fc=nn.Linear(20, 16),
        head=nn.Linear(16, 5),
    )
    diagnosis = probe(model, batch()[0], loss=lambda out: mean(out[0]) + out[1])
    assert of(diagnosis, "GH402") == []


BESIDE: dict[str, Any] = {
    "dead zone": lambda h: h + F.relu(h.abs() - 100),
    "part": lambda h: torch.cat([h[:, :8], F.relu(h[:, 8:] - 100)], 1),
    "twice": lambda h: F.relu(h - 100) + F.relu(h),
    "norm": lambda h: h / (1 + F.relu(h - 100).sum(-1, keepdim=True)),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("act", [F.relu, nn.ReLU()], ids=["function", "module"])
def test_a_rectifier_that_others_get_past_is_at_most_a_warning(name: str, act: Any) -> None:
    use = BESIDE[name]
    with_module = {"act": act} if isinstance(act, nn.Module) else {}
    model = Wired(
        lambda m, x: m.head(use(m.fc(act(m.stem(x))))),
        stem=nn.Linear(20, 16),
        fc=nn.Linear(16, 16),
        head=nn.Linear(16, 5),
        **with_module,
    )
    diagnosis = probe(model, *batch(), loss=cross_entropy)
    found = [(f.severity, f.message) for f in of(diagnosis, "GH402")]
    units = 8 if name == "part" else 16
    dead = ("warning", f"all {units} units of relu behind fc are dead: zero for the whole batch")
    assert found == ([] if name == "twice" else [dead])


@pytest.mark.parametrize("act", [F.relu, nn.ReLU()], ids=["function", "module"])
def test_a_rectifier_that_all_goes_through_fails(act: Any) -> None:
    with_module = {"act": act} if isinstance(act, nn.Module) else {}
    model = Wired(
        lambda m, x: m.head(act(m.fc(x))),
        fc=nn.Linear(20, 16),
        head=nn.Linear(16, 5),
        **with_module,
    )
    with_biases(model.fc, range(16))
    (finding,) = probe(model, *batch(), loss=cross_entropy, select=["GH402"]).findings
    name = "act" if with_module else "relu behind fc"
    assert (finding.severity, finding.message) == (
        "failure",
        f"all 16 units of {name} are dead: zero for the whole batch; limit 95% (default)",
    )


def test_a_branch_of_a_shared_module_is_no_path_for_what_it_does_on_one() -> None:
    fc = with_biases(nn.Linear(20, 20), range(20))
    model = Wired(
        lambda m, x: m.head((h := m.act(m.stem(x))) + m.act(m.fc(h))),
        stem=nn.Linear(20, 20),
        fc=fc,
        act=nn.ReLU(),
        head=nn.Linear(20, 5),
    )
    diagnosis = probe(model, *batch(), loss=cross_entropy, select=["GH402"])
    assert [(f.severity, f.message) for f in diagnosis.findings] == [
        ("warning", "all 20 units of act after fc are dead: zero for the whole batch")
    ]


def test_an_activation_without_a_layer_before_it_has_a_name() -> None:
    model = Wired(
        lambda m, x: m.head(F.relu(x @ m.weight - 1e3)),
        weight=nn.Parameter(torch.randn(20, 16)),
        head=nn.Linear(16, 5),
    )
    (finding,) = probe(model, *batch(), loss=cross_entropy, select=["GH402"]).findings
    assert finding.layer
    assert "of  are" not in finding.message


def test_a_dead_layer_is_found_behind_a_shared_activation_module() -> None:
    act = nn.ReLU()
    first, second = nn.Linear(20, 32), with_biases(nn.Linear(32, 32), range(31))
    model = nn.Sequential(first, act, second, act, nn.Linear(32, 5))
    assert of(probe(model, *batch(), loss=cross_entropy), "GH402")


def test_however_many_layers_are_dead_each_kind_is_told_once() -> None:
    """The worst of those that fail, and of those that warn, with the names of two others."""
    shares = [0.92, *199 * [1.0]]
    dead = [
        ActivationRecord(f"blocks.{n}", "ReLU", "ReLU", 64, dead=share, point=f"blocks.{n}")
        for n, share in enumerate(shares)
    ]
    trunk = tuple(PathPoint(f"blocks.{n}", "ReLU", (8, 64), norm=1.0, numel=512) for n in (1, 2, 3))
    path = GradientPath(trunk, entry=trunk[0])
    look = GradientProfile(0, 0, 2.3, paths=(path,), activations=tuple(dead))
    found = RULE.judge(Evidence(look, None, {"max_dead": Limit(0.95, "default")}))
    assert [(f.severity, f.layer, f.value, f.message) for f in found] == [
        (
            "warning",
            "blocks.4",
            1.0,
            "all 64 units of blocks.4 are dead: zero for the whole batch, 92% or more of"
            " blocks.0, blocks.5 and 194 more",
        ),
        (
            "failure",
            "blocks.1",
            1.0,
            "all 64 units of blocks.1 are dead: zero for the whole batch, likewise blocks.2 and"
            " blocks.3; limit 95% (default)",
        ),
    ]


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        (
            [1.0, 1.0, 1.0],
            "all 64 units of b0 are dead: zero for the whole batch, likewise b1 and b2",
        ),
        ([1.0, 0.999], "all 64 units of b0 are dead: zero for the whole batch, 99% of b1"),
        ([0.96875, 0.90625], "62 of 64 units of b0 are dead: zero for the whole batch, 90% of b1"),
        (
            [0.91, 0.97, 0.96],
            "62 of 64 units of b1 are dead: zero for the whole batch, 91% or more of b0 and b2",
        ),
    ],
)
def test_of_several_what_is_told_is_true_of_all(shares: list[float], text: str) -> None:
    dead = [
        ActivationRecord(f"b{n}", "ReLU", "ReLU", 64, dead=share) for n, share in enumerate(shares)
    ]
    look = GradientProfile(0, 0, 2.3, paths=(), activations=tuple(dead))
    (finding,) = RULE.judge(Evidence(look, None, {"max_dead": Limit(0.95, "default")}))
    assert finding.message == text


def test_the_table_marks_each_layer_of_which_the_same_is_told() -> None:
    x, y = batch()
    model = mlp(hidden=3)
    for layer in (model[0], model[4]):
        with_biases(layer, range(31))
    diagnosis = probe(model, x, y, loss=cross_entropy, select=["GH402"])
    (finding,) = diagnosis.findings
    assert finding.message == (
        "31 of 32 units of 1 are dead: zero for the whole batch, likewise 5; limit 95% (default)"
    )
    assert finding.layers == ("1", "5")
    marked = [line.split()[1:3] for line in str(diagnosis).splitlines() if line[:1] == ">"]
    assert marked == [["1", "ReLU"], ["5", "ReLU"]]
