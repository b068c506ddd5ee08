"""Folders of images, one folder a class, as lists that training, calibration and evaluation share."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.errors import DamagedImageError, DataError
from googlenet_edge.files import is_name
from googlenet_edge.images import decode_rgb, read_image_file
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.processor import usable_cores

Progress = Callable[[int, int], None]
Bars = Callable[[str], AbstractContextManager[Progress]]
"""Shows a step by its name; what it gives is told (done, total)."""

VAL_SHARE = 0.2
_NOT_IMAGES = {"thumbs.db", "desktop.ini"}
OR_SKIP = ", or leave damaged images out with --skip-damaged"
_WORKERS = max(2, min(4, usable_cores()))

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images with their classes. ``labels[i]`` is the index in ``class_names`` of ``paths[i]``."""

    root: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int]) -> ImageSet:
        """The images at ``indices``, in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in indices), labels=tuple(self.labels[i] for i in indices))


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a model is trained on, and what it is judged on."""

    train: ImageSet
    val: ImageSet


Pixels = Mapping[Path, NDArray[np.uint8]]
"""Of some images, as `Preprocess.pixels` makes them: uint8 ``(crop, crop, 3)``."""

KEPT_BYTES = 100_000_000
"""What the pixels of checked images may take that are looked at more than once: 664 of 224×224 are decoded once."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An image set of which every file was decoded once.

    Attributes:
        sha256: the hash of the sorted hashes of the files with their classes: the same for the same images in any
            order, under any names.
        preprocess: what they were decoded for.
        kept: of some of them.
        files: by the hash of what is in them.
    """

    images: ImageSet
    sha256: str
    damaged: tuple[str, ...]
    preprocess: Preprocess
    kept: Pixels = field(default_factory=dict, compare=False, repr=False)
    files: Mapping[str, Path] = field(default_factory=dict, compare=False, repr=False)

    def pixels(self, some: ImageSet, preprocess: Preprocess) -> Iterator[NDArray[np.uint8]]:
        """uint8 ``(crop, crop, 3)`` for some of the images in their order; only what was not kept is decoded again."""
        return load_pixels(some, preprocess, kept=self.kept if preprocess == self.preprocess else None)


WhenDamaged = Callable[[Checked], ImageSet]
"""What to do about damaged images: `refuse_damaged` or `without_damaged`."""


