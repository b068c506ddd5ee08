"""Graphs lowered for TensorRT: where their pairs stand, and what they compute in ONNX Runtime, unoptimized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_graph import TINY, table_of, tiny_graph, tiny_pixels

from googlenet_edge.calibration.lower import lower_fp32
from googlenet_edge.calibration.lower_tensorrt import (
    OPSETS,
    in_opset,
    lower_fp16_tensorrt,
    lower_fp32_tensorrt,
    lower_implicit_tensorrt,
    lower_int8_tensorrt,
    with_dla_head,
)
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.errors import CalibrationError, LoweringError
from googlenet_edge.graph import InferenceGraph, attributes_of
from googlenet_edge.preprocess import Preprocess

Lower = Callable[[InferenceGraph], onnx.ModelProto]
LOWERINGS: dict[str, Lower] = {
    "fp32": lower_fp32_tensorrt,
    "fp16": lower_fp16_tensorrt,
    "int8": lambda graph: lower_int8_tensorrt(graph, table_of(graph)),
    "fp16 for a DLA": lambda graph: lower_fp16_tensorrt(with_dla_head(graph)),
    "int8 by a cache": lambda graph: lower_implicit_tensorrt(graph, table_of(graph)),
}


def run(model: onnx.ModelProto, pixels: NDArray[np.uint8], output: str = "logits") -> NDArray[np.generic]:
    """One tensor of a model, computed node by node: every rounding that the file says, and no other."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if output != "logits":
        copy.graph.output.append(onnx.ValueInfoProto(name=output))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {"pixels": pixels})[0])


def sqnr_db(expected: NDArray[np.generic], found: NDArray[np.generic]) -> float:
    noise = float(((expected - found) ** 2).sum())
    return 10 * float(np.log10((expected**2).sum() / max(noise, 1e-30)))


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("form", LOWERINGS)
def test_every_form_is_valid_in_every_opset_and_keeps_the_logits(form: str, opset: int) -> None:
    lowered, pixels = in_opset(LOWERINGS[form](tiny_graph()), opset), tiny_pixels(32, seed=5)
    onnx.checker.check_model(lowered, full_check=True)
    oldest_parser = onnx.helper.find_min_ir_version_for(lowered.opset_import)
    assert (lowered.opset_import[0].version, lowered.ir_version) == (opset, oldest_parser)
    assert sqnr_db(run(lower_fp32(tiny_graph()), pixels), run(lowered, pixels)) > 30


@pytest.mark.parametrize("form", LOWERINGS)
def test_nothing_but_a_cast_reads_the_pixels(form: str) -> None:
    lowered = LOWERINGS[form](tiny_graph())
    assert [node.op_type for node in lowered.graph.node if "pixels" in node.input] == ["Cast"]


def test_pairs_stand_on_what_convolutions_and_the_classifier_read_and_nowhere_else() -> None:
    nodes = lower_int8_tensorrt(tiny_graph(), table_of(tiny_graph())).graph.node
    rounded = [n.input[0] for n in nodes if n.op_type == "QuantizeLinear"]
    assert [name for name in rounded if "weight" not in name] == ["images", "pool", "flatten"]
    for node in nodes:
        weighted = node.op_type in ("Conv", "Gemm")
        assert all(name.endswith(".dequantized") == weighted for name in node.input[:1]) or "Linear" in node.op_type


def test_pooling_and_flattening_share_the_grid_of_what_they_copy() -> None:
    nodes = {n.name: n for n in lower_int8_tensorrt(tiny_graph(), table_of(tiny_graph())).graph.node}
    assert nodes["pool.quantize"].input[1] == "stem.scale"
    assert nodes["flatten.quantize"].input[1] == "avgpool.scale"


PARALLEL_POOL = TINY.replace(
    "right_conv = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pool,",
    "again = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pool)\n"
    "  right_conv = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (again,",
)


def test_a_pool_beside_convolutions_reads_the_codes_that_they_read() -> None:
    graph = tiny_graph(PARALLEL_POOL)
    nodes = {n.name: n for n in lower_int8_tensorrt(graph, table_of(graph)).graph.node}
    assert nodes["again"].input[0] == nodes["left_conv"].input[0] == "pool.dequantized"
    assert nodes["again.quantize"].input[1] == nodes["pool.quantize"].input[1] == "stem.scale"


@pytest.mark.parametrize("method", RangeMethod)
def test_grids_are_symmetric_and_from_the_table(method: RangeMethod) -> None:
    table = table_of(tiny_graph(), method=method)
    values = constants(lower_int8_tensorrt(tiny_graph(), table))
    assert values["stem.scale"] == np.float32(table.ranges["stem"].amax / 127)
    assert values["zero_point"].dtype == values["left_weight.zero_point"].dtype == np.int8
    assert not values["zero_point"].any()
    assert not values["left_weight.zero_point"].any()


