"""Remedies tried on copies: outcomes, budget, and what is left as it was."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from pytest_gradhealth import (
    CannotApplyError,
    Diagnosis,
    Patient,
    ProbeError,
    Remedy,
    Treatment,
    VanishingGradientError,
    assert_no_vanishing,
    built_in_remedies,
    probe,
    suggest,
)
from pytest_gradhealth.assertions import verdict
from pytest_gradhealth.config.values import FEWEST
from pytest_gradhealth.probing.prepare import prepare
from pytest_gradhealth.remedies import clock, ward
from pytest_gradhealth.remedies import trial as treating
from pytest_gradhealth.remedies.clock import Clock
from pytest_gradhealth.subject.step import Step
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.training.learning import LEAST, STEPS
from pytest_gradhealth.training.loop import train
from pytest_gradhealth.training.optimizers import as_factory, build
from tests.helpers.architectures import Apply
from tests.helpers.findings import codes
from tests.helpers.nets import batch, mlp

X, Y = batch(examples=32)
NAMES = [remedy.name for remedy in built_in_remedies()]


def sick() -> nn.Sequential:
    return mlp(nn.Sigmoid, hidden=8)


def exploding() -> nn.Sequential:
    model = mlp(nn.ReLU, hidden=8)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1.0)
    return model


def diagnosed(model: Any = None, **options: Any) -> Diagnosis:
    options.setdefault("loss", cross_entropy)
    return probe(sick() if model is None else model, X, Y, **options)


@pytest.fixture
def only(_outside_pytest: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have no built-in remedies tried but those that a test looks at."""

    def keep(*names: str) -> None:
        assert set(names) <= set(NAMES)
        kept = tuple(remedy for remedy in built_in_remedies() if remedy.name in names)
        for module in (treating, verdict):
            monkeypatch.setattr(module, "built_in_remedies", lambda: kept)

    return keep


@pytest.fixture(scope="module")
def treated() -> Diagnosis:
    """A diagnosis with what came of every remedy for it."""
    diagnosis = diagnosed()
    return replace(diagnosis, treatments=suggest(diagnosis, budget=60))


def outcomes(treatments: tuple[Treatment, ...]) -> dict[str, str]:
    return {treatment.remedy: treatment.outcome for treatment in treatments}


def nothing(patient: Patient) -> None:
    pass


def kaiming(patient: Patient) -> None:
    for layer in patient.model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


# What comes of them


def test_every_remedy_for_the_symptom_is_accounted_for(treated: Diagnosis) -> None:
    found = treated.treatments
    tried_for = [r.name for r in built_in_remedies() if "GH101" in r.symptoms]
    assert sorted(outcomes(found)) == sorted(tried_for)
    assert found[0].outcome == "cured"
    for treatment in found:
        assert treatment.rule == "GH101"
        assert treatment.before.value is not None
        assert treatment.before.value < 1e-5
        if treatment.outcome == "cured":
            assert treatment.code
            assert treatment.after is not None
            assert treatment.after.value is not None
            assert treatment.after.value > 1e-5
            assert treatment.after.start is not None
            assert treatment.after.end is not None
            assert treatment.after.end < 0.9 * treatment.after.start


def test_what_is_known_of_deep_sigmoids_is_measured(only: Callable[..., None]) -> None:
    only("ReLU", "batch norm", "Xavier init", "residual", "clip by norm", "clip by value")
    found = outcomes(suggest(diagnosed(mlp(nn.Sigmoid, hidden=12)), budget=60))
    assert found["ReLU"] == "cured"
    assert found["batch norm"] == "cured"
    assert found["Xavier init"] != "cured"
    assert found["residual"] in ("better", "cured")
    assert found["clip by norm"] == found["clip by value"] == "no effect"


def test_an_explosion_is_cured_by_smaller_weights_and_not_by_clipping(
    only: Callable[..., None],
) -> None:
    only("Kaiming init", "clip by norm", "ReLU")
    found = outcomes(suggest(diagnosed(exploding()), budget=60))
    assert found["Kaiming init"] == "cured"
    assert found["clip by norm"] not in ("cured", "better")
    assert found["ReLU"] == "cannot"


