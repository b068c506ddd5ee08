"""The census of what ONNX Runtime runs, and the names of what fell out."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import helper
from tiny_graph import SHAPES, TINY, table_of, tiny_graph, whole_googlenet

from googlenet_edge.calibration.audit import Census, RunNode, missing, take_census
from googlenet_edge.calibration.lower import lower_int8_cpu
from googlenet_edge.calibration.rewrites import merge_pointwise
from googlenet_edge.errors import LoweringError


def lowered_tiny() -> onnx.ModelProto:
    return lower_int8_cpu(tiny_graph(), table_of(tiny_graph()))


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def test_audit_finds_the_whole_googlenet_on_integers() -> None:
    graph = whole_googlenet()
    lowered = lower_int8_cpu(graph, table_of(graph, count=8))
    census = take_census(lowered)
    assert missing(lowered, census) == ()
    counts = census.counts
    assert counts["QLinearConv"] == census.integer("Conv") == 57
    assert counts["NhwcMaxPool"] == census.integer("MaxPool") == 13
    assert counts["QLinearConcat"] == census.integer("Concat") == 9
    assert census.integer("GlobalAveragePool") == census.integer("Gemm") == 1
    assert not {"Conv", "MaxPool", "Concat", "Relu", "Gemm", "DequantizeLinear"} & set(counts)
    assert "QuantizeLinear" not in counts


def test_audit_accepts_the_tiny_graph() -> None:
    census = take_census(lowered_tiny())
    assert missing(lowered_tiny(), census) == ()
    assert [census.integer(kind) for kind in ("Conv", "MaxPool", "Concat", "Gemm")] == [3, 1, 1, 1]


def test_census_of_a_float_graph_counts_nothing_as_integer() -> None:
    census = take_census(tiny_graph().model)
    assert [census.integer(kind) for kind in ("Conv", "MaxPool", "Concat", "Flatten", "Gemm")] == [0] * 5


def read_in_float(model: onnx.ModelProto) -> None:
    """A second, float reader of ``left``: what happens when a graph keeps one consumer in FP32."""
    model.graph.node.append(helper.make_node("Identity", ["left"], ["left_copy"], name="left_copy"))
    model.graph.output.append(helper.make_tensor_value_info("left_copy", onnx.TensorProto.FLOAT, None))


def drop_output_quantization(model: onnx.ModelProto) -> None:
    node(model, "block").input[1] = "right"
    for name in ("right.quantize", "right.dequantize"):
        model.graph.node.remove(node(model, name))


def give_pool_another_grid(model: onnx.ModelProto) -> None:
    for name in ("pool.quantize", "pool.dequantize"):
        node(model, name).input[1] = "block.scale"


def feed_float_weight(model: onnx.ModelProto) -> None:
    conv = node(model, "left_conv")
    weight = next(w for w in tiny_graph().model.graph.initializer if w.name == "left_weight")
    model.graph.initializer.append(weight)
    model.graph.initializer[-1].name = conv.input[1] = "left_float"


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (read_in_float, "Conv left_conv stayed float: its output left is read by 2 nodes where one QuantizeLinear"),
        (drop_output_quantization, "Conv right_conv stayed float: its output right has no QuantizeLinear"),
        (give_pool_another_grid, "MaxPool pool stayed float: its output has another grid than its input"),
        (feed_float_weight, "Conv left_conv stayed float: its input left_float does not come from a Dequantize"),
    ],
)
def test_audit_names_the_node_that_fell_out_and_why(broken: Callable[[onnx.ModelProto], None], sentence: str) -> None:
    lowered = lowered_tiny()
    broken(lowered)
    fallen = missing(lowered, take_census(lowered))
    assert any(clause.startswith(sentence) for clause in fallen), fallen


def test_audit_refuses_what_the_runtime_cannot_load() -> None:
    lowered = lowered_tiny()
    node(lowered, "stem").op_type = "NoSuchOperator"
    with pytest.raises(LoweringError, match="ONNX Runtime cannot load the lowered graph: .*NoSuchOperator"):
        take_census(lowered)


def test_missing_goes_by_the_counts_where_a_runtime_names_its_nodes_in_another_way() -> None:
    census = Census(tuple(RunNode("renamed", n.operator, n.integer) for n in take_census(lowered_tiny()).nodes))
    assert missing(lowered_tiny(), census) == ()


def test_second_of_two_classifiers_runs_on_codes() -> None:
    text = TINY.replace(
        "  logits = Gemm", "  hidden = Gemm <transB = 1> (flatten, hidden_weight, hidden_bias)\n  logits = Gemm"
    )
    text = text.replace("(flatten, fc_weight", "(hidden, fc_weight")
    graph = tiny_graph(text, shapes={**SHAPES, "hidden": (16, 16)})
    lowered = lower_int8_cpu(graph, table_of(graph))
    assert missing(lowered, take_census(lowered)) == ()


def test_missing_does_not_accuse_merged_convolutions_that_were_to_stay_float() -> None:
    branches = ("branch1", "branch2.0", "branch3.0")
    graph, float_nodes = whole_googlenet(), frozenset(f"inception3a.{branch}.conv" for branch in branches)
    lowered = lower_int8_cpu(graph, table_of(graph, count=8), float_nodes=float_nodes)
    merged = merge_pointwise(lowered)
    assert any("+" in node.name for node in merged.graph.node)
    assert missing(merged, take_census(merged), float_nodes=float_nodes) == ()


def test_missing_says_so_where_the_graph_shows_no_reason() -> None:
    kept = take_census(lowered_tiny()).nodes
    census = Census(tuple(n for n in kept if not n.name.startswith("right_conv")))
    assert missing(lowered_tiny(), census) == ("Conv right_conv stayed float: ONNX Runtime did not fuse it",)
