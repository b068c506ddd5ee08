"""The benchmark, with a clock and engines whose every millisecond is known; and once for real."""

from __future__ import annotations

import io
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_jetson import AGX_ORIN, ORIN_NANO, XAVIER_NX, break_file, fake_jetson, fake_pc
from measured import measured as some_measurement
from measured import on_a_jetson, read_measurement
from PIL import Image
from tiny_bundles import COLOURS, PREPROCESS, write_colour_bundle

from googlenet_edge.engines import bench as measuring
from googlenet_edge.engines import registry, sustained
from googlenet_edge.engines.bench import bench, doubts, generated_jpeg, ratios
from googlenet_edge.engines.bundle import Bundle, Lineage
from googlenet_edge.engines.circumstances import Circumstances, peak_memory_mb, read_circumstances, watch_others
from googlenet_edge.engines.clocks import fixed_clocks
from googlenet_edge.engines.cold_start import ColdStart, cold_start
from googlenet_edge.engines.energy import EnergyPlan
from googlenet_edge.engines.jetson import read_jetson
from googlenet_edge.engines.measurement import (
    SCHEMA,
    BundleMeasurement,
    MeasuredImage,
    Measurement,
    Samples,
    Stage,
    latency_ratio,
    samples,
)
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.protocol import DeviceStage, Engine, EngineSpec
from googlenet_edge.engines.rounds import BenchPlan, measure, stage_times, turn_count
from googlenet_edge.engines.sensors import Series, Watched
from googlenet_edge.engines.sustained import Sustained, SustainedPlan, SustainedWindow
from googlenet_edge.engines.timing import WarmUp, settled, take_turns, timed, warm_up
from googlenet_edge.errors import BundleError, ConfigError, DamagedImageError, DataError, EngineError
from googlenet_edge.files import sha256_bytes, to_json, write_json
from googlenet_edge.target import Device, EngineName, Precision

TICK_S = 1e-9  # what a look at the clock costs, so that nothing takes no time at all


@dataclass
class FakeClock:
    now: float = 0.0

    def __call__(self) -> float:
        self.now += TICK_S
        return self.now


FAKE = EngineSpec("fake", "1", Device.CPU, threads=1, crop=32, classes=3)


@dataclass
class FakeEngine(Engine):
    """Takes ``ms(batch)`` on the fake clock, and writes its name down in the log."""

    clock: FakeClock
    ms: Callable[[int], float]
    name: str = "fake"
    log: list[str] = field(default_factory=list)
    spec: EngineSpec = FAKE

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.log.append(self.name)
        self.clock.now += self.ms(len(batch)) / 1e3
        return np.zeros((len(batch), 3), np.float32)

    def close(self) -> None:
        pass


class FakeGpu(FakeEngine):
    """Times its stages, too: a tenth of its time goes in, and a twentieth out."""

    def timed_run(self, batch: np.ndarray) -> tuple[np.ndarray, dict[DeviceStage, float]]:
        before = self.clock.now
        logits = self.run(batch)
        shares = {DeviceStage.COPY_OUT: 0.05, DeviceStage.COPY_IN: 0.1, DeviceStage.COMPUTE: 0.85}
        return logits, {stage: share * 1e3 * (self.clock.now - before) for stage, share in shares.items()}


def durations(*values_ms: float) -> Callable[[int], float]:
    """One after the other, the last one for ever."""
    left: Iterator[float] = iter(values_ms)
    return lambda batch: next(left, values_ms[-1])


def predictor(engine: FakeEngine) -> Predictor:
    return Predictor(engine, labels=COLOURS, preprocess=PREPROCESS)


def caller(clock: FakeClock, ms: Callable[[int], float]) -> Callable[[], None]:
    def call() -> None:
        clock.now += ms(1) / 1e3

    return call


def test_warm_up_ends_when_two_windows_agree() -> None:
    clock = FakeClock()
    falling = [100.0 * 0.8**i for i in range(50) for _ in range(5)]
    assert warm_up(caller(clock, durations(*falling[:30], 25.0)), clock) == WarmUp(runs=40, steady=True)


def test_warm_up_runs_fast_calls_for_a_fifth_of_a_second() -> None:
    clock = FakeClock()
    found = warm_up(caller(clock, durations(1.0)), clock)
    assert (found.runs, found.steady) == (200, True)


def test_warm_up_that_never_settles_says_so() -> None:
    clock = FakeClock()
    swinging = [ms for i in range(1000) for ms in [10.0 if i % 2 else 20.0] * 5]
    found = warm_up(caller(clock, durations(*swinging)), clock)
    assert not found.steady
    assert 10 <= clock.now < 11


def test_timed_keeps_every_sample_in_milliseconds() -> None:
    clock = FakeClock()
    assert timed(caller(clock, durations(3.0, 1.0, 2.0)), 3, clock) == pytest.approx((3, 1, 2), rel=1e-5)


