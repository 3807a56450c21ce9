"""Lightning modules: `training_step` makes the loss, and no Trainer is needed or touched."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR

from pytest_gradhealth import ProbeError, VanishingGradientError, assert_healthy, probe, suggest
from pytest_gradhealth.subject.lightning import is_lightning
from tests.helpers.findings import explained
from tests.helpers.libraries import library
from tests.helpers.nets import batch, mlp
from tests.helpers.notes import Notes
from tests.helpers.state import unchanged, with_gradients

lightning = library("lightning")
torchmetrics = library("torchmetrics")  # Lightning depends on it


class Classifier(lightning.LightningModule):  # type: ignore[misc,name-defined]
    """Logs, counts and has a metric, as modules do; `configured` makes its optimizers."""

    def __init__(
        self,
        activation: Callable[[], nn.Module] = nn.ReLU,
        hidden: int = 3,
        configured: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["configured"])
        self.body = mlp(activation, hidden=hidden)
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=5)
        self.configured = configured
        self.seen: Any = 0
        self.steps: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        out = self(x)
        loss = cross_entropy(out, y)
        self.seen += len(x)
        self.steps.append((batch_idx, type(batch)))
        self.accuracy(out, y)
        self.log("accuracy", self.accuracy, prog_bar=True)
        self.log_dict({"loss": loss, "epoch": float(self.current_epoch + self.global_step)})
        return loss

    def configure_optimizers(self) -> Any:
        return None if self.configured is None else self.configured(self)


def stepping(step: Callable[..., Any]) -> Any:
    """A module with a `training_step` of its own."""
    return type("Stepping", (Classifier,), {"training_step": step})()


def sick(**options: Any) -> Classifier:
    return Classifier(nn.Sigmoid, 12, **options)


def names(diagnosis: Any) -> tuple[str, str]:
    (path,) = diagnosis.profile.judged_paths
    return path.first.name, path.last.name


@pytest.fixture
def examples() -> list[Tensor]:
    """A batch as a DataLoader makes it."""
    return list(batch())


# The loss.


def test_the_training_step_is_the_loss(examples: list[Tensor]) -> None:
    model = Classifier()
    with_gradients(model)
    with unchanged(model, *examples):
        diagnosis = probe(model, examples)
    x, y = examples
    plain = probe(model, x, y, loss=cross_entropy)
    assert (diagnosis.verdict, diagnosis.model) == ("healthy", "Classifier")
    assert names(diagnosis) == names(plain) == ("body.0", "body.6")
    assert diagnosis.profile.loss == plain.profile.loss
    assert diagnosis.ratio == plain.ratio
    assert model.seen == 0
    assert model.steps == []


def test_a_batch_that_requires_grad_is_as_it_was(examples: list[Tensor]) -> None:
    (x, y), model = examples, Classifier()
    x.requires_grad_().grad = torch.ones_like(x)
    with unchanged(model, x, y):
        assert probe(model, [x, y]).verdict == "healthy"


def test_a_deep_sigmoid_module_fails_and_is_left_alone(examples: list[Tensor]) -> None:
    model = with_gradients(sick())
    with (
        unchanged(model, *examples),
        pytest.raises(VanishingGradientError) as caught,
    ):
        assert_healthy(model, examples)
    diagnosis = caught.value.diagnosis
    assert diagnosis is not None
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    assert [(f.code, f.severity) for f in diagnosis.findings] == [("GH101", "failure")]
    assert names(diagnosis) == ("body.0", "body.24")


def test_remedies_cure_a_module_whose_metric_counts(examples: list[Tensor]) -> None:
    """The hash of a metric changes with what it counts: nothing may be kept under it."""
    model = sick()
    with unchanged(model, *examples):
        treatments = suggest(probe(model, examples), budget=60)
    outcomes = {treatment.remedy: treatment.outcome for treatment in treatments}
    assert outcomes["ReLU"] == "cured"
    others = ("standardised inputs", "Softplus at the output", "LeakyReLU at the output")
    assert {name for name, outcome in outcomes.items() if outcome == "cannot"} == {*others}


@pytest.mark.parametrize(
    "given",
    [
        lambda x, y: ([x, y],),
        lambda x, y: ((x, y),),
        lambda x, y: (x, y),
    ],
    ids=["list", "tuple", "apart"],
)
def test_a_batch_is_handed_over_whole(given: Callable[..., Any], examples: list[Tensor]) -> None:
    arguments = given(*examples)
    kinds = Notes[Any]()

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        kinds.append((type(batch), batch_idx))
        return Classifier.training_step(self, batch, batch_idx)

    model = stepping(step)
    assert probe(model, *arguments).verdict == "healthy"
    assert set(kinds) == {(list if isinstance(arguments[0], list) else tuple, 0)}


def test_a_mapping_is_a_batch_and_not_keywords(examples: list[Tensor]) -> None:
    x, y = examples
    model = stepping(lambda self, batch: cross_entropy(self.body(batch["x"]), batch["y"]))
    diagnosis = probe(model, {"x": x, "y": y})
    assert (diagnosis.verdict, names(diagnosis)) == ("healthy", ("body.0", "body.6"))


@pytest.mark.parametrize(
    "step",
    [
        lambda self, batch, batch_idx: cross_entropy(self(batch[0]), batch[1]) / (batch_idx == 0),
        lambda self, batch: cross_entropy(self(batch[0]), batch[1]),
        lambda self, batch, number=7: cross_entropy(self(batch[0]), batch[1]) / (number == 0),
        lambda self, *args: cross_entropy(self(args[0][0]), args[0][1]) / (args[1] == 0),
        lambda self, batch: cross_entropy(self(batch[0]), batch[1])[None],
        lambda self, batch: {"loss": cross_entropy(self(batch[0]), batch[1]), "n": 16},
    ],
    ids=["both", "batch alone", "another name", "any number", "of one element", "mapping"],
)
def test_training_steps_of_every_form(step: Callable[..., Any], examples: list[Tensor]) -> None:
    model = stepping(step)
    x, y = examples
    diagnosis = probe(model, examples)
    assert diagnosis.profile.loss == pytest.approx(cross_entropy(model.body(x), y).item())
    assert (diagnosis.verdict, names(diagnosis)) == ("healthy", ("body.0", "body.6"))


def test_outputs_beside_the_loss_are_judged(examples: list[Tensor]) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        out = self.body(batch[0] * 1e5)
        return {"loss": cross_entropy(out, batch[1]), "out": out}

    codes = [finding.code for finding in probe(stepping(step), examples).findings]
    assert "GH203" in codes


def test_with_a_loss_of_the_caller_it_is_a_module_like_any_other(examples: list[Tensor]) -> None:
    def refused(self: Any, batch: Any, batch_idx: int) -> None:
        raise AssertionError("the training step must not run")

    diagnosis = probe(stepping(refused), *examples, loss=cross_entropy)
    assert (diagnosis.verdict, names(diagnosis)) == ("healthy", ("body.0", "body.6"))


def test_without_a_training_step_it_is_a_module_like_any_other() -> None:
    class Predictor(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> Any:
            return self.body(x)

    assert not is_lightning(Predictor())
    assert probe(Predictor(), torch.randn(16, 20)).verdict == "healthy"


def test_a_training_step_makes_no_lightning_module() -> None:
    class Stepping(nn.Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise AssertionError

    assert not is_lightning(Stepping(20, 5))
    assert probe(Stepping(20, 5), torch.randn(16, 20)).verdict == "not judged"


def test_a_step_that_is_inherited_is_one() -> None:
    """Also one that a mixin brings."""

    class Step:
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise NotImplementedError

    class Mixed(Step, lightning.LightningModule):  # type: ignore[misc,name-defined]
        pass

    class Child(Classifier):
        pass

    assert is_lightning(Child())
    assert is_lightning(Mixed())
    assert not is_lightning(lightning.LightningModule())


@pytest.mark.parametrize("package", ["lightning", "lightning.pytorch", "pytorch_lightning"])
def test_every_package_that_has_it_is_known(package: str, examples: list[Tensor]) -> None:
    def step(self: Any, batch: Any) -> Tensor:
        return cross_entropy(self.body(batch[0]), batch[1])

    base = library(package).LightningModule
    model = type("Net", (base,), {"training_step": step})()
    model.body = mlp()
    with unchanged(model):
        diagnosis = probe(model, examples)
    assert (diagnosis.verdict, names(diagnosis)) == ("healthy", ("body.0", "body.6"))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_compiled_module_is_probed_as_it_was_written(examples: list[Tensor]) -> None:
    model = Classifier()
    compiled = torch.compile(model)
    diagnosis = probe(compiled, examples)
    assert (diagnosis.model, diagnosis.ratio) == ("Classifier", probe(model, examples).ratio)


def test_assertions_on_one_module_share_a_probe(gradhealth: Any, examples: list[Tensor]) -> None:
    model, calls = Classifier(), Notes[int]()
    model.body.register_forward_hook(lambda *_: calls.append(1))
    gradhealth.assert_no_vanishing(model, examples)
    gradhealth.assert_no_exploding(model, examples)
    assert len(calls) == 1


def test_factories_and_seeds(examples: list[Tensor]) -> None:
    diagnosis = probe(Classifier, examples, seeds=2)
    assert (diagnosis.verdict, diagnosis.seeds) == ("healthy", (0, 1))


def test_declared_steps_train_through_the_training_step(examples: list[Tensor]) -> None:
    diagnosis = probe(Classifier(), examples, clip=1.0)
    updates = diagnosis.profile.updates
    assert len(updates) == 10
    assert updates[-1].loss < updates[0].loss


# What cannot be measured.

RETURNS = (
    'return the loss or a mapping that holds it under "loss", or pass loss=... and the inputs of'
    " forward"
)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            lambda _self, _batch: None,
            f"Stepping.training_step returned None, as it does to skip a batch; {RETURNS}",
        ),
        (
            lambda self, batch: {"out": self(batch[0]), "n": 3},
            f"Stepping.training_step returned a mapping without a loss (out, n); {RETURNS}",
        ),
        (
            lambda _self, _batch: {},
            f"Stepping.training_step returned a mapping without a loss (empty); {RETURNS}",
        ),
        (
            lambda _self, _batch: (1, 2),
            f"Stepping.training_step returned a tuple; {RETURNS}",
        ),
        (
            lambda self, batch: self(batch[0]),
            "the model's own loss has shape (16, 5); reduce it to one number, for example with"
            " .mean()",
        ),
        (
            lambda _self, _batch: {"loss": 1.0},
            "the model's own loss is a float, not a tensor; return the tensor itself, without"
            " .item() or float()",
        ),
        (
            lambda self, batch: self(batch[0]).mean().detach(),
            "the model's own loss does not depend on the model's trainable parameters: detach in"
            " (output) cuts the gradient off\n  try: take it out, or freeze what is before it",
        ),
        (
            lambda _self, _batch: 1 / 0,
            "Stepping.training_step raised ZeroDivisionError: division by zero"
            "\n  it was called with (16, 20) float32, (16,) int64",
        ),
        (
            lambda self, batch: self.body(batch[0]).mean() / self.trainer.max_epochs,
            "Stepping.training_step raised RuntimeError: Stepping is not attached to a `Trainer`."
            "\n  it was called with (16, 20) float32, (16,) int64"
            "\n  a probe runs without a Trainer: have training_step do without self.trainer, or"
            " pass loss=... and the inputs of forward",
        ),
        (
            lambda self, batch: self(batch).mean(),
            "Stepping.training_step raised TypeError: linear(): argument 'input' (position 1) must"
            " be Tensor, not list\n  it was called with (16, 20) float32, (16,) int64"
            "\n  raised in body.0 (Linear)",
        ),
        (
            lambda self, batch: self.logger.experiment.add_scalar("loss", self(batch[0]).mean()),
            "Stepping.training_step raised AttributeError: 'NoneType' object has no attribute"
            " 'experiment'\n  it was called with (16, 20) float32, (16,) int64"
            "\n  a probe runs without a Trainer: have training_step do without self.logger, or"
            " pass loss=... and the inputs of forward",
        ),
        (
            lambda self, dataloader_iter: self.body(next(dataloader_iter)[0]).mean(),
            "Stepping.training_step takes batches from a dataloader_iter, of which a probe has"
            " none; pass loss=... and the inputs of forward",
        ),
    ],
    ids=[
        "None",
        "no loss",
        "nothing",
        "tuple",
        "several numbers",
        "float",
        "detached",
        "error",
        "trainer",
        "whole batch",
        "logger",
        "iterator",
    ],
)
def test_a_training_step_without_a_loss_says_what_to_do(
    step: Callable[..., Any], message: str, examples: list[Tensor]
) -> None:
    model = stepping(step)
    with unchanged(model, *examples), pytest.raises(ProbeError) as caught:
        probe(model, examples)
    assert str(caught.value) == message


def test_errors_keep_their_cause(examples: list[Tensor]) -> None:
    with pytest.raises(ProbeError) as caught:
        probe(stepping(lambda _self, _batch: 1 / 0), examples)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_manual_optimisation_is_refused(examples: list[Tensor]) -> None:
    model = Classifier()
    model.automatic_optimization = False
    with unchanged(model), pytest.raises(ProbeError) as caught:
        probe(model, examples)
    assert str(caught.value) == (
        "Classifier optimises by hand (automatic_optimization is False): its training_step makes"
        " the backward passes itself; pass loss=... and the inputs of forward, or probe its"
        " networks one by one"
    )
    assert probe(model, *examples, loss=cross_entropy).verdict == "healthy"
    assert probe(model.body, *examples, loss=cross_entropy).verdict == "healthy"


# Trainers.


class Untouchable:
    """Stands for a Trainer, or a Fabric, that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the probe reads {name}")


