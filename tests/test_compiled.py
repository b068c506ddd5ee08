"""A bundle for a Jetson on that Jetson: `gnet-edge build BUNDLE` compiles it there, once, and `load` if it may."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import pytest
from command import gnet_edge, refused_without_a_trace
from fake_tensorrt import DLA_LINES
from tensorrt_machine import Machine, batch, machine_at
from tiny_bundles import onnx_bytes, solid, write_colour_bundle

import googlenet_edge
from googlenet_edge.engines import tensorrt_calibration
from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.bundle import Bundle, Golden, Lineage, Manifest, read_bundle, write_bundle
from googlenet_edge.engines.predictor import load_predictor
from googlenet_edge.engines.tensorrt_calibration import calibrate_with_tensorrt
from googlenet_edge.errors import BundleError, EngineError, OutputError
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Device, EngineName, Precision, Unit


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    with machine_at(monkeypatch, tmp_path / "cache") as machine:
        yield machine


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Built on a workstation, where it was only simulated; the network gives the mean of each channel."""
    pixels = batch(2)
    golden = Golden(pixels, pixels.mean(axis=(1, 2)).astype(np.float32))
    manifest = Manifest(Precision.INT8, Device.AGX_ORIN, Preprocess(9, 8), engine=EngineName.SIMULATED)
    write_bundle(tmp_path / "int8-agx-orin", Bundle(manifest, ("red", "green", "blue"), b"graph", golden))
    return tmp_path / "int8-agx-orin"


@pytest.mark.usefixtures("orin")
def test_build_compiles_a_bundle_once_and_says_where_the_plan_is(bundle: Path, tmp_path: Path) -> None:
    first = gnet_edge("build", bundle, "--json", cwd=tmp_path)
    assert first.code == 0, first.err
    found = json.loads(first.out)
    assert (found["library"], found["reused"]) == ("tensorrt 10.3.0", False)
    assert found["folder"].startswith(str(tmp_path / "cache"))
    assert "compiled in" in first.err
    assert "the golden vectors give the logits of the build, as nearly as its precision must\n" in first.err
    again = gnet_edge("build", bundle, cwd=tmp_path)
    assert again.code == 0 and "there already" in again.err


@pytest.mark.usefixtures("orin")
def test_a_plan_that_computes_something_else_is_an_error(bundle: Path, tmp_path: Path) -> None:
    pixels = batch(2)
    manifest = Manifest(Precision.INT8, Device.AGX_ORIN, Preprocess(9, 8), engine=EngineName.SIMULATED)
    golden = Golden(pixels, -pixels.mean(axis=(1, 2)).astype(np.float32))
    write_bundle(bundle, Bundle(manifest, ("red", "green", "blue"), b"graph", golden))
    done = gnet_edge("build", bundle, cwd=tmp_path)
    assert (done.code, done.out) == (1, "") and "golden" in done.err


def test_build_of_a_bundle_refuses_what_was_settled_when_it_was_made(bundle: Path, tmp_path: Path) -> None:
    command = ("build", bundle, "--precision", "fp16", "--max-drop", "0.5", "--out", "other")
    sentence = (
        rf"{bundle} is a bundle, which is compiled as it is: leave --precision, --max-drop, --out out, or give the"
        r" checkpoint"
    )
    refused_without_a_trace(sentence, *command, cwd=tmp_path)


def test_a_bundle_for_a_processor_has_nothing_to_compile(tmp_path: Path) -> None:
    path = write_colour_bundle(tmp_path / "fp32-cpu")
    done = gnet_edge("build", path, cwd=tmp_path)
    assert done.code == 1
    assert f"{path} is for a processor and runs as it is, nothing is left to compile" in done.err


def test_without_tensorrt_build_says_how_to_get_it(bundle: Path, tmp_path: Path) -> None:
    done = gnet_edge("build", bundle, cwd=tmp_path)
    assert done.code == 1 and "tensorrt cannot be loaded" in done.err


@pytest.mark.usefixtures("orin")
def test_load_compiles_unless_it_is_told_not_to(bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"not compiled for this device yet .*; compile it with: gnet-edge build"):
        googlenet_edge.load(bundle, build=False)
    googlenet_edge.load(bundle).close()
    googlenet_edge.load(bundle, build=False).close()


