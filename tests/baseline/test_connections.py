"""Which layers use which: what is gone, detached or new, in records made by hand."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gradhealth.baseline.comparison import compare
from pytest_gradhealth.baseline.entry import Entry, KeptParameters, Use
from pytest_gradhealth.results.flow import FlowRecord
from tests.helpers.baselines import PATH, PLAIN, STEP, entry

Users = Mapping[str, str]


def of(users: Users, calls: int = 1, reached: int = 1, use: Use = "gradient") -> Entry:
    """An entry whose layers use each other so; all of them have as many elements."""
    flow = tuple(
        FlowRecord(name, tuple(each.split()), 0 if name[0] == "+" else calls, reached)
        for name, each in users.items()
    )
    parameters = tuple(KeptParameters(r.layer, "gradient", 8) for r in flow if r.calls)
    parameters += (KeptParameters("experts.7", use, 8),)
    return dataclasses.replace(entry(PLAIN), parameters=parameters, flow=flow)


def told(before: Entry, after: Entry) -> list[str]:
    return [change.message for change in compare(before, after, PATH, STEP).changes]


def renamed(one: Entry, beginning: str) -> Entry:
    """The same with something before all names."""

    def name(layer: str) -> str:
        return layer if layer[0] in "+(" else beginning + layer

    return dataclasses.replace(
        one,
        parameters=tuple(dataclasses.replace(p, layer=name(p.layer)) for p in one.parameters or ()),
        flow=tuple(
            dataclasses.replace(r, layer=name(r.layer), users=tuple(map(name, r.users)))
            for r in one.flow or ()
        ),
    )


STREAM = {"stem": "f +", "f": "+", "+": "g ++", "g": "++", "++": "head", "head": "(loss)"}
PLAINLY = {"stem": "f", "f": "g ++", "g": "++", "++": "head", "head": "(loss)"}
DETACHED = {"stem": "f", "f": "(loss)", "g": "++", "++": "head", "head": "(loss)"}
NEW = {**STREAM, "head": "more", "more": "(loss)"}


@pytest.mark.parametrize(
    ("before", "after", "messages"),
    [
        (
            STREAM,
            PLAINLY,
            [
                "new on the path: f, which gradient went round before: is a skip connection gone,"
                " or detached?"
            ],
        ),
        (
            PLAINLY,
            STREAM,
            [
                "gone from the path: f, which gradient goes round now: is there a new skip"
                " connection?"
            ],
        ),
        (
            PLAINLY,
            DETACHED,
            [
                "no gradient from g and head reaches stem and f any more: is a connection gone,"
                " detached, or without a gradient (sample, argmax)?",
                "gone from the path: head, which gradient goes round now: is there a new skip"
                " connection or term of the loss?",
            ],
        ),
        (STREAM, NEW, ["new beside the path: more (8 elements; 40 got gradient before)"]),
        (NEW, STREAM, ["gone from the model: more (8 of the 48 elements that got gradient)"]),
        (
            {"a": "b c d", "b": "d", "c": "d", "d": "(loss)"},
            {"a": "b c", "b": "d", "c": "d", "d": "(loss)"},
            ["no gradient from d reaches a directly any more: is a connection gone, or detached?"],
        ),
    ],
)
def test_connections_that_come_and_go_are_named(
    before: Users, after: Users, messages: list[str]
) -> None:
    assert told(of(before), of(after)) == messages
    for names in ("module.", "_orig_mod.", "net._checkpoint_wrapped_module."):
        if not any("more" in users for users in (before, after)):
            changed = told(of(before), renamed(of(after), names))
            assert [m.replace(names, "") for m in changed] == messages


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (dataclasses.replace(of(STREAM), flow=None), of(PLAINLY)),
        (of(STREAM), dataclasses.replace(of(PLAINLY), flow=None)),
        (of(STREAM, calls=3), of(PLAINLY, calls=4)),
        (of(STREAM), of(PLAINLY, use="idle")),
        (dataclasses.replace(of(STREAM), training=True), of(PLAINLY)),
    ],
    ids=["an older file", "an older report", "longer loops", "idle experts", "another mode"],
)
def test_what_is_not_comparable_says_nothing(before: Entry, after: Entry) -> None:
    assert not [m for m in told(before, after) if "path" in m or "connection" in m]


def test_calls_that_no_gradient_reaches_any_more_are_counted() -> None:
    before, after = of(STREAM, 3, 3), of(STREAM, 3, 1)
    text = "gradient reaches {} of the 3 calls of stem, f, g and 1 more, and reached {} before"
    assert told(before, after) == [text.format(1, 3) + ": is one of them detached?"]
    assert told(after, before) == [text.format(3, 1)]


def test_a_list_that_was_numbered_anew_is_not_compared_by_its_numbers() -> None:
    """Activations between layers make 0, 1, 2 of a Sequential its 0, 2, 4."""
    before = of({"0": "1 2", "1": "2", "2": "3", "3": "(loss)"})
    after = of({"0": "2 4", "2": "4", "4": "6", "6": "(loss)"})
    assert told(before, after) == told(after, before) == []


@st.composite
def wired(draw: st.DrawFn) -> Entry:
    """Layers of which each is read by some later ones."""
    count = draw(st.integers(1, 7))
    later = [st.sets(st.sampled_from([*range(n + 1, count + 1)]), min_size=1) for n in range(count)]
    users = {
        f"a.{n}": " ".join("(loss)" if u == count else f"a.{u}" for u in sorted(draw(each)))
        for n, each in enumerate(later)
    }
    return of(users)


@settings(max_examples=25)
@given(wired(), wired(), st.sampled_from(["module.", "net.inner.", "_orig_mod."]))
def test_names_change_no_connection(one: Entry, other: Entry, beginning: str) -> None:
    assert told(one, one) == []
    assert told(one, renamed(one, beginning)) == []
    assert told(renamed(one, beginning), one) == []
    plain = [m.replace(beginning, "") for m in told(one, renamed(other, beginning))]
    if one.parameters == other.parameters:
        assert plain == told(one, other)
        assert bool(plain) is (_read(one) != _read(other))


def _read(one: Entry) -> set[tuple[str, str]]:
    return {(r.layer, user) for r in one.flow or () for user in r.users}


@settings(max_examples=25)
@given(wired(), st.randoms(use_true_random=False))
def test_a_layer_in_between_breaks_no_connection(one: Entry, dice: random.Random) -> None:
    """What is put on a way, and known to one side alone, leaves the way as it was."""
    flow = [*(one.flow or ())]
    place = dice.randrange(len(flow))
    user = dice.choice(flow[place].users)
    users = tuple("between" if name == user else name for name in flow[place].users)
    flow[place] = dataclasses.replace(flow[place], users=users)
    flow.insert(place + 1, FlowRecord("between", (user,), 1, 1))
    kept = (*(one.parameters or ()), KeptParameters("between", "gradient", 9))
    other = dataclasses.replace(one, flow=tuple(flow), parameters=kept)
    assert [m.split(":")[0] for m in told(one, other)] == ["new beside the path"]
    assert [m.split(":")[0] for m in told(other, one)] == ["gone from the model"]
