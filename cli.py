"""``gnet-edge``: one thin command per verb."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from googlenet_edge import Preprocess, __version__, load, workspace
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.console import (
    TrainingDisplay,
    bar,
    chosen,
    leave_out_damaged,
    named,
    run_command,
    shown,
    write_json,
)
from googlenet_edge.dataset import WhenDamaged, refuse_damaged
from googlenet_edge.target import Device, Precision

if TYPE_CHECKING:
    from googlenet_edge.engines.build import CalibrationRequest

MODEL, ENGINE = "The model", "The engine"
CORES = len(os.sched_getaffinity(0))
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)

DataOption = Annotated[Path | None, typer.Option(help="Images; default: those of the training.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, and nothing else there.")]
SkipOption = Annotated[bool, typer.Option("--skip-damaged", help="Leave damaged images out instead of stopping.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Processor threads; default: all cores.")]
OneThreadOption = Annotated[int | None, typer.Option(min=1, help="Processor threads; default: 1.")]
MethodOption = Annotated[RangeMethod, typer.Option(help="How ranges are chosen from the histograms.")]
ImagesOption = Annotated[int | None, typer.Option("--calibration-images", min=1, help="How many; default: 500.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"gnet-edge {__version__}\n")
        raise typer.Exit


@app.callback()
def _all(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False) -> None:
    """A GoogLeNet, from images to a measured INT8 or FP16 engine on an edge device.

    Start with: gnet-edge demo
    """


@app.command(rich_help_panel=MODEL)
def demo(
    folder: Annotated[Path, typer.Argument(help="Where images and results go.")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(min=1)] = 16,
) -> None:
    """The whole flow on generated pictograms: train, build FP32 and INT8, measure. Minutes on a CPU, no download.

    Example: gnet-edge demo
    """
    from googlenet_edge.pictograms import write_pictograms

    images = folder / "images"
    with bar("drawing pictograms") as progress:
        write_pictograms(images, train_per_class=170, val_per_class=50, progress=progress)
    checkpoint = folder / workspace.CHECKPOINT_FILE
    if not checkpoint.exists():
        train(images, folder, epochs, 64, batch_size=32, learning_rate=0.03, min_area=0.7, flip=False)
    for precision in (Precision.FP32, Precision.INT8):
        build(checkpoint, precision, Device.CPU, images)
    bundle = folder / "int8-cpu"
    bench([folder / "fp32-cpu", bundle], Device.CPU)
    predict(images=sorted((images / "val").glob("*/00000.jpg"))[:3], bundle=bundle, top_k=1)
    shown(f'bundle: {bundle}\nin Python: googlenet_edge.load("{bundle}").predict("photo.jpg")')


@app.command(rich_help_panel=MODEL)
def train(
    data: Annotated[Path, typer.Option(help="Folder with train/CLASS/* and val/CLASS/*, or with CLASS/*.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: runs/NAME of the data.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    size: Annotated[int, typer.Option(min=32, max=3584, help="Side of the network's input, pixels.")] = 224,
    resize: Annotated[int | None, typer.Option(min=32, max=4096, help="Short side; default: size × 8/7.")] = None,
    weights: Annotated[str | None, typer.Option(help="'imagenet', a checkpoint or .pth; default: random.")] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step, of all processes together.")] = 128,
    learning_rate: Annotated[float | None, typer.Option(help="Peak; default: 0.1, or 0.02 with --weights.")] = None,
    min_area: Annotated[float, typer.Option(min=0.05, max=1.0, help="Smallest share of an image a crop keeps.")] = 0.35,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images; not for arrows or letters.")] = True,
    colour: Annotated[float, typer.Option(min=0.0, max=1.0, help="Change of brightness, contrast, saturation.")] = 0.2,
    true_5x5: Annotated[bool, typer.Option("--true-5x5", help="The paper's 5×5 branch; torchvision's is 3×3.")] = False,
    mixed_precision: Annotated[bool, typer.Option(help="Compute in 16 bits where the processor can.")] = True,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 2,
    skip_damaged: SkipOption = False,
) -> None:
    """Train a GoogLeNet with both auxiliary heads. The same command goes on after an interruption.

    Examples: gnet-edge train --data photos --weights imagenet --epochs 30,
    torchrun --nproc-per-node 4 -m googlenet_edge.cli train --data photos
    """
    from googlenet_edge import train as training
    from googlenet_edge.augment import Augmentation
    from googlenet_edge.memory import keep_freed_memory
    from googlenet_edge.parallel import process_group
    from googlenet_edge.pretrained import read_start
    from googlenet_edge.training_state import TrainConfig

    if resize is not None and resize < size:
        raise typer.BadParameter(f"--resize {resize} is below --size {size}, the square that is cut from it")
    with bar("downloading weights") as progress:
        start = read_start(weights, progress=progress) if weights else None
    request = training.TrainRequest(
        data=data,
        folder=out or workspace.run_folder_for(data),
        preprocess=Preprocess(resize or round(size * 8 / 7), size),
        config=TrainConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=(0.02 if weights else 0.1) if learning_rate is None else learning_rate,
            mixed_precision=mixed_precision,
            augmentation=Augmentation(min_area, flip, colour),
            seed=seed,
        ),
        true_5x5=true_5x5,
        start=start,
        workers=workers,
    )
    keep_freed_memory()
    with process_group() as rank, TrainingDisplay(visible=rank.first) as display:
        path = training.train(
            request,
            observer=display,
            rank=rank,
            when_damaged=_when_damaged(skip_damaged),
            progress=display.on_checked,
        )
        if rank.first:
            shown(f"checkpoint: {path}")


@app.command(rich_help_panel=MODEL)
def prune(
    checkpoint: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    out: Annotated[Path | None, typer.Option(help=f"Default: {workspace.PRUNED_FILE} beside it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Drop the auxiliary heads, and prove that the logits stay the same bit for bit.

    Example: gnet-edge prune runs/photos/checkpoint.safetensors
    """
    from googlenet_edge.checkpoint import read_checkpoint, write_checkpoint
    from googlenet_edge.prune import prune as run

    taken = named(workspace.take_checkpoint(checkpoint, workspace.read_settings()))
    pruned = run(read_checkpoint(taken))
    path = out or taken.with_name(workspace.PRUNED_FILE)
    write_checkpoint(path, pruned.checkpoint)
    before, after = pruned.before, pruned.after
    shown(f"parameters   {before.parameters:>14,} → {after.parameters:>14,}")
    shown(f"FLOPs        {before.flops:>14,} → {after.flops:>14,}  (2 × multiply-accumulates, one image)")
    shown("logits       identical bit for bit")
    shown(f"checkpoint: {path}")
    _output({"checkpoint": str(path), "before": before, "after": after}, as_json)


