"""Loops in graphs that are known: where a path comes in, and what counts as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from pytest_gradhealth.measure.loops import loops_behind
from pytest_gradhealth.measure.paths import Network, gradient_paths
from pytest_gradhealth.results.path import PathPoint
from pytest_gradhealth.tensors.dominators import DominatorTree

#: From the loss back: an encoder begins a cell of two layers, whose inner one gets the state.
CELL: dict[str, list[str]] = {
    "head": [],
    "cell#2": ["head"],
    "cell.kept#2": ["cell#2"],
    "cell#1": ["cell.kept#2"],
    "cell.kept#1": ["cell#1"],
    "cell": ["cell.kept#1"],
    "cell.kept": ["cell"],
    "encoder": ["cell.kept"],
    "first": ["encoder"],
}


def network(
    users: Mapping[str, list[str]],
    norms: Mapping[str, float] | None = None,
    *,
    weightless: Sequence[str] = (),
    sequences: Sequence[str] = (),
) -> tuple[Network, Mapping[str, int]]:
    """What paths are read from, and the marks by label; those that ran first have least numbers."""
    tree = DominatorTree()
    places = {"": tree.add({}, "")}
    marks = {label: number for number, label in enumerate(reversed([*users]))}
    points = {}
    for label, above in users.items():
        name, _, call = label.partition("#")
        above = above or [""]
        places[label] = tree.add({places[user]: True for user in above}, "", marks[label])
        norm = (norms or {}).get(label, 1.0)
        points[marks[label]] = PathPoint(name, "Layer", (1,), norm, 1, call=int(call or 0))
    names = {point.name for point in points.values()}
    owners = {number: name for number, name in enumerate(names) if name not in weightless}
    sizes = dict.fromkeys(owners, 1)
    return Network(tree, points, sizes, sequences=frozenset(sequences), owners=owners), marks


def doors(given: tuple[Network, Mapping[str, int]], label: str) -> list[tuple[str, str]]:
    """Where paths from a mark end and begin at loops."""
    net, marks = given
    found = loops_behind(net, marks[label])
    return [(net.points[loop.door].label, net.points[loop.start].label) for loop in found]


def paths(given: tuple[Network, Mapping[str, int]], *fed: str) -> list[list[str]]:
    return [[p.label for p in path.points] for path in gradient_paths(given[0], fed=fed)]


def test_layers_that_are_called_in_turns_are_one_loop() -> None:
    assert doors(network(CELL, {"cell": 2.0}), "encoder") == [("cell", "cell.kept")]
    assert doors(network(CELL, {"cell.kept": 2.0}), "encoder") == [("cell.kept", "cell.kept")]
    (loop,) = loops_behind(network(CELL)[0], network(CELL)[1]["encoder"])
    assert loop.names == {"cell", "cell.kept"}
    assert loop.later == {(name, call) for name in loop.names for call in (1, 2)}


@pytest.mark.parametrize("label", ["cell.kept", "cell", "cell.kept#1", "cell#2"])
def test_no_step_of_a_loop_leads_into_it(label: str) -> None:
    assert doors(network(CELL), label) == []


def test_a_loop_has_weights_and_depends_on_its_first_call() -> None:
    assert doors(network(CELL, weightless=["cell", "cell.kept"]), "encoder") == []
    given = network(CELL, {"cell": 2.0}, weightless=["cell"])
    assert doors(given, "encoder") == [("cell", "cell.kept")], "it holds one with weights"
    towers: dict[str, list[str]] = {
        "head": [],
        "tower#1": ["head"],
        "tower": ["head"],
        "encoder": ["tower", "tower#1"],
    }
    assert doors(network(towers), "encoder") == []


def test_loops_that_run_one_after_the_other_end_a_path_each() -> None:
    twice: dict[str, list[str]] = {
        "head": [],
        "second#1": ["head"],
        "second": ["second#1"],
        "first#1": ["second"],
        "first": ["first#1"],
        "begin": ["first"],
    }
    assert doors(network(twice), "begin") == [("first", "first"), ("second", "second")]
    both = [["begin", "first"], ["first", "first#1", "second"], ["second", "second#1", "head"]]
    given = network(twice, {"begin": 0.1, "first": 0.1, "first#1": 0.2, "second": 0.3})
    assert paths(given, "first", "second") == both
    assert [len(paths(given, *fed)) for fed in ((), ("first",), ("second",))] == [1, 2, 2]


def test_two_paths_into_one_loop_have_one_rest() -> None:
    two: dict[str, list[str]] = {
        "head": [],
        "cell#1": ["head"],
        "cell": ["cell#1"],
        "left": ["cell"],
        "right": ["cell"],
    }
    found = paths(network(two, {"left": 0.1, "right": 0.1, "cell": 0.2}), "cell")
    assert sorted(found) == [["cell", "cell#1", "head"], ["left", "cell"], ["right", "cell"]]


def test_a_path_ends_right_before_a_fused_layer_with_what_leads_there() -> None:
    fused: dict[str, list[str]] = {
        "head": [],
        "rnn": ["head"],
        "embed": ["rnn"],
        "state": ["rnn"],
        "begin": ["state"],
    }
    norms = {"embed": 5.0, "begin": 0.1}
    assert doors(network(fused, norms, sequences=["rnn"]), "begin") == [("state", "rnn")]
    assert doors(network(fused, norms), "begin") == []
    found = paths(network(fused, norms, sequences=["rnn"]), "rnn")
    assert sorted(found) == [["begin", "state"], ["embed", "rnn", "head"], ["rnn", "head"]]


def test_what_comes_to_a_loop_is_judged_by_what_its_first_step_tells() -> None:
    fused: dict[str, list[str]] = {"head": [], "rnn": ["head"], "begin": ["rnn"]}
    alone = network(fused, {"begin": 0.1}, sequences=["rnn"])
    assert [path.judged for path in gradient_paths(alone[0], fed=["rnn"])] == [False, True]
    faint = {"first": 1e-33, "encoder": 1e-32, "cell.kept": 1e-31, "cell": 1e-31}
    past = {"first": 0.1, "encoder": 0.1, "cell.kept": 0.01, "cell": 0.01}
    for norms, judged in ((faint, False), (past, False), ({"first": 0.1}, True)):
        given = network(CELL, norms)
        found = gradient_paths(given[0], fed=["cell"])
        assert [path.judged for path in found] == [judged, True]
