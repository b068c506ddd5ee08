"""The calibration table: what was measured on which images for which graph, and the ranges that were chosen from it."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from googlenet_edge import __version__
from googlenet_edge.calibration.collect import Statistics
from googlenet_edge.calibration.histogram import BINS, Histogram
from googlenet_edge.calibration.ranges import HEADROOM_LEAD_DB, RangeMethod, Ranges, estimate, range_of_pixels
from googlenet_edge.calibration.rescale import LARGEST_FACTOR
from googlenet_edge.calibration.weights import WeightRange
from googlenet_edge.errors import CalibrationError, OutputError
from googlenet_edge.files import from_json, from_versioned_json, read_file
from googlenet_edge.graph import INPUT, InferenceGraph
from googlenet_edge.preprocess import Preprocess

SCHEMA = 5
MAX_BYTES = 64 << 20
MAX_WEIGHTS = 128 << 20  # whose steps take about half a byte in the table
_COUNTS_BYTES = BINS * 8
_SMALLEST, _LARGEST = 1e-34, 1e38  # of what is measured in float32, and has scales in it
_Bound = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
_MOST_COUNTED = 2.0**53  # up to there sums of counts are exact in float64, too
_QUICK = 4  # of zlib's levels: a tenth more bytes than by its own choice, in a quarter of the time


@dataclass(frozen=True, slots=True)
class TensorCalibration:
    """One tensor: its extremes, its histogram, and where it is clipped.

    ``minimum`` is zero for what a ReLU made. ``counts`` and ``peaks`` are the histogram's int64 ``(2048,)``,
    little-endian, deflated, in base64. ``low`` and ``high`` are for the asymmetric u8 grid, ``amax`` is for the
    symmetric s8 grid.
    """

    minimum: _Bound
    maximum: _Bound
    low: Annotated[float, Meta(ge=-_LARGEST, le=0)]
    high: Annotated[float, Meta(ge=0, le=_LARGEST)]
    amax: Annotated[float, Meta(ge=_SMALLEST, le=_LARGEST)]
    counts: bytes
    peaks: bytes

    @property
    def ranges(self) -> Ranges:
        """Where it is clipped."""
        return Ranges(self.low, self.high, self.amax)

    @property
    def histogram(self) -> Histogram:
        """What was measured. Raises `CalibrationError` where it is damaged."""
        return Histogram(self.minimum, self.maximum, _decode(self.counts), _decode(self.peaks))


@dataclass(frozen=True, slots=True)
class Trial:
    """A way to quantize, and the signal-to-noise ratio of its logits, in dB.

    That is the mean over held-out images of each one's dB; of a range method, the dB of the mean noise over signal, in
    which rare images count, too (see `choose`).
    """

    what: str
    sqnr_db: float
    taken: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What was tried on ``images`` held-out images; each trial stands on what was taken before it."""

    images: int
    trials: tuple[Trial, ...]

    @property
    def why_headroom(self) -> str | None:
        """Why headroom was taken though another range method scored higher; nothing where that is not so."""
        methods = {method.value for method in RangeMethod}
        tried = [trial for trial in self.trials if trial.what in methods]
        best = max(tried, key=lambda trial: trial.sqnr_db, default=None)
        if best is None or best.taken:
            return None
        return (
            f"{best.what} has {best.sqnr_db:.1f} dB, but headroom gives way only to {HEADROOM_LEAD_DB:.1f} dB more:"
            " other images may reach further than these"
        )

    def __str__(self) -> str:
        """What was taken."""
        taken = ", ".join(f"{trial.what} ({trial.sqnr_db:.1f} dB)" for trial in self.trials if trial.taken)
        return "; ".join(filter(None, (f"chosen on {self.images} held-out images: {taken}", self.why_headroom)))


