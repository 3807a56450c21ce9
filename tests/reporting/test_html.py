"""The HTML report as text: what is in it, and that no name can break out of its place."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pytest_gradhealth import Diagnosis, Probe, Run
from pytest_gradhealth.formatting import number
from pytest_gradhealth.reporting.html import html_fragment, html_report
from pytest_gradhealth.reporting.run import Invocation
from pytest_gradhealth.reporting.treatments import NO_CURE
from tests.helpers.runs import SICK, TREATED, WARNS, Reader, head_on_a_frozen_body, measured, net


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return html_report(run)


def data_of(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data: list[dict[str, Any]] = json.loads(found[1])
    return data


def cards(page: str) -> list[str]:
    return page.partition("<script type=")[0].split('<details class="probe ')[1:]


def words_of(markup: str) -> str:
    return " ".join(" ".join(Reader(f"<div>{markup}").text).split())


def report_of(diagnosis: Diagnosis, test: str = "t.py::test_net[a b]") -> str:
    return html_report(Run((Probe(test, "failed", diagnosis),)))


def conv(gain: float) -> nn.Sequential:
    """Layers whose outputs grow and shrink, with weights that let a gradient through by `gain`."""
    torch.manual_seed(0)
    sizes = [1, 8, 2, 16, 4, 1, 8]
    parts = [nn.Conv1d(i, o, 3, padding=1) for i, o in itertools.pairwise(sizes)]
    for part in parts:
        part.weight.data *= gain
    return nn.Sequential(nn.Unflatten(1, (1, 8)), *parts, nn.Flatten(), nn.Linear(64, 4))


FADES, GROWS = measured(conv(0.02)), measured(conv(30.0))


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
    healthy, worse, sick, times = run.probes
    for one, drawn in zip((worse, sick, times, healthy), data_of(page), strict=True):
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
    worse, sick, *_ = data_of(page)
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


def test_failures_come_first_then_warnings_what_was_not_judged_and_the_healthy() -> None:
    healthy, idle = measured(net()), measured(head_on_a_frozen_body())
    given: list[tuple[str, Any, Diagnosis]] = [
        ("healthy", "passed", healthy),
        ("expected", "xfailed", SICK),
        ("idle", "passed", idle),
        ("warns", "passed", WARNS),
        ("fails", "failed", SICK),
        ("well", "passed", healthy),
        ("fails too", "failed", FADES),
    ]
    page = html_report(Run(tuple(Probe(*one) for one in given)))
    order = re.findall("<h2>(.*?)</h2>", page)
    assert order == ["fails", "fails too", "expected", "warns", "idle", "healthy", "well"]
    opened = [" open>" in card.partition("\n")[0] for card in cards(page)]
    assert opened == [True, True, False, False, False, False, False]
    firsts = [drawn["paths"][0]["points"][-1]["norm"] for drawn in data_of(page)]
    lasts = [SICK, FADES, SICK, WARNS, idle, healthy, healthy]
    assert firsts == pytest.approx([d.paths[0].last.norm for d in lasts], rel=1e-3)


@pytest.mark.parametrize(
    "diagnosis", [replace(SICK, treatments=()), WARNS, FADES, GROWS, SICK], ids=range(5)
)
def test_a_card_opens_with_the_causes_and_cures_of_the_message(diagnosis: Diagnosis) -> None:
    (card,) = cards(report_of(diagnosis))
    opening = card.partition('<p class="facts">')[0]
    message = " ".join(str(diagnosis).split())
    advice = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", opening)
    told = [f"{label}: {html.unescape(words)}" for label, words in advice]
    assert told
    assert all(one in message for one in told)
    labels = [label for label, _ in advice]
    assert len(labels) == len(re.findall(r"(?m)^(?:cause|try|accept):", str(diagnosis)))
    assert labels[0] == "cause"
    assert "try" in labels or diagnosis is SICK
    typed = "run this test: copy the command of this test pytest 't.py::test_net[a b]'"
    assert typed in words_of(opening)


def test_the_code_of_the_first_cure_stands_on_top_and_that_of_others_below() -> None:
    cured, *rest = TREATED
    second = replace(cured, remedy="another", code="b = 2\nif b < 3: pass")
    page = report_of(replace(SICK, treatments=(cured, second, *rest)))
    opening, _, below = page.partition('<p class="facts">')
    assert "write (a remedy): copy the code of a remedy a = 1" in words_of(opening)
    assert (
        opening.index("<dt>cause</dt>") < opening.index("a = 1") < opening.index("<dt>accept</dt>")
    )
    assert "b = 2" not in opening
    assert '<details class="table"><summary>code of another</summary>' in below
    assert "b = 2\nif b &lt; 3: pass</pre>" in below
    assert NO_CURE not in page
    assert NO_CURE in report_of(replace(SICK, treatments=tuple(rest)))
    assert NO_CURE not in report_of(replace(SICK, treatments=tuple(rest[1:])))


def test_what_was_not_tried_is_folded() -> None:
    names = ("it cured", "it did nothing", "it cannot be", "it was not tried")
    treatments = (replace(t, remedy=name) for t, name in zip(TREATED, names, strict=True))
    page = report_of(replace(SICK, treatments=tuple(treatments)))
    tried, mark, untried = page.partition('<details class="table untried"><summary>2 not tried, or')
    assert mark
    assert [name in tried for name in names] == [True, True, False, False]
    assert [name in untried for name in names] == [False, False, True, True]
    assert '<details class="table untried"' not in report_of(replace(SICK, treatments=()))


@pytest.mark.parametrize("diagnosis", [SICK, WARNS, FADES, GROWS], ids=range(4))
def test_the_plot_has_the_limit_and_the_point_where_it_is_crossed(diagnosis: Diagnosis) -> None:
    page = report_of(diagnosis)
    (drawn,) = data_of(page)[0]["paths"]
    finding = next(f for f in diagnosis.findings if f.code in ("GH101", "GH201"))
    assert finding.limit is not None
    (limit,) = drawn["limits"]
    assert limit["name"] == f"limit x{number(finding.limit)} ({finding.limit_source})"
    (path,) = diagnosis.profile.judged_paths
    down, bound = finding.code == "GH101", math.log10(finding.limit)
    for point, level in zip(path.points, limit["values"], strict=True):
        below, above = (replace(point, norm=level * change) for change in (0.99, 1.01))
        crossed = [
            path.reach(p) < bound if down else path.growth(p) > bound for p in (below, above)
        ]
        assert crossed == [down, not down]
    assert drawn["found"] == f"found at {finding.layer}"
    assert [p["layer"] for p in drawn["points"] if p["found"]] == [finding.layer]
    assert f"{finding.layer} found here: {finding.code} " in words_of(page)


def test_a_plot_without_a_fault_has_neither_limit_nor_mark() -> None:
    (drawn,) = data_of(report_of(measured(net())))[0]["paths"]
    assert (drawn["limits"], drawn["found"]) == ([], "")
    assert not any(point["found"] for point in drawn["points"])


def test_what_is_found_on_one_path_marks_no_other() -> None:
    (finding, *_), (path,) = SICK.findings, SICK.profile.paths
    point = replace(path.first, name="other")
    other = replace(path, points=(point, *path.points[1:]), entry=point)
    profile = replace(SICK.profile, paths=(path, other))
    page = report_of(replace(SICK, profiles=(profile,)))
    plots = {drawn["title"]: drawn for drawn in data_of(page)[0]["paths"]}
    assert plots["0 to 24"]["found"] == f"found at {finding.layer}"
    assert (plots["other to 24"]["found"], plots["other to 24"]["limits"]) == ("", [])
    everywhere = replace(finding, path=None)
    page = report_of(replace(SICK, profiles=(profile,), findings=(everywhere,)))
    assert {drawn["found"] for drawn in data_of(page)[0]["paths"]} == {f"found at {finding.layer}"}


def test_every_text_to_copy_has_a_button_that_says_so(page: str) -> None:
    copied = page.split('<div class="copied">')[1:]
    assert len(copied) == page.count("<pre")
    for part in copied:
        button = '<button type="button" class="copy" hidden>copy<span class="hidden"> the '
        assert part.partition("<pre")[0].count(button) == 1
        assert part.partition("<pre")[0].count('<span class="said" role="status"></span>') == 1


def test_the_header_says_when_of_what_and_by_which_command() -> None:
    made = Invocation("2026-01-02T03:04Z", 40 * "0123456789", "pytest 'a b' -k '<x>'")
    page = html_report(Run((), {"torch": "2"}, invocation=made))
    header = words_of(page.partition("<header>")[2].partition("</header>")[0])
    assert "2026-01-02T03:04Z commit 012345678901 torch 2" in header
    assert "run by copy the command of the run pytest 'a b' -k '<x>'" in header
    assert "commit" not in words_of(html_report(Run((), {"torch": "2"})))


def test_branches_are_folded_under_their_block_and_time_has_its_axis(page: str) -> None:
    text = " ".join(Reader(page).text)
    assert "inside 1: 2 outputs" in text
    assert "1.inner" in text
    (time,) = data_of(page)[2]["times"]
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
    diagnosis = measured(net(layers=250), confirm_steps=0)
    page = html_report(Run((Probe("t", "passed", diagnosis),)))
    assert "101 layers left out here; the plot has them" in page
    assert len(data_of(page)[0]["paths"][0]["points"]) == 501


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
