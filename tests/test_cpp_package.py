"""libgne as a package: found by CMake and pkg-config, used from C and C++, nothing exported but ``gne_*``."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import libgne
import pytest
from libgne import CPP, WARNINGS, Library, compiled, done
from tiny_bundles import solid, write_colour_bundle

import googlenet_edge

MAX_STRIPPED_BYTES = 200_000


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_colour_bundle(tmp_path / "colours")


@pytest.fixture
def red(tmp_path: Path) -> Path:
    solid((250, 5, 10), (64, 48)).save(tmp_path / "red.jpg", quality=95)
    return tmp_path / "red.jpg"


def with_runtime(prefix: Path | None = None) -> dict[str, str]:
    """The environment in which a program finds ONNX Runtime, and libgne where it is not linked to its place."""
    found = {"LD_LIBRARY_PATH": str(prefix / "lib")} if prefix else {}
    return {**os.environ, "GNE_ONNXRUNTIME": str(libgne.wheel_runtime()), **found}


def test_cpp_c_program_is_refused_what_makes_no_sense(
    gne_prefix: Path, bundle: Path, red: Path, tmp_path: Path
) -> None:
    program = compiled("cc", CPP / "tests" / "consumer.c", prefix=gne_prefix, out=tmp_path / "consumer")
    shown = done(program, bundle, red, env=with_runtime(gne_prefix)).splitlines()
    with googlenet_edge.load(bundle) as predictor:
        assert shown == [f"{p.label} {p.index} {p.probability:.9f}" for p in predictor.predict(red)]


def test_cpp_a_thread_is_cancelled_after_a_call_and_not_within(
    gne_prefix: Path, bundle: Path, red: Path, tmp_path: Path
) -> None:
    program = compiled(
        "cc", CPP / "tests" / "cancel.c", prefix=gne_prefix, out=tmp_path / "cancel", flags=("-pthread",)
    )
    assert done(program, bundle, red, env=with_runtime(gne_prefix)).splitlines() == ["GNE_OK"] * 3


def test_cpp_cpp_program_owns_moves_and_throws(gne_prefix: Path, bundle: Path, red: Path, tmp_path: Path) -> None:
    program = compiled("c++", CPP / "tests" / "consumer.cpp", prefix=gne_prefix, out=tmp_path / "consumer")
    shown = done(program, bundle, red, cwd=tmp_path, env=with_runtime(gne_prefix)).splitlines()
    assert shown[:6] == [*["red"] * 5, "red green blue 3 fp32"]
    assert shown[6:] == [
        "GNE_BAD_ARGUMENT: the engine is NULL; give one from gne_open",
        "GNE_BAD_ARGUMENT: k is 4, but the bundle has 3 classes; ask for 1 to 3",
        "GNE_BAD_IMAGE: none.jpg is missing",
        "GNE_BAD_ARGUMENT: the batch has 0 pixel bytes and room for 0 logits; give 3072 and 3 for every image",
        "GNE_BAD_BUNDLE: none is not a bundle: it has no manifest.json; give a folder that gnet-edge build wrote",
    ]


def test_cpp_pkg_config_needs_no_other_package_and_knows_where_an_absolute_libdir_is(tmp_path: Path) -> None:
    libgne.need_tools()
    folders = (
        "-DCMAKE_INSTALL_PREFIX=/opt/gne",
        "-DCMAKE_INSTALL_LIBDIR=/srv/lib",
        "-DCMAKE_INSTALL_INCLUDEDIR=include",
    )
    done("cmake", "-S", CPP, "-B", tmp_path, *folders)
    flags = done("pkg-config", "--cflags", "--libs", "gne", env={**os.environ, "PKG_CONFIG_LIBDIR": str(tmp_path)})
    assert flags.split() == ["-I/opt/gne/include", "-L/srv/lib", "-lgne"]


def test_cpp_pkg_config_knows_where_it_was_installed(gne_prefix: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "chosen"
    done("cmake", "--install", gne_prefix.parent / "build", "--prefix", prefix)
    [file] = prefix.rglob("gne.pc")
    known = {**os.environ, "PKG_CONFIG_LIBDIR": str(file.parent)}
    folders = [
        Path(done("pkg-config", f"--variable={name}", "gne", env=known).strip()) for name in ("includedir", "libdir")
    ]
    assert (folders[0] / "gne" / "gne.h").exists() and (folders[1] / "libgne.so").exists()
    assert all(folder.resolve().is_relative_to(prefix) for folder in folders)


@pytest.mark.parametrize("how", ["run", "open"])
def test_cpp_a_program_may_end_while_its_threads_work(gne_prefix: Path, bundle: Path, red: Path, how: str) -> None:
    for _ in range(8):
        command = [gne_prefix.parent / "build" / "tests" / "leave", bundle, red, how]
        ended = subprocess.run(command, env=with_runtime(), capture_output=True, text=True, timeout=60, check=False)
        said = "the process ends, and nothing is computed any more; classify before\n"
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, said, "")


@pytest.fixture(scope="module")
def examples(gne_prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, built as a user does who copied their folder."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(CPP / "examples", folder / "source")
    libgne.cmake(folder / "source", folder / "build", f"-DCMAKE_PREFIX_PATH={gne_prefix}", "-DCMAKE_CXX_FLAGS=-Werror")
    return folder / "build"


def test_cpp_example_classify_shows_labels_and_reports_damaged_files(
    examples: Path, bundle: Path, red: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.jpg").write_text("Dear dog")
    command = [examples / "classify", bundle, tmp_path / "letter.jpg", red]
    ended = subprocess.run(command, env=with_runtime(), capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(rf"{red}\n +[\d.]+ %  red\n( .*\n){{2}}", ended.stdout), ended.stdout
    reason = "is no JPEG; decode other formats elsewhere and give the pixels as a frame"
    assert ended.stderr == f"classify: {tmp_path / 'letter.jpg'} {reason}\n"


def test_cpp_example_camera_counts_the_frames_of_a_folder(examples: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for i, colour in enumerate(("red", "green", "blue")):
        solid(colour).save(tmp_path / "frames" / f"{i}.jpg")
    shown = done(examples / "camera", bundle, tmp_path / "frames", "1000", env=with_runtime()).splitlines()
    assert [line.split("  ")[:2] for line in shown[:3]] == [["0.jpg", "red"], ["1.jpg", "green"], ["2.jpg", "blue"]]
    assert re.fullmatch(r"3 frames, p50 [\d.]+ ms, p99 [\d.]+ ms, [0-3] later than 1\.0 ms", shown[3])


def test_cpp_example_camera_plays_as_many_frames_as_it_is_told(examples: Path, bundle: Path, tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpeg", "c.jpg"):
        solid("red").save(tmp_path / name, "JPEG")
    (tmp_path / "0.jpg").mkdir()
    shown = done(examples / "camera", bundle, tmp_path, "1000", "2", env=with_runtime()).splitlines()
    assert [line.split("  ")[0] for line in shown[:2]] == ["a.JPG", "b.jpeg"]
    assert shown[2].startswith("2 frames, p50 ")


def test_cpp_example_camera_fails_where_no_frame_is_whole(examples: Path, bundle: Path, tmp_path: Path) -> None:
    solid("red").save(tmp_path / "whole.jpg")
    (tmp_path / "0.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
    (tmp_path / "1.jpg").touch()
    command = [examples / "camera", bundle, tmp_path, "1000", "2"]
    ended = subprocess.run(command, env=with_runtime(), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "damaged frames: 2\n")


def test_cpp_example_camera_goes_on_after_a_damaged_file(examples: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for i, colour in enumerate(("red", "green", "blue")):
        solid(colour).save(tmp_path / "frames" / f"{i}.jpg")
    (tmp_path / "frames" / "1.jpg").write_bytes((tmp_path / "frames" / "1.jpg").read_bytes()[:300])
    shown = done(examples / "camera", bundle, tmp_path / "frames", "1000", env=with_runtime()).splitlines()
    assert [line.split("  ")[:2] for line in shown[:2]] == [["0.jpg", "red"], ["2.jpg", "blue"]]
    assert shown[2] == "damaged frames: 1"
    assert shown[3].startswith("2 frames, p50 ")


@pytest.fixture(scope="module")
def webcam(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which /dev/null is a camera that has six frames: 1, 3 and 5 are red, green, blue."""
    folder = tmp_path_factory.mktemp("webcam")
    done("cc", *WARNINGS, "-shared", "-fPIC", CPP / "tests" / "fake_v4l2.c", "-o", folder / "fake.so", "-ldl")
    ycbcr = {"red": (76, 84, 255), "green": (149, 43, 21), "blue": (29, 255, 107)}
    for number, colour in enumerate(("white", "red", "white", "green", "white", "blue")):
        solid(colour if colour != "green" else (0, 255, 0)).save(folder / f"{number}.jpg")
        y, cb, cr = ycbcr.get(colour, (235, 128, 128))
        (folder / f"{number}.nv12").write_bytes(bytes([y]) * (64 * 48) + bytes([cb, cr]) * (32 * 24))
    return {"LD_PRELOAD": str(folder / "fake.so"), "FAKE_V4L2": "/dev/null", "FAKE_V4L2_FRAMES": str(folder)}


