"""Sensors watched beside a run: power, heat and clocks over time.

A thread looks at fixed moments, whatever the last look took. How much of a core all looks took is part of the result.

The sensors are those of a Jetson: power rails, temperatures, clocks, throttle events. Each read may fail, and then says
nothing. Sources: the kernel's ``Documentation/hwmon/ina3221.rst`` and ``ina238.rst`` (JetPack 5 and later), the driver
``ina3221x`` of JetPack 4, and the chapters on power of NVIDIA's Jetson Linux Developer Guide.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import BinaryIO

from googlenet_edge.engines.jetson import clock_files
from googlenet_edge.engines.timing import Clock
from googlenet_edge.files import text_in
from googlenet_edge.statistics import Figure, NonNegative, Tally

POWER_HZ = 10.0
HEAT_HZ = 1.0  # nothing warms up faster

_MOST_KEPT = 100_000
"""Moments of a series in a file: of some hours and more, every so many-th. In memory it has twice as many at most."""

Wait = Callable[[float], bool]
"""Waits so many seconds, or until it is time to end, and says whether it is: `threading.Event.wait`."""

_DRIVERS = "sys/bus/i2c/drivers"
_ZONES = "sys/devices/virtual/thermal/thermal_zone*"
_COUNTERS = "sys/class/hwmon/hwmon*"
_CHANNELS = 3  # of an INA3221, without the sums behind them
_WHOLE = ("VIN", "VDD_IN", "POM_5V_IN")

_PART_OF = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
"""Rails of an AGX Orin: that of its memory is fed by, and so measured in, the other."""
_NO_SENSOR = {"PMIC-Die"}  # the driver says 50 or 100 °C, whatever it is
_THROTTLES = {1: "under-voltage", 2: "average over-current", 3: "instantaneous over-current"}
_POWER_LIMITS_MW = (0.0, 300_000.0)
_TEMPERATURE_LIMITS_C = (-40.0, 125.0)
_CLOCK_LIMITS_MHZ = (1.0, 10_000.0)  # 0: a GPU that is off meanwhile


@dataclass(frozen=True, slots=True)
class Series:
    """What sensors said ``times_s`` after the start, each by its name; ``None`` where one said nothing."""

    times_s: tuple[NonNegative, ...]
    values: dict[str, tuple[Figure | None, ...]]


@dataclass(frozen=True, slots=True)
class Watched:
    """The sensors of a machine over a whole benchmark.

    ``power`` is in mW by rail, ``heat`` in °C by zone, ``clocks`` in MHz. ``total`` names the rails whose sum is the
    power of the module. ``throttle_events`` counts by cause how often the hardware throttled meanwhile; None where that
    cannot be read. ``core_share`` is the part of one processor core that looking took.
    """

    power: Series
    heat: Series
    total: tuple[str, ...]
    throttle_events: dict[str, Tally] | None
    core_share: NonNegative
    clocks: Series = Series((), {})

    @property
    def throttling(self) -> str:
        """How often the hardware throttled, by cause: over-current and under-voltage. What heat does is not counted."""
        if self.throttle_events is None:
            return "throttled by the supply: not measured"
        found = ", ".join(f"{count} of {cause}" for cause, count in self.throttle_events.items() if count)
        return f"throttled by the supply: {found or 'never'}"


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
    """Sensors that are open, and what they have said at every moment or, of ``most`` and more, at every so many-th."""

    sensors: Mapping[str, OpenSensor]
    most: int = 2 * _MOST_KEPT
    _looks: list[tuple[float, tuple[float | None, ...]]] = field(default_factory=list)
    _moments: int = 0
    _step: int = 1

    def look(self, elapsed_s: float) -> None:
        """Reads all of them once, where this moment is kept."""
        if self._moments % self._step == 0:
            self._looks.append((elapsed_s, tuple(sensor.read() for sensor in self.sensors.values())))
            if len(self._looks) > self.most:
                del self._looks[1::2]
                self._step *= 2
        self._moments += 1

    @property
    def last_s(self) -> float:
        """The last moment; none is before everything."""
        return self._looks[-1][0] if self._looks else -math.inf

    def series(self) -> Series:
        """All that is kept; another thread may look meanwhile."""
        times, rows = zip(*self._looks, strict=True) if self._looks else ((), ())
        columns = zip(*rows, strict=True) if rows else [()] * len(self.sensors)
        return Series(times, dict(zip(self.sensors, columns, strict=True)))


def at_both_ends(series: Series, name: str, start_s: float, end_s: float) -> tuple[float, float] | None:
    """What a sensor said in the first and in the last tenth of a time, in the mean; None where it said nothing then."""
    values = series.values.get(name, ())
    within = [(time, value) for time, value in zip(series.times_s, values, strict=False) if start_s <= time <= end_s]
    said = [value for _, value in within if value is not None]
    tenth = max(1, len(said) // 10)
    return (fmean(said[:tenth]), fmean(said[-tenth:])) if said else None


def thinned(series: Series, *, most: int = _MOST_KEPT) -> Series:
    """Every so many-th moment of a series, evenly, so that no more than ``most`` are left."""
    step = max(1, math.ceil(len(series.times_s) / most))
    return Series(series.times_s[::step], {name: values[::step] for name, values in series.values.items()})


def record(power: Recording, heat: Recording, clocks: Recording, moments: Iterator[float]) -> None:
    """Looks at the power at every moment, at heat and clocks once a second."""
    due_s = 0.0
    for elapsed_s in moments:
        power.look(elapsed_s)
        if elapsed_s >= due_s:
            heat.look(elapsed_s)
            clocks.look(elapsed_s)
            due_s = math.floor(elapsed_s * HEAT_HZ + 1) / HEAT_HZ


class Watch:
    """Watches the sensors of the machine whose file system has this root, for as long as its block lasts."""

    def __init__(self, root: Path, *, clock: Clock, hz: float = POWER_HZ) -> None:
        self._root, self._clock, self._hz = root, clock, hz
        self._sensors = find_sensors(root)
        self._stack = ExitStack()
        kinds = self._sensors.power, self._sensors.temperatures, self._sensors.clocks
        self._power, self._heat, self._clocks = (Recording(self._open(sensors)) for sensors in kinds)
        self._stop, self._core_s, self._ended = threading.Event(), 0.0, math.inf
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

    def look_past(self, moment_s: float) -> None:
        """Waits, in the block, for a look after this moment."""
        while self._thread.is_alive() and self._power.last_s < moment_s:
            self._stop.wait(1 / self._hz)

    def watched(self) -> Watched:
        """All that was seen; in the block, what was seen until now, and looking took nothing yet."""
        now = read_throttle_events(self._root)
        return Watched(
            power=self._power.series(),
            heat=self._heat.series(),
            total=self._sensors.total,
            throttle_events=throttled(self._events, now),
            core_share=self._core_s / max(self._ended - self._started, 1e-9),
            clocks=self._clocks.series(),
        )

    def _look(self) -> None:
        record(self._power, self._heat, self._clocks, deadlines(self.elapsed_s, self._stop.wait, hz=self._hz))
        self._core_s = time.thread_time()

    def _open(self, sensors: Sequence[Sensor]) -> dict[str, OpenSensor]:
        opened = {sensor.name: OpenSensor(sensor) for sensor in sensors}
        for each in opened.values():
            self._stack.callback(each.close)
        return opened


def throttled(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int] | None:
    """How far the counters went, for those read both times; None where there is none."""
    return {cause: after[cause] - count for cause, count in before.items() if after.get(cause, -1) >= count} or None


@dataclass(frozen=True, slots=True)
class Sensor:
    """One quantity: the product of the whole numbers in ``files`` times ``scale``, believed only within ``limits``."""

    name: str
    files: tuple[Path, ...]
    scale: float
    limits: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sensors:
    """All of a machine: ``power`` in mW, ``temperatures`` in °C, ``clocks`` in MHz.

    ``total`` names the rails whose sum is the power of the whole module: the one at its input, else all, but for those
    that are part of another.
    """

    power: tuple[Sensor, ...]
    temperatures: tuple[Sensor, ...]
    clocks: tuple[Sensor, ...]
    total: tuple[str, ...]


class OpenSensor:
    """A sensor whose files stay open, so that a look at it costs two system calls a file."""

    def __init__(self, sensor: Sensor) -> None:
        self._sensor = sensor
        self._files: list[BinaryIO] = []
        with suppress(OSError):
            for file in sensor.files:
                self._files.append(file.open("rb", buffering=0))

    def read(self) -> float | None:
        """The value of this moment; None where it cannot be read, is no number, or cannot be true."""
        if len(self._files) < len(self._sensor.files):
            return None
        try:
            numbers = [_now(file) for file in self._files]
        except (OSError, ValueError):
            return None
        if len(numbers) > 1 and min(numbers) < 0:  # two wrong signs would make a right one
            return None
        value = math.prod(numbers) * self._sensor.scale
        low, high = self._sensor.limits
        return value if low <= value <= high else None

    def close(self) -> None:
        """Closes the files. A second call does nothing."""
        for file in self._files:
            file.close()
        self._files = []


def find_sensors(root: Path) -> Sensors:
    """The sensors below a root, whether or not they can be read."""
    power = _distinct([*_ina238(root), *_ina3221(root), *_ina3221x(root)])
    names = [sensor.name for sensor in power]
    whole = next((name for name in _WHOLE if name in names), None)
    clocks = (Sensor(name, (file,), scale, _CLOCK_LIMITS_MHZ) for name, (file, scale) in clock_files(root).items())
    return Sensors(power, _distinct(list(_zones(root))), tuple(clocks), (whole,) if whole else _added(names))


def read_throttle_events(root: Path) -> dict[str, int]:
    """How often the hardware has throttled since it was started, by cause; empty where that cannot be read."""
    found = {}
    for folder in sorted(root.glob(_COUNTERS)):
        if text_in(folder / "name") == "soctherm_oc":
            for number, cause in _THROTTLES.items():
                with suppress(ValueError):
                    found[cause] = int(text_in(folder / f"oc{number}_event_cnt") or "")
    return {cause: count for cause, count in found.items() if count >= 0}


def _added(names: list[str]) -> tuple[str, ...]:
    return tuple(name for name in names if _PART_OF.get(name) not in names)


def _now(file: BinaryIO) -> int:
    file.seek(0)
    return int(file.read(32) or b"")  # None where a zone's part of the chip is off (EAGAIN), which is no number either


def _ina3221(root: Path) -> Iterator[Sensor]:
    """From JetPack 5 on: mV × mA."""
    for folder in sorted(root.glob(f"{_DRIVERS}/ina3221/*/hwmon/hwmon*")):
        for number in range(1, _CHANNELS + 1):
            files = folder / f"in{number}_input", folder / f"curr{number}_input"
            yield from _rail(text_in(folder / f"in{number}_label"), files, scale=1e-3)


def _ina3221x(root: Path) -> Iterator[Sensor]:
    """JetPack 4: mW."""
    for folder in sorted(root.glob(f"{_DRIVERS}/ina3221x/*/iio:device*")):
        for number in range(_CHANNELS):
            yield from _rail(text_in(folder / f"rail_name_{number}"), (folder / f"in_power{number}_input",), scale=1.0)


def _ina238(root: Path) -> Iterator[Sensor]:
    """The input of a Thor's carrier board: µW."""
    for folder in sorted(root.glob(f"{_DRIVERS}/ina238/*/hwmon/hwmon*")):
        yield from _rail("VIN", (folder / "power1_input",), scale=1e-3)


def _rail(name: str | None, files: tuple[Path, ...], *, scale: float) -> Iterator[Sensor]:
    if name and "NC" not in name.split():  # not connected
        yield Sensor(name, files, scale, _POWER_LIMITS_MW)


def _zones(root: Path) -> Iterator[Sensor]:
    """m°C."""
    for folder in sorted(root.glob(_ZONES), key=lambda path: (len(path.name), path.name)):
        name = text_in(folder / "type")
        if name and name not in _NO_SENSOR:
            yield Sensor(name, (folder / "temp",), 1e-3, _TEMPERATURE_LIMITS_C)


def _distinct(sensors: list[Sensor]) -> tuple[Sensor, ...]:
    """Those whose name comes again are told apart by a number."""
    seen: Counter[str] = Counter()
    found = []
    for sensor in sensors:
        seen[sensor.name] += 1
        count = seen[sensor.name]
        found.append(sensor if count == 1 else replace(sensor, name=f"{sensor.name} {count}"))
    return tuple(found)
