"""Raw pixels as a model's input: normalized inside, or codes of the first convolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import imagenet_normalization
from numpy.typing import NDArray
from onnx import helper
from tiny_graph import CROP, TINY, table_of, tiny_graph, tiny_pixels

from googlenet_edge.calibration.lower import lower_fp32, lower_int8_cpu
from googlenet_edge.calibration.pixels import absorb_normalization, taking_pixels, taking_planes
from googlenet_edge.errors import LoweringError
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.preprocess import Preprocess

DEFAULT = Preprocess(resize=CROP, crop=CROP)
IMAGENET = imagenet_normalization(DEFAULT)
ONE_MEAN = replace(DEFAULT, mean=(117.0, 117.25, 116.75), std=(58.0, 57.0, 61.0))


def graph_for(preprocess: Preprocess, text: str = TINY) -> InferenceGraph:
    return replace(tiny_graph(text), preprocess=preprocess)


def run(model: onnx.ModelProto, value: NDArray[np.generic], output: str = "logits") -> NDArray[np.float32]:
    """One tensor of a model, without any fusion."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    if output != "logits":
        shown.graph.output.append(onnx.ValueInfoProto(name=output))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([output], {session.get_inputs()[0].name: value})[0]


def test_pixels_are_normalized_inside_to_the_last_bit() -> None:
    every_byte = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(1, CROP, CROP, 3)
    for preprocess in (DEFAULT, replace(DEFAULT, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0))):
        model = taking_pixels(tiny_graph().model, preprocess)
        assert np.array_equal(run(model, every_byte, "images"), preprocess.normalize(every_byte))


def test_pixels_of_a_mean_with_digits_are_normalized_to_float32() -> None:
    pixels = tiny_pixels(3)
    found = run(taking_pixels(tiny_graph().model, IMAGENET), pixels, "images")
    assert np.allclose(found, IMAGENET.normalize(pixels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("preprocess", [DEFAULT, ONE_MEAN], ids=["default", "deviations differ"])
def test_absorbed_normalization_changes_nothing_inside_and_half_a_code_at_the_border(preprocess: Preprocess) -> None:
    graph, pixels = graph_for(preprocess), tiny_pixels(6)
    absorbed = absorb_normalization(graph)
    assert absorbed is not None
    codes = pixels.transpose(0, 3, 1, 2).astype(np.float32) - absorbed.zero_point
    expected = run(graph.model, preprocess.normalize(pixels), "stem_conv")
    found = run(absorbed.model, codes, "stem_conv")
    assert np.allclose(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-5, atol=1e-5)
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in graph.model.graph.initializer}
    half_codes = np.abs(absorbed.zero_point - np.array(preprocess.mean)) / preprocess.std
    most = (np.abs(weights["stem_weight"]) * half_codes[:, None, None]).sum(axis=(1, 2, 3)).max()
    difference = np.abs(found - expected).max()
    assert 0 < difference <= most * (1 + 1e-4)


def test_absorbed_normalization_of_whole_means_is_exact_at_the_border_too() -> None:
    graph, pixels = graph_for(replace(DEFAULT, mean=(128.0,) * 3, std=(64.0, 32.0, 16.0))), tiny_pixels(6)
    absorbed = absorb_normalization(graph)
    assert absorbed is not None
    codes = pixels.transpose(0, 3, 1, 2).astype(np.float32) - absorbed.zero_point
    expected = run(graph.model, graph.preprocess.normalize(pixels))
    assert np.allclose(run(absorbed.model, codes), expected, rtol=1e-5, atol=1e-5)


def two_readers(graph: InferenceGraph) -> None:
    graph.model.graph.node.append(helper.make_node("Relu", ["images"], ["more"], name="more"))


def shared_bias(graph: InferenceGraph) -> None:
    graph.model.graph.node[3].input[2] = "stem_bias"


@pytest.mark.parametrize("change", [two_readers, shared_bias])
def test_normalization_is_not_absorbed_where_others_would_notice(change: object) -> None:
    graph = tiny_graph()
    change(graph)  # type: ignore[operator]
    assert absorb_normalization(graph) is None


@pytest.mark.parametrize(
    "preprocess",
    [IMAGENET, replace(DEFAULT, mean=(104.0, 117.0, 123.0)), replace(DEFAULT, mean=(-40.0,) * 3)],
    ids=["ImageNet", "Caffe", "no such code"],
)
def test_int8_of_means_that_are_apart_normalizes_in_float_and_quantizes_once(preprocess: Preprocess) -> None:
    graph, pixels = graph_for(preprocess), tiny_pixels(32, seed=5)
    assert absorb_normalization(graph) is None
    lowered = lower_int8_cpu(graph, table_of(graph))
    assert next(n.input[0] for n in lowered.graph.node if n.op_type == "QuantizeLinear") == "images"
    expected, found = run(taking_pixels(graph.model, preprocess), pixels), run(lowered, pixels)
    assert 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()) > 30


def test_int8_of_the_default_normalization_rounds_no_pixel() -> None:
    """The first convolution's input is what the pixels are; rounding to a grid moved every one of them."""
    graph, pixels = tiny_graph(), tiny_pixels(4)
    lowered = lower_int8_cpu(graph, table_of(graph))
    assert np.array_equal(run(lowered, pixels, "images.dequantized"), pixels.transpose(0, 3, 1, 2) - np.float32(128))


def test_planes_are_taken_by_models_of_tensorrt_alone() -> None:
    model = lower_fp32(tiny_graph()).SerializeToString()
    with pytest.raises(LoweringError, match="does not begin with the pixels' cast and transposition; build the bundle"):
        taking_planes(model, crop=CROP)
