"""Exact rewrites: the same values from other operators, on floats and on codes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import imagenet_normalization
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_graph import table_of, tiny_graph, tiny_pixels, whole_googlenet

from googlenet_edge.calibration.audit import missing, take_census
from googlenet_edge.calibration.lower import lower_fp16_storage, lower_fp32, lower_int8_cpu
from googlenet_edge.calibration.rewrites import Rewrite, merge_pointwise, rewrite, signed_pixels, space_to_depth
from googlenet_edge.calibration.session import open_session
from googlenet_edge.engines.openvino_cpu import integers_in
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.graph import InferenceGraph

CROP = 32
INCEPTION = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[N, 3, 32, 32] images) => (float[N, 3] logits) {
  stem_conv = Conv <kernel_shape = [7, 7], strides = [2, 2], pads = [3, 3, 3, 3]> (images, stem_weight, stem_bias)
  stem = Relu (stem_conv)
  pool = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (stem)
  one_conv = Conv <kernel_shape = [1, 1]> (pool, one_weight, one_bias)
  one = Relu (one_conv)
  narrow_conv = Conv <kernel_shape = [1, 1]> (pool, narrow_weight, narrow_bias)
  narrow = Relu (narrow_conv)
  two_conv = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (narrow, two_weight, two_bias)
  two = Relu (two_conv)
  thin_conv = Conv <kernel_shape = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0]> (pool, thin_weight, thin_bias)
  thin = Relu (thin_conv)
  three_conv = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (thin, three_weight, three_bias)
  three = Relu (three_conv)
  same = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pool)
  four_conv = Conv <kernel_shape = [1, 1]> (same, four_weight, four_bias)
  four = Relu (four_conv)
  block = Concat <axis = 1> (one, two, three, four)
  avgpool = GlobalAveragePool (block)
  flatten = Flatten <axis = 1> (avgpool)
  logits = Gemm <transB = 1> (flatten, fc_weight, fc_bias)
}
"""
SHAPES = {
    "stem": (8, 3, 7, 7),
    "one": (6, 8, 1, 1),
    "narrow": (4, 8, 1, 1),
    "two": (8, 4, 3, 3),
    "thin": (2, 8, 1, 1),
    "three": (4, 2, 3, 3),
    "four": (4, 8, 1, 1),
    "fc": (3, 22),
}
UNFUSED = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
FUSED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
BOTH = (Rewrite.SPACE_TO_DEPTH, Rewrite.MERGED_POINTWISE)


def inception(text: str = INCEPTION, **shapes: tuple[int, ...]) -> InferenceGraph:
    return tiny_graph(text, shapes=SHAPES | shapes, crop=CROP)


def int8(graph: InferenceGraph) -> onnx.ModelProto:
    return lower_int8_cpu(graph, table_of(graph))


def run(
    model: onnx.ModelProto, pixels: NDArray[np.uint8], output: str = "logits", level: object = UNFUSED
) -> NDArray[np.generic]:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    if output != "logits":
        shown.graph.output.append(onnx.ValueInfoProto(name=output))
    return open_session(shown, level).run([output], {"pixels": pixels})[0]


def noise(count: int, *, crop: int = CROP) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, crop, crop, 3), np.uint8)


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


