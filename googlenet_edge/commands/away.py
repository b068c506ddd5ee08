"""Options and steps of commands that measure on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from googlenet_edge.console import bar, chosen, shown
from googlenet_edge.target import Device
from googlenet_edge.workspace import Settings

if TYPE_CHECKING:
    from googlenet_edge.engines.measurement import Measurement
    from googlenet_edge.engines.remote import Remote
    from googlenet_edge.engines.remote_worker import RemotePlan

_PANEL = "On another machine, through SSH"
_MEGABYTE = 1e6

HostOption = Annotated[
    str | None, typer.Option(rich_help_panel=_PANEL, metavar="USER@ADDRESS", help="Measure there; default: here.")
]
PythonOption = Annotated[
    str | None, typer.Option(rich_help_panel=_PANEL, metavar="PATH", help="Its Python; default: a new environment.")
]
KeepOption = Annotated[bool, typer.Option("--keep", rich_help_panel=_PANEL, help="Keep there what the next run needs.")]


def destination(
    host: str | None, python: str | None, keep: bool, *, device: Device | None, settings: Settings
) -> Remote | None:
    """The machine to measure on, or nothing where that is this one.

    The host of ``gnet-edge.toml`` is for other devices than ``cpu``. Raises `ConfigError` where it is not understood.
    """
    from googlenet_edge.engines.remote import Afterwards, Remote
    from googlenet_edge.engines.ssh import parse_host

    elsewhere = (device or settings.device or Device.CPU) is not Device.CPU
    where = chosen("--host", host, settings.host, "") if host or elsewhere else ""
    if not where:
        if python or keep:
            raise typer.BadParameter("--python and --keep are about another machine: give --host")
        return None
    kept = chosen("--keep", True if keep else None, settings.host_keep, False)
    return Remote(
        parse_host(where),
        chosen("--python", python, settings.host_python, "") or None,
        Afterwards.KEEP if kept else Afterwards.CLEAN,
    )


def device_there(given: Device | None, settings: Settings) -> Device:
    """What the other machine has to be; it looks itself whether it is that."""
    return chosen("--device", given, settings.device, Device.CPU)


def measured_there(paths: Sequence[Path], remote: Remote, *, plan: RemotePlan, image: bytes | None) -> Measurement:
    """Measures over there, and says how much had to be copied."""
    from googlenet_edge.engines.remote import bench_there

    found = bench_there(paths, remote, plan=plan, image=image, bars=bar)
    amount = f"{found.copied_files} files, {found.copied_bytes / _MEGABYTE:.2f} MB"
    shown(f"copied to {remote.host}: {amount if found.copied_files else 'nothing, all was there'}")
    return found.measurement
