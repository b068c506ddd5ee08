"""The commands as a person and a script use them; `test_bad_input` has what goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from command import Built, contents, copy_of, done, gnet_edge, refused, refused_without_a_trace
from fake_jetson import ORIN_NANO, XAVIER_NX, fake_jetson, fake_pc
from measured import measured, read_measurement
from PIL import Image
from tiny_bundles import colour_bundle, solid, write_colour_bundle
from typer.main import get_command

from googlenet_edge import Preprocess, __version__
from googlenet_edge.checkpoint import read_checkpoint, write_checkpoint
from googlenet_edge.cli import app
from googlenet_edge.commands import machine
from googlenet_edge.console import TrainingDisplay
from googlenet_edge.dataset import check_images, open_dataset
from googlenet_edge.engines import bench as measuring
from googlenet_edge.engines import remote as measuring_there
from googlenet_edge.engines import rounds
from googlenet_edge.engines.bundle import read_bundle, write_bundle
from googlenet_edge.engines.energy import EnergyPlan
from googlenet_edge.engines.jetson import Clock, read_jetson
from googlenet_edge.engines.remote import MeasuredThere, Remote
from googlenet_edge.engines.remote_worker import RemotePlan
from googlenet_edge.engines.ssh import Host
from googlenet_edge.engines.sustained import Loads, SustainedPlan, sustain
from googlenet_edge.files import write_json
from googlenet_edge.target import Device, EngineName
from googlenet_edge.workspace import RunRecord, write_run_record

COMMANDS = (
    "demo",
    "report",
    "package",
    "train",
    "finetune",
    "slim",
    "prune",
    "export",
    "calibrate",
    "build",
    "eval",
    "predict",
    "inspect",
    "bench",
    "sensitivity",
    "devices",
    "doctor",
)


@pytest.fixture(scope="module")
def work(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after training and building; tests here add files and leave those that are there."""
    return copy_of(built.folder, tmp_path_factory.mktemp("cli") / "work")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with one small bundle and images to predict."""
    folder = tmp_path_factory.mktemp("colours")
    write_colour_bundle(folder / "runs" / "colours" / "fp32-cpu")
    for colour in ("red", "blue"):
        solid(colour).save(folder / f"{colour}.png")
    return folder


# Help and usage


def test_command_without_words_shows_the_commands(tmp_path: Path) -> None:
    help_ = gnet_edge("--help", cwd=tmp_path).out
    for command in COMMANDS:
        assert re.search(rf"^\W+{command} +\w", help_, re.MULTILINE), command
    assert len(app.registered_commands) == len(COMMANDS)
    assert "Usage: gnet-edge" in gnet_edge(cwd=tmp_path).out + gnet_edge(cwd=tmp_path).err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_every_default(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    help_ = done(command, "--help", cwd=tmp_path).out
    assert re.search(rf"Examples?:\s+(torchrun .*)?gnet-edge {command}", help_)
    options = [p for p in get_command(app).commands[command].params if p.param_type_name == "option" and not p.is_flag]
    for option in options:
        lines = [line for line in help_.splitlines() if line.startswith("│") and f" {option.opts[0]} " in line]
        assert any(re.search(r"default|required", line, re.IGNORECASE) for line in lines), lines


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_not_torn_on_a_terminal_of_80_columns(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = [line.strip() for line in done(command, "--help", cwd=tmp_path).out.splitlines()]
    _, _, details = (get_command(app).commands[command].help or "").partition("\n\n")
    assert [line for line in details.splitlines() if line not in shown] == []


def test_training_that_is_asked_twice_to_stop_stops_at_once() -> None:
    with TrainingDisplay(visible=False) as display:
        signal.raise_signal(signal.SIGINT)
        assert display.should_stop()
        with pytest.raises(KeyboardInterrupt):
            display.on_checked(1, 2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_of_many_processes_the_first_alone_speaks(
    rank: str, speaks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", rank)
    assert bool(done("devices", cwd=tmp_path).err) is speaks


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert done("--version", cwd=tmp_path).out == f"gnet-edge {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("paint",), "No such command 'paint'"),
        (("build", "--precision", "int4"), "'int4' is not one of 'fp32', 'fp16', 'int8'"),
        (("build", "--max-drop", "-1"), "Invalid value for '--max-drop'"),
        (("bench", "--rounds", "1"), "Invalid value for '--rounds'"),
        (("bench", "--rounds", "5001"), "Invalid value for '--rounds'"),
        (("bench", "--sustained", "10"), "10 is no duration; write it as 90s, 10m or 1h"),
        (("bench", "--fps", "30"), "--fps is about a load that lasts: give --sustained, such as 10m"),
        (("predict",), "Missing argument '"),
        (("train", "--data", "photos", "--size", "64", "--resize", "32"), "--resize 32 is below --size 64"),
    ],
)
def test_wrong_usage_ends_with_2(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = gnet_edge(*arguments, cwd=tmp_path)
    assert (outcome.code, outcome.out, contents(tmp_path)) == (2, "", {})
    assert sentence in outcome.err


# Build and bench with no other word


def test_build_says_what_it_took_and_what_it_cost(built: Built) -> None:
    said = built.fp32.err
    assert "using runs/photos/checkpoint.safetensors (the newest under runs/)\n" in said
    assert f"using {built.folder}/photos (photos was trained on it)\n" in said
    assert "bundle: runs/photos/fp32-cpu\n" in said
    assert "--calibration-images" not in said
    assert built.fp32.out == ""
    said = built.int8.err
    assert "using --calibration-images 24 (gnet-edge.toml says so)\n" in said
    assert "there already: runs/photos/googlenet.onnx\n" in said
    assert re.search(r"^int8 +\d+\.\d\d% +\d+\.\d\d% to \d+\.\d\d% +\d+\.\d\d% +0\.\d\d MB$", said, re.MULTILINE)
    assert re.search(r"^on integers: (57 of 57|39 of 39) Conv, 13 of 13 MaxPool, 9 of 9 Concat$", said, re.MULTILINE)
    assert re.search(
        r"^rewrite space-to-depth: \d\.\d{3} of the plain model's time here \(.*taken$", said, re.MULTILINE
    )
    assert re.search(r"^took: checking validation images \d+\.\d s, .*evaluating fp32 \d+\.\d s$", said, re.MULTILINE)
    assert "…" not in said


def test_build_gives_a_script_what_it_relies_on(built: Built) -> None:
    report = json.loads(built.int8.out)
    manifest = report["manifest"]
    assert (report["bundle"], manifest["precision"], manifest["device"]) == ("runs/photos/int8-cpu", "int8", "cpu")
    assert manifest == json.loads((built.folder / report["bundle"] / "manifest.json").read_text())
    assert manifest["accuracy"]["images"] == 48
    images = check_images(open_dataset(built.folder / "photos").val, preprocess=Preprocess(73, 64))
    assert manifest["lineage"]["dataset"] == images.sha256
    assert manifest["against_fp32"]["top1_change_points"] == pytest.approx(
        100 * (manifest["accuracy"]["top1"] - manifest["against_fp32"]["reference"]["top1"])
    )
    assert manifest["fp32_model_bytes"] > 2.4 * manifest["files"]["model.onnx"]["size"]
    assert manifest["build_seconds"]["lowering"] > 0
    assert [trial["name"] for trial in manifest["rewrites"]][:2] == ["space-to-depth", "merged-1x1"]
    assert all(
        trial["interval"]["low"] <= trial["ratio"] <= trial["interval"]["high"] for trial in manifest["rewrites"]
    )
    assert report["reused"] == ["runs/photos/googlenet.onnx"]


@pytest.mark.parametrize("arguments", [("bench", "--host", ""), ("bench", "--host="), ("prune", ""), ("demo", "")])
def test_an_empty_argument_is_no_wish(arguments: tuple[str, ...], tmp_path: Path) -> None:
    sentence = r"an argument is empty; is a variable of your shell not set\?"
    refused_without_a_trace(sentence, *arguments, cwd=tmp_path)


@pytest.mark.parametrize("command", ["prune", "export", "finetune", "build", "calibrate", "sensitivity"])
def test_a_folder_in_the_place_of_a_file_is_told(command: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "int8-cpu").mkdir(parents=True)
    file = "googlenet.onnx" if command == "calibrate" else "checkpoint.safetensors"
    for place in ("runs/NAME", "run"):
        for folder in ("run", "run/int8-cpu"):
            sentence = f"{folder} is a folder; give a file, such as {place}/{file}"
            refused_without_a_trace(sentence, command, folder, cwd=tmp_path)
        (tmp_path / "run" / file).touch()


def test_a_run_in_the_place_of_a_bundle_is_told_with_its_bundles(work: Path) -> None:
    sentence = "runs/photos is not a bundle: it has no manifest.json; it holds some: runs/photos/fp32-cpu, .*"
    for command in ("bench", "eval"):
        refused_without_a_trace(sentence, command, "runs/photos", cwd=work)


def test_within_runs_the_way_out_is_told(work: Path) -> None:
    sentence = "there is no bundle under .*/runs/runs; change to the folder that holds runs/"
    refused_without_a_trace(sentence, "predict", "photo.jpg", cwd=work / "runs")


def test_settings_with_an_unknown_device_name_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "gnet-edge.toml").write_text('device = "orin"\n')
    sentence = r".*gnet-edge.toml cannot be used: .* 'orin' - at `\$.device`; a device is one of cpu, .*"
    refused_without_a_trace(sentence, "build", cwd=tmp_path)


def test_bench_measures_all_bundles_of_the_newest_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(rounds.BenchPlan, runs=1, batches=(1,), batch_rounds=1, cold_starts=1)
    monkeypatch.setattr(rounds, "BenchPlan", quick)
    with (work / "gnet-edge.toml").open("a") as settings:
        settings.write("rounds = 7\n")
    outcome = done("bench", "--json", "--out", "measurement.json", cwd=work)
    for name in ("fp32-cpu", "int8-cpu"):
        assert f"using runs/photos/{name} (of the newest run)\n" in outcome.err
        assert len(re.findall(rf"^photos/{name} ", outcome.err, re.MULTILINE)) == 3, outcome.err
    assert "using --rounds 7 (gnet-edge.toml says so)\n" in outcome.err
    assert "measurement: measurement.json\n" in outcome.err
    assert "…" not in outcome.err
    measurement = json.loads(outcome.out)
    assert [bundle["precision"] for bundle in measurement["bundles"]] == ["fp32", "int8"]
    assert [len(bundle["latency"]["rounds_ms"]) for bundle in measurement["bundles"]] == [7, 7]
    assert measurement["bundles"][1]["latency"]["summary_ms"]["p50"] > 0
    assert set(measurement["bundles"][0]["stages"]) == {"decode", "preprocess", "inference", "postprocess"}
    assert measurement["ratios"][0]["name"] == "runs/photos/int8-cpu"
    assert (work / "measurement.json").read_text() == outcome.out
    assert read_measurement(work / "measurement.json").circumstances.cores >= 1


def test_bench_leaves_out_what_is_for_other_devices_where_nobody_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(rounds.BenchPlan, runs=1, batches=(1,), batch_rounds=1, cold_starts=1)
    monkeypatch.setattr(rounds, "BenchPlan", quick)
    write_colour_bundle(tmp_path / "runs/colours/fp32-cpu")
    bundle = colour_bundle()
    there = replace(bundle, manifest=replace(bundle.manifest, device=Device.ORIN_NANO))
    write_bundle(tmp_path / "runs/colours/int8-orin-nano", there)
    outcome = done("bench", "--json", "--rounds", "6", cwd=tmp_path)
    assert "left out runs/colours/int8-orin-nano (for orin-nano; measure it there, with --host)\n" in outcome.err
    assert [each["name"] for each in json.loads(outcome.out)["bundles"]] == ["runs/colours/fp32-cpu"]


ASKED = (
    *("bench", "runs/colours/fp32-cpu", "--threads", "3", "--streams", "2", "--rounds", "7", "--engine", "openvino"),
    *("--image", "red.png", "--sustained", "10m", "--fps", "30", "--power-mode", "15W"),
)


def test_bench_measures_as_it_is_asked_and_tells_what_is_doubtful(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, given = fake_jetson(tmp_path, ORIN_NANO), dict[str, Any]()

    def measure(paths: list[Path], **options: Any) -> Any:
        given.update(options, paths=paths)
        (root / "usr/sbin/nvpmodel").write_text("#!/bin/sh\nexit 255\n")
        return replace(measured(), warnings=("it was hot",))

    monkeypatch.setattr(measuring, "bench", measure)
    monkeypatch.setattr(machine, "ROOT", root)
    said = done(*ASKED, cwd=colours).err
    assert given["paths"] == [Path("runs/colours/fp32-cpu")]
    assert given["plan"] == rounds.BenchPlan(threads=3, streams=2, rounds=7, sustained=SustainedPlan(600, 30))
    assert (given["engine"], given["image"]) == (EngineName.OPENVINO, (colours / "red.png").read_bytes())
    assert re.search(r"^warning: it was hot\nwarning: the power mode did not change to 25W", said, re.MULTILINE), said


def test_bench_over_ssh_measures_as_it_is_asked(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict[str, Any]()

    def measure(paths: list[Path], remote: Remote, **options: Any) -> MeasuredThere:
        given.update(options, paths=paths, remote=remote)
        return MeasuredThere(measured(), 0, 0)

    monkeypatch.setattr(measuring_there, "bench_there", measure)
    done(*ASKED, "--host", "me@jetson", "--python", "py", "--keep", "--lock-clocks", cwd=colours)
    assert given["paths"] == [Path("runs/colours/fp32-cpu")]
    assert given["remote"] == Remote(Host("jetson", "me"), "py", keep=True)
    plan = RemotePlan(Device.CPU, EngineName.OPENVINO, 3, 2, 7, SustainedPlan(600, 30), "15W", lock_clocks=True)
    assert (given["plan"], given["image"]) == (plan, (colours / "red.png").read_bytes())


@pytest.mark.parametrize("device", ["rtx", "cuda"])
def test_bench_on_a_gpu_without_a_bundle_for_it_is_refused(device: str, work: Path) -> None:
    build = f"gnet-edge build --device {device}"
    sentence = f"no bundle is for the device {device}: leave --device out, or build one with: {build}"
    for bundles in ((), ("runs/photos/int8-cpu",)):
        refused_without_a_trace(sentence, "bench", *bundles, "--device", device, cwd=work)


def test_bench_names_an_image_that_cannot_be_decoded(work: Path) -> None:
    (work / "empty.jpg").touch()
    sentence = "empty.jpg is not a JPEG, PNG or WebP image; convert or remove it"
    for where in ((), ("--host", "nobody@nowhere.invalid")):
        refused_without_a_trace(sentence, "bench", "runs/photos/int8-cpu", "--image", "empty.jpg", *where, cwd=work)
    (work / "empty.jpg").unlink()


def test_board_that_cannot_run_this_package_is_told_what_can(tmp_path: Path) -> None:
    bundle = colour_bundle()
    manifest = replace(bundle.manifest, device=Device.NANO, engine=EngineName.SIMULATED)
    write_bundle(tmp_path / "nano", replace(bundle, manifest=manifest))
    sentence = (
        "nano is built for the device nano, whose last JetPack is too old for gnet-edge to compile plans on it; pack it"
        " with gnet-edge package --for deepstream, for trtexec on the device"
    )
    for command in ("bench", "build"):
        refused_without_a_trace(sentence, command, "nano", cwd=tmp_path)


def test_photo_named_twice_is_answered_once(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "bundle")
    solid("blue").save(tmp_path / "blue.png")
    found = done("predict", "blue.png", "blue.png", "--bundle", "bundle", "--json", "--top-k", "1", cwd=tmp_path)
    assert list(json.loads(found.out)) == ["blue.png"]
    assert len(re.findall("blue.png", found.err)) == 1


def test_inspect_tells_the_size_that_bench_tells(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "small")
    small = read_bundle(tmp_path / "small")
    write_bundle(tmp_path / "large", replace(small, manifest=replace(small.manifest, notes=("x" * 1_000_000,))))
    size = sum(file.stat().st_size for file in (tmp_path / "large").iterdir())
    facts = json.loads(done("inspect", "large", "--json", cwd=tmp_path).out)
    assert facts["size"] == f"{size / 1e6:.2f} MB"
    assert size > 1_000_000


def test_inspect_sends_to_the_report_what_that_can_show(work: Path) -> None:
    refused_without_a_trace(
        "runs/photos/run.json is no calibration table; give .*",
        "inspect",
        "runs/photos/run.json",
        cwd=work,
    )
    write_json(work / "m.json", measured())
    sentence = "m.json is no calibration table; results are shown by: gnet-edge report m.json"
    refused_without_a_trace(sentence, "inspect", "m.json", cwd=work)
    (work / "m.json").unlink()


def test_second_build_uses_what_is_there(work: Path) -> None:
    outcome = done("build", "--precision", "int8", cwd=work)
    assert outcome.out == ""
    assert "there already: runs/photos/googlenet.onnx\n" in outcome.err
    assert "there already: runs/photos/calibration.json\n" in outcome.err
    assert "exporting" not in outcome.err
    assert "calibrating" not in outcome.err


def test_changed_image_makes_a_new_table_and_changed_weights_all_anew(built: Built, tmp_path: Path) -> None:
    work = copy_of(built.folder, tmp_path / "work")
    for i in range(8):
        Image.effect_noise((60, 50), 90).convert("RGB").save(work / f"photos/train/stop/{i:05}.jpg")
    outcome = done("build", "--json", cwd=work)
    assert json.loads(outcome.out)["reused"] == ["runs/photos/googlenet.onnx"]
    path = work / "runs" / "photos" / "checkpoint.safetensors"
    checkpoint = read_checkpoint(path)
    checkpoint.weights["fc.bias"][0] += 1
    write_checkpoint(path, checkpoint)
    outcome = done("build", "--json", cwd=work)
    assert json.loads(outcome.out)["reused"] == []
    assert "runs/photos/int8-cpu replaces a bundle of another network; --out names a place for each\n" in outcome.err
    assert "replaces a bundle" not in done("build", cwd=work).err


# Single steps


def test_prune_shows_what_the_heads_cost(work: Path) -> None:
    outcome = done("prune", "--out", "pruned.safetensors", "--json", cwd=work)
    assert re.search(r"^parameters +4,428,572 → +182,532$", outcome.err, re.MULTILINE), outcome.err
    assert re.search(r"^FLOPs +[\d,]+ → +[\d,]+  \(2 × multiply-accumulates, one image\)$", outcome.err, re.MULTILINE)
    assert "logits       identical bit for bit\n" in outcome.err
    costs = json.loads(outcome.out)
    assert costs["before"]["parameters"] > costs["after"]["parameters"]
    assert costs["before"]["macs"] > costs["after"]["macs"]
    facts = json.loads(done("inspect", costs["checkpoint"], "--json", cwd=work).out)
    assert facts["auxiliary heads"] == "pruned"


def test_export_writes_the_opset_that_is_asked_for(work: Path) -> None:
    outcome = done("export", "--opset", "13", "--out", "old.onnx", cwd=work)
    assert re.search(r"^largest difference from PyTorch: \d\.\de-\d\d of the largest logit$", outcome.err, re.MULTILINE)
    assert "graph: old.onnx\n" in outcome.err
    assert onnx.load(work / "old.onnx").opset_import[0].version == 13


def test_calibrate_takes_the_method_that_is_asked_for(work: Path) -> None:
    outcome = done("calibrate", "--method", "entropy", "--out", "table.json", cwd=work)
    assert "using runs/photos/googlenet.onnx (the newest under runs/)\n" in outcome.err
    assert re.search(r"^\d+ tensors on 24 images, method entropy$", outcome.err, re.MULTILINE)
    ours, before = (json.loads((work / path).read_text()) for path in ("table.json", "runs/photos/calibration.json"))
    assert (ours["method"], before["method"]) == ("entropy", "headroom")
    assert ours["images_sha256"] == before["images_sha256"]
    assert ours["tensors"]["conv1"]["high"] < before["tensors"]["conv1"]["high"]


def test_eval_compares_bundles_with_the_first(work: Path) -> None:
    outcome = done("eval", "runs/photos/fp32-cpu", "runs/photos/int8-cpu", "--json", cwd=work)
    first, second = json.loads(outcome.out)
    assert (first["bundle"], second["bundle"]) == ("runs/photos/fp32-cpu", "runs/photos/int8-cpu")
    assert first["accuracy"]["images"] == second["accuracy"]["images"] == 48
    assert first["against_first"] is None
    assert 0 <= second["against_first"]["agreement"] <= 1
    assert re.search(r"^runs/photos/int8-cpu: top-1 changes by [+-]\d", outcome.err, re.MULTILINE)


def test_eval_of_bundles_with_other_classes_is_refused_before_anything_is_judged(work: Path) -> None:
    bundle = read_bundle(work / "runs/photos/int8-cpu")
    write_bundle(work / "other", replace(bundle, class_names=bundle.class_names[::-1]))
    outcome = gnet_edge("eval", "runs/photos/int8-cpu", "other", "--out", "a.json", cwd=work)
    sentence = "the two models have different classes, or the same in another order; compare models of one checkpoint"
    assert (outcome.code, outcome.err.splitlines()[-1]) == (1, f"gnet-edge: {sentence}")
    assert "evaluating" not in outcome.err
    assert not (work / "a.json").exists()


def test_help_can_be_read_where_the_terminal_is_not_utf_8() -> None:
    for encoding in ("latin-1", "ascii"):
        shown_help = subprocess.run(
            [sys.executable, "-m", "googlenet_edge.cli", "build", "--help"],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert (shown_help.returncode, shown_help.stderr) == (0, b"")
        assert b"--precision" in shown_help.stdout


def test_words_between_colons_are_no_pictures(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "bundle")
    solid("blue").save(tmp_path / "cam:b:2.png")
    assert "cam:b:2.png" in done("predict", "cam:b:2.png", "--bundle", "bundle", cwd=tmp_path).err


def test_eval_of_a_folder_that_is_not_split_says_that_it_judges_a_part(colours: Path, tmp_path: Path) -> None:
    for colour in ("red", "green", "blue"):
        (tmp_path / colour).mkdir()
        for i in range(10):
            solid(colour).save(tmp_path / colour / f"{i}.png")
    outcome = done("eval", "--data", tmp_path, "--json", cwd=colours)
    assert json.loads(outcome.out)[0]["accuracy"]["images"] == 6
    judging = f"judging 6 images of {tmp_path}: the one in five of each class"
    assert f"{judging}; the network may have been trained on some of them" in outcome.err
    record = colours / "runs" / "colours" / "run.json"
    write_run_record(record.parent, RunRecord(str(tmp_path.resolve()), seed=3))
    try:
        assert f"{judging} that no training on it sees\n" in done("eval", cwd=colours).err
        (colours / "latest").symlink_to("runs/colours/fp32-cpu")
        assert f"{judging} that no training on it sees\n" in done("eval", "latest", cwd=colours).err
    finally:
        record.unlink()
        (colours / "latest").unlink(missing_ok=True)


def test_predict_gives_labels_of_every_image(colours: Path) -> None:
    outcome = done("predict", "red.png", "blue.png", "--top-k", "2", "--json", cwd=colours)
    assert "using runs/colours/fp32-cpu (the newest under runs/)\n" in outcome.err
    found: dict[str, list[dict[str, Any]]] = json.loads(outcome.out)
    assert {image: [p["label"] for p in best] for image, best in found.items()} == {
        "red.png": ["red", "green"],
        "blue.png": ["blue", "red"],
    }
    assert found["red.png"][0]["index"] == 0
    assert found["red.png"][0]["probability"] == pytest.approx(0.9993, abs=1e-3)
    assert re.search(r"^red\.png +red +99\.9%$", outcome.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "kind", "fact"),
    [
        ("runs/photos/int8-cpu", "bundle", ("precision", "int8")),
        ("runs/photos/checkpoint.safetensors", "checkpoint", ("auxiliary heads", "yes")),
        ("runs/photos/googlenet.onnx", "inference graph", ("opset", "17")),
        ("runs/photos/calibration.json", "calibration table", ("images", "24")),
    ],
)
def test_inspect_tells_of_every_kind_of_file(path: str, kind: str, fact: tuple[str, str], work: Path) -> None:
    outcome = done("inspect", path, "--json", cwd=work)
    facts = json.loads(outcome.out)
    assert facts["kind"] == kind
    assert facts[fact[0]] == fact[1]
    assert re.search(rf"^{fact[0]} +{fact[1]} *$", outcome.err, re.MULTILINE), outcome.err


# Machines


def test_devices_lists_what_can_be_named_and_marks_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ROOT", fake_jetson(tmp_path, XAVIER_NX))
    outcome = done("devices", "--json", cwd=tmp_path)
    found = {device["name"]: device for device in json.loads(outcome.out)}
    assert list(found) == [device.value for device in Device if device is not Device.JETSON]
    assert [name for name, device in found.items() if device["at_hand"]] == ["cpu", "xavier-nx"]
    assert found["nano"]["int8"] is False
    assert found["orin-nx"]["dla_cores"] == [1, 2]
    assert found["agx-orin"]["tensorrt"]["7.2.2"] == "11.4"
    assert re.search(r"^nano +Jetson Nano +5\.3 +no +0 +2/4 GB +8\.2 +trtexec *$", outcome.err, re.MULTILINE), (
        outcome.err
    )
    assert re.search(
        r"^xavier-nx \* +Jetson Xavier NX +7\.2 +yes +2 +8/16 GB +8\.2–8\.5 +trtexec *$", outcome.err, re.MULTILINE
    )
    assert re.search(r"^trtexec: its JetPacks have a Python too old for gnet-edge", outcome.err, re.MULTILINE)


def test_bench_of_the_jetson_at_hand_says_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ROOT", fake_jetson(tmp_path, ORIN_NANO))
    assert gnet_edge("bench", "--device", "jetson", cwd=tmp_path).err.startswith(
        "using --device orin-nano (Jetson Orin Nano)\n"
    )


def test_bench_on_a_jetson_shows_what_its_sensors_said(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_bench_on_a_jetson(tmp_path, monkeypatch)
    said = done("bench", "--device", "cpu", "--lock-clocks", "--power-mode", "15W", cwd=colours).err
    assert re.search(r"^colours/fp32-cpu +\d+\.\d mJ +-?\d\.\d mJ +4805\.7 mW +4805\.7 mW$", said, re.MULTILINE), said
    assert re.search(r"^VDD_IN +4805\.7 mW +4805\.7 mW +4805\.7 mW$", said, re.MULTILINE)
    assert re.search(r"^cv0-thermal +not measured +not measured +not measured$", said, re.MULTILINE)
    assert "throttled by the supply: never\n" in said
    assert "JetPack 6.2, TensorRT 10.3.0.30, power mode 15W, GPU at 918 MHz\n" in said
    assert_set_back()


def test_bench_that_is_ended_under_load_gives_out_what_it_measured_and_fails(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `kill`, at the fourth inference of an hour."""
    quick_bench_on_a_jetson(tmp_path, monkeypatch)
    ran: list[None] = []

    def ended(runs: Sequence[Callable[[], object]], **how: Any) -> Loads:
        def run() -> None:
            if len(ran) == 3:
                signal.raise_signal(signal.SIGTERM)
            ran.append(None)
            runs[0]()

        return sustain([run], **how)

    monkeypatch.setattr(measuring, "sustain", ended)
    out = tmp_path / "measurement.json"
    outcome = gnet_edge(
        "bench", "--device", "cpu", "--lock-clocks", "--sustained", "1h", "--json", "--out", out, cwd=colours
    )
    said = outcome.err.splitlines()
    assert outcome.code == 1
    assert said[-1] == (
        "gnet-edge: the load ended before its time, see the warning above; what was measured by then is kept"
    )
    assert "warning: the load of runs/colours/fp32-cpu ended after 0 s: interrupted" in said
    found = read_measurement(out)
    assert out.read_text() == outcome.out
    assert found.bundles[0].sustained
    assert found.bundles[0].sustained.inferences == 3
    assert found.bundles[0].energy
    assert_set_back()


