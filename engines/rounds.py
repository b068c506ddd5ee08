"""The rounds of a benchmark: open predictors take turns at latency, stages and throughput."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from googlenet_edge.engines.energy import EnergyPlan
from googlenet_edge.engines.measurement import BatchThroughput, Samples, Stage, samples
from googlenet_edge.engines.predictor import DEFAULT_TOP_K, Predictor, open_rgb, rank
from googlenet_edge.engines.protocol import DeviceStage
from googlenet_edge.engines.sustained import SustainedPlan
from googlenet_edge.engines.timing import Clock, Tick, WarmUp, settled, take_turns, warm_up
from googlenet_edge.statistics import quantile_uncertainty

_ROUNDS = 20
_MOST_ROUNDS = 200
_KNOWN_WITHIN = 0.0075
_ENOUGH_S = 60.0


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """How much is measured.

    In each of ``rounds`` rounds every bundle takes a turn: runs that do not count (`settled`), then ``runs`` that do.
    Where no number is given, latency takes 20 rounds, and then more, up to 200 or a minute, until every p50 is known
    within 0.75 %.
    Throughput has ``batch_rounds`` rounds with one counted run for each of ``batches``: on one stream of ``threads``
    threads, and where ``streams`` is more than 1, as many images on each of that many streams of one thread.
    By default these are 10, and there are 3 cold starts; half and a tenth of ``rounds``, where that is more.
    ``energy`` is for machines with sensors, ``sustained`` for each bundle by itself, after everything else.
    """

    threads: int = 1
    streams: int = 1
    rounds: int | None = None
    runs: int = 10
    batches: tuple[int, ...] = (1, 2, 4, 8)
    batch_rounds: int | None = None
    cold_starts: int | None = None
    energy: EnergyPlan = field(default_factory=EnergyPlan)
    sustained: SustainedPlan | None = None

    @property
    def least_rounds(self) -> int:
        """Of latency; stages have as many."""
        return _ROUNDS if self.rounds is None else self.rounds

    @property
    def throughput_rounds(self) -> int:
        """Of each of `batches`."""
        return max(10, (self.rounds or 0) // 2) if self.batch_rounds is None else self.batch_rounds

    @property
    def start_count(self) -> int:
        """How many cold starts."""
        return max(3, (self.rounds or 0) // 10) if self.cold_starts is None else self.cold_starts

    @property
    def most_rounds(self) -> int:
        """Of latency."""
        return _MOST_ROUNDS if self.rounds is None else self.rounds


@dataclass(frozen=True, slots=True)
class Timings:
    """What is measured of one predictor within this process; see `BundleMeasurement`."""

    warm_up: WarmUp
    latency: Samples
    stages: dict[Stage, Samples]
    device_stages: dict[DeviceStage, Samples]
    throughput: tuple[BatchThroughput, ...]


def measure(
    predictors: Sequence[Predictor],
    image: bytes,
    *,
    plan: BenchPlan,
    clock: Clock,
    tick: Tick,
    streamed: Sequence[Predictor] = (),
) -> list[Timings]:
    """Warms every predictor up, then measures all in turns; the result is in the order of ``predictors``.

    Args:
        image: the bytes of an image file.
        streamed: the same bundles, opened with the plan's streams; none where that is 1.
        tick: called `turn_count` times for every predictor.
    """
    runs = [inference(predictor, image, batch=1) for predictor in predictors]
    warm_ups = take_turns([partial(warm_up, run, clock) for run in runs], 1, tick)
    latency = take_rounds(runs, plan=plan, clock=clock, tick=tick)
    stage_turns = [partial(stage_times, predictor, image, plan.runs, clock) for predictor in predictors]
    stages = take_turns(stage_turns, plan.least_rounds, tick)
    by_batch = [
        _throughput(opened, image, batch, plan=plan, clock=clock, tick=tick)
        for opened in (predictors, streamed)
        for batch in plan.batches
        if opened
    ]
    return [
        Timings(warm_ups[i][0], samples(latency[i]), *_by_stage(stages[i]), tuple(batch[i] for batch in by_batch))
        for i in range(len(predictors))
    ]


def take_rounds(
    runs: Sequence[Callable[[], object]], *, plan: BenchPlan, clock: Clock, tick: Tick
) -> list[list[tuple[float, ...]]]:
    """The milliseconds of each of ``runs``, by round: as many rounds as their p50 takes, within the plan's limits.

    Args:
        tick: called ``plan.most_rounds`` times for each of them, also for rounds that were not needed.
    """
    turns = [partial(settled, run, plan.runs, clock) for run in runs]
    found: list[list[tuple[float, ...]]] = [[] for _ in turns]
    start = clock()
    while (left := plan.most_rounds - len(found[0])) and not (
        clock() - start > _ENOUGH_S or all(map(_known_well, found))
    ):
        more = take_turns(turns, min(plan.least_rounds, left), tick)
        found = [before + after for before, after in zip(found, more, strict=True)]
    for _ in range(left * len(turns)):  # turns that were not needed
        tick()
    return found


def _known_well(rounds_ms: Sequence[tuple[float, ...]]) -> bool:
    return bool(rounds_ms) and quantile_uncertainty(rounds_ms, quantile=0.5) <= _KNOWN_WITHIN


def turn_count(plan: BenchPlan) -> int:
    """How many turns one predictor takes."""
    ways = 1 if plan.streams == 1 else 2
    return 1 + plan.most_rounds + plan.least_rounds + ways * plan.throughput_rounds * len(plan.batches)


def inference(predictor: Predictor, image: bytes, *, batch: int) -> Callable[[], object]:
    """A call that infers ``batch`` copies of an image on each stream and nothing else."""
    pixels = predictor.preprocess.pixels(open_rgb(image, predictor.preprocess))
    engine, one, streams = predictor.engine, pixels[None], predictor.engine.spec.streams
    if streams == 1:
        return partial(engine.run, np.repeat(one, batch, axis=0))
    threads = ThreadPoolExecutor(streams)  # that stay, as those of a program do
    return lambda: list(threads.map(engine.run, [one] * (batch * streams)))


def stage_times(predictor: Predictor, image: bytes, runs: int, clock: Clock) -> list[tuple[float, ...]]:
    """For each of ``runs`` ways from an image file to labels, the milliseconds of every `Stage`, in its order.

    Where the engine's device has a clock, those of every `DeviceStage` follow.
    """
    _laps(predictor, image, clock)  # does not count, as in `settled`
    return [_laps(predictor, image, clock) for _ in range(runs)]


def _laps(predictor: Predictor, image: bytes, clock: Clock) -> tuple[float, ...]:
    """The same steps as `Predictor.predict`, with a look at the clock after each."""
    start = clock()
    rgb = open_rgb(image, predictor.preprocess)
    decoded = clock()
    pixels = predictor.preprocess.pixels(rgb)[None]
    preprocessed = clock()
    logits, on_device = predictor.engine.timed_run(pixels)
    inferred = clock()
    rank(logits, predictor.labels, min(DEFAULT_TOP_K, len(predictor.labels)))
    marks = (start, decoded, preprocessed, inferred, clock())
    stages = (on_device[stage] for stage in DeviceStage if stage in on_device)
    return (*((after - before) * 1e3 for before, after in pairwise(marks)), *stages)


def _by_stage(rounds: Sequence[list[tuple[float, ...]]]) -> tuple[dict[Stage, Samples], dict[DeviceStage, Samples]]:
    by_round = [list(zip(*laps, strict=True)) for laps in rounds]
    found = [samples([laps[place] for laps in by_round]) for place in range(len(by_round[0]))]
    on_device = found[len(Stage) :]
    return dict(zip(Stage, found, strict=False)), dict(zip(DeviceStage, on_device, strict=False))


def _throughput(
    predictors: Sequence[Predictor], image: bytes, batch: int, *, plan: BenchPlan, clock: Clock, tick: Tick
) -> list[BatchThroughput]:
    runs = [inference(predictor, image, batch=batch) for predictor in predictors]
    rounds = take_turns([partial(settled, run, 1, clock) for run in runs], plan.throughput_rounds, tick)
    return [_speed(samples(of_one), batch, p.engine.spec.streams) for of_one, p in zip(rounds, predictors, strict=True)]


def _speed(latency: Samples, batch: int, streams: int) -> BatchThroughput:
    images = batch * streams
    return BatchThroughput(images, 1e3 * images / latency.summary_ms.p50, latency, streams)
