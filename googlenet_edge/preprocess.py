"""From an image to the network's input: one frozen value, the same for training, calibration and every engine.

Lowered models take the pixels and normalize them themselves; training and calibration do it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Side = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_LARGEST = 1e6
Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Resize the short side, cut the centre square, normalize: ``(x - mean) / std`` on RGB values of 0 to 255.

    The resize is Pillow's antialiased bilinear one and computes only the square: the centre ``crop / resize`` of the
    short side, sampled to ``crop`` × ``crop`` pixels. Whatever the version of Pillow, it goes along the rows first, and
    in tall images along the columns.

    The default maps 0…255 to -1…1. That is also the input that torchvision's GoogLeNet weights want: its
    ``transform_input`` after its ImageNet normalization is exactly this.
    """

    resize: Side = 256
    crop: Side = 224
    mean: Channels = (127.5, 127.5, 127.5)
    std: Channels = (127.5, 127.5, 127.5)

    def __post_init__(self) -> None:
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        if not all(abs(v) <= _LARGEST for v in (*self.mean, *self.std)) or min(self.std) < 1 / _LARGEST:
            raise ValueError(
                f"mean {self.mean} and std {self.std} must be finite, std above zero, none beyond a million"
            )

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB image of any size → uint8 ``(crop, crop, 3)``."""
        width, height = image.size
        side = min(width, height) * self.crop / self.resize
        left, top = (width - side) / 2, (height - side) / 2
        right, bottom = left + side, top + side
        if _is_tall(width - self.crop, height - self.crop):
            image = image.resize((width, self.crop), Image.Resampling.BILINEAR, box=(0, top, width, bottom))
            top, bottom = 0, self.crop
        square = image.resize((self.crop, self.crop), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        return np.asarray(square, dtype=np.uint8)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 ``(..., H, W, 3)`` → float32 ``(..., 3, H, W)``, contiguous."""
        planes = np.moveaxis(pixels, -1, -3)
        values = np.empty(planes.shape, np.float32)
        for c, table in enumerate(self._table()):  # no byte is beyond it, and to clip is quicker than to ask
            np.take(table, planes[..., c, :, :], out=values[..., c, :, :], mode="clip")
        return values

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value of any pixel, normalized."""
        table = self._table()
        return float(table.min()), float(table.max())

    def _table(self) -> NDArray[np.float32]:
        """float32 ``(3, 256)``: the normalized value of every byte, computed in float64 and rounded once."""
        bytes_ = np.arange(256, dtype=np.float64)
        mean, std = np.array(self.mean)[:, None], np.array(self.std)[:, None]
        table: NDArray[np.float32] = ((bytes_ - mean) / std).astype(np.float32)
        return table


def _is_tall(across: int, down: int) -> bool:
    """Whether the columns are resized before the rows, which rounds some values otherwise.

    Pillow 13 decides so by how many pixels either pass removes; older versions always begin with the rows.
    """
    return down > max(0, 2 * across)
