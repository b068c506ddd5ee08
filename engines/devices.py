"""The known devices: what each can compute, and which TensorRT it may carry. Two tables, the questions to them,
and which device is meant where the machine itself has a say in it.

Sources: JetPack's release notes (versions), NVIDIA's list "CUDA GPUs" (compute capability), TensorRT's support matrix
(INT8 and FP16 by compute capability) and the modules' data sheets (DLA, memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from googlenet_edge.engines.jetson import Jetson, read_jetson
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Device, Precision, Unit

Version = tuple[int, ...]
"""Of TensorRT: major, minor and patch, such as ``(8, 5, 2)``."""

ComputeCapability = tuple[int, int]
"""The generation of an NVIDIA GPU, such as ``(8, 7)``."""

_MIB = 1 << 20
_WITHOUT_INT8 = {(5, 3), (6, 0), (6, 2)}
_WITHOUT_FP16 = {(6, 1)}
_OLDEST_PYTHON = (3, 10)
_OPSET = 17
_OLD_OPSET = 13  # all that TensorRT 8.2 reads
_FIRST_WITH_OPSET: Version = (8, 5)
_FIRST_WITH_BYTES: Version = (8, 5)  # unsigned ones as input


class Platform(Enum):
    """What kind of machine a device is."""

    PROCESSOR = "processor"
    JETSON = "Jetson"
    GPU = "GPU"


@dataclass(frozen=True, slots=True)
class JetPack:
    """A release of NVIDIA's system for Jetsons, and what it brings."""

    name: str
    tensorrt: Version
    python: str

    @property
    def tensorrt_name(self) -> str:
        """Such as ``10.3``."""
        return ".".join(map(str, self.tensorrt))

    @property
    def runs_bundles(self) -> bool:
        """Whether its Python is one that this package runs on; without, there is ``trtexec`` for a bundle's model."""
        return tuple(map(int, self.python.split("."))) >= _OLDEST_PYTHON

    @property
    def opset(self) -> int:
        """The ONNX opset that its TensorRT surely reads."""
        return _OPSET if self.tensorrt >= _FIRST_WITH_OPSET else _OLD_OPSET


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What is known of a device before it is seen.

    ``compute_capability`` is that of its GPU; ``None`` where it has none, or any. ``dla_cores`` and ``memory_gb`` are
    of its variants, the smallest first. ``workspace_bytes`` is what TensorRT may use while it builds; 0 where there is
    no TensorRT. ``jetpacks`` are the systems that run on it, oldest first.
    """

    device: Device
    title: str
    platform: Platform
    compute_capability: ComputeCapability | None
    dla_cores: tuple[int, ...]
    memory_gb: tuple[int, ...]
    workspace_bytes: int
    jetpacks: tuple[JetPack, ...]

    @property
    def name(self) -> str:
        """The word of ``--device``."""
        return self.device.value

    @property
    def int8(self) -> bool:
        """Whether it computes in INT8."""
        return self.compute_capability not in _WITHOUT_INT8

    @property
    def fp16(self) -> bool:
        """Whether FP16 is faster than FP32, or on a processor, smaller."""
        return self.compute_capability not in _WITHOUT_FP16

    @property
    def has_tensorrt(self) -> bool:
        """Whether TensorRT computes on it."""
        return self.platform is not Platform.PROCESSOR

    @property
    def has_dla(self) -> bool:
        """Whether any of its variants has a DLA."""
        return max(self.dla_cores) > 0

    @property
    def takes_pixels(self) -> bool:
        """Whether its newest TensorRT takes unsigned bytes, as bundles' models do."""
        return not self.jetpacks or self.jetpacks[-1].tensorrt >= _FIRST_WITH_BYTES

    @property
    def opset(self) -> int:
        """The ONNX opset that every TensorRT for it reads."""
        return min((jetpack.opset for jetpack in self.jetpacks), default=_OPSET)


def _jetson(  # noqa: PLR0917  (a row of the table below)
    device: Device,
    title: str,
    capability: ComputeCapability,
    dla_cores: tuple[int, ...],
    memory_gb: tuple[int, ...],
    workspace_mib: int,
    *jetpacks: JetPack,
) -> DeviceProfile:
    workspace = workspace_mib * _MIB
    return DeviceProfile(device, title, Platform.JETSON, capability, dla_cores, memory_gb, workspace, jetpacks)


def _other(device: Device, title: str, platform: Platform, workspace_mib: int) -> DeviceProfile:
    return DeviceProfile(device, title, platform, None, (0,), (), workspace_mib * _MIB, ())


# fmt: off
#                name       TensorRT  Python
_46  = JetPack("4.6.1",   (8, 2),   "3.6")
_51  = JetPack("5.1",     (8, 5),   "3.8")
_60  = JetPack("6.0",     (8, 6),   "3.10")
_61  = JetPack("6.1–6.2", (10, 3),  "3.10")
_70  = JetPack("7.0–7.1", (10, 13), "3.12")
_72  = JetPack("7.2",     (10, 16), "3.12")
_722 = JetPack("7.2.2",   (11, 4),  "3.12")

JETPACKS = (_46, _51, _60, _61, _70, _72, _722)

