"""A foreign network in memory, without what does nothing: Dropout, Identity, and what depends on constants alone.

And without what stands between the images and its first convolution, such as a swap of channels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from googlenet_edge.errors import GraphError
from googlenet_edge.foreign.file import NO_OPERATION, Arrays, ForeignFile, label, run_model
from googlenet_edge.graph import attributes_of, live
from googlenet_edge.preprocess import Channels, Preprocess

_LINEAR_TOLERANCE = 1e-5
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
        node = copy.deepcopy(original)
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
    wished = attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
    if node.op_type != "MaxPool" or value > _BELOW_ALL or attributes.get("ceil_mode", 0) or wished:
        return False
    own = attributes.get("pads", [0, 0, 0, 0])
    return all(a + b < kernel for a, b, kernel in zip(padding, own, [*attributes["kernel_shape"]] * 2, strict=True))


def run_original(file: ForeignFile, tensor: str, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a tensor of the file is: float32 ``(N, 3, crop, crop)``, one after the other → float64 ``(N, …)``."""
    model = copy.deepcopy(file.model)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=tensor))
    feeds = ({file.input: np.repeat(image[None], file.batch, axis=0)} for image in images)
    rows = run_model(model, [tensor], feeds, str(file.path))
    return np.concatenate([found[:1] for [found] in rows]).astype(np.float64)


class ChannelOrder(Enum):
    """The order of the colours that a network was trained with; Caffe's is BGR."""

    RGB = "rgb"
    BGR = "bgr"


@dataclass(frozen=True, slots=True)
class InputFormat:
    """The images that a file wants: RGB pixels after ``preprocess``, then in ``channel_order``."""

    preprocess: Preprocess
    channel_order: ChannelOrder = ChannelOrder.RGB

    def batch(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB uint8 ``(N, crop, crop, 3)`` → float32 ``(N, 3, crop, crop)``."""
        images = self.preprocess.normalize(pixels)
        return images if self.channel_order is ChannelOrder.RGB else np.ascontiguousarray(images[:, ::-1])


@dataclass(frozen=True)
class _Front:
    """What stands between the images and the first convolution, which alone reads ``tensor``, the outcome."""

    nodes: tuple[NodeProto, ...]
    convolution: NodeProto
    tensor: str


def without_front(file: ForeignFile, network: Network, images: InputFormat) -> tuple[Network, Preprocess]:
    """The network from its first convolution on, and the preprocessing that it then needs.

    A front that is no linear map of the colours stays where it is. Raises `GraphError` where BGR cannot become RGB.
    """
    front = _front(network)
    linear = _linear_map(file, front, images) if front else None
    if front and linear:
        with suppress(ValueError):  # colours that cannot be told apart any more, or numbers beyond all images
            preprocess, matrix = images.preprocess, linear.matrix
            if front.nodes:
                preprocess, matrix = _absorbed(preprocess, linear)
            return _with_first_weights(network, front, matrix), preprocess
    if images.channel_order is ChannelOrder.BGR:
        first = next(node for node in network.nodes if network.input in node.input)
        raise GraphError(
            f"{file.path} reads its images with {first.op_type} ({label(first)}) before any convolution, so BGR"
            " cannot be turned into RGB there; export it with RGB input"
        )
    return network, images.preprocess


def _front(network: Network) -> _Front | None:
    """The front, where it ends in one convolution and nothing else looks into it."""
    convolution = next((node for node in network.nodes if node.op_type == "Conv"), None)
    if convolution is None:
        return None
    tensor = convolution.input[0]
    nodes = live(network.nodes, {tensor})
    inside = {network.input}.union(*(node.output for node in nodes))
    readers = [n for n in network.nodes if inside.intersection(n.input) and not inside.intersection(n.output)]
    return _Front(nodes, convolution, tensor) if readers == [convolution] and tensor in inside else None


@dataclass(frozen=True)
class _Linear:
    """``matrix · x + shift`` for the colours x of a pixel, RGB: float64 ``(3, 3)`` and ``(3,)``."""

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]


def _linear_map(file: ForeignFile, front: _Front, images: InputFormat) -> _Linear | None:
    """What a front does, read from what it makes of four images and tried on a random one; nothing if not linear."""
    order = np.eye(3) if images.channel_order is ChannelOrder.RGB else np.eye(3)[::-1]
    if not front.nodes:
        return _Linear(order, np.zeros(3))
    noise = images.batch(random_pixels(file.crop, 1))
    reach = np.abs(noise).max()  # what is much smaller would drown in the rounding of the shift
    probes = np.zeros((4, 3, file.crop, file.crop), np.float32)
    probes[[1, 2, 3], [0, 1, 2]] = reach
    found = run_original(file, front.tensor, np.concatenate([probes, noise]))
    if found.shape[1:] != noise.shape[1:]:
        return None
    shift = found[0, :, 0, 0]
    matrix = (found[1:4, :, 0, 0] - shift).T / reach
    expected = np.einsum("ij,njhw->nihw", matrix, noise) + shift[:, None, None]
    off = np.abs(found[4:] - expected).max()
    if not off <= _LINEAR_TOLERANCE * np.abs(expected).max() or not np.linalg.cond(matrix) < 1 / _LINEAR_TOLERANCE:
        return None
    return _Linear(matrix @ order, shift)


def _absorbed(preprocess: Preprocess, linear: _Linear) -> tuple[Preprocess, NDArray[np.float64]]:
    """(preprocessing, matrix ``(3, 3)``) that do the same as ``preprocess`` and then the linear map.

    The shift moves the means, so that the padding of the convolution stays zero. The largest factor of each colour
    goes into its standard deviation, so that torchvision's transform of its own normalization becomes -1…1 again.
    """
    factors = np.abs(linear.matrix).max(axis=0)
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    means = mean - std * np.linalg.solve(linear.matrix, linear.shift)
    return replace(preprocess, mean=_rounded(means), std=_rounded(std / factors)), linear.matrix / factors


def _rounded(values: NDArray[np.float64]) -> Channels:
    """Six digits: as many as float32, in which they were found, is sure of."""
    red, green, blue = (float(f"{value:.6g}") for value in values)
    return red, green, blue


def _with_first_weights(network: Network, front: _Front, matrix: NDArray[np.float64]) -> Network:
    """The network without its front, the matrix in the weights of its first convolution ``(cout, 3, k, k)``."""
    _, weight, *bias = front.convolution.input
    if weight not in network.weights or network.weights[weight].shape[1:2] != (3,):
        raise GraphError(f"{network.where} computes the weight {weight}, or groups colours; export it without")
    changed = np.tensordot(matrix, network.weights[weight].astype(np.float64), axes=(0, 1)).swapaxes(0, 1)
    first = copy.deepcopy(front.convolution)
    first.input[:] = [network.input, f"{weight} for RGB", *bias]
    gone = {output for node in (*front.nodes, front.convolution) for output in node.output}
    rest = [node for node in network.nodes if not gone.intersection(node.output)]
    weights = {**network.weights, first.input[1]: changed.astype(np.float32)}
    return replace(network, nodes=(first, *rest), weights=weights)


def random_pixels(crop: int, count: int) -> NDArray[np.uint8]:
    """uint8 ``(count, crop, crop, 3)``, always the same."""
    return np.random.default_rng(0).integers(0, 256, (count, crop, crop, 3), np.uint8)
