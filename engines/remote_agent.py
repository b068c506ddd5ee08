"""The far end of ``gnet-edge bench --host``: the program that a device's Python is fed through SSH.

It runs before anything of ours is there, so it is one file that imports the standard library and nothing of this
package. It takes a job and the missing files from stdin, runs `engines/remote_worker.py` and sends on what that says.
Both ways go frames: a line of JSON, and where that names ``bytes``, as many bytes.

Nothing stays behind: when stdin ends or says nothing for ``silence_s`` (the network is gone, or the other side was
killed), and after any signal, the process that measures is ended and the files are removed, unless they are to be kept.
A process whose agent is killed gets Ctrl-C from the kernel. One lock lets one agent at a time into the folder.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

_RESULT = "measurement.json"
_WORKER = ["-m", "googlenet_edge.engines.remote_worker", "request.json", _RESULT]
TOLD = 3  # how a worker ends that has said itself what went wrong
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_PR_SET_PDEATHSIG = 1
_FIRST_SILENCE_S = 60.0
_LIBC = ctypes.CDLL(None)


class TroubleError(Exception):
    """What a person can mend; the message goes to the other side."""


class Gone(BaseException):
    """The other side is gone, or somebody ended this process."""


class Line:
    """Both ways to the other side. Reading belongs to one thread; any may `say`."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink, self._buffer = source, sink, b""
        self._speaking = threading.Lock()
        self.silence_s, self.ended = _FIRST_SILENCE_S, False

    def say(self, event: str, *, payload: bytes = b"", **facts: Any) -> None:
        """Sends a frame whole."""
        frame = {"event": event, **facts, **({"bytes": len(payload)} if payload else {})}
        self.pass_on(json.dumps(frame).encode() + b"\n" + payload)

    def pass_on(self, frame: bytes) -> None:
        """Sends the bytes of a frame."""
        try:
            with self._speaking:
                while frame:
                    frame = frame[os.write(self._sink, frame) :]
        except BrokenPipeError:
            raise Gone from None

    def frame(self) -> tuple[dict[str, Any], bytes]:
        """The next frame and its bytes, past those that only say that somebody is there."""
        while True:
            while b"\n" not in self._buffer:
                self._more()
            head, _, self._buffer = self._buffer.partition(b"\n")
            facts: dict[str, Any] = json.loads(head)
            while len(self._buffer) < facts.get("bytes", 0):
                self._more()
            payload, self._buffer = self._buffer[: facts.get("bytes", 0)], self._buffer[facts.get("bytes", 0) :]
            if facts["do"] != "alive":
                return facts, payload

    def end_when_alone(self) -> None:
        """Reads until nobody is there any more, and ends this process."""
        with contextlib.suppress(Gone):
            while True:
                self._buffer = b""
                self._more()
        os.kill(os.getpid(), signal.SIGTERM)

    def _more(self) -> None:
        if not select.select([self._source], [], [], self.silence_s)[0]:
            raise Gone
        piece = os.read(self._source, 1 << 20)
        if not piece:
            self.ended = True
            raise Gone
        self._buffer += piece


def main() -> None:
    """Does one job."""
    line = Line(0, 1)
    for number in _SIGNALS:
        signal.signal(number, _leave)
    try:
        line.say("ready")
        job, _ = line.frame()
        line.silence_s = job["silence_s"]
        _in_background(_breathe, line, job["alive_s"])
        with _own_folder(keep=job["keep"]) as root:
            try:
                _do(job, root, line)
            finally:
                _go_on_undisturbed()
        line.say("done")
    except TroubleError as trouble:
        line.say("failed", message=str(trouble))
    except OSError as problem:
        line.say("failed", message=_sentence(problem))
    except Gone:
        sys.exit(1)


