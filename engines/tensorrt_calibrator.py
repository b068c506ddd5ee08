"""Calibrators: what TensorRT 8 to 10 asks for the scales of a network without pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.engines.cuda_device import Buffer, new_stream
from googlenet_edge.engines.tensorrt_library import Library


class Upload:
    """Brings one image at a time to the device. Made, used and closed while the device is current."""

    def __init__(self, driver: Any, crop: int) -> None:
        """Raises `EngineError` where there is no memory."""
        self._stream = new_stream(driver)
        self._buffer = Buffer(driver, (1, crop, crop, 3), np.uint8)

    def __call__(self, image: NDArray[np.uint8]) -> int:
        """uint8 ``(crop, crop, 3)`` → where it is on the device, once it is there."""
        self._buffer.host[:1] = image
        self._buffer.to_device(self._stream, 1)
        self._stream.synchronize()
        return self._buffer.address

    def close(self) -> None:
        """Gives the memory back."""
        self._buffer.free()
        self._stream = None


def calibrator_of(
    library: Library, cache: bytes = b"", *, pixels: Iterable[NDArray[np.uint8]] = (), upload: Upload | None = None
) -> Any:
    """An ``IInt8EntropyCalibrator2``: it knows the scales of ``cache`` already, or gives images, one at a time.

    What TensorRT found is kept in ``written``.

    Args:
        pixels: uint8 ``(N, crop, crop, 3)``.
        upload: brings each to the device.
    """
    trt = library.trt

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined]  # (a class of the module at hand)
        """Called by TensorRT while it builds."""

        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.written = b""
            self._images = iter(pixels)

        def get_batch_size(self) -> int:
            """What a DLA takes."""
            return 1

        def get_batch(self, _names: list[str]) -> list[int] | None:
            """The address of the next image on the device, or none when all were given."""
            image = next(self._images, None)
            return [upload(image)] if upload and image is not None else None

        def read_calibration_cache(self) -> bytes | None:
            """The scales, or none: everything is to be measured."""
            return cache or None

        def write_calibration_cache(self, cache: bytes) -> None:
            """What was found."""
            self.written = bytes(cache)

    return Calibrator()
