"""The calibration cache of TensorRT 8 to 10, from our table: INT8 there without a GPU, and without images.

A DLA up to TensorRT 10 takes no explicit pairs; it quantizes a float graph by the scales that a calibrator left in a
cache. The format, as TensorRT writes it and as its readers (Polygraphy, Model Optimizer) take it apart::

    TRT-8502-EntropyCalibration2
    images: 3c010a14

A line is a tensor and eight hexadecimal digits: the big-endian float32 of ``amax / 127``. A region of the network with
a tensor that is missing falls back to float16; the network's outputs must be missing, or the logits are cut to 8 bits.
"""

from __future__ import annotations

import struct

import onnx

from googlenet_edge.calibration.lower import rescaled_by
from googlenet_edge.calibration.pixels import PIXELS
from googlenet_edge.calibration.placement import absorbed_in_relu, data_inputs, grids
from googlenet_edge.calibration.ranges import S8_STEPS
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.tensorrt_version import Version, cache_header

_LARGEST_PIXEL = 255.0
_COPIES = ("Flatten", "Cast", "Reshape")


def calibration_cache(
    graph: InferenceGraph, table: CalibrationTable, lowered: onnx.ModelProto, *, version: Version
) -> bytes:
    """The file that a calibrator hands to TensorRT for the model that `lower_implicit_tensorrt` made.

    Args:
        version: of the TensorRT that will read it, such as ``(8, 5, 2)``.

    Raises:
        CalibrationError: the table belongs to another graph or lacks a tensor, or this TensorRT reads no cache.
    """
    lines = [cache_header(version)]
    for tensor, scale in tensor_scales(graph, table, lowered).items():
        lines.append(f"{tensor}: {struct.pack('>f', scale).hex()}")
    return "".join(f"{line}\n" for line in lines).encode()


def tensor_scales(graph: InferenceGraph, table: CalibrationTable, lowered: onnx.ModelProto) -> dict[str, float]:
    """The scale of every tensor of a lowered float model but its outputs, and what only an output copies.

    What a Concat joins gets one scale, the largest of its inputs: a DLA copies codes there. A convolution that a ReLU
    absorbs has the ReLU's.

    Raises:
        CalibrationError: the table belongs to another graph, or has no range for one of its tensors.
    """
    source = rescaled_by(graph, table).model.graph
    known = {name: tensor.amax for name, tensor in table.tensors.items()} | _joined(source, table)
    grid_of = grids(source)
    missing = sorted(set(grid_of.values()) - known.keys())
    if missing:
        raise CalibrationError(f"the calibration table has no range for {missing[0]}; calibrate again")
    largest = _of_pixels(graph) | {tensor: known[name] for tensor, name in grid_of.items()}
    largest |= {inner: largest[outer] for inner, outer in absorbed_in_relu(source).items() if outer in largest}
    inner = [t for node in lowered.graph.node for t in node.output if t not in _outputs(lowered.graph)]
    return {tensor: largest[tensor] / S8_STEPS for tensor in [PIXELS, *inner] if tensor in largest}


def _joined(graph: onnx.GraphProto, table: CalibrationTable) -> dict[str, float]:
    """The largest absolute value of each Concat's output: that of its inputs."""
    concats = [node for node in graph.node if node.op_type == "Concat"]
    measured = {
        node.output[0]: [table.tensors[t].amax for t in data_inputs(node) if t in table.tensors] for node in concats
    }
    return {output: max(inputs) for output, inputs in measured.items() if inputs}


def _of_pixels(graph: InferenceGraph) -> dict[str, float]:
    """The largest absolute values before the network, of the tensors of `pixels.taking_pixels_cast_first`."""
    centred = max(max(mean, _LARGEST_PIXEL - mean) for mean in graph.preprocess.mean)
    raw = dict.fromkeys((PIXELS, f"{PIXELS}.real", f"{PIXELS}.planes"), _LARGEST_PIXEL)
    return raw | {f"{PIXELS}.centred": centred}


def _outputs(graph: onnx.GraphProto) -> set[str]:
    """The outputs, and what reaches them unchanged."""
    found = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if node.op_type in _COPIES and node.output[0] in found:
            found.update(node.input[:1])
    return found
