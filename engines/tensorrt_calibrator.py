"""Calibrators: what TensorRT 8 to 10 asks for the scales of a network without pairs."""

from __future__ import annotations

from typing import Any


def cached_calibrator(trt: Any, cache: bytes) -> Any:
    """An ``IInt8EntropyCalibrator2`` that knows all scales already, and so gives no images."""

    class CachedCalibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]  # (a class of the module at hand)
        """Called by TensorRT while it builds."""

        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            """Of the images that there are not."""
            return 1

        def get_batch(self, _names: list[str]) -> None:
            """None: there are no more images."""

        def read_calibration_cache(self) -> bytes:
            """The scales."""
            return cache

        def write_calibration_cache(self, _cache: bytes) -> None:
            """They are kept already."""

    return CachedCalibrator()
