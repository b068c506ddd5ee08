"""NVIDIA's own parser and compiler take our graphs: TensorRT for RTX builds plans without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from plan_census import PlanCensus, take_plan_census
from tiny_graph import table_of, tiny_graph, tiny_images, whole_googlenet

from googlenet_edge.calibration.lower import lower_fp32
from googlenet_edge.calibration.lower_tensorrt import (
    OPSETS,
    in_opset,
    lower_fp16_tensorrt,
    lower_fp32_tensorrt,
    lower_int8_tensorrt,
    with_dla_head,
)
from googlenet_edge.engines.lowering import compiler_notes, lower
from googlenet_edge.engines.tensorrt_builder import Batches, Plan, PlanRequest, build_plan
from googlenet_edge.engines.tensorrt_layers import NumberType
from googlenet_edge.engines.tensorrt_library import Flavour, Library, load_library
from googlenet_edge.engines.tensorrt_plans import LAYERS, plan_at
from googlenet_edge.errors import EngineError
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.target import Device, Precision

pytestmark = pytest.mark.rtx

GENERATIONS = ("SM86", "SM89")
WORKSPACE = 1 << 28
ONE = Batches()


@pytest.fixture(scope="module")
def rtx() -> Library:
    return load_library(Flavour.RTX)


def request_for(model: onnx.ModelProto, precision: Precision, batches: Batches = ONE) -> PlanRequest:
    return PlanRequest(model.SerializeToString(), precision, WORKSPACE, batches, targets=GENERATIONS)


def plan_of(library: Library, model: onnx.ModelProto, precision: Precision) -> tuple[Plan, PlanCensus]:
    plan = build_plan(library, request_for(model, precision))
    return plan, take_plan_census(plan.layers, {node.name: node.op_type for node in model.graph.node})


@pytest.fixture(scope="module")
def network() -> InferenceGraph:
    """All of its channels, as on a device."""
    return whole_googlenet()


@pytest.fixture(scope="module")
def int8(rtx: Library, network: InferenceGraph) -> tuple[Plan, PlanCensus]:
    return plan_of(rtx, lower_int8_tensorrt(network, table_of(network)), Precision.INT8)


@pytest.fixture(scope="module")
def fp16(rtx: Library, network: InferenceGraph) -> tuple[Plan, PlanCensus]:
    return plan_of(rtx, lower_fp16_tensorrt(network), Precision.FP16)


def test_int8_all_convolutions_read_codes(int8: tuple[Plan, PlanCensus]) -> None:
    assert int8[1].convolutions == {NumberType.INT8: 57}


def test_int8_no_rounding_is_a_kernel_of_its_own_and_none_is_before_a_relu(int8: tuple[Plan, PlanCensus]) -> None:
    assert int8[1].rounding_kernels == ()
    assert int8[1].rounded_before_relu == ()


def test_int8_pools_copy_codes_and_no_concat_copies_anything(int8: tuple[Plan, PlanCensus]) -> None:
    pools = [layer for layer in int8[0].layers if layer.kind == "maxpool"]
    ends = [tensor.type for layer in pools for tensor in (*layer.inputs, *layer.outputs)]
    assert (len(pools), set(ends)) == (13, {NumberType.INT8})
    for layer in int8[0].layers:
        assert not layer.nodes or not all(node.startswith("inception") and "." not in node for node in layer.nodes)


def test_int8_the_pixels_become_codes_in_one_kernel(int8: tuple[Plan, PlanCensus]) -> None:
    first = int8[0].layers[0]
    assert [tensor.type for tensor in first.inputs] == [NumberType.UINT8]
    assert [tensor.type for tensor in first.outputs] == [NumberType.INT8]
    assert {"pixels.real", "pixels.planes", "images.quantize"} <= set(first.nodes)


def test_a_pair_between_a_convolution_and_its_relu_is_seen(rtx: Library) -> None:
    """That the census can fail: the one thing that ONNX Runtime's own placement does otherwise."""
    graph = tiny_graph()
    model = lower_int8_tensorrt(graph, table_of(graph))
    nodes = list(model.graph.node)
    place = next(i for i, node in enumerate(nodes) if node.name == "left")
    pair = [
        onnx.helper.make_node(f"{kind}Linear", [source, "stem.scale", "zero_point"], [target], name=target)
        for kind, source, target in (("Quantize", "left_conv", "early"), ("Dequantize", "early", "late"))
    ]
    nodes[place].input[0] = "late"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *pair, *nodes[place:]])
    assert len(plan_of(rtx, model, Precision.INT8)[1].rounded_before_relu) == 1


class TwoImages(CalibrationDataReader):  # type: ignore[misc]  # (the package ships no types)
    """What ONNX Runtime calibrates on: only where its pairs stand matters here."""

    def __init__(self) -> None:
        self._images = iter(tiny_images(2, crop=64))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image[None]}


