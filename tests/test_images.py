"""Images that people really have, and files that only pretend to be images."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jpegs import jpeg, photo, with_scans
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from googlenet_edge import images
from googlenet_edge.errors import DamagedImageError
from googlenet_edge.images import decode_rgb

RED, BLUE, WHITE = (200, 30, 40), (20, 40, 210), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def red_and_blue(right_alpha: int = 255) -> Image.Image:
    """RGBA: the left half opaque red, the right half blue of any opacity."""
    image = Image.new("RGBA", (32, 32), (*RED, 255))
    image.paste((*BLUE, right_alpha), (16, 0, 32, 32))
    return image


def png(header: bytes, data: bytes) -> bytes:
    """A PNG with a header and image data of one's choice."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_rgb_keeps_its_colours(kind: str) -> None:
    assert_halves(encoded(red_and_blue().convert("RGB"), kind, quality=95), RED, BLUE)


def test_images_cmyk_jpeg_becomes_rgb() -> None:
    assert_halves(encoded(red_and_blue().convert("CMYK"), "JPEG", quality=95), RED, BLUE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_grayscale_becomes_gray_rgb(kind: str) -> None:
    gray = red_and_blue().convert("L")
    left, right = gray.getpixel((8, 16)), gray.getpixel((24, 16))
    assert_halves(encoded(gray, kind), (left,) * 3, (right,) * 3)


def test_images_bilevel_becomes_black_and_white() -> None:
    bits = Image.new("1", (32, 32), 0)
    bits.paste(1, (16, 0, 32, 32))
    assert_halves(encoded(bits, "PNG"), (0, 0, 0), WHITE)


def test_images_palette_becomes_rgb() -> None:
    assert_halves(encoded(palette(), "PNG"), RED, BLUE)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: encoded(palette(), "PNG", transparency=1), id="palette index"),
        pytest.param(lambda: encoded(palette(), "PNG", transparency=b"\xff\x00"), id="palette alphas"),
        pytest.param(lambda: encoded(red_and_blue().convert("RGB"), "PNG", transparency=BLUE), id="colour key"),
        pytest.param(lambda: encoded(red_and_blue(0), "PNG"), id="PNG alpha"),
        pytest.param(lambda: encoded(red_and_blue(0), "WEBP", lossless=True, exact=True), id="WebP alpha"),
    ],
)
def test_images_transparency_lies_over_white(data: Any) -> None:
    assert_halves(data(), RED, WHITE)


def test_images_half_transparency_is_half_white() -> None:
    assert_halves(encoded(red_and_blue(128), "PNG"), RED, (137, 147, 232))


def test_images_gray_with_alpha_lies_over_white() -> None:
    assert_halves(encoded(Image.new("LA", (32, 32), (7, 0)), "PNG"), WHITE, WHITE)


@pytest.mark.parametrize(("sample", "grey"), [(-5, 0), (0, 0), (128 << 8, 128), (70_000, 255)])
def test_images_beyond_16_bits_end_at_black_and_white(sample: int, grey: int) -> None:
    assert images.upright_rgb(Image.new("I", (1, 1), sample)).getpixel((0, 0)) == (grey, grey, grey)


