"""How long networks of other widths take, beside the one that they were slimmed from, on this machine.

Every candidate is exported, lowered and opened as a bundle would be, and takes turns with the original at inferring one
image. FLOPs say nothing here: how fast a convolution is depends on its shape, the kernels and the processor.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.calibrate import calibrate
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.checkpoint import Checkpoint
from googlenet_edge.dataset import KEPT_BYTES, ImageSet, Progress, check_images, stratified_sample, ticker
from googlenet_edge.engines.lowering import Lowered, lower, open_lowered
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.recovery import first_pixels
from googlenet_edge.engines.registry import Backend
from googlenet_edge.engines.timing import Clock, Ratio, Tick, paired_ratio, warm_turns
from googlenet_edge.export import export
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.slim import (
    BLOCKS,
    LatencyModel,
    convolution_widths,
    halved,
    kept_after,
    macs_a_channel_pair,
    macs_of,
    slimmed,
)
from googlenet_edge.target import Device, Precision

STAGES = ("stem", *BLOCKS)
_ROUNDS = 12
_MOST_ROUNDS = 60
_RUNS = 5
_NARROW = 0.02
_CALIBRATION_IMAGES = 32
_MOST_UNEVEN = 2.0

_RoundsMs = list[tuple[float, ...]]
_Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Target:
    """What a network has to be fast on."""

    precision: Precision
    backend: Backend
    threads: int


@dataclass(frozen=True, slots=True)
class Speed:
    """The median milliseconds of one inference of a slimmed network and of the original, and their ratio."""

    slim_ms: float
    original_ms: float
    ratio: Ratio


class Stopwatch:
    """Times networks against the one that they were slimmed from; nothing stays open in between."""

    def __init__(
        self, original: Checkpoint, target: Target, images: ImageSet, *, clock: Clock = time.perf_counter
    ) -> None:
        """``images`` of the training; a few are looked at. Raises `EngineError`, `CalibrationError`."""
        self._original, self._target, self._clock = original, target, clock
        self._pixels = first_pixels(images, original.info.preprocess, 1)
        self._table = _rough_table(original, images) if target.precision is Precision.INT8 else None
        self._reference = self._lowered(original)

    def fastest_ratio(self, slim: Checkpoint) -> float:
        """The fastest run of a slimmed form of the original divided by the fastest of the original.

        What else a machine does only ever adds time, so the fastest of many runs is the steadiest; a search needs that.

        Raises:
            EngineError: it cannot be opened.
        """
        with self._opened([slim]) as calls:
            original, of_slim = map(_fastest_ms, self._timed(calls, lambda: None))
        return of_slim / original

    def speed(self, slim: Checkpoint) -> Speed:
        """How fast a slimmed form of the original is.

        Rounds go on until the interval of the ratio is narrower than 2 %, or there have been 60.

        Raises:
            EngineError: it cannot be opened.
        """
        of_original, of_slim = _RoundsMs(), _RoundsMs()
        with self._opened([slim]) as calls:
            while True:
                original, others = self._timed(calls, lambda: None)
                of_original, of_slim = of_original + original, of_slim + others
                ratio = paired_ratio(of_slim, of_original)
                if len(of_slim) >= _MOST_ROUNDS or ratio.interval.high - ratio.interval.low <= _NARROW * ratio.ratio:
                    break
        slim_ms, original_ms = (statistics.median(chain.from_iterable(ms)) for ms in (of_slim, of_original))
        return Speed(slim_ms, original_ms, ratio)

    def latency_model(self, importance: Mapping[str, NDArray[np.float64]], *, progress: Progress) -> LatencyModel:
        """Where the time goes: every stage in its turn loses half of its channels, and all are timed together.

        Raises:
            EngineError: a candidate cannot be opened.
        """
        info = self._original.info
        macs, widths = macs_a_channel_pair(info), convolution_widths(info.widths)
        slim = [slimmed(self._original, kept_after(halved(importance, stage), widths)) for stage in STAGES]
        tick = ticker((1 + len(slim)) * (1 + _ROUNDS), progress)
        with self._opened(slim) as calls:
            original, *others = self._timed(calls, tick)
        saved_ms = [_fastest_ms(original) - _fastest_ms(rounds) for rounds in others]
        all_macs = macs_of(widths, macs)
        saved_macs = [all_macs - macs_of(convolution_widths(each.info.widths), macs) for each in slim]
        return LatencyModel(macs, dict(zip(STAGES, ms_per_mac(saved_ms, saved_macs), strict=True)))

    def _timed(self, calls: Sequence[_Call], tick: Tick) -> list[_RoundsMs]:
        return warm_turns(calls, rounds=_ROUNDS, runs=_RUNS, clock=self._clock, tick=tick)

    @contextmanager
    def _opened(self, others: Sequence[Checkpoint]) -> Iterator[list[_Call]]:
        """Calls that infer one image with the original and with each of the others."""
        models = [self._reference, *map(self._lowered, others)]
        with ExitStack() as stack:
            opened = [stack.enter_context(self._open(*model)) for model in models]
            yield [partial(predictor.run, self._pixels) for predictor in opened]

    def _lowered(self, checkpoint: Checkpoint) -> tuple[InferenceGraph, Lowered]:
        graph = export(checkpoint)
        table = replace(self._table, graph_sha256=graph.sha256) if self._table else None
        return graph, lower(graph, device=Device.CPU, precision=self._target.precision, table=table)

    def _open(self, graph: InferenceGraph, lowered: Lowered) -> Predictor:
        return open_lowered(graph, lowered, backend=self._target.backend, threads=self._target.threads)


def ms_per_mac(saved_ms: Sequence[float], saved_macs: Sequence[int]) -> list[float]:
    """The time that one multiply-accumulate less saves in each stage, from what a change there saved.

    What noise says beyond twice or half of the mean of all is not believed.
    """
    mean = sum(saved_ms) / sum(saved_macs) if sum(saved_macs) else 1.0
    if mean <= 0:
        return [1.0] * len(saved_ms)
    rates = (ms / macs if macs else mean for ms, macs in zip(saved_ms, saved_macs, strict=True))
    return [min(max(rate, mean / _MOST_UNEVEN), mean * _MOST_UNEVEN) for rate in rates]


def _fastest_ms(rounds: _RoundsMs) -> float:
    return min(chain.from_iterable(rounds))


def _rough_table(checkpoint: Checkpoint, images: ImageSet) -> CalibrationTable:
    """Ranges from a few images. The tensors of a slimmed graph have the same names, and time depends on no range."""
    some = stratified_sample(images, _CALIBRATION_IMAGES, seed=0)
    checked = check_images(some, preprocess=checkpoint.info.preprocess, kept_bytes=KEPT_BYTES)
    return calibrate(export(checkpoint), checked, method=RangeMethod.MINMAX)
