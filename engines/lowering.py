"""How a graph is lowered for each device in each precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import onnx

from googlenet_edge.calibration.audit import Census, missing, take_census
from googlenet_edge.calibration.lower import lower_fp16_storage, lower_fp32, lower_int8_cpu
from googlenet_edge.calibration.rewrites import Rewrite, rewrite
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.calibration.weights import WeightRange, weight_range_for
from googlenet_edge.engines.bundle import Trial
from googlenet_edge.errors import EngineError
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.processor import read_processor
from googlenet_edge.target import Device, Precision

_MOST_NOTES = 6
_WEIGHT_BITS = {WeightRange.FULL: 8, WeightRange.REDUCED: 7}


@dataclass(frozen=True, slots=True)
class Lowered:
    """The bytes that a device's backend opens. ``notes`` says in sentences what became of the graph.

    ``rewrites`` is what `rewriting.fastest` tried.
    """

    model: bytes = field(repr=False)
    notes: tuple[str, ...] = ()
    weight_bits: int = 8
    rewrites: tuple[Trial, ...] = ()


def lower(graph: InferenceGraph, *, device: Device, precision: Precision, table: CalibrationTable | None) -> Lowered:
    """Lowers a graph. INT8 needs the calibration table.

    Raises:
        EngineError: the device cannot have this precision, or INT8 came without a table.
        CalibrationError, LoweringError: see `lower_int8_cpu`, `lower_fp16_storage`, `take_census`.
    """
    if (device, precision) not in _LOWERINGS:
        raise EngineError(f"the device {device.value} has no {precision.value}; choose another --precision")
    return _LOWERINGS[device, precision](graph, table)


def rewritten(lowered: Lowered, rewrites: Sequence[Rewrite]) -> Lowered | None:
    """The same model after some rewrites, not yet audited; None where one of them finds nothing to do."""
    model = rewrite(onnx.load_model_from_string(lowered.model), rewrites)
    return replace(lowered, model=model.SerializeToString(deterministic=True)) if model else None


def audited(lowered: Lowered) -> Lowered:
    """An INT8 model with the notes of what this machine's ONNX Runtime makes of it. Raises `LoweringError`."""
    model = onnx.load_model_from_string(lowered.model)
    census = take_census(model)
    shares = [_share(model, kind, census) for kind in ("Conv", "MaxPool", "Concat")]
    notes = [f"on integers: {', '.join(shares)}", *missing(model, census)]
    if len(notes) > _MOST_NOTES:
        notes[_MOST_NOTES:] = [f"and {len(notes) - _MOST_NOTES} more"]
    return replace(lowered, notes=tuple(notes))


def _fp32(graph: InferenceGraph, _: CalibrationTable | None) -> Lowered:
    return Lowered(lower_fp32(graph).SerializeToString(deterministic=True))


def _fp16_cpu(graph: InferenceGraph, _: CalibrationTable | None) -> Lowered:
    note = "weights are stored in float16 and computed with in float32: half the file, the speed of fp32"
    return Lowered(lower_fp16_storage(graph).SerializeToString(deterministic=True), (note,))


def _int8_cpu(graph: InferenceGraph, table: CalibrationTable | None) -> Lowered:
    if table is None:
        raise EngineError("int8 needs a calibration table; give --data with images to calibrate on")
    weight_range = weight_range_for(read_processor())
    model = lower_int8_cpu(graph, table, weight_range=weight_range)
    plain = model.SerializeToString(deterministic=True)
    return audited(Lowered(plain, weight_bits=_WEIGHT_BITS[weight_range]))


def _share(model: onnx.ModelProto, kind: str, census: Census) -> str:
    return f"{census.integer(kind)} of {sum(node.op_type == kind for node in model.graph.node)} {kind}"


_LOWERINGS: dict[tuple[Device, Precision], Callable[[InferenceGraph, CalibrationTable | None], Lowered]] = {
    (Device.CPU, Precision.FP32): _fp32,
    (Device.CPU, Precision.FP16): _fp16_cpu,
    (Device.CPU, Precision.INT8): _int8_cpu,
}
