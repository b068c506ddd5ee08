"""What measures on a device, run here: which machine it takes for the device, and in what state it leaves it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fake_jetson import ORIN_NANO, fake_jetson, fake_pc
from measured import measured, measured_bundle
from tiny_bundles import colour_bundle, write_colour_bundle

from googlenet_edge.engines import registry, remote, remote_agent, remote_worker
from googlenet_edge.engines.bundle import FileRecord, write_bundle
from googlenet_edge.engines.jetson import read_jetson, read_power_mode
from googlenet_edge.engines.remote_worker import RemotePlan, Request, in_their_words, run
from googlenet_edge.engines.ssh import parse_host
from googlenet_edge.engines.sustained import SustainedPlan
from googlenet_edge.errors import ConfigError, DataError, EngineError, RemoteError
from googlenet_edge.files import to_json
from googlenet_edge.target import Device, EngineName

PLAN = RemotePlan(Device.CPU, None, threads=3, streams=None, rounds=7, sustained=SustainedPlan(60, 30))


def asked(plan: RemotePlan, tmp_path: Path) -> Request:
    (tmp_path / "image").write_bytes(b"an image")
    bundles = tuple(str(write_colour_bundle(tmp_path / "bundles" / name)) for name in ("000", "001"))
    return Request(bundles, ("runs/fp32", "runs/int8"), str(tmp_path / "image"), plan)


@dataclass(frozen=True)
class Opened:
    """An engine that is only opened and closed."""

    done: list[str]
    where: str

    def close(self) -> None:
        self.done.append(f"compiled {self.where}")


def gpu_locked(root: Path) -> bool:
    jetson = read_jetson(root)
    assert jetson is not None
    assert jetson.gpu_clock is not None
    return jetson.gpu_clock.locked


def test_worker_measures_as_it_was_asked_with_a_stream_for_each_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        remote_worker, "bench", lambda paths, **others: given.update(paths=paths, **others) or measured()
    )
    said: list[tuple[str, dict[str, Any]]] = []
    request = asked(replace(PLAN, engine=EngineName.OPENVINO), tmp_path)
    run(request, say=lambda event, **facts: said.append((event, facts)), root=fake_pc(tmp_path / "pc"))
    plan = given["plan"]
    assert (plan.threads, plan.rounds, plan.sustained) == (3, 7, SustainedPlan(60, 30))
    assert plan.streams == len(os.sched_getaffinity(0))
    assert given["names"] == ("runs/fp32", "runs/int8")
    assert (given["image"], given["engine"]) == (b"an image", EngineName.OPENVINO)
    assert said == [("step", {"message": "measuring"})]


CHATTY = """
import os, sys
from googlenet_edge.engines import remote_worker
def run(request, *, say, so_far):
    os.write(1, b"a library says hello")
    print("so does Python", flush=True)
    say("step", message="measuring")
    raise KeyboardInterrupt
remote_worker.run = run
sys.exit(remote_worker.main())
"""


def test_worker_sends_on_nothing_that_a_library_prints(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_bytes(to_json(asked(PLAN, tmp_path)))
    command = [sys.executable, "-c", CHATTY, tmp_path / "request.json", tmp_path / "measurement.json"]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, b'{"event": "step", "message": "measuring"}\n'), ended.stderr


ON_A_FULL_DISK = """
import sys
from googlenet_edge.engines import remote_worker
from measured import measured
def run(request, *, say, so_far):
    so_far(measured())
    say("step", message="going on")
    return measured()
