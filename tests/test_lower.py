"""Lowered graphs: what they compute, and that they are what the placement says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_graph import table_of, tiny_graph, tiny_pixels, whole_googlenet

from googlenet_edge.calibration.lower import lower_fp16_storage, lower_fp32, lower_int8_cpu
from googlenet_edge.calibration.lower_tensorrt import lower_fp16_tensorrt
from googlenet_edge.calibration.ranges import RangeMethod, covering_grid
from googlenet_edge.calibration.session import open_session
from googlenet_edge.calibration.weights import WeightRange, quantize_weights, weight_range_for
from googlenet_edge.errors import CalibrationError, LoweringError
from googlenet_edge.processor import Processor

UNFUSED = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
FUSED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def logits(model: onnx.ModelProto, pixels: NDArray[np.uint8], level: object = FUSED) -> NDArray[np.float32]:
    return open_session(model, level).run(["logits"], {"pixels": pixels})[0]


def signal_to_noise_db(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return 10 * float(np.log10((expected**2).sum() / ((expected - found) ** 2).sum()))


@pytest.mark.parametrize("method", RangeMethod)
def test_lower_int8_stays_close_to_fp32(method: RangeMethod) -> None:
    graph, pixels = tiny_graph(), tiny_pixels(64, seed=5)
    lowered = lower_int8_cpu(graph, table_of(graph, method=method))
    assert signal_to_noise_db(logits(lower_fp32(graph), pixels), logits(lowered, pixels)) > 30


def test_lower_int8_computes_the_same_fused_and_unfused() -> None:
    graph, pixels = tiny_graph(), tiny_pixels(16, seed=5)
    lowered = lower_int8_cpu(graph, table_of(graph))
    unfused, fused = logits(lowered, pixels, UNFUSED), logits(lowered, pixels, FUSED)
    # The two round halves in other places, so that a code may differ by one here and there.
    assert signal_to_noise_db(unfused, fused) > 40


def test_lower_int8_gives_the_same_bytes_for_the_same_graph_and_table() -> None:
    one, other = (lower_int8_cpu(tiny_graph(), table_of(tiny_graph())) for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_lower_int8_puts_one_quantization_on_every_tensor_with_a_grid() -> None:
    lowered = lower_int8_cpu(tiny_graph(), table_of(tiny_graph()))
    onnx.checker.check_model(lowered, full_check=True)
    quantized = [n.input[0] for n in lowered.graph.node if n.op_type == "QuantizeLinear"]
    assert sorted(quantized) == sorted(["stem", "pool", "left", "right", "block", "avgpool", "flatten"])
    for node in lowered.graph.node:
        if node.op_type not in {"Transpose", "QuantizeLinear", "DequantizeLinear", "Relu"}:
            assert node.input[0].endswith(".dequantized")


def test_lower_int8_gives_relu_outputs_zero_point_zero() -> None:
    lowered = lower_int8_cpu(tiny_graph(), table_of(tiny_graph()))
    values = {i.name: numpy_helper.to_array(i) for i in lowered.graph.initializer}
    assert values["stem.zero_point"] == values["block.zero_point"] == values["avgpool.zero_point"] == 0
    assert values["images.zero_point"] == 128
    assert "pool.scale" not in values  # it shares stem.scale by name
    assert "left.scale" not in values  # it shares block.scale


def test_lower_int8_runs_any_batch() -> None:
    lowered = lower_int8_cpu(tiny_graph(), table_of(tiny_graph()))
    pixels = tiny_pixels(5)
    assert np.array_equal(logits(lowered, pixels)[3:4], logits(lowered, pixels[3:4]))


def test_lower_int8_refuses_the_table_of_another_graph() -> None:
    with pytest.raises(CalibrationError, match="belongs to the graph .* calibrate this graph"):
        lower_int8_cpu(tiny_graph(seed=1), table_of(tiny_graph(seed=0)))


def test_lower_int8_names_a_tensor_that_the_table_lacks() -> None:
    table = table_of(tiny_graph())
    without = replace(table, tensors={n: t for n, t in table.tensors.items() if n != "block"})
    with pytest.raises(CalibrationError, match=r"table does not fit the graph \('block'\); calibrate again"):
        lower_int8_cpu(tiny_graph(), without)


def test_lower_int8_quarters_the_file() -> None:
    graph = whole_googlenet()
    lowered = lower_int8_cpu(graph, table_of(graph, count=8))
    assert len(lowered.SerializeToString()) < 0.27 * len(graph.bytes)


@pytest.mark.parametrize("lower", [lower_fp16_tensorrt, lower_fp16_storage])
def test_lower_fp16_halves_the_file_and_keeps_the_logits(lower: object) -> None:
    graph, pixels = whole_googlenet(), tiny_pixels(4, crop=64)
    lowered = lower(graph)  # type: ignore[operator]
    onnx.checker.check_model(lowered, full_check=True)
    assert len(lowered.SerializeToString()) < 0.51 * len(graph.bytes)
    assert signal_to_noise_db(logits(lower_fp32(graph), pixels), logits(lowered, pixels)) > 30


def test_lower_fp16_computes_in_float16_and_storage_in_float32() -> None:
    for lower, expected in (
        (lower_fp16_tensorrt, onnx.TensorProto.FLOAT16),
        (lower_fp16_storage, onnx.TensorProto.FLOAT),
    ):
        inferred = onnx.shape_inference.infer_shapes(lower(tiny_graph()))
        types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
        assert types["stem"] == types["block"] == types["flatten"] == expected
        assert inferred.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_lower_fp16_names_a_weight_beyond_its_range() -> None:
    graph = tiny_graph()
    bias = next(w for w in graph.model.graph.initializer if w.name == "left_bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(8, 7e4, dtype=np.float32), "left_bias"))
    with pytest.raises(LoweringError, match=r"the weight left_bias reaches 7e\+04, float16 ends at 65504"):
        lower_fp16_tensorrt(graph)


@given(st.floats(-1e6, 0), st.floats(1e-6, 1e6))
@example(-5e-324, 510.0)
@example(-1e6, 1e-300)
def test_covering_grid_reaches_both_ends_and_is_hardly_coarser(low: float, high: float) -> None:
    scale, zero_point = covering_grid(low, high)
    assert 0 <= zero_point <= 255
    assert zero_point * scale >= -low * (1 - 1e-9)
    assert (255 - zero_point) * scale >= high * (1 - 1e-9)
    assert scale <= (high - low) / 254 * (1 + 1e-9)


@given(st.floats(-1e3, -1e-3))
def test_covering_grid_of_nothing_above_zero_ends_at_the_last_code(low: float) -> None:
    assert covering_grid(1.3 * low, 0.0)[1] == 255


def test_covering_grid_of_a_relu_output_spends_every_code_above_zero() -> None:
    assert covering_grid(0.0, 5.1) == (pytest.approx(0.02), 0)


@given(st.integers(0, 2**32 - 1), st.sampled_from(WeightRange), st.floats(1e-6, 1e3))
@settings(max_examples=50, deadline=None)
def test_weights_come_back_within_half_a_step(seed: int, weight_range: WeightRange, input_scale: float) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(6, 4, 3, 3)) * 10.0 ** rng.uniform(-4, 2, (6, 1, 1, 1))).astype(np.float32)
    bias = (rng.normal(size=6) * 10.0 ** rng.uniform(-4, 4, 6)).astype(np.float32)
    found = quantize_weights(weight, bias, input_scale=np.float32(input_scale), weight_range=weight_range)
    assert np.abs(found.codes.astype(int)).max() <= weight_range.value
    steps = found.scale.astype(np.float64)
    restored = found.codes * steps[:, None, None, None]
    assert (np.abs(restored - weight).reshape(6, -1).max(axis=1) <= 0.501 * steps).all()
    restored_bias = found.bias_codes * found.bias_scale.astype(np.float64)
    tolerance = 0.501 * found.bias_scale + 1e-6 * np.abs(bias)
    assert (np.abs(restored_bias - bias) <= tolerance).all()
    assert np.array_equal(found.bias_scale, np.float32(input_scale) * found.scale)


def test_weights_of_a_dead_channel_keep_its_bias() -> None:
    weight = np.zeros((3, 2, 1, 1), dtype=np.float32)
    weight[1] = 1e-20
    bias = np.array([0.0, 5.0, -3.0], dtype=np.float32)
    found = quantize_weights(weight, bias, input_scale=np.float32(0.01), weight_range=WeightRange.FULL)
    assert np.allclose(found.bias_codes * found.bias_scale.astype(np.float64), bias, rtol=1e-6)
    assert np.isfinite(found.scale).all()
    assert found.scale.min() > 0


@pytest.mark.parametrize(("saturates", "expected"), [(True, WeightRange.REDUCED), (False, WeightRange.FULL)])
def test_weight_range_leaves_room_where_sums_saturate(saturates: bool, expected: WeightRange) -> None:
    assert weight_range_for(Processor(x86=True, instructions=frozenset(() if saturates else ["avx_vnni"]))) is expected
