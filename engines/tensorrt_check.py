"""What NVIDIA's compiler says of a lowered graph, where TensorRT for RTX is installed: it needs no GPU for that.

It is another release for other GPUs than a Jetson's. So what it says is noted and never decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from googlenet_edge.engines.tensorrt_audit import PlanCensus, take_plan_census
from googlenet_edge.engines.tensorrt_builder import PlanRequest, build_plan
from googlenet_edge.engines.tensorrt_layers import NumberType
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
