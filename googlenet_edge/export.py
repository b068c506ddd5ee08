"""From the trained network to the inference graph: auxiliary heads gone, batch normalization folded, names kept.

`prune` drops the heads alone: training needs them, inference does not, and the logits prove it.

The graph is written node by node from the modules of the network, so tensor names are module names, are the same in
every version of torch, and stay when the network's widths change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from googlenet_edge.checkpoint import Checkpoint, build_model, is_auxiliary
from googlenet_edge.errors import CheckpointError, GraphError
from googlenet_edge.graph import (
    DEFAULT_OPSET,
    INPUT,
    OPSETS,
    OUTPUT,
    InferenceGraph,
    inference_model,
    relative_difference,
)
from googlenet_edge.model import BATCH_NORM_EPSILON, ConvBNReLU, GoogLeNet, Inception

_PROOF_IMAGES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """Learned parameters, and multiply-accumulates of the convolutions and matrices for one image."""

    parameters: int
    macs: int

    @property
    def flops(self) -> int:
        """A multiplication and an addition each."""
        return 2 * self.macs


@dataclass(frozen=True, slots=True)
class Pruned:
    """A checkpoint without auxiliary heads, and what they cost."""

    checkpoint: Checkpoint
    before: Cost
    after: Cost


def prune(checkpoint: Checkpoint) -> Pruned:
    """Drops the auxiliary heads and proves, on random images, that every main logit is the same bit for bit.

    Raises:
        CheckpointError: it has none any more, or a logit differs.
    """
    if not checkpoint.info.aux_heads:
        raise CheckpointError("the checkpoint has no auxiliary heads any more; there is nothing to prune")
    weights = {name: tensor for name, tensor in checkpoint.weights.items() if not is_auxiliary(name)}
    pruned = Checkpoint(replace(checkpoint.info, aux_heads=False), weights)
    whole, lean = build_model(checkpoint), build_model(pruned)
    crop = checkpoint.info.preprocess.crop
    images = torch.rand((_PROOF_IMAGES, 3, crop, crop), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        same = torch.equal(whole.forward_with_aux(images).logits, lean(images))
    if not same:
        raise CheckpointError("the logits changed when the auxiliary heads were dropped; please report this")
    return Pruned(pruned, training_cost(whole, crop), inference_cost(whole, crop))


def training_cost(model: GoogLeNet, crop: int) -> Cost:
    """With both auxiliary heads."""
    return Cost(_count(model), _macs(model, model.forward_with_aux, crop))


def inference_cost(model: GoogLeNet, crop: int) -> Cost:
    """Without them."""
    heads = _count(model.aux1) + _count(model.aux2)
    return Cost(_count(model) - heads, _macs(model, model, crop))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _macs(model: nn.Module, forward: Callable[[Tensor], object], crop: int) -> int:
    """Counted while one image passes: weights of a filter × places where it is put."""
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += module.weight[0].numel() * output.numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        with torch.inference_mode():
            forward(torch.zeros(1, 3, crop, crop))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def export(checkpoint: Checkpoint, *, opset: int = DEFAULT_OPSET) -> InferenceGraph:
    """The inference graph of a checkpoint. Opset 13 is for TensorRT up to 8.2, 17 for all others.

    Raises:
        GraphError: another opset.
    """
    if opset not in OPSETS:
        raise GraphError(f"opset {opset} is not supported; use 17, or 13 for TensorRT up to 8.2")
    model = build_model(checkpoint)
    onnx_model = _Writer().network(model, crop=checkpoint.info.preprocess.crop, opset=opset)
    onnx.checker.check_model(onnx_model, full_check=True)
    return InferenceGraph(onnx_model, checkpoint.info.class_names, checkpoint.info.preprocess, checkpoint.sha256)


def check_parity(graph: InferenceGraph, checkpoint: Checkpoint, batch: NDArray[np.float32]) -> float:
    """The largest difference between ONNX Runtime's and PyTorch's logits, relative to the largest logit.

    Args:
        batch: float32 ``(N, 3, crop, crop)``, real images after preprocessing.

    Raises:
        GraphError: it is above 1e-4 or not a number, or every logit is zero.
    """
    import onnxruntime  # noqa: PLC0415  (only this check runs the graph)

    session = onnxruntime.InferenceSession(graph.bytes, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = build_model(checkpoint)(torch.from_numpy(batch)).numpy()
    (found,) = session.run([OUTPUT], {INPUT: batch})
    return relative_difference(found, expected, source="PyTorch")


def unfolded(weights: Mapping[str, NDArray[np.float32]], like: Checkpoint) -> dict[str, Tensor]:
    """The inverse of the folding: a graph's weights as a state dict, with batch normalization that changes nothing.

    Exporting it gives these very weights again. What the graph has not, the auxiliary heads, stays as in ``like``.

    Args:
        weights: all constants of the exported graph, by name.
        like: the checkpoint that the graph was exported from.
    """
    state = dict(like.weights)
    for name, value in weights.items():
        layer, tensor = name.removesuffix(".conv.bias"), torch.from_numpy(value.copy())
        if layer == name:
            state[name] = tensor
            continue
        ones = torch.ones_like(tensor)
        state |= {
            f"{layer}.bn.weight": ones,
            f"{layer}.bn.bias": tensor,
            f"{layer}.bn.running_mean": torch.zeros_like(tensor),
            f"{layer}.bn.running_var": ones - BATCH_NORM_EPSILON,  # so that sqrt(variance + ε) is 1
        }
    return state


@dataclass
class _Writer:
    """Collects nodes and weights while it walks the network; every method returns the name of its output tensor."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def network(self, model: GoogLeNet, *, crop: int, opset: int) -> onnx.ModelProto:
        x = INPUT
        for name, module in model.named_children():  # in the order of the forward pass
            x = self._layer(name, module, x)
        x = self._node("Flatten", [x], "flatten", axis=1)
        self._classifier("fc", model.fc, x)
        return inference_model(self.nodes, self.weights, crop=crop, classes=model.fc.out_features, opset=opset)

    def _layer(self, name: str, module: nn.Module, x: str) -> str:
        match module:
            case ConvBNReLU():
                return self._conv_relu(name, module, x)
            case nn.MaxPool2d():
                return self._max_pool(name, module, x)
            case Inception():
                branches = [self._layer(f"{name}.{child}", m, x) for child, m in module.named_children()]
                return self._node("Concat", branches, name, axis=1)
            case nn.Sequential():
                for child, m in module.named_children():
                    x = self._layer(f"{name}.{child}", m, x)
                return x
            case nn.AdaptiveAvgPool2d():
                return self._node("GlobalAveragePool", [x], name)
            case _:
                return x  # auxiliary heads and dropout do nothing at inference; the classifier follows the flattening

    def _conv_relu(self, name: str, module: ConvBNReLU, x: str) -> str:
        weight, bias = fold_batch_norm(module)
        conv = module.conv
        x = self._node(
            "Conv",
            [x, self._weight(f"{name}.conv.weight", weight), self._weight(f"{name}.conv.bias", bias)],
            f"{name}.conv",
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            pads=[int(p) for p in conv.padding] * 2,
        )
        return self._node("Relu", [x], name)

    def _max_pool(self, name: str, pool: nn.MaxPool2d, x: str) -> str:
        def pair(value: int | tuple[int, ...]) -> list[int]:
            return [value, value] if isinstance(value, int) else list(value)

        return self._node(
            "MaxPool",
            [x],
            name,
            kernel_shape=pair(pool.kernel_size),
            strides=pair(pool.stride),
            pads=pair(pool.padding) * 2,
            ceil_mode=int(pool.ceil_mode),
        )

    def _classifier(self, name: str, linear: nn.Linear, x: str) -> str:
        weight = self._weight(f"{name}.weight", linear.weight.detach().numpy())
        bias = self._weight(f"{name}.bias", linear.bias.detach().numpy())
        self.nodes.append(helper.make_node("Gemm", [x, weight, bias], [OUTPUT], name=name, transB=1))
        return OUTPUT

    def _node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _weight(self, name: str, value: NDArray[np.float32]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def fold_batch_norm(module: ConvBNReLU) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(weight ``(cout, cin, k, k)``, bias ``(cout,)``) of the one convolution that equals both.

    Computed in float64 and rounded once.
    """
    bn = module.bn
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight.detach().double() / torch.sqrt(bn.running_var.double() + bn.eps)
    weight = module.conv.weight.detach().double() * scale[:, None, None, None]
    bias = bn.bias.detach().double() - bn.running_mean.double() * scale
    return weight.float().numpy(), bias.float().numpy()
