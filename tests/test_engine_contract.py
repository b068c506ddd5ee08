"""What every backend must do; a new one is tested by its entry in the registry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tiny_bundles import COLOUR_NET, colour_bundle, hide_openvino, onnx_bytes, with_golden_logits, write_colour_bundle
from tiny_graph import table_of, tiny_graph, tiny_pixels, whole_googlenet

from googlenet_edge.calibration.lower import lower_int8_cpu
from googlenet_edge.engines import onnxruntime_cpu, openvino_cpu, registry
from googlenet_edge.engines.protocol import Engine, EngineOptions, EngineSpec
from googlenet_edge.engines.registry import BACKENDS, SIMULATION, Backend, open_bundle
from googlenet_edge.errors import BundleError, EngineError
from googlenet_edge.processor import Processor, read_processor
from googlenet_edge.target import Device, EngineName, Precision

CPU_ENGINES = [backend.name for backend in BACKENDS]


@pytest.fixture(params=(*BACKENDS, SIMULATION), ids=lambda backend: backend.name.value)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture
def engine(backend: Backend) -> Iterator[Engine]:
    with backend.open(onnx_bytes(COLOUR_NET), EngineOptions(threads=2, streams=3)) as opened:
        yield opened


def random_batch(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_engine_says_what_it_is(engine: Engine, backend: Backend) -> None:
    expected = EngineSpec(backend.name.value, engine.spec.version, backend.device, 2, crop=32, classes=3, streams=3)
    assert engine.spec == expected
    runtime = EngineName.ONNXRUNTIME if backend is SIMULATION else backend.name
    assert engine.spec.version == version(runtime.value)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_engine_gives_the_logits_of_the_network(engine: Engine, count: int) -> None:
    batch = random_batch(count)
    logits = engine.run(batch)
    assert (logits.dtype, logits.shape) == (np.float32, (count, 3))
    assert np.allclose(logits, 4 * (batch.mean(axis=(1, 2)) - 127.5) / 127.5, atol=1e-5)


def test_engine_takes_a_batch_that_is_not_contiguous(engine: Engine) -> None:
    batch = random_batch(4)
    for strided in (batch[::2], batch[..., ::-1], batch.transpose(0, 2, 1, 3)):
        assert np.array_equal(engine.run(strided), engine.run(strided.copy()))


def test_engine_leaves_the_batch_and_earlier_logits_alone(engine: Engine) -> None:
    batch, other = random_batch(1), 255 - random_batch(1)
    untouched = batch.copy()
    first = engine.run(batch)
    kept = first.copy()
    engine.run(other)
    assert np.array_equal(batch, untouched)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 32, 32, 3), np.int8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((1, 31, 32, 3), np.uint8),
    ],
    ids=lambda batch: f"{batch.dtype} {batch.shape}",
)
def test_engine_refuses_another_shape_or_type(engine: Engine, batch: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"expected uint8 \(N, 32, 32, 3\); use Preprocess.pixels") as caught:
        engine.run(batch)
    assert f"{batch.dtype} {batch.shape}" in str(caught.value)


def test_engine_refuses_an_empty_batch(engine: Engine) -> None:
    with pytest.raises(EngineError, match="the batch is empty"):
        engine.run(np.zeros((0, 32, 32, 3), np.uint8))


def test_engine_works_from_several_threads_at_once(engine: Engine) -> None:
    batches = [random_batch(count) for count in range(1, 17)]
    alone = [engine.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine.run, batches * 4))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 4, together, strict=True))


def test_engine_that_is_closed_says_so_and_may_be_closed_again(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed; open the bundle again"):
        engine.run(random_batch(1))


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_engine_refuses_a_truncated_model(backend: Backend, cut: int) -> None:
    with pytest.raises(EngineError, match="cannot load the model .*; build the bundle again") as caught:
        backend.open(onnx_bytes(COLOUR_NET)[:cut], EngineOptions())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("uint8[N, 32, 32, 3]", "uint8[N, 32, 16, 3]"),
        ("uint8[N, 32, 32, 3]", "uint8[N, H, W, 3]"),
        ("uint8[N, 32, 32, 3]", "float[N, 32, 32, 3]"),
        ("float[N, 3] logits", "float[N, 3] logits, float[N, 3] flat"),
    ],
)
def test_engine_refuses_a_model_of_another_kind(backend: Backend, old: str, new: str) -> None:
    assert old in COLOUR_NET
    with pytest.raises(EngineError, match=r"not one that gnet-edge lowered: expected one input uint8 \(N, crop, crop"):
        backend.open(onnx_bytes(COLOUR_NET.replace(old, new)), EngineOptions())


@pytest.mark.parametrize("threads", [0, -1, 257, 1.5, "2"])
def test_engine_needs_a_number_of_threads_that_makes_sense(threads: Any) -> None:
    with pytest.raises(EngineError, match=f"threads is {threads!r}; give 1 to 256"):
        open_bundle(colour_bundle(), threads=threads)


def test_engine_says_what_a_list_is_not(backend: Backend) -> None:
    expected = r"the batch is a list, expected uint8 \(N, 32, 32, 3\); use Preprocess"
    with backend.open(onnx_bytes(COLOUR_NET), EngineOptions()) as engine, pytest.raises(EngineError, match=expected):
        engine.run([1])  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_bundle_opens_on_the_engine_that_it_was_built_for_or_that_is_asked_for(engine: EngineName) -> None:
    other = next(name for name in CPU_ENGINES if name is not engine)
    bundle = colour_bundle(engine=engine)
    with open_bundle(bundle) as built_for, open_bundle(bundle, engine=other) as asked_for:
        assert (built_for.spec.backend, asked_for.spec.backend) == (engine.value, other.value)


def test_bundle_tells_its_engine_what_it_is_and_gives_it_back_where_it_computes_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[EngineOptions, Engine]] = []

    def opener(model: bytes, options: EngineOptions) -> Engine:
        opened.append((options, BACKENDS[0].open(model, options)))
        return opened[-1][1]

    bundle = colour_bundle(Precision.INT8)
    seven = replace(bundle, manifest=replace(bundle.manifest, weight_bits=7))
    monkeypatch.setattr(registry, "BACKENDS", (replace(BACKENDS[0], load=lambda: opener),))
    with pytest.raises(BundleError, match="computes something else on this machine"):
        open_bundle(with_golden_logits(seven, -bundle.golden.logits), threads=2, streams=3, build=False)
    [(options, engine)] = opened
    assert options == EngineOptions(2, weight_bits=7, streams=3, precision=Precision.INT8, build=False)
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.run(bundle.golden.pixels)


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_golden_vectors_are_checked_on_every_engine(engine: EngineName) -> None:
    bundle = colour_bundle()
    wrong = with_golden_logits(bundle, bundle.golden.logits + 1)
    with pytest.raises(BundleError, match="computes something else on this machine"):
        open_bundle(wrong, engine=engine)


def test_engine_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_openvino(monkeypatch)
    bundle = colour_bundle(engine=EngineName.OPENVINO)
    with pytest.raises(EngineError) as caught:
        open_bundle(bundle)
    assert str(caught.value).endswith(
        "; install it with: pip install 'googlenet-edge[openvino]', or choose another engine"
    )
    open_bundle(bundle, engine=EngineName.ONNXRUNTIME).close()


def test_openvino_with_streams_says_that_a_forked_process_has_none_of_them() -> None:
    """It would wait for ever: the threads that compute are not in it."""
    program = """