@pytest.mark.parametrize("pixels", ["MJPEG", "NV12"])
def test_cpp_example_camera_looks_at_the_newest_frame_of_a_camera_and_counts_the_others(
    examples: Path, bundle: Path, webcam: dict[str, str], pixels: str
) -> None:
    environment = with_runtime() | webcam | {"FAKE_V4L2_FORMAT": pixels}
    shown = done(examples / "camera", bundle, "/dev/null", "30", "3", env=environment).splitlines()
    assert [line.split("  ")[:2] for line in shown[:3]] == [["1", "red"], ["3", "green"], ["5", "blue"]]
    assert shown[3] == "2 frames came while others were computed, or were lost"
    assert re.fullmatch(r"3 frames, p50 [\d.]+ ms, p99 [\d.]+ ms, [0-3] later than 33\.3 ms", shown[4])


def test_cpp_example_camera_counts_a_frame_that_cannot_be_decoded_and_goes_on(
    examples: Path, bundle: Path, webcam: dict[str, str]
) -> None:
    environment = with_runtime() | webcam | {"FAKE_V4L2_FAULT": "half"}
    shown = done(examples / "camera", bundle, "/dev/null", "30", "3", env=environment).splitlines()
    assert [line.split("  ")[:2] for line in shown[:2]] == [["1", "red"], ["5", "blue"]]
    assert shown[2:4] == ["2 frames came while others were computed, or were lost", "damaged frames: 1"]
    assert shown[4].startswith("2 frames, p50 ")


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("interrupt", ["1  red", "3  green", "1 frames came", "2 frames, p50 "]),
        ("torn", ["5  blue", "2 frames came", "damaged frames: 2", "1 frames, p50 "]),
        ("lost", ["1  red", "3  green", "0 frames came", "damaged frames: 1", "2 frames, p50 "]),
        ("uncounted", ["0  red", "0  green", "0  blue", "0 frames came", "3 frames, p50 "]),
    ],
)
def test_cpp_example_camera_stops_at_ctrl_c_and_counts_what_the_driver_says_of_frames(
    examples: Path, bundle: Path, webcam: dict[str, str], fault: str, seen: list[str]
) -> None:
    environment = with_runtime() | webcam | {"FAKE_V4L2_FORMAT": "NV12", "FAKE_V4L2_FAULT": fault}
    frames = [] if fault == "interrupt" else ["3"]
    shown = done(examples / "camera", bundle, "/dev/null", "30", *frames, env=environment).splitlines()
    assert [line[: len(start)] for line, start in zip(shown, seen, strict=True)] == seen


