"""What the first look fails is looked at again after steps of the user's optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import assert_finite_gradients, probe
from pytest_gradhealth.errors import NonFiniteGradientError
from pytest_gradhealth.probing import examine, second_look
from tests.helpers.architectures import ReZero, Wired, ZeroHead, lora_net, zeroed
from tests.helpers.findings import codes
from tests.helpers.nets import batch, mlp
from tests.helpers.refusals import Returning, check, raising, refusal

cross_entropy, mse_loss = nn.functional.cross_entropy, nn.functional.mse_loss


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


@pytest.mark.parametrize("optimizer", [None, torch.optim.Adam, torch.optim.SGD])
def test_two_inputs_joined_before_a_zero_layer_are_healthy(optimizer: Any) -> None:
    """The output carries no data at first, and is the end of both paths all the same."""
    model = Wired(
        lambda m, a, b: m.last(m.join(m.left(a) + m.right(b)).relu()),
        left=nn.Linear(20, 32),
        right=nn.Linear(20, 32),
        join=nn.Linear(32, 32),
        last=zeroed(nn.Linear(32, 5)),
    )
    (a, y), (b, _) = batch(), batch()
    diagnosis = probe(model, (a, b), y, loss=cross_entropy, optimizer=optimizer)
    assert diagnosis.verdict == "healthy", diagnosis.findings
    assert len(diagnosis.profile.judged_paths) == 2
    assert {path.last.norm > 0 for path in diagnosis.profiles[0].judged_paths} == {True}


def test_a_second_look_is_refused_in_the_same_words() -> None:
    x, y = batch()
    calls: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return cross_entropy(outputs, targets) if len(calls) < 3 else raising()

    check(
        refusal(mlp(nn.Sigmoid, hidden=10), x, y, loss=loss),
        "loss loss raised KeyError: 'nothing'\n  it was called with outputs: (16, 5) float32;"
        " targets: (16,) int64",
        KeyError,
    )


class Factorised(nn.Module):
    """Products of embeddings, and layers that all start at a ten-thousandth (He and Chua 2017)."""

    def __init__(self, pooled: str = "sum", *, linear: bool = True) -> None:
        super().__init__()
        self.pooled = pooled
        self.embed = nn.Embedding(120, 8)
        self.linear = nn.Embedding(120, 1) if linear else None
        width = {"sum": 8, "inner": 15, "pairs": 120}[pooled]
        self.deep = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.out = nn.Linear(32, 1, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Embedding, nn.Linear)):
                nn.init.normal_(module.weight, std=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        vectors = self.embed(x)
        one, other = torch.triu_indices(6, 6, 1)
        products = vectors[:, one] * vectors[:, other]
        if self.pooled == "sum":
            products = products.sum(1)
        elif self.pooled == "inner":
            products = products.sum(2)
        answer: Tensor = self.out(self.deep(products.flatten(1)))
        return answer if self.linear is None else answer + self.linear(x).sum(1)


FIELDS = torch.randint(0, 20, (128, 6), generator=torch.Generator().manual_seed(0))
FIELDS += 20 * torch.arange(6)
CLICKS = ((FIELDS[:, 0] + FIELDS[:, 1]) % 2).float().unsqueeze(1)
clicked = nn.functional.binary_cross_entropy_with_logits


@pytest.mark.parametrize("pooled", ["sum", "inner", "pairs"])
@pytest.mark.parametrize("linear", [True, False])
def test_weights_that_the_steps_outgrow_are_looked_at_once_more(pooled: str, linear: bool) -> None:
    model = Factorised(pooled, linear=linear)
    diagnosis = probe(model, FIELDS, CLICKS, loss=clicked)
    assert diagnosis.verdict != "failure", diagnosis
    assert [look.steps for look in diagnosis.profiles] == [0, 150]
    first = diagnosis.profiles[0].judged_paths
    assert min(path.vanishing for path in first) < -8, "at first, next to nothing comes through"


def test_steps_that_do_not_move_them_leave_the_verdict() -> None:
    diagnosis = probe(Factorised(), FIELDS, CLICKS, loss=clicked, optimizer=torch.optim.SGD)
    assert "GH101" in codes(diagnosis)


@pytest.mark.parametrize("depth", [8, 12, 20])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_network_that_only_finds_one_answer_for_all_gets_no_more_steps(
    depth: int, scale: float
) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return scale * cross_entropy(outputs, targets)

    diagnosis = probe(mlp(nn.Sigmoid, hidden=depth), *batch(64), loss=loss)
    assert "GH101" in codes(diagnosis)
    assert [look.steps for look in diagnosis.profiles] == [0, 5]


def test_a_dead_part_beside_one_that_learns_still_fails_after_more_steps() -> None:
    x, _ = batch(64)
    y = 2 * x[:, :5]
    model = Wired(
        lambda m, x: m.deep(x) + m.skip(x),
        deep=mlp(nn.Sigmoid, hidden=12),
        skip=nn.Linear(20, 5),
    )
    nn.init.eye_(model.skip.weight)
    diagnosis = probe(model, x, y, loss=mse_loss)
    assert "GH101" in codes(diagnosis)
    assert [look.steps for look in diagnosis.profiles] == [0, 150]


def small(layer: nn.Module, size: float) -> None:
    assert isinstance(layer, nn.Linear)
    nn.init.normal_(layer.weight, std=size)


def test_warnings_are_looked_at_again_too() -> None:
    """A scale of a ten-thousandth in one place is what five steps of Adam leave behind."""
    x, y = batch()
    model = mlp()
    small(model[2], 1e-5)
    diagnosis = probe(model, x, y, loss=cross_entropy)
    assert diagnosis.verdict == "healthy", diagnosis
    assert min(path.vanishing for path in diagnosis.profiles[0].paths) < -3


def test_a_warning_stands_where_the_model_cannot_be_copied() -> None:
    class Unique(nn.Sequential):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise TypeError("there is only one of me")

    model = Unique(*mlp())
    small(model[2], 1e-4)
    diagnosis = probe(model, *batch(), loss=cross_entropy)
    assert [(f.code, f.severity) for f in diagnosis.findings] == [("GH101", "warning")]


INPUTS = torch.randn(32, 20, generator=torch.Generator().manual_seed(0))
WANTED = torch.tanh(INPUTS[:, :5] - INPUTS[:, 5:10])


def in_units(k: float, *, by: Callable[[Tensor, float], Tensor] = torch.mul) -> nn.Module:
    """A network of answers in another unit than its layers have."""
    return Wired(lambda m, x: by(m.net(x), k), net=mlp(nn.ReLU, hidden=2))


def adam(eps: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr=1e-3, eps=eps)


UNITS: dict[str, tuple[nn.Module, Any, float, Any]] = {
    "squares": (in_units(1e-6), nn.functional.mse_loss, 1e-6, None),
    "distances": (in_units(1e-6), nn.functional.l1_loss, 1e-6, None),
    "a thousandth": (in_units(1e-3), nn.functional.mse_loss, 1e-3, None),
    "divided": (in_units(1e6, by=torch.div), nn.functional.mse_loss, 1e-6, None),
    "small eps": (in_units(1e-6), nn.functional.mse_loss, 1e-6, adam(1e-20)),
}


@pytest.mark.parametrize("name", UNITS)
def test_outputs_in_units_of_their_own_are_a_scale_where_the_model_learns(name: str) -> None:
    model, loss, unit, optimizer = UNITS[name]
    diagnosis = probe(model, INPUTS, unit * WANTED, loss=loss, optimizer=optimizer)
    assert diagnosis.verdict == "healthy", diagnosis
    first, second = diagnosis.profiles
    assert (first.learned, second.learned) == ((), ("net.0",))
    assert max(path.vanishing for path in second.judged_paths) < -2


TOO_SMALL: dict[str, tuple[Any, Any]] = {
    "answers": (WANTED, nn.functional.mse_loss),
    "distances": (WANTED, nn.functional.l1_loss),
    "logits": (torch.arange(32) % 5, cross_entropy),
}


@pytest.mark.parametrize("name", TOO_SMALL)
def test_outputs_that_are_too_small_for_what_is_asked_fail(name: str) -> None:
    targets, loss = TOO_SMALL[name]
    diagnosis = probe(in_units(1e-6), INPUTS, targets, loss=loss)
    assert codes(diagnosis) == ["GH101"], diagnosis
    assert not diagnosis.profiles[-1].learned


def test_a_depth_before_the_last_layer_fails_whatever_the_unit() -> None:
    """The last layers learn, of what the others happen to make."""
    model = Wired(lambda m, x: 1e-6 * m.net(x), net=mlp(nn.Sigmoid, hidden=9))
    diagnosis = probe(model, INPUTS, 1e-6 * WANTED, loss=nn.functional.mse_loss)
    assert codes(diagnosis) == ["GH101"], diagnosis


def test_layers_behind_the_last_one_of_the_path_are_no_unit() -> None:
    """Two branches lose the trunk's gradient, and what learns is a line beside them."""

    def forward(m: Any, x: Tensor) -> Tensor:
        hidden = m.trunk(x)
        out: Tensor = m.one(hidden) + m.other(hidden) + m.skip(x)
        return out

    branches = {name: mlp(nn.Sigmoid, hidden=9) for name in ("one", "other")}
    layers = nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU()
    trunk, skip = nn.Sequential(*layers), nn.Linear(20, 5)
    model = Wired(forward, trunk=trunk, **branches, skip=skip)
    wanted = 2 * INPUTS[:, :5] + INPUTS[:, 5:10] * INPUTS[:, 10:15]
    diagnosis = probe(model, INPUTS, wanted, loss=nn.functional.mse_loss)
    assert "GH101" in codes(diagnosis), diagnosis
    assert diagnosis.profiles[-1].learned == ()