def _do(job: dict[str, Any], root: Path, line: Line) -> None:
    _receive(job["files"], root / "files", line)
    _in_background(line.end_when_alone)
    work = root / "work"
    for place, digest in job["layout"].items():
        (work / place).parent.mkdir(parents=True, exist_ok=True)
        _link(root / "files" / digest, work / place)
    (work / "request.json").write_text(json.dumps(job["request"]))
    wheel = work / job["wheel"]
    if job["environment"] == "given":
        python, environment = sys.executable, _unpacked(wheel, work / "package")
    else:
        wish = {"extras": job["extras"], "packages": job["packages"]}
        python, environment = _made(wheel, wish, root / "venv", line), dict(os.environ)
    environment["XDG_CACHE_HOME"] = str(root / "cache")  # for what runtimes and plans keep
    line.say("step", message="starting")
    result = work / _RESULT
    try:
        _measure([python, *_WORKER], environment, work, line, job)
    except Gone:
        if not (line.ended and result.exists()):  # else who said no more may still listen
            raise
    line.say("result", payload=result.read_bytes())


@contextlib.contextmanager
def _own_folder(*, keep: bool) -> Iterator[Path]:
    """The folder for everything, locked; afterwards empty of what need not be kept, or gone."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111  (never raises)
    root = Path(cache, "gnet-edge-remote")
    lock = _locked(root)
    try:
        shutil.rmtree(root / "work", ignore_errors=True)
        yield root
    finally:
        place = root / "work" if keep else root
        for _ in range(20):
            shutil.rmtree(place, ignore_errors=True)
            if not place.exists():
                break  # what is there a moment later belongs to the next
            time.sleep(0.1)  # what was killed just now may have written meanwhile
        os.close(lock)


def _locked(root: Path) -> int:
    while True:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TroubleError("somebody else measures there just now; wait until that is done") from None
        if root.exists() and root.stat().st_ino == os.fstat(lock).st_ino:
            return lock
        os.close(lock)  # whoever had it has just removed it


def _receive(wanted: dict[str, int], folder: Path, line: Line) -> None:
    """Files by their SHA-256: asks for those that are not there as they should be, and removes all others."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in wanted or _digest(path) != path.name:
            path.unlink()
    missing = [digest for digest in wanted if not (folder / digest).exists()]
    line.say("missing", files=missing)
    part = folder / "part"
    try:
        for digest in missing:
            with part.open("wb") as file:
                while file.tell() < wanted[digest]:
                    file.write(line.frame()[1])
            if _digest(part) != digest:
                raise TroubleError("a file came over damaged; try again")
            part.replace(folder / digest)
    finally:
        part.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _link(file: Path, place: Path) -> None:
    try:
        place.hardlink_to(file)
    except OSError:  # a file system without links
        shutil.copyfile(file, place)


def _unpacked(wheel: Path, folder: Path) -> dict[str, str]:
    """The package beside an interpreter that was named and is left as it is."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def _made(wheel: Path, wish: dict[str, list[str]], venv: Path, line: Line) -> str:
    """The interpreter of a virtual environment that sees the system's packages and has the wheel and what it needs.

    ``wish`` names extras of the wheel and packages beside it; what the environment has already, it keeps.
    """
    python, receipt = str(venv / "bin" / "python"), venv / "gnet-edge.json"
    before = _read_receipt(receipt)
    same_python = [before.get(key) for key in ("python", "from")] == [sys.version, sys.executable]
    made_of: dict[str, Any] = {"python": sys.version, "from": sys.executable, "wheel": _digest(wheel)}
    for kind, names in wish.items():
        made_of[kind] = sorted({*names, *(before.get(kind, ()) if same_python else ())})
    if before == made_of:
        return python
    if not same_python:
        line.say("step", message="making an environment")
        shutil.rmtree(venv, ignore_errors=True)
        _make_venv(venv)
    receipt.unlink(missing_ok=True)
    line.say("step", message="installing")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    named = f"{wheel}[{','.join(made_of['extras'])}]" if made_of["extras"] else str(wheel)
    for rest in (["--no-deps", "--force-reinstall", str(wheel)], [named, *made_of["packages"]]):
        code, said = _run([*pip, *rest], _with_cuda(), cwd=venv)
        if code != 0:
            raise TroubleError(f"pip could not install what is needed: {_last(said, 'ERROR')}")
    receipt.write_text(json.dumps(made_of))
    return python


def _read_receipt(path: Path) -> dict[str, Any]:
    """What an environment was made of; nothing where it was not finished."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _make_venv(venv: Path) -> None:
    try:
        import ensurepip  # noqa: F401, PLC0415  (Debian and Ubuntu leave it out of python3)
    except ImportError:
        raise TroubleError(
            "Python lacks its venv module there; install it with: sudo apt install python3-venv"
        ) from None
    command = [sys.executable, "-m", "venv", "--system-site-packages", str(venv)]
    code, said = _run(command, dict(os.environ), cwd=venv.parent)
    if code != 0:
        shutil.rmtree(venv, ignore_errors=True)
        raise TroubleError(f"no virtual environment could be made: {_last(said, 'Error')}")