@app.command(rich_help_panel=MODEL)
def export(
    checkpoint: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    data: DataOption = None,
    opset: Annotated[int, typer.Option(help="17, or 13 for TensorRT up to 8.2.")] = 17,
    out: Annotated[Path | None, typer.Option(help=f"Default: {workspace.GRAPH_FILE} beside it.")] = None,
) -> None:
    """Write one ONNX file, and check it against PyTorch on real images.

    Example: gnet-edge export --opset 13 --out googlenet-opset13.onnx
    """
    from googlenet_edge.engines.build import export_checked

    settings = workspace.read_settings()
    taken = named(workspace.take_checkpoint(checkpoint, settings))
    images = named(workspace.take_data(data, settings, taken.parent))
    path = out or taken.with_name(workspace.GRAPH_FILE)
    difference = export_checked(taken, images, path, opset=opset, seed=workspace.split_seed(taken.parent))
    shown(f"largest difference from PyTorch: {difference:.1e} of the largest logit")
    shown(f"graph: {path}")


@app.command(rich_help_panel=ENGINE)
def calibrate(
    graph: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    data: DataOption = None,
    images: ImagesOption = None,
    method: MethodOption = RangeMethod.MINMAX,
    out: Annotated[Path | None, typer.Option(help=f"Default: {workspace.TABLE_FILE} beside it.")] = None,
    skip_damaged: SkipOption = False,
) -> None:
    """Measure the ranges of all activations on training images.

    Example: gnet-edge calibrate runs/photos/googlenet.onnx --method entropy
    """
    from googlenet_edge.engines.build import calibrate_file

    taken = named(workspace.take_graph(graph))
    request = _calibration(taken, data, images, method, skip_damaged)
    path = out or taken.with_name(workspace.TABLE_FILE)
    table = calibrate_file(taken, path, request, bars=bar)
    shown(f"{len(table.tensors)} tensors on {table.image_count} images, method {table.method.value}")
    shown(f"table: {path}")


