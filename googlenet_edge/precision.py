"""Mixed precision where the processor is made for it."""

from __future__ import annotations

import functools
import platform
from contextlib import AbstractContextManager
from pathlib import Path

import torch

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 and Arm, as Linux names them


def autocast(device: torch.device, *, wanted: bool) -> AbstractContextManager[object]:
    """bfloat16 on processors and GPUs that compute in it, float16 on other GPUs, float32 elsewhere or if not wanted."""
    dtype = _reduced_dtype(device.type) if wanted else None
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def gradient_scaler(device: torch.device, *, wanted: bool) -> torch.amp.GradScaler:
    """Loss scaling, which only float16 needs; elsewhere it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=wanted and _reduced_dtype(device.type) is torch.float16)


@functools.cache
def _reduced_dtype(device_type: str) -> torch.dtype | None:
    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if cpu_flags() & BF16_FLAGS else None


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction sets that Linux reports for the first processor; empty where it reports none."""
    if platform.system() != "Linux" or not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            return frozenset(value.split())
    return frozenset()
