"""Exact rewrites of lowered models: other operators for the same values, which a processor may run faster.

Each is a function of a model, of floats or of codes, and leaves what the model takes and gives as it was. Whether one
is worth it, the machine at hand must say: see `googlenet_edge.engines.rewriting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from googlenet_edge.calibration.pixels import PIXELS
from googlenet_edge.calibration.pointwise import merge_pointwise
from googlenet_edge.calibration.stem import space_to_depth
from googlenet_edge.calibration.surgery import Index, copy_for_surgery, set_nodes, set_value

_MIDDLE = 128
_LAYOUT = {"Transpose", "Reshape"}


class Rewrite(Enum):
    """The known rewrites."""

    SPACE_TO_DEPTH = "space-to-depth"
    MERGED_POINTWISE = "merged-1x1"
    SIGNED_PIXELS = "signed-pixels"


def rewrite(model: onnx.ModelProto, rewrites: Iterable[Rewrite]) -> onnx.ModelProto | None:
    """A model after some rewrites; None where one of them finds nothing to do."""
    rewritten: onnx.ModelProto | None = model
    for each in rewrites:
        rewritten = _FUNCTIONS[each](rewritten) if rewritten is not None else None
    return rewritten


def signed_pixels(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Pixels of zero point 128 as int8 codes of zero point 0: ``pixel - 128``, by way of floats.

    The values are the same to the last bit. OpenVINO (2025 and 2026) computes a convolution in float where its input
    has a zero point, and makes one quantization of the four nodes that are written here. None where the pixels are not
    codes of scale 1 with that zero point.
    """
    changed = copy_for_surgery(model)
    index = Index(changed.graph)
    codes, dequantize = _codes(index)
    if dequantize is None:
        return None
    scale, zero_point = dequantize.input[1:]
    real, centred, signed, middle = (f"{PIXELS}.{name}" for name in ("real", "centred", "signed", "middle"))
    set_value(index.constants[zero_point], np.array(0, np.int8))
    dequantize.input[0] = signed
    nodes = [
        helper.make_node("Cast", [codes], [real], name=real, to=TensorProto.FLOAT),
        helper.make_node("Sub", [real, middle], [centred], name=centred),
        helper.make_node("QuantizeLinear", [centred, scale, zero_point], [signed], name=signed),
    ]
    constant = numpy_helper.from_array(np.array(_MIDDLE, np.float32), middle)
    place = index.nodes.index(dequantize)
    set_nodes(changed.graph, [*index.nodes[:place], *nodes, *index.nodes[place:]], [constant])
    return changed


def _codes(index: Index) -> tuple[str, onnx.NodeProto | None]:
    """The pixels as the first convolution wants them laid out, and the node that alone reads them, if it fits."""
    codes = PIXELS
    node = index.only_reader(codes)
    while node is not None and node.op_type in _LAYOUT:
        codes = node.output[0]
        node = index.only_reader(codes)
    if node is None or node.op_type != "DequantizeLinear" or len(node.input) != 3:
        return codes, None
    scale, zero_point = node.input[1:]
    own = {scale, zero_point} <= index.constants.keys() and index.only_reader(zero_point) is node
    fits = own and (index.array(scale).tolist(), index.array(zero_point).tolist()) == (1.0, _MIDDLE)
    return codes, node if fits else None


_FUNCTIONS = MappingProxyType[Rewrite, Callable[[onnx.ModelProto], onnx.ModelProto | None]](
    {
        Rewrite.SPACE_TO_DEPTH: space_to_depth,
        Rewrite.MERGED_POINTWISE: merge_pointwise,
        Rewrite.SIGNED_PIXELS: signed_pixels,
    }
)