def test_cpp_example_camera_counts_from_now_where_the_drivers_clock_is_another(
    examples: Path, bundle: Path, webcam: dict[str, str]
) -> None:
    environment = with_runtime() | webcam | {"FAKE_V4L2_FAULT": "clock"}
    first, *_ = done(examples / "camera", bundle, "/dev/null", "30", "1", env=environment).splitlines()
    assert re.fullmatch(r"1  red  \d+ %  \d+\.\d ms", first)


@pytest.mark.parametrize(
    ("colours", "seen"),
    [
        ("8 0 0", "green"),  # sRGB, whose default is BT.601
        ("8 2 0", "red"),  # sRGB, but BT.709
        ("3 0 0", "red"),  # Rec. 709
        ("3 1 2", "green"),  # Rec. 709, but BT.601, of limited range
        ("8 4 0", "red"),  # xvYCC of BT.709
        ("8 0 1", "of full range, and libgne takes limited range"),
        ("7 0 0", "of full range, and libgne takes limited range"),  # as in a JPEG
        ("10 0 0", "that is neither BT.601 nor BT.709"),  # BT.2020
    ],
)
def test_cpp_example_camera_takes_the_colours_of_nv12_as_the_driver_says(
    examples: Path, bundle: Path, webcam: dict[str, str], colours: str, seen: str
) -> None:
    """A colour that is a little more red in BT.709 and a little more green in BT.601."""
    frames = bundle.parent
    for number in range(2):
        (frames / f"{number}.nv12").write_bytes(bytes([120]) * (64 * 48) + bytes([68, 136]) * (32 * 24))
    driver = {"FAKE_V4L2_FORMAT": "NV12", "FAKE_V4L2_COLOURS": colours, "FAKE_V4L2_FRAMES": str(frames)}
    command = [examples / "camera", bundle, "/dev/null", "30", "1"]
    ended = subprocess.run(
        command, env=with_runtime() | webcam | driver, capture_output=True, text=True, timeout=60, check=False
    )
    if seen in {"red", "green"}:
        assert ended.stdout.startswith(f"1  {seen}  "), ended
    else:
        assert (ended.returncode, ended.stderr) == (1, f"camera: /dev/null gives NV12 {seen}; convert the frames\n")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("unplugged", "/dev/null gives no frame: No such device"),
        ("none", "/dev/null is no V4L2 device: Inappropriate ioctl for device"),
        ("capability", "/dev/null is no camera with mapped buffers"),
        ("format", "/dev/null gives neither MJPEG nor NV12"),
        ("used", "/dev/null is used by another program: Device or resource busy"),
        ("busy", "/dev/null has no mapped buffers: Device or resource busy"),
        ("gone", "/dev/null is gone or stopped"),
        ("broken", "/dev/null gives no frame: Input/output error"),
        ("silent", "/dev/null gave no frame for 5 seconds"),
    ],
)
def test_cpp_example_camera_says_what_is_wrong_with_a_camera(
    examples: Path, bundle: Path, webcam: dict[str, str], fault: str, sentence: str
) -> None:
    environment = with_runtime() | ({} if fault == "none" else webcam | {"FAKE_V4L2_FAULT": fault})
    command = [examples / "camera", bundle, "/dev/null"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, f"camera: {sentence}\n")


