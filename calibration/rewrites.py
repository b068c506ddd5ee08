"""Exact rewrites of lowered models: other operators for the same values, which a processor may run faster.

Each is a function of a model, of floats or of codes, and leaves what the model takes and gives as it was. Whether one
is worth it, the machine at hand must say: see `googlenet_edge.engines.trials`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

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


def space_to_depth(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A convolution of stride 2 as one of stride 1 on 12 channels of half the size.

    GoogLeNet's 7×7 kernel becomes one of 4×4, with zeros where a square reaches over it: the sums are the same, and of
    codes the same bits. The 3 channels of an image fill a fraction of a processor's vectors; 12 fill them.

    None where the pixels do not come in whole squares (an odd size), or another convolution reads them.

    Source: Ying et al., "Image Classification at Supercomputer Scale", arXiv 1811.06992.
    """
    changed = copy_for_surgery(model)
    index = Index(changed.graph)
    stem = _find_stem(index)
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


def _find_stem(index: Index) -> _Stem | None:
    """The way from the pixels to the first convolution, where nothing else branches off."""
    planes = index.only_reader(PIXELS)
    if planes is None:
        return None
    per_channel: list[onnx.TensorProto] = []
    node = index.only_reader(planes.output[0])
    while node is not None and node.op_type in _BETWEEN:
        for constant in map(index.constants.get, node.input[1:]):
            if constant is None or not (math.prod(constant.dims) == 1 or list(constant.dims) == [1, 3, 1, 1]):
                return None  # a mean image of a foreign network, say
            if math.prod(constant.dims) > 1:
                per_channel.append(constant)
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


