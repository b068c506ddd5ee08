"""GoogLeNets as other tools write them, small and with weights that are made: Caffe's original and torchvision's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 64
CLASSES = 12
CAFFE_MEAN = (123.0, 117.0, 104.0)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

# 1x1, 3x3 reduced and whole, 5x5 reduced and whole, projection of the pool
WIDTHS = {"3a": (8, 6, 8, 4, 6, 6), "4a": (12, 6, 10, 4, 6, 8)}


class Maker:
    """Collects nodes and weights; weights depend on the seed and on the order of the calls."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], output: str, *more: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output, *more], **attributes))
        return output

    def constant(self, name: str, value: Any, kind: type = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape))

    def bias(self, name: str, count: int) -> str:
        return self.constant(name, self.rng.normal(0.1, 0.1, count))


def caffe_style(opset: int = 9, *, batch: int = 1) -> onnx.ModelProto:
    """As the ONNX model zoo's: LRN, biased convolutions, pools with padding at their end, a Reshape, a Softmax.

    Nodes have no names. Weights are inputs, too, as they had to be up to opset 8.
    """
    make = Maker()

    def conv_relu(x: str, name: str, widths: tuple[int, int], kernel: int, stride: int = 1) -> str:
        cin, cout = widths
        weight, bias = make.weight(f"{name}_w_0", cout, cin, kernel, kernel), make.bias(f"{name}_b_0", cout)
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return make.node("Relu", [make.node("Conv", [x, weight, bias], f"{name}_1", **window)], f"{name}_2")

    def pool(x: str, name: str) -> str:
        return make.node("MaxPool", [x], f"{name}_1", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])

    def lrn(x: str, name: str) -> str:
        return make.node("LRN", [x], f"{name}_1", size=5, alpha=0.0001, beta=0.75, bias=1.0)

    def inception(x: str, name: str, cin: int) -> tuple[str, int]:
        one, reduce3, three, reduce5, five, project = WIDTHS[name]
        at = f"inception_{name}"
        pooled = make.node("MaxPool", [x], f"{at}/pool_1", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
        branches = [
            conv_relu(x, f"{at}/1x1", (cin, one), 1),
            conv_relu(conv_relu(x, f"{at}/3x3_reduce", (cin, reduce3), 1), f"{at}/3x3", (reduce3, three), 3),
            conv_relu(conv_relu(x, f"{at}/5x5_reduce", (cin, reduce5), 1), f"{at}/5x5", (reduce5, five), 5),
            conv_relu(pooled, f"{at}/pool_proj", (cin, project), 1),
        ]
        return make.node("Concat", branches, f"{at}/output_1", axis=1), one + three + five + project

    x = conv_relu("data_0", "conv1/7x7_s2", (3, 16), 7, 2)
    x = lrn(pool(x, "pool1/3x3_s2"), "pool1/norm1")
    x = conv_relu(x, "conv2/3x3_reduce", (16, 12), 1)
    x = pool(lrn(conv_relu(x, "conv2/3x3", (12, 20), 3), "conv2/norm2"), "pool2/3x3_s2")
    x, width = inception(x, "3a", 20)
    x, width = inception(pool(x, "pool3/3x3_s2"), "4a", width)
    x = make.node("AveragePool", [x], "pool5/7x7_s1_1", kernel_shape=[4, 4], strides=[1, 1], pads=[0, 0, 0, 0])
    old = {"is_test": 1} if opset < 7 else {}
    ratio = {"ratio": 0.4} if opset < 12 else {}
    x = make.node("Dropout", [x], "pool5/drop_7x7_s1_1", "_pool5/drop_7x7_s1_mask_1", **ratio, **old)
    if opset < 5:
        x = make.node("Reshape", [x], "OC2_DUMMY_0", shape=[batch, width])
    else:
        shape = make.constant("OC2_DUMMY_1", [batch, width], np.int64)
        x = make.node("Reshape", [x, shape], "OC2_DUMMY_0")
    fc = [x, make.weight("loss3/classifier_w_0", CLASSES, width), make.bias("loss3/classifier_b_0", CLASSES)]
    x = make.node("Gemm", fc, "loss3/classifier_1", transB=1, **({"broadcast": 1} if opset < 7 else {}))
    make.node("Softmax", [x], "prob_1")
    inputs = [tensor("data_0", batch, 3, SIDE, SIDE), *(_as_input(w) for w in make.weights if opset < 9)]
    return model_of(make, inputs, [tensor("prob_1", batch, CLASSES)], opset=opset, ir_version=3 if opset < 9 else 4)


def torchvision_style(opset: int = 18, *, batch: int | str = 1) -> onnx.ModelProto:
    """As PyTorch's exporter writes torchvision's: ``transform_input``, batch normalization, a mean for the pool.

    With opset 11, as its older exporter did: GlobalAveragePool, Flatten, Identity and Constant nodes.
    """
    make = Maker(seed=1)

    def conv_bn_relu(x: str, name: str, widths: tuple[int, int], kernel: int, stride: int = 1) -> str:
        cin, cout = widths
        window = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "dilations": [1, 1], "group": 1}
        x = make.node("Conv", [x, make.weight(f"{name}.conv.weight", cout, cin, kernel, kernel)], f"{name}.c", **window)
        statistics = [
            make.constant(f"{name}.bn.weight", make.rng.uniform(0.5, 1.5, cout)),
            make.bias(f"{name}.bn.bias", cout),
            make.bias(f"{name}.bn.running_mean", cout),
            make.constant(f"{name}.bn.running_var", make.rng.uniform(0.5, 1.5, cout)),
        ]
        x = make.node("BatchNormalization", [x, *statistics], f"{name}.b", epsilon=0.001, momentum=0.9)
        return make.node("Relu", [x], f"{name}.r")

    def pool(x: str, name: str, kernel: int, stride: int, pad: int = 0) -> str:
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": 1}
        return make.node("MaxPool", [x], name, **window)

    x = _transform_input(make, "x", opset=opset)
    x = pool(conv_bn_relu(x, "conv1", (3, 16), 7, 2), "maxpool1", 3, 2)
    x = pool(conv_bn_relu(conv_bn_relu(x, "conv2", (16, 12), 1), "conv3", (12, 20), 3), "maxpool2", 3, 2)
    branches = [
        conv_bn_relu(x, "inception3a.branch1", (20, 8), 1),
        conv_bn_relu(conv_bn_relu(x, "inception3a.branch2.0", (20, 6), 1), "inception3a.branch2.1", (6, 8), 3),
        conv_bn_relu(pool(x, "inception3a.branch4.0", 3, 1, 1), "inception3a.branch4.1", (20, 6), 1),
    ]
    x = make.node("Concat", branches, "inception3a", axis=1)
    if opset < 18:
        x = make.node("GlobalAveragePool", [x], "avgpool")
        x = make.node("Flatten", [make.node("Identity", [x], "same")], "flatten", axis=1)
        x = make.node("Dropout", [x], "dropout", ratio=0.2)
    else:
        x = make.node("ReduceMean", [x, make.constant("axes", [-1, -2], np.int64)], "mean", keepdims=1)
        x = make.node("Reshape", [x, make.constant("shape", [-1, 22], np.int64)], "view", allowzero=1)
    fc = [x, make.weight("fc.weight", CLASSES, 22), make.bias("fc.bias", CLASSES)]
    make.node("Gemm", fc, "linear", alpha=1.0, beta=1.0, transB=1)
    inputs, outputs = [tensor("x", batch, 3, SIDE, SIDE)], [tensor("linear", batch, CLASSES)]
    return model_of(make, inputs, outputs, opset=opset, ir_version=8)