remote_worker.run = run
sys.exit(remote_worker.main())
"""


def test_worker_that_cannot_write_within_a_load_goes_on_and_says_so_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_bytes(to_json(asked(PLAN, tmp_path)))
    (tmp_path / "full").touch()
    command = [sys.executable, "-c", ON_A_FULL_DISK, tmp_path / "request.json", tmp_path / "full" / "measurement.json"]
    ended = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    going_on, failed = map(json.loads, ended.stdout.splitlines())
    assert going_on == {"event": "step", "message": "going on"}
    assert failed["event"] == "failed"
    assert failed["message"].startswith(f"cannot write {tmp_path}/full/measurement.json: ")
    assert (ended.returncode, ended.stderr) == (remote_agent.TOLD, "")


def test_worker_compiles_for_a_gpu_before_anything_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(remote_worker, "open_bundle", lambda bundle, **_: Opened(done, bundle.where))
    monkeypatch.setattr(remote_worker, "bench", lambda *_, **__: done.append("timed") or measured())
    for_cpu = colour_bundle()
    for_orin = replace(for_cpu, manifest=replace(for_cpu.manifest, device=Device.ORIN_NANO))
    write_bundle(tmp_path / "cpu", for_cpu)
    write_bundle(tmp_path / "orin", for_orin)
    request = asked(replace(PLAN, device=Device.JETSON), tmp_path)
    request = replace(request, bundles=(str(tmp_path / "cpu"), str(tmp_path / "orin")))
    run(request, say=lambda *_, **__: None, root=fake_jetson(tmp_path / "root", ORIN_NANO))
    assert done == [f"compiled {tmp_path / 'orin'}", "timed"]


def test_worker_without_tensorrt_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation there would say nothing of speed."""
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    made = colour_bundle()
    manifest = replace(made.manifest, device=Device.CUDA, engine=EngineName.SIMULATED)
    write_bundle(tmp_path / "pc", replace(made, manifest=manifest))
    request = replace(asked(replace(PLAN, device=Device.CUDA), tmp_path), bundles=(str(tmp_path / "pc"),))
    with pytest.raises(EngineError, match=r"pc needs TensorRT's Python package and pycuda there; install both"):
        run(request, say=lambda *_, **__: None, root=fake_pc(tmp_path / "root"))


def test_worker_that_is_interrupted_sets_the_jetson_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    meanwhile: list[tuple[str | None, bool]] = []

    def interrupted(*_: object, **__: object) -> None:
        meanwhile.append((read_power_mode(root), gpu_locked(root)))
        raise KeyboardInterrupt

    monkeypatch.setattr(remote_worker, "bench", interrupted)
    plan = RemotePlan(Device.CPU, None, 1, 1, 6, power_mode="15W", lock_clocks=True)
    with pytest.raises(KeyboardInterrupt):
        run(asked(plan, tmp_path), say=lambda *_, **__: None, root=root)
    assert meanwhile == [("15W", True)]
    assert (read_power_mode(root), gpu_locked(root)) == ("25W", False)


def test_worker_on_another_device_than_was_meant_refuses(tmp_path: Path) -> None:
    request = asked(RemotePlan(Device.JETSON, None, 1, 1, 6), tmp_path)
    with pytest.raises(EngineError, match=r"^this machine is no Jetson; "):
        run(request, say=lambda *_, **__: None, root=fake_pc(tmp_path / "pc"))


def test_worker_names_bundles_as_the_other_side_knows_them(tmp_path: Path) -> None:
    request = asked(PLAN, tmp_path)
    said = f"{request.bundles[1]}/model.onnx is damaged"
    assert in_their_words(said, request) == "runs/int8/model.onnx is damaged"


def test_measurement_from_another_machine_is_believed_no_more_than_one_from_a_file() -> None:
    data = to_json(measured(replace(measured_bundle("int8-cpu"), stages={})))
    sentence = "^the measurement of me@jetson cannot be a measurement: a stage is missing"
    with pytest.raises(DataError, match=sentence):
        remote._checked(data, [], remote.Cargo({}, {}, (), ""), parse_host("me@jetson"))


def test_measurement_of_another_model_than_was_sent_is_refused(tmp_path: Path) -> None:
    manifest = colour_bundle().manifest
    manifest = replace(manifest, files={"model.onnx": FileRecord(1, measured_bundle("").model_sha256)})
    cargo, found = remote.Cargo({}, {}, (manifest,), ""), to_json(measured(measured_bundle("runs/int8")))
    assert remote._checked(found, [Path("runs/int8")], cargo, parse_host("jetson")).bundles[0].name == "runs/int8"
    other = replace(cargo, manifests=(replace(manifest, files={"model.onnx": FileRecord(1, "0" * 64)}),))
    for path, sent in (("runs/fp32", cargo), ("runs/int8", other)):
        with pytest.raises(RemoteError, match=r"^jetson sent a measurement of something else; is its googlenet-"):
            remote._checked(found, [Path(path)], sent, parse_host("jetson"))


