"""libgne computes what Python computes: the same pixels, the same logits bit for bit, the same classes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import libgne
import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from jpegs import jpeg, jpegs, jpegs_with_odd_notes, photo
from libgne import BGR, NV12, NV12_BT709, RGB, Engine, Frame, Library, address, counting_runtime, interleaved, size
from PIL import Image
from tiny_bundles import COLOUR_NET, COLOURS, colour_bundle, onnx_bytes, solid, whole_bundle, write_colour_bundle
from tiny_graph import tiny_pixels

import googlenet_edge
from googlenet_edge.engines.bundle import Golden, write_bundle
from googlenet_edge.engines.predictor import Predictor, open_rgb
from googlenet_edge.preprocess import Preprocess

GEOMETRIES = (Preprocess(resize=36, crop=32), Preprocess(resize=256, crop=224), Preprocess(resize=48, crop=48))


def geometry_bundle(path: Path, preprocess: Preprocess) -> Path:
    """The colour network for another size of the image."""
    crop = preprocess.crop
    model = onnx_bytes(COLOUR_NET.replace("N, 32, 32, 3", f"N, {crop}, {crop}, 3"))
    pixels = np.full((1, crop, crop, 3), 255, np.uint8)
    bundle = replace(colour_bundle(), model=model, golden=Golden(pixels, np.full((1, 3), 4, np.float32)))
    write_bundle(path, replace(bundle, manifest=replace(bundle.manifest, preprocess=preprocess)))
    return path


@pytest.fixture(scope="module")
def colours(gne: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Predictor]]:
    """The colour bundle, open in both languages."""
    path = write_colour_bundle(tmp_path_factory.mktemp("cpp") / "colours")
    with gne.open(path) as engine, googlenet_edge.load(path) as predictor:
        yield engine, predictor


@pytest.fixture(scope="module", params=GEOMETRIES, ids=lambda p: f"{p.crop} of {p.resize}")
def geometry(
    gne: Library, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Engine, Preprocess]]:
    path = geometry_bundle(tmp_path_factory.mktemp("cpp") / "bundle", request.param)
    with gne.open(path) as engine:
        yield engine, request.param


def test_cpp_pixels_of_jpegs_of_all_shapes_are_pythons(geometry: tuple[Engine, Preprocess]) -> None:
    engine, preprocess = geometry
    different, images = {}, dict(jpegs())
    for name, data in images.items():
        image = open_rgb(data, preprocess)
        values = int((engine.pixels_of_jpeg(data) != preprocess.pixels(image)).sum())
        different |= {name: values} if values else {}
    assert different == {}
    assert len(images) >= 90, "together the three geometries see more than 200 images"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged notes
def test_cpp_turns_photos_as_pillow_does_however_their_orientation_is_noted(
    colours: tuple[Engine, Predictor],
) -> None:
    engine, predictor = colours
    upright = predictor.preprocess.pixels(open_rgb(jpeg(photo(48, 40)), predictor.preprocess))
    different, turned = [], 0
    for name, data in jpegs_with_odd_notes():
        expected = predictor.preprocess.pixels(open_rgb(data, predictor.preprocess))
        turned += not np.array_equal(expected, upright)
        different += [] if np.array_equal(engine.pixels_of_jpeg(data), expected) else [name]
    assert different == []
    assert turned >= 40


@given(width=st.integers(1, 300), height=st.integers(1, 300), seed=st.integers(0, 9), padding=st.integers(0, 9))
def test_cpp_pixels_of_frames_of_all_shapes_are_pythons(
    geometry: tuple[Engine, Preprocess], width: int, height: int, seed: int, padding: int
) -> None:
    engine, preprocess = geometry
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    rows = np.zeros((height, width * 3 + padding), np.uint8)
    rows[:, : width * 3] = pixels.reshape(height, -1)
    frame = Frame(
        ctypes.sizeof(Frame), RGB, width, height, rows.ctypes.data, rows.nbytes - padding, rows.shape[1], None, 0, 0
    )
    assert np.array_equal(engine.pixels_of_frame(frame), preprocess.pixels(Image.fromarray(pixels)))


@pytest.mark.realdata
def test_cpp_pixels_of_real_photos_are_pythons(geometry: tuple[Engine, Preprocess]) -> None:
    engine, preprocess = geometry
    with tarfile.open(SHARED / "data" / "flowers" / "val.tar") as archive:
        files = [archive.extractfile(member) for member in archive if member.isfile()][::5]
        for data in (file.read() for file in files if file):
            image = open_rgb(data, preprocess)
            assert np.array_equal(engine.pixels_of_jpeg(data), preprocess.pixels(image))


def test_cpp_bgr_frames_are_rgb_frames_with_swapped_channels(colours: tuple[Engine, Predictor]) -> None:
    engine, _ = colours
    pixels = np.asarray(photo(61, 43))
    swapped = np.ascontiguousarray(pixels[..., ::-1])
    assert np.array_equal(
        engine.pixels_of_frame(interleaved(swapped, kind=BGR)), engine.pixels_of_frame(interleaved(pixels))
    )


BT601 = ((1.164, 0.0, 1.596), (1.164, -0.392, -0.813), (1.164, 2.017, 0.0))
BT709 = ((1.164, 0.0, 1.793), (1.164, -0.213, -0.533), (1.164, 2.112, 0.0))


@pytest.mark.parametrize(("kind", "matrix"), [(NV12, BT601), (NV12_BT709, BT709)], ids=["BT.601", "BT.709"])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (35, 37)], ids=["even", "odd"])
def test_cpp_nv12_frames_are_what_the_standard_says(
    colours: tuple[Engine, Predictor], kind: int, matrix: tuple[tuple[float, ...], ...], width: int, height: int
) -> None:
    engine, predictor = colours
    random = np.random.default_rng(0)
    luma = random.integers(0, 256, (height, width + 5), np.uint8)  # with padding at the end of a row
    chroma = random.integers(0, 256, ((height + 1) // 2, (width + 1) // 2, 2), np.uint8)
    frame = Frame(
        *(ctypes.sizeof(Frame), kind, width, height, luma.ctypes.data, luma.nbytes, luma.shape[1]),
        *(chroma.ctypes.data, chroma.nbytes, chroma.shape[1] * 2),
    )
    spread = chroma.repeat(2, axis=0).repeat(2, axis=1)[:height, :width].astype(np.float64) - 128
    planes = np.concatenate([luma[:, :width, None].astype(np.float64) - 16, spread], axis=2)
    rgb = (planes @ np.array(matrix).T).round().clip(0, 255).astype(np.uint8)
    expected = predictor.preprocess.pixels(Image.fromarray(rgb)).astype(int)
    assert np.abs(engine.pixels_of_frame(frame) - expected).max() <= 1, "integers round other than these decimals"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "int8 in 7 bits"])
def test_cpp_logits_of_googlenet_are_pythons_bit_for_bit(gne: Library, tmp_path: Path, kind: str, threads: int) -> None:
    path, pixels = whole_bundle(tmp_path / "bundle", kind), tiny_pixels(5, crop=64, seed=3)
    with gne.open(path, threads=threads) as engine, googlenet_edge.load(path, threads=threads) as predictor:
        assert np.array_equal(engine.run(pixels), predictor.run(pixels))
        data = jpeg(photo(120, 90))
        found, expected = engine.classify("jpeg", data, size(len(data)), k=10), predictor.predict(data, 10)
        assert [each[:2] for each in found] == [(each.label, each.index) for each in expected]
        assert [each[2] for each in found] == pytest.approx([each.probability for each in expected], rel=1e-12)


def test_cpp_classifies_a_file_bytes_and_a_frame_alike(colours: tuple[Engine, Predictor], tmp_path: Path) -> None:
    engine, predictor = colours
    image = solid((10, 200, 30))
    data = jpeg(image, quality=100)
    (tmp_path / "grün.jpg").write_bytes(data)
    from_file = engine.classify("file", bytes(tmp_path / "grün.jpg"))
    assert from_file == engine.classify("jpeg", data, size(len(data)))
    pixels = np.asarray(open_rgb(data, predictor.preprocess))
    assert from_file == engine.classify("frame", ctypes.byref(interleaved(pixels)))
    assert from_file[0][:2] == ("green", 1)


@pytest.mark.parametrize(
    ("logits", "order"),
    [((0, 900, 900), [1, 2, 0]), ((np.nan, -1, 5), [2, 1, 0])],
    ids=["equal and large", "no number"],
)
def test_cpp_ranks_equal_scores_by_the_lowest_index(
    colours: tuple[Engine, Predictor], logits: tuple[float, ...], order: list[int]
) -> None:
    engine, _ = colours
    scores, found = np.array(logits, np.float32), (libgne.Prediction * 3)()
    for k in (1, 2, 3):
        engine.call("rank", address(scores), size(3), size(k), found)
        assert [each.index for each in found[:k]] == order[:k]
    if np.isfinite(scores).all():
        assert [each.probability for each in found] == [0.5, 0.5, 0], "e to the power of 900 is too large"


def test_cpp_describes_the_bundle(colours: tuple[Engine, Predictor]) -> None:
    engine, predictor = colours
    info = engine.info
    assert (info.crop, info.resize, info.classes, info.threads, info.precision) == (32, 36, 3, 1, b"fp32")
    assert info.runtime_version.decode() == predictor.engine.spec.version
    label, labels = ctypes.c_char_p(), []
    for index in range(3):
        engine.call("label", size(index), ctypes.byref(label))
        labels.append(label.value.decode() if label.value else "")
    assert tuple(labels) == COLOURS


def test_cpp_one_engine_serves_many_threads(gne: Library, tmp_path: Path) -> None:
    path, pixels = whole_bundle(tmp_path / "bundle", "int8"), tiny_pixels(24, crop=64, seed=4)[:, None]
    with gne.open(path) as engine, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(engine.run, pixels))
        assert np.array_equal(np.stack(together), np.stack([engine.run(each) for each in pixels]))


@pytest.mark.parametrize("threads", [1, 2])
def test_cpp_no_more_inferences_run_at_once_than_there_are_cores(gne: Library, tmp_path: Path, threads: int) -> None:
    counting, usable = counting_runtime(tmp_path), os.sched_getaffinity(0)
    if len(usable) < threads:
        pytest.skip("there is one core")
    path, pixels = whole_bundle(tmp_path / "bundle", "int8"), tiny_pixels(48, crop=64)[:, None]
    os.sched_setaffinity(0, sorted(usable)[:threads])
    try:
        with gne.open(path, runtime=counting._name, threads=threads) as engine:
            os.sched_setaffinity(0, usable)  # the threads that compute have them all
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(engine.run, pixels))
    finally:
        os.sched_setaffinity(0, usable)
    assert counting.most_at_once() == 1


def test_cpp_container_with_less_processor_time_has_fewer_cores(gne_prefix: Path, tmp_path: Path) -> None:
    """As in Python, on the cores that are here."""
    quotas = "50000 100000", "0 100000", "100000 100000", "900000000 100000", "max 100000", "", "1 0"
    files = [tmp_path / f"{i}" for i in range(len(quotas))]
    for file, quota in zip(files, quotas, strict=True):
        file.write_text(quota)
    program = gne_prefix.parent / "build" / "tests" / "cores"
    done = subprocess.run([program, *files, tmp_path / "none"], capture_output=True, text=True, check=True)
    all_cores = len(os.sched_getaffinity(0))
    assert [*map(int, done.stdout.split())] == [1, 1, 1, *[all_cores] * 5]


def test_cpp_runtime_reports_nothing_to_who_made_it(gne_prefix: Path, tmp_path: Path) -> None:
    """As in Python: at first it would write the number of this machine into its owner's home."""
    home, image, bundle = tmp_path / "home", tmp_path / "image.jpg", write_colour_bundle(tmp_path / "bundle")
    home.mkdir()
    solid("red").save(image)
    program = gne_prefix.parent / "build" / "tests" / "cold"
    environment = {"HOME": str(home), "GNE_ONNXRUNTIME": str(libgne.wheel_runtime())}
    subprocess.run([program, bundle, image, "0"], env=environment, capture_output=True, check=True)
    assert not [*home.rglob("*")]


def test_cpp_an_engine_closed_by_one_thread_finishes_what_others_compute(gne: Library, tmp_path: Path) -> None:
    path, pixels = whole_bundle(tmp_path / "bundle", "int8"), tiny_pixels(2, crop=64)
    counting = counting_runtime(tmp_path)
    with gne.open(path, runtime=counting._name) as engine, ThreadPoolExecutor(1) as pool:
        logits = np.zeros((2, engine.info.classes), np.float32)
        expected = engine.run(pixels)
        counting.hold(True)
        try:
            arguments = (address(pixels), size(pixels.size), address(logits), size(logits.size))
            running = pool.submit(engine.call, "run", *arguments)
            while not counting.now_under_way() and not running.done():
                time.sleep(0.001)
            gne.check(gne.c.gne_close(engine.handle))
            assert not running.done()
        finally:
            counting.hold(False)
        running.result()
        assert np.array_equal(logits, expected)
        with pytest.raises(libgne.Failed, match="the engine is closed, or was never opened; open the bundle again"):
            engine.run(pixels)