def test_settled_leaves_the_first_run_out() -> None:
    clock = FakeClock()
    assert settled(caller(clock, durations(50.0, 1.0, 2.0)), 2, clock) == pytest.approx((1, 2), rel=1e-5)


def test_take_turns_rotates_the_order_and_keeps_results_apart() -> None:
    order: list[str] = []
    turns = [lambda name=name: order.append(name) or f"{name}{len(order)}" for name in "abc"]
    ticks: list[None] = []
    found = take_turns(turns, 3, lambda: ticks.append(None))
    assert "".join(order) == "abc" + "bca" + "cab"
    assert found == [["a1", "a6", "a8"], ["b2", "b4", "b9"], ["c3", "c5", "c7"]]
    assert len(ticks) == 9


def test_measure_finds_the_durations_that_the_engines_have() -> None:
    clock = FakeClock()
    plan = BenchPlan(rounds=6, runs=4, batches=(1, 3), batch_rounds=2)
    engines = [FakeEngine(clock, lambda batch: 8.0 * batch), FakeEngine(clock, lambda batch: 1.0 + batch)]
    ticks: list[None] = []
    slow, fast = measure(
        [predictor(e) for e in engines], generated_jpeg(), plan=plan, clock=clock, tick=lambda: ticks.append(None)
    )
    assert slow.latency.summary_ms.p50 == pytest.approx(8, rel=1e-5)
    assert fast.latency.summary_ms.p99 == pytest.approx(2, rel=1e-5)
    assert [len(rounds) for rounds in fast.latency.rounds_ms] == [4] * 6
    assert [t.batch for t in slow.throughput] == [1, 3]
    assert [t.images_per_s for t in slow.throughput] == pytest.approx([125, 125], rel=1e-5)
    assert [t.images_per_s for t in fast.throughput] == pytest.approx([500, 750], rel=1e-5)
    assert len(ticks) == 2 * turn_count(plan)


def test_measure_goes_on_until_every_p50_is_known_well() -> None:
    """One bundle is steady; the time of the other steps up and down."""
    clock, ticks = FakeClock(), []
    steps = itertools.cycle([10.0] * 55 + [14.0] * 55)
    plan = BenchPlan(batches=())
    uneven, even = FakeEngine(clock, lambda batch: next(steps)), FakeEngine(clock, lambda batch: 5.0)

    def counts(*engines: FakeEngine) -> list[int]:
        opened = [predictor(engine) for engine in engines]
        found = measure(opened, generated_jpeg(), plan=plan, clock=clock, tick=lambda: ticks.append(None))
        return [len(one.latency.rounds_ms) for one in found]

    assert counts(even) == [20]
    assert len(ticks) == turn_count(plan)
    assert counts(even, uneven) == [200, 200]
    assert len(ticks) == 3 * turn_count(plan)


def test_measure_of_slow_bundles_goes_on_for_a_minute_at_most() -> None:
    """Six seconds a round, with the one that does not count."""
    clock = FakeClock()
    steps = itertools.cycle([500.0] * 55 + [700.0] * 55)
    engine = FakeEngine(clock, lambda batch: next(steps))
    plan = BenchPlan(batches=())
    [found] = measure([predictor(engine)], generated_jpeg(), plan=plan, clock=clock, tick=lambda: None)
    assert len(found.latency.rounds_ms) == 20


def test_measure_does_not_count_what_an_engine_pays_after_another() -> None:
    clock = FakeClock()
    since = itertools.count()

    def slow_at_first(_: int) -> float:
        return 0.4 if next(since) >= 10 else 0.8

    def cooling(_: int) -> float:
        nonlocal since
        since = itertools.count()
        return 20.0

    opened = [predictor(FakeEngine(clock, duration)) for duration in (cooling, slow_at_first)]
    plan = BenchPlan(rounds=6, batches=())
    _, found = measure(opened, generated_jpeg(), plan=plan, clock=clock, tick=lambda: None)
    assert found.latency.summary_ms.p99 == pytest.approx(0.4, rel=1e-3)


def test_stages_do_not_count_the_first_way_after_another_engine() -> None:
    clock = FakeClock()
    turn = durations(20.0, 8.0, 8.0)
    times = stage_times(predictor(FakeEngine(clock, turn)), generated_jpeg(), 2, clock)
    assert [inference for _, _, inference, _ in times] == pytest.approx([8.0, 8.0], rel=1e-3)


def test_measure_takes_as_many_rounds_as_a_person_says() -> None:
    clock = FakeClock()
    steps = itertools.cycle([10.0] * 50 + [14.0] * 50)
    (found,) = measure(
        [predictor(FakeEngine(clock, lambda batch: next(steps)))],
        generated_jpeg(),
        plan=BenchPlan(rounds=30, batches=()),
        clock=clock,
        tick=lambda: None,
    )
    assert len(found.latency.rounds_ms) == len(found.stages[Stage.DECODE].rounds_ms) == 30


