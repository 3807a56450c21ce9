"""Which layers are which, whatever they are called and in whatever order."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pytest_gradhealth import probe
from pytest_gradhealth.baseline.comparison import compare
from pytest_gradhealth.baseline.entry import Entry, KeptParameters, Use, entry_of
from tests.helpers.baselines import PATH, PLAIN, STEP, entry

USES: list[Use] = ["gradient", "inside", "idle", "frozen", "none"]


def of(*parameters: tuple[str, Use, int]) -> Entry:
    kept = tuple(KeptParameters(*each) for each in parameters)
    return dataclasses.replace(entry(PLAIN), parameters=kept)


def told(before: Entry, after: Entry) -> list[str]:
    return [change.message for change in compare(before, after, PATH, STEP).changes]


MODELS = st.dictionaries(
    st.sampled_from(["a", "a.0", "a.1", "a.b.0", "b", "c.0", "c.10"]),
    st.tuples(st.sampled_from(USES), st.integers(1, 4)),
    max_size=8,
).map(lambda model: of(*((name, use, size) for name, (use, size) in model.items())))


@settings(max_examples=30)
@given(MODELS, st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter(one: Entry, dice: random.Random) -> None:
    kept = list(one.parameters or ())
    dice.shuffle(kept)
    names = dict(zip((k.layer for k in kept), dice.sample(range(99), len(kept)), strict=True))
    renamed = tuple(dataclasses.replace(k, layer=f"new.{names[k.layer]}") for k in kept)
    assert told(one, dataclasses.replace(one, parameters=tuple(kept))) == []
    assert told(one, dataclasses.replace(one, parameters=renamed)) == []


def test_layers_that_were_numbered_anew_are_the_same() -> None:
    before = of(("a.0", "gradient", 64), ("a.1", "gradient", 32), ("a.2", "gradient", 8))
    after = of(("a.1", "gradient", 64), ("a.2", "gradient", 32), ("a.3", "gradient", 8))
    assert told(before, after) == told(after, before) == []


def test_a_layer_that_takes_the_name_of_another_is_new() -> None:
    before = of(("a.0", "gradient", 64), ("a.1", "gradient", 8))
    after = of(("a.0", "gradient", 64), ("a.1", "gradient", 72), ("a.2", "gradient", 8))
    assert told(before, after) == ["new beside the path: a.1 (72 elements; 72 got gradient before)"]
    assert told(after, before) == [
        "gone from the model: a.1 (72 of the 144 elements that got gradient)"
    ]


def test_a_layer_that_is_frozen_while_one_of_its_size_comes_was_not_renamed() -> None:
    before = of(("a", "gradient", 64), ("b", "gradient", 8))
    after = of(("a", "frozen", 64), ("b", "gradient", 8), ("c", "gradient", 64))
    assert told(before, after) == [
        "no gradient reaches a any more: frozen (64 of the 72 elements that got gradient)",
        "new beside the path: c (64 elements; 72 got gradient before)",
    ]


def test_layers_that_are_renamed_and_frozen_at_once_are_not_gone() -> None:
    before = of(("a.0", "gradient", 64), ("a.1", "gradient", 64), ("b", "gradient", 8))
    after = of(("m.a.0", "frozen", 64), ("m.a.1", "none", 64), ("m.b", "gradient", 8))
    assert told(before, after) == [
        "no gradient reaches m.a.0 any more: frozen (64 of the 136 elements that got gradient)",
        "no gradient reaches m.a.1 any more: cut off from the loss, or unused (64 of the 136"
        " elements that got gradient)",
    ]


def test_parameters_of_the_model_itself_have_a_name() -> None:
    def own(*parameters: KeptParameters) -> Entry:
        return dataclasses.replace(entry(PLAIN), parameters=parameters)

    before = own(KeptParameters("(output)", "gradient", 9, ("scale", "shift")))
    part = (
        KeptParameters("(output)", "gradient", 4, ("scale",)),
        KeptParameters("(output)", "none", 5, ("shift",)),
    )
    share = "cut off from the loss, or unused ({} of the 9 elements that got gradient)"
    for after, name, size in (
        (own(*part), "shift", 5),
        (own(KeptParameters("(output)", "none", 9, ("scale", "shift"))), "scale and shift", 9),
        (of(("(output)", "none", 9)), "the model's own parameters", 9),
    ):
        text = f"no gradient reaches {name} any more: {share.format(size)}"
        assert told(before, after) == [text]
    assert told(own(part[0]), before) == [
        "new beside the path: shift (5 elements; 4 got gradient before)"
    ]
    assert told(before, own(part[0])) == [
        "gone from the model: shift (5 of the 9 elements that got gradient)"
    ]


def test_parameters_of_a_layer_have_a_name_where_the_others_are_as_they_were() -> None:
    def stem(*uses: tuple[Use, int, str]) -> Entry:
        kept = (KeptParameters("stem", use, size, tuple(n.split())) for use, size, n in uses)
        return dataclasses.replace(entry(PLAIN), parameters=tuple(kept))

    whole, part = stem(("gradient", 9, "")), stem(("gradient", 8, "weight"), ("frozen", 1, "bias"))
    assert told(whole, part) == [
        "no gradient reaches stem.bias any more: frozen (1 of the 9 elements that got gradient)"
    ]
    assert told(part, whole) == ["gradient reaches stem.bias now (1 elements), and did not before"]
    assert told(part, stem(("frozen", 9, ""))) == [
        "no gradient reaches stem any more: frozen (8 of the 8 elements that got gradient)"
    ]


def test_an_entry_that_is_too_old_to_know_has_nothing_to_say() -> None:
    known, unknown = of(("a", "gradient", 64)), entry(PLAIN)
    assert told(known, unknown) == told(unknown, known) == []


class Tied(nn.Module):
    """Two layers that share a weight, registered in one order or the other."""

    def __init__(self, *, head_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        embed, head = nn.Embedding(6, 4), nn.Linear(4, 6)
        head.weight = embed.weight
        for name in ("head", "embed") if head_first else ("embed", "head"):
            self.add_module(name, {"head": head, "embed": embed}[name])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.get_submodule("head")(self.get_submodule("embed")(x)).sum()
        return out


@pytest.mark.parametrize("head_first", [False, True])
def test_a_shared_parameter_belongs_to_one_layer_in_every_order(head_first: bool) -> None:
    x = torch.arange(6)
    kept = entry_of(probe(Tied(head_first=head_first), x), {})
    sizes = {(k.layer, k.elements) for k in kept.parameters or ()}
    assert sizes == {("embed", 24), ("head", 6)}
