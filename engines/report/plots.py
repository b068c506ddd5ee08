"""The plots of a report, from numbers to SVG made of few elements, with every word escaped. Pure.

Colours are classes that the page's style gives a meaning, so that one drawing serves light and dark. ``colour`` is the
number of a bundle's colour, from 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from html import escape
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.statistics import Interval, Summary

WIDTH = 360
"""Units of every drawing's width: about the CSS pixels of a phone, so that letters have their size there."""
_EDGE = 20  # where half a label would stand outside

_MOST_BINS = 48
_AXIS_QUANTILE = 0.995
MOST_CONFUSION_CLASSES = 30
_MOST_DRAWN = 120
_NAME_EM = 6.5
COLOURS = 6


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps ``low … high`` to ``start … end``, in a straight line."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value, to a tenth of a unit."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True, slots=True)
class Frame:
    """The two scales of a plot, and where its axes lie."""

    x: Scale
    y: Scale


def element(name: str, attributes: Mapping[str, object], content: str = "") -> str:
    """One element; ``content`` is SVG already."""
    words = "".join(f' {key}="{escape(str(value))}"' for key, value in attributes.items())
    return f"<{name}{words}>{content}</{name}>" if content else f"<{name}{words}/>"


def drawing(height: float, parts: Sequence[str], *, label: str) -> str:
    """A drawing as wide as the page lets it be; ``label`` says what it shows to those who cannot see it."""
    view = {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": label}
    return element("svg", view, "".join(parts))


def text(x: float, y: float, words: str, *, kind: str = "tick", anchor: str = "middle") -> str:
    """Words at a place; ``kind`` is their class."""
    return element("text", {"x": x, "y": y, "class": kind, "text-anchor": anchor}, escape(words))


def line(start: tuple[float, float], end: tuple[float, float], *, kind: str) -> str:
    """A straight line of a class."""
    return element("line", {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1], "class": kind})


def rectangle(corner: tuple[float, float], size: tuple[float, float], *, kind: str, title: str = "") -> str:
    """A rectangle of a class; ``title`` is shown where a mouse rests on it."""
    place = {
        "x": corner[0],
        "y": corner[1],
        "width": max(0.0, round(size[0], 1)),
        "height": max(0.0, round(size[1], 1)),
    }
    return element("rect", {**place, "class": kind}, element("title", {}, escape(title)) if title else "")


def circle(centre: tuple[float, float], radius: float, *, kind: str) -> str:
    """A disc of a class."""
    return element("circle", {"cx": centre[0], "cy": centre[1], "r": radius, "class": kind})


def polyline(points: Sequence[tuple[float, float]], *, kind: str) -> str:
    """Points joined by lines."""
    return element("polyline", {"points": " ".join(f"{x:g},{y:g}" for x, y in points), "class": kind})


def ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) within ``low … high``: at most ``most`` + 1 of them."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float, step: float) -> str:
    """As many decimals as tell neighbours apart; very large and very small values in powers of ten."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value:,.{digits}f}" if abs(value) < 1e5 and digits < 5 else f"{value:.3g}"


def x_axis(frame: Frame, words: str, *, named: Mapping[float, str] | None = None) -> list[str]:
    """The line below, its ticks (round values, or ``named`` ones), and what it measures."""
    bottom = frame.y.start
    if named is None:
        places = ticks(frame.x.low, frame.x.high)
        step = places[1] - places[0] if len(places) > 1 else 1.0
        named = {value: tick_label(value, step) for value in places}
    parts = [line((frame.x.start, bottom), (frame.x.end, bottom), kind="axis")]
    for value, label in named.items():
        parts.append(line((frame.x(value), bottom), (frame.x(value), bottom + 4), kind="axis"))
        anchor = "end" if frame.x(value) > WIDTH - _EDGE else "start" if frame.x(value) < _EDGE else "middle"
        parts.append(text(frame.x(value), bottom + 16, label, anchor=anchor))
    parts.append(text((frame.x.start + frame.x.end) / 2, bottom + 32, words, kind="unit"))
    return parts


def y_axis(frame: Frame, words: str) -> list[str]:
    """Lines across, their values on the left, and above them what they measure."""
    places = ticks(frame.y.low, frame.y.high, most=4)
    step = places[1] - places[0] if len(places) > 1 else 1.0
    parts = [text(frame.x.start, frame.y.end - 8, words, kind="unit", anchor="start")]
    for value in places:
        parts.append(line((frame.x.start, frame.y(value)), (frame.x.end, frame.y(value)), kind="rule"))
        parts.append(text(frame.x.start - 6, frame.y(value) + 4, tick_label(value, step), anchor="end"))
    return parts


@dataclass(frozen=True, slots=True)
class Spot:
    """A bundle in the plane of latency and accuracy, both with 95 % intervals; accuracy in percent.

    ``simulated``: the accuracy is not that of the engine itself.
    """

    colour: int
    latency_ms: float
    latency_interval: Interval
    accuracy: float
    accuracy_interval: Interval
    simulated: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points ``(x, y)``."""

    colour: int
    points: tuple[tuple[float, float], ...]


