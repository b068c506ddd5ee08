"""Hosts are hostile input, and the other side of ssh is a shell."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from googlenet_edge.engines.ssh import Host, last_line, parse_host, printable, ssh_command, why_no_connection
from googlenet_edge.errors import ConfigError

JETSON = Host("10.0.0.7", "me", 2222)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("jetson", Host("jetson")),
        ("me@jetson.local", Host("jetson.local", "me")),
        ("me@10.0.0.7:2222", JETSON),
        ("[fe80::1%eth0]:22", Host("[fe80::1%eth0]", None, 22)),
    ],
)
def test_host_is_read_and_named_as_it_was_written(text: str, host: Host) -> None:
    assert parse_host(text) == host
    assert str(host) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "-oProxyCommand=reboot", "me@-x", "-l@jetson", "jet son", "jetson;reboot", "$(reboot)", "a@b@c", "é"),
        *(
            "jetson:0",
            "jetson:65536",
            "jetson:٢",
            "jetson:",
            "jetson\n",
            "ssh://jetson",
            "fe80::1",
            "[jetson]",
            "@jetson",
        ),
    ],
)
def test_host_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as problem:
        parse_host(text)
    assert str(problem.value) == f"the host {text!r} is not user@address or user@address:port; give another --host"


@given(st.text())
def test_host_never_becomes_an_option_of_ssh(text: str) -> None:
    try:
        host = parse_host(text)
    except ConfigError:
        return
    command = ssh_command(host, ["true"])
    assert not host.bare_address.startswith("-")
    assert not (host.user or "").startswith("-")
    assert command[-3:] == ["--", host.bare_address, "true"]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), max_size=4))
def test_words_arrive_as_they_are_behind_the_shell(words: list[str]) -> None:
    line = ssh_command(JETSON, ["printf", r"%s\0", "", *words])[-1]
    assert shlex.split(line)[3:] == words
    shell = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)
    assert shell.stdout.decode().split("\0")[1:-1] == words


def test_ssh_command_names_user_and_port() -> None:
    command = ssh_command(JETSON, ["true"])
    assert command[command.index("-l") + 1] == "me"
    assert command[command.index("-p") + 1] == "2222"


EAGER_CONFIG = """
BatchMode no
ControlMaster auto
EscapeChar ~
ForwardAgent yes
ForwardX11 yes
LocalCommand touch marks
LocalForward 9999 localhost:22
PermitLocalCommand yes
RemoteCommand tmux
RequestTTY force
ServerAliveInterval 0
"""


@pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh: sudo apt install openssh-client")
def test_nothing_that_a_person_has_ssh_run_forward_or_ask_happens_here(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(EAGER_CONFIG)
    command = ["ssh", "-G", "-F", str(tmp_path / "config"), *ssh_command(JETSON, ["true"])[1:]]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert set(said) >= {
        "batchmode yes",
        "controlmaster false",
        "escapechar none",
        "forwardagent no",
        "forwardx11 no",
        "permitlocalcommand no",
        "requesttty false",
        "serveraliveinterval 10",
    }
    assert not [line for line in said if line.startswith(("localforward", "remotecommand"))]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "ssh: connect to host 10.0.0.7 port 2222: No route to host",
            "it does not answer; check the address and the network",
        ),
        ("ssh: connect to host 10.0.0.7 port 2222: Connection timed out", "it does not answer; check"),
        ("ssh: Could not resolve hostname x: Name or service not known", "there is no such name; check --host"),
        ("me@10.0.0.7: Permission denied (publickey).", "make one by key with: ssh-copy-id -p 2222 me@10.0.0.7"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "forget the old one with: ssh-keygen -R '[10.0.0.7]:2222', and accept the new one with:"
            " ssh -p 2222 me@10.0.0.7",
        ),
        ("Host key verification failed.", "its key is not known yet; look at it and accept it with: ssh -p 2222 me@"),
        ("kex: something \033[1mnew", "something ?[1mnew; try it by hand: ssh -p 2222 me@10.0.0.7"),
        ("", "ssh says nothing about why; try it by hand"),
    ],
)
def test_ssh_messages_become_what_to_do(said: str, sentence: str) -> None:
    why = why_no_connection(JETSON, 255, said, python="python3") or ""
    assert why.startswith("me@10.0.0.7:2222 cannot be reached: ")
    assert sentence in why


def test_a_key_on_the_usual_port_is_forgotten_by_the_name_that_openssh_keeps_it_under() -> None:
    changed = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @"
    why = why_no_connection(replace(JETSON, port=22), 255, changed, python="python3") or ""
    assert "ssh-keygen -R 10.0.0.7, and accept" in why


@given(st.text())
def test_what_the_other_side_says_cannot_steer_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert last_line(text).isprintable()
