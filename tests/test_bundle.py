"""Bundles: written whole or not at all, and refused with the name of what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundles import (
    COLOUR_NET,
    COLOURS,
    PREPROCESS,
    colour_bundle,
    onnx_bytes,
    with_golden_logits,
    with_weights_elsewhere,
    write_colour_bundle,
)

from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.bundle import (
    LOGIT_TOLERANCE,
    SCHEMA,
    Bundle,
    FileRecord,
    Golden,
    _seal,
    check_place,
    read_bundle,
    read_golden,
    read_manifest,
    write_bundle,
)
from googlenet_edge.engines.registry import open_bundle
from googlenet_edge.errors import BundleError, EngineError, OutputError
from googlenet_edge.files import sha256_bytes, to_json
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Precision

FILES = ("manifest.json", "model.onnx", "labels.txt", "golden.bin")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    write_bundle(folder, colour_bundle())
    return folder


def test_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    accuracy = Accuracy(images=400, top1=0.9, top1_interval=Interval(0.867, 0.926), top5=0.99)
    comparison = Comparison(accuracy, 0.995, -0.25, Interval(-0.9, 0.4), mcnemar_p=1.0)
    bundle = colour_bundle(Precision.INT8)
    manifest = replace(
        bundle.manifest, accuracy=accuracy, against_fp32=comparison, weight_bits=7, notes=("57 QLinearConv",)
    )
    write_bundle(tmp_path / "b", replace(bundle, manifest=manifest))
    found = read_bundle(tmp_path / "b")
    assert replace(found.manifest, files={}, sha256="") == manifest
    assert (found.class_names, found.model) == (COLOURS, bundle.model)
    assert np.array_equal(found.golden.pixels, bundle.golden.pixels)
    assert np.array_equal(found.golden.logits, bundle.golden.logits)


def test_bundle_is_the_same_bytes_for_the_same_content(tmp_path: Path) -> None:
    first, second = (write_colour_bundle(tmp_path / name) for name in ("a", "b"))
    assert {f.name: f.read_bytes() for f in first.iterdir()} == {f.name: f.read_bytes() for f in second.iterdir()}


@pytest.mark.parametrize("name", FILES)
def test_bundle_names_the_file_of_which_one_byte_changed(path: Path, name: str) -> None:
    whole = (path / name).read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60).astype(int).tolist():
        changed = bytearray(whole)
        changed[place] ^= 0x01
        (path / name).write_bytes(changed)
        with pytest.raises(BundleError) as caught:
            read_bundle(path)
        assert name in str(caught.value) or "schema" in str(caught.value), f"byte {place}: {caught.value}"


def test_bundle_finds_every_changed_byte_of_its_manifest(path: Path) -> None:
    """Blanks and digits too: a higher accuracy must not be written into it by hand."""
    file = path / "manifest.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x02
        file.write_bytes(changed)
        with pytest.raises(BundleError):
            read_bundle(path)


@pytest.mark.parametrize("name", FILES[1:])
def test_bundle_names_a_missing_file(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing; copy the whole bundle again"):
        read_bundle(path)


@pytest.mark.parametrize("name", FILES[1:])
def test_bundle_names_a_cut_off_file(path: Path, name: str) -> None:
    (path / name).write_bytes((path / name).read_bytes()[:-1])
    with pytest.raises(BundleError, match=rf"{name} was changed or damaged"):
        read_bundle(path)


def test_bundle_refuses_a_file_that_does_not_belong_to_it(path: Path) -> None:
    (path / "model.plan").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.plan does not belong to the bundle; remove it"):
        read_bundle(path)


def test_bundle_refuses_a_folder_in_the_place_of_a_file(path: Path) -> None:
    (path / "model.onnx").unlink()
    (path / "model.onnx").mkdir()
    with pytest.raises(BundleError, match=r"model\.onnx was changed or damaged"):
        read_bundle(path)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None], ids=["empty", "file", "missing"])
def test_bundle_says_what_is_no_bundle(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "b")
    with pytest.raises(BundleError, match="b is not a bundle: it has no manifest.json; give a folder that"):
        read_bundle(tmp_path / "b")


def test_bundle_of_a_newer_schema_says_upgrade(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    newer = {"schema": SCHEMA + 1, "everything": ["else", "is", "different"], "sha256": manifest["sha256"]}
    (path / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(BundleError, match=rf"has schema {SCHEMA + 1}, this version reads up to {SCHEMA}; upgrade"):
        read_bundle(path)


def test_bundle_of_an_older_schema_says_build_it_again(path: Path) -> None:
    forge(path, schema=SCHEMA - 1)
    with pytest.raises(BundleError, match=rf"has schema {SCHEMA - 1}, this version reads {SCHEMA}; build it again"):
        read_bundle(path)


def test_bundle_at_a_path_that_cannot_be_is_an_error_of_the_tree(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        read_bundle(tmp_path / ("x" * 300))
    with pytest.raises(OutputError, match="File name too long"):
        write_bundle(tmp_path / ("x" * 300), colour_bundle())


def forge(path: Path, **changes: object) -> None:
    """Rewrites the manifest with a seal that is right, as somebody who knows the format can."""
    manifest = replace(read_bundle(path).manifest, **changes)
    (path / "manifest.json").write_bytes(to_json(replace(manifest, sha256=_seal(manifest))))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/model.onnx", "."])
def test_bundle_never_follows_a_file_name_of_its_manifest(path: Path, name: str) -> None:
    (path.parent / "secret").write_bytes(b"x")
    files = read_bundle(path).manifest.files
    forge(path, files={**files, name: files["labels.txt"]})
    with pytest.raises(BundleError, match="lists the wrong files") as caught:
        read_bundle(path)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("first", ["\x1b[31mred", "", "\ufeffred", "\u202ered"])
def test_bundle_with_labels_that_no_build_writes_is_refused(path: Path, first: str) -> None:
    labels = f"{first}\ngreen\nblue\n".encode()
    files = read_bundle(path).manifest.files
    forge(path, files={**files, "labels.txt": FileRecord(len(labels), sha256_bytes(labels))})
    (path / "labels.txt").write_bytes(labels)
    with pytest.raises(BundleError, match=r"the class name '.*' cannot be a line of labels\.txt"):
        read_bundle(path)


def test_bundle_with_weights_outside_of_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would read them, from wherever the program was started."""
    monkeypatch.chdir(tmp_path)
    bundle = colour_bundle()
    write_bundle(tmp_path / "b", replace(bundle, model=with_weights_elsewhere(bundle.model, "weights.bin")))
    sentence = r"b/model\.onnx keeps weights in another file, which no hash covers; build the bundle again$"
    with pytest.raises(BundleError, match=sentence):
        read_bundle(tmp_path / "b")