@pytest.mark.parametrize("pixels", [noise(5), tiny_pixels(5, crop=CROP)], ids=["noise", "blobs"])
@pytest.mark.parametrize("rewrites", [BOTH[:1], BOTH[1:], BOTH], ids=lambda r: " + ".join(each.value for each in r))
@pytest.mark.parametrize("lower", [lower_fp32, lower_fp16_storage])
def test_rewritten_float_model_equals_the_float_model(
    lower: object, rewrites: tuple[Rewrite, ...], pixels: NDArray[np.uint8]
) -> None:
    plain = lower(inception())  # type: ignore[operator]
    rewritten = rewrite(plain, rewrites)
    assert rewritten is not None
    onnx.checker.check_model(rewritten, full_check=True)
    expected = run(plain, pixels)
    assert np.abs(run(rewritten, pixels) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("kernel", "pads", "expected"),
    [
        ([7, 7], [3, 3, 3, 3], ([4, 4], [2, 2, 1, 1])),
        ([3, 3], [1, 1, 1, 1], ([2, 2], [1, 1, 0, 0])),
        ([3, 3], [0, 0, 0, 0], ([2, 2], [0, 0, 0, 0])),
        ([5, 5], [2, 2, 2, 2], ([3, 3], [1, 1, 1, 1])),
        ([4, 2], [1, 0, 2, 0], ([3, 1], [1, 0, 1, 0])),
        ([7, 7], [2, 2, 3, 3], ([4, 4], [1, 1, 2, 2])),
    ],
)
def test_space_to_depth_of_any_kernel_gives_the_same_convolution(
    kernel: list[int], pads: list[int], expected: tuple[list[int], list[int]]
) -> None:
    attributes = f"kernel_shape = {kernel}, strides = [2, 2], pads = {pads}"
    text = INCEPTION.replace("kernel_shape = [7, 7], strides = [2, 2], pads = [3, 3, 3, 3]", attributes)
    plain = lower_fp32(inception(text, stem=(8, 3, *kernel)))
    rewritten = space_to_depth(plain)
    assert rewritten is not None
    conv = next(node for node in rewritten.graph.node if node.name == "stem_conv")
    found = {each.name: list(onnx.helper.get_attribute_value(each)) for each in conv.attribute}
    assert (found["kernel_shape"], found["pads"], found["strides"]) == (*expected, [1, 1])
    pixels = noise(3)
    assert np.allclose(run(rewritten, pixels, "stem_conv"), run(plain, pixels, "stem_conv"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", [UNFUSED, FUSED], ids=["unfused", "fused"])
@pytest.mark.parametrize("pixels", [noise(7), tiny_pixels(7, crop=CROP)], ids=["noise", "blobs"])
def test_space_to_depth_of_codes_gives_the_same_bits(pixels: NDArray[np.uint8], level: object) -> None:
    plain = int8(inception())
    rewritten = space_to_depth(plain)
    assert rewritten is not None
    assert np.array_equal(run(plain, pixels, level=level), run(rewritten, pixels, level=level))


def test_space_to_depth_normalizes_every_channel_by_its_own_mean() -> None:
    graph = inception()
    graph = replace(graph, preprocess=imagenet_normalization(graph.preprocess))
    for plain in (lower_fp32(graph), int8(graph)):
        rewritten = space_to_depth(plain)
        assert rewritten is not None
        assert np.allclose(run(rewritten, noise(3)), run(plain, noise(3)), rtol=1e-5, atol=1e-5)


def test_merged_convolutions_are_one_with_the_codes_of_each() -> None:
    plain = int8(inception())
    merged = merge_pointwise(plain)
    assert merged is not None
    assert kinds(plain)["Conv"] - kinds(merged)["Conv"] == 2
    values = constants(plain)
    assert len({float(values[f"{name}.scale"]) for name in ("block", "narrow", "thin")}) == 3, "or it is too easy"
    pixels = np.concatenate([noise(8), tiny_pixels(8, crop=CROP)])
    for tensor in ("one", "narrow", "thin", "block"):
        expected = run(plain, pixels, f"{tensor}.quantized").astype(int)
        difference = np.abs(run(merged, pixels, f"{tensor}.quantized") - expected)
        assert expected.max() > 100
        assert difference.max() <= 1
        assert (difference != 0).mean() <= 1e-4, "only values at the middle between two codes"


def test_merged_convolutions_keep_codes_of_weights_and_biases() -> None:
    plain = constants(int8(inception()))
    merged = merge_pointwise(int8(inception()))
    assert merged is not None
    found = constants(merged)
    for part, codes in (("weight", "int8"), ("bias", "int32")):
        joined = found[f"one_conv+narrow_conv+thin_conv.{part}.0"]
        assert joined.dtype == codes
        assert np.array_equal(
            joined, np.concatenate([plain[f"{n}_{part}.quantized"] for n in ("one", "narrow", "thin")])
        )
    assert "narrow_weight.quantized" not in found


def test_rewritten_codes_give_nearly_the_logits_of_the_plain_ones() -> None:
    plain, pixels = int8(inception()), tiny_pixels(16, crop=CROP)
    rewritten = rewrite(plain, BOTH)
    assert rewritten is not None
    expected, found = (run(model, pixels, level=FUSED) for model in (plain, rewritten))
    assert np.abs(found - expected).max() <= 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("first", [(), (Rewrite.SPACE_TO_DEPTH,)], ids=["pixels", "squares"])
def test_signed_pixels_gives_the_same_bits(first: tuple[Rewrite, ...]) -> None:
    plain = int8(inception())
    signed = rewrite(plain, (*first, Rewrite.SIGNED_PIXELS))
    assert signed is not None
    onnx.checker.check_model(signed, full_check=True)
    assert constants(signed)["images.zero_point"].dtype == np.int8
    assert np.array_equal(run(plain, noise(7)), run(signed, noise(7)))


def test_signed_pixels_of_another_zero_point_or_of_floats_is_none() -> None:
    graph = inception()
    darker = replace(graph, preprocess=replace(graph.preprocess, mean=(100.0, 100.0, 100.0)))
    assert constants(int8(darker))["images.zero_point"] == 100
    assert [signed_pixels(model) for model in (int8(darker), lower_fp32(graph))] == [None, None]


def test_signed_pixels_let_openvino_compute_the_first_convolution_on_integers() -> None:
    plain = int8(inception())
    signed = signed_pixels(plain)
    assert signed is not None
    found = [integers_in(model.SerializeToString(), EngineOptions(weight_bits=7)) for model in (plain, signed)]
    rest = "2 of 2 Pooling, 1 of 1 Concatenation"
    assert found == [f"6 of 7 Convolution, {rest}", f"7 of 7 Convolution, {rest}"]


def test_rewrites_leave_the_model_that_they_are_given_alone() -> None:
    plain = int8(inception())
    before = plain.SerializeToString(deterministic=True)
    assert rewrite(plain, BOTH) is not None
    assert plain.SerializeToString(deterministic=True) == before


def test_space_to_depth_of_an_odd_size_is_none() -> None:
    graph = tiny_graph(INCEPTION.replace("32, 32", "31, 31"), shapes=SHAPES, crop=31)
    assert space_to_depth(lower_fp32(graph)) is None
    assert rewrite(lower_fp32(graph), BOTH) is None
    assert rewrite(lower_fp32(graph), BOTH[1:]) is not None


@pytest.mark.parametrize("front", ["images, mean_weight", "mean_weight, images"])
def test_space_to_depth_of_a_network_that_subtracts_a_mean_image_is_none(front: str) -> None:
    text = INCEPTION.replace("{\n", f"{{\n  front = Sub ({front})\n", 1).replace("> (images,", "> (front,")
    model = lower_fp32(inception(text, mean=(1, 3, 32, 32)))
    assert kinds(model)["Sub"] == 2
    assert space_to_depth(model) is None


def test_space_to_depth_of_another_stride_is_none() -> None:
    assert space_to_depth(lower_fp32(inception(INCEPTION.replace("strides = [2, 2], pads = [3", "pads = [3")))) is None


def test_merge_of_nothing_that_is_shared_is_none() -> None:
    assert merge_pointwise(lower_fp32(tiny_graph())) is None


def test_merge_leaves_out_a_branch_with_another_zero_point() -> None:
    plain = int8(inception())
    zero_point = next(each for each in plain.graph.initializer if each.name == "thin.zero_point")
    zero_point.CopyFrom(numpy_helper.from_array(np.uint8(3), "thin.zero_point"))
    merged = merge_pointwise(plain)
    assert merged is not None
    assert {node.name for node in merged.graph.node} >= {"one_conv+narrow_conv", "thin_conv"}
    assert np.array_equal(run(merged, noise(4), "thin.quantized"), run(plain, noise(4), "thin.quantized"))


@pytest.mark.parametrize("rounded", [False, True])
def test_merge_leaves_out_a_branch_with_padding(rounded: bool) -> None:
    text = INCEPTION.replace("pads = [1, 1, 1, 1]> (thin,", "pads = [0, 0, 0, 0]> (thin,")
    text = text.replace("strides = [1, 1], pads = [0, 0, 0, 0]", "strides = [1, 1], pads = [1, 1, 1, 1]")
    plain = (int8 if rounded else lower_fp32)(inception(text))
    merged = merge_pointwise(plain)
    assert merged is not None
    assert {node.name for node in merged.graph.node} >= {"one_conv+narrow_conv", "thin_conv"}
    assert np.abs(run(merged, noise(4)) - run(plain, noise(4))).max() < (1e-2 if rounded else 1e-5)


def test_merge_leaves_out_a_branch_that_stays_float() -> None:
    graph = inception()
    merged = merge_pointwise(lower_int8_cpu(graph, table_of(graph), float_nodes={"thin_conv"}))
    assert merged is not None
    assert {node.name for node in merged.graph.node} >= {"one_conv+narrow_conv", "thin_conv"}


def test_merge_leaves_out_a_convolution_that_something_else_reads() -> None:
    plain = lower_fp32(inception())
    plain.graph.output.append(onnx.helper.make_tensor_value_info("narrow_conv", onnx.TensorProto.FLOAT, None))
    merged = merge_pointwise(plain)
    assert merged is not None
    assert {node.name for node in merged.graph.node} >= {"one_conv+thin_conv", "narrow_conv"}


def test_rewritten_googlenet_runs_on_integers_throughout() -> None:
    graph = whole_googlenet()
    rewritten = rewrite(lower_int8_cpu(graph, table_of(graph, count=8)), BOTH)
    assert rewritten is not None
    census = take_census(rewritten)
    assert missing(rewritten, census) == ()
    counts = census.counts
    assert counts["QLinearConv"] == census.integer("Conv") == 39
    assert counts["NhwcMaxPool"] == census.integer("MaxPool") == 13
    assert counts["QLinearConcat"] == census.integer("Concat") == 9
    assert counts["Split"] == 9
    assert not {"Conv", "MaxPool", "Relu", "Gemm", "QuantizeLinear", "DequantizeLinear"} & set(counts)
    assert all(node.integer for node in census.nodes if node.operator == "Split")


def test_audit_names_a_merged_convolution_that_fell_out() -> None:
    rewritten = merge_pointwise(int8(inception()))
    assert rewritten is not None
    merged = "one_conv+narrow_conv+thin_conv"
    relu = next(node for node in rewritten.graph.node if node.name == f"{merged}.relu")
    rewritten.graph.output.append(onnx.helper.make_tensor_value_info(relu.output[0], onnx.TensorProto.FLOAT, None))
    fallen = missing(rewritten, take_census(rewritten))
    assert any(clause.startswith(f"Conv {merged} stayed float") for clause in fallen), fallen
