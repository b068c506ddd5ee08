"""CUDA graphs on a GPU that is not there: when they are recorded, launched and forgotten, and every way to fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tensorrt_machine import Machine, batch, machine_at, means

from googlenet_edge.engines.protocol import DeviceStage
from googlenet_edge.engines.tensorrt_runtime import TensorRtEngine
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Device

ENQUEUED = ["copy in", "enqueue", "copy out", "synchronize"]
LAUNCHED = ["copy in", "launch", "copy out", "synchronize"]
RECORDED = ["begin capture", "enqueue", "end capture", "instantiate", *LAUNCHED]
FORGOTTEN = ["destroy executable", "destroy graph"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    with machine_at(monkeypatch, tmp_path) as made:
        yield made


def run_right(engine: TensorRtEngine, count: int, times: int) -> None:
    """Each with other images."""
    for seed in range(times):
        assert engine.run(batch(count, seed)) == means(batch(count, seed))


def test_a_size_that_comes_three_times_in_a_row_is_recorded_after_it_was_enqueued_and_then_launched(
    machine: Machine,
) -> None:
    with machine.open() as engine:
        run_right(engine, 2, times=2)
        assert machine.told() == 2 * ENQUEUED
        run_right(engine, 2, times=1)
        assert machine.told() == [*ENQUEUED, *RECORDED]
        run_right(engine, 2, times=5)
        assert machine.told() == 5 * LAUNCHED


def test_another_size_makes_the_graph_be_forgotten_and_recorded_anew(machine: Machine) -> None:
    with machine.open() as engine:
        run_right(engine, 2, times=4)
        machine.told()
        run_right(engine, 1, times=3)
        assert machine.told() == [*FORGOTTEN, *ENQUEUED, *ENQUEUED, *ENQUEUED, *RECORDED]
        run_right(engine, 2, times=1)
        assert machine.told() == [*FORGOTTEN, *ENQUEUED]


def test_sizes_that_take_turns_are_enqueued(machine: Machine) -> None:
    with machine.open() as engine:
        for seed in range(4):
            assert engine.run(batch(20, seed)) == means(batch(20, seed))  # 8, 8 and 4
    assert "launch" not in machine.gpu.calls


def test_stages_of_a_graph_are_timed_around_its_launch(machine: Machine) -> None:
    with machine.open() as engine:
        run_right(engine, 1, times=3)
        machine.told()
        logits, times = engine.timed_run(batch(1, seed=7))
        assert machine.told() == ["event", "copy in", "event", "launch", "event", "copy out", "event", "synchronize"]
        assert logits == means(batch(1, seed=7))
        assert times == {DeviceStage.COPY_IN: 0.25, DeviceStage.COMPUTE: 2.0, DeviceStage.COPY_OUT: 0.125}


@pytest.mark.parametrize("records", ["refused", "nothing", "wrong"])
def test_work_that_cannot_be_recorded_is_enqueued_and_the_log_says_so_once(
    machine: Machine, caplog: pytest.LogCaptureFixture, records: str
) -> None:
    machine.wrong.records = records
    with machine.open() as engine:
        run_right(engine, 1, times=5)
        run_right(engine, 2, times=5)
        assert machine.told()[-8:] == 2 * ENQUEUED
    reason = (
        "TensorRT refused to be recorded; see its messages in the log"
        if records == "refused"
        else "its launch gives other logits than TensorRT itself"
    )
    assert caplog.messages == [f"no CUDA graph is used, which makes small batches slower: {reason}"]


@pytest.mark.parametrize(
    ("call", "code", "reason"),
    [
        ("begin capture", 998, "cuStreamBeginCapture_v2 failed: error 998"),
        ("end capture", 901, "cuStreamEndCapture failed: operation failed due to a previous error during capture"),
        ("instantiate", 2, "cuGraphInstantiateWithFlags failed: out of memory"),
        ("launch", 2, "cuGraphLaunch failed: out of memory"),
    ],
)
def test_a_call_that_fails_while_recording_is_named_and_nothing_is_left(
    machine: Machine, caplog: pytest.LogCaptureFixture, call: str, code: int, reason: str
) -> None:
    machine.gpu.graph_failures[call] = code
    with machine.open() as engine:
        run_right(engine, 1, times=5)
        assert not machine.gpu.graphs
        assert not machine.gpu.executables
    assert caplog.messages == [f"no CUDA graph is used, which makes small batches slower: {reason}"]


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ("", "libcuda.so.1: cannot open shared object file"),
        ("cuGraphInstantiateWithFlags", "'Libcuda' object has no attribute 'cuGraphInstantiateWithFlags'"),
    ],
)
def test_a_driver_without_graphs_is_named(
    machine: Machine, caplog: pytest.LogCaptureFixture, lacking: str, reason: str
) -> None:
    if lacking:
        delattr(machine.libcuda, lacking)
    else:
        machine.libcuda = None
    with machine.open() as engine:
        run_right(engine, 1, times=5)
    assert [f"the CUDA driver has no graphs: {reason}" in message for message in caplog.messages] == [True]


def test_a_launch_that_fails_later_is_an_error_and_the_next_run_is_enqueued(machine: Machine) -> None:
    with machine.open() as engine:
        run_right(engine, 1, times=4)
        machine.gpu.graph_failures["launch"] = 2
        with pytest.raises(EngineError, match="cuGraphLaunch failed: out of memory"):
            engine.run(batch(1))
        machine.told()
        run_right(engine, 1, times=1)
        assert machine.told() == ENQUEUED


def test_a_fault_of_the_gpu_while_recording_costs_no_logits(machine: Machine) -> None:
    with machine.open() as engine:
        run_right(engine, 1, times=2)
        machine.gpu.fault = "an illegal memory access"
        machine.gpu.fault_from_wait = 4  # the third run is waited for, and then the launch that proves the graph
        run_right(engine, 1, times=1)
        with pytest.raises(EngineError, match="CUDA failed on a batch of 1 .an illegal memory access"):
            engine.run(batch(1))
        machine.gpu.fault = ""


def test_threads_record_and_launch_graphs_of_their_own(machine: Machine) -> None:
    machine.gpu.meeting = threading.Barrier(2, timeout=60)
    with machine.open(streams=2) as engine, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda count: run_right(engine, count, times=6), (2, 2)))
    launches = machine.gpu.launches
    assert len(launches) == 8
    assert len(set(launches)) == len({graph for graph, _ in launches}) == len({stream for _, stream in launches}) == 2


def test_threads_that_fail_to_record_at_the_same_time_say_so_once(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.gpu.meeting = threading.Barrier(2, timeout=60)
    machine.wrong.records = "refused"
    with machine.open(streams=2) as engine, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda count: run_right(engine, count, times=6), (2, 2)))
    assert machine.gpu.calls.count("begin capture") == 2
    assert len(caplog.messages) == 1


def test_a_graph_is_given_back_before_the_context_that_it_was_recorded_from(machine: Machine) -> None:
    engine = machine.open()
    run_right(engine, 1, times=4)
    engine.close()
    released = ["executable destroyed", "graph destroyed", "context released", "memory freed", "memory freed"]
    assert machine.gpu.history == [*released, "engine released", "runtime released", "device given back"]


def test_a_graph_that_is_not_given_back_is_logged_and_the_rest_goes_on(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    with machine.open() as engine:
        run_right(engine, 1, times=4)
        machine.gpu.graph_failures["destroy graph"] = 2
        engine.close()
    assert caplog.messages[-1] == "cuGraphDestroy failed: out of memory"


def test_tensorrt_for_rtx_is_left_to_its_own_graphs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = Machine(monkeypatch, "1.7.1", device=Device.RTX)
    with machine.open() as engine:
        run_right(engine, 1, times=5)
    assert "begin capture" not in machine.gpu.calls
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