def test_images_16_bit_png_keeps_the_upper_byte() -> None:
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    decoded = np.asarray(decode_rgb(encoded(Image.fromarray(samples), "PNG"), short_side=64))
    np.testing.assert_array_equal(decoded, np.repeat((samples >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.arange(0, 240, dtype=np.uint8).reshape(12, 20)).resize((200, 120), 0).convert("RGB")
    a = np.asarray(decode_rgb(encoded(stored, kind), short_side=64))
    upright = {  # by the EXIF standard: which sides the first row and the first column of the file are
        1: a,
        2: a[:, ::-1],
        3: a[::-1, ::-1],
        4: a[::-1],
        5: a.transpose(1, 0, 2),
        6: np.rot90(a, -1),
        7: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90(a, 1),
    }[orientation]
    decoded = decode_rgb(encoded(stored, kind, exif=exif), short_side=64)
    np.testing.assert_array_equal(np.asarray(decoded), upright)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("notes", [b"none of these", b"II*\x00"])
def test_images_whose_notes_are_damaged_are_whole(notes: bytes, kind: str) -> None:
    assert_halves(encoded(red_and_blue().convert("RGB"), kind, exif=b"Exif\0\0" + notes), RED, BLUE)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_tiny_and_thin_are_decoded(size: tuple[int, int], kind: str) -> None:
    decoded = decode_rgb(encoded(Image.new("RGB", size, RED), kind, quality=95), short_side=256)
    assert decoded.size == size
    assert np.abs(np.asarray(decoded, dtype=int) - RED).max() < 8


def test_images_path_and_bytes_give_the_same(tmp_path: Path) -> None:
    data = encoded(red_and_blue(), "PNG")
    (tmp_path / "named.jpg").write_bytes(data)  # the content decides, not the name
    assert decode_rgb(tmp_path / "named.jpg", short_side=8).tobytes() == decode_rgb(data, short_side=8).tobytes()


def test_images_jpeg_is_decoded_no_larger_than_needed() -> None:
    photo = encoded(Image.new("RGB", (2000, 1000), RED), "JPEG")
    assert decode_rgb(photo, short_side=62).size == (250, 125)
    assert decode_rgb(photo, short_side=250).size == (1000, 500)
    assert decode_rgb(photo, short_side=251).size == (2000, 1000)


PEAK_OF_ONE_DECODE = """
import re, sys
from pathlib import Path
from googlenet_edge.images import decode_rgb

def peak_kib():  # unlike getrusage, free of the peak of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))

before = peak_kib()
size = decode_rgb(Path(sys.argv[1]), short_side=256).size
print(*size, peak_kib() - before)
"""


def test_images_108_megapixel_jpeg_needs_little_memory_and_warns_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("L", (12000, 9000), 90).save(path)
    command = [sys.executable, "-W", "error", "-c", PEAK_OF_ONE_DECODE, str(path)]
    width, height, peak_kib = map(
        int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    )
    assert (width, height) == (1500, 1125)
    assert peak_kib < 40_000  # decoded in full it is 105 MiB in gray, 412 MiB in RGB


def png_bomb() -> bytes:
    return png(struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0), bytes(100))


def jpeg_bomb() -> bytes:
    data = bytearray(encoded(Image.new("L", (8, 8)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 20000, 20000)
    return bytes(data)


@pytest.mark.parametrize("bomb", [png_bomb, jpeg_bomb])
def test_images_decompression_bomb_is_refused_by_its_header(bomb: Any, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(bomb())
    with pytest.raises(DamagedImageError) as caught:
        decode_rgb(path, short_side=256)
    assert str(caught.value) == (f"{path} has 20000×20000 pixels; at most 150 megapixels are decoded. Make it smaller")


def test_images_jpeg_of_too_many_scans_is_refused() -> None:
    assert decode_rgb(with_scans(100), short_side=16).size == (64, 48)
    with pytest.raises(DamagedImageError) as caught:
        decode_rgb(with_scans(101), short_side=16)
    assert str(caught.value) == "the image cannot be decoded: it has more than 100 scans; replace or remove it"


def test_images_what_looks_like_scans_in_a_note_or_behind_a_jpeg_is_not_counted() -> None:
    odd_length = jpeg(photo(64, 48), progressive=True, comment=b"\xff\xda" * 200 + b".")
    fills, restarts = b"\xff" * 3, b"\xff\xd0"
    whole = odd_length[:-2] + restarts + fills + odd_length[-2:] + b"\xff\xda" * 200
    assert decode_rgb(whole, short_side=16).size == (64, 48)


@pytest.mark.parametrize("size", [(1, 70_000), (70_000, 1)])
def test_images_thinner_than_any_photo_are_refused(size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    with pytest.raises(DamagedImageError, match=r"has (1×70000|70000×1) pixels; a side has at most 65535. Make it"):
        decode_rgb(file.getvalue(), short_side=32)


def test_images_webp_bomb_is_refused() -> None:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    sizes = data.index(b"VP8L") + 9
    data[sizes : sizes + 3] = b"\xff\xff\xff"  # 16384 wide and at least 4096 high
    data[sizes + 3] |= 0x0F
    with pytest.raises(DamagedImageError, match="the image "):
        decode_rgb(bytes(data), short_side=256)


def test_images_png_whose_text_unpacks_to_gigabytes_is_refused() -> None:
    text = PngInfo()
    text.add_text("note", " " * (70 << 20), zip=True)
    with pytest.raises(DamagedImageError, match=r"is damaged .*; replace or remove it"):
        decode_rgb(encoded(Image.new("L", (8, 8)), "PNG", pnginfo=text), short_side=8)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_cut_off_file_is_named_as_damaged(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.img"
    data = encoded(noise((64, 48)), kind)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DamagedImageError) as caught:
        decode_rgb(path, short_side=16)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert str(caught.value).endswith("); replace or remove it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xd8", id="two bytes"),
        pytest.param(b"Dear photo, where are you?\n" * 40, id="text"),
        pytest.param(random.Random(0).randbytes(4000), id="random"),
        *(pytest.param(encoded(Image.new("RGB", (9, 9)), kind), id=kind) for kind in ("GIF", "BMP", "TIFF")),
    ],
)
def test_images_file_of_another_kind_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(DamagedImageError) as caught:
        decode_rgb(path, short_side=16)
    assert str(caught.value) == f"{path} is not a JPEG, PNG or WebP image; convert or remove it"


def test_images_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedImageError, match=r"gone\.jpg is missing"):
        decode_rgb(tmp_path / "gone.jpg", short_side=16)
    with pytest.raises(DamagedImageError, match="is a folder; give a file in it"):
        decode_rgb(tmp_path, short_side=16)


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg"])
def test_images_what_can_be_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(DamagedImageError, match="jpg' is no name of a file"):
        decode_rgb(Path(name), short_side=16)


@pytest.mark.parametrize("size", [(0, 10), (10, 0)])
def test_images_without_a_pixel_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DamagedImageError, match=f"the image has {size[0]}×{size[1]} pixels; give one that has some"):
        images.upright_rgb(Image.new("RGB", size))


def test_images_huge_file_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(DamagedImageError, match="has 268435457 bytes where at most 268435456 are expected"):
        decode_rgb(path, short_side=16)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on altered EXIF blocks
def test_images_altered_bytes_give_an_image_or_damaged_image_error() -> None:
    rng = random.Random(7)
    originals = altered_originals()
    decoded = 0
    for _ in range(1200):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice([1, 2, 8, 32])):
            data[rng.randrange(min(len(data), rng.choice([60, 300, 9999])))] = rng.randrange(256)
        try:
            assert decode_rgb(with_right_checksums(bytes(data)), short_side=16).mode == "RGB"
            decoded += 1
        except DamagedImageError as problem:
            assert "\n" not in str(problem)
    assert 100 < decoded < 1100  # both outcomes were really tried


