"""The HTML report as text: what is in it, and that no name can break out of its place."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_gradhealth import Diagnosis, Probe, Run, VanishingGradientError, assert_no_vanishing
from pytest_gradhealth import probe as probe_model
from pytest_gradhealth.baseline.check import Check, check_entry
from pytest_gradhealth.baseline.entry import entry_of
from pytest_gradhealth.formatting import number
from pytest_gradhealth.reporting.html import html_fragment, html_report
from pytest_gradhealth.results.diagnosis import Limit

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.act = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.act(self.inner(x))
        return out


def net(activation: type[nn.Module] = nn.ReLU, layers: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(8, 8), activation()]
    return nn.Sequential(*parts, nn.Linear(8, 4))


def measured(model: nn.Module) -> Diagnosis:
    return probe_model(model, X, Y, loss=cross_entropy)


def checked(before: Diagnosis, after: Diagnosis) -> Check:
    return check_entry(
        entry_of(after, {}),
        {"test_net": entry_of(before, {})},
        file="tests/__gradhealth__/test_models.json",
        key="test_net",
        max_path=Limit(0.5, "default"),
        max_step=Limit(1.0, "default"),
    )


def sample() -> Run:
    """A healthy probe, one that has got worse, one that failed and was treated, one in time."""
    healthy = measured(nn.Sequential(nn.Linear(8, 8), Block(), nn.Linear(8, 4)))
    worse = measured(net(nn.Sigmoid))
    with pytest.raises(VanishingGradientError) as caught:
        assert_no_vanishing(net(nn.Sigmoid, 12), X, Y, loss=cross_entropy, remedy_budget=1)
    sick = caught.value.diagnosis
    assert sick is not None
    reader = nn.RNN(8, 8, batch_first=True)
    times = probe_model(
        reader, torch.randn(4, 12, 8), loss=lambda out: out[0][:, -1].sum(), dependency=9
    )
    return Run(
        (
            Probe("test_a.py::test_healthy", "passed", healthy, file="test_a.py", line=3),
            Probe("test_a.py::test_net", "failed", worse, (checked(measured(net()), worse),), "m"),
            Probe("test_a.py::test_sick", "failed", sick, (), str(caught.value), "test_a.py", 9),
            Probe("test_a.py::test_time", "passed", times),
        ),
        {"torch": torch.__version__},
        ("stale in f.json: test_old",),
    )


@pytest.fixture(scope="module")
def run() -> Run:
    return sample()


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return html_report(run)


class Reader(HTMLParser):
    """Collects elements and text; HTML that is not closed shows in `open`."""

    VOID = frozenset({"meta", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


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
    assert "decades worse; limit 0.5, default" in text
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
    (baseline,) = worse["paths"][0]["lines"]
    assert baseline["kind"] == "baseline"
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
    diagnosis = measured(net(layers=600))
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
