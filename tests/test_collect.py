"""Statistics from images: what is measured, what is refused."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from tiny_graph import SHAPES, TINY, one_by_one, tiny_graph, tiny_images

from googlenet_edge.calibration.collect import Statistics, collect
from googlenet_edge.calibration.extremes import joined, observations
from googlenet_edge.calibration.placement import grids, measured_tensors
from googlenet_edge.calibration.session import Network
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import InferenceGraph


def collect_from(images: NDArray[np.float32], graph: InferenceGraph | None = None) -> Statistics:
    return collect(graph or tiny_graph(), one_by_one(images), count=len(images))


def test_collect_measures_the_tensors_that_need_a_range_and_no_other() -> None:
    found = collect_from(tiny_images(8))
    assert tuple(found.histograms) == ("images", "stem", "left", "right", "block", "avgpool")
    assert found.images == 8


def test_collect_sees_what_the_graph_computes() -> None:
    graph, images = tiny_graph(), tiny_images(10)
    found = collect_from(images, graph)
    model = graph.model
    session = onnxruntime.InferenceSession(_with_output(model, "block"), providers=["CPUExecutionProvider"])
    (block,) = session.run(["block"], {"images": images})
    assert found.histograms["block"].counts.sum() == block.size
    assert found.histograms["block"].maximum == pytest.approx(block.max(), rel=1e-5)
    assert found.histograms["images"].minimum == images.min()


def test_collect_gives_the_same_statistics_in_any_order() -> None:
    images = tiny_images(12)
    one, other = collect_from(images), collect_from(images[::-1])
    for name, expected in one.histograms.items():
        found = other.histograms[name]
        assert (found.minimum, found.maximum) == (expected.minimum, expected.maximum)
        assert np.array_equal(found.counts, expected.counts)


def test_collect_tells_its_progress_over_both_passes() -> None:
    told: list[tuple[int, int]] = []
    collect(tiny_graph(), one_by_one(tiny_images(8)), count=8, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 16) for done in range(1, 17)]


def test_collect_refuses_two_images() -> None:
    with pytest.raises(CalibrationError, match="only 2 of 2 calibration images are different .* at least 8 are needed"):
        collect_from(tiny_images(2))


def test_collect_refuses_no_images() -> None:
    with pytest.raises(CalibrationError, match="only 0 of 0 calibration images"):
        collect_from(tiny_images(0))


def test_collect_refuses_copies_of_one_image() -> None:
    with pytest.raises(CalibrationError, match="only 1 of 20 calibration images are different"):
        collect_from(np.repeat(tiny_images(1), 20, axis=0))


@pytest.mark.parametrize("colour", [(-1.0, -1.0, -1.0), (1.0, 0.5, -1.0)])
def test_collect_refuses_images_of_one_colour(colour: tuple[float, float, float]) -> None:
    images = np.empty((20, 3, 16, 16), np.float32)
    images[:] = np.reshape(colour, (3, 1, 1))
    images += np.linspace(0, 0.5, 20, dtype=np.float32)[:, None, None, None]
    with pytest.raises(CalibrationError, match="only 0 of 20 .* show more than one colour"):
        collect_from(images)


def test_collect_accepts_a_black_image_and_a_copy_among_good_ones() -> None:
    good = tiny_images(8)
    images = np.concatenate([good, good[:1], np.full_like(good[:1], -1.0)])
    assert collect_from(images).images == 10


def test_collect_names_the_tensor_with_nan() -> None:
    graph = _with_weight("left_bias", np.full(8, np.nan, dtype=np.float32))
    with pytest.raises(CalibrationError, match="activations of left go from nan to nan"):
        collect_from(tiny_images(8), graph)


def test_collect_names_the_tensor_with_nan_where_the_first_image_is_black() -> None:
    graph = _with_weight("right_bias", np.full(8, np.nan, dtype=np.float32))
    images = np.concatenate([np.full((1, 3, 16, 16), -1.0, np.float32), tiny_images(8)])
    with pytest.raises(CalibrationError, match="activations of right go from nan to nan"):
        collect_from(images, graph)


def test_collect_refuses_logits_that_are_not_finite() -> None:
    graph = _with_weight("fc_bias", np.full(3, np.nan, dtype=np.float32))
    with pytest.raises(CalibrationError, match="logits of a calibration image are not finite; the weights are damaged"):
        collect_from(tiny_images(8), graph)


def test_collect_refuses_a_nan_that_does_not_reach_the_logits() -> None:
    """The runtime's MaxPool drops it, and its extremes of a channel do, too."""
    text = TINY.replace(
        "stem_conv = Conv",
        "root = Sqrt (images) first = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (root) stem_conv = Conv",
    ).replace("(images, stem_weight", "(first, stem_weight")
    images = np.abs(tiny_images(8))
    images[3, 1, 5, 5] = -1.0
    with pytest.raises(CalibrationError, match="the activations of root go from nan to nan"):
        collect_from(images, tiny_graph(text))


