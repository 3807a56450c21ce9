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


def test_where_training_mode_cannot_be_tried_a_failure_is_a_warning() -> None:
    (finding,) = probed(net().eval(), examples=1).findings
    assert (finding.code, finding.severity) == ("GH101", "warning")
    assert finding.message.endswith(
        "; perhaps only in evaluation mode, since training mode, in which batch normalisation takes"
        " its statistics from the batch, cannot be tried (Expected more than 1 value per channel"
        " when training, got input size torch.Size([1, 16]))"
    )


class Stubborn(nn.Sequential):
    def train(self, mode: bool = True) -> Stubborn:
        if mode:
            raise RuntimeError("for inference only")
        return super().train(mode)


def test_a_model_that_refuses_to_train_is_judged_as_it_is() -> None:
    model = Stubborn(*net()).eval()
    (finding,) = probed(model).findings
    assert finding.severity == "warning"
    assert finding.message.endswith("cannot be tried (for inference only)")
    assert not model.training


def test_training_mode_decides_where_it_looks_better() -> None:
    """Deep nets of batch normalisation warn of growth, where the same in evaluation mode fails."""
    trained, evaluated = probed(net(28)), probed(net(28).eval())
    assert trained.verdict == evaluated.verdict == "warning"
    assert [f.code for f in trained.findings] == ["GH201"]
    assert [(f.code, f.severity) for f in evaluated.findings] == [
        ("GH201", "warning"),
        ("GH101", "info"),
    ]


def test_an_overflow_in_evaluation_mode_alone_is_information() -> None:
    model = net()
    with torch.no_grad():
        for layer in model[:-1]:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(1e6)
    trained, evaluated = probed(model), probed(model.eval())
    assert trained.verdict == evaluated.verdict == "warning"
    assert trained.findings == evaluated.findings[:-1]
    assert (evaluated.findings[-1].code, evaluated.findings[-1].severity) == ("GH301", "info")


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


def test_frozen_statistics_that_are_those_of_no_data_are_not_meant() -> None:
    model = net()
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            layer.eval()
    assert model.training
    assert probed(model).verdict == "healthy"
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            layer.num_batches_tracked = torch.tensor(1)
    assert probed(model).verdict == "failure"