def altered_originals() -> list[bytes]:
    """One file of each structure that a decoder has to follow."""
    image, exif, text = noise((40, 30)), Image.Exif(), PngInfo()
    exif[0x0112], exif[0x011A], exif[0x0132] = 6, 72.0, "2020:01:01"
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=True)
    return [
        encoded(image, "JPEG", exif=exif, comment="note"),
        encoded(image, "JPEG", progressive=True, dpi=(72, 72)),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "PNG", exif=exif, pnginfo=text),
        encoded(image.convert("P"), "PNG", transparency=b"\x00\x80" * 9),
        encoded(image, "PNG", save_all=True, append_images=[image.rotate(9)]),
        encoded(image, "WEBP", exif=exif),
        encoded(image.convert("RGBA"), "WEBP", save_all=True, append_images=[image.rotate(9).convert("RGBA")]),
    ]


def with_right_checksums(data: bytes) -> bytes:
    """Mends the checksums of a PNG, so that altered bytes reach what lies behind them; leaves other files alone."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    mended, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end])) if end + 4 <= len(data) else b""
        at = end + 4
    return bytes(mended)


def noise(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def palette() -> Image.Image:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (16, 0, 32, 32))
    return image


def assert_halves(data: bytes, left: tuple[Any, ...], right: tuple[Any, ...]) -> None:
    image = decode_rgb(data, short_side=32)
    assert image.mode == "RGB"
    for x, expected in ((8, left), (24, right)):
        assert np.abs(np.array(image.getpixel((x, 16))) - expected).max() <= 12
