"""Weights rounded together: less of what rounding adds to their sums, on codes that the lowered model then has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from test_rescale import logits
from tiny_graph import one_by_one, tiny_graph, tiny_images

from googlenet_edge.calibration.compensate import compensated, window_means
from googlenet_edge.calibration.lower import quantized
from googlenet_edge.calibration.ranges import Ranges
from googlenet_edge.calibration.rescale import channel_extremes
from googlenet_edge.calibration.rounding import rounded_together, rounding_steps
from googlenet_edge.calibration.session import open_session
from googlenet_edge.calibration.weights import WeightRange, layer_weights
from googlenet_edge.calibration.windows import Windows, window_moments, windows_of
from googlenet_edge.statistics import sqnr_db

GRAPH, IMAGES = tiny_graph(), tiny_images(32)


def ranges() -> Mapping[str, Ranges]:
    return {name: found.ranges for name, found in channel_extremes(GRAPH, one_by_one(IMAGES)()).items()}


def test_rounding_two_weights_of_the_same_value_lets_one_take_back_what_the_other_loses() -> None:
    always_equal = np.array([[4.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    found = rounded_together(np.array([[127.0, 0.4, 0.4]]), always_equal, largest=127)
    assert sorted(found[0]) == [0.0, 1.0, 127.0]  # 0.8 of the value in the place of nothing


def test_rounding_takes_the_nearest_codes_where_values_know_nothing_of_each_other() -> None:
    rows = np.random.default_rng(0).normal(0, 30, (16, 40))
    assert np.array_equal(rounded_together(rows, np.diag(np.arange(1.0, 41.0)), largest=127), np.rint(rows))


def test_rounding_of_values_that_never_change_takes_the_nearest_codes() -> None:
    rows = np.random.default_rng(0).normal(0, 30, (4, 9))
    assert np.array_equal(rounded_together(rows, np.zeros((9, 9), np.float32), largest=127), np.rint(rows))


def test_rounding_leaves_a_fraction_of_the_noise_in_sums_with_values_that_move_together() -> None:
    rng = np.random.default_rng(1)
    windows = rng.normal(size=(64, 6)) @ rng.normal(size=(6, 500)) + 0.1 * rng.normal(size=(64, 500))
    rows = rng.normal(0, 20, (32, 64))
    others = rng.normal(size=(64, 6)) @ rng.normal(size=(6, 500))  # not what it was made for

    def noise(codes: NDArray[np.float64], values: NDArray[np.float64]) -> float:
        return float((((codes - rows) @ values) ** 2).mean())

    found, nearest = rounded_together(rows, np.cov(windows), largest=127), np.rint(rows)
    assert noise(found, windows) < noise(nearest, windows) / 20
    assert noise(found, others) < noise(nearest, others) * 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 70), st.sampled_from([64, 127]))
def test_rounding_stays_within_the_codes_and_keeps_the_largest_weight(seed: int, n: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, n))
    rows *= largest / np.abs(rows).max(axis=1, keepdims=True)
    covariance = np.cov(rng.normal(size=(n, 3)) @ rng.normal(size=(3, 50))).astype(np.float32)
    found = rounded_together(rows, covariance, largest=largest)
    assert np.array_equal(found, np.rint(found))
    assert (np.abs(found).max(axis=1) == largest).all()


@pytest.mark.parametrize(("kernel", "stride", "pads"), [(1, 1, 0), (3, 1, 1), (3, 2, 1), (5, 1, 0)])
def test_windows_are_what_a_convolution_multiplies_its_weights_with(kernel: int, stride: int, pads: int) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(1, 4, 5, 5)).astype(np.float32)
    weight = rng.normal(size=(6, 4, kernel, kernel)).astype(np.float32)
    windows = Windows("x", (kernel, kernel), (stride, stride), (pads,) * 4).of(values, rng)
    expected = F.conv2d(torch.from_numpy(values), torch.from_numpy(weight), stride=stride, padding=pads)[0].flatten(1)
    found = weight.reshape(6, -1) @ windows
    assert np.sort(found, axis=1) == pytest.approx(np.sort(expected.numpy(), axis=1), abs=1e-4)


def test_windows_have_the_mean_and_the_covariance_that_images_show() -> None:
    found = window_moments(GRAPH, one_by_one(IMAGES)())
    assert {windows.tensor for windows in found} == {"images", "pool", "flatten"}
    model = onnx.ModelProto()
    model.CopyFrom(GRAPH.model)
    model.graph.output.append(onnx.ValueInfoProto(name="flatten"))
    values = open_session(model).run(["flatten"], {"images": IMAGES})[0]
    moments = found[Windows("flatten")]  # one window an image
    assert moments.mean == pytest.approx(values.mean(axis=0), abs=1e-5)
    assert moments.covariance == pytest.approx(np.cov(values.T, bias=True), abs=1e-5)


@pytest.mark.parametrize("written", ["group = 2", "dilations = [2, 2]", 'auto_pad = "SAME_UPPER"'])
def test_windows_of_a_convolution_that_is_not_plain_are_none(written: str) -> None:
    assert windows_of(onnx.parser.parse_node(f"y = Conv <{written}> (x, w, b)")) is None


@pytest.mark.parametrize("weight_range", WeightRange)
def test_rounding_makes_the_lowered_model_lose_less_on_other_images(weight_range: WeightRange) -> None:
    moments, limits, others = window_moments(GRAPH, one_by_one(IMAGES)()), ranges(), tiny_images(32, seed=9)
    steps, means = rounding_steps(GRAPH, limits, moments, weight_range), window_means(GRAPH, moments)
    ready = compensated(GRAPH, limits, steps=steps, means=means, weight_range=weight_range)
    nearest = compensated(GRAPH, limits, steps={}, means=means, weight_range=weight_range)
    expected = logits(GRAPH.model, others)
    assert sqnr_db(expected, logits(ready.model, others)) > 45 - 6 * (weight_range is WeightRange.REDUCED)
    found = [
        sqnr_db(expected, logits(quantized(graph, limits, weight_range=weight_range), others))
        for graph in (ready, nearest)
    ]
    assert found[0] > found[1]


def test_the_lowered_model_has_the_codes_that_were_chosen() -> None:
    limits = ranges()
    steps = rounding_steps(GRAPH, limits, window_moments(GRAPH, one_by_one(IMAGES)()), WeightRange.FULL)
    model = quantized(compensated(GRAPH, limits, steps=steps, means={}), limits)
    written = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    moved = 0
    for layer in layer_weights(GRAPH, limits, WeightRange.FULL):
        chosen = layer.nearest.codes + steps[layer.node.name]
        assert np.array_equal(written[f"{layer.node.input[1]}.quantized"], chosen)
        moved += int((chosen != layer.nearest.codes).sum())
    assert moved > 20  # or nothing is shown


def test_steps_past_the_last_code_end_there() -> None:
    far = {"left_conv": np.full((8, 8, 1, 1), 127, np.int8)}
    model = quantized(compensated(GRAPH, ranges(), steps=far, means={}), ranges())
    written = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert written["left_weight.quantized"].max() == 127
