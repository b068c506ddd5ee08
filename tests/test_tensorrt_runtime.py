"""The runtime's own code on a GPU that is not there: order of calls, times, threads, release, and every failure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorrt_machine import Machine, batch, machine_at, means
from tiny_bundles import colour_bundle, with_golden_logits

from googlenet_edge.engines import registry
from googlenet_edge.engines.bundle import Bundle
from googlenet_edge.engines.devices import profile_of
from googlenet_edge.engines.protocol import DeviceStage
from googlenet_edge.engines.registry import backends_for, open_bundle
from googlenet_edge.engines.tensorrt_runtime import plans_folder
from googlenet_edge.errors import BundleError, EngineError
from googlenet_edge.target import Device, EngineName, Precision


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    with machine_at(monkeypatch, tmp_path) as made:
        yield made


@pytest.mark.parametrize("count", [1, 3, 8, 9, 20])
def test_any_number_of_images_gives_their_logits_in_order(machine: Machine, count: int) -> None:
    with machine.open() as engine:
        logits = engine.run(batch(count))
        assert (logits.dtype, logits.shape) == (np.float32, (count, 3))
        assert logits == means(batch(count))


def test_logits_of_one_run_survive_the_next(machine: Machine) -> None:
    with machine.open() as engine:
        first = engine.run(batch(2, seed=1))
        engine.run(batch(8, seed=2))
        assert first == means(batch(2, seed=1))


def test_a_batch_that_is_not_contiguous_is_copied_right(machine: Machine) -> None:
    with machine.open() as engine:
        assert engine.run(batch(8)[::2, :, ::-1]) == means(batch(8)[::2])


def test_the_engine_says_what_it_is(machine: Machine) -> None:
    with machine.open(streams=2) as engine:
        spec = engine.spec
    assert (spec.backend, spec.version, spec.device, spec.crop, spec.classes, spec.streams) == (
        "tensorrt", "10.3.0", Device.AGX_ORIN, 8, 3, 2,
    )  # fmt: skip


def test_several_threads_run_at_once_each_in_a_context_of_its_own(machine: Machine) -> None:
    with machine.open(streams=3) as engine, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda seed: engine.run(batch(9, seed)), range(24)))
    for seed, logits in enumerate(found):
        assert logits == means(batch(9, seed))


def test_one_context_serves_all_threads_before_contexts_could_share_a_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Machine(monkeypatch, "8.5.2").open(streams=4) as engine, ThreadPoolExecutor(4) as pool:
        assert engine.spec.streams == 1
        for seed, logits in enumerate(pool.map(lambda seed: engine.run(batch(2, seed)), range(8))):
            assert logits == means(batch(2, seed))


def test_everything_is_given_back_in_order_and_once(machine: Machine) -> None:
    engine = machine.open(streams=2)
    engine.run(batch(1))
    engine.close()
    engine.close()
    worker = ["context released", "memory freed", "memory freed"]
    expected = [*worker, *worker, "engine released", "runtime released", "device given back"]
    assert machine.gpu.history == expected
    with pytest.raises(EngineError, match="the engine is closed; open the bundle again"):
        engine.run(batch(1))


def test_a_run_copies_in_computes_copies_out_and_waits_before_it_reads(machine: Machine) -> None:
    with machine.open() as engine:
        engine.run(batch(1))
        assert machine.told() == ["copy in", "enqueue", "copy out", "synchronize"]


def test_stages_are_timed_by_the_gpus_clock_between_its_events(machine: Machine) -> None:
    with machine.open() as engine:
        logits, times = engine.timed_run(batch(3))
        around = ["event", "copy in", "event", "enqueue", "event", "copy out", "event", "synchronize"]
        assert machine.told() == around
        assert logits == means(batch(3))
        assert times == {DeviceStage.COPY_IN: 0.25, DeviceStage.COMPUTE: 6.0, DeviceStage.COPY_OUT: 0.125}
        _, of_parts = engine.timed_run(batch(9))  # 8 and 1
        assert of_parts == {DeviceStage.COPY_IN: 0.5, DeviceStage.COMPUTE: 18.0, DeviceStage.COPY_OUT: 0.25}


def test_a_stage_too_short_for_the_gpus_clock_takes_its_resolution(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fake_cuda.COPY_OUT_MS", 0.0)
    with machine.open() as engine:
        assert engine.timed_run(batch(1))[1][DeviceStage.COPY_OUT] == 0.0005


def test_a_batch_of_another_shape_is_refused_and_the_engine_goes_on(machine: Machine) -> None:
    with machine.open() as engine:
        with pytest.raises(EngineError, match=r"the batch is uint8 \(1, 9, 9, 3\), expected uint8 \(N, 8, 8, 3\)"):
            engine.run(np.zeros((1, 9, 9, 3), np.uint8))
        assert engine.run(batch(1)) == means(batch(1))


@pytest.mark.parametrize(
    ("member", "sentence"),
    [("accepts_shapes", "TensorRT does not take a batch of 2"), ("enqueues", "TensorRT failed on a batch of 2")],
)
def test_a_run_that_fails_says_so_and_the_next_one_works(machine: Machine, member: str, sentence: str) -> None:
    with machine.open() as engine:
        setattr(machine.wrong, member, False)
        with pytest.raises(EngineError, match=sentence):
            engine.run(batch(2))
        setattr(machine.wrong, member, True)
        assert engine.run(batch(2, seed=3)) == means(batch(2, seed=3))


def test_what_tensorrt_says_of_a_run_that_fails_is_in_the_log(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    with machine.open() as engine:
        machine.wrong.enqueues = False
        with pytest.raises(EngineError, match="see its messages in the log"):
            engine.run(batch(2))
    assert "TensorRT: myelin could not run the kernel" in caplog.messages


def test_a_fault_of_the_gpu_is_an_error_that_says_so(machine: Machine) -> None:
    with machine.open() as engine:
        machine.gpu.fault = "cuStreamSynchronize failed: an illegal memory access was encountered"
        with pytest.raises(EngineError, match="CUDA failed on a batch of 1 .cuStreamSynchronize failed: an illegal"):
            engine.run(batch(1))


def test_the_plan_is_built_once_for_a_model(machine: Machine) -> None:
    machine.open().close()
    machine.script.build_fails_with = "it must not be built again"
    machine.open().close()
    [plan] = plans_folder().glob("*/engine.plan")
    assert plan.read_bytes() == b"plan of 10.3.0"


def test_two_calibrations_of_a_model_keep_a_plan_each(machine: Machine) -> None:
    """A bundle for a DLA, and its copy that TensorRT calibrated, have the same model and are measured in turns."""
    for cache in (b"ours", b"TensorRT's"):
        machine.open(calibration_cache=cache).close()
    machine.script.build_fails_with = "it must not be built again"
    for cache in (b"ours", b"TensorRT's"):
        machine.open(calibration_cache=cache).close()


def test_a_plan_of_an_older_tensorrt_is_built_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.open().close()
    Machine(monkeypatch, "10.16.1").open().close()
    [plan] = plans_folder().glob("*/engine.plan")
    assert plan.read_bytes() == b"plan of 10.16.1"


def test_a_kept_plan_that_is_not_loaded_is_refused_in_tensorrts_words(machine: Machine) -> None:
    machine.open().close()
    machine.wrong.loads = False
    sentence = "tensorrt 10.3.0 does not load the plan: the engine plan file is not compatible with this GPU; remove "
    assert machine.refusal() == sentence + str(plans_folder())


def test_a_plan_that_is_not_loaded_where_it_was_just_built_is_no_fault_of_the_kept_plans(machine: Machine) -> None:
    machine.wrong.loads = False
    sentence = (
        "tensorrt 10.3.0 does not load the plan: the engine plan file is not compatible with this GPU; it was built"
        " just now, so close what else uses the GPU, and look at the log"
    )
    assert [machine.refusal(), machine.refusal()] == [sentence, sentence]
    assert not list(plans_folder().glob("*/engine.plan"))


def test_tensorrt_for_rtx_that_loads_no_plan_on_this_gpu_names_the_other_tensorrt(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx = Machine(monkeypatch, "1.7.1", device=Device.RTX)
    rtx.wrong.loads = False
    assert rtx.refusal() == (
        "tensorrt_rtx 1.7.1 does not load the plan: the engine plan file is not compatible with this GPU; it may not"
        " support this GPU (Orin, 8 SMs, compute capability 8.7); build the bundle for --device cuda"
    )


def compiled_by_rtx(machine: Machine, counts: Sequence[int], *, driver: str = "580", streams: int = 1) -> list[str]:
    """Which kernels one process compiles that infers batches of these sizes. All of it is given back."""
    machine.wrong.driver = driver
    with machine.open(streams=streams) as engine:
        for count in counts:
            assert engine.run(batch(count)) == means(batch(count))
    done, machine.gpu.history = machine.gpu.history, []
    assert machine.gpu.retained == 0
    kept = [line for line in done if line.endswith("released")]
    assert kept == [*["context released"] * streams, "configuration released", "kernels released", *kept[-2:]]
    return [line.removeprefix("compiled ") for line in done if line.startswith("compiled")]


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Machine(monkeypatch, "1.7.1", device=Device.RTX)


def kept_kernels() -> Path:
    [path] = plans_folder().glob("*/kernels-*.cache")
    return path


def test_kernels_that_tensorrt_for_rtx_compiled_are_there_for_the_next_process(
    rtx: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    assert compiled_by_rtx(rtx, [1]) == ["the plan", "a batch of 1"]
    assert compiled_by_rtx(rtx, [1, 3], streams=2) == ["a batch of 3"]
    before = kept_kernels().stat().st_mtime_ns, kept_kernels().read_bytes()
    assert compiled_by_rtx(rtx, [1, 3]) == []
    assert (kept_kernels().stat().st_mtime_ns, kept_kernels().read_bytes()) == before, "nothing new was written"
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def in_the_place_of_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "said", "again"),
    [
        (cut, "is cut off or was changed", []),
        (lambda path: path.write_bytes(b""), "is cut off or was changed", []),
        (in_the_place_of_a_folder, "is a folder; give a file in it", ["the plan", "a batch of 1"]),
    ],
)
def test_kernels_whose_file_is_damaged_are_compiled_once_more(
    damage: Callable[[Path], object], said: str, again: list[str], rtx: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    compiled_by_rtx(rtx, [1])
    path = kept_kernels()
    damage(path)
    assert compiled_by_rtx(rtx, [1]) == ["the plan", "a batch of 1"]
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == f"{path} {said}; tensorrt_rtx 1.7.1 compiles the kernels once more"
    assert compiled_by_rtx(rtx, [1]) == again


def test_kernels_of_another_driver_are_compiled_once_more(rtx: Machine, caplog: pytest.LogCaptureFixture) -> None:
    compiled_by_rtx(rtx, [1])
    assert compiled_by_rtx(rtx, [1], driver="590") == ["the plan", "a batch of 1"]
    assert f"{kept_kernels()} does not fit here (the driver was 580); tensorrt_rtx 1.7.1 compiles" in caplog.text
    assert compiled_by_rtx(rtx, [1], driver="590") == []


def test_kernels_that_cannot_be_read_out_leave_nothing_on_the_gpu(
    rtx: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = rtx.open(streams=2)

    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("fake_cuda._Kernels.serialize", fail)
    with pytest.raises(MemoryError):
        engine.close()
    assert rtx.gpu.retained == 0
    assert rtx.gpu.history.count("context released") == 2


@pytest.mark.parametrize(
    ("member", "most", "sentence"),
    [
        ("most_streams", 1, "the GPU has no memory for a stream (cuStreamCreate failed: out of memory)"),
        ("most_events", 6, "the GPU has no memory for events (cuEventCreate failed: out of memory)"),
        ("free_bytes", 0, "the GPU has no memory for a batch of 8 (cuMemAlloc failed: out of memory)"),
        ("free_bytes", 8 * 8 * 8 * 3, "the GPU has no memory for a batch of 8"),
        ("free_bytes", 8 * 8 * 8 * 3 + 8 * 3 * 4, "the GPU has no memory for a batch of 8"),
    ],
)
def test_memory_that_runs_out_at_any_step_is_named_and_all_is_given_back(
    machine: Machine, member: str, most: int, sentence: str
) -> None:
    setattr(machine.gpu, member, most)
    assert machine.refusal(streams=2).startswith(sentence)


@pytest.mark.parametrize("fitting", [0, 1])
def test_contexts_that_do_not_fit_are_named_and_the_others_given_back(machine: Machine, fitting: int) -> None:
    machine.wrong.contexts = fitting
    sentence = "the GPU has no memory for another execution context; use fewer streams"
    assert machine.refusal(streams=2) == sentence
    assert not machine.gpu.memory
    assert machine.gpu.history[-3:] == ["engine released", "runtime released", "device given back"]


def test_a_plan_of_another_kind_is_refused(machine: Machine) -> None:
    machine.wrong.pixels = "FLOAT"
    assert machine.refusal().startswith("the plan is not one of gnet-edge: expected one input pixels, uint8")


def test_a_machine_without_a_gpu_is_named(machine: Machine) -> None:
    machine.gpu.devices = 0
    assert machine.refusal().startswith("CUDA finds no GPU; check the driver")


def test_a_gpu_that_gives_no_context_is_named(machine: Machine) -> None:
    machine.gpu.taken = "cuDevicePrimaryCtxRetain failed: out of memory"
    assert machine.refusal() == (
        "the GPU cannot be used (cuDevicePrimaryCtxRetain failed: out of memory); close other programs that use it"
    )


def test_a_missing_pycuda_is_named_with_what_installs_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert "install it beside the CUDA toolkit with: pip install pycuda, or use --engine simulated" in machine.refusal()


def test_a_tensorrt_device_has_the_runtime_first_and_the_simulation_beside_it() -> None:
    names = [each.name for each in backends_for(Device.ORIN_NX)]
    assert (names[0], names[-1]) == (EngineName.TENSORRT, EngineName.SIMULATED)


def orin_bundle() -> Bundle:
    """A bundle that was simulated where it was built, of the network that the GPU of these tests computes."""
    bundle = colour_bundle(Precision.INT8)
    manifest = replace(bundle.manifest, device=Device.AGX_ORIN, engine=EngineName.SIMULATED)
    return with_golden_logits(replace(bundle, manifest=manifest), bundle.golden.pixels.mean(axis=(1, 2)))


def test_a_simulated_bundle_runs_on_tensorrt_where_it_is_installed_and_is_checked_there(machine: Machine) -> None:
    machine.wrong.crop = 32
    with open_bundle(orin_bundle(), streams=2) as engine:
        assert (engine.spec.backend, engine.spec.device) == ("tensorrt", Device.AGX_ORIN)
    assert machine.script.settings["WORKSPACE"] == profile_of(Device.AGX_ORIN).workspace_bytes
    other = with_golden_logits(orin_bundle(), 2 * orin_bundle().golden.logits)
    with pytest.raises(BundleError, match="computes something else on this machine: its golden logits differ by"):
        open_bundle(other)


def test_flags_are_those_of_the_bundles_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = Machine(monkeypatch, "8.6.2")
    machine.wrong.crop = 32
    open_bundle(orin_bundle()).close()
    assert machine.script.flags == ["FP16", "INT8"]


def test_a_simulated_bundle_stays_simulated_where_tensorrt_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    bundle = colour_bundle(Precision.INT8)
    manifest = replace(bundle.manifest, device=Device.AGX_ORIN, engine=EngineName.SIMULATED)
    with open_bundle(replace(bundle, manifest=manifest)) as engine:
        assert engine.spec.backend == "simulated"
