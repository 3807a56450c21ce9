"""Checks of one test share a probe as long as nothing has changed that it depends on."""

from __future__ import annotations

import pytest

from tests.helpers.projects import rows, run

pytestmark = pytest.mark.usefixtures("_networks")


SHARED = """
import pytest
import torch
from torch import nn
from pytest_gradhealth import VanishingGradientError, assert_no_exploding
from networks import Net, cross_entropy, healthy, x as shared_x, y as shared_y


def test_a(gradhealth):
    model, x, y = healthy(), shared_x.clone(), shared_y.clone()
    model.register_buffer("scale", torch.ones(1))
    gradhealth.assert_no_vanishing(model, x, y, loss=cross_entropy)
    {change}
    gradhealth.assert_no_exploding(model, x, y, loss=cross_entropy)
    {change_again}
    assert_no_exploding(model, x, y, loss=cross_entropy)
    assert Net.forwards == {forwards}, Net.forwards
"""


@pytest.mark.parametrize(
    "change",
    [
        "gradhealth.assert_healthy(model, x, y, loss=cross_entropy)",
        "gradhealth.probe(model, x, y, loss=cross_entropy, min_ratio=1e-9, max_ratio=1e9)",
        "gradhealth.assert_healthy(model, x, y, loss=cross_entropy, ignore=['GH401'])",
        "(x, y) = (x, y)",
        "model.zero_grad()",
        "torch.manual_seed(5)",
    ],
)
def test_assertions_on_one_model_and_batch_share_one_probe(
    pytester: pytest.Pytester, change: str
) -> None:
    pytester.makepyfile(SHARED.format(change=change, change_again=change, forwards=1))
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "layer",
    [
        "nn.BatchNorm1d(6)",
        "nn.Dropout(0.1)",
        "nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))",
        "nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))",
    ],
)
def test_models_whose_forward_changes_them_share_a_probe(
    pytester: pytest.Pytester, layer: str
) -> None:
    pytester.makepyfile(
        f"""
        from networks import Net, nn, x

        def test_a(gradhealth):
            model = Net(nn.Linear(6, 6), {layer}, nn.ReLU(), nn.Linear(6, 3))
            gradhealth.assert_no_vanishing(model, x)
            gradhealth.assert_no_exploding(model, x)
            assert Net.forwards == 1
        """
    )
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "odd",
    [
        "torch.zeros(4).to(torch.float8_e4m3fn)",
        "torch.zeros(4, dtype=torch.uint16)",
        "torch.zeros(4, dtype=torch.complex64).conj()",
        "torch.full((4,), torch.nan)",
        "torch.zeros(0)",
        "torch.eye(4).to_sparse()",
        "torch.eye(4).to_sparse_csr()",
        "torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)",
        "torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)",
    ],
)
def test_odd_buffers_are_compared_too(pytester: pytest.Pytester, odd: str) -> None:
    pytester.makepyfile(
        f"""
        import warnings
        from networks import Net, healthy, torch, x

        def test_a(gradhealth):
            model = healthy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.register_buffer("odd", {odd})
            gradhealth.assert_no_vanishing(model, x)
            gradhealth.assert_no_exploding(model, x)
            assert Net.forwards == 1
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_comparing_models_runs_no_code_of_theirs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from networks import Net, nn, x

        class Shy(nn.Linear):
            def extra_repr(self):
                raise RuntimeError("not before the first forward")

        def test_a(gradhealth):
            model = Net(Shy(6, 6), nn.ReLU(), nn.Linear(6, 3))
            gradhealth.assert_no_vanishing(model, x)
            gradhealth.assert_no_exploding(model, x)
            assert Net.forwards == 1
        """
    )
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "change",
    [
        "torch.optim.SGD(model.parameters(), lr=0.1).step(lambda: model(x).sum().backward())",
        "nn.init.zeros_(model[0].bias)",
        "model[0].weight.data.mul_(1.5)",
        "model[0].weight.data = model[0].weight.data * 1.5",
        "model[0].weight = nn.Parameter(model[0].weight * 1.5)",
        "model[0].weight.data.neg_()",
        "model[0].requires_grad_(False)",
        "model[0] = nn.Linear(6, 16)",
        "model[1] = nn.Tanh()",
        "model.scale.add_(1)",
        "model.eval()",
        "model[1].eval()",
        "model[1].register_forward_hook(lambda module, args, out: out * 2)",
        "x = x.clone()",
        "x.mul_(2)",
        "x.data.mul_(2)",
        "y = y.clone()",
        "y.zero_()",
        "x, y = x[:4], y[:4]",
        "model = healthy()",
        "model.act = torch.sigmoid",
        "type(model).slope = 2.0",
        "model.flag = True",
    ],
)
def test_a_probe_is_not_shared_after_a_change(pytester: pytest.Pytester, change: str) -> None:
    extra = 1 if "model(x)" in change else 0
    code = SHARED.format(change=change, change_again="pass", forwards=2 + extra)
    pytester.makepyfile(code)
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "other",
    ["loss=lambda out, y: cross_entropy(out, y)", "optimizer=torch.optim.SGD", "confirm_steps=1"],
)
def test_a_probe_is_not_shared_with_another_question(pytester: pytest.Pytester, other: str) -> None:
    first = "" if "loss" in other else "loss=cross_entropy, "
    pytester.makepyfile(
        f"""
        import torch
        from networks import Net, cross_entropy, healthy, x, y

        def test_a(gradhealth):
            model = healthy()
            gradhealth.probe(model, x, y, loss=cross_entropy)
            gradhealth.probe(model, x, y, {first}{other})
            assert Net.forwards == 2
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_batches_of_the_same_tensors_in_other_containers_share_a_probe(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        from networks import Net, healthy, x

        def test_a(gradhealth):
            model = healthy()
            gradhealth.assert_no_vanishing(model, (x,))
            gradhealth.assert_no_exploding(model, (x,))
            assert Net.forwards == 1
            gradhealth.assert_no_exploding(model, x)
            assert Net.forwards == 2, "a tuple is spread over the arguments, a tensor is not"
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_stricter_limit_that_fails_is_confirmed_with_a_new_probe(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_gradhealth import VanishingGradientError
        from networks import Net, healthy, x

        def test_a(gradhealth):
            model = healthy()
            assert gradhealth.assert_no_vanishing(model, x).confirmation is None
            assert Net.forwards == 1
            with pytest.raises(VanishingGradientError) as info:
                gradhealth.assert_no_vanishing(model, x, min_ratio=0.9)
            assert info.value.diagnosis.confirmation.steps == 5
            paid = Net.forwards
            assert paid > 2
            with pytest.raises(VanishingGradientError):
                gradhealth.assert_no_vanishing(model, x, min_ratio=0.95)
            gradhealth.assert_no_vanishing(model, x)
            assert Net.forwards == paid
        """
    )
    result = run(pytester, "--gradhealth-report")
    result.assert_outcomes(passed=1)
    assert len(rows(result)) == 2