def _with_cuda() -> dict[str, str]:
    """A login without a terminal lacks the paths of CUDA, which pycuda is compiled with."""
    cuda = Path("/usr/local/cuda")
    if not cuda.is_dir():
        return dict(os.environ)
    more = {"PATH": cuda / "bin", "CPATH": cuda / "include", "LIBRARY_PATH": cuda / "lib64"}
    paths = {name: [os.environ.get(name, ""), str(path)] for name, path in more.items()}
    return {**os.environ, **{name: os.pathsep.join(filter(None, both)) for name, both in paths.items()}}


def _measure(command: list[str], environment: dict[str, str], work: Path, line: Line, job: dict[str, Any]) -> None:
    def pass_on(said: bytes) -> None:
        if said.startswith(b'{"event": "so_far"'):
            line.say("so_far", payload=(work / _RESULT).read_bytes())  # replaced in one step
        else:
            line.pass_on(said)

    code, said = _run(command, environment, cwd=work, on_line=pass_on, patience_s=job["patience_s"])
    if code == TOLD:
        sys.exit(1)  # the worker has said what went wrong
    if code < 0:
        name = signal.Signals(-code).name
        raise TroubleError(f"the process that measures was killed ({name}); is the memory full?")
    if code > 0:
        why = _last(said, "Error")
        lacks = job["environment"] == "given" and "ModuleNotFoundError" in why
        mend = "; install it there, or leave out --python" if lacks else ""
        raise TroubleError(f"the process that measures failed: {why}{mend}")


def _run(
    command: list[str],
    environment: dict[str, str],
    *,
    cwd: Path,
    on_line: Callable[[bytes], None] | None = None,
    patience_s: float = 1.0,
) -> tuple[int, list[str]]:
    """Runs a process to its end: its exit code, and the last lines of its stderr.

    On any exception it is asked to end, and after ``patience_s`` made to.
    """
    child = subprocess.Popen(
        command,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509  (one call of the kernel, loaded before)
    )
    assert child.stdout is not None
    assert child.stderr is not None
    tail: collections.deque[str] = collections.deque(maxlen=50)
    reader = _in_background(_keep_tail, child.stderr, tail)
    try:
        for said in child.stdout:
            if on_line and said.endswith(b"\n"):
                on_line(said)
        code = child.wait()
    finally:
        _end(child, patience_s)
    reader.join(timeout=1.0)
    return code, list(tail)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)  # as Ctrl-C does: it sets clocks back and ends


def _end(child: subprocess.Popen[bytes], patience_s: float) -> None:
    """Asks a process and its children to end, and makes them."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(child.pid, signal.SIGINT)
            child.wait(patience_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _keep_tail(stream: IO[bytes], tail: collections.deque[str]) -> None:
    for said in stream:
        tail.append(said.decode(errors="replace").strip()[:500])


def _breathe(line: Line, every_s: float) -> None:
    with contextlib.suppress(Gone, OSError):
        while True:
            time.sleep(every_s)
            line.say("alive")


def _in_background(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def _leave(number: int, frame: object) -> NoReturn:
    _go_on_undisturbed()
    raise Gone


def _go_on_undisturbed() -> None:
    """Lets nothing interrupt the cleaning."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _sentence(problem: OSError) -> str:
    if problem.errno in _FULL:
        return "the disk is full there; free space, or set XDG_CACHE_HOME there to a folder on another disk"
    return f"{problem.filename or 'the system'}: {problem.strerror or problem}"


def _last(said: list[str], word: str) -> str:
    """The last line that names an error, or else the last."""
    return ([line for line in said if word in line] or list(filter(None, said)) or ["it did not say why"])[-1]


if __name__ == "__main__":
    main()
