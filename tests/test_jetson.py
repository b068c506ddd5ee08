"""What a Jetson says about itself, read from Jetsons made of files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_jetson import AGX_ORIN, FAKES, NANO, ORIN_NANO, XAVIER_NX, break_file, fake_jetson, fake_pc

from googlenet_edge.engines import jetson as jetson_files
from googlenet_edge.engines.jetson import Clock, Jetson, detect, read_jetson, run_tool
from googlenet_edge.target import Device


@pytest.mark.parametrize("name", FAKES)
def test_jetson_is_recognized(name: str, tmp_path: Path) -> None:
    assert detect(fake_jetson(tmp_path, FAKES[name])) is Device(name)


@pytest.mark.parametrize(
    ("fake", "expected"),
    [
        (
            NANO,
            Jetson(
                device=Device.NANO,
                model="NVIDIA Jetson Nano Developer Kit",
                l4t="32.7.1",
                jetpack="4.6.1",
                tensorrt="8.2.1.9",
                cuda="10.2.300",
                power_mode="MAXN",
                cpu_clock=Clock(1479, 102, 1479),
                gpu_clock=Clock(77, 77, 922),
            ),
        ),
        (
            XAVIER_NX,
            Jetson(
                device=Device.XAVIER_NX,
                model="NVIDIA Jetson Xavier NX Developer Kit",
                l4t="35.4.1",
                jetpack="5.1.2",
                tensorrt="8.5.2.2",
                cuda="11.4.315",
                power_mode="MODE_15W_6CORE",
                cpu_clock=Clock(1190, 1190, 1421),
                gpu_clock=Clock(115, 115, 1109),
            ),
        ),
        (
            ORIN_NANO,
            Jetson(
                device=Device.ORIN_NANO,
                model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
                l4t="36.4.3",
                jetpack="6.2",
                tensorrt="10.3.0.30",
                cuda="12.6.68",
                power_mode="25W",
                cpu_clock=Clock(1344, 730, 1344),
                gpu_clock=Clock(306, 306, 918),
            ),
        ),
        (
            AGX_ORIN,
            Jetson(
                device=Device.AGX_ORIN,
                model="NVIDIA Jetson AGX Orin Developer Kit",
                l4t="36.3.0",
                jetpack="6.0",
                tensorrt="8.6.2.3",
                cuda="12.2.140",
                power_mode="MAXN",
                cpu_clock=Clock(2202, 2202, 2202),
                gpu_clock=Clock(1300, 1300, 1300),
            ),
        ),
    ],
    ids=FAKES,
)
def test_jetson_tells_who_it_is(fake: object, expected: Jetson, tmp_path: Path) -> None:
    assert read_jetson(fake_jetson(tmp_path, fake)) == expected  # type: ignore[arg-type]


def test_clock_is_locked_where_it_cannot_move() -> None:
    assert Clock(1300, 1300, 1300).locked
    assert not Clock(1300, 306, 1300).locked


def test_other_machine_is_no_jetson(tmp_path: Path) -> None:
    assert (detect(fake_pc(tmp_path)), read_jetson(tmp_path)) == (None, None)


@pytest.mark.parametrize(
    ("model", "compatible", "device"),
    [
        ("A carrier board", "nvidia,p3509-0000+p3767-0001", Device.ORIN_NX),
        ("A carrier board", "nvidia,p3509-0000+p3767-0004", Device.ORIN_NANO),
        ("A carrier board of Jetson Orin NX 16GB", "maker,board", Device.ORIN_NX),
        ("Jetson-AGX", "nvidia,galen", Device.AGX_XAVIER),
        ("quill", "nvidia,p2597-0000+p3310-1000", Device.TX2),
        ("NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p4071-0000+p3834-0008", Device.AGX_THOR),
        ("NVIDIA Jetson TX1", "nvidia,p2371-2180", None),
    ],
)
def test_module_counts_and_not_the_board_that_carries_it(
    model: str, compatible: str, device: Device | None, tmp_path: Path
) -> None:
    root = fake_jetson(tmp_path, replace(ORIN_NANO, model=model, compatible=(compatible, "nvidia,tegra")))
    assert detect(root) is device
    found = read_jetson(root)
    assert found is not None
    assert (found.device, found.model) == (device, model)


def test_jetpack_follows_from_the_release_where_its_package_is_missing(tmp_path: Path) -> None:
    known = (((32, "7.4"), "4.6.1"), ((35, "6.1"), "5.1.5"), ((36, "4.0"), "6.1"), ((36, "4.4"), "6.2.1"))
    for release, jetpack in (*known, ((36, "4.9"), None), ((40, "1.0"), None)):
        found = read_jetson(fake_jetson(tmp_path, replace(ORIN_NANO, l4t=release)))
        assert found is not None
        assert (found.l4t, found.jetpack) == (f"{release[0]}.{release[1]}", jetpack)


def test_release_is_that_of_the_package_where_its_file_is_missing(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    (root / "etc/nv_tegra_release").unlink()
    found = read_jetson(root)
    assert found is not None
    assert found.l4t == "36.4.3"


def test_power_mode_comes_from_its_file_where_the_tool_fails(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, XAVIER_NX)
    (root / "usr/sbin/nvpmodel").write_text("#!/bin/sh\necho NV Power Mode: MODE_OF_AN_ERROR\nexit 1\n")
    found = read_jetson(root)
    assert found is not None
    assert found.power_mode == "MODE_15W_6CORE"
    (root / "etc/nvpmodel.conf").unlink()
    found = read_jetson(root)
    assert found is not None
    assert found.power_mode == "mode 2"


def test_jetson_without_anything_to_read_is_still_one(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    (root / "usr/sbin/nvpmodel").chmod(0o644)
    (root / "usr/local/cuda/version.json").write_text('{"cuda": 12}')
    for path in ("proc/device-tree/model", "var/lib/dpkg/status", "var/lib/nvpmodel/status", "etc/nv_tegra_release"):
        break_file(root / path)
    for path in root.glob("sys/class/devfreq/*/cur_freq"):
        break_file(path)
    (root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq").write_text("fast\n")
    assert read_jetson(root) == Jetson(Device.ORIN_NANO, None, None, None, None, None, None, None, None)


def test_tool_that_is_missing_fails_or_is_no_program_says_nothing(tmp_path: Path) -> None:
    assert run_tool(tmp_path / "missing") is None
    for name, text in (("fails", "#!/bin/sh\necho no; exit 3\n"), ("garbage", "\x00\x01")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
        assert run_tool(tmp_path / name) is None


def test_tool_that_does_not_end_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetson_files, "_TOOL_TIMEOUT_S", 0.1)
    assert run_tool(Path("/bin/sleep"), "60") is None


def test_gpu_that_is_off_meanwhile_has_a_clock_that_moves(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    now = root / "sys/class/devfreq/17000000.gpu/cur_freq"
    now.write_text("0\n")
    jetson = read_jetson(root)
    assert jetson is not None
    assert jetson.gpu_clock == Clock(0, 306, 918)
    assert not jetson.gpu_clock.locked
    for limit in ("min_freq", "max_freq"):
        now.with_name(limit).write_text("0\n")
    jetson = read_jetson(root)
    assert jetson is not None
    assert jetson.gpu_clock is None, "and none that is fixed at nothing"


def test_package_that_was_removed_is_not_there(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    status = root / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace("install ok installed", "deinstall ok config-files"))
    jetson = read_jetson(root)
    assert jetson is not None
    assert (jetson.tensorrt, jetson.jetpack) == (None, "6.2"), "by the release of Jetson Linux"
