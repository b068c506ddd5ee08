"""libgne's plugin for TensorRT, built against stand-ins for TensorRT and CUDA that hold to their C++ interfaces."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import libgne
import numpy as np
import pytest
from libgne import BAD_BUNDLE, BAD_RUNTIME, CPP, WARNINGS, Engine, Failed, Library, done, wheel_runtime
from tiny_bundles import colour_bundle, solid

from googlenet_edge.engines.bundle import Bundle, read_bundle, write_bundle
from googlenet_edge.engines.devices import JETSONS
from googlenet_edge.engines.tensorrt_builder import Batches, Plan, PlanKey
from googlenet_edge.engines.tensorrt_layers import Placement
from googlenet_edge.engines.tensorrt_plans import PLAN, RECORD, write_plan
from googlenet_edge.engines.tensorrt_runtime import plans_folder
from googlenet_edge.errors import BundleError
from googlenet_edge.files import sha256_bytes
from googlenet_edge.target import Device, Precision, Unit

FAKE = CPP / "tests" / "fake_tensorrt"
CANNOT_COMPILE = [p.device for p in JETSONS if not any(jetpack.runs_bundles for jetpack in p.jetpacks)]
HOMES = ("HOME", "XDG_CACHE_HOME")
ORIN = "Orin, 8 SMs, compute capability 8.7"


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One library with all that the plugin calls."""
    libgne.need_tools()
    library = tmp_path_factory.mktemp("fake") / "libfake_tensorrt.so"
    shared = ("-shared", "-fPIC", f"-Wl,-soname,{library.name}", f"-I{FAKE}")
    done("c++", "-std=c++17", *WARNINGS, *shared, FAKE / "fake_tensorrt.cpp", "-o", library)
    return library


