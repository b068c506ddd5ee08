"""What TensorRT made of a graph: its layers with the types that they read and write, from its log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class NumberType(Enum):
    """The type of a tensor inside a plan."""

    FLOAT = "float"
    HALF = "half"
    INT8 = "int8"
    UINT8 = "uint8"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a layer reads or writes; weights are not among them."""

    name: str
    type: NumberType


@dataclass(frozen=True, slots=True)
class PlanLayer:
    """One kernel. ``kind`` is TensorRT's word for it, ``nodes`` are the ONNX nodes that it computes, or parts of."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tactic: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where TensorRT put what it built for a DLA: the pieces on the DLA, and the layers that fell back to the GPU."""

    dla: tuple[str, ...]
    gpu: tuple[str, ...]

    def __str__(self) -> str:
        """One sentence."""
        pieces = f"{len(self.dla)} {'piece' if len(self.dla) == 1 else 'pieces'}"
        return f"{pieces} on the DLA, {len(self.gpu)} layers on the GPU"


def layers_in_log(lines: Iterable[str]) -> tuple[PlanLayer, ...]:
    """The layers that a verbose build with detailed profiling prints; none where it prints none.

    TensorRT for RTX writes ``Datatype: Int8, Format: …`` and lists constants. TensorRT writes ``Format/Datatype: Half``
    or "Row major Int8 format", then the parameters of its kernel, and for some layers no tactic. Layers that only wait
    for or signal other streams, or compute shapes, are left out.
    """
    found = [(line, _LINE.match(line)) for message in lines for line in message.split("\n")]
    layers = [_layer_of(line, match) for line, match in found if match]
    return tuple(layer for layer in layers if layer.kind not in _NO_WORK)


def placement_in_log(lines: Iterable[str]) -> Placement:
    """Where the layers of a build for a DLA are."""
    text = "\n".join(lines)
    return Placement(tuple(re.findall(r"\[DlaLayer\] (.+)", text)), tuple(re.findall(r"\[GpuLayer\] (.+)", text)))


def convolution_types(layers: Iterable[PlanLayer], kinds: Mapping[str, str]) -> Counter[NumberType]:
    """How many of the graph's convolutions read which type; ``kinds``: the operator of each of its nodes."""
    read: dict[str, NumberType] = {}
    for layer in layers:
        if layer.kind not in _GENERATED and layer.inputs:
            convolutions = (node for node in layer.nodes if kinds.get(node) == "Conv")
            read.update(dict.fromkeys(convolutions, layer.inputs[0].type))
    return Counter(read.values())


_GENERATED = {"kgen", "PointWise", "PointWiseV2", "Reformat", "NoOp", "Constant"}
_NO_WORK = {"wait", "signal", "shape_call"}
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], (Constants: \[.*?\], )?"
    r"Outputs: \[(?P<outputs>.*?)\], (ParameterType|Tactic(Name|Value)):"
)
_TACTIC = re.compile(r"TacticName: (.*?),")
_TENSOR = re.compile(r"{ Name: (?P<name>.*?), .*?Datatype: (?P<type>[^,}]+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_TYPES = {
    "uint8": NumberType.UINT8,  # before int8, which is part of it
    "int8": NumberType.INT8,
    "fp32": NumberType.FLOAT,
    "float": NumberType.FLOAT,
    "fp16": NumberType.HALF,
    "half": NumberType.HALF,
}


def _layer_of(line: str, match: re.Match[str]) -> PlanLayer:
    def tensors(side: str) -> tuple[Tensor, ...]:
        return tuple(Tensor(t["name"], _type(t["type"])) for t in _TENSOR.finditer(match[side]))

    tactic, nodes = _TACTIC.search(line), tuple(_NODE.findall(line))
    return PlanLayer(
        match["name"], match["kind"], tensors("inputs"), tensors("outputs"), tactic[1] if tactic else "", nodes
    )


def _type(text: str) -> NumberType:
    return next((number for word, number in _TYPES.items() if word in text.lower()), NumberType.OTHER)
