"""Plans on disk: reused where the key fits, rebuilt where it does not, and never loaded for something else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from fake_tensorrt import Script, fake_library

from googlenet_edge.engines import tensorrt_plans
from googlenet_edge.engines.tensorrt_builder import PlanRequest, build_plan, key_of
from googlenet_edge.engines.tensorrt_layers import NumberType
from googlenet_edge.engines.tensorrt_plans import LAYERS, PLAN, RECORD, plan_at, read_plan, write_plan
from googlenet_edge.errors import BundleError, EngineError, OutputError
from googlenet_edge.files import from_json
from googlenet_edge.target import Precision

REQUEST = PlanRequest(b"graph", Precision.INT8, 1 << 28)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plan that TensorRT 10.3.0 built on an Orin."""
    place = tmp_path / "plan"
    write_plan(place, build_plan(fake_library("10.3.0", Script()), REQUEST, gpu="Orin"))
    return place


def builds_of(folder: Path, version: str = "10.3.0", request: PlanRequest = REQUEST, gpu: str = "Orin") -> int:
    """How many plans are built to have the one that fits."""
    script = Script()
    library = fake_library(version, script)
    stored = plan_at(folder, library, request, gpu=gpu)
    assert read_plan(folder, key_of(library, request, gpu=gpu)).data == stored.data
    return int(script.network_flags is not None)


def test_a_plan_file_is_raw_and_its_layers_stand_beside_it(folder: Path) -> None:
    assert (folder / PLAN).read_bytes() == b"plan of 10.3.0"
    [layer] = from_json((folder / LAYERS).read_bytes(), list[dict[str, object]], where="layers", error=EngineError)
    assert layer["nodes"] == ["conv1", "conv1.relu"]
    assert layer["inputs"] == [{"name": "in", "type": NumberType.INT8.value}]


def test_a_plan_that_fits_is_reused(folder: Path) -> None:
    assert builds_of(folder) == 0


def test_a_plan_is_built_where_there_is_none(tmp_path: Path) -> None:
    assert builds_of(tmp_path / "new") == 1
    assert builds_of(tmp_path / "new") == 0


def test_a_plan_of_another_version_gpu_graph_or_flag_is_rebuilt(folder: Path) -> None:
    assert builds_of(folder, version="10.3.1") == 1
    assert builds_of(folder, gpu="Thor") == 1
    assert builds_of(folder, request=replace(REQUEST, model=b"other")) == 1
    assert builds_of(folder, request=replace(REQUEST, precision=Precision.FP16)) == 1


def test_a_plan_of_another_version_and_gpu_is_refused_with_both_sides(folder: Path) -> None:
    key = key_of(fake_library("10.16.1", Script()), REQUEST, gpu="Thor")
    sentence = (
        r"engine\.plan was built for something else: library tensorrt 10\.3\.0, not tensorrt 10\.16\.1; gpu Orin, not"
        r" Thor; open the bundle here, and it is built again"
    )
    with pytest.raises(BundleError, match=sentence):
        read_plan(folder, key)


@pytest.mark.parametrize("damage", [b"plan", b"plan of 10.3.9", b""])
def test_a_plan_that_is_cut_off_or_changed_is_refused_and_rebuilt(folder: Path, damage: bytes) -> None:
    (folder / PLAN).write_bytes(damage)
    with pytest.raises(BundleError, match=rf"cut off or was changed: {len(damage)} bytes where 14 were written"):
        read_plan(folder, key_of(fake_library("10.3.0", Script()), REQUEST, gpu="Orin"))
    assert builds_of(folder) == 1


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"schema": 99}'])
def test_a_damaged_record_is_refused_and_the_plan_rebuilt(folder: Path, damage: str) -> None:
    (folder / RECORD).write_text(damage)
    with pytest.raises(BundleError, match=r"plan\.json"):
        read_plan(folder, key_of(fake_library("10.3.0", Script()), REQUEST, gpu="Orin"))
    assert builds_of(folder) == 1


def test_the_next_build_on_a_gpu_starts_from_what_was_learned_there(folder: Path) -> None:
    """Of whichever model."""
    other, request = folder.with_name("other"), replace(REQUEST, model=b"other")
    learned = []
    for place, wish, gpu in ((folder, REQUEST, "Orin"), (other, request, "Orin"), (other, request, "Thor")):
        script = Script()
        plan_at(place, fake_library("10.3.1", script), wish, gpu=gpu)
        learned += script.timing_caches
    assert learned == [b"learned", b"learned", b""]


def test_a_cache_that_cannot_be_written_is_known_before_anything_is_compiled(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root may write everywhere
    script = Script()
    with pytest.raises(OutputError, match=r"^cannot write .* written to; set XDG_CACHE_HOME to a writable place$"):
        plan_at(folder / "other", fake_library("10.3.1", script), REQUEST, gpu="Orin")
    assert script.network_flags is None


def test_a_plan_that_finds_no_room_is_used_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OutputError("cannot write plan: No space left on device; free space or give another --out")

    monkeypatch.setattr(tensorrt_plans, "write_bytes", full)
    assert plan_at(folder, fake_library("10.3.1", Script()), REQUEST, gpu="Orin").data == b"plan of 10.3.1"
    said = "the plan is not kept, and next time compiled again: cannot write plan: No space left on device"
    assert caplog.messages[-1] == said
    assert (folder / PLAN).read_bytes() == b"plan of 10.3.0"


def test_a_plan_is_kept_where_what_was_learned_finds_no_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = tensorrt_plans.write_bytes

    def nearly_full(path: Path, data: bytes) -> None:
        if path.suffix == ".cache":
            raise OutputError("cannot write timing.cache: No space left on device; free space or give another --out")
        write(path, data)

    monkeypatch.setattr(tensorrt_plans, "write_bytes", nearly_full)
    assert builds_of(folder, "10.3.1") == 1
    assert builds_of(folder, "10.3.1") == 0
    assert not [said for said in caplog.messages if "not kept" in said]


def test_a_build_that_fails_leaves_the_old_plan(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    library = fake_library("10.3.1", Script(build_fails_with="no memory"))
    with pytest.raises(EngineError, match="could not build the plan: no memory"):
        plan_at(folder, library, REQUEST, gpu="Orin")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
