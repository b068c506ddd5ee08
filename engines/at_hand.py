"""Which device is meant, where the machine itself has a say in it."""

from __future__ import annotations

from pathlib import Path

from googlenet_edge.engines.devices import JETSON_DEVICES, JETSONS, profile_of
from googlenet_edge.engines.jetson import Jetson, read_jetson
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Device

_NAMES = ", ".join(profile.name for profile in JETSONS)
_ELSEWHERE = "measure on one with --host user@address, or here with --device cpu"


def jetson_to_build_for(*, set_to: Device | None, root: Path) -> Device:
    """What ``--device jetson`` means for a build: the Jetson at hand, else the one that ``gnet-edge.toml`` names.

    Raises:
        EngineError: neither is known.
    """
    here = read_jetson(root)
    if here and here.device:
        return here.device
    if set_to in JETSON_DEVICES:
        return set_to
    if here:
        raise _unknown(here)
    raise EngineError(
        "this machine is no Jetson; name the one to build for, with --device or as device in gnet-edge.toml:"
        f" one of {_NAMES}"
    )


def device_to_measure(wish: Device, *, root: Path) -> Device:
    """The device to measure on, which is this machine. Raises `EngineError` where that is another one."""
    if wish is not Device.JETSON and wish not in JETSON_DEVICES:
        return wish
    here = read_jetson(root)
    if here is None:
        wanted = "Jetson" if wish is Device.JETSON else profile_of(wish).title
        raise EngineError(f"this machine is no {wanted}; {_ELSEWHERE}")
    if here.device is None and wish is Device.JETSON:
        raise _unknown(here)
    if here.device and wish not in {Device.JETSON, here.device}:
        title = profile_of(here.device).title
        raise EngineError(f"this machine is a {title} and no {profile_of(wish).title}; {_ELSEWHERE}")
    return here.device or wish


def _unknown(here: Jetson) -> EngineError:
    name = here.model or "no name can be read"
    return EngineError(f"this version does not know this Jetson ({name}); name the nearest with --device: {_NAMES}")
