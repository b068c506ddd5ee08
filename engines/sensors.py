"""Sensors watched beside a run: power and heat over time.

A thread looks at fixed moments, whatever the last look took. How much of a core all looks took is part of the result.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from googlenet_edge.engines.jetson_sensors import OpenSensor, Sensor, find_sensors, read_throttle_events
from googlenet_edge.engines.timing import Clock

POWER_HZ = 10.0
HEAT_HZ = 1.0  # nothing warms up faster

_MOST_KEPT = 100_000
"""Moments of a series that are kept: of half a day and more, every so many-th, so that a file of them can be read."""

Wait = Callable[[float], bool]
"""Waits so many seconds, or until it is time to end, and says whether it is: `threading.Event.wait`."""


@dataclass(frozen=True, slots=True)
class Series:
    """What sensors said ``times_s`` after the start, each by its name; ``None`` where one said nothing."""

    times_s: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True, slots=True)
class Watched:
    """The sensors of a machine over a whole benchmark.

    ``power`` is in mW by rail, ``heat`` in °C by zone. ``total`` names the rails whose sum is the power of the module.
    ``throttle_events`` counts by cause how often the hardware throttled meanwhile; None where that cannot be read.
    ``core_share`` is the part of one processor core that looking took.
    """

    power: Series
    heat: Series
    total: tuple[str, ...]
    throttle_events: dict[str, int] | None
    core_share: float


def deadlines(elapsed_s: Clock, wait: Wait, *, hz: float) -> Iterator[float]:
    """Yields the time at each of the moments 0, 1/hz, 2/hz … of ``elapsed_s``, and once more at the end.

    A moment that has passed is left out and not made up for.
    """
    number = 0
    while not wait(max(0.0, number / hz - elapsed_s())):
        yield elapsed_s()
        number = max(number, math.floor(elapsed_s() * hz)) + 1
    yield elapsed_s()


@dataclass
class Recording:
    """Sensors that are open, and what they have said."""

    sensors: Mapping[str, OpenSensor]
    times_s: list[float] = field(default_factory=list)
    rows: list[tuple[float | None, ...]] = field(default_factory=list)

    def look(self, elapsed_s: float) -> None:
        """Reads all of them once."""
        self.rows.append(tuple(sensor.read() for sensor in self.sensors.values()))
        self.times_s.append(elapsed_s)

    def series(self) -> Series:
        """All that was read."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.sensors)
        return Series(tuple(self.times_s), dict(zip(self.sensors, columns, strict=True)))


def thinned(series: Series, *, most: int = _MOST_KEPT) -> Series:
    """Every so many-th moment of a series, evenly, so that no more than ``most`` are left."""
    step = max(1, math.ceil(len(series.times_s) / most))
    return Series(series.times_s[::step], {name: values[::step] for name, values in series.values.items()})


def record(power: Recording, heat: Recording, moments: Iterator[float]) -> None:
    """Looks at the power at every moment, at the heat once a second."""
    heat_due_s = 0.0
    for elapsed_s in moments:
        power.look(elapsed_s)
        if elapsed_s >= heat_due_s:
            heat.look(elapsed_s)
            heat_due_s = math.floor(elapsed_s * HEAT_HZ + 1) / HEAT_HZ


class Watch:
    """Watches the sensors of the machine whose file system has this root, for as long as its block lasts."""

    def __init__(self, root: Path, *, clock: Clock, hz: float = POWER_HZ) -> None:
        self._root, self._clock, self._hz = root, clock, hz
        self._sensors = find_sensors(root)
        self._stack = ExitStack()
        self._power, self._heat = (
            Recording(self._open(sensors)) for sensors in (self._sensors.power, self._sensors.temperatures)
        )
        self._stop, self._core_s = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._look, name="sensors", daemon=True)

    def __enter__(self) -> Watch:
        """Starts."""
        self._events = read_throttle_events(self._root)
        self._started = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Looks once more, and ends."""
        self._stop.set()
        self._thread.join()
        self._stack.close()
        self._ended = self._clock()

    def elapsed_s(self) -> float:
        """Seconds since the start: the time of the samples."""
        return self._clock() - self._started

    def watched(self) -> Watched:
        """All that was seen, after the block."""
        now = read_throttle_events(self._root)
        return Watched(
            power=self._power.series(),
            heat=self._heat.series(),
            total=self._sensors.total,
            throttle_events=throttled(self._events, now),
            core_share=self._core_s / max(self._ended - self._started, 1e-9),
        )

    def _look(self) -> None:
        record(self._power, self._heat, deadlines(self.elapsed_s, self._stop.wait, hz=self._hz))
        self._core_s = time.thread_time()

    def _open(self, sensors: Sequence[Sensor]) -> dict[str, OpenSensor]:
        opened = {sensor.name: OpenSensor(sensor) for sensor in sensors}
        for each in opened.values():
            self._stack.callback(each.close)
        return opened


def throttled(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int] | None:
    """How far the counters went, for those read both times; None where there is none."""
    return {cause: after[cause] - count for cause, count in before.items() if after.get(cause, -1) >= count} or None
