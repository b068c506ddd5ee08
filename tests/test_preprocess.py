"""The one preprocessing that training, calibration and every engine share."""

from __future__ import annotations

import numpy as np
import pytest
from networks import imagenet_normalization
from PIL import Image

from googlenet_edge.errors import BundleError
from googlenet_edge.files import from_json, to_json
from googlenet_edge.preprocess import Preprocess


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("preprocess", [Preprocess(), imagenet_normalization(Preprocess())])
def test_preprocess_normalize_is_the_formula_for_every_byte(preprocess: Preprocess) -> None:
    pixels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    expected = ((pixels.astype(np.float64) - mean) / std).astype(np.float32)
    np.testing.assert_array_equal(preprocess.normalize(pixels), expected.transpose(2, 0, 1))


def test_preprocess_normalize_maps_black_to_minus_one_and_white_to_one() -> None:
    planes = Preprocess().normalize(np.array([[[0, 255, 0]]], dtype=np.uint8))
    assert planes.ravel().tolist() == [-1, 1, -1]


def test_preprocess_normalize_takes_one_image_and_a_batch_alike() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    planes = Preprocess().normalize(batch)
    assert (planes.shape, planes.dtype, planes.flags.c_contiguous) == ((2, 3, 5, 7), np.float32, True)
    np.testing.assert_array_equal(planes[1], Preprocess().normalize(batch[1]))


def test_preprocess_imagenet_normalization_is_torchvision_formula() -> None:
    white = imagenet_normalization(Preprocess()).normalize(np.full((1, 1, 3), 255, dtype=np.uint8))
    np.testing.assert_allclose(
        white.ravel(), [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-6
    )


def test_preprocess_pixels_of_an_image_of_the_resize_side_are_its_centre() -> None:
    image = noise(256, 256)
    np.testing.assert_array_equal(Preprocess().pixels(image), np.asarray(image)[16:240, 16:240])


@pytest.mark.parametrize("size", [(512, 384), (384, 640), (384, 384)])
def test_preprocess_pixels_equal_pillow_resize_then_crop(size: tuple[int, int]) -> None:
    image = noise(*size)
    half = image.resize((size[0] // 2, size[1] // 2), Image.Resampling.BILINEAR)
    left, top = (half.width - 128) // 2, (half.height - 128) // 2
    expected = half.crop((left, top, left + 128, top + 128))
    np.testing.assert_array_equal(Preprocess(resize=192, crop=128).pixels(image), np.asarray(expected))


@pytest.mark.parametrize("size", [(300, 800), (640, 480), (100, 226), (3, 700)])
def test_preprocess_pixels_do_not_depend_on_the_version_of_pillow(size: tuple[int, int]) -> None:
    """Tall images go along the columns first, as in Pillow 13; each pass by itself has one order in every version."""
    preprocess, image = Preprocess(), noise(*size)
    side = min(size) * 224 / 256
    left, top = (size[0] - side) / 2, (size[1] - side) / 2
    across = (224, size[1]), (left, 0, left + side, size[1])
    down = (size[0], 224), (0, top, size[0], top + side)

    def passes(first: str) -> np.ndarray:
        (narrow, narrow_box), (low, low_box) = across, down
        if first == "columns":
            once = image.resize(low, Image.Resampling.BILINEAR, box=low_box)
            return np.asarray(once.resize((224, 224), Image.Resampling.BILINEAR, box=(left, 0, left + side, 224)))
        once = image.resize(narrow, Image.Resampling.BILINEAR, box=narrow_box)
        return np.asarray(once.resize((224, 224), Image.Resampling.BILINEAR, box=(0, top, 224, top + side)))

    tall = size != (640, 480)
    assert (passes("rows") != passes("columns")).any() or min(size) == 3
    np.testing.assert_array_equal(preprocess.pixels(image), passes("columns" if tall else "rows"))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 3)])
def test_preprocess_pixels_of_tiny_and_thin_images_have_the_full_shape(size: tuple[int, int]) -> None:
    pixels = Preprocess().pixels(Image.new("RGB", size, (10, 20, 30)))
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (10, 20, 30)).all()


def test_preprocess_json_round_trip_keeps_every_bit() -> None:
    preprocess = imagenet_normalization(Preprocess(resize=72, crop=64))
    assert from_json(to_json(preprocess), Preprocess, where="manifest.json", error=BundleError) == preprocess


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"resize": 64, "crop": 65}', "crop 65 is larger than resize 64"),
        ('{"std": [1, 0, 1]}', "std above zero"),
        ('{"std": [1, -2, 1]}', "std above zero"),
        ('{"mean": [1e999, 0, 0]}', "out of range"),
        ('{"mean": [NaN, 0, 0]}', "invalid character"),
        ('{"crop": 0}', "Expected `int` >= 1 - at `$.crop`"),
        ('{"resize": 5000}', "Expected `int` <= 4096 - at `$.resize`"),
        ('{"mean": [1, 2]}', "Expected `array` of length 3 - at `$.mean`"),
        ('{"crop": "224"}', "Expected `int`, got `str` - at `$.crop`"),
        ("{", "Input data was truncated"),
    ],
)
def test_preprocess_json_that_makes_no_sense_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BundleError) as caught:
        from_json(text.encode(), Preprocess, where="manifest.json", error=BundleError)
    assert str(caught.value).startswith("manifest.json cannot be read: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_preprocess_refuses_numbers_that_are_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="must be finite, std above zero, none beyond a million"):
        Preprocess(mean=(value, 0.0, 0.0))
    with pytest.raises(ValueError, match="must be finite, std above zero, none beyond a million"):
        Preprocess(std=(1.0, value, 1.0))
