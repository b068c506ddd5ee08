"""Running models over labelled images, and the answers: what they said about every one, with small pictures.

One JSON file, which `gnet-edge eval --out` writes: whoever reads it needs neither the images nor the bundles.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from googlenet_edge.dataset import Bars, ImageSet, Progress, in_threads, ticker
from googlenet_edge.engines.accuracy import Accuracy, Comparison, Evaluation, compare
from googlenet_edge.engines.bundle import LABELS, MODEL, Sha256, read_manifest
from googlenet_edge.engines.predictor import Predictor, load_predictor, ranking
from googlenet_edge.errors import DataError
from googlenet_edge.files import from_versioned_json
from googlenet_edge.images import decode_rgb
from googlenet_edge.target import EngineName, Precision

SCHEMA = 1
KIND: Final = "answers"
THUMBNAIL_SIDE = 96
MOST_THUMBNAILS = 48

_Index = Annotated[int, msgspec.Meta(ge=0)]
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


@dataclass(frozen=True, slots=True)
class BundleAnswers:
    """One bundle's answers, in the order of the images.

    ``predicted`` holds indices of classes, ``in_top5`` whether the true class was among the first five. ``backend`` is
    the runtime that computed it.
    """

    bundle: str
    precision: Precision
    model_sha256: Sha256
    predicted: tuple[_Index, ...]
    in_top5: tuple[bool, ...]
    seconds: float
    backend: str

    def is_of(self, model_sha256: str, backend: str) -> bool:
        """Whether it is about that model, run by that backend."""
        return (self.model_sha256, self.backend) == (model_sha256, backend)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A JPEG of at most 96×96 pixels of the image with this index."""

    image: _Index
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Answers:
    """All bundles' answers about the same images. ``images`` are paths below ``data``, ``labels`` the true classes."""

    data: str
    class_names: tuple[str, ...]
    images: tuple[str, ...]
    labels: tuple[_Index, ...]
    bundles: tuple[BundleAnswers, ...]
    thumbnails: tuple[Thumbnail, ...] = ()
    kind: Literal["answers"] = KIND
    schema: int = SCHEMA

    def evaluation(self, bundle: BundleAnswers) -> Evaluation:
        """The same as arrays, for `accuracy.compare`."""
        return Evaluation(
            self.class_names,
            np.array(self.labels, np.int64),
            np.array(bundle.predicted, np.int64),
            np.array(bundle.in_top5, np.bool_),
            bundle.seconds,
            bundle.backend,
        )


def collect_answers(paths: Sequence[Path], images: ImageSet, evaluations: Sequence[Evaluation]) -> Answers:
    """The answers of the bundles at ``paths``, whose ``evaluations`` on ``images`` these are.

    Raises:
        BundleError: a bundle cannot be read.
        DamagedImageError: an image of which a thumbnail is made cannot be decoded.
    """
    return Answers(
        data=str(images.root),
        class_names=evaluations[0].class_names,
        images=tuple(path.relative_to(images.root).as_posix() for path in images.paths),
        labels=tuple(evaluations[0].labels.tolist()),
        bundles=tuple(_of_bundle(path, found) for path, found in zip(paths, evaluations, strict=True)),
        thumbnails=_thumbnails(images, evaluations),
    )


def parse_answers(data: bytes, where: str) -> Answers:
    """Reads what `write_json` wrote. Raises `DataError`: damaged, of a newer schema, or at odds with itself."""
    answers = from_versioned_json(data, Answers, schema=SCHEMA, where=where, error=DataError)
    count, classes = len(answers.images), len(answers.class_names)
    fits = count > 0 and bool(answers.bundles) and len(answers.labels) == count and max(answers.labels) < classes
    fits = fits and all(len(b.predicted) == len(b.in_top5) == count for b in answers.bundles)
    fits = fits and all(max(b.predicted) < classes for b in answers.bundles)
    if not (fits and all(thumbnail.image < count for thumbnail in answers.thumbnails)):
        raise DataError(f"{where} is at odds with itself (images, labels and answers do not fit); evaluate again")
    return answers


def _of_bundle(path: Path, found: Evaluation) -> BundleAnswers:
    manifest = read_manifest(path)
    predicted, in_top5 = tuple(found.predicted.tolist()), tuple(found.in_top5.tolist())
    sha256 = manifest.files[MODEL].sha256
    return BundleAnswers(str(path), manifest.precision, sha256, predicted, in_top5, found.seconds, found.backend)


def _thumbnails(images: ImageSet, evaluations: Sequence[Evaluation]) -> tuple[Thumbnail, ...]:
    """Of the images that some bundle gets right and another wrong."""
    right = np.stack([found.correct for found in evaluations])
    disputed = np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))[:MOST_THUMBNAILS].tolist()
    made = in_threads(thumbnail_of, [images.paths[i] for i in disputed])
    return tuple(Thumbnail(i, jpeg) for i, jpeg in zip(disputed, made, strict=True))


def thumbnail_of(source: Path | bytes) -> bytes:
    """An image file → a JPEG of at most 96×96 pixels, without what else the file held. Raises `DamagedImageError`."""
    image = decode_rgb(source, short_side=THUMBNAIL_SIDE)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()
