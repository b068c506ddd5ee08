"""The known devices, and wishes that they cannot fulfil."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from googlenet_edge.engines.devices import (
    PROFILES,
    DeviceProfile,
    Platform,
    known_devices,
    profile_of,
    refuse_impossible,
)
from googlenet_edge.engines.tables import devices_table
from googlenet_edge.engines.tensorrt_library import Flavour, Library
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Device, Precision, Unit


def test_every_word_of_device_has_a_profile_but_the_jetson_at_hand() -> None:
    assert {profile.device for profile in PROFILES} == set(Device) - {Device.JETSON}
    assert len({profile.title for profile in PROFILES}) == len(PROFILES)
    with pytest.raises(EngineError, match=r"^the device jetson can be any Jetson; name it .*: nano, tx2, .*agx-thor$"):
        profile_of(Device.JETSON)


def test_profiles_say_what_the_modules_have() -> None:
    with_int8 = {profile.name for profile in PROFILES if profile.int8}
    assert with_int8 == {profile.name for profile in PROFILES} - {"nano", "tx2"}
    assert all(profile.fp16 for profile in PROFILES)
    assert {p.name for p in PROFILES if p.has_dla} == {"xavier-nx", "agx-xavier", "orin-nx", "agx-orin"}
    assert profile_of(Device.NANO).workspace_bytes == 256 << 20


def test_opset_is_one_that_the_oldest_tensorrt_of_the_device_reads() -> None:
    opsets = {profile.name: profile.opset for profile in PROFILES}
    assert {name for name, opset in opsets.items() if opset == 13} == {"nano", "tx2", "xavier-nx", "agx-xavier"}
    assert {opsets[name] for name in ("orin-nano", "agx-thor", "cuda", "rtx", "cpu")} == {17}


def test_devices_say_which_jetpacks_run_bundles() -> None:
    found = {device.name: device.jetpacks for device in known_devices(None)}
    assert found["nano"] == found["agx-xavier"] == found["cpu"] == ()
    assert found["orin-nano"] == ("6.0", "6.1–6.2", "7.2")
    cells = {row.split()[0]: row.split()[-2:] for row in str_of(devices_table(known_devices(None))).splitlines() if row}
    assert cells["orin-nano"] == ["8.5–10.16", "6.0–7.2"]
    assert cells["agx-thor"] == ["10.13–11.4", "7.0–7.2.2"]
    assert cells["nano"] == ["8.2", "trtexec"]


def test_devices_keep_their_names_on_a_narrow_terminal() -> None:
    lines = str_of(devices_table(known_devices(None)), width=80).splitlines()
    assert {device.name for device in known_devices(None)} <= {line.split()[0] for line in lines if line}
    assert "…" not in "".join(lines)


def str_of(table: Table, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


@pytest.mark.parametrize(("tensorrt", "typed"), [((8, 5), False), ((8, 6, 2), False), ((10, 3), True), ((11, 4), True)])
def test_precision_is_told_by_types_where_flags_go_away(tensorrt: tuple[int, ...], typed: bool) -> None:
    assert Library(Flavour.TENSORRT, tensorrt, None).strongly_typed is typed
    assert Library(Flavour.RTX, (1, 4), None).strongly_typed


def test_precision_of_a_gpu_follows_from_its_compute_capability() -> None:
    def of(major: int, minor: int) -> DeviceProfile:
        return replace(profile_of(Device.AGX_ORIN), compute_capability=(major, minor))

    assert [of(*each).int8 for each in ((5, 3), (6, 1), (6, 2), (7, 0), (12, 1))] == [False, True, False, True, True]
    assert [of(*each).fp16 for each in ((5, 3), (6, 1), (8, 9))] == [True, False, True]


@pytest.mark.parametrize(
    ("device", "precision", "unit", "sentence"),
    [
        (
            Device.NANO,
            Precision.INT8,
            Unit.MAIN,
            "the Jetson Nano (compute capability 5.3) has no INT8; build with --precision fp16",
        ),
        (
            Device.TX2,
            Precision.INT8,
            Unit.MAIN,
            "the Jetson TX2 (compute capability 6.2) has no INT8; build with --precision fp16",
        ),
        (
            Device.ORIN_NANO,
            Precision.INT8,
            Unit.DLA,
            "the Jetson Orin Nano has no DLA; build without --dla, or for one of: xavier-nx, agx-xavier, orin-nx,"
            " agx-orin",
        ),
        (
            Device.CPU,
            Precision.FP16,
            Unit.DLA,
            "the device cpu has no DLA; build without --dla, or for one of: xavier-nx, agx-xavier, orin-nx, agx-orin",
        ),
        (
            Device.AGX_ORIN,
            Precision.FP32,
            Unit.DLA,
            "a DLA has no fp32; build with --precision int8 or fp16, or without --dla",
        ),
    ],
)
def test_impossible_wish_is_refused_with_what_is_possible(
    device: Device, precision: Precision, unit: Unit, sentence: str
) -> None:
    with pytest.raises(EngineError) as refused:
        refuse_impossible(profile_of(device), precision, unit)
    assert str(refused.value) == sentence


def test_possible_wishes_pass() -> None:
    for profile in PROFILES:
        refuse_impossible(profile, Precision.FP16)
        refuse_impossible(profile, Precision.FP32)
        if profile.has_dla:
            refuse_impossible(profile, Precision.INT8, Unit.DLA)
    assert [p.name for p in PROFILES if p.platform is Platform.PROCESSOR] == ["cpu"]