@dataclass(frozen=True, slots=True)
class Rounding:
    """How many codes each weight of a layer is off its nearest one: int8, deflated, in base64.

    ``full`` is for codes up to 127, ``reduced`` for codes up to 64, where 8 bits would saturate (see `WeightRange`).
    """

    full: bytes
    reduced: bytes


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """The ranges of a graph's tensors and everything that they depend on.

    The same graph, images in any order, preprocessing, method and version give the same bytes.

    ``rescale`` holds the factors ``(channels,)`` of each convolution's channels (see `rescale`), and the ranges are
    those of the rescaled tensors. ``rounding`` says which codes their weights then take, where not the nearest (see
    `rounding`), and ``means`` the mean ``(n,)`` of what they are multiplied with, where biases are to be corrected (see
    `compensate`). All go by the name of the node; factors and means are float32, little-endian, in base64. ``wished``
    is the method that was asked for, ``method`` the one taken.
    """

    tool_version: str
    graph_sha256: str
    images_sha256: str
    image_count: int
    preprocess: Preprocess
    method: RangeMethod
    tensors: dict[str, TensorCalibration]
    wished: RangeMethod | None = None
    rescale: dict[str, bytes] = field(default_factory=dict)
    rounding: dict[str, Rounding] = field(default_factory=dict)
    means: dict[str, bytes] = field(default_factory=dict)
    choice: Choice | None = None
    schema: int = SCHEMA

    @property
    def ranges(self) -> dict[str, Ranges]:
        """Where every tensor is clipped."""
        return {name: tensor.ranges for name, tensor in self.tensors.items()}

    def steps(self, weight_range: WeightRange) -> dict[str, NDArray[np.int8]]:
        """See `rounding.Steps`; each ``(weights,)``. Raises `CalibrationError` where they are damaged."""
        found, left = dict[str, NDArray[np.int8]](), MAX_WEIGHTS
        for name, each in self.rounding.items():
            found[name] = decode_steps(each.full if weight_range is WeightRange.FULL else each.reduced, most=left)
            left -= found[name].size
        return found

    def with_method(self, method: RangeMethod) -> CalibrationTable:
        """The ranges by another method, from the same histograms, and nothing else of what was chosen changed."""
        if method is self.method:
            return self
        tensors = {
            n: replace(t, **asdict(_clipped(n, t.histogram, method, self.preprocess))) for n, t in self.tensors.items()
        }
        return replace(self, method=method, tensors=tensors)


def make_table(
    graph: InferenceGraph, statistics: Statistics, *, images_sha256: str, method: RangeMethod
) -> CalibrationTable:
    """The table of a graph from what its images showed.

    Args:
        images_sha256: a hash of the image files that does not depend on their order, such as `dataset.Checked`'s.
    """
    return CalibrationTable(
        tool_version=__version__,
        graph_sha256=graph.sha256,
        images_sha256=images_sha256,
        image_count=statistics.images,
        preprocess=graph.preprocess,
        method=method,
        tensors={
            n: _calibration(h, _clipped(n, h, method, graph.preprocess)) for n, h in statistics.histograms.items()
        },
    )


def refuse_another_s_table(path: Path) -> None:
    """Raises `OutputError` where there is whole JSON, or more than a table can be, that is no table of any version."""
    if not path.exists():
        return
    try:
        data = read_file(path, limit=MAX_BYTES, error=OutputError)
        found = from_json(data, object, where=str(path), error=CalibrationError)
    except CalibrationError:
        return  # cut off or damaged: of no use to anybody
    if not (isinstance(found, dict) and {"graph_sha256", "tensors"} <= found.keys()):
        raise OutputError(f"{path} is no calibration table, and one would take its place: move it somewhere else")


def read_table(path: Path) -> CalibrationTable:
    """Reads a table that this package wrote.

    Raises:
        CalibrationError: missing, damaged, of a newer schema, or with a range or a histogram that cannot be.
    """
    table = from_versioned_json(
        read_file(path, limit=MAX_BYTES, error=CalibrationError),
        CalibrationTable,
        schema=SCHEMA,
        where=str(path),
        error=CalibrationError,
        older="which says too little; calibrate again",
    )
    for name, tensor in table.tensors.items():
        _check(tensor, f"{path}: the tensor {name}")
    try:
        for weight_range in WeightRange:
            table.steps(weight_range)
    except CalibrationError as problem:
        raise CalibrationError(f"{path}: {problem}") from problem
    for name, data in table.rescale.items():
        if not ((factors := decode_floats(data)) >= 1).all() or factors.max(initial=1) > LARGEST_FACTOR:
            raise CalibrationError(
                f"{path}: the factors of {name} are not all from 1 to {LARGEST_FACTOR:g}; calibrate again"
            )
    for name, data in table.means.items():
        if not np.isfinite(decode_floats(data)).all():
            raise CalibrationError(f"{path}: the means of {name} are not finite; calibrate again")
    return table