class Floor(Enum):
    """Where an axis upwards begins."""

    ZERO = "zero"
    LEAST = "the least value"


def histogram(times_ms: Sequence[float], summary: Summary, *, colour: int) -> str:
    """How often each latency occurred, with p50, p90 and p99; the slowest half percent lies beyond the axis."""
    values = np.asarray(times_ms, np.float64)
    low, high = float(values.min()), max(float(np.quantile(values, _AXIS_QUANTILE)), summary.p99)
    pad = max(high - low, 1e-3 * high) * 0.03
    frame = Frame(Scale(low - pad, high + pad, 8, WIDTH - 8), Scale(0, 1, 150, 44))
    counts, edges = np.histogram(values, bins=_bin_count(values, low, high), range=(low - pad / 2, high + pad / 2))
    top = max(1, int(counts.max()))
    parts = [
        rectangle(
            (frame.x(left) + 0.5, frame.y(count / top)),
            (frame.x(right) - frame.x(left) - 1, frame.y(0) - frame.y(count / top)),
            kind=f"fill {_hue(colour)}",
            title=f"{left:.3g} to {right:.3g} ms: {count}",
        )
        for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if count
    ]
    for row, (name, value) in enumerate((("p50", summary.p50), ("p90", summary.p90), ("p99", summary.p99))):
        place, height = frame.x(value), 12 + 12 * row
        anchor = "end" if place > WIDTH - 40 else "start"
        parts.append(line((place, height - 8), (place, frame.y.start), kind=f"mark mark{row + 1}"))
        parts.append(text(place + (-4 if anchor == "end" else 4), height, name, kind="mark-name", anchor=anchor))
    return drawing(186, [*parts, *x_axis(frame, "ms")], label="histogram of latency in milliseconds")


def by_round(rounds_ms: Sequence[Sequence[float]], *, colour: int) -> str:
    """The median of every round with its middle 80 %, in the order of time: what drifts is seen here.

    Of more than 120 rounds, neighbours are taken together.
    """
    groups = np.array_split(np.asarray(rounds_ms, np.float64), min(_MOST_DRAWN, len(rounds_ms)))
    low, middle, high = np.array([np.quantile(group, (0.1, 0.5, 0.9)) for group in groups]).T
    span = max(float(high.max() - low.min()), 1e-3 * float(high.max()))
    y = Scale(float(low.min()) - 0.05 * span, float(high.max()) + 0.05 * span, 82, 24)
    frame = Frame(Scale(0.5, len(groups) + 0.5, 52, WIDTH - 8), y)
    parts = y_axis(frame, "ms, round by round")
    for number, (bottom, median, top) in enumerate(zip(low.tolist(), middle.tolist(), high.tolist(), strict=True), 1):
        x = frame.x(number)
        parts.append(line((x, frame.y(bottom)), (x, frame.y(top)), kind=f"range {_hue(colour)}"))
        parts.append(circle((x, frame.y(median)), 2.4, kind=f"fill {_hue(colour)}"))
    return drawing(92, parts, label="latency of every round, median and middle 80 percent")


def accuracy_against_latency(spots: Sequence[Spot]) -> str:
    """Up and to the left is better. The crosses are 95 % intervals."""
    right = 1.12 * max(spot.latency_interval.high for spot in spots)
    low = min(spot.accuracy_interval.low for spot in spots)
    high = max(spot.accuracy_interval.high for spot in spots)
    pad = max(0.5, 0.08 * (high - low))
    frame = Frame(Scale(0, right, 46, WIDTH - 10), Scale(max(0, low - pad), min(100, high + pad), 226, 26))
    simulated = ", ".join(str(spot.colour) for spot in spots if spot.simulated)
    named = f"top-1, % ({simulated} simulated)" if simulated else "top-1, %"
    parts = [*y_axis(frame, named), *x_axis(frame, "latency p50, ms")]
    for spot in spots:
        x, y = frame.x(spot.latency_ms), frame.y(spot.accuracy)
        across, along = spot.latency_interval, spot.accuracy_interval
        parts.append(line((frame.x(across.low), y), (frame.x(across.high), y), kind=f"whisker {_hue(spot.colour)}"))
        parts.append(line((x, frame.y(along.low)), (x, frame.y(along.high)), kind=f"whisker {_hue(spot.colour)}"))
        parts.append(circle((x, y), 9, kind=f"fill {_hue(spot.colour)}"))
        parts.append(text(x, y + 3.5, str(spot.colour), kind="badge-number"))
    return drawing(264, parts, label="top-1 accuracy against latency, with 95 percent intervals")