def quantized_by_onnxruntime(folder: Path, **extra: bool) -> onnx.ModelProto:
    """A whole GoogLeNet in s8, per channel, by ONNX Runtime's own placement."""
    whole_graph, quantized = folder / "whole.onnx", folder / "quantized.onnx"
    onnx.save(whole_googlenet().model, whole_graph)
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
    codes = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    quantize_static(
        whole_graph, quantized, TwoImages(), per_channel=True, extra_options={**symmetric, **extra}, **codes
    )
    return onnx.load(quantized)


def test_the_placement_of_onnxruntime_rounds_twice_or_is_refused(rtx: Library, tmp_path: Path) -> None:
    """The rows beside ours in docs/tensorrt.md."""
    census = plan_of(rtx, quantized_by_onnxruntime(tmp_path, QuantizeBias=False), Precision.INT8)[1]
    assert census.convolutions == {NumberType.INT8: 57}
    assert len(census.rounded_before_relu) > 20
    with pytest.raises(EngineError, match=r"does not read the graph: .*conv1\.conv\.bias_DequantizeLinear"):
        plan_of(rtx, quantized_by_onnxruntime(tmp_path), Precision.INT8)


def test_fp16_no_convolution_is_float32(fp16: tuple[Plan, PlanCensus]) -> None:
    assert fp16[1].convolutions == {NumberType.HALF: 57}


def test_fp32_all_convolutions_are_float32_and_the_plans_shrink_with_the_precision(
    rtx: Library, network: InferenceGraph, fp16: tuple[Plan, PlanCensus], int8: tuple[Plan, PlanCensus]
) -> None:
    plan, census = plan_of(rtx, lower_fp32_tensorrt(network), Precision.FP32)
    assert census.convolutions == {NumberType.FLOAT: 57}
    assert len(plan.data) > 1.8 * len(fp16[0].data) > 1.8 * len(int8[0].data)


@pytest.mark.parametrize("opset", OPSETS)
def test_the_parser_takes_every_opset_that_we_write(rtx: Library, opset: int) -> None:
    graph = tiny_graph()
    _, census = plan_of(rtx, in_opset(lower_int8_tensorrt(graph, table_of(graph)), opset), Precision.INT8)
    assert census.convolutions == {NumberType.INT8: 3}


def test_the_parser_takes_the_head_for_dlas(rtx: Library) -> None:
    _, census = plan_of(rtx, lower_fp16_tensorrt(with_dla_head(tiny_graph())), Precision.FP16)
    assert census.convolutions == {NumberType.HALF: 4}


def test_a_repeated_build_gives_the_same_bytes(rtx: Library) -> None:
    graph = tiny_graph()
    request = request_for(lower_int8_tensorrt(graph, table_of(graph)), Precision.INT8)
    assert build_plan(rtx, request).data == build_plan(rtx, request).data


def test_one_plan_takes_from_one_to_many_images(rtx: Library) -> None:
    model, seen = lower_fp32_tensorrt(tiny_graph()), list[tuple[int, int]]()
    request = request_for(model, Precision.FP32, Batches(1, 4, 8))
    assert build_plan(rtx, request, progress=lambda done, total: seen.append((done, total))).layers
    assert seen[-1][0] == seen[-1][1] > 1
    assert seen == sorted(seen)


def test_a_graph_lowered_for_a_processor_is_refused_in_the_parsers_words(rtx: Library) -> None:
    with pytest.raises(
        EngineError,
        match=r"tensorrt_rtx [\d.]+ does not read the graph: .*Transpose.*type UInt8.*; build a bundle for this",
    ):
        build_plan(rtx, request_for(lower_fp32(tiny_graph()), Precision.FP32))


def test_a_generation_that_this_tensorrt_has_not_is_refused(rtx: Library) -> None:
    request = replace(request_for(lower_fp32_tensorrt(tiny_graph()), Precision.FP32), targets=("SM87",))
    with pytest.raises(EngineError, match="builds for no SM87; it knows: .*SM86, SM89"):
        build_plan(rtx, request)


def test_a_plan_is_kept_with_its_layers_and_reused(rtx: Library, tmp_path: Path) -> None:
    request = request_for(lower_fp16_tensorrt(tiny_graph()), Precision.FP16)
    built_here = plan_at(tmp_path / "plan", rtx, request, gpu="")
    assert plan_at(tmp_path / "plan", rtx, request, gpu="").record == built_here.record
    assert b'"half"' in (tmp_path / "plan" / LAYERS).read_bytes()


@pytest.mark.parametrize(
    ("precision", "sentence"),
    [(Precision.INT8, "3 of 3 convolutions on int8"), (Precision.FP16, "3 of 3 convolutions on half")],
)
def test_a_build_says_what_the_compiler_makes_of_the_model(precision: Precision, sentence: str) -> None:
    graph = tiny_graph()
    notes = lower(graph, device=Device.ORIN_NANO, precision=precision, table=table_of(graph)).notes
    assert any(note.startswith("tensorrt_rtx 1.") and f"compiles it: {sentence}" in note for note in notes)


def test_a_model_that_the_compiler_does_not_take_is_noted_and_not_refused() -> None:
    notes = compiler_notes(b"no model", {}, Precision.FP32)
    assert notes[0].startswith("NVIDIA's compiler does not take it here: tensorrt_rtx")
