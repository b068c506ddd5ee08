"""The near end of an SSH connection to a device: starts the agent over there, speaks its frames, ends it.

What the device says is hostile input: events are decoded into a frozen dataclass, lines and files have a limit, and
what reaches a terminal is made printable.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NoReturn

import msgspec

from googlenet_edge.engines import remote_agent
from googlenet_edge.engines.measurement import MAX_BYTES
from googlenet_edge.engines.ssh import Host, last_line, printable, ssh_command, why_no_connection
from googlenet_edge.errors import ConfigError, RemoteError

ALIVE_S = 5.0
SILENCE_S = 30.0
_STARTING_S = 60.0
_CLOSING_S = 25.0
_MAX_LINE = 1 << 16
_MAX_STDERR = 1 << 14
_OLDEST_PYTHON = (3, 10)
_NO_FACTS: Mapping[str, object] = MappingProxyType({})

# Says which Python this is, and runs the program that comes next. It must be readable for every Python there ever was.
_BOOTSTRAP = (
    'import sys; print(\'{"event": "python", "message": "%d.%d.%d"}\' % tuple(sys.version_info[:3]));'
    " sys.stdout.flush(); exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"
)


class EventKind(Enum):
    """What an agent may say."""

    PYTHON = "python"
    READY = "ready"
    MISSING = "missing"
    STEP = "step"
    PROGRESS = "progress"
    ALIVE = "alive"
    SO_FAR = "so_far"
    RESULT = "result"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that an agent said; which fields are set goes by ``event``."""

    event: EventKind
    message: str = ""
    done: Annotated[int, msgspec.Meta(ge=0)] = 0
    total: Annotated[int, msgspec.Meta(ge=0)] = 0
    files: tuple[str, ...] = ()
    bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)] = 0


