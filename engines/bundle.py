"""The bundle: a folder with a model lowered for one device and all that is needed to run it and to trust it.

    manifest.json      what it is, where it comes from, and the size and SHA-256 of every other file
    model.onnx         the lowered model
    labels.txt         the class names, one a line, in the order of the logits
    golden.bin         a few images with their logits, computed where the bundle was built
    calibration.cache  the scales for TensorRT, where the model is for a DLA in INT8

The manifest carries its own SHA-256, so that one changed byte anywhere is found and its file named.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from googlenet_edge import __version__
from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.errors import BundleError, OutputError
from googlenet_edge.files import (
    check_writable,
    from_versioned_json,
    is_name,
    new_folder,
    read_file,
    sha256_bytes,
    to_json,
    write_bytes,
    write_json,
)
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Device, EngineName, Precision, Unit
from googlenet_edge.workspace import MANIFEST_FILE, MODEL_FILE, refuse_inside_bundle

SCHEMA = 3  # 1: models of normalized float images; 2: none for a DLA
MANIFEST, MODEL = MANIFEST_FILE, MODEL_FILE
LABELS = "labels.txt"
GOLDEN = "golden.bin"
CACHE = "calibration.cache"
_FILES = {MODEL, LABELS, GOLDEN}
_ALL_FILES = _FILES | {CACHE}
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 30
_MOST_GOLDEN = 64

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]

LOGIT_TOLERANCE = {Precision.FP32: 1e-3, Precision.FP16: 2e-2, Precision.INT8: 5e-2}
"""The largest difference that another processor's kernels may make, as a share of the largest golden logit.

Other kernels sum in another order (FP32, FP16) or round a value between two 8-bit levels the other way (INT8: float
arithmetic in place of ONNX Runtime's integer kernels moves GoogLeNet's logits by 0.8 % of the largest).
"""

DLA_TOLERANCE = 0.2
"""The same for a DLA in INT8: on the device it is decided which tensors of the calibration cache are rounded to 8 bits.

Wide, since no DLA has run this yet: it finds another model, not another rounding.
"""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file must be: bytes and hexadecimal SHA-256."""

    size: Annotated[int, msgspec.Meta(ge=0, le=_MAX_FILE_BYTES)]
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Lineage:
    """The SHA-256 of everything that the model was made from; ``None`` where there was no such thing."""

    checkpoint: Sha256 | None = None
    graph: Sha256 | None = None
    calibration: Sha256 | None = None
    dataset: Sha256 | None = None


class Verdict(Enum):
    """What became of an engine that was tried, and why."""

    TAKEN = "taken"
    NOT_FASTER = "not faster"
    INACCURATE = "inaccurate"


@dataclass(frozen=True, slots=True)
class EngineTrial:
    """An engine that ``--engine auto`` tried: inference of one image, and accuracy on the validation images.

    ``ratio`` is its latency divided by that of the first engine tried, both measured in turns; the intervals hold 95 %.
    ``top1_change_points`` and ``agreement`` are as in `Comparison`.
    """

    engine: EngineName
    version: str
    threads: int
    p50_ms: float
    p50_interval_ms: Interval
    ratio: float
    ratio_interval: Interval
    top1_change_points: float
    agreement: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Trial:
    """How a candidate did: the median over rounds of its time divided by that of the plain way, and a 95 % interval."""

    name: str
    ratio: float
    interval: Interval
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a bundle but its contents.

    ``accuracy`` is the model's own, ``against_fp32`` the comparison on the same images. ``notes`` is what the lowering
    says about itself. ``rewrites`` are the exact rewrites that were tried on the machine of the build.
    ``weight_bits`` is as in `EngineOptions`. ``float_layers`` were left in float to keep the budget of accuracy, the
    costliest first. ``build_seconds`` is by step. ``engine`` runs the model where no other is asked for;
    ``engine_trials`` says why it is this one, where several were timed.
    ``files`` and ``sha256`` are filled in when written.
    """

    precision: Precision
    device: Device
    preprocess: Preprocess
    lineage: Lineage = Lineage()
    accuracy: Accuracy | None = None
    against_fp32: Comparison | None = None
    weight_bits: Annotated[int, msgspec.Meta(ge=7, le=8)] = 8
    float_layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rewrites: tuple[Trial, ...] = ()
    fp32_model_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    engine: EngineName = EngineName.ONNXRUNTIME
    engine_trials: tuple[EngineTrial, ...] = ()
    unit: Unit = Unit.MAIN
    build_seconds: dict[str, float] = field(default_factory=dict)
    tool_version: str = __version__
    schema: int = SCHEMA
    files: dict[str, FileRecord] = field(default_factory=dict)
    sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle in memory; ``model`` is what the device's backend opens, with ``calibration_cache`` where it needs one.

    ``where`` names it in messages.
    """

    manifest: Manifest
    class_names: tuple[str, ...]
    model: bytes = field(repr=False)
    golden: Golden = field(repr=False)
    where: str = "the bundle"
    calibration_cache: bytes = field(default=b"", repr=False)


