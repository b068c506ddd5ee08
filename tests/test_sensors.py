"""Watching sensors and the energy of an inference: every moment and every milliwatt is known."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_jetson import AGX_ORIN, ORIN_NANO, XAVIER_NX, break_file, fake_jetson, fake_pc, set_throttle_events
from hypothesis import given
from hypothesis import strategies as st

from googlenet_edge.engines.energy import EnergyPlan, Stretch, energy_of, integral, take_stretches, total_power
from googlenet_edge.engines.sensors import (
    OpenSensor,
    Recording,
    Sensor,
    Series,
    Watch,
    Watched,
    at_both_ends,
    deadlines,
    record,
    thinned,
    throttled,
)


@dataclass
class FakeTime:
    """A clock that moves only when somebody waits, or a look takes its time."""

    now: float = 0.0
    until: float = 1.0

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now = min(self.now + seconds, self.until)
        return self.now >= self.until

    def pause(self, seconds: float) -> None:
        self.now += seconds


# When it looks


def test_deadlines_do_not_drift_whatever_a_look_takes() -> None:
    at = FakeTime(until=0.95)
    seen = []
    for elapsed in deadlines(at.clock, at.wait, hz=10):
        seen.append(elapsed)
        at.now += 0.03
    assert seen[:-1] == pytest.approx([0.1 * i for i in range(10)])
    assert seen[-1] == pytest.approx(0.95), "once more at the end"


def test_deadline_that_has_passed_is_left_out() -> None:
    at = FakeTime(until=1.0)
    seen = []
    for elapsed in deadlines(at.clock, at.wait, hz=10):
        seen.append(elapsed)
        at.now += 0.25 if len(seen) == 2 else 0.0
    assert seen[:5] == pytest.approx([0.0, 0.1, 0.4, 0.5, 0.6])


@given(st.floats(1, 20), st.lists(st.floats(0, 2), min_size=1, max_size=30))
def test_deadlines_only_go_forward_and_never_come_twice_in_a_period(hz: float, delays: list[float]) -> None:
    at = FakeTime(until=1e9)
    seen = []
    for elapsed, delay in zip(deadlines(at.clock, at.wait, hz=hz), delays, strict=False):
        seen.append(elapsed)
        at.now += delay
    numbers = [round(elapsed * hz, 6) for elapsed in seen]
    assert all(before < after for before, after in pairwise(numbers))
    assert all(abs(number - round(number)) < 1e-3 for number in numbers)


# What it keeps


def recording(folder: Path, **values: str) -> Recording:
    for name, text in values.items():
        (folder / name).write_text(text)
    return Recording({name: OpenSensor(Sensor(name, (folder / name,), 1.0, (0, 1e6))) for name in values})


def test_record_looks_at_heat_and_clocks_once_a_second(tmp_path: Path) -> None:
    power, heat = recording(tmp_path, rail="5000\n"), recording(tmp_path, zone="40\n")
    clocks = recording(tmp_path, gpu="918\n")
    record(power, heat, clocks, (0.25 * i for i in range(9)))
    assert power.series() == Series(tuple(0.25 * i for i in range(9)), {"rail": (5000.0,) * 9})
    assert heat.series() == Series((0.0, 1.0, 2.0), {"zone": (40.0,) * 3})
    assert clocks.series() == Series((0.0, 1.0, 2.0), {"gpu": (918.0,) * 3})


def test_what_a_sensor_said_at_both_ends_of_a_time_is_the_mean_of_a_tenth_of_it() -> None:
    said = (1.0, *(10.0, 12.0, *[50.0] * 15, None, 20.0, 22.0), 1.0)
    series = Series(tuple(float(i) for i in range(22)), {"GPU clock": said, "CPU clock": (None,) * 22})
    assert at_both_ends(series, "GPU clock", 1, 20) == pytest.approx((10, 22)), "of 19 that are something, one"
    assert at_both_ends(
        replace(series, values={"GPU clock": (*said[:18], 20.0, 20.0, 22.0, 1.0)}), "GPU clock", 1, 20
    ) == (pytest.approx((11, 21)))
    assert at_both_ends(series, "CPU clock", 1, 20) is None
    assert at_both_ends(series, "GPU clock", 30, 40) is None
    assert at_both_ends(Series((), {}), "GPU clock", 0, 1) is None


def test_recording_of_days_keeps_every_so_many_th_moment_and_no_more(tmp_path: Path) -> None:
    watched = recording(tmp_path, rail="5000\n")
    watched.most = 8
    kept = []
    for second in range(1000):
        watched.look(float(second))
        kept.append(len(watched.series().times_s))
    assert max(kept) == 8
    assert watched.series() == Series(tuple(128.0 * i for i in range(8)), {"rail": (5000.0,) * 8})


def test_recording_says_where_a_sensor_said_nothing(tmp_path: Path) -> None:
    watched = recording(tmp_path, good="1\n", bad="1\n")
    watched.look(0.0)
    (tmp_path / "bad").write_text("error\n")
    watched.look(0.1)
    assert watched.series() == Series((0.0, 0.1), {"good": (1.0, 1.0), "bad": (1.0, None)})
    assert recording(tmp_path, never="1\n").series() == Series((), {"never": ()})


class WithoutPower(io.RawIOBase):
    """The temperature of a part of the chip that is off: the kernel answers EAGAIN, of which Python makes a None."""

    def readable(self) -> bool:
        return True

    def seek(self, *_: int) -> int:
        return 0

    def readinto(self, _: object) -> None:
        return None


def test_watch_goes_on_where_a_part_of_the_chip_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every Orin Nano, which has no DLA, and on a Thor that is idle."""
    root, opened = fake_jetson(tmp_path, ORIN_NANO), Path.open

    def open_it(path: Path, *args: Any, **kwargs: Any) -> Any:
        off = path.name == "temp" and (path.parent / "type").read_text().strip() == "cv0-thermal"
        return WithoutPower() if off else opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_it)
    with Watch(root, clock=time.perf_counter, hz=20) as watch:
        pass
    heat = watch.watched().heat
    assert len(heat.times_s) >= 1
    assert {len(values) for values in heat.values.values()} == {len(heat.times_s)}
    assert set(heat.values["cv0-thermal"]) == {None}
    assert heat.values["tj-thermal"][0] == pytest.approx(49.062)


