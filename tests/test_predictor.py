"""From images to labels, as a program that embeds the package does it."""

from __future__ import annotations

import inspect
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_bundles import COLOURS, solid, write_colour_bundle

import googlenet_edge
from googlenet_edge import EngineName
from googlenet_edge.engines.predictor import Predictor, open_rgb, rank, ranking
from googlenet_edge.errors import BundleError, DamagedImageError, DataError, EngineError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_bundle(tmp_path_factory.mktemp("predictor") / "colours")


@pytest.fixture
def predictor(bundle: Path) -> Iterator[Predictor]:
    with googlenet_edge.load(bundle) as opened:
        yield opened


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_predict_names_the_class_with_its_probability(predictor: Predictor) -> None:
    best, *others = predictor.predict(solid("red"))
    assert (best.label, best.index) == ("red", 0)
    assert best.probability == pytest.approx(np.exp(4) / (np.exp(4) + 2 * np.exp(-4)))
    assert sum(p.probability for p in [best, *others]) == pytest.approx(1)
    assert predictor.labels == COLOURS


def test_predict_takes_path_bytes_image_and_array_alike(predictor: Predictor, tmp_path: Path) -> None:
    image = solid((10, 200, 30))
    (tmp_path / "green.png").write_bytes(encoded(image))
    sources = [tmp_path / "green.png", str(tmp_path / "green.png"), encoded(image), image, np.asarray(image)]
    first, *others = predictor.predict_batch(sources)
    assert first[0].label == "green"
    assert all(other == first for other in others)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_predict_turns_every_mode_of_an_open_image_into_rgb(predictor: Predictor, mode: str) -> None:
    logits = predictor.logits([solid("white").convert(mode)])
    assert np.allclose(logits, 4.0, atol=0.1)


def test_predict_applies_the_orientation_of_an_open_image(predictor: Predictor) -> None:
    image = solid("blue", (40, 40))
    image.paste("red", (0, 0, 40, 20))
    turned = image.transpose(Image.Transpose.ROTATE_180)
    turned.getexif()[0x0112] = 3
    plain, upright = (np.asarray(open_rgb(i, predictor.preprocess)) for i in (image, turned))
    assert np.array_equal(plain, upright)


def test_predict_of_equal_scores_leads_with_the_lowest_index(predictor: Predictor) -> None:
    assert [p.label for p in predictor.predict(solid("black"))] == ["red", "green", "blue"]
    assert [p.label for p in predictor.predict(solid((0, 255, 255)))] == ["green", "blue", "red"]


def test_rank_orders_by_score_then_index_and_sums_to_one() -> None:
    labels = tuple("abcdef")
    ((first, second, third),) = rank(np.array([[1, 900, 3, 900, 3, -900]], np.float32), labels, 3)
    assert [first.label, second.label, third.label] == ["b", "d", "c"]
    assert (first.probability, second.probability, third.probability) == (0.5, 0.5, 0.0)


def test_ranking_of_many_equals_leads_with_the_lowest_index() -> None:
    row = np.random.default_rng(0).integers(0, 3, 1000).astype(np.float32)
    expected = sorted(range(1000), key=lambda index: (-row[index], index))
    assert ranking(row[None], 1000).tolist() == [expected]


def test_predict_gives_five_classes_or_all_where_there_are_fewer(predictor: Predictor) -> None:
    assert len(predictor.predict(solid("red"))) == 3
    assert len(predictor.predict(solid("red"), top_k=1)) == 1
    assert len(predictor.predict(solid("red"), top_k=np.int64(2))) == 2  # type: ignore[arg-type]  (of an array)
    assert len(predictor.predict(solid("red"), 3)) == 3


@pytest.mark.parametrize("top_k", [0, -1, 4])
def test_predict_refuses_a_top_k_outside_the_classes(predictor: Predictor, top_k: int) -> None:
    with pytest.raises(EngineError, match=f"top_k is {top_k}, but the bundle has 3 classes; ask for 1 to 3"):
        predictor.predict(solid("red"), top_k=top_k)


def test_predict_batch_of_any_length_equals_one_by_one(predictor: Predictor) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(19)]
    assert predictor.predict_batch(iter(images)) == [predictor.predict(image) for image in images]
    assert predictor.predict_batch([]) == []


