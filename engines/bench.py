"""Measuring bundles on this machine: latency in interleaved rounds, stages, throughput, cold start, memory."""

from __future__ import annotations

import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from googlenet_edge.dataset import Progress, ticker
from googlenet_edge.engines.bundle import LABELS, MODEL, Manifest, read_bundle
from googlenet_edge.engines.circumstances import Circumstances, read_circumstances, watch_others
from googlenet_edge.engines.cold_start import ColdStart, cold_start
from googlenet_edge.engines.devices import JETSON_DEVICES, profile_of, refuse_without_bundles
from googlenet_edge.engines.energy import Energy, Stretch, energy_of, take_stretches
from googlenet_edge.engines.jetson import ROOT
from googlenet_edge.engines.jetson import Clock as Fixed
from googlenet_edge.engines.measurement import (
    MOST_ROUNDS,
    BundleMeasurement,
    LatencyRatio,
    MeasuredImage,
    Measurement,
    latency_ratio,
)
from googlenet_edge.engines.predictor import Predictor, open_rgb
from googlenet_edge.engines.registry import backends_for, engine_here, open_bundle, providers_here
from googlenet_edge.engines.rounds import BenchPlan, Timings, inference, measure, turn_count
from googlenet_edge.engines.sensors import Watch, Watched, at_both_ends, thinned
from googlenet_edge.engines.sustained import Loads, Sustained, sustain
from googlenet_edge.engines.timing import Clock, Tick
from googlenet_edge.errors import ConfigError, EngineError
from googlenet_edge.files import sha256_bytes
from googlenet_edge.target import Device, EngineName, Precision, Unit

_BUSY_CORES = 0.2
_WIDE_SPREAD = 0.05
_HEAVY_WATCH = 0.01
_HELD = 0.97  # of a clock that is as it was


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A bundle under measurement, open. Its model's bytes are not kept."""

    path: Path
    predictor: Predictor
    streamed: Predictor | None
    manifest: Manifest
    bundle_bytes: int


def check_bundles(paths: Sequence[Path], rounds: int | None) -> None:
    """Raises `ConfigError`: no bundle, the same twice, or more rounds than a measurement's file can hold."""
    if not paths or len(set(paths)) < len(paths):
        raise ConfigError("give one or more bundles to measure, each once")
    if rounds and rounds * len(paths) > MOST_ROUNDS:
        raise ConfigError(
            f"{rounds} rounds of {len(paths)} bundles are more than a measurement holds; give at most"
            f" {MOST_ROUNDS // len(paths)} --rounds, or fewer bundles"
        )


def bench(
    paths: Sequence[Path],
    *,
    plan: BenchPlan,
    image: bytes | None = None,
    engine: EngineName | None = None,
    names: Sequence[str] | None = None,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
    so_far: Callable[[Measurement], None] | None = None,
    root: Path = ROOT,
) -> Measurement:
    """Measures bundles side by side; on a Jetson also power, energy and heat.

    Args:
        image: the bytes of an image file for the stages and the cold start; by default a generated JPEG of 640×480.
        engine: the runtime for all of them; by default for each the one for which it was built.
        names: what the measurement calls the bundles; by default their paths.
        so_far: told within a load that lasts, once a minute, what would be known if it were killed then.
        root: where this machine describes itself.

    Raises:
        BundleError, EngineError: a bundle cannot be opened or run.
        DamagedImageError: ``image`` cannot be decoded.
        ConfigError: see `check_bundles`.
    """
    check_bundles(paths, plan.rounds)
    circumstances = read_circumstances(root)
    image = generated_jpeg() if image is None else image
    with ExitStack() as stack:
        subjects = [_open(path, stack, plan=plan, engine=engine, progress=progress) for path in paths]
        predictors = [subject.predictor for subject in subjects]
        streamed = [subject.streamed for subject in subjects if subject.streamed]
        described = _describe(image, predictors[0])
        watching = Watch(root, clock=clock, hz=plan.energy.hz) if circumstances.jetson else None
        tick = ticker(_all_turns(plan, len(subjects), watched=bool(watching)), progress)
        cores_of_others = watch_others(root)
        with watching or nullcontext():
            cold = _cold_starts(paths, image, plan=plan, engine=engine, tick=tick)
            timings = measure(predictors, image, plan=plan, clock=clock, tick=tick, streamed=streamed)
            stretches = _stretches(predictors, image, plan=plan, watching=watching, tick=tick)
            energies = _energies(watching, stretches, len(subjects))  # before a load thins what was seen
            measured = zip(subjects, timings, cold, energies, strict=True)
            bundles = _renamed([_bundle_measurement(*parts) for parts in measured], names)
            known = Measurement(circumstances, described, bundles, ratios(bundles), ())

            def with_loads(loads: Loads) -> Measurement:
                watched = watching.watched() if watching else None
                return _concluded(known, loads, cores_of_others=cores_of_others(), watched=watched)

            def keep(loads: Loads) -> None:
                if so_far:
                    so_far(with_loads(loads))

            elapsed_s = watching.elapsed_s if watching else clock
            loads = _sustained(predictors, image, plan=plan, elapsed_s=elapsed_s, tick=tick, so_far=keep)
        found = with_loads(loads)
        if loads.ended:
            with suppress(Exception):  # an engine that failed may fail once more when it is closed
                stack.pop_all().close()
    return found