def test_throttle_events_are_those_since_the_start() -> None:
    assert throttled({"a": 7, "b": 1, "gone": 1, "reset": 9}, {"a": 9, "b": 1, "reset": 2, "new": 5}) == {
        "a": 2,
        "b": 0,
    }
    assert throttled({}, {"a": 1}) is None


def test_watch_sees_what_happens_meanwhile(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    broken = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon0/in3_input"
    break_file(broken)
    with Watch(root, clock=time.perf_counter, hz=20) as watch:
        set_throttle_events(root, 3, 16)
        begun = watch.elapsed_s()
    found = watch.watched()
    assert found.throttle_events == {"under-voltage": 0, "average over-current": 0, "instantaneous over-current": 2}
    assert found.total == ("VDD_IN",)
    assert found.power.times_s[-1] >= begun >= 0, "the last look comes after the run"
    assert found.power.values["VDD_IN"][-1] == pytest.approx(4805.696)
    assert set(found.power.values["VDD_SOC"]) == {None}
    assert set(found.heat.values["cv0-thermal"]) == {None}
    assert found.heat.values["tj-thermal"][0] == pytest.approx(49.062)
    assert found.clocks.values == {
        "CPU clock": (pytest.approx(1344),) * len(found.clocks.times_s),
        "GPU clock": (pytest.approx(306),) * len(found.clocks.times_s),
    }
    assert 0 <= found.core_share <= 1
    assert not any(thread.name == "sensors" for thread in threading.enumerate())


def test_watch_sees_no_clock_of_a_gpu_that_is_off(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, XAVIER_NX)
    (root / "sys/class/devfreq/17000000.gv11b/cur_freq").write_text("0\n")
    with Watch(root, clock=time.perf_counter) as watch:
        pass
    assert set(watch.watched().clocks.values["GPU clock"]) == {None}


def test_watch_waits_for_a_look_after_a_moment_and_says_what_was_seen_until_then(tmp_path: Path) -> None:
    with Watch(fake_jetson(tmp_path, ORIN_NANO), clock=time.perf_counter, hz=50) as watch:
        now = watch.elapsed_s()
        watch.look_past(now)
        found = watch.watched()
    assert found.power.times_s[-1] >= now
    assert found.power.values["VDD_IN"][-1] == pytest.approx(4805.696)
    assert found.core_share == 0


def test_watch_ends_and_gives_the_files_back_when_the_run_fails(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, XAVIER_NX)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ZeroDivisionError), Watch(root, clock=time.perf_counter):
        raise ZeroDivisionError
    assert not any(thread.name == "sensors" for thread in threading.enumerate())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_watch_of_a_machine_without_sensors_measures_nothing(tmp_path: Path) -> None:
    with Watch(fake_pc(tmp_path), clock=time.perf_counter) as watch:
        pass
    found = watch.watched()
    assert (found.power.values, found.total, found.throttle_events) == ({}, (), None)
    assert set(found.clocks.values.get("CPU clock", ())) == {None}
    assert set(total_power(found)) == {None}


# Energy


@given(st.floats(0, 1e5), st.floats(-1e4, 1e4), st.floats(0.5, 3), st.floats(3.5, 9))
def test_integral_of_a_straight_line_is_exact(offset: float, slope: float, start: float, end: float) -> None:
    times = [0.1 * i for i in range(101)]
    area = integral(times, [offset + slope * t for t in times], start, end)
    assert area == pytest.approx(offset * (end - start) + slope * (end**2 - start**2) / 2, rel=1e-6, abs=1e-3)


