"""What the doctor finds on machines made of files, with packages that are there or not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from command import done
from fake_jetson import AGX_ORIN, NANO, ORIN_NANO, XAVIER_NX, break_file, fake_jetson, fake_pc

from googlenet_edge.commands import machine
from googlenet_edge.engines.clocks import fixed_clocks
from googlenet_edge.engines.doctor import Finding, State, examine, installed
from googlenet_edge.target import Device, EngineName

RUNTIME = {"onnxruntime": "1.23.0"}
BUILD = {**RUNTIME, "torch": "2.8.0", "onnx": "1.19.0", "safetensors": "0.6.2", "threadpoolctl": "3.6.0"}
TENSORRT = {**BUILD, "openvino": "2025.3.0", "tensorrt": "10.3.0.30", "pycuda": "2025.1"}
NO_VNNI = "processor : 0\nmodel name\t: An old Xeon\nflags\t\t: fpu avx2 avx512f\n"


def findings(root: Path, packages: dict[str, str]) -> dict[str, Finding]:
    """What is found, by topic."""
    return {finding.topic: finding for finding in examine(root, installed=packages.get).findings}


def test_doctor_of_a_workstation_that_lacks_nothing(tmp_path: Path) -> None:
    found = examine(fake_pc(tmp_path), installed=TENSORRT.get)
    assert (found.device, found.builds, found.runs) == (Device.CPU, True, (EngineName.ONNXRUNTIME, EngineName.OPENVINO))
    assert [finding.mend for finding in found.findings] == [None] * len(found.findings)
    by_topic = {finding.topic: finding for finding in found.findings}
    assert by_topic["machine"].says.startswith("Intel(R) N100, ")
    versions = "torch 2.8.0, onnx 1.19.0, safetensors 0.6.2, threadpoolctl 3.6.0"
    assert by_topic["build"].says == f"train, export, calibrate and build ({versions})"
    assert by_topic["TensorRT"] == Finding(
        "TensorRT", State.NOTE, "no NVIDIA GPU here; plans are built and run on the device they are for"
    )


def test_doctor_names_the_command_for_each_package_that_is_missing(tmp_path: Path) -> None:
    found = examine(fake_pc(tmp_path), installed={**RUNTIME, "onnx": "1.19.0"}.get)
    assert (found.builds, found.runs) == (False, (EngineName.ONNXRUNTIME,))
    missing = {finding.topic: (finding.says, finding.mend) for finding in found.findings if finding.mend}
    assert missing == {
        "engine openvino": (
            "not installed; its bundles cannot be built or run here",
            "pip install 'googlenet-edge[openvino]'",
        ),
        "build": (
            "torch, safetensors, threadpoolctl not installed;"
            " this machine runs bundles, but cannot train or build them",
            "pip install 'googlenet-edge[build]'",
        ),
    }


def test_doctor_says_what_int8_weights_are_on_a_processor_without_vnni(tmp_path: Path) -> None:
    root = fake_pc(tmp_path)
    assert findings(root, BUILD)["int8"].state is State.GOOD
    (root / "proc/cpuinfo").write_text(NO_VNNI)
    found = findings(root, BUILD)["int8"]
    assert found.state is State.NOTE
    assert found.says.startswith("no VNNI: 16-bit sums saturate with 8-bit weights")


def test_doctor_tells_a_processor_with_amx_to_try_both_engines(tmp_path: Path) -> None:
    root = fake_pc(tmp_path)
    (root / "proc/cpuinfo").write_text("flags\t\t: fpu avx512_vnni amx_tile amx_int8\n")
    found = findings(root, BUILD)["int8"]
    assert (found.state, found.mend) == (State.NOTE, "gnet-edge build --precision int8 --engine auto")
    assert found.says.startswith("AMX multiplies 8-bit weights")


def test_doctor_names_a_governor_that_moves_the_clock(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    found = findings(root, BUILD)["clocks"]
    assert (found.state, found.says) == (State.NOTE, "the governor schedutil moves the clock, so figures vary")
    assert found.mend == "sudo jetson_clocks"
    with fixed_clocks(root):
        found = findings(root, BUILD)["clocks"]
        assert (found.state, found.says) == (State.GOOD, "the processor's clock is fixed")
    (root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").write_text("performance\n")
    assert findings(root, BUILD)["clocks"].mend is None


def test_doctor_of_a_workstation_with_a_gpu_asks_for_tensorrt(tmp_path: Path) -> None:
    root = fake_pc(tmp_path)
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54\n")
    found = findings(root, BUILD)
    assert "GPU" not in found  # the driver shows none
    assert found["TensorRT"].mend == "pip install tensorrt"
    assert found["pycuda"].mend == (
        "PATH=/usr/local/cuda/bin:$PATH CPATH=/usr/local/cuda/include LIBRARY_PATH=/usr/local/cuda/lib64 pip install"
        " pycuda"
    )
    card = root / "proc/driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA GeForce RTX 4070\nIRQ:   \t\t 0\n")
    found = findings(root, TENSORRT)
    assert found["GPU"] == Finding("GPU", State.GOOD, "NVIDIA GeForce RTX 4070, driver 550.54")
    assert (found["TensorRT"].says, found["pycuda"].says) == ("version 10.3.0.30", "version 2025.1")


def test_doctor_of_a_machine_with_a_gpu_says_which_providers_onnxruntime_has(tmp_path: Path) -> None:
    root = fake_pc(tmp_path)
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54\n")
    found = examine(root, installed=BUILD.get, providers=lambda: (EngineName.ONNXRUNTIME_CUDA,))
    assert found.runs == (EngineName.ONNXRUNTIME, EngineName.ONNXRUNTIME_CUDA)
    by_topic = {finding.topic: finding for finding in found.findings}
    assert by_topic["engine onnxruntime-cuda"] == Finding(
        "engine onnxruntime-cuda", State.GOOD, "ONNX Runtime has the provider; --engine onnxruntime-cuda uses it"
    )
    missing = by_topic["engine onnxruntime-tensorrt"]
    assert missing.says.startswith("this ONNX Runtime has no such provider; onnxruntime-gpu has, on a Jetson NVIDIA's")
    assert missing.mend == "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
    assert findings(root, TENSORRT)["engine onnxruntime-tensorrt"].mend is None
    jetson = fake_jetson(tmp_path / "jetson", ORIN_NANO)
    assert findings(jetson, BUILD)["engine onnxruntime-cuda"].mend is None
    whole = examine(jetson, installed=TENSORRT.get, providers=lambda: ())
    assert whole.runs == (EngineName.ONNXRUNTIME, EngineName.OPENVINO, EngineName.TENSORRT)
    by_rtx = examine(root, installed={**BUILD, "tensorrt_rtx": "1.7.1", "pycuda": "2025.1"}.get, providers=lambda: ())
    assert by_rtx.runs == (EngineName.ONNXRUNTIME, EngineName.TENSORRT)
    [said] = [finding for finding in by_rtx.findings if finding.topic == "TensorRT"]
    assert said == Finding("TensorRT", State.GOOD, "for RTX, version 1.7.1")
    without = examine(fake_pc(tmp_path / "plain"), installed=BUILD.get, providers=lambda: tuple(EngineName))
    assert without.runs == (EngineName.ONNXRUNTIME,)


def test_doctor_finds_the_gpu_of_a_windows_with_linux_in_it(tmp_path: Path) -> None:
    driver = fake_pc(tmp_path) / "usr/lib/wsl/lib/libcuda.so.1"
    driver.parent.mkdir(parents=True)
    driver.touch()
    assert findings(tmp_path, BUILD)["TensorRT"].mend == "pip install tensorrt"


def test_doctor_of_a_jetson_says_what_it_is_and_what_makes_it_see_its_tensorrt(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    assert examine(root, installed=BUILD.get).device is Device.ORIN_NANO
    found = findings(root, BUILD)
    assert found["Jetson"].says == (
        "Jetson Orin Nano; NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super, JetPack 6.2,"
        " TensorRT 10.3.0.30, power mode 25W, GPU at 306 to 918 MHz"
    )
    assert found["GPU clock"].mend == "sudo jetson_clocks"
    assert found["power"] == Finding("power", State.GOOD, "measured at VDD_IN")
    for of_another_rail in root.glob("sys/bus/i2c/**/in2_input"):
        break_file(of_another_rail)
    assert findings(root, BUILD)["power"] == found["power"]
    assert found["TensorRT"] == Finding(
        "TensorRT",
        State.MISSING,
        "version 10.3.0.30 is installed, but this Python does not see it",
        "python3.10 -m venv --system-site-packages .venv",
    )
    assert "GPU clock" not in findings(fake_jetson(tmp_path / "fixed", AGX_ORIN), BUILD)


@pytest.mark.parametrize(("fake", "version", "python"), [(NANO, "8.2.1.9", "3.6"), (XAVIER_NX, "8.5.2.2", "3.8")])
def test_doctor_of_a_jetson_whose_tensorrt_cannot_be_had_sends_nobody_for_pycuda(
    fake: object, version: str, python: str, tmp_path: Path
) -> None:
    found = findings(fake_jetson(tmp_path, fake), BUILD)  # type: ignore[arg-type]
    assert found["TensorRT"].says == (
        f"version {version} is for Python {python}, which is too old for this tool; bundles for cpu run"
    )
    assert found["TensorRT"].mend is None
    assert "pycuda" not in found


def test_doctor_of_a_jetson_without_tensorrt_or_sensors(tmp_path: Path) -> None:
    unknown = replace(ORIN_NANO, model="Jetson of tomorrow", compatible=("nvidia,tegra999",), tensorrt="")
    root = fake_jetson(tmp_path, unknown)
    rail = next(root.glob("sys/bus/i2c/**/curr1_input"))
    break_file(rail)
    found = findings(root, BUILD)
    assert found["Jetson"].says.startswith("a module that this version does not know; ")
    assert found["TensorRT"].mend == "sudo apt install nvidia-jetpack"
    assert found["power"] == Finding("power", State.NOTE, "cannot be measured: VDD_IN cannot be read")
    for label in root.glob("sys/bus/i2c/**/in*_label"):
        label.unlink()
    assert findings(root, BUILD)["power"].says == "cannot be measured: there is no sensor"


def test_installed_looks_and_does_not_import() -> None:
    assert installed("numpy") is not None
    assert installed("no_such_module") is None
    assert installed("") is None
    assert installed("json") == "unknown"
    assert installed("_pytest") == version("pytest")  # a module of another package's name, as ONNX Runtime's on a GPU
    program = (
        "import sys; from pathlib import Path; from googlenet_edge.engines.doctor import examine; examine(Path('/'));"
        " assert not {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'pycuda'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_doctor_tells_people_and_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ROOT", fake_jetson(tmp_path, ORIN_NANO))
    outcome = done("doctor", "--json", cwd=tmp_path)
    found = json.loads(outcome.out)
    assert (found["device"], found["builds"], "onnxruntime" in found["runs"]) == ("orin-nano", True, True)
    assert {"topic": "power", "state": "ok", "says": "measured at VDD_IN", "mend": None} in found["findings"]
    assert re.search(r"^ok +power +measured at VDD_IN *$", outcome.err, re.MULTILINE), outcome.err
    assert "\nmend GPU clock: sudo jetson_clocks\n" in outcome.err, "a command in one line can be copied"
