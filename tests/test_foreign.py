"""Somebody else's GoogLeNet becomes an inference graph that computes the same, and in the form that is quantized."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import (
    CAFFE_MEAN,
    CLASSES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SIDE,
    Maker,
    caffe_style,
    model_of,
    run,
    saved,
    some_pixels,
    tensor,
    torchvision_style,
)
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from googlenet_edge.calibration.lower import lower_fp32
from googlenet_edge.engines.predictor import softmax
from googlenet_edge.engines.source import OnnxSource, check_import, import_graph
from googlenet_edge.errors import GraphError
from googlenet_edge.files import sha256_file
from googlenet_edge.foreign.file import read_foreign
from googlenet_edge.foreign.network import ChannelOrder, InputFormat
from googlenet_edge.graph import InferenceGraph, read_graph, write_graph
from googlenet_edge.preprocess import Preprocess

NAMES = tuple(f"class {i}" for i in range(CLASSES))
CAFFE = InputFormat(Preprocess(SIDE, SIDE, CAFFE_MEAN, (1.0, 1.0, 1.0)), ChannelOrder.BGR)
IMAGENET = InputFormat(Preprocess(SIDE, SIDE, IMAGENET_MEAN, IMAGENET_STD))
PLAIN = InputFormat(Preprocess(SIDE, SIDE))


def imported(path: Path, images: InputFormat, *, names: tuple[str, ...] = NAMES) -> InferenceGraph:
    return import_graph(read_foreign(path), class_names=names, images=images)


def logits(graph: InferenceGraph, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return run(graph.model, graph.preprocess.normalize(pixels))


def kinds(graph: InferenceGraph) -> Counter[str]:
    return Counter(node.op_type for node in graph.model.graph.node)


def equal(found: NDArray[np.floating], expected: NDArray[np.floating]) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())


# Caffe's


@pytest.mark.parametrize("opset", [3, 4, 5, 6, 7, 8, 9, 12])
def test_caffe_style_of_every_age_gives_its_own_probabilities(opset: int, tmp_path: Path) -> None:
    graph = imported(saved(caffe_style(opset), tmp_path / "net.onnx"), CAFFE)
    pixels = some_pixels()
    blue_first = pixels[..., ::-1].astype(np.float32) - np.array(CAFFE_MEAN[::-1], np.float32)
    expected = [run(caffe_style(9), image[None]) for image in blue_first.transpose(0, 3, 1, 2)]
    assert equal(softmax(logits(graph, pixels)), np.concatenate(expected))


def test_softmax_whose_result_is_reshaped_is_left_out_too(tmp_path: Path) -> None:
    model = caffe_style(9)
    last = model.graph.node[-1]
    last.output[0] = "prob_0"
    shape = numpy_helper.from_array(np.array([1, -1], np.int64), "answer_shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Reshape", ["prob_0", "answer_shape"], ["prob_1"]))
    graph = imported(saved(model, tmp_path / "net.onnx"), CAFFE)
    plain = imported(saved(caffe_style(9), tmp_path / "plain.onnx"), CAFFE)
    assert np.array_equal(logits(graph, some_pixels()), logits(plain, some_pixels()))


def test_node_that_gives_nothing_is_left_out(tmp_path: Path) -> None:
    """All outputs of an LSTM are optional."""
    model = small(f"m = Squeeze (x) {CONV} r = Relu (c) {HEAD}")
    rng = np.random.default_rng(0)
    gates = [numpy_helper.from_array(rng.normal(size=(1, 4, n)).astype(np.float32), f"g{n}") for n in (16, 1)]
    model.graph.initializer.extend(gates)
    model.graph.node.append(helper.make_node("LSTM", ["m", "g16", "g1"], [], hidden_size=1))
    assert kinds(imported_small(model, tmp_path))["LSTM"] == 0


def test_short_side_of_the_largest_images_is_one_that_a_bundle_can_have(tmp_path: Path) -> None:
    model = small(f"{CONV} r = Relu (c) {HEAD}")
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, "S", "S")))
    path = saved(model, tmp_path / "net.onnx")
    origin = OnnxSource(path, tmp_path / "run", size=3600).open(("a", "b", "c"))
    assert (origin.preprocess.crop, origin.preprocess.resize) == (3600, 4096)


@pytest.mark.parametrize(
    "end",
    [
        "s = Softmax <axis = 1> (g) y = Flatten (s)",
        "v = Flatten (g) s = Softmax (v) t = Constant <value_float = 1.0> () y = Min (s, t)",
        "v = Flatten (g) k = Exp (v) t = ReduceSum (k, last) y = Div (k, t)",
        "t = Constant <value_float = 40.0> () k = Mul (g, t) v = Flatten (k) s = Softmax (v) y = Identity (s)",
        "t = Constant <value_float = 4000.0> () k = Mul (g, t) v = Flatten (k) s = Softmax (v) y = Min (s, t)",
    ],
    ids=["before a Flatten", "limited", "by hand", "nearly sure", "so sure that others are 0"],
)
def test_probabilities_that_no_last_softmax_makes_are_those_of_the_import(end: str, tmp_path: Path) -> None:
    model = small(f"last = Constant <value_ints = [1]> () {CONV} g = GlobalAveragePool (c) {end}", classes=6)
    path, names = saved(model, tmp_path / "net.onnx"), tuple("abcdef")
    graph, pixels = imported(path, SMALL, names=names), some_pixels(2, side=16)
    expected = np.concatenate([run(model, SMALL.batch(image[None])) for image in pixels])
    assert np.abs(softmax(logits(graph, pixels)) - expected).max() < 1e-6
    assert check_import(graph, read_foreign(path), pixels, images=SMALL) < 1e-5


def test_caffe_style_comes_out_in_the_operators_that_are_quantized(tmp_path: Path) -> None:
    graph = imported(saved(caffe_style(), tmp_path / "net.onnx"), CAFFE)
    assert kinds(graph) == {
        "Conv": 15, "Relu": 15, "MaxPool": 5, "Concat": 2, "LRN": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    nodes = {node.name: node for node in graph.model.graph.node}
    assert nodes["conv1/7x7_s2_1"].output == ["conv1/7x7_s2_1"]
    assert nodes["inception_3a/output_1"].op_type == "Concat"
    assert nodes["loss3/classifier_1"].output == ["logits"]
    assert graph.preprocess == CAFFE.preprocess


def test_names_of_a_file_keep_clear_of_the_word_by_which_weights_elsewhere_are_known(tmp_path: Path) -> None:
    text = caffe_style().SerializeToString().replace(b"conv1/7x7_s2", b"allocation_1")  # as long as the name before
    graph = imported(saved(onnx.load_model_from_string(text), tmp_path / "net.onnx"), CAFFE)
    assert b"location" not in graph.bytes
    assert "alplace_1_1" in {node.name for node in graph.model.graph.node}


def test_caffe_style_of_a_fixed_batch_of_ten_takes_any_number(tmp_path: Path) -> None:
    path = saved(caffe_style(batch=10), tmp_path / "net.onnx")
    graph = imported(path, CAFFE)
    assert check_import(graph, read_foreign(path), some_pixels(3), images=CAFFE) < 1e-5
    assert logits(graph, some_pixels(3)).shape == (3, CLASSES)


# torchvision's


@pytest.mark.parametrize(("opset", "batch"), [(11, 1), (11, "N"), (18, 1)])
def test_torchvision_style_gives_its_own_logits(opset: int, batch: int | str, tmp_path: Path) -> None:
    model = torchvision_style(opset, batch=batch)
    graph = imported(saved(model, tmp_path / "net.onnx"), IMAGENET)
    pixels = some_pixels()
    expected = [run(model, IMAGENET.preprocess.normalize(image[None])) for image in pixels]
    assert equal(logits(graph, pixels), np.concatenate(expected))


@pytest.mark.parametrize("opset", [11, 18])
def test_torchvision_style_loses_batch_normalization_and_its_transform(opset: int, tmp_path: Path) -> None:
    graph = imported(saved(torchvision_style(opset), tmp_path / "net.onnx"), IMAGENET)
    assert kinds(graph) == {
        "Conv": 7, "Relu": 7, "MaxPool": 3, "Concat": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    assert graph.preprocess == Preprocess(SIDE, SIDE)  # what `transform_input` makes of ImageNet's normalization


def test_imported_graph_survives_the_disk_and_is_the_same_every_time(tmp_path: Path) -> None:
    path = saved(torchvision_style(), tmp_path / "net.onnx")
    graph = imported(path, IMAGENET)
    write_graph(tmp_path / "graph.onnx", graph)
    found = read_graph(tmp_path / "graph.onnx")
    assert (found.sha256, found.class_names, found.preprocess) == (graph.sha256, NAMES, graph.preprocess)
    assert found.parent_sha256 == sha256_file(path)
    assert imported(path, IMAGENET).sha256 == graph.sha256


# What other tools write: small graphs with three classes, in full


def small(body: str, *, opset: int = 17, classes: int = 3) -> onnx.ModelProto:
    """Images 16×16 → ``y``; ``w`` is a convolution 3×3 of six filters, ``f`` ``(6, 3)``, ``b`` ``(3,)``."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
        f"small (float[1, 3, 16, 16] x) => (float[1, {classes}] y) {{ {body} }}"
    )
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.3, (6, 3, 3, 3)),
        "f": rng.normal(0, 0.4, (6, 3)),
        "colours": np.array([123.675, 116.28, 103.53]).reshape(3, 1, 1),
        "spread": np.array([58.395, 57.12, 57.375]).reshape(3, 1, 1),
        "w6": np.random.default_rng(1).normal(0, 0.2, (6, 6, 3, 3)),
        "w2": np.random.default_rng(2).normal(0, 0.3, (6, 2, 3, 3)),
        "b": rng.normal(0, 0.2, 3),
        "six": rng.uniform(0.5, 1.5, 6),
        "planes": rng.uniform(0.5, 1.5, (6, 1, 1)),
        "one": np.float32(1.25),
        "nought": np.float32(0),
        "e": rng.normal(0, 0.4, (1, 3)),
        "tiny": np.float32(1e-5),
        "huge": np.float32(9000),
        "green": np.array([0, 1, 0]).reshape(3, 1, 1),
    }
    read = {name for node in model.graph.node for name in node.input}
    for name in read & weights.keys():
        model.graph.initializer.append(numpy_helper.from_array(weights[name].astype(np.float32), name))
    onnx.checker.check_model(model)
    return model


