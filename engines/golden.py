"""Golden vectors: a few images with the logits that the model gave where it was built, to be compared where it runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.errors import BundleError
from googlenet_edge.target import Precision, Unit

LOGIT_TOLERANCE = {Precision.FP32: 1e-3, Precision.FP16: 2e-2, Precision.INT8: 5e-2}
"""The largest difference that another processor's kernels may make, as a share of the largest golden logit.

Other kernels sum in another order (FP32, FP16) or round a value between two 8-bit levels the other way (INT8: float
arithmetic in place of ONNX Runtime's integer kernels moves GoogLeNet's logits by 0.8 % of the largest).
"""

DLA_TOLERANCE = 0.2
"""The same for a DLA in INT8: on the device it is decided which tensors of the calibration cache are rounded to 8 bits.

Wide, since no DLA has run this yet: it finds another model, not another rounding.
"""


def tolerance(precision: Precision, unit: Unit) -> float:
    """What holds for a bundle."""
    return DLA_TOLERANCE if (precision, unit) == (Precision.INT8, Unit.DLA) else LOGIT_TOLERANCE[precision]


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """``pixels`` uint8 ``(k, crop, crop, 3)`` and ``logits`` float32 ``(k, classes)``, k ≥ 1.

    On disk (``golden.bin``): all pixels, then all logits as little-endian float32, nothing else. The manifest's crop
    and the number of labels give the shapes.
    """

    pixels: NDArray[np.uint8]
    logits: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """The content of ``golden.bin``."""
        return self.pixels.tobytes() + self.logits.astype("<f4").tobytes()


def read_golden(data: bytes, *, crop: int, classes: int) -> Golden:
    """The inverse of `Golden.to_bytes`. Raises `ValueError` where the size or a logit is impossible."""
    pixel_bytes = crop * crop * 3
    count, rest = divmod(len(data), pixel_bytes + 4 * classes)
    if count == 0 or rest:
        raise ValueError(f"{len(data)} bytes are no whole number of {crop}×{crop} images with {classes} logits")
    pixels = np.frombuffer(data, np.uint8, count * pixel_bytes).reshape(count, crop, crop, 3)
    logits = np.frombuffer(data, "<f4", offset=count * pixel_bytes).reshape(count, classes).astype(np.float32)
    if not np.isfinite(logits).all():
        raise ValueError("a golden logit is NaN or infinite")
    return Golden(pixels, logits)


def check_golden(
    golden: Golden, logits: NDArray[np.float32], *, precision: Precision, where: str, unit: Unit = Unit.MAIN
) -> None:
    """Compares float32 logits ``(k, classes)`` computed here with the golden ones.

    Raises:
        BundleError: a logit differs by more than `tolerance` of the largest one.
    """
    allowed = tolerance(precision, unit) * float(np.abs(golden.logits).max())
    difference = float(np.abs(logits - golden.logits).max())
    if not difference <= allowed:
        raise BundleError(
            f"{where} computes something else on this machine: its golden logits differ by {difference:.3g}, at most"
            f" {allowed:.3g} is allowed for {precision.value}; upgrade the runtime, or build the bundle here"
        )
