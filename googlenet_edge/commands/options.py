"""What the commands share: their options, and how a result is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from googlenet_edge import workspace
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.console import chosen, leave_out_damaged, named, write_json
from googlenet_edge.dataset import OR_SKIP, WhenDamaged, refuse_damaged
from googlenet_edge.errors import ConfigError, DamagedImageError
from googlenet_edge.preprocess import Channels
from googlenet_edge.processor import usable_cores
from googlenet_edge.target import EngineName
from googlenet_edge.workspace import MOST_THREADS

if TYPE_CHECKING:
    from googlenet_edge.engines.build import CalibrationRequest
    from googlenet_edge.engines.source import Source

CORES = min(usable_cores(), MOST_THREADS)
CALIBRATION_IMAGES = 500

DataOption = Annotated[Path | None, typer.Option(help="Images; default: those of the training.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
BatchSizeOption = Annotated[
    int | None, typer.Option(min=2, help="Images in a step, of all processes; default: 16 to 128, a sixteenth of all.")
]
WorkersOption = Annotated[int, typer.Option(min=0, max=MOST_THREADS, help="Processes that load images.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, and nothing else there.")]
SkipOption = Annotated[bool, typer.Option("--skip-damaged", help="Leave damaged images out instead of stopping.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=MOST_THREADS, help="Processor threads; default: all cores.")
]
OneThreadOption = Annotated[int | None, typer.Option(min=1, max=MOST_THREADS, help="Processor threads; default: 1.")]
StreamsOption = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_THREADS, help="Images at once, for throughput; default: one for each core."),
]
DropOption = Annotated[float | None, typer.Option(min=0, max=100, help="Largest loss of top-1, points; default: 1.")]
MethodOption = Annotated[RangeMethod | None, typer.Option(help="How to find ranges; default: by trial.")]
EngineOption = Annotated[EngineName | None, typer.Option(help="Runtime; default: the one the bundle was built for.")]
ImagesOption = Annotated[
    int | None, typer.Option("--calibration-images", min=1, help=f"To calibrate on; default: {CALIBRATION_IMAGES}.")
]

_OTHERS = "Somebody else's network"
OnnxOption = Annotated[
    Path | None, typer.Option(rich_help_panel=_OTHERS, help="Start from this file; default: a checkpoint.")
]
LabelsOption = Annotated[
    Path | None, typer.Option(rich_help_panel=_OTHERS, help="Its classes, one a line; default: the folders' names.")
]
SizeOption = Annotated[
    int | None, typer.Option(rich_help_panel=_OTHERS, min=1, max=4096, help="Side of its images; default: as it says.")
]
ResizeOption = Annotated[
    int | None,
    typer.Option(rich_help_panel=_OTHERS, min=1, max=4096, help="Short side before the crop; default: size × 8/7."),
]
ChannelsOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=_OTHERS, metavar="R,G,B", help="Of pixels of 0 to 255; default: 127.5 each."),
]
BgrOption = Annotated[
    bool, typer.Option("--bgr", rich_help_panel=_OTHERS, help="Trained on BGR images, as Caffe's networks are.")
]


@dataclass(frozen=True, slots=True)
class AboutOnnx:
    """What somebody else's file does not say about itself; ``mean`` and ``std`` are ``R,G,B`` as typed."""

    labels: Path | None = None
    size: int | None = None
    resize: int | None = None
    mean: str | None = None
    std: str | None = None
    bgr: bool = False


def source_of(checkpoint: Path | None, onnx: Path | None, about: AboutOnnx, settings: workspace.Settings) -> Source:
    """What to build from: the file of ``--onnx``, or a checkpoint."""
    from googlenet_edge.engines.source import OnnxSource
    from googlenet_edge.foreign.network import ChannelOrder

    if onnx is None:
        from googlenet_edge.engines.checkpoint_source import CheckpointSource

        if about != AboutOnnx():
            raise typer.BadParameter(
                "--labels, --size, --resize, --mean, --std and --bgr are about a file: give --onnx"
            )
        return CheckpointSource(named(workspace.take_checkpoint(checkpoint, settings)))
    if checkpoint is not None:
        raise typer.BadParameter("give a checkpoint or --onnx, not both")
    if not os.path.lexists(onnx):
        raise ConfigError(f"{onnx} is missing; give somebody else's network in ONNX with --onnx FILE")
    if onnx.is_dir():
        raise ConfigError(f"{onnx} is a folder; give somebody else's network in ONNX with --onnx FILE")
    return OnnxSource(
        onnx,
        workspace.run_folder_for(onnx.with_suffix("")),
        about.labels,
        about.size,
        about.resize,
        _channels("--mean", about.mean),
        _channels("--std", about.std),
        ChannelOrder.BGR if about.bgr else ChannelOrder.RGB,
    )


def _channels(option: str, text: str | None) -> Channels | None:
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError as problem:
        raise typer.BadParameter(f"{option} {text} is not R,G,B: three numbers with commas between") from problem
    return red, green, blue


def calibration_request(
    taken: Path, data: Path | None, images: int | None, method: RangeMethod | None, skip_damaged: bool
) -> CalibrationRequest:
    """What to calibrate ``taken``, a checkpoint or a graph, on, or what to check it on."""
    from googlenet_edge.engines.build import CalibrationRequest

    settings = workspace.read_settings()
    return CalibrationRequest(
        data=named(workspace.take_data(data, settings, taken.parent)),
        images=chosen("--calibration-images", images, settings.calibration_images, CALIBRATION_IMAGES),
        method=method,
        seed=workspace.split_seed(taken.parent),
        when_damaged=when_damaged(skip_damaged),
    )


def when_damaged(skip: bool) -> WhenDamaged:
    """What becomes of damaged images."""
    return leave_out_damaged if skip else refuse_damaged


@contextmanager
def skippable(skip: bool) -> Iterator[None]:
    """For work on images that nobody checked before: what it says of a damaged one tells of ``--skip-damaged``, too."""
    try:
        yield
    except DamagedImageError as problem:
        if skip:
            raise
        raise DamagedImageError(f"{problem}{OR_SKIP}") from problem


def output(result: Any, as_json: bool) -> None:
    """Writes the result as JSON where that was asked for."""
    if as_json:
        write_json(result)