@app.command(rich_help_panel=ENGINE)
def build(
    checkpoint: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Default: int8.")] = None,
    device: Annotated[Device | None, typer.Option(help="What to build for; default: cpu.")] = None,
    data: DataOption = None,
    images: ImagesOption = None,
    method: MethodOption = RangeMethod.MINMAX,
    max_drop: Annotated[float | None, typer.Option(min=0, help="Largest loss of top-1, points; default: 1.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: PRECISION-DEVICE beside the checkpoint.")] = None,
    threads: ThreadsOption = None,
    skip_damaged: SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle: export, calibrate and lower as far as that is missing, then compare its accuracy with FP32.

    Examples: gnet-edge build --precision int8, gnet-edge build --precision int8 --method entropy --max-drop 0.2
    """
    from googlenet_edge.engines import build as building
    from googlenet_edge.engines.tables import accuracy_table, comparison_sentence

    settings = workspace.read_settings()
    taken = named(workspace.take_checkpoint(checkpoint, settings))
    precision = chosen("--precision", precision, settings.precision, Precision.INT8)
    device = chosen("--device", device, settings.device, Device.CPU)
    request = building.BuildRequest(
        checkpoint=taken,
        out=out or taken.parent / f"{precision.value}-{device.value}",
        precision=precision,
        device=device,
        max_drop_points=chosen("--max-drop", max_drop, settings.max_drop, 1.0),
        threads=chosen("--threads", threads, settings.threads, CORES),
        calibration=_calibration(taken, data, images, method, skip_damaged),
    )
    report = building.build(request, bars=bar)
    manifest = report.manifest
    shown(accuracy_table(manifest))
    if manifest.against_fp32:
        shown(comparison_sentence(manifest.against_fp32))
    for note in manifest.notes:
        shown(note)
    shown("took: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in manifest.build_seconds.items()))
    for file in report.reused:
        shown(f"there already: {file}")
    shown(f"bundle: {report.bundle}")
    _output(report, as_json)


@app.command("eval", rich_help_panel=ENGINE)
def evaluate(
    bundles: Annotated[list[Path] | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    data: DataOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accuracy of bundles on the validation images; each is compared with the first.

    Example: gnet-edge eval runs/photos/fp32-cpu runs/photos/int8-cpu
    """
    from googlenet_edge.dataset import open_dataset
    from googlenet_edge.engines.evaluate import evaluate_bundles
    from googlenet_edge.engines.tables import comparison_sentence, evaluation_table

    settings = workspace.read_settings()
    paths = [named(workspace.take_bundle(path)) for path in bundles or (None,)]
    folder = named(workspace.take_data(data, settings, paths[0].parent))
    images = open_dataset(folder, seed=workspace.split_seed(paths[0].parent)).val
    cores = chosen("--threads", threads, settings.threads, CORES)
    results = evaluate_bundles(paths, images, threads=cores, bars=bar)
    shown(evaluation_table([(r.bundle, r.accuracy) for r in results]))
    for result in results:
        if result.against_first:
            shown(f"{result.bundle}: {comparison_sentence(result.against_first)}")
    _output(results, as_json)


@app.command(rich_help_panel=ENGINE)
def predict(
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    bundle: Annotated[Path | None, typer.Option(help="Default: the newest under runs/.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Default: 5.")] = None,
    threads: OneThreadOption = None,
    as_json: JsonOption = False,
) -> None:
    """Labels for images.

    Example: gnet-edge predict photo.jpg --top-k 3
    """
    from googlenet_edge.engines.tables import predictions_table

    count = chosen("--threads", threads, workspace.read_settings().threads, 1)
    with load(named(workspace.take_bundle(bundle)), threads=count) as predictor:
        rows = list(zip(map(str, images), predictor.predict_batch(images, top_k), strict=True))
    shown(predictions_table(rows))
    _output(dict(rows), as_json)


@app.command(rich_help_panel=ENGINE)
def inspect(
    path: Annotated[Path | None, typer.Argument(help="Bundle, checkpoint, graph or table.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What is inside a file or folder of this tool; reading it verifies it.

    Example: gnet-edge inspect runs/photos/int8-cpu
    """
    from googlenet_edge.engines.inspection import inspect as run
    from googlenet_edge.engines.tables import facts_table

    facts = run(path or named(workspace.take_bundle(None)))
    shown(facts_table(facts))
    _output(facts, as_json)


@app.command(rich_help_panel=ENGINE)
def bench(
    bundles: Annotated[list[Path] | None, typer.Argument(help="Default: all of the newest run, interleaved.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where to measure; default: cpu.")] = None,
    threads: OneThreadOption = None,
    rounds: Annotated[int, typer.Option(min=6, help="Interleaved rounds of ten runs each.")] = 20,
    image: Annotated[Path | None, typer.Option(help="For the stages; default: a generated JPEG, 640×480.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for every sample; default: none.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Latency, throughput, cold start and memory of bundles, measured in turns.

    Examples: gnet-edge bench, gnet-edge bench --threads 2 --out measurement.json
    """
    from googlenet_edge.engines.bench import bench as run
    from googlenet_edge.engines.measurement import write_measurement
    from googlenet_edge.engines.registry import backend_for
    from googlenet_edge.engines.rounds import BenchPlan
    from googlenet_edge.engines.tables import circumstances_sentence, latency_table, resources_table, stages_table
    from googlenet_edge.images import read_image_file

    settings = workspace.read_settings()
    backend_for(chosen("--device", device, settings.device, Device.CPU))
    paths = [named(taken) for taken in workspace.take_bundles(bundles or ())]
    plan = BenchPlan(threads=chosen("--threads", threads, settings.threads, 1), rounds=rounds)
    with bar("measuring") as progress:
        measurement = run(paths, plan=plan, image=read_image_file(image) if image else None, progress=progress)
    for table in (latency_table(measurement), resources_table(measurement), stages_table(measurement)):
        shown(table)
    shown(circumstances_sentence(measurement))
    for warning in measurement.warnings:
        shown(f"warning: {warning}")
    if out:
        write_measurement(out, measurement)
        shown(f"measurement: {out}")
    _output(measurement, as_json)


def _calibration(
    taken: Path, data: Path | None, images: int | None, method: RangeMethod, skip_damaged: bool
) -> CalibrationRequest:
    """What to calibrate ``taken``, a checkpoint or a graph, on."""
    from googlenet_edge.engines.build import CalibrationRequest

    settings = workspace.read_settings()
    return CalibrationRequest(
        data=named(workspace.take_data(data, settings, taken.parent)),
        images=chosen("--calibration-images", images, settings.calibration_images, 500),
        method=method,
        seed=workspace.split_seed(taken.parent),
        when_damaged=_when_damaged(skip_damaged),
    )


def _when_damaged(skip: bool) -> WhenDamaged:
    return leave_out_damaged if skip else refuse_damaged


def _output(result: Any, as_json: bool) -> None:
    if as_json:
        write_json(result)


def main() -> None:
    """Runs the command line; what a user can mend becomes one line on stderr and exit code 1."""
    run_command(lambda: app(prog_name="gnet-edge"))


if __name__ == "__main__":
    main()
