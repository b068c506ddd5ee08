"""What NVIDIA's compiler says of a lowered graph, where TensorRT for RTX is installed: it needs no GPU for that.

It is another release for other GPUs than a Jetson's. So what it says is noted and never decides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from googlenet_edge.engines.tensorrt_builder import PlanRequest, build_plan
from googlenet_edge.engines.tensorrt_layers import NumberType, PlanLayer
from googlenet_edge.engines.tensorrt_library import Flavour, Library, load_library
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Precision

_WORKSPACE = 1 << 28
_GENERATION = "SM86"
_TYPES = {Precision.FP32: NumberType.FLOAT, Precision.FP16: NumberType.HALF, Precision.INT8: NumberType.INT8}


def compiler_notes(model: bytes, kinds: Mapping[str, str], precision: Precision) -> tuple[str, ...]:
    """One sentence on a model, or none where the compiler is not installed.

    Args:
        kinds: the operator of every node of the model, by name.
    """
    if not find_spec(Flavour.RTX.value):
        return ()
    try:
        return (_note(load_library(Flavour.RTX), model, kinds, precision),)
    except EngineError as problem:
        return (f"NVIDIA's compiler does not take it here: {problem}",)


def _note(library: Library, model: bytes, kinds: Mapping[str, str], precision: Precision) -> str:
    plan = build_plan(library, PlanRequest(model, precision, _WORKSPACE, targets=(_GENERATION,)))
    if not plan.layers:
        return f"{library} compiles it"
    return f"{library} compiles it: {_sentence(take_plan_census(plan.layers, kinds), kinds, precision)}"


def _sentence(census: PlanCensus, kinds: Mapping[str, str], precision: Precision) -> str:
    wanted, all_of_them = _TYPES[precision], sum(kind == "Conv" for kind in kinds.values())
    found = f"{census.convolutions.get(wanted, 0)} of {all_of_them} convolutions on {wanted.value}"
    rounding = len(census.rounding_kernels) + len(census.rounded_before_relu)
    return f"{found}, {census.kernels} kernels" + (f", {rounding} of which round needlessly" if rounding else "")


_GENERATED = {"kgen", "PointWise", "PointWiseV2", "Reformat", "NoOp", "Constant"}
_ROUNDING = {"QuantizeLinear", "DequantizeLinear"}
_NO_ARITHMETIC = _ROUNDING | {"Relu", "Concat"}
_ROUNDED_THEN_RELU = re.compile(r"RounCast\w*?Relu")


@dataclass(frozen=True, slots=True)
class PlanCensus:
    """What a plan is made of.

    Attributes:
        kernels: how many.
        convolutions: how many of the graph's convolutions read each type.
        rounding_kernels: names of kernels that do nothing but round, clip at zero and copy: pairs that TensorRT could
            not move into the convolution before.
        rounded_before_relu: names of kernels that round, and then have a ReLU: a rounding too many.
    """

    kernels: int
    convolutions: dict[NumberType, int]
    rounding_kernels: tuple[str, ...]
    rounded_before_relu: tuple[str, ...]


def take_plan_census(layers: Iterable[PlanLayer], kinds: Mapping[str, str]) -> PlanCensus:
    """Counts the layers of a plan.

    Args:
        kinds: the operator of every node of the graph that it was built from, by name.
    """
    layers = tuple(layers)
    read: dict[str, NumberType] = {}
    for layer in layers:
        if layer.kind not in _GENERATED and layer.inputs:
            convolutions = (node for node in layer.nodes if kinds.get(node) == "Conv")
            read.update(dict.fromkeys(convolutions, layer.inputs[0].type))
    return PlanCensus(
        kernels=len(layers),
        convolutions=dict(Counter(read.values())),
        rounding_kernels=tuple(layer.name for layer in layers if _only_rounds(layer, kinds)),
        rounded_before_relu=tuple(layer.name for layer in layers if _ROUNDED_THEN_RELU.search(layer.name)),
    )


def _only_rounds(layer: PlanLayer, kinds: Mapping[str, str]) -> bool:
    found = {kinds[node] for node in layer.nodes if node in kinds}
    return bool(found & _ROUNDING) and found <= _NO_ARITHMETIC