@pytest.fixture(scope="module")
def plugin(stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin, built and installed as on a device."""
    build = tmp_path_factory.mktemp("plugin")
    found = {"INCLUDE": FAKE, "LIBRARY": stand_in}
    options = [f"-DGNE_{of}_{what}={path}" for of in ("TENSORRT", "CUDA") for what, path in found.items()]
    libgne.cmake(
        CPP, build, "-DGNE_TENSORRT=ON", "-DGNE_WERROR=ON", f"-DCMAKE_INSTALL_PREFIX={build / 'all'}", *options
    )
    done("cmake", "--install", build)
    [library] = (build / "all").glob("lib*/libgne_tensorrt.so.1")
    ctypes.CDLL(str(stand_in))  # where the loader finds it
    return library


@dataclass(frozen=True, slots=True)
class Orin:
    """A device: libgne and its plugin, with a bundle that was compiled there."""

    gne: Library
    plugin: Path
    stand_in: Path
    bundle: Path

    def open(self, bundle: Path | None = None) -> AbstractContextManager[Engine]:
        return self.gne.open(bundle or self.bundle, runtime=self.plugin)

    def refusal(self, bundle: Path | None = None, *, status: int = BAD_RUNTIME) -> str:
        with pytest.raises(Failed) as problem, self.open(bundle):
            pass
        assert problem.value.status == status
        return str(problem.value)

    @property
    def alive(self) -> int:
        """How many of TensorRT's objects and of CUDA's memory were not given back."""
        return int(ctypes.CDLL(str(self.stand_in)).fake_alive())

    @property
    def last_error(self) -> int:
        """What CUDA keeps for whoever asks next in this thread."""
        return int(ctypes.CDLL(str(self.stand_in)).fake_last_error())

    @property
    def enqueued(self) -> int:
        """How often TensorRT was asked to compute, or to be recorded."""
        return int(ctypes.CDLL(str(self.stand_in)).fake_enqueued())

    @property
    def launched(self) -> int:
        """How often a CUDA graph was launched."""
        return int(ctypes.CDLL(str(self.stand_in)).fake_launched())

    @property
    def dla_core(self) -> int:
        """The one that TensorRT was told, or -1."""
        return int(ctypes.CDLL(str(self.stand_in)).fake_core())

    @property
    def plan(self) -> Path:
        """The folder of the bundle's plan."""
        return plan_folder(self.bundle)


@pytest.fixture
def orin(gne: Library, plugin: Path, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Orin:
    """With the colour bundle for an Orin Nano, and its plan where `gnet-edge build BUNDLE` leaves it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Orin(gne, plugin, stand_in, written(tmp_path / "bundle", for_device(Device.ORIN_NANO)))


def for_device(device: Device, unit: Unit = Unit.MAIN) -> Bundle:
    made = colour_bundle(Precision.INT8)
    cache = b"TRT-101300-EntropyCalibration2\n" if unit is Unit.DLA else b""
    return replace(made, manifest=replace(made.manifest, device=device, unit=unit), calibration_cache=cache)


def written(path: Path, bundle: Bundle, *, plan: bytes = b"colours 32 3 8", **key: object) -> Path:
    write_bundle(path, bundle)
    write_plan(plan_folder(path), compiled(bundle, plan, **key))
    return path


def plan_folder(bundle: Path) -> Path:
    """As `open_tensorrt` names it: a bundle for a DLA has a calibration, too."""
    files = [bundle / name for name in ("model.onnx", "calibration.cache") if (bundle / name).exists()]
    name = "-".join(sha256_bytes(file.read_bytes())[:16] for file in files)
    return bundle.parent / "cache" / "gnet-edge" / "plans" / name


def compiled(bundle: Bundle, plan: bytes, **changes: object) -> Plan:
    """What `gnet-edge build BUNDLE` has of TensorRT 10.3.0 on an Orin."""
    key = PlanKey(
        library="tensorrt 10.3.0",
        gpu=ORIN,
        model_sha256=sha256_bytes(bundle.model),
        calibration_sha256=sha256_bytes(bundle.calibration_cache),
        precision=bundle.manifest.precision,
        unit=bundle.manifest.unit,
        dla_core=0,
        batches=Batches(1, 1, 8),
        workspace_bytes=1 << 28,
        level=3,
        targets=(),
    )
    return Plan(replace(key, **changes), plan, (), Placement((), ()), b"", 61.5)  # type: ignore[arg-type]


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def expected(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean(axis=(1, 2)) * 0.031372549 - 4


def test_cpp_plugin_computes_batches_of_any_size_and_gives_everything_back(orin: Orin) -> None:
    """A plan for at most 8 images at a time."""
    before = orin.alive
    with orin.open() as engine:
        assert orin.alive > before
        assert (engine.info.runtime_version, engine.info.precision) == (b"tensorrt 10.3.0", b"int8")
        for count in (1, 8, 3, 21):
            assert np.allclose(engine.run(images(count)), expected(images(count)), atol=1e-4)
    assert orin.alive == before


def test_cpp_plugin_launches_a_batch_size_that_repeats_as_a_graph(orin: Orin) -> None:
    before = orin.alive
    with orin.open() as engine:
        for size, launches in ((5, 8), (1, 8), (5, 8)):
            enqueued, launched = orin.enqueued, orin.launched
            for _ in range(10):
                assert np.allclose(engine.run(images(size)), expected(images(size)), atol=1e-4)
            assert orin.enqueued - enqueued == 4, "three of itself, and what was recorded"
            assert orin.launched - launched == launches, "seven, and one to compare"
        enqueued, launched = orin.enqueued, orin.launched
        for count in (2, 3, 2, 3):
            assert np.allclose(engine.run(images(count)), expected(images(count)), atol=1e-4)
        assert (orin.enqueued - enqueued, orin.launched - launched) == (4, 0)
    assert orin.alive == before


@pytest.mark.parametrize(
    "fails", ["begin", "recorded enqueue", "capture", "graph memory", "empty graph", "other logits", "launch"]
)
def test_cpp_plugin_computes_as_it_did_where_nothing_can_be_recorded(
    orin: Orin, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    before = orin.alive
    with orin.open() as engine:
        monkeypatch.setenv("FAKE_TENSORRT", fails)
        for _ in range(5):
            assert np.allclose(engine.run(images(5)), expected(images(5)), atol=1e-4)
            assert orin.last_error == 0
        monkeypatch.delenv("FAKE_TENSORRT")
        enqueued, launched = orin.enqueued, orin.launched
        for _ in range(5):
            assert np.allclose(engine.run(images(5)), expected(images(5)), atol=1e-4)
        assert (orin.enqueued - enqueued, orin.launched - launched) == (5, 0), "it is not tried again"
    assert orin.alive == before


def test_cpp_plugin_enqueues_after_a_graph_that_failed(orin: Orin, monkeypatch: pytest.MonkeyPatch) -> None:
    with orin.open() as engine:
        for _ in range(4):
            engine.run(images(5))
        for fails, sentence in (("launch", "unspecified launch failure"), ("batch", "unspecified launch failure")):
            monkeypatch.setenv("FAKE_TENSORRT", fails)
            with pytest.raises(Failed, match=rf"^CUDA failed on a batch \({sentence}\)$"):
                engine.run(images(5))
            monkeypatch.delenv("FAKE_TENSORRT")
            launched = orin.launched
            for _ in range(3):
                assert np.allclose(engine.run(images(5)), expected(images(5)), atol=1e-4)
            assert orin.launched == launched + 1, "recorded anew, and compared"


def test_cpp_plugin_leaves_the_callers_device_as_it_is(orin: Orin, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ctypes.CDLL(str(orin.stand_in))
    fake.fake_choose(1)
    try:
        with orin.open() as engine:
            assert np.allclose(engine.run(images(3)), expected(images(3)), atol=1e-4)
            assert fake.fake_device() == 1
            monkeypatch.setenv("FAKE_TENSORRT", "enqueue")
            with pytest.raises(Failed):
                engine.run(images(3))
            assert fake.fake_device() == 1
        assert fake.fake_device() == 1
        orin.refusal()
        assert fake.fake_device() == 1
    finally:
        fake.fake_choose(0)


def test_cpp_plugin_gives_many_threads_their_own_logits(orin: Orin) -> None:
    pixels = images(64)[:, None]
    with orin.open() as engine, ThreadPoolExecutor(8) as threads:
        found = np.concatenate(list(threads.map(engine.run, pixels)))
    assert np.allclose(found, expected(pixels[:, 0]), atol=1e-4)


def end_of_a_program(orin: Orin, gne_prefix: Path, image: Path, how: str, *first: Path) -> None:
    """The end of a program whose last engine is closed after TensorRT's own state has gone."""
    solid("red").save(image)
    places = {"GNE_TENSORRT": str(orin.plugin), "LD_LIBRARY_PATH": str(orin.stand_in.parent)}
    leave = gne_prefix.parent / "build" / "tests" / "leave"
    done(leave, orin.bundle, image, how, *first, env={**os.environ, **places, "GNE_ONNXRUNTIME": str(wheel_runtime())})


def test_cpp_an_engine_that_is_closed_after_its_runtime_has_ended_is_left_as_it_is(
    orin: Orin, gne_prefix: Path, tmp_path: Path
) -> None:
    end_of_a_program(orin, gne_prefix, tmp_path / "red.jpg", "run")


def test_cpp_a_second_runtime_is_left_as_it_is_at_the_end_too(orin: Orin, gne_prefix: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "cpu", colour_bundle())
    end_of_a_program(orin, gne_prefix, tmp_path / "red.jpg", "run", tmp_path / "cpu")


def test_cpp_a_forked_process_ends_without_waiting_for_threads_that_it_has_not(
    orin: Orin, gne_prefix: Path, tmp_path: Path
) -> None:
    end_of_a_program(orin, gne_prefix, tmp_path / "red.jpg", "fork")


def test_cpp_plugin_is_found_by_the_environment(orin: Orin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GNE_TENSORRT", str(orin.plugin))
    with orin.gne.open(orin.bundle, runtime="") as engine:
        assert engine.info.runtime_version == b"tensorrt 10.3.0"


def test_cpp_plugin_puts_a_dla_bundle_on_the_core_that_it_was_compiled_for(orin: Orin, tmp_path: Path) -> None:
    path = written(tmp_path / "dla", for_device(Device.AGX_ORIN, Unit.DLA), plan=b"colours 32 3 1", dla_core=1)
    with orin.open(path) as engine:
        assert orin.dla_core == 1
        launched = orin.launched
        assert np.allclose(engine.run(images(30)), expected(images(30)), atol=1e-4)
        assert orin.launched == launched, "a DLA records nothing"
    write_plan(orin.plan, compiled(for_device(Device.ORIN_NANO), b"colours 32 3 8"))
    with orin.open():
        assert orin.dla_core == -1


WITHOUT_PLUGIN = {Device.CPU, Device.JETSON, Device.RTX, *CANNOT_COMPILE}


@pytest.mark.parametrize("device", [device for device in Device if device not in WITHOUT_PLUGIN])
def test_cpp_opens_bundles_for_every_device_with_tensorrt(orin: Orin, tmp_path: Path, device: Device) -> None:
    with orin.open(written(tmp_path / "other", for_device(device))) as engine:
        assert engine.info.classes == 3


def test_cpp_refuses_a_bundle_for_tensorrt_for_rtx(orin: Orin, tmp_path: Path) -> None:
    path = written(tmp_path / "other", for_device(Device.RTX))
    assert orin.refusal(path, status=BAD_BUNDLE) == (
        f"{path} is built for the device rtx, which this libgne does not know; build it for cpu, cuda or a Jetson"
    )


@pytest.mark.parametrize("device", CANNOT_COMPILE)
def test_cpp_refuses_a_bundle_for_a_jetson_that_cannot_compile_its_plan(
    orin: Orin, tmp_path: Path, device: Device
) -> None:
    path = written(tmp_path / "other", for_device(device))
    assert orin.refusal(path, status=BAD_BUNDLE) == (
        f"{path} is built for the device {device.value}, whose last JetPack is too old for gnet-edge to compile plans"
        " on it; pack it with gnet-edge package --for deepstream, for trtexec on the device"
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"library": "tensorrt 8.6.2"}, "the library tensorrt 8.6.2, not tensorrt 10.3.0"),
        ({"gpu": "Thor"}, f"the GPU Thor, not {ORIN}"),
        ({"model_sha256": "0" * 64}, f"the model {'0' * 64}, not "),
        ({"calibration_sha256": "0" * 64}, f"the calibration {'0' * 64}, not {sha256_bytes(b'')}"),
        ({"precision": Precision.FP16}, "the precision fp16, not int8"),
        ({"unit": Unit.DLA}, "the unit dla, not main"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_cpp_refuses_a_plan_that_was_built_for_something_else(
    orin: Orin, changes: dict[str, object], sentence: str
) -> None:
    write_plan(orin.plan, compiled(for_device(Device.ORIN_NANO), b"colours 32 3 8", **changes))
    text = orin.refusal()
    assert text.startswith(f"{orin.plan / PLAN} was built for {sentence}")
    assert text.endswith(f"; compile the bundle here with: gnet-edge build {orin.bundle}")


def test_cpp_reads_the_letters_of_a_plans_record_however_they_are_written(orin: Orin) -> None:
    record = json.loads((orin.plan / RECORD).read_text())
    for ascii_only in (False, True):
        record["key"]["gpu"] = 'µ 雛 \U0001fae8 \\ "Orin"'
        (orin.plan / RECORD).write_text(json.dumps(record, ensure_ascii=ascii_only))
        assert f"was built for the GPU {record['key']['gpu']}, not {ORIN}; " in orin.refusal()


def test_cpp_refuses_a_dla_plan_that_was_built_from_another_calibration(orin: Orin, tmp_path: Path) -> None:
    bundle = for_device(Device.AGX_ORIN, Unit.DLA)
    path = written(tmp_path / "dla", bundle, calibration_sha256=sha256_bytes(b"another"))
    wanted = f"the calibration {sha256_bytes(b'another')}, not {sha256_bytes(bundle.calibration_cache)};"
    assert f"was built for {wanted}" in orin.refusal(path)


@pytest.mark.parametrize(
    ("cache", "changed", "sentence"),
    [
        (b"scales\n", b"Scales\n", "was changed or damaged since it was written"),
        (b"scales\n", b"scales", "was changed or damaged since it was written"),
        (b"", b"", "is empty, and a DLA quantizes by it; build the bundle again"),
    ],
    ids=["changed", "cut", "empty"],
)
def test_cpp_refuses_a_dla_bundle_whose_calibration_is_not_whole(
    orin: Orin, tmp_path: Path, cache: bytes, changed: bytes, sentence: str
) -> None:
    path = written(tmp_path / "dla", replace(for_device(Device.AGX_ORIN, Unit.DLA), calibration_cache=cache))
    (path / "calibration.cache").write_bytes(changed)
    assert f"calibration.cache {sentence}" in orin.refusal(path, status=BAD_BUNDLE)
    with pytest.raises(BundleError, match=sentence):
        read_bundle(path)


def test_cpp_looks_for_plans_in_the_users_home_where_the_environment_names_none(
    orin: Orin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME")
    assert orin.refusal().startswith(f"{plans_folder() / orin.plan.name / RECORD} is missing; ")


def test_cpp_a_program_with_more_rights_than_its_user_takes_no_plugin_and_no_plans_from_the_environment(
    orin: Orin, gne_prefix: Path, tmp_path: Path
) -> None:
    rights, usual = libgne.rights(gne_prefix, tmp_path), {k: v for k, v in os.environ.items() if k not in HOMES}
    named, found = rights.said(orin.bundle, "", usual | {"GNE_TENSORRT": "/none.so"})
    assert "(/none.so: " in named and "(libgne_tensorrt.so.1: " in found
    plugin = orin.plugin.parents[2] / "plugins" / orin.plugin.name  # which knows where the stand-in lies
    for home in HOMES:
        named, found = rights.said(orin.bundle, plugin, usual | {home: "/none"})
        assert named.startswith("/none/")
        assert found.startswith(f"{pwd.getpwuid(os.getuid()).pw_dir}/.cache/gnet-edge/plans/")


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / RECORD).unlink(), r"plan\.json is missing"),
        (lambda f: (f / "engine.plan").unlink(), r"engine\.plan is missing"),
        (lambda f: (f / RECORD).write_text("{}"), r"plan\.json cannot be read: .*"),
        (lambda f: (f / RECORD).write_text((f / RECORD).read_text()[:-9]), r"plan\.json cannot be read: .*"),
        (lambda f: (f / RECORD).write_text('{"schema": 2}'), r"plan\.json cannot be read: it is of another schema"),
        (lambda f: (f / RECORD).write_text(" " * 70_000), r"plan\.json has 70000 bytes .*"),
        (lambda f: (f / PLAN).write_bytes(b"colours 32 3 9"), r"engine\.plan is cut off or was changed"),
        (lambda f: (f / PLAN).write_bytes(b"colours 32"), r"engine\.plan is cut off or was changed"),
    ],
    ids=["missing", "no plan", "empty", "cut record", "newer record", "large record", "changed", "cut"],
)
def test_cpp_refuses_a_damaged_plan(orin: Orin, change: Change, sentence: str) -> None:
    change(orin.plan)
    text = orin.refusal()
    assert re.fullmatch(rf".*/{sentence}; compile the bundle here with: gnet-edge build {orin.bundle}", text), text


