"""How a graph is lowered for each device in each precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

import onnx

from googlenet_edge.calibration.audit import Census, missing, take_census
from googlenet_edge.calibration.lower import lower_fp16_storage, lower_fp32, lower_int8_cpu
from googlenet_edge.calibration.lower_tensorrt import (
    in_opset,
    lower_fp16_tensorrt,
    lower_fp32_tensorrt,
    lower_implicit_tensorrt,
    lower_int8_tensorrt,
    with_dla_head,
)
from googlenet_edge.calibration.placement import NO_NODES, staying_float, without_rule
from googlenet_edge.calibration.rewrites import Rewrite, rewrite
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.calibration.trt_cache import calibration_cache
from googlenet_edge.calibration.weights import WeightRange, weight_range_for
from googlenet_edge.engines.bundle import Trial
from googlenet_edge.engines.devices import profile_of
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.registry import Backend
from googlenet_edge.engines.tensorrt_builder import PlanRequest, build_plan
from googlenet_edge.engines.tensorrt_layers import NumberType, convolution_types
from googlenet_edge.engines.tensorrt_library import Flavour, Library, load_library
from googlenet_edge.errors import EngineError
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.processor import read_processor
from googlenet_edge.target import Device, Precision, Unit

_MOST_NOTES = 6
_WORKSPACE = 1 << 28
_GENERATION = "SM86"
_TYPES = {Precision.FP32: NumberType.FLOAT, Precision.FP16: NumberType.HALF, Precision.INT8: NumberType.INT8}
_WEIGHT_BITS = {WeightRange.FULL: 8, WeightRange.REDUCED: 7}


@dataclass(frozen=True, slots=True)
class Lowered:
    """The bytes that a device's backend opens. ``notes`` says in sentences what became of the graph.

    ``float_nodes`` are the nodes that are meant to be float, ``rewrites`` is what `trials.fastest` tried.
    ``calibration_cache`` holds the scales for TensorRT where the model has no pairs.
    """

    model: bytes = field(repr=False)
    notes: tuple[str, ...] = ()
    weight_bits: int = 8
    float_nodes: frozenset[str] = NO_NODES
    rewrites: tuple[Trial, ...] = ()
    calibration_cache: bytes = field(default=b"", repr=False)


def lower(
    graph: InferenceGraph,
    *,
    device: Device,
    precision: Precision,
    table: CalibrationTable | None,
    float_nodes: AbstractSet[str] = NO_NODES,
    unit: Unit = Unit.MAIN,
) -> Lowered:
    """Lowers a graph for what `refuse_impossible` lets through.

    INT8 needs the calibration table, and may leave nodes in float by their names.

    Raises:
        CalibrationError, LoweringError: see `lower_int8_cpu`, `lower_fp16_storage`.
    """
    profile = profile_of(device)
    if not profile.has_tensorrt:
        return _for_a_processor(graph, precision, table, float_nodes)
    return _for_tensorrt(graph, precision, table, float_nodes, opset=profile.opset, on_dla=unit is Unit.DLA)


def open_lowered(
    graph: InferenceGraph, lowered: Lowered, *, backend: Backend, threads: int = 1, streams: int = 1
) -> Predictor:
    """A lowered form of a graph, ready to run. Raises `EngineError`."""
    options = EngineOptions(
        threads, streams=streams, weight_bits=lowered.weight_bits, calibration_cache=lowered.calibration_cache
    )
    engine = backend.open(lowered.model, options)
    return Predictor(engine, labels=graph.class_names, preprocess=graph.preprocess)


def rewritten(lowered: Lowered, rewrites: Sequence[Rewrite]) -> Lowered | None:
    """The same model after some rewrites, not yet audited; None where one of them finds nothing to do."""
    model = rewrite(onnx.load_model_from_string(lowered.model), rewrites)
    return replace(lowered, model=_bytes(model)) if model else None


def audited(lowered: Lowered) -> Lowered:
    """An INT8 model with what this machine's ONNX Runtime makes of it among its notes. Raises `LoweringError`."""
    model = onnx.load_model_from_string(lowered.model)
    census = take_census(model)
    shares = [_share(model, kind, census) for kind in ("Conv", "MaxPool", "Concat")]
    faults = missing(model, census, float_nodes=lowered.float_nodes)
    notes = [f"on integers: {', '.join(shares)}", *lowered.notes, *faults]
    if len(notes) > _MOST_NOTES:
        notes[_MOST_NOTES:] = [f"and {len(notes) - _MOST_NOTES} more"]
    return replace(lowered, notes=tuple(notes))


