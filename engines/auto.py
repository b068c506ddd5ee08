"""``--engine auto``: all engines of a device take turns on this machine, and one is taken for a bundle."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.accuracy import Comparison
from googlenet_edge.engines.bundle import EngineTrial, Verdict
from googlenet_edge.engines.protocol import EngineOptions, EngineSpec
from googlenet_edge.engines.registry import Backend
from googlenet_edge.engines.timing import Ratio, paired_ratio, ticker, warm_turns
from googlenet_edge.statistics import median_interval

_ROUNDS = 20
_RUNS = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend, and the bytes of the model as it is lowered for it."""

    backend: Backend
    model: bytes


@dataclass(frozen=True, slots=True)
class Timed:
    """A backend, and the milliseconds of one inference on it, by round."""

    backend: Backend
    spec: EngineSpec
    rounds_ms: tuple[tuple[float, ...], ...]


def time_engines(
    candidates: Sequence[Candidate],
    *,
    options: EngineOptions,
    pixels: NDArray[np.uint8],
    progress: Progress,
) -> list[Timed]:
    """Times the inference of ``pixels``, uint8 ``(1, crop, crop, 3)``, on all candidates in turns.

    Raises:
        EngineError: one cannot be opened.
    """
    with ExitStack() as stack:
        engines = [stack.enter_context(each.backend.open(each.model, options)) for each in candidates]
        tick = ticker(len(engines) * (1 + _ROUNDS), progress)
        runs = [partial(engine.run, pixels) for engine in engines]
        rounds = warm_turns(runs, rounds=_ROUNDS, runs=_RUNS, clock=time.perf_counter, tick=tick)
    return [Timed(c.backend, e.spec, tuple(ms)) for c, e, ms in zip(candidates, engines, rounds, strict=True)]


def choose(
    timed: Sequence[Timed], against_fp32: Sequence[Comparison], *, max_drop_points: float
) -> tuple[EngineTrial, ...]:
    """What was found of each backend, and which one is taken: the fastest that loses at most ``max_drop_points``.

    The first, which is the default, gives way only to one that is faster beyond doubt. Where all lose too much, none is
    taken.
    """
    ratios = [paired_ratio(one.rounds_ms, timed[0].rounds_ms) for one in timed]
    holding = [i for i, found in enumerate(against_fp32) if -found.top1_change_points <= max_drop_points]
    taken = _fastest(ratios, holding)
    trials = []
    for i, (one, ratio, found) in enumerate(zip(timed, ratios, against_fp32, strict=True)):
        verdict = Verdict.NOT_FASTER if i in holding else Verdict.INACCURATE
        trials.append(_trial(one, ratio, found, Verdict.TAKEN if i == taken else verdict))
    return tuple(trials)


def _fastest(ratios: Sequence[Ratio], holding: Sequence[int]) -> int | None:
    if not holding:
        return None
    best = min(holding, key=lambda i: ratios[i].ratio)
    return 0 if 0 in holding and ratios[best].interval.high >= 1 else best


def _trial(timed: Timed, ratio: Ratio, found: Comparison, verdict: Verdict) -> EngineTrial:
    medians_ms = [statistics.median(round_ms) for round_ms in timed.rounds_ms]
    return EngineTrial(
        engine=timed.backend.name,
        version=timed.spec.version,
        threads=timed.spec.threads,
        p50_ms=statistics.median(medians_ms),
        p50_interval_ms=median_interval(medians_ms),
        ratio=ratio.ratio,
        ratio_interval=ratio.interval,
        top1_change_points=found.top1_change_points,
        agreement=found.agreement,
        verdict=verdict,
    )