def test_measure_shares_images_among_streams_for_throughput() -> None:
    clock, log = FakeClock(), []
    plan = BenchPlan(rounds=6, runs=1, batches=(1, 4), batch_rounds=2, streams=3)
    alone = FakeEngine(clock, lambda batch: 8.0 * batch)
    together = FakeEngine(clock, lambda batch: 20.0, "streamed", log, replace(FAKE, streams=3))
    ticks: list[None] = []
    (found,) = measure(
        [predictor(alone)],
        generated_jpeg(),
        plan=plan,
        clock=clock,
        tick=lambda: ticks.append(None),
        streamed=[predictor(together)],
    )
    assert [(t.batch, t.streams) for t in found.throughput] == [(1, 1), (4, 1), (3, 3), (12, 3)]
    assert [t.images_per_s for t in found.throughput[:2]] == pytest.approx([125, 125], rel=1e-5)
    assert log == ["streamed"] * (3 + 12) * 2 * 2, "two rounds of one run that counts and one that does not"
    assert len(ticks) == turn_count(plan)


def test_measure_keeps_the_threads_of_streams_as_a_program_does() -> None:
    """To start them for every run took a fifth of it, and some engines make what a thread needs anew for each."""
    clock, seen = FakeClock(), set[threading.Thread]()

    class Threaded(FakeEngine):
        def run(self, batch: np.ndarray) -> np.ndarray:
            seen.add(threading.current_thread())
            return super().run(batch)

    measure(
        [predictor(FakeEngine(clock, lambda batch: 1.0))],
        generated_jpeg(),
        plan=BenchPlan(rounds=6, runs=1, batches=(4,), batch_rounds=5, streams=3),
        clock=clock,
        tick=lambda: None,
        streamed=[predictor(Threaded(clock, lambda batch: 5.0, spec=replace(FAKE, streams=3)))],
    )
    assert 1 <= len(seen) <= 3


def test_measure_counts_the_images_of_each_bundle_by_its_own_streams() -> None:
    clock = FakeClock()
    many = FakeEngine(clock, lambda batch: 5.0, spec=replace(FAKE, streams=3))
    one = FakeEngine(clock, lambda batch: 10.0)  # as a TensorRT whose contexts cannot share a profile
    found = measure(
        [predictor(FakeEngine(clock, lambda batch: 1.0)) for _ in range(2)],
        generated_jpeg(),
        plan=BenchPlan(rounds=6, runs=1, batches=(4,), batch_rounds=2, streams=3),
        clock=clock,
        tick=lambda: None,
        streamed=[predictor(many), predictor(one)],
    )
    streamed = [bundle.throughput[1] for bundle in found]
    assert [(t.batch, t.streams) for t in streamed] == [(12, 3), (4, 1)]
    assert streamed[1].images_per_s == pytest.approx(400, rel=1e-5)


def test_measure_gives_each_stage_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    engine = predictor(FakeEngine(clock, lambda batch: 5.0))

    def slowed(name: str, ms: float) -> None:
        module = "googlenet_edge.engines.rounds"
        original = getattr(__import__(module, fromlist=[name]), name)

        def slow(*args: object) -> object:
            clock.now += ms / 1e3
            return original(*args)

        monkeypatch.setattr(f"{module}.{name}", slow)

    slowed("open_rgb", 3.0)
    slowed("rank", 0.25)
    (found,) = measure([engine], generated_jpeg(), plan=BenchPlan(rounds=6), clock=clock, tick=lambda: None)
    p50 = {stage: samples.summary_ms.p50 for stage, samples in found.stages.items()}
    assert list(p50) == list(Stage)
    expected = {Stage.DECODE: 3, Stage.PREPROCESS: 0, Stage.INFERENCE: 5, Stage.POSTPROCESS: 0.25}
    assert p50 == pytest.approx(expected, abs=1e-4)


def test_stages_of_an_inference_are_measured_where_the_engine_times_them() -> None:
    clock = FakeClock()
    engines = [kind(clock, lambda batch: 20.0) for kind in (FakeGpu, FakeEngine)]
    opened = [predictor(engine) for engine in engines]
    gpu, cpu = measure(opened, generated_jpeg(), plan=BenchPlan(rounds=6), clock=clock, tick=lambda: None)
    p50 = {stage: found.summary_ms.p50 for stage, found in gpu.device_stages.items()}
    expected = {DeviceStage.COPY_IN: 2.0, DeviceStage.COMPUTE: 17.0, DeviceStage.COPY_OUT: 1.0}
    assert list(p50) == list(DeviceStage)
    assert p50 == pytest.approx(expected, abs=1e-4)
    assert list(gpu.stages) == list(cpu.stages) == list(Stage)
    assert gpu.stages[Stage.INFERENCE].summary_ms.p50 == pytest.approx(20.0, abs=1e-4)
    assert cpu.device_stages == {}


