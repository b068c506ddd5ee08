"""Weights rounded together: less of what rounding adds to their sums, on codes that the lowered model then has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from test_choose import images_in
from test_rescale import extremes_of, logits, moments_of
from tiny_graph import SHAPES, TINY, one_by_one, table_of, tiny_graph, tiny_images

from googlenet_edge.calibration.calibrate import calibrate
from googlenet_edge.calibration.extremes import flat, joined, stacked
from googlenet_edge.calibration.lower import lower_int8_cpu, prepared, quantized, rescaled_by
from googlenet_edge.calibration.lower_tensorrt import lower_implicit_tensorrt, lower_int8_tensorrt
from googlenet_edge.calibration.ranges import Ranges
from googlenet_edge.calibration.rescale import rescale_factors, rescaled, rescaled_moments
from googlenet_edge.calibration.rounding import compensated, rounded_together, rounding_steps, window_means
from googlenet_edge.calibration.session import open_session
from googlenet_edge.calibration.table import CalibrationTable, Rounding, encode_floats, encode_steps
from googlenet_edge.calibration.weights import WeightRange, layer_weights
from googlenet_edge.calibration.windows import Windows, triangle_of, window_moments, windows_of
from googlenet_edge.engines.sensitivity import noise

GRAPH, IMAGES = tiny_graph(), tiny_images(32)


def ranges() -> Mapping[str, Ranges]:
    return {name: found.ranges for name, found in extremes_of(GRAPH, IMAGES).items()}


def random_rows(seed: int, shape: tuple[int, int], deviation: float) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, deviation, shape).astype(np.float32)


def test_rounding_two_weights_of_the_same_value_lets_one_take_back_what_the_other_loses() -> None:
    always_equal = np.array([[4.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    found = rounded_together(np.array([[127.0, 0.4, 0.4]], np.float32), triangle_of(always_equal), largest=127)
    assert sorted(found[0]) == [0.0, 1.0, 127.0]  # 0.8 of the value in the place of nothing


def test_rounding_takes_the_nearest_codes_where_values_know_nothing_of_each_other() -> None:
    rows, apart = random_rows(0, (16, 40), 30), triangle_of(np.diag(np.arange(1.0, 41.0)))
    assert np.array_equal(rounded_together(rows, apart, largest=127), np.rint(rows))


@pytest.mark.parametrize("covariance", [np.zeros((9, 9)), np.eye(9) - 1, 2 - np.eye(9), np.full((9, 9), np.nan)])
def test_rounding_by_what_is_no_covariance_takes_the_nearest_codes(covariance: NDArray[np.float64]) -> None:
    rows, triangle = random_rows(0, (4, 9), 30), triangle_of(covariance.astype(np.float32))
    assert np.array_equal(rounded_together(rows, triangle, largest=127), np.rint(rows))


def test_the_triangle_leaves_values_that_know_nothing_of_each_other() -> None:
    rng = np.random.default_rng(4)
    covariance = np.cov(rng.normal(size=(30, 5)) @ rng.normal(size=(5, 400)) + rng.normal(size=(30, 400)))
    found = triangle_of(covariance)
    damped = (covariance + 0.01 * covariance.trace() / 30 * np.eye(30))[np.ix_(found.order, found.order)]
    inverse = np.linalg.inv(found.lower.astype(np.float64))
    apart = inverse @ damped @ inverse.T
    assert np.diag(np.diag(apart)) == pytest.approx(apart, abs=1e-4)
    assert np.array_equal(found.lower, np.tril(found.lower))
    assert (np.diff(covariance.diagonal()[found.order]) >= 0).all()


@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["as they are", "times factors"])
def test_rounding_leaves_a_fraction_of_the_noise_in_sums_with_values_that_move_together(spread: float) -> None:
    rng, rows = np.random.default_rng(1), random_rows(1, (32, 64), 20)
    factor = np.exp(spread * rng.normal(size=64))
    windows = rng.normal(size=(64, 6)) @ rng.normal(size=(6, 500)) + 0.1 * rng.normal(size=(64, 500))
    triangle = triangle_of(np.cov(windows)).times(factor.astype(np.float32))
    windows = windows * factor[:, None]
    others = factor[:, None] * (rng.normal(size=(64, 6)) @ rng.normal(size=(6, 500)))  # not what it was made for

    def noise(codes: NDArray[np.float32], values: NDArray[np.float64]) -> float:
        return float((((codes - rows) @ values) ** 2).mean())

    found, nearest = rounded_together(rows, triangle, largest=127), np.rint(rows)
    assert noise(found, windows) < noise(nearest, windows) / 20
    assert noise(found, others) < noise(nearest, others) * 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 70), st.sampled_from([64, 127]))
def test_rounding_stays_within_the_codes_and_keeps_the_largest_weight(seed: int, n: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, n)).astype(np.float32)
    rows *= largest / np.abs(rows).max(axis=1, keepdims=True)
    triangle = triangle_of(np.cov(rng.normal(size=(n, 3)) @ rng.normal(size=(3, 50))))
    found = rounded_together(rows, triangle, largest=largest)
    at = np.arange(5), np.abs(rows).argmax(axis=1)
    assert np.array_equal(found, np.rint(found))
    assert np.array_equal(found[at], np.rint(rows[at]))
    assert np.abs(found).max() == largest


@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [
        ((1, 1), (1, 1), (0, 0, 0, 0)),
        ((3, 3), (2, 2), (1, 1, 1, 1)),
        ((1, 4), (2, 1), (0, 1, 0, 2)),
        ((5, 2), (1, 2), (2, 0, 1, 0)),
    ],
)
def test_windows_are_what_a_convolution_multiplies_its_weights_with(
    kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int]
) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(1, 4, 5, 6)).astype(np.float32)
    weight = rng.normal(size=(6, 4, *kernel)).astype(np.float32)
    windows = Windows("x", kernel, strides, pads).of(values, rng)
    top, left, bottom, right = pads
    padded = F.pad(torch.from_numpy(values), (left, right, top, bottom))
    expected = F.conv2d(padded, torch.from_numpy(weight), stride=strides)[0].flatten(1).numpy()
    assert np.sort(weight.reshape(6, -1) @ windows, axis=1) == pytest.approx(np.sort(expected, axis=1), abs=1e-4)


def test_windows_of_a_large_image_are_some_of_all() -> None:
    values = np.arange(900, dtype=np.float32).reshape(1, 1, 30, 30)
    found = Windows("x").of(values, np.random.default_rng(0))
    assert found.shape == (1, 32)
    assert len(set(found[0])) == 32


def test_windows_have_the_mean_and_the_covariance_that_images_show() -> None:
    found = moments_of(GRAPH, IMAGES)
    assert {windows.tensor for windows in found} == {"images", "pool", "flatten"}
    model = onnx.ModelProto()
    model.CopyFrom(GRAPH.model)
    model.graph.output.append(onnx.ValueInfoProto(name="flatten"))
    values = open_session(model).run(["flatten"], {"images": IMAGES})[0]
    moments = found[Windows("flatten")]  # one window an image
    assert moments.mean == pytest.approx(values.mean(axis=0), abs=1e-5)
    expected = triangle_of(np.cov(values.T, bias=True))
    assert np.array_equal(moments.triangle.order, expected.order)
    assert moments.triangle.lower == pytest.approx(expected.lower, abs=1e-4)


def test_window_moments_come_with_the_extremes_of_the_same_images() -> None:
    images = tiny_images(19)  # more than are looked at together
    _, each = window_moments(GRAPH, one_by_one(images)())
    assert len(each) == 19
    found = joined(each)
    alike = stacked([flat(one) for one in each], like=found)
    assert all(np.array_equal(alike[n].low[7], each[7][n].low) for n in found)
    assert all(np.array_equal(alike[n].high[18], each[18][n].high) for n in found)
    expected = extremes_of(GRAPH, images)
    assert found.keys() == expected.keys()
    for name, channels in found.items():
        assert channels.high == pytest.approx(expected[name].high, rel=1e-5), name
        assert channels.low == pytest.approx(expected[name].low, rel=1e-5), name


@pytest.mark.parametrize("written", ["group = 2", "dilations = [2, 2]", 'auto_pad = "SAME_UPPER"'])
def test_windows_of_a_convolution_that_is_not_plain_are_none(written: str) -> None:
    assert windows_of(onnx.parser.parse_node(f"y = Conv <{written}> (x, w, b)"), {"w": np.ones((4, 4, 3, 3))}) is None


@pytest.mark.parametrize(("channels", "known"), [(512, True), (513, False)])
def test_windows_of_more_values_than_fit_are_none(channels: int, known: bool) -> None:
    node = onnx.parser.parse_node("y = Conv <kernel_shape = [3, 3]> (x, w, b)")
    assert (windows_of(node, {"w": np.ones((1, channels, 3, 3), np.float32)}) is not None) == known


@pytest.mark.parametrize("weight_range", WeightRange)
def test_rounding_makes_the_lowered_model_lose_less_on_other_images(weight_range: WeightRange) -> None:
    moments, limits, others = moments_of(GRAPH, IMAGES), ranges(), tiny_images(32, seed=9)
    steps, means = rounding_steps(GRAPH, limits, moments, weight_range), window_means(GRAPH, moments)
    ready = compensated(GRAPH, limits, steps=steps, means=means, weight_range=weight_range)
    nearest = compensated(GRAPH, limits, steps={}, means=means, weight_range=weight_range)
    expected = logits(GRAPH.model, others)
    assert noise(expected, logits(ready.model, others)).sqnr_db > 45 - 6 * (weight_range is WeightRange.REDUCED)
    found = [
        noise(expected, logits(quantized(graph, limits, weight_range=weight_range), others)).sqnr_db
        for graph in (ready, nearest)
    ]
    assert found[0] > found[1]


def test_the_lowered_model_has_the_codes_that_were_chosen() -> None:
    limits = ranges()
    steps = rounding_steps(GRAPH, limits, moments_of(GRAPH, IMAGES), WeightRange.FULL)
    model = quantized(compensated(GRAPH, limits, steps=steps, means={}), limits)
    written = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    moved = 0
    for layer in layer_weights(GRAPH, limits, WeightRange.FULL):
        chosen = layer.nearest.codes + steps[layer.node.name]
        assert np.array_equal(written[f"{layer.node.input[1]}.quantized"], chosen)
        moved += int((chosen != layer.nearest.codes).sum())
    assert moved > 20  # or nothing is shown


def test_steps_past_the_last_code_end_there() -> None:
    limits, far = ranges(), {"left_conv": np.full((8, 8, 1, 1), 60, np.int8)}
    nearest, found = (
        {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        for model in (quantized(compensated(GRAPH, limits, steps=steps, means={}), limits) for steps in ({}, far))
    )
    expected = np.minimum(nearest["left_weight.quantized"].astype(int) + 60, 127)
    positive = nearest["left_weight.quantized"].max(axis=(1, 2, 3)) == 127  # rows whose largest weight stays so
    assert positive.any()
    assert np.array_equal(found["left_weight.quantized"][positive], expected[positive])


def test_windows_of_a_rescaled_graph_are_known() -> None:
    moments = moments_of(GRAPH, IMAGES)
    factors = rescale_factors(GRAPH, extremes_of(GRAPH, IMAGES), strength=1.0)
    known, measured = (
        rescaled_moments(GRAPH, moments, factors),
        moments_of(rescaled(GRAPH, factors), IMAGES),
    )
    of_channels = {
        "images": np.ones(3, np.float32),
        "pool": factors["stem_conv"],
        "flatten": np.concatenate([factors["left_conv"], factors["right_conv"]]),
    }
    assert known.keys() == measured.keys()
    for windows, found in measured.items():
        assert known[windows].mean == pytest.approx(found.mean, rel=1e-3, abs=1e-4)
        factor = of_channels[windows.tensor]
        expected = np.repeat(factor, len(found.mean) // len(factor))  # once for each place under the kernel
        assert np.array_equal(known[windows].triangle.factor, expected)


def test_the_first_layer_is_left_alone_where_colours_have_their_own_deviations() -> None:
    colours = replace(GRAPH, preprocess=replace(GRAPH.preprocess, std=(127.5, 120.0, 127.5)))
    moments, others = moments_of(GRAPH, IMAGES), {"left_conv", "right_conv", "logits"}
    assert rounding_steps(colours, ranges(), moments, WeightRange.FULL).keys() == others
    assert window_means(colours, moments).keys() == others


def test_a_layer_whose_values_hardly_vary_is_rounded_all_the_same() -> None:
    weights = GRAPH.weights
    still = GRAPH.with_weights(
        {name: np.zeros_like(weights[name]) for name in ("left_weight", "right_weight")}
        | {name: np.full_like(weights[name], 0.3) for name in ("left_bias", "right_bias")}
    )
    moments, limits = moments_of(still, IMAGES), ranges()
    steps = rounding_steps(still, limits, moments, WeightRange.FULL)
    assert not steps["logits"].any()
    expected = still.model
    found = compensated(still, limits, steps=steps, means=window_means(still, moments))
    assert logits(found.model, IMAGES) == pytest.approx(logits(expected, IMAGES), abs=1e-3)


@pytest.mark.parametrize("layer", ["group = 8", "group = 2", "dilations = [2, 2]"])
def test_a_graph_with_other_convolutions_is_calibrated_by_trial(layer: str, tmp_path: Path) -> None:
    kernel = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"
    padding = "[2, 2, 2, 2]" if "dilations" in layer else "[1, 1, 1, 1]"
    other = f"right_conv = Conv <kernel_shape = [3, 3], pads = {padding}, {layer}>"
    text = TINY.replace(f"right_conv = Conv <{kernel}>", other)
    assert text != TINY
    groups = int(layer.split("=")[1]) if "group" in layer else 1
    graph = tiny_graph(text, shapes=SHAPES | {"right": (8, 8 // groups, 3, 3)})
    table = calibrate(graph, images_in(tmp_path, 50))
    assert table.choice is not None
    assert "right_conv" not in table.rounding
    others = tiny_images(16, seed=3)
    assert noise(logits(graph.model, others), logits(lower_int8_cpu(graph, table), others)).sqnr_db > 30


def test_a_classifier_that_reads_a_row_for_each_place_is_calibrated_by_trial(tmp_path: Path) -> None:
    """Rows of the channels of a place, as `Conv` of 1×1 is written by some; and constants that are no weights."""
    rows = (
        "turned = Transpose <perm = [0, 2, 3, 1]> (block) flatten = Reshape (turned, rows_shape)"
        " scores = Gemm <transB = 1> (flatten, fc_weight, fc_bias)"
        " planes = Reshape (scores, planes_shape) logits = ReduceMean <axes = [1], keepdims = 0> (planes)"
    )
    text = TINY[: TINY.index("  avgpool")] + rows + "\n}"
    shapes = "int64[2] rows_shape = {-1, 16}, int64[3] planes_shape = {-1, 64, 3}"
    graph = tiny_graph(text.replace("(float[N, 3] logits) {", f"(float[N, 3] logits) <{shapes}> {{"))
    table = calibrate(graph, images_in(tmp_path, 50))
    assert "scores" in table.means
    others = tiny_images(16, seed=3)
    assert noise(logits(graph.model, others), logits(lower_int8_cpu(graph, table), others)).sqnr_db > 30


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    """By min/max, with weights rounded together and corrected biases."""
    found, moments = table_of(GRAPH, count=32), moments_of(GRAPH, IMAGES)
    full, reduced = (rounding_steps(GRAPH, found.ranges, moments, each) for each in WeightRange)
    assert all(each.any() for each in full.values())  # or nothing is shown
    return replace(
        found,
        rounding={name: Rounding(encode_steps(full[name]), encode_steps(reduced[name])) for name in full},
        means={name: encode_floats(mean) for name, mean in window_means(GRAPH, moments).items()},
    )


@pytest.mark.parametrize("weight_range", WeightRange)
def test_the_table_has_codes_for_both_ranges_of_weights(table: CalibrationTable, weight_range: WeightRange) -> None:
    others = tiny_images(64, seed=78)
    expected = logits(GRAPH.model, others)
    nearest = {name: Rounding(*[encode_steps(np.zeros_like(each))] * 2) for name, each in steps_of(table).items()}
    found = [
        noise(expected, logits(prepared(GRAPH, each, weight_range=weight_range).model, others)).sqnr_db
        for each in (table, replace(table, rounding=nearest))
    ]
    assert found[0] > found[1] + 1.5


def steps_of(table: CalibrationTable) -> dict[str, NDArray[np.int8]]:
    return table.steps(WeightRange.FULL)


def test_layer_that_stays_float_keeps_its_weights_on_a_dla(table: CalibrationTable) -> None:
    def weights(stay: set[str]) -> dict[str, NDArray[np.generic]]:
        model = lower_implicit_tensorrt(GRAPH, table, float_nodes=stay)
        return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}

    before = {each.name: numpy_helper.to_array(each) for each in GRAPH.model.graph.initializer}
    stays, all_on_integers = weights({"stem_conv"}), weights(set())
    for name in ("stem_weight", "stem_bias"):
        assert np.array_equal(stays[name], before[name])
        assert not np.array_equal(all_on_integers[name], before[name])


def test_tensorrt_gets_the_codes_that_were_chosen(table: CalibrationTable) -> None:
    model, steps = lower_int8_tensorrt(GRAPH, table), steps_of(table)
    written = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for layer in layer_weights(rescaled_by(GRAPH, table), table.ranges, WeightRange.FULL):
        chosen, name = layer.nearest.codes + steps[layer.node.name].reshape(layer.weight.shape), layer.node.input[1]
        scales = written[f"{name}.scale"].reshape(-1, *[1] * (chosen.ndim - 1))
        assert np.array_equal(np.rint(written[f"{name}.rounded"] / scales), chosen)
