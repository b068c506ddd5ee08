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


class EngineName(Enum):
    """A runtime that executes lowered models."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class EngineChoice(Enum):
    """What a build may be told: a runtime, or to time all of them on this machine."""

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
