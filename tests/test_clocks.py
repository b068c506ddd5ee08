"""Clocks and power modes are what was asked for within the block, and what they were before after it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_jetson import ORIN_NANO, XAVIER_NX, fake_jetson, fake_pc
from ssh_device import wait_until

from googlenet_edge.engines import clocks
from googlenet_edge.engines.clocks import fixed_clocks, held, power_mode
from googlenet_edge.engines.jetson import Clock, read_jetson, read_power_mode
from googlenet_edge.errors import EngineError


def gpu_clock(root: Path) -> Clock | None:
    jetson = read_jetson(root)
    return jetson.gpu_clock if jetson else None


@pytest.fixture
def temporaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what jetson_clocks stores is kept."""
    folder = tmp_path / "temporaries"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_clocks_are_fixed_within_the_block_and_move_again_after_it(tmp_path: Path, temporaries: Path) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    before = gpu_clock(root)
    with fixed_clocks(root):
        assert gpu_clock(root) == Clock(306, 918, 918)
    assert gpu_clock(root) == before == Clock(306, 306, 918)
    assert list(temporaries.iterdir()) == []


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_clocks_and_mode_are_set_back_whatever_happens(
    failure: type[BaseException], tmp_path: Path, temporaries: Path
) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    with pytest.raises(failure), power_mode(root, "MAXN_SUPER"), fixed_clocks(root):
        assert read_power_mode(root) == "MAXN_SUPER"
        raise failure
    assert gpu_clock(root) == Clock(306, 306, 918)
    assert read_power_mode(root) == "25W"
    assert list(temporaries.iterdir()) == []


BUSY = """
import sys, time
from pathlib import Path
from googlenet_edge.engines.clocks import held
with held(Path(sys.argv[1]), "15W", fixed=True):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_process_that_is_ended_sets_clocks_and_mode_back_first(ending: signal.Signals, tmp_path: Path) -> None:
    """Not even a second signal keeps it from that: NVIDIA's tool waits for it here."""
    root, waits = fake_jetson(tmp_path / "root", ORIN_NANO), tmp_path / "waits"
    tool = root / "usr/bin/jetson_clocks"
    real = tool.rename(tool.with_name("real"))
    wait = f"touch {waits}; read go < {tmp_path}/go"
    tool.write_text(f'#!/bin/sh\n[ "$1" != --restore ] || [ -e {waits} ] || {{ {wait}; }}\nexec {real} "$@"\n')
    tool.chmod(0o755)
    os.mkfifo(tmp_path / "go")
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", BUSY, root], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert (gpu_clock(root), read_power_mode(root)) == (Clock(306, 918, 918), "15W")
        process.send_signal(ending)
        wait_until(waits.exists)
        process.send_signal(ending)
        (tmp_path / "go").write_text("go\n")
        process.wait()
    assert process.returncode != 0
    assert (gpu_clock(root), read_power_mode(root)) == (Clock(306, 306, 918), "25W")


def test_signal_while_clocks_are_being_set_does_not_count(tmp_path: Path) -> None:
    """Or NVIDIA's tool, which goes on by itself, would fix them after all is set back."""
    root, waits = fake_jetson(tmp_path / "root", ORIN_NANO), tmp_path / "waits"
    tool = root / "usr/bin/jetson_clocks"
    real = tool.rename(tool.with_name("real"))
    tool.write_text(f'#!/bin/sh\n[ $# -gt 0 ] || {{ touch {waits}; read go < {tmp_path}/go; }}\nexec {real} "$@"\n')
    tool.chmod(0o755)
    os.mkfifo(tmp_path / "go")
    with subprocess.Popen([sys.executable, "-c", BUSY, root], stdout=subprocess.PIPE, text=True) as process:
        wait_until(waits.exists)
        process.send_signal(signal.SIGTERM)
        (tmp_path / "go").write_text("go\n")
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGTERM)
    assert (gpu_clock(root), read_power_mode(root)) == (Clock(306, 306, 918), "25W")


