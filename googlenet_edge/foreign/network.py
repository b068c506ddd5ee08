"""A foreign network in memory, without what does nothing: Dropout, Identity, and what depends on constants alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from googlenet_edge.errors import GraphError
from googlenet_edge.foreign.file import NO_OPERATION, Arrays, ForeignFile, open_session, run_session
from googlenet_edge.graph import attributes_of, live

_BELOW_ALL = -1e4  # what a maximum is padded with so that it does not count; infinity, or what somebody takes for it


@dataclass(frozen=True)
class Network:
    """A foreign network up to its logits; ``where`` names its file in messages.

    ``nodes`` are in the order of computation, ``weights`` are all constants, ``shapes`` are those that are known.
    """

    nodes: tuple[NodeProto, ...]
    weights: Arrays
    shapes: dict[str, tuple[int, ...]]
    input: str
    output: str
    where: str


def read_network(file: ForeignFile) -> Network:
    """The network of a file up to its logits.

    Raises:
        GraphError: its images are not looked at.
    """
    weights = {w.name: numpy_helper.to_array(w) for w in file.model.graph.initializer}
    weights |= file.constants
    same: dict[str, str] = {}
    nodes = []
    for original in file.model.graph.node:
        if not original.output or original.output[0] in weights:
            continue
        node = NodeProto()
        node.CopyFrom(original)
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type in NO_OPERATION:
            same[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    output = same.get(file.logits, file.logits)
    network = Network(live(nodes, {output}), weights, file.shapes, file.input, output, str(file.path))
    if not any(file.input in node.input for node in network.nodes):
        raise GraphError(f"{file.path} gives scores that do not depend on the images; export it again")
    return network


@dataclass(frozen=True)
class Window:
    """What a convolution or a pool sees at once, ``[height, width]`` each."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]

    @staticmethod
    def of(attributes: dict[str, Any], *, kernel: Sequence[int]) -> Window:
        """As a node's attributes say."""
        ones = [1] * len(kernel)
        return Window(list(kernel), list(attributes.get("strides", ones)), list(attributes.get("dilations", ones)))

    def pads_for_same_size(self, sides: Sequence[int], *, extra_first: bool) -> list[int]:
        """``[top, left, bottom, right]`` for an output of ``ceil(side / stride)``."""
        totals = [
            max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
            for side, kernel, stride, dilation in zip(sides, self.kernel, self.strides, self.dilations, strict=True)
        ]
        first = [(total + extra_first) // 2 for total in totals]
        return first + [total - before for total, before in zip(totals, first, strict=True)]


def pads_with(node: NodeProto, value: float, padding: Sequence[int]) -> bool:
    """Whether a node pads with that value, too, and may pad by so much more."""
    attributes = attributes_of(node)
    if node.op_type == "Conv":
        return value == 0
    if node.op_type != "MaxPool" or value > _BELOW_ALL or attributes.get("ceil_mode", 0):
        return False
    own = attributes.get("pads", [0, 0, 0, 0])
    return all(a + b < kernel for a, b, kernel in zip(padding, own, [*attributes["kernel_shape"]] * 2, strict=True))


class Original:
    """A file up to one of its tensors, run on one image after the other."""

    def __init__(self, file: ForeignFile, tensor: str) -> None:
        """Loads the file. Raises `GraphError`."""
        model = onnx.ModelProto()
        model.CopyFrom(file.model)
        del model.graph.output[:]
        model.graph.output.append(onnx.ValueInfoProto(name=tensor))
        self._file, self._tensor = file, tensor
        self._session = open_session(model, str(file.path))

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the tensor is: float32 ``(N, 3, crop, crop)`` → float64 ``(N, …)``. Raises `GraphError`."""
        rows = []
        for image in images:
            feed = {self._file.input: np.repeat(image[None], self._file.batch, axis=0)}
            [found] = run_session(self._session, [self._tensor], feed, str(self._file.path))
            rows.append(found[:1].astype(np.float64))
        return np.concatenate(rows)
