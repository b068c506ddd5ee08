"""The circumstances of a measurement. Every reader takes the root of the file system, so that tests can fake it."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from googlenet_edge.engines.jetson import Jetson, read_jetson
from googlenet_edge.files import text_in
from googlenet_edge.processor import usable_cores
from googlenet_edge.statistics import Count, NonNegative

_PACKAGES = ("googlenet-edge", "onnxruntime", "openvino", "numpy", "pillow")
_GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_NVIDIA = "proc/driver/nvidia"
GPU_PACKAGES = frozenset({"onnxruntime-gpu", "nvidia-driver"})
"""Those of `Circumstances.packages` that a machine with an NVIDIA GPU has, and that count only where it computes."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """``None`` stands for what could not be read.

    ``date`` is ISO 8601 in UTC, ``cores`` the processors that this process may use, ``cores_of_others`` how many of
    them other programs took in the mean while it measured. ``jetson`` is None on any other machine. ``gpu`` is all
    NVIDIA GPUs of a PC or a server, such as ``NVIDIA H200``, and ``packages`` has their driver.
    """

    date: str
    cpu_model: str | None
    cores: Count
    governor: str | None
    memory_mb: Count | None
    system: str
    python: str
    packages: dict[str, str | None]
    jetson: Jetson | None = None
    gpu: str | None = None
    cores_of_others: NonNegative | None = None

    @property
    def cpu_clock_is_fixed(self) -> bool:
        """Whether it cannot move, whatever the governor is: after ``jetson_clocks``."""
        clock = self.jetson.cpu_clock if self.jetson else None
        return clock is not None and clock.locked


def read_circumstances(root: Path = Path("/")) -> Circumstances:
    """Those of this moment, on this machine."""
    jetson = read_jetson(root)
    return Circumstances(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cpu_model=_field(root / "proc/cpuinfo", "model name") or text_in(root / "proc/device-tree/model"),
        cores=usable_cores(),
        governor=text_in(root / _GOVERNOR),
        memory_mb=_kibibytes_to_mb(_field(root / "proc/meminfo", "MemTotal")),
        system=platform.platform(),
        python=platform.python_version(),
        packages={name: _version(name) for name in _PACKAGES} | _gpu_packages(root),
        jetson=jetson,
        gpu=None if jetson else _gpus(root),
    )


def _gpus(root: Path) -> str | None:
    """The models of the NVIDIA GPUs that the driver of a PC or a server shows, each once."""
    models = (_field(file, "Model") for file in sorted((root / _NVIDIA / "gpus").glob("*/information")))
    return " and ".join(dict.fromkeys(filter(None, models))) or None


def _nvidia_driver(root: Path) -> str | None:
    """The version of the driver, such as ``580.159.04``."""
    found = re.search(r"\d+\.\d[\d.]*", _field(root / _NVIDIA / "version", "NVRM version") or "")
    return found[0] if found else None


def peak_memory_mb(root: Path = Path("/")) -> int | None:
    """The most resident memory that this process ever had, in units of 10^6 bytes.

    Not from ``getrusage``: its figure survives ``exec``, so a small child would report its large parent.
    """
    return _kibibytes_to_mb(_field(root / "proc/self/status", "VmHWM"))


def _field(path: Path, name: str) -> str | None:
    """The first ``name : value`` of a file of such lines."""
    for line in (text_in(path) or "").splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None


def watch_others(root: Path = Path("/")) -> Callable[[], float | None]:
    """From now on; what it returns says how many cores all others took in the mean since, None where nothing does.

    Others are all but this process and its children, when they have ended; also other guests of a hypervisor.
    """
    began, before = time.monotonic(), _seconds_of_others(root)

    def cores() -> float | None:
        now = _seconds_of_others(root)
        return None if now is None or before is None else max(0.0, now - before) / (time.monotonic() - began)

    return cores


def _seconds_of_others(root: Path) -> float | None:
    """Since the machine started; see proc(5), ``/proc/stat``."""
    found = re.match(r"cpu +(\d+) (\d+) (\d+) \d+ \d+ (\d+) (\d+) (\d+)", text_in(root / "proc/stat") or "")
    ours = sum(os.times()[:4])
    return sum(map(int, found.groups())) / os.sysconf("SC_CLK_TCK") - ours if found else None


def _kibibytes_to_mb(text: str | None) -> int | None:
    return round(int(text.split()[0]) * 1024 / 1e6) if text else None


def _gpu_packages(root: Path) -> dict[str, str | None]:
    """`GPU_PACKAGES`, as far as they are there."""
    found = {"onnxruntime-gpu": _version("onnxruntime-gpu"), "nvidia-driver": _nvidia_driver(root)}
    return {name: version for name, version in found.items() if version}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
