"""Channel rescale and bias correction: the same function, and less noise in INT8."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tiny_graph import one_by_one, tiny_graph, tiny_images, whole_googlenet

from googlenet_edge.calibration.extremes import ChannelExtremes, joined, observations
from googlenet_edge.calibration.lower import quantized
from googlenet_edge.calibration.placement import grids
from googlenet_edge.calibration.rescale import (
    LARGEST_FACTOR,
    rescale_factors,
    rescaled,
    rescaled_extremes,
)
from googlenet_edge.calibration.rounding import compensated, window_means
from googlenet_edge.calibration.session import open_session
from googlenet_edge.calibration.windows import Moments, Windows, window_moments
from googlenet_edge.engines.sensitivity import noise
from googlenet_edge.graph import InferenceGraph


def logits(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of a float model, or of a lowered one, which takes the pixels."""
    session = open_session(model)
    name = session.get_inputs()[0].name
    pixels = np.rint((images + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    found: NDArray[np.float32] = session.run(["logits"], {name: images if name == "images" else pixels})[0]
    return found


def extremes_of(graph: InferenceGraph, images: NDArray[np.float32]) -> Mapping[str, ChannelExtremes]:
    return joined(each.extremes for each in observations(graph, one_by_one(images)()))


def moments_of(graph: InferenceGraph, images: NDArray[np.float32]) -> Mapping[Windows, Moments]:
    found, _ = window_moments(graph, one_by_one(images)())
    return found


def uneven(graph: InferenceGraph, *, factor: float) -> InferenceGraph:
    """One channel of the stem is ``factor`` times larger than the others, and counts as much as they do."""
    weights = {name: value.copy() for name, value in graph.weights.items()}
    weights["stem_weight"][0] *= factor
    weights["stem_bias"][0] *= factor
    for reader in ("left_weight", "right_weight"):
        weights[reader][:, 0] /= factor
    return graph.with_weights(weights)


@pytest.mark.parametrize("graph", [tiny_graph(), whole_googlenet()], ids=["small", "whole"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_rescale_computes_the_same(graph: InferenceGraph, strength: float) -> None:
    images = tiny_images(4, crop=graph.preprocess.crop)
    factors = rescale_factors(graph, extremes_of(graph, images), strength=strength)
    assert max(float(factor.max()) for factor in factors.values()) > 1.5  # or nothing is shown
    expected = logits(graph.model, images)
    assert np.allclose(logits(rescaled(graph, factors).model, images), expected, atol=2e-5 * np.abs(expected).max())


def test_rescale_of_full_strength_lets_every_channel_fill_its_grid() -> None:
    graph, images = tiny_graph(), tiny_images(4)
    seen = extremes_of(graph, images)
    factors = rescale_factors(graph, seen, strength=1.0)
    found = extremes_of(rescaled(graph, factors), images)
    for branch in ("left", "right"):
        live = (seen[branch].high > 0) & (factors[f"{branch}_conv"] < LARGEST_FACTOR)
        assert live.sum() > 4
        assert found[branch].high[live] == pytest.approx(np.full(live.sum(), seen["block"].high.max()), rel=1e-4)


def test_rescale_knows_the_extremes_of_the_rescaled_graph() -> None:
    graph, images = whole_googlenet(), tiny_images(2, crop=whole_googlenet().preprocess.crop)
    seen = extremes_of(graph, images)
    factors = rescale_factors(graph, seen, strength=0.75)
    measured, known = (
        extremes_of(rescaled(graph, factors), images),
        rescaled_extremes(graph, seen, factors),
    )
    assert measured.keys() == known.keys()
    for name, found in measured.items():
        assert known[name].high == pytest.approx(found.high, rel=1e-2, abs=1e-3 * float(found.high.max()))


def test_rescale_takes_the_noise_out_of_uneven_channels() -> None:
    graph, images = uneven(tiny_graph(), factor=60.0), tiny_images(16)
    seen = extremes_of(graph, images)
    factors = rescale_factors(graph, seen, strength=1.0)
    after = rescaled_extremes(graph, seen, factors)
    expected = logits(graph.model, images)
    plain = quantized(graph, {name: found.ranges for name, found in seen.items()})
    better = quantized(rescaled(graph, factors), {name: found.ranges for name, found in after.items()})
    assert noise(expected, logits(better, images)).sqnr_db > noise(expected, logits(plain, images)).sqnr_db + 10


def test_rescale_leaves_alone_what_leaves_the_graph() -> None:
    graph = tiny_graph()
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.output.append(onnx.helper.make_tensor_value_info("left", onnx.TensorProto.FLOAT, None))
    watched = InferenceGraph(model, graph.class_names, graph.preprocess, graph.parent_sha256)
    factors = rescale_factors(graph, extremes_of(graph, tiny_images(4)), strength=1.0)
    assert (factors["left_conv"] > 1).any()
    seen = extremes_of(graph, tiny_images(4))
    assert (rescale_factors(watched, seen, strength=1.0)["left_conv"] == 1).all()


def test_bias_correction_takes_back_the_shift_of_rounded_weights() -> None:
    graph, images = tiny_graph(), tiny_images(16)
    weights = {name: value.copy() for name, value in graph.weights.items()}
    largest = np.abs(weights["right_weight"]).max(axis=(1, 2, 3), keepdims=True)
    weights["right_weight"] = np.where(np.abs(weights["right_weight"]) < largest, 0.45 * largest / 127, largest)
    graph = graph.with_weights({name: value.astype(np.float32) for name, value in weights.items()})
    seen = extremes_of(graph, images)
    ranges = {name: found.ranges for name, found in seen.items()}
    means = window_means(graph, moments_of(graph, images))
    assert means.keys() == {"stem_conv", "left_conv", "right_conv", "logits"}
    expected = logits(graph.model, images)

    def shift(model: InferenceGraph) -> float:
        return float(np.abs((logits(quantized(model, ranges), images) - expected).mean(axis=0)).max())

    assert shift(compensated(graph, ranges, steps={}, means=means)) < shift(graph) / 3


def test_rescale_covers_every_grid_but_the_input_and_the_head() -> None:
    graph = whole_googlenet()
    images = tiny_images(2, crop=graph.preprocess.crop)
    factors = rescale_factors(graph, extremes_of(graph, images), strength=1.0)
    changed = {name for name, factor in factors.items() if (factor != 1).any()}
    assert len(factors) == len(changed) == 57
    assert set(grids(graph.model.graph).values()) > {"images", "avgpool"}
