"""What counts as worse, in decades and whatever layers are called."""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gradhealth.baseline.alignment import path_pairs
from pytest_gradhealth.baseline.check import Now, check_entry
from pytest_gradhealth.baseline.comparison import Comparison, compare, is_same
from pytest_gradhealth.baseline.entry import Entry, KeptParameters, KeptPath, KeptPoint
from pytest_gradhealth.results.diagnosis import Verdict
from tests.helpers.baselines import DECADES, ENTRIES, PATH, PLAIN, STEP, compared, entry, path


@given(ENTRIES)
def test_nothing_has_changed_between_an_entry_and_itself(one: Entry) -> None:
    assert not compare(one, one, PATH, STEP).changes
    assert is_same(one, one)


@given(ENTRIES, st.randoms(use_true_random=False))
def test_what_is_worse_one_way_is_better_the_other_way(one: Entry, dice: random.Random) -> None:
    other = entry(
        *(
            replace(
                kept,
                ratio=dice.uniform(-9, 9),
                points=tuple(replace(q, norm=dice.uniform(-9, 9)) for q in kept.points),
            )
            for kept in one.paths
        )
    )
    there, back = compare(one, other, PATH, STEP), compare(other, one, PATH, STEP)
    numbers = {"path", "step"}
    # What has gone past level by more than the limit is worse on the way back, too.
    worse = [c for c in there.worse if c.kind in numbers and c.before * c.after >= 0]
    better = [c for c in back.better if c.kind in numbers and c.before * c.after >= 0]
    assert sorted((c.kind, str(c.before), str(c.after)) for c in worse) == sorted(
        (c.kind, str(c.after), str(c.before)) for c in better
    )


@given(ENTRIES, DECADES)
def test_the_scale_of_the_loss_changes_nothing(one: Entry, shift: float) -> None:
    paths = tuple(
        KeptPath(
            p.ratio,
            tuple(KeptPoint(q.layer, q.type, q.norm + shift) for q in p.points),
            p.judged,
        )
        for p in one.paths
    )
    other = dataclasses.replace(one, paths=paths)
    assert not compare(one, other, PATH, STEP).changes


@given(ENTRIES, st.randoms(use_true_random=False))
def test_renaming_every_layer_changes_nothing(one: Entry, order: random.Random) -> None:
    layers = [p.layer for kept in one.paths for p in kept.points]
    layers += [p.layer for p in one.parameters or ()]
    names = {layer: f"n{order.random()}" for layer in layers}
    paths = tuple(
        KeptPath(
            p.ratio,
            tuple(KeptPoint(names[q.layer], q.type, q.norm) for q in p.points),
        )
        for p in one.paths
    )
    firsts = [p.first.layer for p in one.paths]
    if len({*firsts}) < len(firsts) or len({*names.values()}) < len(names):
        return  # names that one model cannot have
    parameters = one.parameters and tuple(
        dataclasses.replace(p, layer=names[p.layer]) for p in one.parameters
    )
    other = dataclasses.replace(one, paths=paths, parameters=parameters)
    assert not compare(one, other, PATH, STEP).changes


def test_a_path_is_worse_by_more_than_its_limit_only() -> None:
    for change, worse in ((0.49, False), (0.51, True)):
        after = path(("0", "Linear", -1.0 - change), ("1", "ReLU", -0.8), ("2", "Linear", -0.4))
        assert bool(compared(PLAIN, after).worse) is worse
        assert not compared(after, PLAIN).worse


@pytest.mark.parametrize("sides", [(True, False), (False, True), (False, False)])
def test_numbers_of_paths_without_data_are_not_compared(sides: tuple[bool, bool]) -> None:
    other = path(("0", "Linear", -9.0), ("1", "ReLU", -0.8), ("2", "Linear", -0.4))
    before, after = (
        dataclasses.replace(kept, judged=judged)
        for kept, judged in zip((PLAIN, other), sides, strict=True)
    )
    assert compared(PLAIN, other).worse
    assert compared(before, after) == Comparison()


def test_growing_is_as_bad_as_shrinking() -> None:
    grown = path(("0", "Linear", 1.3), ("1", "ReLU", 0.5), ("2", "Linear", -0.4))
    messages = [change.message for change in compared(PLAIN, grown).worse]
    assert messages[:1] == [
        "x50 of the gradient reaches 0 (Linear); it was x0.25 (it grew by 2.3 decades; limit 0.5,"
        " default)"
    ]


