"""What each version of TensorRT is told, and what becomes of its refusals. The fake has only the version's members."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from fake_tensorrt import DLA_LINES, Script, fake_library, fake_tensorrt
from hypothesis import given
from hypothesis import strategies as st

from googlenet_edge.engines.tensorrt_builder import Batches, PlanRequest, build_plan, key_of
from googlenet_edge.engines.tensorrt_library import Flavour, library_of, load_library
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Precision, Unit

VERSIONS = ("8.5.2", "8.6.2", "10.3.0", "10.16.1", "11.4.0")
CACHE = b"TRT-8502-EntropyCalibration2\nimages: 3c010a14\n"
REQUEST = PlanRequest(b"graph", Precision.INT8, 1 << 28, Batches(1, 4, 8))
ON_DLA = replace(REQUEST, unit=Unit.DLA, dla_core=1, batches=Batches(4, 4, 4), calibration_cache=CACHE)


def told(version: str, request: PlanRequest = REQUEST, *, flavour: Flavour = Flavour.TENSORRT) -> Script:
    """What a version is told for a request."""
    script = Script()
    build_plan(fake_library(version, script, flavour), request)
    return script


def refusal(version: str, request: PlanRequest, script: Script | None = None) -> str:
    with pytest.raises(EngineError) as caught:
        build_plan(fake_library(version, script or Script()), request)
    return str(caught.value)


@pytest.mark.parametrize(
    ("version", "network", "flags"),
    [
        ("8.5.2", "EXPLICIT_BATCH", ["FP16", "INT8"]),
        ("8.6.2", "EXPLICIT_BATCH", ["FP16", "INT8"]),
        ("10.3.0", "STRONGLY_TYPED", []),
        ("10.16.1", "STRONGLY_TYPED", []),
        ("11.4.0", "STRONGLY_TYPED", []),
    ],
)
def test_precision_comes_by_flags_before_10_and_by_types_from_then_on(
    version: str, network: str, flags: list[str]
) -> None:
    script, known = told(version), fake_tensorrt(version, Script()).NetworkDefinitionCreationFlag
    assert script.network_flags == 1 << int(known[network])
    assert script.flags == flags
    assert script.calibration is None


@pytest.mark.parametrize(("precision", "flags"), [(Precision.FP32, []), (Precision.FP16, ["FP16"])])
def test_flags_allow_no_more_than_was_asked_for(precision: Precision, flags: list[str]) -> None:
    script = told("8.6.2", replace(REQUEST, precision=precision))
    assert (script.flags, script.cleared) == (flags, ["TF32"])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gets_profile_workspace_detailed_layers_and_times_as_trtexec_does(version: str) -> None:
    script = told(version)
    assert script.settings["avg_timing_iterations"] == 8
    assert script.shapes == ((1, 8, 8, 3), (4, 8, 8, 3), (8, 8, 8, 3))
    assert script.settings["profile"]
    assert script.settings["WORKSPACE"] == 1 << 28
    assert script.settings["profiling_verbosity"].name == "DETAILED"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_optimization_level_is_set_where_there_is_one(version: str) -> None:
    expected = {} if version == "8.5.2" else {"builder_optimization_level": 5}
    settings = told(version, replace(REQUEST, level=5)).settings
    assert {k: v for k, v in settings.items() if k == "builder_optimization_level"} == expected


def test_rtx_is_aimed_at_generations_of_gpus() -> None:
    settings = told("1.7.1", replace(REQUEST, targets=("SM86", "SM89")), flavour=Flavour.RTX).settings
    assert settings["num_compute_capabilities"] == 2
    assert (settings["compute capability 0"], settings["compute capability 1"]) == ("SM86", "SM89")


def test_rtx_names_the_generations_that_it_knows() -> None:
    with pytest.raises(EngineError, match="builds for no SM87; it knows: CURRENT, SM86, SM89"):
        told("1.7.1", replace(REQUEST, targets=("SM87",)), flavour=Flavour.RTX)


@pytest.mark.parametrize(("version", "header"), [("8.6.2", b"TRT-8602-"), ("10.3.0", b"TRT-100300-")])
def test_int8_on_a_dla_is_by_the_calibration_cache(version: str, header: bytes) -> None:
    script = told(version, ON_DLA)
    assert script.calibration == header + b"EntropyCalibration2\nimages: 3c010a14\n"
    assert script.flags == ["FP16", "INT8", "GPU_FALLBACK"]
    assert (script.settings["default_device_type"].name, script.settings["DLA_core"]) == ("DLA", 1)
    assert script.settings["calibration profile"]
    assert script.network_flags == (1 if version == "8.6.2" else 0)
    assert script.on_the_gpu == ["CAST", "SHUFFLE"]  # all before the first convolution
    assert script.pixels.shape == (4, 8, 8, 3)  # the one size of its batches
    assert script.pixels.dtype == "UINT8"


def test_fp16_on_a_dla_needs_no_cache() -> None:
    script = told("10.3.0", replace(ON_DLA, precision=Precision.FP16, calibration_cache=b""))
    assert (script.flags, script.calibration) == (["FP16", "GPU_FALLBACK"], None)


def test_the_plan_says_what_is_on_the_dla() -> None:
    plan = build_plan(fake_library("8.6.2", Script(log=DLA_LINES)), ON_DLA)
    assert str(plan.placement) == "1 piece on the DLA, 2 layers on the GPU"


def test_a_plan_of_which_nothing_is_on_the_dla_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    plan = build_plan(fake_library("8.6.2", Script(log=DLA_LINES[1:])), ON_DLA)
    assert str(plan.placement) == "0 pieces on the DLA, 2 layers on the GPU"
    assert caplog.messages == ["tensorrt 8.6.2 puts nothing on the DLA, so the GPU computes all of it"]


@pytest.mark.parametrize(
    ("version", "request_", "sentence"),
    [
        ("11.4.1", ON_DLA, "a DLA needs TensorRT 8.5 to 10.7 (JetPack 6), and this is tensorrt 11.4.1; build"),
        (
            "10.16.0",
            ON_DLA,
            "a DLA needs TensorRT 8.5 to 10.7 (JetPack 6), and this is tensorrt 10.16.0; build",
        ),
        ("10.3.0", replace(ON_DLA, dla_core=2), "tensorrt 10.3.0 finds no DLA core 2 here; build for the GPU"),
    ],
)
def test_what_a_version_cannot_build_is_refused(version: str, request_: PlanRequest, sentence: str) -> None:
    assert sentence in refusal(version, request_)


def test_the_parser_is_quoted_word_for_word() -> None:
    script = Script(parser_errors=("In node 0 (Bar): UNSUPPORTED_NODE", "In node 3 (Foo): UNSUPPORTED_NODE"))
    assert refusal("10.3.0", REQUEST, script) == (
        "tensorrt 10.3.0 does not read the graph: In node 0 (Bar): UNSUPPORTED_NODE; In node 3 (Foo): UNSUPPORTED_NODE;"
        " build a bundle for this device"
    )


def test_a_build_that_fails_is_quoted_word_for_word() -> None:
    script = Script(build_fails_with="Error Code 2: OutOfMemory (requested 512 MiB)")
    assert refusal("8.5.2", REQUEST, script) == (
        "tensorrt 8.5.2 could not build the plan: Error Code 2: OutOfMemory (requested 512 MiB)"
    )


class CtrlC(str):
    """A line during which a person presses it, as Python learns of it: in the middle of a call by TensorRT."""

    __slots__ = ()

    def __format__(self, _: str) -> str:
        raise KeyboardInterrupt  # as its handler does, whatever another test's process did to signals


@pytest.mark.parametrize(("version", "built"), [("8.5.2", True), ("10.3.0", False)])
def test_ctrl_c_while_tensorrt_builds_is_not_lost_and_ends_the_build_where_that_can_be(
    version: str, built: bool
) -> None:
    script = Script(log=[CtrlC("a line"), "another"])
    library = fake_library(version, script)
    with pytest.raises(KeyboardInterrupt):
        build_plan(library, REQUEST)
    assert script.built is built
    script.log = []
    assert build_plan(library, REQUEST).data, "and the next build knows nothing of it"


def test_progress_that_fails_is_that_error_and_not_one_of_tensorrt() -> None:
    def broken(_done: int, _total: int) -> None:
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError, match="the terminal is gone"):
        build_plan(fake_library("10.3.0", Script()), REQUEST, progress=broken)


def test_a_tensorrt_that_cannot_start_is_named_with_what_it_said() -> None:
    assert refusal("10.3.0", REQUEST, Script(starts=False)) == (
        "tensorrt 10.3.0 cannot start: Unable to determine the driver: CUDA initialization failure, error: 35; see"
        " whether the driver is new enough, and memory free"
    )


def test_errors_of_an_earlier_build_are_not_quoted_again() -> None:
    script = Script(build_fails_with="out of memory")
    library = fake_library("8.5.2", script)
    for reason in ("out of memory", "no kernel"):
        script.build_fails_with = reason
        with pytest.raises(EngineError, match=rf"could not build the plan: {reason}$"):
            build_plan(library, REQUEST)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_timing_cache_is_taken_up_and_given_back(version: str) -> None:
    script = Script()
    plan = build_plan(fake_library(version, script), REQUEST, timing_cache=b"from yesterday")
    assert (script.timing_caches, plan.timing_cache) == ([b"from yesterday"], b"learned")


def test_a_timing_cache_of_another_device_is_left_aside(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(foreign_timing_cache=True)
    with caplog.at_level(logging.WARNING):
        build_plan(fake_library("10.3.0", script), REQUEST, timing_cache=b"of another")
    assert script.timing_caches == [b""]
    assert "the timing cache is of another device or damaged" in caplog.text


@pytest.mark.parametrize(("version", "steps"), [("8.6.2", []), ("10.3.0", [(1, 2), (2, 2)])])
def test_progress_is_that_of_the_outermost_phase_where_it_is_told(version: str, steps: list[tuple[int, int]]) -> None:
    seen: list[tuple[int, int]] = []
    build_plan(fake_library(version, Script()), REQUEST, progress=lambda done, total: seen.append((done, total)))
    assert seen == steps


def test_the_plan_is_raw() -> None:
    assert build_plan(fake_library("10.3.0", Script()), REQUEST).data == b"plan of 10.3.0"


def test_a_too_old_tensorrt_is_refused() -> None:
    with pytest.raises(EngineError, match=r"TensorRT 8\.2\.1 is too old, 8\.5 is the oldest .* JetPack 6 or newer"):
        library_of(fake_tensorrt("8.2.1", Script()), Flavour.TENSORRT)


def test_a_missing_tensorrt_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(EngineError, match="tensorrt cannot be loaded .*; on a Jetson it comes with JetPack: sudo apt"):
        load_library(Flavour.TENSORRT)


CHANGES = st.sampled_from(
    [
        {"model": b"another"},
        {"precision": Precision.FP16},
        {"workspace_bytes": 1},
        {"batches": Batches(1, 1, 8)},
        {"level": 4},
        {"unit": Unit.DLA},
        {"dla_core": 1},
        {"calibration_cache": CACHE},
        {"targets": ("SM86",)},
    ]
)


@given(st.lists(CHANGES, unique_by=str))
def test_the_key_is_another_whenever_anything_that_matters_is(changes: list[dict[str, object]]) -> None:
    library, changed = fake_library("10.3.0", Script()), REQUEST
    for change in changes:
        changed = replace(changed, **change)  # type: ignore[arg-type]
    keys = [key_of(library, request, gpu="Orin").sha256 for request in (REQUEST, changed)]
    assert (keys[0] == keys[1]) == (not changes)


def test_the_key_is_another_for_another_library_or_gpu() -> None:
    libraries = [fake_library(version, Script()) for version in ("10.3.0", "10.3.1")]
    keys = {key_of(library, REQUEST, gpu=gpu).sha256 for library in libraries for gpu in ("Orin", "Thor")}
    assert len(keys) == 4