def _for_a_processor(
    graph: InferenceGraph, precision: Precision, table: CalibrationTable | None, float_nodes: AbstractSet[str]
) -> Lowered:
    if precision is Precision.FP32:
        return Lowered(_bytes(lower_fp32(graph)))
    if precision is Precision.FP16:
        note = "weights are stored in float16 and computed with in float32: half the file, the speed of fp32"
        return Lowered(_bytes(lower_fp16_storage(graph)), (note,))
    assert table is not None
    weight_range = weight_range_for(read_processor())
    return Lowered(
        _bytes(lower_int8_cpu(graph, table, weight_range=weight_range, float_nodes=float_nodes)),
        _without_rule(graph),
        weight_bits=_WEIGHT_BITS[weight_range],
        float_nodes=staying_float(graph.model.graph, float_nodes),
    )


def _for_tensorrt(
    graph: InferenceGraph,
    precision: Precision,
    table: CalibrationTable | None,
    float_nodes: AbstractSet[str],
    *,
    opset: int,
    on_dla: bool,
) -> Lowered:
    if precision is not Precision.INT8:
        lowering = lower_fp32_tensorrt if precision is Precision.FP32 else lower_fp16_tensorrt
        model = in_opset(lowering(with_dla_head(graph) if on_dla else graph), opset)
        return Lowered(_bytes(model), (_SIMULATED, *(() if on_dla else _compiled(model, precision))))
    assert table is not None
    in_float = staying_float(graph.model.graph, float_nodes)
    if on_dla:
        model = in_opset(lower_implicit_tensorrt(graph, table, float_nodes=float_nodes), opset)
        cache = calibration_cache(graph, table, model, float_nodes=float_nodes)
        notes = (_SIMULATED_CACHE, _FLOAT_WEIGHTS, *_without_rule(graph))
        return Lowered(_bytes(model), notes, float_nodes=in_float, calibration_cache=cache)
    model = in_opset(lower_int8_tensorrt(graph, table, float_nodes=float_nodes), opset)
    notes = (_SIMULATED, _FLOAT_WEIGHTS, *_compiled(model, precision), *_without_rule(graph))
    return Lowered(_bytes(model), notes, float_nodes=in_float)


def _bytes(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _share(model: onnx.ModelProto, kind: str, census: Census) -> str:
    return f"{census.integer(kind)} of {sum(node.op_type == kind for node in model.graph.node)} {kind}"


def _without_rule(graph: InferenceGraph) -> tuple[str, ...]:
    """One note for all operators without a rule, such as LRN."""
    named = ", ".join(f"{node.op_type} {node.name}" for node in without_rule(graph.model.graph))
    return (f"in float, for there is no integer operator: {named}",) if named else ()


def _compiled(model: onnx.ModelProto, precision: Precision) -> tuple[str, ...]:
    return compiler_notes(_bytes(model), {node.name: node.op_type for node in model.graph.node}, precision)


def compiler_notes(model: bytes, kinds: Mapping[str, str], precision: Precision) -> tuple[str, ...]:
    """What NVIDIA's compiler says of a model, where TensorRT for RTX is installed: it needs no GPU for that.

    It is another release for other GPUs than a Jetson's. So what it says is noted and never decides.

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
    wanted, all_of_them = _TYPES[precision], sum(kind == "Conv" for kind in kinds.values())
    count = convolution_types(plan.layers, kinds)[wanted]
    return f"{library} compiles it: {count} of {all_of_them} convolutions on {wanted.value}, {len(plan.layers)} kernels"


_SIMULATED = "the accuracy is simulated here, with every rounding of the model; TensorRT compiles it on the device"
_FLOAT_WEIGHTS = "the model has float weights, as TensorRT takes them, and the size of one in fp32; the plan has not"
_SIMULATED_CACHE = (
    "the accuracy is simulated here, with every rounding that the calibration cache allows; TensorRT compiles it on the"
    " device, for the DLA"
)