@pytest.mark.parametrize("name", ["_trainer", "_fabric"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_attached_is_set_aside_and_comes_back(
    name: str, fails: bool, examples: list[Tensor]
) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        assert vars(self)[name] is None
        return 1 / 0 if fails else Classifier.training_step(self, batch, batch_idx)

    model = stepping(step)
    vars(model)[name] = attached = Untouchable()
    if fails:
        with pytest.raises(ProbeError):
            probe(model, examples)
    else:
        assert probe(model, examples).verdict == "healthy"
    assert vars(model)[name] is attached


@pytest.mark.parametrize("name", ["_trainer", "_fabric"])
def test_what_is_attached_is_no_part_of_a_copy(name: str, examples: list[Tensor]) -> None:
    model: Any = sick()
    vars(model)[name] = attached = Untouchable()
    assert [profile.steps for profile in probe(model, examples).profiles] == [0, 5]
    assert vars(model)[name] is attached


def test_a_module_that_a_trainer_has_trained(examples: list[Tensor], tmp_path: Path) -> None:
    model = Classifier(nn.Sigmoid, 12, configured=lambda m: SGD(m.parameters(), lr=0.1))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*examples), batch_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the training
        trainer = lightning.Trainer(
            max_steps=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(model, loader)
    metrics = dict(trainer.callback_metrics)
    with unchanged(model):
        diagnosis = probe(model, examples)
    assert diagnosis.verdict == "failure"
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    assert model.trainer is trainer
    assert (trainer.global_step, dict(trainer.callback_metrics)) == (2, metrics)


# Optimizers.


def warmed_up(model: Any) -> Any:
    """SGD whose first learning rate is zero."""
    optimizer = SGD(model.parameters(), lr=0.1)
    return [optimizer], [LambdaLR(optimizer, lambda step: min(1.0, step / 10))]


def in_a_mapping(model: Any) -> Any:
    optimizer = SGD(model.parameters(), lr=0.1)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, lambda _: 0.0), "interval": "step"},
    }


