"""Jetsons made of files: ``/proc``, ``/sys``, ``/etc`` and NVIDIA's tools, in the shapes and units of the real ones.

`fake_jetson(folder, ORIN_NANO)` writes a root that everything in `engines.jetson` and `engines.sensors` reads as
it reads ``/``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Rail:
    """What one channel of a power monitor measures: millivolts and milliamperes."""

    label: str
    mv: int
    ma: int


@dataclass(frozen=True, slots=True)
class FakeJetson:
    """``monitors`` are the I²C addresses of the INA3221, each with its channels in order; ``zones`` are in m°C.

    ``l4t`` is the release and revision of Jetson Linux; from 35 on, the power monitors are hwmon devices.
    """

    model: str
    compatible: tuple[str, ...]
    l4t: tuple[int, str]
    jetpack: str | None
    tensorrt: str
    cuda: str
    modes: tuple[str, ...]
    mode: int
    gpu: str
    gpu_hz: tuple[int, int, int]
    cpu_khz: tuple[int, int, int]
    monitors: dict[str, tuple[Rail, ...]]
    zones: dict[str, int]
    over_current: bool

    @property
    def hwmon(self) -> bool:
        return self.l4t[0] >= 35


NANO = FakeJetson(
    model="NVIDIA Jetson Nano Developer Kit",
    compatible=("nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano", "nvidia,tegra210"),
    l4t=(32, "7.1"),
    jetpack="4.6.1-b110",
    tensorrt="8.2.1.9-1+cuda10.2",
    cuda="10.2.300",
    modes=("MAXN", "5W"),
    mode=0,
    gpu="57000000.gpu",
    gpu_hz=(76_800_000, 76_800_000, 921_600_000),
    cpu_khz=(1_479_000, 102_000, 1_479_000),
    monitors={"6-0040": (Rail("POM_5V_IN", 4976, 420), Rail("POM_5V_GPU", 4976, 8), Rail("POM_5V_CPU", 4976, 83))},
    zones={
        "AO-therm": 41_500,
        "CPU-therm": 33_000,
        "GPU-therm": 31_500,
        "PLL-therm": 31_000,
        "PMIC-Die": 100_000,
        "thermal-fan-est": 32_250,
    },
    over_current=False,
)

XAVIER_NX = FakeJetson(
    model="NVIDIA Jetson Xavier NX Developer Kit",
    compatible=("nvidia,p3509-0000+p3668-0000", "nvidia,p3668-0000", "nvidia,tegra194"),
    l4t=(35, "4.1"),
    jetpack="5.1.2-b104",
    tensorrt="8.5.2.2-1+cuda11.4",
    cuda="11.4.315",
    modes=("MODE_15W_2CORE", "MODE_15W_4CORE", "MODE_15W_6CORE", "MODE_10W_2CORE", "MODE_10W_4CORE"),
    mode=2,
    gpu="17000000.gv11b",
    gpu_hz=(114_750_000, 114_750_000, 1_109_250_000),
    cpu_khz=(1_190_400, 1_190_400, 1_420_800),
    monitors={
        "7-0040": (Rail("VDD_IN", 5040, 840), Rail("VDD_CPU_GPU_CV", 5040, 144), Rail("VDD_SOC", 5040, 208)),
    },
    zones={"CPU-therm": 38_500, "GPU-therm": 37_000, "AUX-therm": 37_000, "AO-therm": 37_500, "PMIC-Die": 50_000},
    over_current=False,
)

ORIN_NANO = FakeJetson(
    model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
    l4t=(36, "4.3"),
    jetpack=None,  # the package is not installed with the system
    tensorrt="10.3.0.30-1+cuda12.5",
    cuda="12.6.68",
    modes=("15W", "25W", "MAXN_SUPER"),
    mode=1,
    gpu="17000000.gpu",
    gpu_hz=(306_000_000, 306_000_000, 918_000_000),
    cpu_khz=(1_344_000, 729_600, 1_344_000),
    monitors={
        "1-0040": (Rail("VDD_IN", 5048, 952), Rail("VDD_CPU_GPU_CV", 5048, 136), Rail("VDD_SOC", 5040, 296)),
    },
    zones={
        "cpu-thermal": 48_500,
        "gpu-thermal": 49_062,
        "cv0-thermal": -256_000,  # without power
        "soc0-thermal": 47_218,
        "soc1-thermal": 48_968,
        "soc2-thermal": 47_781,
        "tj-thermal": 49_062,
    },
    over_current=True,
)

AGX_ORIN = FakeJetson(
    model="NVIDIA Jetson AGX Orin Developer Kit",
    compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
    l4t=(36, "3.0"),
    jetpack="6.0+b106",
    tensorrt="8.6.2.3-1+cuda12.2",
    cuda="12.2.140",
    modes=("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
    mode=0,
    gpu="17000000.ga10b",
    gpu_hz=(1_300_500_000, 1_300_500_000, 1_300_500_000),
    cpu_khz=(2_201_600, 2_201_600, 2_201_600),
    monitors={
        "1-0040": (Rail("VDD_GPU_SOC", 19_936, 160), Rail("VDD_CPU_CV", 19_936, 40), Rail("VIN_SYS_5V0", 4968, 800)),
        "1-0041": (Rail("NC", 0, 0), Rail("VDDQ_VDD2_1V8AO", 4968, 120), Rail("NC", 0, 0)),
    },
    zones={"cpu-thermal": 44_531, "gpu-thermal": 40_000, "cv0-thermal": -256_000, "tj-thermal": 44_531},
    over_current=True,
)

FAKES = {"nano": NANO, "xavier-nx": XAVIER_NX, "orin-nano": ORIN_NANO, "agx-orin": AGX_ORIN}


def fake_jetson(root: Path, fake: FakeJetson) -> Path:
    """Writes the files of a Jetson below ``root``, and returns it."""
    _identity(root, fake)
    _clocks(root, fake)
    for address, rails in fake.monitors.items():
        (_hwmon_monitor if fake.hwmon else _iio_monitor)(root, address, rails)
    for number, (kind, temperature) in enumerate(fake.zones.items()):
        _lines(root / f"sys/devices/virtual/thermal/thermal_zone{number}", type=kind, temp=temperature)
    if fake.over_current:
        _lines(root / "sys/class/hwmon/hwmon0", name="soctherm_oc")
        for number in (1, 2, 3):
            set_throttle_events(root, number, 7 * (number - 1))
    _tools(root, fake)
    return root


def fake_pc(root: Path) -> Path:
    """A machine that is no Jetson, though it has a thermal zone."""
    _lines(root / "sys/devices/virtual/thermal/thermal_zone0", type="x86_pkg_temp", temp=50_000)
    _write(root / "proc/cpuinfo", "model name\t: Intel(R) N100\n")
    return root


def set_throttle_events(root: Path, number: int, count: int) -> None:
    """What the counter of over-current alarm ``number`` stands at."""
    _lines(root / "sys/class/hwmon/hwmon0", **{f"oc{number}_event_cnt": count})


def break_file(path: Path) -> None:
    """Has every read of a file fail, for root, too, as a sensor does whose driver returns an error."""
    path.unlink()
    path.mkdir()


def _identity(root: Path, fake: FakeJetson) -> None:
    _write(root / "proc/device-tree/model", f"{fake.model}\0")
    _write(root / "proc/device-tree/compatible", "".join(f"{name}\0" for name in fake.compatible))
    release, revision = fake.l4t
    board = "t210ref" if release < 35 else "generic"
    date = "Wed Jan  8 01:49:37 UTC 2025"
    _write(
        root / "etc/nv_tegra_release",
        f"# R{release} (release), REVISION: {revision}, GCID: 38968081, BOARD: {board}, EABI: aarch64, DATE: {date}\n",
    )
    packages = {"nvidia-l4t-core": f"{release}.{revision}-20250107174145", "tensorrt": fake.tensorrt}
    if fake.jetpack:
        packages["nvidia-jetpack"] = fake.jetpack
    entries = [
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n" for name, version in packages.items()
    ]
    removed = "Package: libnvinfer8\nStatus: deinstall ok config-files\nVersion: 8.0.1-1+cuda10.2\n"
    _write(root / "var/lib/dpkg/status", "\n".join([removed, *entries]))
    if fake.hwmon:
        _write(root / "usr/local/cuda/version.json", json.dumps({"cuda": {"name": "CUDA SDK", "version": fake.cuda}}))
    else:
        _write(root / "usr/local/cuda/version.txt", f"CUDA Version {fake.cuda}\n")


def _clocks(root: Path, fake: FakeJetson) -> None:
    now, low, high = fake.cpu_khz
    cpu = root / "sys/devices/system/cpu/cpu0/cpufreq"
    _lines(cpu, scaling_cur_freq=now, scaling_min_freq=low, scaling_max_freq=high, scaling_governor="schedutil")
    now, low, high = fake.gpu_hz
    _lines(root / "sys/class/devfreq" / fake.gpu, cur_freq=now, min_freq=low, max_freq=high)
    _lines(root / "sys/class/devfreq/15340000.vic", cur_freq=1, min_freq=1, max_freq=1)


def _hwmon_monitor(root: Path, address: str, rails: tuple[Rail, ...]) -> None:
    folder = root / "sys/bus/i2c/drivers/ina3221" / address / "hwmon" / f"hwmon{address[-1]}"
    _lines(folder, name="ina3221", in7_label="sum of shunt voltages", in7_input=9320, curr4_input=1384)
    for number, rail in enumerate(rails, 1):
        _lines(
            folder, **{f"in{number}_label": rail.label, f"in{number}_input": rail.mv, f"curr{number}_input": rail.ma}
        )
        _lines(folder, **{f"in{number + 3}_input": rail.ma * 5})  # µV across the shunt


def _iio_monitor(root: Path, address: str, rails: tuple[Rail, ...]) -> None:
    folder = root / "sys/bus/i2c/drivers/ina3221x" / address / "iio:device0"
    for number, rail in enumerate(rails):
        _lines(
            folder,
            **{
                f"rail_name_{number}": rail.label,
                f"in_voltage{number}_input": rail.mv,
                f"in_current{number}_input": rail.ma,
                f"in_power{number}_input": rail.mv * rail.ma // 1000,
            },
        )


def _tools(root: Path, fake: FakeJetson) -> None:
    """Shell scripts that answer and act within ``root`` as NVIDIA's do on ``/``, as far as they are used here."""
    _write(root / "var/lib/nvpmodel/status", f"pmode:{fake.mode:04}\n")
    names = "".join(f"< POWER_MODEL ID={number} NAME={name} >\n" for number, name in enumerate(fake.modes))
    _write(root / "etc/nvpmodel.conf", f"# clocks of the modes\n{names}< PM_CONFIG DEFAULT={fake.mode} >\n")
    fan = "echo NV Fan Mode:quiet\n" if not fake.hwmon else ""
    gpu = f"{root}/sys/class/devfreq/{fake.gpu}"
    _script(
        root / "usr/sbin/nvpmodel",
        f"""
status={root}/var/lib/nvpmodel/status
case "$1" in
-q) mode=$(sed 's/pmode:0*//' "$status"); mode=${{mode:-0}}
    {fan}echo "NV Power Mode: $(sed -n "s/< POWER_MODEL ID=$mode NAME=\\(.*\\) >/\\1/p" {root}/etc/nvpmodel.conf)"
    echo "$mode" ;;
-m) printf 'pmode:%04d\\n' "$2" > "$status"; echo {fake.gpu_hz[1]} > {gpu}/min_freq ;;
*) exit 1 ;;
esac
""",
    )
    cpu = f"{root}/sys/devices/system/cpu/cpu0/cpufreq"
    _script(
        root / "usr/bin/jetson_clocks",
        f"""
case "$1" in
'') cat {gpu}/max_freq > {gpu}/min_freq; cat {cpu}/scaling_max_freq > {cpu}/scaling_min_freq ;;
--store) echo "{gpu}/min_freq:$(cat {gpu}/min_freq)" > "$2"
    echo "{cpu}/scaling_min_freq:$(cat {cpu}/scaling_min_freq)" >> "$2" ;;
--restore) while IFS= read -r line; do echo "${{line##*:}}" > "${{line%:*}}"; done < "$2" ;;
*) exit 1 ;;
esac
""",
    )
    rails = " ".join(
        f"{r.label} {r.mv * r.ma // 1000}mW/{r.mv * r.ma // 1000}mW"
        for rails in fake.monitors.values()
        for r in rails
        if r.label != "NC"
    )
    zones = " ".join(f"{kind.removesuffix('-thermal')}@{m / 1000:g}C" for kind, m in fake.zones.items())
    line = (
        f"01-08-2025 12:00:00 RAM 2448/7620MB (lfb 4x4MB) CPU [5%@729,2%@729] EMC_FREQ 0% GR3D_FREQ 0% {zones} {rails}"
    )
    _script(root / "usr/bin/tegrastats", f"\nwhile :; do echo '{line}'; sleep 1; done\n")


def _script(path: Path, body: str) -> None:
    _write(path, f"#!/bin/sh{body}")
    path.chmod(0o755)


def _lines(folder: Path, **values: str | int) -> None:
    for name, value in values.items():
        _write(folder / name, f"{value}\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