KILLED = """
import os, signal, sys
from pathlib import Path
import pytest
import googlenet_edge.engines.bench as measuring
from googlenet_edge.cli import main
from test_cli import quick_bench_on_a_jetson

def inference(*_, **__):
    return lambda: os.kill(os.getpid(), signal.SIGKILL) if Path("so-far.json").exists() else None

measuring.inference = inference
sys.argv = ["gnet-edge", "bench", "--device", "cpu", "--sustained", "1h", "--out", "so-far.json"]
with pytest.MonkeyPatch.context() as patch:
    quick_bench_on_a_jetson(Path(sys.argv[-1]).resolve().parent / "root", patch)
    main()
"""


def test_bench_that_is_killed_under_load_leaves_what_it_measured_by_then(tmp_path: Path) -> None:
    """In a process of its own, at its first inference after the file is there."""
    write_colour_bundle(tmp_path / "runs" / "colours" / "fp32-cpu")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    found = read_measurement(tmp_path / "so-far.json")
    sentence = "the load of runs/colours/fp32-cpu ended after 0 s: what came later is lost"
    assert (found.cut_short, found.warnings[0]) == (True, sentence)
    assert found.bundles[0].energy
    assert found.watched


def test_load_goes_on_where_what_is_known_cannot_be_written(tmp_path: Path) -> None:
    """The end of the measurement says so, where it is still so then."""
    (tmp_path / "full").touch()
    machine.keep(tmp_path / "full" / "measurement.json", measured())
    assert [*contents(tmp_path)] == ["full"]


