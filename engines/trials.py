"""What is settled by trial on the machine at hand: exact rewrites of a model, and the engine of ``--engine auto``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.rewrites import Rewrite
from googlenet_edge.dataset import Progress, ticker
from googlenet_edge.engines.accuracy import Comparison
from googlenet_edge.engines.bundle import EngineTrial, Trial, Verdict
from googlenet_edge.engines.lowering import Lowered, audited, rewritten
from googlenet_edge.engines.protocol import Engine, EngineOptions, EngineSpec
from googlenet_edge.engines.registry import Backend
from googlenet_edge.engines.timing import (
    Clock,
    Ratio,
    paired_ratio,
    settled,
    take_turns,
    timed,
    warm_turns,
)
from googlenet_edge.statistics import median_interval
from googlenet_edge.target import EngineName

ROUNDS = 21
_WARM_UP_RUNS = 5
_MOST_RUNS = 10
_BUDGET_MS = 3000.0
_SQUARES, _MERGED, _SIGNED = Rewrite.SPACE_TO_DEPTH, Rewrite.MERGED_POINTWISE, Rewrite.SIGNED_PIXELS
_WORTH_TRYING = {
    EngineName.ONNXRUNTIME: ((_SQUARES,), (_MERGED,), (_SQUARES, _MERGED)),
    EngineName.OPENVINO: ((_MERGED,), (_SQUARES, _MERGED), (_SIGNED,), (_SIGNED, _MERGED)),
}
_ENGINE_ROUNDS = 20
_ENGINE_RUNS = 5


def fastest(
    plain: Lowered,
    opened: Callable[[Lowered], Engine],
    *,
    engine: EngineName = EngineName.ONNXRUNTIME,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> Lowered:
    """An INT8 model with those rewrites that make it faster here, one image at a time; ``rewrites`` says by how much.

    Its notes say what of it the runtime computes on integers.

    Args:
        plain: the model as it was lowered.
        opened: opens a model with the threads that it is going to have.
        engine: the runtime that it opens it with.

    Raises:
        EngineError, LoweringError: the runtime refuses a model.
    """
    candidates = {_name(rewrites): rewritten(plain, rewrites) for rewrites in _WORTH_TRYING[engine]}
    possible = {name: lowered for name, lowered in candidates.items() if lowered is not None}
    trials = _tried(plain, possible, opened, clock=clock, progress=progress) if possible else ()
    taken = next((possible[trial.name] for trial in trials if trial.taken), plain)
    found = _audited_by_openvino(taken) if engine is EngineName.OPENVINO else audited(taken)
    return replace(found, notes=(*found.notes, *map(_sentence, trials)), rewrites=trials)


def _tried(
    plain: Lowered,
    possible: Mapping[str, Lowered],
    opened: Callable[[Lowered], Engine],
    *,
    clock: Clock,
    progress: Progress | None,
) -> tuple[Trial, ...]:
    with ExitStack() as stack:
        engines = [stack.enter_context(opened(lowered)) for lowered in (plain, *possible.values())]
        pixels = np.zeros((1, engines[0].spec.crop, engines[0].spec.crop, 3), np.uint8)  # the time is that of any image
        first, *others = (partial(engine.run, pixels) for engine in engines)
        return hold_trial(first, dict(zip(possible, others, strict=True)), clock=clock, progress=progress)


def _audited_by_openvino(lowered: Lowered) -> Lowered:
    """An INT8 model with OpenVINO's share of integer operators as its first note."""
    from googlenet_edge.engines.openvino_cpu import integers_in  # noqa: PLC0415  (a runtime is loaded when used)

    share = integers_in(lowered.model, EngineOptions(weight_bits=lowered.weight_bits))
    return replace(lowered, notes=(f"on integers: {share}", *lowered.notes))


def _name(rewrites: Sequence[Rewrite]) -> str:
    return " + ".join(each.value for each in rewrites)


def _sentence(trial: Trial) -> str:
    """What became of a candidate."""
    interval = f"95 % interval {trial.interval:.3f}"
    verdict = "taken" if trial.taken else "not taken"
    return f"rewrite {trial.name}: {trial.ratio:.3f} of the plain model's time here ({interval}), {verdict}"


def hold_trial(
    plain: Callable[[], object],
    candidates: Mapping[str, Callable[[], object]],
    *,
    clock: Clock,
    progress: Progress | None = None,
) -> tuple[Trial, ...]:
    """Times all calls in interleaved rounds, in about three seconds; slow calls are run once a round and take longer.

    At most one candidate is taken: of those whose whole interval lies below 1, the one with the smallest ratio.
    """
    calls = [plain, *candidates.values()]
    one_round_ms = sum(statistics.median(timed(call, _WARM_UP_RUNS, clock)) for call in calls)
    runs = max(1, min(_MOST_RUNS, int(_BUDGET_MS / (ROUNDS * one_round_ms))))
    tick = ticker(ROUNDS * len(calls), progress)
    against, *times = take_turns([partial(settled, call, runs, clock) for call in calls], ROUNDS, tick)
    ratios = [paired_ratio(of_one, against) for of_one in times]
    trials = [Trial(name, found.ratio, found.interval) for name, found in zip(candidates, ratios, strict=True)]
    winners = [trial for trial in trials if trial.interval.high < 1]
    best = min(winners, key=lambda trial: trial.ratio, default=None)
    return tuple(replace(trial, taken=trial is best) for trial in trials)


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
        tick = ticker(len(engines) * (1 + _ENGINE_ROUNDS), progress)
        runs = [partial(engine.run, pixels) for engine in engines]
        rounds = warm_turns(runs, rounds=_ENGINE_ROUNDS, runs=_ENGINE_RUNS, clock=time.perf_counter, tick=tick)
    return [Timed(c.backend, e.spec, tuple(ms)) for c, e, ms in zip(candidates, engines, rounds, strict=True)]


def choose(
    engines: Sequence[Timed], against_fp32: Sequence[Comparison], *, max_drop_points: float
) -> tuple[EngineTrial, ...]:
    """What was found of each backend, and which one is taken: the fastest that loses at most ``max_drop_points``.

    The first, which is the default, gives way only to one that is faster beyond doubt. Where all lose too much, none is
    taken.
    """
    ratios = [paired_ratio(one.rounds_ms, engines[0].rounds_ms) for one in engines]
    holding = [i for i, found in enumerate(against_fp32) if -found.top1_change_points <= max_drop_points]
    taken = _best(ratios, holding)
    trials = []
    for i, (one, ratio, found) in enumerate(zip(engines, ratios, against_fp32, strict=True)):
        verdict = Verdict.NOT_FASTER if i in holding else Verdict.INACCURATE
        trials.append(_trial(one, ratio, found, Verdict.TAKEN if i == taken else verdict))
    return tuple(trials)


def _best(ratios: Sequence[Ratio], holding: Sequence[int]) -> int | None:
    if not holding:
        return None
    best = min(holding, key=lambda i: ratios[i].ratio)
    return 0 if 0 in holding and ratios[best].interval.high >= 1 else best


def _trial(one: Timed, ratio: Ratio, found: Comparison, verdict: Verdict) -> EngineTrial:
    medians_ms = [statistics.median(round_ms) for round_ms in one.rounds_ms]
    return EngineTrial(
        engine=one.backend.name,
        version=one.spec.version,
        threads=one.spec.threads,
        p50_ms=statistics.median(medians_ms),
        p50_interval_ms=median_interval(medians_ms),
        ratio=ratio.ratio,
        ratio_interval=ratio.interval,
        top1_change_points=found.top1_change_points,
        agreement=found.agreement,
        verdict=verdict,
    )
