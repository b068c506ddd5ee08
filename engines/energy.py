"""The energy of an inference: the power of the module over stretches of nothing but inferences, and over idle ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from googlenet_edge.engines.sensors import POWER_HZ, Watched
from googlenet_edge.engines.timing import Clock, Tick, take_turns
from googlenet_edge.statistics import Figure, Tally

_FEWEST_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Stretch:
    """From ``start_s`` to ``end_s`` there was nothing but ``inferences``, back to back; 0 is idle."""

    start_s: float
    end_s: float
    inferences: int = 0


@dataclass(frozen=True, slots=True)
class Energy:
    """What inferences cost.

    ``mj`` is the energy of the whole module for one inference, ``turns_mj`` the same by turn; ``mj_above_idle`` leaves
    out what an idle module would have used meanwhile. ``power_mw`` and ``idle_mw`` are means. None: not measured.
    """

    inferences: Tally
    power_mw: Figure
    mj: Figure
    turns_mj: tuple[Figure, ...]
    idle_mw: Figure | None
    mj_above_idle: Figure | None


@dataclass(frozen=True, slots=True)
class EnergyPlan:
    """Each of ``rounds`` turns lasts ``seconds``, after ``settle_s`` that do not count; sensors are read at ``hz``."""

    rounds: int = 3
    seconds: float = 2.0
    settle_s: float = 0.5
    hz: float = POWER_HZ

    def turn_count(self, subjects: int) -> int:
        """How many turns there are, with the idle ones."""
        return self.rounds * (1 + subjects)


def take_stretches(
    runs: Sequence[Callable[[], object]],
    *,
    plan: EnergyPlan,
    elapsed_s: Clock,
    pause: Callable[[float], None],
    tick: Tick,
) -> list[list[Stretch]]:
    """Stretches of idleness, and of each of ``runs``, in turns; the idle ones first.

    Args:
        elapsed_s: the time of the samples, `Watch.elapsed_s`.
        pause: `time.sleep`.
        tick: called `EnergyPlan.turn_count` times.
    """
    turns = [
        partial(_idle, plan, elapsed_s, pause),
        *(partial(_busy, run, plan=plan, elapsed_s=elapsed_s) for run in runs),
    ]
    return take_turns(turns, plan.rounds, tick)


def energy_of(watched: Watched, busy: Sequence[Stretch], idle: Sequence[Stretch]) -> Energy | None:
    """The energy of the inferences of ``busy``; None where the power of the module was not measured throughout."""
    used = _energies(watched, busy)
    inferences, seconds = sum(stretch.inferences for stretch in busy), _seconds(busy)
    if used is None or inferences == 0:
        return None
    resting = _energies(watched, idle)
    idle_mw = None if resting is None else math.fsum(resting) / _seconds(idle)
    return Energy(
        inferences=inferences,
        power_mw=math.fsum(used) / seconds,
        mj=math.fsum(used) / inferences,
        turns_mj=tuple(mj / stretch.inferences for mj, stretch in zip(used, busy, strict=True)),
        idle_mw=idle_mw,
        mj_above_idle=None if idle_mw is None else (math.fsum(used) - idle_mw * seconds) / inferences,
    )


def total_power(watched: Watched) -> tuple[float | None, ...]:
    """The power of the whole module in mW, sample by sample; None where a rail that belongs to it said nothing."""
    rails = [watched.power.values[name] for name in watched.total]
    if not rails:
        return (None,) * len(watched.power.times_s)
    return tuple(_sum(row) for row in zip(*rails, strict=True))


def integral(times_s: Sequence[float], values: Sequence[float | None], start_s: float, end_s: float) -> float | None:
    """The area below samples from ``start_s`` to ``end_s``, by the trapezoid rule, with the ends interpolated.

    None where the samples do not reach over both ends, or within them fewer than three, or fewer than half, say
    something.
    """
    known = [(time, value) for time, value in zip(times_s, values, strict=True) if value is not None]
    within = sum(start_s <= time <= end_s for time in times_s)
    inside = [(time, value) for time, value in known if start_s <= time <= end_s]
    if start_s >= end_s or not known or not (known[0][0] <= start_s and end_s <= known[-1][0]):
        return None
    if len(inside) < max(_FEWEST_SAMPLES, within / 2):
        return None
    points = [(start_s, _at(known, start_s)), *inside, (end_s, _at(known, end_s))]
    return math.fsum((later - time) * (value + following) / 2 for (time, value), (later, following) in pairwise(points))


def _at(known: Sequence[tuple[float, float]], time_s: float) -> float:
    times, values = zip(*known, strict=True)
    return float(np.interp(time_s, times, values))


def _sum(row: Sequence[float | None]) -> float | None:
    said = [value for value in row if value is not None]
    return math.fsum(said) if len(said) == len(row) else None


def _energies(watched: Watched, stretches: Sequence[Stretch]) -> list[float] | None:
    """The mJ of each stretch; None where there is no stretch, or one was not measured."""
    power = total_power(watched)
    found = [integral(watched.power.times_s, power, stretch.start_s, stretch.end_s) for stretch in stretches]
    measured = [mj for mj in found if mj is not None]
    return measured if measured and len(measured) == len(found) else None


def _seconds(stretches: Sequence[Stretch]) -> float:
    return math.fsum(stretch.end_s - stretch.start_s for stretch in stretches)


def _idle(plan: EnergyPlan, elapsed_s: Clock, pause: Callable[[float], None]) -> Stretch:
    pause(plan.settle_s)
    start_s = elapsed_s()
    pause(plan.seconds)
    return Stretch(start_s, elapsed_s())


def _busy(run: Callable[[], object], *, plan: EnergyPlan, elapsed_s: Clock) -> Stretch:
    _fill(run, plan.settle_s, elapsed_s)
    start_s = elapsed_s()
    inferences = _fill(run, plan.seconds, elapsed_s)
    return Stretch(start_s, elapsed_s(), inferences)


def _fill(run: Callable[[], object], seconds: float, elapsed_s: Clock) -> int:
    """Runs for so long, at least once, and says how often."""
    end_s, count = elapsed_s() + seconds, 0
    while count == 0 or elapsed_s() < end_s:
        run()
        count += 1
    return count
