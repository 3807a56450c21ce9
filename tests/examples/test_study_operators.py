"""The transformer operators: sick ones differ from right ones, and their truth is training's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from examples.study.journal import read
from examples.study.network import Network
from examples.study.operators import wrong
from examples.study.operators.faults import operators
from examples.study.operators.stages import OPERATORS, keys, networks, probe_operator, train
from examples.study.operators.transformer import BACK, LENGTH, Plan, Transformer, batch, causal
from examples.study.operators.truth import label_of
from examples.study.report.operators import transformer_operators

TRAINING, MEASURED = (read(stage.journal) for stage in OPERATORS)


def told(network: Network) -> list[Any]:
    """The loss, and what of the model gets which gradient."""
    torch.manual_seed(0)
    model, (inputs, targets) = network.build(), network.batch()
    assert network.loss is not None
    loss = network.loss(model(inputs), targets)
    loss.backward()
    grads = [None if p.grad is None else float(p.grad.norm()) for p in model.parameters()]
    return [float(loss.detach()), [p.requires_grad for p in model.parameters()], grads]


def test_there_are_more_than_thirty_and_each_differs_from_its_cured_twin() -> None:
    assert len(operators()) >= 30
    same = [n for n, fault in operators().items() if told(fault.sick) == told(fault.cured)]
    assert same == []


def test_what_is_asked_is_the_token_three_places_before() -> None:
    tokens, asked = batch(size=4, padded=True)
    assert torch.equal(asked[:, BACK:], tokens[:, :-BACK])
    assert torch.equal(asked[:, :BACK], tokens[:, :BACK])
    assert not tokens[:, -LENGTH // 4 :].any()


def test_a_right_transformer_does_not_see_what_comes_after() -> None:
    torch.manual_seed(0)
    model = Transformer(Plan())
    tokens, _ = batch(size=2)
    other = tokens.clone()
    other[:, 10:] = 1 + other[:, 10:] % 20
    before, after = (model(t)[..., :10] for t in (tokens, other))
    assert torch.allclose(before, after, atol=1e-5)
    assert not torch.allclose(model(tokens)[..., 10:], model(other)[..., 10:], atol=1e-5)


def test_masks_by_hand() -> None:
    assert causal(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert torch.equal(wrong.inverted(3), ~causal(3))
    assert wrong.strictly_before(3).sum() == 3
    assert not wrong.nothing(2).any()
    assert torch.equal(wrong.itself(2), torch.eye(2).bool())


def test_both_journals_are_of_these_operators_and_all_have_a_truth() -> None:
    known = {network.name for network in networks().values()}
    assert len(keys()) == 3 * len(known)
    assert set(keys()[: len(known)]) <= TRAINING.keys() <= set(keys())
    assert MEASURED.keys() <= set(keys())


@pytest.mark.parametrize("key", ["sick:mask inverted@0", "cured:right, weights of N(0, .02)@0"])
def test_a_training_made_again_has_the_same_truth(key: str) -> None:
    assert label_of(train(key)) == label_of(TRAINING[key])


def test_what_is_said_is_said_again() -> None:
    for key in {"sick:queries and keys detached@0", "cured:right@0"} & MEASURED.keys():
        again = probe_operator(key)
        assert again["verdicts"] == MEASURED[key]["verdicts"]
        assert again["peers"] == MEASURED[key]["peers"]


def test_right_transformers_train_and_do_not_fail() -> None:
    taught = {label_of(r) for key, r in TRAINING.items() if key.startswith("cured")}
    said = {r["verdicts"][0] for key, r in MEASURED.items() if key.startswith("cured")}
    assert (taught, said) == ({"trains"}, {"healthy"})


def test_truth_takes_the_best_rate() -> None:
    def record(*accuracies: float) -> dict[str, Any]:
        return {"runs": [{"accuracy": accuracy} for accuracy in accuracies]}

    assert label_of(record(0.1, 0.8)) == "trains"
    assert label_of(record(0.79, 0.1)) == "partly"
    assert label_of(record(0.49, 0.1)) == "does not train"


def test_the_section_counts_by_truth() -> None:
    def training(accuracy: float) -> dict[str, Any]:
        return {"runs": [{"accuracy": accuracy}]}

    def said(verdict: str, *codes: str) -> dict[str, Any]:
        return {"verdicts": [verdict], "findings": [[code, "failure", "x", 0] for code in codes]}

    names = [f"sick:{name}@0" for name in [*operators()][:3]]
    section = transformer_operators(
        dict(zip([*names, "cured:right@0"], map(training, (0.1, 0.2, 0.9, 1.0)), strict=True)),
        {
            names[0]: said("failure", "GH401"),
            names[1]: said("warning"),
            names[2]: said("failure", "GH101"),
            "cured:right@0": said("healthy"),
        },
    )
    lines = [line.split("|") for line in section.splitlines() if line[:1] == "|"]
    cells = {head.strip(): [cell.strip() for cell in row] for _, head, *row, _ in lines}
    assert [cell[:6] for cell in cells["does not train"]] == ["1 of 2", "2 of 2"]
    assert [cell[:6] for cell in cells["trains"]] == ["1 of 1", "1 of 1"]
    assert [cell[:6] for cell in cells["right ones"]] == ["0 of 1", "0 of 1"]
    first = next(iter(operators()))
    assert cells[first][1:] == ["0.10", "failure", "GH401"]
    assert f"Fail and train all the same: {[*operators()][2]}. Parameters" in section