def _concluded(
    known: Measurement, loads: Loads, *, cores_of_others: float | None, watched: Watched | None
) -> Measurement:
    """All that was measured before the loads, with these."""
    circumstances = replace(known.circumstances, cores_of_others=cores_of_others)
    bundles = tuple(replace(b, sustained=load) for b, load in zip(known.bundles, loads.of_each, strict=True))
    warnings = (*_cut_short(bundles, loads), *doubts(circumstances, bundles, watched))
    if watched:
        power, heat, clocks = map(thinned, (watched.power, watched.heat, watched.clocks))
        watched = replace(watched, power=power, heat=heat, clocks=clocks)
    return replace(known, circumstances=circumstances, bundles=bundles, warnings=warnings, watched=watched)


def ratios(bundles: Sequence[BundleMeasurement]) -> tuple[LatencyRatio, ...]:
    """The latency of every bundle against that of the first one in FP32, or else of the first one."""
    reference = next((b for b in bundles if b.precision is Precision.FP32), bundles[0])
    return tuple(latency_ratio(b, reference) for b in bundles if b is not reference)


def doubts(
    circumstances: Circumstances, bundles: Sequence[BundleMeasurement], watched: Watched | None = None
) -> tuple[str, ...]:
    """What makes the figures doubtful, and what to do about it."""
    found = []
    if (circumstances.cores_of_others or 0) > _BUSY_CORES:
        found.append(f"other programs took {circumstances.cores_of_others:.0%} of a core meanwhile; close them")
    if circumstances.governor not in (None, "performance") and not circumstances.cpu_clock_is_fixed:
        found.append(f"the clock governor is {circumstances.governor!r}; set 'performance' for steady clocks")
    gpu = circumstances.jetson.gpu_clock if circumstances.jetson else None
    if gpu and not gpu.locked:
        found.append(f"the GPU's clock moves from {gpu.low_mhz} to {gpu.high_mhz} MHz; fix it with: sudo jetson_clocks")
    found += _doubts_of_sensors(watched, gpu) if watched else ()
    found += _elsewhere(circumstances, bundles)
    for bundle in bundles:
        spread = bundle.latency.summary_ms.spread
        if not bundle.warm_up.steady:
            found.append(f"{bundle.name} was not steady after {bundle.warm_up.runs} runs; quiet or cool the machine")
        if spread > _WIDE_SPREAD:
            found.append(
                f"{bundle.name} varied by {spread:.0%} (middle half of its runs); quiet the machine or fix its clocks"
            )
        if bundle.sustained and bundle.sustained.slowdown > 1 + _WIDE_SPREAD:
            slower, seconds = bundle.sustained.slowdown - 1, bundle.sustained.lasted_s
            clocks = "".join(_fallen_clocks(bundle.sustained, watched)) if watched else ""
            found.append(f"{bundle.name} became {slower:.0%} slower within {seconds:g} s{clocks}; cool the device")
    return tuple(found)


