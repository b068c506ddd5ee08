"""What people read: no figure is cut off, whatever the width."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_jetson import AGX_ORIN, ORIN_NANO, fake_jetson
from rich.console import Console, RenderableType

from googlenet_edge import console
from googlenet_edge.calibration.table import Choice, Trial
from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.bundle import MODEL, EngineTrial, FileRecord, Lineage, Manifest, Verdict
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.cold_start import ColdStart
from googlenet_edge.engines.energy import Energy
from googlenet_edge.engines.jetson import read_jetson
from googlenet_edge.engines.measurement import (
    BatchThroughput,
    BundleMeasurement,
    MeasuredImage,
    Measurement,
    Stage,
    latency_ratio,
    samples,
)
from googlenet_edge.engines.predictor import Prediction
from googlenet_edge.engines.protocol import DeviceStage, EngineSpec
from googlenet_edge.engines.sensitivity import LayerSensitivity, Sensitivity
from googlenet_edge.engines.sensors import Series, Watched
from googlenet_edge.engines.sustained import Sustained, SustainedPlan, SustainedWindow
from googlenet_edge.engines.tables import (
    accuracy_table,
    circumstances_sentence,
    energy_table,
    engines_table,
    evaluation_table,
    facts_table,
    latency_table,
    predictions_table,
    resources_table,
    sensitivity_table,
    sensors_table,
    stages_table,
    sustained_table,
    trials_table,
)
from googlenet_edge.engines.timing import WarmUp
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Device, EngineName, Precision

LONG = "/home/somebody/projects/a rather long name of a project/runs/photos of flowers/int8-cpu"
ACCURACY = Accuracy(images=10000, top1=0.91234, top1_interval=Interval(0.9051, 0.9187), top5=0.9956)
COMPARISON = Comparison(ACCURACY, 0.99554, -0.125, Interval(-0.31, 0.06), mcnemar_p=0.21)


def shown(what: RenderableType, width: int) -> str:
    """As `console.shown` prints it on a terminal of ``width`` columns."""
    settings = {"highlight": False, "markup": False, "soft_wrap": True}
    file = io.StringIO()
    Console(file=file, width=width, **settings).print(what)
    return file.getvalue()


def bundle(name: str, ms: float) -> BundleMeasurement:
    latency = samples([(ms, ms, 1.01 * ms)] * 6)
    return BundleMeasurement(
        name=name,
        precision=Precision.INT8,
        model_sha256="0" * 64,
        bundle_bytes=7_123_456,
        engine=EngineSpec("onnxruntime", "1.31.0", Device.CPU, threads=1, crop=224, classes=1000),
        warm_up=WarmUp(20, steady=True),
        latency=latency,
        stages=dict.fromkeys(Stage, latency),
        throughput=(BatchThroughput(1, 1e3 / ms, latency), BatchThroughput(8, 1.5e3 / ms, latency)),
        cold_starts=tuple(ColdStart(100.0, 200.0, *first) for first in ((10.0, 97), (20.0, 118), (90.0, None))),
        labels_sha256="d" * 64,
        lineage=Lineage(),
        accuracy_engine=EngineName.ONNXRUNTIME,
    )


@pytest.fixture
def measurement() -> Measurement:
    bundles = bundle("runs/photos/fp32-cpu", 1234.5), bundle(LONG, 432.1)
    circumstances = replace(read_circumstances(), cpu_model="Example 9000", cores=4)
    image = MeasuredImage("0" * 64, 1, 640, 480)
    return Measurement(circumstances, image, bundles, (latency_ratio(bundles[1], bundles[0]),), ())


@pytest.mark.parametrize("width", [80, console.PIPED_WIDTH])
def test_tables_of_a_benchmark_show_every_figure(measurement: Measurement, width: int) -> None:
    latency, resources, stages = (
        shown(table(measurement), width) for table in (latency_table, resources_table, stages_table)
    )
    assert "p50 ms" in latency
    for figure in ("1234.50", "432.10", "436.42", "1.0%", "0.350 (0.350 to 0.350)"):
        assert figure in latency, latency
    for figure in ("images/s", "at batch", "cold start ms", "118 MB", "7.12 MB", "320"):
        assert figure in resources, resources
    for figure in ("decode", "postprocess", "432.10", "1728.40"):
        assert figure in stages, stages
    assert "…" not in latency + resources + stages


def test_circumstances_name_the_gpu_where_it_computes_and_only_there(measurement: Measurement) -> None:
    here = replace(measurement, circumstances=replace(measurement.circumstances, gpu="NVIDIA H200"))
    assert circumstances_sentence(here).startswith("Example 9000, 1 of 4 cores, onnxruntime 1.31.0,")
    engine = replace(here.bundles[0].engine, backend="onnxruntime-cuda", device=Device.CUDA)
    there = replace(here, bundles=tuple(replace(each, engine=engine) for each in here.bundles))
    assert circumstances_sentence(there).startswith("NVIDIA H200, Example 9000, 1 of 4 cores, onnxruntime-cuda 1.31.0,")


@pytest.mark.parametrize("width", [80, console.PIPED_WIDTH])
def test_table_of_stages_shows_those_of_a_gpu_below(measurement: Measurement, width: int) -> None:
    times = (0.125, 1.5, 0.0625)
    stages = {part: samples([(ms,)] * 6) for part, ms in zip(DeviceStage, times, strict=True)}
    first, second = measurement.bundles
    found = replace(measurement, bundles=(first, replace(second, device_stages=stages)))
    text = shown(stages_table(found), width)
    below = text[text.index("copy-in") :]
    for figure in ("copy-in", "compute", "copy-out", "not measured", "0.125", "1.500", "0.062"):
        assert figure in below, text
    assert "…" not in text
    assert "copy-in" not in shown(stages_table(measurement), width)


@pytest.mark.parametrize(
    ("minmax", "taken", "why"),
    [
        (33.0, "headroom", "minmax has 33.0 dB, but headroom gives way only to 4.6 dB more"),
        (35.7, "minmax", None),
        (30.0, "headroom", None),
    ],
)
def test_table_of_trials_says_why_headroom_stays_where_another_scores_higher(
    minmax: float, taken: str, why: str | None
) -> None:
    scores = {"no rescale": 29.0, "rescale": 31.0, "headroom": 31.0, "minmax": minmax}
    choice = Choice(32, tuple(Trial(what, db, what in {"rescale", taken}) for what, db in scores.items()))
    table = " ".join(shown(trials_table(choice), 80).split())
    for text in (table, str(choice)):  # the other is what a build says
        assert ("gives way" in text, (why or "") in text) == (bool(why), True), text


@pytest.mark.parametrize("width", [80, console.PIPED_WIDTH])
def test_tables_of_accuracy_show_every_figure(width: int) -> None:
    manifest = manifest_of(Precision.INT8, size=5_815_198, against_fp32=COMPARISON)
    text = shown(accuracy_table(manifest), width)
    assert [line.split() for line in text.splitlines()][1:] == [
        ["fp32", "91.23%", "90.51%", "to", "91.87%", "99.56%", "22.45", "MB"],
        ["int8", "91.23%", "90.51%", "to", "91.87%", "99.56%", "5.82", "MB"],
    ]
    text = shown(evaluation_table([(LONG, ACCURACY)]), width)
    for figure in ("91.23%", "90.51% to 91.87%", "99.56%", "10000"):
        assert figure in text, text
    assert "…" not in text


@pytest.mark.parametrize("width", [80, console.PIPED_WIDTH])
def test_table_of_tried_engines_shows_every_figure(width: int) -> None:
    first = EngineTrial(
        EngineName.ONNXRUNTIME, "1.31.1", 2, 104.465, Interval(103.43, 105.5), 1.0, Interval(1, 1), -0.125, 0.9955,
        Verdict.INACCURATE,
    )  # fmt: skip
    second = replace(first, engine=EngineName.OPENVINO, version="2026.4.1", ratio=0.8968, verdict=Verdict.TAKEN)
    text = shown(engines_table([first, second]), width)
    assert [re.split(r"  +", line.strip()) for line in text.splitlines()][1:] == [
        ["onnxruntime 1.31.1", "104.47 (103.43 to 105.50)", "1.000", "-0.12", "99.55%", "inaccurate"],
        ["openvino 2026.4.1", "104.47 (103.43 to 105.50)", "0.897", "-0.12", "99.55%", "taken"],
    ]


def test_tables_of_a_benchmark_name_the_engines_where_there_are_two(measurement: Measurement) -> None:
    first, second = measurement.bundles
    openvino = replace(second, engine=replace(second.engine, backend="openvino", version="2026.4.1"))
    two = replace(measurement, bundles=(first, openvino))
    for table in (latency_table, resources_table, stages_table):
        assert "fp32-cpu (onnxruntime) " in shown(table(two), console.PIPED_WIDTH)
        assert "int8-cpu (openvino) " in shown(table(two), console.PIPED_WIDTH)
        assert "onnxruntime" not in shown(table(measurement), console.PIPED_WIDTH)
    assert "onnxruntime 1.31.0 and openvino 2026.4.1, 18 runs" in circumstances_sentence(two)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/photos/fp32-cpu", "runs/photos/int8-cpu"], ["photos/fp32-cpu", "photos/int8-cpu"]),
        (
            ["runs/photos/slim-1.5/int8-cpu", "runs/flowers/slim-1.5/int8-cpu"],
            ["photos/slim-1.5/int8-cpu", "flowers/slim-1.5/int8-cpu"],
        ),
        (["slim/int8-cpu", "/runs/slim/int8-cpu"], ["slim/int8-cpu", "runs/slim/int8-cpu"]),
        (["int8-cpu", "int8-cpu"], ["int8-cpu", "int8-cpu"]),
    ],
)
def test_tables_of_a_benchmark_name_as_many_folders_as_tell_bundles_apart(
    paths: list[str], names: list[str], measurement: Measurement
) -> None:
    bundles = tuple(bundle(path, 1.0) for path in paths)
    found = latency_table(replace(measurement, bundles=bundles, ratios=()))
    assert list(found.columns[0].cells) == names


def test_table_of_resources_says_on_how_many_streams(measurement: Measurement) -> None:
    first, second = measurement.bundles
    streamed = replace(first.throughput[0], batch=32, images_per_s=777.7, streams=4)
    found = replace(measurement, bundles=(replace(first, throughput=(*first.throughput, streamed)), second))
    lines = shown(resources_table(found), 80).splitlines()
    assert "778  32 on 4 streams" in lines[1]
    assert "streams" not in "".join(lines[2:])


@pytest.mark.parametrize("width", [80, console.PIPED_WIDTH])
def test_tables_of_power_and_heat_show_every_figure(measurement: Measurement, width: int) -> None:
    first, second = measurement.bundles
    energy = Energy(800, power_mw=11_234.56, mj=55.04, turns_mj=(55.0,), idle_mw=4_000.0, mj_above_idle=35.44)
    watched = Watched(
        Series((0.0, 0.1, 0.2), {"GPU": (1000.0, None, 3000.0), "CPU": (500.0, 500.0, 1500.0)}),
        Series((0.0, 1.0), {"tj": (41.0, 43.54), "cv0": (None, None)}),
        ("GPU", "CPU"),
        {"under-voltage": 0, "average over-current": 2},
        0.002,
        Series((0.0, 1.0), {"GPU clock": (306.0, 918.0)}),
    )
    found = replace(measurement, bundles=(replace(first, energy=energy), second), watched=watched)
    text = shown(energy_table(found), width)
    for figure in ("55.0 mJ", "35.4 mJ", "11234.6 mW", "4000.0 mW"):
        assert figure in text, text
    assert text.count("not measured") == 4
    rows = [re.split(r"  +", line.strip()) for line in shown(sensors_table(watched), width).splitlines()][1:]
    assert rows == [
        ["GPU", "1000.0 mW", "2000.0 mW", "3000.0 mW"],
        ["CPU", "500.0 mW", "833.3 mW", "1500.0 mW"],
        ["all rails", "1500.0 mW", "3000.0 mW", "4500.0 mW"],
        ["tj", "41.0 °C", "42.3 °C", "43.5 °C"],
        ["cv0", "not measured", "not measured", "not measured"],
        ["GPU clock", "306.0 MHz", "612.0 MHz", "918.0 MHz"],
    ]
    assert watched.throttling == "throttled by the supply: 2 of average over-current"
    assert replace(watched, throttle_events={"x": 0}).throttling == "throttled by the supply: never"
    assert replace(watched, throttle_events=None).throttling == "throttled by the supply: not measured"


@pytest.mark.parametrize("width", [80, console.PIPED_WIDTH])
def test_table_of_a_load_shows_every_figure(measurement: Measurement, width: int) -> None:
    first, second = measurement.bundles
    windows = tuple(SustainedWindow(float(i), 30, 10.0 if i < 10 else 11.0, 12.0 + i, i % 2) for i in range(20))
    with_camera = Sustained(SustainedPlan(20, fps=29.97), 0.0, windows, 600, 601, 10)
    without = replace(with_camera, plan=SustainedPlan(20), frames=0, missed=0)
    found = replace(measurement, bundles=(replace(first, sustained=with_camera), replace(second, sustained=without)))
    rows = [re.split(r"  +", line.strip()) for line in shown(sustained_table(found), width).splitlines()]
    assert [row[-5:] for row in rows if "+10.0%" in row] == [
        ["10.00", "11.00", "+10.0%", "31.00", "10 of 601 at 29.97 fps"],
        ["10.00", "11.00", "+10.0%", "31.00", "no camera"],
    ]
    assert "one after the other in this order" in shown(sustained_table(found), width)
    alone = replace(measurement, bundles=found.bundles[:1])
    assert "one after the other" not in shown(sustained_table(alone), width)


def test_layers_have_a_line_each_on_80_columns() -> None:
    row = LayerSensitivity("inception4e.branch2.0", 0.1064, 123, -0.512, 11.799, 1.8732, Interval(0.6412, 3.482))
    found = Sensitivity(200, 2, 43.3, 0, 19.58, (row, row))
    lines = shown(sensitivity_table(found), 80).splitlines()
    cells = ["inception4e.branch2.0", "10.6%", "123", "-0.51 dB", "+11.80 ms", "+87.3% (-36 to +248)"]
    assert [re.split("  +", line.strip()) for line in lines[2:]] == [cells, cells]
    assert lines[1].split() == ["layer", "rounded", "flips", "in", "float", "in", "float", "(95", "%", "CI)"]


def test_sentence_about_a_jetson_says_what_decides_its_speed(tmp_path: Path) -> None:
    moving, fixed = (read_jetson(fake_jetson(tmp_path / kind.gpu, kind)) for kind in (ORIN_NANO, AGX_ORIN))
    assert moving is not None
    assert fixed is not None
    assert str(moving) == (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super, JetPack 6.2, TensorRT 10.3.0.30,"
        " power mode 25W, GPU at 306 to 918 MHz"
    )
    assert str(fixed).endswith("JetPack 6.0, TensorRT 8.6.2.3, power mode MAXN, GPU at 1300 MHz")
    assert "TensorRT not found, power mode not found" in str(
        replace(fixed, tensorrt=None, power_mode=None, gpu_clock=None)
    )


def test_table_of_a_single_precision_has_no_comparison() -> None:
    manifest = manifest_of(Precision.FP32, size=22_445_226, against_fp32=None)
    assert [line.split()[0] for line in shown(accuracy_table(manifest), 80).splitlines()] == ["precision", "fp32"]


def manifest_of(precision: Precision, *, size: int, against_fp32: Comparison | None) -> Manifest:
    return Manifest(
        precision,
        Device.CPU,
        Preprocess(),
        accuracy=ACCURACY,
        against_fp32=against_fp32,
        fp32_model_bytes=22_445_226,
        files={MODEL: FileRecord(size, "0" * 64)},
    )


def test_tables_fold_long_names_and_lose_none_of_their_letters() -> None:
    in_one_word = LONG.replace(" ", "_")
    predictions = predictions_table([(in_one_word, [Prediction("no_entry", 5, 0.987), Prediction("stop", 8, 0.012)])])
    text = shown(predictions, 80)
    assert (
        "".join(text.split())
        == "imageclassprobability" + in_one_word[:57] + "no_entry98.7%" + in_one_word[57:] + "stop1.2%"
    )
    facts = shown(facts_table({"kind": "bundle", "sha256": "0123456789abcdef" * 8}), 80)
    assert "".join(facts.split()) == "kindbundlesha256" + "0123456789abcdef" * 8


def test_sentences_say_what_the_figures_mean(measurement: Measurement) -> None:
    assert str(COMPARISON) == (
        "top-1 changes by -0.12 points (95 % interval -0.31 to +0.06; McNemar p 0.21: not told from chance);"
        " 99.55% of the predictions are equal"
    )
    assert "p 0.01: a real difference" in str(replace(COMPARISON, mcnemar_p=0.01))
    assert circumstances_sentence(measurement) == (
        "Example 9000, 1 of 4 cores, onnxruntime 1.31.0, 18 runs in interleaved rounds; stages with a 640×480 image"
    )


def test_lines_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is copied, or found by grep, must be in one piece."""
    line = "bundle: " + str(Path(LONG) / LONG.replace("/", "-"))
    console.shown(line * 3)
    assert capsys.readouterr().err == line * 3 + "\n"


def test_table_of_resources_says_that_the_memory_of_a_gpu_is_not_in_it(measurement: Measurement) -> None:
    first, second = measurement.bundles
    on_gpu = replace(second, engine=replace(second.engine, device=Device.ORIN_NANO))
    assert "peak memory, less the GPU's" in shown(resources_table(replace(measurement, bundles=(first, on_gpu))), 120)
    assert "less the GPU's" not in shown(resources_table(measurement), 120)
