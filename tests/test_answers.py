"""The answers of an evaluation: all of them are kept, with pictures of those that bundles disagree on."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from command import done, refused_without_a_trace
from PIL import Image
from tiny_bundles import COLOURS, solid, write_colour_bundle

from googlenet_edge.dataset import ImageSet
from googlenet_edge.engines.accuracy import Evaluation
from googlenet_edge.engines.evaluate import (
    MOST_THUMBNAILS,
    Answers,
    collect_answers,
    parse_answers,
    thumbnail_of,
)
from googlenet_edge.errors import BundleError
from googlenet_edge.files import write_json
from googlenet_edge.target import Precision

IMAGES = 60


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """60 red images, of which every other one is called green."""
    root = tmp_path / "val"
    root.mkdir()
    paths = tuple(root / f"{i:02}.png" for i in range(IMAGES))
    for path in paths:
        solid("red", size=(300, 200)).save(path)
    return ImageSet(root, COLOURS, paths, tuple(i % 2 for i in range(IMAGES)))


def evaluation(images: ImageSet, wrong: set[int]) -> Evaluation:
    labels = np.array(images.labels)
    predicted = np.where(np.isin(np.arange(IMAGES), list(wrong)), 2, labels)
    return Evaluation(COLOURS, labels, predicted, predicted == labels, seconds=2.5, backend="onnxruntime")


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    return [write_colour_bundle(tmp_path / p.value, p) for p in (Precision.FP32, Precision.INT8)]


def collected(bundles: list[Path], images: ImageSet, *wrong: set[int]) -> Answers:
    return collect_answers(bundles, images, [evaluation(images, of_one) for of_one in wrong])


def test_answers_come_back_as_they_were_written(bundles: list[Path], images: ImageSet) -> None:
    answers = collected(bundles, images, {3}, {3, 5})
    write_json(images.root / "a.json", answers)
    found = parse_answers((images.root / "a.json").read_bytes(), "a.json")
    assert found == answers
    assert found.images[:2] == ("00.png", "01.png")
    assert [bundle.precision for bundle in found.bundles] == [Precision.FP32, Precision.INT8]
    assert [bundle.backend for bundle in found.bundles] == ["onnxruntime"] * 2
    back = found.evaluation(found.bundles[1])
    assert back.backend == "onnxruntime"
    assert back.predicted.tolist() == evaluation(images, {3, 5}).predicted.tolist()
    assert (back.accuracy.top1, back.accuracy.top5, back.seconds) == (58 / 60, 58 / 60, 2.5)


def test_answers_are_of_one_model_on_one_engine(bundles: list[Path], images: ImageSet) -> None:
    first, _ = collected(bundles, images, {3}, {3, 5}).bundles
    assert first.is_of(first.model_sha256, "onnxruntime")
    assert not first.is_of(first.model_sha256, "openvino")
    assert not first.is_of("0" * 64, "onnxruntime")


def test_thumbnails_are_of_what_bundles_disagree_on(bundles: list[Path], images: ImageSet) -> None:
    answers = collected(bundles, images, {3, 7}, {3, 5})
    assert [thumbnail.image for thumbnail in answers.thumbnails] == [5, 7]
    with Image.open(io.BytesIO(answers.thumbnails[0].jpeg)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (96, 64))
    assert len(collected(bundles, images, set(), set(range(IMAGES))).thumbnails) == MOST_THUMBNAILS


def test_thumbnail_keeps_nothing_but_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    solid("blue").save(tmp_path / "photo.jpg", exif=exif)
    assert b"secret" in (tmp_path / "photo.jpg").read_bytes()
    assert b"secret" not in thumbnail_of(tmp_path / "photo.jpg")


def test_answers_are_of_bundles_that_can_be_read(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone is not a bundle"):
        collected([tmp_path / "gone"], images, {1})


def test_eval_writes_answers_where_it_is_asked_to(tmp_path: Path) -> None:
    for name in ("red", "green", "blue"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            solid(name).save(tmp_path / "photos" / name / f"{i}.png")
    write_colour_bundle(tmp_path / "bundle")
    outcome = done("eval", "bundle", "--data", "photos", "--out", "a.json", cwd=tmp_path)
    assert outcome.err.endswith("answers: a.json\n")
    found = json.loads((tmp_path / "a.json").read_text())
    assert len(found["images"]) == len(found["bundles"][0]["predicted"]) == 3
    assert found["bundles"][0]["backend"] == "onnxruntime"
    (tmp_path / "file").write_text("")
    sentence = r"cannot write file/a\.json: .* is not a folder that can be written to; give another --out"
    refused_without_a_trace(sentence, "eval", "bundle", "--data", "photos", "--out", "file/a.json", cwd=tmp_path)
