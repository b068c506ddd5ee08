"""`gnet-edge build --onnx FILE`: from somebody else's network to a bundle, by the real command."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Built, Outcome, contents, copy_of, done, gnet_edge, refused_without_a_trace
from foreign_models import CLASSES, caffe_style, run, saved, torchvision_style
from PIL import Image

import googlenet_edge
from googlenet_edge.graph import read_graph
from googlenet_edge.pictograms import write_pictograms
from googlenet_edge.preprocess import Preprocess

CAFFE = ("--mean", "123,117,104", "--std", "1,1,1", "--bgr")
LABELS = ("--labels", "labels.txt")
ANY_LOSS = ("--data", "photos", "--max-drop", "100", "--calibration-images", "12", "--threads", "1")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of twelve classes, and two networks for them, in a working folder without a training."""
    folder = tmp_path_factory.mktemp("foreign")
    write_pictograms(folder / "photos", train_per_class=4, val_per_class=2, size=48)
    saved(caffe_style(), folder / "caffe.onnx")
    saved(torchvision_style(), folder / "torchvision.onnx")
    names = sorted(path.name for path in (folder / "photos" / "val").iterdir())
    assert len(names) == CLASSES
    (folder / "labels.txt").write_text("\n".join(reversed(names)))
    return folder


@pytest.fixture(scope="module")
def int8(files: Path) -> Outcome:
    """Caffe's network, built to INT8."""
    return done("build", "--onnx", "caffe.onnx", *LABELS, *CAFFE, *ANY_LOSS, "--json", cwd=files)


@pytest.mark.parametrize("out", ["runs", "runs/torchvision"])
def test_a_bundle_where_the_graph_goes_is_refused_before_the_work(files: Path, out: str) -> None:
    sentence = f"{out} cannot be a bundle: runs/torchvision is where the graph and its table go; give another --out"
    refused_without_a_trace(
        sentence, "build", "--onnx", "torchvision.onnx", *LABELS, *ANY_LOSS, "--out", out, cwd=files
    )


