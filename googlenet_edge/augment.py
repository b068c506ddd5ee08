"""Training images: a random crop, flip and colour for each, drawn from (seed, epoch, image) and nothing else.

So every epoch is the same again after a restart, and whatever the number of loading processes or of training processes.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from googlenet_edge.dataset import ImageSet
from googlenet_edge.errors import EdgeError, TrainingError
from googlenet_edge.images import decode_rgb
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.statistics import Share

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_GREY, _SAME = np.outer(LUMA, np.ones(3)), np.eye(3)
RATIO = 4 / 3
UNCHANGED_COLOURS = np.vstack([_SAME, np.zeros((1, 3))]).astype(np.float32)
DECODED_BYTES = 400_000_000
"""What decoded images may take in all processes that load them: CIFAR-10's 50,000 in each of two."""
_PR_SET_PDEATHSIG = 1
_BY_A_LOADER = "in DataLoader worker process"
_NO_MEMORY_SIGNS = ("can't allocate memory", "std::bad_alloc", "out of memory")
_NO_LOADER = (
    "a process that loads images has ended: killed, or without memory; free some, or load without such processes by"
    " --workers 0. A container may need more shared memory: docker run --shm-size 1g"
)
_NO_MEMORY = "there is not enough memory; free some, or give a smaller --batch-size"


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far a training image may be from the one that was taken.

    ``min_area``: the smallest share of the image that a crop keeps. ``flip``: whether an image is mirrored in every
    other epoch (not for arrows or letters; source: Jordan, arXiv 2404.00498, section 3.6). ``colour``: brightness,
    contrast and saturation change by up to this share. ``erase``: the share of images in which a rectangle is replaced
    by noise.
    """

    min_area: Annotated[float, Meta(gt=0, le=1)] = 0.35
    flip: bool = True
    colour: Share = 0.2
    erase: Share = 0.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """The batches of one epoch for one of ``world`` processes, from batch ``first`` on.

    All processes shuffle alike; process ``rank`` takes its part of every batch. ``plain``: images are not augmented but
    mirrored and cut as evaluation cuts them, anywhere.
    """

    images: int
    batch_size: int
    seed: int
    epoch: int
    first: int = 0
    rank: int = 0
    world: int = 1
    plain: bool = False

    def batches(self) -> Iterator[list[tuple[Epoch, int]]]:
        """Keys of this process's share of each batch; what does not fill a batch is left out of this epoch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.images).tolist()
        share = self.batch_size // self.world
        for start in range(self.first * self.batch_size, self.images - self.batch_size + 1, self.batch_size):
            mine = start + self.rank * share
            yield [(self, i) for i in order[mine : mine + share]]


Key = tuple[Epoch, int]  # of which epoch, index of the image


class _Batches(Sampler[list[Key]]):
    """The batch sampler of a loader that lives through all epochs; ``epoch`` says which one is next."""

    def __init__(self) -> None:
        self.epoch: Epoch | None = None

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(()) if self.epoch is None else self.epoch.batches()


class _Crops(Dataset[tuple[Tensor, Tensor, int]]):
    """(epoch, index) → uint8 ``(crop, crop, 3)``, its colour map float32 ``(4, 3)``, and the label."""

    def __init__(
        self, images: ImageSet, preprocess: Preprocess, augmentation: Augmentation, *, kept_bytes: int
    ) -> None:
        self.images, self.preprocess, self.augmentation = images, preprocess, augmentation
        self._kept, self._room = dict[int, NDArray[np.uint8]](), kept_bytes

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        epoch, index = key
        random = np.random.default_rng([epoch.seed, epoch.epoch, index])
        image = self._image(index)
        if epoch.plain:
            part, colours = plain_crop(image, self.preprocess, random), UNCHANGED_COLOURS
        else:
            part = random_crop(image, self.preprocess.crop, self.augmentation, random)
            colours = random_colours(self.augmentation, random)
        if self.augmentation.flip and (epoch.epoch + index) % 2:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)  # NumPy takes six to twelve times as long
        pixels = np.array(part)
        if not epoch.plain:
            erase_rectangle(pixels, self.augmentation, random)
        return torch.from_numpy(pixels), torch.from_numpy(colours), self.images.labels[index]

    def _image(self, index: int) -> Image.Image:
        """Decoded once where there is room to keep it: small images take longer to decode than to crop."""
        if index in self._kept:
            return Image.fromarray(self._kept[index])
        image = decode_rgb(self.images.paths[index], short_side=self.preprocess.resize)
        pixels = np.asarray(image)
        if pixels.nbytes <= self._room:
            self._kept[index], self._room = pixels, self._room - pixels.nbytes
        return image