CONV = "c = Conv <pads = [1, 1, 1, 1]> (x, w) "
HEAD = "g = GlobalAveragePool (r) v = Flatten (g) y = Gemm (v, f, b)"
SMALL = InputFormat(Preprocess(16, 16))


def imported_small(model: onnx.ModelProto, tmp_path: Path, images: InputFormat = SMALL) -> InferenceGraph:
    """The import of a small graph, which gives the same logits for each of two images as the file for one."""
    path = saved(model, tmp_path / "small.onnx")
    graph = imported(path, images, names=("a", "b", "c"))
    pixels = some_pixels(2, side=16)
    expected = np.concatenate([run(model, images.batch(image[None])) for image in pixels])
    assert equal(logits(graph, pixels), expected)
    return graph


@pytest.mark.parametrize(
    "head",
    [
        "p = AveragePool <kernel_shape = [16, 16]> (r) v = Flatten (p) y = Gemm (v, f, b)",
        "p = GlobalAveragePool (r) axes = Constant <value_ints = [2, 3]> () v = Squeeze (p, axes) y = Gemm (v, f, b)",
        "v = ReduceMean <axes = [2, 3], keepdims = 0> (r) y = Gemm (v, f, b)",
        "p = ReduceMean <axes = [-1, -2]> (r) n = Shape (p) zero = Constant <value_ints = [0]> () i = Gather (n, zero)"
        " rest = Constant <value_ints = [-1]> () s = Concat <axis = 0> (i, rest) v = Reshape (p, s) y = Gemm (v, f, b)",
        "p = GlobalAveragePool (r) v = Flatten (p) m = MatMul (v, f) y = Add (b, m)",
        "p = GlobalAveragePool (r) v = Flatten (p) t = Transpose (f)"
        " y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (v, t, b)",
    ],
)
def test_every_head_becomes_pool_flatten_and_gemm(head: str, tmp_path: Path) -> None:
    graph = imported_small(small(f"{CONV} r = Relu (c) {head}"), tmp_path)
    assert kinds(graph) == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    [gemm] = [node for node in graph.model.graph.node if node.op_type == "Gemm"]
    assert [(a.name, a.i) for a in gemm.attribute] == [("transB", 1)]


