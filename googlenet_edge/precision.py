"""Mixed precision where the processor is made for it."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

import torch

from googlenet_edge.processor import read_processor


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
        ampere = torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0)
        return torch.bfloat16 if ampere else torch.float16  # which torch.cuda.is_bf16_supported() is not about
    return torch.bfloat16 if read_processor().computes_bfloat16 else None
