"""Decoding images that may be anything: every mode becomes RGB, damage and decompression bombs become errors."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from googlenet_edge.errors import DamagedImageError
from googlenet_edge.files import read_file

MAX_PIXELS = 150_000_000
MAX_SIDE = 65_535  # that of a JPEG
MAX_FILE_BYTES = 256 << 20
MAX_SCANS = 100  # of a JPEG; encoders write about ten of a progressive one

_SEGMENT = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")  # a marker that is followed by a length
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DAMAGE = (  # what Pillow's decoders are seen to raise on files that are cut, altered or made up
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def decode_rgb(source: Path | bytes, *, short_side: int) -> Image.Image:
    """A JPEG, PNG or WebP file (or its bytes) → an upright RGB image whose short side is at least that of the use.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where at least ``2 × short_side`` pixels remain, so that a photo
    of 100 megapixels costs neither its memory nor its time. Transparency of 8 bits is laid over white, 16-bit samples
    become 8-bit, CMYK and palettes become RGB, and the EXIF orientation is applied. Safe to call from several threads.

    Args:
        source: a path, or the bytes of a file.
        short_side: pixels that the short side is going to be resized to.

    Raises:
        DamagedImageError: no such file, cut off, another format, or more than 150 megapixels, 256 MiB or 100 scans.
    """
    if isinstance(source, Path):
        name, data = str(source), read_image_file(source)
    else:
        name, data = "the image", source
    try:
        image = _open(data, name)
        image.draft(None, (2 * short_side, 2 * short_side))  # does nothing but for JPEG
        image.load()
        return _to_rgb(_turn_upright(image))
    except _DAMAGE as problem:
        raise DamagedImageError(f"{name} is damaged ({problem}); replace or remove it") from problem


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file, not decoded. Raises `DamagedImageError`: no such file, or more than 256 MiB."""
    return read_file(path, limit=MAX_FILE_BYTES, error=DamagedImageError)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image that the caller opened with Pillow → what `decode_rgb` makes of it. Raises `DamagedImageError`."""
    if 0 in image.size:
        raise DamagedImageError(f"the image has {image.width}×{image.height} pixels; give one that has some")
    try:
        image.load()
        return _to_rgb(_turn_upright(image))
    except _DAMAGE as problem:
        raise DamagedImageError(f"the image is damaged ({problem}); replace or remove it") from problem


def _open(data: bytes, name: str) -> ImageFile:
    """Reads the header. Not by `Image.open`: it warns about large images by itself, through a filter of the process."""
    image = _reader(data, name)(io.BytesIO(data))
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DamagedImageError(
            f"{name} has {width}×{height} pixels; at most {MAX_PIXELS // 10**6} megapixels are decoded. Make it smaller"
        )
    if max(width, height) > MAX_SIDE:
        raise DamagedImageError(f"{name} has {width}×{height} pixels; a side has at most {MAX_SIDE}. Make it smaller")
    if isinstance(image, JpegImageFile) and _pairs(data, b"\xff\xda") > MAX_SCANS < _scans(data):
        raise DamagedImageError(
            f"{name} cannot be decoded: it has more than {MAX_SCANS} scans; replace or remove it"
        )  # each costs the time of all pixels, and only a few bytes of the file
    return image


def _pairs(data: bytes, pair: bytes) -> int:
    """How often two bytes follow each other: as `bytes.count`, but quicker where the first of them is frequent."""
    wanted = int.from_bytes(pair, "little")
    halves = (np.frombuffer(data, "<u2", (len(data) - odd) // 2, odd) for odd in (0, 1))
    return sum(int(np.count_nonzero(half == wanted)) for half in halves)


def _scans(jpeg: bytes) -> int:
    """How many scans there are before the end marker, one too many at most; what only looks like one is none."""
    count, at = 0, 2
    while count <= MAX_SCANS and (found := _SEGMENT.search(jpeg, at)) and found[1] != b"\xd9":
        count += found[1] == b"\xda"
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
    return count


def _reader(data: bytes, name: str) -> type[ImageFile]:
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile
    raise DamagedImageError(f"{name} is not a JPEG, PNG or WebP image; convert or remove it")


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except _DAMAGE:  # a photo is whole, whatever its notes are
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit samples, in Pillow's I;16 variants or its older 32-bit I
        samples = np.clip(np.asarray(image), 0, 65535) >> 8
        return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = rgba.convert("RGB")
        opaque.paste("white", mask=ImageChops.invert(rgba.getchannel("A")))
        return opaque
    return image.convert("RGB")
