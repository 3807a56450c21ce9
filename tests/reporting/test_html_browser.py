"""The HTML report in a real headless Chromium: draws, answers mouse and keyboard, prints."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gradhealth import Probe, Run
from pytest_gradhealth.reporting.html import html_report
from tests.helpers.runs import SICK, many, renamed, sample

webdriver: Any = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(html_report(sample()), encoding="utf-8")
    return file


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    browser.get(report.as_uri())
    yield browser
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def section(page: Any, test: str) -> Any:
    return next(s for s in page.find_elements("css selector", ".probe") if test in s.text)


def shown(page: Any) -> list[str]:
    names = page.find_elements("css selector", ".probe:not([hidden]) h2")
    return [name.text.rpartition("::")[2] for name in names]


def drawn(page: Any, canvas: Any) -> bool:
    """Whether anything is on a canvas."""
    found: bool = page.execute_script(
        "const c = arguments[0], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return c.width > 0 && d.some((value) => value > 0)",
        canvas,
    )
    return found


def gets_drawn(page: Any, canvas: Any) -> bool:
    """Whether something comes up on a canvas, which takes the browser some frames."""
    from selenium.webdriver.support.wait import WebDriverWait

    return bool(WebDriverWait(page, 10).until(lambda page: drawn(page, canvas)))


def gets_as_narrow_as(page: Any, width: int) -> bool:
    """Whether nothing sticks out, once the browser has laid the page out anew."""
    from selenium.webdriver.support.wait import WebDriverWait

    wide = "return document.documentElement.scrollWidth"
    return bool(WebDriverWait(page, 10).until(lambda page: page.execute_script(wide) <= width))


def test_failures_are_open_and_drawn_and_the_others_once_opened(page: Any) -> None:
    states = {
        s.get_attribute("data-verdict"): s.get_attribute("open")
        for s in page.find_elements("css selector", ".probe")
    }
    assert states == {"healthy": None, "failure": "true", "warning": None}
    canvas = section(page, "test_sick").find_element("css selector", "canvas")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    assert gets_drawn(page, canvas)
    healthy = section(page, "test_healthy")
    canvas = healthy.find_element("css selector", "canvas")
    assert not drawn(page, canvas)
    healthy.find_element("css selector", "summary").click()
    assert gets_drawn(page, canvas)
    times = section(page, "test_time")
    times.find_element("css selector", "summary").click()
    assert gets_drawn(page, times.find_element("css selector", "canvas.times"))


TOOLTIP = """
const chart = Chart.getChart(arguments[0]), tip = chart.tooltip;
const lines = tip.body.flatMap((part) => part.lines);
return tip.opacity ? [...tip.title, ...tip.afterTitle ?? [], ...lines, ...tip.afterBody] : [];
"""


def test_hovering_tells_layer_shape_norm_and_step(page: Any) -> None:
    canvas = section(page, "test_net").find_element("css selector", "canvas")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    webdriver.ActionChains(page).move_to_element(canvas).perform()
    told = page.execute_script(TOOLTIP, canvas)
    assert told[0] == "4 (Linear)"
    assert "output 16x8" in told
    assert any(line.startswith("seed 0: ") for line in told)
    assert any(line.startswith("baseline: ") for line in told)
    assert told[-1].startswith("step x")


def test_the_keyboard_goes_from_layer_to_layer(page: Any) -> None:
    one = section(page, "test_net")
    canvas = one.find_element("css selector", "canvas")
    for keys, layer in (
        ("\ue014", "0 (Linear)"),
        ("\ue014", "1 (Sigmoid)"),
        ("\ue010", "8 (Linear)"),
    ):
        canvas.send_keys(keys)
        spoken = one.find_element("css selector", ".spoken").get_attribute("textContent")
        assert spoken.startswith(f"{layer}: gradient ")
        assert page.execute_script(TOOLTIP, canvas)[0] == layer


def test_extra_lines_come_on_demand(page: Any) -> None:
    one = section(page, "test_net")
    count = "return Chart.getChart(arguments[0]).data.datasets.map((set) => set.label)"
    canvas = one.find_element("css selector", "canvas")
    before = page.execute_script(count, canvas)
    assert before[0] == "seed 0"
    assert "baseline" in before
    for box in one.find_elements("css selector", "input.extra"):
        box.send_keys(" ")
    assert page.execute_script(count, canvas) == [*before, "outputs", "weight gradients"]


def test_what_is_found_and_its_limit_are_in_the_legend_and_not_in_the_tooltip(page: Any) -> None:
    canvas = section(page, "test_sick").find_element("css selector", "canvas")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    assert gets_drawn(page, canvas)
    entries = (
        "return Chart.getChart(arguments[0]).legend.legendItems.map((e) => [e.text, e.pointStyle])"
    )
    found = dict(page.execute_script(entries, canvas))
    (place,) = (name for name in found if name.startswith("found at "))
    assert found[place] == "circle"
    assert found["limit x1e-05 (default)"] == "line"
    canvas.send_keys("\ue011")
    for _ in range(int(place.removeprefix("found at "))):
        canvas.send_keys("\ue014")
    told = page.execute_script(TOOLTIP, canvas)
    assert told[0].startswith(place.removeprefix("found at "))
    assert any(line.startswith("limit x1e-05 (default): ") for line in told)
    assert not any(line.startswith("found at ") for line in told)


def test_copy_buttons_copy_or_leave_the_text_selected(page: Any) -> None:
    page.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {configurable: true, value:"
        " {writeText: async (text) => { window.taken = text; }}})"
    )
    parts = section(page, "test_sick").find_elements("css selector", ".body > .copied")
    assert [part.find_element("tag name", "p").text[:9] for part in parts][-1:] == ["run this "]
    for part in parts:
        button, text = (part.find_element("css selector", kind) for kind in ("button", "pre"))
        button.send_keys(" ")
        assert page.execute_script("return window.taken") == text.get_property("textContent")
        assert part.find_element("css selector", "[role=status]").text == "copied"
    page.execute_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    button.click()
    assert page.execute_script("return String(getSelection())") == text.text
    assert part.find_element("css selector", "[role=status]").text.startswith("selected: ")


def test_of_many_probes_the_failures_are_on_top_and_drawn_as_they_come_into_view(
    browser: Any, tmp_path: Path
) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    file = tmp_path / "many.html"
    probes = (*many("healthy", 51, "well"), *many("failing", 9, "sick"))
    file.write_text(html_report(Run(probes)), encoding="utf-8")
    browser.get(file.as_uri())
    # A busy machine has some of them laid out later.
    WebDriverWait(browser, 10).until(lambda page: len(shown(page)) == len(probes))
    assert [name[-4:] for name in shown(browser)[:10]] == [*9 * ["sick"], "well"]
    first, *_, last = browser.find_elements("css selector", ".probe[open] canvas")
    assert gets_drawn(browser, first)
    assert not drawn(browser, last)
    browser.execute_script("arguments[0].scrollIntoView()", last)
    assert gets_drawn(browser, last)


def test_filters_by_text_and_verdict(page: Any) -> None:
    field = page.find_element("id", "filter")
    output = page.find_element("id", "shown")
    assert output.text == "4 of 4 shown"
    field.send_keys("sick GH101")
    assert shown(page) == ["test_sick"]
    assert output.text == "1 of 4 shown"
    field.clear()
    field.send_keys(" ")
    page.find_element("css selector", "input[value=failure]").click()
    assert shown(page) == ["test_time", "test_healthy"]
    field.send_keys("\ue007")
    assert page.current_url.endswith("report.html"), "the form goes nowhere"


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phones_and_dark_rooms(page: Any, width: int, scheme: str) -> None:
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.refresh()
        for summary in page.find_elements("css selector", "details:not([open]) > summary"):
            page.execute_script("arguments[0].parentElement.open = true", summary)
        widest = page.execute_script("return document.documentElement.scrollWidth")
        assert widest <= width
        assert width > 500 or not sideways(page)
        assert width > 500 or page.execute_script(
            "return [...document.querySelectorAll('.scroll')].every((e) =>"
            " e.scrollHeight <= e.clientHeight + 1)"
        )
        assert page.execute_script(
            "return [...document.querySelectorAll('pre')].every((e) =>"
            " getComputedStyle(e).whiteSpace === 'pre' && e.clientWidth <= innerWidth)"
        )
        ink, paper = page.execute_script(
            "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        )
        assert (luminance(ink) > luminance(paper)) is (scheme == "dark")
        assert contrast(ink, paper) > 7
        line = page.execute_script(
            "return Chart.getChart(arguments[0]).data.datasets[0].borderColor",
            page.find_element("css selector", "canvas"),
        )
        assert line == {"light": "#1f5fbf", "dark": "#7fb0ff"}[scheme]
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def sideways(page: Any) -> list[str]:
    """What can be scrolled sideways, or is cut off, but for text that is laid out in columns."""
    found: list[str] = page.execute_script(
        "return [...document.querySelectorAll('body *:not(.hidden, pre)')]"
        ".filter((e) => getComputedStyle(e).overflowX !== 'visible')"
        ".filter((e) => e.scrollWidth > e.clientWidth + 1)"
        ".map((e) => `${e.tagName} ${e.className} ${e.scrollWidth} > ${e.clientWidth}`)"
    )
    return found


def luminance(colour: str) -> float:
    """Relative luminance of an "rgb(r, g, b)" (WCAG 2)."""
    channels = [int(c) / 255 for c in colour.strip("rgba()").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_control_has_a_name_and_every_table_heads(page: Any) -> None:
    nameless = page.execute_script(
        "return [...document.querySelectorAll('input, select, canvas, [role=region]')]"
        ".filter((e) => !e.ariaLabel && !e.labels?.[0]?.textContent.trim())"
        ".map((e) => e.outerHTML)"
    )
    assert nameless == []
    assert page.execute_script(
        "return [...document.querySelectorAll('table')]"
        ".every((table) => table.querySelector('thead th[scope=col]'))"
    )


def test_names_of_any_length_leave_it_quick(browser: Any, tmp_path: Path) -> None:
    name = 100_000 * "n"
    file = tmp_path / "long.html"
    probe = Probe(name, "failed", renamed(SICK, name), (), name, name)
    file.write_text(html_report(Run((probe,), {name: name}, (name,))), encoding="utf-8")
    browser.get(file.as_uri())
    assert gets_drawn(browser, browser.find_element("css selector", "canvas"))
    for summary in browser.find_elements("css selector", "details:not([open]) > summary"):
        browser.execute_script("arguments[0].parentElement.open = true", summary)
    assert browser.execute_script("return document.body.innerText.length") < len(name)
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert gets_as_narrow_as(browser, 390)
        assert not sideways(browser)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_prints_with_everything_open(page: Any) -> None:
    printed = page.execute_cdp_cmd("Page.printToPDF", {})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
