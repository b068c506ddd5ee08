"""The drawings of a report: well-formed SVG that stays within its frame, whatever the numbers and the names."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from googlenet_edge.engines.report.plots import (
    WIDTH,
    Curve,
    Scale,
    Spot,
    accuracy_against_latency,
    by_round,
    confusion,
    curves,
    histogram,
    tick_label,
    ticks,
)
from googlenet_edge.statistics import Interval, summarize

SVG = "{http://www.w3.org/2000/svg}"
times = st.floats(1e-3, 1e9)


def drawn(svg: str) -> ET.Element:
    """The drawing as a browser reads it; fails where a part lies outside of it or is no number."""
    root = ET.fromstring(svg)
    height = float(root.attrib["viewBox"].split()[3])
    for part in root.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if name in part.attrib:
                value = float(part.attrib[name])
                assert 0 <= value <= (WIDTH if "x" in name or name == "width" else height), (part.attrib, name)
    return root


def parts(root: ET.Element, kind: str) -> list[ET.Element]:
    return [part for part in root.iter() if kind in part.attrib.get("class", "").split()]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_within(low: float, span: float) -> None:
    high = low + span
    found = ticks(low, high)
    assert 1 <= len(found) <= 6 or span < 1e-9 * abs(low)
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in found)
    steps = np.diff(found)
    assert np.allclose(steps, steps[:1])


def test_ticks_are_labelled_with_as_many_decimals_as_tell_them_apart() -> None:
    assert ticks(13.4, 15.6) == pytest.approx([13.5, 14, 14.5, 15, 15.5])
    assert [tick_label(tick, 0.5) for tick in (13.5, 14.0)] == ["13.5", "14.0"]
    assert [tick_label(tick, 500.0) for tick in (500.0, 1000.0)] == ["500", "1,000"]
    assert [tick_label(2e6, 1e6), tick_label(2e-6, 1e-6)] == ["2e+06", "2e-06"]


def test_scale_maps_ends_to_ends_and_one_value_to_the_middle() -> None:
    scale = Scale(10, 20, 100, 200)
    assert [scale(value) for value in (10, 15, 20)] == [100, 150, 200]
    assert Scale(5, 5, 100, 200)(5) == 150


@given(st.lists(times, min_size=1, max_size=200))
def test_histogram_counts_all_samples_but_the_slowest_half_percent(values: list[float]) -> None:
    root = drawn(histogram(values, summarize(values), colour=1))
    counted = sum(int(re.findall(r": (\d+)$", title.text or "")[0]) for title in root.iter("title"))
    assert counted >= 0.99 * len(values) - 1
    assert [mark.text for mark in parts(root, "mark-name")] == ["p50", "p90", "p99"]


@given(st.lists(st.lists(times, min_size=3, max_size=3), min_size=6, max_size=40))
def test_every_round_has_a_point(rounds: list[list[float]]) -> None:
    assert len(parts(drawn(by_round(rounds, colour=7)), "c1")) == 2 * len(rounds)


@given(st.lists(st.tuples(times, st.floats(0, 100)), min_size=1, max_size=9))
def test_accuracy_plot_holds_every_bundle_with_its_number(found: list[tuple[float, float]]) -> None:
    spots = [
        Spot(i, ms, Interval(0.9 * ms, 1.1 * ms), top1, Interval(max(0, top1 - 3), min(100, top1 + 3)), i in (2, 3))
        for i, (ms, top1) in enumerate(found, start=1)
    ]
    root = drawn(accuracy_against_latency(spots))
    assert [number.text for number in parts(root, "badge-number")] == [str(spot.colour) for spot in spots]
    assert len(parts(root, "whisker")) == 2 * len(spots)
    simulated = ("top-1, %", "top-1, %", "top-1, % (2 simulated)", "top-1, % (2, 3 simulated)")
    assert parts(root, "unit")[0].text == simulated[min(len(spots), 3)]


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=2, max_size=20, unique_by=lambda p: p[0]))
def test_curves_go_through_every_point(points: list[tuple[float, float]]) -> None:
    root = drawn(curves([Curve(2, tuple(sorted(points)))], across="s", along="W"))
    [line] = parts(root, "curve")
    places = [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]
    assert len(places) == len(points)
    assert all(0 <= x <= WIDTH and 0 <= y <= 228 for x, y in places)


def test_confusion_shows_counts_and_shortens_names_that_are_too_long() -> None:
    root = drawn(confusion(np.array([[9, 1], [0, 5]]), ["<b>bold</b> & long", "b"]))
    assert [count.text for count in parts(root, "count")] == ["9", "1", "5"]
    assert "<b>bold</b… 1" in [text.text for text in root.iter("text")]
    titles = [title.text for title in root.iter("title")]
    assert "<b>bold</b> & long: 1 of 10 answered b" in titles
    assert [cell.attrib["class"] for cell in parts(root, "cell")] == [
        "cell right d9", "cell wrong d1", "cell wrong d0", "cell right d10",
    ]  # fmt: skip