@pytest.mark.parametrize(
    "between",
    [
        "s = BatchNormalization (c, six, six, six, six) r = Relu (s)",
        "i = Identity (c) m = Mul (planes, i) s = Add (m, planes) r = Relu (s)",
        "m = Div (c, one) s = Sub (m, planes) r = Relu (s)",
        "axes = Constant <value_ints = [1, 2]> () u = Unsqueeze (six, axes) m = Mul (c, u) r = Relu (m)",
    ],
)
def test_scaling_after_a_convolution_goes_into_it(between: str, tmp_path: Path) -> None:
    graph = imported_small(small(f"{CONV} {between} {HEAD}"), tmp_path)
    assert kinds(graph) == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}


@pytest.mark.parametrize(
    ("between", "kept"),
    [
        ("i = Identity (c) s = BatchNormalization (i, six, six, six, six) r = Add (s, c)", "BatchNormalization"),
        ("q = Relu (c) r = Mul (q, planes)", "Mul"),
        ("s = Sub (one, c) r = Relu (s)", "Sub"),
        ("k = Conv <strides = [3, 3], pads = [1, 1, 1, 1]> (c, w6) s = Mul (k, six) r = Relu (s)", "Mul"),  # columns
    ],
)
def test_scaling_that_no_convolution_can_take_stays(between: str, kept: str, tmp_path: Path) -> None:
    assert kinds(imported_small(small(f"{CONV} {between} {HEAD}"), tmp_path))[kept] == 1