@pytest.mark.parametrize(
    ("device", "built_for", "asked_for", "extras", "packages"),
    [
        (Device.CPU, EngineName.ONNXRUNTIME, None, [], []),
        (Device.CPU, EngineName.OPENVINO, None, ["openvino"], []),
        (Device.CPU, EngineName.ONNXRUNTIME, EngineName.OPENVINO, ["openvino"], []),
        (Device.CPU, EngineName.OPENVINO, EngineName.ONNXRUNTIME, [], []),
        (Device.ORIN_NANO, EngineName.SIMULATED, None, [], ["pycuda"]),
        (Device.ORIN_NANO, EngineName.SIMULATED, EngineName.ONNXRUNTIME_CUDA, [], []),
        (Device.RTX, EngineName.SIMULATED, None, ["rtx"], ["pycuda"]),
    ],
)
def test_environment_over_there_has_what_the_engine_needs_and_no_more(
    device: Device, built_for: EngineName, asked_for: EngineName | None, extras: list[str], packages: list[str]
) -> None:
    manifest = replace(colour_bundle().manifest, device=device, engine=built_for)
    cargo, there = remote.Cargo({}, {}, (manifest,), "wheel"), remote.Remote(parse_host("jetson"))
    wanted = remote._job([Path("a")], there, replace(PLAN, engine=asked_for), cargo)
    assert (wanted["extras"], wanted["packages"], wanted["environment"]) == (extras, packages, "made")


def test_engine_that_no_environment_can_be_made_for_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    plan = replace(PLAN, engine=EngineName.ONNXRUNTIME_CUDA)
    sentence = (
        r"^--engine onnxruntime-cuda needs an environment with ONNX Runtime for GPUs; pip would lay the one for"
        r" processors over it. Name that environment's interpreter on me@jetson with --python$"
    )
    with pytest.raises(ConfigError, match=sentence):
        remote.bench_there([tmp_path], remote.Remote(parse_host("me@jetson")), plan=plan, bars=lambda _: nullcontext())


def test_engine_is_one_of_the_bundle_s_device_whatever_device_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `bench BUNDLE --host … --engine onnxruntime-tensorrt` without `--device`."""
    monkeypatch.setattr(remote_worker, "build_plans", lambda *_, **__: None)
    monkeypatch.setattr(remote_worker, "bench", lambda *_, **__: measured())
    bundle = colour_bundle()
    write_bundle(tmp_path / "orin", replace(bundle, manifest=replace(bundle.manifest, device=Device.ORIN_NANO)))
    (tmp_path / "image").write_bytes(b"an image")
    plan = replace(PLAN, engine=EngineName.ONNXRUNTIME_TENSORRT)
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    request = Request((str(tmp_path / "orin"),), ("orin",), str(tmp_path / "image"), plan)
    assert run(request, say=lambda *_, **__: None, root=root) == measured()
    of_a_processor = replace(request, bundles=(str(write_colour_bundle(tmp_path / "cpu")),))
    with pytest.raises(EngineError, match="the device cpu has no engine onnxruntime-tensorrt; it has: onnxruntime"):
        run(of_a_processor, say=lambda *_, **__: None, root=root)


def test_measurement_is_there_and_says_so_where_the_mode_cannot_be_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)

    def measure(*_: Any, **__: Any) -> Any:
        (root / "usr/sbin/nvpmodel").write_text("#!/bin/sh\necho 'NVPM WARN: Reboot required'; exit 255\n")
        return measured()

    monkeypatch.setattr(remote_worker, "bench", measure)
    found = run(asked(replace(PLAN, power_mode="15W"), tmp_path), say=lambda *_, **__: None, root=root)
    assert found.bundles == measured().bundles
    assert found.warnings[-1].startswith("the power mode did not change to 25W: nvpmodel failed (NVPM WARN: Reboot req")
