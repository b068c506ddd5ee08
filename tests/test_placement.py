"""Islands of float in a quantized graph: which tensors keep a grid, and what ONNX Runtime makes of it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import onnx
import pytest
from tiny_graph import NESTED, NESTED_SHAPES, SHAPES, TINY, table_of, tiny_graph, tiny_images, whole_googlenet

from googlenet_edge.calibration.audit import missing, take_census
from googlenet_edge.calibration.lower import lower_int8_cpu
from googlenet_edge.calibration.placement import (
    Layer,
    float_nodes,
    grids,
    layers,
    measured_tensors,
    staying_float,
    without_rule,
)
from googlenet_edge.calibration.session import open_session
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.target import Device, Precision, Unit

WITH_LRN = TINY.replace(
    "pool = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (stem)",
    "norm = LRN <size = 5> (stem)\n  pool = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (norm)",
)


def layer(graph: InferenceGraph, name: str) -> Layer:
    return next(layer for layer in layers(graph.model.graph) if layer.name == name)


def logits(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = open_session(model)
    pixels = np.rint((images + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    name = session.get_inputs()[0].name
    return session.run(["logits"], {name: images if name == "images" else pixels})[0]


def audited(graph: InferenceGraph, nodes: frozenset[str]) -> tuple[onnx.ModelProto, Counter[str]]:
    """The lowered graph, in which the audit must find nothing wrong, and what ONNX Runtime runs of it."""
    lowered = lower_int8_cpu(graph, table_of(graph), float_nodes=nodes)
    onnx.checker.check_model(lowered, full_check=True)
    census = take_census(lowered)
    assert missing(lowered, census, float_nodes=staying_float(graph.model.graph, nodes)) == ()
    return lowered, Counter(node.operator for node in census.nodes)


def test_layers_are_what_is_rounded_with_all_that_touches_it() -> None:
    found = {layer.name: (layer.tensors, set(layer.nodes)) for layer in layers(tiny_graph().model.graph)}
    assert found == {
        "images": (("images",), {"stem_conv"}),
        "stem": (("stem", "pool"), {"stem_conv", "left_conv", "right_conv"}),
        "block": (("left", "right", "block"), {"left_conv", "right_conv", "avgpool"}),
        "avgpool": (("avgpool", "flatten"), {"avgpool", "logits"}),
    }


def test_layers_of_googlenet_hold_every_rounding_once() -> None:
    graph = whole_googlenet().model.graph
    found = layers(graph)
    assert [layer.name for layer in found][:5] == ["images", "conv1", "conv2", "conv3", "inception3a"]
    assert len(found) == 4 + 3 * 9 + 1
    assert sorted(t for layer in found for t in layer.tensors) == sorted(grids(graph))


def test_layer_in_float_takes_its_grids_away_and_those_that_nobody_needs_then() -> None:
    graph = whole_googlenet().model.graph
    for layer in layers(graph):
        lost = grids(graph).keys() - grids(graph, layer.nodes).keys()
        assert lost >= set(layer.tensors)
        readers = {node.name for node in graph.node if (lost - set(layer.tensors)) & set(node.input)}
        assert readers <= layer.nodes


def test_measured_ranges_are_enough_for_every_choice_of_layers() -> None:
    for text in (TINY, WITH_LRN, TINY.replace("(pool, right_weight", "(left, right_weight")):
        graph = tiny_graph(text).model.graph
        found = layers(graph)
        for count in range(len(found) + 1):
            for chosen in combinations(found, count):
                grid_of = grids(graph, float_nodes(chosen))
                assert set(grid_of.values()) <= set(measured_tensors(graph))
                assert not set(grid_of) & {tensor for layer in chosen for tensor in layer.tensors}


def test_float_stem_reads_the_images_as_they_are() -> None:
    graph = tiny_graph()
    lowered, runs = audited(graph, layer(graph, "images").nodes)
    assert next(node for node in lowered.graph.node if node.name == "stem_conv").input[0] == "images"
    assert (runs["QLinearConv"], runs["QLinearConcat"], runs["QGemm"]) == (2, 1, 1)


def test_float_block_leaves_its_neighbours_on_integers() -> None:
    graph = tiny_graph()
    _, runs = audited(graph, layer(graph, "block").nodes)
    assert (runs["QLinearConv"], runs["QGemm"]) == (1, 1)
    assert runs["NhwcMaxPool"] + runs["MaxPool"] == 1
    assert not {"QLinearConcat", "QLinearGlobalAveragePool"} & set(runs)


def test_all_layers_in_float_are_the_fp32_graph() -> None:
    graph, images = tiny_graph(), tiny_images(4)
    lowered, _ = audited(graph, float_nodes(layers(graph.model.graph)))
    assert np.array_equal(logits(lowered, images), logits(graph.model, images))


def test_operator_without_a_rule_stays_float_between_integers_and_is_named() -> None:
    from googlenet_edge.engines.lowering import audited as noted
    from googlenet_edge.engines.lowering import lower

    graph = tiny_graph(WITH_LRN)
    assert [node.name for node in without_rule(graph.model.graph)] == ["norm"]
    assert grids(graph.model.graph)["pool"] == "norm"
    _, runs = audited(graph, frozenset())
    assert (runs["QLinearConv"], runs["LRN"], runs["QLinearConcat"]) == (3, 1, 1)
    lowered = lower(graph, device=Device.CPU, precision=Precision.INT8, table=table_of(graph))
    named = "in float, for there is no integer operator: LRN norm"
    assert noted(lowered).notes == ("on integers: 3 of 3 Conv, 1 of 1 MaxPool, 1 of 1 Concat", named)
    for unit in Unit:
        assert (
            named
            in lower(graph, device=Device.AGX_ORIN, precision=Precision.INT8, table=table_of(graph), unit=unit).notes
        )


def test_a_relu_beside_values_below_zero_keeps_a_grid_of_its_own_before_a_concat() -> None:
    text = TINY.replace("  right = Relu (right_conv)\n", "").replace("(left, right)", "(left, right_conv)")
    graph = tiny_graph(text)
    found = grids(graph.model.graph)
    assert (found["left"], found["right_conv"]) == ("left", "block")
    _, runs = audited(graph, frozenset())
    assert (runs["QLinearConv"], runs["QLinearConcat"]) == (3, 1)


def test_what_concats_of_concats_join_has_the_grid_of_the_outermost() -> None:
    graph = tiny_graph(NESTED, shapes=NESTED_SHAPES)
    found = grids(graph.model.graph)
    assert {found[name] for name in ("left", "right", "inner", "outer", "block")} == {"block"}
    _, runs = audited(graph, frozenset())
    assert runs["QLinearConcat"] == 2


def test_logits_that_are_only_copied_to_the_output_are_not_rounded() -> None:
    text = TINY.replace("flatten = Flatten <axis = 1> (avgpool)", "logits = Flatten <axis = 1> (avgpool)")
    text = text.replace("  logits = Gemm <transB = 1> (flatten, fc_weight, fc_bias)\n", "").replace(
        "N, 3] l", "N, 16] l"
    )
    graph = tiny_graph(text, shapes={name: shape for name, shape in SHAPES.items() if name != "fc"})
    lowered = lower_int8_cpu(graph, table_of(graph))
    assert len(np.unique(logits(lowered, tiny_images(64)))) > 512  # of 1024


def test_scores_of_a_network_that_gives_probabilities_are_not_rounded() -> None:
    softmax = "  e = Exp (z)\n  sum = ReduceSum (e, axes)\n  p = Div (e, sum)\n  logits = Log (p)\n}"
    text = TINY.replace("logits = Gemm", "axes = Constant <value_ints = [1]> ()\n  z = Gemm").replace("}", softmax)
    graph = tiny_graph(text)
    assert {"z", "e", "p"}.isdisjoint(grids(graph.model.graph))
    assert "flatten" in grids(graph.model.graph)


@pytest.mark.parametrize("name", ["left_conv", "stem_conv"])
def test_audit_names_a_node_that_was_to_stay_float_and_did_not(name: str) -> None:
    """Between two rounded tensors ONNX Runtime quantizes a float weight by itself, with one scale for all channels."""
    graph, nodes = tiny_graph(), frozenset([name])
    lowered = lower_int8_cpu(graph, table_of(graph), float_nodes=nodes)
    faults = missing(lowered, take_census(lowered), float_nodes=nodes)
    assert bool(faults) == (name == "left_conv")
    if faults:
        assert faults == ("left_conv was to stay float, and ONNX Runtime made it integer",)
