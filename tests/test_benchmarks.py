"""The scripts of benchmarks/: each can be asked for help, and the cheap ones run end to end on tiny settings."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import FOLDER, Answer
from tiny_bundles import colour_bundle, write_colour_bundle
from tiny_graph import table_of, tiny_graph, tiny_pixels

from googlenet_edge.calibration.lower import lower_int8_cpu
from googlenet_edge.calibration.weights import WeightRange
from googlenet_edge.engines.bundle import Bundle, Golden, Manifest, write_bundle
from googlenet_edge.engines.cold_start import ColdStart
from googlenet_edge.engines.onnxruntime_cpu import OnnxRuntimeCpu
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.report.judge import Change, Metric
from googlenet_edge.errors import EngineError
from googlenet_edge.processor import read_processor
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Device, EngineName, Precision, Unit

HELPERS = {
    *("common.py", "made.py", "onnxruntime_peer.py", "triton_backend.py"),
    *("peer_engines.py", "peer_ours.py", "peer_quantizers.py", "peer_table.py"),
}
PYTHON_SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if path.name not in HELPERS)
SHELL_SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sh"))


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*([sys.executable] if script.endswith(".py") else []), str(FOLDER / script), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def figures(script: str, *arguments: object, out: Path) -> dict[str, dict[str, Any]]:
    """The figures that a script keeps, by what they are of."""
    done = run(script, *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| what | measured |") == 1
    return {figure["what"]: figure for figure in json.loads(out.read_bytes())["figures"]}


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    return [write_colour_bundle(tmp_path / p.value, p) for p in (Precision.FP32, Precision.INT8)]


@pytest.mark.parametrize("script", PYTHON_SCRIPTS)
def test_benchmarks_python_scripts_explain_themselves(script: str, answer: Answer) -> None:
    code, text, _ = answer(script, "--help")
    assert code == 0
    assert text.startswith(f"usage: {script}")


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_benchmarks_shell_scripts_explain_themselves(script: str) -> None:
    assert subprocess.run(["bash", "-n", FOLDER / script], check=False).returncode == 0
    done = run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"benchmarks/{script}" in done.stdout


def test_benchmarks_on_device_keeps_every_step_and_what_failed(bundles: list[Path], tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = run("on_device.sh", "--minutes", 0, "--out", tmp_path / "all.json", bundles[1], PATH=path, TRTEXEC="/none")
    assert done.returncode == 0, done.stderr
    steps = json.loads((tmp_path / "all.json").read_bytes())["steps"]
    assert {name: step["exit_code"] for name, step in steps.items()} == {
        **{"doctor": 0, "inspect-0": 0, "bench": 0},
        "build-0": 1,  # it is for a processor
    }
    assert steps["bench"]["result"]["bundles"][0]["latency"]["rounds_ms"]
    assert "nothing is left to compile" in steps["build-0"]["said"]
    assert done.stderr.endswith("all.json: 4 steps, failed: build-0\n")
    assert run("on_device.sh").returncode == 2


@pytest.mark.parametrize(("version", "header"), [("8.6.2", b"TRT-8602-"), ("10.3.0", b"TRT-100300-"), ("10.16.0", b"")])
def test_benchmarks_on_device_gives_trtexec_the_cache_of_its_version_and_the_sizes_of_our_plans(
    tmp_path: Path, version: str, header: bytes
) -> None:
    made = colour_bundle(Precision.INT8)
    on_dla = replace(made.manifest, device=Device.AGX_ORIN, unit=Unit.DLA)
    cache = b"TRT-8502-EntropyCalibration2\nimages: 3c010a14\n"
    write_bundle(tmp_path / "dla", replace(made, manifest=on_dla, calibration_cache=cache))
    write_bundle(tmp_path / "gpu", replace(made, manifest=replace(made.manifest, device=Device.AGX_ORIN)))
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tensorrt.py").write_text(f'__version__ = "{version}"\n')
    trtexec = tmp_path / "trtexec"
    keep = f'case $each in --calib=*) cp "${{each#--calib=}}" {tmp_path}/given ;; esac'
    trtexec.write_text(f'#!/bin/sh\nfor each; do {keep}; done\necho "$@"\n')
    (tmp_path / "gnet-edge").write_text("#!/bin/sh\nexit 1\n")  # nothing of it is needed here
    for program in (trtexec, tmp_path / "gnet-edge"):
        program.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    places = {"PATH": path, "TRTEXEC": str(trtexec), "PYTHONPATH": str(tmp_path / "modules")}
    done = run(
        "on_device.sh", "--minutes", 0, "--out", tmp_path / "all.json", tmp_path / "dla", tmp_path / "gpu", **places
    )
    assert done.returncode == 0, done.stderr
    given = tmp_path / "given"
    assert (given.read_bytes() if given.exists() else b"") == (header + cache[9:] if header else b"")
    steps = json.loads((tmp_path / "all.json").read_bytes())["steps"]
    assert ("trtexec-0" in steps, steps["flags-0"]["exit_code"]) == (bool(header), 0 if header else 1)
    sizes = re.findall(r"--(\w+)Shapes=pixels:(\S+)", steps["trtexec-1"]["result"])
    assert sizes == [("min", "1x32x32x3"), ("opt", "1x32x32x3"), ("max", "8x32x32x3")]


def test_benchmarks_readme_names_every_script() -> None:
    text = (FOLDER / "README.md").read_text()
    assert [script for script in [*PYTHON_SCRIPTS, *SHELL_SCRIPTS] if f"benchmarks/{script}" not in text] == []


def test_benchmarks_int8_latency_compares_two_bundles_at_both_thread_counts(
    bundles: list[Path], tmp_path: Path
) -> None:
    found = figures("int8_latency.py", "--bundles", *bundles, "--rounds", 6, out=tmp_path / "kept.json")
    assert found["int8 / fp32, 1 thread"]["value"] > 0
    assert found["int8 / fp32, 2 threads"]["value"] > 0
    assert found["int8 / fp32, 1 thread"]["most"] is None, "the limit is for 224×224, this bundle takes 32×32"
    kept = json.loads((tmp_path / "kept.json").read_bytes())["details"]
    assert [len(kept[threads]["int8"]["rounds_ms"]) for threads in "12"] == [6, 6]


def test_benchmarks_run_to_run_judges_what_was_measured_an_hour_apart(
    answer: Answer, bundles: list[Path], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    one = ("run_to_run.py", bundles[1], "--keep", kept, "--times", 1)
    code, _, problem = answer(*one)
    assert code == 1
    assert problem == f"run_to_run.py: {kept} has no two measurements 30 minutes apart; call this again later\n"
    first = json.loads((kept / "000.json").read_bytes())
    first["circumstances"]["date"] = "2026-01-01T00:00:00+00:00"
    (kept / "000.json").write_text(json.dumps(first))
    found = figures(*one, out=tmp_path / "kept.json")
    assert {what.split(": ")[1] for what in found} == {"called equal", "found, times × 1.05", "found, times × 0.95"}
    trials = json.loads((tmp_path / "kept.json").read_bytes())["details"]
    changes = {trial["factor"]: 1 + trial["change"]["change"] / 100 for trial in trials}
    assert changes[1.05] / changes[1.0] == pytest.approx(1.05)
    assert (trials[0]["minutes_apart"] > 60, len(trials)) == (True, 3)


def test_benchmarks_run_to_run_counts_no_change_in_the_wrong_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("run_to_run")

    def right(factor: float, percent: float, *, real: bool) -> bool:
        change = Change(Metric.P50, 1.0, 1.0, percent, Interval(percent, percent), real)
        return bool(module.is_right(module.Trial("b", factor, 60.0, change)))

    assert [right(1.05, 5.0, real=True), right(0.95, -5.0, real=True), right(1.0, 0.5, real=False)] == [True] * 3
    assert [right(1.05, -5.0, real=True), right(0.95, 5.0, real=True)] == [False] * 2
    assert [right(1.05, 5.0, real=False), right(1.0, 5.0, real=True)] == [False] * 2


def test_benchmarks_run_to_run_keeps_what_was_measured_where_an_earlier_file_is_gone(
    answer: Answer, bundles: list[Path], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    one = ("run_to_run.py", bundles[1], "--keep", kept, "--times", 1)
    for _ in range(2):
        assert answer(*one)[0] == 1
    second = (kept / "001.json").read_bytes()
    (kept / "000.json").unlink()
    assert answer(*one)[0] == 1
    assert (kept / "001.json").read_bytes() == second
    assert (kept / "000.json").exists()


def test_benchmarks_cold_start_leaves_out_memory_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("cold_start")
    starts = [ColdStart(1.0, 1.0, 1.0, mb) for mb in (None, 100, 140, None)]
    for order in (starts, starts[::-1]):
        found = module.memory_figure(order)
        assert (found.value, found.reached) == (140, "no")
        assert found.detail.endswith(", not known of 2 of 4")
    assert module.memory_figure(starts[:1]).reached == "no"
    assert "not known" not in module.memory_figure(starts[1:3]).detail


def test_benchmarks_harness_cost_finds_a_millisecond_and_what_watching_takes(tmp_path: Path) -> None:
    found = figures("harness_cost.py", "--rounds", 6, "--seconds", 1, out=tmp_path / "kept.json")
    assert found["p50 of an inference of 1 ms, beyond it"]["value"] > 0, "nothing is faster than the engine spins"
    assert [found[f"watching sensors at {hz} Hz"]["value"] > 0 for hz in (1, 5, 20)] == [True] * 3
    assert len(json.loads((tmp_path / "kept.json").read_bytes())["details"]["latency"]["rounds_ms"]) == 6


def test_benchmarks_cold_start_keeps_every_start(bundles: list[Path], tmp_path: Path) -> None:
    found = figures("cold_start.py", bundles[1], "--starts", 6, out=tmp_path / "kept.json")
    assert found["modules of torch imported"]["value"] == 0
    assert found["peak memory"]["value"] > 0
    assert len(json.loads((tmp_path / "kept.json").read_bytes())["details"]) == 6


def test_benchmarks_cpp_embedding_keeps_starts_rounds_and_memory(
    bundles: list[Path], gne_prefix: Path, tmp_path: Path
) -> None:
    small = ("--build", gne_prefix.parent / "build", "--starts", 6, "--rounds", 6, "--seconds", 1)
    found = figures("cpp_embedding.py", bundles[1], *small, out=tmp_path / "kept.json")
    assert found["its peak memory"]["value"] > 10
    assert found["C++ / Python"]["value"] > 0
    kept = json.loads((tmp_path / "kept.json").read_bytes())["details"]
    assert [len(kept["starts"]), *(len(each) for each in kept["rounds_ms"].values())] == [6, 6, 6, 6]
    assert kept["crowd"]["inferences"] > 8


def test_benchmarks_cpp_embedding_of_no_bundle_is_one_line(answer: Answer, gne_prefix: Path, tmp_path: Path) -> None:
    code, _, err = answer("cpp_embedding.py", tmp_path, "--build", gne_prefix.parent / "build")
    assert code == 1
    assert err.count("\n") == 1
    assert "is not a bundle: it has no manifest.json" in err


def test_benchmarks_cold_start_of_no_bundle_is_one_line(answer: Answer, tmp_path: Path) -> None:
    code, _, err = answer("cold_start.py", tmp_path)
    assert code == 1
    assert err.count("\n") == 1
    assert "is not a bundle: it has no manifest.json" in err


def test_benchmarks_calibration_memory_finds_the_same_table_in_another_order(tmp_path: Path) -> None:
    found = figures("calibration_memory.py", "--images", 12, "--size", 32, out=tmp_path / "kept.json")
    assert found["tables that another order of images changes"]["value"] == 0
    assert found["peak memory"]["value"] > 0


def test_benchmarks_int8_accuracy_judges_all_methods_and_the_peer(tiny_run: Path, tmp_path: Path) -> None:
    given = ("--run", tiny_run / "runs" / "photos", "--data", tiny_run / "photos", "--calibration-images", 12)
    found = figures("int8_accuracy.py", *given, out=tmp_path / "kept.json")
    assert 0 <= found["agreement with FP32, gnet-edge, as built"]["value"] <= 100
    rows = json.loads((tmp_path / "kept.json").read_bytes())["details"]
    assert [row["model"] for row in rows] == [
        "gnet-edge, as built",
        "gnet-edge, as built for TensorRT, simulated",
        "gnet-edge, as built for a DLA, simulated",
        "gnet-edge, headroom",
        "gnet-edge, minmax",
        "gnet-edge, percentile",
        "gnet-edge, entropy",
        "gnet-edge, mse",
        "ONNX Runtime, min/max",
    ]
    assert min(row["sqnr_db"] for row in rows) > 10


def test_benchmarks_training_speed_times_steps_after_the_warm_up(tiny_run: Path, tmp_path: Path) -> None:
    small = ("--size", 32, "--batch-size", 4, "--steps", 6, "--warm-up", 1, "--workers", 1)
    found = figures("training_speed.py", "--data", tiny_run / "photos", *small, out=tmp_path / "kept.json")
    seconds = json.loads((tmp_path / "kept.json").read_bytes())["details"]["step_seconds"]
    assert len(seconds) == 6
    assert found["training"]["value"] == pytest.approx(4 * 6 / sum(seconds))


def test_benchmarks_training_speed_of_too_few_images_says_how_many_are_needed(tiny_run: Path, answer: Answer) -> None:
    code, _, err = answer("training_speed.py", "--data", tiny_run / "photos")
    assert code == 1
    assert "has 96 images, 10368 are needed; lower --steps or --batch-size" in err


def test_benchmarks_plot_curve_without_matplotlib_says_what_to_install(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"epoch": 1, "loss": 2.0, "train_top1": 0.1, "val_top1": 0.2}\n')
    code, _, err = answer("plot_curve.py", metrics, tmp_path / "curve.png")
    assert code == 1
    assert err == "plot_curve.py: Matplotlib is not installed; python -m pip install matplotlib\n"


@pytest.mark.parametrize("script", ["cifar10.sh", "flowers.sh"])
def test_benchmarks_flows_train_once(script: str, tmp_path: Path) -> None:
    (tmp_path / "gnet-edge").write_text('#!/bin/sh\necho "$1" >> "$LOG"\n')
    (tmp_path / "gnet-edge").chmod(0o755)
    log, path = tmp_path / "log", f"{tmp_path}:{os.environ['PATH']}"
    after_training = ["build", "build", "eval"]
    assert run(script, tmp_path, tmp_path / "run", PATH=path, LOG=str(log)).returncode == 0
    assert log.read_text().split()[:4] == ["train", *after_training]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").touch()
    log.unlink()
    assert run(script, tmp_path, tmp_path / "run", PATH=path, LOG=str(log)).returncode == 0
    assert log.read_text().split()[:3] == after_training


@pytest.mark.parametrize("engine_name", [EngineName.ONNXRUNTIME, EngineName.OPENVINO])
def test_benchmarks_layer_profile_sets_each_convolution_beside_the_same_product(
    engine_name: EngineName, tmp_path: Path, answer: Answer
) -> None:
    graph, pixels = tiny_graph(), tiny_pixels(2)
    model = lower_int8_cpu(graph, table_of(graph), weight_range=WeightRange.FULL).SerializeToString()
    with OnnxRuntimeCpu(model, EngineOptions()) as engine:
        golden = Golden(pixels, engine.run(pixels))
    manifest = Manifest(Precision.INT8, Device.CPU, graph.preprocess, engine=engine_name)
    write_bundle(tmp_path / "bundle", Bundle(manifest, graph.class_names, model, golden))
    if engine_name is EngineName.OPENVINO and read_processor().saturates_u8s8:  # it multiplies in float there
        code, _, err = answer("layer_profile.py", "--bundle", tmp_path / "bundle", "--rounds", "2")
        assert code == 1
        assert "FullyConnectedCompressed, so this processor has none to compare layers with" in err
        return
    found = figures("layer_profile.py", "--bundle", tmp_path / "bundle", "--rounds", 2, out=tmp_path / "kept.json")
    assert 0 < found["convolutions"]["value"] < found["all layers"]["value"]
    kept = json.loads((tmp_path / "kept.json").read_bytes())["details"]
    layers = {layer["name"]: layer for layer in kept if layer["sizes"]}
    weights = {node.name: graph.weights[node.input[1]] for node in graph.model.graph.node if node.op_type == "Conv"}
    assert {name: layer["sizes"][1:] for name, layer in layers.items()} == {
        name: [weight[0].size, len(weight)] for name, weight in weights.items()
    }
    assert all(layer["limit_us"] > 0 for layer in layers.values())


@pytest.fixture
def for_cuda(tmp_path: Path) -> Path:
    graph, pixels = tiny_graph(), tiny_pixels(2)
    model = lower_int8_cpu(graph, table_of(graph)).SerializeToString()
    manifest = Manifest(Precision.INT8, Device.CUDA, graph.preprocess, engine=EngineName.TENSORRT)
    golden = Golden(pixels, np.zeros((2, 3), np.float32))
    write_bundle(tmp_path / "bundle", Bundle(manifest, graph.class_names, model, golden))
    return tmp_path / "bundle"


def test_benchmarks_triton_server_of_a_bundle_for_another_device_installs_nothing(
    for_cuda: Path, tmp_path: Path, answer: Answer
) -> None:
    code, _, err = answer("triton_server.py", for_cuda, "--env", tmp_path / "env")
    assert (code, err) == (1, f"triton_server.py: {for_cuda} is for the device cuda; give a bundle for cpu\n")
    assert not (tmp_path / "env").exists()


def test_benchmarks_triton_server_reads_classes_of_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    triton_server = importlib.import_module("triton_server")
    names = ["stop", "it's", 'a "b"', "Straße:links", "back\\slash"]
    printed = str(np.array([[f"{10 - i}.25:{i}:{name}".encode() for i, name in enumerate(names)]], dtype=object))
    found = triton_server.answer_in(printed)
    assert [(each.logit, each.index, each.label) for each in found] == [
        (10.25 - i, i, name) for i, name in enumerate(names)
    ]
    with pytest.raises(EngineError, match="the client got no classes: 'None'"):
        triton_server.answer_in("None")


def test_benchmarks_layer_profile_of_a_bundle_for_another_device_is_one_line(for_cuda: Path, answer: Answer) -> None:
    code, _, err = answer("layer_profile.py", "--bundle", for_cuda)
    assert code == 1
    assert "the bundle is for tensorrt, which is not timed here; give one in int8 for cpu" in err


def test_benchmarks_layer_profile_of_a_float_bundle_is_one_line(bundles: list[Path], answer: Answer) -> None:
    code, _, err = answer("layer_profile.py", "--bundle", bundles[0])
    assert code == 1
    assert "the bundle has no quantized convolution; give one in int8 for cpu" in err