def test_predict_batch_holds_a_few_images_at_a_time(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = 0
    waiting: list[int] = []
    run = predictor.engine.run

    def images() -> Iterator[Image.Image]:
        nonlocal opened
        for _ in range(100):
            opened += 1
            yield solid("red")

    def counted(batch: np.ndarray) -> np.ndarray:
        nonlocal opened
        waiting.append(opened)
        opened = 0
        return run(batch)

    monkeypatch.setattr(predictor.engine, "run", counted)
    assert len(predictor.predict_batch(images())) == 100
    assert sum(waiting) == 100
    assert max(waiting) <= 16


def test_logits_are_the_networks_outputs(predictor: Predictor) -> None:
    logits = predictor.logits([solid("red"), solid("white")])
    assert logits.dtype == np.float32
    assert np.allclose(logits, [[4, -4, -4], [4, 4, 4]], atol=1e-5)
    assert predictor.logits([]).shape == (0, 3)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=lambda pixels: f"{pixels.dtype} {pixels.shape}",
)
def test_predict_refuses_an_array_that_is_no_rgb_image(predictor: Predictor, pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"expected RGB pixels uint8 \(H, W, 3\)"):
        predictor.predict(pixels)


def test_predict_refuses_what_is_no_image_at_all(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="an image cannot be a int; give a path"):
        predictor.predict(7)  # type: ignore[arg-type]


def test_predict_names_a_damaged_file(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "half.jpg").write_bytes(encoded(solid("red", (400, 400)), "JPEG")[:900])
    with pytest.raises(DamagedImageError, match=r"half\.jpg is damaged"):
        predictor.predict(tmp_path / "half.jpg")
    with pytest.raises(DamagedImageError, match="the image is damaged"), Image.open(tmp_path / "half.jpg") as image:
        predictor.predict(image)
    with pytest.raises(DamagedImageError, match=r"none\.jpg is missing"):
        predictor.predict(tmp_path / "none.jpg")


CPU_ENGINES = [EngineName.ONNXRUNTIME, EngineName.OPENVINO]


@pytest.fixture(params=CPU_ENGINES, ids=lambda engine: engine.value)
def streamed(bundle: Path, request: pytest.FixtureRequest) -> Iterator[Predictor]:
    with googlenet_edge.load(bundle, streams=3, engine=request.param) as opened:
        yield opened


def test_streams_give_what_one_stream_gives_in_the_same_order(streamed: Predictor, bundle: Path) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(50)]
    with googlenet_edge.load(bundle, engine=EngineName(streamed.engine.spec.backend)) as one:
        assert np.array_equal(streamed.logits(images), one.logits(images))
        assert streamed.predict_batch(iter(images), 1) == one.predict_batch(images, 1)
    assert streamed.predict_batch([]) == []


def test_streams_are_as_many_inferences_at_the_same_time(streamed: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=60)  # nobody passes before three are there
    run = streamed.engine.run

    def meeting(batch: np.ndarray) -> np.ndarray:
        together.wait()
        return run(batch)

    monkeypatch.setattr(streamed.engine, "run", meeting)
    assert len(streamed.logits([solid("red")] * 9)) == 9


def test_streams_name_a_damaged_image_among_good_ones(streamed: Predictor, tmp_path: Path) -> None:
    (tmp_path / "letter.jpg").write_text("Dear dog")
    images = [solid("red"), solid("green"), tmp_path / "letter.jpg", solid("blue")]
    with pytest.raises(DamagedImageError, match=r"letter\.jpg is not a JPEG"):
        streamed.predict_batch(images * 20)
    assert streamed.predict(solid("green"))[0].label == "green"


def test_streams_hold_a_few_images_at_a_time(streamed: Predictor) -> None:
    taken = done = most = 0

    def images() -> Iterator[Image.Image]:
        nonlocal taken
        for _ in range(200):
            taken += 1
            yield solid("red")

    for _ in streamed.each(images()):
        done += 1
        most = max(most, taken - done)
    assert done == 200
    assert most <= 8 * 3


def test_streams_after_closing_say_so(bundle: Path) -> None:
    with googlenet_edge.load(bundle, streams=2) as predictor:
        pass
    with pytest.raises(EngineError, match="the engine is closed"):
        predictor.predict_batch([solid("red")] * 3)


@pytest.mark.parametrize("streams", [0, -1])
def test_streams_are_one_or_more(bundle: Path, streams: int) -> None:
    with pytest.raises(EngineError, match=f"streams is {streams}; give 1 to 256"):
        googlenet_edge.load(bundle, streams=streams)


