"""The clocks and the power mode of a Jetson, set for a measurement and always set back: by another process, if killed.

NVIDIA's order: ``nvpmodel`` first, which sets the limits, then ``jetson_clocks``, which goes to the upper ones.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NoReturn

from googlenet_edge.engines.jetson import ROOT, power_modes, read_power_mode
from googlenet_edge.errors import EngineError

_NVPMODEL = Path("usr/sbin/nvpmodel")
_JETSON_CLOCKS = Path("usr/bin/jetson_clocks")
_TIMEOUT_S = 60.0
_Handler = Callable[[int, FrameType | None], object] | int
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite end, and an SSH connection that was lost."""

_GUARD = """
import json, subprocess, sys
left = []
for line in sys.stdin:
    words = json.loads(line)
    left.append(words) if words else left.pop()
for words in reversed(left):
    subprocess.run(words)
"""
"""Reads commands that undo something, and an empty one for the last that was undone; runs what is left at the end."""


@contextmanager
def held(root: Path, mode: str | None, *, fixed: bool) -> Iterator[list[str]]:
    """A Jetson in a power mode, where one is named, and with its clocks fixed, where that is wanted.

    Both are set back however the block ends, `_ENDINGS` included. While they are set or set back, none of these counts.
    For the main thread, and not within itself. What was measured is not lost where something cannot be set back:
    the list says it afterwards.

    Raises:
        EngineError: as `power_mode` and `fixed_clocks` do; where the block ended well, only from before it. Or another
            process holds the clocks, or sets them back at this moment.
    """
    left: list[str] = []
    blocks = [power_mode(root, mode)] if mode else []
    blocks += [fixed_clocks(root)] if fixed else []
    if not blocks:
        yield left
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in _ENDINGS}
    kept = (signal.SIG_IGN, before[signal.SIGINT])  # nohup ignores a hang-up
    within = {number: handler if handler in kept else _end for number, handler in before.items()}
    ended_well = False
    try:
        with ExitStack() as stack:
            stack.callback(_listen, before)
            _listen(dict.fromkeys(_ENDINGS, signal.SIG_IGN))
            stack.enter_context(_alone(root))
            for block in blocks:
                stack.enter_context(block)
            stack.callback(_listen, dict.fromkeys(_ENDINGS, signal.SIG_IGN))
            _listen(within)
            yield left
            ended_well = True
    except EngineError as problem:
        if not ended_well:
            raise
        left += _sentences(problem)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keeps other processes from doing the same: the last to end would set back what the first had set.

    The guard has the lock as well. So it holds until what this process leaves, if killed, is set back.
    """
    lock = _lock(root)
    if lock is None:
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        raise EngineError("another measurement holds this machine's clocks; wait until it has ended") from problem
    except OSError:  # a file system without such locks holds nobody
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


@cache
def _lock(root: Path) -> int | None:
    """A file that every user can open, and so lock; none where there are no clocks to set."""
    try:
        return os.open(root / _JETSON_CLOCKS, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _sentences(problem: BaseException | None) -> Iterator[str]:
    """What a problem says, and before it those that came first; once, where one tells of another."""
    if isinstance(problem, EngineError):
        yield from (said for said in _sentences(problem.__context__) if said not in str(problem))
        yield str(problem)


def _listen(handlers: Mapping[signal.Signals, _Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def power_mode(root: Path, name: str) -> Iterator[None]:
    """Has the Jetson whose file system has this root in a power mode, by its name, while the block lasts.

    Raises:
        EngineError: there is no such mode, or nvpmodel does not change to it, or back.
    """
    modes, before = power_modes(root), read_power_mode(root)
    if name not in modes:
        known = ", ".join(modes) or "none"
        raise EngineError(f"this machine has no power mode {name}; nvpmodel knows: {known}")
    if before not in modes:
        raise EngineError("the power mode of now cannot be read, so it could not be set back; see: sudo nvpmodel -q")
    with ExitStack() as stack:
        if name != before:
            stack.enter_context(_kept_clocks(root))  # nvpmodel moves those that were fixed
            stack.enter_context(_guarded(root, _NVPMODEL, "-m", str(modes[before])))
            stack.callback(_set_mode, root, modes, before)
            _set_mode(root, modes, name)
        yield


@contextmanager
def fixed_clocks(root: Path) -> Iterator[None]:
    """Has all clocks at their upper limits while the block lasts.

    Raises:
        EngineError: jetson_clocks is missing or fails; where it fails to set back, with the command that does.
    """
    with _kept_clocks(root):
        _run(root, _JETSON_CLOCKS)
        yield


@contextmanager
def _kept_clocks(root: Path) -> Iterator[None]:
    """Sets all clocks back at the end to what they are at the start."""
    folder = Path(tempfile.mkdtemp(prefix="gnet-edge-clocks-"))
    stored = folder / "clocks"  # a new name: for one that exists, jetson_clocks asks whether it may overwrite it
    try:
        _run(root, _JETSON_CLOCKS, "--store", str(stored))
    except EngineError:
        shutil.rmtree(folder)
        raise
    with _guarded(root, _JETSON_CLOCKS, "--restore", str(stored)):
        try:
            yield
        finally:
            _restore(root, stored)
            shutil.rmtree(folder)


def _restore(root: Path, stored: Path) -> None:
    try:
        _run(root, _JETSON_CLOCKS, "--restore", str(stored))
    except EngineError as problem:
        raise EngineError(f"the clocks are not set back: {problem}; sudo jetson_clocks --restore {stored}") from problem


def _set_mode(root: Path, modes: dict[str, int], name: str) -> None:
    mend = f"which may need a restart; run: sudo nvpmodel -m {modes[name]}"
    try:
        _run(root, _NVPMODEL, "-m", str(modes[name]))
    except EngineError as problem:
        raise EngineError(f"the power mode did not change to {name}: {problem}, {mend}") from problem
    if read_power_mode(root) != name:
        raise EngineError(f"the power mode did not change to {name}, {mend}")


@contextmanager
def _guarded(root: Path, tool: Path, *arguments: str) -> Iterator[None]:
    """Where this process is killed in the block, another runs the tool in its place."""
    _tell_guard(root, _words(root, tool, *arguments))
    try:
        yield
    finally:
        _tell_guard(root, [])


def _tell_guard(root: Path, words: list[str]) -> None:
    stdin = _guard(root).stdin
    if stdin:
        with suppress(OSError):  # it was killed, too
            stdin.write(json.dumps(words).encode() + b"\n")
            stdin.flush()


@cache
def _guard(root: Path) -> subprocess.Popen[bytes]:
    """Ends when this process does; in a session of its own, so that it is not ended with it."""
    words, quiet = [sys.executable, "-I", "-c", _GUARD], subprocess.DEVNULL
    kept = [lock for lock in (_lock(root),) if lock is not None]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True, pass_fds=kept
    )


def _words(root: Path, tool: Path, *arguments: str) -> list[str]:
    as_root = ("sudo", "-n") if root == ROOT and os.geteuid() else ()
    return [*as_root, str(root / tool), *arguments]


def _run(root: Path, tool: Path, *arguments: str) -> None:
    """One of NVIDIA's tools, which need root: through sudo, as far as that asks for no password."""
    if not (root / tool).exists():
        raise EngineError(f"{root / tool} is missing; clocks can be set on a Jetson only")
    code, said = _ended(_words(root, tool, *arguments), tool.name)
    failed = re.search(r"^Error.*", said, re.MULTILINE)  # with which jetson_clocks ends, too, as if all were well
    if code or failed:
        reason = failed[0] if failed else said.split("\n")[0].strip() or f"code {code}"
        by_sudo = said.startswith("sudo:")
        mend = f"; it needs root: let sudo run {root / tool} without a password" if by_sudo else ""
        raise EngineError(f"{tool.name} failed ({reason}){mend}")


def _ended(words: list[str], name: str) -> tuple[int, str]:
    """The code and the words of a command. Nobody waits for what does not end and, being root's, cannot be ended."""
    try:
        running = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as problem:
        raise EngineError(f"{name} cannot be run ({problem})") from problem
    try:
        out, _ = running.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as problem:
        with suppress(PermissionError):
            running.kill()
        raise EngineError(f"{name} does not end ({problem})") from problem
    return running.returncode, out.decode(errors="replace").strip()
