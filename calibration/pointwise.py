"""The 1×1 convolutions of a lowered model that read the same tensor, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from googlenet_edge.calibration.surgery import Index, copy_for_surgery, is_plain_conv, set_nodes
from googlenet_edge.graph import attributes_of


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
    groups = {group[0].conv.output[0]: group for group in _groups(index) if len(group) > 1}
    if not groups:
        return None
    writer = _Writer(index)
    replaced = {node.output[0] for group in groups.values() for branch in group for node in branch.nodes}
    for node in index.nodes:
        if node.output[0] in groups:
            writer.merge(groups[node.output[0]])
        elif node.output[0] not in replaced:
            writer.nodes.append(node)
    set_nodes(changed.graph, writer.nodes, writer.constants)
    return changed


@dataclass(frozen=True, slots=True)
class _Branch:
    """A 1×1 convolution with its ReLU, and with its quantization where it has one."""

    conv: onnx.NodeProto
    relu: onnx.NodeProto
    quantize: onnx.NodeProto | None
    width: int

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """What a merged convolution takes the place of."""
        return [self.conv, self.relu, *([self.quantize] if self.quantize else [])]


def _groups(index: Index) -> list[list[_Branch]]:
    """The 1×1 convolutions by what they read, apart where they are not stored and quantized alike."""
    groups: dict[tuple[object, ...], list[_Branch]] = {}
    for node in index.nodes:
        if branch := _branch(index, node):
            stored = tuple(_stored_by(index, name) for name in node.input[1:])
            zero_point = index.array(branch.quantize.input[2]).item() if branch.quantize else None
            groups.setdefault((node.input[0], stored, zero_point), []).append(branch)
    return list(groups.values())


def _branch(index: Index, conv: onnx.NodeProto) -> _Branch | None:
    """The branch that a node begins, where it is a 1×1 convolution that can be merged."""
    if not is_plain_conv(conv, stride=1) or any(attributes_of(conv).get("pads", [])) or len(conv.input) != 3:
        return None
    weight, bias = (index.stored(name) for name in conv.input[1:])
    relu = index.only_reader(conv.output[0])
    if weight is None or bias is None or list(weight.dims[2:]) != [1, 1] or relu is None or relu.op_type != "Relu":
        return None
    reader = index.only_reader(relu.output[0])
    quantize = reader if reader is not None and reader.op_type == "QuantizeLinear" else None
    return _Branch(conv, relu, quantize, weight.dims[0])


def _stored_by(index: Index, weight: str) -> str | None:
    """The operator that makes a weight from what is stored, if any."""
    maker = index.maker.get(weight)
    return maker.op_type if maker else None


class _Writer:
    """Collects the nodes and constants of merged convolutions, among the nodes that stay."""

    def __init__(self, index: Index) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._index = index

    def merge(self, group: Sequence[_Branch]) -> None:
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

    def _factors(self, group: Sequence[_Branch]) -> list[float]:
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
