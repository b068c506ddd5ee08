"""Commands that make a model: train, finetune, slim, prune, export, calibrate; and demo, which goes all the way."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from googlenet_edge import Preprocess, workspace
from googlenet_edge.commands.engine import bench, build, evaluate, predict
from googlenet_edge.commands.options import (
    CALIBRATION_IMAGES,
    CORES,
    BatchSizeOption,
    DataOption,
    ImagesOption,
    JsonOption,
    MethodOption,
    OneThreadOption,
    SeedOption,
    SkipOption,
    WorkersOption,
    calibration_request,
    output,
    when_damaged,
)
from googlenet_edge.commands.report import report
from googlenet_edge.console import TrainingDisplay, bar, chosen, named, shown
from googlenet_edge.errors import placed_by
from googlenet_edge.target import Device, EngineName, Precision


def train(
    data: Annotated[
        Path | None, typer.Option(help="train/CLASS/* and val/CLASS/*, or CLASS/*; default: data of gnet-edge.toml.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: runs/NAME of the data.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 30,
    size: Annotated[int, typer.Option(min=32, max=3584, help="Side of the network's input, pixels.")] = 224,
    resize: Annotated[
        int | None, typer.Option(min=32, max=4096, help="Short side before the crop; default: size × 8/7.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="'imagenet', a checkpoint or .pth; default: random.")] = None,
    batch_size: BatchSizeOption = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its peak; default: 0.1, or 0.02 with --weights.")
    ] = None,
    min_area: Annotated[float, typer.Option(min=0.05, max=1.0, help="Smallest share of an image a crop keeps.")] = 0.35,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images; not for arrows or letters.")] = True,
    colour: Annotated[float, typer.Option(min=0.0, max=1.0, help="Change of brightness, contrast, saturation.")] = 0.2,
    erase: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of images with a part erased.")] = 0.0,
    plain_epochs: Annotated[int, typer.Option(min=0, help="Last epochs that see images as evaluation does.")] = 0,
    true_5x5: Annotated[bool, typer.Option("--true-5x5", help="The paper's 5×5 branch; torchvision's is 3×3.")] = False,
    mixed_precision: Annotated[bool, typer.Option(help="Compute in 16 bits where the processor can.")] = True,
    seed: SeedOption = 0,
    workers: WorkersOption = 2,
    skip_damaged: SkipOption = False,
) -> None:
    """Train a GoogLeNet with both auxiliary heads. The same command goes on after an interruption.

    Examples:
    gnet-edge train --data photos --weights imagenet --epochs 30
    torchrun --nproc-per-node 4 -m googlenet_edge.cli train --data photos
    """
    from googlenet_edge import train as training
    from googlenet_edge.augment import Augmentation
    from googlenet_edge.parallel import first_tells_of_stop, process_group
    from googlenet_edge.pretrained import read_start
    from googlenet_edge.training_loop import prepare_process
    from googlenet_edge.training_state import TrainConfig

    if resize is not None and resize < size:
        raise typer.BadParameter(f"--resize {resize} is below --size {size}, the square that is cut from it")
    with bar("reading weights") if weights else nullcontext() as progress:
        start = read_start(weights, progress=progress) if weights else None
    images = named(workspace.take_data(data, workspace.read_settings(), None))
    request = training.TrainRequest(
        data=images,
        folder=out or _told_run_folder(images),
        preprocess=Preprocess(resize or round(size * 8 / 7), size),
        config=TrainConfig(
            epochs=epochs,
            batch_size=batch_size or 0,
            learning_rate=(0.02 if weights else 0.1) if learning_rate is None else learning_rate,
            mixed_precision=mixed_precision,
            augmentation=Augmentation(min_area, flip, colour, erase),
            plain_epochs=plain_epochs,
            seed=seed,
        ),
        true_5x5=true_5x5,
        start=start,
        workers=workers,
    )
    prepare_process()
    with process_group() as rank, first_tells_of_stop(rank), TrainingDisplay(visible=rank.first) as display:
        path = training.train(
            request,
            observer=display,
            rank=rank,
            when_damaged=when_damaged(skip_damaged),
            progress=display.on_checked,
        )
        if rank.first:
            shown(f"checkpoint: {path}")


def _told_run_folder(images: Path) -> Path:
    """Where a training goes if nobody says: said aloud where another one on these images is finished."""
    folder, first = workspace.run_folder_for(images), workspace.RUNS / workspace.run_name(images)
    if folder != first:
        shown(f"the training in {first} is finished; this one goes to {folder}")
    return folder


def finetune(
    checkpoint: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    data: DataOption = None,
    images: ImagesOption = None,
    method: MethodOption = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images; a tenth of the training's is usual.")] = 3,
    batch_size: BatchSizeOption = None,
    learning_rate: Annotated[float, typer.Option(help="At its peak; a hundredth of the training's is usual.")] = 0.001,
    out: Annotated[Path | None, typer.Option(help=f"Default: {workspace.FINETUNED_FILE} beside it.")] = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 2,
    skip_damaged: SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a checkpoint to lose less in INT8, where calibration is not enough. Stopped, it starts over.

    The result is a checkpoint to build from. It is written only where INT8
    gets at least as many validation images right as before.

    Examples:
    gnet-edge finetune
    gnet-edge build runs/photos/finetuned.safetensors --out runs/photos/int8-tuned
    """
    from googlenet_edge.distil import DistilConfig
    from googlenet_edge.engines import finetune as finetuning
    from googlenet_edge.engines.tables import finetune_table
    from googlenet_edge.training_loop import prepare_process

    taken = named(workspace.take_checkpoint(checkpoint, workspace.read_settings()))
    request = finetuning.FinetuneRequest(
        checkpoint=taken,
        out=workspace.result_place(out, beside=taken, usual=workspace.FINETUNED_FILE),
        calibration=calibration_request(taken, data, images, method, skip_damaged),
        config=DistilConfig(
            epochs=epochs,
            batch_size=batch_size or 0,
            learning_rate=learning_rate,
            weight_decay=0.0,
            mixed_precision=False,
            seed=seed,
        ),
        threads=CORES,
        workers=workers,
    )
    prepare_process()
    report = finetuning.finetune(request, watch=lambda: TrainingDisplay(visible=True), bars=bar)
    shown(finetune_table(report))
    shown(f"after against before: {report.gain}")
    shown(f"checkpoint: {report.checkpoint}")
    output(report, as_json)