def test_what_turns_nan_after_a_few_steps_has_not_been_cured() -> None:
    """The logarithm of a sigmoid, written by hand: other weights get there soon."""

    def manual(outputs: Tensor, targets: Tensor) -> Tensor:
        shares = outputs.sigmoid()
        return -(targets * shares.log() + (1 - targets) * (1 - shares).log()).mean()

    torch.manual_seed(0)
    x, y = torch.randn(64, 10), (torch.arange(64) % 2).float()[:, None]
    diagnosis = probe(mlp(hidden=1, width=16, inputs=10, classes=1), 300 * x, y, loss=manual)
    assert codes(diagnosis) == ["GH301"], diagnosis
    found = outcomes(suggest(diagnosis, budget=60))
    assert found["unit-variance init"] != "cured"
    assert found["standardised inputs"] == "cured"


def test_a_sharded_model_gets_no_remedies_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = diagnosed()
    monkeypatch.setattr(treating, "is_sharded", lambda _: True)
    found = suggest(diagnosis, budget=60)
    assert {(t.outcome, t.reason) for t in found} == {
        (
            "cannot",
            "the layers of a sharded model cannot be replaced: probe it before it is sharded",
        )
    }


def test_an_exploding_step_is_cured_by_clipping() -> None:
    model = mlp(nn.ReLU, hidden=6, width=64)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.weight.data *= 1.6
    options = {"optimizer": lambda ps: torch.optim.SGD(ps, lr=0.3), "clip": math.inf}
    diagnosis = diagnosed(model, **options)
    assert [f.code for f in diagnosis.of(["GH202"])] == ["GH202"]

    def clip(patient: Patient) -> None:
        assert patient.step is not None
        patient.step = type(patient.step)(clip=1.0)

    found = suggest(diagnosis, remedies=[Remedy("clip", ("GH202",), clip, "clip()")], budget=60)
    by_name = {treatment.remedy: treatment for treatment in found}
    assert by_name["clip"].outcome == "cured"
    assert by_name["clip"].rule == "GH202"
    assert by_name["clip by norm"].outcome == "cannot", "it is clipped already"


