"""JPEG files of all shapes and kinds, made up, on which libgne has to agree with Pillow."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image


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


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again until there are so many."""
    data = jpeg(photo(64, 48), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (count - data.count(b"\xff\xda") + 1) + data[-2:]


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
    inks = np.random.default_rng(2).integers(
        0, 256, (48, 48, 4), np.uint8
    )  # with black, which a converted photo has not
    yield "CMYK of four inks", jpeg(Image.fromarray(inks, "CMYK"), quality=95)


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _exif(*entries: tuple[int, int, int, bytes], head: bytes = b"II*\0", prefix: bytes = b"Exif\0\0") -> bytes:
    """A segment of (tag, type, count, value or its place), in the byte order of the head; at 100, a 6."""
    order = "<" if head.startswith(b"II") else ">"
    parts = [struct.pack(f"{order}HHL4s", *entry) for entry in entries]
    tiff = head + struct.pack(f"{order}LH", 8, len(entries)) + b"".join(parts) + bytes(4)
    return _segment(0xE1, prefix + tiff.ljust(100, b"\0") + struct.pack(f"{order}HHH", 6, 0, 0))


def jpegs_with_odd_notes() -> Iterator[tuple[str, bytes]]:
    """Photos whose orientation is written down in ways that are rare, or wrong."""
    six, at_100 = struct.pack("<L", 6), struct.pack("<L", 100)
    xmp = _segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>')
    notes = {f"type {kind}, {count}": _exif((0x0112, kind, count, six)) for kind in range(18) for count in (0, 1, 2, 4)}
    notes |= {f"type {kind}, outside": _exif((0x0112, kind, 3, at_100)) for kind in (1, 3, 4, 8, 9)}
    notes |= {
        f"begins {head!r}": _exif((0x0112, 3, 1, b"\0\6\0\0"), head=head) for head in (b"MM\0*", b"MM*\0", b"MM\0+")
    }
    notes |= {f"begins {head!r}": _exif((0x0112, 3, 1, six), head=head) for head in (b"II\0*", b"II+\0", b"XX*\0", b"")}
    notes |= {
        "the second of two": _exif((0x0112, 3, 0, six), (0x0112, 3, 1, six)),
        "the first of two": _exif((0x0112, 3, 1, six), (0x0112, 3, 1, at_100)),
        "after damage": _exif((0x010F, 2, 50, struct.pack("<L", 90)), (0x0112, 3, 1, six)),
        "after too much": _exif((0x010F, 2, 5000, at_100), (0x0112, 3, 1, six)),
        "named twice": _exif((0x0112, 3, 1, six), prefix=b"Exif\0\0Exif\0\0"),
        "empty": _segment(0xE1, b"Exif\0\0"),
        "cut": _segment(0xE1, b"Exif\0\0II*\0\x08"),
    }
    notes |= {
        f"no TIFF, {text!r}": _segment(0xE1, b"Exif\0\0" + text) for text in (b"\0", bytes(40), b"not a TIFF file")
    }
    plain = jpeg(photo(48, 40))[20:]  # without JFIF, which may stand first only
    measured = jpeg(photo(48, 40), dpi=(72, 72))[:20]  # Pillow then looks at EXIF only when it is asked
    for name, note in notes.items():
        yield name, b"\xff\xd8" + note + plain
        yield f"{name}, with a resolution", measured + note + plain
        yield f"{name}, and XMP", b"\xff\xd8" + note + xmp + plain
    yield "behind the picture", b"\xff\xd8" + plain + notes["type 3, 1"]
    for between in (b"\0", b"abc", b"\xff", b"\xff\0", b"\xff\xd0", b"\xff\xd7\xff\0x\xff", b"\xff\xfe\0\0"):
        yield f"after {between!r}", b"\xff\xd8" + _segment(0xFE, b"") + between + notes["type 3, 1"] + plain