def quick_bench_on_a_jetson(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    energy = EnergyPlan(1, 0.25, settle_s=0.0, hz=200)
    quick = partial(rounds.BenchPlan, rounds=6, runs=1, batches=(1,), batch_rounds=1, cold_starts=1, energy=energy)

    def plan(*, threads: int, sustained: SustainedPlan | None, **_: object) -> rounds.BenchPlan:
        return quick(threads=threads, sustained=sustained)

    monkeypatch.setattr(rounds, "BenchPlan", plan)
    monkeypatch.setattr(machine, "ROOT", fake_jetson(root, ORIN_NANO))


def assert_set_back() -> None:
    after = read_jetson(machine.ROOT)
    assert after is not None
    assert (after.power_mode, after.gpu_clock) == ("25W", Clock(306, 306, 918))


def test_bench_cannot_set_the_clocks_of_another_machine(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ROOT", fake_pc(tmp_path))
    refused(gnet_edge("bench", "runs/colours/fp32-cpu", "--lock-clocks", cwd=colours), ".*jetson_clocks is missing; .*")


# Settings


def test_settings_are_used_and_the_command_line_wins(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "gnet-edge.toml").write_text('device = "jetson"\ndata = "photos"\n')
    from_settings, given = gnet_edge("bench", cwd=tmp_path), gnet_edge("bench", "--device", "cpu", cwd=tmp_path)
    assert from_settings.err.startswith("using --device jetson (gnet-edge.toml says so)\n")
    assert re.search(
        r"^gnet-edge: this machine is no Jetson; measure on one with --host user@address",
        from_settings.err,
        re.MULTILINE,
    )
    assert given.err.startswith("gnet-edge: there is no bundle under")
    bundle = colours / "runs" / "colours" / "fp32-cpu"
    assert "photos is not a folder" in gnet_edge("eval", bundle, cwd=tmp_path).err
    assert "given is not a folder" in gnet_edge("eval", bundle, "--data", "given", cwd=tmp_path).err
    assert gnet_edge("train", cwd=tmp_path).err.startswith("using photos (gnet-edge.toml says so)\n")


def test_train_without_images_says_how_they_are_given(tmp_path: Path) -> None:
    refused(
        gnet_edge("train", cwd=tmp_path), "give --data DIR, a folder with train/CLASS/. and val/CLASS/., or with .*"
    )


def test_real_process_writes_json_that_a_pipe_can_read(colours: Path) -> None:
    command = [str(Path(sys.executable).with_name("gnet-edge")), "predict", "red.png", "--json"]
    found = subprocess.run(command, cwd=colours, capture_output=True, check=True)
    assert json.loads(found.stdout)["red.png"][0]["label"] == "red"
    assert b"\x1b" not in found.stdout + found.stderr
