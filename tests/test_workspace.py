"""What a command takes when nobody says: settings, the newest of a kind, the images of a training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from googlenet_edge.errors import ConfigError, OutputError
from googlenet_edge.target import Device, EngineChoice, Precision
from googlenet_edge.workspace import (
    RunRecord,
    Settings,
    read_run_record,
    read_settings,
    refuse_inside_bundle,
    run_folder_for,
    split_seed,
    take_bundle,
    take_bundles,
    take_checkpoint,
    take_data,
    take_graph,
    write_run_record,
)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(path: str, *, age: int = 0) -> Path:
    """A file that was last written ``age`` seconds after some moment."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    os.utime(file, (1e9 + age, 1e9 + age))
    return file


def test_settings_are_empty_where_there_is_no_file() -> None:
    assert read_settings() == Settings()


def test_settings_are_read_with_their_types() -> None:
    Path("gnet-edge.toml").write_text(
        'data = "photos"\nprecision = "int8"\ndevice = "cpu"\nengine = "auto"\nmax_drop = 1\nthreads = 2'
    )
    assert read_settings() == Settings(
        data="photos",
        precision=Precision.INT8,
        device=Device.CPU,
        engine=EngineChoice.AUTO,
        max_drop=1.0,
        threads=2,
    )


def test_settings_may_begin_with_a_byte_order_mark() -> None:
    Path("gnet-edge.toml").write_bytes(b"\xef\xbb\xbfthreads = 2")
    assert read_settings().threads == 2


def test_settings_that_lead_nowhere_are_not_taken_for_none() -> None:
    Path("gnet-edge.toml").symlink_to("gnet-edge.toml")
    with pytest.raises(ConfigError, match=r"gnet-edge\.toml cannot be read: Too many levels of symbolic links"):
        read_settings()