def _transform_input(make: Maker, x: str, *, opset: int) -> str:
    """``torch.unsqueeze(x[:, i], 1) * (std / 0.5) + (mean - 0.5) / 0.5`` for the three channels, concatenated."""
    channels = []
    for i, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        index = numpy_helper.from_array(np.array(i, np.int64), "")
        picked = make.node("Gather", [x, make.node("Constant", [], f"index{i}", value=index)], f"select{i}", axis=1)
        if opset < 13:
            one = make.node("Unsqueeze", [picked], f"unsqueeze{i}", axes=[1])
        else:
            one = make.node("Unsqueeze", [picked, make.constant(f"axis{i}", [1], np.int64)], f"unsqueeze{i}")
        scaled = make.node("Mul", [one, make.constant(f"scale{i}", std / 0.5)], f"mul{i}")
        channels.append(make.node("Add", [scaled, make.constant(f"shift{i}", (mean - 0.5) / 0.5)], f"add{i}"))
    return make.node("Concat", channels, "cat", axis=1)


def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _as_input(weight: onnx.TensorProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)


def model_of(
    make: Maker, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], *, opset: int, ir_version: int
) -> onnx.ModelProto:
    graph = helper.make_graph(make.nodes, "foreign", inputs, outputs, make.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(model)
    return model


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def run(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime makes of a model's only input."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = next(i.name for i in session.get_inputs())
    return session.run(None, {name: images})[0]


def some_pixels(count: int = 3, *, side: int = SIDE) -> NDArray[np.uint8]:
    """Soft blobs, uint8 ``(count, side, side, 3)``."""
    rng = np.random.default_rng(5)
    coarse = rng.uniform(0, 255, (count, side // 8, side // 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(coarse + rng.normal(0, 10, coarse.shape), 0, 255).astype(np.uint8)
