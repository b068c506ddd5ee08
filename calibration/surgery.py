"""What changing an ONNX graph takes: who makes and who reads a tensor, attributes, and new nodes in place of old."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from googlenet_edge import __version__
from googlenet_edge.errors import LoweringError
from googlenet_edge.graph import attributes_of, live

_HALF_MAX = float(np.finfo(np.float16).max)
_STORAGE = {"DequantizeLinear", "Cast"}  # between a stored weight and its use


class Index:
    """A graph's nodes, constants by name, and who makes and reads a tensor. It does not follow later changes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.constants = {constant.name: constant for constant in graph.initializer}
        self.maker = {output: node for node in self.nodes for output in node.output}
        self.outputs = {output.name for output in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; None where there are others, or the model gives it out."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def stored(self, weight: str) -> onnx.TensorProto | None:
        """The constant that a weight is, or is dequantized or cast from; None where it is shared or computed."""
        maker = self.maker.get(weight)
        if maker is not None and maker.op_type in _STORAGE and self.only_reader(weight):
            weight = maker.input[0]
        return self.constants.get(weight) if self.only_reader(weight) else None

    def array(self, constant: str) -> NDArray[Any]:
        """The value of a constant."""
        return numpy_helper.to_array(self.constants[constant])


def set_attributes(node: onnx.NodeProto, values: dict[str, Any]) -> None:
    """Replaces all attributes of a node."""
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def set_value(constant: onnx.TensorProto, value: NDArray[Any]) -> None:
    """Gives a constant another value, shape and type."""
    constant.CopyFrom(numpy_helper.from_array(value, constant.name))


def is_plain_conv(node: onnx.NodeProto, *, stride: int) -> bool:
    """Whether a node is a dense convolution with one stride."""
    return is_dense_conv(node) and set(attributes_of(node).get("strides", [1])) == {stride}


def is_dense_conv(node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution with explicit padding, no groups and no dilation."""
    found = attributes_of(node)
    dense = found.get("group", 1) == 1 and set(found.get("dilations", [1])) == {1}
    padding_is_explicit = found.get("auto_pad", b"NOTSET") == b"NOTSET"
    return node.op_type == "Conv" and dense and padding_is_explicit


def copy_for_surgery(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the written shapes of inner tensors, which surgery may change."""
    copied = copy.deepcopy(model)
    del copied.graph.value_info[:]
    return copied


def set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto]) -> None:
    """Gives a graph other nodes and more constants, without those whose results nothing reads."""
    outputs = {output.name for output in graph.output}
    kept = live(nodes, outputs)
    needed = outputs.union(*(node.input for node in kept))
    read = [constant for constant in (*graph.initializer, *constants) if constant.name in needed]
    changed = onnx.GraphProto(node=kept, initializer=read)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(changed.node)
    graph.initializer.extend(changed.initializer)


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node with some of its tensors under other names."""
    copied = copy.deepcopy(node)
    copied.input[:] = [names.get(name, name) for name in node.input]
    copied.output[:] = [names.get(name, name) for name in node.output]
    return copied


def cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    """A node that gives ``source`` in another type as ``target``."""
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=kind)


def half(weight: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """A constant in float16 under ``name``. Raises `LoweringError` where it is too large for that."""
    value = numpy_helper.to_array(weight)
    largest = float(np.abs(value).max(initial=0.0))
    if largest > _HALF_MAX:
        raise LoweringError(
            f"the weight {weight.name} reaches {largest:.3g}, float16 ends at {_HALF_MAX:.0f};"
            " build with --precision fp32 or int8"
        )
    return numpy_helper.from_array(value.astype(np.float16), name)


def rounding_pair(tensor: str, grid: Sequence[str]) -> list[onnx.NodeProto]:
    """``tensor`` to its codes and back: ``.quantized``, ``.dequantized``; ``grid`` names scale and zero-point."""
    codes, real = f"{tensor}.quantized", f"{tensor}.dequantized"
    return [
        helper.make_node("QuantizeLinear", [tensor, *grid], [codes], name=f"{tensor}.quantize"),
        helper.make_node("DequantizeLinear", [codes, *grid], [real], name=f"{tensor}.dequantize"),
    ]


def model_like(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """A model with the inputs, outputs and opset of another."""
    graph = model.graph
    return helper.make_model(
        helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), constants),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
        producer_name="googlenet-edge",
        producer_version=__version__,
    )
