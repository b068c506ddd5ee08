"""``gnet-edge``: one thin command per verb."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from googlenet_edge import __version__
from googlenet_edge.commands.engine import bench, build, evaluate, inspect, predict, sensitivity
from googlenet_edge.commands.machine import devices, doctor
from googlenet_edge.commands.model import calibrate, demo, export, finetune, prune, slim, train
from googlenet_edge.commands.report import package, report
from googlenet_edge.console import run_command

VERBS: dict[str, tuple[Callable[..., None], ...]] = {
    "The model": (demo, train, finetune, slim, prune, export),
    "The engine": (calibrate, build, sensitivity, evaluate, predict, inspect, bench),
    "What comes of it": (report, package),
    "The machine": (devices, doctor),
}
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gnet-edge {__version__}")
        raise typer.Exit


@app.callback(context_settings={"help_option_names": ["--help", "-h"]})
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A GoogLeNet, from images to a measured INT8 or FP16 engine on an edge device.

    Start with: gnet-edge demo
    """


for panel, verbs in VERBS.items():
    for verb in verbs:
        app.command("eval" if verb is evaluate else verb.__name__, rich_help_panel=panel)(verb)


def main() -> None:
    """Runs the command line; what a user can mend becomes one line on stderr and exit code 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # stderr has that anyway
    run_command(lambda: app(prog_name="gnet-edge"))


if __name__ == "__main__":
    main()