def write_bundle(path: Path, bundle: Bundle) -> Manifest:
    """Writes a folder in one step, in the place of an older bundle of that name; returns the manifest as written.

    Raises:
        BundleError: the parts do not fit each other, or a class name cannot be a line of text.
        OutputError: ``path`` cannot be written, or holds something that is not a bundle.
    """
    contents = {MODEL: bundle.model, LABELS: _labels_text(bundle.class_names), GOLDEN: bundle.golden.to_bytes()}
    if _needs_cache(bundle.manifest):
        contents[CACHE] = bundle.calibration_cache
    files = {name: FileRecord(len(data), sha256_bytes(data)) for name, data in contents.items()}
    unsealed = replace(bundle.manifest, files=files)
    manifest = replace(unsealed, sha256=_seal(unsealed))
    with new_folder(path) as folder:
        _refuse_foreign_folder(path)
        for name, data in contents.items():
            write_bytes(folder / name, data)
        write_json(folder / MANIFEST, manifest)
    return manifest


def read_bundle(path: Path) -> Bundle:
    """Reads a bundle and verifies all of it but what the model computes (see `registry.open_bundle`).

    Raises:
        BundleError: no bundle, of another schema, a file missing, added or changed, or parts that do not fit.
    """
    try:
        return _read_verified(path)
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}") from problem


def _read_verified(path: Path) -> Bundle:
    manifest = read_manifest(path)
    _check_file_set(path, manifest)
    contents = {name: _read_recorded(path / name, record) for name, record in manifest.files.items()}
    try:
        class_names = tuple(contents[LABELS].decode().removesuffix("\n").split("\n"))
        golden = read_golden(contents[GOLDEN], crop=manifest.preprocess.crop, classes=len(class_names))
        _labels_text(class_names)
    except (ValueError, BundleError) as problem:
        raise BundleError(
            f"{path} has labels or golden vectors that do not fit it ({problem}); build it again"
        ) from problem
    if b"location" in contents[MODEL]:  # the key of ONNX's external data; no name in a lowered model has it
        raise BundleError(f"{path / MODEL} keeps weights in another file, which no hash covers; build the bundle again")
    if _needs_cache(manifest) and not contents[CACHE]:
        raise BundleError(f"{path / CACHE} is empty, and a DLA quantizes by it; build the bundle again")
    return Bundle(manifest, class_names, contents[MODEL], golden, str(path), contents.get(CACHE, b""))


