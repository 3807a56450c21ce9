"""Ranks fail together, with one message, and the first of them reports."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_gradhealth import ProbeError
from pytest_gradhealth.context import current, entered
from pytest_gradhealth.distributed import attendance, team
from pytest_gradhealth.distributed.rank import rank
from tests.helpers.ranks import PICKY, Ended, Run, errors, passed

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch.distributed with gloo is not available",
)


EMPTY = "the batch is empty: the first input has shape (0, 16); pass at least one example"
THE_SAME = "; every rank has to run the same checks of a model that they share, in the same order"
LEFT = f"rank 1 left this test without coming to this check{THE_SAME}"


@pytest.mark.parametrize(
    ("test", "first", "second"),
    [
        ("test_error_on_one_rank", f"on rank 1: {PICKY}", PICKY),
        ("test_bad_inputs_on_one_rank", EMPTY, f"on rank 0: {EMPTY}"),
        (
            "test_factory",
            "the model factory returned a DistributedDataParallel that several processes share,"
            " which not every process may build as often; build it once, on every rank, and pass"
            " it",
            "",
        ),
        (
            "test_replicate",
            "Sequential is wrapped by replicate(), whose reducer counts every backward; wrap it in"
            " DistributedDataParallel, or probe the model before it is replicated",
            "",
        ),
        (
            "test_nested",
            "1 is a DistributedDataParallel inside the model; wrap the whole model, or probe 1 by"
            " itself",
            "",
        ),
    ],
)
def test_an_error_on_a_rank_is_told_on_all(ddp: Run, test: str, first: str, second: str) -> None:
    assert errors(ddp, test) == (first, second or first)


def test_a_rank_that_fails_before_a_check_leaves_nobody_waiting(ddp: Run) -> None:
    first, second = ddp.tests["test_failure_before_the_check_on_one_rank"]
    assert first == Ended("failed", f"pytest_gradhealth.ProbeError: {LEFT}")
    assert second.outcome == "failed"
    assert second.message.startswith("assert 1 == 0")


@pytest.mark.parametrize("test", ["test_after_them", "test_after_what_one_rank_lacks"])
def test_what_one_rank_does_alone_does_not_break_the_next_check(ddp: Run, test: str) -> None:
    alone = [name for name in ddp.tests if name.startswith(("test_one_rank_alone[", "test_of_"))]
    assert len(alone) == 5  # the first rank skips one that has no parameters
    passed(ddp, test)


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("test_skipped_on_one_rank", "left this test without coming to this check"),
        ("test_that_one_rank_lacks", "does not have this test"),
    ],
)
def test_a_rank_that_will_not_come_is_not_waited_for(ddp: Run, test: str, said: str) -> None:
    first, second = ddp.tests[test]
    assert first == Ended("failed", f"pytest_gradhealth.ProbeError: rank 1 {said}{THE_SAME}")
    assert second.outcome in ("skipped", "not run")


@pytest.mark.parametrize(
    "test", ["test_checked_around", "test_run_again", "test_after_what_was_run_again"]
)
def test_checks_in_teardowns_and_in_reruns_meet_each_other(ddp: Run, test: str) -> None:
    passed(ddp, test)


def test_a_check_in_a_body_never_meets_one_in_a_teardown(ddp: Run) -> None:
    first, second = ddp.tests["test_one_rank_checks_in_the_body_what_both_do_afterwards"]
    assert first == Ended("failed", f"pytest_gradhealth.ProbeError: {LEFT}")
    assert second == Ended("passed", "")


def test_a_rank_that_runs_a_test_again_alone_waits_for_nobody(ddp: Run) -> None:
    first, second = ddp.tests["test_run_again_on_rank_0"]
    assert first == Ended("failed", f"pytest_gradhealth.ProbeError: {LEFT}")
    assert second == Ended("passed", "")


def test_the_report_is_written_on_rank_0_only(ddp: Run) -> None:
    assert ddp.output.count(" gradient health ") == 1


def test_the_baseline_is_written_on_rank_0_only(ddp: Run) -> None:
    passed(ddp, "test_baseline")
    line = "wrote __gradhealth__/test_shared.json: new: test_baseline"
    assert ddp.output.count(line) == 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 0),
        ({"RANK": "0"}, 0),
        ({"RANK": "3"}, 3),
        ({"SLURM_PROCID": "2"}, 2),
        ({"OMPI_COMM_WORLD_RANK": "1"}, 1),
        ({"RANK": "first"}, 0),
    ],
)
def test_the_rank_is_what_the_launcher_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int
) -> None:
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank() == expected


@pytest.mark.parametrize("variable", [None, "0", "1"])
def test_the_first_process_alone_reports(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("RANK", variable)
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest("--gradhealth-report")
    assert ("gradient health" in result.stdout.str()) == (variable != "1")


@pytest.mark.parametrize(("variable", "reports"), [("0", 1), ("1", 0)])
def test_with_workers_the_first_process_alone_reports_and_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, variable: str, reports: int
) -> None:
    pytest.importorskip("xdist")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", variable)
    pytester.makepyfile(
        """
        import torch

        def test_plain(gradhealth):
            layers = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
            gradhealth.assert_healthy(torch.nn.Sequential(*layers), torch.randn(8, 4))
        """
    )
    result = pytester.runpytest("-n1", "--gradhealth-report")
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    assert result.stdout.str().count(" gradient health ") == reports
    assert result.stdout.str().count("1 probe: 1 healthy") == reports


class Group:
    """What a process sees of a group of two, without the other."""

    def __init__(self) -> None:
        self.store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        self.store.set_timeout(timedelta(seconds=0.05))
        self.distributed_c10d = SimpleNamespace(_get_default_store=lambda: self.store)
        self.rank = 0

    def get_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return 2

    def get_process_group_ranks(self, _: object) -> list[int]:
        return [0, 1]


def in_test(name: str, run: int = 0, part: int = 0, tests: tuple[str, ...] = ("a", "b")) -> Any:
    return SimpleNamespace(nodeid=name, part=(run, part), tests=tests)


LATE = (
    "rank 1 has not come to this check within 0.05 s; call it on every rank that shares the model"
)


@pytest.mark.parametrize(
    ("is_at", "last", "waits", "said"),
    [
        (in_test("a", run=1), False, in_test("a"), LEFT),
        (in_test("a", part=1), False, in_test("a"), LEFT),
        (in_test("a", part=1), False, in_test("a", part=1), LATE),
        (in_test("a", part=2), False, in_test("a", part=1), LEFT),
        (in_test("a", part=2), False, in_test("a", part=2), LATE),
        (in_test("a", run=1), False, in_test("a", part=2), LEFT),
        (in_test("a", run=1), False, in_test("b"), LATE),
        (in_test("a", run=1), False, in_test("a", run=1), LATE),
        (in_test("a", run=2), False, in_test("a"), LEFT),
        (in_test("a", run=1), False, in_test("c"), f"rank 1 does not have this test{THE_SAME}"),
        (
            in_test("a", run=1),
            True,
            in_test("b"),
            f"rank 1 has ended its run without coming to this check{THE_SAME}",
        ),
    ],
    ids=[
        *("left", "body left", "in the teardown", "teardown left", "a rerun", "no rerun"),
        *("another", "run again", "run before", "lacking", "over"),
    ],
)
def test_a_missing_rank_is_told_and_never_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, is_at: Any, last: bool, waits: Any, said: str
) -> None:
    group, model = Group(), SimpleNamespace(process_group=None)
    monkeypatch.setattr(team, "process_group", lambda: group)
    monkeypatch.setattr(attendance, "process_group", lambda: group)
    monkeypatch.setattr(team, "is_ddp", lambda _: True)
    group.rank = 1
    attendance.tell(is_at, last=last)
    group.rank = 0
    with entered(waits), pytest.raises(ProbeError) as caught:
        team.exchanged(model, "here")
    assert str(caught.value) == said


RERUN = """
import pytest
from _pytest.runner import runtestprotocol


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if item.name == "test_again":
        runtestprotocol(item, log=False, nextitem=nextitem)
        item._initrequest()