def test_bundle_with_a_crop_that_does_not_fit_its_golden_vectors_is_refused(path: Path) -> None:
    forge(path, preprocess=replace(PREPROCESS, crop=31))
    with pytest.raises(BundleError, match="golden vectors that do not fit it .* no whole number of 31×31 images"):
        read_bundle(path)


@pytest.mark.parametrize("count", [0, 65])
def test_bundle_with_no_golden_vectors_or_more_than_prove_anything_is_refused(count: int, tmp_path: Path) -> None:
    bundle = colour_bundle()
    golden = Golden(*(np.repeat(each[:1], count, axis=0) for each in (bundle.golden.pixels, bundle.golden.logits)))
    write_bundle(tmp_path / "b", replace(bundle, golden=golden))
    with pytest.raises(BundleError, match="images with 3 logits, 1 to 64"):
        read_bundle(tmp_path / "b")


def test_bundle_whose_manifest_names_a_file_of_terabytes_is_refused_unread(path: Path) -> None:
    """A file with a hole takes no room on a disk."""
    manifest = read_manifest(path)
    forge(path, files={**manifest.files, "model.onnx": FileRecord(1 << 40, "0" * 64)})
    os.truncate(path / "model.onnx", 1 << 40)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read: Expected `int` <= 1073741824"):
        read_bundle(path)


def test_bundle_takes_no_place_of_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's volume, for example: nothing can be renamed onto it, as would show only after minutes of work."""
    monkeypatch.setattr(Path, "is_mount", lambda self: self == tmp_path)
    with pytest.raises(OutputError, match="it is a mount, which nothing replaces; give a folder in it as --out"):
        check_place(tmp_path)
    check_place(tmp_path / "below")


def test_bundle_with_a_model_of_other_classes_is_refused(tmp_path: Path) -> None:
    bundle = colour_bundle()
    names = ("red", "green", "blue", "white")
    logits = np.zeros((len(bundle.golden.pixels), 4), np.float32)
    write_bundle(tmp_path / "b", replace(with_golden_logits(bundle, logits), class_names=names))
    with pytest.raises(BundleError, match="computes something else on this machine: its golden logits differ by inf"):
        open_bundle(read_bundle(tmp_path / "b"))


