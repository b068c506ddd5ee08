"""Running a model over labelled images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from googlenet_edge.dataset import ImageSet, Progress
from googlenet_edge.engines.accuracy import Accuracy, Comparison, Evaluation, compare
from googlenet_edge.engines.logits import ranking
from googlenet_edge.engines.predictor import Predictor, load_predictor
from googlenet_edge.errors import DataError
from googlenet_edge.target import EngineName

_TOP = 5


def evaluate(
    predictor: Predictor,
    images: ImageSet,
    *,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Evaluation:
    """What the model says about every image, as many at the same time as the engine has streams.

    Raises:
        DataError: no image, or other classes than the model's.
        DamagedImageError: a file cannot be decoded.
    """
    check_classes(predictor.labels, images)
    start = clock()
    tops = []
    for done, logits in enumerate(predictor.each(images.paths), start=1):
        tops.append(ranking(logits, _TOP))
        if progress:
            progress(done, len(images))
    best = np.concatenate(tops)
    labels = np.array(images.labels, np.int64)
    in_top5 = (best == labels[:, None]).any(axis=1)
    return Evaluation(images.class_names, labels, best[:, 0].astype(np.int64), in_top5, clock() - start)


@dataclass(frozen=True, slots=True)
class BundleAccuracy:
    """A bundle's accuracy, and its comparison with the first bundle that was asked for."""

    bundle: str
    accuracy: Accuracy
    against_first: Comparison | None


def evaluate_bundles(
    paths: Sequence[Path],
    images: ImageSet,
    *,
    streams: int,
    bars: Callable[[str], AbstractContextManager[Progress]],
    engine: EngineName | None = None,
) -> list[BundleAccuracy]:
    """The accuracy of bundles on the same images, ``streams`` of them at the same time.

    Raises:
        BundleError, EngineError: a bundle cannot be opened.
        DataError, DamagedImageError: as `evaluate`.
    """
    first: Evaluation | None = None
    results = []
    for path in paths:
        opened = load_predictor(path, streams=streams, engine=engine)
        with opened as predictor, bars(f"evaluating {path.name}") as progress:
            found = evaluate(predictor, images, progress=progress)
        results.append(BundleAccuracy(str(path), found.accuracy, compare(first, found) if first else None))
        first = first or found
    return results


def check_classes(labels: tuple[str, ...], images: ImageSet) -> None:
    """Raises `DataError` where there is no image, or where the images have other classes than a model's ``labels``."""
    if not len(images):
        raise DataError(f"{images.root} has no image to evaluate")
    if images.class_names == labels:
        return
    different = sorted(set(labels) ^ set(images.class_names)) or ["in another order"]
    raise DataError(
        f"{images.root} has {len(images.class_names)} classes and the model {len(labels)}, and they are not the same"
        f" ({', '.join(different[:5])}); give the data that the model was trained for"
    )
