"""What a model is built for."""

from __future__ import annotations

from enum import Enum


class Device(Enum):
    """What a model is lowered for and runs on: the words of ``--device``.

    ``JETSON`` stands for the Jetson at hand, and is resolved to one of the modules before anything is built, measured
    or written down (`engines.devices`).
    """

    CPU = "cpu"
    JETSON = "jetson"
    NANO = "nano"
    TX2 = "tx2"
    XAVIER_NX = "xavier-nx"
    AGX_XAVIER = "agx-xavier"
    ORIN_NANO = "orin-nano"
    ORIN_NX = "orin-nx"
    AGX_ORIN = "agx-orin"
    AGX_THOR = "agx-thor"
    CUDA = "cuda"
    RTX = "rtx"


class Precision(Enum):
    """The number format of weights and activations."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class EngineName(Enum):
    """A runtime that executes lowered models."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    ONNXRUNTIME_TENSORRT = "onnxruntime-tensorrt"
    """ONNX Runtime's TensorRT provider, for those who have it and not TensorRT's own Python package."""
    ONNXRUNTIME_CUDA = "onnxruntime-cuda"
    """ONNX Runtime's CUDA provider: FP32 and FP16."""
    SIMULATED = "simulated"
    """What TensorRT will compute, by ONNX Runtime on a processor: for accuracy, not for speed."""


class EngineChoice(Enum):
    """What a build may be told: a runtime, or to time all of them on this machine."""

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Recipient(Enum):
    """Whose form a bundle is packed in: `engines.package`."""

    TRITON = "triton"
    DEEPSTREAM = "deepstream"
    DOCKER = "docker"


class Unit(Enum):
    """The part of a device that computes the network."""

    MAIN = "main"
    """The GPU, or where there is none, the processor."""
    DLA = "dla"
    """The accelerator for convolutions beside the GPU of some Jetsons."""