BELOW_ZERO = TINY.replace("right = Relu (right_conv)", "right = LeakyRelu (right_conv)")
AFTER_CLASSIFIER = TINY.replace("(flatten, fc_weight, fc_bias)", "(more, last_weight, last_bias)").replace(
    "  logits =", "  less = Gemm <transB = 1> (flatten, fc_weight, fc_bias)\n  more = Relu (less)\n  logits ="
)


@pytest.mark.parametrize("text", [TINY, BELOW_ZERO, AFTER_CLASSIFIER], ids=["plain", "below zero", "rank 2"])
def test_observations_are_the_extremes_of_every_channel_and_the_logits(text: str) -> None:
    shapes = SHAPES | ({"last": (3, 3)} if text == AFTER_CLASSIFIER else {})
    graph, images = tiny_graph(text, shapes=shapes), tiny_images(9)
    seen = list(observations(graph, one_by_one(images)()))
    session = onnxruntime.InferenceSession(graph.model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.concatenate([each.logits for each in seen]) == pytest.approx(
        session.run(["logits"], {"images": images})[0], rel=1e-4, abs=1e-5
    )
    by_image = [dict(Network(graph).activations(image)) for image in one_by_one(images)()]
    found = joined(each.extremes for each in seen)
    assert found.keys() == by_image[0].keys()
    assert (found["block"].low < 0).any() == (text == BELOW_ZERO)
    for name, channels in found.items():
        values = np.concatenate([each[name].reshape(1, len(channels.high), -1) for each in by_image], axis=2)[0]
        assert channels.high == pytest.approx(values.max(axis=1), rel=1e-4, abs=1e-6), name
        assert channels.low == pytest.approx(values.min(axis=1), rel=1e-4, abs=1e-6), name


def test_collect_names_the_tensor_that_is_dead() -> None:
    graph = _with_weight("right_bias", np.full(8, -1e6, dtype=np.float32))
    with pytest.raises(CalibrationError, match=r"right is 0\.0 everywhere on all calibration images"):
        collect_from(tiny_images(8), graph)


def test_placement_gives_pools_and_branches_the_grid_of_what_they_feed_or_read() -> None:
    graph = tiny_graph().model.graph
    assert grids(graph) == {
        "images": "images",
        "stem": "stem",
        "pool": "stem",
        "left": "block",
        "right": "block",
        "block": "block",
        "avgpool": "avgpool",
        "flatten": "avgpool",
    }
    assert set(grids(graph).values()) <= set(measured_tensors(graph))


def test_placement_leaves_a_branch_that_others_read_too_its_own_grid() -> None:
    graph = parser.parse_model(
        TINY.replace("Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pool", "Conv (left")
    ).graph
    assert grids(graph)["left"] == "left"
    assert grids(graph)["right"] == "block"


def _with_weight(name: str, value: NDArray[np.float32]) -> InferenceGraph:
    graph = tiny_graph()
    for weight in graph.model.graph.initializer:
        if weight.name == name:
            weight.CopyFrom(numpy_helper.from_array(value, name))
    return graph


def _with_output(model: object, name: str) -> bytes:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy.SerializeToString()
