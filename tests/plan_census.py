"""What a plan of TensorRT is made of: convolutions by their type, and kernels that round needlessly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from googlenet_edge.engines.tensorrt_layers import NumberType, PlanLayer, convolution_types

ROUNDING = {"QuantizeLinear", "DequantizeLinear"}
NO_ARITHMETIC = ROUNDING | {"Relu", "Concat"}
ROUNDED_THEN_RELU = re.compile(r"RounCast\w*?Relu")


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
    return PlanCensus(
        kernels=len(layers),
        convolutions=dict(convolution_types(layers, kinds)),
        rounding_kernels=tuple(layer.name for layer in layers if only_rounds(layer, kinds)),
        rounded_before_relu=tuple(layer.name for layer in layers if ROUNDED_THEN_RELU.search(layer.name)),
    )


def only_rounds(layer: PlanLayer, kinds: Mapping[str, str]) -> bool:
    found = {kinds[node] for node in layer.nodes if node in kinds}
    return bool(found & ROUNDING) and found <= NO_ARITHMETIC