def slim(
    checkpoint: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    data: DataOption = None,
    speedup: Annotated[
        list[float] | None, typer.Option(help="How many times as fast; several give a curve; default: 1.5.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="What to be faster in; default: int8.")] = None,
    engine: Annotated[
        EngineName, typer.Option(help="What to be faster on: onnxruntime or openvino.")
    ] = EngineName.ONNXRUNTIME,
    threads: OneThreadOption = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the images; a third of the training's is usual.")
    ] = 10,
    batch_size: BatchSizeOption = None,
    learning_rate: Annotated[float, typer.Option(help="At its peak; a fifth of the training's is usual.")] = 0.02,
    out: Annotated[Path | None, typer.Option(help="Folder for slim-SPEEDUP/; default: the checkpoint's.")] = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 2,
    skip_damaged: SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove channels until inference is faster, as measured here, and train what is left to answer as before.

    The result is a checkpoint to build from. Several speed-ups give a curve of
    accuracy against latency. Stopped, it starts over.

    Examples:
    gnet-edge slim --speedup 1.5
    gnet-edge slim --speedup 1.3 --speedup 1.5 --speedup 2
    gnet-edge build runs/photos/slim-1.5/checkpoint.safetensors
    """
    from googlenet_edge.distil import DistilConfig
    from googlenet_edge.engines import slimming
    from googlenet_edge.engines.registry import backend_for
    from googlenet_edge.engines.stopwatch import Target
    from googlenet_edge.engines.tables import slim_tables
    from googlenet_edge.training_loop import prepare_process

    settings = workspace.read_settings()
    taken = named(workspace.take_checkpoint(checkpoint, settings))
    request = slimming.SlimRequest(
        checkpoint=taken,
        out=out or taken.parent,
        data=named(workspace.take_data(data, settings, taken.parent)),
        speedups=tuple(sorted(set(speedup or [1.5]))),
        target=Target(
            chosen("--precision", precision, settings.precision, Precision.INT8),
            backend_for(Device.CPU, engine),
            chosen("--threads", threads, settings.threads, 1),
        ),
        config=DistilConfig(epochs=epochs, batch_size=batch_size or 0, learning_rate=learning_rate, seed=seed),
        seed=workspace.split_seed(taken.parent),
        when_damaged=when_damaged(skip_damaged),
        streams=CORES,
        workers=workers,
    )
    prepare_process()
    report = slimming.slim(request, watch=lambda: TrainingDisplay(visible=True), bars=bar)
    for table in slim_tables(report):
        shown(table)
    for point in report.points:
        shown(f"slim {point.speedup:g}: {point.against_original}")
        if point.doubt:
            shown(point.doubt)
        shown(f"checkpoint: {point.checkpoint}")
    shown(f"curve: {request.out / workspace.SLIM_FILE}")
    output(report, as_json)


def prune(
    checkpoint: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    out: Annotated[Path | None, typer.Option(help=f"Default: {workspace.PRUNED_FILE} beside it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Drop the auxiliary heads, and prove that the logits stay the same bit for bit.

    Example:
    gnet-edge prune runs/photos/checkpoint.safetensors
    """
    from googlenet_edge.checkpoint import read_checkpoint, write_checkpoint
    from googlenet_edge.export import prune as run

    taken = named(workspace.take_checkpoint(checkpoint, workspace.read_settings()))
    path = workspace.result_place(out, beside=taken, usual=workspace.PRUNED_FILE)
    pruned = run(read_checkpoint(taken))
    write_checkpoint(path, pruned.checkpoint)
    before, after = pruned.before, pruned.after
    shown(f"parameters   {before.parameters:>14,} → {after.parameters:>14,}")
    shown(f"FLOPs        {before.flops:>14,} → {after.flops:>14,}  (2 × multiply-accumulates, one image)")
    shown("logits       identical bit for bit")
    shown(f"checkpoint: {path}")
    output({"checkpoint": str(path), "before": before, "after": after}, as_json)


def export(
    checkpoint: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    data: DataOption = None,
    opset: Annotated[int, typer.Option(help="17, or 13 for TensorRT up to 8.2.")] = 17,
    out: Annotated[Path | None, typer.Option(help=f"Default: {workspace.GRAPH_FILE} beside it.")] = None,
    skip_damaged: SkipOption = False,
) -> None:
    """Write one ONNX file, and check it against PyTorch on real images.

    Example:
    gnet-edge export --opset 13 --out googlenet-opset13.onnx
    """
    from googlenet_edge.engines.build import export_checked
    from googlenet_edge.engines.checkpoint_source import CheckpointSource
    from googlenet_edge.graph import refuse_another_s

    settings = workspace.read_settings()
    taken = named(workspace.take_checkpoint(checkpoint, settings))
    path = workspace.result_place(out, beside=taken, usual=workspace.GRAPH_FILE)
    if out is None:
        refuse_another_s(path)
    request = calibration_request(taken, data, CALIBRATION_IMAGES, None, skip_damaged)
    difference = export_checked(CheckpointSource(taken, opset), path, request)
    shown(f"largest difference from PyTorch: {difference:.1e} of the largest logit")
    shown(f"graph: {path}")


def calibrate(
    graph: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    data: DataOption = None,
    images: ImagesOption = None,
    method: MethodOption = None,
    out: Annotated[Path | None, typer.Option(help=f"Default: {workspace.TABLE_FILE} beside it.")] = None,
    skip_damaged: SkipOption = False,
) -> None:
    """Measure the ranges of all activations on training images, and try how to quantize with them.

    Example:
    gnet-edge calibrate runs/photos/googlenet.onnx --method entropy
    """
    from googlenet_edge.calibration.table import refuse_another_s_table
    from googlenet_edge.engines.build import calibrate_file
    from googlenet_edge.engines.tables import trials_table

    taken = named(workspace.take_graph(graph))
    request = calibration_request(taken, data, images, method, skip_damaged)
    path = workspace.result_place(out, beside=taken, usual=workspace.TABLE_FILE)
    if out is None:
        refuse_another_s_table(path)
    table = calibrate_file(taken, path, request, bars=bar)
    if table.choice:
        shown(trials_table(table.choice))
    shown(f"{len(table.tensors)} tensors on {table.image_count} images, method {table.method.value}")
    shown(f"table: {path}")


def demo(
    folder: Annotated[Path, typer.Argument(help="Where images and results go.")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 6,
) -> None:
    """The whole flow on generated signs: train, build FP32 and INT8, measure, report. Minutes, no download.

    Example:
    gnet-edge demo
    """
    with placed_by("another FOLDER"):
        _demo(folder, epochs)


def _demo(folder: Path, epochs: int) -> None:
    from googlenet_edge.pictograms import write_pictograms

    images = folder / "images"
    workspace.refuse_inside_bundle(images)
    with bar("drawing pictograms") as progress:
        write_pictograms(images, train_per_class=170, val_per_class=50, progress=progress)
    checkpoint = folder / workspace.CHECKPOINT_FILE
    if checkpoint.exists():
        shown(f"using {checkpoint} (trained before; another FOLDER trains anew)")
    else:
        train(images, folder, epochs, 64, learning_rate=0.2, min_area=0.7, flip=False)
    for precision in (Precision.FP32, Precision.INT8):
        build(checkpoint, precision, Device.CPU, images)
    bundle = folder / "int8-cpu"
    bundles = [folder / "fp32-cpu", bundle]
    measurement, answers = folder / workspace.MEASUREMENT_FILE, folder / workspace.ANSWERS_FILE
    bench(bundles, Device.CPU, out=measurement)
    evaluate(bundles, images, out=answers)
    predict(images=sorted((images / "val").glob("*/00000.jpg"))[:3], bundle=bundle, top_k=1)
    report([measurement, answers], folder / "report.html")
    shown(f'bundle: {bundle}\nin Python: googlenet_edge.load("{bundle}").predict("photo.jpg")')
