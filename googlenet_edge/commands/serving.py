"""The command that hands a bundle to somebody else's server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from googlenet_edge import workspace
from googlenet_edge.console import named, shown
from googlenet_edge.target import Recipient


def package(
    bundle: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    recipient: Annotated[Recipient, typer.Option("--for", help="Who is to run it.")] = Recipient.DOCKER,
    out: Annotated[Path | None, typer.Option(help="A new folder; default: BUNDLE-RECIPIENT beside the bundle.")] = None,
) -> None:
    """A bundle as Triton, DeepStream or Docker take it: configuration, labels, model, and the commands to run it.

    Examples:
    gnet-edge package --for docker
    gnet-edge package runs/photos/int8-orin-nano --for deepstream
    """
    from googlenet_edge.engines.package import README, write_package

    path = named(workspace.take_bundle(bundle))
    folder = out or workspace.named_after(path, f"-{recipient.value}")
    packed = write_package(path, recipient, folder)
    for name in sorted(packed.files):
        shown(f"{len(packed.files[name]):>12,} bytes  {name}")
    shown(f"how to run it: {folder / README}")