FULL = r"the GPU has no memory for a %s \(out of memory\)"


@pytest.mark.parametrize(
    ("fails", "sentence"),
    [
        ("device", r"CUDA finds no GPU \(no CUDA-capable device is detected\)"),
        ("memory", FULL % "batch"),
        ("pinned memory", FULL % "batch"),
        ("stream", FULL % "stream"),
        ("context", "TensorRT has no memory for an execution context: it says no reason"),
        ("address", "TensorRT does not take the address of the pixels: it says no reason"),
        ("type", "the plan is not one of gnet-edge; build the bundle again"),
        ("shape", "TensorRT does not take a batch of this size: it says no reason"),
        ("enqueue", "TensorRT failed on a batch: it says no reason"),
        ("batch", r"CUDA failed on a batch \(unspecified launch failure\)"),
    ],
)
def test_cpp_plugin_reports_what_fails_and_gives_the_rest_back(
    orin: Orin, monkeypatch: pytest.MonkeyPatch, fails: str, sentence: str
) -> None:
    before = orin.alive
    monkeypatch.setenv("FAKE_TENSORRT", fails)
    text = orin.refusal()
    assert re.fullmatch(sentence, text), text
    assert orin.alive == before
    assert orin.last_error == 0, "CUDA's, which the caller would take for one of its own"


