"""The system's OpenSSH client: which host, the command line, and what its messages mean.

A host is hostile input: a name that began with ``-`` would be an option of ``ssh``, and names go into the commands of
people's ``ssh_config``. So only names of letters, digits and ``._-`` pass. The other side is a shell: every word is
quoted.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from googlenet_edge.errors import ConfigError

CONNECT_S = 10
NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_SSH_FAILED = 255
_HOST = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<address>[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,32})?\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
# No questions, which nobody might be there to answer; nothing of a person's ssh_config that runs or forwards something;
# and an end within half a minute where the network is gone.
_OPTIONS = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECT_S}",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
    "ControlMaster=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "EscapeChar=none",
)


@dataclass(frozen=True, slots=True)
class Host:
    """Where to log in; ``None`` leaves the choice to ``ssh_config``."""

    address: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        name = f"{self.user}@{self.address}" if self.user else self.address
        return name if self.port is None else f"{name}:{self.port}"

    @property
    def login(self) -> str:
        """The words that a person gives to ssh."""
        name = f"{self.user}@{self.bare_address}" if self.user else self.bare_address
        return name if self.port is None else f"-p {self.port} {name}"

    @property
    def bare_address(self) -> str:
        """An IPv6 address without its brackets."""
        return self.address.strip("[]")


def parse_host(text: str) -> Host:
    """``[user@]address[:port]``, or a name from ``ssh_config``; IPv6 in brackets. Raises `ConfigError`."""
    found = _HOST.fullmatch(text)
    if found is None or not 0 < int(found["port"] or 1) < 1 << 16:
        raise ConfigError(f"the host {text!r} is not user@address or user@address:port; give another --host")
    return Host(found["address"], found["user"], int(found["port"]) if found["port"] else None)


def ssh_command(host: Host, words: list[str]) -> list[str]:
    """The command line that runs ``words`` over there, each of them quoted for the shell that reads them."""
    options = [word for option in _OPTIONS for word in ("-o", option)]
    login = ["-l", host.user] if host.user else []
    port = ["-p", str(host.port)] if host.port else []
    return ["ssh", "-T", *options, *login, *port, "--", host.bare_address, shlex.join(words)]


_MEANINGS = (
    (r"Connection refused", "no SSH server answers there; start one on it with: sudo apt install openssh-server"),
    (r"Could not resolve hostname", "there is no such name; check --host, or give the IP address"),
    (r"No route to host|Network is unreachable|timed out", "it does not answer; check the address and the network"),
    (r"Too many authentication failures|Permission denied", "the login was refused; make one by key with: {copy_id}"),
    (
        r"IDENTIFICATION HAS CHANGED",
        "its key is not the one that is known: if it was set up anew, forget the old one with: {forget}, and accept the"
        " new one with: ssh {login}; otherwise somebody else answers",
    ),
    (r"Host key verification failed", "its key is not known yet; look at it and accept it with: ssh {login}"),
)


def why_no_connection(host: Host, code: int, said: str, *, python: str) -> str | None:
    """One sentence for an ssh that ended with ``code`` before a word came back; ``None`` where it names no reason.

    Args:
        said: what came out on stderr.
        python: the interpreter that was to be started.
    """
    if code == NOT_FOUND:
        return f"{host} has no {python}; install Python 3.10 or newer there, or name another with --python"
    if code == _NOT_EXECUTABLE:
        return f"{host} cannot execute {python}; name another Python with --python"
    if code != _SSH_FAILED:
        return None
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, said):
            return f"{host} cannot be reached: {meaning.format(login=host.login, **_mending_commands(host))}"
    return (
        f"{host} cannot be reached: {last_line(said) or 'ssh says nothing about why'}; try it by hand: ssh {host.login}"
    )


def last_line(said: str) -> str:
    """The last line with something on it, without anything that a terminal would obey."""
    lines = [line for line in said.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else ""


def printable(text: str) -> str:
    """One line of at most 500 characters; what is not printable becomes a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in text.strip())[:500]


def _mending_commands(host: Host) -> dict[str, str]:
    known = host.bare_address if host.port in {None, 22} else f"[{host.bare_address}]:{host.port}"
    return {"copy_id": f"ssh-copy-id {host.login}", "forget": f"ssh-keygen -R {shlex.quote(known)}"}
