"""Bundles small enough to see through: a network that answers with the mean of each colour channel."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx.external_data_helper
import onnx.numpy_helper
import onnx.parser
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_graph import table_of, tiny_pixels, whole_googlenet

from googlenet_edge.calibration.lower import lower_fp16_storage, lower_fp32, lower_int8_cpu
from googlenet_edge.calibration.weights import WeightRange
from googlenet_edge.engines.bundle import Bundle, Golden, Lineage, Manifest, write_bundle
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.registry import backend_for
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, EngineName, Precision

COLOURS = ("red", "green", "blue")
PREPROCESS = Preprocess(resize=36, crop=32)

# The mean of a channel, 0…255, becomes a logit of -4…4: an all-red image gives (4, -4, -4).
COLOUR_NET = """
<ir_version: 8, opset_import: ["" : 17]>
colours (uint8[N, 32, 32, 3] pixels) => (float[N, 3] logits)
<
    float[3, 3, 1, 1] conv_weight = {1, 0, 0,  0, 1, 0,  0, 0, 1},
    float[3, 3] fc_weight = {0.031372549, 0, 0,  0, 0.031372549, 0,  0, 0, 0.031372549},
    float[3] fc_bias = {-4, -4, -4}
>
{
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    images = Cast <to = 1> (planes)
    conv = Conv (images, conv_weight)
    pooled = GlobalAveragePool (conv)
    flat = Flatten (pooled)
    logits = Gemm <transB = 1> (flat, fc_weight, fc_bias)
}
"""


def onnx_bytes(text: str) -> bytes:
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def with_weights_elsewhere(model: bytes, place: str) -> bytes:
    """The model with its first weights moved into a file beside wherever it is read, or at another place."""
    moved = onnx.load_model_from_string(model)
    weights = moved.graph.initializer[0]
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights), weights.name))
    onnx.external_data_helper.set_external_data(weights, place)
    Path(place).write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    return moved.SerializeToString()


def solid(colour: str | tuple[int, int, int], size: tuple[int, int] = (48, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


def golden_of(model: bytes, *, count: int = 2) -> Golden:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    pixels[0, :, :, 0] = 255
    with backend_for(Device.CPU).open(model, EngineOptions()) as engine:
        return Golden(pixels, engine.run(pixels))


def colour_bundle(precision: Precision = Precision.FP32, *, engine: EngineName = EngineName.ONNXRUNTIME) -> Bundle:
    model = onnx_bytes(COLOUR_NET)
    lineage = Lineage(checkpoint="a" * 64, graph="b" * 64)
    manifest = Manifest(precision, Device.CPU, PREPROCESS, lineage, engine=engine)
    return Bundle(manifest, COLOURS, model, golden_of(model))


def with_golden_logits(bundle: Bundle, logits: NDArray[np.float32]) -> Bundle:
    return replace(bundle, golden=Golden(bundle.golden.pixels, logits.astype(np.float32)))


def write_colour_bundle(
    path: Path, precision: Precision = Precision.FP32, *, engine: EngineName = EngineName.ONNXRUNTIME
) -> Path:
    write_bundle(path, colour_bundle(precision, engine=engine))
    return path


def hide_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed."""
    monkeypatch.delitem(sys.modules, "googlenet_edge.engines.openvino_cpu", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)


def whole_bundle(path: Path, kind: str) -> Path:
    """GoogLeNet with random weights, as a build lowers it."""
    graph = whole_googlenet()
    table = table_of(graph)
    precision, model, bits = {
        "fp32": lambda: (Precision.FP32, lower_fp32(graph), 8),
        "fp16": lambda: (Precision.FP16, lower_fp16_storage(graph), 8),
        "int8": lambda: (Precision.INT8, lower_int8_cpu(graph, table, weight_range=WeightRange.FULL), 8),
        "int8 in 7 bits": lambda: (Precision.INT8, lower_int8_cpu(graph, table, weight_range=WeightRange.REDUCED), 7),
    }[kind]()
    data, pixels = model.SerializeToString(deterministic=True), tiny_pixels(2, crop=64)
    with backend_for(Device.CPU).open(data, EngineOptions(weight_bits=bits)) as engine:
        golden = Golden(pixels, engine.run(pixels))
    manifest = Manifest(precision, Device.CPU, graph.preprocess, weight_bits=bits)
    write_bundle(path, Bundle(manifest, graph.class_names, data, golden))
    return path
