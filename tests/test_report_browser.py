"""The page in a real browser, headless Chromium: nothing missing, nothing beside the page, on a phone and on a desk.

The screenshots stay in the test's temporary folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, Theme, running
from measured import answered, measured, measured_bundle, on_a_jetson, with_accuracy
from test_report import renamed

from googlenet_edge.engines.report.judge import judge
from googlenet_edge.engines.report.material import LayerCost, Layers, Material, Source
from googlenet_edge.engines.report.write import write_report
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Precision

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; on Debian and Ubuntu: apt-get install chromium")

# The elements whose letters or drawings would stand outside of the window, or of the card that holds them.
OVERFLOWING = """
[...document.querySelectorAll("main *")].filter(e => !e.closest("svg") || e.tagName === "svg").filter(e => {
  const box = e.getBoundingClientRect();
  return box.right > innerWidth + 0.5 || box.left < -0.5
    || (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline" && e.clientWidth > 0);
}).map(e => e.tagName + "." + e.getAttribute("class") + ": " + e.textContent.slice(0, 60))
"""
# SVG letters outside of their drawing.
CUT_LETTERS = """
[...document.querySelectorAll("svg text")].filter(t => {
  const box = t.getBoundingClientRect(), frame = t.ownerSVGElement.getBoundingClientRect();
  return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
    || box.bottom > frame.bottom + 1;
}).map(t => t.textContent)
"""
BROKEN_PICTURES = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).length"
SECTIONS = (
    '[...document.querySelectorAll("h2")].filter(h => h.getBoundingClientRect().height > 0).map(h => h.innerText)'
)
LAYERS = Layers(200, 4.5, 2, (LayerCost("inception3a.branch2.0", 0.4, 2, 0.3, 1.05, Interval(1.04, 1.06)),))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def whole() -> Material:
    """Everything that a report can hold."""
    doubtful = replace(measured(), warnings=("the clock governor is 'powersave'; set 'performance' for steady clocks",))
    return Material((Source("runs/signs/measurement.json", doubtful),), (answered(lost=30),), (LAYERS,))


def many() -> Material:
    """Three machines with three bundles each: as many as have colours, and three more."""
    names = {Precision.FP32: 1.0, Precision.FP16: 0.9, Precision.INT8: 1.0}
    return Material(
        tuple(
            Source(
                f"measurements/machine-{i}.json",
                measured(
                    *(
                        with_accuracy(measured_bundle(f"runs/signs/{p.value}-cpu", p, factor=i * factor), 1800 + i)
                        for p, factor in names.items()
                    )
                ),
            )
            for i in (1, 2, 3)
        )
    )


MATERIALS = {
    "whole": whole(),
    "many": many(),
    "jetson": Material((Source("m.json", on_a_jetson(measured())),)),
    "bare": Material((Source("m.json", measured()),)),
    "long": renamed("W" * 400),
}


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("name", "theme"), [("whole", Theme.DARK), *((name, Theme.LIGHT) for name in MATERIALS)])
def test_page_fits_its_window(name: str, theme: Theme, width: int, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / f"{name}.html"
    write_report(page, MATERIALS[name])
    browser.open(page, width=width, theme=theme)
    browser.screenshot(tmp_path / f"{name}-{width}-{theme.value}.png")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    assert browser.value(OVERFLOWING) == []
    assert browser.value(CUT_LETTERS) == []
    assert browser.value(BROKEN_PICTURES) == 0
    assert browser.complaints() == []
    assert {address for address in browser.requests() if not address.startswith("data:")} == {page.as_uri()}


def test_page_shows_every_section_and_drawing(browser: Browser, tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", whole(), judge(whole(), whole()))
    browser.open(tmp_path / "page.html", width=1280, theme=Theme.LIGHT)
    assert browser.value(SECTIONS) == [
        "What makes these figures doubtful", "Against the baseline", "At a glance", "Latency",
        "From an image file to labels", "Accuracy against latency", "Throughput", "Under a load that lasts",
        "Power, heat and clocks", "Layers",
        "What int8-cpu answers", "Circumstances", "How to repeat this",
    ]  # fmt: skip
    assert browser.value('document.querySelectorAll("svg").length') == 2 * 2 + 3
    assert browser.value("document.images.length") == 24


def test_page_is_dark_where_dark_is_preferred(browser: Browser, tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", whole())
    colours = {}
    for theme in Theme:
        browser.open(tmp_path / "page.html", width=390, theme=theme)
        shade = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)"
        colours[theme] = browser.value(shade)
    assert (colours[Theme.DARK] < 150, colours[Theme.LIGHT] > 600) == (True, True)
