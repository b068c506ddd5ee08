"""A "device": this machine behind a real OpenSSH server on 127.0.0.1, with a key and a configuration of its own.

Every process that is started through it carries its mark in the environment, so that a test sees what is left running.
"""

from __future__ import annotations

import getpass
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="there is no sshd: sudo apt install openssh-server")

ALIAS = "device"
_SSH = shutil.which("ssh")
_MARK = "TESTED_DEVICE"
PRIVILEGE_SEPARATION = Path("/run/sshd")  # which sshd wants, where it runs as root


@dataclass(frozen=True, slots=True)
class Device:
    """``folder`` holds keys and configurations, ``cache`` is where the device keeps what it is sent."""

    folder: Path
    cache: Path
    port: int
    server: subprocess.Popen[bytes]

    @property
    def kept(self) -> Path:
        return self.cache / "gnet-edge-remote"

    @property
    def mark(self) -> bytes:
        """A line of the environment of everything that runs over there."""
        return f"{_MARK}={self.folder}".encode()

    def running(self, *words: str) -> list[int]:
        """The processes over there whose command lines have all of ``words``."""
        return [pid for pid in _pids() if self._runs_there(pid) and _has(pid, words)]

    def sessions(self) -> list[int]:
        """The processes of the server that hold a connection."""
        return [pid for pid in _pids() if _parent(pid) == self.server.pid]

    def keeps(self) -> set[str]:
        """What is left of a measurement, but for what runtimes have cached."""
        return {path.name for path in self.kept.iterdir()} - {"cache"}

    def knows(self, *host_keys: str) -> None:
        """What the client takes for the keys of the device."""
        lines = [f"[127.0.0.1]:{self.port} {key}\n" for key in host_keys]
        (self.folder / "known_hosts").write_text("".join(lines))

    def _runs_there(self, pid: int) -> bool:
        return self.mark in _read(pid, "environ").split(b"\0")


def start_device(folder: Path, *, environment: dict[str, str] | None = None, largest_file: int | None = None) -> Device:
    """Starts a server that nobody but ``ssh device`` with the client of `with_client` can use.

    Args:
        environment: variables of every session.
        largest_file: the most bytes that a process over there may write into a file: beyond it the disk is full.
    """
    assert SSHD is not None
    cache, port = folder / "cache", _free_port()
    for key in ("host_key", "other_host_key", "login_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    shutil.copy(folder / "login_key.pub", folder / "authorized_keys")
    variables = {_MARK: str(folder), "XDG_CACHE_HOME": str(cache), **(environment or {})}
    (folder / "sshd_config").write_text(_server_configuration(folder, port, variables))
    (folder / "ssh_config").write_text(_client_configuration(folder, port))
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)

    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    if largest_file is not None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
    device = Device(folder, cache, port, server)
    device.knows((folder / "host_key.pub").read_text().strip())
    wait_until(lambda: _answers(port) or server.poll() is not None)
    assert server.poll() is None, (folder / "sshd.log").read_text()
    return device


def stop_device(device: Device) -> None:
    """Ends the server and every process over there."""
    device.server.terminate()
    device.server.wait()
    for pid in [*device.running(), *device.sessions()]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def with_client(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets ``ssh`` be the system's, with the configuration of this device and not with a person's."""
    folder = device.folder / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {_SSH} -F {device.folder / "ssh_config"} "$@"\n')
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def wait_until(happened: Callable[[], object], *, most_s: float = 60) -> None:
    """Looks until it has happened; fails where it never does."""
    deadline = time.monotonic() + most_s
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def _server_configuration(folder: Path, port: int, variables: dict[str, str]) -> str:
    pairs = " ".join(f'"{name}={value}"' for name, value in variables.items())
    return f"""
ListenAddress 127.0.0.1
Port {port}
HostKey {folder / "host_key"}
AuthorizedKeysFile {folder / "authorized_keys"}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowUsers {getpass.getuser()}
PermitRootLogin prohibit-password
SetEnv {pairs}
"""


def _client_configuration(folder: Path, port: int) -> str:
    return f"""
Host {ALIAS}
  HostName 127.0.0.1
  Port {port}
  User {getpass.getuser()}
  IdentityFile {folder / "login_key"}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder / "known_hosts"}
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
"""


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or belongs to somebody else
        return b""


def _has(pid: int, words: tuple[str, ...]) -> bool:
    line = _read(pid, "cmdline").decode(errors="replace")
    return all(word in line for word in words)


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0