def test_cpp_plugin_computes_on_after_a_batch_that_failed(orin: Orin, monkeypatch: pytest.MonkeyPatch) -> None:
    with orin.open() as engine:
        monkeypatch.setenv("FAKE_TENSORRT", "enqueue")
        with pytest.raises(Failed, match="TensorRT failed on a batch"):
            engine.run(images(2))
        monkeypatch.delenv("FAKE_TENSORRT")
        assert np.allclose(engine.run(images(2)), expected(images(2)), atol=1e-4)


def test_cpp_plugin_gives_no_reason_that_tensorrt_had_in_an_earlier_call(
    orin: Orin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with orin.open() as engine:
        with orin.open():
            pass  # at whose end the stand-in for TensorRT reports an error
        monkeypatch.setenv("FAKE_TENSORRT", "enqueue")
        with pytest.raises(Failed, match="^TensorRT failed on a batch: it says no reason$"):
            engine.run(images(2))


def test_cpp_plugin_passes_tensorrts_error_on(orin: Orin) -> None:
    write_plan(orin.plan, compiled(for_device(Device.ORIN_NANO), b"of another TensorRT"))
    assert orin.refusal() == (
        "TensorRT does not load the plan: Magic tag does not match; remove gnet-edge/plans in your cache folder, and"
        " build the bundle here again"
    )


@pytest.mark.parametrize(("number", "major"), [("8602", 8), ("8502", 8), ("110100", 11)])
def test_cpp_plugin_of_another_tensorrt_is_refused_before_anything_is_called(
    orin: Orin, monkeypatch: pytest.MonkeyPatch, number: str, major: int
) -> None:
    monkeypatch.setenv("FAKE_VERSION", number)
    assert orin.refusal() == (
        f"the plugin was built for TensorRT 10, this process has {major}; build the plugin again, on this device"
    )


@pytest.mark.parametrize(("unit", "allowed"), [(Unit.MAIN, 0.05), (Unit.DLA, 0.2)])
def test_cpp_refuses_a_plan_that_computes_something_else(
    orin: Orin, tmp_path: Path, unit: Unit, allowed: float
) -> None:
    made = for_device(Device.AGX_ORIN, unit)
    logits, path = made.golden.logits.copy(), tmp_path / "wrong"
    logits[0, 1] += 3.9 * allowed  # the largest one is 4
    with orin.open(written(path, replace(made, golden=replace(made.golden, logits=logits)))):
        pass
    logits[0, 1] += 0.2 * allowed
    text = orin.refusal(written(path, replace(made, golden=replace(made.golden, logits=logits))), status=BAD_BUNDLE)
    assert text == (
        f"{path} computes something else on this machine: its golden logits differ by {4.1 * allowed:.3g}, at most"
        f" {4 * allowed:.3g} is allowed for int8; upgrade the runtime, or build the bundle here"
    )


@pytest.mark.parametrize("what", ["missing", "another library", "another interface"])
def test_cpp_without_a_plugin_says_how_to_build_one(orin: Orin, tmp_path: Path, what: str) -> None:
    path = {"missing": Path("/nowhere/libgne_tensorrt.so"), "another library": orin.stand_in}.get(what)
    if path is None:
        path = tmp_path / "newer.so"
        (tmp_path / "newer.c").write_text("unsigned table[9] = {2};\nvoid* gne_plugin_table(void) { return table; }\n")
        done("cc", "-shared", "-fPIC", tmp_path / "newer.c", "-o", path)
    starts = {
        "missing": "libgne's plugin for TensorRT cannot be loaded (",
        "another library": f"{path} is no plugin of libgne; ",
        "another interface": f"{path} is of the interface 2, this libgne has 1; ",
    }
    text = replace(orin, plugin=path).refusal()
    assert text.startswith(starts[what])
    assert text.endswith(
        "build it on this device with -DGNE_TENSORRT=ON, and name it in options.runtime or $GNE_TENSORRT"
    )