PROFILES = (
    _other(Device.CPU, "a processor", Platform.PROCESSOR, 0),
    #       word of --device   title                 GPU      DLA     GB         MiB  JetPacks
    _jetson(Device.NANO,       "Jetson Nano",        (5, 3),  (0,),   (2, 4),    256, _46),
    _jetson(Device.TX2,        "Jetson TX2",         (6, 2),  (0,),   (4, 8),    512, _46),
    _jetson(Device.XAVIER_NX,  "Jetson Xavier NX",   (7, 2),  (2,),   (8, 16),  1024, _46, _51),
    _jetson(Device.AGX_XAVIER, "Jetson AGX Xavier",  (7, 2),  (2,),   (32, 64), 1024, _46, _51),
    _jetson(Device.ORIN_NANO,  "Jetson Orin Nano",   (8, 7),  (0,),   (4, 8),   1024, _51, _60, _61, _72),
    _jetson(Device.ORIN_NX,    "Jetson Orin NX",     (8, 7),  (1, 2), (8, 16),  1024, _51, _60, _61, _72),
    _jetson(Device.AGX_ORIN,   "Jetson AGX Orin",    (8, 7),  (2,),   (32, 64), 2048, _51, _60, _61, _72, _722),
    _jetson(Device.AGX_THOR,   "Jetson AGX Thor",    (11, 0), (0,),   (128,),   2048, _70, _72, _722),
    _other(Device.CUDA, "any NVIDIA GPU, TensorRT", Platform.GPU, 2048),
    _other(Device.RTX, "any RTX GPU, TensorRT for RTX", Platform.GPU, 2048),
)
# fmt: on

JETSONS = tuple(profile for profile in PROFILES if profile.platform is Platform.JETSON)
JETSON_DEVICES = frozenset(profile.device for profile in JETSONS)
_NAMES = ", ".join(profile.name for profile in JETSONS)
_ELSEWHERE = "measure on one with --host user@address, or here with --device cpu"


def profile_of(device: Device) -> DeviceProfile:
    """The profile of a device. Raises `EngineError` for ``jetson``, which is not one before it is resolved."""
    for profile in PROFILES:
        if profile.device is device:
            return profile
    raise EngineError(f"the device {device.value} can be any Jetson; name it with --device, one of: {_NAMES}")


def jetpack_with(tensorrt: str) -> JetPack | None:
    """The JetPack that brings a version of TensorRT such as ``10.3.0.30``; None where it is not known."""
    return next((jetpack for jetpack in JETPACKS if f"{tensorrt}.".startswith(f"{jetpack.tensorrt_name}.")), None)


def refuse_impossible(profile: DeviceProfile, precision: Precision, unit: Unit = Unit.MAIN) -> None:
    """Refuses what a device cannot have, before anything is built. Raises `EngineError`, which says what it can."""
    if unit is Unit.DLA and not profile.has_dla:
        having = ", ".join(known.name for known in PROFILES if known.has_dla)
        raise EngineError(f"{_the(profile)} has no DLA; build without --dla, or for one of: {having}")
    if unit is Unit.DLA and precision is Precision.FP32:
        raise EngineError("a DLA has no fp32; build with --precision int8 or fp16, or without --dla")
    if precision is Precision.INT8 and not profile.int8:
        capability = ".".join(map(str, profile.compute_capability or ()))
        raise EngineError(f"{_the(profile)} (compute capability {capability}) has no INT8; build with --precision fp16")


def _the(profile: DeviceProfile) -> str:
    return f"the {profile.title}" if profile.platform is Platform.JETSON else f"the device {profile.name}"


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A profile as people and programs list it; ``at_hand`` where this machine is one.

    ``tensorrt`` is by JetPack, ``major.minor``; empty where the device has no JetPack. ``jetpacks`` are those that run
    bundles.
    """

    name: str
    title: str
    platform: Platform
    compute_capability: ComputeCapability | None
    int8: bool
    fp16: bool
    dla_cores: tuple[int, ...]
    memory_gb: tuple[int, ...]
    tensorrt: dict[str, str]
    jetpacks: tuple[str, ...]
    opset: int
    workspace_bytes: int
    at_hand: bool


def known_devices(at_hand: Device | None) -> tuple[KnownDevice, ...]:
    """All profiles. ``at_hand`` is the Jetson that this machine is, if any; it always is a processor."""
    here = {at_hand, Device.CPU}
    return tuple(
        KnownDevice(
            name=profile.name,
            title=profile.title,
            platform=profile.platform,
            compute_capability=profile.compute_capability,
            int8=profile.int8,
            fp16=profile.fp16,
            dla_cores=profile.dla_cores,
            memory_gb=profile.memory_gb,
            tensorrt={jetpack.name: jetpack.tensorrt_name for jetpack in profile.jetpacks},
            jetpacks=tuple(jetpack.name for jetpack in profile.jetpacks if jetpack.runs_bundles),
            opset=profile.opset,
            workspace_bytes=profile.workspace_bytes,
            at_hand=profile.device in here,
        )
        for profile in PROFILES
    )


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


def refuse_without_bundles(path: Path, device: Device) -> None:
    """Raises `EngineError` where no JetPack of a Jetson has a Python that this package runs on."""
    jetpacks = profile_of(device).jetpacks
    if jetpacks and not any(jetpack.runs_bundles for jetpack in jetpacks):
        raise EngineError(
            f"{path} is built for the device {device.value}, whose last JetPack is too old for gnet-edge to compile"
            " plans on it; pack it with gnet-edge package --for deepstream, for trtexec on the device"
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
