"""The parts of the benchmarks that are not a measurement."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.benchmarks import __main__ as command
from examples.benchmarks import depth, steps
from examples.benchmarks.depth import stack
from examples.benchmarks.peers import PEERS, peer_rows
from examples.benchmarks.steps import (
    limit_of,
    memory_row,
    peak_on_host,
    probe_of,
    time_rows,
)
from examples.benchmarks.synchronisation import SAYING, warned
from examples.benchmarks.table import Row, summary, table
from examples.benchmarks.timing import Spread, difference, in_turns, ratio
from examples.benchmarks.workloads import WORKLOADS, mlp
from examples.readme import COSTS
from pytest_gradhealth import probe


def test_calls_take_turns_and_move_on() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = in_turns(calls, 3, before=lambda: order.append("-"))
    assert "".join(order) == "-c-a-b-a-b-c-b-c-a-c-a-b"
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_what_is_waited_for_counts_and_what_is_prepared_does_not() -> None:
    calls = {"call": lambda: None}
    wait = lambda: time.sleep(0.01)  # noqa: E731
    assert min(in_turns(calls, 2, after=wait)["call"]) >= 0.01
    assert min(in_turns(calls, 2, before=wait)["call"]) < 0.01


def test_ratios_and_differences_are_taken_round_by_round() -> None:
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == Spread(3.0, 2.5, 3.5)
    assert difference([1.002, 5.001], [1.0, 5.0]).median == pytest.approx(1.5)


def test_a_row_is_missed_above_its_target() -> None:
    spread = Spread(1.051, 1.0, 12.3)
    assert Row("a", "b", spread, target=1.05).missed
    assert not Row("a", "b", spread, target=1.051).missed
    assert not Row("a", "b", spread).missed
    assert not Row("a", "b", None, target=1.0).missed


ROWS = [
    Row("probe / step", "of 2", Spread(1.0514, 0.9, 12.3), target=2, model="small"),
    Row("load", "pytest", Spread(4.0, -1.0, 5.0), "ms", 5.0),
    Row("waits", "net", Spread(3, 2, 4), "", 2),
    Row("probe / step", "of 9", Spread(1.0514, 0.9, 12.3), target=1.05, model="large"),
    Row("probe / tool", "TypeError", None, target=1, model="small"),
]


def test_the_table() -> None:
    assert table(ROWS).splitlines() == [
        "figure        of                median        quartiles       target",
        "------------  ----------------  ------------  --------------  --------  ------",
        "probe / step  small, of 2       1.051x        0.900 to 12     <= 2x     met",
        "load          pytest            4.00 ms       -1.000 to 5.00  <= 5 ms   met",
        "waits         net               3.00          2.00 to 4.00    <= 2      missed",
        "probe / step  large, of 9       1.051x        0.900 to 12     <= 1.05x  missed",
        "probe / tool  small, TypeError  does not run                  <= 1x",
    ]


def test_the_summary_has_models_side_by_side() -> None:
    assert summary(ROWS).splitlines() == [
        "              small         large     target",
        "------------  ------------  --------  ---------------",
        "probe / step  1.051x        1.051x !  <= 2x, <= 1.05x",
        "probe / tool  does not run            <= 1x",
        "",
        "       of               target",
        "-----  ------  -------  --------",
        "load   pytest  4.00 ms  <= 5 ms",
        "waits  net     3.00 !   <= 2",
    ]
    assert "large" not in summary(ROWS[:3])
    assert summary(ROWS[3:]).startswith("              large     small")


OLD = "before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """What stands in the page of costs and the files of results after a run with `--write`."""
    (tmp_path / "costs.md").write_text(OLD)
    for name in command.FILES:
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(command, "COSTS", tmp_path / "costs.md")
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "environment", lambda: "here")
    for part in command.PARTS:
        rows = [Row(f"figure of {part}", "of 2", Spread(1.0, 1.0, 1.0))]
        monkeypatch.setitem(command.PARTS, part, rows.__iter__)

    def run(*arguments: str) -> dict[str, str]:
        monkeypatch.setattr("sys.argv", ["benchmarks", "--write", *arguments])
        assert command.main() == 0
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    return run


def figures(text: str) -> list[str]:
    return [line.split()[2] for line in text.splitlines() if line.startswith("figure of")]


def test_the_figures_are_written_with_where_they_were_taken(
    written: Callable[..., dict[str, str]],
) -> None:
    found = written()
    results, page = found["RESULTS.md"], found["costs.md"]
    assert results.startswith("# What a probe costs\n\n```text\nfigure ")
    assert results.endswith("\n\nhere\n```\n")
    assert figures(results) == figures(page) == ["steps", "depth", "startup", "suite", "peers"]
    assert page.startswith("before\n")
    assert page.endswith("\n\nhere\n```\n<!-- /benchmarks -->\nafter\n")
    assert "old" not in page


def test_the_figures_of_a_gpu_have_a_file_of_their_own(
    written: Callable[..., dict[str, str]],
) -> None:
    found = written("--only", "cuda")
    assert found["RESULTS-cuda.md"].startswith("# What a probe costs on a GPU\n\n```text\nfigure ")
    assert figures(found["RESULTS-cuda.md"]) == ["cuda"]
    assert (found["RESULTS.md"], found["costs.md"]) == ("old", OLD)


def test_a_machine_without_a_gpu_leaves_its_figures_alone(
    written: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.PARTS, "cuda", lambda: iter(()))
    assert written()["RESULTS-cuda.md"] == "old"


def test_a_part_does_not_replace_the_whole(
    written: Callable[..., dict[str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        written("--only", "depth", "cuda")
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            ": error: --write replaces RESULTS.md, which takes"
            " --only steps depth startup suite peers"
        )
    )
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old", OLD}


def test_the_figures_of_a_gpu_on_the_page_of_costs_are_those_of_their_file() -> None:
    text = (command.FOLDER / "RESULTS-cuda.md").read_text()
    rows = [re.split("  +", line) for line in text.splitlines()]
    costs = [float(row[2].rstrip("x")) for row in rows if row[0] == "probe / step"]
    assert len(costs) == len(WORKLOADS)
    assert {row[2] for row in rows if row[0] == "waits for the GPU"} == {"2.00"}
    words = " ".join(COSTS.read_text().split())
    assert (
        f"costs {min(costs):.1f} to {max(costs):.0f} times a step, and waits for the device twice"
        in words
    )


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (3.0, 1)])
def test_a_missed_target_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float, code: int
) -> None:
    rows = [Row("figure", "of", Spread(value, value, value), target=2.0)]
    monkeypatch.setitem(command.PARTS, "depth", lambda: iter(rows))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--only", "depth"])
    assert command.main() == code
    out = capsys.readouterr().out
    assert ("missed" in out) == bool(code)
    assert f"torch {torch.__version__.partition('+')[0]}" in out


def test_the_network_that_is_timed_is_healthy_in_one_look() -> None:
    probe_of(mlp())()
    probe_of(stack(30))()


@pytest.mark.parametrize(("tiny", "target"), [(True, 2.5), (False, 1.05)])
def test_a_probe_is_timed_against_a_step_and_against_what_a_verdict_takes(
    monkeypatch: pytest.MonkeyPatch, tiny: bool, target: float
) -> None:
    took = {"step": 0.010, "probe": 0.012, "exact": 0.013, "limit": 0.011, "watching": 0.01}
    times = {name: [seconds] * 2 for name, seconds in took.items()}
    monkeypatch.setattr(steps, "in_turns", lambda *_, **__: times)
    rows = list(time_rows(mlp(), 2, tiny=tiny))
    assert [(row.figure, row.median, row.target) for row in rows] == [
        ("probe / step", "1.200x", target),
        ("limit / step", "1.100x", None),
        ("probe / limit", "1.091x", None),
        ("exact=True / step", "1.300x", None),
        ("copy=False / step", "1.000x", None),
        *([("probe - step", "2.00 ms", 1.5)] if tiny else []),
    ]


def test_a_layer_of_a_deep_network_is_compared_with_what_it_costs_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took = {"probe": 3.0, "shallow probes": 2.0, "step": 1.2, "shallow steps": 1.0}
    times = {name: [seconds] * 2 for name, seconds in took.items()}
    monkeypatch.setattr(depth, "in_turns", lambda *_, **__: times)
    monkeypatch.setattr(depth, "DEEP", 20)
    assert [(row.of, row.median, row.missed) for row in depth.depth_rows(2)] == [
        ("20 layers / 100, probe", "1.500x", False),
        ("20 layers / 100, step", "1.200x", False),
        ("20 layers / 100, probe / step", "1.250x", True),
    ]


@pytest.mark.parametrize(
    ("name", "target"), [("mlp", {"pytest-torch": 2.0}), ("vit", dict.fromkeys(PEERS, 1.0))]
)
def test_on_a_tiny_model_one_tool_alone_is_to_be_kept_up_with(
    monkeypatch: pytest.MonkeyPatch, name: str, target: dict[str, float]
) -> None:
    for peer in PEERS.values():
        monkeypatch.setattr(type(peer), "is_installed", property(lambda _: True))
    monkeypatch.setattr("sys.executable", "/bin/false")
    targets = {row.figure.removeprefix("probe / "): row.target for row in peer_rows(name, 3)}
    assert {tool: found for tool, found in targets.items() if found is not None} == target


def test_the_limit_leaves_nothing_behind() -> None:
    load = mlp()
    limit_of(load)()
    for module in load.model.modules():
        assert not module._forward_hooks
    for parameter in load.model.parameters():
        assert parameter.grad is None
        assert not parameter._post_accumulate_grad_hooks


def test_the_peak_is_what_was_held_at_once() -> None:
    def call() -> None:
        one = torch.zeros(1000)
        two = torch.zeros(3000)
        del one, two
        torch.zeros(2000)

    assert peak_on_host(call) == pytest.approx(4 * 4000, rel=0.05)


def test_memory_counts_model_and_batch_on_both_sides() -> None:
    load = mlp()
    held = sum(p.nbytes for p in load.model.parameters())
    held += load.inputs.nbytes + load.targets.nbytes
    peaks = iter([held, 3 * held])
    row = memory_row(load, lambda _: next(peaks))
    assert row.measured == Spread(2.0, 2.0, 2.0)


def test_warnings_that_a_probe_keeps_to_itself_are_counted() -> None:
    class Talking(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                torch._C._warn()  # type: ignore[attr-defined]  # in C++, as for a GPU
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            return super().forward(x)

    def call() -> None:
        probe(Talking(4, 4), torch.randn(3, 4))

    assert warned(call, SAYING) == 3
    assert warned(call, "Test message for TORCH_WARN") == 3


def test_tools_that_are_missing_have_no_row_and_tools_that_fail_one_without_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for peer in PEERS.values():
        monkeypatch.setattr(type(peer), "is_installed", property(lambda _: False))
    assert list(peer_rows("mlp", 3)) == []
    monkeypatch.setattr(type(peer), "is_installed", property(lambda peer: peer.module == "wandb"))
    monkeypatch.setattr("sys.executable", "/bin/false")
    (row,) = peer_rows("mlp", 3)
    assert (row.figure, row.model, row.of) == ("probe / wandb.watch", "MLP", "failed")
    assert row.measured is None


def test_the_limit_reads_what_a_verdict_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def reading(tensor: Tensor) -> Tensor:
        read.append(tensor.numel())
        return torch.zeros(())

    monkeypatch.setattr("examples.benchmarks.steps.l2_norm", reading)
    load = mlp(depth=3, width=7, batch=11)
    limit_of(load)()
    on_the_path = [11 * 7] * 4 + [11 * 10]
    weights = [784 * 7, 7, 7 * 7, 7, 7 * 10, 10]
    assert sorted(read) == sorted([*on_the_path, *weights])