def test_runs_that_lead_nowhere_are_named() -> None:
    Path("runs").symlink_to("runs")
    with pytest.raises(ConfigError, match=r"there is no checkpoint under .*runs; train first"):
        take_checkpoint(None, Settings())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('presicion = "int8"', r"Object contains unknown field `presicion`; it may set data, checkpoint, precision"),
        ('precision = "int4"', r"Invalid enum value 'int4' - at `\$\.precision`"),
        ('threads = "two"', r"Expected `int \| null`, got `str` - at `\$\.threads`"),
        ("threads = 0", r"Expected `int` >= 1 - at `\$\.threads`"),
        ("max_drop = -1", r"Expected `float` >= 0\.0 - at `\$\.max_drop`"),
        ("threads =", r"Invalid value \(at "),
        ("data = '\udcff'", r"can't decode byte"),
        ("threads = 257", r"Expected `int` <= 256 - at `\$\.threads`"),
        ("max_drop = inf", r"Expected `float` <= 100\.0 - at `\$\.max_drop`"),
        ("data = " + "[" * 100_000, "recursion"),
    ],
)
def test_settings_that_are_wrong_are_named(text: str, sentence: str) -> None:
    Path("gnet-edge.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"gnet-edge\.toml cannot be used: .*" + sentence):
        read_settings()


def test_checkpoint_given_wins_over_the_settings_and_these_over_the_newest() -> None:
    given, settings = touch("given.safetensors"), Settings(checkpoint=str(touch("set.safetensors")))
    newest = touch("runs/b/checkpoint.safetensors", age=2)
    touch("runs/a/checkpoint.safetensors", age=1)
    touch("runs/c/checkpoint.safetensors", age=1)
    touch("runs/b/pruned.safetensors", age=3)
    taken = [
        take_checkpoint(given, settings),
        take_checkpoint(None, settings),
        take_checkpoint(None, Settings()),
    ]
    assert [(t.path, t.because) for t in taken] == [
        (given, "given"),
        (Path("set.safetensors"), "gnet-edge.toml says so"),
        (newest, "the newest under runs/"),
    ]


def test_checkpoint_that_is_missing_is_told_with_who_named_it() -> None:
    with pytest.raises(ConfigError, match=r"^gone\.safetensors, which gnet-edge\.toml names, is missing; train first"):
        take_checkpoint(None, Settings(checkpoint="gone.safetensors"))
    with pytest.raises(ConfigError, match=r"^gone\.safetensors is missing; train first"):
        take_checkpoint(Path("gone.safetensors"), Settings(checkpoint="other.safetensors"))


def test_graph_and_bundle_are_the_newest() -> None:
    touch("runs/a/googlenet.onnx", age=1)
    graph = touch("runs/b/googlenet.onnx", age=2)
    manifest = touch("runs/a/int8-cpu/manifest.json", age=2)
    touch("runs/b/int8-cpu/manifest.json", age=1)
    touch("runs/a/fp32-cpu/model.onnx", age=3)
    assert take_graph(None).path == graph
    assert take_bundle(None).path == manifest.parent
    assert take_bundle(Path("runs/b/int8-cpu")).because == "given"


def test_bundle_of_a_slimmed_network_can_be_the_newest() -> None:
    original = touch("runs/a/int8-cpu/manifest.json")
    newest = touch("runs/a/slim-1.5/int8-cpu/manifest.json", age=10)
    assert take_bundle(None).path == newest.parent
    assert [each.path for each in take_bundles([])] == [original.parent, newest.parent]


@pytest.mark.parametrize(("path", "inside"), [("../m.json", False), ("../b/m.json", True), ("m.json", True)])
def test_bundle_is_guarded_by_where_a_path_leads(path: str, inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = touch("runs/b/manifest.json").parent
    touch("runs/b/model.onnx")
    monkeypatch.chdir(bundle)
    if inside:
        with pytest.raises(OutputError, match="runs/b is a bundle; give another --out"):
            refuse_inside_bundle(Path(path))
    else:
        refuse_inside_bundle(Path(path))


@pytest.mark.parametrize("given", [None, Path("absent")])
def test_what_is_not_there_is_named_with_the_command_that_makes_it(given: Path | None) -> None:
    found = r"^absent is missing; " if given else r"^there is no {} under .*runs; "
    with pytest.raises(
        ConfigError, match=found.format("checkpoint") + r"train first with: gnet-edge train --data DIR$"
    ):
        take_checkpoint(given, Settings())
    with pytest.raises(ConfigError, match=found.format("graph") + r"export one first with: gnet-edge export$"):
        take_graph(given)
    with pytest.raises(ConfigError, match=found.format("bundle") + r"build one first with: gnet-edge build"):
        take_bundle(given)


def test_data_is_what_the_run_was_trained_on() -> None:
    run = touch("runs/photos/checkpoint.safetensors").parent
    with pytest.raises(
        ConfigError, match=r"^runs/photos does not say which images it was trained on; give --data DIR$"
    ):
        take_data(None, Settings(), run)
    write_run_record(run, RunRecord("/images/photos", seed=7))
    taken = take_data(None, Settings(), run)
    assert (taken.path, taken.because) == (Path("/images/photos"), "photos was trained on it")
    assert split_seed(run) == 7
    assert take_data(None, Settings(data="others"), run).path == Path("others")
    assert take_data(Path("given"), Settings(data="others"), run).path == Path("given")


def test_run_record_that_is_damaged_is_named() -> None:
    touch("runs/photos/run.json")
    with pytest.raises(ConfigError, match=r"runs/photos/run\.json cannot be read"):
        read_run_record(Path("runs/photos"))
    assert split_seed(Path("runs/elsewhere")) == 0


def test_run_folder_is_free_or_was_interrupted() -> None:
    data = Path("somewhere/photos")
    assert run_folder_for(data) == run_folder_for(Path(".photos")) == Path("runs/photos"), "what is hidden is not found"
    touch("runs/photos/checkpoint.safetensors")
    assert run_folder_for(data) == Path("runs/photos-2")
    touch("runs/photos-2/training-state.safetensors")
    assert run_folder_for(data) == Path("runs/photos-2")
    touch("runs/photos-2/checkpoint.safetensors")
    assert run_folder_for(data) == Path("runs/photos-3"), "killed between the checkpoint and the end"
    Path("runs/photos-2/training-state.safetensors").unlink()
    assert run_folder_for(data) == Path("runs/photos-3")


def test_bundles_are_all_of_the_newest_run_by_name() -> None:
    for name in ("int8-cpu", "fp32-cpu", "fp16-cpu"):
        touch(f"runs/photos/{name}/manifest.json", age=2)
    touch("runs/other/int8-cpu/manifest.json", age=1)
    touch("runs/photos/notes/readme.txt")
    assert [(taken.path.name, taken.because) for taken in take_bundles([])] == [
        ("fp16-cpu", "of the newest run"),
        ("fp32-cpu", "of the newest run"),
        ("int8-cpu", "of the newest run"),
    ]
    assert [taken.because for taken in take_bundles([Path("runs/other/int8-cpu")])] == ["given"]
    with pytest.raises(ConfigError, match=r"absent is missing"):
        take_bundles([Path("absent")])


def test_newest_is_never_what_is_being_written_or_was_left_by_a_kill() -> None:
    touch("runs/photos/int8-cpu/manifest.json")
    touch("runs/photos/.int8-cpu.tmp-1/manifest.json", age=9)
    assert take_bundle(None).path == Path("runs/photos/int8-cpu")
    assert [taken.path for taken in take_bundles(())] == [Path("runs/photos/int8-cpu")]