import os, sys
import numpy as np
from googlenet_edge.engines.openvino_cpu import OpenVinoCpu
from googlenet_edge.engines.protocol import EngineOptions
engine = OpenVinoCpu(sys.stdin.buffer.read(), EngineOptions(streams=2))
pixels = np.zeros((1, 32, 32, 3), np.uint8)
engine.run(pixels)
if os.fork() == 0:
    try:
        engine.run(pixels)
    except Exception as problem:
        os.write(1, f"{type(problem).__name__}: {problem}".encode())
    os._exit(0)
os.wait()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], input=onnx_bytes(COLOUR_NET), capture_output=True, timeout=120, check=True
    )
    sentence = "the engine was opened before this process was forked; open the bundle in this process"
    assert ended.stdout.decode() == f"EngineError: {sentence}"


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_signals_are_handled_after_engines_were_closed_in_any_order(engine: EngineName, tmp_path: Path) -> None:
    """OpenVINO leaves a process a stack for signals that it has freed, and the next one would end it."""
    program = """
import itertools, signal, sys
import googlenet_edge
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
for order in itertools.permutations(range(3)):
    engines = [googlenet_edge.load(sys.argv[1], engine=sys.argv[2]) for _ in order]
    for each in order:
        engines[each].close()
        engines[each] = None
    signal.raise_signal(signal.SIGUSR1)
"""
    bundle = write_colour_bundle(tmp_path / "bundle")
    ended = subprocess.run(
        [sys.executable, "-c", program, bundle, engine.value], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "handled\n" * 6, "")


QUIET = """
import os, sys
import googlenet_edge
with googlenet_edge.load(sys.argv[1], engine=sys.argv[2]) as model:
    print(model.predict(sys.argv[3])[0].label, os.environ.get("ORT_DISABLE_TELEMETRY"))
if sys.argv[2] == "openvino":
    import openvino, openvino_telemetry
    assert openvino.convert_model
"""