@pytest.mark.parametrize(
    "window",
    [
        "k = Conv <group = 3> (c, w2)",
        "k = Conv <dilations = [2, 3]> (c, w6)",
        "k = MaxPool <kernel_shape = [2, 2], dilations = [3, 4]> (c)",
    ],
)
def test_windows_of_some_channels_or_with_gaps_stay_what_they_are(window: str, tmp_path: Path) -> None:
    imported_small(small(f"{CONV} {window} r = Relu (k) {HEAD}"), tmp_path)


@pytest.mark.parametrize("wish", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_that_is_a_wish_becomes_numbers(wish: str, tmp_path: Path) -> None:
    body = (
        f'c = Conv <auto_pad = "{wish}", strides = [2, 2]> (x, w) q = Relu (c)'
        f' r = MaxPool <auto_pad = "{wish}", kernel_shape = [2, 2]> (q) {HEAD}'
    )
    graph = imported_small(small(body), tmp_path)
    assert all(a.name != "auto_pad" for node in graph.model.graph.node for a in node.attribute)


@pytest.mark.parametrize(
    "padded",
    [
        "q = Relu (c) low = Constant <value_float = -inf> () d = Pad (q, pads, low)"
        " r = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (d)",
        "q = Relu (c) low = Constant <value_float = -10000.0> () d = Pad (q, pads, low)"
        " r = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 0, 0]> (d)",
        "q = Relu (c) d = Pad (q, pads) k = Conv <strides = [2, 2]> (d, w6) r = Relu (k)",
    ],
)
def test_padding_before_what_pads_with_the_same_goes_into_it(padded: str, tmp_path: Path) -> None:
    """Its sizes are computed, as PyTorch writes it."""
    sizes = "s = Constant <value_ints = [0, 0, 0, 0, 0, 0, 1, 1]> () t = Transpose (s) f32 = Cast <to = 1> (t)"
    model = small(f"{sizes} pads = Cast <to = 7> (f32) {CONV} {padded} {HEAD}")
    graph = imported_small(model, tmp_path)
    assert kinds(graph)["Pad"] == 0
    assert check_import(graph, read_foreign(tmp_path / "small.onnx"), some_pixels(2, side=16), images=SMALL) < 1e-5


@pytest.mark.parametrize(
    "padded",
    [
        "d = Pad (c, p) r = MaxPool <kernel_shape = [3, 3]> (d)",
        'd = Pad (c, p, low) r = MaxPool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (d)',
        "d = Pad (c, p, low) r = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (d)",
        "d = Pad (c, p, low) r = MaxPool <kernel_shape = [2, 2]> (d)",
        "ones = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> () d = Pad (c, ones, low)"
        " r = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 1, 1]> (d)",
        "less = Neg (p) d = Pad (c, less) k = Conv <pads = [2, 2, 2, 2]> (d, w6) r = Relu (k)",
    ],
)
def test_padding_that_counts_or_that_a_pool_cannot_do_stays(padded: str, tmp_path: Path) -> None:
    constants = "p = Constant <value_ints = [0, 0, 2, 2, 0, 0, 2, 2]> () low = Constant <value_float = -10000.0> ()"
    graph = imported_small(small(f"{constants} {CONV} {padded} {HEAD}"), tmp_path)
    assert kinds(graph)["Pad"] == 1


def test_average_that_counts_padding_stays(tmp_path: Path) -> None:
    pool = "AveragePool <kernel_shape = [16, 16], strides = [16, 16], pads = [1, 1, 0, 0], count_include_pad = 1>"
    graph = imported_small(small(f"{CONV} p = {pool} (c) v = Flatten (p) y = Gemm (v, f, b)"), tmp_path)
    assert (kinds(graph)["AveragePool"], kinds(graph)["GlobalAveragePool"]) == (1, 0)


def test_what_has_no_rule_stays_and_keeps_its_constants(tmp_path: Path) -> None:
    body = f"{CONV} low = Constant <value_float = 0.1> () k = Clip (c, low) r = PRelu (k, planes) {HEAD}"
    graph = imported_small(small(body), tmp_path)
    assert kinds(graph)["Clip"] == kinds(graph)["PRelu"] == 1


def test_names_are_those_of_the_file_and_unique(tmp_path: Path) -> None:
    model = small(f"{CONV} r = Relu (c) {HEAD}")
    for node, name in zip(model.graph.node, ("images", "/a b/c.d", "/a_b/c_d", "", "logits"), strict=True):
        node.name = name
    graph = imported_small(model, tmp_path)
    assert [node.name for node in graph.model.graph.node] == ["images_2", "/a_b/c_d", "/a_b/c_d_2", "v", "logits_2"]


def test_names_of_a_file_keep_clear_of_what_lowered_models_add(tmp_path: Path) -> None:
    model = small(f"{CONV} r = Relu (c) {HEAD}")
    for node, name in zip(model.graph.node, ("pixels", "probabilities", "zero_point"), strict=False):
        node.name = name
    graph = imported_small(model, tmp_path)
    assert [node.name for node in graph.model.graph.node][:3] == ["pixels_2", "probabilities_2", "zero_point_2"]
    onnx.checker.check_model(lower_fp32(graph), full_check=True)


# What stands before the first convolution


BGR_SMALL = replace(SMALL, channel_order=ChannelOrder.BGR)


@pytest.mark.parametrize("images", [SMALL, BGR_SMALL])
@pytest.mark.parametrize("front", ["", "t1 = Mul (x, one) t = Sub (t1, one)", "t = Gather <axis = 1> (x, swap)"])
def test_linear_front_disappears_in_weights_and_preprocessing(front: str, images: InputFormat, tmp_path: Path) -> None:
    conv = "c = Conv <pads = [1, 1, 1, 1]> (t, w) " if front else CONV
    swap = "swap = Constant <value_ints = [2, 1, 0]> () " if "swap" in front else ""
    graph = imported_small(small(f"{swap} {front} {conv} r = Relu (c) {HEAD}"), tmp_path, images)
    assert kinds(graph) == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}