class TrainingBatches:
    """Batches of augmented images, loaded ahead by processes of their own; leaving the context ends them."""

    def __init__(
        self,
        images: ImageSet,
        preprocess: Preprocess,
        augmentation: Augmentation,
        *,
        workers: int,
    ) -> None:
        self._sampler = _Batches()
        self._loader = DataLoader(
            _Crops(images, preprocess, augmentation, kept_bytes=DECODED_BYTES // max(1, workers)),
            batch_sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers > 0 else None,
            worker_init_fn=_leave_signals_to_parent,
            generator=torch.Generator(),  # a loader draws from the common one, and how often depends on ``workers``
        )

    def of(self, epoch: Epoch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """uint8 pixels ``(N, crop, crop, 3)``, float32 colour maps ``(N, 4, 3)`` and int64 labels ``(N,)``.

        Raises:
            TrainingError: a process that loads images has ended.
        """
        self._sampler.epoch = epoch
        try:
            yield from self._loader
        except (ConnectionError, EOFError, FileNotFoundError) as problem:  # of what it hands images over by
            raise TrainingError(_NO_LOADER) from problem

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(self, *_: object) -> None:
        iterator = self._loader._iterator  # a loader has no way to end its processes, which Python waits for at the end
        if iterator is not None and self._loader.num_workers > 0:
            iterator._shutdown_workers()  # type: ignore[attr-defined]


@contextmanager
def clear_errors() -> Iterator[None]:
    """What goes wrong in processes that load images, or for lack of memory, leaves it as what a user can mend."""
    try:
        yield
    except Exception as error:
        if clear := _clear(error):
            raise clear from error
        raise


def _clear(error: BaseException) -> EdgeError | None:
    """What a user is told of an error of training; nothing where it is one already, or a bug."""
    text = str(error)
    match error:
        case EdgeError() if _BY_A_LOADER in text:
            return type(error)(text.rpartition(f"{type(error).__name__}: ")[2].strip())
        case MemoryError() | torch.OutOfMemoryError():
            return TrainingError(_NO_MEMORY)
        case RuntimeError() if any(sign in text for sign in _NO_MEMORY_SIGNS):
            return TrainingError(_NO_MEMORY)
        case RuntimeError() if "DataLoader worker" in text:
            return TrainingError(_NO_LOADER)
    return None


def _leave_signals_to_parent(_: int) -> None:
    """Ctrl-C in a terminal reaches every process; only the one that trains may act on it.

    Where that is killed, this one ends at once, too (Linux): it would keep the folder's lock.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def random_crop(image: Image.Image, crop: int, augmentation: Augmentation, random: np.random.Generator) -> Image.Image:
    """A random part of the image: Inception's sampling of an area, then of an aspect ratio 3/4…4/3, or what has room.

    It is ``crop`` pixels wide and high. Source: Szegedy et al., arXiv 1409.4842, section 6.
    """
    width, height = image.size
    area = width * height * random.uniform(augmentation.min_area, 1.0)
    ratio = RATIO ** random.uniform(-1.0, 1.0)
    h = min(height, area / min(width, (area * ratio) ** 0.5))
    return _part(image, min(width, area / h), h, crop, random)


def plain_crop(image: Image.Image, preprocess: Preprocess, random: np.random.Generator) -> Image.Image:
    """The square that `Preprocess.pixels` cuts from the centre, at a random place: objects as large as in evaluation.

    Source: Touvron et al., the train-test resolution discrepancy, arXiv 1906.06423.
    """
    side = min(image.size) * preprocess.crop / preprocess.resize
    return _part(image, side, side, preprocess.crop, random)


def _part(image: Image.Image, width: float, height: float, crop: int, random: np.random.Generator) -> Image.Image:
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    return image.resize((crop, crop), Image.Resampling.BILINEAR, box=box)


def to_input(pixels: Tensor, preprocess: Preprocess, colours: Tensor) -> Tensor:
    """uint8 ``(N, H, W, 3)`` → float32 ``(N, 3, H, W)`` in channels-last memory: recoloured and normalized.

    ``colours`` float32 ``(N, 4, 3)`` from `random_colours`; both steps are one matrix multiplication.
    """
    n, height, width, _ = pixels.shape
    mean = torch.tensor(preprocess.mean, device=pixels.device)
    std = torch.tensor(preprocess.std, device=pixels.device)
    flat = pixels.reshape(n, height * width, 3).float()
    flat = torch.baddbmm((colours[:, 3:] - mean) / std, flat, colours[:, :3] / std)
    return flat.reshape(n, height, width, 3).permute(0, 3, 1, 2)


def random_colours(augmentation: Augmentation, random: np.random.Generator) -> NDArray[np.float32]:
    """float32 ``(4, 3)``: a 3×3 matrix on RGB rows, then an offset row.

    Brightness, contrast (around mid-grey) and saturation (around the luma) in one affine map.
    """
    brightness, contrast, saturation = 1 + augmentation.colour * random.uniform(-1, 1, 3)
    found = np.empty((4, 3), np.float32)
    found[:3] = brightness * contrast * (saturation * _SAME + (1 - saturation) * _GREY)
    found[3] = 127.5 * (1 - contrast)
    return found


def erase_rectangle(pixels: NDArray[np.uint8], augmentation: Augmentation, random: np.random.Generator) -> None:
    """Replaces, in some images, a random rectangle of 2 to 33 % of the area by noise, in place.

    Source: Zhong et al., Random Erasing, arXiv 1708.04896.
    """
    if random.random() >= augmentation.erase:
        return
    side = len(pixels)
    area, ratio = random.uniform(0.02, 0.33), 3.3 ** random.uniform(-1.0, 1.0)
    height, width = (min(side, max(1, round(side * share))) for share in ((area * ratio) ** 0.5, (area / ratio) ** 0.5))
    top, left = random.integers(0, side - height + 1), random.integers(0, side - width + 1)
    pixels[top : top + height, left : left + width] = random.integers(0, 256, (height, width, 3), np.uint8)
