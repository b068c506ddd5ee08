"""ONNX Runtime's GPU providers without a GPU: what they are asked for, what they are handed, and every refusal."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command import done, refused_without_a_trace
from fake_onnxruntime_gpu import CPU, CUDA, NO_MEMORY, TENSORRT, Machine
from measured import measured, measured_bundle
from PIL import Image
from tiny_bundles import with_golden_logits
from tiny_graph import table_of, tiny_graph, tiny_pixels

from googlenet_edge.calibration.lower_tensorrt import lower_fp16_tensorrt, lower_fp32_tensorrt, lower_int8_tensorrt
from googlenet_edge.engines import onnxruntime_gpu, registry
from googlenet_edge.engines.bundle import Bundle, Golden, Lineage, Manifest, write_bundle
from googlenet_edge.engines.devices import profile_of
from googlenet_edge.engines.onnxruntime_cpu import OnnxRuntimeCpu, Simulated
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.registry import backend_for, open_bundle
from googlenet_edge.engines.tables import circumstances_sentence
from googlenet_edge.errors import BundleError, EngineError, OutputError
from googlenet_edge.files import sha256_bytes
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.target import Device, EngineName, Precision

ON_CUDA, ON_TENSORRT = EngineName.ONNXRUNTIME_CUDA, EngineName.ONNXRUNTIME_TENSORRT
LOWER: dict[Precision, Callable[[InferenceGraph], onnx.ModelProto]] = {
    Precision.FP32: lower_fp32_tensorrt,
    Precision.FP16: lower_fp16_tensorrt,
    Precision.INT8: lambda graph: lower_int8_tensorrt(graph, table_of(graph)),
}
PAIRS = [(ON_CUDA, Precision.FP32), (ON_CUDA, Precision.FP16), *((ON_TENSORRT, each) for each in Precision)]


def gpu_bundle(precision: Precision, device: Device = Device.CUDA) -> Bundle:
    """As a build makes it on a machine without TensorRT."""
    graph = tiny_graph()
    model = LOWER[precision](graph).SerializeToString(deterministic=True)
    pixels = tiny_pixels(2, seed=7)
    with Simulated(model, EngineOptions()) as engine:
        golden = Golden(pixels, engine.run(pixels))
    lineage = Lineage(checkpoint="a" * 64, graph="b" * 64)
    manifest = Manifest(precision, device, graph.preprocess, lineage, engine=EngineName.SIMULATED)
    return Bundle(manifest, graph.class_names, model, golden)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    made = Machine()
    monkeypatch.setattr(onnxruntime_gpu, "onnxruntime", made.module())
    return made


def refusal(engine: EngineName, precision: Precision = Precision.FP16) -> str:
    with pytest.raises(EngineError) as caught:
        open_bundle(gpu_bundle(precision), engine=engine)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("engine", "precision", "wish"),
    [(ON_TENSORRT, Precision.FP32, "0"), (ON_TENSORRT, Precision.FP16, None), (ON_CUDA, Precision.FP32, None)],
)
def test_float32_by_tensorrt_is_no_tf32_where_nobody_says_otherwise(
    engine: EngineName, precision: Precision, wish: str | None, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_bundle(gpu_bundle(precision), engine=engine).close()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1"
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    open_bundle(gpu_bundle(precision), engine=engine).close()
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == wish


@pytest.mark.parametrize(("engine", "precision"), PAIRS)
def test_what_a_provider_is_handed_gives_the_golden_logits_in_plain_onnxruntime(
    engine: EngineName, precision: Precision, machine: Machine
) -> None:
    with open_bundle(gpu_bundle(precision), engine=engine) as opened:
        spec = opened.spec
        assert (spec.backend, spec.version, spec.device) == (engine.value, "1.24.0", Device.CUDA)
        assert (spec.crop, spec.classes) == (16, 3)
    wrong = gpu_bundle(precision)
    with pytest.raises(BundleError, match="computes something else on this machine"):
        open_bundle(with_golden_logits(wrong, 2 * wrong.golden.logits), engine=engine)


def test_the_processors_own_runtime_computes_the_same_of_that_graph() -> None:
    bundle = gpu_bundle(Precision.INT8)
    with OnnxRuntimeCpu(bundle.model, EngineOptions()) as engine:
        assert np.allclose(engine.run(bundle.golden.pixels), bundle.golden.logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("engine", [ON_CUDA, ON_TENSORRT])
def test_providers_stand_in_their_order_and_the_processor_is_not_among_them(
    engine: EngineName, machine: Machine
) -> None:
    open_bundle(gpu_bundle(Precision.FP16), engine=engine).close()
    (session,) = machine.opened
    assert list(session.options) == ([CUDA] if engine is ON_CUDA else [TENSORRT, CUDA])
    assert not session.falls_back
    assert session.options[CUDA] == {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": "0",
    }


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"),
    [(Precision.FP32, "False", "False"), (Precision.FP16, "True", "False"), (Precision.INT8, "True", "True")],
)
def test_tensorrt_keeps_its_plan_by_the_graph_and_takes_one_to_eight_images(
    precision: Precision, fp16: str, int8: str, machine: Machine, tmp_path: Path
) -> None:
    bundle = gpu_bundle(precision, Device.ORIN_NANO)
    open_bundle(bundle, engine=ON_TENSORRT).close()
    name = f"{sha256_bytes(bundle.model)[:16]}-onnxruntime-1.24.0"
    folder = tmp_path / "cache" / "gnet-edge" / "plans" / name
    assert folder.is_dir()
    assert machine.opened[0].options[TENSORRT] == {
        "device_id": "0",
        "trt_max_workspace_size": str(profile_of(Device.ORIN_NANO).workspace_bytes),
        "trt_fp16_enable": fp16,
        "trt_int8_enable": int8,
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": "pixels:1x16x16x3",
        "trt_profile_opt_shapes": "pixels:1x16x16x3",
        "trt_profile_max_shapes": "pixels:8x16x16x3",
    }


def test_tensorrt_is_handed_the_graph_as_it_was_lowered(machine: Machine, tmp_path: Path) -> None:
    """ONNX Runtime's lowest level of optimization already adds int32 biases, which TensorRT refuses."""
    model = gpu_bundle(Precision.INT8).model
    open_bundle(gpu_bundle(Precision.INT8), engine=ON_TENSORRT).close()
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = machine.opened[0].level
    settings.optimized_model_filepath = str(tmp_path / "handed.onnx")
    onnxruntime.InferenceSession(model, settings, providers=[CPU])
    lowered, handed = onnx.load_model_from_string(model).graph, onnx.load(tmp_path / "handed.onnx").graph
    rounding = [sum(node.op_type == "QuantizeLinear" for node in graph.node) for graph in (lowered, handed)]
    assert rounding[0] == rounding[1]
    assert onnx.TensorProto.INT32 not in {constant.data_type for constant in handed.initializer}


