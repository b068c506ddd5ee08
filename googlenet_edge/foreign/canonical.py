"""Rewrites somebody else's network into the operators and forms that this package calibrates and lowers.

What has a quantization rule comes out as `export` writes it: convolutions and one fully connected layer with constant
weights and biases, batch normalization folded into them, pools with explicit windows, GlobalAveragePool and Flatten for
the head. What has none is kept as it is. Dropout, Identity and what depends on constants alone is gone.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from googlenet_edge.errors import GraphError, why
from googlenet_edge.foreign.file import Arrays, label
from googlenet_edge.foreign.network import Network, Window, pads_with
from googlenet_edge.graph import INPUT, OUTPUT, attributes_of, live

_SPATIAL = {2, 3}  # the axes of height and width


def rewrite(network: Network) -> tuple[list[NodeProto], Arrays]:
    """The nodes and weights of the same network in canonical form, from `INPUT` to `OUTPUT`.

    A node and the tensor that it makes have one name, unique and without a dot: that of the node in the file.

    Raises:
        GraphError: a convolution or fully connected layer whose weights are not constant, finite float32 that fit.
    """
    rewriter = _Rewriter(network)
    try:
        with np.errstate(all="ignore"):  # what is not finite is named below
            for node in network.nodes:
                rewriter.add(node)
            nodes, weights = rewriter.result()
    except ValueError as problem:
        raise GraphError(f"{network.where} has weights that do not fit ({why(problem)}); export it again") from problem
    for name, value in weights.items():
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise GraphError(
                f"{network.where} has NaN or infinity in {name}: its training failed, or it computes with that; use"
                " another file"
            )
    return nodes, weights


@dataclass
class _Layer:
    """A convolution or a fully connected layer that takes in the scaling after it: float64, rounded at the end.

    ``weight`` is ``(output channels, …)``, ``bias`` is ``(output channels,)``.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def scale_and_shift(self, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
        """What follows is ``scale · y + shift``, both ``(output channels,)``."""
        self.weight = self.weight * scale.reshape(-1, *[1] * (self.weight.ndim - 1))
        self.bias = self.bias * scale + shift


class _Rewriter:
    """Writes the canonical nodes while it walks the network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._readers = Counter([name for node in network.nodes for name in node.input] + [network.output])
        self._taken = {INPUT, OUTPUT, "pixels", "probabilities", "zero_point"}  # what lowered models add
        self._tensor = {network.input: INPUT}  # of every tensor of the file: its name here
        self._nodes: list[NodeProto] = []
        self._layers: dict[str, _Layer] = {}
        self._padded: dict[str, list[int]] = {}  # tensors of the file whose padding is left to what reads them
        self._weights: Arrays = {}

    def add(self, node: NodeProto) -> None:
        """Writes what a node of the file becomes."""
        if not {*node.input, ""} <= {*self._tensor, *self._network.weights, ""}:
            raise self._refused(node, "reads a mask or statistics")
        rule = _RULES.get(node.op_type)
        if not (rule and rule(self, node)):
            self._keep(node)

    def result(self) -> tuple[list[NodeProto], Arrays]:
        """See `rewrite`."""
        last = self._tensor[self._network.output]
        nodes = list(live(self._nodes, {last}))
        for node in nodes:
            if node.name in self._layers:
                self._finish(node)
            node.input[:] = [OUTPUT if name == last else name for name in node.input]
            node.output[:] = [OUTPUT if name == last else name for name in node.output]
        read = {name for node in nodes for name in node.input}
        return nodes, {name: value for name, value in self._weights.items() if name in read}

    def _finish(self, node: NodeProto) -> None:
        layer = self._layers[node.name]
        for part, value in (("weight", layer.weight), ("bias", layer.bias)):
            node.input.append(f"{node.name}.{part}")
            self._weights[f"{node.name}.{part}"] = np.ascontiguousarray(value, np.float32)

    def conv(self, node: NodeProto) -> bool:
        weight = self._constant_weight(node, dimensions=4)
        attributes = attributes_of(node)
        window = Window.of(attributes, kernel=weight.shape[2:])
        self._emit(
            node,
            "Conv",
            kernel_shape=window.kernel,
            strides=window.strides,
            pads=self._pads(node, attributes, window),
            dilations=window.dilations,
            group=attributes.get("group", 1),
        )
        bias = self._weight(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(len(weight))
        self._add_layer(node, weight, bias)
        return True

    def gemm(self, node: NodeProto) -> bool:
        attributes = attributes_of(node)
        weight = self._constant_weight(node, dimensions=2)
        if attributes.get("transA", 0):
            raise self._refused(node, "transposes its input")
        weight = weight.astype(np.float64) * attributes.get("alpha", 1.0)
        weight = weight if attributes.get("transB", 0) else weight.T
        bias = self._weight(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        self._emit(node, "Gemm", transB=1)
        self._add_layer(node, weight, bias.ravel() * attributes.get("beta", 1.0))
        return True

    def matmul(self, node: NodeProto) -> bool:
        if len(self._shape(node)) != 2 or node.input[1] not in self._network.weights:
            return False
        return self.gemm(node)

    def batch_normalization(self, node: NodeProto) -> bool:
        if attributes_of(node).get("training_mode", 0) or any(node.output[1:]):
            raise GraphError(
                f"{self._network.where}: the BatchNormalization {label(node)} is as in training; call model.eval()"
                " before the export"
            )
        return self.affine(node)

    def affine(self, node: NodeProto) -> bool:
        """Scaling and shifting by channel disappears in the layer before it, where nothing else reads that."""
        data, *more = [name for name in node.input if name not in self._network.weights]
        layer = None if more else self._layers.get(self._tensor[data])
        if layer is None or self._readers[data] > 1:
            return False
        constants = [self._weight(name) for name in node.input if name != data]
        found = _scale_and_shift(node, constants, layer.weight.shape)
        if found is None:
            return False
        layer.scale_and_shift(*found)
        self._tensor[node.output[0]] = self._tensor[data]
        return True

    def affine_of_first(self, node: NodeProto) -> bool:
        """The same for an operator where it matters which input is the constant."""
        return node.input[1] in self._network.weights and self.affine(node)

    def relu(self, node: NodeProto) -> bool:
        self._emit(node, "Relu")
        return True

    def max_pool(self, node: NodeProto) -> bool:
        attributes = attributes_of(node)
        window = Window.of(attributes, kernel=attributes["kernel_shape"])
        if len(window.kernel) != 2:
            raise self._refused(node, "is no pooling of images")
        self._emit(
            node,
            "MaxPool",
            kernel_shape=window.kernel,
            strides=window.strides,
            pads=self._pads(node, attributes, window),
            ceil_mode=attributes.get("ceil_mode", 0),
            dilations=window.dilations,
        )
        return True

    def pad(self, node: NodeProto) -> bool:
        """Disappears in the convolution or the pool after it, where that alone reads it and pads with the same."""
        attributes, (data, *given) = attributes_of(node), node.input
        constants = [self._network.weights.get(name) for name in given[:2]]
        pads = np.ravel(constants[0] if constants and constants[0] is not None else attributes.get("pads", ()))
        value = constants[1] if len(constants) > 1 and constants[1] is not None else attributes.get("value", 0.0)
        readers = [reader for reader in self._network.nodes if node.output[0] in reader.input]
        plain = attributes.get("mode", b"constant") == b"constant" and len(given) < 3 and pads.size == 8
        if not plain or pads.min() < 0 or pads[[0, 1, 4, 5]].any() or len(readers) != 1:
            return False
        if not pads_with(readers[0], float(value), padding := pads[[2, 3, 6, 7]].tolist()):
            return False
        self._padded[node.output[0]] = padding
        self._tensor[node.output[0]] = self._tensor[data]
        return True

    def concat(self, node: NodeProto) -> bool:
        constants = [self._network.weights[name] for name in node.input if name in self._network.weights]
        if any(constant.dtype == np.float32 for constant in constants):
            raise self._refused(node, "joins a constant")
        if constants:
            return False  # a shape, which whoever reads it does without
        self._emit(node, "Concat", inputs=node.input, axis=attributes_of(node)["axis"])
        return True

    def average_pool(self, node: NodeProto) -> bool:
        attributes = attributes_of(node)
        whole = tuple(attributes.get("kernel_shape", ())) == self._shape(node)[2:]
        if not whole or any(attributes.get("pads", ())) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            return False
        self._emit(node, "GlobalAveragePool")
        return True

    def reduce_mean(self, node: NodeProto) -> bool:
        attributes = attributes_of(node)
        given = self._network.weights.get(node.input[1]) if len(node.input) > 1 else attributes.get("axes")
        axes = [] if given is None else [int(axis) for axis in np.ravel(given)]
        if len(self._shape(node)) != 4 or {axis % 4 for axis in axes} != _SPATIAL:
            return False
        self._emit(node, "GlobalAveragePool")
        if not attributes.get("keepdims", 1):
            self._emit(node, "Flatten", inputs=node.output, axis=1)
        return True

    def global_average_pool(self, node: NodeProto) -> bool:
        self._emit(node, "GlobalAveragePool")
        return True

    def flatten(self, node: NodeProto) -> bool:
        """Reshape, Squeeze or Flatten that makes one row of each image."""
        before, after = self._shape(node), self._network.shapes.get(node.output[0])
        if after is None or len(before) < 2 or after != (before[0], int(np.prod(before[1:]))):
            return False
        if before == after:
            self._tensor[node.output[0]] = self._tensor[node.input[0]]
        else:
            self._emit(node, "Flatten", axis=1)
        return True

    def _keep(self, node: NodeProto) -> None:
        """The node as it is, its constants named after it."""
        kept = copy.deepcopy(node)
        kept.name = name = self._unique(label(node))
        kept.input[:] = [self._kept_input(source, f"{name}.input{i}") for i, source in enumerate(node.input)]
        kept.output[:] = [name if i == 0 else f"{name}.output{i}" for i in range(len(node.output))]
        self._tensor.update(zip(node.output, kept.output, strict=True))
        self._nodes.append(kept)

    def _kept_input(self, source: str, name: str) -> str:
        if source in self._network.weights:
            self._weights[name] = self._network.weights[source]
            return name
        return self._tensor[source] if source else ""

    def _emit(self, node: NodeProto, kind: str, *, inputs: Iterable[str] | None = None, **attributes: Any) -> None:
        """Writes a node that reads ``inputs``, by default the first of ``node``, and makes the output of ``node``."""
        sources = list(inputs or node.input[:1])
        if any(source in self._network.weights for source in sources):
            raise self._refused(node, "computes on a constant")
        name = self._unique(label(node))
        tensors = [self._tensor[source] for source in sources]
        self._nodes.append(helper.make_node(kind, tensors, [name], name=name, **attributes))
        self._tensor[node.output[0]] = name

    def _add_layer(self, node: NodeProto, weight: NDArray[Any], bias: NDArray[Any]) -> None:
        wide = weight.astype(np.float64)
        self._layers[self._tensor[node.output[0]]] = _Layer(wide, np.broadcast_to(bias.astype(np.float64), len(wide)))

    def _unique(self, name: str) -> str:
        """``name`` with plain characters, and a number where it is taken; without a word that no bundle may hold."""
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "_/:-") else "_" for c in name)
        plain = plain.replace("location", "place")
        unique, number = plain, 1
        while unique in self._taken:
            number += 1
            unique = f"{plain}_{number}"
        self._taken.add(unique)
        return unique

    def _shape(self, node: NodeProto) -> tuple[int, ...]:
        """The shape of what a node reads; empty where it is not known."""
        return self._network.shapes.get(node.input[0], ())

    def _weight(self, name: str) -> NDArray[Any]:
        if name not in self._network.weights:
            raise GraphError(f"{self._network.where} computes the weight {name}; export it with constant weights")
        return self._network.weights[name]

    def _constant_weight(self, node: NodeProto, *, dimensions: int) -> NDArray[Any]:
        weight = self._weight(node.input[1])
        if weight.dtype != np.float32 or weight.ndim != dimensions:
            raise self._refused(node, f"has a weight of {weight.dtype} {weight.shape}")
        return weight

    def _refused(self, node: NodeProto, what: str) -> GraphError:
        return GraphError(
            f"{self._network.where}: the {node.op_type} {label(node)} {what}, which no GoogLeNet does; export it again"
        )

    def _pads(self, node: NodeProto, attributes: dict[str, Any], window: Window) -> list[int]:
        """Where padding is given as a wish, what that is for images of this size; and what a Pad before it pads."""
        before = self._padded.get(node.input[0], [0, 0, 0, 0])
        return [a + b for a, b in zip(before, self._own_pads(node, attributes, window), strict=True)]

    def _own_pads(self, node: NodeProto, attributes: dict[str, Any], window: Window) -> list[int]:
        wish = attributes.get("auto_pad", b"NOTSET")
        if wish in (b"NOTSET", b"VALID"):
            return list(attributes.get("pads", [0, 0, 0, 0])) if wish == b"NOTSET" else [0, 0, 0, 0]
        sides = self._shape(node)[2:]
        if len(sides) != 2:
            raise self._refused(node, "pads images of unknown size")
        return window.pads_for_same_size(sides, extra_first=wish == b"SAME_LOWER")


def _scale_and_shift(
    node: NodeProto, constants: list[NDArray[Any]], weight_shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(scale, shift), both float64 ``(channels,)``, where that is all that a node does to its input; else nothing."""
    channels, dimensions = weight_shape[0], len(weight_shape)
    if node.op_type == "BatchNormalization":
        return _batch_normalization(attributes_of(node), *constants)
    [constant] = constants
    value = _by_channel(constant, channels, dimensions)
    if value is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    match node.op_type:
        case "Mul":
            return value, zero
        case "Add":
            return one, value
        case "Div":
            return one / value, zero
        case _:
            return one, -value


def _batch_normalization(
    attributes: dict[str, Any],
    gamma: NDArray[np.float32],
    beta: NDArray[np.float32],
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + attributes.get("epsilon", 1e-5))
    return scale, beta - mean * scale


def _by_channel(constant: NDArray[Any], channels: int, dimensions: int) -> NDArray[np.float64] | None:
    """float64 ``(channels,)`` of a constant that is the same for every pixel; else nothing."""
    if constant.ndim > dimensions:
        return None
    aligned: NDArray[Any] = constant.reshape([1] * (dimensions - constant.ndim) + list(constant.shape))
    if aligned.size != aligned.shape[1] or aligned.size not in (1, channels):
        return None
    return np.broadcast_to(aligned.ravel().astype(np.float64), channels)


# What each operator becomes; a rule that says False, like an operator without one, leaves the node as it is.
_RULES: dict[str, Callable[[_Rewriter, NodeProto], bool]] = {
    "Conv": _Rewriter.conv,
    "Gemm": _Rewriter.gemm,
    "MatMul": _Rewriter.matmul,
    "BatchNormalization": _Rewriter.batch_normalization,
    "Mul": _Rewriter.affine,
    "Add": _Rewriter.affine,
    "Sub": _Rewriter.affine_of_first,
    "Div": _Rewriter.affine_of_first,
    "Relu": _Rewriter.relu,
    "Pad": _Rewriter.pad,
    "MaxPool": _Rewriter.max_pool,
    "Concat": _Rewriter.concat,
    "AveragePool": _Rewriter.average_pool,
    "ReduceMean": _Rewriter.reduce_mean,
    "GlobalAveragePool": _Rewriter.global_average_pool,
    "Flatten": _Rewriter.flatten,
    "Reshape": _Rewriter.flatten,
    "Squeeze": _Rewriter.flatten,
}
