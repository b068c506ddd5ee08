"""Files and folders that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import pytest

from googlenet_edge.errors import ConfigError, OutputError
from googlenet_edge.files import (
    from_json,
    from_versioned_json,
    new_file,
    new_folder,
    read_file,
    sha256_bytes,
    sha256_file,
    to_json,
    write_bytes,
)
from googlenet_edge.preprocess import Preprocess


def fill(folder: Path, text: str) -> Path:
    with new_folder(folder) as temporary:
        (temporary / "part").write_text(text)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_file_appears_whole_and_under_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "file"
    with new_file(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert names(path.parent) == ["file"]


def test_new_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new, but")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_new_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "old")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "folder") as temporary:
        (temporary / "part").write_text("new, but")
        raise ZeroDivisionError
    assert (tmp_path / "folder" / "part").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_new_folder_takes_the_place_of_the_old_one_with_all_that_was_in_it(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "old")
    (tmp_path / "folder" / "more").touch()
    fill(tmp_path / "folder", "new")
    assert names(tmp_path / "folder") == ["part"]
    assert (tmp_path / "folder" / "part").read_text() == "new"
    assert names(tmp_path) == ["folder"]


def test_new_folder_is_exchanged_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the old folder is about to be removed, the new one already has its name."""
    fill(tmp_path / "folder", "old")
    seen = []

    def look(path: Path, **_: object) -> None:
        seen.append(((path / "part").read_text(), (tmp_path / "folder" / "part").read_text()))

    monkeypatch.setattr(shutil, "rmtree", look)
    fill(tmp_path / "folder", "new")
    assert seen == [("old", "new")]


def test_new_folder_is_replaced_where_the_file_system_cannot_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoExchange:
        def renameat2(self, *_: object) -> int:
            return -1

    fill(tmp_path / "folder", "old")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: NoExchange())
    fill(tmp_path / "folder", "new")
    assert (tmp_path / "folder" / "part").read_text() == "new"
    assert names(tmp_path) == ["folder"]
    replace = Path.replace

    def fails_at_the_last(path: Path, to: Path) -> Path:
        if ".replaced-" in to.name or ".replaced-" in path.name:
            return replace(path, to)
        raise OSError(errno.ENOTEMPTY if (tmp_path / "folder").exists() else errno.EIO, "the server is gone")

    monkeypatch.setattr(Path, "replace", fails_at_the_last)
    with pytest.raises(OutputError, match="folder: the server is gone; give another --out"):
        fill(tmp_path / "folder", "newer")
    assert (tmp_path / "folder" / "part").read_text() == "new", "the old one is back"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("name", ["model.onnx", "a[1] *.onnx"])
def test_new_file_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path, name: str) -> None:
    left, left_folder, another = (tmp_path / hidden for hidden in (f".{name}.tmp-1", f".{name}.tmp-2", ".other.tmp-1"))
    fill(left_folder, "half")
    for path in (left, another):
        path.touch()
    with new_file(tmp_path / name) as first:
        write_bytes(tmp_path / name, b"of another process")
        assert names(tmp_path) == sorted([name, first.parent.name, another.name])
        first.write_bytes(b"of this one")
    assert names(tmp_path) == sorted([name, another.name])
    assert (tmp_path / name).read_bytes() == b"of this one"


def test_processes_that_write_the_same_at_once_never_fail(tmp_path: Path) -> None:
    """As containers do that share a cache: all is there whole, and none takes what another is writing for stale."""
    program = """
import sys
from pathlib import Path
from googlenet_edge.files import new_folder, write_bytes
for number in range(300):
    write_bytes(Path("file"), sys.argv[1].encode() * 10)
    with new_folder(Path("folder")) as folder:
        (folder / "part").write_text(sys.argv[1])
"""
    running = [subprocess.Popen([sys.executable, "-c", program, who], cwd=tmp_path, stderr=PIPE) for who in "abc"]
    assert [process.communicate()[1].decode() for process in running] == [""] * 3
    assert (tmp_path / "file").read_text() in ("a" * 10, "b" * 10, "c" * 10)
    assert (tmp_path / "folder" / "part").read_text() in "abc"
    assert names(tmp_path) == ["file", "folder"]


def test_new_folder_goes_where_a_link_leads(tmp_path: Path) -> None:
    fill(tmp_path / "v1", "old")
    (tmp_path / "current").symlink_to("v1")
    fill(tmp_path / "current", "new")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "part").read_text() == "new"
    assert names(tmp_path) == ["current", "v1"]


def test_output_below_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"cannot write .*file/below: .*; give another --out"):
        write_bytes(tmp_path / "file" / "below", b"")
    with pytest.raises(
        OutputError, match=r"cannot write the folder .*file: a file of that name is there; give another"
    ):
        fill(tmp_path / "file", "")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_output_in_the_place_of_a_folder_says_so(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "mine")
    with pytest.raises(
        OutputError, match=r"cannot write .*folder: it is a folder, a device or a pipe; give another --out"
    ):
        write_bytes(tmp_path / "folder", b"")
    assert (tmp_path / "folder" / "part").read_text() == "mine"
    assert names(tmp_path) == ["folder"]


def test_output_on_a_full_disk_says_to_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*file: No space left on device; free space or give another"):
        write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_read_file_names_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"12345")
    with pytest.raises(ConfigError, match=r"absent is missing"):
        read_file(tmp_path / "absent", limit=4, error=ConfigError)
    with pytest.raises(ConfigError, match=r"large has 5 bytes where at most 4 are expected"):
        read_file(tmp_path / "large", limit=4, error=ConfigError)
    with pytest.raises(ConfigError, match=r"is a folder; give a file in it"):
        read_file(tmp_path, limit=1 << 20, error=ConfigError)
    assert read_file(tmp_path / "large", limit=5, error=ConfigError) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"pipe is no file but a device or a pipe; give a file"):
        read_file(tmp_path / "pipe", limit=4, error=ConfigError)


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data)
    assert sha256_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_json_comes_back_as_it_was_written() -> None:
    value = Preprocess(resize=73, crop=64)
    data = to_json(value)
    assert from_json(data, Preprocess, where="it", error=ConfigError) == value
    assert data.endswith(b"}\n")
    assert to_json(value) == data


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b'{"crop": "large"}', r"run\.json cannot be read: Expected `int`, got `str` - at `\$\.crop`"),
        (b'{"crop": 0}', r"run\.json cannot be read: Expected `int` >= 1 - at `\$\.crop`"),
        (b'{"crop": 300}', r"run\.json cannot be read: crop 300 is larger than resize 256"),
        (b'{"crop": 22', r"run\.json cannot be read: Input data was truncated"),
        (b"\xff\xfe", r"run\.json cannot be read: "),
        (b"", r"run\.json cannot be read: Input data was truncated"),
    ],
)
def test_json_that_does_not_fit_is_named_with_the_place(data: bytes, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        from_json(data, Preprocess, where="run.json", error=ConfigError)


@dataclass(frozen=True, slots=True)
class Noun:
    schema: int
    count: int


def test_json_of_a_newer_schema_is_refused_before_it_is_read() -> None:
    newer = b'{"schema": 3, "count": "in words now"}'
    with pytest.raises(ConfigError, match=r"^it has schema 3, this version reads up to 2; upgrade googlenet-edge$"):
        from_versioned_json(newer, Noun, schema=2, where="it", error=ConfigError)
    assert from_versioned_json(b'{"schema": 1, "count": 5}', Noun, schema=2, where="it", error=ConfigError).count == 5
