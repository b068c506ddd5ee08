"""What a Jetson says about itself: module, JetPack, TensorRT, power mode, clocks.

Everything is read below a root, so that a folder of files can stand for a Jetson. What cannot be read is ``None``.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from googlenet_edge.files import text_in
from googlenet_edge.target import Device

ROOT = Path("/")
_TOOL_TIMEOUT_S = 10.0
_MOST_SAID_BYTES = 1 << 16
_MOST_PACKAGES_BYTES = 64 << 20

_TENSORRT = ("tensorrt", "libnvinfer11", "libnvinfer10", "libnvinfer8", "libnvinfer-bin")
_CPU = "sys/devices/system/cpu/cpu0/cpufreq"
_GPU = re.compile(r"gpu|g[mpv]\d+b|ga10b")

_MODULES = {
    "p3448": Device.NANO,
    "p3310": Device.TX2,
    "p3489": Device.TX2,
    "p3636": Device.TX2,
    "p3668": Device.XAVIER_NX,
    "p2888": Device.AGX_XAVIER,
    "p3767-0000": Device.ORIN_NX,
    "p3767-0001": Device.ORIN_NX,
    "p3767-0002": Device.ORIN_NX,
    "p3767-0003": Device.ORIN_NANO,
    "p3767-0004": Device.ORIN_NANO,
    "p3767-0005": Device.ORIN_NANO,
    "p3701": Device.AGX_ORIN,
    "p3834": Device.AGX_THOR,
}
"""The part number of the module in the device tree, whatever board carries it."""

_NAMES = {
    "orin nano": Device.ORIN_NANO,
    "orin nx": Device.ORIN_NX,
    "agx orin": Device.AGX_ORIN,
    "xavier nx": Device.XAVIER_NX,
    "xavier": Device.AGX_XAVIER,
    "jetson-agx": Device.AGX_XAVIER,
    "thor": Device.AGX_THOR,
    "tx2": Device.TX2,
    "nano": Device.NANO,
}
"""Words in the name of the model, for boards whose makers left the part number out; the first that fits."""

_JETPACKS = {
    "32.6": "4.6",
    "32.7": "4.6.1",
    "35.1": "5.0.2",
    "35.2": "5.1",
    "35.3": "5.1.1",
    "35.4": "5.1.2",
    "35.5": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "36.3": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
}
"""The JetPack of a release of Jetson Linux, where the package that names it is not installed."""


@dataclass(frozen=True, slots=True)
class Clock:
    """MHz: at the moment of the look, and the limits within which it may move."""

    now_mhz: int
    low_mhz: int
    high_mhz: int

    def __str__(self) -> str:
        """Such as ``306 to 918 MHz``."""
        return f"{self.high_mhz} MHz" if self.locked else f"{self.low_mhz} to {self.high_mhz} MHz"

    @property
    def locked(self) -> bool:
        """Whether it cannot move, as after ``jetson_clocks``."""
        return self.low_mhz == self.high_mhz


@dataclass(frozen=True, slots=True)
class Jetson:
    """A Jetson and its system; ``None`` stands for what could not be read.

    ``device`` is None for a module that this version does not know. ``l4t`` is the release of Jetson Linux.
    """

    device: Device | None
    model: str | None
    l4t: str | None
    jetpack: str | None
    tensorrt: str | None
    cuda: str | None
    power_mode: str | None
    cpu_clock: Clock | None
    gpu_clock: Clock | None

    def __str__(self) -> str:
        """Which one, with which system, in which power mode."""
        known = {"JetPack": self.jetpack, "TensorRT": self.tensorrt, "power mode": self.power_mode}
        parts = [self.model or "Jetson", *(f"{what} {value or 'not found'}" for what, value in known.items())]
        return ", ".join([*parts, *([f"GPU at {self.gpu_clock}"] if self.gpu_clock else [])])


def read_jetson(root: Path = ROOT) -> Jetson | None:
    """The Jetson whose file system has this root; None where the machine is none."""
    if not is_jetson(root):
        return None
    packages = _packages(root)
    l4t = _l4t(root, packages)
    return Jetson(
        device=detect(root),
        model=text_in(root / "proc/device-tree/model"),
        l4t=l4t,
        jetpack=_upstream(packages.get("nvidia-jetpack")) or _jetpack_of(l4t),
        tensorrt=next((v for name in _TENSORRT if (v := _upstream(packages.get(name)))), None),
        cuda=_cuda(root),
        power_mode=read_power_mode(root),
        cpu_clock=_cpu_clock(root),
        gpu_clock=_gpu_clock(root),
    )


def detect(root: Path = ROOT) -> Device | None:
    """Which Jetson this is; None for another machine, or a module that this version does not know."""
    if not is_jetson(root):
        return None
    tree = _compatible(root)
    for part, device in _MODULES.items():
        if part in tree:
            return device
    model = (text_in(root / "proc/device-tree/model") or "").lower()
    return next((device for name, device in _NAMES.items() if name in model), None)


def read_power_mode(root: Path) -> str | None:
    """``MAXN``, ``15W`` …: from ``nvpmodel -q``, else from its notes of the mode and of what the modes are called."""
    said = run_tool(root / "usr/sbin/nvpmodel", "-q") or ""
    if found := re.search(r"^NV Power Mode: *(\S+)", said, re.MULTILINE):
        return found[1]
    found = re.search(r"pmode:(\d+)", text_in(root / "var/lib/nvpmodel/status") or "")
    if found is None:
        return None
    number = int(found[1])
    return next((name for name, known in power_modes(root).items() if known == number), f"mode {number}")


def power_modes(root: Path) -> dict[str, int]:
    """The numbers of the power modes that this machine has, by their names."""
    found = re.finditer(
        r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text_in(root / "etc/nvpmodel.conf") or "", re.MULTILINE
    )
    return {mode[2]: int(mode[1]) for mode in found}


def run_tool(command: Path, *arguments: str) -> str | None:
    """What one of NVIDIA's tools prints; None where it is missing, fails, or takes longer than 10 seconds."""
    try:
        done = subprocess.run(
            [str(command), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TOOL_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout[:_MOST_SAID_BYTES].decode(errors="replace")


def is_jetson(root: Path = ROOT) -> bool:
    """Whether this is the file system of a Jetson, of whatever kind."""
    return "nvidia,tegra" in _compatible(root) or (root / "etc/nv_tegra_release").is_file()


def clock_files(root: Path) -> dict[str, tuple[Path, float]]:
    """What says how fast the CPU and the GPU are at a moment, and what a unit of it is in MHz."""
    gpu = _gpu(root)
    found = {"CPU clock": (root / _CPU / "scaling_cur_freq", 1e-3)}
    return found | {"GPU clock": (gpu / "cur_freq", 1e-6)} if gpu else found


def _compatible(root: Path) -> str:
    return (text_in(root / "proc/device-tree/compatible") or "").lower()


def _whole(path: Path) -> int | None:
    try:
        return int(text_in(path) or "")
    except ValueError:
        return None


def _packages(root: Path) -> dict[str, str]:
    """The Debian packages that are installed, and their versions."""
    found, name, installed = {}, "", False
    for line in (text_in(root / "var/lib/dpkg/status", limit=_MOST_PACKAGES_BYTES) or "").splitlines():
        if line.startswith("Package: "):
            name, installed = line[9:].strip(), False
        elif line.startswith("Status: "):
            installed = line.endswith(" installed")
        elif installed and line.startswith("Version: "):
            found[name] = line[9:].strip()
    return found


def _upstream(version: str | None) -> str | None:
    """``10.3.0.30-1+cuda12.5`` → ``10.3.0.30``"""
    found = re.match(r"\d+(\.\d+)*", version or "")
    return found[0] if found else None


def _l4t(root: Path, packages: Mapping[str, str]) -> str | None:
    """From ``# R36 (release), REVISION: 4.3, …``, else from the package of Jetson Linux itself."""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text_in(root / "etc/nv_tegra_release") or "")
    return f"{found[1]}.{found[2]}" if found else _upstream(packages.get("nvidia-l4t-core"))


def _jetpack_of(l4t: str | None) -> str | None:
    return next((jetpack for release, jetpack in _JETPACKS.items() if f"{l4t}.".startswith(f"{release}.")), None)


def _cuda(root: Path) -> str | None:
    with suppress(msgspec.MsgspecError, KeyError):
        parts = msgspec.json.decode(text_in(root / "usr/local/cuda/version.json") or "", type=dict[str, msgspec.Raw])
        return msgspec.json.decode(parts["cuda"], type=dict[str, str])["version"]
    found = re.match(r"CUDA Version ([\d.]+)", text_in(root / "usr/local/cuda/version.txt") or "")
    return found[1] if found else None


def _cpu_clock(root: Path) -> Clock | None:
    return _clock(root / _CPU, "scaling_", per_mhz=1000)


def _gpu_clock(root: Path) -> Clock | None:
    gpu = _gpu(root)
    return _clock(gpu, "", per_mhz=1_000_000) if gpu else None


def _gpu(root: Path) -> Path | None:
    """The devfreq device of the GPU: ``57000000.gpu``, ``17000000.gv11b``, ``17000000.ga10b``, ``gpu-gpc-0`` …"""
    gpus = (folder for folder in sorted(root.glob("sys/class/devfreq/*")) if _GPU.search(folder.name))
    return next((gpu for gpu in gpus if _clock(gpu, "", per_mhz=1_000_000)), None)


def _clock(folder: Path, prefix: str, *, per_mhz: int) -> Clock | None:
    now, low, high = (_whole(folder / f"{prefix}{what}_freq") for what in ("cur", "min", "max"))
    if (
        now is None or low is None or high is None or not (0 < low <= high and now >= 0)
    ):  # 0: a GPU that is off meanwhile
        return None
    return Clock(round(now / per_mhz), round(low / per_mhz), round(high / per_mhz))