@pytest.mark.parametrize("order", ChannelOrder)
def test_normalization_inside_the_network_becomes_its_preprocessing(order: ChannelOrder, tmp_path: Path) -> None:
    """To the digits that float32 has, though the shift is far larger than what one pixel value changes."""
    raw = InputFormat(Preprocess(16, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), order)
    body = f"t1 = Sub (x, colours) t = Div (t1, spread) c = Conv (t, w) r = Relu (c) {HEAD}"
    found = imported_small(small(body), tmp_path, raw).preprocess
    turned = 1 if order is ChannelOrder.RGB else -1
    assert found.mean == (123.675, 116.28, 103.53)[::turned]
    assert found.std == (58.395, 57.12, 57.375)[::turned]


@pytest.mark.parametrize(
    "front",
    [
        "t = Relu (x)",
        "t = LRN <size = 3> (x)",
        "q = Mul (x, x) t = Add (q, x)",
        "t = Mul (x, tiny)",
        "t = Add (x, huge)",
        "t = Mul (x, green)",
        "t = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)",
    ],
)
def test_front_that_no_preprocessing_can_do_stays_and_needs_rgb(front: str, tmp_path: Path) -> None:
    model = small(f"{front} c = Conv <pads = [1, 1, 1, 1]> (t, w) r = Relu (c) {HEAD}")
    first = model.graph.node[0].op_type
    assert kinds(imported_small(model, tmp_path))[first] >= 1
    sentence = rf"small\.onnx reads its images with {first} \(.\) before any convolution, so BGR cannot be turned into"
    with pytest.raises(GraphError, match=sentence):
        imported(tmp_path / "small.onnx", BGR_SMALL, names=("a", "b", "c"))