def curves(
    found: Sequence[Curve],
    *,
    across: str,
    along: str,
    named: Mapping[float, str] | None = None,
    floor: Floor = Floor.ZERO,
) -> str:
    """Lines over one axis each way; ``named`` are ticks below with other words than their place."""
    xs = [x for curve in found for x, _ in curve.points]
    ys = [y for curve in found for _, y in curve.points]
    frame = Frame(Scale(min(xs), max(xs), 52, WIDTH - 14), _upwards(ys, floor))
    parts = [*y_axis(frame, along), *x_axis(frame, across, named=named)]
    for curve in found:
        places = [(frame.x(x), frame.y(y)) for x, y in curve.points]
        parts.append(polyline(places, kind=f"curve {_hue(curve.colour)}"))
        if len(places) <= 16:
            parts += [circle(place, 3, kind=f"fill {_hue(curve.colour)}") for place in places]
    return drawing(228, parts, label=f"{along} over {across}")


def confusion(counts: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Rows are true classes, columns what was answered; at most `MOST_CONFUSION_CLASSES`. int ``(n, n)`` counts.

    The deeper the colour, the larger the share of the row.
    """
    classes, left, top = len(class_names), 104, 24
    cell = (WIDTH - left - 6) / classes
    parts = [
        text((left + WIDTH) / 2, 14, "answered", kind="unit"),
        text(left - 6, 14, "true", kind="unit", anchor="end"),
    ]
    for row, name in enumerate(class_names):
        middle = top + (row + 0.5) * cell + 4
        parts.append(text(left - 6, middle, f"{_short(name)} {row + 1}", anchor="end"))
        parts.append(text(left + (row + 0.5) * cell, top + classes * cell + 14, str(row + 1)))
        total = max(1, int(counts[row].sum()))
        for column, other in enumerate(class_names):
            count = int(counts[row, column])
            corner = (round(left + column * cell, 1), round(top + row * cell, 1))
            kind = f"cell {'right' if row == column else 'wrong'} d{_depth(count / total)}"
            title = f"{name}: {count} of {total} answered {other}"
            parts.append(rectangle(corner, (cell - 1, cell - 1), kind=kind, title=title if count else ""))
            if count and cell >= 16:
                deep = " deep" if _depth(count / total) >= 6 else ""
                parts.append(text(corner[0] + cell / 2, corner[1] + cell / 2 + 3.5, str(count), kind=f"count{deep}"))
    return drawing(top + classes * cell + 22, parts, label="confusion matrix")


def _upwards(values: Sequence[float], floor: Floor) -> Scale:
    least, most = min(values), max(values)
    pad = 0.05 * max(most - least, 1e-3 * abs(most), 1e-9)
    low = min(0.0, least) if floor is Floor.ZERO else least - pad
    return Scale(low, most + pad, 190, 26)


def _hue(number: int) -> str:
    """The class of a bundle's colour: six, and then again from the first."""
    return f"c{(number - 1) % COLOURS + 1}"


def _bin_count(values: NDArray[np.float64], low: float, high: float) -> int:
    """Freedman and Diaconis 1981, at most 48."""
    p25, p75 = np.quantile(values, (0.25, 0.75))
    width = 2 * float(p75 - p25) / len(values) ** (1 / 3)
    return max(8, min(_MOST_BINS, round((high - low) / width))) if width > (high - low) / 1e6 else _MOST_BINS


def _depth(share: float) -> int:
    """0…10; what occurred at all is at least 1."""
    return 0 if share == 0 else max(1, round(10 * share))


def _short(name: str) -> str:
    """As much of a name as has place beside the matrix."""
    widths = np.cumsum([_em(letter) for letter in name])
    fitting = int((widths <= _NAME_EM).sum())
    return name if fitting == len(name) else f"{name[:fitting]}…"


def _em(letter: str) -> float:
    """About how wide a letter of a sans-serif typeface is, in units of its size: rather too wide than too narrow."""
    if letter in "MW@%mw" or east_asian_width(letter) in "WF":
        return 1.0
    return 0.72 if letter.isupper() else 0.6
