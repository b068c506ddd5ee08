"""Bundles for TensorRT devices on a machine without one: right answers, and no word about speed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from command import Built, copy_of, done, gnet_edge, refused, refused_without_a_trace
from numpy.typing import NDArray
from tiny_graph import table_of, tiny_graph, tiny_pixels

from googlenet_edge.calibration.lower_tensorrt import lower_int8_tensorrt
from googlenet_edge.engines import registry
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.engines.devices import PROFILES
from googlenet_edge.engines.lowering import lower
from googlenet_edge.engines.onnxruntime_cpu import Simulated
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.target import Device, EngineName, Precision, Unit


def rounded(x: NDArray[np.float32], amax: float) -> NDArray[np.float32]:
    """Symmetric s8, by its definition."""
    scale = np.float32(amax / 127)
    return (np.clip(np.rint(x / scale), -128, 127) * scale).astype(np.float32)


def test_simulated_rounds_what_the_classifier_reads() -> None:
    """The logits are those of the float classifier on rounded features: no other rounding comes after."""
    graph, pixels = tiny_graph(), tiny_pixels(8, seed=5)
    table = table_of(graph)
    others = frozenset(node.name for node in graph.model.graph.node if node.op_type == "Conv")
    model = lower_int8_tensorrt(graph, table, float_nodes=others)
    exact = lower_int8_tensorrt(graph, table, float_nodes={*others, "logits"})
    exact.graph.output[0].name = "flatten"
    exact.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 16
    with Simulated(exact.SerializeToString(), EngineOptions()) as engine:
        features = engine.run(pixels)
    weight, bias = (graph.weights[f"fc_{name}"] for name in ("weight", "bias"))
    codes = np.stack([rounded(row, float(np.abs(row).max())) for row in weight])
    expected = rounded(features, table.tensors["avgpool"].amax) @ codes.T + bias
    with Simulated(model.SerializeToString(), EngineOptions()) as engine:
        assert np.allclose(engine.run(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("device", [profile.device for profile in PROFILES if profile.has_tensorrt])
def test_every_tensorrt_device_gets_a_model_in_its_opset(device: Device) -> None:
    import onnx

    lowered = lower(tiny_graph(), device=device, precision=Precision.FP16, table=None)
    opset = onnx.load_model_from_string(lowered.model).opset_import[0].version
    assert opset == (13 if device in (Device.NANO, Device.TX2, Device.XAVIER_NX, Device.AGX_XAVIER) else 17)


@pytest.fixture(scope="module")
def work(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for an Orin, made where there is none."""
    folder = copy_of(built.folder, tmp_path_factory.mktemp("orin") / "work")
    done("build", "--precision", "int8", "--device", "agx-orin", cwd=folder)
    return folder


BUNDLE = "runs/photos/int8-agx-orin"


def test_a_bundle_for_a_jetson_says_that_its_accuracy_is_simulated(work: Path) -> None:
    manifest = read_bundle(work / BUNDLE).manifest
    assert (manifest.device, manifest.engine) == (Device.AGX_ORIN, EngineName.SIMULATED)
    assert manifest.accuracy is not None
    assert manifest.notes[0].startswith("the accuracy is simulated here")
    assert "has float weights, as TensorRT takes them, and the size of one in fp32" in manifest.notes[1]
    facts = json.loads(done("inspect", BUNDLE, "--json", cwd=work).out)
    assert facts["top-1"].endswith("images, simulated")
    outcome = done("eval", "runs/photos/fp32-cpu", BUNDLE, "--json", cwd=work)
    assert [found["engine"] for found in json.loads(outcome.out)] == ["onnxruntime", "simulated"]
    assert f"\n{BUNDLE} (simulated): top-1 changes by " in outcome.err
    assert f"\n{BUNDLE} (simulated)  " in outcome.err, "in the table"


def test_a_bundle_for_a_jetson_predicts_here_and_says_that_it_is_simulated(
    work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photo = next(path for path in sorted((work / "photos" / "val").rglob("*")) if path.is_file())
    outcome = done("predict", str(photo), "--bundle", BUNDLE, "--json", cwd=work)
    assert len(json.loads(outcome.out)[str(photo)]) > 1
    sentence = f"{BUNDLE} is simulated on the processor, slowly: TensorRT or pycuda is not installed here"
    assert caplog.messages == [sentence]
    done("predict", str(photo), "--bundle", BUNDLE, "--engine", "simulated", cwd=work)
    assert caplog.messages == [sentence], "not where it was asked for"


@pytest.mark.parametrize("command", [("predict", "photo.jpg", "--bundle"), ("bench",)])
def test_a_bundle_is_not_simulated_unasked_on_a_jetson(
    command: tuple[str, ...], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "is_jetson", lambda: True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    photo = next(path for path in sorted((work / "photos" / "val").rglob("*")) if path.is_file())
    shutil.copy(photo, work / "photo.jpg")
    sentence = r"tensorrt cannot be loaded \(import of tensorrt halted.*\); .*"
    refused(gnet_edge(*command, BUNDLE, cwd=work), sentence)


def test_a_bundle_for_a_jetson_is_not_timed_here(work: Path) -> None:
    sentence = (
        f"{BUNDLE} is for the device agx-orin and only simulated here, so its speed says nothing; measure it there"
        " with --host user@address, or build one for this machine with --device cpu"
    )
    refused_without_a_trace(sentence, "bench", BUNDLE, cwd=work)


def test_a_bundle_for_a_dla_carries_its_scales_and_is_simulated_with_them(work: Path) -> None:
    done("build", "--precision", "int8", "--device", "agx-orin", "--dla", cwd=work)
    bundle = read_bundle(work / f"{BUNDLE}-dla")
    assert bundle.calibration_cache.startswith(b"TRT-8502-EntropyCalibration2\nimages: ")
    assert (bundle.manifest.unit, bundle.manifest.engine) == (Unit.DLA, EngineName.SIMULATED)
    facts = json.loads(done("inspect", f"{BUNDLE}-dla", "--json", cwd=work).out)
    assert facts["device"] == "agx-orin, on its DLA"
    with Simulated(bundle.model, EngineOptions()) as exact:
        unrounded = exact.run(bundle.golden.pixels)
    assert 0 < np.abs(unrounded - bundle.golden.logits).max() < 0.2 * np.abs(unrounded).max()


def test_a_bundle_for_a_dla_in_fp16_has_no_scales(work: Path) -> None:
    done("build", "--precision", "fp16", "--device", "agx-orin", "--dla", cwd=work)
    bundle = read_bundle(work / "runs/photos/fp16-agx-orin-dla")
    assert (bundle.manifest.unit, bundle.calibration_cache) == (Unit.DLA, b"")


def test_layers_that_stay_float_have_no_scale_in_the_cache() -> None:
    graph = tiny_graph()
    whole, less = (
        lower(
            graph,
            device=Device.AGX_ORIN,
            precision=Precision.INT8,
            table=table_of(graph),
            float_nodes=float_nodes,
            unit=Unit.DLA,
        )
        for float_nodes in (frozenset[str](), frozenset(node.name for node in graph.model.graph.node))
    )
    assert b"\nstem: " in whole.calibration_cache and b"\nstem: " not in less.calibration_cache