def test_cpp_library_exports_only_its_functions_and_is_small(gne_prefix: Path, tmp_path: Path) -> None:
    if shutil.which("nm") is None or shutil.which("strip") is None:
        pytest.skip("binutils is not installed; sudo apt install binutils")
    library = gne_prefix / "lib" / "libgne.so"
    lines = done("nm", "-D", "--defined-only", library).splitlines()
    exported = {line.split()[2].partition("@")[0] for line in lines if line.split()[1] != "A"}
    header = (gne_prefix / "include" / "gne" / "gne.h").read_text()
    assert exported == set(re.findall(r"^GNE_API [^;(]*?(gne_\w+)\(", header, re.MULTILINE))
    done("strip", library, "-o", tmp_path / "stripped.so")
    assert (tmp_path / "stripped.so").stat().st_size <= MAX_STRIPPED_BYTES


def test_cpp_library_has_no_memory_of_its_own_for_each_thread(gne_prefix: Path) -> None:
    """In a library that `dlopen` loads it is allocated when it is used first; without memory the process then ends."""
    if shutil.which("readelf") is None:
        pytest.skip("binutils is not installed; sudo apt install binutils")
    lines = done("readelf", "--segments", "--wide", gne_prefix / "lib" / "libgne.so").splitlines()
    kinds = {line.split()[0] for line in lines if line.startswith("  ")}
    assert "LOAD" in kinds
    assert "TLS" not in kinds


def test_cpp_library_says_its_version_and_names_its_statuses(gne: Library, gne_prefix: Path) -> None:
    assert gne.c.gne_version().decode() == googlenet_edge.__version__
    assert (gne_prefix / "lib" / f"libgne.so.{gne.c.gne_abi()}").exists()
    header = (gne_prefix / "include" / "gne" / "gne.h").read_text()
    statuses = re.findall(r"^  (GNE_\w+) = (\d+)", header[: header.index("} gne_status")], re.MULTILINE)
    assert len(statuses) == 8
    assert [gne.c.gne_status_name(int(value)).decode() for _, value in statuses] == [name for name, _ in statuses]
    assert gne.c.gne_status_name(99) == b"an unknown status"


