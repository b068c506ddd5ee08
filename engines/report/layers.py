"""The layers of ``gnet-edge sensitivity --json``, as a report reads them: without the packages that measured them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from googlenet_edge.errors import DataError
from googlenet_edge.files import from_json
from googlenet_edge.statistics import Interval


@dataclass(frozen=True, slots=True)
class LayerCost:
    """As `sensitivity.LayerSensitivity`."""

    layer: str
    noise_share: float
    flips: int
    gain_db: float | None
    extra_ms: float
    slowdown: float
    slowdown_interval: Interval


@dataclass(frozen=True, slots=True)
class Layers:
    """As `sensitivity.Sensitivity`, the costliest layer first; ``None`` stands for infinite."""

    sqnr_db: float | None
    flips: int
    images: int
    latency_ms: float
    threads: int
    layers: tuple[LayerCost, ...]


def parse_layers(data: bytes, where: str) -> Layers:
    """Raises `DataError`: damaged, or a figure that cannot be."""
    found = from_json(data, Layers, where=where, error=DataError)
    figures = [value for row in found.layers for value in (row.noise_share, row.extra_ms, row.slowdown)]
    if not all(math.isfinite(value) and abs(value) < 1e9 for value in (found.latency_ms, *figures)):
        raise DataError(f"{where} cannot be layers of gnet-edge sensitivity: a figure is not finite; measure again")
    return found