def read_manifest(path: Path) -> Manifest:
    """What a bundle says of itself; nothing else of it is looked at. Raises `BundleError`."""
    file = path / MANIFEST
    if not file.exists():
        within = sorted(str(inner.parent) for inner in path.glob(f"*/{MANIFEST}"))
        mend = f"it holds some: {', '.join(within)}" if within else "give a folder that gnet-edge build wrote"
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}; {mend}")
    data = read_file(file, limit=_MAX_MANIFEST_BYTES, error=BundleError)
    older = f"this version reads {SCHEMA}; build it again"
    manifest = from_versioned_json(data, Manifest, schema=SCHEMA, where=str(file), error=BundleError, older=older)
    if manifest.sha256 != _seal(manifest) or to_json(manifest) != data:
        raise _changed(file)
    return manifest


def _needs_cache(manifest: Manifest) -> bool:
    """A DLA quantizes by one: in INT8 there are no pairs in its model."""
    return (manifest.unit, manifest.precision) == (Unit.DLA, Precision.INT8)


def _seal(manifest: Manifest) -> str:
    return sha256_bytes(to_json(replace(manifest, sha256="")))


def _check_file_set(path: Path, manifest: Manifest) -> None:
    listed, expected = set(manifest.files), _ALL_FILES if _needs_cache(manifest) else _FILES
    if listed != expected:
        wrong = ", ".join(sorted(repr(name) for name in listed ^ expected))
        raise BundleError(f"{path / MANIFEST} lists the wrong files ({wrong}); build the bundle again")
    present = {file.name for file in path.iterdir()}
    for name in sorted(listed - present):
        raise BundleError(f"{path / name} is missing; copy the whole bundle again, or build it again")
    for name in sorted(present - listed - {MANIFEST}):
        raise BundleError(f"{path / name} does not belong to the bundle; remove it")


def _read_recorded(file: Path, record: FileRecord) -> bytes:
    if not file.is_file() or file.stat().st_size != record.size:
        raise _changed(file)
    data = read_file(file, limit=record.size, error=BundleError)
    if sha256_bytes(data) != record.sha256:
        raise _changed(file)
    return data


def _changed(file: Path) -> BundleError:
    return BundleError(f"{file} was changed or damaged since it was written; copy the bundle again, or build it again")


def check_place(path: Path) -> None:
    """Raises `OutputError` where no bundle can be written: asked before minutes of work, not after."""
    refuse_inside_bundle(path)
    try:
        if path.is_symlink() and not path.exists():
            raise OutputError(f"cannot write {path}: it is a link that leads nowhere; give another --out")
        _refuse_foreign_folder(path)
        if path.is_mount():
            raise OutputError(
                f"cannot write {path}: it is a mount, which nothing replaces; give a folder in it as --out"
            )
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror}; give another --out") from problem
    check_writable(path)


def _refuse_foreign_folder(path: Path) -> None:
    """Replacing a folder removes what is in it: so it must be a bundle, if only a damaged one, or empty."""
    present = {file.name for file in path.iterdir()} if path.exists() else set()
    for name in sorted(present - {MANIFEST} - _ALL_FILES):
        raise OutputError(f"{path} holds {name}, which is no part of a bundle; give another --out, or remove it")
    if present and MANIFEST not in present:
        raise OutputError(f"{path} holds files and no {MANIFEST}, so it is no bundle; give another --out, or remove it")


def _labels_text(class_names: tuple[str, ...]) -> bytes:
    for name in class_names:
        if not is_name(name):
            raise BundleError(f"the class name {name!r} cannot be a line of {LABELS}; rename the class folder")
    return "".join(f"{name}\n" for name in class_names).encode()


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
    if rest or not 1 <= count <= _MOST_GOLDEN:
        raise ValueError(
            f"{len(data)} bytes are no whole number of {crop}×{crop} images with {classes} logits, 1 to {_MOST_GOLDEN}"
        )
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
    same_shape = logits.shape == golden.logits.shape
    difference = float(np.abs(logits - golden.logits).max()) if same_shape else np.inf
    if not difference <= allowed:
        raise BundleError(
            f"{where} computes something else on this machine: its golden logits differ by {difference:.3g}, at most"
            f" {allowed:.3g} is allowed for {precision.value}; upgrade the runtime, or build the bundle here"
        )
