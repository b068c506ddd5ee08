"""Rails, temperatures and throttle events of Jetsons made of files, whole and broken."""

from __future__ import annotations

import math
import re
import subprocess
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fake_jetson import AGX_ORIN, FAKES, NANO, ORIN_NANO, XAVIER_NX, break_file, fake_jetson, fake_pc
from hypothesis import given
from hypothesis import strategies as st

from googlenet_edge.engines.sensors import OpenSensor, Sensor, find_sensors, read_throttle_events

RAIL = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon0"


def values(sensors: tuple[Sensor, ...]) -> dict[str, float | None]:
    """What each says now."""
    found = {}
    for sensor in sensors:
        with closing(OpenSensor(sensor)) as opened:
            found[sensor.name] = opened.read()
    return found


@pytest.mark.parametrize(
    ("name", "power_mw", "total"),
    [
        ("nano", {"POM_5V_IN": 2089, "POM_5V_GPU": 39, "POM_5V_CPU": 413}, ("POM_5V_IN",)),
        ("xavier-nx", {"VDD_IN": 4233.6, "VDD_CPU_GPU_CV": 725.76, "VDD_SOC": 1048.32}, ("VDD_IN",)),
        ("orin-nano", {"VDD_IN": 4805.696, "VDD_CPU_GPU_CV": 686.528, "VDD_SOC": 1491.84}, ("VDD_IN",)),
        (
            "agx-orin",
            {"VDD_GPU_SOC": 3189.76, "VDD_CPU_CV": 797.44, "VIN_SYS_5V0": 3974.4, "VDDQ_VDD2_1V8AO": 596.16},
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        ),
    ],
)
def test_rails_are_in_milliwatts(name: str, power_mw: dict[str, float], total: tuple[str, ...], tmp_path: Path) -> None:
    sensors = find_sensors(fake_jetson(tmp_path, FAKES[name]))
    assert values(sensors.power) == pytest.approx(power_mw)
    assert sensors.total == total


@pytest.mark.parametrize("name", FAKES)
def test_rails_and_temperatures_are_those_that_tegrastats_shows(name: str, tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, FAKES[name])
    with subprocess.Popen([root / "usr/bin/tegrastats"], stdout=subprocess.PIPE, text=True) as tegrastats:
        assert tegrastats.stdout is not None
        line = tegrastats.stdout.readline()
        tegrastats.kill()
    sensors = find_sensors(root)
    rails = {rail: float(mw) for rail, mw in re.findall(r"(\w+) (\d+)mW/", line)}
    assert values(sensors.power) == pytest.approx(rails, abs=1)
    zones = {zone: float(celsius) for zone, celsius in re.findall(r"(\S+)@(\d[\d.]*)C", line) if zone != "PMIC-Die"}
    ours = {name.removesuffix("-thermal"): value for name, value in values(sensors.temperatures).items()}
    assert {zone: value for zone, value in ours.items() if value is not None} == pytest.approx(zones, abs=0.01)


def test_temperatures_are_in_degrees_and_what_is_no_sensor_is_left_out(tmp_path: Path) -> None:
    sensors = find_sensors(fake_jetson(tmp_path, NANO))
    assert values(sensors.temperatures) == {
        "AO-therm": 41.5,
        "CPU-therm": 33.0,
        "GPU-therm": 31.5,
        "PLL-therm": 31.0,
        "thermal-fan-est": 32.25,
    }


def test_zone_without_power_is_not_measured(tmp_path: Path) -> None:
    found = values(find_sensors(fake_jetson(tmp_path, ORIN_NANO)).temperatures)
    assert found["cv0-thermal"] is None
    assert found["tj-thermal"] == pytest.approx(49.062)


def test_rails_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, AGX_ORIN)
    (root / "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon1/in1_label").write_text("VDD_CPU_CV\n")
    found = values(find_sensors(root).power)
    assert (found["VDD_CPU_CV"], found["VDD_CPU_CV 2"]) == (pytest.approx(797.44), 0)


def test_input_of_the_carrier_board_is_the_total_where_it_is_measured(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, AGX_ORIN)
    board = root / "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon5"
    board.mkdir(parents=True)
    (board / "power1_input").write_text("35200000\n")
    sensors = find_sensors(root)
    assert sensors.total == ("VIN",)
    assert values(sensors.power)["VIN"] == pytest.approx(35_200)


@pytest.mark.parametrize("text", ["", "-5\n", "fast\n", "nan\n", "99999999\n", "12.5\n", "\x00\xff"])
def test_absurd_reading_is_not_measured(text: str, tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    (root / RAIL / "curr1_input").write_text(text)
    (root / "sys/devices/virtual/thermal/thermal_zone0/temp").write_text(text.replace("-5", "-41000"))
    sensors = find_sensors(root)
    assert values(sensors.power)["VDD_IN"] is None
    assert values(sensors.power)["VDD_SOC"] == pytest.approx(1491.84)
    assert values(sensors.temperatures)["cpu-thermal"] is None


def test_two_wrong_signs_do_not_make_a_right_one(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    for name in ("in1_input", "curr1_input"):
        (root / RAIL / name).write_text("-1000\n")
    assert values(find_sensors(root).power)["VDD_IN"] is None


def test_input_that_cannot_be_read_is_still_the_total(tmp_path: Path) -> None:
    """The sum of the other rails would look like a total, and be too small."""
    root = fake_jetson(tmp_path, ORIN_NANO)
    break_file(root / RAIL / "in1_input")
    sensors = find_sensors(root)
    assert sensors.total == ("VDD_IN",)
    assert values(sensors.power)["VDD_IN"] is None


def test_sensor_that_fails_while_it_is_watched_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "mv").write_text("5000\n")
    (tmp_path / "ma").write_text("100\n")
    opened = OpenSensor(Sensor("rail", (tmp_path / "mv", tmp_path / "ma"), 1e-3, (0, 1000)))
    assert opened.read() == 500
    (tmp_path / "ma").write_text("150\n")
    assert opened.read() == 750
    (tmp_path / "ma").write_text("250\n")
    assert opened.read() is None
    opened.close()
    opened.close()
    assert opened.read() is None


def test_sensor_whose_file_is_gone_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "mv").write_text("5000\n")
    with closing(OpenSensor(Sensor("rail", (tmp_path / "mv", tmp_path / "ma"), 1e-3, (0, 1000)))) as opened:
        assert opened.read() is None


@given(st.binary(max_size=40))
def test_whatever_a_sensor_says_is_believed_only_within_its_limits(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "temp"
        file.write_bytes(data)
        with closing(OpenSensor(Sensor("zone", (file,), 1e-3, (-40, 125)))) as opened:
            found = opened.read()
    assert found is None or (math.isfinite(found) and -40 <= found <= 125)


def test_throttle_events_are_counted_by_cause(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    assert read_throttle_events(root) == {
        "under-voltage": 0,
        "average over-current": 7,
        "instantaneous over-current": 14,
    }
    break_file(root / "sys/class/hwmon/hwmon0/oc1_event_cnt")
    (root / "sys/class/hwmon/hwmon0/oc2_event_cnt").write_text("-1\n")
    assert read_throttle_events(root) == {"instantaneous over-current": 14}


def test_machines_that_do_not_count_throttle_events_have_none(tmp_path: Path) -> None:
    assert read_throttle_events(fake_jetson(tmp_path, XAVIER_NX)) == {}


def test_other_machine_has_no_rails(tmp_path: Path) -> None:
    sensors = find_sensors(fake_pc(tmp_path))
    assert (sensors.power, sensors.total) == ((), ())
