"""The trainable network computes what the lowered graph computes, and learns in every weight."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_graph import table_of, tiny_graph, tiny_images, whole_googlenet

from googlenet_edge.calibration.fake_quantization import FakeQuantized
from googlenet_edge.calibration.lower import lower_int8_cpu
from googlenet_edge.calibration.ranges import Ranges
from googlenet_edge.calibration.session import open_session
from googlenet_edge.calibration.weights import WeightRange
from googlenet_edge.graph import InferenceGraph


def on_integers(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    pixels = np.rint((images + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return open_session(model).run(["logits"], {"pixels": pixels})[0]


def in_float(network: FakeQuantized, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy()


def signal_to_noise_db(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return 10 * float(np.log10((expected**2).sum() / ((expected - found) ** 2).sum()))


def with_constant(graph: InferenceGraph, name: str, value: NDArray[np.float32]) -> None:
    constant = next(w for w in graph.model.graph.initializer if w.name == name)
    constant.CopyFrom(numpy_helper.from_array(value, name))


@pytest.mark.parametrize("weight_range", WeightRange)
def test_fake_quantization_agrees_with_the_lowered_googlenet(weight_range: WeightRange) -> None:
    """Codes that fall between two are rounded differently here and there, which this network of noise makes more of."""
    graph, images = whole_googlenet(), tiny_images(8, crop=64, seed=3)
    table = table_of(graph)
    expected = on_integers(lower_int8_cpu(graph, table, weight_range=weight_range), images)
    found = in_float(FakeQuantized(graph, table.ranges, weight_range=weight_range), images)
    unquantized = open_session(graph.model).run(["logits"], {"images": images})[0]
    assert signal_to_noise_db(expected, found) > signal_to_noise_db(unquantized, expected) + 6


def test_fake_quantization_rounds_the_bias_of_a_dead_channel_as_the_lowering_does() -> None:
    """Its weights are so small that its scale is made for its bias."""
    graph, images = tiny_graph(), tiny_images(16, seed=3)
    weight = np.random.default_rng(0).normal(0, 1, (8, 3, 3, 3)).astype(np.float32)
    weight[2] *= 1e-12
    with_constant(graph, "stem_weight", weight)
    with_constant(graph, "stem_bias", np.full(8, 0.3, np.float32))
    table = table_of(graph)
    expected = on_integers(lower_int8_cpu(graph, table), images)
    assert signal_to_noise_db(expected, in_float(FakeQuantized(graph, table.ranges), images)) > 40


def test_fake_quantization_gives_its_weights_back_under_their_names() -> None:
    graph = tiny_graph()
    given = {w.name: numpy_helper.to_array(w) for w in graph.model.graph.initializer}
    found = FakeQuantized(graph, table_of(graph).ranges).weights()
    assert {name: value.tobytes() for name, value in found.items()} == {n: v.tobytes() for n, v in given.items()}


def test_fake_quantization_lets_gradient_through_to_every_weight() -> None:
    graph = tiny_graph()
    network = FakeQuantized(graph, table_of(graph).ranges)
    network(torch.from_numpy(tiny_images(8))).square().sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert (parameter.grad != 0).float().mean() > 0.9


def test_fake_quantization_stops_gradient_where_a_value_is_clipped() -> None:
    graph = tiny_graph()
    tight = {name: Ranges(0.0, 1e-3, 1e-3) if name == "avgpool" else r for name, r in table_of(graph).ranges.items()}
    network = FakeQuantized(graph, tight)
    network(torch.from_numpy(tiny_images(8))).square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    before_it = [g for g in gradients.values() if g is not None and g.shape[0] == 8]
    assert len(before_it) == 6
    assert all((g == 0).all() for g in before_it)
