"""``gnet-edge``: one thin command per verb."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Annotated

import typer

from googlenet_edge.errors import EdgeError

app = typer.Typer(
    name="gnet-edge",
    help="A GoogLeNet, from images to a measured INT8 or FP16 engine on an edge device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def _all() -> None:
    """A GoogLeNet, from images to a measured INT8 or FP16 engine on an edge device."""


@app.command(rich_help_panel="Model")
def train(
    data: Annotated[Path, typer.Option(help="Folder with train/CLASS/* and val/CLASS/*, or CLASS/*.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: runs/NAME of the data.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step, of all processes together.")] = 128,
    learning_rate: Annotated[float | None, typer.Option(help="Peak; default 0.1, or 0.01 with --weights.")] = None,
    crop: Annotated[int, typer.Option(min=32, help="Side of the network's input, pixels.")] = 224,
    resize: Annotated[int | None, typer.Option(min=32, help="Short side before the crop; default crop × 8/7.")] = None,
    min_area: Annotated[float, typer.Option(min=0.05, max=1.0, help="Smallest share of an image a crop keeps.")] = 0.35,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images; not for arrows or letters.")] = True,
    colour: Annotated[float, typer.Option(min=0.0, max=1.0, help="Change of brightness, contrast, saturation.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 2,
) -> None:
    """Train a GoogLeNet with both auxiliary heads. The same command goes on after an interruption.

    Example: gnet-edge train --data photos --epochs 30
    """
    from googlenet_edge.augment import Augmentation
    from googlenet_edge.console import TrainingDisplay, bar, err
    from googlenet_edge.parallel import process_group
    from googlenet_edge.preprocess import Preprocess
    from googlenet_edge.train import TrainRequest
    from googlenet_edge.train import train as run
    from googlenet_edge.training_state import TrainConfig
    from googlenet_edge.workspace import run_folder_for

    config = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate or 0.1,
        augmentation=Augmentation(min_area, flip, colour),
        seed=seed,
    )
    request = TrainRequest(
        data=data,
        folder=out or run_folder_for(data),
        preprocess=Preprocess(resize or round(crop * 8 / 7), crop),
        config=config,
        workers=workers,
    )
    keep_freed_memory()
    with process_group() as rank, TrainingDisplay(visible=rank.first) as display, bar("checking images") as progress:
        path = run(request, observer=display, rank=rank, progress=progress)
    err.print(f"checkpoint: {path}")


def keep_freed_memory() -> None:
    """Has the C library keep freed memory for the next step instead of giving it back to the system (glibc's mallopt).

    Training frees and takes the same large buffers in every step; asking the system for them again costs page faults.
    """
    mmap_max, trim_threshold = -4, -1
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def main() -> None:
    """Runs the command line; an `EdgeError` becomes one line on stderr and exit code 1."""
    try:
        app()
    except EdgeError as problem:
        sys.stderr.write(f"gnet-edge: {problem}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
