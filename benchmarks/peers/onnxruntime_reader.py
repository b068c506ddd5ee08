"""The calibration images as ONNX Runtime's quantizer asks for them."""

from __future__ import annotations

import numpy as np
from handover import INPUT, Handover
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader


class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package ships no types
    """One image a batch, over all images or over a range of them."""

    def __init__(self, given: Handover) -> None:
        self._images = given.images
        self.set_range(0, len(given.images))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Goes on with the images from ``start_index`` to before ``end_index``."""
        self._places = iter(range(start_index, min(end_index, len(self._images))))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next image, or None after the last."""
        place = next(self._places, None)
        return None if place is None else {INPUT: np.array(self._images[place][None])}
