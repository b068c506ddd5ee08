"""Layers as TensorRT prints them, and the census of a plan."""

from __future__ import annotations

from fake_tensorrt import DLA_LINES, LAYER_LINE
from plan_census import take_plan_census

from googlenet_edge.engines.tensorrt_layers import (
    NumberType,
    PlanLayer,
    Tensor,
    layers_in_log,
    placement_in_log,
)

CONV = PlanLayer(
    name="conv1_myl0_2",
    kind="correlation",
    inputs=(Tensor("in", NumberType.INT8),),
    outputs=(Tensor("out", NumberType.FLOAT),),
    tactic="t",
    nodes=("conv1", "conv1.relu"),
)


def test_layers_are_read_from_the_log_without_those_that_only_wait() -> None:
    assert layers_in_log(["VERBOSE: Adding 1 engine(s) to plan file.", f"VERBOSE: {LAYER_LINE}"]) == (CONV,)


def test_layers_of_the_tensorrt_of_a_jetson_are_read_too() -> None:
    """Lines of TensorRT 8.6 and 10 as people publish them, shortened."""
    image = "{ Name: images, Location: Device, Dimensions: [1,3,64,64], Format/Datatype: Row major linear FP32 }"
    int8 = "Location: Device, Dimensions: [1,3,64,64], Format/Datatype: Row major Int8 format"
    wide = "Location: Device, Dimensions: [1,9,6,6], Format/Datatype: Thirty-two wide channel vectorized row major Int8"
    log = (
        "Layers:\n"
        f"Name: q, LayerType: Reformat, Inputs: [ {image}], Outputs: [ {{ Name: q_out, {int8} }}], ParameterType:"
        " Reformat, Origin: QDQ, TacticValue: 0x3ea\n"
        f"Name: w + conv1, LayerType: CaskConvolution, Inputs: [ {{ Name: q_out, {int8} }}], Outputs: [ {{ Name: out,"
        f' {wide} format }}], ParameterType: Convolution, Kernel: [7,7], Weights: {{"Type": "Int8", "Count": 864}},'
        " TacticName: ampere_first_layer, TacticValue: 0x9a, StreamId: 0, Metadata: [ONNX Layer: conv1]\n"
        "Name: fc_myl9_4, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,9], Format/Datatype: Half }], Outputs:"
        " [ { Name: logits, Dimensions: [1,5], Format/Datatype: Float }], TacticName: sm80, StreamId: 0, Metadata: "
    )
    real, byte = NumberType.FLOAT, NumberType.INT8
    assert layers_in_log([log]) == (
        PlanLayer("q", "Reformat", (Tensor("images", real),), (Tensor("q_out", byte),), "", ()),
        PlanLayer(
            "w + conv1",
            "CaskConvolution",
            (Tensor("q_out", byte),),
            (Tensor("out", byte),),
            "ampere_first_layer",
            ("conv1",),
        ),
        PlanLayer("fc_myl9_4", "gemm", (Tensor("x", NumberType.HALF),), (Tensor("logits", real),), "sm80", ()),
    )


def test_a_log_without_layers_gives_none() -> None:
    assert layers_in_log(["INFO: nothing to see", "Name: cut off, LayerType: corr"]) == ()


def test_placement_counts_pieces_on_the_dla() -> None:
    assert str(placement_in_log(DLA_LINES)) == "1 piece on the DLA, 2 layers on the GPU"
    assert str(placement_in_log([*DLA_LINES, "[DlaLayer] {ForeignNode[fc]}"])).startswith("2 pieces on the DLA")


KINDS = {"conv1": "Conv", "conv1.relu": "Relu", "q": "QuantizeLinear", "dq": "DequantizeLinear", "cat": "Concat"}


def generated(name: str, *nodes: str) -> PlanLayer:
    return PlanLayer(name, "kgen", (Tensor("x", NumberType.FLOAT),), (Tensor("y", NumberType.INT8),), "", nodes)


def test_a_convolution_counts_once_by_the_kernel_that_multiplies() -> None:
    census = take_plan_census([generated("before", "q", "conv1"), CONV, generated("after", "conv1", "q")], KINDS)
    assert (census.kernels, census.convolutions) == (3, {NumberType.INT8: 1})


def test_a_kernel_that_only_rounds_is_named_and_one_that_finishes_a_convolution_is_not() -> None:
    layers = [CONV, generated("epilogue", "conv1", "conv1.relu", "q"), generated("alone", "dq", "cat", "q")]
    assert take_plan_census(layers, KINDS).rounding_kernels == ("alone",)


def test_a_rounding_before_a_relu_is_named() -> None:
    layers = [generated("__myl_MulAddReluMulMinMaxRounCast", "q"), generated("__myl_MulMinMaxRounCastMulRelu", "q")]
    assert take_plan_census(layers, KINDS).rounded_before_relu == ("__myl_MulMinMaxRounCastMulRelu",)
