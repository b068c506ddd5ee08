"""The calibration cache of TensorRT 8 to 10, from our table: INT8 there without a GPU, and without images.

A DLA up to TensorRT 10.7 takes no explicit pairs; it quantizes a float graph by the scales that a calibrator left in a
cache. The format, as TensorRT writes it and as its readers (Polygraphy, Model Optimizer) take it apart::

    TRT-8502-EntropyCalibration2
    images: 3c010a14

A line is a tensor and eight hexadecimal digits: the big-endian float32 of ``amax / 127``. A region of the network with
a tensor that is missing falls back to float16; the network's outputs must be missing, or the logits are cut to 8 bits.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Set as AbstractSet

import numpy as np
import onnx
from onnx import numpy_helper

from googlenet_edge.calibration.lower import fitting, rescaled_by
from googlenet_edge.calibration.placement import NO_NODES, WITH_WEIGHTS, absorbed_in_relu, data_inputs, grids, sources
from googlenet_edge.calibration.ranges import S8_STEPS
from googlenet_edge.calibration.surgery import model_like, renamed, rounding_pair
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.calibration.weights import quantize_per_channel
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import InferenceGraph

_HEADER = "TRT-8502-EntropyCalibration2"
"""Of TensorRT 8.5.2; what builds a plan puts its own version there."""
_COPIES = ("Flatten", "Cast", "Reshape")


def calibration_cache(
    graph: InferenceGraph,
    table: CalibrationTable,
    lowered: onnx.ModelProto,
    *,
    float_nodes: AbstractSet[str] = NO_NODES,
) -> bytes:
    """The file that a calibrator hands to TensorRT for the model that `lower_implicit_tensorrt` made.

    Args:
        float_nodes: names of convolutions that stay float: what only they read gets no scale.

    Raises:
        CalibrationError: the table belongs to another graph or lacks a tensor.
    """
    lines = [_HEADER]
    for tensor, scale in tensor_scales(graph, table, lowered, float_nodes=float_nodes).items():
        lines.append(f"{tensor}: {struct.pack('>f', scale).hex()}")
    return "".join(f"{line}\n" for line in lines).encode()


def scales_in(cache: bytes) -> dict[str, float]:
    """The scale of every tensor in a cache. Raises `CalibrationError` for a line that is none."""
    found = dict[str, float]()
    for number, line in enumerate(cache.splitlines()[1:], start=2):
        try:
            name, scale = _tensor_and_scale(line)
        except (ValueError, struct.error) as problem:
            raise CalibrationError(
                f"line {number} of the calibration cache is no tensor with a scale ({problem}); build the bundle again"
            ) from problem
        if scale:  # TensorRT writes zero for a tensor that was always zero
            found[name] = scale
    return found


def without_outputs(model: bytes, cache: bytes) -> bytes:
    """A cache as TensorRT writes it, with a scale for every tensor, less those of the model's outputs."""
    outputs = {name.encode() for name in _outputs(onnx.load_model_from_string(model).graph)}
    return b"".join(line for line in cache.splitlines(True) if line.rpartition(b": ")[0] not in outputs)


def _tensor_and_scale(line: bytes) -> tuple[str, float]:
    name, _, digits = line.rpartition(b": ")
    (scale,) = struct.unpack(">f", bytes.fromhex(digits.decode("ascii")))
    if not (name and math.isfinite(scale) and scale >= 0):
        raise ValueError(f"{scale} for {name.decode()!r}")
    return name.decode(), scale


def simulating_bytes(model: bytes, cache: bytes) -> bytes:
    """`simulating_cache` from file to file."""
    return simulating_cache(onnx.load_model_from_string(model), cache).SerializeToString(deterministic=True)


def simulating_cache(model: onnx.ModelProto, cache: bytes) -> onnx.ModelProto:
    """What TensorRT may make of a float model and a cache, at its coarsest, with explicit pairs.

    Every tensor that a node writes and that has a scale is rounded to it. Where a convolution reads and writes such
    tensors, it computes in INT8: its weights are rounded, a scale for each output channel.

    Raises:
        CalibrationError: see `scales_in`.
    """
    scales = scales_in(cache)
    nodes, constants = list[onnx.NodeProto](), {w.name: w for w in model.graph.initializer}
    zero = numpy_helper.from_array(np.zeros((), np.int8), "cache.zero_point")
    rounded = {t: f"{t}.dequantized" for node in model.graph.node for t in node.output if t in scales}
    for node in model.graph.node:
        if node.op_type in WITH_WEIGHTS and {node.input[0], node.output[0]} <= rounded.keys():
            codes, steps = quantize_per_channel(numpy_helper.to_array(constants[node.input[1]]))
            weight = codes * steps.reshape(-1, *[1] * (codes.ndim - 1))
            constants[node.input[1]] = numpy_helper.from_array(weight.astype(np.float32), node.input[1])
        nodes.append(renamed(node, {t: rounded[t] for t in node.input if t in rounded}))
        for tensor in node.output:
            if tensor in rounded:
                grid = [f"{tensor}.scale", zero.name]
                constants[grid[0]] = numpy_helper.from_array(np.float32(scales[tensor]), grid[0])
                nodes += rounding_pair(tensor, grid)
    return model_like(model, nodes, [*constants.values(), zero])


def tensor_scales(
    graph: InferenceGraph,
    table: CalibrationTable,
    lowered: onnx.ModelProto,
    *,
    float_nodes: AbstractSet[str] = NO_NODES,
) -> dict[str, float]:
    """The scale of every tensor of a lowered float model from its images on, but its outputs, and what these copy.

    Before the images there are whole pixels, which a scale would round, and the GPU computes there in any case.

    What a Concat joins gets one scale, the largest of its inputs: a DLA copies codes there (but for a MaxPool, which
    has its input's). A convolution that a ReLU absorbs has the ReLU's, and the average of a pool that of its input: a
    DLA takes no other (NvInfer.h, `IPoolingLayer`).

    Raises:
        CalibrationError: the table belongs to another graph, or has no range for one of its tensors.
    """
    source = rescaled_by(graph, table).model.graph
    known = {name: tensor.amax for name, tensor in table.tensors.items()} | _joined(source, table)
    grid_of = grids(source, float_nodes)
    with fitting():
        largest = {tensor: known[name] for tensor, name in grid_of.items()}
    largest |= {inner: largest[outer] for inner, outer in absorbed_in_relu(source).items() if outer in largest}
    for node in lowered.graph.node:
        if node.op_type == "AveragePool" and {node.input[0], node.output[0]} <= largest.keys():
            largest[node.output[0]] = largest[node.input[0]]
    inner = [t for node in lowered.graph.node for t in node.output if t not in _outputs(lowered.graph)]
    return {tensor: largest[tensor] / S8_STEPS for tensor in inner if tensor in largest}


def _joined(graph: onnx.GraphProto, table: CalibrationTable) -> dict[str, float]:
    """The largest absolute value of each Concat's output: that of its inputs, where all of them were measured."""
    origin, found = sources(graph), dict[str, float]()
    for node in graph.node:
        inputs = [origin.get(tensor) for tensor in data_inputs(node)]
        if node.op_type == "Concat" and table.tensors.keys() >= set(inputs):
            found[node.output[0]] = max(found.get(t, table.tensors[t].amax) for t in inputs if t)
    return found


def _outputs(graph: onnx.GraphProto) -> set[str]:
    """The outputs, and what reaches them unchanged."""
    found = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if node.op_type in _COPIES and node.output[0] in found:
            found.update(node.input[:1])
    return found
