"""How a scalar to differentiate comes out of what a model returns."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import ProbeError, probe
from pytest_gradhealth.subject.loss import scalar_loss
from pytest_gradhealth.tensors.norms import l2_norm
from tests.helpers.nets import batch, leaf_outputs, mlp
from tests.helpers.refusals import Nameless, Returning, check, raising, refusal

cross_entropy = nn.functional.cross_entropy


# Losses.


def double(outputs: Tensor) -> Tensor:
    return 2 * outputs.sum()


def with_default(outputs: Tensor, targets: Any = "none") -> Tensor:
    return outputs.sum() * (3 if targets == "none" else 5)


def with_targets(outputs: Tensor, targets: Any) -> Tensor:
    return outputs.sum() * (7 if targets is None else 11)


class Double(nn.Module):
    def forward(self, outputs: Tensor) -> Tensor:
        return double(outputs)


@pytest.mark.parametrize(
    ("loss", "targets", "factor"),
    [
        (double, None, 2),
        (Double(), None, 2),
        (functools.partial(with_targets, targets=1), None, 11),
        (with_default, None, 3),
        (with_default, 1, 5),
        (with_targets, None, 7),
        (with_targets, 1, 11),
        (lambda *outputs: len(outputs) * outputs[0].sum(), None, 1),
        (lambda *outputs: len(outputs) * outputs[0].sum(), 1, 2),
        (lambda o, _: {"a": o.sum(), "b": 2 * o.sum(), "fixed": torch.ones(())}, 1, 3),
        (lambda o, _: o.sum().reshape(1, 1), 1, 1),
        (lambda o, _: {"loss": 3 * o.sum(), "a": o.sum(), "b": 2 * o.sum()}, 1, 3),
        (lambda o, _: Output(o, 5 * o.sum()), 1, 5),
        (lambda o, _: (o, 2 * o.sum(), {"accuracy": 0.5}), 1, 2),
        (lambda o, a, b: a * b * o.sum(), (2, 3), 6),
        (lambda o, a, b: a * b * o.sum(), [2, 3], 6),
        (lambda o, both: len(both) * o.sum(), (2, 3), 2),
        (torch.sum, None, 1),
    ],
    ids=[
        "one argument",
        "module",
        "partial",
        "default",
        "default overridden",
        "missing targets",
        "targets",
        "variadic alone",
        "variadic",
        "mapping",
        "one element",
        "loss beside its parts",
        "attribute",
        "loss and logs",
        "several targets",
        "list of targets",
        "targets in one",
        "builtin",
    ],
)
def test_a_loss_gets_outputs_and_targets(loss: Any, targets: Any, factor: int) -> None:
    outputs = leaf_outputs(4)
    value = scalar_loss(outputs, targets, loss)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.numel() == 1
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [factor] * 4


def test_targets_may_be_anything() -> None:
    def loss(outputs: Tensor, targets: Any) -> Tensor:
        assert targets["names"] == ["a", "b"]
        return cross_entropy(outputs, targets["labels"])

    x, y = batch()
    diagnosis = probe(mlp(), x, {"labels": y, "names": ["a", "b"]}, loss=loss)
    assert diagnosis.verdict == "healthy"


def test_a_loss_module_with_buffers_weighs_as_declared() -> None:
    x, y = batch()
    weight = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    model, criterion = mlp(), nn.CrossEntropyLoss(weight=weight)
    wanted = criterion(model(x), y)
    assert probe(model, x, y, loss=criterion).profile.loss == pytest.approx(wanted.item())
    assert dict(criterion.named_buffers()) == {"weight": weight}


class Scores(NamedTuple):
    logits: Tensor
    loss: Tensor


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


@pytest.mark.parametrize(
    "outputs",
    [
        lambda o: Output(o, o.sum()),
        lambda o: Scores(o, o.sum()),
        lambda o: {"logits": o, "loss": o.sum()},
        lambda o: OrderedDict(other=o.mean(), loss=o.sum()),
        lambda o: o.sum(),
        lambda o: (o, o.sum()),
        lambda o: (o.sum(), o.sum().detach(), o),
        lambda o: {"ce": o[0] + o[1], "l2": o[2:].sum()},
        lambda o: {"ce": o.sum(), "accuracy": torch.tensor(0.5)},
    ],
    ids=[
        "attribute",
        "named tuple",
        "mapping",
        "mapping with more",
        "scalar",
        "logits and loss",
        "loss and metric",
        "mapping of losses",
        "mapping of loss and metric",
    ],
)
@pytest.mark.parametrize("targets", [None, torch.ones(4)])
def test_a_models_own_loss_is_found(
    outputs: Callable[[Tensor], Any], targets: Tensor | None
) -> None:
    leaf = leaf_outputs(4)
    scalar_loss(outputs(leaf), targets, None).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [1.0] * 4


def test_a_given_loss_wins_over_the_models_own() -> None:
    leaf = leaf_outputs(4)
    value = scalar_loss(Output(leaf, leaf.sum()), None, lambda o: o.logits.sum() * 2)
    assert torch.equal(torch.autograd.grad(value, leaf)[0], torch.full((4,), 2.0))


# The cotangent that stands in for a loss.


def gradients_of(outputs: Any, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(scalar_loss(outputs, None, None), leaves))


def total_norm(gradients: list[Tensor]) -> float:
    return math.hypot(*(float(l2_norm(gradient)) for gradient in gradients))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize(
    "shapes", [[(1,)], [(16, 5)], [(2, 3), (), (4, 1, 7), (0, 3)], [(300, 400)]]
)
def test_the_cotangent_has_unit_norm(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    gradients = gradients_of([*leaves, {"int": torch.ones(2).long()}], leaves)
    assert total_norm(gradients) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_the_cotangent_in_half_precision(dtype: torch.dtype, error: float) -> None:
    leaf = torch.randn(64, 100, dtype=dtype, requires_grad=True)
    assert total_norm(gradients_of(leaf, [leaf])) == pytest.approx(1, abs=error)


def test_the_cotangent_spans_outputs_of_several_types() -> None:
    leaves = [
        torch.randn(3, dtype=dtype, requires_grad=True)
        for dtype in (torch.float32, torch.float64, torch.complex64)
    ]
    gradients = gradients_of((leaves[0], Output(leaves[1]), [leaves[2]]), leaves)
    assert total_norm(gradients) == pytest.approx(1, abs=1e-6)
    assert [gradient.dtype for gradient in gradients] == [leaf.dtype for leaf in leaves]
    assert all(float(l2_norm(gradient)) > 0.05 for gradient in gradients)


def test_outputs_without_gradient_take_no_share_of_the_cotangent() -> None:
    leaf, fixed = leaf_outputs(4), torch.ones(400)
    assert total_norm(gradients_of((fixed, leaf), [leaf])) == pytest.approx(1, abs=1e-6)
    (alone,) = gradients_of(leaf, [leaf])
    assert torch.equal(gradients_of((fixed, leaf), [leaf])[0], alone)


def test_the_cotangent_is_always_the_same() -> None:
    leaf = leaf_outputs(5, 4)
    (first,) = gradients_of(leaf, [leaf])
    for seed in range(3):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        (again,) = gradients_of(leaf * 2 - leaf, [leaf])
        assert torch.equal(again, first)
        assert torch.equal(torch.get_rng_state(), state)


def test_a_probe_without_a_loss_starts_from_a_gradient_of_unit_norm() -> None:
    path = probe(mlp(), batch()[0]).paths[0]
    assert path.last.norm == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "outputs",
    [
        lambda o: (o[0] * 2, o[1] * 3),
        lambda o: {"a": o[0], "b": o},
        lambda o: Output(o),
        lambda o: [o.sum(), o],
        lambda o: (o.sum(), o.mean()),
        lambda o: {"ce": o.sum(), "logits": o},
    ],
    ids=["tuple", "mapping", "no loss", "list", "two scalars", "scalar among tensors"],
)
def test_outputs_without_a_loss_of_their_own_get_the_cotangent(
    outputs: Callable[[Tensor], Any],
) -> None:
    leaf = leaf_outputs(2)
    (gradient,) = gradients_of(outputs(leaf), [leaf])
    assert 0 < float(l2_norm(gradient)) < 4
    assert not torch.equal(gradient, torch.ones(2))


# Losses and outputs that cannot be used.


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda o: o.sum().item(),
            "the loss is a float, not a tensor; return the tensor itself, without .item() or"
            " float()",
        ),
        (
            lambda _: None,
            "the loss is None; return the tensor, without calling backward() on it",
        ),
        (lambda o: o, "the loss has shape (16, 5); reduce it to one number, for example with"),
        (lambda o: o[:0], "the loss has shape (0, 5); reduce it to one number, for example with"),
        (
            lambda o: o.detach().sum(),
            "the loss does not depend on the model's trainable parameters: detach in (loss) cuts"
            " the gradient off\n  try: take it out, or freeze what is before it",
        ),
        (
            torch.no_grad()(torch.sum),
            "the loss does not depend on the model's trainable parameters: no_grad() in (loss) cuts"
            " off what runs in it\n  try: take it out, or freeze what is before it",
        ),
        (
            lambda _: torch.ones(()),
            "the loss does not depend on the model's trainable parameters; is something detached,"
            " or computed under torch.no_grad()?",
        ),
        (
            lambda o: torch.tensor(o.sum().item(), requires_grad=True),
            "the loss does not depend on the model's trainable parameters: item in (loss) makes"
            " plain numbers, which have no gradient\n  try: the same in torch, without it",
        ),
        (
            lambda o: o.sum().detach().requires_grad_(),
            "the loss does not depend on the model's trainable parameters: detach in (loss) cuts"
            " the gradient off\n  try: take it out, or freeze what is before it",
        ),
        (
            lambda _: torch.ones((), requires_grad=True),
            "the loss does not depend on the model's trainable parameters; it is a new tensor with"
            " requires_grad=True, which no gradient gets past; return the one that was computed",
        ),
        (
            "mse",
            "loss is 'mse'; pass a function of outputs and targets, for example"
            " torch.nn.functional.cross_entropy",
        ),
    ],
    ids=[
        *("float", "None", "not reduced", "empty", "detached", "no_grad", "fixed", "made of item"),
        *("made of detached", "made anew", "not callable"),
    ],
)
def test_losses_that_cannot_be_differentiated(loss: Any, message: str) -> None:
    check(refusal(mlp(), loss=loss), message + (" .mean()" if message.endswith("with") else ""))


@pytest.mark.parametrize(
    ("loss", "name"),
    [(raising, "raising"), (Nameless(), "Nameless"), (lambda *_: raising(), "<lambda>")],
)
def test_a_loss_that_raises(loss: Any, name: str) -> None:
    x, y = batch()
    check(
        refusal(mlp(), x, y, loss=loss),
        f"loss {name} raised KeyError: 'nothing'\n  it was called with outputs: (16, 5) float32;"
        " targets: (16,) int64",
        KeyError,
    )


def test_a_loss_that_misses_its_targets() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return raising() if targets is None else cross_entropy(outputs, targets)

    check(
        refusal(mlp(), loss=loss),
        "loss loss raised KeyError: 'nothing'\n  it was called with outputs: (16, 5) float32;"
        " targets: None",
        KeyError,
    )


def test_a_loss_module_is_named_by_its_class() -> None:
    class Criterion(nn.Module):
        def forward(self, outputs: Tensor) -> Tensor:
            return torch.as_tensor(raising())

    check(
        refusal(mlp(), loss=Criterion()),
        "loss Criterion raised KeyError: 'nothing'\n  it was called with outputs: (16, 5) float32;"
        " targets: None",
        KeyError,
    )


@pytest.mark.parametrize(
    ("function", "targets", "message"),
    [
        (
            torch.clone,
            torch.ones(16),
            "targets were given, but nothing to compare them with: the model returns no loss; pass"
            " loss=..., for example loss=torch.nn.functional.cross_entropy",
        ),
        (
            lambda y: y.argmax(1),
            None,
            "the model returns nothing a gradient can flow back from (torch.int64) and no loss was"
            " given; pass loss=... that computes one from what the model returns",
        ),
        (
            lambda y: {"a": [y > 0, y.argmax(1)]},
            None,
            "the model returns nothing a gradient can flow back from (torch.bool, torch.int64) and"
            " no loss was given; pass loss=... that computes one from what the model returns",
        ),
        (
            lambda _: "done",
            None,
            "the model returns nothing a gradient can flow back from (str) and no loss was given;"
            " pass loss=... that computes one from what the model returns",
        ),
        (
            torch.Tensor.detach,
            None,
            "the model's outputs do not depend on its trainable parameters: detach in (output)"
            " (Returning) cuts the gradient off\n  try: take it out, or freeze what is before it",
        ),
        (
            lambda y: {"loss": y.sum().detach()},
            None,
            "the model's own loss does not depend on the model's trainable parameters: detach in"
            " (output) (Returning) cuts the gradient off\n  try: take it out, or freeze what is"
            " before it",
        ),
        (
            lambda y: {"loss": y},
            None,
            "the model's own loss has shape (16, 5); reduce it to one number, for example with"
            " .mean()",
        ),
        (
            lambda y: {"loss": y.sum().item()},
            None,
            "the model's own loss is a float, not a tensor; return the tensor itself, without"
            " .item() or float()",
        ),
    ],
    ids=[
        "targets without a loss",
        "integers",
        "integers and bools",
        "text",
        "detached",
        "own loss detached",
        "own loss not reduced",
        "own loss a float",
    ],
)
def test_outputs_without_a_way_back(
    function: Callable[[Tensor], Any], targets: Tensor | None, message: str
) -> None:
    check(refusal(Returning(function), targets=targets), message)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda number: number.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda number: number.to(torch.complex64), "complex64"),
        (lambda number: number.to_sparse(), "sparse"),
    ],
)
def test_numbers_that_no_gradient_starts_from(make: Callable[[Tensor], Tensor], kind: str) -> None:
    rest = f"a {kind} tensor; return a dense one in float32"
    check(refusal(mlp(), loss=lambda out: make(out.sum())), f"the loss is {rest}")
    check(refusal(Returning(lambda out: make(out.sum()))), f"the model's own loss is {rest}")
    error = refusal(mlp(), regularizer=lambda m: make(next(m.parameters()).sum()))
    check(error, f"regularizer returned {rest}")


def test_outputs_of_one_byte_are_measured() -> None:
    assert probe(Returning(lambda out: out.to(torch.float8_e4m3fn)), batch()[0]).paths


def ring(output: Tensor) -> list[Any]:
    held: list[Any] = [output]
    held.append(held)
    return held


@pytest.mark.parametrize("loss", [None, lambda held: held[0].sum()])
def test_outputs_that_hold_themselves(loss: Any) -> None:
    error = refusal(Returning(ring), loss=loss)
    assert type(error) is ProbeError
    assert "RecursionError" in str(error)
