"""Accuracy over labelled images, and the comparison of two models on the same images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_bundles import COLOURS, PREPROCESS, solid, write_colour_bundle

import googlenet_edge
from googlenet_edge.dataset import open_images
from googlenet_edge.engines.accuracy import Evaluation, compare
from googlenet_edge.engines.evaluate import check_same_classes, evaluate
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.protocol import EngineSpec
from googlenet_edge.errors import DamagedImageError, DataError
from googlenet_edge.statistics import Interval, paired_difference_interval, wilson_interval
from googlenet_edge.target import Device


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_bundle(tmp_path_factory.mktemp("evaluate") / "colours")


@pytest.fixture
def predictor(bundle: Path) -> Iterator[Predictor]:
    opened = googlenet_edge.load(bundle)
    # The folders of images are sorted by name, so the classes of a trained model are too.
    yield Predictor(opened.engine, labels=("a red", "b green", "c blue"), preprocess=opened.preprocess)
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images a class; of the blue ones three are painted red and so lost."""
    for name in ("a red", "b green", "c blue"):
        (tmp_path / name).mkdir()
        for i in range(10):
            colour = "red" if name == "c blue" and i < 3 else name[2:]
            solid(colour).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_evaluate_counts_every_image_with_its_class(predictor: Predictor, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    times = iter([100.0, 107.5])
    images = open_images(folder)
    found = evaluate(predictor, images, progress=lambda *at: seen.append(at), clock=lambda: next(times))
    assert found.confusion.tolist() == [[10, 0, 0], [0, 10, 0], [3, 0, 7]]
    assert found.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert found.correct.tolist() == [True] * 20 + [False] * 3 + [True] * 7
    assert found.seconds == 7.5
    assert (found.accuracy.images, found.accuracy.top1, found.accuracy.top5) == (30, 0.9, 1.0)
    assert found.accuracy.top1_interval == wilson_interval(27, 30)
    assert seen[-1] == (30, 30)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


class FallingLogits:
    """An engine of seven classes that ranks them by their index, whatever it sees."""

    spec = EngineSpec("falling", "1", Device.CPU, threads=1, crop=32, classes=7)

    def run(self, batch: np.ndarray) -> np.ndarray:
        return np.tile(-np.arange(7, dtype=np.float32), (len(batch), 1))


def test_evaluate_on_streams_finds_the_same(predictor: Predictor, bundle: Path, folder: Path) -> None:
    images = open_images(folder)
    with googlenet_edge.load(bundle, streams=3) as opened:
        streamed = Predictor(opened.engine, labels=predictor.labels, preprocess=opened.preprocess)
        found, expected = evaluate(streamed, images), evaluate(predictor, images)
    assert found.predicted.tolist() == expected.predicted.tolist()
    assert found.confusion.tolist() == [[10, 0, 0], [0, 10, 0], [3, 0, 7]]


def test_evaluate_counts_the_first_five_of_more_classes(tmp_path: Path) -> None:
    labels = tuple("abcdefg")
    for name in labels:
        (tmp_path / name).mkdir()
        solid("red").save(tmp_path / name / "0.png")
    found = evaluate(Predictor(FallingLogits(), labels=labels, preprocess=PREPROCESS), open_images(tmp_path))
    assert found.predicted.tolist() == [0] * 7
    assert found.in_top5.tolist() == [True] * 5 + [False] * 2
    assert (found.accuracy.top1, found.accuracy.top5) == (1 / 7, 5 / 7)


def test_evaluate_refuses_images_of_other_classes(predictor: Predictor, folder: Path) -> None:
    (folder / "c blue").rename(folder / "d white")
    sentence = (
        r"has classes that are none of the model's 3: d white \(the model's are a red, b green, c blue\); name the"
    )
    with pytest.raises(DataError, match=sentence):
        evaluate(predictor, open_images(folder))


def test_evaluate_matches_classes_by_name_and_needs_not_all(predictor: Predictor, folder: Path) -> None:
    labels = ("b green", "a red", "c blue")  # so the model says green where it sees red
    shutil.rmtree(folder / "c blue")
    found = evaluate(Predictor(predictor.engine, labels=labels, preprocess=predictor.preprocess), open_images(folder))
    assert found.class_names == labels
    assert found.labels.tolist() == [1] * 10 + [0] * 10
    assert found.predicted.tolist() == [0] * 10 + [1] * 10


def test_training_goes_on_with_classes_in_the_order_of_the_network_only(folder: Path) -> None:
    """Labels are numbers there: the same names in another order would teach one class for another."""
    images = open_images(folder)
    check_same_classes(images.class_names, images)
    with pytest.raises(DataError, match="has 3 classes and the model 3, and they are not the same; give the data"):
        check_same_classes(images.class_names[::-1], images)


def test_evaluate_names_a_damaged_file(predictor: Predictor, folder: Path) -> None:
    (folder / "b green" / "4.png").write_bytes(b"no image")
    with pytest.raises(DamagedImageError, match=r"4\.png is not a JPEG, PNG or WebP image"):
        evaluate(predictor, open_images(folder))


def evaluation(predicted: list[int], labels: list[int]) -> Evaluation:
    right = np.array(predicted) == np.array(labels)
    return Evaluation(COLOURS, np.array(labels), np.array(predicted), right, 1.0, "onnxruntime")


def test_compare_counts_gains_losses_and_agreement() -> None:
    labels = [0] * 50 + [1] * 50
    reference = evaluation([0] * 48 + [1] * 52, labels)  # two lost
    candidate = evaluation([1] + [0] * 48 + [1] * 46 + [2] * 5, labels)  # one of them gained, six others lost
    found = compare(reference, candidate)
    assert found.reference == reference.accuracy
    assert found.agreement == 0.93
    assert found.top1_change_points == pytest.approx(-5.0)
    expected = paired_difference_interval(1, 6, 100)
    assert found.top1_change_interval == Interval(100 * expected.low, 100 * expected.high)
    assert found.mcnemar_p == pytest.approx(2 * 8 / 128)


def test_compare_of_a_model_with_itself_is_no_difference() -> None:
    same = evaluation([0, 1, 2, 0], [0, 1, 2, 1])
    found = compare(same, same)
    assert (found.agreement, found.top1_change_points, found.mcnemar_p) == (1.0, 0.0, 1.0)
    assert found.top1_change_interval.low < 0 < found.top1_change_interval.high


def test_confused_classes_are_those_of_the_matrix_the_most_frequent_first() -> None:
    found = evaluation([1, 1, 2, 0, 0, 0, 2], [0, 0, 0, 1, 2, 2, 2])
    assert found.confused == [(0, 1, 2), (2, 0, 2), (0, 2, 1), (1, 0, 1)]
    assert all(found.confusion[i, j] == count for i, j, count in found.confused)


def test_confused_classes_of_millions_take_no_matrix() -> None:
    names, said = ("",) * 3_000_000, np.array([2_999_999, 1])
    found = Evaluation(names, np.array([2_999_998, 1]), said, np.array([True, True]), 1.0, "onnxruntime")
    assert found.confused == [(2_999_998, 2_999_999, 1)]
