"""How things are timed: warm until steady, in turns that rotate, with every sample kept. The clock is an argument."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from googlenet_edge.statistics import Interval, Tally, median_interval

Clock = Callable[[], float]
"""Seconds since some moment, such as `time.perf_counter`."""

Tick = Callable[[], None]
"""Called after every turn, to show progress."""

WARM_UP_WINDOW = 5
WARM_UP_TOLERANCE = 0.03
WARM_UP_LEAST_S = 0.2
WARM_UP_MOST_S = 10.0
SETTLE_S = 0.01
SETTLE_MOST_RUNS = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How many runs came before the first sample, and whether they had become steady."""

    runs: Tally
    steady: bool


def warm_up(call: Callable[[], object], clock: Clock) -> WarmUp:
    """Calls until the medians of two windows of 5 calls in a row differ by at most 3 %: for 0.2 to about 10 seconds."""
    start, runs = clock(), WARM_UP_WINDOW
    before = statistics.median(timed(call, WARM_UP_WINDOW, clock))
    while True:
        now = statistics.median(timed(call, WARM_UP_WINDOW, clock))
        runs += WARM_UP_WINDOW
        steady = abs(now - before) <= WARM_UP_TOLERANCE * before
        elapsed = clock() - start
        if elapsed >= WARM_UP_MOST_S or (steady and elapsed >= WARM_UP_LEAST_S):
            return WarmUp(runs, steady)
        before = now


def timed(call: Callable[[], object], runs: int, clock: Clock) -> tuple[float, ...]:
    """Milliseconds of each of ``runs`` calls."""
    samples = []
    for _ in range(runs):
        start = clock()
        call()
        samples.append((clock() - start) * 1e3)
    return tuple(samples)


def settled(call: Callable[[], object], runs: int, clock: Clock) -> tuple[float, ...]:
    """As `timed`, after calls for 10 ms, at least one, that do not count: they pay for what others left in the caches.

    One is not enough for the fastest: an inference of 0.4 ms comes down from twice its time within ten.
    """
    start = clock()
    for _ in range(SETTLE_MOST_RUNS):
        call()
        if clock() - start >= SETTLE_S:
            break
    return timed(call, runs, clock)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A time divided by another: the median over rounds, with its 95 % interval."""

    ratio: float
    interval: Interval


def paired_ratio(rounds_ms: Sequence[Sequence[float]], reference_ms: Sequence[Sequence[float]]) -> Ratio:
    """Pairs two by rounds, so that what slowed a round down for both cancels out. At least 6 rounds."""
    pairs = zip(rounds_ms, reference_ms, strict=True)
    ratios = [statistics.median(a) / statistics.median(b) for a, b in pairs]
    return Ratio(statistics.median(ratios), median_interval(ratios))


def take_turns(turns: Sequence[Callable[[], T]], rounds: int, tick: Tick) -> list[list[T]]:
    """Calls every one of ``turns`` once a round; the results of each, by round.

    The order rotates by one each round, so that none always follows the same other. What changes slowly (heat, clocks,
    other programs) reaches all of them alike.
    """
    results: list[list[T]] = [[] for _ in turns]
    for first in range(rounds):
        for place in range(len(turns)):
            who = (first + place) % len(turns)
            results[who].append(turns[who]())
            tick()
    return results


def warm_turns(
    calls: Sequence[Callable[[], object]], *, rounds: int, runs: int, clock: Clock, tick: Tick
) -> list[list[tuple[float, ...]]]:
    """Warms every call up, then lets all take turns; the milliseconds of each, by round.

    In a round each has runs that do not count (`settled`) and ``runs`` that do. ``tick`` is called ``1 + rounds`` times
    for each call.
    """
    take_turns([partial(warm_up, call, clock) for call in calls], 1, tick)
    return take_turns([partial(settled, call, runs, clock) for call in calls], rounds, tick)
