"""The message of a failure, compared exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pytest_gradhealth import (
    Diagnosis,
    ExplodingGradientError,
    Measure,
    Treatment,
    UnreachedParameterError,
    VanishingGradientError,
    assert_all_reached,
    assert_no_exploding,
    assert_no_vanishing,
    probe,
)
from pytest_gradhealth.formatting import View, number
from pytest_gradhealth.reporting.message import render
from tests.helpers.architectures import ZeroHead
from tests.helpers.nets import HALF, batch, mlp, scalar_chain, sigmoids, total

pytestmark = pytest.mark.usefixtures("_outside_pytest")


ONE = torch.ones(1, 1, dtype=torch.float64)

VANISHING = """\
the gradient vanishes: x6e-08 of it reaches 0 (Linear); limit x1e-05 (default) [GH101]

Sequential on cpu, loss total, 24 points, seed 0
looked at again after 5 steps of Adam(lr=0.001): x5.7e-08

    layer    type     output       norm      step
    0        Linear   1x1         6e-08     x0.25  #
    1        Sigmoid  1x1       2.4e-07        x1  ##
    ...      1 more                         x0.25
    3        Sigmoid  1x1       9.5e-07        x1  ####
    4        Linear   1x1       9.5e-07     x0.25  ####
    5        Sigmoid  1x1       3.8e-06        x1  ######
>   6        Linear   1x1       3.8e-06     x0.25  ######
    7        Sigmoid  1x1       1.5e-05        x1  ########
    8        Linear   1x1       1.5e-05     x0.25  ########
    9        Sigmoid  1x1       6.1e-05        x1  ##########
    ...      12 more                     x0.00024
    22       Linear   1x1          0.25     x0.25  ######################
    23       Sigmoid  1x1             1            ########################

cause:  12 Sigmoids let x0.25 through each (slope at most 1/4)
try:    nn.ReLU() with nn.init.kaiming_normal_(layer.weight,
        nonlinearity="relu"), or a normalisation layer before each
        activation
accept: min_ratio=1e-08, if this is meant to be
rule:   pytest --gradhealth-explain GH101"""

EXPLODING = """\
the gradient explodes: it grows x1e+05 to (input) (Tensor); limit x50 (the call) [GH201]

Sequential on cpu, loss total, 6 points, seed 0
looked at again after 5 steps of Adam(lr=0.001): x1e+05

    layer    type    output      norm    step
    (input)  Tensor  1x1        1e+05     x10  ########################
    0        Linear  1x1        1e+04     x10  ###################
    1        Linear  1x1        1e+03     x10  ##############
>   2        Linear  1x1        1e+02     x10  ##########
    3        Linear  1x1           10     x10  #####
    4        Linear  1x1            1          #

cause:  5 Linears pass on x10 each: the initial weights are large (variance
        x fan-in is 1e+02, level is 1)
