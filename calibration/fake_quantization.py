"""The lowered graph as a network that can be trained: float32 throughout, rounded wherever the integer graph rounds.

It is built from the same graph, ranges and placement as the lowered model, node by node, so both compute the same but
for ties. Rounding has no useful gradient: backwards it is taken for the identity, and clipping for a wall.

Sources: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(arXiv 1712.05877), section 3; the straight-through estimator of Bengio et al. (arXiv 1308.3432).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from googlenet_edge.calibration.pixels import absorb_normalization
from googlenet_edge.calibration.placement import WITH_WEIGHTS, data_inputs, grids
from googlenet_edge.calibration.ranges import U8_STEPS, Ranges, u8_grid
from googlenet_edge.calibration.weights import MAX_BIAS, WeightRange
from googlenet_edge.graph import INPUT, OUTPUT, InferenceGraph, attributes_of

_PASS_ON = ("MaxPool", "Concat", "Flatten")
"""Operators that give no new values: what was on a grid still is."""


class FakeQuantized(nn.Module):
    """float32 ``(N, 3, crop, crop)`` → float32 logits ``(N, classes)``, as the lowered graph computes them.

    Its parameters are the weights and biases of the float graph. The grids of activations stay as the ranges say; the
    scale of an output channel's weights follows the largest of them, step by step.
    """

    def __init__(
        self, graph: InferenceGraph, ranges: Mapping[str, Ranges], *, weight_range: WeightRange = WeightRange.FULL
    ) -> None:
        """Copies the weights of a float graph.

        Args:
            ranges: of each measured tensor of the graph.

        Raises:
            KeyError: a range is missing.
        """
        super().__init__()
        nodes = graph.model.graph.node
        measured = grids(graph.model.graph)
        grid = {tensor: _grid(ranges, name) for tensor, name in measured.items()}
        constants = {w.name: numpy_helper.to_array(w) for w in graph.model.graph.initializer}
        last = {tensor: i for i, node in enumerate(nodes) for tensor in data_inputs(node)}
        absorbed = absorb_normalization(graph)
        self._input_grid = None if absorbed else grid[INPUT]  # pixels are codes then, as they are
        self._steps = [
            _Step(
                inputs=tuple(data_inputs(node)),
                output=node.output[0],
                grid=grid[node.output[0]] if _rounds(node, measured) else None,
                read_last=tuple(t for t in dict.fromkeys(data_inputs(node)) if last[t] == i),
            )
            for i, node in enumerate(nodes)
        ]
        self._operators = nn.ModuleList(_operator(node, constants, grid, weight_range) for node in nodes)
        for node, operator in zip(nodes, self._operators, strict=True):
            if absorbed and INPUT in node.input:
                assert isinstance(operator, _Convolution)  # or there was nothing to absorb
                operator.weights.offset = torch.from_numpy(absorbed.border)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        values = {INPUT: self._input_grid.rounded(images) if self._input_grid else images}
        for step, operator in zip(self._steps, self._operators, strict=True):
            result = operator(*(values[name] for name in step.inputs))
            for name in step.read_last:
                del values[name]
            values[step.output] = step.grid.rounded(result) if step.grid else result
        return values[OUTPUT]

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """The parameters, not rounded, by the names that they have in the graph."""
        holders = [module for module in self.modules() if isinstance(module, _Weights)]
        return {name: value.detach().cpu().contiguous().numpy() for holder in holders for name, value in holder.named()}


@dataclass(frozen=True, slots=True)
class _Grid:
    """real = scale · (code - zero_point), code 0…255."""

    scale: float
    zero_point: int

    def rounded(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, U8_STEPS)


@dataclass(frozen=True, slots=True)
class _Step:
    """What a node reads and writes, the grid that its output is put on, and which inputs nobody reads after it."""

    inputs: tuple[str, ...]
    output: str
    grid: _Grid | None
    read_last: tuple[str, ...]


class _Weights(nn.Module):
    """Weight and bias, which come out rounded as `quantize_weights` rounds them.

    With an ``offset``, float32 ``(3, 1, 1)``, they are those of an input that is less by it.
    """

    offset: Tensor | None

    def __init__(
        self,
        names: tuple[str, str],
        constants: Mapping[str, NDArray[np.float32]],
        *,
        input_scale: float,
        weight_range: WeightRange,
    ) -> None:
        super().__init__()
        self._names, self._input_scale, self._largest_code = names, input_scale, weight_range.value
        self.register_buffer("offset", None, persistent=False)
        self.weight, self.bias = (nn.Parameter(torch.from_numpy(constants[name].copy())) for name in names)

    def forward(self) -> tuple[Tensor, Tensor]:
        for_weight = self.weight.abs().flatten(1).amax(1) / self._largest_code
        bias = self.bias if self.offset is None else self.bias + (self.weight * self.offset).sum((1, 2, 3))
        for_bias = bias.abs() / (self._input_scale * MAX_BIAS)
        scale = torch.maximum(for_weight, for_bias)
        scale = torch.where(scale < torch.finfo(scale.dtype).tiny, 1.0, scale)
        bias_scale = scale * self._input_scale
        scale = scale.reshape(-1, *[1] * (self.weight.ndim - 1))
        return _rounded(self.weight / scale) * scale, _rounded(bias / bias_scale) * bias_scale

    def named(self) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
        return (self._names[0], self.weight), (self._names[1], self.bias)


class _Convolution(nn.Module):
    def __init__(self, weights: _Weights, *, stride: tuple[int, ...], padding: tuple[int, ...]) -> None:
        super().__init__()
        self.weights, self._stride, self._padding = weights, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weights()
        if self.weights.offset is not None:
            x = x - self.weights.offset
        return F.conv2d(x, weight, bias, stride=self._stride, padding=self._padding)


class _Classifier(nn.Module):
    def __init__(self, weights: _Weights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.weights())


class _Concat(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=1)


def _operator(
    node: onnx.NodeProto,
    constants: Mapping[str, NDArray[np.float32]],
    grid: Mapping[str, _Grid],
    weight_range: WeightRange,
) -> nn.Module:
    written = attributes_of(node)
    stride, padding = tuple(written.get("strides", (1, 1))), tuple(written.get("pads", (0, 0, 0, 0))[:2])
    if node.op_type in WITH_WEIGHTS:
        data, weight, bias = node.input
        names, input_scale = (weight, bias), grid[data].scale
        weights = _Weights(names, constants, input_scale=input_scale, weight_range=weight_range)
        return _Classifier(weights) if node.op_type == "Gemm" else _Convolution(weights, stride=stride, padding=padding)
    match node.op_type:
        case "Relu":
            return nn.ReLU(inplace=node.input[0] not in grid)  # then it alone reads what the convolution wrote
        case "MaxPool":
            ceil = bool(written.get("ceil_mode", 0))
            return nn.MaxPool2d(tuple(written["kernel_shape"]), stride, padding, ceil_mode=ceil)
        case "Concat":
            return _Concat()
        case "GlobalAveragePool":
            return nn.AdaptiveAvgPool2d(1)
        case _:  # Flatten: other operators are not exported
            return nn.Flatten()


def _grid(ranges: Mapping[str, Ranges], tensor: str) -> _Grid:
    grid = u8_grid(ranges, tensor)
    return _Grid(float(grid.scale), int(grid.zero_point))


def _rounds(node: onnx.NodeProto, measured: Mapping[str, str]) -> bool:
    """Whether a node's output must be put on a grid that its inputs are not on already."""
    grid = measured.get(node.output[0])
    return grid is not None and not (node.op_type in _PASS_ON and all(measured.get(t) == grid for t in node.input))


def _rounded(x: Tensor) -> Tensor:
    """The nearest whole numbers, of two the even one; the gradient passes as if nothing had happened."""
    return x + (x.round() - x).detach()
