"""libgne on the processor of a Jetson: cross-built for 64-bit Arm, and run under qemu with ONNX Runtime's own build."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path

import libgne
import numpy as np
import pytest
from jpegs import jpeg, jpegs, photo
from libgne import CPP, done
from tiny_bundles import solid, whole_bundle, write_colour_bundle
from wheels import wheel

import googlenet_edge
from googlenet_edge.engines.predictor import Predictor, open_rgb

APT = (
    "sudo dpkg --add-architecture arm64 && sudo apt update && sudo apt install g++-aarch64-linux-gnu qemu-user"
    " libjpeg62-turbo-dev:arm64 libstdc++6:arm64"
)
PROCESSOR = "cortex-a76"  # close to the Cortex-A78AE of an Orin


def need_cross_tools() -> None:
    """Skips a test where libgne cannot be built for 64-bit Arm, or that cannot be run."""
    libgne.need_tools()
    missing = [tool for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(tool) is None]
    libraries = [Path("/usr/lib/aarch64-linux-gnu") / name for name in ("libjpeg.so", "libstdc++.so.6")]
    missing += [str(library) for library in libraries if not library.exists()]
    if missing:
        pytest.skip(f"libgne cannot be built for aarch64 here: {', '.join(missing)} missing; {APT}")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of ``engines/cpp/tests``, built with the toolchain file that users have."""
    need_cross_tools()
    build = tmp_path_factory.mktemp("aarch64")
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={CPP / 'cmake' / 'aarch64-linux-gnu.cmake'}"
    libgne.cmake(CPP, build, toolchain, "-DGNE_TESTS=ON", "-DGNE_WERROR=ON")
    return build / "tests"


@pytest.fixture(scope="module")
def runtime(programs: Path) -> Path:
    """ONNX Runtime's library out of its wheel for aarch64."""
    options = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (27, 28)]
    found = wheel("aarch64.txt", programs, *options, "--python-version=3.11")
    with zipfile.ZipFile(found) as archive:
        [name] = [name for name in archive.namelist() if "/libonnxruntime.so" in name]
        return Path(archive.extract(name, programs))


def emulated(*command: object, runtime: Path | None = None) -> list[str]:
    """The lines that a program writes."""
    environment = {**os.environ, "QEMU_CPU": PROCESSOR, "GNE_ONNXRUNTIME": str(runtime)}
    return done("qemu-aarch64", *command, env=environment).splitlines()


def expected(predictor: Predictor, data: bytes) -> tuple[str, list[float]]:
    """The SHA-256 of the pixels of a JPEG, and its logits, on this machine."""
    pixels = predictor.preprocess.pixels(open_rgb(data, predictor.preprocess))
    return hashlib.sha256(pixels.tobytes()).hexdigest(), predictor.engine.run(pixels[None])[0].tolist()


def answers(programs: Path, runtime: Path, bundle: Path, images: list[Path]) -> list[tuple[str, list[float]]]:
    """The same there."""
    lines = emulated(programs / "answers", bundle, *images, runtime=runtime)
    return [(pixels, [float.fromhex(logit) for logit in logits]) for pixels, *logits in map(str.split, lines)]


def written(folder: Path, files: list[bytes]) -> list[Path]:
    for number, data in enumerate(files):
        (folder / f"{number}.jpg").write_bytes(data)
    return [folder / f"{number}.jpg" for number in range(len(files))]


@pytest.mark.parametrize("kind", ["int8", "int8 in 7 bits"])
def test_cpp_aarch64_int8_logits_are_those_of_this_machine_bit_for_bit(
    programs: Path, runtime: Path, tmp_path: Path, kind: str
) -> None:
    bundle = whole_bundle(tmp_path / "bundle", kind)
    files = [jpeg(photo(*size, seed)) for seed, size in enumerate([(64, 64), (90, 70), (301, 200), (75, 400)])]
    there = answers(programs, runtime, bundle, written(tmp_path, files))
    with googlenet_edge.load(bundle) as predictor:
        assert there == [expected(predictor, data) for data in files]
    assert len({tuple(logits) for _, logits in there}) == 4


def test_cpp_aarch64_pixels_of_jpegs_of_all_shapes_are_pythons(programs: Path, runtime: Path, tmp_path: Path) -> None:
    bundle = write_colour_bundle(tmp_path / "bundle")
    with googlenet_edge.load(bundle) as predictor:
        images = [data for _, data in jpegs()]
        there = answers(programs, runtime, bundle, written(tmp_path, images))
        here = [expected(predictor, data) for data in images]
    assert [pixels for pixels, _ in there] == [pixels for pixels, _ in here]
    assert np.allclose([logits for _, logits in there], [logits for _, logits in here], rtol=0, atol=1e-4)
    assert len(images) >= 60


def test_cpp_aarch64_hashes_are_sha256(programs: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 200, np.uint8).tobytes()
    (tmp_path / "data").write_bytes(data)
    lines = emulated(programs / "hashes", tmp_path / "data")
    assert lines == [" ".join([hashlib.sha256(data[:size]).hexdigest()] * 2) for size in range(201)]


def test_cpp_aarch64_resizes_alike_with_vectors_and_without(programs: Path) -> None:
    pairs = [line.split() for line in emulated(programs / "resizes")]
    assert [fast for fast, _ in pairs] == [plain for _, plain in pairs]
    assert len({fast for fast, _ in pairs}) == len(pairs) - 1 == 95, "one pixel fills both squares alike"


def test_cpp_aarch64_every_damaged_bundle_ends_with_a_status(programs: Path, runtime: Path, tmp_path: Path) -> None:
    bundle = write_colour_bundle(tmp_path / "bundle")
    lines = emulated(programs / "torture", "bundles", bundle, tmp_path / "damaged", 200, runtime=runtime)
    assert sum(int(line.split()[1]) for line in lines) == 200


def test_cpp_aarch64_many_threads_get_the_same_logits(programs: Path, runtime: Path, tmp_path: Path) -> None:
    solid("red").save(tmp_path / "image.jpg")
    bundle = write_colour_bundle(tmp_path / "bundle")
    [line] = emulated(programs / "crowd", bundle, tmp_path / "image.jpg", 4, 2, 0.5, runtime=runtime)
    assert int(line.split()[0]) > 0