def towers(unit: float) -> nn.Module:
    return Wired(lambda m, x: (m.one(x), unit * m.other(x)), one=mlp(hidden=1), other=mlp(hidden=1))


def of_each(outputs: tuple[Tensor, Tensor]) -> Tensor:
    return mse_loss(outputs[0], WANTED) + mse_loss(outputs[1], INPUTS[:, :5])


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD], ids=["Adam", "SGD"])
def test_a_loss_that_one_part_brings_down_says_nothing_of_another(optimizer: Any) -> None:
    sick = probe(towers(1e-7), INPUTS, loss=of_each, optimizer=optimizer)
    assert codes(sick) == ["GH101"], sick
    assert sick.worst_path is not None
    assert sick.worst_path.first.label == "other.0"
    assert sick.profiles[-1].learned == ()
    healthy = probe(towers(0.1), INPUTS, loss=of_each, optimizer=optimizer)
    assert healthy.verdict == "healthy", healthy


def test_a_part_with_no_weights_of_its_own_is_taken_for_one_that_learns() -> None:
    """Both towers are one network, called on other data."""

    model = Wired(lambda m, x: (m.net(x), 1e-7 * m.net(x.flip(1))), net=mlp(hidden=1))
    diagnosis = probe(model, INPUTS, loss=of_each)
    assert diagnosis.verdict == "healthy", diagnosis


