"""Twelve road and safety signs as painted polygons: what `googlenet_edge.pictograms` photographs.

A sign lives in the square from -1 to 1, x to the right and y down, its centre at the origin. It is a list of parts that
are painted one over the other. Everything is a polygon, so that a camera is a map of points and nothing is resampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]  # (K, 2), the corners of one polygon


class Paint(Enum):
    """The paints that signs are made of, as RGB when new."""

    RED = (190, 30, 40)
    YELLOW = (250, 200, 20)
    BLUE = (20, 80, 170)
    GREEN = (0, 135, 85)
    WHITE = (240, 240, 240)
    BLACK = (25, 25, 25)


@dataclass(frozen=True, slots=True)
class Part:
    """One polygon of one paint."""

    paint: Paint
    points: Points


@dataclass(frozen=True, slots=True)
class Sign:
    """A plate, and the glyph that is painted on it."""

    plate: tuple[Part, ...]
    glyph: tuple[Part, ...]


def polygon(corners: ArrayLike) -> Points:
    """Corners given as ``(x, y)`` pairs."""
    return np.asarray(corners, dtype=np.float64)


def regular(sides: int, *, radius: float = 1.0, first_deg: float = -90.0) -> Points:
    """A regular polygon around the origin with its first corner at an angle (clockwise, 0 to the right)."""
    angles = np.deg2rad(first_deg) + np.arange(sides) * (2 * np.pi / sides)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def disc(radius: float, *, x: float = 0.0, y: float = 0.0) -> Points:
    """A circle, as 32 corners."""
    return regular(32, radius=radius) + np.array([x, y], dtype=np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """An upright rectangle."""
    return polygon([(left, top), (right, top), (right, bottom), (left, bottom)])


def sector(inner: float, outer: float, *, from_deg: float, to_deg: float) -> Points:
    """The part of a ring between two angles."""
    angles = np.deg2rad(np.linspace(from_deg, to_deg, 10))
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([outer * arc, inner * arc[::-1]])


def line(corners: ArrayLike, *, width: float) -> list[Points]:
    """A line through corners, as one square-ended bar for each stretch."""
    path = polygon(corners)
    return [_bar(start, end, width) for start, end in pairwise(path)]


def _bar(start: Points, end: Points, width: float) -> Points:
    along = (end - start) * (width / 2 / np.hypot(*(end - start)))
    across = np.array([-along[1], along[0]])
    return np.stack([start - along - across, start - along + across, end + along + across, end + along - across])


def _plate(rim: Paint, face: Paint, outline: Points, *, inset: float = 0.93) -> tuple[Part, ...]:
    return Part(rim, outline), Part(face, outline * inset)


def _painted(paint: Paint, *shapes: Points) -> tuple[Part, ...]:
    return tuple(Part(paint, points) for points in shapes)


_DISC = disc(0.95)
_SQUARE = box(-0.85, -0.85, 0.85, 0.85)
_WARNING_PLATE = _plate(Paint.BLACK, Paint.YELLOW, regular(3), inset=0.86)

_BAR = box(-0.66, -0.17, 0.66, 0.17)
_ARROW_RIGHT = polygon([
    (-0.6, -0.14), (0.05, -0.14), (0.05, -0.45), (0.65, 0), (0.05, 0.45), (0.05, 0.14), (-0.6, 0.14),
])  # fmt: skip
_FLASH = polygon([
    (0.1, -0.52), (-0.22, 0.02), (0.0, 0.02), (-0.12, 0.4), (0.24, -0.12), (0.02, -0.12), (0.24, -0.52),
])  # fmt: skip
_FLAME = polygon([
    (0.02, -0.6), (0.14, -0.36), (0.1, -0.18), (0.2, -0.28), (0.3, -0.02), (0.26, 0.2), (0.12, 0.34),
    (-0.12, 0.34), (-0.26, 0.2), (-0.3, 0.0), (-0.22, -0.2), (-0.14, -0.06), (-0.08, -0.3),
])  # fmt: skip
_EXCLAMATION = (polygon([(-0.09, -0.5), (0.09, -0.5), (0.05, 0.12), (-0.05, 0.12)]), disc(0.09, y=0.29))
_TREFOIL = (disc(0.09), *(sector(0.15, 0.42, from_deg=start, to_deg=start + 60) for start in (60, 180, 300)))
_CROSS = (box(-0.58, -0.19, 0.58, 0.19), box(-0.19, -0.58, 0.19, 0.58))
_RUNNER = (
    disc(0.13, x=0.02, y=-0.52),
    *line([(-0.08, -0.3), (-0.16, 0.1)], width=0.22),
    *line([(-0.5, -0.02), (-0.36, -0.28), (0.02, -0.26), (0.18, -0.02), (0.36, -0.08)], width=0.09),
    *line([(-0.12, 0.12), (0.14, 0.26), (0.06, 0.58), (0.2, 0.58)], width=0.11),
    *line([(-0.18, 0.14), (-0.26, 0.42), (-0.62, 0.44)], width=0.11),
)
_DOOR = line([(0.5, 0.64), (0.5, -0.66), (-0.1, -0.66)], width=0.08)
_LETTERS = (  # STOP, each letter in a box of 0.26 × 0.52
    *line([(-0.47, -0.26), (-0.73, -0.26), (-0.73, 0), (-0.47, 0), (-0.47, 0.26), (-0.73, 0.26)], width=0.1),
    *line([(-0.35, -0.26), (-0.05, -0.26)], width=0.1),
    *line([(-0.2, -0.26), (-0.2, 0.26)], width=0.1),
    *line([(0.09, -0.26), (0.33, -0.26), (0.33, 0.26), (0.09, 0.26), (0.09, -0.26)], width=0.1),
    *line([(0.49, 0.26), (0.49, -0.26), (0.73, -0.26), (0.73, 0.02), (0.49, 0.02)], width=0.1),
)

SIGNS: dict[str, Sign] = {
    "exit": Sign(_plate(Paint.WHITE, Paint.GREEN, _SQUARE), _painted(Paint.WHITE, *_RUNNER, *_DOOR)),
    "first_aid": Sign(_plate(Paint.WHITE, Paint.GREEN, _SQUARE), _painted(Paint.WHITE, *_CROSS)),
    "flammable": Sign(_WARNING_PLATE, _painted(Paint.BLACK, _FLAME)),
    "general_warning": Sign(_WARNING_PLATE, _painted(Paint.BLACK, *_EXCLAMATION)),
    "high_voltage": Sign(_WARNING_PLATE, _painted(Paint.BLACK, _FLASH)),
    "no_entry": Sign(_plate(Paint.WHITE, Paint.RED, _DISC), _painted(Paint.WHITE, _BAR)),
    "priority_road": Sign(_plate(Paint.WHITE, Paint.YELLOW, regular(4), inset=0.76), ()),
    "radiation": Sign(_WARNING_PLATE, _painted(Paint.BLACK, *_TREFOIL)),
    "stop": Sign(_plate(Paint.WHITE, Paint.RED, regular(8, first_deg=22.5)), _painted(Paint.WHITE, *_LETTERS)),
    "turn_left": Sign(_plate(Paint.WHITE, Paint.BLUE, _DISC), _painted(Paint.WHITE, _ARROW_RIGHT * (-1, 1))),
    "turn_right": Sign(_plate(Paint.WHITE, Paint.BLUE, _DISC), _painted(Paint.WHITE, _ARROW_RIGHT)),
    "yield": Sign(_plate(Paint.RED, Paint.WHITE, regular(3, first_deg=90), inset=0.66), ()),
}