def two(model: Any) -> Any:
    first, *rest = model.parameters()
    return [SGD([first], lr=0.1), SGD(rest, lr=0.1)]


@pytest.mark.parametrize(
    ("configured", "optimizer"),
    [
        (lambda m: SGD(m.parameters(), lr=0.1), "SGD(lr=0.1)"),
        (lambda m: [AdamW(m.parameters(), lr=0.01)], "AdamW(lr=0.01)"),
        (lambda m: ({"optimizer": SGD(m.parameters(), lr=0.1)},), "SGD(lr=0.1)"),
        (warmed_up, "SGD(lr=0.1)"),
        (in_a_mapping, "SGD(lr=0.1)"),
        (lambda _: None, "Adam(lr=0.001)"),
        (two, "SGD(lr=0.1)"),
        (lambda m: SGD(list(m.parameters())[:2], lr=0.1), "SGD(lr=0.1)"),
        (lambda m: SGD([*m.parameters(), nn.Parameter(torch.ones(2))], lr=0.1), "SGD(lr=0.1)"),
        (lambda m: SGD(m.parameters(), lr=m.trainer.max_steps), "Adam(lr=0.001)"),
    ],
    ids=[
        "one",
        "list",
        "tuple of mappings",
        "warm-up",
        "mapping with a scheduler",
        "None",
        "two",
        "partial",
        "foreign parameters",
        "trainer",
    ],
)
def test_the_configured_optimizers_are_used(
    configured: Callable[[Any], Any], optimizer: str, examples: list[Tensor]
) -> None:
    model = Classifier(configured=configured)
    with unchanged(model):
        diagnosis = probe(model, examples)
    assert diagnosis.optimizer == optimizer
    assert diagnosis.sgd == optimizer.startswith("SGD")
    assert diagnosis.limits["min_ratio"].value == (3e-5 if diagnosis.sgd else 1e-5)