class Loaded(nn.Module):
    """A sick network with a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.unused = sick(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def test_what_no_remedy_treats_does_not_stand_in_the_way_of_a_cure(
    only: Callable[..., None],
) -> None:
    only("ReLU")
    diagnosis = diagnosed(Loaded())
    assert {f.code for f in diagnosis.findings} >= {"GH101", "GH405"}
    assert outcomes(suggest(diagnosis, budget=60))["ReLU"] == "cured"
    with pytest.raises(VanishingGradientError) as caught:
        assert_no_vanishing(Loaded(), X, Y, loss=cross_entropy, remedy_budget=60)
    assert caught.value.diagnosis is not None
    assert outcomes(caught.value.diagnosis.treatments)["ReLU"] == "cured"


def test_what_changes_the_training_is_judged_after_it(only: Callable[..., None]) -> None:
    only()

    def decay(patient: Patient) -> None:
        patient.optimizer = lambda ps: torch.optim.AdamW(ps, lr=1e-3, weight_decay=40.0)

    remedy = Remedy("decay", ("GH201",), decay, "decay()")
    found = suggest(diagnosed(exploding()), remedies=[remedy], budget=60)
    (mine,) = [treatment for treatment in found if treatment.remedy == "decay"]
    assert mine.before.value is not None
    assert mine.after is not None
    assert mine.after.value is not None
    assert mine.before.value > 1e3 > 30 * mine.after.value
    assert mine.outcome in ("cured", "better")


def test_a_training_that_helps_by_itself_is_no_merit_of_the_remedy(
    only: Callable[..., None],
) -> None:
    only()

    class Idle(torch.optim.AdamW):
        pass

    def rename(patient: Patient) -> None:
        patient.optimizer = lambda ps: Idle(ps, lr=1e-3, weight_decay=40.0)

    given = {"optimizer": lambda ps: torch.optim.AdamW(ps, lr=1e-3, weight_decay=40.0)}
    remedy = Remedy("rename", ("GH201",), rename)
    found = suggest(diagnosed(exploding(), **given), remedies=[remedy], budget=60)
    (mine,) = [treatment for treatment in found if treatment.remedy == "rename"]
    assert mine.outcome == "no effect"


def test_a_remedy_that_only_breaks_something_else_is_no_cure(only: Callable[..., None]) -> None:
    only()

    def blow_up(patient: Patient) -> None:
        for layer in patient.model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=10.0)
        for name, module in list(patient.model.named_modules()):
            if isinstance(module, nn.Sigmoid):
                patient.model.set_submodule(name, nn.ReLU())

    remedy = Remedy("blow up", ("GH101",), blow_up)
    (found,) = [t for t in suggest(diagnosed(), remedies=[remedy]) if t.remedy == "blow up"]
    assert (found.outcome, found.reason) == ("no effect", "fails GH201 instead")


def test_a_remedy_that_makes_it_worse_says_so(only: Callable[..., None]) -> None:
    only()

    def shrink(patient: Patient) -> None:
        for parameter in patient.model.parameters():
            parameter.data *= 0.1

    remedy = Remedy("shrink", ("GH101",), shrink)
    (found,) = [t for t in suggest(diagnosed(), remedies=[remedy]) if t.remedy == "shrink"]
    assert found.outcome == "worse"


def test_a_model_that_stays_as_it_is_is_no_better(only: Callable[..., None]) -> None:
    only()
    remedy = Remedy("nothing", ("GH101",), nothing)
    (found,) = [t for t in suggest(diagnosed(), remedies=[remedy]) if t.remedy == "nothing"]
    assert found.outcome == "no effect"
    assert found.after is not None
    assert found.after.value == pytest.approx(found.before.value)
    assert found.after.end == pytest.approx(found.before.end)


def test_passing_without_learning_is_not_enough(only: Callable[..., None]) -> None:
    only()

    class Deaf(nn.Module):
        """Passes gradients on to the first layer, but says the same whatever it hears."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(20, 20)
            self.answer = nn.Parameter(torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            heard: Tensor = self.first(x * 0 + 1)
            return heard[:, :5] + self.answer

    def deafen(patient: Patient) -> None:
        patient.model = Deaf()

    remedy = Remedy("deafen", ("GH101",), deafen)
    diagnosis = diagnosed(ignore=["GH404"])
    (found,) = [t for t in suggest(diagnosis, remedies=[remedy]) if t.remedy == "deafen"]
    entropy = -sum(p * math.log(p) for p in (Y.bincount() / len(Y)).tolist() if p)
    assert found.outcome == "better"
    assert found.reason == f"still no better than one answer for all, whose loss is {entropy:.2g}"


def test_a_model_that_a_remedy_has_built_goes_to_where_the_copies_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    went: list[Any] = []

    class New(nn.Sequential):
        def to(self, *device: Any, **_: Any) -> Any:
            went.extend(device)
            return super().to(*device)

    def rebuild(patient: Patient) -> None:
        patient.model = New(*mlp())

    monkeypatch.setattr(treating, "built_in_remedies", tuple)
    diagnosis = diagnosed()
    found = outcomes(suggest(diagnosis, remedies=[Remedy("rebuild", ("GH101",), rebuild)]))
    assert found["rebuild"] == "cured"
    assert set(went) == {torch.device(diagnosis.device)}


def test_a_model_with_a_loss_of_its_own_has_to_fall_below_where_it_started(
    only: Callable[..., None],
) -> None:
    only()

    class OwnLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.extra = sick(), nn.Parameter(torch.tensor([1e-3]))

        def forward(self, x: Tensor) -> Tensor:
            return cross_entropy(self.body(x), Y) + self.extra.square().sum()

    def burden(patient: Patient) -> None:
        model: Any = patient.model
        model.body = mlp()
        model.extra.data.fill_(10.0)

    remedy = Remedy("burden", ("GH101",), burden)
    diagnosis = probe(OwnLoss(), X, optimizer=lambda ps: torch.optim.Adam(ps, lr=0.05))
    (found,) = [t for t in suggest(diagnosis, remedies=[remedy]) if t.remedy == "burden"]
    assert found.after is not None
    assert found.after.start is not None
    assert found.after.end is not None
    assert found.before.start is not None
    assert 0.9 * found.after.start > found.after.end > found.before.start
    assert found.outcome == "better"


def test_an_instance_becomes_a_factory_with_its_settings() -> None:
    model = mlp()
    scheduled = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, nesterov=True)
    scheduled.param_groups[0]["lr"] = 0.1
    for optimizer in (scheduled, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.3)):
        factory = as_factory(optimizer)
        assert callable(factory)
        built = factory(mlp().parameters())
        assert type(built) is type(optimizer)
        for name in ("lr", "momentum", "nesterov", "weight_decay"):
            assert built.param_groups[0].get(name) == optimizer.param_groups[0].get(name)
    assert as_factory(torch.optim.SGD) is torch.optim.SGD


