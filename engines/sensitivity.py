"""Which layers INT8 costs accuracy in, and what leaving each of them in float costs in time.

Roundings are independent of each other, so that the noise of all is the sum of the noise of each: a layer is ranked by
the noise that the logits get when it alone is rounded. Leaving it out of the whole would show the same as a small
difference of large numbers.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.lower import lower_rounded_activations
from googlenet_edge.calibration.placement import Layer, layers
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.dataset import ImageSet, Progress, load_pixels, ticker
from googlenet_edge.engines.lowering import Lowered, lower, open_lowered
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.registry import backend_for
from googlenet_edge.engines.timing import Clock, paired_ratio, warm_turns
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Device, Precision

DEFAULT_IMAGES = 200
_BATCH = 8
_ROUNDS = 10
_RUNS = 5

_RoundsMs = list[tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Noise:
    """How far logits are from those of FP32 for the same images.

    ``power`` is the squared difference over the squared logits, both summed. ``flips`` counts the images with another
    first class.
    """

    power: float
    flips: int

    @property
    def sqnr_db(self) -> float:
        """The signal-to-quantization-noise ratio in decibels; infinite where nothing differs."""
        return -10 * math.log10(self.power) if self.power else math.inf


@dataclass(frozen=True, slots=True)
class RankedLayer:
    """A layer, and what rounding it alone does to the logits."""

    layer: Layer
    noise: Noise


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """What a layer costs.

    Rounded alone, it makes ``noise_share`` (0…1) of the noise of INT8 and ``flips`` predictions differ from FP32's.
    Left in float alone, it gives ``gain_db`` of SQNR and takes ``extra_ms`` of latency; ``slowdown`` is the latency
    with it in float over that of INT8, the median over interleaved rounds with its 95 % interval.
    """

    layer: str
    noise_share: float
    flips: int
    gain_db: float
    extra_ms: float
    slowdown: float
    slowdown_interval: Interval


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """INT8 as a whole against FP32, and all layers, the one with the most noise first."""

    images: int
    threads: int
    sqnr_db: float
    flips: int
    latency_ms: float
    layers: tuple[LayerSensitivity, ...]


@dataclass(frozen=True)
class Probe:
    """A graph, and real images that show what becomes of its logits: uint8 ``(N, crop, crop, 3)`` pixels."""

    graph: InferenceGraph
    pixels: NDArray[np.uint8]
    threads: int

    @classmethod
    def of(cls, graph: InferenceGraph, images: ImageSet, *, threads: int) -> Probe:
        """A graph with the images of files. Raises `DamagedImageError`."""
        return cls(graph, np.stack(list(load_pixels(images, graph.preprocess))), threads)

    def open(self, lowered: Lowered) -> Predictor:
        """A lowered form of the graph. Raises `EngineError`."""
        return open_lowered(self.graph, lowered, backend=backend_for(Device.CPU), threads=self.threads)

    def noise(self, predictor: Predictor) -> Noise:
        """How far its logits are from those of the graph."""
        return noise(self._exact, self._logits(predictor))

    def run_one(self, predictor: Predictor) -> None:
        """Infers the first image."""
        predictor.run(self.pixels[:1])

    @cached_property
    def _exact(self) -> NDArray[np.float32]:
        fp32 = lower(self.graph, device=Device.CPU, precision=Precision.FP32, table=None)
        with self.open(fp32) as predictor:
            return self._logits(predictor)

    def _logits(self, predictor: Predictor) -> NDArray[np.float32]:
        starts = range(0, len(self.pixels), _BATCH)
        return np.concatenate([predictor.run(self.pixels[i : i + _BATCH]) for i in starts])


def noise(exact: NDArray[np.float32], found: NDArray[np.float32]) -> Noise:
    """The noise of logits ``(N, classes)`` against those of FP32."""
    signal = np.square(exact, dtype=np.float64).sum()
    error = np.square(found.astype(np.float64) - exact).sum()
    return Noise(float(error / signal), int((exact.argmax(axis=1) != found.argmax(axis=1)).sum()))


def rank_layers(probe: Probe, table: CalibrationTable, *, progress: Progress | None = None) -> list[RankedLayer]:
    """The layers of a graph, the one with the most noise first.

    Args:
        progress: told (layers done, layers in total).

    Raises:
        CalibrationError, EngineError: see `lower_rounded_activations`, `Engine`.
    """
    found, ranked = layers(probe.graph.model.graph), []
    tick = ticker(len(found), progress)
    for layer in found:
        rounded = lower_rounded_activations(probe.graph, table, frozenset(layer.tensors))
        with probe.open(Lowered(rounded.SerializeToString())) as predictor:
            ranked.append(RankedLayer(layer, probe.noise(predictor)))
        tick()
    return sorted(ranked, key=lambda each: each.noise.power, reverse=True)


def try_layers(
    probe: Probe,
    table: CalibrationTable,
    ranked: Sequence[RankedLayer],
    *,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> Sensitivity:
    """INT8 as a whole, and with every layer in its turn left in float.

    Args:
        progress: told (layers done, layers in total).

    Raises:
        CalibrationError, LoweringError, EngineError: see `lower`, `Engine`.
    """
    lowered = partial(lower, probe.graph, device=Device.CPU, precision=Precision.INT8, table=table)
    rows, rounds_of_all, tick = [], _RoundsMs(), ticker(len(ranked), progress)
    with probe.open(lowered()) as whole:
        of_all = probe.noise(whole)
        for each in ranked:
            with probe.open(lowered(float_nodes=each.layer.nodes)) as without:
                rounds, rounds_without = _alternate(probe, (whole, without), clock)
                rows.append(_sensitivity(each, of_all, probe.noise(without), rounds, rounds_without))
            rounds_of_all += rounds
            tick()
    latency_ms = statistics.median(chain.from_iterable(rounds_of_all))
    return Sensitivity(len(probe.pixels), probe.threads, of_all.sqnr_db, of_all.flips, latency_ms, tuple(rows))


def _alternate(probe: Probe, predictors: Sequence[Predictor], clock: Clock) -> list[_RoundsMs]:
    """The latency of one image in rounds in which the predictors take turns."""
    runs = [partial(probe.run_one, predictor) for predictor in predictors]
    return warm_turns(runs, rounds=_ROUNDS, runs=_RUNS, clock=clock, tick=lambda: None)


def _sensitivity(
    ranked: RankedLayer, of_all: Noise, left: Noise, rounds: _RoundsMs, rounds_without: _RoundsMs
) -> LayerSensitivity:
    """One row. ``left`` is the noise that is left without the layer, the rounds are those of all and without it."""
    pairs = [(statistics.median(a), statistics.median(b)) for a, b in zip(rounds, rounds_without, strict=True)]
    slower = paired_ratio(rounds_without, rounds)
    return LayerSensitivity(
        layer=ranked.layer.name,
        noise_share=ranked.noise.power / of_all.power if of_all.power else 0.0,
        flips=ranked.noise.flips,
        gain_db=left.sqnr_db - of_all.sqnr_db if of_all.power else 0.0,
        extra_ms=statistics.median(without - whole for whole, without in pairs),
        slowdown=slower.ratio,
        slowdown_interval=slower.interval,
    )
