"""The TensorRT that is installed: which one, its version, and the one logger that it allows a process.

`tensorrt` (on a Jetson, and for any NVIDIA GPU) and `tensorrt_rtx` (TensorRT for RTX, which also builds on a machine
without a GPU) have the same members as far as they are used here. What differs from version to version is in
`tensorrt_builder.Recipe`.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.devices import Version
from googlenet_edge.errors import EngineError

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)
T = TypeVar("T")
_OLDEST: Version = (8, 5)
_FIRST_STRONGLY_TYPED: Version = (10,)


class Flavour(Enum):
    """The two that NVIDIA makes; the value is the name of the module."""

    TENSORRT = "tensorrt"
    RTX = "tensorrt_rtx"


_INSTALL = {
    Flavour.TENSORRT: "on a Jetson it comes with JetPack: sudo apt install python3-libnvinfer; elsewhere: pip install"
    " tensorrt",
    Flavour.RTX: "install it with: pip install 'googlenet-edge[rtx]'",
}


@dataclass(frozen=True, slots=True)
class Library:
    """An imported TensorRT. Versions of the two flavours do not compare: RTX began again with 1."""

    flavour: Flavour
    version: Version
    module: Any = field(repr=False, compare=False)

    def __str__(self) -> str:
        """Such as ``tensorrt 10.3.0``."""
        return f"{self.flavour.value} {'.'.join(map(str, self.version))}"

    @property
    def trt(self):  # type: ignore[no-untyped-def]  # the type of a module cannot be written down, but inferred
        """The module. ``make lint` holds what is done with it against TensorRT's stubs."""
        return tensorrt if TYPE_CHECKING else self.module

    @property
    def strongly_typed(self) -> bool:
        """Whether the types in the graph are the precision: from 10 on; from 11 on, and for RTX, it must be told so.

        Before, ``BuilderFlag.FP16`` and ``INT8`` allow it, and TensorRT decides layer by layer.
        """
        return self.flavour is Flavour.RTX or self.version >= _FIRST_STRONGLY_TYPED


def load_library(flavour: Flavour) -> Library:
    """Imports a TensorRT. Raises `EngineError` where it is not installed, cannot be loaded, or is too old."""
    try:
        module = importlib.import_module(flavour.value)
    except (ImportError, OSError) as problem:
        raise EngineError(f"{flavour.value} cannot be loaded ({problem}); {_INSTALL[flavour]}") from problem
    return library_of(module, flavour)


def library_of(module: Any, flavour: Flavour) -> Library:
    """What an imported module is. Raises `EngineError` where it is too old."""
    version = tuple(int(number) for number in re.findall(r"\d+", module.__version__)[:3])
    if flavour is Flavour.TENSORRT and version < _OLDEST:
        raise EngineError(
            f"TensorRT {module.__version__} is too old, 8.5 is the oldest that this version uses; on a Jetson, install"
            " JetPack 6 or newer"
        )
    return Library(flavour, version, module)


@contextmanager
def listening(library: Library) -> Iterator[list[str]]:
    """Yields the lines that TensorRT logs inside the block, the verbose ones too. One thread at a time.

    Warnings go to the log of this package, and outside of such blocks errors, too. A process whose own logger TensorRT
    met first gets no lines here, for TensorRT keeps to one logger for a process. What was `kept` inside the block, as a
    Ctrl-C, is raised at its end.
    """
    logger = logger_of(library.module)
    with logger.turn:
        lines: list[str] = []
        logger.lines = lines
        try:
            yield lines
        finally:
            stopped, logger.lines, logger.stopped = logger.stopped, None, None
            if stopped:
                raise stopped


@contextmanager
def kept(logger: Any) -> Iterator[None]:
    """For the inside of what TensorRT calls, which prints and forgets what is raised there: `listening` raises it."""
    try:
        yield
    except BaseException as problem:
        if logger.lines is None:
            raise
        logger.stopped = logger.stopped or problem


def started(kind: Callable[[Any], T], library: Library, lines: list[str]) -> T:
    """A builder or a runtime, inside `listening`. Raises `EngineError` where TensorRT finds no CUDA that it can use."""
    try:
        return kind(logger_of(library.module))
    except TypeError as problem:  # pybind11's, for a null pointer
        raise EngineError(
            f"{library} cannot start: {errors_in(lines)}; see whether the driver is new enough, and memory free"
        ) from problem


@cache
def logger_of(module: Any) -> Any:
    """The one logger of an imported TensorRT: it keeps the first that it is given, and ignores all others."""

    class Logger(module.ILogger):  # type: ignore[misc]  # (a class of the module that is there when it runs)
        """Keeps lines for who is listening, and passes on what a person should know."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.lines: list[str] | None = None
            self.stopped: BaseException | None = None
            self.turn = threading.Lock()

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any thread."""
            with kept(self):
                line, lines = f"{_severity(severity)}: {message}", self.lines
                if lines is not None:
                    lines.append(line)
                elif line.startswith(_ERRORS):
                    _log.error("TensorRT: %s", message)
                if severity == module.ILogger.WARNING:
                    _log.warning("TensorRT: %s", message)

    return Logger()


def shape_of(dims: Sequence[int] | tensorrt.Dims) -> tuple[int, ...]:
    """The sides of a tensor; -1 where one is open. TensorRT's own kind of shape has a length and items alone."""
    return tuple(dims[i] for i in range(len(dims)))


def errors_in(lines: list[str]) -> str:
    """What TensorRT said went wrong, or else warned of, word for word; or that it said nothing."""
    for kinds in (_ERRORS, "WARNING:"):
        if found := [line.partition(": ")[2].strip() for line in lines if line.startswith(kinds)]:
            return "; ".join(dict.fromkeys(found))
    return "TensorRT gave no reason"


def _severity(severity: Any) -> str:
    return str(getattr(severity, "name", severity))


_ERRORS = ("ERROR:", "INTERNAL_ERROR:")


def calibrator_of(library: Library, cache: bytes = b"", *, images: Iterable[int] = ()) -> Any:
    """An ``IInt8EntropyCalibrator2``: it knows the scales of ``cache`` already, or gives images, one at a time.

    What TensorRT found is kept in ``written``, and in ``given`` how many images it took.

    Args:
        images: where on the device the next one is, float32 ``(1, crop, crop, 3)``.
    """
    trt, logger = library.trt, logger_of(library.module)

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined]  # (a class of the module at hand)
        """Called by TensorRT while it builds."""

        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.written, self.given = b"", 0
            self._images = iter(images)

        def get_batch_size(self) -> int:
            """What a DLA takes."""
            return 1

        def get_batch(self, _names: list[str]) -> list[int] | None:
            """The address of the next image on the device, or none when all were given."""
            with kept(logger):
                for image in self._images:
                    self.given += 1
                    return [image]
            return None

        def read_calibration_cache(self) -> bytes | None:
            """The scales, or none: everything is to be measured."""
            return cache or None

        def write_calibration_cache(self, cache: bytes) -> None:
            """What was found."""
            self.written = bytes(cache)

    return Calibrator()


def monitor_of(library: Library, progress: Progress) -> Any:
    """An ``IProgressMonitor`` that reports the steps of the outermost phase; None where there is no such class."""
    trt, logger = library.trt, logger_of(library.module)
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # (a class of the module that is there when it runs)
        """Called by TensorRT, from any of its threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outermost, self._steps = "", 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            """A phase of so many steps; the outermost has no parent."""
            if parent is None:
                self._outermost, self._steps = phase, steps

        def step_complete(self, phase: str, step: int) -> bool:
            """Whether to go on: not after a Ctrl-C."""
            with kept(logger):
                if phase == self._outermost:
                    progress(min(step + 1, self._steps), self._steps)
            return logger.stopped is None

        def phase_finish(self, phase: str) -> None:
            """It may end before its last step."""
            with kept(logger):
                if phase == self._outermost:
                    progress(self._steps, self._steps)

    return Monitor()