# The proof


def test_import_is_checked_on_images_and_noise(tmp_path: Path) -> None:
    path = saved(caffe_style(), tmp_path / "net.onnx")
    assert check_import(imported(path, CAFFE), read_foreign(path), some_pixels(), images=CAFFE) < 1e-5


def test_import_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    path = saved(caffe_style(), tmp_path / "net.onnx")
    graph = imported(path, CAFFE)
    sentence = r"the graph differs from .*net\.onnx by .* of the largest logit, at most 1e-04 is allowed"
    other_order = replace(CAFFE, channel_order=ChannelOrder.RGB)
    with pytest.raises(GraphError, match=sentence):
        check_import(graph, read_foreign(path), some_pixels(), images=other_order)
    [bias] = [w for w in graph.model.graph.initializer if w.name == "inception_4a/5x5_1.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
    with pytest.raises(GraphError, match=sentence):
        check_import(graph, read_foreign(path), some_pixels(), images=CAFFE)


def test_import_that_mixes_the_images_of_a_batch_is_refused(tmp_path: Path) -> None:
    body = f"{CONV} s = Constant <value_ints = [1, 6, 256]> () t = Reshape (c, s) s4 = Constant <value_ints = "
    body += f"[1, 6, 16, 16]> () r = Reshape (t, s4) {HEAD}"
    path = saved(small(body), tmp_path / "small.onnx")
    graph = imported(path, SMALL, names=("a", "b", "c"))
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run .*small\.onnx in batches \(.*\); export it again"):
        check_import(graph, read_foreign(path), some_pixels(2, side=16), images=SMALL)


@pytest.mark.parametrize("row", ["y = Unsqueeze (m, first)", "y = Reshape (m, one_row)"])
def test_import_that_gives_one_row_for_all_images_is_refused(row: str, tmp_path: Path) -> None:
    """As an export for one image with ``squeeze()`` does."""
    constants = "first = Constant <value_ints = [0]> () one_row = Constant <value_ints = [1, -1]> ()"
    path = saved(
        small(f"{constants} {CONV} g = GlobalAveragePool (c) m = Squeeze (g) {row}", classes=6), tmp_path / "n.onnx"
    )
    graph = imported(path, SMALL, names=tuple("abcdef"))
    with pytest.raises(
        GraphError, match=r"n\.onnx mixes the images of a batch: for 6 of them it gives \(1, .*\); export"
    ):
        check_import(graph, read_foreign(path), some_pixels(2, side=16), images=SMALL)


def test_network_of_zeros_is_refused(tmp_path: Path) -> None:
    make = Maker()
    pooled = make.node("GlobalAveragePool", ["x"], "g")
    flat = make.node("Flatten", [pooled], "v")
    make.node("Gemm", [flat, make.constant("w", np.zeros((3, 3))), make.constant("b", np.zeros(3))], "y")
    model = model_of(make, [tensor("x", 1, 3, 16, 16)], [tensor("y", 1, 3)], opset=17, ir_version=8)
    path = saved(model, tmp_path / "zero.onnx")
    graph = imported(path, SMALL, names=("a", "b", "c"))
    with pytest.raises(GraphError, match=r"zero\.onnx gives zero for every class of every image; the weights are"):
        check_import(graph, read_foreign(path), some_pixels(2, side=16), images=SMALL)


# What cannot be imported


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            f"{CONV} r = Relu (c) g = GlobalAveragePool (r) v = Flatten (g) t = Transpose (v)"
            " y = Gemm <transA = 1> (t, f, b)",
            "the Gemm y transposes its input, which no GoogLeNet does; export it again",
        ),
        (
            f"{CONV} zero = Sub (one, one) k = Mul (planes, zero) s = Constant <value_ints = [1, 6, 16, 16]> ()"
            f" z = Expand (k, s) r = Concat <axis = 1> (c, z) n = Constant <value_ints = [6, 6]> ()"
            f" r1, r2 = Split <axis = 1> (r, n) q = Add (r1, r2) {HEAD.replace('(r)', '(q)')}",
            "the Concat r joins a constant, which no GoogLeNet does; export it again",
        ),
        (
            "m = ReduceMean <axes = [2, 3], keepdims = 0> (x) s = Constant <value_ints = [1, 3, 1, 1]> ()"
            " u = Reshape (m, s) c = Conv (x, u) g = GlobalAveragePool (c) v = Flatten (g) y = Gemm (v, e, b)",
            "computes the weight u; export it with constant weights",
        ),
        (
            f"{CONV} s, m, v2 = BatchNormalization <training_mode = 1> (c, six, six, six, six) r = Relu (s) {HEAD}",
            "the BatchNormalization s is as in training; call model.eval\\(\\) before the export",
        ),
        (
            f"{CONV} d, m = Dropout (c) r = Where (m, c, d) {HEAD}",
            "the Where r reads a mask or statistics, which no GoogLeNet does; export it again",
        ),
        (
            f"{CONV} q, i = MaxPool <kernel_shape = [2, 2]> (c) k = Cast <to = 1> (i) r = Add (q, k) {HEAD}",
            "the Cast k reads a mask or statistics, which no GoogLeNet does; export it again",
        ),
        (
            f"{CONV} n = Shape (c) turned = Constant <value_ints = [1, 0]> () s = Gather (n, turned)"
            f" k = Constant <value = float[6, 1, 1] {{1, 2, 3, 4, 5, 6}}> () z = Reshape (k, s) r = Relu (c)"
            f" {HEAD.replace('y =', 'q =')} m = MatMul (v, z) y = Add (q, m)",
            "the Reshape z computes on a constant, which no GoogLeNet does; export it again",
        ),
    ],
)
def test_networks_of_another_kind_are_refused(body: str, sentence: str, tmp_path: Path) -> None:
    path = saved(small(body), tmp_path / "net.onnx")
    with pytest.raises(GraphError, match=rf"net\.onnx:? {sentence}"):
        imported(path, SMALL, names=("a", "b", "c"))