def test_a_step_that_another_makes_up_for_is_found() -> None:
    after = path(("0", "Linear", -1.0), ("1", "ReLU", -3.0), ("2", "Linear", -0.4))
    assert [(c.kind, c.layer) for c in compared(PLAIN, after).worse] == [
        ("step", "0"),
        ("step", "1"),
    ]
    assert compared(PLAIN, after).worse[1].message == (
        "from 2 (Linear) to 1 (ReLU) the gradient changes by x0.0025; it was x0.4 (it lost 2.2"
        " decades; limit 1, the call)"
    )


def test_what_an_inserted_layer_loses_counts_where_it_is() -> None:
    after = path(
        ("0", "Linear", -3.0), ("new", "Tanh", -2.8), ("1", "ReLU", -0.8), ("2", "Linear", -0.4)
    )
    assert [(c.kind, c.layer) for c in compared(PLAIN, after).worse] == [("path", "0")]
    loud = path(("0", "Linear", -3.0), ("1", "ReLU", -0.8), ("2", "Linear", -0.4))
    assert [(c.kind, c.layer) for c in compared(PLAIN, loud).worse] == [
        ("path", "0"),
        ("step", "0"),
    ]


def test_a_pooling_that_is_swapped_is_no_step_of_its_own() -> None:
    before = path(("0", "Conv2d", 0.6), ("1", "AdaptiveMaxPool2d", 0.6), ("2", "Linear", 0.0))
    after = path(("0", "Conv2d", -0.9), ("1", "AdaptiveAvgPool2d", 0.6), ("2", "Linear", 0.0))
    assert [c.kind for c in compared(before, after).worse] == ["path"]
    kept = path(("0", "Conv2d", -0.9), ("1", "AdaptiveMaxPool2d", 0.6), ("2", "Linear", 0.0))
    assert [c.kind for c in compared(before, kept).worse] == ["path", "step"]


def test_layers_that_may_be_a_part_of_the_loss_count_for_nothing() -> None:
    with_softmax = path(
        ("0", "Linear", -2.0), ("1", "ReLU", -1.8), ("2", "Linear", -1.4), ("3", "Softmax", 0.0)
    )
    assert not compared(PLAIN, with_softmax).changes
    assert not compared(with_softmax, PLAIN).changes


def test_layers_that_have_moved_up_are_no_other_end_of_a_path() -> None:
    names = [("0", "Linear", -2.0), ("1", "ReLU", -1.9), ("2", "Dropout", -1.0)]
    before = path(*names, ("3", "Linear", 0.0))
    after = path(*names[:2], ("2", "Linear", 0.0))
    assert not compared(before, after).worse
    assert not compared(after, before).worse
    smaller = path(("0", "Linear", -4.0), ("1", "ReLU", -3.9), ("2", "Linear", 0.0))
    assert compared(before, smaller).worse


def test_outputs_may_grow_until_they_are_large() -> None:
    def sized(output: float) -> Entry:
        return dataclasses.replace(entry(PLAIN), output=output)

    for before, after, worse in (
        (-math.inf, -1.0, False),
        (-3.3, 0.9, False),
        (-1.0, 1.1, True),
        (2.0, 2.9, False),
        (2.0, 3.1, True),
    ):
        assert bool(compare(sized(before), sized(after), PATH, STEP).worse) is worse, (
            before,
            after,
        )


def test_paths_in_another_order_under_other_names_are_told_by_what_they_are() -> None:
    user = path(("u.0", "Linear", -1.2), ("u.1", "ReLU", -0.9), ("head", "Linear", 0.0))
    item = path(
        ("i.0", "Linear", -5.4),
        ("i.1", "Tanh", -4.0),
        ("i.2", "Tanh", -1.0),
        ("head", "Linear", 0.0),
    )

    def renamed(kept: KeptPath, prefix: str) -> KeptPath:
        points = [dataclasses.replace(p, layer=prefix + p.layer) for p in kept.points]
        return dataclasses.replace(kept, points=tuple(points))

    for prefix in ("module.", "other_"):
        new = [renamed(item, prefix), renamed(user, prefix)]
        assert not compare(entry(user, item), entry(*new), PATH, STEP).changes


