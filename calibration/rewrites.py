"""Exact rewrites of lowered models: other operators for the same values, which a processor may run faster.

Each is a function of a model, of floats or of codes, and leaves what the model takes and gives as it was. Whether one
is worth it, the machine at hand must say: see `googlenet_edge.engines.rewriting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from types import MappingProxyType

import onnx

from googlenet_edge.calibration.pointwise import merge_pointwise
from googlenet_edge.calibration.signed import signed_pixels
from googlenet_edge.calibration.stem import space_to_depth


class Rewrite(Enum):
    """The known rewrites."""

    SPACE_TO_DEPTH = "space-to-depth"
    MERGED_POINTWISE = "merged-1x1"
    SIGNED_PIXELS = "signed-pixels"


def rewrite(model: onnx.ModelProto, rewrites: Iterable[Rewrite]) -> onnx.ModelProto | None:
    """A model after some rewrites; None where one of them finds nothing to do."""
    rewritten: onnx.ModelProto | None = model
    for each in rewrites:
        rewritten = _FUNCTIONS[each](rewritten) if rewritten is not None else None
    return rewritten


_FUNCTIONS = MappingProxyType[Rewrite, Callable[[onnx.ModelProto], onnx.ModelProto | None]](
    {
        Rewrite.SPACE_TO_DEPTH: space_to_depth,
        Rewrite.MERGED_POINTWISE: merge_pointwise,
        Rewrite.SIGNED_PIXELS: signed_pixels,
    }
)
