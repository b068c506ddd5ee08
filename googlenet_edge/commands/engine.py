"""Commands that make, judge and run engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from googlenet_edge import workspace
from googlenet_edge.commands import machine
from googlenet_edge.commands.options import (
    CALIBRATION_IMAGES,
    CORES,
    AboutOnnx,
    BgrOption,
    ChannelsOption,
    DataOption,
    DropOption,
    EngineOption,
    ImagesOption,
    JsonOption,
    LabelsOption,
    MethodOption,
    OneThreadOption,
    OnnxOption,
    ResizeOption,
    SizeOption,
    SkipOption,
    StreamsOption,
    ThreadsOption,
    calibration_request,
    output,
    skippable,
    source_of,
    when_damaged,
)
from googlenet_edge.console import bar, chosen, named, shown
from googlenet_edge.errors import ConfigError
from googlenet_edge.files import real_path
from googlenet_edge.target import Device, EngineChoice, Precision, Unit

if TYPE_CHECKING:
    from googlenet_edge.engines.build import BuildReport, CalibrationRequest

_MAYBE_SEEN = "; the network may have been trained on some of them: nobody knows how that split this folder"


def build(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Or a bundle, to compile on its device; default: the newest under runs/.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="Default: int8.")] = None,
    device: machine.DeviceOption = None,
    data: DataOption = None,
    images: ImagesOption = None,
    method: MethodOption = None,
    max_drop: DropOption = None,
    out: Annotated[Path | None, typer.Option(help="Default: PRECISION-DEVICE beside the graph.")] = None,
    engine: Annotated[EngineChoice | None, typer.Option(help="auto: the fastest here; default: onnxruntime.")] = None,
    threads: ThreadsOption = None,
    dla: Annotated[bool, typer.Option("--dla", help="On the DLA of a Jetson, not on its GPU.")] = False,
    skip_damaged: SkipOption = False,
    onnx: OnnxOption = None,
    labels: LabelsOption = None,
    size: SizeOption = None,
    resize: ResizeOption = None,
    mean: ChannelsOption = None,
    std: ChannelsOption = None,
    bgr: BgrOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle, the folder that a device runs: every step that is missing, then its accuracy beside FP32.

    Where INT8 loses more than --max-drop, the layers that cost most stay float.
    Given a bundle for a GPU, on the device itself, TensorRT compiles it there,
    once; with --data, one for a DLA gets the scales of TensorRT's calibrator.

    Examples:
    gnet-edge build --precision int8
    gnet-edge build --precision int8 --engine auto --max-drop 0.2
    gnet-edge build --precision fp16 --device orin-nano
    gnet-edge build --onnx googlenet.onnx --labels synsets.txt --data photos
    gnet-edge build int8-orin-nano
    """
    if checkpoint and workspace.is_bundle(checkpoint):
        settled = {
            **{"--precision": precision, "--device": device, "--max-drop": max_drop, "--engine": engine, "--dla": dla},
            **{"--onnx": onnx, "--labels": labels, "--size": size, "--resize": resize, "--mean": mean, "--std": std},
            **{"--bgr": bgr, "--threads": threads},
            **({} if data else {"--out": out, "--calibration-images": images, "--method": method}),
        }
        _refuse_what_a_bundle_has(checkpoint, settled)
        if data:
            on = calibration_request(checkpoint, data, images, method, skip_damaged)
            checkpoint = _calibrate_there(checkpoint, out, on)
        _compile(checkpoint, as_json=as_json)
        return
    from googlenet_edge.engines import build as building

    settings = workspace.read_settings()
    source = source_of(checkpoint, onnx, AboutOnnx(labels, size, resize, mean, std, bgr), settings)
    precision = chosen("--precision", precision, settings.precision, Precision.INT8)
    device = machine.device_for_build(device, settings)
    _mind_what_would_be_ignored(device, engine, precision, bool(method or images))
    count = images if precision is Precision.INT8 else CALIBRATION_IMAGES  # nothing is told of what is not used
    request = building.BuildRequest(
        source=source,
        out=out or source.folder / f"{precision.value}-{device.value}{'-dla' if dla else ''}",
        precision=precision,
        device=device,
        max_drop_points=chosen("--max-drop", max_drop, settings.max_drop, 1.0),
        threads=chosen("--threads", threads, settings.threads, CORES),
        engine=chosen("--engine", engine, settings.engine, EngineChoice.ONNXRUNTIME) if device is Device.CPU else None,
        timed_threads=threads or settings.threads or 1,
        unit=Unit.DLA if dla else Unit.MAIN,
        calibration=calibration_request(source.folder / workspace.GRAPH_FILE, data, count, method, skip_damaged),
    )
    before = building.network_of(request.out)
    report = building.build(request, bars=bar)
    _show_built(report)
    if before not in (None, building.network_of(request.out)):
        shown(f"{report.bundle} replaces a bundle of another network; --out names a place for each")
    output(report, as_json)


