"""The agent on its own: frames through pipes, without ssh."""

from __future__ import annotations

import hashlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest

from googlenet_edge.engines import remote_agent
from googlenet_edge.engines.remote_link import connect
from googlenet_edge.engines.ssh import Host
from googlenet_edge.engines.wheel import pack_wheel
from googlenet_edge.errors import RemoteError


class Agent:
    """A running agent, and the other end of its pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout

    def send(self, payload: bytes = b"", **facts: Any) -> None:
        self.stdin.write(json.dumps({**facts, "bytes": len(payload)}).encode() + b"\n" + payload)
        self.stdin.flush()

    def says(self) -> dict[str, Any]:
        while True:
            line = self.stdout.readline()
            assert line, "the agent has ended"
            event: dict[str, Any] = json.loads(line)
            if event["event"] != "alive":
                return event


@contextmanager
def agent(cache: Path) -> Iterator[Agent]:
    command = [sys.executable, "-I", remote_agent.__file__]
    environment = {"XDG_CACHE_HOME": str(cache)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        started = Agent(process)
        assert started.says() == {"event": "ready"}
        yield started
        close(started.stdin)


def close(stdin: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        stdin.close()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def job(*files: bytes, keep: bool = True, silence_s: float = 60, **others: Any) -> dict[str, Any]:
    return {
        "do": "job",
        "files": {digest(data): len(data) for data in files},
        "layout": {},
        "wheel": "wheel",
        "extras": [],
        "packages": [],
        "environment": "given",
        "request": {},
        "keep": keep,
        "patience_s": 0.2,
        "alive_s": 60,
        "silence_s": silence_s,
        **others,
    }


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def kept(cache: Path) -> set[str]:
    root = cache / "gnet-edge-remote"
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def stored(cache: Path, *files: bytes) -> list[str]:
    """Gives an agent a job with these files, and then leaves it alone: the files that it asked for."""
    with agent(cache) as other:
        other.send(**job(*files))
        missing = other.says()["files"]
        for data in files:
            if digest(data) in missing:
                for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                    other.send(half, do="piece")
    assert isinstance(missing, list)
    return missing


def test_agent_asks_only_for_files_that_are_not_there_as_they_should_be(cache: Path) -> None:
    assert stored(cache, b"one", b"two") == [digest(b"one"), digest(b"two")]
    assert kept(cache) == {f"files/{digest(b'one')}", f"files/{digest(b'two')}"}
    assert (cache / "gnet-edge-remote").stat().st_mode & 0o077 == 0, "photos and models are nobody else's"
    (cache / "gnet-edge-remote" / "files" / digest(b"two")).write_bytes(b"tow")
    assert stored(cache, b"two", b"three") == [digest(b"two"), digest(b"three")]
    assert kept(cache) == {f"files/{digest(b'two')}", f"files/{digest(b'three')}"}  # nothing piles up


def test_agent_refuses_a_file_that_came_over_damaged(cache: Path) -> None:
    with agent(cache) as other:
        other.send(**job(b"one"))
        other.says()
        other.send(b"eno", do="piece")
        assert other.says() == {"event": "failed", "message": "a file came over damaged; try again"}
    assert kept(cache) == set()


def false_ssh(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ssh").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_agent_takes_no_modules_from_the_folder_in_which_a_login_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('somebody else is here')\n")
    false_ssh(tmp_path, f'for words; do :; done\ncd {tmp_path}\nexec sh -c "$words"', monkeypatch)
    with connect(Host("jetson"), python=sys.executable):
        pass


def test_what_ssh_says_is_understood_whatever_a_person_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    refusal = 'case "$LC_ALL" in C) echo Connection refused;; *) echo Verbindungsaufbau abgelehnt;; esac >&2; exit 255'
    false_ssh(tmp_path, refusal, monkeypatch)
    with pytest.raises(RemoteError, match="jetson cannot be reached: no SSH server answers there"):
        connect(Host("jetson"), python="python3").__enter__()


@pytest.mark.parametrize("keep", [True, False])
def test_agent_that_hears_nothing_for_too_long_cleans_up_and_ends(cache: Path, keep: bool) -> None:
    with agent(cache) as other:
        other.send(**job(b"one", keep=keep, silence_s=0.2))
        other.says()
        assert other.process.wait(30) == 1  # stdin is still open; without a job it would be a minute
    assert kept(cache) == set()
    assert (cache / "gnet-edge-remote").exists() == keep


def test_agent_ends_the_process_that_measures_and_its_children_when_nobody_listens_any_more(
    cache: Path, tmp_path: Path
) -> None:
    """A worker of a false wheel that ignores Ctrl-C, as its child does: they hold the pipe until they are killed."""
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    wheel = false_wheel(
        tmp_path,
        "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"os.open({str(tmp_path / 'pipe')!r}, os.O_WRONLY)\n"
        'os.fork()\nos.write(1, b\'{"event": "step", "message": "measuring"}\\n\')\nwhile True: time.sleep(1)\n',
    )
    with agent(cache) as other:
        other.send(**job(wheel, layout={"wheel": digest(wheel)}, keep=False))
        other.says()
        other.send(wheel, do="piece")
        assert other.says() == {"event": "step", "message": "starting"}
        assert other.says() == {"event": "step", "message": "measuring"}
        other.stdin.close()
        assert other.process.wait() == 1
    assert select.select([pipe], [], [], 10)[0] and os.read(pipe, 1) == b""
    os.close(pipe)
    assert not (cache / "gnet-edge-remote").exists()


def test_agent_tells_the_last_error_of_a_worker_that_fails(cache: Path, tmp_path: Path) -> None:
    wheel = false_wheel(tmp_path, 'raise RuntimeError("no\\nEngineError: GPU here")')
    with agent(cache) as other:
        other.send(**job(wheel, layout={"wheel": digest(wheel)}))
        other.says()
        other.send(wheel, do="piece")
        assert [other.says()["event"], other.says()] == [
            "step",
            {"event": "failed", "message": "the process that measures failed: EngineError: GPU here"},
        ]


def false_wheel(folder: Path, worker: str) -> bytes:
    """A wheel whose worker is another program."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for package in ("googlenet_edge", "googlenet_edge/engines"):
            archive.writestr(f"{package}/__init__.py", "")
        archive.writestr("googlenet_edge/engines/remote_worker.py", worker)
    return file.getvalue()


def test_agent_needs_only_the_standard_library() -> None:
    program = f"import sys; sys.argv = ['x']; import runpy; runpy.run_path({remote_agent.__file__!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


def test_wheel_is_the_same_bytes_each_time() -> None:
    assert pack_wheel() == pack_wheel()


def test_agent_removes_its_folder_while_what_it_killed_still_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, removed = shutil.rmtree, list[Path]()

    def remove_beside_a_writer(folder: Path, **options: bool) -> None:
        remove(folder, **options)
        removed.append(folder)
        if len(removed) == 2:  # the first is what an earlier run left
            (folder / "work").mkdir(parents=True)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "rmtree", remove_beside_a_writer)
    with remote_agent._own_folder(keep=False) as root:
        assert root.is_dir()
    assert not root.exists()
    assert len(removed) == 3, "what another agent makes there from then on stays"
