"""A generated data set: signs as a poor camera sees them, the default of ``gnet-edge demo`` and of the tests.

Each image shows one of twelve signs, askew and off centre, weathered, half hidden, before clutter that has the same
colours; then badly lit, blurred, noisy and compressed. Some classes differ in the glyph alone (four yellow triangles),
some in direction alone: a flipped ``turn_left`` is a ``turn_right``, so training must not flip these images.

A sign lives in the square from -1 to 1, x to the right and y down, its centre at the origin. It is a list of parts that
are painted one over the other. Everything is a polygon, so that a camera is a map of points and nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from googlenet_edge.dataset import Progress, ticker
from googlenet_edge.errors import OutputError
from googlenet_edge.files import new_folder, read_file, to_json

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


CLASS_NAMES: tuple[str, ...] = tuple(sorted(SIGNS))
RECORD = "pictograms.json"

_SUPERSAMPLING = 2
_PAINTS = tuple(Paint)

Matrix = NDArray[np.float64]  # (3, 3), a map of homogeneous points
Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Request:
    """What a data set was made from; its record in the folder."""

    train_per_class: int
    val_per_class: int
    size: int
    seed: int
    version: int = 1  # counts up when the same seed begins to give other pixels


@dataclass(frozen=True, slots=True)
class _Item:
    file: Path
    class_name: str
    seed: int


def write_pictograms(
    folder: Path,
    *,
    train_per_class: int,
    val_per_class: int,
    size: int = 96,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Writes ``train/CLASS/00000.jpg`` … and ``val/CLASS/00000.jpg`` …, or nothing if just these are there already.

    The folder appears in one step, complete. No image of ``val`` has the seed of one of ``train``, and neither depends
    on how many images the other has.

    Args:
        folder: a new or empty folder, or an earlier data set of this function, which is replaced.
        size: pixels of a side; single images have from 5/6 to 4/3 of it.
        progress: called as ``progress(done, total)`` after each image.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    request = _Request(train_per_class, val_per_class, size, seed)
    record = to_json(request)
    if _record_of(folder) == record:
        return
    items = list(_items(request))
    tick = ticker(len(items), progress)
    with new_folder(folder) as temporary:
        for item in items:
            _write_image(temporary / item.file, item, size)
            tick()
        (temporary / RECORD).write_bytes(record)


def render(class_name: str, *, seed: int, size: int) -> Image.Image:
    """One RGB image of ``size`` × ``size`` pixels; the same arguments give the same pixels.

    Args:
        class_name: one of `CLASS_NAMES`.
        seed: 0 or more.
    """
    rng = np.random.default_rng((CLASS_NAMES.index(class_name), seed))
    canvas = _background(rng, size * _SUPERSAMPLING)
    draw = ImageDraw.Draw(canvas)
    _draw_clutter(draw, rng)
    camera = _camera(rng)
    sign = SIGNS[class_name]
    _draw_parts(draw, sign.plate + sign.glyph, camera, rng)
    _draw_obstacle(draw, camera, rng)
    return _expose(canvas.reduce(_SUPERSAMPLING), rng)


def _record_of(folder: Path) -> bytes | None:
    """The record of the data set in a folder, None for a folder that is free to take."""
    if (folder / RECORD).is_file():
        return read_file(folder / RECORD, limit=4096, error=OutputError)
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty and holds no generated data set; give another folder")
    return None


def _items(request: _Request) -> Iterator[_Item]:
    counts = {"train": request.train_per_class, "val": request.val_per_class}
    for split, (folder, count) in enumerate(counts.items()):
        for label, class_name in enumerate(CLASS_NAMES):
            for index in range(count):
                number = 2 * (index * len(CLASS_NAMES) + label) + split  # no other image has it
                yield _Item(Path(folder, class_name, f"{index:05}.jpg"), class_name, request.seed << 32 | number)


def _write_image(path: Path, item: _Item, size: int) -> None:
    rng = np.random.default_rng(item.seed)
    side = int(rng.integers(size * 5 // 6, size * 4 // 3, endpoint=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    render(item.class_name, seed=item.seed, size=side).save(path, quality=int(rng.integers(35, 95)))


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """Soft patches, coarse or fine, that differ in brightness more than in colour."""
    cells = int(rng.integers(2, 9))
    contrast = rng.uniform(15, 100)
    brightness = rng.uniform(50, 205) + rng.uniform(-contrast, contrast, (cells, cells, 1))
    tints = rng.uniform(-45, 45, 3) + 0.3 * rng.uniform(-contrast, contrast, (cells, cells, 3))
    patches = brightness + tints
    coarse = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def _draw_clutter(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Stripes, shapes in the colours of signs, and blank plates of other signs at the border."""
    if rng.random() < 0.4:
        tilt, color = _rotation(rng.uniform(0, 360)), _aged(_any_paint(rng), rng)
        for x in np.arange(-1.5, 1.5, rng.uniform(0.15, 0.6)):
            _fill(draw, line([(x, -2), (x, 2)], width=rng.uniform(0.02, 0.12))[0], tilt, color)
    for _ in range(rng.integers(2, 8)):
        shape = regular(int(rng.integers(3, 9)))
        placed = _placement(rng, radius=rng.uniform(0.04, 0.3), reach=1.0)
        _fill(draw, shape, placed, _aged(_any_paint(rng), rng))
    for _ in range(rng.integers(0, 3)):
        other = SIGNS[CLASS_NAMES[rng.integers(len(CLASS_NAMES))]]
        angle, distance = rng.uniform(0, 360), rng.uniform(0.8, 1.2)
        placed = _rotation(angle) @ _shift(distance, 0) @ _placement(rng, radius=rng.uniform(0.1, 0.35), reach=0)
        _draw_parts(draw, other.plate, placed, rng)


