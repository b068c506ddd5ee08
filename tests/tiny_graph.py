"""Graphs for the tests of calibration: a GoogLeNet in small, as text, and the whole one with random weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from googlenet_edge.calibration.collect import collect
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.table import CalibrationTable, make_table
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.preprocess import Preprocess

CROP = 16

TINY = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[N, 3, 16, 16] images) => (float[N, 3] logits) {
  stem_conv = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (images, stem_weight, stem_bias)
  stem = Relu (stem_conv)
  pool = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (stem)
  left_conv = Conv <kernel_shape = [1, 1]> (pool, left_weight, left_bias)
  left = Relu (left_conv)
  right_conv = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pool, right_weight, right_bias)
  right = Relu (right_conv)
  block = Concat <axis = 1> (left, right)
  avgpool = GlobalAveragePool (block)
  flatten = Flatten <axis = 1> (avgpool)
  logits = Gemm <transB = 1> (flatten, fc_weight, fc_bias)
}
"""
SHAPES = {"stem": (8, 3, 3, 3), "left": (8, 8, 1, 1), "right": (8, 8, 3, 3), "fc": (3, 16)}

NESTED = TINY.replace(
    "block = Concat <axis = 1> (left, right)",
    """inner = Concat <axis = 1> (left, right)
  outer_conv = Conv <kernel_shape = [1, 1]> (pool, outer_weight, outer_bias)
  outer = Relu (outer_conv)
  block = Concat <axis = 1> (inner, outer)""",
)
NESTED_SHAPES = {**SHAPES, "outer": (8, 8, 1, 1), "fc": (3, 24)}


def tiny_graph(
    text: str = TINY, *, shapes: dict[str, tuple[int, ...]] = SHAPES, crop: int = CROP, seed: int = 0
) -> InferenceGraph:
    """The graph of a text, with seeded weights; nodes take the names of their outputs."""
    rng = np.random.default_rng(seed)
    model = parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0]
    for name, shape in shapes.items():
        weight = rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape).astype(np.float32)
        bias = rng.normal(0.1, 0.1, shape[0]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"{name}_weight"))
        model.graph.initializer.append(numpy_helper.from_array(bias, f"{name}_bias"))
    onnx.checker.check_model(model, full_check=True)
    return InferenceGraph(model, ("a", "b", "c"), Preprocess(resize=crop, crop=crop), parent_sha256="0" * 64)


def tiny_pixels(count: int, *, crop: int = CROP, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 ``(count, crop, crop, 3)``: soft blobs and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, crop // 4, crop // 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


def tiny_images(count: int, *, crop: int = CROP, seed: int = 0) -> NDArray[np.float32]:
    """float32 ``(count, 3, crop, crop)``: the same after preprocessing."""
    return Preprocess(resize=crop, crop=crop).normalize(tiny_pixels(count, crop=crop, seed=seed))


def one_by_one(images: NDArray[np.float32]) -> Callable[[], Iterable[NDArray[np.float32]]]:
    """What `collect` takes: a function that gives the images one at a time."""
    return lambda: (image[None] for image in images)


def table_of(graph: InferenceGraph, *, count: int = 12, method: RangeMethod = RangeMethod.MINMAX) -> CalibrationTable:
    """The table of a graph from generated images."""
    images = graph.preprocess.normalize(tiny_pixels(count, crop=graph.preprocess.crop))
    return make_table(graph, collect(graph, one_by_one(images), count=count), images_sha256="1" * 64, method=method)


@functools.lru_cache(maxsize=1)
def whole_googlenet() -> InferenceGraph:
    """GoogLeNet as `export` writes it, for 10 classes at 64×64, with random weights and statistics of random images."""
    import torch

    from googlenet_edge.checkpoint import Checkpoint, CheckpointInfo
    from googlenet_edge.export import export
    from googlenet_edge.model import GoogLeNet, GoogLeNetConfig

    torch.manual_seed(0)
    model = GoogLeNet(GoogLeNetConfig(num_classes=10))
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch that follows
    with torch.no_grad():
        model.train()(torch.from_numpy(tiny_images(8, crop=64)))
    info = CheckpointInfo(tuple("abcdefghij"), Preprocess(resize=64, crop=64))
    return export(Checkpoint(info, model.state_dict(), sha256="0" * 64))