def _mind_what_would_be_ignored(
    device: Device, engine: EngineChoice | None, precision: Precision, calibrated: bool
) -> None:
    """Says so, or raises `typer.BadParameter` where it is what the bundle would be."""
    if engine and device is not Device.CPU:
        raise typer.BadParameter(f"--engine is about a processor; what runs on {device.value} is chosen where it runs")
    if precision is not Precision.INT8 and calibrated:
        shown(f"--method and --calibration-images are about int8: nothing of {precision.value} is calibrated")


def _refuse_what_a_bundle_has(bundle: Path, settled: Mapping[str, object]) -> None:
    """Raises `ConfigError` where options are given that were settled when the bundle was made."""
    if given := [name for name, value in settled.items() if value is not None and value is not False]:
        raise ConfigError(
            f"{bundle} is a bundle, which is compiled as it is: leave {', '.join(given)} out, or give the checkpoint"
        )


def _calibrate_there(bundle: Path, out: Path | None, request: CalibrationRequest) -> Path:
    """What `build` does before with a bundle for a DLA and images; the bundle that it wrote."""
    from googlenet_edge.engines.build import calibration_pixels
    from googlenet_edge.engines.tensorrt_calibration import calibratable, calibrate_with_tensorrt

    made = out or workspace.named_after(bundle, "-by-tensorrt")
    preprocess = calibratable(bundle, made).manifest.preprocess
    pixels = calibration_pixels(request, preprocess, bars=bar)
    with bar("TensorRT calibrates") as progress:
        calibrate_with_tensorrt(bundle, pixels, made, progress=progress)
    shown(f"scales: those of TensorRT's calibrator on {len(pixels)} images, in {made}")
    return made


def _compile(bundle: Path, *, as_json: bool) -> None:
    """What `build` does with a bundle."""
    from googlenet_edge.engines.tensorrt_runtime import compile_bundle

    with bar("compiling for the GPU") as progress:
        done = compile_bundle(bundle, progress=progress)
    took = "there already" if done.reused else f"compiled in {done.seconds:.0f} s"
    shown(f"{done.library} on {done.gpu}: {done.size / 1e6:.2f} MB, {took}")
    if done.unit is Unit.DLA:
        shown(str(done.placement))
    shown("the golden vectors give the logits of the build, as nearly as its precision must")
    shown(f"plan: {done.folder}")
    output(done, as_json)


