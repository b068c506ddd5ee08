"""JPEG files of all shapes and kinds, made up, on which libgne has to agree with Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import PIL
from packaging.version import Version
from PIL import Image

from googlenet_edge.preprocess import Preprocess


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft colours and noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray((smooth + random.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def shapes() -> Iterator[tuple[int, int]]:
    """70 sizes: thin and small ones, those at which decoding begins to shrink, and random ones."""
    yield from [
        (1, 1),
        (1, 700),
        (700, 1),
        (2, 3),
        (33, 50),
        (3000, 300),
        (300, 3000),
        (97, 2500),
        (224, 224),
        (256, 256),
    ]
    for side in (71, 72, 73, 143, 144, 145, 287, 288, 289, 511, 512, 513, 575, 576, 577, 1023, 1024, 1025):
        yield from [(side, side + 40), (side + 40, side)]
    random = np.random.default_rng(1)
    yield from (tuple(random.integers(3, 900, 2).tolist()) for _ in range(24))


def jpegs() -> Iterator[tuple[str, bytes]]:
    """JPEGs of all shapes and kinds, each with a name for the message."""
    qualities, samplings = (60, 85, 95), ("4:2:0", "4:4:4", "4:2:2", "4:1:1")
    for i, (width, height) in enumerate(shapes()):
        kind = {"quality": qualities[i % 3], "subsampling": samplings[i % 4], "progressive": i % 5 == 0}
        yield f"{width}×{height} {kind}", jpeg(photo(width, height, i), **kind)
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation {orientation}", jpeg(photo(301, 200), exif=exif)
        yield f"orientation {orientation} in XMP", jpeg(photo(90, 200), xmp=b'<x tiff:Orientation="%d"/>' % orientation)
    for mode in ("L", "CMYK"):
        yield from ((f"{mode} {w}", jpeg(photo(w, 211).convert(mode))) for w in (40, 333, 1500))


def rounds_as_libgne(image: Image.Image, preprocess: Preprocess) -> bool:
    """Whether this Pillow resizes in the order of Pillow 13, which goes along the columns of a tall image first."""
    width, height = (side - preprocess.crop for side in image.size)
    return Version(PIL.__version__) >= Version("13") or height <= max(0, 2 * width)
