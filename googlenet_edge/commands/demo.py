"""The whole flow in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from googlenet_edge import workspace
from googlenet_edge.commands.engine import bench, build, evaluate, predict
from googlenet_edge.commands.model import train
from googlenet_edge.commands.report import report
from googlenet_edge.console import bar, shown
from googlenet_edge.errors import placed_by
from googlenet_edge.target import Device, Precision


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
