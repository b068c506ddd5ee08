"""The first convolution of a lowered model on squares of 2×2 pixels: fewer, larger steps for the same sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from googlenet_edge.calibration.pixels import PIXELS
from googlenet_edge.calibration.surgery import (
    Index,
    copy_for_surgery,
    is_plain_conv,
    set_attributes,
    set_nodes,
    set_value,
)
from googlenet_edge.graph import attributes_of

_BETWEEN = {"Cast", "Sub", "Div", "QuantizeLinear", "DequantizeLinear"}  # the planes of pixels and the convolution


def space_to_depth(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A convolution of stride 2 as one of stride 1 on 12 channels of half the size.

    GoogLeNet's 7×7 kernel becomes one of 4×4, with zeros where a square reaches over it: the sums are the same, and of
    codes the same bits. The 3 channels of an image fill a fraction of a processor's vectors; 12 fill them.

    None where the pixels do not come in whole squares (an odd size), or another convolution reads them.

    Source: Ying et al., "Image Classification at Supercomputer Scale", arXiv 1811.06992.
    """
    changed = copy_for_surgery(model)
    index = Index(changed.graph)
    stem = _find(index)
    height, width = (side.dim_value for side in changed.graph.input[0].type.tensor_type.shape.dim[1:3])
    if stem is None or height % 2 or width % 2:
        return None
    written, kernel = attributes_of(stem.conv), numpy_helper.to_array(stem.weight)
    top, left, bottom, right = written.get("pads", [0] * 4)
    rows, columns = _pairs(height, kernel.shape[2], top, bottom), _pairs(width, kernel.shape[3], left, right)
    squares = _kernel_of_squares(kernel, rows, columns)
    set_value(stem.weight, squares)
    for constant in stem.per_channel:
        set_value(constant, np.tile(numpy_helper.to_array(constant), (1, 4, 1, 1)))
    pads = [rows.before, columns.before, rows.after, columns.after]
    set_attributes(stem.conv, written | {"kernel_shape": squares.shape[2:], "strides": [1, 1], "pads": pads})
    nodes, shapes = _squares_of_pixels(height, width, stem.planes.output[0])
    set_nodes(changed.graph, [*nodes, *(node for node in index.nodes if node is not stem.planes)], shapes)
    return changed


@dataclass(frozen=True, slots=True)
class _Stem:
    """What turns pixels into planes, the convolution of them, its weight, and constants ``(1, 3, 1, 1)`` between."""

    planes: onnx.NodeProto
    conv: onnx.NodeProto
    weight: onnx.TensorProto
    per_channel: list[onnx.TensorProto]


def _find(index: Index) -> _Stem | None:
    """The way from the pixels to the first convolution, where nothing else branches off."""
    planes = index.only_reader(PIXELS)
    if planes is None:
        return None
    per_channel: list[onnx.TensorProto] = []
    node = index.only_reader(planes.output[0])
    while node is not None and node.op_type in _BETWEEN:
        per_channel += [index.constants[name] for name in node.input[1:] if len(index.constants[name].dims) == 4]
        node = index.only_reader(node.output[0])
    if node is None or not is_plain_conv(node, stride=2):
        return None
    weight = index.stored(node.input[1])
    return _Stem(planes, node, weight, per_channel) if weight else None


@dataclass(frozen=True, slots=True)
class _Pairs:
    """One axis in pairs of pixels: zeros that lead and trail the kernel (pixels), and padding (pairs)."""

    lead: int
    trail: int
    before: int
    after: int


def _pairs(size: int, kernel: int, before: int, after: int) -> _Pairs:
    """Output i starts at pixel ``2i - before``: with ``before`` made even by a leading zero, at a whole pair."""
    lead = before % 2
    trail = (lead + kernel) % 2
    outputs = (size + before + after - kernel) // 2 + 1
    pairs_before, taps = (before + lead) // 2, (lead + kernel + trail) // 2
    return _Pairs(lead, trail, pairs_before, outputs - 1 + taps - size // 2 - pairs_before)


def _kernel_of_squares(kernel: NDArray[Any], rows: _Pairs, columns: _Pairs) -> NDArray[Any]:
    """``(out, in, height, width)`` → ``(out, 4 · in, height / 2, width / 2)``, channels by (row, column, channel)."""
    even = np.pad(kernel, ((0, 0), (0, 0), (rows.lead, rows.trail), (columns.lead, columns.trail)))
    out, channels, height, width = even.shape
    squares = even.reshape(out, channels, height // 2, 2, width // 2, 2).transpose(0, 3, 5, 1, 2, 4)
    return np.ascontiguousarray(squares.reshape(out, 4 * channels, height // 2, width // 2))


def _squares_of_pixels(height: int, width: int, planes: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From ``pixels`` to 12 planes of half the size.

    The pixels of a square come together while the channels are still innermost: that copies 6 bytes at a time, and the
    last Transpose cancels with the one that ONNX Runtime puts before its channels-last convolution.
    """
    rows, pairs, squares = f"{PIXELS}.rows", f"{PIXELS}.pairs", f"{PIXELS}.squares"
    nodes = [
        helper.make_node("Reshape", [PIXELS, f"{rows}.shape"], [rows], name=rows),
        helper.make_node("Transpose", [rows], [pairs], name=pairs, perm=[0, 1, 3, 2, 4]),
        helper.make_node("Reshape", [pairs, f"{squares}.shape"], [squares], name=squares),
        helper.make_node("Transpose", [squares], [planes], name=planes, perm=[0, 3, 1, 2]),
    ]
    shapes = {rows: [-1, height // 2, 2, width // 2, 6], squares: [-1, height // 2, width // 2, 12]}
    return nodes, [numpy_helper.from_array(np.array(s, np.int64), f"{name}.shape") for name, s in shapes.items()]