def test_weights_are_rounded_by_channel_and_biases_stay_float() -> None:
    """TensorRT up to 8.4 takes no constant of s8."""
    graph = tiny_graph()
    values, weights = constants(lower_int8_tensorrt(graph, table_of(graph))), graph.weights
    assert (values["left_weight.rounded"].dtype, values["left_weight.scale"].shape) == (np.float32, (8,))
    steps = values["left_weight.scale"][:, None, None, None]
    assert np.allclose(values["left_weight.rounded"] / steps, np.rint(values["left_weight.rounded"] / steps), atol=1e-4)
    assert (np.abs(values["left_weight.rounded"] - weights["left_weight"]) <= 0.501 * steps).all()
    assert not any(value.dtype == np.int8 and value.any() for value in values.values())
    assert np.array_equal(values["left_bias"], weights["left_bias"])
    assert "left_weight" not in values


def test_a_channel_of_zeros_has_a_scale_that_divides() -> None:
    weight = tiny_graph().weights["left_weight"].copy()
    weight[2] = 0
    graph = tiny_graph().with_weights({"left_weight": weight})
    values = constants(lower_int8_tensorrt(graph, table_of(graph)))
    assert (values["left_weight.scale"] > 0).all()
    assert not values["left_weight.rounded"][2].any()


def test_pixels_are_codes_where_the_normalization_can_be_moved() -> None:
    lowered, pixels = lower_int8_tensorrt(tiny_graph(), table_of(tiny_graph())), tiny_pixels(2)
    codes = run(lowered, pixels, "images.quantized")
    assert np.array_equal(codes, pixels.transpose(0, 3, 1, 2).astype(int) - 128)


@pytest.mark.parametrize("mean", [(123.675, 116.28, 103.53), (100.0, 100.0, 100.0)])
def test_pixels_are_normalized_where_their_middle_is_no_zero_point(mean: tuple[float, float, float]) -> None:
    """Because the channels have means far apart, or means that are not 128."""
    graph = replace(tiny_graph(), preprocess=Preprocess(resize=16, crop=16, mean=mean, std=(58.4, 57.1, 57.4)))
    table, pixels = table_of(graph), tiny_pixels(16)
    lowered = lower_int8_tensorrt(graph, table)
    assert constants(lowered)["images.scale"] == np.float32(table.ranges["images"].amax / 127)
    assert sqnr_db(run(lower_fp32(graph), pixels), run(lowered, pixels)) > 30


def test_a_node_that_is_to_stay_float_keeps_its_weights() -> None:
    graph = tiny_graph()
    values = constants(lower_int8_tensorrt(graph, table_of(graph), float_nodes={"logits"}))
    assert np.array_equal(values["fc_weight"], graph.weights["fc_weight"])
    assert "flatten.scale" not in values
    assert "avgpool.scale" not in values


def test_the_table_of_another_graph_is_refused() -> None:
    for lower in (lower_int8_tensorrt, lower_implicit_tensorrt):
        with pytest.raises(CalibrationError, match="belongs to the graph .* calibrate this graph"):
            lower(tiny_graph(seed=1), table_of(tiny_graph(seed=0)))


def test_a_tensor_that_the_table_lacks_is_named() -> None:
    table = table_of(tiny_graph())
    without = replace(table, tensors={n: t for n, t in table.tensors.items() if n != "stem"})
    with pytest.raises(CalibrationError, match=r"table does not fit the graph \('stem'\); calibrate again"):
        lower_int8_tensorrt(tiny_graph(), without)


def test_the_head_for_a_dla_has_only_operators_that_it_runs() -> None:
    lowered = lower_fp32_tensorrt(with_dla_head(tiny_graph()))
    nodes = {node.name: node for node in lowered.graph.node}
    assert attributes_of(nodes["avgpool"]) == {"kernel_shape": [8, 8], "count_include_pad": 1}
    last = [node.op_type for node in lowered.graph.node[-3:]]
    assert last == ["AveragePool", "Conv", "Flatten"]
    assert not {"GlobalAveragePool", "Gemm"} & {node.op_type for node in lowered.graph.node}


def test_a_graph_with_another_head_has_no_form_for_a_dla() -> None:
    graph = tiny_graph(TINY.replace("GlobalAveragePool", "GlobalMaxPool"))
    with pytest.raises(LoweringError, match="does not end with GlobalAveragePool, Flatten and Gemm.*; use the GPU"):
        with_dla_head(graph)


def test_the_same_graph_and_table_give_the_same_bytes() -> None:
    one, other = (lower_int8_tensorrt(tiny_graph(), table_of(tiny_graph())) for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