def _show_built(report: BuildReport) -> None:
    """What was made, and what it costs."""
    from googlenet_edge.engines.tables import accuracy_table, engines_table

    manifest = report.manifest
    shown(accuracy_table(manifest))
    if manifest.against_fp32:
        shown(str(manifest.against_fp32))
    if manifest.float_layers:
        shown(f"left in float to keep the accuracy: {', '.join(manifest.float_layers)}")
    if manifest.engine_trials:
        shown(engines_table(manifest.engine_trials))
    for note in manifest.notes:
        shown(note)
    shown("took: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in manifest.build_seconds.items()))
    for file in report.reused:
        shown(f"there already: {file}")
    shown(f"bundle: {report.bundle}")


def sensitivity(
    checkpoint: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    data: DataOption = None,
    images: Annotated[int, typer.Option(min=1, max=2000, help="Training images to measure on.")] = 200,
    calibration_images: ImagesOption = None,
    method: MethodOption = None,
    threads: ThreadsOption = None,
    skip_damaged: SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """What each layer costs in INT8: in accuracy where it is rounded, in time where it is left in float.

    A layer is an activation, with the convolutions that write it and read it.

    Example:
    gnet-edge sensitivity
    """
    from googlenet_edge.engines.build import SensitivityRequest
    from googlenet_edge.engines.build import sensitivity as run
    from googlenet_edge.engines.checkpoint_source import CheckpointSource
    from googlenet_edge.engines.tables import sensitivity_sentence, sensitivity_table

    settings = workspace.read_settings()
    taken = named(workspace.take_checkpoint(checkpoint, settings))
    request = SensitivityRequest(
        CheckpointSource(taken),
        calibration=calibration_request(taken, data, calibration_images, method, skip_damaged),
        images=images,
        threads=chosen("--threads", threads, settings.threads, CORES),
    )
    found = run(request, bars=bar)
    shown(sensitivity_table(found))
    shown(sensitivity_sentence(found))
    output(found, as_json)


def evaluate(
    bundles: Annotated[list[Path] | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    data: DataOption = None,
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for every answer, for a report; default: none.")] = None,
    skip_damaged: SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """Accuracy of bundles on the validation images; each is compared with the first.

    Examples:
    gnet-edge eval runs/photos/fp32-cpu runs/photos/int8-cpu
    gnet-edge eval --out answers.json
    """
    from googlenet_edge.dataset import check_images, open_dataset
    from googlenet_edge.engines.bundle import read_manifest
    from googlenet_edge.engines.evaluate import accuracies, collect_answers, evaluate_bundles
    from googlenet_edge.engines.tables import evaluation_table
    from googlenet_edge.files import write_json

    settings = workspace.read_settings()
    paths = [named(workspace.take_bundle(path)) for path in bundles or (None,)]
    manifests = [read_manifest(path) for path in paths]
    run = real_path(paths[0]).parent
    folder = named(workspace.take_data(data, settings, run))
    images = open_dataset(folder, seed=workspace.split_seed(run)).val
    cores = chosen("--threads", threads, settings.threads, CORES)
    if out:
        workspace.check_result_place(out, workspace.ANSWERS_FILE)
    if not (folder / "train").is_dir():
        records = {workspace.read_run_record(real_path(path).parent) for path in paths}
        known = records == {workspace.RunRecord(str(real_path(folder)), workspace.split_seed(run))}
        unseen = " that no training on it sees" if known else _MAYBE_SEEN
        shown(f"judging {len(images)} images of {folder}: the one in five of each class{unseen}")
    if skip_damaged:
        with bar("checking images") as progress:
            checked = check_images(images, preprocess=manifests[0].preprocess, progress=progress)
        images = when_damaged(skip_damaged)(checked)
    with skippable(skip_damaged):
        evaluations = evaluate_bundles(paths, images, streams=cores, bars=bar, engine=engine)
    results = accuracies(paths, evaluations)
    shown(evaluation_table([(r.name, r.accuracy) for r in results]))
    for result in results:
        if result.against_first:
            shown(f"{result.name}: {result.against_first}")
    if out:
        write_json(out, collect_answers(paths, images, evaluations))
        shown(f"answers: {out}")
    output(results, as_json)


def predict(
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    bundle: Annotated[Path | None, typer.Option(help="Default: the newest under runs/.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Default: 5.")] = None,
    engine: EngineOption = None,
    threads: OneThreadOption = None,
    as_json: JsonOption = False,
) -> None:
    """Labels for images, by a bundle.

    Example:
    gnet-edge predict photo.jpg --top-k 3
    """
    from googlenet_edge.engines.predictor import load_predictor
    from googlenet_edge.engines.tables import predictions_table

    count = chosen("--threads", threads, workspace.read_settings().threads, 1)
    images = list(dict.fromkeys(images))
    streams = min(count, len(images))
    taken = named(workspace.take_bundle(bundle))
    with bar("opening the bundle") as progress:
        opened = load_predictor(taken, threads=count // streams, streams=streams, engine=engine, progress=progress)
    with opened as predictor:
        rows = list(zip(map(str, images), predictor.predict_batch(images, top_k), strict=True))
    shown(predictions_table(rows))
    output(dict(rows), as_json)


def inspect(
    path: Annotated[
        Path | None, typer.Argument(help="Bundle, checkpoint, graph or table; default: the newest bundle.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What is inside a file or folder of this tool; reading it verifies it.

    Example:
    gnet-edge inspect runs/photos/int8-cpu
    """
    from googlenet_edge.engines.inspection import inspect as run
    from googlenet_edge.engines.tables import facts_table

    facts = run(path or named(workspace.take_bundle(None)))
    shown(facts_table(facts))
    output(facts, as_json)


def bench(
    bundles: Annotated[list[Path] | None, typer.Argument(help="Default: all of the newest run, interleaved.")] = None,
    device: machine.DeviceOption = None,
    engine: EngineOption = None,
    threads: OneThreadOption = None,
    streams: StreamsOption = None,
    rounds: machine.RoundsOption = None,
    sustained: machine.SustainedOption = None,
    fps: machine.FpsOption = None,
    lock_clocks: machine.LockOption = False,
    power_mode: machine.ModeOption = None,
    image: Annotated[Path | None, typer.Option(help="For the stages; default: a generated JPEG, 640×480.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON of all samples, each minute of a load; default: none.")] = None,
    host: machine.HostOption = None,
    python: machine.PythonOption = None,
    keep: machine.KeepOption = False,
    as_json: JsonOption = False,
) -> None:
    """Latency, throughput, cold start and memory of bundles, measured in turns.

    Examples:
    gnet-edge bench
    gnet-edge bench --threads 2 --out measurement.json
    gnet-edge bench --device jetson --host me@jetson.local
    """
    from googlenet_edge.engines.bench import bench as run
    from googlenet_edge.engines.clocks import held
    from googlenet_edge.engines.remote_worker import RemotePlan
    from googlenet_edge.engines.rounds import BenchPlan
    from googlenet_edge.engines.tables import measurement_parts
    from googlenet_edge.files import write_json
    from googlenet_edge.images import decode_rgb, read_image_file

    if out:
        workspace.check_result_place(out, workspace.MEASUREMENT_FILE)
    photo = read_image_file(image) if image else None
    if image:
        decode_rgb(image, short_side=1)
    lasting = machine.sustained_plan(sustained, fps)
    settings = workspace.read_settings()
    remote = machine.destination(host, python, keep, device=device, settings=settings)
    wish = chosen("--device", device, settings.device, Device.CPU)
    wish = wish if remote else machine.device_here(wish)  # the other machine looks itself whether it is that
    on_processor = not remote and wish is Device.CPU and engine is None
    paths = machine.bundles_to_measure(bundles or (), wish, on_processor=on_processor)
    cores, rounds = chosen("--threads", threads, settings.threads, 1), chosen("--rounds", rounds, settings.rounds, None)
    so_far = partial(machine.keep, out) if out else None
    if remote:
        there = RemotePlan(wish, engine, cores, streams, rounds, lasting, power_mode, lock_clocks)
        measurement = machine.measured_there(paths, remote, plan=there, image=photo, so_far=so_far)
    else:
        with held(machine.ROOT, power_mode, fixed=lock_clocks) as left, bar("measuring") as progress:
            plan = BenchPlan(threads=cores, streams=streams or CORES, rounds=rounds, sustained=lasting)
            measurement = run(
                paths, plan=plan, image=photo, engine=engine, progress=progress, so_far=so_far, root=machine.ROOT
            )
        measurement = replace(measurement, warnings=(*measurement.warnings, *left))
    for part in measurement_parts(measurement):
        shown(part)
    if out:
        write_json(out, measurement)
        shown(f"measurement: {out}")
    output(measurement, as_json)
    machine.refuse_cut_short(measurement)