def open_dataset(root: Path, *, seed: int = 0) -> Dataset:
    """Reads ``root/train/CLASS/*`` and ``root/val/CLASS/*``, or splits ``root/CLASS/*``.

    One image in five of every class then goes to val. The split depends on ``seed`` and on the file names alone.

    Raises:
        DataError: no such folder, fewer than two classes, a class without images, or classes that differ.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give one with train/CLASS/* and val/CLASS/*, or with CLASS/*")
    if not (root / "train").is_dir():
        return _split(open_images(root), seed)
    if not (root / "val").is_dir():
        raise DataError(
            f"{root} has train/ and no val/; add {root}/val/CLASS/*, or put the classes directly in {root}, and call"
            " none of them train"
        )
    train, val = open_images(root / "train"), open_images(root / "val")
    if train.class_names != val.class_names:
        sides = {"train": train.class_names, "val": val.class_names}
        alone = [f"only {side}/ has {name}" for side, names in sides.items() for name in names if _in_one(name, sides)]
        raise DataError(f"{root}: {', '.join(alone[:5])}; train/ and val/ need the same classes")
    return Dataset(train, val)


def open_images(folder: Path) -> ImageSet:
    """Reads ``folder/CLASS/*`` without decoding; classes and files are sorted by name. Raises `DataError`."""
    try:
        return _listed(folder)
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read: {problem.strerror}; mend or remove it") from problem


def _listed(folder: Path) -> ImageSet:
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(classes) < 2:
        found = f"only the class {classes[0].name!r}" if classes else "no class folder"
        raise DataError(f"{folder} has {found}; expected at least two folders, one a class, with images in them")
    for name in (c.name for c in classes):
        if not is_name(name):
            raise DataError(f"{folder} has the class folder {name!r}, whose name cannot be shown; rename it")
    paths: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(classes):
        with os.scandir(class_folder) as entries:  # several times as quick as Path.iterdir, which asks for each file
            visible = [entry for entry in entries if _may_be_image(entry.name)]
        for entry in visible:
            if entry.is_dir() and any(map(_is_image, Path(entry).iterdir())):
                raise DataError(_nested(entry.path, class_folder.name))
        names = sorted(entry.name for entry in visible if entry.is_file() or _leads_nowhere(entry))
        if not names:
            raise DataError(f"{class_folder} has no image; add some, or remove the folder")
        paths += [class_folder / name for name in names]
        labels += [label] * len(names)
    return ImageSet(folder, tuple(c.name for c in classes), tuple(paths), tuple(labels))


def check_images(
    images: ImageSet, *, preprocess: Preprocess, kept_bytes: int = 0, progress: Progress | None = None
) -> Checked:
    """Decodes and hashes every file; the damaged ones are named in ``damaged`` and left out of ``images``.

    The pixels of the first images are kept, as many as take ``kept_bytes`` where none is damaged. Files that are in two
    classes at once are told as a warning: one of the two is wrong.
    """
    most_kept = kept_bytes // (3 * preprocess.crop**2)
    kept: dict[Path, NDArray[np.uint8]] = {}

    def check(numbered: tuple[int, Path]) -> tuple[str, str]:
        """(SHA-256 of the file, what is wrong with it or '')."""
        number, path = numbered
        try:
            data = read_image_file(path)
        except DamagedImageError as problem:
            return "", str(problem)
        try:
            decoded = decode_rgb(data, short_side=preprocess.resize)
        except DamagedImageError as problem:
            return "", f"{path}{str(problem).removeprefix('the image')}"
        if number < most_kept:
            kept[path] = preprocess.pixels(decoded)
        return hashlib.sha256(data).hexdigest(), ""

    tick = ticker(len(images), progress)
    files: dict[str, Path] = {}
    in_two: list[tuple[Path, Path]] = []
    hashes: list[bytes] = []
    damaged: list[str] = []
    good: list[int] = []
    for i, (sha256, problem) in enumerate(in_threads(check, enumerate(images.paths))):
        if problem:
            damaged.append(problem)
        else:
            good.append(i)
            known = files.setdefault(sha256, images.paths[i])
            if known.parent != images.paths[i].parent:
                in_two.append((known, images.paths[i]))
            hashes.append(f"{sha256} {images.class_names[images.labels[i]]}\n".encode())
        tick()
    if in_two:
        count = "1 image is" if len(in_two) == 1 else f"{len(in_two)} images are"
        _log.warning("%s in two classes at once, such as %s and %s; remove the wrong one", count, *in_two[0])
    sha256 = hashlib.sha256(b"".join(sorted(hashes))).hexdigest()
    return Checked(images.take(good), sha256, tuple(damaged), preprocess, kept, files)


def refuse_damaged(checked: Checked) -> ImageSet:
    """The images, where all of them are whole. Raises `DamagedImageError` with the first damaged one's name."""
    if checked.damaged:
        more = f" (and {len(checked.damaged) - 1} more)" if len(checked.damaged) > 1 else ""
        raise DamagedImageError(f"{checked.damaged[0]}{more}{OR_SKIP}")
    return checked.images


def without_damaged(checked: Checked) -> ImageSet:
    """The images that are whole. Raises `DataError` where there is none."""
    if checked.damaged and not len(checked.images):
        raise DataError(f"{checked.images.root} has only damaged images; replace them")
    return checked.images


def require_every_class(images: ImageSet) -> None:
    """Raises `DataError` where damage left a class without an image."""
    left = set(images.labels)
    for label, name in enumerate(images.class_names):
        if label not in left:
            raise DataError(f"{images.root / name} has only damaged images; replace them or remove the folder")


def load_pixels(images: ImageSet, preprocess: Preprocess, *, kept: Pixels | None = None) -> Iterator[NDArray[np.uint8]]:
    """uint8 ``(crop, crop, 3)`` for every image in order, decoded ahead by a few threads in bounded memory.

    Those that are ``kept`` are not decoded again.
    """

    def load(path: Path) -> NDArray[np.uint8]:
        if kept and path in kept:
            return kept[path]
        return preprocess.pixels(decode_rgb(path, short_side=preprocess.resize))

    return in_threads(load, images.paths)


def stratified_sample(images: ImageSet, count: int, *, seed: int) -> ImageSet:
    """About ``count`` images with the share of every class kept; the choice depends on ``seed`` alone.

    Where there are fewer images than classes, chance decides which classes have one.
    """
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    by_class: dict[int, list[int]] = {}
    for place, i in enumerate(order):
        by_class.setdefault(images.labels[i], []).append(place)
    ranked = sorted((rank / len(group), place) for group in by_class.values() for rank, place in enumerate(group))
    return images.take(sorted(order[place] for _, place in ranked[:count]))


def sample_beside(images: ImageSet, used: ImageSet, count: int, *, seed: int) -> ImageSet:
    """`stratified_sample` of what is not among ``used``; of all images where that leaves fewer than ``count``."""
    paths = set(used.paths)
    rest = images.take([i for i, path in enumerate(images.paths) if path not in paths])
    return stratified_sample(rest if len(rest) >= count else images, count, seed=seed)


def ticker(total: int, progress: Progress | None) -> Callable[[], None]:
    """Tells ``progress``, where there is one, of ``total`` turns."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    return tick


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = _WORKERS
) -> Iterator[Result]:
    """``map`` with a few threads and a short queue: order is kept, memory is bounded."""
    with ThreadPoolExecutor(workers) as pool:
        source = iter(items)
        pending = [pool.submit(function, item) for item in islice(source, 8 * workers)]
        try:
            while pending:
                yield pending.pop(0).result()
                pending += [pool.submit(function, item) for item in islice(source, 1)]
        finally:
            pool.shutdown(cancel_futures=True)  # what waits in the queue after a failure is not wanted any more


def _split(images: ImageSet, seed: int) -> Dataset:
    """Of every class, the images whose seeded name hash is smallest go to val."""

    def rank(i: int) -> str:
        return hashlib.sha256(f"{seed}/".encode() + os.fsencode(images.paths[i].relative_to(images.root))).hexdigest()

    by_class: list[list[int]] = [[] for _ in images.class_names]
    for i, label in enumerate(images.labels):
        by_class[label].append(i)
    val: list[int] = []
    for name, members in zip(images.class_names, by_class, strict=True):
        members.sort(key=rank)
        if len(members) < 2:
            raise DataError(f"{images.root / name} has one image; at least two are needed to split train from val")
        val += members[: max(1, round(VAL_SHARE * len(members)))]
    chosen = set(val)
    return Dataset(images.take([i for i in range(len(images)) if i not in chosen]), images.take(sorted(val)))


def _nested(path: str, class_name: str) -> str:
    splits = "; where it is a split, call that train or val" if class_name.lower()[:3] in ("tra", "val") else ""
    return (
        f"{path} has images in a folder within a class; move them up, or give it a name that begins with a dot{splits}"
    )


def _in_one(name: str, sides: Mapping[str, tuple[str, ...]]) -> bool:
    return sum(name in names for names in sides.values()) == 1


def _may_be_image(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _NOT_IMAGES


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Such as a link to a disk that is not there: an image that cannot be read, and not one to leave out in silence."""
    return entry.is_symlink() and not entry.is_dir()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}
