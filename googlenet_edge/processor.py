"""What the processor's instructions are good for, as Linux reports them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
_X86, _ARM = "flags", "features"  # the line that lists instruction sets
_VNNI = {"avx512_vnni", "avx_vnni"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True, slots=True)
class Processor:
    """The instruction sets of the first processor; none where they cannot be read."""

    x86: bool
    instructions: frozenset[str]

    @property
    def saturates_u8s8(self) -> bool:
        """Whether two products of u8 and s8 are added in 16 bits, which overflow with 8-bit weights: x86 without VNNI.

        Source: ONNX Runtime, "Quantize ONNX models", "When and why do I need to try U8U8?".
        """
        return self.x86 and not self.instructions & _VNNI

    @property
    def has_int8_tiles(self) -> bool:
        """Whether it multiplies matrices of 8-bit integers tile by tile (Intel AMX)."""
        return "amx_int8" in self.instructions

    @property
    def has_bfloat16_tiles(self) -> bool:
        """The same of bfloat16."""
        return "amx_bf16" in self.instructions

    @property
    def computes_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 in hardware."""
        return bool(self.instructions & _BFLOAT16)


def usable_cores(quota: Path = QUOTA) -> int:
    """The cores that this process may use now, where the system tells; else all.

    As many as ``quota``, the processor time of a container (cgroup v2), fills: more threads would wait for each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = map(int, quota.read_text().split())
        return min(cores, max(1, math.ceil(most / period)))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup, or "max"
        return cores


def read_processor(cpuinfo: Path = CPUINFO) -> Processor:
    """The processor that ``cpuinfo`` describes."""
    text = cpuinfo.read_text(errors="replace") if cpuinfo.is_file() else ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in {_X86, _ARM}:
            return Processor(name.strip().lower() == _X86, frozenset(value.split()))
    return Processor(x86=False, instructions=frozenset())