def test_many_images_go_eight_at_a_time_and_come_back_in_order(machine: Machine) -> None:
    pixels = tiny_pixels(19, seed=3)
    with open_bundle(gpu_bundle(Precision.FP32), engine=ON_TENSORRT) as engine:
        machine.opened[0].batches.clear()
        together = engine.run(pixels)
        assert machine.opened[0].batches == [8, 8, 3]
        assert np.allclose(together, np.concatenate([engine.run(one[None]) for one in pixels]), atol=1e-5)
        assert (together.dtype, together.shape) == (np.float32, (19, 3))
        with pytest.raises(EngineError, match=r"expected uint8 \(N, 16, 16, 3\); use Preprocess.pixels"):
            engine.run(pixels[:, :8])
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed; open the bundle again"):
        engine.run(pixels)


def test_it_is_said_what_ran_where(machine: Machine) -> None:
    with open_bundle(gpu_bundle(Precision.FP32), engine=ON_CUDA) as engine:
        (found,) = engine.spec.nodes.items()
        assert found[0] == CUDA
        assert found[1] >= 8
        told = measured(replace(measured_bundle("b"), engine=engine.spec))
    assert f"onnxruntime-cuda 1.24.0 ({found[1]} operators by {CUDA}), " in circumstances_sentence(told)
    machine.tells_places = False
    with open_bundle(gpu_bundle(Precision.FP32), engine=ON_CUDA) as engine:
        assert engine.spec.nodes == {}


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is installed")
@pytest.mark.parametrize(("engine", "provider"), [(ON_CUDA, CUDA), (ON_TENSORRT, TENSORRT)])
def test_the_onnxruntime_for_processors_is_refused_with_what_to_install(engine: EngineName, provider: str) -> None:
    assert refusal(engine) == (
        f"the ONNX Runtime here ({onnxruntime.__version__}) has no {provider}, only"
        f" {', '.join(onnxruntime.get_available_providers())}; install the one for GPUs in its place: pip uninstall -y"
        " onnxruntime && pip install onnxruntime-gpu (on a Jetson, the wheel that NVIDIA makes for its JetPack);"
        " gnet-edge doctor says what is here"
    )


@pytest.mark.parametrize(("engine", "loads"), [(ON_CUDA, ()), (ON_TENSORRT, ()), (ON_TENSORRT, (CUDA,))])
def test_a_provider_that_onnxruntime_silently_drops_is_found_out(
    engine: EngineName, loads: tuple[str, ...], machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.loads = loads
    library = tmp_path / "provider.so"
    library.write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime_gpu, "library_of", lambda provider: library)
    provider, needs, others = {
        ON_CUDA: (CUDA, "CUDA and cuDNN", "tensorrt"),
        ON_TENSORRT: (TENSORRT, "CUDA and TensorRT", "tensorrt or onnxruntime-cuda"),
    }[engine]
    said = refusal(engine)
    assert said.startswith(f"ONNX Runtime 1.24.0 has {provider} and cannot load it: {library}: "), said
    assert said.endswith(
        f"; install {needs} in the versions that this release is made for (gnet-edge doctor says what is here), or use"
        f" --engine {others}"
    )