#: All that Lightning takes from `configure_optimizers`, with optimizers in it.
FORMS: dict[str, Callable[[Any], Any]] = {
    "one": lambda o: o,
    "list": lambda o: [o],
    "tuple": lambda o: (o,),
    "mapping": lambda o: {"optimizer": o},
    "mapping with a scheduler": lambda o: {"optimizer": o, "lr_scheduler": StepLR(o, 3)},
    "mapping with a scheduler's configuration": lambda o: {
        "optimizer": o,
        "lr_scheduler": {"scheduler": ReduceLROnPlateau(o), "monitor": "loss"},
    },
    "two lists": lambda o: ([o], [StepLR(o, 3)]),
    "two lists, one of configurations": lambda o: ([o], [{"scheduler": StepLR(o, 3)}]),
    "two lists, one of them empty": lambda o: ([o], []),
    "mappings": lambda o: [{"optimizer": o, "frequency": 1}],
    "wrapped": lambda o: lightning.pytorch.core.optimizer.LightningOptimizer(o),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_what_configure_optimizers_leaves_out(
    form: Callable[[Any], Any], examples: list[Tensor]
) -> None:
    def all_but_the_last(model: Any) -> Any:
        return form(SGD(list(model.parameters())[:-2], lr=0.1))

    assert explained(probe(Classifier(configured=all_but_the_last), examples), "GH602") == (
        "configure_optimizers leaves out 2 parameters (body.6.weight and body.6.bias), which get a"
        " gradient",
        "a group was left out, or they were added or unfrozen after the optimizer was built",
        "build it from self.parameters(); or leave them out with"
        " --gradhealth-ignore='GH602:body.6'",
    )
    model = Classifier(configured=lambda m: form(SGD(m.parameters(), lr=0.1)))
    healthy = probe(model, examples)
    assert (healthy.findings, healthy.profile.holdings is None) == ((), False)


def test_an_optimizer_of_the_call_wins(examples: list[Tensor]) -> None:
    model = Classifier(configured=lambda m: SGD(m.parameters(), lr=0.1))
    assert probe(model, examples, optimizer=Adam).optimizer == "Adam(lr=0.001)"


def test_an_optimizer_that_the_module_keeps_is_not_touched(examples: list[Tensor]) -> None:
    """The second look trains a copy, and at the rate that the schedule starts from."""
    kept = Notes[Any]()

    def keep(model: Any) -> Any:
        if not kept:
            kept.append(warmed_up(model))
        return next(iter(kept))

    model = sick(configured=keep)
    assert probe(model, examples).verdict == "failure"
    ((optimizer,), _) = next(iter(kept))
    assert optimizer.param_groups[0]["lr"] == 0
    assert not optimizer.state
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == set(map(id, model.parameters()))


def test_a_zero_gate_wakes_up_under_a_warm_up_from_zero(examples: list[Tensor]) -> None:
    class Gated(Classifier):
        def __init__(self) -> None:
            super().__init__(configured=warmed_up)
            nn.init.zeros_(self.get_parameter("body.6.weight"))

    diagnosis = probe(Gated(), examples)
    assert [profile.steps for profile in diagnosis.profiles] == [0, 5]
    assert diagnosis.verdict != "failure", diagnosis
