"""What bad input gets: one clear line, exit code 1, nothing written, and nothing lost that was there before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from command import Built, Outcome, copy_of, done, gnet_edge, refused, refused_without_a_trace
from fake_jetson import fake_pc
from PIL import Image
from safetensors.torch import save_file
from tiny_bundles import hide_openvino, solid, write_colour_bundle

from googlenet_edge.calibration.placement import layers
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from googlenet_edge.commands import machine
from googlenet_edge.dataset import Progress
from googlenet_edge.engines import recovery
from googlenet_edge.engines.accuracy import Comparison, Evaluation, compare
from googlenet_edge.engines.sensitivity import Noise, Probe, RankedLayer
from googlenet_edge.graph import METADATA_KEY

BUNDLE = "runs/colours/fp32-cpu"


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A working folder with a small bundle and no training."""
    write_colour_bundle(tmp_path / BUNDLE)
    solid("red").save(tmp_path / "red.png")
    return tmp_path


@pytest.fixture(scope="module")
def work(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after training and building, without settings. The tests here prove that they leave it alone."""
    folder = copy_of(built.folder, tmp_path_factory.mktemp("bad_input") / "work")
    (folder / "gnet-edge.toml").unlink()
    return folder


def paint(path: Path, side: int = 40) -> None:
    """A black square."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (side, side)).save(path)


def shade(path: Path, side: int = 40) -> None:
    """A square that goes from black to white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((side, side)).save(path)


# Data folders


def nothing(photos: Path) -> None:
    photos.mkdir()


def one_class(photos: Path) -> None:
    paint(photos / "cat" / "1.png")


def empty_class(photos: Path) -> None:
    paint(photos / "train" / "cat" / "1.png")
    (photos / "train" / "dog").mkdir()
    (photos / "val").mkdir()


def no_folder(photos: Path) -> None:
    photos.write_text("cat, dog")


def letter_among_images(photos: Path) -> None:
    for name in ("train/cat/1", "train/cat/2", "train/dog/1", "train/dog/2", "val/cat/1", "val/dog/1"):
        shade(photos / f"{name}.png")
    (photos / "train" / "dog" / "letter.jpg").write_text("Dear dog")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (nothing, "photos has no class folder; expected at least two folders, one a class, with images in them"),
        (one_class, "photos has only the class 'cat'; expected at least two folders, one a class, with images in them"),
        (empty_class, "photos/train/dog has no image; add some, or remove the folder"),
        (no_folder, r"photos is not a folder; give one with train/CLASS/\* and val/CLASS/\*, or with CLASS/\*"),
        (
            letter_among_images,
            "photos/train/dog/letter.jpg is not a JPEG, PNG or WebP image; convert or remove it, or leave damaged"
            " images out with --skip-damaged",
        ),
    ],
)
def test_bad_data_folder_stops_training(make: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    make(tmp_path / "photos")
    refused_without_a_trace(sentence, "train", "--data", "photos", cwd=tmp_path)


def test_damaged_image_is_skipped_and_counted_on_demand(tmp_path: Path) -> None:
    letter_among_images(tmp_path / "photos")
    options = ("--epochs", "1", "--size", "32", "--batch-size", "2", "--workers", "0", "--skip-damaged")
    outcome = done("train", "--data", "photos", *options, cwd=tmp_path)
    assert "left out 1 damaged of 5 images, first: photos/train/dog/letter.jpg is not a JPEG" in outcome.err
    record = read_checkpoint(tmp_path / "runs/photos/checkpoint.safetensors").info.training
    assert record is not None
    assert record.images == 4


def test_damaged_image_is_skipped_in_evaluation_and_export_on_demand(work: Path, tmp_path: Path) -> None:
    folder = copy_of(work, tmp_path / "work")
    letter = next((folder / "photos" / "val").iterdir()) / "letter.jpg"
    letter.write_text("Dear dog")
    done("build", "--precision", "fp32", "--skip-damaged", cwd=folder)
    outcome = gnet_edge("eval", cwd=folder)
    assert outcome.code == 1
    sentence = "letter.jpg is not a JPEG, PNG or WebP image; convert or remove it, or leave damaged images out with"
    assert f"{sentence} --skip-damaged\n" in outcome.err
    assert "left out 1 damaged of" in done("eval", "--skip-damaged", cwd=folder).err
    for image in (folder / "photos" / "val").glob("*/*"):
        image.write_text("Dear cat")
    sentence = "photos/val has only damaged images; replace them"
    assert sentence in gnet_edge("export", "--skip-damaged", cwd=folder).err


def test_image_that_is_none_is_named_by_predict(colours: Path) -> None:
    (colours / "letter.jpg").write_text("Dear dog")
    for name, sentence in (
        ("letter.jpg", "letter.jpg is not a JPEG, PNG or WebP image; convert or remove it"),
        ("absent.jpg", "absent.jpg is missing"),
    ):
        refused_without_a_trace(sentence, "predict", "red.png", name, "--bundle", BUNDLE, cwd=colours)


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(work: Path) -> Checkpoint:
    return read_checkpoint(work / "runs" / "photos" / "checkpoint.safetensors")


def without_a_tensor(path: Path, checkpoint: Checkpoint) -> None:
    weights = {
        name: tensor for name, tensor in checkpoint.weights.items() if name != "inception4c.branch2.0.conv.weight"
    }
    write_checkpoint(path, replace(checkpoint, weights=weights))


def with_other_classes(path: Path, checkpoint: Checkpoint) -> None:
    write_checkpoint(path, replace(checkpoint, info=replace(checkpoint.info, class_names=("cat", "dog"))))


def with_nan(path: Path, checkpoint: Checkpoint) -> None:
    damaged = checkpoint.weights["fc.bias"].clone()
    damaged[3] = torch.nan
    write_checkpoint(path, replace(checkpoint, weights={**checkpoint.weights, "fc.bias": damaged}))


def of_a_newer_schema(path: Path, checkpoint: Checkpoint) -> None:
    write_checkpoint(path, replace(checkpoint, info=replace(checkpoint.info, schema=2)))


def cut_off(path: Path, checkpoint: Checkpoint) -> None:
    write_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:1_000_000])


def of_somebody_else(path: Path, checkpoint: Checkpoint) -> None:
    save_file(checkpoint.weights, path)


def missing(path: Path, checkpoint: Checkpoint) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (without_a_tensor, r"bad.safetensors is of another architecture: inception4c.branch2.0.conv.weight is missing"),
        (
            with_other_classes,
            r"bad.safetensors is of another architecture: aux1.fc2.weight has the shape \(12, 1024\) where \(2, 1024\)"
            r" is expected",
        ),
        (with_nan, "bad.safetensors has NaN or infinity in fc.bias; its training failed, use an earlier one"),
        (
            of_a_newer_schema,
            "the metadata of bad.safetensors has schema 2, this version reads up to 1; upgrade googlenet-edge",
        ),
        (cut_off, r"bad.safetensors is no checkpoint, or not a whole one \(.*\); copy or train it again"),
        (
            of_somebody_else,
            "bad.safetensors was not written by gnet-edge train; it has no class names and no preprocessing",
        ),
        (missing, "bad.safetensors is missing; train first with: gnet-edge train --data DIR"),
    ],
)
def test_bad_checkpoint_is_refused(
    make: Callable[[Path, Checkpoint], None], sentence: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    make(tmp_path / "bad.safetensors", checkpoint)
    refused_without_a_trace(sentence, "prune", "bad.safetensors", cwd=tmp_path)


@pytest.mark.parametrize("command", ["build", "sensitivity", "slim"])
def test_a_graph_in_the_place_of_a_checkpoint_is_told_where_graphs_go(work: Path, tmp_path: Path, command: str) -> None:
    shutil.copy(work / "runs" / "photos" / "googlenet.onnx", tmp_path / "net.onnx")
    sentence = (
        "net.onnx is a graph where a checkpoint is wanted; to make a bundle of it: gnet-edge build --onnx net.onnx"
    )
    refused_without_a_trace(sentence, command, "net.onnx", "--data", work / "photos", cwd=tmp_path)


def test_a_checkpoint_in_the_place_of_a_graph_is_told_how_to_make_one(work: Path, tmp_path: Path) -> None:
    shutil.copy(work / "runs" / "photos" / "checkpoint.safetensors", tmp_path / "a.safetensors")
    sentence = "a.safetensors is a checkpoint where a graph is wanted; make one with: gnet-edge export a.safetensors"
    refused_without_a_trace(sentence, "calibrate", "a.safetensors", "--data", work / "photos", cwd=tmp_path)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("photos", "photos is a folder; give the checkpoint in it, such as checkpoint.safetensors"),
        ("none.pth", "none.pth is missing; give the file of a state dict"),
    ],
)
def test_weights_that_are_not_there_are_named(work: Path, weights: str, sentence: str) -> None:
    refused_without_a_trace(sentence, "train", "--data", "photos", "--weights", weights, "--out", "new", cwd=work)


def test_bad_checkpoint_builds_nothing(work: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    with_nan(tmp_path / "bad.safetensors", checkpoint)
    sentence = "bad.safetensors has NaN or infinity in fc.bias; its training failed, use an earlier one"
    data = work / "photos"
    for command in ("build", "export"):
        refused_without_a_trace(sentence, command, "bad.safetensors", "--data", data, cwd=tmp_path)
    refused_without_a_trace(sentence, "train", "--data", data, "--weights", "bad.safetensors", cwd=tmp_path)


# Graphs and tables


def edit_metadata(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    model = onnx.load(path)
    [entry] = [p for p in model.metadata_props if p.key == METADATA_KEY]
    metadata = json.loads(entry.value)
    change(metadata)
    entry.value = json.dumps(metadata)
    onnx.save(model, path)


@pytest.fixture
def graph(work: Path, tmp_path: Path) -> Path:
    path = tmp_path / "bad.onnx"
    path.write_bytes((work / "runs" / "photos" / "googlenet.onnx").read_bytes())
    return path


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999999])
def test_truncated_graph_is_refused(share: float, graph: Path, work: Path) -> None:
    whole = graph.read_bytes()
    graph.write_bytes(whole[: int(share * len(whole))])
    sentence = r"bad.onnx is not a whole ONNX file \(.*\); export it again"
    refused_without_a_trace(sentence, "calibrate", "bad.onnx", "--data", work / "photos", cwd=graph.parent)


def test_graph_of_a_newer_schema_is_refused(graph: Path, work: Path) -> None:
    edit_metadata(graph, lambda metadata: metadata.update(schema=2, class_names="in a file of their own"))
    sentence = "the metadata of bad.onnx has schema 2, this version reads up to 1; upgrade googlenet-edge"
    refused_without_a_trace(sentence, "calibrate", "bad.onnx", "--data", work / "photos", cwd=graph.parent)


def test_bad_table_is_refused(work: Path, tmp_path: Path) -> None:
    whole = (work / "runs" / "photos" / "calibration.json").read_bytes()
    table = tmp_path / "bad.json"
    table.write_bytes(whole.replace(b'"schema": 5', b'"schema": 6'))
    refused_without_a_trace(
        "bad.json has schema 6, this version reads up to 5; upgrade googlenet-edge", "inspect", "bad.json", cwd=tmp_path
    )
    table.write_bytes(whole[:-100])
    refused_without_a_trace("bad.json cannot be read: Input data was truncated", "inspect", "bad.json", cwd=tmp_path)
    table.write_text('{"circumstances": {}, "schema": 1}')
    sentence = "bad.json is no calibration table; results are shown by: gnet-edge report bad.json"
    refused_without_a_trace(sentence, "inspect", "bad.json", cwd=tmp_path)


@pytest.mark.parametrize(
    ("count", "draw", "sentence"),
    [
        (12, paint, "only 0 of 24 calibration images are different and show more than one colour; at least 8 are .*"),
        (
            1,
            shade,
            "only 1 of 2 calibration images are different and show more than one colour; at least 8 are .*",
        ),
    ],
)
def test_calibration_images_of_the_wrong_kind_are_refused(
    count: int, draw: Callable[..., None], sentence: str, work: Path, tmp_path: Path
) -> None:
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            for i in range(count):
                draw(tmp_path / "photos" / part / label / f"{i}.png", side=40 + i)
    graph = work / "runs" / "photos" / "googlenet.onnx"
    arguments = ("calibrate", graph, "--data", "photos", "--out", "table.json")
    refused_without_a_trace(sentence, *arguments, cwd=tmp_path)


def test_two_calibration_images_are_too_few_to_build_on(work: Path) -> None:
    checkpoint = work / "runs" / "photos" / "checkpoint.safetensors"
    sentence = "only 2 of 2 calibration images are different and show more than one colour; at least 8 are needed, .*"
    arguments = ("build", checkpoint, "--data", "photos", "--calibration-images", "2")
    refused_without_a_trace(sentence, *arguments, cwd=work)


# Bundles


@pytest.mark.parametrize("command", [("predict", "red.png", "--bundle"), ("bench",), ("inspect",)])
def test_bad_bundle_is_refused(command: tuple[str, ...], colours: Path) -> None:
    model, manifest = colours / BUNDLE / "model.onnx", colours / BUNDLE / "manifest.json"
    whole = model.read_bytes()
    model.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    sentence = (
        f"{BUNDLE}/model.onnx was changed or damaged since it was written; copy the bundle again, or build it again"
    )
    refused_without_a_trace(sentence, *command, BUNDLE, cwd=colours)
    manifest.write_text(manifest.read_text().replace('"schema": 3', '"schema": 4'))
    sentence = f"{BUNDLE}/manifest.json has schema 4, this version reads up to 3; upgrade googlenet-edge"
    refused_without_a_trace(sentence, *command, BUNDLE, cwd=colours)


def test_bundle_of_other_classes_is_not_evaluated(work: Path, colours: Path) -> None:
    sentence = (
        r".*photos/val has classes that are none of the model's 3: .*, … \(the model's are red, green, blue\); name the"
        " folders so, or give the data that the model was trained for"
    )
    refused_without_a_trace(sentence, "eval", BUNDLE, "--data", work / "photos", cwd=colours)


def test_more_classes_than_there_are_cannot_be_asked_for(colours: Path) -> None:
    sentence = "top_k is 99, but the bundle has 3 classes; ask for 1 to 3"
    arguments = ("predict", "red.png", "--bundle", BUNDLE, "--top-k", "99")
    refused_without_a_trace(sentence, *arguments, cwd=colours)


def lossy(reference: Evaluation, other: Evaluation) -> Comparison:
    return replace(compare(reference, other), top1_change_points=-3.0)


def worst_of_two(probe: Probe, table: CalibrationTable, *, progress: Progress) -> list[RankedLayer]:
    """A ranking of two layers, of which at most one may stay float."""
    return [RankedLayer(layer, Noise(0.1, 0)) for layer in layers(probe.graph.model.graph)[1:3]]


def test_loss_of_accuracy_above_max_drop_leaves_the_old_bundle(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "compare", lossy)
    monkeypatch.setattr(recovery, "rank_layers", worst_of_two)
    arguments = ("build", "runs/photos/checkpoint.safetensors", "--data", "photos", "--calibration-images", "24")
    sentence = (
        r"int8 on \d+ images: top-1 changes by -3\.00 points \(95 % .*\); .* equal; at most -2\.5 points are allowed;"
        r" with the worst layer in float it is -3\.00; no bundle was written\."
        r" Calibrate on more images or with another --method, or allow more with --max-drop"
    )
    refused_without_a_trace(sentence, *arguments, "--max-drop", "2.5", cwd=work)
    refused_without_a_trace(sentence, *arguments, "--max-drop", "2.5", "--out", "another", cwd=work)


def test_loss_of_fp16_advises_nothing_about_calibration(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "compare", lossy)
    arguments = ("build", "runs/photos/checkpoint.safetensors", "--data", "photos", "--precision", "fp16")
    sentence = r"fp16 on .*: top-1 changes by .* no bundle was written\. Allow more with --max-drop"
    refused_without_a_trace(sentence, *arguments, cwd=work)


def test_links_that_lead_round_in_a_circle_are_no_traceback(work: Path) -> None:
    (work / "loop").symlink_to("loop")
    (work / "loop.onnx").symlink_to("loop.onnx")
    (work / "loop.json").symlink_to("loop.json")
    nowhere = "Too many levels of symbolic links"
    refused_without_a_trace(
        "loop is not a folder; give one with .*", "train", "--data", "loop", "--out", "new", cwd=work
    )
    refused_without_a_trace(rf"loop\.json cannot be read: {nowhere}", "report", "loop.json", cwd=work)
    refused_without_a_trace(
        rf"loop\.onnx cannot be read: {nowhere}", "build", "--onnx", "loop.onnx", "--data", "photos", cwd=work
    )


# Settings, devices and what is not there


def test_network_of_somebody_else_that_is_no_file_is_named(work: Path) -> None:
    sentence = r"\. is a folder; give somebody else's network in ONNX with --onnx FILE"
    refused_without_a_trace(sentence, "build", "--onnx", ".", cwd=work)


def test_load_too_short_to_warm_anything_is_refused(colours: Path) -> None:
    sentence = "sustained for 5 s says nothing about heat; give 10s or more, a week at most"
    refused_without_a_trace(sentence, "bench", "--sustained", "5s", cwd=colours)


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (
            ("--device", "nano"),
            r"the Jetson Nano \(compute capability 5\.3\) has no INT8; build with --precision fp16",
        ),
        (
            ("--device", "orin-nano", "--dla"),
            "the Jetson Orin Nano has no DLA; build without --dla, or for one of: xavier-nx, agx-xavier, orin-nx,"
            " agx-orin",
        ),
        (
            ("--device", "jetson"),
            "this machine is no Jetson; name the one to build for, with --device or as device in gnet-edge.toml: one of"
            " nano, tx2, xavier-nx, agx-xavier, orin-nano, orin-nx, agx-orin, agx-thor",
        ),
    ],
)
def test_impossible_wish_is_refused_before_any_work(
    wish: tuple[str, ...], sentence: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ROOT", fake_pc(tmp_path))
    given = ("runs/photos/checkpoint.safetensors", "--data", "photos")
    refused_without_a_trace(sentence, "build", *given, *wish, cwd=work)


@pytest.mark.parametrize("command", [("build", "--engine", "openvino"), ("eval", "--engine", "openvino")])
def test_engine_that_is_not_installed_stops_before_any_work(
    command: tuple[str, ...], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_openvino(monkeypatch)
    arguments = (
        "runs/photos/checkpoint.safetensors" if command[0] == "build" else "runs/photos/int8-cpu",
        *command[1:],
    )
    sentence = (
        r"the engine openvino cannot be loaded \(.*\); install it with: pip install 'googlenet-edge\[openvino\]',"
        " or choose another engine"
    )
    refused_without_a_trace(sentence, command[0], *arguments, "--data", "photos", cwd=work)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('presicion = "int8"', "Object contains unknown field `presicion`"),
        ('threads = "two"', r"Expected `int \| null`, got `str` - at `\$\.threads`"),
        ("threads = ", r"Invalid value \(at .*\)"),
    ],
)
def test_settings_that_are_wrong_stop_every_command(text: str, reason: str, colours: Path) -> None:
    (colours / "gnet-edge.toml").write_text(text)
    known = "data, checkpoint, precision, device, engine, threads, calibration_images, max_drop,"
    sentence = f".*/gnet-edge.toml cannot be used: {reason}; it may set {known} rounds, host, host_python, host_keep"
    for command in (("build",), ("bench",), ("eval",), ("predict", "red.png")):
        refused_without_a_trace(sentence, *command, cwd=colours)


@pytest.mark.parametrize(
    ("command", "what", "mend"),
    [
        (("prune",), "checkpoint", "train first with: gnet-edge train --data DIR"),
        (("export",), "checkpoint", "train first with: gnet-edge train --data DIR"),
        (("build",), "checkpoint", "train first with: gnet-edge train --data DIR"),
        (("calibrate",), "graph", "export one first with: gnet-edge export"),
        (("eval",), "bundle", "build one first with: gnet-edge build --precision int8"),
        (("bench",), "bundle", "build one first with: gnet-edge build --precision int8"),
        (("inspect",), "bundle", "build one first with: gnet-edge build --precision int8"),
        (("predict", "red.png"), "bundle", "build one first with: gnet-edge build --precision int8"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(
    command: tuple[str, ...], what: str, mend: str, tmp_path: Path
) -> None:
    refused_without_a_trace(f"there is no {what} under {tmp_path}/runs; {mend}", *command, cwd=tmp_path)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("build", "absent"), "absent is missing; train first with: gnet-edge train --data DIR"),
        (("calibrate", "absent"), "absent is missing; export one first with: gnet-edge export"),
        (("eval", "absent"), "absent is missing; build one first with: gnet-edge build --precision int8"),
        (("bench", "absent"), "absent is missing; build one first with: gnet-edge build --precision int8"),
        (("inspect", "absent"), "absent is missing; gnet-edge inspect without a path shows the newest bundle"),
        (("predict", "x.jpg", "--bundle", "absent"), "absent is missing; build one first with: gnet-edge build .*"),
    ],
)
def test_path_that_is_not_there_is_named(command: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    refused_without_a_trace(sentence, *command, cwd=tmp_path)


def test_real_process_says_one_line_and_ends_with_1(colours: Path) -> None:
    (colours / "gnet-edge.toml").write_text('presicion = "int8"')
    command = [Path(sys.executable).with_name("gnet-edge"), "bench"]
    found = subprocess.run(command, cwd=colours, capture_output=True, text=True, check=False)
    refused(Outcome(found.returncode, found.stdout, found.stderr), ".*Object contains unknown field `presicion`.*")