def test_integral_bridges_a_missing_sample_and_no_more() -> None:
    times = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert integral(times, [2.0, 2.0, None, 2.0, 2.0, 2.0], 0.5, 4.5) == pytest.approx(8)
    assert integral(times, [2.0, 2.0, None, None, 2.0, 2.0], 0.5, 4.5) is None, "two samples say too little"
    assert integral(times, [None, None, 2.0, 2.0, 2.0, 2.0], 0.5, 4.5) is None, "it begins before the first"
    assert integral(times, [2.0, 2.0, 2.0, 2.0, 2.0, 2.0], 0.5, 5.5) is None, "it ends after the last"
    assert integral([], [], 0.0, 1.0) is None
    dense = [0.1 * i for i in range(51)]
    assert integral(dense, [1.0 if i % 3 == 0 else None for i in range(51)], 0.5, 4.5) is None, "a third is too little"


def watched(power_mw: dict[str, Callable[[float], float | None]], total: tuple[str, ...]) -> Watched:
    times = tuple(0.1 * i for i in range(201))
    values = {name: tuple(curve(time) for time in times) for name, curve in power_mw.items()}
    return Watched(Series(times, values), Series((), {}), total, None, 0.001)


def test_energy_of_an_inference_with_and_without_idle() -> None:
    """4 W idle; 10 W for 2 s with 400 inferences, and 12 W for 2 s with as many."""

    def power(time_s: float) -> float:
        return 10_000 if 1.5 < time_s < 5 else 12_000 if 9.5 < time_s < 13 else 4_000

    busy, idle = [Stretch(2, 4, 400), Stretch(10, 12, 400)], [Stretch(6, 8), Stretch(14, 16)]
    found = energy_of(watched({"VDD_IN": power, "VDD_SOC": lambda _: 99.0}, ("VDD_IN",)), busy, idle)
    assert found is not None
    assert (found.inferences, found.power_mw, found.idle_mw) == (800, pytest.approx(11_000), pytest.approx(4_000))
    assert found.turns_mj == pytest.approx((50, 60))
    assert (found.mj, found.mj_above_idle) == (pytest.approx(55), pytest.approx(35))


def test_energy_of_a_module_without_one_input_is_that_of_all_rails() -> None:
    found = energy_of(
        watched({"GPU": lambda _: 3000.0, "CPU": lambda _: 1000.0}, ("GPU", "CPU")), [Stretch(1, 3, 4)], ()
    )
    assert found is not None
    assert (found.mj, found.idle_mw, found.mj_above_idle) == (pytest.approx(2000), None, None)


@pytest.mark.parametrize(
    ("curve", "busy"),
    [
        (lambda _: None, [Stretch(1, 3, 10)]),
        (lambda time_s: 5.0 if time_s < 5 else None, [Stretch(1, 3, 10), Stretch(6, 8, 10)]),
        (lambda _: 5.0, []),
        (lambda _: 5.0, [Stretch(1, 3, 0)]),
        (lambda _: 5.0, [Stretch(1, 30, 10)]),
    ],
)
def test_energy_that_was_not_measured_throughout_is_none(
    curve: Callable[[float], float | None], busy: list[Stretch]
) -> None:
    assert energy_of(watched({"VDD_IN": curve}, ("VDD_IN",)), busy, [Stretch(4, 5)]) is None


def test_stretches_take_turns_and_count_what_was_run() -> None:
    at, ran, ticks = FakeTime(), [], []

    def run(name: str, seconds: float) -> None:
        ran.append(name)
        at.now += seconds

    idle, fast, slow = take_stretches(
        [lambda: run("fast", 0.25), lambda: run("slow", 3.0)],
        plan=EnergyPlan(rounds=2, seconds=2.0, settle_s=0.5),
        elapsed_s=at.clock,
        pause=at.pause,
        tick=lambda: ticks.append(None),
    )
    assert [(s.end_s - s.start_s, s.inferences) for s in idle] == [(2.0, 0)] * 2
    assert [(s.end_s - s.start_s, s.inferences) for s in fast] == [(2.0, 8)] * 2
    assert [(s.end_s - s.start_s, s.inferences) for s in slow] == [(3.0, 1)] * 2
    assert ran == [*["fast"] * 10, "slow", "slow"] * 2, "those of the half second before do not count"
    assert len(ticks) == 6
    starts = [idle[0].start_s, fast[0].start_s, slow[0].start_s, fast[1].start_s, slow[1].start_s, idle[1].start_s]
    assert starts == sorted(starts)
    assert (idle[0].start_s, idle[1].start_s - slow[1].end_s) == (0.5, 0.5), "the load before has died away"


def test_series_of_days_keeps_every_so_many_th_moment() -> None:
    series = Series((0.0, 0.1, 0.2, 0.3, 0.4), {"VDD_IN": (1.0, 2.0, None, 4.0, 5.0)})
    assert thinned(series, most=5) == series
    assert thinned(series, most=3) == Series((0.0, 0.2, 0.4), {"VDD_IN": (1.0, None, 5.0)})


def test_total_of_a_module_is_missing_where_a_rail_is(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, AGX_ORIN)
    with Watch(root, clock=time.perf_counter) as watch:
        pass
    assert total_power(watch.watched())[0] == pytest.approx(3189.76 + 797.44 + 3974.4)
    break_file(root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon0/curr1_input")
    with Watch(root, clock=time.perf_counter) as watch:
        pass
    assert set(total_power(watch.watched())) == {None}