def test_process_that_is_killed_leaves_clocks_and_mode_as_they_were(tmp_path: Path) -> None:
    """With all of its group, as an agent does over SSH. What a person had fixed is fixed again, after the mode."""
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    subprocess.run([root / "usr/bin/jetson_clocks"], check=True)
    command = [sys.executable, "-c", BUSY, root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert (gpu_clock(root), read_power_mode(root)) == (Clock(306, 918, 918), "15W")
        os.killpg(process.pid, signal.SIGKILL)
    wait_until(lambda: holds(root))
    assert (gpu_clock(root), read_power_mode(root)) == (Clock(306, 918, 918), "25W")


def test_clocks_are_held_by_one_process_until_they_are_set_back(tmp_path: Path) -> None:
    """Also where that one was killed, and what it left is only being set back."""
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    tool = root / "usr/bin/jetson_clocks"
    real = tool.rename(tool.with_name("real"))
    wait = f"[ ! -p {tmp_path}/go ] || read go < {tmp_path}/go"
    tool.write_text(f'#!/bin/sh\n[ "$1" != --restore ] || {wait}\nexec {real} "$@"\n')
    tool.chmod(0o755)
    os.mkfifo(tmp_path / "go")
    sentence = "^another measurement holds this machine's clocks; wait until it has ended$"
    with subprocess.Popen([sys.executable, "-c", BUSY, root], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(EngineError, match=sentence), held(root, None, fixed=True):
            pass
        process.kill()
    with pytest.raises(EngineError, match=sentence), held(root, None, fixed=True):
        pass
    (tmp_path / "go").write_text("go\n")
    (tmp_path / "go").unlink()
    wait_until(lambda: (gpu_clock(root), read_power_mode(root)) == (Clock(306, 306, 918), "25W"))
    wait_until(lambda: holds(root))


def test_clocks_are_set_where_a_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an NFS root has none for a file that is only read."""

    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", none)
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    assert holds(root)
    assert gpu_clock(root) == Clock(306, 306, 918)


def holds(root: Path) -> bool:
    try:
        with held(root, None, fixed=True):
            return gpu_clock(root) == Clock(306, 918, 918)
    except EngineError:
        return False


def test_clocks_are_set_through_sudo_by_who_is_not_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, tools = fake_jetson(tmp_path / "root", ORIN_NANO), tmp_path / "tools"
    tools.mkdir()
    (tools / "sudo").write_text(f'#!/bin/sh\n[ "$1" = -n ] && shift && echo "$1" >> {tmp_path}/asked && exec "$@"\n')
    (tools / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(clocks, "ROOT", root)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with held(root, "15W", fixed=True):
        assert (gpu_clock(root), read_power_mode(root)) == (Clock(306, 918, 918), "15W")
    assert (gpu_clock(root), read_power_mode(root)) == (Clock(306, 306, 918), "25W")
    nvpmodel, jetson_clocks = f"{root}/usr/sbin/nvpmodel", f"{root}/usr/bin/jetson_clocks"
    assert (tmp_path / "asked").read_text().split() == [
        jetson_clocks,
        nvpmodel,
        *[jetson_clocks] * 3,
        nvpmodel,
        jetson_clocks,
    ]
    (tools / "sudo").write_text("#!/bin/sh\necho 'sudo: a password is required' >&2; exit 1\n")
    sentence = rf"\(sudo: a password is required\); it needs root: let sudo run {jetson_clocks} without a password$"
    with pytest.raises(EngineError, match=sentence), fixed_clocks(root):
        pass


def test_tool_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    (root / "usr/bin/jetson_clocks").write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(clocks, "_TIMEOUT_S", 0.01)
    with pytest.raises(EngineError, match=r"^jetson_clocks does not end \(.* timed out after 0\.01 seconds\)$"):
        fixed_clocks(root).__enter__()


def test_signal_that_was_ignored_before_is_ignored_still(tmp_path: Path) -> None:
    """As by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with held(fake_jetson(tmp_path, ORIN_NANO), "15W", fixed=False):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_failure_that_jetson_clocks_does_not_tell_by_its_code_is_one(tmp_path: Path, temporaries: Path) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    with (root / "usr/bin/jetson_clocks").open("a") as tool:
        tool.write("\n[ \"$1\" != --restore ] || echo 'Error: Failed to restore GPU frequency!'; exit 0\n")
    sentence = (
        r"^the clocks are not set back: jetson_clocks failed \(Error: Failed to restore GPU frequency!\).*; sudo "
    )
    with pytest.raises(EngineError, match=sentence), fixed_clocks(root):
        pass
    assert list(temporaries.iterdir()), "what it needs is still there"


def test_clocks_that_a_person_had_fixed_are_fixed_again_after_another_mode(tmp_path: Path, temporaries: Path) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    subprocess.run([root / "usr/bin/jetson_clocks"], check=True)
    with power_mode(root, "15W"):
        assert gpu_clock(root) == Clock(306, 306, 918), "as nvpmodel leaves them"
    assert gpu_clock(root) == Clock(306, 918, 918)
    assert list(temporaries.iterdir()) == []


def test_mode_that_is_set_already_is_left_alone(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, XAVIER_NX)
    (root / "usr/sbin/nvpmodel").write_text("#!/bin/sh\n[ \"$1\" = -q ] && echo 'NV Power Mode: MODE_15W_6CORE'\n")
    with power_mode(root, "MODE_15W_6CORE"):
        pass


def test_mode_that_there_is_not_is_answered_with_those_there_are(tmp_path: Path) -> None:
    sentence = "^this machine has no power mode 5W; nvpmodel knows: 15W, 25W, MAXN_SUPER$"
    with pytest.raises(EngineError, match=sentence), power_mode(fake_jetson(tmp_path, ORIN_NANO), "5W"):
        pass
    with pytest.raises(EngineError, match="knows: none$"), power_mode(fake_pc(tmp_path / "pc"), "5W"):
        pass


def test_mode_that_could_not_be_set_back_is_left_alone(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    (root / "usr/sbin/nvpmodel").write_text("#!/bin/sh\nexit 1\n")
    (root / "var/lib/nvpmodel/status").unlink(missing_ok=True)
    sentence = "^the power mode of now cannot be read, so it could not be set back; see: sudo nvpmodel -q$"
    with pytest.raises(EngineError, match=sentence), power_mode(root, "15W"):
        pass


def test_mode_that_needs_a_restart_says_so(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path, ORIN_NANO)
    (root / "usr/sbin/nvpmodel").write_text("#!/bin/sh\n[ \"$1\" = -q ] && echo 'NV Power Mode: 25W'; exit 0\n")
    sentence = "^the power mode did not change to 15W, which may need a restart; run: sudo nvpmodel -m 0$"
    with pytest.raises(EngineError, match=sentence), power_mode(root, "15W"):
        pass


REBOOT = """#!/bin/sh
if [ "$1" = -m ] && [ "$2" = 1 ]; then
    echo "NVPM WARN: Reboot required for changing to this power mode: 1"
    echo "NVPM ERROR: optMask is 1, no request for power mode"
    exit 255
fi
exec "$0-real" "$@"
"""
"""As on an Orin NX, which goes up at once, and back down only with a restart."""


def test_what_cannot_be_set_back_is_told_after_a_block_that_ended_well(tmp_path: Path, temporaries: Path) -> None:
    def board(name: str) -> Path:
        root = fake_jetson(tmp_path / name, ORIN_NANO)
        tool = root / "usr/sbin/nvpmodel"
        tool.rename(tool.with_name("nvpmodel-real"))
        tool.write_text(REBOOT)
        tool.chmod(0o755)
        return root

    mode = (
        "the power mode did not change to 25W: nvpmodel failed (NVPM WARN: Reboot required for changing to this power"
        " mode: 1), which may need a restart; run: sudo nvpmodel -m 1"
    )
    with held(board("mode"), "MAXN_SUPER", fixed=False) as left:
        assert left == []
    assert left == [mode]
    root = board("both")
    with held(root, "15W", fixed=True) as left:
        (root / "usr/bin/jetson_clocks").write_text("#!/bin/sh\nexit 7\n")
    fixed_left, mode_left, before_left = left
    sentence = "the clocks are not set back: jetson_clocks failed (code 7); sudo jetson_clocks --restore "
    assert fixed_left.startswith(sentence) and before_left.startswith(sentence)
    assert mode_left == mode
    sentence = "^the power mode did not change to 25W: "
    with pytest.raises(EngineError, match=sentence), held(board("failed"), "15W", fixed=False):
        raise ZeroDivisionError


def test_clocks_without_root_or_without_a_jetson_are_refused(tmp_path: Path, temporaries: Path) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    (root / "usr/bin/jetson_clocks").write_text("#!/bin/sh\necho 'Error: Please run as root' >&2; exit 1\n")
    sentence = r"^jetson_clocks failed \(Error: Please run as root\)"
    with pytest.raises(EngineError, match=sentence), fixed_clocks(root):
        pass
    (root / "usr/bin/jetson_clocks").unlink()
    with pytest.raises(EngineError, match=r"jetson_clocks is missing; clocks can be set on a Jetson only$"):
        fixed_clocks(root).__enter__()
    assert list(temporaries.iterdir()) == []


def test_clocks_that_cannot_be_set_back_say_how_it_is_done(tmp_path: Path, temporaries: Path) -> None:
    root = fake_jetson(tmp_path / "root", ORIN_NANO)
    tool = root / "usr/bin/jetson_clocks"
    sentence = r"^the clocks are not set back: .*; sudo jetson_clocks --restore "
    with pytest.raises(EngineError, match=sentence) as refused, fixed_clocks(root):
        tool.write_text("#!/bin/sh\nexit 7\n")
    assert Path(str(refused.value).rpartition(" ")[2]).is_file(), "what it needs is still there"