def test_predict_works_from_several_threads_at_once(predictor: Predictor) -> None:
    colours = [solid(c) for c in COLOURS] * 20
    with ThreadPoolExecutor(4) as pool:
        assert [p[0].label for p in pool.map(predictor.predict, colours)] == list(COLOURS) * 20


def test_predict_after_closing_says_so(bundle: Path) -> None:
    with googlenet_edge.load(bundle) as predictor:
        pass
    with pytest.raises(EngineError, match="the engine is closed"):
        predictor.predict(solid("red"))


def test_load_of_a_missing_bundle_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing is not a bundle: it has no manifest.json"):
        googlenet_edge.load(tmp_path / "nothing")


FRESH = """
import json, sys
import googlenet_edge
with googlenet_edge.load(sys.argv[1]) as predictor:
    label = predictor.predict(sys.argv[2])[0].label
print(json.dumps([label, sorted(sys.modules)]))
"""


def test_load_and_predict_import_nothing_but_the_base_install(bundle: Path, tmp_path: Path) -> None:
    solid("blue").save(tmp_path / "blue.png")
    command = [sys.executable, "-c", FRESH, str(bundle), str(tmp_path / "blue.png")]
    label, modules = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert label == "blue"
    heavy = {"torch", "onnx", "openvino", "typer", "rich", "safetensors", "googlenet_edge.calibration"}
    assert heavy.isdisjoint(modules)
    assert {"numpy", "PIL", "msgspec", "onnxruntime"} <= set(modules), "the test looks at the right process"


def test_import_of_the_package_loads_no_runtime() -> None:
    command = [
        sys.executable,
        "-c",
        "import googlenet_edge, sys; print({'onnxruntime', 'openvino'} & set(sys.modules))",
    ]
    assert subprocess.run(command, check=True, capture_output=True).stdout.strip() == b"set()"


def test_exported_members_are_these_and_documented() -> None:
    assert googlenet_edge.__all__ == [
        "EdgeError",
        "EngineName",
        "ImageSource",
        "Prediction",
        "Predictor",
        "Preprocess",
        "__version__",
        "load",
    ]
    assert all(hasattr(googlenet_edge, name) for name in googlenet_edge.__all__)
    assert str(inspect.signature(googlenet_edge.load)) == (
        "(path: 'str | Path', *, threads: 'int' = 1, streams: 'int' = 1, engine: 'EngineName | str | None' = None,"
        " build: 'bool' = True) -> 'Predictor'"
    )
    documented = ("EdgeError", "EngineName", "Prediction", "Predictor", "Preprocess", "load")
    assert all(inspect.getdoc(getattr(googlenet_edge, name)) for name in documented)
    with pytest.raises(AttributeError, match="module 'googlenet_edge' has no attribute 'nonsense'"):
        _ = googlenet_edge.nonsense  # type: ignore[attr-defined]


def test_load_takes_the_name_of_an_engine_and_the_home(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(bundle.parent))
    with pytest.raises(BundleError, match="^~nobody-of-that-name/bundle"):
        googlenet_edge.load("~nobody-of-that-name/bundle")
    with googlenet_edge.load(f"~/{bundle.name}", engine="onnxruntime") as predictor:
        assert predictor.engine.spec.backend == "onnxruntime"
    with pytest.raises(
        EngineError, match="there is no engine 'nonsense'; give one of: onnxruntime, openvino, tensorrt"
    ):
        googlenet_edge.load(bundle, engine="nonsense")


@pytest.mark.parametrize("images", ["photo.jpg", b"JPEG", Path("photo.jpg"), Image.new("RGB", (9, 9))])
def test_predict_batch_of_one_image_says_to_give_a_list(predictor: Predictor, images: Any) -> None:
    with pytest.raises(
        DataError, match=f"images is one {type(images).__name__}; give a list of images, or use predict"
    ):
        predictor.predict_batch(images)


@pytest.mark.parametrize("top_k", [1.0, "3"])
def test_predict_wants_a_whole_number_of_answers(predictor: Predictor, top_k: Any) -> None:
    with pytest.raises(EngineError, match=f"top_k is {top_k!r}, but the bundle has 3 classes; ask for 1 to 3"):
        predictor.predict(solid("red"), top_k=top_k)