@pytest.mark.usefixtures("orin")
def test_opening_tells_how_far_the_compiler_is(bundle: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_predictor(bundle, progress=lambda done, total: seen.append((done, total))).close()
    assert seen and seen[-1][0] == seen[-1][1]


MEANS = """
<ir_version: 8, opset_import: ["" : 17]>
means (uint8[N, 8, 8, 3] pixels) => (float[N, 3] logits)
{
    real = Cast <to = 1> (pixels)
    planes = Transpose <perm = [0, 3, 1, 2]> (real)
    pooled = GlobalAveragePool (planes)
    logits = Flatten (pooled)
}
"""
CACHE = b"TRT-8502-EntropyCalibration2\nimages: 3c010a14\n"


@pytest.fixture
def for_dla(bundle: Path) -> Path:
    whole = read_bundle(bundle)
    accuracy = Accuracy(images=400, top1=0.9, top1_interval=Interval(0.867, 0.926), top5=0.99)
    against = Comparison(accuracy, 1.0, 0.0, Interval(-0.5, 0.5), 1.0)
    lineage = Lineage(graph="a" * 64, calibration="b" * 64)
    manifest = replace(
        whole.manifest, unit=Unit.DLA, lineage=lineage, accuracy=accuracy, against_fp32=against, float_layers=("conv1",)
    )
    write_bundle(bundle, replace(whole, manifest=manifest, model=onnx_bytes(MEANS), calibration_cache=CACHE))
    return bundle


def test_a_bundle_for_a_dla_is_compiled_for_it_with_its_scales(orin: Machine, for_dla: Path, tmp_path: Path) -> None:
    orin.wrong.most, orin.wrong.dla_core = 1, 0
    orin.script.log = DLA_LINES
    done = gnet_edge("build", for_dla, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "1 piece on the DLA, 2 layers on the GPU" in done.err
    assert orin.script.calibration == CACHE.replace(b"8502", b"100300")
    assert orin.script.shapes == ((1, 8, 8, 3),) * 3
    assert "GPU_FALLBACK" in orin.script.flags


@pytest.mark.usefixtures("orin")
def test_a_bundle_for_a_dla_is_opened_by_nothing_that_leaves_the_dla_out(for_dla: Path, tmp_path: Path) -> None:
    done = gnet_edge("bench", for_dla, "--engine", "onnxruntime-tensorrt", cwd=tmp_path)
    assert done.code == 1
    assert "is for a DLA, which onnxruntime-tensorrt does not use; open it with tensorrt, or build one" in done.err


def test_a_bundle_for_a_dla_without_its_scales_is_refused(for_dla: Path) -> None:
    (for_dla / "calibration.cache").unlink()
    with pytest.raises(BundleError, match=r"calibration.cache is missing; copy the whole bundle again"):
        read_bundle(for_dla)


def test_a_bundle_for_a_dla_is_packed_for_nobody(for_dla: Path, tmp_path: Path) -> None:
    done = gnet_edge("package", for_dla, "--for", "triton", cwd=tmp_path)
    assert done.code == 1
    assert "is for a DLA, which no package is for; pack one that was built without --dla" in done.err


def test_tensorrt_calibrates_a_bundle_for_a_dla_by_itself_on_images(
    orin: Machine, for_dla: Path, tmp_path: Path
) -> None:
    orin.wrong.most, orin.wrong.dla_core = 1, 0
    orin.script.found_scales = b"TRT-100300-EntropyCalibration2\nreal: 40008102\nplanes: 00000000\n"
    for number, colour in enumerate(("red", "green", "blue") * 4):
        folder = tmp_path / "photos" / colour
        folder.mkdir(parents=True, exist_ok=True)
        solid(colour).save(folder / f"{number}.png")
    done = gnet_edge("build", for_dla, "--data", tmp_path / "photos", "--calibration-images", 5, cwd=tmp_path)
    assert done.code == 0, done.err
    assert len(orin.script.calibrated_on) == 5
    made = read_bundle(for_dla.with_name("int8-agx-orin-by-tensorrt"))
    assert made.calibration_cache == orin.script.found_scales == orin.script.calibration
    assert made.manifest.notes == (
        "the scales are those of tensorrt 10.3.0's calibrator on 5 images; accuracy: not measured",
    )
    of_other_scales = (made.manifest.accuracy, made.manifest.against_fp32, made.manifest.float_layers)
    assert (*of_other_scales, made.manifest.lineage) == (None, None, (), Lineage(graph="a" * 64))
    exact = made.golden.pixels.mean(axis=(1, 2))
    assert 0 < np.abs(made.golden.logits - exact).max() < 255 / 127  # rounded to the scale of `real`, which is coarse


def test_only_a_bundle_without_scales_in_its_graph_is_calibrated_there(
    orin: Machine, bundle: Path, tmp_path: Path
) -> None:
    done = gnet_edge("build", bundle, "--data", tmp_path, cwd=tmp_path)
    assert done.code == 1 and orin.script.calibrated_on == []
    assert "TensorRT calibrates only bundles for a DLA in int8" in done.err


def test_a_calibrator_that_writes_nothing_is_an_error_and_leaves_no_bundle(
    orin: Machine, for_dla: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="tensorrt 10.3.0 built a plan and wrote no scales"):
        calibrate_with_tensorrt(for_dla, batch(3), tmp_path / "out")
    assert len(orin.script.calibrated_on) == 3 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("problem", [KeyboardInterrupt, EngineError])
def test_a_calibration_that_is_ended_on_the_way_leaves_no_bundle_of_a_few_images(
    orin: Machine, for_dla: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: type[BaseException]
) -> None:
    orin.script.found_scales = b"TRT-100300-EntropyCalibration2\nreal: 40008102\nplanes: 00000000\n"
    upload, images = tensorrt_calibration.Upload.__call__, []

    def ended(self: Any, image: Any) -> int:
        if len(images) == 2:
            raise problem
        images.append(image)
        return upload(self, image)

    monkeypatch.setattr(tensorrt_calibration.Upload, "__call__", ended)
    with pytest.raises(problem):
        calibrate_with_tensorrt(for_dla, batch(3), tmp_path / "out")
    assert len(orin.script.calibrated_on) == 2 and not (tmp_path / "out").exists()


def test_a_calibrator_that_takes_a_few_images_is_an_error(orin: Machine, for_dla: Path, tmp_path: Path) -> None:
    orin.script.takes, orin.script.found_scales = 2, b"TRT-100300-EntropyCalibration2\nreal: 40008102\n"
    with pytest.raises(EngineError, match="tensorrt 10.3.0 calibrated on 2 of 3 images; see its messages in the log"):
        calibrate_with_tensorrt(for_dla, batch(3), tmp_path / "out")


def test_a_place_where_no_bundle_can_be_is_refused_before_tensorrt_calibrates(
    orin: Machine, for_dla: Path, tmp_path: Path
) -> None:
    for out, sentence in [
        (for_dla / "inside", "is a bundle; give another --out"),
        (for_dla, "is the bundle whose scales are to be found anew; give another --out"),
    ]:
        with pytest.raises(OutputError, match=sentence):
            calibrate_with_tensorrt(for_dla, batch(3), out)
    assert orin.script.calibrated_on == []


def test_a_graph_that_tensorrt_refuses_while_it_calibrates_gives_everything_back(
    orin: Machine, for_dla: Path, tmp_path: Path
) -> None:
    orin.script.build_fails_with = "could not find any implementation"
    with pytest.raises(EngineError, match="could not build the plan: .*could not find any implementation") as caught:
        calibrate_with_tensorrt(for_dla, batch(3), tmp_path / "out")
    held = {name for frame, _ in walk_tb(caught.value.__traceback__) for name in frame.f_locals}
    assert not held & {"builder", "network", "parser"}, "they would outlive the device"
    assert orin.gpu.retained == 0 and not (tmp_path / "out").exists()


def test_a_bundle_for_a_dla_with_an_empty_cache_is_refused(for_dla: Path) -> None:
    write_bundle(for_dla, replace(read_bundle(for_dla), calibration_cache=b""))
    with pytest.raises(BundleError, match=r"calibration.cache is empty, and a DLA quantizes by it; build the bundle"):
        read_bundle(for_dla)


def test_a_bundle_for_a_dla_is_not_simulated_without_onnx(for_dla: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "googlenet_edge.calibration.trt_cache", None)
    with pytest.raises(EngineError, match=r"a bundle for a DLA cannot be simulated here \(.*\); pip install"):
        load_predictor(for_dla)


@pytest.mark.parametrize(("share", "found"), [(0.15, False), (0.35, True)])
def test_golden_vectors_of_a_dla_leave_room_for_what_the_device_decides(
    share: float, found: bool, for_dla: Path
) -> None:
    whole = read_bundle(for_dla)
    golden = replace(whole.golden, logits=whole.golden.logits * np.float32(1 + share))
    write_bundle(for_dla, replace(whole, golden=golden))
    with pytest.raises(BundleError, match="computes something else") if found else nullcontext():
        load_predictor(for_dla, engine=EngineName.SIMULATED).close()