def test_cpp_package_of_another_minor_version_is_refused(gne_prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(other CXX)\nfind_package(gne 0.9 REQUIRED)\n"
    )
    command = ["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={gne_prefix}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert 'compatible with requested version "0.9"' in " ".join(ended.stderr.split())


def test_cpp_headers_have_no_warnings_with_clang() -> None:
    """The sources themselves are built with clang by the tests under sanitizers."""
    libgne.need_tools()
    if shutil.which("clang++") is None:
        pytest.skip("clang is not installed; sudo apt install clang")
    include = f"-I{CPP / 'include'}"
    done("clang", "-std=c11", "-fsyntax-only", *WARNINGS, include, CPP / "tests" / "consumer.c")
    done("clang++", "-std=c++17", "-fsyntax-only", *WARNINGS, include, CPP / "tests" / "consumer.cpp")


def test_cpp_slots_of_the_runtimes_table_are_those_of_its_header(tmp_path: Path) -> None:
    libgne.need_tools()
    folders = [f"-I{folder}" for folder in ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")]
    if not libgne.run_quietly("c++", "-E", *folders, "-include", "onnxruntime_c_api.h", "-x", "c++", "/dev/null"):
        pytest.skip("ONNX Runtime's header is not installed; sudo apt install libonnxruntime-dev, where there is one")
    done("c++", "-std=c++17", "-fsyntax-only", *folders, f"-I{CPP}/src", CPP / "tests" / "slots.cpp")


def test_cpp_entries_of_a_configuration_reach_the_runtime(gne_prefix: Path) -> None:
    """The one entry has no effect on the processors of most tests: a refused one proves its slot."""
    long, used = done(gne_prefix.parent / "build" / "tests" / "entries", env=with_runtime()).splitlines()
    assert long.startswith("Config key is empty or longer")
    assert used == "taken"


def fake_runtime(folder: Path, source: str | Path, *flags: str) -> Path:
    """A shared library in the place of ONNX Runtime."""
    done("cc", "-shared", "-fPIC", *flags, source, "-o", folder / "fake.so")
    return folder / "fake.so"


def refused_runtime(gne: Library, bundle: Path, runtime: Path) -> str:
    """The text with which a runtime is refused."""
    with pytest.raises(libgne.Failed) as caught, gne.open(bundle, runtime=runtime):
        pass
    assert caught.value.status == libgne.BAD_RUNTIME
    text, _, advice = str(caught.value).rpartition("; ")
    assert advice == (
        "install ONNX Runtime 1.19 or newer and name its libonnxruntime.so in options.runtime or $GNE_ONNXRUNTIME"
    )
    return text


def test_cpp_missing_runtime_says_what_to_install(gne: Library, bundle: Path, tmp_path: Path) -> None:
    text = refused_runtime(gne, bundle, tmp_path / "none.so")
    assert text.startswith(f"ONNX Runtime cannot be loaded ({tmp_path / 'none.so'}: cannot open shared object file")


def test_cpp_other_library_is_no_runtime(gne: Library, bundle: Path, gne_prefix: Path) -> None:
    library = gne_prefix / "lib" / "libgne.so"
    assert refused_runtime(gne, bundle, library) == f"{library} is not ONNX Runtime"


@pytest.mark.parametrize("version", ["1.18.1", "0.20.0", "1", "one.two", ""])
def test_cpp_too_old_runtime_is_refused_by_its_version(
    gne: Library, bundle: Path, tmp_path: Path, version: str
) -> None:
    fake = fake_runtime(tmp_path, CPP / "tests" / "fake_runtime.c", f'-DFAKE_VERSION="{version}"')
    assert refused_runtime(gne, bundle, fake) == f"{fake} is ONNX Runtime {version}"


def test_cpp_runtime_without_the_api_is_refused(gne: Library, bundle: Path, tmp_path: Path) -> None:
    fake = fake_runtime(tmp_path, CPP / "tests" / "fake_runtime.c", '-DFAKE_VERSION="2.0.0"')
    assert refused_runtime(gne, bundle, fake) == f"{fake} has no C API of version 16"


def test_cpp_runtime_is_found_by_the_environment(gne_prefix: Path, bundle: Path, red: Path, tmp_path: Path) -> None:
    program = compiled("cc", CPP / "tests" / "consumer.c", prefix=gne_prefix, out=tmp_path / "consumer")
    environment = {**with_runtime(gne_prefix), "GNE_ONNXRUNTIME": "/none.so"}
    ended = subprocess.run([program, bundle, red], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("ONNX Runtime cannot be loaded (/none.so")


def test_cpp_a_program_with_more_rights_than_its_user_takes_no_runtime_from_the_environment(
    gne_prefix: Path, bundle: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "GNE_ONNXRUNTIME": "/none.so"}
    usual, more = libgne.rights(gne_prefix, tmp_path).said(bundle, "", environment)
    assert "/none.so" in usual
    assert "/none.so" not in more


def test_cpp_options_of_a_newer_header_are_refused_only_where_they_are_used(gne: Library, bundle: Path) -> None:
    class Newer(ctypes.Structure):
        _fields_ = (("known", libgne.Options), ("more", ctypes.c_uint64))

    options = Newer(libgne.Options(ctypes.sizeof(Newer), 1, bytes(libgne.wheel_runtime())), 0)
    handle = ctypes.c_void_p()
    gne.check(gne.c.gne_open(bytes(bundle), ctypes.byref(options), ctypes.byref(handle)))
    gne.check(gne.c.gne_close(handle))
    options.more = 1
    with pytest.raises(libgne.Failed, match=r"options\.size is 32, of a newer gne\.h; upgrade libgne"):
        gne.check(gne.c.gne_open(bytes(bundle), ctypes.byref(options), ctypes.byref(handle)))
    assert handle.value is None