def test_a_diagnosis_is_treated_by_the_settings_of_the_assertion(
    only: Callable[..., None],
) -> None:
    only("ReLU")
    diagnosis = diagnosed()
    for budget, tried in ((0, False), (60, True)):
        with pytest.raises(VanishingGradientError) as caught:
            assert_no_vanishing(diagnosis, remedy_budget=budget)
        assert caught.value.diagnosis is not None
        assert bool(caught.value.diagnosis.treatments) == tried


@pytest.mark.parametrize(
    "error", [CannotApplyError("not today"), ZeroDivisionError("x / 0"), ProbeError("no\nway")]
)
def test_a_remedy_that_raises_cannot_be_applied_and_the_others_go_on(
    error: Exception, only: Callable[..., None]
) -> None:
    only("ReLU")

    def fail(patient: Patient) -> None:
        raise error

    reason = {CannotApplyError: "not today", ProbeError: "no"}.get(
        type(error), "ZeroDivisionError: x / 0"
    )
    found = suggest(diagnosed(), remedies=[Remedy("mine", ("GH101",), fail)], budget=60)
    (mine,) = [treatment for treatment in found if treatment.remedy == "mine"]
    assert (mine.outcome, mine.reason, mine.after) == ("cannot", reason, None)
    assert outcomes(found)["ReLU"] == "cured"


def test_a_remedy_that_breaks_the_forward_cannot_be_applied(only: Callable[..., None]) -> None:
    only()

    def cut(patient: Patient) -> None:
        patient.model.set_submodule("2", nn.Linear(3, 3))

    found = suggest(diagnosed(), remedies=[Remedy("cut", ("GH101",), cut)], budget=60)
    (mine,) = [treatment for treatment in found if treatment.remedy == "cut"]
    assert mine.outcome == "cannot"
    assert mine.reason.startswith("Sequential.forward raised RuntimeError: ")


def test_a_remedy_for_another_symptom_is_not_tried(only: Callable[..., None]) -> None:
    only("ReLU")
    remedy = Remedy("mine", ("GH201",), kaiming)
    assert "mine" not in outcomes(suggest(diagnosed(), remedies=[remedy]))


def test_a_healthy_model_gets_no_remedies() -> None:
    called = []
    remedy = Remedy("mine", ("GH101", "GH201"), lambda patient: called.append(patient))
    assert suggest(diagnosed(mlp()), remedies=[remedy]) == ()
    assert called == []


# Time


def test_without_a_budget_nothing_is_tried() -> None:
    called = []
    remedy = Remedy("mine", ("GH101",), lambda patient: called.append(patient))
    assert suggest(diagnosed(), remedies=[remedy], budget=0) == ()
    assert called == []