def merge_pointwise(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The first layers of an Inception block's branches as one convolution, with a Split after its ReLU.

    The input is read once, and one large matrix product takes less time than three small ones.

    On codes, the merged convolution has one grid for its output, that of its first branch. The others reach it
    exactly, since a ReLU passes a positive factor on: their scales of weights and biases are multiplied by
    (common / own scale of the output), their codes stay the same, and after the Split they are read with their own
    scale. Only the product of these scales is rounded once more, in its 24th bit: a code differs by one where the
    value was that close to the middle between two.

    None where no tensor is read by two such convolutions.
    """
    changed = copy_for_surgery(model)
    index = Index(changed.graph)
    groups = {group[0].conv.output[0]: group for group in _pointwise_groups(index) if len(group) > 1}
    if not groups:
        return None
    writer = _PointwiseWriter(index)
    replaced = {node.output[0] for group in groups.values() for branch in group for node in branch.nodes}
    for node in index.nodes:
        if node.output[0] in groups:
            writer.merge(groups[node.output[0]])
        elif node.output[0] not in replaced:
            writer.nodes.append(node)
    set_nodes(changed.graph, writer.nodes, writer.constants)
    return changed


@dataclass(frozen=True, slots=True)
class _PointwiseBranch:
    """A 1×1 convolution with its ReLU, and with its quantization where it has one."""

    conv: onnx.NodeProto
    relu: onnx.NodeProto
    quantize: onnx.NodeProto | None
    width: int

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """What a merged convolution takes the place of."""
        return [self.conv, self.relu, *([self.quantize] if self.quantize else [])]


def _pointwise_groups(index: Index) -> list[list[_PointwiseBranch]]:
    """The 1×1 convolutions by what they read, apart where they are not stored and quantized alike."""
    groups: dict[tuple[object, ...], list[_PointwiseBranch]] = {}
    for node in index.nodes:
        if branch := _pointwise_branch(index, node):
            stored = tuple(_stored_by(index, name) for name in node.input[1:])
            zero_point = index.array(branch.quantize.input[2]).item() if branch.quantize else None
            groups.setdefault((node.input[0], stored, zero_point), []).append(branch)
    return list(groups.values())


def _pointwise_branch(index: Index, conv: onnx.NodeProto) -> _PointwiseBranch | None:
    """The branch that a node begins, where it is a 1×1 convolution that can be merged."""
    if not is_plain_conv(conv, stride=1) or any(attributes_of(conv).get("pads", [])) or len(conv.input) != 3:
        return None
    weight, bias = (index.stored(name) for name in conv.input[1:])
    relu = index.only_reader(conv.output[0])
    if weight is None or bias is None or list(weight.dims[2:]) != [1, 1] or relu is None or relu.op_type != "Relu":
        return None
    reader = index.only_reader(relu.output[0])
    quantize = reader if reader is not None and reader.op_type == "QuantizeLinear" else None
    return _PointwiseBranch(conv, relu, quantize, weight.dims[0])


def _stored_by(index: Index, weight: str) -> str | None:
    """The operator that makes a weight from what is stored, if any."""
    maker = index.maker.get(weight)
    return maker.op_type if maker else None


class _PointwiseWriter:
    """Collects the nodes and constants of merged convolutions, among the nodes that stay."""

    def __init__(self, index: Index) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._index = index

    def merge(self, group: Sequence[_PointwiseBranch]) -> None:
        """Weights side by side, one convolution, ReLU and quantization, and a Split into what the branches gave."""
        first, name = group[0], "+".join(branch.conv.name for branch in group)
        factors = self._factors(group)
        parts = [[branch.conv.input[place] for branch in group] for place in (1, 2)]
        weight, bias = (self._joined(p, f"{name}.{w}", factors) for p, w in zip(parts, ("weight", "bias"), strict=True))
        whole = self._node("Conv", [first.conv.input[0], weight, bias], name, **attributes_of(first.conv))
        whole = self._node("Relu", [whole], f"{name}.relu")
        if first.quantize:
            whole = self._node("QuantizeLinear", [whole, *first.quantize.input[1:]], f"{name}.quantized")
        widths = self._constant(f"{name}.widths", np.array([branch.width for branch in group], np.int64))
        outputs = [branch.nodes[-1].output[0] for branch in group]
        self.nodes.append(helper.make_node("Split", [whole, widths], outputs, name=f"{name}.split", axis=1))

    def _factors(self, group: Sequence[_PointwiseBranch]) -> list[float]:
        """What brings every branch to the grid of the first; 1 in float."""
        scales = [float(self._index.array(b.quantize.input[1])) for b in group if b.quantize]
        return [scales[0] / scale for scale in scales] or [1.0] * len(group)

    def _joined(self, parts: Sequence[str], name: str, factors: Sequence[float]) -> str:
        """The weights or biases of all branches as one, stored as they were; the factors go to values or scales."""
        makers = [self._index.maker.get(part) for part in parts]
        if makers[0] is None:
            return self._constant(name, self._concatenated(parts, factors))
        scale_place = 1 if makers[0].op_type == "DequantizeLinear" else 0
        inputs = []
        for place, column in enumerate(zip(*(maker.input for maker in makers if maker), strict=True)):
            scaling = factors if place == scale_place else [1] * len(parts)
            inputs.append(self._constant(f"{name}.{place}", self._concatenated(column, scaling)))
        return self._node(makers[0].op_type, inputs, name, **attributes_of(makers[0]))

    def _concatenated(self, constants: Sequence[str], factors: Sequence[float]) -> NDArray[Any]:
        arrays = [self._index.array(constant) for constant in constants]
        return np.concatenate([(a * f).astype(a.dtype) for a, f in zip(arrays, factors, strict=True)])

    def _node(self, kind: str, inputs: Sequence[str], output: str, **values: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **values))
        return output

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def signed_pixels(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Pixels of zero point 128 as int8 codes of zero point 0: ``pixel - 128``, by way of floats.

    The values are the same to the last bit. OpenVINO (2025 and 2026) computes a convolution in float where its input
    has a zero point, and makes one quantization of the four nodes that are written here. None where the pixels are not
    codes of scale 1 with that zero point.
    """
    changed = copy_for_surgery(model)
    index = Index(changed.graph)
    codes, dequantize = _pixel_codes(index)
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


def _pixel_codes(index: Index) -> tuple[str, onnx.NodeProto | None]:
    """The pixels as the first convolution wants them laid out, and the node that alone reads them, if it fits."""
    codes = PIXELS
    node = index.only_reader(codes)
    while node is not None and node.op_type in _LAYOUT:
        codes = node.output[0]
        node = index.only_reader(codes)
    if node is None or node.op_type != "DequantizeLinear" or len(node.input) != 3:
        return codes, None
    scale, zero_point = node.input[1:]
    fits = (index.array(scale).tolist(), index.array(zero_point).tolist()) == (1.0, _MIDDLE)
    return codes, node if fits else None


_FUNCTIONS = MappingProxyType[Rewrite, Callable[[onnx.ModelProto], onnx.ModelProto | None]](
    {
        Rewrite.SPACE_TO_DEPTH: space_to_depth,
        Rewrite.MERGED_POINTWISE: merge_pointwise,
        Rewrite.SIGNED_PIXELS: signed_pixels,
    }
)
