"""A generated data set: signs as a poor camera sees them, the default of ``gnet-edge demo`` and of the tests.

Each image shows one of twelve signs, askew and off centre, weathered, half hidden, before clutter that has the same
colours; then badly lit, blurred, noisy and compressed. Some classes differ in the glyph alone (four yellow triangles),
some in direction alone: a flipped ``turn_left`` is a ``turn_right``, so training must not flip these images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from googlenet_edge.errors import OutputError
from googlenet_edge.files import new_folder, read_file, to_json
from googlenet_edge.glyphs import SIGNS, Paint, Part, Points, disc, line, regular

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
    progress: Callable[[int, int], None] | None = None,
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
    with new_folder(folder) as temporary:
        for done, item in enumerate(items, start=1):
            _write_image(temporary / item.file, item, size)
            if progress is not None:
                progress(done, len(items))
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
