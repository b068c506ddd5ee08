"""The sensors of a Jetson: power rails, temperatures, throttle events. Each read may fail, and then says nothing.

Sources: the kernel's ``Documentation/hwmon/ina3221.rst`` and ``ina238.rst`` (JetPack 5 and later), the driver
``ina3221x`` of JetPack 4, and the chapters on power of NVIDIA's Jetson Linux Developer Guide.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

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


@dataclass(frozen=True, slots=True)
class Sensor:
    """One quantity: the product of the whole numbers in ``files`` times ``scale``, believed only within ``limits``."""

    name: str
    files: tuple[Path, ...]
    scale: float
    limits: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sensors:
    """All of a machine: ``power`` in mW, ``temperatures`` in °C.

    ``total`` names the rails whose sum is the power of the whole module: the one at its input, else all, but for those
    that are part of another.
    """

    power: tuple[Sensor, ...]
    temperatures: tuple[Sensor, ...]
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
    return Sensors(power, _distinct(list(_zones(root))), (whole,) if whole else _added(names))


def read_throttle_events(root: Path) -> dict[str, int]:
    """How often the hardware has throttled since it was started, by cause; empty where that cannot be read."""
    found = {}
    for folder in sorted(root.glob(_COUNTERS)):
        if _text(folder / "name") == "soctherm_oc":
            for number, cause in _THROTTLES.items():
                with suppress(ValueError):
                    found[cause] = int(_text(folder / f"oc{number}_event_cnt"))
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
            yield from _rail(_text(folder / f"in{number}_label"), files, scale=1e-3)


def _ina3221x(root: Path) -> Iterator[Sensor]:
    """JetPack 4: mW."""
    for folder in sorted(root.glob(f"{_DRIVERS}/ina3221x/*/iio:device*")):
        for number in range(_CHANNELS):
            yield from _rail(_text(folder / f"rail_name_{number}"), (folder / f"in_power{number}_input",), scale=1.0)


def _ina238(root: Path) -> Iterator[Sensor]:
    """The input of a Thor's carrier board: µW."""
    for folder in sorted(root.glob(f"{_DRIVERS}/ina238/*/hwmon/hwmon*")):
        yield from _rail("VIN", (folder / "power1_input",), scale=1e-3)


def _rail(name: str, files: tuple[Path, ...], *, scale: float) -> Iterator[Sensor]:
    if name and "NC" not in name.split():  # not connected
        yield Sensor(name, files, scale, _POWER_LIMITS_MW)


def _zones(root: Path) -> Iterator[Sensor]:
    """m°C."""
    for folder in sorted(root.glob(_ZONES), key=lambda path: (len(path.name), path.name)):
        name = _text(folder / "type")
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


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""