try:    nn.init.orthogonal_(layer.weight)
accept: max_ratio=1e+05, if this is meant to be
rule:   pytest --gradhealth-explain GH201"""


def test_the_message_of_a_vanishing_gradient() -> None:
    with pytest.raises(VanishingGradientError) as caught:
        assert_no_vanishing(sigmoids(), HALF, loss=total, remedy_budget=0)
    assert str(caught.value) == VANISHING
    (finding,) = caught.value.findings
    assert (finding.code, finding.layer) == ("GH101", "6")
    assert finding.value == pytest.approx(0.25**12)
    assert caught.value.diagnosis is not None
    assert str(caught.value.diagnosis) == VANISHING


def test_the_message_of_an_exploding_gradient() -> None:
    model = scalar_chain(5, weight=10.0, bias=0.0, activation=None)
    with pytest.raises(ExplodingGradientError) as caught:
        assert_no_exploding(
            model, ONE.clone().requires_grad_(), loss=total, max_ratio=50, remedy_budget=0
        )
    assert str(caught.value) == EXPLODING


def test_the_message_of_an_unused_layer() -> None:
    class Extra(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = scalar_chain(2, weight=1.0, bias=0.0, activation=None)
            self.extra = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x)
            return out

    with pytest.raises(UnreachedParameterError) as caught:
        assert_all_reached(Extra(), ONE, loss=total)
    assert str(caught.value) == (
        "the loss does not depend on extra (2 parameters): not called here, as others of the"
        " class or its own parts are [GH405]\n"
        "\n"
        "Extra on cpu, loss total, 2 points, seed 0\n"
        "\n"
        "    layer    type    output      norm    step\n"
        "    body.0   Linear  1x1            1      x1  ########################\n"
        "    body.1   Linear  1x1            1          ########################\n"
        "\n"
        "cause:  their module is never called, does without them, or its output is\n"
        "        not used\n"
        "try:    use them, delete them, freeze them with requires_grad_(False), or\n"
        "        leave them out with --gradhealth-ignore='GH405:extra'\n"
        "rule:   pytest --gradhealth-explain GH405"
    )


def test_a_healthy_diagnosis_prints_its_path_too() -> None:
    model = scalar_chain(2, weight=0.5, bias=0.0, activation=None)
    assert str(probe(model, ONE, loss=total)) == (
        "Sequential is healthy: x0.5 of the gradient reaches 0 (Linear)\n"
        "\n"
        "Sequential on cpu, loss total, 2 points, seed 0\n"
        "\n"
        "    layer    type    output      norm    step\n"
        "    0        Linear  1x1          0.5    x0.5  #\n"
        "    1        Linear  1x1            1          ########################"
    )


def test_the_verbose_message_shows_every_layer() -> None:
    diagnosis = probe(sigmoids(), HALF, loss=total)
    lines = render(diagnosis, view=View(verbose=True)).splitlines()
    assert sum(" Sigmoid " in line or " Linear " in line for line in lines) == 24
    assert not any("more" in line for line in lines)


def test_the_next_command_is_named_where_layers_are_hidden() -> None:
    diagnosis = probe(sigmoids(), HALF, loss=total)
    text = render(diagnosis, view=View(rerun="pytest test_a.py::test_b"))
    assert "next:   pytest test_a.py::test_b -v\n        (shows all 24 points)\n" in text
    assert "next:" not in render(diagnosis, view=View(verbose=True, rerun="pytest x"))


def cause(diagnosis: Diagnosis) -> tuple[str, str]:
    """The sentences after "cause:" and "try:", on one line each."""
    text = str(diagnosis)
    because, _, rest = text.partition("cause:")[2].partition("try:")
    return " ".join(because.split()), " ".join(rest.partition("accept:")[0].split())


def test_small_weights_are_named_as_the_cause() -> None:
    x, y = batch()
    because, advice = cause(probe(mlp(nn.ReLU, hidden=16), x, y, loss=nn.functional.cross_entropy))
    assert because.startswith("16 Linears pass on x0.")
    assert "the initial weights are small (variance x fan-in is 0.33, level is 2)" in because
    assert advice == 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'


def test_one_bad_place_is_named_as_the_cause() -> None:
    class Damped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(6))
            for layer in self.layers.children():
                assert isinstance(layer, nn.Linear)
                nn.init.eye_(layer.weight)

        def forward(self, x: Tensor) -> Tensor:
            for i, layer in enumerate(self.layers):
                x = layer(x) * (1e-7 if i == 3 else 1.0)
            return x

    because, advice = cause(probe(Damped(), torch.randn(4, 8), loss=total))
    assert because == "most of it is lost in one place: x1e-07 from layers.4 to layers.3"
    assert advice == (
        "look at Linear in layers.4: its weights, and what multiplies its input (the output of"
        " layers.3)"
    )


def test_a_softmax_over_one_unit_is_named_as_the_cause() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softmax(dim=-1))
    assert cause(probe(model, batch()[0])) == (
        "3 (Softmax) is a softmax over one element, which is 1 whatever comes in",
        "the dimension of what is chosen from (dim=-1, say), before what selects one (topk); for a"
        " single unit nn.Sigmoid(), or two units",
    )


def test_dead_units_are_named_as_the_cause() -> None:
    model = mlp(nn.ReLU, hidden=2)
    model[2].register_parameter("bias", nn.Parameter(torch.full((32,), -100.0)))
    assert cause(probe(model, batch()[0]))[0] == (
        "all units of 3 (ReLU) are dead: its output is zero for the whole batch"
    )


# Remedies


SICK = Measure(6e-8, 2.31, 2.3, 60)

TREATMENTS = (
    Treatment(
        "ReLU", "cured", "GH101", SICK, Measure(0.83, 2.35, 0.9, 14), "relu()", "", "activation"
    ),
    Treatment(
        "GELU", "cured", "GH101", SICK, Measure(0.03, 2.35, 1.0, 15), "gelu()", "", "activation"
    ),
    Treatment(
        "batch norm",
        "cured",
        "GH101",
        SICK,
        Measure(9.0, 2.4, 1.1, 30),
        "a\nb",
        "GH201 warns",
    ),
    Treatment(
        "residual",
        "better",
        "GH101",
        SICK,
        Measure(4e-4, 11.2, 2.26, 60),
        "residual()",
        "still no better than one answer for all, whose loss is 2.3",
    ),
    Treatment("Xavier init", "worse", "GH101", SICK, Measure(2e-9)),
    Treatment("SELU", "cannot", "GH101", SICK, reason="nothing saturates between its layers"),
    Treatment("mine", "cannot", "GH101", SICK, reason="nothing saturates between its layers"),
    Treatment("clip by norm", "not tried", "GH101", SICK, reason="no time was left"),
)

TREATED = """\
cause:  12 Sigmoids let x0.25 through each (slope at most 1/4)
accept: min_ratio=1e-08, if this is meant to be
rule:   pytest --gradhealth-explain GH101