def test_operators_that_opset_17_words_otherwise_are_refused(tmp_path: Path) -> None:
    path = saved(small(f"{CONV} r = Clip <min = 0.0> (c) {HEAD}", opset=8), tmp_path / "net.onnx")
    sentence = (
        r"net\.onnx is of opset 8, and not all of it fits opset 17 \(.*\); convert it with onnx\.version_converter, or"
        " export it with opset 17"
    )
    with pytest.raises(GraphError, match=sentence):
        imported(path, SMALL, names=("a", "b", "c"))


def test_weights_that_overflow_when_folded_are_refused(tmp_path: Path) -> None:
    model = small(f"{CONV} s = Div (c, nought) r = Relu (s) {HEAD}")
    path = saved(model, tmp_path / "net.onnx")
    with pytest.raises(GraphError, match=r"net\.onnx has NaN or infinity in c\.weight: its training failed, or"):
        imported(path, SMALL, names=("a", "b", "c"))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = small(f"{CONV} r = Relu (c) {HEAD}")
    model.graph.node[0].input.append("b")  # three biases for six filters
    path = saved(model, tmp_path / "net.onnx")
    with pytest.raises(GraphError, match=r"net\.onnx has weights that do not fit \(.*\); export it again"):
        imported(path, SMALL, names=("a", "b", "c"))