def test_what_there_was_no_time_for_is_named() -> None:
    found = suggest(diagnosed(), budget=1e-3)
    assert set(outcomes(found).values()) == {"not tried"}
    assert {t.reason for t in found} == {"no time was left (remedy_budget=0.001 s)"}


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass, which stands still otherwise."""
    now = [0.0]
    monkeypatch.setattr(clock, "perf_counter", lambda: now[0])
    return lambda seconds: now.append(now.pop() + seconds)


def test_the_budget_is_kept(only: Callable[..., None], wait: Callable[[float], None]) -> None:
    only()
    slow = [Remedy(f"slow {i}", ("GH101",), lambda _: wait(100.0)) for i in range(9)]
    found = outcomes(suggest(diagnosed(), remedies=slow, budget=350))
    assert [found[f"slow {i}"] for i in range(9)] == [*["no effect"] * 3, *["not tried"] * 6]


def test_the_budget_is_for_trials_and_not_for_building_the_model(
    only: Callable[..., None], wait: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only()

    def slowly(*given: Any) -> Any:
        wait(1000.0)
        return prepare(*given)

    monkeypatch.setattr(treating, "prepare", slowly)
    slow = [Remedy(f"slow {i}", ("GH101",), lambda _: wait(100.0)) for i in range(4)]
    found = outcomes(suggest(diagnosed(), remedies=slow, budget=350))
    assert [found[f"slow {i}"] for i in range(4)] == [*["no effect"] * 3, "not tried"]


def test_a_slow_training_is_cut_short_and_says_so(
    only: Callable[..., None], wait: Callable[[float], None]
) -> None:
    only()

    def slow_down(patient: Patient) -> None:
        patient.model = mlp()
        patient.model.register_forward_hook(lambda *_: wait(1.0))

    def tried(budget: float) -> Treatment:
        (found,) = suggest(
            diagnosed(), remedies=[Remedy("slow", ("GH101",), slow_down)], budget=budget
        )
        return found

    cut = tried(budget=40)  # a quarter of which is not enough for the least of steps
    assert (cut.outcome, cut.reason) == ("better", f"there was time for {LEAST} of 60 steps only")
    assert tried(budget=1000).outcome == "cured"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been trained in a test: what models say that they are `called`."""
    names: list[str] = []

    def watched(subject: Subject, *arguments: Any, **options: Any) -> Any:
        names.append(getattr(subject.model, "called", "as it is"))
        return train(subject, *arguments, **options)

    monkeypatch.setattr(ward, "train", watched)
    return names


def called(name: str, build: Callable[[], nn.Module] = sick) -> Remedy:
    """Puts another model in the place of that which fails."""

    def change(patient: Patient) -> None:
        patient.model = build()
        patient.model.called = name  # type: ignore[assignment]

    return Remedy(name, ("GH101",), change)


