"""Commands about machines: which are known, what this one can do, and how another one is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from googlenet_edge.commands.options import JsonOption, output
from googlenet_edge.console import bar, chosen, named, shown
from googlenet_edge.errors import ConfigError, EngineError, OutputError
from googlenet_edge.target import Device
from googlenet_edge.workspace import Settings, take_bundles

if TYPE_CHECKING:
    from googlenet_edge.engines.measurement import Measurement
    from googlenet_edge.engines.remote import Remote
    from googlenet_edge.engines.remote_worker import RemotePlan
    from googlenet_edge.engines.sustained import SustainedPlan

_PANEL = "On another machine, through SSH"
ROOT = Path("/")
"""Where this machine describes itself: ``proc``, ``sys``, ``etc``."""

DeviceOption = Annotated[
    Device | None,
    typer.Option(metavar="NAME", help="cpu, jetson (the one at hand), or one of gnet-edge devices; default: cpu."),
]


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text)
    if found is None:
        raise typer.BadParameter(f"{text} is no duration; write it as 90s, 10m or 1h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


RoundsOption = Annotated[
    int | None,
    typer.Option(
        min=6, max=5000, help="Rounds of ten runs; default: 20 to 200, until each p50 is known within 0.75 %."
    ),
]
SustainedOption = Annotated[
    float | None,
    typer.Option(parser=_seconds, metavar="DURATION", help="Then infer for so long, such as 10m; default: not."),
]
FpsOption = Annotated[
    float | None, typer.Option(help="With --sustained: a camera's frames a second; default: back to back.")
]
LockOption = Annotated[
    bool, typer.Option("--lock-clocks", help="Hold a Jetson's clocks at their limits meanwhile; needs root.")
]
ModeOption = Annotated[
    str | None, typer.Option(help="Set a Jetson's power mode meanwhile, such as 15W; default: as it is.")
]
HostOption = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_PANEL,
        metavar="USER@ADDRESS",
        help="Measure there; default: host of gnet-edge.toml, else here.",
    ),
]
PythonOption = Annotated[
    str | None, typer.Option(rich_help_panel=_PANEL, metavar="PATH", help="Its Python; default: a new environment.")
]
KeepOption = Annotated[bool, typer.Option("--keep", rich_help_panel=_PANEL, help="Keep there what the next run needs.")]


def device_for_build(given: Device | None, settings: Settings) -> Device:
    """What to build for, after telling which Jetson that is. Raises `EngineError` where it cannot be known."""
    from googlenet_edge.engines.devices import jetson_to_build_for

    wish = chosen("--device", given, settings.device, Device.CPU)
    if wish is not Device.JETSON:
        return wish
    return _told(jetson_to_build_for(set_to=settings.device, root=ROOT))


def device_here(wish: Device) -> Device:
    """What is measured here. Raises `EngineError` where this machine is another."""
    from googlenet_edge.engines.devices import device_to_measure

    device = device_to_measure(wish, root=ROOT)
    return device if device is wish else _told(device)


def bundles_to_measure(given: Sequence[Path], wish: Device, *, on_processor: bool) -> list[Path]:
    """The bundles to measure: where nobody named any, without those for other devices, if that leaves some.

    Raises `ConfigError` where ``wish`` is a GPU that none of them is for.
    """
    from googlenet_edge.engines.bundle import read_manifest

    taken = take_bundles(given)
    if wish in (Device.CUDA, Device.RTX) and wish not in {read_manifest(each.path).device for each in taken}:
        build = f"gnet-edge build --device {wish.value}"
        raise ConfigError(f"no bundle is for the device {wish.value}: leave --device out, or build one with: {build}")
    devices = [(each, read_manifest(each.path).device) for each in taken] if on_processor and not given else []
    here = [each for each, device in devices if device is Device.CPU]
    for each, device in devices:
        if here and device is not Device.CPU:
            shown(f"left out {each.path} (for {device.value}; measure it there, with --host)")
    return [named(each) for each in here or taken]


def sustained_plan(seconds: float | None, fps: float | None) -> SustainedPlan | None:
    """The load that should last, if any. Raises `ConfigError` where it is too short."""
    from googlenet_edge.engines.sustained import SustainedPlan

    if seconds is None:
        if fps is not None:
            raise typer.BadParameter("--fps is about a load that lasts: give --sustained, such as 10m")
        return None
    return SustainedPlan(seconds, fps)


def refuse_cut_short(measurement: Measurement) -> None:
    """Raises `EngineError` where the load ended before its time, after all that was measured was given out."""
    if measurement.cut_short:
        raise EngineError("the load ended before its time, see the warning above; what was measured by then is kept")


def devices(as_json: JsonOption = False) -> None:
    """The devices that can be named with --device, and what each can do.

    Example:
    gnet-edge devices --json
    """
    from googlenet_edge.engines.devices import known_devices
    from googlenet_edge.engines.jetson import detect
    from googlenet_edge.engines.tables import devices_table

    found = known_devices(detect(ROOT))
    shown(devices_table(found))
    output(found, as_json)


def doctor(as_json: JsonOption = False) -> None:
    """What this machine is, what it can build and run, what is missing, and the commands that mend it.

    Example:
    gnet-edge doctor
    """
    from googlenet_edge.engines.doctor import examine
    from googlenet_edge.engines.tables import diagnosis_table

    found = examine(ROOT)
    shown(diagnosis_table(found))
    for finding in found.findings:
        if finding.mend:
            shown(f"mend {finding.topic}: {finding.mend}")
    output(found, as_json)


def _told(device: Device) -> Device:
    from googlenet_edge.engines.devices import profile_of

    shown(f"using --device {device.value} ({profile_of(device).title})")
    return device


def destination(
    host: str | None, python: str | None, keep: bool, *, device: Device | None, settings: Settings
) -> Remote | None:
    """The machine to measure on, or nothing where that is this one.

    The host of ``gnet-edge.toml`` is for other devices than ``cpu``. Raises `ConfigError` where it is not understood.
    """
    from googlenet_edge.engines.remote import Remote
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
        kept,
    )


def keep(out: Path, so_far: Measurement) -> None:
    """Writes what is known within a load that lasts: whatever ends this process, it is there."""
    from googlenet_edge.files import write_json

    with suppress(OutputError):  # said at the end, where it is still so
        write_json(out, so_far)


def measured_there(
    paths: Sequence[Path],
    remote: Remote,
    *,
    plan: RemotePlan,
    image: bytes | None,
    so_far: Callable[[Measurement], None] | None,
) -> Measurement:
    """Measures over there, and says how much had to be copied."""
    from googlenet_edge.engines.remote import bench_there

    found = bench_there(paths, remote, plan=plan, image=image, bars=bar, so_far=so_far)
    amount = f"{found.copied_files} files, {found.copied_bytes / 1e6:.2f} MB"
    shown(f"copied to {remote.host}: {amount if found.copied_files else 'nothing, all was there'}")
    return found.measurement