tried on copies, trained with Adam(lr=0.001) on this batch:

remedy       outcome      ratio  loss          steps
(as it is)               x6e-08  2.3 -> 2.3       60
ReLU         cured        x0.83  2.4 -> 0.9       14
GELU         cured        x0.03  2.4 -> 1         15
batch norm   cured           x9  2.4 -> 1.1       30
residual     better     x0.0004  11 -> 2.3        60
Xavier init  worse       x2e-09

note:   batch norm: GH201 warns
note:   residual: still no better than one answer for all, whose loss is 2.3
untried: clip by norm: no time was left

write (ReLU):
    relu()

or (batch norm):
    a
    b

more:   -v shows the code of GELU as well"""


def treated(*treatments: Treatment) -> Diagnosis:
    return replace(probe(sigmoids(), HALF, loss=total), treatments=treatments)


def test_the_message_ends_with_what_cured_the_best_of_each_family_first() -> None:
    text = str(treated(*TREATMENTS))
    assert text[text.index("cause:") :] == TREATED


def test_the_verbose_message_ends_with_the_code_of_everything_that_cured() -> None:
    text = render(treated(*TREATMENTS), view=View(verbose=True))
    assert text.endswith(
        "write (ReLU):\n    relu()\n\nor (GELU):\n    gelu()\n\nor (batch norm):\n    a\n    b"
    )


def test_a_cure_that_takes_much_less_off_the_loss_is_no_alternative() -> None:
    """The best takes 1.5 off; half of that is enough."""
    best, _, norm, *_ = TREATMENTS
    assert norm.after is not None
    for end, shown in ((1.6, True), (1.7, False)):
        slow = replace(norm, after=replace(norm.after, end=end))
        text = str(treated(best, slow))
        assert ("or (batch norm):" in text) == shown
        assert ("-v shows the code of batch norm as well" in text) == (not shown)


def test_what_cannot_be_tried_is_told_beside_a_cure_with_v_alone() -> None:
    line = "cannot: SELU, mine: nothing saturates between its layers"
    shown = [render(treated(*TREATMENTS), view=View(verbose)) for verbose in (False, True)]
    assert [line in text for text in shown] == [False, True]


def test_without_a_cure_the_advice_stays() -> None:
    text = str(treated(*TREATMENTS[3:]))
    assert "try:    nn.ReLU() with" in text
    assert text.endswith(
        "untried: clip by norm: no time was left\n\n"
        "no remedy cured it: change more than one thing, or the architecture"
    )


def test_where_nothing_could_be_tried_there_is_no_table() -> None:
    text = str(treated(*TREATMENTS[5:]))
    assert "tried on copies" not in text
    assert text.endswith(
        "cannot: SELU, mine: nothing saturates between its layers\n"
        "untried: clip by norm: no time was left"
    )


def test_the_second_look_is_shown_by_what_was_judged() -> None:
    torch.manual_seed(0)
    x, y = batch()
    model = mlp(hidden=3)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(40)
    diagnosis = probe(model, x, y, loss=nn.functional.cross_entropy, select=["GH203"])
    second = diagnosis.confirmation
    assert second is not None
    assert second.magnitude is not None
    line = f"looked at again after 5 steps of Adam(lr=0.001): output {number(second.magnitude)}"
    assert line in render(diagnosis)


def test_a_limit_without_a_setting_is_accepted_by_leaving_the_rule_out() -> None:
    x, y = batch()
    diagnosis = probe(
        mlp(),
        x,
        y,
        loss=lambda out, labels: nn.functional.cross_entropy(out, labels) * 1e-14,
        optimizer=torch.optim.Adam,
    )
    assert "accept: --gradhealth-ignore=GH103 leaves the rule out" in render(diagnosis)


def test_what_has_woken_is_told_by_the_look_that_counts() -> None:
    x, y = batch()
    diagnosis = probe(ZeroHead(mlp()), x, y, loss=nn.functional.cross_entropy)
    (line, *_) = str(diagnosis).splitlines()
    path = diagnosis.judged_path
    assert path is not None
    assert 0 < diagnosis.ratio == pytest.approx(path.entry.norm / path.last.norm)
    assert line.startswith("ZeroHead is healthy: x0.")
    assert line.endswith(" after 5 steps")
