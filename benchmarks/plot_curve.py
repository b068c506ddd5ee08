"""Draws the curve of a training from its metrics.jsonl: loss, and top-1 on training and validation images.

Needs Matplotlib, which is not among the packages of this project: python -m pip install matplotlib
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import parser, run, show

from googlenet_edge.errors import ConfigError, DataError
from googlenet_edge.files import new_file
from googlenet_edge.reports import read_lines

INK, TRAIN, VAL = "#444444", "#8fa3b8", "#c2410c"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("metrics", type=Path, help="metrics.jsonl of a run")
    options.add_argument("picture", type=Path, help="the PNG file to write")
    options.add_argument("--title", default="")
    given = options.parse_args()
    lines = read_lines(given.metrics)
    if not lines:
        raise DataError(f"{given.metrics} has no epoch; give the metrics.jsonl that gnet-edge train wrote")
    draw(lines, given.picture, given.title)
    show(f"{given.picture}: {given.picture.stat().st_size / 1e3:.0f} kB")


def draw(lines: list[dict[str, Any]], picture: Path, title: str) -> None:
    """Writes the picture."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (not needed for --help)
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415
    except ImportError as problem:
        raise ConfigError("Matplotlib is not installed; python -m pip install matplotlib") from problem
    epochs = [line["epoch"] for line in lines]
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    figure.suptitle(title, fontsize=10, color=INK)
    accuracy, loss = figure.subplots(1, 2)
    for key, colour, name in (("train_top1", TRAIN, "training, augmented"), ("val_top1", VAL, "validation")):
        accuracy.plot(epochs, [100 * line[key] for line in lines], color=colour, label=name)
    accuracy.legend(frameon=False, fontsize=8, loc="lower right")
    loss.plot(epochs, [line["loss"] for line in lines], color=TRAIN)
    for axes, name in ((accuracy, "top-1, %"), (loss, "training loss, all three heads")):
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        axes.set_xlabel("epoch", fontsize=8, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    with new_file(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    run(main)
