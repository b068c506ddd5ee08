"""``gnet-edge``: one thin command per verb."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from googlenet_edge import __version__
from googlenet_edge.commands.demo import demo
from googlenet_edge.commands.engine import bench, build, calibrate, evaluate, inspect, predict, sensitivity
from googlenet_edge.commands.model import export, finetune, prune, train
from googlenet_edge.console import run_command

MODEL, ENGINE = "The model", "The engine"
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"gnet-edge {__version__}\n")
        raise typer.Exit


@app.callback()
def _all(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False) -> None:
    """A GoogLeNet, from images to a measured INT8 or FP16 engine on an edge device.

    Start with: gnet-edge demo
    """


for verb in (demo, train, finetune, prune, export):
    app.command(rich_help_panel=MODEL)(verb)
for verb in (calibrate, build, sensitivity, predict, inspect, bench):
    app.command(rich_help_panel=ENGINE)(verb)
app.command("eval", rich_help_panel=ENGINE)(evaluate)


def main() -> None:
    """Runs the command line; what a user can mend becomes one line on stderr and exit code 1."""
    run_command(lambda: app(prog_name="gnet-edge"))


if __name__ == "__main__":
    main()
