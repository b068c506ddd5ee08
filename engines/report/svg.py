"""SVG as text, made of numbers and escaped words: the few elements that the plots need. Pure.

Colours are classes that the page's style gives a meaning, so that one drawing serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
"""Units of every drawing's width: about the CSS pixels of a phone, so that letters have their size there."""
_EDGE = 20  # where half a label would stand outside


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