class Link:
    """A running ssh whose other end is `remote_agent`. Made by `connect`."""

    def __init__(self, host: Host, python: str, process: subprocess.Popen[bytes]) -> None:
        self._host, self._python, self._process = host, python, process
        assert process.stdin and process.stdout and process.stderr
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        os.set_blocking(self._stdin.fileno(), False)
        self._buffer, self._said = bytearray(), b""
        self._ready = self.stopping = False
        self._spoke = time.monotonic()

    def send(self, do: str, *, payload: bytes = b"", facts: Mapping[str, object] = _NO_FACTS) -> None:
        """Sends a frame. Raises `RemoteError` where nobody takes it."""
        frame = {"do": do, **facts, **({"bytes": len(payload)} if payload else {})}
        self._write(json.dumps(frame).encode() + b"\n" + payload)

    def event(self) -> Event:
        """What is said next, but that somebody is there. Raises `RemoteError`: it failed, or nobody is there."""
        while True:
            event = self._decoded(self._line())
            if event is None or event.event is EventKind.ALIVE:
                continue
            if event.event is EventKind.FAILED:
                raise RemoteError(f"{self._host}: {printable(event.message) or 'failed and does not say why'}")
            return event

    def expect(self, kind: EventKind) -> Event:
        """What is said next, which has to be of that kind. Raises `RemoteError` as `event` does."""
        event = self.event()
        if event.event is not kind:
            raise self._nonsense(f"{event.event.value!r} where {kind.value!r} was expected")
        return event

    def payload(self, event: Event) -> bytes:
        """The bytes that follow an event."""
        while len(self._buffer) < event.bytes:
            self._more()
        return self._taken(event.bytes)

    def stop(self) -> None:
        """Has the measurement ended there, which sends what it has by then. A handler of a signal may do so."""
        self.stopping = True

    def start_agent(self) -> None:
        """Looks which Python answers, and gives it the agent to run."""
        version = self.expect(EventKind.PYTHON).message
        numbers = tuple(int(part[:9]) for part in version.split(".") if part.isdecimal())
        if numbers[:2] < _OLDEST_PYTHON:
            raise RemoteError(
                f"{self._host}: {self._python} is Python {printable(version)}, 3.10 or newer is needed;"
                " name another with --python"
            )
        source = Path(remote_agent.__file__).read_bytes()
        self._write(b"%d\n" % len(source) + source)
        self.expect(EventKind.READY)
        self._ready = True

    def close(self) -> None:
        """Lets the agent end, which ends what it runs and cleans up; after 25 seconds the connection is cut."""
        try:
            with suppress(OSError):
                self._stdin.close()
            deadline = time.monotonic() + (_CLOSING_S if self._ready else 0)
            while self._process.poll() is None and time.monotonic() < deadline:
                ready, _, _ = select.select([self._stdout], [], [], 0.1)
                if ready and not os.read(self._stdout.fileno(), 1 << 16):
                    self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()
            self._stdout.close()
            self._stderr.close()

    def _decoded(self, line: bytes) -> Event | None:
        """``None`` for what a shell prints when it starts."""
        try:
            return msgspec.json.decode(line, type=Event)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            if self._ready:
                raise self._nonsense(printable(line.decode(errors="replace"))[:80]) from problem
            return None

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                if not select.select([], [self._stdin], [], self._patience)[1]:
                    raise self._silent()
                left = left[os.write(self._stdin.fileno(), left) :]
        except BrokenPipeError:
            while True:  # it has said why, or it raises
                self.event()
        self._spoke = time.monotonic()

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE:
                raise self._nonsense("a line without an end")
            self._more()
        return self._taken(self._buffer.index(b"\n") + 1)

    def _taken(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _more(self) -> None:
        """Waits for bytes, and tells meanwhile that somebody is here."""
        deadline = time.monotonic() + self._patience
        streams = [self._stdout, self._stderr]
        while time.monotonic() < deadline:
            if self.stopping:
                self._stdin.close()
            elif self._ready and time.monotonic() - self._spoke >= ALIVE_S:
                self._breathe()
            ready, _, _ = select.select(streams, [], [], ALIVE_S)
            if self._stderr in ready:
                said = os.read(self._stderr.fileno(), 1 << 16)
                self._said = (self._said + said)[-_MAX_STDERR:]
                streams = streams if said else [self._stdout]
            if self._stdout in ready:
                piece = os.read(self._stdout.fileno(), 1 << 20)
                if not piece:
                    self._ended()
                self._buffer += piece
                return
        raise self._silent()

    @property
    def _patience(self) -> float:
        return SILENCE_S if self._ready else _STARTING_S

    def _silent(self) -> RemoteError:
        return RemoteError(
            f"{self._host} has said nothing for {self._patience:.0f} seconds; see whether it hangs, and try again"
        )

    def _breathe(self) -> None:
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(self._stdin.fileno(), b'{"do": "alive"}\n')  # a pipe takes so few bytes whole
        self._spoke = time.monotonic()

    def _ended(self) -> NoReturn:
        """Raises why there are no more bytes."""
        code = self._process.wait()
        if select.select([self._stderr], [], [], 1)[0]:
            self._said += os.read(self._stderr.fileno(), _MAX_STDERR)
        said = self._said.decode(errors="replace")
        if self._ready:
            why = last_line(said) or "the process over there was killed (is its memory full?)"
            raise RemoteError(f"the connection to {self._host} broke: {why}; what ran there ends by itself; try again")
        known = why_no_connection(self._host, code, said, python=self._python)
        why = last_line(said) or f"it ended with {code}"
        raise RemoteError(known or f"{self._host}: {self._python} is not usable: {why}; name another with --python")

    def _nonsense(self, what: str) -> RemoteError:
        return RemoteError(f"{self._host} answers with what is not understood: {what}; is its googlenet-edge damaged?")


@contextmanager
def connect(host: Host, *, python: str) -> Iterator[Link]:
    """An agent over there, run by ``python``; ended when the block is left, however it is left.

    Raises:
        ConfigError: no ssh here.
        RemoteError: no connection, or no Python of ours over there.
    """
    program = f"./{python[2:]}" if python.startswith("~/") else python  # quoted, ~ says nothing; ssh begins at home
    command = ssh_command(host, ["exec", program, "-I", "-c", _BOOTSTRAP])
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "LC_ALL": "C"},  # its messages are read
            start_new_session=True,  # Ctrl-C is for us, who then end both in order
        )
    except FileNotFoundError as problem:
        raise ConfigError("ssh is not installed; install it with: sudo apt install openssh-client") from problem
    link = Link(host, python, process)
    try:
        link.start_agent()
        yield link
    finally:
        link.close()
