"""Running a model over labelled images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from googlenet_edge.dataset import Bars, ImageSet, Progress, ticker
from googlenet_edge.engines.accuracy import Accuracy, Comparison, Evaluation, compare
from googlenet_edge.engines.bundle import LABELS, read_manifest
from googlenet_edge.engines.predictor import Predictor, load_predictor, ranking
from googlenet_edge.errors import DataError
from googlenet_edge.target import EngineName

_TOP = 5
_OTHER_CLASSES = "the two models have different classes, or the same in another order; compare models of one checkpoint"


def evaluate(
    predictor: Predictor,
    images: ImageSet,
    *,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Evaluation:
    """What the model says about every image, as many at the same time as the engine has streams.

    Classes are matched by name: images of a few of the model's classes will do.

    Raises:
        DataError: a class that the model does not have.
        DamagedImageError: a file cannot be decoded.
    """
    check_classes(predictor.labels, images)
    start, tick = clock(), ticker(len(images), progress)
    tops = []
    for logits in predictor.each(images.paths):
        tops.append(ranking(logits, _TOP))
        tick()
    best = np.concatenate(tops)
    place = np.array([predictor.labels.index(name) for name in images.class_names], np.int64)
    labels = place[list(images.labels)]
    in_top5 = (best == labels[:, None]).any(axis=1)
    predicted, backend = best[:, 0].astype(np.int64), predictor.engine.spec.backend
    return Evaluation(predictor.labels, labels, predicted, in_top5, clock() - start, backend)


@dataclass(frozen=True, slots=True)
class BundleAccuracy:
    """A bundle's accuracy by the runtime that computed it, and its comparison with the first that was asked for."""

    bundle: str
    engine: str
    accuracy: Accuracy
    against_first: Comparison | None

    @property
    def name(self) -> str:
        """For people, who are told what is simulated."""
        return f"{self.bundle} (simulated)" if self.engine == EngineName.SIMULATED.value else self.bundle


def evaluate_bundles(
    paths: Sequence[Path],
    images: ImageSet,
    *,
    streams: int,
    bars: Bars,
    engine: EngineName | None = None,
) -> list[Evaluation]:
    """What bundles say about the same images, ``streams`` of them at the same time.

    Raises:
        BundleError, EngineError: a bundle cannot be opened.
        DataError, DamagedImageError: as `evaluate`; or the bundles have different classes.
    """
    if len({read_manifest(path).files[LABELS].sha256 for path in paths}) > 1:
        raise DataError(_OTHER_CLASSES)
    found = []
    for path in paths:
        with bars(f"opening {path.name}") as progress:
            opened = load_predictor(path, streams=streams, engine=engine, progress=progress)
        with opened as predictor, bars(f"evaluating {path.name}") as progress:
            found.append(evaluate(predictor, images, progress=progress))
    return found


def accuracies(paths: Sequence[Path], evaluations: Sequence[Evaluation]) -> list[BundleAccuracy]:
    """Each bundle's accuracy, and its comparison with the first."""
    first = evaluations[0]
    against = [None, *(compare(first, found) for found in evaluations[1:])]
    return [
        BundleAccuracy(str(path), found.backend, found.accuracy, comparison)
        for path, found, comparison in zip(paths, evaluations, against, strict=True)
    ]


def check_classes(labels: tuple[str, ...], images: ImageSet) -> None:
    """Raises `DataError` where an image is of a class that is not among the labels."""
    known = set(labels)
    unknown = [name for name in images.class_names if name not in known]
    if unknown:
        raise DataError(
            f"{images.root} has classes that are none of the model's {len(labels)}: {_some(unknown)} (the model's are"
            f" {_some(labels)}); name the folders so, or give the data that the model was trained for"
        )


def check_same_classes(labels: tuple[str, ...], images: ImageSet) -> None:
    """For training, where the order counts, too. Raises `DataError`."""
    check_classes(labels, images)
    if images.class_names != labels:
        raise DataError(
            f"{images.root} has {len(images.class_names)} classes and the model {len(labels)}, and they are not the"
            " same; give the data that the model was trained for"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
