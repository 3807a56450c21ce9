"""What a model named by a spec is checked with: built, a batch, a loss, and what of it is guessed.

All of that is found out before any test runs.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pytest_gradhealth.errors import ProbeError, SettingError
from pytest_gradhealth.formatting import shortened
from pytest_gradhealth.specs import hugging_face, losses, own, timm_models, torchvision_models
from pytest_gradhealth.specs.brought import Brought, bring
from pytest_gradhealth.specs.drawn import EXAMPLES, Batch, Drawn, drawn, parse_batch
from pytest_gradhealth.specs.losses import Loss
from pytest_gradhealth.specs.offer import Built, Offer, Way
from pytest_gradhealth.specs.spec import Spec
from pytest_gradhealth.specs.tried import build, no_training, outputs_of
from pytest_gradhealth.subject.calling import fits
from pytest_gradhealth.subject.forward import describe
from pytest_gradhealth.subject.lightning import is_lightning
from pytest_gradhealth.subject.loss import STAND_IN, has_loss
from pytest_gradhealth.tensors.trees import tensors


@dataclass(frozen=True)
class Given:
    """What is given with a spec, as it is typed, and where: its inputs and its loss."""

    inputs: Sequence[str] = ()
    loss: str = ""
    where_inputs: str = "--gradhealth-input"
    where_loss: str = "--gradhealth-loss"


@dataclass(frozen=True)
class Plan:
    """All that a spec is checked with. `guessed` says what nobody has given, and why it is so."""

    way: Way
    batch: Batch | Brought
    targets: Drawn | None
    loss: Loss | None
    guessed: tuple[str, ...]

    @property
    def model(self) -> Built:
        """The model, or what builds it."""
        return self.way.model

    def batch_and_targets(self) -> tuple[Any, Any]:
        """The inputs and the targets, the same each time; raises SettingError."""
        if isinstance(self.batch, Brought):
            inputs, targets = self.batch.made()
            return inputs, (drawn(Batch((self.targets,)))[0] if self.targets else targets)
        return drawn(self.batch, self.targets)


class Planner:
    """Finds out what a spec is checked with.

    `folders` are where files and modules are looked for, `beside` where a test file would stand.
    Whatever cannot be raises SettingError: making one finds the model's name, `plan` the rest.
    """

    def __init__(self, spec: Spec, given: Given, folders: Sequence[Path], beside: Path) -> None:
        self.spec, self._given = spec, given
        self._offer = _offered(spec, folders, beside)
        self._batch = self._batch_given(folders, beside)
        self._loss = None
        if given.loss:
            self._loss = losses.parse_loss(given.loss, given.where_loss, folders, beside)

    @property
    def place(self) -> tuple[str, int]:
        """The file and the line, from 0, of what the spec names."""
        return self._offer.place

    def plan(self) -> Plan:
        """Build the model, and find the batch and the loss that go with it."""
        failed: SettingError | None = None
        given: Plan | None = None
        why = ""
        for way, meta in self._ways():
            try:
                model = self._built(way, meta)
            except SettingError as error:
                failed = failed or error
                continue
            failures = []
            for tried in self._batches(way, model):
                found = self._settled(way, model, tried)
                if isinstance(found, Plan):
                    return found
                failures.append(found.partition("\n")[0])
            why = why or "; ".join(filter(None, (self._offer.lacking(model), *failures[:1])))
            if self._batch is not None and not meta:  # the test says what to pass instead
                given = given or Plan(way, self._batch, None, self._loss, ())
        if given is not None:
            return given
        if failed is not None and not why:
            raise failed
        raise SettingError(
            f"the batch of {self.spec.text} cannot be guessed"
            + f" ({shortened(why, 300)})" * bool(why)
            + f"; add --gradhealth-input={EXAMPLES}"
        )

    def _ways(self) -> Iterator[tuple[Way, bool]]:
        """The ways to build the model, each on the meta device first where that may do."""
        for way in self._offer.ways:
            yield from ((way, meta) for meta in ((True, False) if way.light else (False,)))

    def _built(self, way: Way, meta: bool) -> nn.Module:
        model = build(way, self.spec.text, meta=meta)
        own.check_lightning(model, self.spec)
        return model

    def _batch_given(self, folders: Sequence[Path], beside: Path) -> Batch | Brought | None:
        texts, where = self._given.inputs, self._given.where_inputs
        if len(texts) == 1 and ":" in texts[0]:
            return bring(texts[0], folders, beside)
        return parse_batch(texts, where) if texts else None

    def _batches(self, way: Way, model: nn.Module) -> Iterator[_Tried]:
        """What to try: what was given alone, if it was."""
        if self._batch is None:
            for guess in way.guesses(model):
                yield _Tried(guess.batch, guess.classes, f"input {guess.batch} ({guess.why})")
        else:
            known = next(iter(way.guesses(model)), None) if self.spec.is_library else None
            yield _Tried(self._batch, 0 if known is None else known.classes)

    def _settled(self, way: Way, model: nn.Module, tried: _Tried) -> Plan | str:
        """The plan with a batch, or why that does not do."""
        batch = tried.batch
        inputs, targets = batch.made() if isinstance(batch, Brought) else drawn(batch)
        said = tuple(filter(None, (way.said, tried.said)))
        if is_lightning(model) and self._loss is None:
            found = self._of_lightning(model, inputs, targets)
            if isinstance(found, str):
                return found
            told = f"targets {found}" if found else ""
            said = (*said, *filter(None, (told,)))
            return Plan(way, batch, found, None, said)
        try:
            outputs = outputs_of(model, inputs)
        except ProbeError as error:
            return str(error)
        if _lacks_loss(outputs) and self._loss is None and self._batch is None:
            return "it makes no loss of that"
        if self._batch is None and not _are_of_examples(model, outputs, inputs):
            return (
                f"of {describe(inputs)} it makes {describe(outputs)}, and nothing of each example"
            )
        loss, drawn_targets, told = self._loss_for(inputs, outputs, targets, tried.classes)
        return Plan(way, batch, drawn_targets, loss, (*said, *filter(None, (told,))))

    def _of_lightning(self, model: nn.Module, inputs: Any, targets: Any) -> Drawn | str | None:
        """The targets of a training step, None where it takes none, or why there are none."""
        if targets is not None:
            return None
        # A pair first: a step that takes one apart may take a tensor apart by its rows.
        why = ""
        for found in _likely_targets(model, inputs):
            failed = no_training(model, inputs, drawn(Batch((found,)))[0])
            if not failed:
                return found
            why = why or failed
        if self._batch is not None or not (alone := no_training(model, inputs, None)):
            return None
        said = "its training_step makes no loss of one tensor, or of a pair"
        return f"{said}: {why or alone}"

    def _loss_for(
        self, inputs: Any, outputs: Any, targets: Any, classes: int
    ) -> tuple[Loss | None, Drawn | None, str]:
        """The loss of some outputs, the targets to draw for it, and what is guessed of that."""
        if self._loss is not None:
            return self._loss, self._targets(self._loss, outputs, targets, classes), ""
        if targets is not None:
            name = _loss_of(outputs, targets)
            if not name:
                raise SettingError(
                    f"the loss of {self.spec.text} cannot be guessed from its targets; add"
                    " --gradhealth-loss=cross_entropy, mse or module:function"
                )
            return losses.named(name), None, f"loss {name}"
        if has_loss(outputs, None):
            return None, None, "the model's own loss"
        name = losses.likely(outputs, inputs, classes, known=self.spec.is_library)
        if not name:
            return None, None, f"{STAND_IN} in place of a loss"
        found = losses.targets_for(name, outputs)
        return losses.named(name), found, f"loss {name} (the outputs are {describe(outputs)})"

    def _targets(self, loss: Loss, outputs: Any, targets: Any, classes: int) -> Drawn | None:
        """The targets to draw for a loss that was given, None where there are some, or need be."""
        if targets is not None:
            return None
        if loss.name in losses.NAMES:
            found = losses.targets_for(loss.name, outputs)
        elif fits(loss.function, (outputs,)):
            return None
        else:
            known = losses.is_classification(outputs, classes)
            found = losses.targets_for("cross_entropy", outputs) if known else None
        if found is None:
            raise SettingError(
                f"{self.spec.text}: nobody can draw targets for the loss {loss.name} of"
                f" {describe(outputs)}; add --gradhealth-input=module:batch, which returns inputs"
                " and targets"
            )
        return found


@dataclass(frozen=True)
class _Tried:
    """A batch to try, how many classes its outputs tell apart, and what is said of it."""

    batch: Batch | Brought
    classes: int = 0
    said: str = ""


def _offered(spec: Spec, folders: Sequence[Path], beside: Path) -> Offer:
    """What the source of a spec offers for it."""
    if spec.home == "timm":
        return timm_models.offer(spec)
    if spec.home == "torchvision":
        return torchvision_models.offer(spec)
    if spec.home == "hf":
        return hugging_face.offer(spec, folders)
    return own.offer(spec, folders, beside)


def _likely_targets(model: nn.Module, inputs: Any) -> Iterator[Drawn]:
    """What a training step may compare outputs with, words that follow on words first."""
    try:
        outputs = outputs_of(model, inputs)
    except ProbeError:
        outputs = None
    words = isinstance(inputs, Tensor) and not inputs.is_floating_point()
    if words and isinstance(outputs, Tensor) and outputs.shape[:-1] == inputs.shape:
        yield Drawn(tuple(inputs.shape), "int64", outputs.shape[-1])
    yield from filter(None, (losses.targets_for(name, outputs) for name in losses.NAMES))
    count = next((len(t) for t in tensors(inputs) if t.dim()), 1)
    yield from (Drawn((count,), "int64", 2), Drawn((count,)), Drawn((count, 1)))


def _are_of_examples(model: nn.Module, outputs: Any, inputs: Any) -> bool:
    """Whether something was returned for each example, or each of its parts, or a loss of all."""
    counts = {n for t in tensors(inputs) for n in accumulate(t.shape, operator.mul)}
    if any(getattr(module, "batch_first", True) is False for module in model.modules()):
        counts |= {t.shape[1] for t in tensors(inputs) if t.dim() > 1}
    found = [t for t in tensors(outputs) if not t.is_nested]
    return not found or any(not t.dim() or len(t) in counts for t in found)


def _lacks_loss(outputs: Any) -> bool:
    """Whether a model would have made a loss of labels, and has not."""
    return not isinstance(outputs, Tensor) and getattr(outputs, "loss", outputs) is None


def _loss_of(outputs: Any, targets: Any) -> str:
    """The loss that targets are most likely for, "" where nobody can say."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return ""
    if targets.is_floating_point():
        return "mse" if targets.shape == outputs.shape else ""
    scores = outputs.dim() == targets.dim() + 1 and outputs.is_floating_point()
    return "cross_entropy" if scores and outputs.shape[:1] == targets.shape[:1] else ""
