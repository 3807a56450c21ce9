"""The HTML report as text: what is in it, and that no name can break out of its place."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_gradhealth import Probe, Run
from pytest_gradhealth.formatting import number
from pytest_gradhealth.reporting.html import html_fragment, html_report
from tests.helpers.runs import Reader, measured, net


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return html_report(run)


def data_of(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data: list[dict[str, Any]] = json.loads(found[1])
    return data


def test_everything_that_is_opened_is_closed(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched(page: str) -> None:
    for tag, attributes in Reader(page).elements:
        assert not attributes.keys() & {"src", "href", "srcset", "action"}, (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
    assert "@import" not in page
    assert not re.search(r"url\((?!data:)[^)]*//", page)
    assert "default-src 'none'" in page
    assert "sourceMappingURL" not in page


def test_each_probe_has_its_verdict_findings_plot_and_numbers(run: Run, page: str) -> None:
    text = " ".join(Reader(page).text)
    for one in run.probes:
        assert one.test in text
    assert "2 of 4 probes fail" in text
    assert "stale in f.json: test_old" in text
    assert "decades; limit 0.5, default" in text
    assert "the gradient vanishes" in text
    assert "Remedies tried on copies" in text
    assert text.count("cured") >= 1
    for one, drawn in zip(run.probes, data_of(page), strict=True):
        (path,) = drawn["paths"]
        worst = one.diagnosis.worst_path
        assert worst is not None
        points = path["points"]
        assert [p["layer"] for p in points] == [p.label for p in worst.points]
        assert [p["norm"] for p in points] == pytest.approx(
            [p.norm for p in worst.points], rel=1e-3
        )
        for point in worst.points:
            assert number(point.norm) in text


def test_the_lines_beside_it_are_the_second_look_and_the_baseline(run: Run, page: str) -> None:
    _, worse, sick, _ = data_of(page)
    (baseline,) = [line for line in worse["paths"][0]["lines"] if line["kind"] == "baseline"]
    (path,) = run.probes[1].checks[0].comparison.paths
    kept = [10**point.norm for point in path.before.points]
    assert baseline["values"] == pytest.approx(kept, rel=1e-3)
    (second,) = sick["paths"][0]["lines"]
    assert second["name"] == "after 5 steps"
    again = run.probes[2].diagnosis.confirmation
    assert again is not None
    assert second["values"] == pytest.approx(
        [point.norm for point in again.paths[0].points], rel=1e-3
    )


def test_branches_are_folded_under_their_block_and_time_has_its_axis(page: str) -> None:
    text = " ".join(Reader(page).text)
    assert "inside 1: 2 outputs" in text
    assert "1.inner" in text
    (time,) = data_of(page)[3]["times"]
    assert len(time["values"]) == 12
    assert time["dependency"] == 9


def test_zero_and_infinity_have_no_place_on_the_axis() -> None:
    diagnosis = measured(net())
    profile = diagnosis.profile
    (path,) = profile.paths
    norms = [0.0, math.inf, math.nan, *(point.norm for point in path.points[3:])]
    points = tuple(replace(p, norm=n) for p, n in zip(path.points, norms, strict=True))
    profile = replace(profile, paths=(replace(path, points=points, entry=points[0]),))
    page = html_report(Run((Probe("t", "passed", replace(diagnosis, profiles=(profile,))),)))
    drawn = data_of(page)[0]["paths"][0]["points"]
    assert [p["norm"] is None for p in drawn[:4]] == [True, True, True, False]
    assert [p["shown"] for p in drawn[:3]] == ["0", "inf", "nan"]


def test_long_paths_are_listed_in_part_and_drawn_whole() -> None:
    diagnosis = measured(net(layers=600), confirm_steps=0)
    page = html_report(Run((Probe("t", "passed", diagnosis),)))
    assert "801 layers left out here; the plot has them" in page
    assert len(data_of(page)[0]["paths"][0]["points"]) == 1201


def test_two_hundred_probes_stay_a_file_of_a_sane_size() -> None:
    diagnosis = measured(net())
    page = html_report(Run(tuple(Probe(f"t{i}", "passed", diagnosis) for i in range(200))))
    assert len(page) < 3_000_000


def test_a_run_without_probes_says_so() -> None:
    assert "No test probed a model." in html_report(Run(()))


def test_a_notebook_gets_a_frame_of_its_own(run: Run) -> None:
    diagnosis = run.probes[0].diagnosis
    fragment = diagnosis._repr_html_()
    assert fragment == html_fragment(diagnosis)
    reader = Reader(fragment)
    ((tag, attributes),) = reader.elements
    assert tag == "iframe"
    assert attributes["sandbox"] == "allow-scripts"
    inner = Reader(html.unescape(attributes["srcdoc"] or ""))
    assert inner.open == []
    assert ("body", {"class": "fragment"}) in inner.elements
