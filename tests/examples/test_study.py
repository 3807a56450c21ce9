"""The study keeps its promises: a quick part of it, measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from examples.study import journal
from examples.study.corpus import recipe
from examples.study.journal import complete, read
from examples.study.measurement import measure
from examples.study.report import report
from examples.study.report.explanations import EXPLANATIONS
from examples.study.report.scoring import Judged, Share, area, fails, joined, limit_for
from examples.study.stages import STAGES, faults, probe_random, random_network
from examples.study.trainability import Run, Truth
from pytest_gradhealth.config.options import DEFAULTS, WITH_SGD
from tests.helpers.workers import FORKS

TRAINING, RANDOM, HEALTHY, FAULTS = (read(stage.journal) for stage in STAGES)
NETWORKS = joined(TRAINING, RANDOM)
SUMMARY: dict[str, Any] = json.loads(report.SUMMARY.read_text())

#: Networks that are quick to probe, and the share of the lost ones among them that must fail:
#: shallow ones are the harder part.
QUICK_DEPTH, RECALL = 20, 0.7
#: One fault in so many is measured again.
EVERY = 3


def quick(judged: Judged) -> bool:
    return judged.recipe.half == "test" and judged.recipe.depth <= QUICK_DEPTH


def test_the_defaults_in_the_code_are_those_of_the_study() -> None:
    assert SUMMARY["limits"] == {**DEFAULTS, "with SGD": WITH_SGD}


def test_the_summary_is_what_the_journals_say() -> None:
    assert report.headline(NETWORKS, HEALTHY, FAULTS) == SUMMARY


def test_verdicts_of_other_limits_are_refused() -> None:
    record = {"key": "3", "limits": {**DEFAULTS, "min_ratio": 1e-4}}
    with pytest.raises(ValueError, match=r"^3 was judged with other limits than the defaults"):
        report.write({}, {"3": record}, {}, {}, {})


def test_every_warning_of_a_healthy_network_is_explained() -> None:
    warned = {r["name"] for r in HEALTHY.values() if r["findings"]}
    assert warned == EXPLANATIONS.keys()


def test_the_study_is_as_large_as_it_says() -> None:
    assert len(NETWORKS) >= 600
    assert {n.recipe.kind for n in NETWORKS} == {"mlp", "conv"}
    assert len({n.recipe.activation for n in NETWORKS}) >= 10
    assert len({n.recipe.initialisation for n in NETWORKS}) >= 12
    assert len([f for f in faults().values() if not f.out_of_reach]) >= 40


def test_networks_that_sgd_trains_do_not_fail() -> None:
    trained = [n for n in NETWORKS if n.sgd and quick(n)][::4]
    assert len(trained) >= 30
    wrong = [n.recipe.name for n in trained if _fails_now(n)]
    assert not wrong


def test_networks_that_sgd_trains_do_not_fail_where_it_is_declared() -> None:
    assert [n.recipe.name for n in NETWORKS if n.sgd and n.record["with SGD"] == "failure"] == []


def test_networks_that_nothing_trains_fail() -> None:
    lost = [n for n in NETWORKS if n.label == "neither" and quick(n)]
    assert len(lost) >= 15
    assert sum(map(fails, lost)) / len(lost) >= RECALL
    some = lost[::2]
    assert [_fails_now(n) for n in some] == [fails(n) for n in some]


def _fails_now(judged: Judged) -> bool:
    again = measure(random_network(judged.recipe), judged.recipe.number, peers=False)
    return any(severity == "failure" for _, severity, *_ in again["findings"])


@pytest.mark.parametrize("label", ["both", "neither"])
def test_a_network_measured_again_is_judged_as_it_was_on_all_scales_and_by_all(label: str) -> None:
    judged = next(n for n in NETWORKS if n.label == label and quick(n))
    again = probe_random(str(judged.recipe.number))
    for name in ("verdicts", "with SGD", "peers"):
        assert again[name] == judged.record[name]


@pytest.mark.parametrize("name", sorted(faults())[::EVERY])
def test_faults_are_found_and_their_cured_twins_are_not(name: str) -> None:
    fault = faults()[name]
    for side, network in (("sick", fault.sick), ("cured", fault.cured)):
        (verdict,) = measure(network, 0, peers=False)["verdicts"]
        assert (verdict == "failure") == (FAULTS[f"{side}:{name}@0"]["verdicts"][0] == "failure")
        assert side == "sick" or verdict != "failure"


def test_hardly_a_verdict_depends_on_the_scale_of_the_loss() -> None:
    """Steps of networks that explode amplify rounding, and what the second look sees of it."""
    moved = [n.recipe.name for n in NETWORKS if len(set(n.record["verdicts"])) > 1]
    assert len(moved) <= 2, moved


def test_no_healthy_architecture_fails() -> None:
    failing = [key for key, r in HEALTHY.items() if "error" in r or "failure" in r["verdicts"]]
    assert not failing


def test_the_page_of_errors_quotes_the_summary() -> None:
    folder = Path(report.__file__).parents[3] / "docs"
    page = " ".join((folder / "accuracy.md").read_text().split())
    found, lost = SUMMARY["recall"]
    alarms, fine = SUMMARY["false failures"]
    assert f"{found} of {lost} networks that neither SGD nor Adam can train" in page
    assert f"{alarms} of {fine} that SGD trains" in page
    healthy = f"{SUMMARY['healthy failures']} of {SUMMARY['healthy architectures']}"
    assert f"{healthy} fail under any seed ({SUMMARY['healthy warnings']} get a warning" in page
    assert f"{SUMMARY['faults found']} of {SUMMARY['faults in reach']} known faults" in page


def test_a_recipe_is_the_same_for_the_same_number() -> None:
    assert recipe(7) == recipe(7)
    assert recipe(7) != recipe(9)
    assert [recipe(n).half for n in range(2)] == ["calibration", "test"]


def test_truth_takes_the_best_run() -> None:
    runs = (Run("SGD", 0.1, 300, 2.3, 0.11), Run("Adam", 1e-3, 100, 0.5, 0.85))
    assert Truth(0, runs).label == "adam"
    assert Truth(0, runs[:1]).label == "neither"
    assert Truth(0, (*runs, Run("SGD", 0.01, 60, 0.6, 0.81))).label == "both"
    assert Truth(0, (Run("SGD", 0.1, 300, 1.5, 0.5),)).label == "partly"


def test_areas_shares_and_limits() -> None:
    assert area([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert area([1.0], [1.0]) == 0.5
    assert limit_for([1.0, 2.0, 3.0], 0.0) == 3.0
    assert limit_for([1.0, 2.0, 3.0, 4.0], 0.25) == 3.0
    low, high = Share(0, 181).interval
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high == pytest.approx(0.0208, abs=1e-3)
    assert str(Share(9, 10)).startswith("9 of 10 (90.0%; ")


def test_a_failure_counts_by_its_code() -> None:
    record = {"findings": [["GH404", "failure", "x", 1.0], ["GH101", "warning", "x", 1.0]]}
    judged = Judged(recipe(0), Truth(0, ()), record)
    assert fails(judged)
    assert fails(judged, ["GH404"])
    assert not fails(judged, ["GH101"])


def _work(key: str) -> dict[str, int]:
    return {"value": len(key)}


def test_a_journal_is_taken_up_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "get_context", lambda _: FORKS)
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key": "a", "value": 7}\n{"key": "b", "val')
    assert read(path) == {"a": {"key": "a", "value": 7}}
    path.write_text('{"key": "a", "value": 7}\n')
    found = complete(path, ["a", "bbb"], _work)
    assert [found[key]["value"] for key in ("a", "bbb")] == [7, 3]
    assert read(path) == found
