"""libgne as Python programs see it through `ctypes`, and how the tests build it."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

CPP = Path(__file__).parents[1] / "engines" / "cpp"
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
APT = "sudo apt install cmake g++ libjpeg-dev"

RGB, BGR, NV12, NV12_BT709 = range(4)
BAD_ARGUMENT, CLOSED, BAD_BUNDLE, BAD_RUNTIME, BAD_IMAGE, NO_MEMORY = range(1, 7)


class Failed(Exception):  # noqa: N818  (a status, as the library has it)
    """A status that is not GNE_OK, with the text of gne_last_error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Options(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("threads", ctypes.c_uint32), ("runtime", ctypes.c_char_p))


class Info(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("crop", ctypes.c_uint32),
        ("resize", ctypes.c_uint32),
        ("classes", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("precision", ctypes.c_char_p),
        ("runtime_version", ctypes.c_char_p),
    )


class Prediction(ctypes.Structure):
    _fields_ = (("label", ctypes.c_char_p), ("index", ctypes.c_size_t), ("probability", ctypes.c_double))


class Frame(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("format", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("data", ctypes.c_void_p),
        ("data_size", ctypes.c_size_t),
        ("stride", ctypes.c_size_t),
        ("chroma", ctypes.c_void_p),
        ("chroma_size", ctypes.c_size_t),
        ("chroma_stride", ctypes.c_size_t),
    )


@dataclass(frozen=True, slots=True)
class Library:
    """A loaded libgne."""

    c: ctypes.CDLL

    def check(self, status: int) -> None:
        """Raises `Failed`."""
        if status:
            raise Failed(status, self.c.gne_last_error().decode())

    @contextmanager
    def open(self, bundle: Path, *, threads: int = 1, runtime: Path | str | None = None) -> Iterator[Engine]:
        """Opens a bundle, by default with the ONNX Runtime of the Python wheel."""
        options = Options(ctypes.sizeof(Options), threads, os.fsencode(wheel_runtime() if runtime is None else runtime))
        handle = ctypes.c_void_p()
        self.check(self.c.gne_open(bytes(bundle), ctypes.byref(options), ctypes.byref(handle)))
        try:
            yield Engine(self, handle)
        finally:
            self.c.gne_close(handle)


@dataclass(frozen=True, slots=True)
class Engine:
    """An open bundle."""

    library: Library
    handle: ctypes.c_void_p

    def call(self, name: str, *arguments: object) -> None:
        """Calls ``gne_{name}`` on the engine. Raises `Failed`."""
        self.library.check(getattr(self.library.c, f"gne_{name}")(self.handle, *arguments))

    @property
    def info(self) -> Info:
        found = Info(ctypes.sizeof(Info))
        self.call("describe", ctypes.byref(found))
        return found

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 ``(N, crop, crop, 3)`` → float32 ``(N, classes)``."""
        logits = np.empty((len(pixels), self.info.classes), np.float32)
        self.call("run", address(pixels), size(pixels.size), address(logits), size(logits.size))
        return logits

    def pixels_of_jpeg(self, jpeg: bytes) -> NDArray[np.uint8]:
        """uint8 ``(crop, crop, 3)``."""
        return self._pixels(lambda *room: self.call("pixels_of_jpeg", jpeg, size(len(jpeg)), *room))

    def pixels_of_frame(self, frame: Frame) -> NDArray[np.uint8]:
        """uint8 ``(crop, crop, 3)``."""
        return self._pixels(lambda *room: self.call("pixels_of_frame", ctypes.byref(frame), *room))

    def _pixels(self, call: Callable[..., None]) -> NDArray[np.uint8]:
        pixels = np.empty((self.info.crop, self.info.crop, 3), np.uint8)
        call(address(pixels), size(pixels.size))
        return pixels

    def classify(self, how: str, *what: object, k: int = 3) -> list[tuple[str, int, float]]:
        """``gne_classify_{how}``: (label, index, probability), best first."""
        found = (Prediction * max(k, 1))()
        self.call(f"classify_{how}", *what, size(k), found)
        return [(each.label.decode(), each.index, each.probability) for each in found]


def size(count: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(count)


def address(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def interleaved(pixels: NDArray[np.uint8], *, kind: int = RGB, stride: int | None = None) -> Frame:
    """A frame over uint8 ``(H, W, 3)``, or over ``(H, stride)`` bytes of which the first ``W * 3`` are pixels."""
    height, width = pixels.shape[:2]
    return Frame(
        ctypes.sizeof(Frame), kind, width, height, pixels.ctypes.data, pixels.nbytes, stride or width * 3, None, 0, 0
    )


def wheel_runtime() -> Path:
    """The runtime that the Python package carries."""
    found = find_spec("onnxruntime")
    assert found is not None
    assert found.origin is not None
    [library] = Path(found.origin).parent.glob("capi/libonnxruntime.so.*")
    return library


def load(path: Path) -> Library:
    library = ctypes.CDLL(str(path))
    library.gne_last_error.restype = library.gne_version.restype = library.gne_status_name.restype = ctypes.c_char_p
    return Library(library)


@functools.cache
def missing_tools() -> str:
    """What the C++ tests cannot do without, in words; empty where all is there."""
    tools = [name for name in ("cmake", "c++", "pkg-config") if shutil.which(name) is None]
    header = run_quietly("c++", "-E", "-x", "c++", "-include", "cstdio", "-include", "jpeglib.h", "/dev/null")
    return ", ".join([*tools, *([] if header else ["jpeglib.h"])])


def run_quietly(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def need_tools() -> None:
    """Skips a test where libgne cannot be built."""
    if missing := missing_tools():
        pytest.skip(f"libgne cannot be built here: {missing} missing; {APT}")


def done(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a command that has to succeed writes on stdout."""
    ended = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


def cmake(source: Path, build: Path, *options: str) -> None:
    """Configures and builds."""
    done("cmake", "-S", source, "-B", build, *options)
    done("cmake", "--build", build, "--parallel", "2")


def compiled(compiler: str, source: Path, *, prefix: Path, out: Path, flags: tuple[str, ...] = ()) -> Path:
    """A program, built with the flags that pkg-config tells."""
    environment = {**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    found = done("pkg-config", "--cflags", "--libs", "gne", env=environment).split()
    done(compiler, *WARNINGS, *flags, source, "-o", out, *found)
    return out


@dataclass(frozen=True, slots=True)
class Rights:
    """``rights.c`` as any program, and as one that the system gives the rights of another group."""

    usual: Path
    more: Path

    def said(self, bundle: Path, runtime: Path | str, environment: dict[str, str]) -> tuple[str, str]:
        """What libgne says of a bundle in each of the two. Skips a test where the system gives no rights."""
        (_, usual), (is_given, more) = (
            done(program, bundle, runtime, env=environment).splitlines() for program in (self.usual, self.more)
        )
        if is_given == "0":
            pytest.skip("no program gets more rights here than who starts it: nosuid, or no_new_privs")
        return usual, more


def rights(prefix: Path, folder: Path) -> Rights:
    """Builds both. Skips a test whose user is in no second group."""
    place = (f"-Wl,-rpath,{prefix / 'lib'}",)
    usual = compiled("cc", CPP / "tests" / "rights.c", prefix=prefix, out=folder / "usual", flags=place)
    more = shutil.copy(usual, folder / "more")
    groups = set(os.getgroups()) - {os.getegid()}
    try:
        os.chown(more, -1, min(groups, default=os.getegid() + 1))  # any one will do for root
    except OSError:
        pytest.skip("this user is in one group only")
    more.chmod(0o2755)
    return Rights(usual, more)


def counting_runtime(folder: Path) -> ctypes.CDLL:
    """ONNX Runtime, watched and held as ``counting_runtime.cpp`` says."""
    real, source = f'-DREAL_RUNTIME="{wheel_runtime()}"', CPP / "tests" / "counting_runtime.cpp"
    include, library = f"-I{CPP / 'src'}", folder / "counting.so"
    done("c++", "-std=c++17", "-shared", "-fPIC", real, include, source, "-o", library)
    return ctypes.CDLL(str(library))