def _cut_short(bundles: Sequence[BundleMeasurement], loads: Loads) -> Iterator[str]:
    """Whose load ended before its time, when and why."""
    if loads.ended:
        lasted = ((b.name, b.sustained.ended_s if b.sustained else 0.0) for b in bundles)
        name, seconds = next((name, seconds) for name, seconds in lasted if seconds is not None)
        yield f"the load of {name} ended after {seconds:.0f} s: {loads.ended}"


def _elsewhere(circumstances: Circumstances, bundles: Sequence[BundleMeasurement]) -> Iterator[str]:
    """Bundles for a Jetson that this machine is not, as far as it says what it is."""
    here = circumstances.jetson.device if circumstances.jetson else Device.CPU
    for bundle in bundles:
        if bundle.engine.device in JETSON_DEVICES and here not in (None, bundle.engine.device):
            is_not = "is no Jetson" if circumstances.jetson is None else f"is a {profile_of(here).title}"
            yield f"{bundle.name} is for the {profile_of(bundle.engine.device).title}, and this machine {is_not}"


def _fallen_clocks(load: Sustained, watched: Watched) -> Iterator[str]:
    """What explains that a load became slower."""
    for name in watched.clocks.values:
        ends = at_both_ends(watched.clocks, name, load.started_s, load.started_s + load.lasted_s)
        if ends and ends[1] < _HELD * ends[0]:
            yield f", the {name} going from {ends[0]:.0f} to {ends[1]:.0f} MHz"


def _doubts_of_sensors(watched: Watched, gpu: Fixed | None) -> Iterator[str]:
    least = min((mhz for mhz in watched.clocks.values.get("GPU clock", ()) if mhz), default=math.inf)
    if gpu and gpu.locked and least < _HELD * gpu.high_mhz:
        yield f"the GPU's clock fell to {least:.0f} MHz, though it was fixed at {gpu}; cool the device"
    for cause, count in (watched.throttle_events or {}).items():
        if count:
            yield f"the hardware throttled {count} times ({cause}); use a stronger supply or a lower power mode"
    if watched.core_share > _HEAVY_WATCH:
        yield f"watching the sensors took {watched.core_share:.1%} of a core; quiet the machine"