def test_measure_interleaves_the_bundles() -> None:
    clock, log = FakeClock(), []
    engines = [FakeEngine(clock, lambda batch: 100.0, name, log) for name in "ab"]
    plan = BenchPlan(rounds=6, runs=1, batches=(1,), batch_rounds=1)
    measure([predictor(e) for e in engines], generated_jpeg(), plan=plan, clock=clock, tick=lambda: None)
    warm = 10
    assert "".join(log).startswith("a" * warm + "b" * warm + "aabb" + "bbaa" + "aabb")


def test_plan_of_many_rounds_has_more_of_the_rest_too() -> None:
    plans = (BenchPlan(), BenchPlan(rounds=20), BenchPlan(rounds=100), BenchPlan(rounds=100, cold_starts=1))
    assert [(plan.throughput_rounds, plan.start_count) for plan in plans] == [(10, 3), (10, 3), (50, 10), (50, 1)]


def measured(name: str, rounds_ms: list[tuple[float, ...]], precision: Precision = Precision.INT8) -> BundleMeasurement:
    latency = samples(rounds_ms)
    return BundleMeasurement(
        name=name,
        precision=precision,
        model_sha256="0" * 64,
        bundle_bytes=1,
        engine=FAKE,
        warm_up=WarmUp(10, steady=True),
        latency=latency,
        stages=dict.fromkeys(Stage, latency),
        throughput=(),
        cold_starts=(ColdStart(200.0, 90.0, 10.0, peak_memory_mb=95),),
        labels_sha256="d" * 64,
        lineage=Lineage(),
        accuracy_engine=EngineName.ONNXRUNTIME,
    )


def test_latency_ratio_cancels_what_slows_a_round_for_both() -> None:
    random = np.random.default_rng(0)
    weather = random.uniform(1, 3, 20)  # the machine is up to three times slower, round by round
    noise = random.normal(1, 0.01, (2, 20))
    fp32 = measured("fp32", [(10 * w * n,) for w, n in zip(weather, noise[0], strict=True)])
    int8 = measured("int8", [(4 * w * n,) for w, n in zip(weather, noise[1], strict=True)])
    found = latency_ratio(int8, fp32)
    assert (found.name, found.reference) == ("int8", "fp32")
    assert found.ratio == pytest.approx(0.4, rel=0.01)
    assert found.interval.low < 0.4 < found.interval.high
    assert found.interval.high - found.interval.low < 0.02


def test_latency_ratio_uses_the_median_within_a_round() -> None:
    calm = [(2.0, 2.0, 2.0)] * 6
    assert latency_ratio(measured("a", [(1.0, 1.0, 99.0)] * 6), measured("b", calm)).ratio == 0.5


def test_ratios_are_against_the_first_fp32_bundle_or_else_the_first() -> None:
    a, b, c = (measured(name, [(1.0,)] * 6) for name in "abc")
    assert [(r.name, r.reference) for r in ratios([a, replace(b, precision=Precision.FP32), c])] == [
        ("a", "b"),
        ("c", "b"),
    ]
    assert [(r.name, r.reference) for r in ratios([a, b])] == [("b", "a")]
    assert ratios([a]) == ()


QUIET = Circumstances("2025-01-01T00:00:00+00:00", "A CPU", 2, "performance", 8000, "Linux", "3.11", {})


def test_doubts_of_a_quiet_measurement_are_none() -> None:
    assert doubts(QUIET, [measured("a", [(1.0, 1.01)] * 6)]) == ()


def test_doubts_name_the_cause_and_what_to_do() -> None:
    wild = replace(measured("a", [(1.0, 2.0)] * 6), warm_up=WarmUp(200, steady=False))
    busy, governor, cold, spread = doubts(replace(QUIET, cores_of_others=0.62, governor="powersave"), [wild])
    assert busy == "other programs took 62% of a core meanwhile; close them"
    assert governor == "the clock governor is 'powersave'; set 'performance' for steady clocks"
    assert cold == "a was not steady after 200 runs; quiet or cool the machine"
    assert spread == "a varied by 67% (middle half of its runs); quiet the machine or fix its clocks"


