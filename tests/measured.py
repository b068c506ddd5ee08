"""What reports are made of: measurements of recorded samples, and answers about drawn images."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from googlenet_edge.engines.accuracy import Accuracy, compare
from googlenet_edge.engines.bundle import Lineage
from googlenet_edge.engines.circumstances import Circumstances
from googlenet_edge.engines.cold_start import ColdStart
from googlenet_edge.engines.energy import Energy
from googlenet_edge.engines.evaluate import Answers, BundleAnswers, Thumbnail
from googlenet_edge.engines.jetson import Clock, Jetson
from googlenet_edge.engines.measurement import (
    BatchThroughput,
    BundleMeasurement,
    MeasuredImage,
    Measurement,
    Samples,
    Stage,
    latency_ratio,
    parse_measurement,
    samples,
)
from googlenet_edge.engines.protocol import EngineSpec
from googlenet_edge.engines.sensors import Series, Watched
from googlenet_edge.engines.sustained import Sustained, SustainedPlan, SustainedWindow
from googlenet_edge.engines.timing import WarmUp
from googlenet_edge.statistics import wilson_interval
from googlenet_edge.target import Device, EngineName, Precision

RECORDED = Path(__file__).parent / "fixtures" / "latency_record.json"
CLASSES = tuple(f"{kind} {sign}" for kind in ("warning", "mandatory", "forbidden") for sign in ("left", "right", "up"))
IMAGES = 360
SHA = {Precision.FP32: "a" * 64, Precision.INT8: "b" * 64, Precision.FP16: "c" * 64}
CIRCUMSTANCES = Circumstances(
    date="2026-11-22T10:00:00+00:00",
    cpu_model="AMD EPYC",
    cores=2,
    governor=None,
    memory_mb=25277,
    system="Linux-6.1",
    python="3.11.2",
    packages={"googlenet-edge": "0.1.0", "onnxruntime": "1.31.1", "openvino": None},
)


def read_measurement(path: Path) -> Measurement:
    """What `bench --out` wrote."""
    return parse_measurement(path.read_bytes(), str(path))


def recorded_rounds(precision: Precision, *, threads: int = 1) -> tuple[tuple[float, ...], ...]:
    """40 rounds of 10 runs, in milliseconds, of a GoogLeNet at 224×224."""
    found = json.loads(RECORDED.read_text())["details"][str(threads)][precision.value]["rounds_ms"]
    return tuple(tuple(times) for times in found)


def scaled(found: Samples, factor: float) -> Samples:
    return samples([tuple(factor * ms for ms in times) for times in found.rounds_ms])


def measured_bundle(name: str, precision: Precision = Precision.INT8, *, factor: float = 1.0) -> BundleMeasurement:
    """A bundle as it was recorded, ``factor`` times as slow."""
    source = precision if precision is not Precision.FP16 else Precision.FP32
    latency = scaled(samples(recorded_rounds(source)), factor)
    shares = {Stage.DECODE: 1.3, Stage.PREPROCESS: 1.1, Stage.POSTPROCESS: 0.1}
    stages = {stage: scaled(latency, shares.get(stage, 0) / latency.summary_ms.p50) for stage in shares}
    batches = [scaled(latency, batch**0.93) for batch in (1, 2, 4, 8)]
    return BundleMeasurement(
        name=name,
        precision=precision,
        model_sha256=SHA[precision],
        bundle_bytes={Precision.FP32: 22_424_112, Precision.INT8: 5_811_870, Precision.FP16: 11_300_240}[precision],
        engine=EngineSpec("onnxruntime", "1.31.1", Device.CPU, threads=1, crop=224, classes=len(CLASSES)),
        warm_up=WarmUp(60, steady=True),
        latency=latency,
        stages={stage: stages.get(stage, latency) for stage in Stage},
        throughput=tuple(
            BatchThroughput(batch, 1e3 * batch / found.summary_ms.p50, found)
            for batch, found in zip((1, 2, 4, 8), batches, strict=True)
        ),
        cold_starts=tuple(ColdStart(120.0, 60.0, 20.0 * factor + i, 118) for i in range(3)),
        labels_sha256="d" * 64,
        lineage=Lineage(graph="f" * 64),
        accuracy_engine=EngineName.ONNXRUNTIME,
    )


def measured(*bundles: BundleMeasurement) -> Measurement:
    """Those bundles, the first of which is the reference."""
    taken = bundles or (
        measured_bundle("runs/signs/fp32-cpu", Precision.FP32),
        measured_bundle("runs/signs/int8-cpu", Precision.INT8),
    )
    ratios = tuple(latency_ratio(bundle, taken[0]) for bundle in taken[1:])
    return Measurement(CIRCUMSTANCES, MeasuredImage("e" * 64, 45_678, 640, 480), taken, ratios, ())


def on_a_jetson(measurement: Measurement) -> Measurement:
    """The same with a minute of power, heat and clocks, in which one sensor is silent and another falls silent."""
    times, seconds = tuple(i / 10 for i in range(600)), tuple(float(i) for i in range(60))
    power: dict[str, tuple[float | None, ...]] = {
        "VDD_IN": tuple(6500 + 2500 * math.sin(time / 4) ** 2 for time in times),
        "VDD_CPU_GPU_CV": tuple(2000 + 1800 * math.sin(time / 4) ** 2 if time < 50 else None for time in times),
        "VDD_SOC": (None,) * 600,
    }
    heat = {"cpu-thermal": tuple(45 + second / 6 for second in seconds)}
    clocks = {"GPU clock": tuple(624.0 if second < 40 else 510.0 for second in seconds)}
    watched = Watched(
        power=Series(times, power),
        heat=Series(seconds, heat),
        total=("VDD_IN",),
        throttle_events={"oc1": 3, "oc2": 0},
        core_share=0.004,
        clocks=Series(seconds, clocks),
    )
    clock = Clock(now_mhz=612, low_mhz=306, high_mhz=624)
    jetson = Jetson(Device.ORIN_NANO, "NVIDIA Jetson Orin Nano", "36.4.3", "6.2", "10.3.0", "12.6", "15W", clock, clock)
    bundles = tuple(
        replace(bundle, sustained=warming(bundle), energy=Energy(300, 7200.0, 33.5, (33.0, 34.0), 4100.0, 14.4))
        for bundle in measurement.bundles
    )
    here = replace(measurement.circumstances, cpu_model="NVIDIA Jetson Orin Nano", cores=6, jetson=jetson)
    return replace(measurement, circumstances=here, bundles=bundles, watched=watched)


def warming(bundle: BundleMeasurement) -> Sustained:
    """Two minutes of a camera's frames, in which the bundle becomes a fifth slower."""
    start = bundle.latency.summary_ms.p50
    windows = tuple(SustainedWindow(float(i), 30, start * (1 + i / 600), start * 1.5, i // 60) for i in range(120))
    return Sustained(SustainedPlan(120.0, fps=30.0), 5.0, windows, 3540, 3600, 60)


def with_accuracy(bundle: BundleMeasurement, right: int, images: int = 2000) -> BundleMeasurement:
    share = right / images
    return replace(bundle, accuracy=Accuracy(images, share, wilson_interval(right, images), min(1.0, share + 0.05)))


def drawn(number: int) -> bytes:
    """A little JPEG that tells its number."""
    image = Image.new("RGB", (120, 90), ((37 * number) % 256, (91 * number) % 256, 140))
    ImageDraw.Draw(image).text((40, 35), f"#{number}", fill="white")
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def answered(*, lost: int = 9, gained: int = 4, seed: int = 0) -> Answers:
    """FP32 is right about nine in ten images, INT8 loses ``lost`` and gains ``gained`` of them."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(CLASSES)), IMAGES // len(CLASSES))
    fp32 = np.where(random.random(IMAGES) < 0.9, labels, (labels + random.integers(1, 3, IMAGES)) % len(CLASSES))
    int8 = fp32.copy()
    for i in np.flatnonzero(fp32 == labels)[:: IMAGES // 40][:lost]:
        int8[i] = (labels[i] + 1) % len(CLASSES)
    for i in np.flatnonzero(fp32 != labels)[:gained]:
        int8[i] = labels[i]
    disputed = np.flatnonzero((fp32 == labels) != (int8 == labels)).tolist()
    return Answers(
        data="signs/val",
        class_names=CLASSES,
        images=tuple(f"{CLASSES[label]}/{i:05}.jpg" for i, label in enumerate(labels.tolist())),
        labels=tuple(labels.tolist()),
        bundles=tuple(
            BundleAnswers(
                f"runs/signs/{p.value}-cpu", p, SHA[p], tuple(said.tolist()), (True,) * IMAGES, 1.0, "onnxruntime"
            )
            for p, said in ((Precision.FP32, fp32), (Precision.INT8, int8))
        ),
        thumbnails=tuple(Thumbnail(i, drawn(i)) for i in disputed),
    )


def lost_and_gained(answers: Answers) -> float:
    """The change of top-1 in points."""
    first, second = (answers.evaluation(bundle) for bundle in answers.bundles)
    return compare(first, second).top1_change_points
