"""A trial: calls that do the same take turns, and the fastest is taken where it wins beyond the noise."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.bundle import Trial
from googlenet_edge.engines.timing import Clock, paired_ratio, settled, take_turns, ticker, timed

ROUNDS = 21
_WARM_UP_RUNS = 5
_MOST_RUNS = 10
_BUDGET_MS = 3000.0


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