def test_doubts_say_of_a_fixed_clock_that_nothing_moves_and_of_another_jetson_that_it_is_one(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    with fixed_clocks(root):
        here = read_circumstances(root)
    steady = measured("a", [(1.0, 1.01)] * 6)
    assert here.governor == "schedutil"
    assert doubts(here, [steady]) == ()
    other = replace(steady, engine=replace(steady.engine, device=Device.AGX_ORIN))
    is_for = "a is for the Jetson AGX Orin, and this machine is"
    assert doubts(here, [other]) == (f"{is_for} a Jetson Orin Nano",)
    assert doubts(QUIET, [other]) == (f"{is_for} no Jetson",)


def fake_root(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_circumstances_are_read_from_the_system(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) N100\n",
        "proc/meminfo": "MemTotal:        8000000 kB\n",
        "proc/self/status": "VmPeak:\t 9 kB\nVmHWM:\t  100000 kB\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    }
    root = fake_root(tmp_path, files)
    found = read_circumstances(root)
    assert (found.cpu_model, found.governor, found.memory_mb) == ("Intel(R) N100", "schedutil", 8192)
    assert found.packages["numpy"] == np.__version__
    assert peak_memory_mb(root) == 102


def test_cores_of_others_are_what_processors_did_less_what_this_process_did(tmp_path: Path) -> None:
    def cores_while(user: int, stolen: int) -> float | None:
        cores = watch_others(fake_root(tmp_path, {"proc/stat": "cpu  0 0 0 99 0 0 0 0 0 0\ncpu0 0 0 0 9\n"}))
        sum(i * i for i in range(300_000))  # work of this process itself, at least a tick
        fake_root(tmp_path, {"proc/stat": f"cpu  {user} 0 0 99999 9999 0 0 {stolen} 0 0\ncpu0 0 0 0 9\n"})
        return cores()

    assert cores_while(0, 0) == 0.0
    assert (cores_while(10**9, 0) or 0) > 1000
    assert (cores_while(0, 10**9) or 0) > 1000
    assert watch_others(tmp_path / "elsewhere")() is None


def test_circumstances_of_an_arm_board_take_its_name_from_the_device_tree(tmp_path: Path) -> None:
    root = fake_root(tmp_path, {"proc/cpuinfo": "processor\t: 0\n", "proc/device-tree/model": "Raspberry Pi 5\0"})
    assert read_circumstances(root).cpu_model == "Raspberry Pi 5"


def test_circumstances_of_a_server_name_its_gpus_and_their_driver(tmp_path: Path) -> None:
    h200, l4 = ("Model: \t\t NVIDIA H200\nIRQ:   \t\t 0\n", "Model: \t\t NVIDIA L4\n")
    files = {
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release\n",
        "proc/driver/nvidia/gpus/0000:00:06.0/information": h200,
        "proc/driver/nvidia/gpus/0000:00:07.0/information": l4,
        "proc/driver/nvidia/gpus/0000:00:08.0/information": h200,
    }
    found = read_circumstances(fake_root(tmp_path, files))
    assert (found.gpu, found.packages["nvidia-driver"]) == ("NVIDIA H200 and NVIDIA L4", "580.159.04")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R38 (release), REVISION: 2.1\n")
    assert read_circumstances(tmp_path).gpu is None  # a Jetson says more of itself
    found = read_circumstances(tmp_path / "no gpu")
    assert (found.gpu, "nvidia-driver" in found.packages) == (None, False)


def test_circumstances_that_cannot_be_read_are_none_and_never_zero(tmp_path: Path) -> None:
    found = read_circumstances(tmp_path)
    assert (found.cpu_model, found.governor, found.memory_mb) == (None, None, None)
    assert peak_memory_mb(tmp_path) is None


def test_generated_jpeg_is_a_photo_sized_file_and_always_the_same(tmp_path: Path) -> None:
    data = generated_jpeg()
    (tmp_path / "photo.jpg").write_bytes(data)
    with Image.open(tmp_path / "photo.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (640, 480))
    assert data == generated_jpeg()
    assert 50_000 < len(data) < 200_000


def one_red_pixel() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bench")
    return [write_colour_bundle(folder / p.value, p) for p in (Precision.FP32, Precision.INT8)]


@pytest.fixture(scope="module")
def measurement(bundles: list[Path]) -> tuple[Measurement, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    plan = BenchPlan(rounds=6, runs=2, batches=(1, 2), batch_rounds=2, cold_starts=1, streams=2)
    return bench(bundles, plan=plan, progress=lambda *at: seen.append(at)), seen


def test_bench_measures_real_bundles_side_by_side(
    measurement: tuple[Measurement, list[tuple[int, int]]], bundles: list[Path]
) -> None:
    found, seen = measurement
    fp32, int8 = found.bundles
    assert [b.name for b in found.bundles] == [str(path) for path in bundles]
    assert (fp32.precision, int8.precision) == (Precision.FP32, Precision.INT8)
    assert fp32.bundle_bytes == sum(file.stat().st_size for file in bundles[0].iterdir())
    assert (found.image.width, found.image.height) == (640, 480)
    assert [(r.name, r.reference) for r in found.ratios] == [(int8.name, fp32.name)]
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]
    assert [(t.batch, t.streams) for t in int8.throughput] == [(1, 1), (2, 1), (2, 2), (4, 2)]
    assert all(t.images_per_s > 0 for t in int8.throughput)
    for bundle in found.bundles:
        (start,) = bundle.cold_starts
        assert 0 < start.first_ms < start.total_ms
        assert start.start_ms > 10, "Python and NumPy do not start in less"
        assert start.peak_memory_mb is None or 20 < start.peak_memory_mb < 500


def test_bench_measures_the_image_on_the_engine_and_with_the_threads_that_are_asked_for(
    bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[int, int]] = []
    started: list[bytes] = []

    def open_bundle(bundle: Bundle, **options: Any) -> Engine:
        opened.append((options["threads"], options["streams"]))
        return registry.open_bundle(bundle, **options)

    def start(path: Path, image: Path, *, threads: int, engine: EngineName | None) -> ColdStart:
        assert (threads, engine) == (3, EngineName.OPENVINO)
        started.append(image.read_bytes())
        return cold_start(path, image, threads=threads, engine=engine)

    monkeypatch.setattr(measuring, "open_bundle", open_bundle)
    monkeypatch.setattr(measuring, "cold_start", start)
    photo = one_red_pixel()
    plan = BenchPlan(threads=3, streams=2, rounds=6, runs=1, batches=(), cold_starts=1)
    found = bench(bundles[:1], plan=plan, image=photo, engine=EngineName.OPENVINO)
    assert (found.bundles[0].engine.backend, found.bundles[0].engine.threads) == ("openvino", 3)
    assert opened == [(3, 1), (1, 2)], "streams have a thread each"
    assert started == [photo]
    assert found.image == MeasuredImage(sha256_bytes(photo), len(photo), 1, 1)
    assert found.circumstances.packages["openvino"] == version("openvino")


def test_measurement_comes_back_from_its_file(
    measurement: tuple[Measurement, list[tuple[int, int]]], tmp_path: Path
) -> None:
    found, _ = measurement
    of_a_gpu = replace(found.bundles[0], device_stages=dict.fromkeys(DeviceStage, found.bundles[0].latency))
    found = replace(found, bundles=(of_a_gpu, *found.bundles[1:]))
    write_json(tmp_path / "m.json", found)
    assert read_measurement(tmp_path / "m.json") == found
    raw = json.loads((tmp_path / "m.json").read_text())
    assert len(raw["bundles"][0]["latency"]["rounds_ms"]) == 6
    assert list(raw["bundles"][0]["stages"]) == ["decode", "preprocess", "inference", "postprocess"]


def test_measurement_from_before_stages_of_a_gpu_were_kept_is_read(
    measurement: tuple[Measurement, list[tuple[int, int]]], tmp_path: Path
) -> None:
    write_json(tmp_path / "m.json", measurement[0])
    raw = json.loads((tmp_path / "m.json").read_text())
    for bundle in raw["bundles"]:
        del bundle["device_stages"]
    (tmp_path / "m.json").write_text(json.dumps(raw))
    assert read_measurement(tmp_path / "m.json") == measurement[0]


def test_measurement_of_a_newer_schema_says_upgrade(
    measurement: tuple[Measurement, list[tuple[int, int]]], tmp_path: Path
) -> None:
    write_json(tmp_path / "m.json", replace(measurement[0], schema=SCHEMA + 1))
    with pytest.raises(
        DataError, match=rf"m\.json has schema {SCHEMA + 1}, this version reads up to {SCHEMA}; upgrade"
    ):
        read_measurement(tmp_path / "m.json")


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b'{"schema": 1}', b"\xff\xfe"])
def test_measurement_that_is_damaged_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.json").write_bytes(data)
    with pytest.raises(DataError, match=r"m\.json cannot be read"):
        read_measurement(tmp_path / "m.json")


def test_bench_refuses_no_bundle_and_the_same_twice(bundles: list[Path]) -> None:
    for paths in ([], [bundles[0], bundles[0]]):
        with pytest.raises(ConfigError, match="give one or more bundles to measure, each once"):
            bench(paths, plan=BenchPlan())


def test_bench_refuses_a_damaged_image_before_it_measures(bundles: list[Path]) -> None:
    with pytest.raises(DamagedImageError, match="the image is not a JPEG, PNG or WebP image"):
        bench(bundles, plan=BenchPlan(), image=b"no image")


def test_bench_refuses_more_rounds_than_a_file_holds(bundles: list[Path]) -> None:
    sentence = "10001 rounds of 2 bundles are more than a measurement holds; give at most 10000 --rounds, or fewer"
    with pytest.raises(ConfigError, match=sentence):
        bench(bundles[:2], plan=BenchPlan(rounds=10_001))


def test_bench_refuses_a_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="gone is not a bundle"):
        bench([tmp_path / "gone"], plan=BenchPlan())