def _draw_parts(draw: ImageDraw.ImageDraw, parts: tuple[Part, ...], camera: Matrix, rng: np.random.Generator) -> None:
    paints = {paint: _aged(paint, rng) for paint in _PAINTS}
    for part in parts:
        _fill(draw, part.points, camera, paints[part.paint])


def _draw_obstacle(draw: ImageDraw.ImageDraw, camera: Matrix, rng: np.random.Generator) -> None:
    """A branch across the sign, a blot on its edge, or nothing."""
    color = _aged(_any_paint(rng), rng)
    turned = camera @ _rotation(rng.uniform(0, 360))
    kind = rng.random()
    if kind < 0.35:
        x = rng.uniform(-0.6, 0.6)
        _fill(draw, line([(x, -2), (x, 2)], width=rng.uniform(0.08, 0.3))[0], turned, color)
    elif kind < 0.7:
        _fill(draw, disc(rng.uniform(0.2, 0.5), x=rng.uniform(0.5, 1.0)), turned, color)


def _expose(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur, uneven light, a colour cast and sensor noise."""
    size = image.width
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.016) * size))
    x, y = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32),) * 2)
    slope = rng.uniform(0, 0.5) * np.exp(1j * rng.uniform(0, 2 * np.pi))
    light = rng.uniform(0.5, 1.25) * (1 + np.float32(slope.real) * x + np.float32(slope.imag) * y)
    cast = rng.uniform(0.85, 1.15, 3).astype(np.float32)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * np.float32(rng.uniform(2, 22))
    pixels = np.asarray(blurred) * light[..., None].astype(np.float32) * cast + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _camera(rng: np.random.Generator) -> Matrix:
    """From a sign's square to the image, which also reaches from -1 to 1."""
    placed = _placement(rng, radius=rng.uniform(0.38, 0.8), reach=0.3)
    lean = np.eye(3)
    lean[2, :2] = rng.uniform(-0.3, 0.3, 2)  # the perspective of a plate that is turned away
    lean[0, 1] = rng.uniform(-0.2, 0.2)
    lean[1, 1] = rng.uniform(0.8, 1.2)
    return placed @ _rotation(rng.normal(0, 9)) @ lean


def _placement(rng: np.random.Generator, *, radius: float, reach: float) -> Matrix:
    x, y = rng.uniform(-reach, reach, 2)
    return _shift(x, y) @ np.diag([radius, radius, 1.0])


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def _rotation(degrees: float) -> Matrix:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _fill(draw: ImageDraw.ImageDraw, points: Points, camera: Matrix, color: Color) -> None:
    seen = points @ camera[:, :2].T + camera[:, 2]  # (K, 3)
    pixels = (seen[:, :2] / seen[:, 2:] + 1) * (draw.im.size[0] / 2)
    draw.polygon(pixels.ravel().tolist(), fill=color)


def _any_paint(rng: np.random.Generator) -> Paint:
    return _PAINTS[rng.integers(len(_PAINTS))]


def _aged(paint: Paint, rng: np.random.Generator) -> Color:
    """A paint after some years: faded towards grey, stained."""
    faded = rng.uniform(0, 0.45)
    mixed = np.array(paint.value) * (1 - faded) + 120 * faded + rng.normal(0, 14, 3)
    red, green, blue = np.clip(mixed, 0, 255).astype(int).tolist()
    return red, green, blue