@pytest.mark.parametrize("unit", [1e-4, 1e-7])
def test_a_term_that_weighs_little_has_its_part_trained_all_the_same(unit: float) -> None:
    """Its share in the fall of the loss is 1e-4; the gradient at its end tells that it falls."""

    def weighed(outputs: tuple[Tensor, Tensor]) -> Tensor:
        return mse_loss(outputs[0], WANTED) + 1e-4 * mse_loss(outputs[1] / unit, INPUTS[:, :5])

    diagnosis = probe(towers(unit), INPUTS, loss=weighed)
    assert diagnosis.verdict == "healthy", diagnosis
    assert diagnosis.profiles[-1].learned == ("other.0",)


def test_outputs_in_the_tiniest_units_are_levelled_at_the_last_layers() -> None:
    """From a gradient of 1e9 at the outputs, nothing would be left for the layers but eps."""
    model = in_units(1e-10)
    diagnosis = probe(model, INPUTS, 1e-10 * WANTED, loss=lambda o, t: mse_loss(1e10 * o, 1e10 * t))
    assert diagnosis.verdict == "healthy", diagnosis


def test_a_path_that_loses_in_one_process_is_asked_for_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To put its weights back takes a forward, which may wait for those of the others."""
    asked: list[list[str]] = []

    def sharing(*given: Any) -> tuple[str, ...]:
        asked.append([path.first.label for path in given[-1]])
        return ()

    monkeypatch.setattr(second_look, "sharing", sharing)
    probe(towers(1e-7), INPUTS, loss=of_each)
    assert asked == [["other.0"]]
    monkeypatch.setattr(examine, "everywhere", lambda _, names: ["one.0", *names])
    probe(towers(1e-7), INPUTS, loss=of_each)
    assert asked[1:] == [["one.0", "other.0"]]


class Decomposed(nn.Module):
    """A matrix with equal singular values: its gradient is NaN, and what it raises of NaN is not.

    So is all that a step makes of its weights.
    """

    def __init__(self, decompose: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.decompose = nn.Linear(8, 16), decompose

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).view(-1, 4, 4)
        return self.decompose(torch.eye(4) + 0 * (h + h.mT)).flatten(1)


@pytest.mark.parametrize("asked", [{}, {"clip": 1.0}, {"learn_steps": 10}], ids=str)
@pytest.mark.parametrize(
    ("decompose", "op"),
    [
        (lambda a: torch.linalg.svd(a)[0], "LinalgSvd"),
        (lambda a: torch.linalg.eigh(a)[1], "LinalgEigh"),
    ],
)
def test_what_steps_of_nan_raise_does_not_hide_the_nan(
    decompose: Callable[[Tensor], Tensor], op: str, asked: dict[str, Any]
) -> None:
    def loss(out: Tensor, _: Any) -> Tensor:
        return (out * torch.arange(16)).sum()

    diagnosis = probe(Decomposed(decompose), torch.randn(8, 8), None, loss=loss, **asked)
    said = (
        f"the gradient turns NaN in (output) (Decomposed), in the backward of {op}: what came from"
        " the loss was finite"
    )
    found = {f.code: f.message for f in diagnosis.findings if f.severity == "failure"}
    assert found["GH301"] == said
    assert "GH604" not in found
    if not asked:
        with pytest.raises(NonFiniteGradientError, match="backward of " + op):
            assert_finite_gradients(
                Decomposed(decompose), torch.randn(8, 8), None, loss=loss, remedy_budget=0
            )


@pytest.mark.parametrize("asked", [{}, {"confirm_steps": 0}, {"clip": 1.0}], ids=str)
def test_outputs_that_are_wrapped_anew_are_cut_off_without_a_second_look(
    asked: dict[str, Any],
) -> None:
    x, y = batch()
    model = Returning(lambda out: out.detach().requires_grad_())
    diagnosis = probe(model, x, y, loss=cross_entropy, **asked)
    (found,) = [f for f in diagnosis.findings if f.severity == "failure"]
    assert found.code == "GH401"
    assert found.message == (
        "no gradient reaches 2 parameters (layer.weight and layer.bias): cut off from the loss"
    )
    (stop,) = diagnosis.profile.stops
    assert (stop.op, stop.layer) == ("detach", "(output)")