@pytest.mark.parametrize("precision", Precision)
def test_bundle_opens_within_the_tolerance_of_its_precision_and_not_beyond(precision: Precision) -> None:
    bundle = colour_bundle(precision)
    logits = bundle.golden.logits
    allowed = LOGIT_TOLERANCE[precision] * np.abs(logits).max()
    open_bundle(with_golden_logits(bundle, logits + np.float32(0.9 * allowed))).close()
    with pytest.raises(BundleError, match="computes something else on this machine: its golden logits differ by"):
        open_bundle(with_golden_logits(bundle, logits + np.float32(1.2 * allowed)))


def test_bundle_with_golden_logits_of_zero_allows_no_difference() -> None:
    bundle = colour_bundle()
    with pytest.raises(BundleError, match="differ by 4, at most 0 is allowed for fp32"):
        open_bundle(with_golden_logits(bundle, np.zeros_like(bundle.golden.logits)))


def test_bundle_that_computes_no_numbers_here_is_refused() -> None:
    """As a GPU without memory or with a broken kernel may: NaN is neither below what is allowed nor above it."""
    model = onnx_bytes(COLOUR_NET.replace("{1, 0, 0,  0, 1, 0,  0, 0, 1}", "{3e38, 0, 0,  0, 3e38, 0,  0, 0, 3e38}"))
    with pytest.raises(BundleError, match="its golden logits differ by nan, at most"):
        open_bundle(replace(colour_bundle(), model=model))


def test_bundle_with_a_model_that_is_none_names_the_runtime(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", replace(colour_bundle(), model=b"not a model"))
    with pytest.raises(EngineError, match="ONNX Runtime cannot load the model"):
        open_bundle(read_bundle(tmp_path / "b"))


@pytest.mark.parametrize("name", ["", "two\nlines", "tab\t", "not utf-8 \udcff", "turned \u202e"])
def test_bundle_refuses_a_class_name_that_is_no_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"cannot be a line of labels\.txt; rename the class folder"):
        write_bundle(tmp_path / "b", replace(colour_bundle(), class_names=("red", "green", name)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_golden_refuses_logits_that_are_not_finite(logit: float) -> None:
    golden = Golden(np.zeros((1, 2, 2, 3), np.uint8), np.array([[logit, 1.0]], np.float32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        read_golden(golden.to_bytes(), crop=2, classes=2)


def test_bundle_takes_the_place_of_an_older_one(path: Path) -> None:
    write_bundle(path, colour_bundle(Precision.INT8))
    assert read_bundle(path).manifest.precision is Precision.INT8
    assert list(path.parent.iterdir()) == [path]


def test_bundle_never_takes_the_place_of_other_files(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"a cat")
    for other in ("dog.jpg", "manifest.json"):
        (photos / other).touch()
        with pytest.raises(
            OutputError, match=r"photos holds cat\.jpg, which is no part of a bundle; give another --out"
        ):
            write_bundle(photos, colour_bundle())
        assert (photos / "cat.jpg").read_bytes() == b"a cat"


def test_bundle_never_takes_the_place_of_somebody_elses_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"somebody's model")
    with pytest.raises(OutputError, match=r"holds files and no manifest\.json, so it is no bundle; give another --out"):
        write_bundle(tmp_path, colour_bundle())
    assert (tmp_path / "model.onnx").read_bytes() == b"somebody's model"


KILLED_WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from googlenet_edge.engines import bundle
from googlenet_edge.target import Precision
from tiny_bundles import colour_bundle

write = bundle.write_bytes
def write_and_stop(path, data):
    write(path, data)
    if path.name == "labels.txt":
        print("half", flush=True)
        time.sleep(60)
bundle.write_bytes = write_and_stop
bundle.write_bundle(Path(sys.argv[2]), colour_bundle(Precision.INT8))
"""


def test_bundle_survives_a_kill_in_the_middle_of_its_replacement(path: Path) -> None:
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    writer = [sys.executable, "-c", KILLED_WRITER, str(Path(__file__).parent), str(path)]
    with subprocess.Popen(writer, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert len(list(path.parent.iterdir())) == 2, "the half-written folder is what this test is about"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    open_bundle(read_bundle(path)).close()
    write_bundle(path, colour_bundle())
    assert list(path.parent.iterdir()) == [path], "the next writer clears it away"


def test_bundle_that_cannot_be_written_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sha256_bytes((path / "manifest.json").read_bytes())

    def full_disk(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match="No space left on device; free space or give another --out"):
        write_bundle(path, colour_bundle(Precision.INT8))
    monkeypatch.undo()
    assert sha256_bytes((path / "manifest.json").read_bytes()) == before
    assert list(path.parent.iterdir()) == [path]


def test_bundle_can_be_copied_anywhere(path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(path, tmp_path / "a folder" / "ünïcode")
    bundle: Bundle = read_bundle(copy)
    with open_bundle(bundle, threads=2) as engine:
        assert engine.spec.threads == 2