def encode_floats(values: NDArray[np.floating]) -> bytes:
    """float32 ``(n,)`` as it is written."""
    return values.astype("<f4").tobytes()


def decode_floats(data: bytes) -> NDArray[np.float32]:
    """The inverse of `encode_floats`. Raises `CalibrationError`."""
    try:
        return np.frombuffer(data, "<f4").astype(np.float32)
    except ValueError as problem:
        raise CalibrationError(f"the table has damaged factors ({problem}); calibrate again") from problem


def encode_steps(steps: NDArray[np.int8]) -> bytes:
    """int8 of any shape, deflated."""
    return zlib.compress(steps.tobytes(), _QUICK)


def decode_steps(deflated: bytes, *, most: int) -> NDArray[np.int8]:
    """The inverse of `encode_steps`: int8 ``(n,)``, where n is at most ``most``. Raises `CalibrationError`."""
    try:
        data = _inflated(deflated, most)
    except ValueError as problem:
        raise CalibrationError(f"the rounding is damaged ({problem}); calibrate again") from problem
    return np.frombuffer(data, np.int8)


def _inflated(deflated: bytes, most: int) -> bytes:
    """What was deflated. Raises `ValueError` where it is damaged, or more than ``most`` bytes."""
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(deflated, most + 1)
    except zlib.error as problem:
        raise ValueError(str(problem)) from problem
    if len(data) > most or not inflater.eof:
        raise ValueError("it does not end where it should")
    return data


def _clipped(tensor: str, measured: Histogram, method: RangeMethod, preprocess: Preprocess) -> Ranges:
    """Where a tensor is clipped. Headroom beyond pixels is the rest of their range, whatever part of it was seen."""
    if (tensor, method) == (INPUT, RangeMethod.HEADROOM):
        return range_of_pixels(preprocess)
    return estimate(measured, method)


def _calibration(measured: Histogram, clipped: Ranges) -> TensorCalibration:
    return TensorCalibration(
        minimum=measured.minimum,
        maximum=measured.maximum,
        counts=_encode(measured.counts),
        peaks=_encode(measured.peaks),
        **asdict(clipped),
    )


def _check(tensor: TensorCalibration, where: str) -> None:
    if min(tensor.high - tensor.low, tensor.maximum - tensor.minimum) < _SMALLEST:
        raise CalibrationError(f"{where} has a range of nothing; calibrate again")
    try:
        histogram = tensor.histogram
    except CalibrationError as problem:
        raise CalibrationError(f"{where} {problem}") from problem
    if not histogram.counts.any():
        raise CalibrationError(f"{where} has a histogram without values; calibrate again")


def _encode(counts: NDArray[np.int64]) -> bytes:
    return zlib.compress(counts.astype("<i8").tobytes())


def _decode(deflated: bytes) -> NDArray[np.int64]:
    """int64 ``(2048,)``; never inflates more than that."""
    try:
        data = _inflated(deflated, _COUNTS_BYTES)
    except ValueError as problem:
        raise CalibrationError(f"has a damaged histogram ({problem}); calibrate again") from problem
    counts = np.frombuffer(data, "<i8").astype(np.int64) if len(data) == _COUNTS_BYTES else np.empty(0, np.int64)
    if not counts.size or counts.min() < 0 or counts.sum(dtype=np.float64) >= _MOST_COUNTED:
        raise CalibrationError(f"has a histogram that is not {BINS} counts; calibrate again")
    return counts
