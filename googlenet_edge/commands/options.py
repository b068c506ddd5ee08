"""What the commands share: their options, and how a result is shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from googlenet_edge import workspace
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.console import chosen, leave_out_damaged, named, write_json
from googlenet_edge.dataset import WhenDamaged, refuse_damaged
from googlenet_edge.target import EngineName

if TYPE_CHECKING:
    from googlenet_edge.engines.build import CalibrationRequest

CORES = len(os.sched_getaffinity(0))

DataOption = Annotated[Path | None, typer.Option(help="Images; default: those of the training.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, and nothing else there.")]
SkipOption = Annotated[bool, typer.Option("--skip-damaged", help="Leave damaged images out instead of stopping.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Processor threads; default: all cores.")]
OneThreadOption = Annotated[int | None, typer.Option(min=1, help="Processor threads; default: 1.")]
MethodOption = Annotated[RangeMethod | None, typer.Option(help="Only this range method; default: by trial.")]
EngineOption = Annotated[EngineName | None, typer.Option(help="Runtime; default: the one the bundle was built for.")]
ImagesOption = Annotated[int | None, typer.Option("--calibration-images", min=1, help="How many; default: 500.")]


def calibration_request(
    taken: Path, data: Path | None, images: int | None, method: RangeMethod | None, skip_damaged: bool
) -> CalibrationRequest:
    """What to calibrate ``taken``, a checkpoint or a graph, on."""
    from googlenet_edge.engines.build import CalibrationRequest

    settings = workspace.read_settings()
    return CalibrationRequest(
        data=named(workspace.take_data(data, settings, taken.parent)),
        images=chosen("--calibration-images", images, settings.calibration_images, 500),
        method=method,
        seed=workspace.split_seed(taken.parent),
        when_damaged=when_damaged(skip_damaged),
    )


def when_damaged(skip: bool) -> WhenDamaged:
    """What becomes of damaged images."""
    return leave_out_damaged if skip else refuse_damaged


def output(result: Any, as_json: bool) -> None:
    """Writes the result as JSON where that was asked for."""
    if as_json:
        write_json(result)