def quiet(bundle: Path, engine: EngineName, *, home: Path, **environment: str) -> str:
    """What the program above prints in a process that has no other environment."""
    home.mkdir()
    solid = home.parent / "blue.png"
    Image.new("RGB", (40, 40), "blue").save(solid)
    command = [sys.executable, "-c", QUIET, str(bundle), engine.value, str(solid)]
    given = {"HOME": str(home), "PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, env=given, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_engines_report_nothing_to_who_made_them(engine: EngineName, tmp_path: Path) -> None:
    """Both runtimes would: at first they write the number of this machine into its owner's home."""
    home = tmp_path / "home"
    assert quiet(write_colour_bundle(tmp_path / "bundle"), engine, home=home) == "blue 1\n"
    assert not [*home.rglob("*")]


def test_who_wants_to_report_may(tmp_path: Path) -> None:
    bundle = write_colour_bundle(tmp_path / "bundle")
    found = quiet(bundle, EngineName.ONNXRUNTIME, home=tmp_path / "home", ORT_DISABLE_TELEMETRY="0", CI="true")
    assert found == "blue 0\n"


def test_device_without_an_engine_of_that_name_says_which_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", BACKENDS[:1])
    with pytest.raises(EngineError, match="the device cpu has no engine openvino; it has: onnxr"):
        registry.backend_for(Device.CPU, EngineName.OPENVINO)


def test_engines_have_the_threads_that_are_asked_for_and_no_bfloat16() -> None:
    """OpenVINO would take bfloat16 by itself where a processor has it, and its threads are those of all streams."""
    wish, processor = EngineOptions(threads=2, streams=3), read_processor()
    given = openvino_cpu.settings(wish, processor=processor)
    assert (given["NUM_STREAMS"], given["INFERENCE_NUM_THREADS"], given["INFERENCE_PRECISION_HINT"]) == (3, 6, "f32")
    assert onnxruntime_cpu.session_options(wish, processor=processor).intra_op_num_threads == 2


@pytest.mark.skipif(not read_processor().x86, reason="other processors do not saturate")
@pytest.mark.parametrize(("weight_bits", "saturates", "integer"), [(8, True, False), (8, False, True), (7, True, True)])
def test_openvino_computes_in_float_where_16_bits_would_saturate_and_only_there(
    weight_bits: int, saturates: bool, integer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = Processor(x86=True, instructions=frozenset(() if saturates else ["avx512_vnni"]))
    monkeypatch.setattr(openvino_cpu, "read_processor", lambda: processor)
    model = lower_int8_cpu(tiny_graph(), table_of(tiny_graph())).SerializeToString()
    compiled, _, _ = openvino_cpu.compile_model(model, EngineOptions(weight_bits=weight_bits))
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kernels = [node["primitiveType"].astype(str) for node in nodes if node["layerType"].astype(str) == "Convolution"]
    assert any(kernel.endswith("_I8") for kernel in kernels) == integer


@pytest.mark.skipif(not read_processor().x86, reason="other processors do not saturate")
def test_openvino_in_float_gives_the_same_logits_on_every_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 2026.2 on it did not where each stream turned 8-bit weights into floats for itself."""
    monkeypatch.setattr(openvino_cpu, "read_processor", lambda: Processor(x86=True, instructions=frozenset()))
    graph = whole_googlenet()
    model, pixels = lower_int8_cpu(graph, table_of(graph, count=8)).SerializeToString(), tiny_pixels(2, crop=64)
    with openvino_cpu.OpenVinoCpu(model, EngineOptions()) as alone:
        expected = alone.run(pixels)
    for _ in range(3):
        with openvino_cpu.OpenVinoCpu(model, EngineOptions(streams=2)) as engine:
            assert np.abs(engine.run(pixels) - expected).max() < 1e-4


@pytest.mark.parametrize(("weight_bits", "saturates", "exact"), [(8, True, "1"), (8, False, None), (7, True, None)])
def test_onnxruntime_sums_exactly_where_16_bits_would_saturate_and_only_there(
    weight_bits: int, saturates: bool, exact: str | None
) -> None:
    """The exact way costs half of the speed."""
    processor = Processor(x86=True, instructions=frozenset(() if saturates else ["avx512_vnni"]))
    options = onnxruntime_cpu.session_options(EngineOptions(weight_bits=weight_bits), processor=processor)
    assert config_entry(options, "session.x64quantprecision") == exact


def config_entry(options: onnxruntime.SessionOptions, key: str) -> str | None:
    try:
        return options.get_session_config_entry(key)
    except RuntimeError:
        return None