@pytest.mark.parametrize("tells_places", [True, False])
def test_an_operator_that_would_run_on_the_processor_is_refused(tells_places: bool, machine: Machine) -> None:
    machine.left, machine.tells_places = "GlobalAveragePool", tells_places
    said = refusal(ON_CUDA)
    found = rf"of its operators it would run 1 by {CPU}, \d+ by {CUDA}" if tells_places else "not all of its .+ there"
    pattern = (
        rf"{CUDA} leaves a part of the model to the processor: {found}; update onnxruntime-gpu, or use --eng.+ tens"
    )
    assert re.match(pattern, said), said


def test_a_gpu_without_memory_says_so_at_opening_and_in_a_run(machine: Machine) -> None:
    with open_bundle(gpu_bundle(Precision.FP16), engine=ON_CUDA) as engine:
        machine.running_fails = RuntimeError(NO_MEMORY)
        with pytest.raises(EngineError) as caught:
            engine.run(tiny_pixels(3))
    reason, mend = NO_MEMORY.partition("\n")[0], "close other programs, or use fewer images"
    assert str(caught.value) == f"the GPU has no memory for a batch of 3 ({reason}); {mend}"
    machine.opening_fails = RuntimeError("CUDA failure 2: out of memory ; GPU=0")
    assert refusal(ON_TENSORRT).startswith(
        "the GPU has no memory for the model (CUDA failure 2: out of memory ; GPU=0)"
    )


def test_other_failures_are_told_in_the_runtimes_words(machine: Machine) -> None:
    with open_bundle(gpu_bundle(Precision.FP16), engine=ON_CUDA) as engine:
        machine.running_fails = RuntimeError("CUDNN failure 8\nmore")
        with pytest.raises(EngineError, match=r"ONNX Runtime failed on a batch of 1 \(CUDNN failure 8\); open the bun"):
            engine.run(tiny_pixels(1))
    machine.opening_fails = RuntimeError("EP_FAIL : TensorRT EP could not build engine for fused node")
    assert refusal(ON_TENSORRT) == (
        "ONNX Runtime failed on the model (EP_FAIL : TensorRT EP could not build engine for fused node); open the"
        " bundle again, or use --engine tensorrt"
    )
    with pytest.raises(EngineError, match=r"ONNX Runtime cannot load the model \(.+\); build the bundle again"):
        backend_for(Device.CUDA, ON_CUDA).open(b"no model", EngineOptions())


def test_the_cuda_provider_has_no_int8(machine: Machine) -> None:
    assert refusal(ON_CUDA, Precision.INT8) == (
        "the CUDA provider of ONNX Runtime has no INT8 convolutions; use --engine onnxruntime-tensorrt, or build with"
        " --precision fp16"
    )


def test_a_place_that_cannot_be_written_is_named(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"^cannot write .+-onnxruntime-1\.24\.0: .* written to; set XDG_CACHE_HOME"):
        open_bundle(gpu_bundle(Precision.FP16), engine=ON_TENSORRT)


def test_devices_say_which_engines_they_have() -> None:
    with pytest.raises(EngineError, match="the device cpu has no engine onnxruntime-cuda; it has: onn"):
        backend_for(Device.CPU, ON_CUDA)
    with pytest.raises(EngineError, match=r"rtx has no engine onnxruntime-cuda; it has: tensorrt, simulated"):
        backend_for(Device.RTX, ON_CUDA)


def test_commands_take_the_engine(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    write_bundle(work / "b", gpu_bundle(Precision.FP16))
    Image.new("RGB", (20, 20), "red").save(work / "p.png")
    shown = done("predict", "p.png", "--bundle", "b", "--engine", "onnxruntime-tensorrt", "--json", cwd=work)
    assert {one["label"] for one in json.loads(shown.out)["p.png"]} == {"a", "b", "c"}
    assert len(machine.opened) == 1
    machine.has = (CPU,)
    for command in (("bench", "b"), ("predict", "p.png", "--bundle", "b")):
        sentence = rf"the ONNX Runtime here .+ has no {CUDA}, only {CPU}; install .+"
        refused_without_a_trace(sentence, *command, "--engine", "onnxruntime-cuda", cwd=work)
    monkeypatch.setattr("googlenet_edge.engines.bench.providers_here", lambda: (ON_TENSORRT,))
    hint = "b is .+ with --host user@address, use --engine onnxruntime-tensorrt, or build one .+"
    refused_without_a_trace(hint, "bench", "b", cwd=work)
    monkeypatch.setattr("googlenet_edge.engines.bench.providers_here", lambda: (ON_CUDA,))
    write_bundle(work / "int8", gpu_bundle(Precision.INT8))
    no_hint = "int8 is .+ with --host user@address, or build one .+"
    refused_without_a_trace(no_hint, "bench", "int8", cwd=work)


def test_providers_are_looked_for_beside_the_runtime_and_nothing_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("onnxruntime", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(registry, "find_spec", lambda name: spec)
    assert registry.providers_here() == ()
    assert registry.why_not_loaded(None) == "its library is missing"
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    assert registry.providers_here() == (ON_CUDA,)
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    assert registry.providers_here() == ()
