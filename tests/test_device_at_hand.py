"""What ``--device jetson`` means, on a Jetson and elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_jetson import FAKES, ORIN_NANO, FakeJetson, fake_jetson, fake_pc

from googlenet_edge.engines.devices import device_to_measure, jetson_to_build_for
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Device

UNKNOWN = replace(ORIN_NANO, model="NVIDIA Jetson of tomorrow", compatible=("nvidia,p9999", "nvidia,tegra999"))


@pytest.mark.parametrize("name", FAKES)
def test_jetson_is_the_one_at_hand(name: str, tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, FAKES[name])
    assert jetson_to_build_for(set_to=Device.AGX_THOR, root=root) is Device(name)
    assert device_to_measure(Device.JETSON, root=root) is Device(name)
    assert device_to_measure(Device(name), root=root) is Device(name)


def test_jetson_to_build_for_is_that_of_the_settings_where_none_is_at_hand(tmp_path: Path) -> None:
    assert jetson_to_build_for(set_to=Device.ORIN_NX, root=fake_pc(tmp_path)) is Device.ORIN_NX


@pytest.mark.parametrize("set_to", [None, Device.JETSON, Device.CPU, Device.CUDA])
def test_jetson_to_build_for_has_to_be_known(set_to: Device | None, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as refused:
        jetson_to_build_for(set_to=set_to, root=fake_pc(tmp_path))
    assert str(refused.value) == (
        "this machine is no Jetson; name the one to build for, with --device or as device in gnet-edge.toml:"
        " one of nano, tx2, xavier-nx, agx-xavier, orin-nano, orin-nx, agx-orin, agx-thor"
    )


@pytest.mark.parametrize(
    ("wish", "fake", "sentence"),
    [
        (Device.JETSON, None, "this machine is no Jetson; measure on one with --host user@address"),
        (Device.AGX_ORIN, None, "this machine is no Jetson AGX Orin; measure on one with --host"),
        (Device.AGX_ORIN, ORIN_NANO, "this machine is a Jetson Orin Nano and no Jetson AGX Orin; measure on one"),
    ],
)
def test_measuring_on_another_machine_is_refused(
    wish: Device, fake: FakeJetson | None, sentence: str, tmp_path: Path
) -> None:
    root = fake_jetson(tmp_path, fake) if fake else fake_pc(tmp_path)
    with pytest.raises(EngineError, match=rf"^{sentence}.*, or here with --device cpu$"):
        device_to_measure(wish, root=root)


def test_unknown_jetson_is_what_it_is_said_to_be(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, UNKNOWN)
    sentence = r"does not know this Jetson \(NVIDIA Jetson of tomorrow\); name the nearest with --device: nano"
    with pytest.raises(EngineError, match=sentence):
        device_to_measure(Device.JETSON, root=root)
    with pytest.raises(EngineError, match=sentence):
        jetson_to_build_for(set_to=None, root=root)
    assert device_to_measure(Device.AGX_ORIN, root=root) is Device.AGX_ORIN
    assert jetson_to_build_for(set_to=Device.AGX_ORIN, root=root) is Device.AGX_ORIN


@pytest.mark.parametrize("device", [Device.CPU, Device.CUDA, Device.RTX])
def test_other_devices_are_what_they_are(device: Device, tmp_path: Path) -> None:
    assert device_to_measure(device, root=fake_jetson(tmp_path, ORIN_NANO)) is device
