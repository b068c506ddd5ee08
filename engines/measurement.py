"""The measurement: every sample of a benchmark, its summaries, and the circumstances. One JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from statistics import median
from typing import Annotated

from msgspec import Meta

from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.bundle import Lineage, Sha256
from googlenet_edge.engines.circumstances import Circumstances
from googlenet_edge.engines.cold_start import ColdStart
from googlenet_edge.engines.energy import Energy
from googlenet_edge.engines.protocol import DeviceStage, EngineSpec
from googlenet_edge.engines.sensors import Watched
from googlenet_edge.engines.sustained import Sustained
from googlenet_edge.engines.timing import WarmUp, paired_ratio
from googlenet_edge.errors import DataError
from googlenet_edge.files import from_versioned_json
from googlenet_edge.statistics import Count, Interval, Lasting, NonNegative, Summary, summarize
from googlenet_edge.target import Device, EngineName, Precision

SCHEMA = 1
MAX_BYTES = 64 << 20
MOST_ROUNDS = 20_000
"""Of all bundles, 2 to 3 kB each; no times of a file have more."""


class Stage(Enum):
    """The steps from the bytes of an image file to labels."""

    DECODE = "decode"
    PREPROCESS = "preprocess"
    INFERENCE = "inference"
    POSTPROCESS = "postprocess"


@dataclass(frozen=True, slots=True)
class Samples:
    """Milliseconds, round by round, and the summary of all."""

    rounds_ms: Annotated[tuple[tuple[Lasting, ...], ...], Meta(max_length=MOST_ROUNDS)]
    summary_ms: Summary


@dataclass(frozen=True, slots=True)
class BatchThroughput:
    """Inference of ``batch`` images: at once, or where there is more than one stream, shared among the streams."""

    batch: Count
    images_per_s: NonNegative
    latency: Samples
    streams: Count = 1


@dataclass(frozen=True, slots=True)
class BundleMeasurement:
    """What was measured of one bundle.

    ``latency`` is inference alone, one image, back to back. ``stages`` is the whole way of one image file, measured
    apart from it: there the caches are as cold as decoding leaves them. ``device_stages`` are parts of its inference by
    the device's own clock, empty where it has none; the rest of the inference is launching and waiting. ``energy`` is
    None where it was not measured, ``sustained`` where it was not asked for. From ``labels_sha256`` to ``against_fp32``
    it is what the bundle's manifest says, the accuracy that of ``accuracy_engine``.
    """

    name: str
    precision: Precision
    model_sha256: str
    bundle_bytes: Count
    engine: EngineSpec
    warm_up: WarmUp
    latency: Samples
    stages: dict[Stage, Samples]
    throughput: Annotated[tuple[BatchThroughput, ...], Meta(min_length=1)]
    cold_starts: Annotated[tuple[ColdStart, ...], Meta(min_length=1)]
    labels_sha256: Sha256
    lineage: Lineage
    accuracy_engine: EngineName
    accuracy: Accuracy | None = None
    against_fp32: Comparison | None = None
    energy: Energy | None = None
    sustained: Sustained | None = None
    device_stages: dict[DeviceStage, Samples] = field(default_factory=dict)

    @property
    def cold_start_ms(self) -> float:
        """The median of the cold starts."""
        return median(start.total_ms for start in self.cold_starts)

    @property
    def peak_memory_mb(self) -> int | None:
        """The largest of the fresh processes, where it can be read."""
        return max((s.peak_memory_mb for s in self.cold_starts if s.peak_memory_mb is not None), default=None)


@dataclass(frozen=True, slots=True)
class LatencyRatio:
    """The latency of ``name`` divided by that of ``reference``: the median over rounds, with its 95 % interval."""

    name: str
    reference: str
    ratio: NonNegative
    interval: Interval


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """The image file that went through the stages."""

    sha256: str
    size_bytes: Count
    width: Count
    height: Count


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of the benchmark.

    ``warnings`` says what makes its figures doubtful, and what to do about it. ``watched`` is None where there are no
    sensors.
    """

    circumstances: Circumstances
    image: MeasuredImage
    bundles: tuple[BundleMeasurement, ...]
    ratios: tuple[LatencyRatio, ...]
    warnings: tuple[str, ...]
    watched: Watched | None = None
    schema: int = SCHEMA

    @property
    def cut_short(self) -> bool:
        """Whether a load that should last ended before its time, or before it came to every bundle."""
        loads = [bundle.sustained for bundle in self.bundles]
        return any(loads) and not all(load and load.ended_s is None for load in loads)

    @property
    def on_gpu(self) -> bool:
        """Whether a bundle computes on a GPU or a DLA."""
        return any(bundle.engine.device is not Device.CPU for bundle in self.bundles)

    @property
    def machine(self) -> str:
        """What computes, such as ``NVIDIA H200, AMD EPYC``: the GPU only where it does."""
        here = self.circumstances
        gpu = f"{here.gpu}, " if here.gpu and self.on_gpu else ""
        return gpu + (here.cpu_model or "unknown processor")


def samples(rounds_ms: Sequence[tuple[float, ...]]) -> Samples:
    """Keeps every sample and summarizes them together."""
    return Samples(tuple(rounds_ms), summarize(list(chain.from_iterable(rounds_ms))))


def latency_ratio(measured: BundleMeasurement, reference: BundleMeasurement) -> LatencyRatio:
    """See `paired_ratio`."""
    found = paired_ratio(measured.latency.rounds_ms, reference.latency.rounds_ms)
    return LatencyRatio(measured.name, reference.name, found.ratio, found.interval)


def parse_measurement(data: bytes, where: str) -> Measurement:
    """What `write_json` wrote to ``where``. Raises `DataError`: damaged, or of a newer schema."""
    return from_versioned_json(data, Measurement, schema=SCHEMA, where=where, error=DataError)
