"""Models that are handed over in evaluation mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import Diagnosis, probe


def net(
    layers: int = 12, activation: type[nn.Module] = nn.ReLU, *, after: int = 1
) -> nn.Sequential:
    """Small weights, which batch normalisation makes up for as long as it looks at the batch."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for number in range(layers):
        linear = nn.Linear(16, 16, bias=False)
        nn.init.normal_(linear.weight, std=0.02)
        parts += [linear, *([nn.BatchNorm1d(16)] if number < layers * after else []), activation()]
    return nn.Sequential(*parts, nn.Linear(16, 4))


def probed(model: nn.Module, examples: int = 32, confirm_steps: int = 5) -> Diagnosis:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(examples, 16, generator=generator)
    y = torch.randint(4, (examples,), generator=generator)
    return probe(model, x, y, loss=cross_entropy, confirm_steps=confirm_steps)


def state(model: nn.Module) -> list[tuple[bool, list[Tensor]]]:
    return [(m.training, [b.clone() for b in m.buffers(False)]) for m in model.modules()]


def test_what_fails_in_evaluation_mode_alone_is_information() -> None:
    model = net().eval()
    before = state(model)
    diagnosis = probed(model)
    assert diagnosis.verdict == "healthy"
    assert diagnosis.profile == probed(net()).profile
    said = [f for f in diagnosis.of(["GH101"]) if f.severity == "info"]
    assert [f.message for f in said] == [
        "the gradient vanishes: x1.5e-15 of it reaches 0 (Linear); limit x1e-05 (default); but only"
        " in evaluation mode, where batch normalisation has no statistics of the data yet: judged"
        " in training mode"
    ]
    for (mode, buffers), (was, kept) in zip(state(model), before, strict=True):
        assert mode is was
        assert all(torch.equal(a, b) for a, b in zip(buffers, kept, strict=True))


def test_what_fails_in_both_modes_fails_as_it_was_handed_over() -> None:
    model = net(activation=nn.Sigmoid, after=0).append(nn.BatchNorm1d(4)).eval()
    diagnosis = probed(model)
    assert diagnosis.verdict == "failure"
    assert all("evaluation mode" not in finding.message for finding in diagnosis.findings)


def test_a_single_example_cannot_be_judged_in_training_mode() -> None:
    assert probed(net().eval(), examples=1).verdict == "failure"


def test_with_statistics_of_the_data_nothing_is_looked_at_twice() -> None:
    model = net()
    for _ in range(50):
        model(torch.randn(32, 16))
    diagnosis = probed(model.eval())
    assert diagnosis.verdict == "healthy"
    assert not [f for f in diagnosis.findings if "evaluation mode" in f.message]
    assert diagnosis.profile != probed(model.train()).profile


def test_models_without_kept_statistics_stand_as_they_are() -> None:
    calls = []
    model = net(after=0).eval()
    model.register_forward_hook(lambda *_: calls.append(model.training))
    assert probed(model, confirm_steps=0).verdict == "failure"
    assert not any(calls)