"""


def test_each_part_of_each_run_of_a_test_is_told(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[Group] = [Group()]
    store, seen = groups[0].store, []
    monkeypatch.setattr(attendance, "process_group", lambda: groups[0] if groups else None)

    def see(what: str) -> None:
        context: Any = current()
        key = f"gradhealth/at/0/{context.nodeid}"
        told = json.loads(store.get(key)) if store.check([key]) else None
        seen.append((what, context.part, told))

    monkeypatch.setattr(pytest, "see", see, raising=False)
    monkeypatch.setattr(pytest, "leave_group", groups.clear, raising=False)
    pytester.makeconftest(RERUN)
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def around():
            pytest.see("set up")
            yield
            pytest.see("torn down")

        def test_again(around):
            pytest.see("run")

        @pytest.fixture(scope="session")
        def group():
            yield
            pytest.leave_group()

        def test_last(group, around):
            pytest.skip("here")
        """
    )
    pytester.inline_run("-p", "no:cacheprovider").assertoutcome(passed=1, skipped=1)
    assert seen == [
        ("set up", (0, 0), None),
        ("run", (0, 0), None),
        ("torn down", (0, 1), [0, 1]),
        ("set up", (0, 2), [0, 2]),
        ("run", (0, 2), [0, 2]),
        ("torn down", (0, 3), [0, 3]),
        ("set up", (0, 0), None),
        ("torn down", (0, 1), [0, 1]),
    ]
    name = "test_each_part_of_each_run_of_a_test_is_told.py::test_"
    for test in ("again", "last"):
        assert json.loads(store.get(f"gradhealth/at/0/{name}{test}")) == [1, 0]
    assert store.check(["gradhealth/over/0/"])


def test_a_group_that_has_ended_is_let_go_before_a_rerun(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[Group] = [Group()]
    store = groups[0].store
    monkeypatch.setattr(attendance, "process_group", lambda: groups[0] if groups else None)
    monkeypatch.setattr(pytest, "leave_group", groups.clear, raising=False)
    pytester.makeconftest(RERUN)
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.fixture
        def group():
            yield
            pytest.leave_group()

        def test_again(group):
            pass
        """
    )
    pytester.inline_run("-p", "no:cacheprovider").assertoutcome(passed=1)
    assert json.loads(store.get("gradhealth/at/0/test_it.py::test_again")) == [0, 2]