def test_cold_start_hands_on_what_went_wrong_in_the_fresh_process(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="a fresh process could not predict with .*: .*gone is not a bundle"):
        cold_start(tmp_path / "gone", tmp_path / "image.png", threads=1)


def test_cold_start_is_of_the_engine_and_the_threads_that_are_asked_for(bundles: list[Path], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the device cpu has no engine tensorrt"):
        cold_start(bundles[0], tmp_path / "image.png", threads=1, engine=EngineName.TENSORRT)
    with pytest.raises(EngineError, match="threads is 999; give 1 to 256"):
        cold_start(bundles[0], tmp_path / "image.png", threads=999)


def test_cold_start_takes_no_modules_from_the_folder_in_which_it_is_measured(
    bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numbers", "msgspec", "googlenet_edge"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('somebody else is here')\n")
    (tmp_path / "image.jpg").write_bytes(generated_jpeg())
    monkeypatch.chdir(tmp_path)
    assert cold_start(bundles[0].absolute(), Path("image.jpg"), threads=1).total_ms > 0


WATCHING = BenchPlan(
    rounds=6, runs=1, batches=(1,), batch_rounds=1, cold_starts=1, energy=EnergyPlan(1, 0.25, settle_s=0.0, hz=200)
)


def test_bench_on_a_jetson_measures_power_energy_and_heat(bundles: list[Path], tmp_path: Path) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    seen: list[tuple[int, int]] = []
    found = bench(bundles, plan=WATCHING, progress=lambda *at: seen.append(at), root=root)
    assert found.circumstances.jetson == read_jetson(root)
    assert found.watched is not None
    assert found.watched.total == ("VDD_IN",)
    assert len(found.watched.power.times_s) == len(found.watched.power.values["VDD_IN"]) > 20
    assert found.watched.throttle_events == dict.fromkeys(found.watched.throttle_events or {}, 0)
    for bundle in found.bundles:
        assert bundle.energy is not None
        assert bundle.energy.inferences > 0
        assert bundle.energy.power_mw == pytest.approx(4805.696)
        assert bundle.energy.idle_mw == pytest.approx(4805.696)
        assert bundle.energy.mj_above_idle == pytest.approx(0, abs=1e-6)
        seconds = bundle.energy.mj * bundle.energy.inferences / bundle.energy.power_mw
        assert seconds > 0.249, "as long as the plan says, or one inference longer"
    assert seen[-1] == (len(seen), len(seen))
    assert "the GPU's clock moves from 306 to 918 MHz; fix it with: sudo jetson_clocks" in found.warnings
    write_json(tmp_path / "m.json", found)
    assert read_measurement(tmp_path / "m.json") == found


def test_bench_on_a_jetson_whose_sensors_are_broken_has_no_figure_for_them(bundles: list[Path], tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, XAVIER_NX)
    for file in [*root.glob("sys/bus/i2c/**/in1_input"), *root.glob("sys/devices/virtual/thermal/*/temp")]:
        break_file(file)
    found = bench(bundles[:1], plan=WATCHING, root=root)
    assert found.bundles[0].energy is None
    assert found.watched is not None
    assert set(found.watched.power.values["VDD_IN"]) == {None}
    assert {value for values in found.watched.heat.values.values() for value in values} == {None}
    assert found.watched.throttle_events is None


def test_bench_elsewhere_watches_nothing(bundles: list[Path], tmp_path: Path) -> None:
    found = bench(bundles[:1], plan=WATCHING, root=fake_pc(tmp_path))
    assert (found.watched, found.bundles[0].energy, found.circumstances.jetson) == (None, None, None)


def test_measurement_from_before_there_were_sensors_is_read(
    measurement: tuple[Measurement, list[tuple[int, int]]], tmp_path: Path
) -> None:
    old = json.loads(to_json(measurement[0]))
    del old["watched"], old["circumstances"]["jetson"]
    for bundle in old["bundles"]:
        del bundle["energy"], bundle["sustained"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert read_measurement(tmp_path / "old.json") == measurement[0]


def test_measurement_from_before_clocks_were_watched_is_read(tmp_path: Path) -> None:
    watched = on_a_jetson(some_measurement())
    old = json.loads(to_json(watched))
    assert watched.watched
    del old["watched"]["clocks"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert read_measurement(tmp_path / "old.json").watched == replace(watched.watched, clocks=Series((), {}))


def test_bench_puts_every_bundle_under_the_load_that_is_asked_for(
    bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sustained, "_LEAST_S", 0.1)
    seen: list[tuple[int, int]] = []
    plan = replace(WATCHING, sustained=SustainedPlan(0.2, fps=100))
    found = bench(bundles, plan=plan, progress=lambda *at: seen.append(at))
    for bundle in found.bundles:
        assert bundle.sustained is not None
        assert bundle.sustained.plan == plan.sustained
        assert bundle.sustained.inferences > 0
        assert bundle.sustained.frames >= 20
    assert seen[-1] == (len(seen), len(seen))


def test_bench_whose_engine_fails_under_load_keeps_what_it_measured(
    bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CUDA does, it fails again when it is closed."""
    done: list[None] = []

    def fails_in_the_end(*_: object, **__: object) -> Callable[[], None]:
        def run() -> None:
            if len(done) == 3:
                raise EngineError("the GPU is gone")
            done.append(None)

        return run

    def close(opened: Predictor) -> None:
        closed.append(opened)
        raise RuntimeError("the GPU is gone")

    closed: list[Predictor] = []
    monkeypatch.setattr(measuring, "inference", fails_in_the_end)
    monkeypatch.setattr(Predictor, "close", close)
    plan = BenchPlan(rounds=6, runs=1, batches=(1,), batch_rounds=1, cold_starts=1, sustained=SustainedPlan(60))
    found = bench(bundles, plan=plan, names=["fp32", "int8"], root=fake_pc(tmp_path / "root"))
    assert [bundle.sustained and bundle.sustained.inferences for bundle in found.bundles] == [3, None]
    assert [bundle.latency.summary_ms.count for bundle in found.bundles] == [6, 6]
    assert found.warnings[0] == "the load of fp32 ended after 0 s: the GPU is gone"
    assert found.cut_short
    assert len(closed) == 2
    write_json(tmp_path / "m.json", found)
    assert read_measurement(tmp_path / "m.json") == found


def test_measurement_is_cut_short_where_a_load_is_missing_or_ended_early() -> None:
    bundle = measured("a", [(1.0, 1.01)] * 6)
    whole = Sustained(SustainedPlan(20), 0.0, (SustainedWindow(0.0, 9, 10.0, 12.0, 0),), 9, 0, 0)

    def cut_short(*loads: Sustained | None) -> bool:
        bundles = tuple(replace(bundle, name=str(i), sustained=load) for i, load in enumerate(loads))
        return Measurement(QUIET, MeasuredImage("", 1, 1, 1), bundles, (), ()).cut_short

    assert not cut_short(None, None)
    assert not cut_short(whole, whole)
    assert cut_short(whole, None)
    assert cut_short(whole, replace(whole, ended_s=0.5))


def test_doubts_of_a_bundle_that_became_slower_say_so() -> None:
    windows = tuple(SustainedWindow(float(i), 9, 10.0 + i / 10, 12.0, 0) for i in range(20))
    warm = replace(measured("a", [(1.0, 1.01)] * 6), sustained=Sustained(SustainedPlan(20), 0.0, windows, 180, 0, 0))
    assert doubts(QUIET, [warm]) == ("a became 18% slower within 20 s; cool the device",)
    assert warm.sustained
    short = replace(warm, sustained=replace(warm.sustained, plan=SustainedPlan(600), ended_s=20.4))
    assert doubts(QUIET, [short]) == ("a became 18% slower within 20.4 s; cool the device",)


def test_doubts_of_a_jetson_that_throttled_say_why(tmp_path: Path) -> None:
    jetson = read_jetson(fake_jetson(tmp_path, ORIN_NANO))
    watched = Watched(Series((), {}), Series((), {}), (), {"under-voltage": 0, "average over-current": 3}, 0.021)
    assert doubts(replace(QUIET, jetson=jetson), [measured("a", [(1.0, 1.01)] * 6)], watched) == (
        "the GPU's clock moves from 306 to 918 MHz; fix it with: sudo jetson_clocks",
        "the hardware throttled 3 times (average over-current); use a stronger supply or a lower power mode",
        "watching the sensors took 2.1% of a core; quiet the machine",
    )


def test_doubts_of_a_jetson_whose_clock_fell_say_how_far(tmp_path: Path) -> None:
    jetson = read_jetson(fake_jetson(tmp_path, AGX_ORIN))
    windows = tuple(SustainedWindow(float(i), 9, 10.0 + i / 10, 12.0, 0) for i in range(20))
    load = Sustained(SustainedPlan(20), 5.0, windows, 180, 0, 0)
    slower = replace(measured("a", [(1.0, 1.01)] * 6), sustained=load)
    mhz = (300.0,) * 5 + (1300.0,) * 10 + (None,) + (918.0,) * 10 + (1300.0,) * 4
    clocks = Series(tuple(float(i) for i in range(30)), {"CPU clock": (2201.0,) * 30, "GPU clock": mhz})
    watched = Watched(Series((), {}), Series((), {}), (), None, 0.001, clocks=clocks)
    assert doubts(replace(QUIET, jetson=jetson), [slower], watched) == (
        "the GPU's clock fell to 300 MHz, though it was fixed at 1300 MHz; cool the device",
        "a became 18% slower within 20 s, the GPU clock going from 1300 to 918 MHz; cool the device",
    )
    held = replace(watched, clocks=replace(clocks, values={"GPU clock": (1290.0,) * 30}))
    assert doubts(replace(QUIET, jetson=jetson), [slower], held) == (
        "a became 18% slower within 20 s; cool the device",
    )


def test_samples_keep_the_rounds_apart() -> None:
    found = samples([(1.0, 2.0), (3.0,)])
    assert isinstance(found, Samples)
    assert found.rounds_ms == ((1.0, 2.0), (3.0,))
    assert (found.summary_ms.count, found.summary_ms.p50) == (3, 2.0)