def test_copies_that_pass_are_trained_before_those_that_do_not(
    only: Callable[..., None], trained: list[str]
) -> None:
    only()
    suggest(diagnosed(), remedies=[called("fails"), called("passes", mlp)])
    assert list(dict.fromkeys(trained)) == ["as it is", "passes", "fails"]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the wards of a test have examined."""
    examine, seen = ward.Ward.examine, []

    def counted(*given: Any) -> Any:
        seen.append(given[1])
        return examine(*given)

    monkeypatch.setattr(ward.Ward, "examine", counted)
    return seen


def test_a_copy_that_fails_is_looked_at_once_and_given_up_where_its_loss_stands_still(
    only: Callable[..., None], looks: list[object]
) -> None:
    only()
    (found,) = suggest(diagnosed(), remedies=[Remedy("nothing", ("GH101",), nothing)], budget=60)
    assert found.outcome == "no effect"
    assert found.after is not None
    assert FEWEST <= found.after.steps == found.before.steps < STEPS
    assert len(looks) == 1


def test_what_trains_as_it_does_without_is_not_looked_at(
    only: Callable[..., None], looks: list[object]
) -> None:
    only()

    def clip(patient: Patient) -> None:
        patient.step = Step(clip=1e9)

    remedies = [Remedy(name, ("GH101",), clip) for name in ("one", "two")]
    for found in suggest(diagnosed(), remedies=remedies, budget=60):
        reason = "the same training does as much without it"
        assert (found.outcome, found.reason) == ("no effect", reason)
        assert found.after == found.before
    assert looks == []


def test_every_remedy_draws_the_same_numbers(only: Callable[..., None]) -> None:
    only()
    drawn: list[float] = []
    remedies = [
        Remedy(name, ("GH101",), lambda _: drawn.append(torch.rand(()).item()))
        for name in ("one", "two", "three")
    ]
    suggest(diagnosed(), remedies=remedies, budget=60)
    assert len(drawn) >= 3
    assert len(set(drawn)) == 1


def test_adam_makes_steps_in_one_pass_in_trials_alone(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only()
    fused: list[bool] = []

    def watched(*given: Any, **options: Any) -> Any:
        fused.append(options["fused"])
        return build(*given, **options)

    monkeypatch.setattr("pytest_gradhealth.training.loop.build", watched)
    diagnosis = diagnosed()
    assert fused == [False], "its second look"
    suggest(diagnosis, remedies=[Remedy("nothing", ("GH101",), nothing)], budget=60)
    assert fused == [False, *[True] * 3], "as it is; second look and training of the copy"


# Remedies that draw weights


def lucky(*cures: bool) -> Remedy:
    """Draws weights, and cures with those of its draws that are said to."""
    turns = iter(cures)

    def change(patient: Patient) -> None:
        torch.rand(())
        if next(turns):
            patient.model = mlp()

    return Remedy("lucky", ("GH101",), change)


@pytest.mark.parametrize(
    ("cures", "outcome", "reason"),
    [
        ((True, True, True), "cured", ""),
        ((True, False), "no effect", "cured with 1 of 2 draws of the weights"),
        ((True, True, False), "no effect", "cured with 2 of 3 draws of the weights"),
    ],
)
def test_a_draw_of_weights_cures_if_others_do_too(
    cures: tuple[bool, ...], outcome: str, reason: str, only: Callable[..., None]
) -> None:
    only()
    (found,) = suggest(diagnosed(), remedies=[lucky(*cures)], budget=60)
    assert (found.outcome, found.reason) == (outcome, reason)


@pytest.mark.parametrize(
    ("rate", "trainings"), [(1e-2, 1), (2e-3, 3)], ids=["lost by half", "lost by a fifth"]
)
def test_further_draws_train_only_where_the_first_has_not_been_quick(
    rate: float,
    trainings: int,
    only: Callable[..., None],
    trained: list[str],
    looks: list[object],
) -> None:
    only()
    diagnosis = diagnosed(optimizer=lambda ps: torch.optim.Adam(ps, lr=rate))
    (found,) = suggest(diagnosis, remedies=[called("drawn", mlp)], budget=60)
    assert (found.outcome, found.after and found.after.steps < LEAST) == ("cured", trainings == 1)
    assert trained == ["as it is", *["drawn"] * trainings]
    assert len(looks) == 3


def test_what_a_factory_builds_is_cured_with_other_draws_of_its_weights_too(
    only: Callable[..., None],
) -> None:
    only()
    builds, drawn, healthy = itertools.count(), [], mlp()

    def factory() -> nn.Module:
        next(builds)
        return sick()

    def fit(patient: Patient) -> None:
        """Draws nothing, and cures the first weights that it sees alone."""
        drawn.append(patient.model.get_parameter("0.weight").detach().clone())
        if torch.equal(drawn[-1], drawn[0]):
            patient.model = copy.deepcopy(healthy)

    diagnosis = diagnosed(factory, seeds=[3])
    (found,) = suggest(diagnosis, remedies=[Remedy("fit", ("GH101",), fit)], budget=60)
    assert (found.outcome, found.reason) == (
        "no effect",
        "cured with 1 of 2 draws of the weights",
    )
    before = next(builds)
    remedies = [Remedy(name, ("GH101",), nothing_but(healthy)) for name in ("one", "two")]
    assert set(outcomes(suggest(diagnosis, remedies=remedies, budget=60)).values()) == {"cured"}
    assert next(builds) - before - 1 == 3, "each draw is built once for all remedies"


def nothing_but(model: nn.Module) -> Callable[[Patient], None]:
    def change(patient: Patient) -> None:
        patient.model = copy.deepcopy(model)

    return change


def test_a_factory_that_builds_but_once_leaves_no_more_than_better(
    only: Callable[..., None],
) -> None:
    only()
    models = iter([sick(), sick()])
    diagnosis = diagnosed(lambda: next(models), seeds=[3])
    cure = Remedy("cure", ("GH101",), nothing_but(mlp()))
    (found,) = suggest(diagnosis, remedies=[cure], budget=60)
    assert found.outcome == "better"
    assert found.reason.startswith(
        "cured with 1 of 2 draws of the weights; the model factory <lambda> raised StopIteration"
    )
    assert found.after is not None


@pytest.mark.parametrize(
    ("optimizer", "draws"),
    [
        (torch.optim.Adam, 3),
        (lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9), 5),
    ],
    ids=["steady", "may run away"],
)
def test_what_may_run_away_has_to_cure_with_more_draws(
    optimizer: Any, draws: int, only: Callable[..., None], looks: list[object]
) -> None:
    only()
    options: dict[str, Any] = {"optimizer": optimizer}
    (found,) = suggest(diagnosed(**options), remedies=[called("drawn", mlp)], budget=600)
    assert (found.outcome, len(looks)) == ("cured", draws)


@pytest.mark.parametrize(
    ("squared", "draws"), [(20.0, 5), (42.0, 2)], ids=["far from the edge", "at the edge"]
)
def test_further_draws_of_what_may_run_away_have_to_stand_half_the_rate_more(
    squared: float, draws: int, only: Callable[..., None]
) -> None:
    """A step multiplies an error by 1 - rate x 0.4 x what the outputs are squared with."""
    only()

    def change(patient: Patient) -> None:
        made.append(patient)
        patient.model = nn.Sequential(
            nn.Linear(20, 5, bias=False), Apply(lambda x: squared**0.5 * x)
        )

    made: list[Patient] = []
    torch.manual_seed(0)
    inputs = 32**0.5 * torch.linalg.qr(torch.randn(32, 20))[0]
    options: dict[str, Any] = {"loss": mse_loss, "optimizer": partial(torch.optim.SGD, lr=0.1)}
    diagnosis = probe(sick(), inputs, inputs[:, :5], **options)
    (found,) = suggest(diagnosis, remedies=[Remedy("mine", ("GH101",), change)], budget=600)
    assert len(made) == draws
    assert (found.outcome, found.reason) == (
        ("cured", "")
        if draws == 5
        else (
            "worse",
            "cured with 1 of 2 draws of the weights, the last at 1.5 times the learning rate; the"
            " loss rises in training",
        )
    )


def test_what_draws_nothing_is_tried_once(only: Callable[..., None]) -> None:
    only()
    healthy, called = mlp(), []

    def change(patient: Patient) -> None:
        called.append(patient)
        patient.model = copy.deepcopy(healthy)

    (found,) = suggest(diagnosed(), remedies=[Remedy("mine", ("GH101",), change)], budget=60)
    assert (found.outcome, len(called)) == ("cured", 1)


def test_a_budget_that_ends_between_draws_says_so(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only()
    room = iter([True, True, True, False])
    monkeypatch.setattr(Clock, "leaves_room", property(lambda _: next(room)))
    (found,) = suggest(diagnosed(), remedies=[lucky(True, True)], budget=60)
    assert (found.outcome, found.reason) == (
        "better",
        "there was time for 2 of 3 draws of the weights only",
    )


def test_a_budget_that_ends_in_a_draw_is_not_held_against_the_remedy(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only()
    called: list[Patient] = []

    def change(patient: Patient) -> None:
        called.append(patient)
        patient.model = mlp()

    monkeypatch.setattr(Clock, "is_over", property(lambda _: len(called) > 1))
    (found,) = suggest(diagnosed(), remedies=[Remedy("mine", ("GH101",), change)], budget=60)
    assert (found.outcome, found.reason) == (
        "better",
        "there was time for 1 of 3 draws of the weights only",
    )


def test_the_first_cure_of_a_family_is_confirmed_before_others_are_tried(
    only: Callable[..., None],
) -> None:
    only()
    order: list[str] = []

    def drawing(name: str, family: str) -> Remedy:
        def change(patient: Patient) -> None:
            order.append(name)
            patient.model = mlp()

        return Remedy(name, ("GH101",), change, family=family)

    remedies = [drawing("one", "a"), drawing("two", "a"), drawing("three", "b")]
    found = suggest(diagnosed(), remedies=remedies, budget=60)
    assert set(outcomes(found).values()) == {"cured"}
    assert order == [*["one"] * 3, "two", *["three"] * 3, *["two"] * 2]


# What is left as it was


@pytest.mark.parametrize("build", [sick, lambda: nn.Sequential(nn.BatchNorm1d(20), *sick())])
def test_model_numbers_and_optimizer_are_as_they_were(build: Callable[[], nn.Module]) -> None:
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    gradients = [p.grad for p in model.parameters()]
    diagnosis = diagnosed(model, optimizer=optimizer)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict(), str(model)))
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    random = torch.get_rng_state()
    assert outcomes(suggest(diagnosis, budget=60))["ReLU"] == "cured"
    assert torch.equal(torch.get_rng_state(), random)
    assert [t._version for t in (*model.parameters(), *model.buffers())] == versions
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    after = (model.state_dict(), optimizer.state_dict(), str(model))
    assert str(after) == str(state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[0][name])


def test_a_hostile_remedy_only_gets_a_copy(only: Callable[..., None]) -> None:
    only()
    model = sick()
    state = copy.deepcopy(model.state_dict())

    def wreck(patient: Patient) -> None:
        for parameter in patient.model.parameters():
            parameter.data.fill_(math.nan)
        patient.inputs.fill_(math.nan)
        torch.manual_seed(1)
        raise RuntimeError("done")

    given = X.clone()
    diagnosis = probe(model, given, Y, loss=cross_entropy)
    found = suggest(diagnosis, remedies=[Remedy("wreck", ("GH101",), wreck)], budget=60)
    assert outcomes(found)["wreck"] == "cannot"
    assert torch.equal(given, X)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_the_same_diagnosis_gets_the_same_suggestions(treated: Diagnosis) -> None:
    assert suggest(treated, budget=60) == treated.treatments


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.SGD,
        torch.optim.LBFGS,
        lambda ps: torch.optim.RMSprop(ps, lr=1e-3, momentum=0.5),
        torch.optim.AdamW,
    ],
)
def test_any_optimizer_will_do(optimizer: Any, only: Callable[..., None]) -> None:
    only("ReLU", "Kaiming init", "clip by norm")
    found = suggest(diagnosed(optimizer=optimizer), budget=60)
    assert "cannot" not in {outcomes(found)[name] for name in ("ReLU", "Kaiming init")}


def test_a_factory_is_treated_under_the_seed_that_failed(only: Callable[..., None]) -> None:
    only("ReLU")
    diagnosis = diagnosed(sick, seeds=[3, 4])
    found = suggest(diagnosis, budget=60)
    assert outcomes(found)["ReLU"] == "cured"
    assert found[0].before.value == pytest.approx(diagnosis.findings[0].value)


# Diagnoses without their model


def test_treatments_survive_the_way_through_plain_data(treated: Diagnosis) -> None:
    read = Diagnosis.from_dict(treated.to_dict())
    assert read == treated
    assert str(read) == str(treated)
    assert "origin" not in treated.to_dict()
    with pytest.raises(ProbeError) as caught:
        suggest(read)
    assert str(caught.value) == (
        "this diagnosis has lost its model, as one that was read back from a file has; call"
        " probe() on the model and pass what that returns"
    )


@pytest.mark.parametrize("through", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_a_copied_diagnosis_leaves_its_model_behind(through: Any) -> None:
    diagnosis = diagnosed(loss=lambda outputs, targets: cross_entropy(outputs, targets))
    twin = through(diagnosis)
    assert twin == diagnosis
    assert diagnosis.origin is not None
    assert twin.origin is None


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (None, None),
        (lambda outputs: -outputs.square().mean(), None),
        (mse_loss, torch.randn(32, 5)),
        (lambda outputs, targets: cross_entropy(outputs, targets) * 1e-6, Y),
    ],
)
def test_any_loss_will_do(loss: Any, targets: Any, only: Callable[..., None]) -> None:
    only("ReLU")
    diagnosis = probe(sick(), X, targets, loss=loss)
    assert diagnosis.verdict == "failure"
    found = outcomes(suggest(diagnosis, budget=60))
    assert found["ReLU"] in ("cured", "better")
    assert STEPS == 60