def generated_jpeg() -> bytes:
    """A JPEG of 640×480 with the detail and the size of a photo, the same whenever Pillow and NumPy are the same."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (15, 20, 3), np.uint8))
    smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.float32)
    noisy = smooth + random.normal(0, 8, smooth.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _all_turns(plan: BenchPlan, subjects: int, *, watched: bool) -> int:
    of_each = plan.start_count + turn_count(plan) + (plan.sustained.window_count if plan.sustained else 0)
    return subjects * of_each + (plan.energy.turn_count(subjects) if watched else 0)


def _engines_here(manifest: Manifest) -> Iterator[EngineName]:
    """What runs a bundle for TensorRT on a GPU of this machine without it."""
    known = {backend.name for backend in backends_for(manifest.device)} if manifest.unit is Unit.MAIN else set()
    for name in providers_here():
        if name in known and (name, manifest.precision) != (EngineName.ONNXRUNTIME_CUDA, Precision.INT8):
            yield name


def _open(
    path: Path, stack: ExitStack, *, plan: BenchPlan, engine: EngineName | None, progress: Progress | None
) -> Subject:
    bundle = read_bundle(path)
    if (engine or engine_here(bundle.manifest)) is EngineName.SIMULATED:
        refuse_without_bundles(path, bundle.manifest.device)
        here = "".join(f", use --engine {name.value}" for name in _engines_here(bundle.manifest))
        raise EngineError(
            f"{path} is for the device {bundle.manifest.device.value} and only simulated here, so its speed"
            f" says nothing; measure it there with --host user@address{here}, or build one for this machine with"
            " --device cpu"
        )

    def predictor(*, threads: int, streams: int) -> Predictor:
        opened = open_bundle(bundle, threads=threads, streams=streams, engine=engine, progress=progress)
        return stack.enter_context(Predictor(opened, labels=bundle.class_names, preprocess=bundle.manifest.preprocess))

    return Subject(
        path,
        predictor(threads=plan.threads, streams=1),
        predictor(threads=1, streams=plan.streams) if plan.streams > 1 else None,
        manifest=bundle.manifest,
        bundle_bytes=sum(file.stat().st_size for file in path.iterdir()),
    )


def _describe(image: bytes, predictor: Predictor) -> MeasuredImage:
    open_rgb(image, predictor.preprocess)  # refuses what cannot be decoded before anything is measured
    with Image.open(io.BytesIO(image)) as opened:
        width, height = opened.size
    return MeasuredImage(sha256_bytes(image), len(image), width, height)


def _cold_starts(
    paths: Sequence[Path], image: bytes, *, plan: BenchPlan, engine: EngineName | None, tick: Tick
) -> list[tuple[ColdStart, ...]]:
    """The same image file for all, in rounds as everything else."""
    with tempfile.NamedTemporaryFile(suffix=".image") as file:
        file.write(image)
        file.flush()
        rounds = []
        for _ in range(plan.start_count):
            starts = []
            for path in paths:
                starts.append(cold_start(path, Path(file.name), threads=plan.threads, engine=engine))
                tick()
            rounds.append(starts)
    return [tuple(starts) for starts in zip(*rounds, strict=True)]


def _stretches(
    predictors: Sequence[Predictor], image: bytes, *, plan: BenchPlan, watching: Watch | None, tick: Tick
) -> list[list[Stretch]]:
    """See `take_stretches`; none where nothing is watched."""
    if watching is None:
        return []
    runs = [inference(predictor, image, batch=1) for predictor in predictors]
    return take_stretches(runs, plan=plan.energy, elapsed_s=watching.elapsed_s, pause=time.sleep, tick=tick)


def _sustained(
    predictors: Sequence[Predictor],
    image: bytes,
    *,
    plan: BenchPlan,
    elapsed_s: Clock,
    tick: Tick,
    so_far: Callable[[Loads], None],
) -> Loads:
    """See `sustain`; none where none is asked for."""
    if plan.sustained is None:
        return Loads((None,) * len(predictors))
    runs = [inference(predictor, image, batch=1) for predictor in predictors]
    return sustain(runs, plan=plan.sustained, elapsed_s=elapsed_s, pause=time.sleep, tick=tick, so_far=so_far)


def _energies(watching: Watch | None, stretches: list[list[Stretch]], subjects: int) -> list[Energy | None]:
    if watching is None:
        return [None] * subjects
    idle, *busy = stretches
    watching.look_past(max(stretch.end_s for of_one in stretches for stretch in of_one))
    watched = watching.watched()
    return [energy_of(watched, of_one, idle) for of_one in busy]


def _bundle_measurement(
    subject: Subject,
    timings: Timings,
    cold: tuple[ColdStart, ...],
    energy: Energy | None,
) -> BundleMeasurement:
    manifest = subject.manifest
    return BundleMeasurement(
        name=str(subject.path),
        precision=manifest.precision,
        model_sha256=manifest.files[MODEL].sha256,
        bundle_bytes=subject.bundle_bytes,
        engine=subject.predictor.engine.spec,
        warm_up=timings.warm_up,
        latency=timings.latency,
        stages=timings.stages,
        device_stages=timings.device_stages,
        throughput=timings.throughput,
        cold_starts=cold,
        labels_sha256=manifest.files[LABELS].sha256,
        lineage=manifest.lineage,
        accuracy=manifest.accuracy,
        against_fp32=manifest.against_fp32,
        accuracy_engine=manifest.engine,
        energy=energy,
    )


def _renamed(bundles: Sequence[BundleMeasurement], names: Sequence[str] | None) -> tuple[BundleMeasurement, ...]:
    if names is None:
        return tuple(bundles)
    return tuple(replace(bundle, name=name) for bundle, name in zip(bundles, names, strict=True))