def test_int8_bundle_of_a_foreign_file_names_what_stays_float(files: Path, int8: Outcome) -> None:
    report = json.loads(int8.out)
    assert report["bundle"] == "runs/caffe/int8-cpu"
    manifest = report["manifest"]
    assert manifest["lineage"]["checkpoint"] is None
    assert (manifest["preprocess"]["resize"], manifest["preprocess"]["crop"]) == (73, 64), "as 256 to 224"
    assert any("LRN pool1/norm1_1, LRN conv2/norm2_1" in note for note in manifest["notes"])
    # 15 convolutions, or 11 where merging those of one input pays on this machine
    assert any(
        re.match(r"on integers: (1[15]) of \1 Conv, 5 of 5 MaxPool, 2 of 2 Concat", n) for n in manifest["notes"]
    )
    assert manifest["against_fp32"]["agreement"] > 0.6
    assert {path.name for path in (files / "runs/caffe").iterdir()} == {
        "googlenet.onnx", "calibration.json", "int8-cpu",
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate", "runs/caffe/googlenet.onnx", "--data", "photos", "--out", "without.json"),
        ("build", "--onnx", "caffe.onnx", *LABELS, *CAFFE, *ANY_LOSS, "--precision", "int8", "--out", "without"),
    ],
    ids=["calibrate", "build"],
)
def test_a_foreign_file_needs_no_pytorch(
    files: Path, int8: Outcome, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    del int8  # which leaves the graph and its table
    work = shutil.copytree(files, tmp_path / "work")
    program = "import sys; sys.modules['torch'] = None; from googlenet_edge.cli import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    found = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert (found.returncode, "Traceback" in found.stderr) == (0, False), found.stderr
    assert (work / arguments[-1]).exists()


def test_second_build_of_a_foreign_file_takes_graph_and_table(files: Path, int8: Outcome) -> None:
    again = done("build", "--onnx", "caffe.onnx", *LABELS, *CAFFE, *ANY_LOSS, "--json", cwd=files)
    assert json.loads(again.out)["reused"] == ["runs/caffe/googlenet.onnx", "runs/caffe/calibration.json"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bundle_of_a_foreign_file_says_what_the_file_says(
    precision: str, files: Path, int8: Outcome, tmp_path: Path
) -> None:
    """Of an image about which it would be surer if blue were red."""
    out = f"runs/caffe/{precision}-cpu"
    done("build", "--onnx", "caffe.onnx", *LABELS, *CAFFE, *ANY_LOSS, "--precision", precision, cwd=files)
    photo = Image.new("RGB", (60, 60), "blue")
    photo.save(tmp_path / "blue.png")
    with googlenet_edge.load(files / out) as predictor:
        best = predictor.predict(tmp_path / "blue.png", top_k=1)[0]
    pixels = Preprocess(73, 64).pixels(photo)
    blue_first = pixels[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    [probabilities] = run(onnx.load(files / "caffe.onnx"), blue_first.transpose(2, 0, 1)[None])
    labels = (files / "labels.txt").read_text().split("\n")
    assert best.label == labels[int(probabilities.argmax())]
    assert best.probability == pytest.approx(float(probabilities.max()), rel=1e-2)


def test_photos_of_a_few_of_the_classes_are_enough(files: Path, int8: Outcome, tmp_path: Path) -> None:
    for name in ("stop", "exit"):
        shutil.copytree(files / "photos/val" / name, tmp_path / "some" / name)
    found = json.loads(done("eval", "runs/caffe/int8-cpu", "--data", tmp_path / "some", "--json", cwd=files).out)
    assert found[0]["accuracy"]["images"] == 2


def test_labels_come_from_the_folders_and_normalization_from_the_file(files: Path) -> None:
    normalization = ("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", "--resize", "64")
    done("build", "--onnx", "torchvision.onnx", *ANY_LOSS, *normalization, "--precision", "fp32", cwd=files)
    graph = read_graph(files / "runs/torchvision/googlenet.onnx")
    assert graph.class_names == tuple(sorted(path.name for path in (files / "photos/val").iterdir()))
    assert graph.preprocess == Preprocess(64, 64)


def test_a_graph_of_this_package_says_all_that_a_foreign_one_does_not(files: Path, tmp_path: Path) -> None:
    done(
        *("build", "--onnx", "caffe.onnx", *LABELS, *CAFFE, *ANY_LOSS, "--resize", "64"),
        "--precision",
        "fp32",
        cwd=files,
    )
    work = shutil.copytree(files / "photos", tmp_path / "photos").parent
    shutil.copy(files / "runs/caffe/googlenet.onnx", work / "ours.onnx")
    done("build", "--onnx", "ours.onnx", *ANY_LOSS, "--precision", "fp32", cwd=work)
    was, became = read_graph(work / "ours.onnx"), read_graph(work / "runs/ours/googlenet.onnx")
    assert (became.class_names, became.preprocess) == (was.class_names, was.preprocess)
    assert list(became.class_names) == (files / "labels.txt").read_text().split("\n")
    assert became.preprocess == Preprocess(64, 64, (123, 117, 104), (1, 1, 1))


def test_graph_of_somebody_else_is_not_replaced(built: Built, tmp_path: Path) -> None:
    work = copy_of(built.folder, tmp_path / "work")
    (work / "gnet-edge.toml").unlink()
    theirs = work / "runs/photos/googlenet.onnx"
    saved(torchvision_style(), theirs)
    sentence = (
        "runs/photos/googlenet.onnx was not written by gnet-edge export; it has no class names and no preprocessing; it"
        " would be replaced: move it somewhere else"
    )
    for command in ("build", "export"):
        refused_without_a_trace(sentence, command, "runs/photos/checkpoint.safetensors", "--data", "photos", cwd=work)


@pytest.mark.parametrize("theirs", ['{"camera": "left", "fx": 612.4}', "[612.4, 611.9]"])
def test_file_of_somebody_else_is_not_replaced_by_a_table(theirs: str, built: Built, tmp_path: Path) -> None:
    work = copy_of(built.folder, tmp_path / "work")
    (work / "gnet-edge.toml").unlink()
    (work / "runs/photos/calibration.json").write_text(theirs)
    sentence = (
        "runs/photos/calibration.json is no calibration table, and one would take its place: move it somewhere else"
    )
    for command, source in (("build", "checkpoint.safetensors"), ("calibrate", "googlenet.onnx")):
        refused_without_a_trace(sentence, command, f"runs/photos/{source}", "--data", "photos", cwd=work)


def test_foreign_file_does_not_touch_a_training_of_the_same_name(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "photos", tmp_path / "photos")
    trained = tmp_path / "runs" / "net"
    trained.mkdir(parents=True)
    for name in ("checkpoint.safetensors", "googlenet.onnx"):
        (trained / name).write_text("mine")
    before = contents(trained)
    saved(torchvision_style(), tmp_path / "net.onnx")
    done("build", "--onnx", "net.onnx", *ANY_LOSS, "--precision", "fp32", cwd=tmp_path)
    assert contents(trained) == before
    assert (tmp_path / "runs/net-2/fp32-cpu/manifest.json").exists()


def test_foreign_file_is_not_overwritten_by_its_own_graph(files: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/googlenet").mkdir(parents=True)
    path = saved(torchvision_style(), tmp_path / "runs/googlenet/googlenet.onnx")
    sentence = "runs/googlenet/googlenet.onnx is where its own graph would be written; move it somewhere else"
    arguments = ("build", "--onnx", path.relative_to(tmp_path), "--data", files / "photos")
    refused_without_a_trace(sentence, *arguments, cwd=tmp_path)


def test_folder_of_a_graph_that_cannot_be_written_to_is_no_matter_of_where_the_file_is(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs/caffe").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).parts[-2:] != ("runs", "caffe"))
    sentence = (
        "runs/caffe cannot be written to, where the graph and the calibration table go; give another working folder"
    )
    arguments = ("build", "--onnx", files / "caffe.onnx", "--data", files / "photos", "--out", "bundle")
    refused_without_a_trace(sentence, *arguments, cwd=tmp_path)


# Bad input


@pytest.mark.parametrize("count", [2, 13])
def test_labels_of_another_number_are_refused(count: int, files: Path) -> None:
    (files / "some.txt").write_text("".join(f"n{i:04}\n" for i in range(count)))
    sentence = (
        f"caffe.onnx has 12 classes and some.txt {count} lines; give --labels FILE with one label a line, in the order"
        " of the classes"
    )
    refused_without_a_trace(sentence, "build", "--onnx", "caffe.onnx", "--labels", "some.txt", *ANY_LOSS, cwd=files)


def test_folders_of_another_number_than_the_classes_are_refused(files: Path, tmp_path: Path) -> None:
    for name in ("stop", "exit"):
        shutil.copytree(files / "photos/train" / name, tmp_path / "some" / name)
    shutil.copy(files / "caffe.onnx", tmp_path)
    sentence = "caffe.onnx has 12 classes and the images 2 folders; give --labels FILE with one label a line, .*"
    refused_without_a_trace(sentence, "build", "--onnx", "caffe.onnx", "--data", "some", cwd=tmp_path)


def test_photos_of_classes_that_the_labels_lack_are_refused(files: Path) -> None:
    (files / "others.txt").write_text("\n".join(f"n{i:04}" for i in range(12)))
    sentence = (
        r"photos/val has classes that are none of the model's 12: .*, … \(the model's are n0000, .*, …\); name the"
        " folders so, or give the data that the model was trained for"
    )
    arguments = ("build", "--onnx", "caffe.onnx", "--labels", "others.txt", *ANY_LOSS)
    refused_without_a_trace(sentence, *arguments, cwd=files)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--onnx", "absent.onnx", "--data", "photos"),
            "absent.onnx is missing; give somebody .*",
        ),
        (
            ("--onnx", "labels.txt", "--data", "photos"),
            r"labels.txt is not a whole ONNX file \(.*\); copy or export it.*",
        ),
        (("--onnx", "caffe.onnx"), "runs/caffe does not say which images it was trained on; give --data DIR"),
        (
            ("--onnx", "caffe.onnx", "--data", "photos", "--resize", "60"),
            "caffe.onnx cannot be given such images: crop 64 is larger than resize 60",
        ),
        (
            ("--onnx", "caffe.onnx", "--data", "photos", "--std", "1,0,1"),
            "caffe.onnx cannot be given such images: .* must be finite, std above zero, none beyond a million",
        ),
        (
            ("--onnx", "caffe.onnx", "--data", "photos", "--size", "32"),
            "caffe.onnx takes images of 64×64 pixels, not of 32×32; leave --size out",
        ),
        (("--onnx", "caffe.onnx", "--data", "photos", "--labels", "none.txt"), "none.txt is missing"),
    ],
)
def test_foreign_file_that_cannot_be_used_leaves_no_trace(
    arguments: tuple[str, ...], sentence: str, files: Path
) -> None:
    refused_without_a_trace(sentence, "build", *arguments, cwd=files)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--bgr",), "are about a file: give --onnx"),
        (("runs/photos/checkpoint.safetensors", "--onnx", "caffe.onnx"), "give a checkpoint or --onnx, not both"),
        (("--onnx", "caffe.onnx", "--mean", "128"), "--mean 128 is not R,G,B: three numbers with commas between"),
    ],
)
def test_wrong_use_is_told(arguments: tuple[str, ...], sentence: str, files: Path) -> None:
    outcome = gnet_edge("build", *arguments, cwd=files)
    assert outcome.code == 2
    assert sentence in " ".join(outcome.err.replace("│", " ").split())