def test_a_first_layer_that_is_still_there_and_gets_no_gradient_is_lost() -> None:
    rest = path(("1", "ReLU", -0.8), ("2", "Linear", -0.4))

    def found(*parameters: KeptParameters) -> Comparison:
        """What an entry says that is too old to know what got gradient."""
        after = dataclasses.replace(entry(rest), parameters=parameters)
        return compare(entry(PLAIN), after, PATH, STEP)

    head = KeptParameters("2", "gradient", 8)
    for use in ("frozen", "none"):
        (lost,) = found(KeptParameters("0", use, 64), head).worse
        assert lost.message == "no gradient reaches 0 (Linear) any more: is it frozen, or cut off?"
    assert not found(head).worse
    assert not found(KeptParameters("0", "gradient", 64), head).changes


def test_silence_that_the_second_look_has_cleared_is_not_worse() -> None:
    kept = {"a": entry(PLAIN)}
    silent = path(("0", "Linear", -math.inf), ("1", "ReLU", -math.inf), ("2", "Linear", -0.4))

    def status(verdict: Verdict, later: KeptPath | None) -> str:
        return check_entry(
            Now(
                dataclasses.replace(entry(silent), verdict=verdict),
                None if later is None else entry(later),
            ),
            kept,
            file="f",
            key="a",
            max_path=PATH,
            max_step=STEP,
        ).status

    weak = path(("0", "Linear", -2.5), ("1", "ReLU", -2.3), ("2", "Linear", -0.4))
    assert status("healthy", weak) == "changed"
    assert status("healthy", PLAIN) == "same"
    assert status("healthy", None) == "worse"
    assert status("failure", weak) == "worse"


def test_paths_that_an_old_entry_does_not_know_are_not_new() -> None:
    other = path(("embed", "Embedding", -1.0), ("2", "Linear", -0.4))
    assert not compare(entry(PLAIN), entry(PLAIN, other), PATH, STEP).changes
    renamed = path(("tokens", "Embedding", -1.0), ("2", "Linear", -0.4))
    assert path_pairs((PLAIN, other), (renamed, PLAIN)) == [(PLAIN, PLAIN), (other, renamed)]


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ("healthy", "failure", True),
        ("warning", "failure", True),
        ("healthy", "warning", False),
        ("failure", "healthy", False),
        ("failure", "failure", False),
        ("healthy", "not judged", True),
        ("warning", "not judged", True),
        ("failure", "not judged", True),
        ("not judged", "not judged", False),
        ("not judged", "healthy", False),
    ],
)
def test_a_verdict_is_worse_once_it_fails_or_nothing_is_judged(
    before: str, after: str, worse: bool
) -> None:
    found = compare(entry(PLAIN, verdict=before), entry(PLAIN, verdict=after), PATH, STEP)
    assert bool(found.worse) is worse
    assert bool(found.changes) is (before != after)


def test_outputs_that_have_grown_are_worse() -> None:
    def sized(decades: float | None) -> Entry:
        return Entry("healthy", (PLAIN,), decades)

    (change,) = compare(sized(0.5), sized(3.0), PATH, STEP).worse
    assert change.message == (
        "the model's outputs have grown by x3.2e+02, to an RMS of 1e+03 (limit 1 decades, the call)"
    )
    for before, after in ((0.5, 1.4), (3.0, 0.5), (None, 3.0), (3.0, None), (-math.inf, -math.inf)):
        assert not compare(sized(before), sized(after), PATH, STEP).changes


def test_gates_of_zero_are_as_they_were() -> None:
    gated = path(("0", "Linear", -math.inf), ("1", "ReLU", -math.inf), ("2", "Linear", -0.4))
    assert not compared(gated, gated).changes
    worse = next(change for change in compared(PLAIN, gated).worse if change.kind == "path")
    assert worse.message == (
        "none of the gradient reaches 0 (Linear); it was x0.25 (nothing is left; limit 0.5,"
        " default)"
    )
    assert not compared(gated, PLAIN).worse


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ("failure", "warning", "better"),
        ("warning", "healthy", "better"),
        ("healthy", "warning", "changed"),
        ("warning", "failure", "worse"),
        ("not judged", "healthy", "better"),
        ("not judged", "warning", "changed"),
        ("healthy", "not judged", "worse"),
    ],
)
def test_a_verdict_that_changes_is_better_worse_or_neither(
    before: Verdict, after: Verdict, status: str
) -> None:
    kept = {"a": dataclasses.replace(entry(PLAIN), verdict=before)}
    now = dataclasses.replace(entry(PLAIN), verdict=after)
    check = check_entry(Now(now), kept, file="f", key="a", max_path=PATH, max_step=STEP)
    assert check.status == status
