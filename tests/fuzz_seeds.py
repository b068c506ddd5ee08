"""Writes what the fuzz targets of libgne begin with: ``fuzz_seeds.py FOLDER`` fills its ``image`` and ``bundle``.

From nothing libFuzzer does not find a JPEG that is decoded, nor a manifest, in a minute.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jpegs import jpeg, photo
from PIL import Image
from tiny_bundles import write_colour_bundle

SEAL = b'\n  "sha256": "'  # where the bundle's target goes on by itself, with a hash that fits


def images() -> Iterator[tuple[str, bytes]]:
    """Small JPEGs of every kind."""
    small = photo(24, 20)
    yield "baseline", jpeg(small)
    yield "progressive", jpeg(small, progressive=True)
    yield "444", jpeg(small, subsampling="4:4:4")
    yield "shrunk", jpeg(photo(150, 160), quality=30)
    yield from ((mode, jpeg(small.convert(mode))) for mode in ("L", "CMYK"))
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"exif{orientation}", jpeg(small, exif=exif)
    yield "xmp", jpeg(small, xmp=b'<x tiff:Orientation="6"/>')


def bundle_parts() -> Iterator[tuple[str, bytes]]:
    """A manifest, whole and up to its hash, labels, and golden vectors of 2×2 pixels and three classes."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_colour_bundle(Path(folder) / "bundle")
        manifest = (bundle / "manifest.json").read_bytes()
        yield "labels", (bundle / "labels.txt").read_bytes()
    yield "manifest", manifest
    yield "unsealed", manifest[: manifest.rindex(SEAL)]
    yield "golden", bytes(2 * 2 * 3 + 3 * 4)


def main(folder: Path) -> None:
    """Fills the folders; what fuzzing found earlier stays."""
    for target, seeds in (("image", images()), ("bundle", bundle_parts())):
        place = folder / target
        place.mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            (place / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
