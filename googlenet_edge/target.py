"""What a model is built for."""

from __future__ import annotations

from enum import Enum


class Device(Enum):
    """What a model is lowered for and runs on."""

    CPU = "cpu"
    JETSON = "jetson"


class Precision(Enum):
    """The number format of weights and activations."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
