"""From an image to labels: decode, preprocess, infer, rank."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from googlenet_edge.dataset import Progress, in_threads
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.engines.protocol import Engine
from googlenet_edge.engines.registry import engine_named, open_bundle
from googlenet_edge.errors import DataError, EngineError
from googlenet_edge.images import decode_rgb, upright_rgb
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import EngineName

ImageSource = Image.Image | NDArray[np.uint8] | bytes | str | Path
"""An open Pillow image, RGB pixels uint8 ``(H, W, 3)``, the bytes of an image file, or its path."""

DEFAULT_TOP_K = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class with its probability (softmax of the logits); ``index`` is its place among the logits."""

    label: str
    index: int
    probability: float


class Predictor:
    """An engine together with what its inputs and outputs mean. It may be used from several threads at once."""

    def __init__(self, engine: Engine, *, labels: tuple[str, ...], preprocess: Preprocess) -> None:
        """Takes the engine over and closes it when closed."""
        self.engine = engine
        self.labels = labels
        self.preprocess = preprocess

    def predict(self, image: ImageSource, top_k: int | None = None) -> list[Prediction]:
        """The ``top_k`` most probable classes, best first; of equals the one with the lower index leads.

        Args:
            image: see `ImageSource`.
            top_k: 1 to the number of classes; by default 5, or all where there are fewer.

        Raises:
            DamagedImageError: the image cannot be decoded.
            DataError: the image is of a type or shape that is none of `ImageSource`.
            EngineError: ``top_k`` is out of range, or the engine is closed.
        """
        count = self._checked_count(top_k)
        return rank(self._logits(image), self.labels, count)[0]

    def predict_batch(self, images: Iterable[ImageSource], top_k: int | None = None) -> list[list[Prediction]]:
        """`predict` for many images, in their order, with bounded memory.

        Raises:
            DataError: also where ``images`` is one image and not several.
        """
        count = self._checked_count(top_k)
        return [rank(logits, self.labels, count)[0] for logits in self.each(images)]

    def logits(self, images: Iterable[ImageSource]) -> NDArray[np.float32]:
        """float32 ``(n, classes)`` for n images. Raises as `predict`."""
        return np.concatenate([np.empty((0, len(self.labels)), np.float32), *self.each(images)])

    def each(self, images: Iterable[ImageSource]) -> Iterator[NDArray[np.float32]]:
        """Logits float32 ``(1, classes)`` of every image, in their order, with bounded memory.

        As many images as the engine has streams are decoded and computed at the same time, each by a thread of its own.
        """
        if isinstance(images, (str, bytes, Path, Image.Image)):
            raise DataError(f"images is one {type(images).__name__}; give a list of images, or use predict")
        streams = self.engine.spec.streams
        return map(self._logits, images) if streams == 1 else in_threads(self._logits, images, workers=streams)

    def _logits(self, image: ImageSource) -> NDArray[np.float32]:
        return self.run(self.preprocess.pixels(open_rgb(image, self.preprocess))[None])

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 ``(N, crop, crop, 3)``, as from `Preprocess.pixels` → logits float32 ``(N, classes)``."""
        return self.engine.run(pixels)

    def close(self) -> None:
        """Closes the engine. A second call does nothing."""
        self.engine.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked_count(self, top_k: int | None) -> int:
        classes = len(self.labels)
        if top_k is None:
            return min(DEFAULT_TOP_K, classes)
        with suppress(TypeError):
            if 1 <= (count := operator.index(top_k)) <= classes:  # NumPy's integers as well
                return count
        raise EngineError(f"top_k is {top_k!r}, but the bundle has {classes} classes; ask for 1 to {classes}")


def load_predictor(
    path: Path,
    *,
    threads: int = 1,
    streams: int = 1,
    engine: EngineName | str | None = None,
    build: bool = True,
    progress: Progress | None = None,
) -> Predictor:
    """See `googlenet_edge.load`; ``progress`` is told how far a compiling runtime is."""
    wanted = engine_named(engine) if engine else None
    bundle = read_bundle(path)
    opened = open_bundle(bundle, threads=threads, streams=streams, engine=wanted, build=build, progress=progress)
    if opened.spec.backend == EngineName.SIMULATED.value and not wanted:
        _log.warning("%s is simulated on the processor, slowly: TensorRT or pycuda is not installed here", path)
    return Predictor(opened, labels=bundle.class_names, preprocess=bundle.manifest.preprocess)


def open_rgb(image: ImageSource, preprocess: Preprocess) -> Image.Image:
    """Any `ImageSource` as an upright RGB image. Raises `DamagedImageError` or `DataError`."""
    match image:
        case Image.Image():
            return upright_rgb(image)
        case np.ndarray():
            return _from_pixels(image)
        case bytes():
            return decode_rgb(image, short_side=preprocess.resize)
        case str() | Path():
            return decode_rgb(Path(image), short_side=preprocess.resize)
    raise DataError(
        f"an image cannot be a {type(image).__name__}; give a path, bytes, a Pillow image, or uint8 (H, W, 3)"
    )


def rank(logits: NDArray[np.float32], labels: tuple[str, ...], count: int) -> list[list[Prediction]]:
    """The ``count`` best classes for every row of logits ``(N, classes)``."""
    order, probabilities = ranking(logits, count), softmax(logits)
    return [
        [Prediction(labels[i], i, p) for i, p in zip(indices.tolist(), row[indices].tolist(), strict=True)]
        for indices, row in zip(order, probabilities, strict=True)
    ]


def _from_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise DataError(f"an array image is {pixels.dtype} {pixels.shape}, expected RGB pixels uint8 (H, W, 3)")
    return Image.fromarray(pixels)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits ``(..., classes)`` → probabilities of the same shape, each row summing to 1."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def ranking(logits: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices ``(N, count)`` of the largest logits ``(N, classes)``, best first; of equals the lowest index leads."""
    return np.argsort(-logits, axis=-1, kind="stable")[..., :count]
